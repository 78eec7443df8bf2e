/*
 * throttle.h
 *		Holds the worker's steps back, and says why.
 */
#ifndef DW_THROTTLE_H
#define DW_THROTTLE_H

#include "others.h"
#include "pace.h"
#include "signal.h"

struct DwWorker;

/* a worker's throttle; plain memory, all zero at first but for dw_throttle_init */
typedef struct DwThrottle
{
	DwPace		pace;
	DwWatch		watch;
	DwReading	readings[DW_SIGNALS];
	bool		said[DW_SIGNALS];	/* that it can't be read, in the log */
	instr_time	ticked;
	bool		ticking;		/* ticked is set */
	instr_time	began;			/* the batch at hand, or the last one */
	double		cycle_ms;		/* between the last two */
	uint64		wal;			/* of this backend, up to the last batch */
	int			workers;		/* of this migration, that share the limits; 0 is 1 */
	DwOthers	others;
	double		duty_rest;		/* how long to rest because of them, in times of the work, when last asked */

	/* what the last rest was for */
	const char *signal;			/* NULL: half duty, and nothing else */
	char		subject[128];
	double		value;			/* NaN: unknown */
	double		limit;
	double		rest_ms;

	/* since the last report */
	int			batches;
	int			limited;		/* ... that rested longer because of a limit */
	bool		was_stopped;
	bool		filling;		/* the step at hand is one of the backfill */
	double		held_ms[DW_SIGNALS + 3];	/* by what */
} DwThrottle;

extern void dw_throttle_init(DwThrottle *t);

/*
 * Before a step, and outside of it.  False: not now; some rest has been taken,
 * and the worker should look at the migration again.  filling: the step writes
 * WAL.  (A verification only reads: for it the user's brakes and the number of
 * active sessions count.)
 */
extern bool dw_throttle_go(struct DwWorker *w, bool filling);

/*
 * Around the part of a batch that locks rows.  In between, a batch that has
 * held row locks for half a second is cancelled (57014), so that nobody waits
 * longer for it.  rows: the batch's count of rows that it has locked.
 */
extern void dw_throttle_guard(struct DwWorker *w, const int *rows);
extern void dw_throttle_unguard(struct DwWorker *w);

/* After an error: was it such a cancellation?  The next batch will be a small one then. */
extern bool dw_throttle_cancelled(struct DwWorker *w);

/*
 * At the end of a batch, in its step: how fast it was, how long to rest in times
 * of that, and how long it has on its way.
 */
extern void dw_throttle_batch(struct DwWorker *w, int rows, double ms, double rest, double rested_ms);

/* After the step: the rest. */
extern void dw_throttle_rest(struct DwWorker *w);

/* How long to rest for the sake of others, in times of the work; for the step at hand, and the tick after it. */
extern double dw_throttle_duty_rest(struct DwWorker *w);

/* How many rows the next batch may write. */
extern int	dw_throttle_rows(struct DwWorker *w);

/* Inside the step of a report: adds up what was held back for what. */
extern void dw_throttle_report(struct DwWorker *w);

#endif							/* DW_THROTTLE_H */
