/*
 * sample.h
 *		Reading back a fraction of the writes (option sample_rate).
 */
#ifndef DW_SAMPLE_H
#define DW_SAMPLE_H

#include "access/htup.h"

#include "rule.h"

/* how many writes are still to be passed over, and for which rate that was drawn */
extern int64 dw_sample_left;
extern double dw_sample_drawn;

/* Is it this write's turn?  All that a write costs that isn't read back. */
static inline bool
dw_sample_due(double rate)
{
	return rate > 0 && (rate != dw_sample_drawn || --dw_sample_left <= 0);
}

/* Where it is due: remembers the row that is about to be stored, to be read back before the commit. */
extern void dw_sample_note(DwRule *rule, HeapTuple tuple);

/* registers the transaction callback; once, from _PG_init */
extern void dw_sample_init(void);

#endif							/* DW_SAMPLE_H */
