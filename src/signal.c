/*
 * signal.c
 *		Reads the health signals that the throttle follows.
 *
 * A table with one function a signal (the lag of standbys: watch.c).  Each is
 * read in a transaction of its own, so that no snapshot is held from one to the
 * next and an error of one is nothing to the others: it is an unreadable
 * signal, which the pace knows how to deal with.  All of them together take
 * half a millisecond (measured with one standby; log_min_messages = debug1
 * shows each tick).
 */
#include "postgres.h"

#include <math.h>
#include <sys/statvfs.h>

#include "access/transam.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/fd.h"

#include "compat.h"
#include "horizon.h"
#include "others.h"
#include "query.h"
#include "run.h"
#include "signal.h"
#include "window.h"
#include "work.h"

/* archive_command is tried three times, a second apart; before that it isn't failing */
#define ARCHIVE_FAILING_MS 4000.0

/* of what a slot may keep */
#define SLOT_SOFT 0.5
#define SLOT_STOP 0.8

/* dead rows, as a part of all, without which an old snapshot does no harm */
#define DEAD_PERCENT 20.0
#define DEAD_ROWS 10000

typedef struct ReadCall
{
	DwWatch    *watch;
	DwMigration *m;
	const DwOptions *o;
	DwReading  *r;
} ReadCall;

/* ---- budget signals ---- */

static void
read_replica_lag(ReadCall *c)
{
	dw_watch_standbys(c->watch, c->m->id, c->o->max_replica_lag, c->r);
}

/*
 * The slot that is nearest to the limit, which is part of what the server
 * keeps for a slot, or the option.  A slot that is lost already can't be helped.
 */
static void
read_slot_retention(ReadCall *c)
{
	double		option = c->o->max_slot_retention * 1024.0;
	double		keep = strtod(GetConfigOption("max_slot_wal_keep_size", false, false), NULL) * 1024 * 1024;
	DwRun		run;

	c->r->on = false;
	if (keep >= 0)
	{
		c->r->soft = keep * SLOT_SOFT;
		c->r->stop = keep * SLOT_STOP;
	}
	if (option > 0 && (keep < 0 || option < c->r->stop))
	{
		c->r->soft = option * SLOT_SOFT / SLOT_STOP;
		c->r->stop = option;
	}
	if (keep < 0 && option <= 0)
		return;
	dw_run_begin(&run, dw_own_role());
	DW_SQL("SELECT s.slot_name, pg_catalog.pg_current_wal_lsn() - s.restart_lsn, s.wal_status = 'unreserved' FROM pg_catalog.pg_replication_slots s"
		   " WHERE s.restart_lsn IS NOT NULL AND s.wal_status <> 'lost' ORDER BY 3 DESC, 2 DESC LIMIT $1", DW_INT4(1));
	if (SPI_processed > 0)
	{
		c->r->on = true;
		strlcpy(c->r->subject, dw_sql_text(0, 0, CurrentMemoryContext), sizeof(c->r->subject));
		c->r->value = dw_sql_float(0, 1);
		c->r->forced = dw_sql_bool(0, 2);
	}
	dw_run_end(&run);
}

/* How many files wait for the archive.  While archive_command fails, none may be added at all. */
static void
read_archive(ReadCall *c)
{
	DwWatch    *w = c->watch;
	double		now = dw_watch_ms(w);
	DIR		   *dir;
	struct dirent *entry;
	bool		failing;

	c->r->on = XLogArchivingActive();
	if (!c->r->on)
		return;
	c->r->soft = 21;
	c->r->stop = 42;
	dir = AllocateDir("pg_wal/archive_status");
	while ((entry = ReadDir(dir, "pg_wal/archive_status")) != NULL)
	{
		size_t		length = strlen(entry->d_name);

		if (length > 6 && strcmp(entry->d_name + length - 6, ".ready") == 0)
			c->r->value++;
	}
	FreeDir(dir);
	failing = DW_OWN_INT("SELECT (coalesce(a.last_failed_time > coalesce(a.last_archived_time, '-infinity'), false) AND $1 > 0)::integer FROM pg_catalog.pg_stat_archiver a",
						 DW_INT4((int) c->r->value)) != 0;
	if (!failing)
		w->archive_failing_ms = 0;
	else if (w->archive_failing_ms == 0)
		w->archive_failing_ms = now;
	c->r->forced = failing && now - w->archive_failing_ms >= ARCHIVE_FAILING_MS;
	strlcpy(c->r->subject, c->r->forced ? "archiving fails, see pg_stat_archiver" : "files waiting", sizeof(c->r->subject));
}

static void
look_at_disk(DwReading *r, const char *path, const char *what)
{
	struct statvfs fs;
	double		used;
	double		percent;

	if (statvfs(path, &fs) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not get the size of the file system of \"%s\": %m", path)));
	/* as df counts: what is reserved for root is neither used nor free */
	used = (double) fs.f_blocks - fs.f_bfree;
	percent = used + fs.f_bavail > 0 ? 100 * used / (used + fs.f_bavail) : 0;
	if (r->subject[0] && percent <= r->value)
		return;
	r->value = percent;
	strlcpy(r->subject, what, sizeof(r->subject));
}

/* The file systems of the data directory, the WAL, and the tables with their indexes. */
static void
read_disk(ReadCall *c)
{
	ListCell   *lc;
	DwRun		run;

	c->r->soft = 85;
	c->r->stop = 95;
	look_at_disk(c->r, ".", "data directory");
	look_at_disk(c->r, "pg_wal", "pg_wal");
	dw_run_begin(&run, dw_own_role());
	foreach(lc, c->m->members)
	{
		DW_SQL("SELECT DISTINCT t.oid, t.spcname FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_index i ON i.indrelid = c.oid"
			   " LEFT JOIN pg_catalog.pg_class k ON k.oid = i.indexrelid CROSS JOIN pg_catalog.pg_database d JOIN pg_catalog.pg_tablespace t"
			   " ON t.oid = coalesce(nullif(c.reltablespace, 0), d.dattablespace) OR t.oid = coalesce(nullif(k.reltablespace, 0), d.dattablespace)"
			   " WHERE c.oid = $1 AND d.datname = pg_catalog.current_database()", DW_OID(((DwMember *) lfirst(lc))->relid));
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			Oid			space = (Oid) dw_sql_int(i, 0);

			if (space >= FirstNormalObjectId)
				look_at_disk(c->r, psprintf("pg_tblspc/%u", space), psprintf("tablespace %s", dw_sql_text(i, 1, CurrentMemoryContext)));
		}
	}
	dw_run_end(&run);
}

/* ---- the user's own brakes ---- */

static void
read_window(ReadCall *c)
{
	DwWindow	window;
	const char *problem;

	c->r->on = c->o->window[0] != '\0';
	if (!c->r->on || !dw_window_parse(c->o->window, &window, &problem))
		return;
	strlcpy(c->r->subject, c->o->window, sizeof(c->r->subject));
	c->r->value = dw_window_opens_in(&window, (pg_time_t) time(NULL));
	c->r->stop = 1;
}

static void
read_query(ReadCall *c)
{
	c->r->on = c->o->throttle_query[0] != '\0';
	if (!c->r->on)
		return;
	c->r->soft = 0.5;
	c->r->stop = 1;
	c->r->value = dw_throttle_query_run(c->o->throttle_query, c->m->owner);
}

/* ---- load signals ---- */

/* Sessions that compute or wait for the disk, a processor; those that wait for a lock or a client load nothing. */
static void
read_backends(ReadCall *c)
{
	DwWatch    *w = c->watch;
	int64		active;

	c->r->soft = 4;
	c->r->stop = 8;
	active = DW_OWN_INT("SELECT count(*) FROM pg_catalog.pg_stat_get_activity(NULL) a WHERE a.state = $1 AND a.backend_type IN ('client backend', 'parallel worker')"
						" AND coalesce(a.wait_event_type, '') NOT IN ('Lock', 'Client', 'Timeout', 'Activity', 'IPC', 'Extension')", DW_TEXT("active"));
	w->active += 0.3 * (active / dw_processors() - w->active);
	c->r->value = w->active;
}

static void
read_commit(ReadCall *c)
{
	DwWatch    *w = c->watch;

	if (w->commits > 0)
		w->commit_mean = w->commit_ms / w->commits;
	else
		w->commit_mean /= 2;	/* there was none: what is known gets older */
	w->commits = 0;
	w->commit_ms = 0;
	c->r->soft = 50;
	c->r->stop = 100;
	c->r->value = w->commit_mean;
}

static void
read_blocked(ReadCall *c)
{
	c->r->soft = 100;
	c->r->stop = 500;
	c->r->value = c->watch->blocked_ms;
	c->watch->blocked_ms = 0;
}

/*
 * Dead rows, as a percentage, in the table that has the most, and whether
 * autovacuum will come for them: from how many on, as a percentage; -1 if never.
 */
static double
dead_percent(DwMigration *m, double *vacuum_at, char *table, size_t size)
{
	double		worst = 0;
	ListCell   *lc;
	DwRun		run;

	*vacuum_at = -1;
	dw_run_begin(&run, dw_own_role());
	foreach(lc, m->members)
	{
		double		dead;
		double		rows;
		double		percent;

		if (DW_SQL("SELECT pg_catalog.pg_stat_get_dead_tuples(c.oid), pg_catalog.pg_stat_get_live_tuples(c.oid), c.relname,"
				   " pg_catalog.current_setting('autovacuum')::bool AND pg_catalog.current_setting('track_counts')::bool AND coalesce(o.on::bool, true),"
				   " least(coalesce(o.base, pg_catalog.current_setting('autovacuum_vacuum_threshold'))::float8"
				   " + coalesce(o.scale, pg_catalog.current_setting('autovacuum_vacuum_scale_factor'))::float8 * greatest(c.reltuples, 0),"
				   " nullif(pg_catalog.current_setting('autovacuum_vacuum_max_threshold', true)::float8, -1))"
				   " FROM pg_catalog.pg_class c, LATERAL (SELECT max(option_value) FILTER (WHERE option_name = 'autovacuum_enabled') AS on,"
				   " max(option_value) FILTER (WHERE option_name = 'autovacuum_vacuum_threshold') AS base,"
				   " max(option_value) FILTER (WHERE option_name = 'autovacuum_vacuum_scale_factor') AS scale"
				   " FROM pg_catalog.pg_options_to_table(c.reloptions)) o WHERE c.oid = $1", DW_OID(((DwMember *) lfirst(lc))->relid)) == 0)
			continue;
		dead = dw_sql_float(0, 0);
		if (dead < DEAD_ROWS)
			continue;			/* a VACUUM of an instant, whenever it comes */
		rows = dead + dw_sql_float(0, 1);
		percent = rows > 0 ? 100 * dead / rows : 0;
		if (percent < worst)
			continue;
		worst = percent;
		strlcpy(table, dw_sql_text(0, 2, CurrentMemoryContext), size);
		*vacuum_at = dw_sql_bool(0, 3) && rows > 0 ? 100 * dw_sql_float(0, 4) / rows : -1;
	}
	dw_run_end(&run);
	return worst;
}

/*
 * Waits for autovacuum; so where that doesn't come, or not yet, there is
 * nothing to wait for.
 */
static void
read_dead(ReadCall *c)
{
	double		vacuum_at;

	c->r->value = dead_percent(c->m, &vacuum_at, c->r->subject, sizeof(c->r->subject));
	c->r->on = vacuum_at >= 0;
	c->r->stop = Max(DEAD_PERCENT, vacuum_at * 1.25);
	c->r->soft = c->r->stop / 2;
	c->r->on &= c->r->stop < 100;
}

/* What keeps dead rows from being removed, and since when: whatever has the oldest xmin. */
static void
read_snapshot(ReadCall *c)
{
	DwWatch    *w = c->watch;
	double		now = dw_watch_ms(w);
	double		vacuum_at;
	char		table[NAMEDATALEN];
	DwHorizon	h;

	c->r->soft = 300;
	c->r->stop = 1800;
	if (dead_percent(c->m, &vacuum_at, table, sizeof(table)) < DEAD_PERCENT)
		return;
	if (dw_horizon(&h))
	{
		if (h.xmin != w->oldest_xmin)
			w->oldest_ms = now;
		w->oldest_xmin = h.xmin;
		strlcpy(c->r->subject, h.who, sizeof(c->r->subject));
		c->r->value = Max(h.seconds, (now - w->oldest_ms) / 1000);
	}
}

/* ---- the table ---- */

/* soft and stop are set by the functions, where they are also explained */
static const struct
{
	const char *name;
	bool		budget;
	DwSignalShape shape;
	void		(*read) (ReadCall *c);
	bool		rollback;		/* code of the user's has run: nothing of it stays */
}			signals[DW_SIGNALS] = {
	[DW_SIGNAL_REPLICA_LAG] = {"replica_lag", true, DW_QUEUE, read_replica_lag},
	[DW_SIGNAL_SLOT_RETENTION] = {"slot_retention", true, DW_QUEUE, read_slot_retention},
	[DW_SIGNAL_ARCHIVE] = {"archive", true, DW_QUEUE, read_archive},
	[DW_SIGNAL_DISK] = {"disk", true, DW_LEVEL, read_disk},
	[DW_SIGNAL_WINDOW] = {"window", true, DW_GAUGE, read_window},
	[DW_SIGNAL_QUERY] = {"throttle_query", true, DW_GAUGE, read_query, true},
	[DW_SIGNAL_BACKENDS] = {"active_backends", false, DW_LEVEL, read_backends},
	[DW_SIGNAL_COMMIT] = {"commit_time", false, DW_GAUGE, read_commit},
	[DW_SIGNAL_BLOCKED] = {"blocked_sessions", false, DW_GAUGE, read_blocked},
	[DW_SIGNAL_DEAD] = {"dead_rows", false, DW_LEVEL, read_dead},
	[DW_SIGNAL_SNAPSHOT] = {"old_snapshot", false, DW_LEVEL, read_snapshot},
};

StaticAssertDecl(DW_SIGNALS <= DW_PACE_MAX_SIGNALS, "too many signals for the pace");

const char *
dw_signal_name(DwSignal signal)
{
	return signals[signal].name;
}

void
dw_signal_read(DwSignal signal, DwWatch *watch, DwMigration *m, const DwOptions *o, DwReading *r)
{
	ReadCall	call = {.watch = watch,.m = m,.o = o,.r = r};
	MemoryContext cxt = CurrentMemoryContext;

	memset(r, 0, sizeof(*r));
	r->on = true;
	r->budget = signals[signal].budget;
	r->shape = signals[signal].shape;
	PG_TRY();
	{
		dw_step_begin();
		signals[signal].read(&call);
		if (signals[signal].rollback)
			dw_step_abort();
		else
			dw_step_commit();
		r->known = true;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		HOLD_INTERRUPTS();
		MemoryContextSwitchTo(cxt);
		error = CopyErrorData();
		FlushErrorState();
		dw_step_abort();
		RESUME_INTERRUPTS();
		MemoryContextSwitchTo(cxt);
		r->on = true;
		snprintf(r->subject, sizeof(r->subject), "can't be read: %s", error->message);
		r->value = 0;
	}
	PG_END_TRY();
}
