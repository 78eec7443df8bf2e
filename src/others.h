/*
 * others.h
 *		Who else computes, and how much to keep out of their way.
 */
#ifndef DW_OTHERS_H
#define DW_OTHERS_H

#include "portability/instr_time.h"

/* what has been seen lately; plain memory, all zero at first */
typedef struct DwOthers
{
	instr_time	looked;
	int			looks;			/* that the means are made of */
	double		sessions;		/* clients' sessions that compute */
	double		runnable;		/* processes of the machine that compute or want to, but for ours; < 0: it doesn't say */
} DwOthers;

/* Processors that this server may use: its cpuset, less if a quota of its control group (version 2) allows less. */
extern double dw_processors(void);

/*
 * How long to rest after each burst of work (burst.h), in times of it, by how
 * likely it is to be in somebody's way: 0, not at all, where that is next to
 * impossible; most where it is certain.  Wants to be asked every few ms.
 */
extern double dw_others_rest(DwOthers *others);

#endif							/* DW_OTHERS_H */
