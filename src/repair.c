/*
 * repair.c
 *		Repairs a row whose sides differ.
 *
 * Race with writers: unlike the backfill, a repair locks the row's newest
 * version before it looks.  Whoever comes later waits, and goes through the
 * mirror.
 */
#include "postgres.h"

#include "access/tableam.h"
#include "access/xact.h"
#include "executor/tuptable.h"
#include "utils/snapmgr.h"

#include "repair.h"
#include "store.h"
#include "subxact.h"

/* Locks the newest version of the row and gets it into slot; false if it is gone. */
static bool
lock_newest(Relation rel, ItemPointer tid, TupleTableSlot *slot)
{
	TM_FailureData tmfd;
	TM_Result	result = table_tuple_lock(rel, tid, GetActiveSnapshot(), slot, GetCurrentCommandId(true), LockTupleNoKeyExclusive,
										  LockWaitBlock, TUPLE_LOCK_FLAG_FIND_LAST_VERSION, &tmfd);

	switch (result)
	{
		case TM_Ok:
			return true;
		default:
			return false;
	}
}

DwRepair
dw_repair_row(DwRule *rule, Relation rel, ItemPointer tid, DwSide from)
{
	DwSubxact	sub;
	volatile DwRepair result = DW_REPAIR_NOT_NEEDED;

	dw_subxact_begin(&sub);
	PG_TRY();
	{
		TupleTableSlot *slot = table_slot_create(rel, NULL);

		/* what the snapshot sees is there, and stays; anything else may be another row by now */
		if (!table_tuple_fetch_row_version(rel, tid, GetActiveSnapshot(), slot))
			result = DW_REPAIR_MOVED;
		else if (lock_newest(rel, tid, slot))
		{
			bool		should_free;
			HeapTuple	tup = ExecFetchSlotHeapTuple(slot, true, &should_free);

			tup = heap_copytuple(tup);
			ExecDropSingleTupleTableSlot(slot);
			slot = MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsHeapTuple);
			ExecStoreHeapTuple(tup, slot, false);
			dw_rule_reset(rule);
			if (!dw_rule_consistent(rule, slot, NULL, NULL))
			{
				DwOutcome	outcome = dw_store_row_careful(rule, dw_other_rules(rule, rel), rel, tup, slot, DW_OTHER(from), true);

				result = outcome == DW_STORE_WRITTEN ? DW_REPAIRED : outcome == DW_STORE_LOCKED ? DW_REPAIR_LOCKED : outcome == DW_STORE_FAILED ? DW_REPAIR_FAILED
					: DW_REPAIR_NOT_NEEDED;
			}
		}
		ExecDropSingleTupleTableSlot(slot);
		dw_subxact_end(&sub);
	}
	PG_CATCH();
	{
		ErrorData  *error = dw_subxact_caught(&sub);

		if (!dw_error_of_lock(error->sqlerrcode))
			ReThrowError(error);
		FreeErrorData(error);
		result = DW_REPAIR_LOCKED;
	}
	PG_END_TRY();
	return result;
}
