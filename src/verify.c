/*
 * verify.c
 *		Compares both sides of every row of a range of blocks.
 *
 * Consistency is a property of one row, so chunks may be checked at different
 * moments: a row that is consistent stays so while the mirror is on.  No lock
 * on rows, no hash, no long snapshot.  The scan is below row-level security:
 * it hides nothing.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/tableam.h"
#include "executor/tuptable.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "burst.h"
#include "compat.h"
#include "record.h"
#include "verify.h"

/*
 * To forget what a row computed costs as much as to compute a sum, so it is done
 * every so many rows, or once one has computed something large.
 */
#define RESET_ROWS 16
#define RESET_BYTES (64 * 1024)

/* ... and the clock is asked */
#define CLOCK_ROWS 128

static inline bool
computed_much(const DwRule *rule)
{
	MemoryContext cxt = rule->econtext ? rule->econtext->ecxt_per_tuple_memory : NULL;

	return cxt && (cxt->mem_allocated > RESET_BYTES || cxt->firstchild != NULL);
}

/* Names a row whose new side the old one can't hold; five are enough. */
static void
note_loss(DwRule *rule, TupleTableSlot *slot, DwCheck *check)
{
	if (check->losses && check->lossy + check->foreign_new <= 5)
		appendStringInfo(check->losses, "%s%s", check->losses->len ? ", " : "", dw_row_key(rule, slot));
}

static void
note_drift(DwRule *rule, TupleTableSlot *slot, DwCheck *check)
{
	DwSide		target = DW_OTHER(DW_AUTHORITY(rule->cfg.phase));
	Datum		values[DW_MAX_COLUMNS];
	bool		nulls[DW_MAX_COLUMNS];
	ErrorData  *error = NULL;
	MemoryContext old = MemoryContextSwitchTo(rule->econtext->ecxt_per_tuple_memory);

	check->drifted++;
	dw_rule_values(rule, DW_NEW, slot, values, nulls);
	if (!dw_rule_initial(rule, DW_NEW, values, nulls))
	{
		check->foreign_new++;
		note_loss(rule, slot, check);
	}
	if (rule->side[target].derivable && !dw_rule_derive(rule, target, slot, values, nulls, &error))
		check->unconvertible++;
	if (check->ntids < check->max_tids)
		check->tids[check->ntids++] = slot->tts_tid;
	if (check->record && error)
		dw_record_unconvertible(rule, slot, &slot->tts_tid, error);
	else if (check->record)
		dw_record(rule, slot, &slot->tts_tid, "drift", "the sides don't follow from each other");
	MemoryContextSwitchTo(old);
}

/*
 * Goes on to the next row that has to be looked at closely; false at the end.
 * Nearly all rows are as forward says: they are passed over here, and what the
 * rule raises for one of the others is caught once for all of them.
 */
static bool
next_suspect(DwRule *rule, TableScanDesc scan, TupleTableSlot *slot, DwBurst *burst, DwCheck *check)
{
	bool		quick = rule->side[DW_NEW].guard != DW_GUARD_SUBXACT;
	MemoryContext cxt = CurrentMemoryContext;
	uint32		holdoff = InterruptHoldoffCount;
	volatile bool evaluating = false;
	volatile bool more = true;

	PG_TRY();
	{
		for (bool holds = true; holds;)
		{
			CHECK_FOR_INTERRUPTS();
			if (!table_scan_getnextslot(scan, ForwardScanDirection, slot))
			{
				more = false;
				break;
			}
			if (check->rows++ % RESET_ROWS == 0 || computed_much(rule))
				dw_rule_reset(rule);
			if (check->rows % CLOCK_ROWS == 0 && burst->rest > 0)
				dw_burst_breathe(burst);
			evaluating = quick;
			holds = quick && dw_rule_forward_holds(rule, slot);
			evaluating = false;
		}
	}
	PG_CATCH();
	{
		if (!evaluating || !dw_rule_error_of_value())
			PG_RE_THROW();
		MemoryContextSwitchTo(cxt);
		FlushErrorState();
		InterruptHoldoffCount = holdoff;	/* ereport resets it */
	}
	PG_END_TRY();
	return more;
}

void
dw_check_blocks(DwRule *rule, Relation rel, Snapshot snapshot, BlockNumber start, BlockNumber end, DwCheck *check)
{
	TupleTableSlot *slot;
	TableScanDesc scan;
	BlockNumber nblocks;
	DwBurst		burst;

	if (start >= end)
		return;

	/* with a ring of buffers, if the table is large: what the application needs stays in memory */
	scan = table_beginscan_strat(rel, snapshot, 0, NULL, true, false);
	/* in chunks or not, to the statistics it is one scan of the table */
	if (start > 0)
		dw_uncount_scan(rel);
	nblocks = ((HeapScanDesc) scan)->rs_nblocks;
	if (start >= nblocks)
	{
		table_endscan(scan);
		return;
	}
	heap_setscanlimits(scan, start, Min(end, nblocks) - start);
	slot = table_slot_create(rel, NULL);
	dw_burst_begin(&burst, check->rest);
	while (next_suspect(rule, scan, slot, &burst, check))
	{
		bool		lossy;

		if (!dw_rule_consistent(rule, slot, &lossy, NULL))
			note_drift(rule, slot, check);
		else if (lossy)
		{
			check->lossy++;
			note_loss(rule, slot, check);
		}
	}
	check->rested_ms += burst.rested_ms;
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
}
