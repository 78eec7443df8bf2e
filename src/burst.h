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

/* How long it should rest now, in ms; 0: it need not.  *now: what the clock says. */
static inline double
dw_burst_due(const DwBurst *b, instr_time *now)
{
	instr_time	worked;

	INSTR_TIME_SET_CURRENT(*now);
	if (b->rest <= 0)
		return 0;
	worked = *now;
	INSTR_TIME_SUBTRACT(worked, b->began);
	return INSTR_TIME_GET_MILLISEC(worked) < DW_BURST_MS ? 0 : Min(INSTR_TIME_GET_MILLISEC(worked), DW_BURST_MS * 2) * b->rest;
}

/* Call it where no buffer is locked. */
static inline void
dw_burst_rest(DwBurst *b, double ms)
{
	instr_time	rested;

	INSTR_TIME_SET_CURRENT(rested);
	pg_usleep((long) (ms * 1000));
	INSTR_TIME_SET_CURRENT(b->began);
	b->rested_ms += INSTR_TIME_GET_MILLISEC(b->began) - INSTR_TIME_GET_MILLISEC(rested);
}

/* Rests if it should. */
static inline void
dw_burst_breathe(DwBurst *b)
{
	instr_time	now;
	double		due = dw_burst_due(b, &now);

	if (due > 0)
		dw_burst_rest(b, due);
}

#endif							/* DW_BURST_H */
