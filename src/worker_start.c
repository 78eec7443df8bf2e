/*
 * worker_start.c
 *		Starting the background workers (worker.c).
 *
 * A worker is registered by whoever needs it, and waits for the end of that
 * transaction before it takes the migration's lock.  Until then it holds
 * DW_LOCK_STARTING, so that it is counted and not asked for again.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "utils/acl.h"
#include "utils/memutils.h"

#include "catalog.h"
#include "compat.h"
#include "holders.h"
#include "migration.h"
#include "own_lock.h"
#include "worker.h"

StaticAssertDecl(sizeof(DwWorkerArgs) <= BGW_EXTRALEN, "worker arguments are too large");

/* a worker that is started is waited for this often, 2 ms each */
#define START_TURNS 1000

/* a worker that this transaction has asked for */
typedef struct Launched
{
	int			migration_id;
	BackgroundWorkerHandle *handle;
} Launched;

/* see launched_here() */
static List *launched = NIL;
static LocalTransactionId launched_lxid = InvalidLocalTransactionId;

/* NULL: no slot is free */
static BackgroundWorkerHandle *
launch(const DwWorkerArgs *args, const char *name)
{
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION | BGWORKER_INTERRUPTIBLE;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	/* also after a crash of some other backend, and after pg_terminate_backend; a helper is started again by its worker */
	worker.bgw_restart_time = args->slot > 0 ? BGW_NEVER_RESTART : 1;
	strlcpy(worker.bgw_library_name, "pg_dualwrite", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "dw_worker_main", sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_name, name, sizeof(worker.bgw_name));
	strlcpy(worker.bgw_type, "pg_dualwrite worker", sizeof(worker.bgw_type));
	memcpy(worker.bgw_extra, args, sizeof(*args));
	return RegisterDynamicBackgroundWorker(&worker, &handle) ? handle : NULL;
}

/*
 * Is a worker for it on its way that this transaction has asked for?  Such a
 * one waits for the transaction's end before it takes the migration's lock, and
 * there must not be two.  In TopTransactionContext; with lxid, tells a list of
 * a transaction that is over.  *unseen: those that don't yet hold
 * DW_LOCK_STARTING, which tells all others of them.
 */
static bool
launched_here(int migration_id, int *unseen)
{
	bool		found = false;
	ListCell   *lc;

	if (launched_lxid != dw_lxid())
	{
		launched = NIL;
		launched_lxid = dw_lxid();
	}
	*unseen = 0;
	foreach(lc, launched)
	{
		Launched   *l = lfirst(lc);
		pid_t		pid;
		BgwHandleStatus status = GetBackgroundWorkerPid(l->handle, &pid);

		found |= l->migration_id == migration_id;
		if (status == BGWH_NOT_YET_STARTED || (status == BGWH_STARTED && !dw_session_locked(DW_LOCK_STARTING, pid)))
			(*unseen)++;
	}
	return found;
}

/*
 * Until it has its migration, or has found another one, or has gone: whoever
 * asks in a loop must not get one at each turn.
 */
static void
wait_for_start(BackgroundWorkerHandle *handle, int migration_id)
{
	bool		starting = false;

	for (int i = 0; i < START_TURNS && !dw_worker_running(migration_id); i++)
	{
		pid_t		pid;
		BgwHandleStatus status = GetBackgroundWorkerPid(handle, &pid);

		if (status == BGWH_STOPPED || status == BGWH_POSTMASTER_DIED)
			break;
		if (status == BGWH_STARTED && dw_session_locked(DW_LOCK_STARTING, pid))
			starting = true;
		else if (starting)
			break;
		dw_sleep(2);
	}
}

static bool
launch_for(int migration_id, TransactionId xid)
{
	DwWorkerArgs args = {MyDatabaseId, migration_id, xid};
	BackgroundWorkerHandle *handle;
	MemoryContext old;
	int			unseen;

	if (launched_here(migration_id, &unseen))
		return true;
	if (!dw_worker_running(migration_id) && dw_worker_count() + unseen >= dw_max_workers)
		return false;
	old = MemoryContextSwitchTo(TopTransactionContext);
	handle = launch(&args, psprintf("pg_dualwrite worker (migration %d)", migration_id));
	if (handle && TransactionIdIsValid(xid))
	{
		Launched   *l = palloc(sizeof(Launched));

		l->migration_id = migration_id;
		l->handle = handle;
		launched = lappend(launched, l);
	}
	MemoryContextSwitchTo(old);

	if (handle && !TransactionIdIsValid(xid))
		wait_for_start(handle, migration_id);
	return handle != NULL;
}

bool
dw_worker_launch(int migration_id)
{
	return launch_for(migration_id, GetTopTransactionIdIfAny());
}

bool
dw_worker_launch_helper(int migration_id, int slot)
{
	DwWorkerArgs args = {.database = MyDatabaseId,.migration_id = migration_id,.slot = slot};

	if (dw_worker_count() >= dw_max_workers)
		return false;
	return launch(&args, psprintf("pg_dualwrite worker (migration %d, helper %d)", migration_id, slot)) != NULL;
}

bool
dw_worker_launch_database(Oid database)
{
	DwWorkerArgs args = {database, 0, InvalidTransactionId};

	return launch(&args, "pg_dualwrite worker") != NULL;
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

	/*
	 * Anybody may call this.  So one caller at a time starts workers, and a
	 * transaction of somebody else than the owner is nothing to wait for: it
	 * might stay open.
	 */
	if (!dw_brief_try(DW_LOCK_START, 0))
		return 0;
	foreach(lc, dw_migration_ids())
	{
		DwMigration *m = dw_migration_get(lfirst_int(lc));
		bool		own = m && has_privs_of_role(GetUserId(), m->owner);
		int			unseen;

		if (m == NULL || dw_work_due(m, NULL) == DW_WORK_NONE || dw_worker_running(m->id) || launched_here(m->id, &unseen))
			continue;
		if (launch_for(m->id, own ? GetTopTransactionIdIfAny() : InvalidTransactionId))
			started++;
		else
			(*refused)++;
	}
	dw_brief_unlock(DW_LOCK_START, 0);
	return started;
}
