/*
 * catalog_report.c
 *		What is said of a migration besides its state: pauses, standbys, events,
 *		the worker's report.
 */
#include "postgres.h"

#include <math.h>

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "commands/async.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/json.h"

#include "catalog.h"
#include "run.h"

void
dw_control_set(int migration_id, bool paused, const char *reason)
{
	DW_OWN_SQL("INSERT INTO dualwrite.control (migration_id, paused, reason) VALUES ($1, $2, $3)"
			   " ON CONFLICT (migration_id) DO UPDATE SET paused = $2, reason = $3, since = pg_catalog.clock_timestamp(),"
			   " standbys = CASE WHEN $2 THEN control.standbys END",
			   DW_INT4(migration_id), DW_BOOL(paused), DW_TEXT(reason));
}

List *
dw_standbys_get(int migration_id, bool *known)
{
	MemoryContext cxt = CurrentMemoryContext;
	List	   *names = NIL;
	DwRun		run;

	*known = false;
	dw_run_begin(&run, dw_own_role());
	DW_SQL("SELECT n.name FROM dualwrite.control c LEFT JOIN LATERAL pg_catalog.unnest(c.standbys) n(name) ON true"
		   " WHERE c.migration_id = $1 AND c.standbys IS NOT NULL AND c.timeline = $2", DW_INT4(migration_id),
		   DW_INT8((int64) GetWALInsertionTimeLine()));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		char	   *name = dw_sql_text(i, 0, cxt);
		MemoryContext old = MemoryContextSwitchTo(cxt);

		*known = true;
		if (name)
			names = lappend(names, name);
		MemoryContextSwitchTo(old);
	}
	dw_run_end(&run);
	return names;
}

void
dw_standbys_set(int migration_id, List *names)
{
	Datum	   *d = palloc(sizeof(Datum) * Max(list_length(names), 1));
	int			n = 0;
	ListCell   *lc;

	foreach(lc, names)
		d[n++] = CStringGetTextDatum((char *) lfirst(lc));
	DW_OWN_SQL("UPDATE dualwrite.control SET standbys = $2, timeline = $3 WHERE migration_id = $1", DW_INT4(migration_id),
			   DW_DATUM(TEXTARRAYOID, PointerGetDatum(construct_array(d, n, TEXTOID, -1, false, TYPALIGN_INT)), false),
			   DW_INT8((int64) GetWALInsertionTimeLine()));
}

void
dw_event(int migration_id, const char *name, const char *event, int from, int to, const char *note)
{
	DwRun		run;
	const char *phase_from = from < 0 ? NULL : dw_enum_name(dw_phase_names, from);
	const char *phase_to = to < 0 ? NULL : dw_enum_name(dw_phase_names, to);
	char	   *actor = GetUserNameFromId(GetUserId(), false);

	dw_run_begin(&run, dw_own_role());
	DW_SQL("INSERT INTO dualwrite.event (migration_id, migration, event, phase_from, phase_to, note, actor) VALUES ($1, $2, $3, $4, $5, $6,"
		   " CASE WHEN $8 THEN (SELECT coalesce(pg_catalog.pg_get_userbyid(o.owner), '?') FROM dualwrite.owners o WHERE o.id = $1) ELSE $7 END)",
		   DW_INT4(migration_id), DW_TEXT(name), DW_TEXT(event), DW_TEXT(phase_from), DW_TEXT(phase_to), DW_TEXT(note), DW_TEXT(actor),
		   DW_BOOL(MyBackendType == B_BG_WORKER));	/* which works as the owner */
	dw_run_end(&run);

	/* NOTIFY takes a database-wide lock at commit, hence only here */
	if (phase_to)
	{
		StringInfoData buf;

		initStringInfo(&buf);
		appendStringInfoString(&buf, "{\"migration\": ");
		escape_json(&buf, name);
		appendStringInfo(&buf, ", \"phase\": \"%s\"}", phase_to);
		Async_Notify(DW_CHANNEL, buf.data);
	}
}

/* ---- the worker's report ---- */

void
dw_worker_report(int migration_id, const char *state, const char *reason, int nblocked_by, const int *blocked_by,
				 const char *signal, const char *subject, double value, double limit, const char *replica_lag)
{
	Datum	   *pids = palloc(sizeof(Datum) * Max(nblocked_by, 1));

	for (int i = 0; i < nblocked_by; i++)
		pids[i] = Int32GetDatum(blocked_by[i]);
	DW_OWN_SQL("INSERT INTO dualwrite.worker AS w (migration_id, pid, state, reason, blocked_by, throttle_signal, throttle_value, throttle_limit,"
			   " throttle_subject, replica_lag) VALUES ($1, pg_catalog.pg_backend_pid(), $2, $3, $4, $5, $6, $7, $8, $9::jsonb)"
			   " ON CONFLICT (migration_id) DO UPDATE SET pid = excluded.pid, state = excluded.state, reason = excluded.reason,"
			   " since = CASE WHEN w.state = excluded.state THEN w.since ELSE excluded.since END, heartbeat_at = excluded.heartbeat_at,"
			   " blocked_by = excluded.blocked_by, throttle_signal = excluded.throttle_signal,"
			   " throttle_value = excluded.throttle_value, throttle_limit = excluded.throttle_limit,"
			   " throttle_subject = excluded.throttle_subject, replica_lag = excluded.replica_lag",
			   DW_INT4(migration_id), DW_TEXT(state), DW_TEXT(reason),
			   DW_DATUM(INT4ARRAYOID, PointerGetDatum(construct_array(pids, nblocked_by, INT4OID, 4, true, TYPALIGN_INT)), false),
			   DW_TEXT(signal), DW_DATUM(FLOAT8OID, Float8GetDatum(value), signal == NULL || isnan(value)),
			   DW_DATUM(FLOAT8OID, Float8GetDatum(limit), signal == NULL || isnan(limit)),
			   DW_TEXT(signal && subject[0] ? subject : NULL), DW_TEXT(replica_lag));
}

void
dw_worker_gone(int migration_id)
{
	DW_OWN_SQL("DELETE FROM dualwrite.worker WHERE migration_id = $1", DW_INT4(migration_id));
}

char *
dw_describe_status(const char *name)
{
	MemoryContext cxt = CurrentMemoryContext;
	DwRun		run;
	char	   *s = NULL;

	dw_run_begin(&run, dw_own_role());
	if (DW_SQL("SELECT pg_catalog.format('%s, %s%s%s', m.phase, coalesce(w.state, 'no worker'),"
			   " CASE WHEN p.blocks_total > 0 THEN pg_catalog.format(', %s %%, %s rows/s', pg_catalog.round(100.0 * p.blocks_done / p.blocks_total, 1), pg_catalog.round(p.rows_per_second)) ELSE '' END,"
			   " CASE WHEN p.blocks_done > 0 AND p.last_batch_at > p.started_at THEN pg_catalog.format(', %s left',"
			   "   pg_catalog.date_trunc('second', (p.last_batch_at - p.started_at) * ((p.blocks_total - p.blocks_done)::float8 / p.blocks_done))) ELSE '' END)"
			   " || coalesce((SELECT '; blocked by pid ' || pg_catalog.string_agg(x::text, ', ') FROM pg_catalog.unnest(w.blocked_by) x), '')"
			   " FROM dualwrite.migration m LEFT JOIN dualwrite.worker w ON w.migration_id = m.id"
			   " LEFT JOIN dualwrite.member b ON b.migration_id = m.id AND b.ord = 1"
			   /* one row for each of the parts that workers share */
			   " LEFT JOIN LATERAL (SELECT pg_catalog.sum(q.blocks_total) AS blocks_total, pg_catalog.sum(q.blocks_done) AS blocks_done,"
			   "   pg_catalog.sum(q.rows_per_second) FILTER (WHERE NOT q.finished) AS rows_per_second,"
			   "   pg_catalog.min(q.started_at) AS started_at, pg_catalog.max(q.last_batch_at) AS last_batch_at FROM dualwrite.progress q"
			   "   WHERE q.member_id = b.id AND q.pass = CASE WHEN m.phase = 'backfilling' OR m.heal THEN 'fill' ELSE 'verify' END) p ON true"
			   " WHERE m.name = $1 ORDER BY m.id DESC LIMIT 1", DW_TEXT(name)) > 0)
		s = dw_sql_text(0, 0, cxt);
	dw_run_end(&run);
	return s;
}
