/*
 * burst.h
 *		Work in short bursts, with rests in between.
 *
 * Where processors are few, what the application feels is not how much we
 * compute but how long without a pause: whoever becomes runnable meanwhile
 * waits for its end.  Measured on two processors, half of one being used by
 * others: p95 of the application x2.1 beside 1.2 ms of work and 1.2 ms of
 * rest, x1.3 beside 0.4 and 0.4, x1.15 beside 0.2 and 0.2.
 *
 * A row that takes long makes a long burst.  The rest after it is a short one
 * all the same, as rows may be locked.
 */
#ifndef DW_BURST_H
#define DW_BURST_H

#include "portability/instr_time.h"

#include "pace.h"

typedef struct DwBurst
{
	double		rest;			/* how long to rest, in times of a burst; 0: don't */
	instr_time	began;
	double		rested_ms;		/* in all */
} DwBurst;

static inline void
dw_burst_begin(DwBurst *b, double rest)
{
	b->rest = rest;
	b->rested_ms = 0;
	INSTR_TIME_SET_CURRENT(b->began);
}

/* Call it where no buffer is locked.  What the clock says. */
static inline instr_time
dw_burst_rest(DwBurst *b)
{
	instr_time	now;
	instr_time	worked;

	INSTR_TIME_SET_CURRENT(now);
	worked = now;
	INSTR_TIME_SUBTRACT(worked, b->began);
	if (b->rest > 0 && INSTR_TIME_GET_MILLISEC(worked) >= DW_BURST_MS)
	{
		instr_time	rested = now;

		pg_usleep((long) (Min(INSTR_TIME_GET_MILLISEC(worked), DW_BURST_MS * 2) * 1000 * b->rest));
		INSTR_TIME_SET_CURRENT(now);
		b->began = now;
		INSTR_TIME_SUBTRACT(now, rested);
		b->rested_ms += INSTR_TIME_GET_MILLISEC(now);
		now = b->began;
	}
	return now;
}

#endif							/* DW_BURST_H */
