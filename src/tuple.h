/*
 * tuple.h
 *		Replacing attributes of a heap tuple.
 */
#ifndef DW_TUPLE_H
#define DW_TUPLE_H

#include "access/htup.h"
#include "access/tupdesc.h"
#include "executor/tuptable.h"

/*
 * A copy of the tuple, in the current memory context, with n attributes
 * replaced; bit by bit what heap_modify_tuple_by_cols makes.  slot must hold
 * the same tuple; it is deformed where it isn't yet, and otherwise left as it
 * is.
 */
extern HeapTuple dw_tuple_replace(HeapTuple tuple, TupleDesc desc, TupleTableSlot *slot,
								  int n, const int *cols, const Datum *values, const bool *nulls);

#endif							/* DW_TUPLE_H */
