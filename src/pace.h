/*
 * pace.h
 *		How much the next batch may do, and how long to rest after it: arithmetic
 *		only.
 */
#ifndef DW_PACE_H
#define DW_PACE_H

#include "postgres.h"

/* rows that a batch may lock at most; more show in the tail of the application's latency */
#define DW_PACE_MAX_ROWS 400

typedef struct DwPace
{
	int			max_rows;		/* for the next batch */
	double		tokens;			/* rows that the rate limit allows now */
	double		rows_per_second;	/* smoothed */
} DwPace;

extern void dw_pace_init(DwPace *pace);

/*
 * After a batch of `rows` rows that took `ms`, `cycle_ms` after the one before
 * began: adapts max_rows so that a batch takes target_ms.  Returns how long to
 * rest, in ms: as long as the batch took, longer if limit (rows per second, 0:
 * none) asks for it; *limited says whether it did.
 */
extern double dw_pace_next(DwPace *pace, int rows, double ms, double cycle_ms, double target_ms, int limit, bool *limited);

#endif							/* DW_PACE_H */
