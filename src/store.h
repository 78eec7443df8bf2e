/*
 * store.h
 *		Storing one row with one side derived from the other.
 */
#ifndef DW_STORE_H
#define DW_STORE_H

#include "access/htup.h"
#include "executor/tuptable.h"
#include "nodes/pg_list.h"
#include "utils/rel.h"

#include "rule.h"
#include "writer.h"

/* what became of a row */
typedef enum DwOutcome
{
	DW_STORE_WRITTEN,
	DW_STORE_UNCHANGED,			/* it is so already */
	DW_STORE_LOCKED,			/* someone else has it locked */
	DW_STORE_GONE,				/* there is a newer version, which has passed the mirror */
	DW_STORE_FAILED				/* recorded */
} DwOutcome;

/* Rules of the other migrations of the table: those whose triggers it has; DwRule *. */
extern List *dw_other_rules(DwRule *rule, Relation rel);

/*
 * Derives side `target` of the version in slot, which is tup, and stores it.
 * locked: the row is locked by us.  Raises what the row raises.
 */
extern DwOutcome dw_store_row(DwRule *rule, List *others, DwWriter *writer, HeapTuple tup, TupleTableSlot *slot, DwSide target, bool locked);

/* The same in a subtransaction: whatever the row raises is recorded. */
extern DwOutcome dw_store_row_careful(DwRule *rule, List *others, Relation rel, HeapTuple tup, TupleTableSlot *slot, DwSide target, bool locked);

/* Is this an error that says something about the row, so that it can be passed over? */
extern bool dw_error_of_row(int sqlerrcode);

/* ... or that someone was in the way? */
extern bool dw_error_of_lock(int sqlerrcode);

#endif							/* DW_STORE_H */
