/*
 * watch.c
 *		What reading the signals remembers from tick to tick: where the WAL was at
 *		which time, who follows it, how long commits took.
 *
 * Replica lag is measured here, not taken from pg_stat_replication's lag
 * columns: those freeze when a standby hangs, and are null when it is idle.  The
 * watch remembers where the WAL was at which time; the lag of a standby is the
 * age of the oldest of these positions that it has not yet replayed.  That
 * grows by itself while a standby says nothing.  A standby that is gone isn't
 * in the view at all; so the names of those that have been there are kept with
 * the migration, and one that is missing lags until it comes back or dw_resume
 * lets go of it.
 *
 * Positions between two replies of a standby are unknown.  It replies to each
 * flush, with what it has replayed by then; the worker's own report, once a
 * second, makes it do so on an idle server.  So on an idle server up to a second
 * may be seen that isn't there.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "lib/stringinfo.h"
#include "utils/json.h"

#include "catalog.h"
#include "run.h"
#include "watch.h"

/* a mark this long after the last one is a new one, in ms */
#define MARK_MS 20.0

/* what was written before the watch began counts as a second for each of these */
#define BYTES_A_SECOND (16.0 * 1024 * 1024)

double
dw_watch_ms(DwWatch *w)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	if (!w->started)
	{
		w->epoch = now;
		w->started = true;
	}
	INSTR_TIME_SUBTRACT(now, w->epoch);
	return INSTR_TIME_GET_MILLISEC(now) + 1;	/* 0 means never */
}

void
dw_watch_mark(DwWatch *w)
{
	double		now = dw_watch_ms(w);

	if (w->nring > 0 && now - w->ring_ms[w->nring - 1] < MARK_MS)
		return;
	if (w->nring == DW_RING_SIZE)
	{
		/* every other one goes: the older half gets coarser each time, and none is too old */
		for (int i = 0; i < DW_RING_SIZE / 4; i++)
		{
			w->ring_lsn[i] = w->ring_lsn[2 * i];
			w->ring_ms[i] = w->ring_ms[2 * i];
		}
		w->nring = DW_RING_SIZE / 4;
		for (int i = DW_RING_SIZE / 2; i < DW_RING_SIZE; i++, w->nring++)
		{
			w->ring_lsn[w->nring] = w->ring_lsn[i];
			w->ring_ms[w->nring] = w->ring_ms[i];
		}
	}
	w->ring_lsn[w->nring] = GetFlushRecPtr(NULL);
	w->ring_ms[w->nring++] = now;
}

void
dw_watch_commits(DwWatch *w, int n, double ms)
{
	w->commit_ms += ms;
	w->commits += n;
}

void
dw_watch_blocked(DwWatch *w, double ms)
{
	w->blocked_ms = Max(w->blocked_ms, ms);
}

/* ---- standbys ---- */

/* Seconds since the oldest position that a standby which has replayed up to lsn doesn't have. */
static double
lag_of(const DwWatch *w, XLogRecPtr lsn, double now)
{
	int			low = 0;
	int			high = w->nring;

	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (w->ring_lsn[middle] <= lsn)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == w->nring)
		return 0;
	if (low == 0)
		return (now - w->ring_ms[0]) / 1000 + (w->ring_lsn[0] - lsn) / BYTES_A_SECOND;
	return (now - w->ring_ms[low]) / 1000;
}

/* The standby of that name that hasn't been seen in this look yet; a new one if there is none. */
static DwStandby *
find_standby(DwWatch *w, const char *name, const bool *taken)
{
	for (int i = 0; i < w->nstandbys; i++)
		if (!taken[i] && strcmp(w->standbys[i].name, name) == 0)
			return &w->standbys[i];
	if (w->nstandbys == DW_MAX_STANDBYS)
		return NULL;
	memset(&w->standbys[w->nstandbys], 0, sizeof(DwStandby));
	strlcpy(w->standbys[w->nstandbys].name, name, NAMEDATALEN);
	return &w->standbys[w->nstandbys++];
}

/* Brings the list in line with what is kept with the migration. */
static void
load_standbys(DwWatch *w, const List *kept)
{
	bool		taken[DW_MAX_STANDBYS] = {false};
	DwStandby	list[DW_MAX_STANDBYS];
	int			n = 0;
	ListCell   *lc;

	foreach(lc, kept)
	{
		DwStandby  *s = find_standby(w, (char *) lfirst(lc), taken);

		if (s == NULL)
			break;
		taken[s - w->standbys] = true;
		list[n++] = *s;
	}
	memcpy(w->standbys, list, sizeof(DwStandby) * n);
	w->nstandbys = n;
}

/*
 * Who is there, and how far.  Base backups and receivers that don't replay
 * anything have no replay_lsn; the walsenders of logical subscribers are told
 * by their slots, which slot_retention watches.
 */
static void
look_at_standbys(DwWatch *w, double now)
{
	bool		taken[DW_MAX_STANDBYS] = {false};

	DW_SQL("SELECT CASE WHEN r.application_name NOT IN ('', 'walreceiver') THEN r.application_name"
		   " ELSE coalesce(s.slot_name::text, pg_catalog.host(r.client_addr), 'walreceiver') END, (r.replay_lsn - '0/0')::text, r.state"
		   " FROM pg_catalog.pg_stat_replication r LEFT JOIN pg_catalog.pg_replication_slots s ON s.active_pid = r.pid"
		   " WHERE r.replay_lsn IS NOT NULL AND s.slot_type IS DISTINCT FROM 'logical' ORDER BY r.replay_lsn LIMIT $1",
		   DW_INT4(DW_MAX_STANDBYS));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		DwStandby  *s = find_standby(w, dw_sql_text(i, 0, CurrentMemoryContext), taken);

		if (s == NULL)
			continue;
		taken[s - w->standbys] = true;
		s->there_ms = now;
		s->lag_s = lag_of(w, (XLogRecPtr) dw_sql_int(i, 1), now);
	}
	for (int i = 0; i < w->nstandbys; i++)
		w->standbys[i].there = taken[i];
}

void
dw_watch_standbys(DwWatch *w, int migration_id, int max_replica_lag, DwReading *r)
{
	double		now = dw_watch_ms(w);
	double		stop = max_replica_lag / 1000.0;
	bool		known;
	int			kept;
	DwRun		run;

	r->on = false;
	if (stop <= 0)
	{
		w->nstandbys = 0;
		return;
	}
	load_standbys(w, dw_standbys_get(migration_id, &known));
	kept = w->nstandbys;
	dw_run_begin(&run, dw_own_role());
	look_at_standbys(w, now);
	dw_run_end(&run);
	if (!known || w->nstandbys > kept)
	{
		List	   *names = NIL;

		for (int i = 0; i < w->nstandbys; i++)
			names = lappend(names, w->standbys[i].name);
		dw_standbys_set(migration_id, names);
	}

	r->soft = stop / 2;
	r->stop = stop;
	for (int i = 0; i < w->nstandbys; i++)
	{
		DwStandby  *s = &w->standbys[i];

		/* one that this worker has never seen has been gone for who knows how long */
		if (!s->there)
			s->lag_s = s->there_ms > 0 ? (now - s->there_ms) / 1000 : Max(stop, now / 1000);
		if (!r->on || s->lag_s > r->value)
		{
			r->value = s->lag_s;
			snprintf(r->subject, sizeof(r->subject), "%s%s", s->name, s->there ? "" : " (gone)");
		}
		r->on = true;
	}
}

char *
dw_watch_lags(const DwWatch *w)
{
	StringInfoData buf;

	if (w->nstandbys == 0)
		return NULL;
	initStringInfo(&buf);
	for (int i = 0; i < w->nstandbys; i++)
	{
		const DwStandby *s = &w->standbys[i];

		appendStringInfo(&buf, "%s{\"standby\": ", i == 0 ? "[" : ", ");
		escape_json(&buf, s->name);
		appendStringInfo(&buf, ", \"seconds\": %.1f, \"connected\": %s}", s->lag_s, s->there ? "true" : "false");
	}
	appendStringInfoChar(&buf, ']');
	return buf.data;
}
