/*
 * horizon.c
 *		Who keeps dead row versions from being removed.
 *
 * A version that is dead can be pruned once no snapshot can see it any more:
 * of a session of this database, of a replication slot, of a standby that
 * feeds its own back, of a prepared transaction.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"

#include "horizon.h"
#include "run.h"

bool
dw_horizon(DwHorizon *h)
{
	MemoryContext cxt = CurrentMemoryContext;
	DwRun		run;
	bool		found;

	dw_run_begin(&run, dw_own_role());
	found = DW_SQL("SELECT x.who, x.xmin, coalesce(extract(epoch FROM pg_catalog.clock_timestamp() - x.since), 0), x.pid FROM ("
				   " SELECT 'pid ' || a.pid AS who, CASE WHEN a.backend_xmin IS NULL OR pg_catalog.age(a.backend_xid) > pg_catalog.age(a.backend_xmin)"
				   "   THEN a.backend_xid ELSE a.backend_xmin END AS xmin, a.xact_start AS since, a.pid"
				   "  FROM pg_catalog.pg_stat_get_activity(NULL) a WHERE (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL) AND a.pid <> $1"
				   "   AND (a.datid = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()) OR coalesce(a.datid, 0) = 0)"
				   " UNION ALL SELECT 'slot ' || s.slot_name, s.xmin, NULL, 0 FROM pg_catalog.pg_replication_slots s WHERE s.xmin IS NOT NULL"
				   " UNION ALL SELECT 'prepared transaction ' || p.gid, p.transaction, p.prepared, 0 FROM pg_catalog.pg_prepared_xacts p"
				   "  WHERE p.database = pg_catalog.current_database()) x ORDER BY pg_catalog.age(x.xmin) DESC LIMIT 1", DW_INT4(MyProcPid)) > 0;
	if (found)
	{
		strlcpy(h->who, dw_sql_text(0, 0, cxt), sizeof(h->who));
		h->xmin = (TransactionId) dw_sql_int(0, 1);
		h->seconds = dw_sql_float(0, 2);
		h->pid = dw_sql_int(0, 3);
	}
	dw_run_end(&run);
	return found;
}
