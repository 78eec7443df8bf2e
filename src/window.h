/*
 * window.h
 *		Option window: the part of the day in which background work may run.
 */
#ifndef DW_WINDOW_H
#define DW_WINDOW_H

#include "pgtime.h"

typedef struct DwWindow
{
	int			from;			/* minutes after local midnight */
	int			to;				/* ... not included; below from: on the next day */
	pg_tz	   *zone;
} DwWindow;

/* Takes '01:00-05:00 Europe/Berlin' apart; false, with what is wrong (static), if that isn't one. */
extern bool dw_window_parse(const char *text, DwWindow *window, const char **problem);

/* Seconds from then until it opens: 0 if it is open. */
extern int	dw_window_opens_in(const DwWindow *window, pg_time_t at);

#endif							/* DW_WINDOW_H */
