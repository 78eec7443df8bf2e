/*
 * api_check.c
 *		The verbs that look at data or wait: verify, reconcile, wait,
 *		ensure_workers.
 *
 * dw_verify is a function: one transaction, one snapshot.  dw_reconcile and
 * dw_wait are procedures: they commit as they go, so they can't run inside a
 * transaction block, and between two steps hold neither lock nor snapshot.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "portability/instr_time.h"
#include "storage/bufmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "api.h"
#include "batch.h"
#include "compat.h"
#include "fault.h"
#include "holders.h"
#include "migration.h"
#include "own_lock.h"
#include "repair.h"
#include "run.h"
#include "verify.h"
#include "worker.h"

PG_FUNCTION_INFO_V1(dw_verify);
PG_FUNCTION_INFO_V1(dw_reconcile);
PG_FUNCTION_INFO_V1(dw_wait);
PG_FUNCTION_INFO_V1(dw_ensure_workers);

static double
seconds_since(instr_time start)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, start);
	return INSTR_TIME_GET_DOUBLE(now);
}

Datum
dw_verify(PG_FUNCTION_ARGS)
{
	char	   *name = dw_verb_name(fcinfo, "dw_verify");
	double		sample = PG_ARGISNULL(1) ? 1.0 : PG_GETARG_FLOAT8(1);
	DwMigration *m;
	TupleDesc	desc;
	Datum		values[4];
	bool		nulls[4] = {false};
	instr_time	start;
	DwPass		pass;
	DwTotals	t;
	bool		whole;
	bool		one_way;

	if (!(sample > 0 && sample <= 1))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("sample must be above 0 and at most 1"),
				 errdetail("It is the fraction of the table's blocks to look at."),
				 errhint("1 looks at all of them; only that counts as a verification.")));
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	m = dw_verb_begin("dw_verify()", name);
	dw_check_active(m);
	dw_check_tables(m);
	INSTR_TIME_SET_CURRENT(start);
	/* one way, after the switch: the old side is not kept in sync, so rows may differ */
	one_way = !m->two_way && m->phase == DW_SWITCHED;
	/* before ready, rows that aren't filled yet differ: they are counted, not recorded */
	whole = sample >= 1 && m->phase != DW_BACKFILLING && !m->heal && m->mirror == DW_MIRROR_BOTH && !m->copied && !one_way;
	dw_pass_begin(m, 0, 0, &pass);
	dw_check_now(m, sample, m->phase != DW_BACKFILLING && !m->heal && !one_way, &t, NULL);
	if (whole)
	{
		(void) dw_pass_end(m, &pass, &t);
		dw_progress_forget(m, "verify");
	}
	values[0] = Int64GetDatum(t.rows);
	values[1] = Int64GetDatum(t.drifted - t.unconvertible);
	values[2] = Int64GetDatum(t.unconvertible);
	values[3] = Float8GetDatum(seconds_since(start));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* ---- procedures ---- */

static void
check_not_atomic(FunctionCallInfo fcinfo, const char *verb, const char *why)
{
	CallContext *call = (CallContext *) fcinfo->context;

	if (call == NULL || !IsA(call, CallContext) || call->atomic)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("CALL %s cannot run inside a transaction block", verb),
				 errdetail("%s", why),
				 errhint("Call it on its own, with autocommit.")));
}

/* a row's lock is waited for no longer than this; well below deadlock_timeout, so that it is never the application that loses */
#define ROW_LOCK_MS "100"
/* how often a row that someone has locked is tried again */
#define ROW_TRIES 20

/* A pass of dw_reconcile; lives in the call's own context. */
typedef struct Reconcile
{
	DwMigration *m;				/* as it was when the pass began */
	DwMember   *member;
	bool		repair;
	Oid			relfilenode;	/* of the member's heap when its chunks began */
	BlockNumber block;			/* next one */
	bool		end;
	ItemPointerData *locked;	/* rows of the chunk that someone has locked */
	int			nlocked;
	int64		rows;
	int64		drifted;		/* and not repaired */
	int64		unconvertible;
	int64		lossy;
	int64		repaired;
	int64		still_locked;
} Reconcile;

/*
 * The migration must be as it was when the pass began.  Asked under a lock on
 * the table that keeps verbs from changing it, so the answer holds for a chunk.
 */
static void
check_unchanged(DwMigration *m)
{
	DwPhase		phase;
	int64		epoch;

	if (dw_migration_look(m->id, &phase, &epoch) && phase == m->phase && epoch == m->epoch)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("migration \"%s\" was changed meanwhile", m->name),
			 errdetail("Its phase or its mirror is not what it was when this call began."),
			 errhint("Call dw_reconcile again.")));
}

/*
 * A pass is one uninterrupted holding of its lock: without it, writers take the
 * pass for dead, and tell nobody of a row that they move.
 */
static void
check_lock_kept(DwMigration *m)
{
	if (!dw_session_lock_kept(DW_LOCK_PASS, m->id))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("dw_reconcile of migration \"%s\" has lost its lock", m->name),
				 errdetail("A function that a rule, a constraint or an index of the table calls gives back all advisory locks of the session."),
				 errhint("Take pg_advisory_unlock_all() out of that function. Rows that were repaired stay repaired.")));
}

/* May it be reconciled at all? */
static void
check_may_reconcile(DwMigration *m)
{
	dw_check_active(m);
	dw_check_tables(m);
	if (m->phase == DW_BACKFILLING || m->heal || m->copied)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("migration \"%s\" can't be reconciled before it is filled", m->name),
				 errdetail("It is %s.", dw_enum_name(dw_phase_names, m->phase)),
				 errhint("CALL dw_wait(%s, 'verifying').", quote_literal_cstr(m->name))));
	if (!m->two_way && m->phase == DW_SWITCHED)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("migration \"%s\" can't be reconciled after the switch: it is one way", m->name),
				 errdetail("There is no expression that gives the old side from the new one."),
				 errhint("The new side is in authority; go on with dw_finalize.")));
}

/* blocks that one transaction of dw_reconcile checks */
#define RECONCILE_BLOCKS 128

/* Begins a step on the member: its table locked and as it was, code of its owner contained. */
static Relation
open_chunk(Reconcile *r, DwRun *run, DwRule **rule)
{
	Relation	rel = table_open(r->member->relid, RowExclusiveLock);

	check_unchanged(r->m);
	if (r->relfilenode != InvalidOid && r->relfilenode != dw_relfilenode(rel))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" was rewritten meanwhile", RelationGetRelationName(rel)),
				 errdetail("Positions of rows mean nothing any more."),
				 errhint("Call dw_reconcile again.")));
	r->relfilenode = dw_relfilenode(rel);
	dw_run_begin(run, rel->rd_rel->relowner);
	(void) set_config_option("lock_timeout", ROW_LOCK_MS, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	PushActiveSnapshot(GetLatestSnapshot());
	*rule = dw_rule_open_active(r->member->id, rel);
	return rel;
}

static void
close_chunk(Relation rel, DwRun *run)
{
	PopActiveSnapshot();
	dw_run_end(run);
	table_close(rel, NoLock);
}

/* Repairs rows; those that someone has locked are kept in r->locked. */
static void
repair_rows(Reconcile *r, DwRule *rule, Relation rel, ItemPointerData *tids, int n)
{
	DwSide		authority = DW_AUTHORITY(r->m->phase);
	int			locked = 0;

	for (int i = 0; i < n; i++)
	{
		ItemPointerData tid = tids[i];	/* moves on to the newest version */

		CHECK_FOR_INTERRUPTS();
		switch (dw_repair_row(rule, rel, &tid, authority))
		{
			case DW_REPAIRED:
			case DW_REPAIR_NOT_NEEDED:
				/* it is on record where the pass found it, wherever it is now */
				dw_drift_repaired(r->member->id, &tids[i]);
				r->repaired++;
				r->drifted--;
				break;
			case DW_REPAIR_LOCKED:
				r->locked[locked++] = tids[i];
				break;
			case DW_REPAIR_MOVED:
				r->still_locked++;	/* whoever had locked it has updated it */
				break;
			case DW_REPAIR_FAILED:
				break;
		}
	}
	r->nlocked = locked;
}

/* One chunk of one member, in the current transaction. */
static void
reconcile_chunk(Reconcile *r)
{
	DwRun		run;
	DwRule	   *rule;
	Relation	rel = open_chunk(r, &run, &rule);
	BlockNumber nblocks = RelationGetNumberOfBlocks(rel);
	BlockNumber to = Min(r->block + RECONCILE_BLOCKS, nblocks);
	DwCheck		check = {.record = true};

	check.max_tids = RECONCILE_BLOCKS * MaxHeapTuplesPerPage;
	check.tids = palloc(sizeof(ItemPointerData) * check.max_tids);
	dw_check_blocks(rule, rel, GetActiveSnapshot(), r->block, to, &check);
	r->rows += check.rows;
	r->drifted += check.drifted;
	r->unconvertible += check.unconvertible;
	r->lossy += check.lossy;
	r->nlocked = 0;
	if (r->repair && rule->side[DW_OTHER(DW_AUTHORITY(r->m->phase))].derivable)
		repair_rows(r, rule, rel, check.tids, check.ntids);
	dw_fault_here("reconcile_chunk", r->m->name);
	r->block = to;
	r->end = to >= nblocks;
	close_chunk(rel, &run);
}

/* Rows of the chunk that were locked, once more. */
static void
reconcile_locked(Reconcile *r)
{
	DwRun		run;
	DwRule	   *rule;
	Relation	rel = open_chunk(r, &run, &rule);
	int			n = r->nlocked;
	ItemPointerData *tids = palloc(sizeof(ItemPointerData) * n);

	memcpy(tids, r->locked, sizeof(ItemPointerData) * n);
	repair_rows(r, rule, rel, tids, n);
	close_chunk(rel, &run);
}

/* Waits until writers that may not know that a pass is under way have ended. */
static int64
wait_for_writers(DwMigration *m, MemoryContext keep)
{
	int64		token;
	List	   *writers;
	MemoryContext old;

	token = dw_checking_begin(m);
	SPI_commit();
	old = MemoryContextSwitchTo(keep);
	writers = dw_writers_now(m);
	MemoryContextSwitchTo(old);
	while (!dw_writers_gone(writers))
	{
		SPI_commit();
		dw_sleep(50);
	}
	return token;
}

/* One step in a transaction and a memory context of its own. */
static void
in_step(Reconcile *r, MemoryContext turn, void (*step) (Reconcile *))
{
	MemoryContext old;

	SPI_commit();
	CHECK_FOR_INTERRUPTS();
	MemoryContextReset(turn);
	old = MemoryContextSwitchTo(turn);
	step(r);
	check_lock_kept(r->m);
	MemoryContextSwitchTo(old);
}

/* All chunks of a member. */
static void
reconcile_member(Reconcile *r, DwMember *b, MemoryContext turn)
{
	r->member = b;
	r->block = 0;
	r->relfilenode = InvalidOid;
	do
	{
		in_step(r, turn, reconcile_chunk);
		for (int i = 0; i < ROW_TRIES && r->nlocked > 0; i++)
		{
			SPI_commit();
			dw_sleep(50);
			in_step(r, turn, reconcile_locked);
		}
		r->still_locked += r->nlocked;
	} while (!r->end);
}

/* The pass over all members, committing as it goes. */
static void
reconcile(DwMigration *m, bool repair, MemoryContext keep)
{
	Reconcile	r = {.repair = repair};
	DwTotals	t = {0};
	int64		losses = dw_loss_counted(m);
	int64		token = wait_for_writers(m, keep);
	MemoryContext turn = AllocSetContextCreate(keep, "dw_reconcile", ALLOCSET_DEFAULT_SIZES);
	DwPass		pass;
	ListCell   *lc;
	DwVerdict	verdict = DW_DRIFT;

	MemoryContextSwitchTo(keep);
	r.m = m = dw_migration_get(m->id);
	r.locked = palloc(sizeof(ItemPointerData) * RECONCILE_BLOCKS * MaxHeapTuplesPerPage);
	check_may_reconcile(m);		/* the wait may have been long */
	dw_pass_begin(m, token, losses, &pass);
	foreach(lc, m->members)
		reconcile_member(&r, lfirst(lc), turn);
	MemoryContextSwitchTo(keep);
	t.rows = r.rows;
	t.drifted = r.drifted;
	t.unconvertible = Min(r.unconvertible, r.drifted);
	t.lossy = r.lossy;
	t.repaired = r.repaired;
	if (r.repaired > 0)
		dw_event(m->id, m->name, "repaired", -1, -1, psprintf(INT64_FORMAT " rows, from the %s side", r.repaired, dw_side_name(DW_AUTHORITY(m->phase))));
	if (m->mirror == DW_MIRROR_BOTH)
		verdict = dw_pass_end(m, &pass, &t);
	else
		(void) dw_checking_end(m, token);
	dw_progress_forget(m, "verify");
	ereport(NOTICE,
			(errmsg("migration \"%s\": " INT64_FORMAT " rows checked, " INT64_FORMAT " repaired, " INT64_FORMAT " still differ%s",
					m->name, r.rows, r.repaired, r.drifted, verdict == DW_CLEAN ? "; verified" : "; not verified"),
			 verdict == DW_VOID ? errdetail("Triggers, rules or options changed, or dw_verify ran, while it was at work.")
			 : r.still_locked > 0 ? errdetail(INT64_FORMAT " of them %s locked by other transactions; call it again.", r.still_locked, r.still_locked == 1 ? "was" : "were") : 0));
}

Datum
dw_reconcile(PG_FUNCTION_ARGS)
{
	MemoryContext keep = CurrentMemoryContext;
	char	   *name = dw_verb_name(fcinfo, "dw_reconcile");
	bool		repair = PG_ARGISNULL(1) || PG_GETARG_BOOL(1);
	DwMigration *m;

	check_not_atomic(fcinfo, "dw_reconcile", "It commits after each chunk, so that it never holds locks or a snapshot for long.");
	SPI_connect_ext(SPI_OPT_NONATOMIC);
	MemoryContextSwitchTo(keep);
	dw_check_writable("dw_reconcile()");
	m = dw_migration_find(name, false);
	dw_check_owner(m);
	check_may_reconcile(m);

	/*
	 * A worker that verifies gives way.  No snapshot is held while waiting; the
	 * lock outlives the commits, so it is given back by hand.
	 */
	SPI_commit();
	MemoryContextSwitchTo(keep);
	(void) dw_session_lock(DW_LOCK_PASS, m->id, true);
	PG_TRY();
	{
		reconcile(m, repair, keep);
	}
	PG_FINALLY();
	{
		if (dw_session_lock_kept(DW_LOCK_PASS, m->id))
			dw_session_unlock(DW_LOCK_PASS, m->id);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(keep);
	SPI_finish();
	PG_RETURN_VOID();
}

/* ---- waiting ---- */

/* True if the phase is reached; raises if it never will be. */
static bool
reached(DwMigration *m, DwPhase want, const char *phase)
{
	if (m->phase >= DW_FINALIZED && m->phase != want && (m->phase == DW_ABORTED || want == DW_ABORTED))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("migration \"%s\" was %s", m->name, dw_enum_name(dw_phase_names, m->phase)),
				 errdetail("It will not become %s.", phase),
				 errhint("dw_events tells when and by whom.")));
	if (m->phase >= want && m->phase != DW_ABORTED)
		return true;
	if (m->phase == want)
		return true;
	if (m->failed)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("migration \"%s\" failed: %s", m->name,
						m->last_error && has_privs_of_role(GetUserId(), m->owner) ? m->last_error : "the error is shown to the owner"),
				 errdetail("It is %s; the mirror stays on.", dw_enum_name(dw_phase_names, m->phase)),
				 errhint("Mend what it says, then SELECT dw_resume(%s). next_step in dw_status says more.", quote_literal_cstr(m->name))));
	if (m->copied)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("migration \"%s\" is paused: this database is a restored copy", m->name),
				 errdetail("It began in another database."),
				 errhint("SELECT dw_resume(%s) adopts it here.", quote_literal_cstr(m->name))));
	return false;
}

Datum
dw_wait(PG_FUNCTION_ARGS)
{
	MemoryContext keep = CurrentMemoryContext;
	char	   *name = dw_verb_name(fcinfo, "dw_wait");
	DwPhase		want = dw_phase_arg(fcinfo);
	const char *phase = dw_enum_name(dw_phase_names, want);
	TimestampTz deadline = 0;
	TimestampTz told = GetCurrentTimestamp();
	MemoryContext turn;

	check_not_atomic(fcinfo, "dw_wait", "Waiting with an open transaction would hold back VACUUM and block whoever waits for it.");
	if (!PG_ARGISNULL(2))
		deadline = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval, TimestampTzGetDatum(GetCurrentTimestamp()), PG_GETARG_DATUM(2)));
	SPI_connect_ext(SPI_OPT_NONATOMIC);
	turn = AllocSetContextCreate(keep, "dw_wait", ALLOCSET_SMALL_SIZES);
	for (int i = 0;; i++)
	{
		DwMigration *m;

		MemoryContextReset(turn);
		MemoryContextSwitchTo(turn);
		m = dw_migration_find(name, false);
		if (reached(m, want, phase))
			break;
		if (deadline != 0 && GetCurrentTimestamp() >= deadline)
			ereport(ERROR,
					(errcode(ERRCODE_QUERY_CANCELED),
					 errmsg("migration \"%s\" did not become %s in time", name, phase),
					 errdetail("It is %s%s.", dw_describe_status(name), m->paused ? ", and paused" : ""),
					 m->paused ? errhint("SELECT dw_resume(%s).", quote_literal_cstr(name))
					 : m->phase >= DW_READY && m->phase < DW_FINALIZED ? errhint("No worker does that: next_step in dw_status says which call comes next.")
					 : errhint("It goes on in the background; next_step in dw_status says what to do.")));
		if (TimestampDifferenceExceeds(told, GetCurrentTimestamp(), 10000))
		{
			ereport(NOTICE, (errmsg("migration \"%s\": %s%s", name, dw_describe_status(name), m->paused ? " (paused)" : "")));
			told = GetCurrentTimestamp();
		}
		/* every few seconds: a worker may have gone with a restart */
		if (i % 16 == 0 && !RecoveryInProgress() && dw_work_due(m, NULL) != DW_WORK_NONE && !dw_worker_running(m->id))
			(void) dw_worker_launch(m->id);
		SPI_commit();
		dw_sleep(i < 10 ? 50 : 250);
	}
	MemoryContextSwitchTo(keep);
	SPI_finish();
	PG_RETURN_VOID();
}

Datum
dw_ensure_workers(PG_FUNCTION_ARGS)
{
	int			started;
	int			refused;

	dw_check_writable("dw_ensure_workers()");
	started = dw_workers_start(&refused);
	if (refused > 0 && started == 0 && dw_worker_count() == 0)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no background worker slot is free"),
				 errdetail("%d %s waiting for one.", refused, refused == 1 ? "migration is" : "migrations are"),
				 errhint("Raise max_worker_processes (restart) or pg_dualwrite.max_workers, or wait until other workers have ended.")));
	PG_RETURN_INT32(started);
}
