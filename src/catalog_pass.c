/*
 * catalog_pass.c
 *		Passes over a member: how far they are, and what they passed over.
 *
 * A pass is stored in parts, so that several workers can share it.  The
 * worker that writes a part holds its lock (DW_LOCK_PART); the time that a pass
 * was held back is added to part 0.
 *
 * Race: the holder of part 0 may be a helper, and whoever adds that time isn't.
 * Nobody's change is lost, as a new version replaces the very one that it was
 * made from; whoever is too late goes on from the newest.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "executor/executor.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog_internal.h"
#include "compat.h"
#include "run.h"

/* columns of dualwrite.progress that are written one by one */
enum
{
	PROGRESS_MEMBER_ID = 1,
	PROGRESS_PASS,
	PROGRESS_PART,
	PROGRESS_TOKEN = 6,
	PROGRESS_BLOCKS_TOTAL = 11,
	PROGRESS_BLOCKS_DONE,
	PROGRESS_ROWS_DONE = 14,
	PROGRESS_ROWS_ALREADY,
	PROGRESS_ROWS_LOCKED,
	PROGRESS_ROWS_FAILED,
	PROGRESS_ROWS_DRIFTED,
	PROGRESS_ROWS_LOSSY,
	PROGRESS_WAL_BYTES,
	PROGRESS_BATCH_MS = 23,
	PROGRESS_ROWS_PER_SECOND,
	PROGRESS_LAST_BATCH_AT = 26,
	PROGRESS_FINISHED
};

int64
dw_checking_begin(DwMigration *m)
{
	int64		token;

	token = DW_OWN_INT("UPDATE dualwrite.migration SET checking = pg_catalog.pg_current_xact_id()::text::bigint WHERE id = $1 RETURNING checking", DW_INT4(m->id));
	dw_members_invalidate(m);
	return token;
}

bool
dw_checking_end(DwMigration *m, int64 token)
{
	bool		ours;

	ours = DW_OWN_SQL("UPDATE dualwrite.migration SET checking = 0 WHERE id = $1 AND ($2 = 0 OR checking = $2)", DW_INT4(m->id), DW_INT8(token)) > 0;
	if (ours)
		dw_members_invalidate(m);
	return ours;
}

char *
dw_current_snapshot(void)
{
	return DW_OWN_TEXT("SELECT pg_catalog.pg_current_snapshot(), $1", DW_INT4(0));
}

/* ---- progress ---- */

bool
dw_progress_get(int member_id, const char *pass, int part, DwProgress *p)
{
	MemoryContext cxt = CurrentMemoryContext;
	DwRun		run;
	bool		found;

	memset(p, 0, sizeof(*p));
	dw_run_begin(&run, dw_own_role());
	found = DW_SQL("SELECT relfilenode, epoch, marks, snapshot, token, losses, blocks_total, blocks_done, rows_estimated, rows_done, rows_already, rows_locked,"
				   " rows_failed, rows_drifted, rows_lossy, wal_bytes, throttled_ms, batch_ms, rows_per_second, finished, first_block"
				   " FROM dualwrite.progress WHERE member_id = $1 AND pass = $2 AND part = $3",
				   DW_INT4(member_id), DW_TEXT(pass), DW_INT4(part)) > 0;
	p->part = part;
	if (found)
	{
		int64	   *counts[] = {&p->blocks_total, &p->blocks_done, &p->rows_estimated, &p->rows_done, &p->rows_already,
			&p->rows_locked, &p->rows_failed, &p->rows_drifted, &p->rows_lossy, &p->wal_bytes, &p->throttled_ms};

		p->relfilenode = (Oid) dw_sql_int(0, 0);
		p->epoch = dw_sql_int(0, 1);
		p->marks = dw_sql_text(0, 2, cxt);
		p->snapshot = dw_sql_text(0, 3, cxt);
		for (int i = 0; i < (int) lengthof(counts); i++)
			*counts[i] = dw_sql_int(0, 6 + i);
		p->token = dw_sql_int(0, 4);
		p->losses = dw_sql_int(0, 5);
		p->batch_ms = dw_sql_float(0, 17);
		p->rows_per_second = dw_sql_float(0, 18);
		p->finished = dw_sql_bool(0, 19);
		p->first_block = dw_sql_int(0, 20);
	}
	dw_run_end(&run);
	return found;
}

int
dw_progress_unfinished(int member_id, const char *pass, int max, int *parts)
{
	DwRun		run;
	int			n = -1;

	dw_run_begin(&run, dw_own_role());
	if (DW_SQL("SELECT 1 FROM dualwrite.progress WHERE member_id = $1 AND pass = $2 AND part = 0", DW_INT4(member_id), DW_TEXT(pass)) > 0)
	{
		n = DW_SQL("SELECT part FROM dualwrite.progress WHERE member_id = $1 AND pass = $2 AND NOT finished ORDER BY part LIMIT $3",
				   DW_INT4(member_id), DW_TEXT(pass), DW_INT4(max));
		for (int i = 0; i < n; i++)
			parts[i] = dw_sql_int(i, 0);
	}
	dw_run_end(&run);
	return n;
}

void
dw_progress_sum(int member_id, const char *pass, int64 *done, int64 *total)
{
	DwRun		run;

	dw_run_begin(&run, dw_own_role());
	DW_SQL("SELECT sum(blocks_done), sum(blocks_total) FROM dualwrite.progress WHERE member_id = $1 AND pass = $2", DW_INT4(member_id), DW_TEXT(pass));
	*done = dw_sql_int(0, 0);
	*total = dw_sql_int(0, 1);
	dw_run_end(&run);
}

void
dw_progress_start(int member_id, const char *pass, DwProgress *p)
{
	if (p->part == 0)
		DW_OWN_SQL("DELETE FROM dualwrite.progress WHERE member_id = $1 AND pass = $2 AND part > 0", DW_INT4(member_id), DW_TEXT(pass));
	DW_OWN_SQL("INSERT INTO dualwrite.progress AS p (member_id, pass, relfilenode, epoch, marks, snapshot, blocks_total, rows_estimated, token, losses, part, first_block)"
			   " VALUES ($1, $2, $3, $4, $5, $6::pg_snapshot, $7, $8, $9, $10, $11, $12)"
			   " ON CONFLICT (member_id, pass, part) DO UPDATE SET relfilenode = $3, epoch = $4, marks = $5, snapshot = $6::pg_snapshot, first_block = $12,"
			   " blocks_total = $7, rows_estimated = $8, token = $9, losses = $10, blocks_done = 0, rows_done = 0, rows_already = 0, rows_locked = 0, rows_failed = 0,"
			   " rows_drifted = 0, rows_lossy = 0, wal_bytes = 0, throttled_ms = 0, throttled_by = '{}', batch_ms = 0, rows_per_second = 0,"
			   " started_at = pg_catalog.clock_timestamp(), last_batch_at = NULL, finished = false",
			   DW_INT4(member_id), DW_TEXT(pass), DW_OID(p->relfilenode), DW_INT8(p->epoch), DW_TEXT(p->marks), DW_TEXT(p->snapshot),
			   DW_INT8(p->blocks_total), DW_INT8(p->rows_estimated), DW_INT8(p->token), DW_INT8(p->losses), DW_INT4(p->part),
			   DW_INT8(p->first_block));
}

/* A part's row as the snapshot sees it: a copy, or NULL. */
static HeapTuple
fetch_part(Relation rel, Snapshot snapshot, int member_id, const char *pass, int part)
{
	ScanKeyData keys[3];
	SysScanDesc scan;
	HeapTuple	tup;

	ScanKeyInit(&keys[0], PROGRESS_MEMBER_ID, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(member_id));
	ScanKeyInit(&keys[1], PROGRESS_PASS, BTEqualStrategyNumber, F_TEXTEQ, CStringGetTextDatum(pass));
	keys[1].sk_collation = TupleDescAttr(RelationGetDescr(rel), PROGRESS_PASS - 1)->attcollation;
	ScanKeyInit(&keys[2], PROGRESS_PART, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(part));
	scan = systable_beginscan(rel, get_relname_relid("progress_pkey", RelationGetNamespace(rel)), true, snapshot, lengthof(keys), keys);
	tup = systable_getnext(scan);
	if (HeapTupleIsValid(tup))
		tup = heap_copytuple(tup);
	systable_endscan(scan);
	return tup;
}

/* The new version isn't on the old one's page, because somebody's snapshot kept it full. */
static void
index_version(Relation rel, TupleTableSlot *slot, TU_UpdateIndexes which)
{
	EState	   *estate = CreateExecutorState();
	ResultRelInfo *rri = makeNode(ResultRelInfo);

	InitResultRelInfo(rri, rel, 0, NULL, 0);
	ExecOpenIndices(rri, false);
	(void) dw_update_indexes(rri, estate, slot, which);
	ExecCloseIndices(rri);
	FreeExecutorState(estate);
}

/* False: somebody has updated it since the snapshot. */
static bool
replace_version(Relation rel, Snapshot snapshot, HeapTuple old, HeapTuple new)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsHeapTuple);
	TU_UpdateIndexes update_indexes;
	LockTupleMode lockmode;
	TM_FailureData tmfd;
	bool		done;

	ExecStoreHeapTuple(new, slot, false);
	slot->tts_tableOid = RelationGetRelid(rel);
	done = dw_tuple_update(rel, &old->t_self, slot, snapshot, &tmfd, &lockmode, &update_indexes) == TM_Ok;
	if (done && update_indexes != TU_None)
		index_version(rel, slot, update_indexes);
	ExecDropSingleTupleTableSlot(slot);
	return done;
}

/*
 * Each batch ends with this; through the executor it would cost as much as
 * filling twenty rows.  Privileges aren't asked for and nobody's code runs,
 * whoever the batch works as.  False: somebody was faster.
 */
static bool
put_directly(int member_id, const char *pass, const DwProgress *p)
{
	Relation	rel = table_open(get_relname_relid("progress", get_namespace_oid(DW_SCHEMA, false)), RowExclusiveLock);
	TupleDesc	desc = RelationGetDescr(rel);
	Snapshot	snapshot;
	HeapTuple	old;
	bool		isnull;
	bool		put = true;

	CommandCounterIncrement();
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	old = fetch_part(rel, snapshot, member_id, pass, p->part);
	if (old && DatumGetInt64(heap_getattr(old, PROGRESS_TOKEN, desc, &isnull)) == p->token)
	{
		int			columns[] = {
			PROGRESS_BLOCKS_TOTAL, PROGRESS_BLOCKS_DONE, PROGRESS_ROWS_DONE, PROGRESS_ROWS_ALREADY, PROGRESS_ROWS_LOCKED,
			PROGRESS_ROWS_FAILED, PROGRESS_ROWS_DRIFTED, PROGRESS_ROWS_LOSSY, PROGRESS_WAL_BYTES, PROGRESS_BATCH_MS,
			PROGRESS_ROWS_PER_SECOND, PROGRESS_LAST_BATCH_AT, PROGRESS_FINISHED
		};
		Datum		values[] = {
			Int64GetDatum(p->blocks_total), Int64GetDatum(p->blocks_done), Int64GetDatum(p->rows_done), Int64GetDatum(p->rows_already), Int64GetDatum(p->rows_locked),
			Int64GetDatum(p->rows_failed), Int64GetDatum(p->rows_drifted), Int64GetDatum(p->rows_lossy), Int64GetDatum(p->wal_bytes), Float8GetDatum(p->batch_ms),
			Float8GetDatum(p->rows_per_second), TimestampTzGetDatum(GetCurrentTimestamp()), BoolGetDatum(p->finished)
		};
		bool		nulls[lengthof(columns)] = {false};

		StaticAssertStmt(lengthof(values) == lengthof(columns), "a value for each column");
		put = replace_version(rel, snapshot, old, heap_modify_tuple_by_cols(old, desc, lengthof(columns), columns, values, nulls));
	}
	UnregisterSnapshot(snapshot);
	CommandCounterIncrement();
	table_close(rel, NoLock);
	return put;
}

void
dw_progress_put(int member_id, const char *pass, const DwProgress *p)
{
	if (put_directly(member_id, pass, p))
		return;
	/* the time that the pass was held back has been added, or it is another pass by now */
	DW_OWN_SQL("UPDATE dualwrite.progress SET blocks_total = $3, blocks_done = $4, rows_done = $5, rows_already = $6, rows_locked = $7,"
			   " rows_failed = $8, rows_drifted = $9, rows_lossy = $10, wal_bytes = $11, batch_ms = $12,"
			   " rows_per_second = $13, finished = $14, last_batch_at = pg_catalog.clock_timestamp()"
			   " WHERE member_id = $1 AND pass = $2 AND part = $15 AND token = $16",
			   DW_INT4(member_id), DW_TEXT(pass), DW_INT8(p->blocks_total), DW_INT8(p->blocks_done), DW_INT8(p->rows_done),
			   DW_INT8(p->rows_already), DW_INT8(p->rows_locked), DW_INT8(p->rows_failed), DW_INT8(p->rows_drifted),
			   DW_INT8(p->rows_lossy), DW_INT8(p->wal_bytes), DW_FLOAT8(p->batch_ms),
			   DW_FLOAT8(p->rows_per_second), DW_BOOL(p->finished), DW_INT4(p->part), DW_INT8(p->token));
}

bool
dw_progress_throttled(int member_id, const char *signal, int64 ms)
{
	return DW_OWN_SQL("UPDATE dualwrite.progress SET throttled_ms = throttled_ms + $3,"
					  " throttled_by = throttled_by || pg_catalog.jsonb_build_object($2, coalesce((throttled_by ->> $2)::bigint, 0) + $3)"
					  " WHERE member_id = $1 AND part = 0 AND pass = (SELECT q.pass FROM dualwrite.progress q WHERE q.member_id = $1 AND NOT q.finished ORDER BY q.pass LIMIT 1)", DW_INT4(member_id), DW_TEXT(signal), DW_INT8(ms)) > 0;
}

void
dw_progress_forget(DwMigration *m, const char *pass)
{
	DW_OWN_SQL("DELETE FROM dualwrite.progress WHERE member_id IN (SELECT id FROM dualwrite.member WHERE migration_id = $1) AND pass = $2",
			   DW_INT4(m->id), DW_TEXT(pass));
}

/* ---- blocks with rows that were locked ---- */

void
dw_skipped_add(int member_id, BlockNumber block)
{
	DW_OWN_SQL("INSERT INTO dualwrite.skipped VALUES ($1, $2) ON CONFLICT DO NOTHING", DW_INT4(member_id), DW_INT8((int64) block));
}

void
dw_skipped_done(int member_id, BlockNumber block)
{
	DW_OWN_SQL("DELETE FROM dualwrite.skipped WHERE member_id = $1 AND block = $2", DW_INT4(member_id), DW_INT8((int64) block));
}

int
dw_skipped_list(int member_id, int max, BlockNumber *blocks)
{
	DwRun		run;
	int			n;

	dw_run_begin(&run, dw_own_role());
	n = DW_SQL("SELECT block FROM dualwrite.skipped WHERE member_id = $1 ORDER BY block LIMIT $2", DW_INT4(member_id), DW_INT4(max));
	for (int i = 0; i < n; i++)
		blocks[i] = (BlockNumber) dw_sql_int(i, 0);
	dw_run_end(&run);
	return n;
}

void
dw_skipped_clear(int member_id)
{
	DW_OWN_SQL("DELETE FROM dualwrite.skipped WHERE member_id = $1", DW_INT4(member_id));
}
