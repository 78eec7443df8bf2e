/*
 * index_dead.c
 *		Tells indexes which of their entries are dead.
 *
 * A row that moves off its page gets a second entry in each index.  Before a
 * leaf page is split, PostgreSQL looks for entries that it can delete instead:
 * those marked as dead, or else it asks the heap, for the blocks that most of the
 * doubled entries point to, and gives up at the first that has nothing dead.
 * These are the blocks that the rows have moved to, if each page lost only one
 * row; so where pages hold few rows, it finds nothing, and the index grows to
 * nearly its double.
 *
 * Marks are set by whoever comes by in a scan and finds an entry's row dead for
 * everybody.  So each row that has moved is looked up once, when its old version
 * is dead: that is all this does, and it changes nothing that an ordinary query
 * could not change.  Only in unique indexes, where few entries have the same
 * key, and by columns, so that no code of an expression runs.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/nbtree.h"
#include "access/tableam.h"
#include "catalog/pg_am.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"

#include "compat.h"
#include "index_dead.h"

static RegProcedure
equality(Relation index, int i)
{
	Oid			type = index->rd_opcintype[i];
	Oid			op = get_opfamily_member(index->rd_opfamily[i], type, type, BTEqualStrategyNumber);

	return OidIsValid(op) ? get_opcode(op) : InvalidOid;
}

bool
dw_index_searchable(Relation index)
{
	Form_pg_index form = index->rd_index;

	if (index->rd_rel->relam != BTREE_AM_OID || !form->indisunique || !form->indisvalid)
		return false;
	for (int i = 0; i < form->indnkeyatts; i++)
		if (form->indkey.values[i] <= 0 || !RegProcedureIsValid(equality(index, i)))
			return false;
	return true;
}

/* Looks up the row in the slot; false if one of its keys is null, of which there may be many. */
static bool
set_keys(Relation index, TupleTableSlot *slot, ScanKey keys)
{
	for (int i = 0; i < index->rd_index->indnkeyatts; i++)
	{
		bool		isnull;
		Datum		value = slot_getattr(slot, index->rd_index->indkey.values[i], &isnull);

		if (isnull)
			return false;
		keys[i].sk_argument = value;
	}
	return true;
}

static void
mark_dead(Relation rel, Relation index, Snapshot snapshot, ItemPointerData *tids, int n)
{
	int			nkeys = index->rd_index->indnkeyatts;
	ScanKeyData keys[INDEX_MAX_KEYS];
	TupleTableSlot *row = table_slot_create(rel, NULL);
	TupleTableSlot *found = table_slot_create(rel, NULL);
	BlockNumber nblocks = RelationGetNumberOfBlocks(rel);
	IndexScanDesc scan;
	ItemPointer tid;

	for (int i = 0; i < nkeys; i++)
		ScanKeyEntryInitialize(&keys[i], 0, i + 1, BTEqualStrategyNumber, InvalidOid, index->rd_indcollation[i],
							   equality(index, i), (Datum) 0);
	scan = dw_index_beginscan(rel, index, snapshot, nkeys);
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		/* VACUUM may have cut the end off */
		if (ItemPointerGetBlockNumber(&tids[i]) >= nblocks || !table_tuple_fetch_row_version(rel, &tids[i], snapshot, row) || !set_keys(index, row, keys))
			continue;
		index_rescan(scan, keys, nkeys, NULL, 0);
		while ((tid = index_getnext_tid(scan, ForwardScanDirection)) != NULL)
			if (!ItemPointerEquals(tid, &tids[i]))	/* that one has just been seen alive */
				(void) index_fetch_heap(scan, found);
	}
	/* the row's datums were the keys */
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(found);
	ExecDropSingleTupleTableSlot(row);
}

void
dw_index_mark_dead(Relation rel, Snapshot snapshot, ItemPointerData *tids, int n)
{
	List	   *indexes = RelationGetIndexList(rel);
	ListCell   *lc;

	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		if (dw_index_searchable(index))
			mark_dead(rel, index, snapshot, tids, n);
		index_close(index, NoLock);
	}
	list_free(indexes);
}
