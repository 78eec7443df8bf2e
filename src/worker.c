/*
 * worker.c
 *		The background worker of a migration.
 *
 * A dynamic background worker, registered by the verb that needs it: no
 * preload.  It first waits for the registering transaction to end, so that a
 * rollback leaves a worker that finds nothing and goes.  A session lock on the
 * migration (an advisory-class lock with a tag of our own) makes it the only
 * one; the lock vanishes with the process, so "running" is never a stale word
 * in a table.
 *
 * Roles.  The worker connects as the bootstrap superuser, because on
 * PostgreSQL 15 and 16 a role that can't log in can't be connected as.  All
 * work on the user's tables is done as their owner, from the start of the
 * transaction until after its commit, deferred triggers included; the security
 * context forbids SET ROLE and SET SESSION AUTHORIZATION meanwhile, so nothing
 * that the owner's code does can reach the superuser.
 *
 * Every step is one short transaction.  It locks the table first and then
 * looks whether the migration is still as it knew it: the verbs that change it
 * hold a table lock that conflicts.  What a step did is stored in its own
 * commit.  After an error the step is repeated: rows one by one, if it was a
 * row's; later, if someone was in the way; else the migration fails with the
 * error for all to see, and waits for dw_resume.
 *
 * Memory: one context a step, one for the migration as last read.
 */
#include "postgres.h"

#include <limits.h>
#include <unistd.h>

#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "commands/async.h"
#include "commands/prepare.h"
#include "commands/sequence.h"
#include "executor/instrument.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/bufmgr.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/portal.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/wait_event.h"

#include "batch.h"
#include "catalog.h"
#include "compat.h"
#include "migration.h"
#include "options.h"
#include "pace.h"
#include "rule.h"
#include "run.h"
#include "verify.h"
#include "worker.h"

/* a wait for a row or key inside a batch; must stay well below deadlock_timeout (1 s by default) */
#define LOCK_WAIT_MS 100
/* idle this long, the worker goes */
#define IDLE_MS 5000
/* a worker reports itself at least this often */
#define HEARTBEAT_MS 1000

/* in bgw_extra */
typedef struct WorkerArgs
{
	Oid			database;
	int			migration_id;	/* 0: whatever there is */
	TransactionId xid;			/* to wait for, or invalid */
} WorkerArgs;

StaticAssertDecl(sizeof(WorkerArgs) <= BGW_EXTRALEN, "worker arguments are too large");

/* what the worker knows from one step to the next */
typedef struct Worker
{
	int			migration_id;
	DwMigration *m;				/* as last read; in cxt */
	char	   *stamp;			/* ... and what tells that it has changed */
	DwOptions	options;
	MemoryContext cxt;
	MemoryContext step;
	DwPace		pace;
	bool		careful;		/* the next batch takes its rows one by one */
	int			careful_left;
	int			member;			/* index of the member that range belongs to */
	bool		range_active;
	bool		revisit;		/* range is a single block passed over before */
	bool		revisit_locked; /* ... and a row of it was locked again */
	DwRange		range;
	List	   *writers;		/* transactions to wait for before a pass in chunks */
	bool		writers_known;
	bool		pass_locked;	/* DW_LOCK_PASS is ours */
	int64		token;			/* of the pass in chunks */
	int64		losses;			/* counted before it */
	int			rest_ms;		/* after this step */
	bool		limited;		/* ... because of max_rows_per_second */
	const char *state;			/* as last reported */
	char		reason[256];
	instr_time	reported;
	double		limited_ms;		/* rested since then because of a limit */
	instr_time	last_batch;		/* when it began */
} Worker;

static bool connected = false;

/* what lives from one step to the next but one; reset in the loop */
static MemoryContext step_cxt = NULL;

/* ---- starting ---- */

static bool
launch(const WorkerArgs *args, const char *name)
{
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION | BGWORKER_INTERRUPTIBLE;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	/* also after a crash of some other backend, and after pg_terminate_backend */
	worker.bgw_restart_time = 1;
	strlcpy(worker.bgw_library_name, "pg_dualwrite", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "dw_worker_main", sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_name, name, sizeof(worker.bgw_name));
	strlcpy(worker.bgw_type, "pg_dualwrite worker", sizeof(worker.bgw_type));
	memcpy(worker.bgw_extra, args, sizeof(*args));
	return RegisterDynamicBackgroundWorker(&worker, &handle);
}

bool
dw_worker_launch(int migration_id)
{
	WorkerArgs	args = {MyDatabaseId, migration_id, GetTopTransactionIdIfAny()};

	if (!dw_worker_running(migration_id) && dw_worker_count() >= dw_max_workers)
		return false;
	return launch(&args, psprintf("pg_dualwrite worker (migration %d)", migration_id));
}

bool
dw_worker_launch_database(Oid database)
{
	WorkerArgs	args = {database, 0, InvalidTransactionId};

	return launch(&args, "pg_dualwrite worker");
}

bool
dw_worker_running(int migration_id)
{
	return dw_session_locked(DW_LOCK_WORKER, migration_id);
}

int
dw_workers_start(int *refused)
{
	int			started = 0;
	ListCell   *lc;

	*refused = 0;
	foreach(lc, dw_migration_ids())
	{
		DwMigration *m = dw_migration_get(lfirst_int(lc));

		if (m == NULL || dw_work_due(m, NULL) == DW_WORK_NONE || dw_worker_running(m->id))
			continue;
		if (dw_worker_launch(m->id))
			started++;
		else
			(*refused)++;
	}
	return started;
}

void
dw_sleep(double ms)
{
	int			rc;

	if (ms < 1)
		ms = 1;
	rc = WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, (long) ms, PG_WAIT_EXTENSION);
	if (rc & WL_LATCH_SET)
		ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* ---- transactions of the worker ---- */

static void
begin_step(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	XactReadOnly = false;		/* whatever default_transaction_read_only says */
	XactIsoLevel = XACT_READ_COMMITTED;
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	(void) set_config_option("row_security", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	PushActiveSnapshot(GetTransactionSnapshot());
}

static void
commit_step(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	/* only now: what was deferred to the commit has run as the owner, too */
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, 0);
	pgstat_report_stat(false);
	if (step_cxt)
		MemoryContextSwitchTo(step_cxt);
}

/* From here to the end of the transaction, code of the table's owner may run. */
static void
become_owner(Relation rel)
{
	char		timeout[32];

	snprintf(timeout, sizeof(timeout), "%d", Min(LOCK_WAIT_MS, Max(DeadlockTimeout / 4, 1)));
	(void) set_config_option("lock_timeout", timeout, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	SetUserIdAndSecContext(rel->rd_rel->relowner, SECURITY_LOCAL_USERID_CHANGE);
}

/* Immediate, so that a row that breaks a deferred constraint shows itself while the row is at hand. */
static void
constraints_immediate(void)
{
	DwRun		run;

	dw_run_begin(&run, GetUserId());
	dw_command("SET CONSTRAINTS ALL IMMEDIATE");
	dw_run_end(&run);
}

/* ---- reports ---- */

static double
ms_since(instr_time then)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, then);
	return INSTR_TIME_GET_MILLISEC(now);
}

/* Says what it is doing, if that is news, or if it hasn't spoken for a while. */
static void
report(Worker *w, const char *state, const char *reason, const char *signal, double value, double limit)
{
	int			pids[16];
	int			n = 0;

	if (reason == NULL)
		reason = "";
	if (w->m == NULL || (w->state && strcmp(w->state, state) == 0 && strcmp(w->reason, reason) == 0 && ms_since(w->reported) < HEARTBEAT_MS))
		return;
	w->state = state;
	strlcpy(w->reason, reason, sizeof(w->reason));
	INSTR_TIME_SET_CURRENT(w->reported);

	begin_step();
	if (strcmp(state, "waiting") == 0)
	{
		ListCell   *lc;

		foreach(lc, w->m->members)
			n += dw_table_lockers(((DwMember *) lfirst(lc))->relid, (int) lengthof(pids) - n, pids + n);
	}
	dw_worker_report(w->migration_id, state, reason[0] ? reason : NULL, n, pids, signal, value, limit);
	commit_step();
	pgstat_report_activity(STATE_RUNNING, psprintf("pg_dualwrite: migration \"%s\": %s", w->m->name, state));
}

/* ---- knowing the migration ---- */

/* Reads the migration; false if it is gone. */
static bool
read_migration(Worker *w)
{
	MemoryContext old;
	DwMigration *m;

	char	   *stamp;

	/* nothing may point in there, should the reading fail */
	w->m = NULL;
	w->stamp = NULL;
	w->writers = NIL;
	w->writers_known = false;
	MemoryContextReset(w->cxt);
	old = MemoryContextSwitchTo(w->cxt);
	stamp = dw_migration_stamp(w->migration_id);
	m = dw_migration_get(w->migration_id);
	if (m)
		dw_options_read(m->options, &w->options);
	MemoryContextSwitchTo(old);
	w->m = m;
	w->stamp = stamp;
	return m != NULL;
}

/* Is it as it was when read?  Asked under the table's lock. */
static bool
unchanged(Worker *w)
{
	char	   *stamp = dw_migration_stamp(w->migration_id);

	return stamp != NULL && strcmp(stamp, w->stamp) == 0;
}

/* Opens a member's table for a step; NULL if it is gone or the migration has changed meanwhile. */
static Relation
open_member(Worker *w, DwMember *b, LOCKMODE mode)
{
	Relation	rel;

	(void) set_config_option("lock_timeout", psprintf("%d", dw_lock_timeout), PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	rel = try_relation_open(b->relid, mode);
	if (rel == NULL)
		return NULL;			/* dropped: the next look at the migration says so */
	if (!unchanged(w))
	{
		relation_close(rel, NoLock);
		return NULL;
	}

	/* a rewrite that we waited for has given every row an xid that an older snapshot doesn't see */
	PopActiveSnapshot();
	PushActiveSnapshot(GetLatestSnapshot());
	return rel;
}

static int64
estimate_rows(Relation rel, BlockNumber nblocks)
{
	if (rel->rd_rel->reltuples <= 0 || rel->rd_rel->relpages <= 0)
		return 0;
	return (int64) (rel->rd_rel->reltuples / rel->rd_rel->relpages * nblocks);
}

/*
 * Says "throttled" or "running", by what most of the time since the last
 * report went into.
 */
static void
report_pace(Worker *w, double ms, const char *signal, double value, double limit)
{
	double		since = ms_since(w->reported) + ms;
	bool		working = w->state && (strcmp(w->state, "running") == 0 || strcmp(w->state, "throttled") == 0);

	if (signal)
		w->limited_ms += ms;
	if (working && since < HEARTBEAT_MS)
		return;
	if (w->limited_ms > since / 2)
		report(w, "throttled", signal, signal, value, limit);
	else
		report(w, "running", NULL, NULL, 0, 0);
	w->limited_ms = 0;
}

/* Rests until the next step. */
static void
rest(Worker *w, double ms, const char *signal, double value, double limit)
{
	bool		same = true;

	report_pace(w, ms, signal, value, limit);
	for (; same && ms > HEARTBEAT_MS; ms -= HEARTBEAT_MS)
	{
		dw_sleep(HEARTBEAT_MS);
		report(w, signal ? "throttled" : "running", signal, signal, value, limit);
		/* the limit may have been raised, or the migration paused */
		begin_step();
		same = unchanged(w);
		commit_step();
	}
	if (same)
		dw_sleep(ms);
}

/* ---- filling ---- */

/* The range to work on next; false if the member is through. */
static bool
next_range(Worker *w, DwMember *b, Relation rel, DwProgress *p)
{
	BlockNumber nblocks = Min((BlockNumber) p->blocks_total, RelationGetNumberOfBlocks(rel));
	BlockNumber skipped;

	if (w->range_active)
	{
		/* VACUUM may have cut the end off since */
		dw_range_clip(&w->range, RelationGetNumberOfBlocks(rel));
		return true;
	}
	if (p->blocks_done < nblocks)
	{
		dw_range_init(&w->range, p->blocks_done, Min(DW_RANGE_BLOCKS, nblocks - p->blocks_done));
		w->revisit = false;
	}
	else
	{
		p->blocks_done = p->blocks_total;
		if (dw_skipped_list(b->id, 1, &skipped) == 0)
			return false;
		if (skipped >= RelationGetNumberOfBlocks(rel))
		{
			dw_skipped_done(b->id, skipped);
			return next_range(w, b, rel, p);
		}
		dw_range_init(&w->range, skipped, 1);
		w->revisit = true;
		w->revisit_locked = false;
	}
	w->range_active = true;
	return true;
}

static void
start_fill(DwMember *b, Relation rel, DwProgress *p)
{
	memset(p, 0, sizeof(*p));
	p->relfilenode = dw_relfilenode(rel);
	p->blocks_total = RelationGetNumberOfBlocks(rel);
	p->rows_estimated = estimate_rows(rel, p->blocks_total);
	dw_progress_start(b->id, "fill", p);
	dw_skipped_clear(b->id);
}

/* One batch of one member.  Returns true if the member is through. */
static bool
fill_member(Worker *w, DwMember *b, DwProgress *p)
{
	Relation	rel = open_member(w, b, RowExclusiveLock);
	int			limit = w->options.max_rows_per_second;
	DwBatch		batch = {.max_rows = limit > 0 ? Min(w->pace.max_rows, Max(limit / 10, 1)) : w->pace.max_rows,.max_ms = w->options.batch_time,.careful = w->careful};
	instr_time	start;
	uint64		wal = pgWalUsage.wal_bytes;
	double		ms;
	double		cycle = ms_since(w->last_batch);
	bool		limited;

	w->rest_ms = 0;
	w->limited = false;
	if (rel == NULL)
	{
		w->stamp = NULL;
		return false;
	}
	INSTR_TIME_SET_CURRENT(start);
	w->last_batch = start;
	if (!dw_progress_get(b->id, "fill", p) || p->relfilenode != dw_relfilenode(rel))
	{
		/* never begun, or the heap has been rewritten: positions mean nothing any more */
		start_fill(b, rel, p);
		w->range_active = false;
	}
	if (!p->finished && !next_range(w, b, rel, p))
	{
		p->finished = true;
		dw_progress_put(b->id, "fill", p);
	}
	if (p->finished)
	{
		table_close(rel, NoLock);
		return true;
	}

	become_owner(rel);
	constraints_immediate();
	dw_fill_batch(dw_rule_open_active(b->id, rel), rel, &w->range, &batch);
	w->revisit_locked |= batch.locked > 0;
	if (dw_range_done(&w->range))
	{
		dw_range_free_space(rel, &w->range);
		if (!w->revisit)
			p->blocks_done = w->range.start + w->range.nblocks;
		else if (!w->revisit_locked)
			dw_skipped_done(b->id, w->range.start); /* only now: the visit may take several batches */
		w->range_active = false;
	}
	ms = ms_since(start);
	p->rows_done += batch.written;
	p->rows_already += batch.already;
	p->rows_locked += batch.locked;
	p->rows_failed += batch.failed;
	p->wal_bytes += pgWalUsage.wal_bytes - wal;
	p->batch_ms = ms;
	w->rest_ms = (int) dw_pace_next(&w->pace, batch.written, ms, Min(cycle, 1e6), w->options.batch_time, w->options.max_rows_per_second, &limited);
	w->limited = limited;
	if (limited)
		p->throttled_ms += w->rest_ms;
	p->rows_per_second = w->pace.rows_per_second;
	dw_progress_put(b->id, "fill", p);
	if (w->careful && --w->careful_left <= 0)
		w->careful = false;

	/* a block that is still locked: give its holder time */
	if (w->revisit && w->revisit_locked && !w->range_active)
		w->rest_ms = -1;
	table_close(rel, NoLock);
	return false;
}

static void
fill_step(Worker *w)
{
	DwMember   *b = list_nth(w->m->members, w->member);
	DwProgress	p;
	bool		through;

	begin_step();
	through = fill_member(w, b, &p);
	if (through && w->member + 1 == list_length(w->m->members) && unchanged(w))
	{
		dw_filled(w->m);
		w->stamp = NULL;
	}
	commit_step();
	if (through)
	{
		w->member = (w->member + 1) % list_length(w->m->members);
		w->range_active = false;
		return;
	}
	if (w->rest_ms < 0)
	{
		report(w, "waiting", "rows that the backfill passed over are still locked", NULL, 0, 0);
		dw_sleep(200);
	}
	else
		rest(w, w->rest_ms, w->limited ? "max_rows_per_second" : NULL,
			 p.rows_per_second, w->options.max_rows_per_second);
}

/* ---- verifying ---- */

static void
unlock_pass(Worker *w)
{
	if (w->pass_locked)
		dw_session_unlock(DW_LOCK_PASS, w->migration_id);
	w->pass_locked = false;
}

/* One pass in chunks at a time; dw_reconcile goes first. */
static bool
lock_pass(Worker *w)
{
	if (w->pass_locked && dw_session_lock_wanted(DW_LOCK_PASS, w->migration_id))
		unlock_pass(w);
	else if (!w->pass_locked && dw_session_lock(DW_LOCK_PASS, w->migration_id, false))
	{
		w->pass_locked = true;

		/*
		 * A pass is one uninterrupted holding of the lock: a writer that looked
		 * while nobody held it took the pass for dead, and told us of no row
		 * that it moved.
		 */
		begin_step();
		dw_progress_forget(w->m, "verify");
		commit_step();
		w->writers_known = false;
	}
	return w->pass_locked;
}

/*
 * Before a pass in chunks begins, writers are told to look at every row, and
 * those that may not have heard must end.  True when the pass may begin.
 */
static bool
pass_may_begin(Worker *w)
{
	if (!w->writers_known)
	{
		MemoryContext old;

		begin_step();
		w->losses = dw_loss_counted(w->m);
		w->token = dw_checking_begin(w->m);
		commit_step();
		begin_step();
		read_migration(w);		/* the stamp has changed by our own hand */
		if (w->m)
		{
			old = MemoryContextSwitchTo(w->cxt);
			w->writers = dw_writers_now(w->m);
			MemoryContextSwitchTo(old);
			w->writers_known = true;
		}
		commit_step();
		if (w->m == NULL)
			return false;
	}
	begin_step();
	if (!dw_writers_gone(w->writers))
	{
		commit_step();
		report(w, "waiting", "transactions that wrote before the verification began are still open", NULL, 0, 0);
		dw_sleep(100);
		return false;
	}
	commit_step();
	return true;
}

/* Begins the pass over all members. */
static void
start_verify(Worker *w)
{
	DwPass		pass;
	ListCell   *lc;

	begin_step();
	dw_pass_begin(w->m, w->token, w->losses, &pass);
	foreach(lc, w->m->members)
	{
		DwMember   *b = lfirst(lc);
		Relation	rel = try_relation_open(b->relid, AccessShareLock);
		DwProgress	p = {.epoch = pass.epoch,.token = pass.token,.losses = pass.losses,.marks = pass.marks,.snapshot = pass.snapshot};

		if (rel == NULL)
			continue;
		p.relfilenode = dw_relfilenode(rel);
		p.blocks_total = RelationGetNumberOfBlocks(rel);
		p.rows_estimated = estimate_rows(rel, p.blocks_total);
		dw_progress_start(b->id, "verify", &p);
		relation_close(rel, NoLock);
	}
	commit_step();
}

/* All members are through: what did the pass find? */
static void
end_verify(Worker *w)
{
	DwTotals	t = {0};
	DwProgress	p;
	ListCell   *lc;
	DwVerdict	verdict;

	/* whatever it finds, the migration is another one afterwards */
	if (!unchanged(w))
	{
		w->stamp = NULL;
		return;
	}
	w->stamp = NULL;
	foreach(lc, w->m->members)
	{
		/* dw_verify was faster, and has thrown the pass away */
		if (!dw_progress_get(((DwMember *) lfirst(lc))->id, "verify", &p))
			return;
		t.rows += p.rows_done;
		t.drifted += p.rows_drifted;
		t.unconvertible += p.rows_failed;
		t.lossy += p.rows_lossy;
	}
	verdict = dw_pass_end(w->m, &(DwPass) {.token = p.token,.epoch = p.epoch,.marks = p.marks,.snapshot = p.snapshot,.losses = p.losses}, &t);
	dw_progress_forget(w->m, "verify");
	if (verdict == DW_VOID)
		dw_event(w->m->id, w->m->name, "verification void", -1, -1, "triggers, rules or options changed while it ran; it begins again");
}

/* Checks one chunk.  Returns true if the member is through. */
static bool
verify_member(Worker *w, DwMember *b, bool *restart)
{
	Relation	rel = open_member(w, b, AccessShareLock);
	DwProgress	p;
	DwCheck		check = {.record = true};
	BlockNumber nblocks;
	BlockNumber end;
	instr_time	start;

	*restart = false;
	w->rest_ms = 0;
	if (rel == NULL)
	{
		w->stamp = NULL;
		return false;
	}
	INSTR_TIME_SET_CURRENT(start);
	if (!dw_progress_get(b->id, "verify", &p) || p.relfilenode != dw_relfilenode(rel) || p.epoch != w->m->epoch)
	{
		*restart = true;
		table_close(rel, NoLock);
		return false;
	}
	if (p.finished)
	{
		table_close(rel, NoLock);
		return true;
	}

	/* to the end as it is now: a row may have moved there */
	nblocks = RelationGetNumberOfBlocks(rel);
	end = Min((BlockNumber) p.blocks_done + DW_CHUNK_BLOCKS, nblocks);
	become_owner(rel);
	dw_check_blocks(dw_rule_open_active(b->id, rel), rel, GetActiveSnapshot(), p.blocks_done, end, &check);
	p.blocks_done = end;
	p.blocks_total = nblocks;
	p.rows_done += check.rows;
	p.rows_drifted += check.drifted;
	p.rows_failed += check.unconvertible;
	p.rows_lossy += check.lossy;
	p.finished = end >= nblocks;
	p.batch_ms = ms_since(start);
	p.rows_per_second = p.batch_ms > 0 ? check.rows * 1000.0 / (p.batch_ms * 2) : 0;
	w->rest_ms = (int) p.batch_ms;
	dw_progress_put(b->id, "verify", &p);
	w->careful = false;
	table_close(rel, NoLock);
	return p.finished;
}

static void
verify_step(Worker *w)
{
	DwMember   *b = list_nth(w->m->members, w->member);
	bool		restart;
	bool		through;

	if (!lock_pass(w))
	{
		report(w, "waiting", "dw_reconcile is at work", NULL, 0, 0);
		dw_sleep(200);
		return;
	}
	begin_step();
	through = verify_member(w, b, &restart);
	if (through && w->member + 1 == list_length(w->m->members))
		end_verify(w);
	commit_step();
	if (restart)
	{
		if (pass_may_begin(w))
			start_verify(w);
		w->member = 0;
		return;
	}
	if (through)
		w->member = (w->member + 1) % list_length(w->m->members);
	if (w->stamp)
		rest(w, w->rest_ms, NULL, 0, 0);
}

/* ---- errors ---- */

/* The step failed; in the transaction that follows its abort. */
static void
after_error(Worker *w, ErrorData *error)
{
	ereport(LOG,
			(errcode(error->sqlerrcode),
			 errmsg("pg_dualwrite worker of migration %d: %s", w->migration_id, error->message),
			 error->context ? errcontext("%s", error->context) : 0));
	w->range_active = false;	/* its cursor may be ahead of what was committed */
	w->state = NULL;
	if (w->m == NULL)
	{
		/* the migration could not be read: look again */
		dw_sleep(HEARTBEAT_MS);
		return;
	}
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
	{
		/* somebody wanted this statement to end, not the migration */
		report(w, "waiting", error->message, NULL, 0, 0);
		dw_sleep(HEARTBEAT_MS);
	}
	else if (dw_error_of_lock(error->sqlerrcode))
	{
		/* a table lock, or a row's: try again, and row by row, so that the others get through */
		w->careful = true;
		w->careful_left = 16;
		report(w, "waiting", error->message, NULL, 0, 0);
		dw_sleep(dw_lock_timeout / 2 + 50);
	}
	else if (dw_error_of_row(error->sqlerrcode) && !w->careful)
	{
		w->careful = true;
		w->careful_left = 16;
	}
	else if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_INSUFFICIENT_RESOURCES)
	{
		report(w, "waiting", error->message, NULL, 0, 0);
		dw_sleep(HEARTBEAT_MS);
	}
	else
	{
		begin_step();
		/* it may have ended meanwhile, and the error be the end of its table */
		if (unchanged(w))
		{
			dw_migration_set_failed(w->migration_id, true, error->message);
			dw_event(w->migration_id, w->m->name, "failed", -1, -1, error->message);
		}
		commit_step();
		w->stamp = NULL;
	}
}

/* ---- the loop ---- */

static bool
extension_present(void)
{
	Oid			nsp = get_namespace_oid(DW_SCHEMA, true);

	return OidIsValid(nsp) && OidIsValid(get_relname_relid("migration", nsp));
}

/* One step of whatever is due; false if nothing is. */
static bool
step(Worker *w)
{
	DwWork		work;

	if (w->stamp == NULL)
	{
		bool		found;

		begin_step();
		found = extension_present() && read_migration(w);
		commit_step();
		if (!found)
		{
			w->m = NULL;
			return false;
		}
		w->range_active = false;
		w->member = 0;
	}
	else
	{
		bool		same;

		begin_step();
		same = extension_present() && unchanged(w);
		commit_step();
		if (!same)
		{
			w->stamp = NULL;
			return true;
		}
	}
	work = dw_work_due(w->m, NULL);
	if (work == DW_WORK_FILL)
		fill_step(w);
	else if (work == DW_WORK_VERIFY)
		verify_step(w);
	return work != DW_WORK_NONE;
}

static bool
step_caught(Worker *w)
{
	volatile bool busy = true;

	PG_TRY();
	{
		busy = step(w);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		HOLD_INTERRUPTS();
		MemoryContextSwitchTo(w->step);
		error = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
		SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, 0);
		RESUME_INTERRUPTS();
		MemoryContextSwitchTo(w->step);
		after_error(w, error);
	}
	PG_END_TRY();
	return busy;
}

/* Does another migration wait for a worker? */
static bool
work_elsewhere(int migration_id)
{
	bool		found = false;
	ListCell   *lc;

	begin_step();
	if (extension_present())
		foreach(lc, dw_migration_ids())
		{
			DwMigration *m = dw_migration_get(lfirst_int(lc));

			if (m && m->id != migration_id && dw_work_due(m, NULL) != DW_WORK_NONE && !dw_worker_running(m->id))
			{
				found = true;
				break;
			}
		}
	commit_step();
	return found;
}

/* Works on one migration until there is nothing to do for a while. */
static void
work_on(int migration_id)
{
	Worker	   *w = palloc0(sizeof(Worker));
	int			idle = 0;

	w->migration_id = migration_id;
	w->cxt = AllocSetContextCreate(TopMemoryContext, "pg_dualwrite migration", ALLOCSET_SMALL_SIZES);
	w->step = step_cxt = AllocSetContextCreate(TopMemoryContext, "pg_dualwrite step", ALLOCSET_DEFAULT_SIZES);
	dw_pace_init(&w->pace);
	INSTR_TIME_SET_CURRENT(w->last_batch);
	while (idle < IDLE_MS)
	{
		MemoryContextReset(w->step);
		MemoryContextSwitchTo(w->step);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			w->stamp = NULL;
		}
		AcceptInvalidationMessages();
		if (step_caught(w))
			idle = 0;
		else
		{
			if (w->m == NULL || w->m->phase >= DW_FINALIZED)
				break;
			unlock_pass(w);
			if (idle == 0)
				report(w, "idle", NULL, NULL, 0, 0);
			dw_sleep(200);
			idle += 200;
			if (idle % 1000 == 0 && work_elsewhere(migration_id))
				break;
		}
	}
	MemoryContextSwitchTo(TopMemoryContext);
	unlock_pass(w);
	begin_step();
	if (extension_present())
		dw_worker_gone(migration_id);
	commit_step();
	MemoryContextSwitchTo(TopMemoryContext);
	step_cxt = NULL;
	MemoryContextDelete(w->cxt);
	MemoryContextDelete(w->step);
	pfree(w);
}

/* A migration with work due and no worker; 0 if there is none.  Claimed. */
static int
find_work(int preferred)
{
	List	   *ids;
	ListCell   *lc;
	int			found = 0;
	MemoryContext cxt = CurrentMemoryContext;

	begin_step();
	if (extension_present())
	{
		ids = dw_migration_ids();
		if (preferred && list_member_int(ids, preferred))
			ids = lcons_int(preferred, ids);
		foreach(lc, ids)
		{
			DwMigration *m = dw_migration_get(lfirst_int(lc));

			if (m == NULL || dw_work_due(m, NULL) == DW_WORK_NONE || !dw_session_lock(DW_LOCK_WORKER, m->id, false))
				continue;
			found = m->id;
			break;
		}
	}
	commit_step();
	MemoryContextSwitchTo(cxt);
	return found;
}

/*
 * The next migration may belong to another role; nothing that the last one's
 * code left in this session may meet it.  (What DISCARD ALL does, but for our
 * locks.)
 */
static void
discard_session(void)
{
	MemoryContext cxt = CurrentMemoryContext;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	PortalHashTableDeleteAll();
	DropAllPreparedStatements();
	Async_UnlistenAll();
	ResetPlanCache();
	ResetTempTableNamespace();
	ResetSequenceCaches();
	ResetAllOptions();
	LockReleaseAll(USER_LOCKMETHOD, true);	/* ours have been given back */
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(cxt);
}

/*
 * A worker that can't connect (its database has been dropped) must not be
 * restarted for ever: ended this way, the postmaster forgets it.
 */
static void
forget_if_not_connected(int code, Datum arg)
{
	if (!connected && code != 0)
		_exit(0);
}

void
dw_worker_main(Datum arg)
{
	WorkerArgs	args;
	int			id;

	memcpy(&args, MyBgworkerEntry->bgw_extra, sizeof(args));
	on_proc_exit(forget_if_not_connected, (Datum) 0);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(args.database, InvalidOid, 0);
	connected = true;
	pgstat_report_appname("pg_dualwrite");
	pgstat_report_activity(STATE_RUNNING, "pg_dualwrite: starting");

	/* the transaction that asked for us has to end first, one way or the other */
	if (TransactionIdIsValid(args.xid))
	{
		StartTransactionCommand();
		XactLockTableWait(args.xid, NULL, NULL, XLTW_None);
		CommitTransactionCommand();
	}
	while ((id = find_work(args.migration_id)) != 0)
	{
		work_on(id);
		dw_session_unlock(DW_LOCK_WORKER, id);
		discard_session();
	}
	proc_exit(0);
}
