/*
 * writer.c
 *		Stores new row versions for the backfill and for repairs.
 *
 * What an UPDATE owes is done by the executor's own functions: stored generated
 * columns, CHECK and NOT NULL, indexes and their uniqueness, foreign keys.
 * Triggers of the user don't fire: the trigger list of the result relation is
 * PostgreSQL's own triggers only.  These run when the writer is closed, those of
 * deferrable constraints, too: a row that breaks one shows itself while it is at
 * hand, and nothing of the table's owner is left to run at the commit of
 * somebody else's session.  (PostgreSQL would refuse to defer it, where the owner
 * is somebody else.)  Nor does the mirror fire: the caller has derived the other
 * side from the very version that is replaced.
 *
 * That no update is lost rests on heap_update: it replaces exactly the version
 * it is given, under the page's lock, or reports that somebody has updated it
 * since.  So nothing has to be locked before the new value is computed.  A row
 * that someone else has locked is left alone: that is looked at first, because
 * heap_update would wait (and can't be told not to).  Whoever comes between the
 * look and the update makes us wait, for no longer than lock_timeout.  Where
 * someone holds a mere key lock (a foreign key check), ours is taken beside it.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/rel.h"

#include "compat.h"
#include "index_dead.h"
#include "tuple.h"
#include "writer.h"

/*
 * Leaves only PostgreSQL's own triggers in the list (a copy of the relation's),
 * and defers none of them, whatever SET CONSTRAINTS says.
 */
static void
keep_own_triggers(TriggerDesc *desc)
{
	int			n = 0;

	if (desc == NULL)
		return;
	desc->trig_update_after_row = false;
	desc->trig_update_before_row = desc->trig_update_instead_row = false;
	desc->trig_update_new_table = desc->trig_update_old_table = false;
	for (int i = 0; i < desc->numtriggers; i++)
	{
		Trigger    *t = &desc->triggers[i];

		if (!t->tgisinternal)
			continue;
		if (TRIGGER_TYPE_MATCHES(t->tgtype, TRIGGER_TYPE_ROW, TRIGGER_TYPE_AFTER, TRIGGER_TYPE_UPDATE))
			desc->trig_update_after_row = true;
		desc->triggers[n] = *t;
		desc->triggers[n].tgdeferrable = desc->triggers[n].tginitdeferred = false;
		n++;
	}
	desc->numtriggers = n;
}

DwWriter *
dw_writer_open(Relation rel, Snapshot snapshot)
{
	DwWriter   *w = palloc0(sizeof(DwWriter));

	w->rel = rel;
	w->snapshot = snapshot;
	w->estate = CreateExecutorState();
	w->estate->es_snapshot = snapshot;
	w->estate->es_output_cid = GetCurrentCommandId(true);
	w->rri = makeNode(ResultRelInfo);

	/* range table index 0: none, as for the relations of TRUNCATE */
	InitResultRelInfo(w->rri, rel, 0, NULL, 0);
	keep_own_triggers(w->rri->ri_TrigDesc);
	w->estate->es_opened_result_relations = lappend(w->estate->es_opened_result_relations, w->rri);
	ExecOpenIndices(w->rri, false);
	for (int i = 0; i < w->rri->ri_NumIndices && !w->searchable; i++)
		w->searchable = dw_index_searchable(w->rri->ri_IndexRelationDescs[i]);
	w->slot = MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsHeapTuple);
	w->key = RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_KEY);
	CheckCmdReplicaIdentity(rel, CMD_UPDATE);
	AfterTriggerBeginQuery();
	return w;
}

void
dw_writer_close(DwWriter *w)
{
	AfterTriggerEndQuery(w->estate);
	ExecDropSingleTupleTableSlot(w->slot);
	ExecCloseIndices(w->rri);
	ExecResetTupleTable(w->estate->es_tupleTable, false);
	FreeExecutorState(w->estate);
	pfree(w);
}

/* What would an update of this version meet now? */
static TM_Result
look(DwWriter *w, HeapTuple old)
{
	bool		pinned = BufferIsValid(w->page);
	Buffer		buf = pinned ? w->page : ReadBuffer(w->rel, ItemPointerGetBlockNumber(&old->t_self));
	HeapTupleData tup = *old;
	ItemId		lp;
	TM_Result	result = TM_Deleted;

	LockBuffer(buf, BUFFER_LOCK_SHARE);
	lp = PageGetItemId(BufferGetPage(buf), ItemPointerGetOffsetNumber(&old->t_self));
	if (ItemIdIsNormal(lp))
	{
		tup.t_data = (HeapTupleHeader) PageGetItem(BufferGetPage(buf), lp);
		tup.t_len = ItemIdGetLength(lp);
		result = HeapTupleSatisfiesUpdate(&tup, w->estate->es_output_cid, buf);
	}
	LockBuffer(buf, BUFFER_LOCK_UNLOCK);
	if (!pinned)
		ReleaseBuffer(buf);
	return result;
}

/*
 * The row is locked by someone.  Locks that an update of other columns may
 * stand beside (key share) are taken beside; anything else means later.
 */
static TM_Result
lock_beside(DwWriter *w, ItemPointer tid, int n, const int *cols)
{
	LockTupleMode mode = LockTupleNoKeyExclusive;
	TupleTableSlot *slot = table_slot_create(w->rel, NULL);
	TM_FailureData tmfd;
	TM_Result	result;

	for (int i = 0; i < n; i++)
		if (bms_is_member(cols[i] - FirstLowInvalidHeapAttributeNumber, w->key))
			mode = LockTupleExclusive;
	result = table_tuple_lock(w->rel, tid, w->snapshot, slot, w->estate->es_output_cid, mode, LockWaitSkip, 0, &tmfd);
	ExecDropSingleTupleTableSlot(slot);
	return result;
}

DwWriteResult
dw_writer_update(DwWriter *w, HeapTuple old, TupleTableSlot *slot, bool locked, int n, int *cols, Datum *values, bool *nulls)
{
	TupleDesc	desc = RelationGetDescr(w->rel);
	HeapTuple	new = dw_tuple_replace(old, desc, slot, n, cols, values, nulls);
	TU_UpdateIndexes update_indexes;
	LockTupleMode lockmode;
	TM_FailureData tmfd;
	TM_Result	result;
	List	   *recheck = NIL;

	w->growth = (int) new->t_len - (int) old->t_len;
	ResetPerTupleExprContext(w->estate);
	ExecStoreHeapTuple(new, w->slot, true);
	w->slot->tts_tableOid = RelationGetRelid(w->rel);
	if (desc->constr)
	{
		/* as for an insert: all of them, whatever columns they are made of */
		if (desc->constr->has_generated_stored)
			ExecComputeStoredGenerated(w->rri, w->estate, w->slot, CMD_INSERT);
		ExecConstraints(w->rri, w->slot, w->estate);
	}
	if (w->rel->rd_rel->relispartition)
		ExecPartitionCheck(w->rri, w->slot, w->estate, true);

	result = locked ? TM_Ok : look(w, old);
	if (result == TM_BeingModified)
		result = lock_beside(w, &old->t_self, n, cols);
	if (result == TM_Ok)
		result = dw_tuple_update(w->rel, &old->t_self, w->slot, w->snapshot, &tmfd, &lockmode, &update_indexes);
	switch (result)
	{
		case TM_Ok:
			break;
		case TM_Updated:
		case TM_Deleted:
			ExecClearTuple(w->slot);
			return DW_WRITE_GONE;
		case TM_BeingModified:
		case TM_WouldBlock:
			ExecClearTuple(w->slot);
			return DW_WRITE_LOCKED;
		default:
			elog(ERROR, "unexpected result %d of an update", (int) result);
	}
	ItemPointerSetInvalid(&w->moved);
	if (w->rri->ri_NumIndices > 0 && update_indexes != TU_None)
	{
		if (w->searchable && ItemPointerGetBlockNumber(&w->slot->tts_tid) != ItemPointerGetBlockNumber(&old->t_self))
			w->moved = w->slot->tts_tid;
		recheck = dw_update_indexes(w->rri, w->estate, w->slot, update_indexes);
	}
	ExecARUpdateTriggers(w->estate, w->rri, NULL, NULL, &old->t_self, NULL, w->slot, recheck, NULL, false);
	list_free(recheck);
	ExecClearTuple(w->slot);
	return DW_WROTE;
}
