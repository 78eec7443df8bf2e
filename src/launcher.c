/*
 * launcher.c
 *		Sees to it that migrations go on by themselves, where the library is in
 *		shared_preload_libraries: after a restart or a promotion, after the loss
 *		of a worker, and when a verification has grown old.
 *
 * A background worker sees one database only.  The launcher is attached to
 * none; once recovery is over, and every naptime again, it starts a worker in
 * each database, one after the other, which goes away at once where there is
 * nothing to do.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "dualwrite.h"
#include "launcher.h"
#include "worker.h"

/* rest after each database */
#define BETWEEN_MS 50

void
dw_launcher_register(void)
{
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 10;
	strlcpy(worker.bgw_library_name, "pg_dualwrite", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "dw_launcher_main", sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_name, "pg_dualwrite launcher", sizeof(worker.bgw_name));
	strlcpy(worker.bgw_type, "pg_dualwrite launcher", sizeof(worker.bgw_type));
	RegisterBackgroundWorker(&worker);
}

/* OIDs of the databases that can be connected to; in the given context */
static List *
databases(MemoryContext cxt)
{
	List	   *list = NIL;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tup;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while (HeapTupleIsValid(tup = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database db = (Form_pg_database) GETSTRUCT(tup);

		if (db->datallowconn && !db->datistemplate)
		{
			MemoryContext old = MemoryContextSwitchTo(cxt);

			list = lappend_oid(list, db->oid);
			MemoryContextSwitchTo(old);
		}
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	return list;
}

void
dw_launcher_main(Datum arg)
{
	MemoryContext cxt;
	ListCell   *lc;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	cxt = AllocSetContextCreate(TopMemoryContext, "pg_dualwrite launcher", ALLOCSET_DEFAULT_SIZES);
	for (;;)
	{
		TimestampTz start = GetCurrentTimestamp();

		MemoryContextReset(cxt);
		foreach(lc, databases(cxt))
		{
			/* no slot is free: the workers that hold them will go */
			while (!dw_worker_launch_database(lfirst_oid(lc)))
				dw_sleep(1000);
			/* not all at once: each needs a slot for a moment */
			dw_sleep(BETWEEN_MS);
		}
		while (!TimestampDifferenceExceeds(start, GetCurrentTimestamp(), dw_naptime * 1000))
		{
			dw_sleep(Min(dw_naptime * 1000.0, 10000));
			if (ConfigReloadPending)
			{
				ConfigReloadPending = false;
				ProcessConfigFile(PGC_SIGHUP);
			}
		}
	}
}
