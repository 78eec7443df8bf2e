/*
 * holders.c
 *		Who holds locks: reads pg_locks.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "storage/lock.h"

#include "compat.h"
#include "dualwrite.h"
#include "holders.h"
#include "run.h"

List *
dw_table_writers(Oid relid)
{
	MemoryContext cxt = CurrentMemoryContext;
	List	   *writers = NIL;
	DwRun		run;

	/* VACUUM and the like lock the table, too, but write no rows */
	dw_run_begin(&run, dw_own_role());
	DW_SQL("SELECT DISTINCT l.virtualtransaction FROM pg_catalog.pg_locks l WHERE l.locktype = 'relation' AND l.relation = $1 AND l.granted"
		   " AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())"
		   " AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()"
		   /* one that has ended already, and is about to give its locks back, has no local id any more */
		   " AND l.virtualtransaction !~ '/0$'"
		   " AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')", DW_OID(relid));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		char	   *text = dw_sql_text(i, 0, cxt);
		MemoryContext old = MemoryContextSwitchTo(cxt);
		VirtualTransactionId *v = palloc(sizeof(VirtualTransactionId));

		dw_vxid_backend(*v) = atoi(text);
		v->localTransactionId = (LocalTransactionId) strtoul(strchr(text, '/') + 1, NULL, 10);
		writers = lappend(writers, v);
		MemoryContextSwitchTo(old);
	}
	dw_run_end(&run);
	return writers;
}

int
dw_table_lockers(Oid relid, bool readers, int max, int *pids)
{
	DwRun		run;
	int			n;

	dw_run_begin(&run, dw_own_role());
	n = DW_SQL("SELECT DISTINCT l.pid FROM pg_catalog.pg_locks l WHERE l.locktype = 'relation' AND l.relation = $1 AND l.granted"
			   " AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())"
			   " AND l.pid <> pg_catalog.pg_backend_pid() AND ($3 OR l.mode <> 'AccessShareLock') ORDER BY 1 LIMIT $2",
			   DW_OID(relid), DW_INT4(max), DW_BOOL(readers));
	for (int i = 0; i < n; i++)
		pids[i] = dw_sql_int(i, 0);
	dw_run_end(&run);
	return n;
}

int
dw_worker_count(void)
{
	return DW_OWN_INT("SELECT count(DISTINCT l.pid) FROM pg_catalog.pg_locks l WHERE l.locktype = 'advisory' AND l.objsubid IN ($1, $2) AND l.granted"
					  " AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())",
					  DW_INT4(DW_LOCK_WORKER), DW_INT4(DW_LOCK_STARTING));
}
