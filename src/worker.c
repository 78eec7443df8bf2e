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
 * The work is done in steps (work.c), each one short transaction.  After an
 * error the step is repeated: rows one by one, if it was a row's; later, if
 * someone was in the way; else the migration fails with the error for all to
 * see, and waits for dw_resume.
 *
 * Memory: one context a step, one for the migration as last read.
 */
#include "postgres.h"

#include <unistd.h>

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "commands/async.h"
#include "commands/prepare.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/wait_event.h"

#include "attach.h"
#include "catalog.h"
#include "migration.h"
#include "own_lock.h"
#include "run.h"
#include "store.h"
#include "work.h"
#include "worker.h"

/* idle this long, the worker goes */
#define IDLE_MS 5000

static bool connected = false;

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

/* ---- errors ---- */

/*
 * What is in the way, for dw_status: the error says how it was noticed, which
 * is for the log.  Whoever holds a lock is named beside it (blocked_by).
 */
static char *
why_waiting(DwWorker *w, const ErrorData *error)
{
	char	   *table = NULL;

	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		return pstrdup("its statement was canceled; it is repeated");
	if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_INSUFFICIENT_RESOURCES)
		return psprintf("the server is short of resources: %s", error->message);
	if (OidIsValid(w->locking))
	{
		dw_step_begin();
		if (get_rel_name(w->locking) != NULL)	/* who had the lock may have dropped it */
			table = MemoryContextStrdup(w->step, dw_table_name(w->locking));
		dw_step_commit();
		return psprintf("waiting for a lock on table %s", table ? table : "that was dropped meanwhile");
	}
	if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE || error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED)
		return pstrdup("rows or keys are locked by other transactions");
	return psprintf("another transaction was in the way: %s", error->message);
}

/* The step failed; in the transaction that follows its abort. */
static void
after_error(DwWorker *w, ErrorData *error)
{
	bool		ours = dw_throttle_cancelled(w);	/* by our own timer */

	ereport(LOG,
			(errcode(error->sqlerrcode),
			 errmsg("pg_dualwrite worker of migration %d: %s", w->migration_id, error->message),
			 ours ? errdetail("The batch had held row locks for half a second; a smaller one follows.") : 0,
			 error->context ? errcontext("%s", error->context) : 0));
	dw_work_unclaim(w);			/* what is known of the part may be ahead of what was committed */
	w->state = NULL;
	if (w->m == NULL)
	{
		/* the migration could not be read: look again */
		dw_sleep(DW_HEARTBEAT_MS);
		return;
	}
	if (ours)
		w->alone = w->at;		/* a smaller batch at once, and this row without others */
	else if (w->vacuuming)
		;						/* it can do without */
	else if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
	{
		/* somebody wanted this statement to end, not the migration */
		dw_work_report(w, "waiting", why_waiting(w, error), NULL, 0, 0);
		dw_sleep(DW_HEARTBEAT_MS);
	}
	else if (dw_error_of_lock(error->sqlerrcode))
	{
		/* a table lock, or a row's: try again, and row by row, so that the others get through */
		w->careful = true;
		w->careful_left = 16;
		dw_work_report(w, "waiting", why_waiting(w, error), NULL, 0, 0);
		dw_sleep(dw_lock_timeout / 2 + 50);
	}
	else if (dw_error_of_row(error->sqlerrcode) && !w->careful)
	{
		w->careful = true;
		w->careful_left = 16;
	}
	else if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_INSUFFICIENT_RESOURCES)
	{
		dw_work_report(w, "waiting", why_waiting(w, error), NULL, 0, 0);
		dw_sleep(DW_HEARTBEAT_MS);
	}
	else
	{
		dw_step_begin();
		/* it may have ended meanwhile, and the error be the end of its table */
		if (dw_work_unchanged(w))
		{
			dw_migration_set_failed(w->migration_id, true, error->message);
			dw_event(w->migration_id, w->m->name, "failed", -1, -1, error->message);
		}
		dw_step_commit();
	}
	w->vacuuming = false;
	w->locking = InvalidOid;
	/* to be read anew: what the step has done to the copy was undone, wherever else it had got to */
	w->stamp = NULL;
}

/* ---- the loop ---- */

/* One step of whatever is due; false if nothing is. */
static bool
step(DwWorker *w)
{
	DwWork		work;

	if (w->stamp == NULL)
	{
		bool		found;

		dw_work_unclaim(w);
		dw_step_begin();
		found = dw_extension_present() && dw_work_read(w);
		dw_step_commit();
		if (!found)
		{
			w->m = NULL;
			return false;
		}
		w->member = 0;
	}
	/* a batch looks itself, under the table's lock */
	else if (dw_work_due(w->m, NULL) != DW_WORK_FILL)
	{
		bool		same;

		dw_step_begin();
		same = dw_extension_present() && dw_work_unchanged(w);
		dw_step_commit();
		if (!same)
		{
			w->stamp = NULL;
			return true;
		}
	}
	work = dw_work_due(w->m, NULL);
	if (work == DW_WORK_FILL)
		return dw_work_fill(w);
	else if (w->slot > 0)
		return work == DW_WORK_VERIFY && dw_work_help_verify(w);
	else if (work == DW_WORK_BUILD)
		dw_work_build(w);
	else if (work == DW_WORK_VERIFY)
		dw_work_verify(w);
	return work != DW_WORK_NONE;
}

static bool
step_caught(DwWorker *w)
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

	dw_step_begin();
	if (dw_extension_present())
		foreach(lc, dw_migration_ids())
		{
			DwMigration *m = dw_migration_get(lfirst_int(lc));

			if (m && m->id != migration_id && dw_work_due(m, NULL) != DW_WORK_NONE && !dw_worker_running(m->id))
			{
				found = true;
				break;
			}
		}
	dw_step_commit();
	return found;
}

/*
 * Settings of this session that are easier on the server: WAL takes half the
 * room where its page images are compressed (by lz4, which costs next to
 * nothing), and our VACUUM goes about as fast as autovacuum does.  And those
 * that each step would have to set.
 */
static void
go_easy(void)
{
	if (strcmp(GetConfigOption("wal_compression", false, false), "off") == 0)
		(void) set_config_option("wal_compression", "lz4", PGC_SUSET, PGC_S_SESSION, GUC_ACTION_SET, true, DEBUG1, false);
	dw_safe_settings(GUC_ACTION_SET);
	(void) set_config_option("vacuum_cost_delay", "2ms", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SET, true, DEBUG1, false);
}

/* Works on one migration until there is nothing to do for a while; a helper (slot above 0) until nothing can be helped with. */
static void
work_on(int migration_id, int slot)
{
	DwWorker   *w = palloc0(sizeof(DwWorker));
	int			idle = 0;

	w->migration_id = migration_id;
	w->slot = slot;
	w->part = DW_NO_PART;
	w->vacuumed = -1;
	INSTR_TIME_SET_CURRENT(w->helped);
	go_easy();
	w->cxt = AllocSetContextCreate(TopMemoryContext, "pg_dualwrite migration", ALLOCSET_SMALL_SIZES);
	w->step = AllocSetContextCreate(TopMemoryContext, "pg_dualwrite step", ALLOCSET_DEFAULT_SIZES);
	dw_step_use(w->step);
	dw_throttle_init(&w->throttle);
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
			if (w->m == NULL || w->m->phase >= DW_FINALIZED || slot > 0)
				break;
			dw_work_unlock_pass(w);
			if (idle == 0)
				dw_work_report(w, "idle", NULL, NULL, 0, 0);
			dw_sleep(200);
			idle += 200;
			if (idle % 1000 == 0 && work_elsewhere(migration_id))
				break;
		}
	}
	MemoryContextSwitchTo(TopMemoryContext);
	dw_work_unlock_pass(w);
	dw_work_unclaim(w);
	dw_step_begin();
	if (slot == 0 && dw_extension_present())
		dw_worker_gone(migration_id);
	dw_step_commit();
	MemoryContextSwitchTo(TopMemoryContext);
	dw_step_use(NULL);
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

	dw_step_begin();
	if (dw_extension_present())
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
	dw_step_commit();
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
	DwWorkerArgs args;
	int			id;

	memcpy(&args, MyBgworkerEntry->bgw_extra, sizeof(args));
	on_proc_exit(forget_if_not_connected, (Datum) 0);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(args.database, InvalidOid, 0);
	connected = true;
	dw_keep_locks_init();
	pgstat_report_appname("pg_dualwrite");
	pgstat_report_activity(STATE_RUNNING, "pg_dualwrite: starting");

	/* until we have a migration; the launcher's have nothing to do as a rule, and go at once */
	if (args.migration_id > 0)
		(void) dw_session_lock(DW_LOCK_STARTING, MyProcPid, false);

	/* the transaction that asked for us has to end first, one way or the other */
	if (TransactionIdIsValid(args.xid))
	{
		StartTransactionCommand();
		XactLockTableWait(args.xid, NULL, NULL, XLTW_None);
		CommitTransactionCommand();
	}
	if (args.slot > 0)
	{
		if (dw_piece_lock(DW_LOCK_WORKER, args.migration_id, args.slot))
		{
			dw_session_unlock(DW_LOCK_STARTING, MyProcPid);
			work_on(args.migration_id, args.slot);
		}
		proc_exit(0);
	}
	while ((id = find_work(args.migration_id)) != 0)
	{
		if (dw_session_lock_kept(DW_LOCK_STARTING, MyProcPid))
			dw_session_unlock(DW_LOCK_STARTING, MyProcPid);
		work_on(id, 0);
		dw_session_unlock(DW_LOCK_WORKER, id);
		discard_session();
	}
	proc_exit(0);
}
