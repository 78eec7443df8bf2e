/*
 * work.c
 *		What the worker's steps share: transactions, roles, reports, and knowing
 *		the migration.
 *
 * Every step is one short transaction.  It locks the table first and then
 * looks whether the migration is still as it knew it: the verbs that change it
 * hold a table lock that conflicts.  What a step did is stored in its own
 * commit.
 *
 * A commit waits for the disk and for synchronous standbys, which may take far
 * longer than a batch.  Rows that a batch has filled don't stay locked meanwhile:
 * it commits asynchronously, and what it would have waited for is waited for
 * afterwards.  A crash in between undoes the whole batch, its progress with it,
 * and it is done again; who has updated such a row since has a later commit,
 * which can't be safe before the batch's is.  A row that somebody has seen
 * filled may be unfilled again after it: nobody may rely on that before the
 * migration is ready.  What others act on (a phase, a proof) is never committed
 * this way.
 *
 * Roles: see worker.c.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_extension.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "replication/syncrep.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "utils/backend_status.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "holders.h"
#include "own_lock.h"
#include "run.h"
#include "work.h"
#include "worker.h"

/* a wait for a row or key inside a batch; must stay well below deadlock_timeout (1 s by default) */
#define LOCK_WAIT_MS 100

/* what lives from one step to the next but one; reset in the loop */
static MemoryContext step_cxt = NULL;

/* this step's locks don't wait until its commit is safe */
static bool unlock_first = false;

/* since dw_step_commits was last called */
static double commit_ms = 0;
static int	commits = 0;

void
dw_step_use(MemoryContext cxt)
{
	step_cxt = cxt;
}

/* ---- transactions of the worker ---- */

/*
 * DROP EXTENSION locks the extension before anything of it.  So it waits for
 * the step to end, or the step finds nothing there, and they never wait for
 * each other's locks on our tables.
 */
static void
lock_extension(void)
{
	static Oid	extension = InvalidOid;
	static Oid	schema = InvalidOid;	/* its member, and cheaper to look up */
	Oid			now = get_namespace_oid(DW_SCHEMA, true);

	if (now != schema || !OidIsValid(extension))
	{
		extension = get_extension_oid("pg_dualwrite", true);
		schema = now;
	}
	if (OidIsValid(extension))
		LockDatabaseObject(ExtensionRelationId, extension, 0, AccessShareLock);
}

void
dw_step_begin(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	XactReadOnly = false;		/* whatever default_transaction_read_only says */
	XactIsoLevel = XACT_READ_COMMITTED;
	unlock_first = false;
	dw_safe_settings(GUC_ACTION_LOCAL);
	dw_keep_locks();
	lock_extension();
	PushActiveSnapshot(GetTransactionSnapshot());
}

void
dw_step_unlock_first(void)
{
	unlock_first = synchronous_commit > SYNCHRONOUS_COMMIT_OFF;
	if (unlock_first)
		(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
}

/* What a commit waits for. */
static void
wait_until_safe(XLogRecPtr commit)
{
	XLogFlush(commit);
	HOLD_INTERRUPTS();
	SyncRepWaitForLSN(commit, true);
	RESUME_INTERRUPTS();
}

void
dw_step_commit(void)
{
	bool		wrote = TransactionIdIsValid(GetTopTransactionIdIfAny());
	instr_time	start;

	PopActiveSnapshot();
	INSTR_TIME_SET_CURRENT(start);
	CommitTransactionCommand();
	/* only now: what was deferred to the commit has run as the owner, too */
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, 0);
	if (wrote)
	{
		if (unlock_first)
			wait_until_safe(XactLastCommitEnd);
		commit_ms += dw_ms_since(start);
		commits++;
	}
	pgstat_report_stat(false);
	if (step_cxt)
		MemoryContextSwitchTo(step_cxt);
}

void
dw_step_abort(void)
{
	AbortCurrentTransaction();
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, 0);
	if (step_cxt)
		MemoryContextSwitchTo(step_cxt);
}

int
dw_step_commits(double *ms)
{
	int			n = commits;

	*ms = commit_ms;
	commits = 0;
	commit_ms = 0;
	return n;
}

/* From here to the end of the transaction, code of the table's owner may run. */
void
dw_step_become_owner(Relation rel)
{
	char		timeout[32];

	snprintf(timeout, sizeof(timeout), "%d", Min(LOCK_WAIT_MS, Max(DeadlockTimeout / 4, 1)));
	(void) set_config_option("lock_timeout", timeout, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	SetUserIdAndSecContext(rel->rd_rel->relowner, SECURITY_LOCAL_USERID_CHANGE);
}

/* ---- reports ---- */

/* Says what it is doing, if that is news, or if it hasn't spoken for a while. */
void
dw_work_report(DwWorker *w, const char *state, const char *reason, const char *signal, double value, double limit)
{
	int			pids[16];
	int			n = 0;

	if (reason == NULL)
		reason = "";
	if (w->m == NULL || (w->state && strcmp(w->state, state) == 0 && strcmp(w->reason, reason) == 0 && dw_ms_since(w->reported) < DW_HEARTBEAT_MS))
		return;
	w->state = state;
	strlcpy(w->reason, reason, sizeof(w->reason));
	INSTR_TIME_SET_CURRENT(w->reported);

	dw_step_begin();
	dw_step_unlock_first();		/* a helper may wait for the row of progress */
	if (strcmp(state, "waiting") == 0)
	{
		ListCell   *lc;

		foreach(lc, w->m->members)
			n += dw_table_lockers(((DwMember *) lfirst(lc))->relid, w->readers_block, (int) lengthof(pids) - n, pids + n);
	}
	if (w->horizon_pid > 0 && n < (int) lengthof(pids))
		pids[n++] = w->horizon_pid;
	/* the migration's own worker speaks for it */
	if (w->slot == 0)
		dw_worker_report(w->migration_id, state, reason[0] ? reason : NULL, n, pids, signal, w->throttle.subject, value, limit,
						 dw_watch_lags(&w->throttle.watch));
	dw_throttle_report(w);
	dw_step_commit();
	pgstat_report_activity(STATE_RUNNING, psprintf("pg_dualwrite: migration \"%s\": %s", w->m->name, state));
}

/* ---- knowing the migration ---- */

/*
 * Is it the migration that we began with?  After DROP and CREATE EXTENSION
 * another one may have its number; and what we know, and what the owner's code
 * has left in this session, is nothing for another owner's.
 */
static bool
same_migration(DwWorker *w, const DwMigration *m)
{
	Oid			home = get_relname_relid("migration", get_namespace_oid(DW_SCHEMA, false));

	if (!OidIsValid(w->home))
	{
		w->home = home;
		w->owner = m->owner;
	}
	return w->home == home && w->owner == m->owner;
}

bool
dw_work_read(DwWorker *w)
{
	MemoryContext old;
	DwMigration *m;

	char	   *stamp;

	/* nothing may point in there, should the reading fail */
	w->m = NULL;
	w->stamp = NULL;
	w->writers = NIL;
	w->writers_known = false;
	/* what was found under other options doesn't count */
	w->throttle.ticking = false;
	MemoryContextReset(w->cxt);
	old = MemoryContextSwitchTo(w->cxt);
	stamp = dw_migration_stamp(w->migration_id);
	m = dw_migration_get(w->migration_id);
	if (m && !same_migration(w, m))
		m = NULL;
	if (m)
		dw_options_read(m->options, &w->options);
	MemoryContextSwitchTo(old);
	w->m = m;
	w->stamp = m ? stamp : NULL;
	return m != NULL;
}

bool
dw_extension_present(void)
{
	Oid			nsp = get_namespace_oid(DW_SCHEMA, true);

	return OidIsValid(nsp) && OidIsValid(get_relname_relid("migration", nsp));
}

/* Is it as it was when read?  Asked under the table's lock. */
bool
dw_work_unchanged(DwWorker *w)
{
	char	   *stamp = dw_extension_present() ? dw_migration_stamp(w->migration_id) : NULL;

	return stamp != NULL && w->stamp != NULL && strcmp(stamp, w->stamp) == 0;
}

Relation
dw_work_open_table(DwWorker *w, Oid relid, LOCKMODE mode)
{
	Relation	rel;

	(void) set_config_option("lock_timeout", psprintf("%d", dw_lock_timeout), PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	w->locking = relid;
	rel = try_relation_open(relid, mode);
	w->locking = InvalidOid;
	return rel;
}

/* Opens a member's table for a step; NULL if it is gone or the migration has changed meanwhile. */
Relation
dw_work_open_member(DwWorker *w, DwMember *b, LOCKMODE mode)
{
	Relation	rel = dw_work_open_table(w, b->relid, mode);

	if (rel == NULL)
		return NULL;			/* dropped: the next look at the migration says so */
	if (!dw_work_unchanged(w))
	{
		relation_close(rel, NoLock);
		return NULL;
	}

	/* a rewrite that we waited for has given every row an xid that an older snapshot doesn't see */
	PopActiveSnapshot();
	PushActiveSnapshot(GetLatestSnapshot());
	return rel;
}

/* Rows in so many blocks, as the table was when it was last analyzed; 0: not known. */
static int64
estimate_rows(Relation rel, BlockNumber nblocks)
{
	if (rel->rd_rel->reltuples <= 0 || rel->rd_rel->relpages <= 0)
		return 0;
	return (int64) (rel->rd_rel->reltuples / rel->rd_rel->relpages * nblocks);
}

void
dw_work_start_parts(DwMember *b, Relation rel, const char *pass, BlockNumber total, BlockNumber size, DwProgress *p)
{
	p->relfilenode = dw_relfilenode(rel);
	do
	{
		p->blocks_total = Min(size, total - p->first_block);
		p->rows_estimated = estimate_rows(rel, p->blocks_total);
		dw_progress_start(b->id, pass, p);
		p->first_block += p->blocks_total;
		p->part++;
	} while (p->first_block < total);
}

void
dw_work_call_helpers(DwWorker *w, const char *pass, int unshared)
{
	int			parts[DW_MAX_PARTS];
	int			n;
	int			live = 1;
	int			want;

	if (dw_ms_since(w->helped) < DW_HEARTBEAT_MS)
		return;
	INSTR_TIME_SET_CURRENT(w->helped);
	dw_step_begin();
	n = dw_progress_unfinished(((DwMember *) list_nth(w->m->members, w->member))->id, pass, DW_MAX_PARTS, parts);
	want = Min(w->options.workers, n - unshared);
	for (int slot = 0; slot < Max(w->options.workers, 1); slot++)
	{
		if (slot == w->slot)
			continue;
		if (dw_piece_locked(DW_LOCK_WORKER, w->migration_id, slot))
			live++;
		else if (w->slot == 0 && slot < want)
			(void) dw_worker_launch_helper(w->migration_id, slot);
	}
	dw_step_commit();
	w->throttle.workers = live;
}
