/*
 * tuple.h
 *		Replacing attributes of a heap tuple.
 */
#ifndef DW_TUPLE_H
#define DW_TUPLE_H

#include "access/htup_details.h"
#include "access/tupdesc.h"
#include "access/tupmacs.h"
#include "executor/tuptable.h"

/*
 * slot_getattr, but for a NULL in a stored tuple it doesn't walk there: a new
 * column that an INSERT doesn't give costs nobody the way to the row's end.
 */
static inline Datum
dw_slot_getattr(TupleTableSlot *slot, AttrNumber attnum, bool *isnull)
{
	if (attnum > slot->tts_nvalid && (TTS_IS_HEAPTUPLE(slot) || TTS_IS_BUFFERTUPLE(slot)))
	{
		HeapTuple	tuple = ((HeapTupleTableSlot *) slot)->tuple;

		if (tuple && HeapTupleHasNulls(tuple) && attnum <= HeapTupleHeaderGetNatts(tuple->t_data) &&
			att_isnull(attnum - 1, tuple->t_data->t_bits))
		{
			*isnull = true;
			return (Datum) 0;
		}
	}
	return slot_getattr(slot, attnum, isnull);
}

/*
 * A copy of the tuple, in the current memory context, with n attributes
 * replaced; bit by bit what heap_modify_tuple_by_cols makes.  slot must hold
 * the same tuple; it is deformed where it isn't yet, and otherwise left as it
 * is.
 */
extern HeapTuple dw_tuple_replace(HeapTuple tuple, TupleDesc desc, TupleTableSlot *slot,
								  int n, const int *cols, const Datum *values, const bool *nulls);

#endif							/* DW_TUPLE_H */
