/*
 * catalog.c
 *		The only opener of the extension's own tables.
 *
 * Writes are compare-and-set where two actors could meet (phase, epoch); the
 * order of everything else follows from the lock that the caller holds: verbs
 * the lock of the migration's name, the worker its session lock.
 *
 * The mirror's configuration changes only together with an invalidation of
 * the member's table, sent here, so that every backend looks again before its
 * next statement on the table.
 */
#include "postgres.h"

#include <math.h>
#include <time.h>

#include "access/genam.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/async.h"
#include "commands/sequence.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lock.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "compat.h"
#include "options.h"
#include "run.h"

PG_FUNCTION_INFO_V1(dw_sequence_value);

/* columns of dualwrite.migration and dualwrite.member that dw_mirror_config reads */
enum
{
	MIGRATION_ID = 1,
	MIGRATION_NAME = 2,
	MIGRATION_PHASE = 5,
	MIGRATION_MIRROR = 7,
	MIGRATION_CONFLICT = 8,
	MIGRATION_ON_ERROR = 9,
	MIGRATION_HEAL = 10,
	MIGRATION_OPTIONS = 11,
	MIGRATION_EPOCH = 12,
	MIGRATION_HOME = 13,
	MIGRATION_CHECKING = 14,
	MEMBER_ID = 1,
	MEMBER_MIGRATION_ID = 2,
	MEMBER_RELATION = 4,
	MEMBER_HAS_BACKWARD = 8,
	MEMBER_FILLING = 9,
	MEMBER_BEGIN_SNAPSHOT = 10,
	MEMBER_BEGIN_XIDS = 11,
	MEMBER_BEGIN_FUZZY = 12,
	MEMBER_RELFILENODE = 13,
	FAULT_SLOT = 1,
	FAULT_POINT = 2,
	FAULT_MIGRATION = 3,
	FAULT_ACTION = 4,
	FAULT_TIMES = 5,
	FAULT_BASE = 6,
	FAULT_PROBABILITY = 7,
	FAULT_DELAY = 8,
	FAULT_SQLSTATE = 9
};

char *
dw_home(void)
{
	return psprintf(UINT64_FORMAT "/%u", GetSystemIdentifier(), MyDatabaseId);
}

/* ---- reading migrations ---- */

#define MIGRATION_QUERY \
	"SELECT m.id, m.name, coalesce((SELECT k.relowner FROM dualwrite.member o JOIN pg_catalog.pg_class k ON k.oid = o.relation" \
	"   WHERE o.migration_id = m.id ORDER BY o.ord LIMIT 1), pg_catalog.to_regrole(pg_catalog.quote_ident(m.owner))::oid), m.definition, m.phase, m.phase_since, m.mirror, m.conflict, m.on_error, m.heal," \
	" m.options, m.epoch, m.failed, m.last_error, m.home," \
	" m.verified_at IS NOT NULL AND m.verified_epoch = m.epoch, m.verified_at >= m.phase_since, m.verified_marks, m.verified_lossy," \
	" (SELECT count(DISTINCT coalesce(d.key::text, d.row_ctid::text, d.id::text)) FROM dualwrite.drift d JOIN dualwrite.member b ON b.id = d.member_id WHERE b.migration_id = m.id AND d.repaired_at IS NULL)," \
	" (SELECT count(DISTINCT coalesce(d.key::text, d.row_ctid::text, d.id::text)) FROM dualwrite.drift d JOIN dualwrite.member b ON b.id = d.member_id WHERE b.migration_id = m.id AND d.repaired_at IS NULL AND d.reason = 'unconvertible')," \
	" m.losses_seen < (SELECT coalesce(sum(dualwrite.sequence_value(q.oid)), 0) FROM dualwrite.member b JOIN pg_catalog.pg_class q" \
	"   ON q.relkind = 'S' AND q.relnamespace = 'dualwrite'::regnamespace AND q.relname = ('m' || b.id || '_losses')::name WHERE b.migration_id = m.id)," \
	" coalesce(c.paused, false), c.reason," \
	" m.verified_marks IS NOT DISTINCT FROM (SELECT pg_catalog.string_agg(dualwrite.marks(b.id, b.relation), ' ' ORDER BY b.ord)" \
	"   FROM dualwrite.member b WHERE b.migration_id = m.id)," \
	" coalesce((m.options ->> 'proof')::boolean, false)," \
	" coalesce((m.options ->> 'proof')::boolean, false) AND (SELECT pg_catalog.bool_and(dualwrite.proof_constraint(b.id, b.relation) IS NOT NULL)" \
	"   FROM dualwrite.member b WHERE b.migration_id = m.id), m.proven_at IS NOT NULL, m.verified_at" \
	" FROM dualwrite.migration m LEFT JOIN dualwrite.control c ON c.migration_id = m.id"

/* Reads the members of m into its context. */
static void
read_members(DwMigration *m, MemoryContext cxt)
{
	MemoryContext old;

	DW_SQL("SELECT b.id, b.ord, b.relation::oid, b.has_backward, b.filling, b.relfilenode, b.created_columns"
		   " FROM dualwrite.member b WHERE b.migration_id = $1 ORDER BY b.ord", DW_INT4(m->id));
	old = MemoryContextSwitchTo(cxt);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		DwMember   *b = palloc0(sizeof(DwMember));
		Datum	   *names;
		bool		isnull;

		b->id = dw_sql_int(i, 0);
		b->migration_id = m->id;
		b->ord = dw_sql_int(i, 1);
		b->relid = (Oid) dw_sql_int(i, 2);
		b->has_backward = dw_sql_bool(i, 3);
		b->filling = dw_sql_bool(i, 4);
		b->relfilenode = (Oid) dw_sql_int(i, 5);
		deconstruct_array(DatumGetArrayTypeP(dw_sql_datum(i, 6, &isnull)), NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR,
						  &names, NULL, &b->ncreated);
		b->created = palloc(sizeof(char *) * Max(b->ncreated, 1));
		for (int j = 0; j < b->ncreated; j++)
			b->created[j] = pstrdup(NameStr(*DatumGetName(names[j])));
		m->two_way &= b->has_backward;
		m->table_missing |= !SearchSysCacheExists1(RELOID, ObjectIdGetDatum(b->relid));
		m->members = lappend(m->members, b);
	}
	MemoryContextSwitchTo(old);
}

static DwMigration *
read_migration(MemoryContext cxt)
{
	DwMigration *m = MemoryContextAllocZero(cxt, sizeof(DwMigration));
	bool		isnull;
	char	   *home;

	m->id = dw_sql_int(0, 0);
	m->name = dw_sql_text(0, 1, cxt);
	m->owner = (Oid) dw_sql_int(0, 2);
	m->definition = dw_sql_text(0, 3, cxt);
	m->phase = dw_enum_value(dw_phase_names, dw_sql_text(0, 4, cxt));
	m->phase_since = dw_sql_text(0, 5, cxt);
	m->mirror = dw_enum_value(dw_mirror_names, dw_sql_text(0, 6, cxt));
	m->conflict = dw_enum_value(dw_conflict_names, dw_sql_text(0, 7, cxt));
	m->on_error = dw_enum_value(dw_on_error_names, dw_sql_text(0, 8, cxt));
	m->heal = dw_sql_bool(0, 9);
	m->options = dw_sql_jsonb(0, 10, cxt);
	m->epoch = dw_sql_int(0, 11);
	m->failed = dw_sql_bool(0, 12);
	m->last_error = dw_sql_text(0, 13, cxt);
	home = dw_sql_text(0, 14, cxt);
	m->copied = strcmp(home, dw_home()) != 0;
	m->verified = dw_sql_bool(0, 15);
	m->verified_since_phase = m->verified && dw_sql_bool(0, 16);
	m->verified_lossy = dw_sql_int(0, 18);
	m->open_drift = dw_sql_int(0, 19);
	m->open_unconvertible = dw_sql_int(0, 20);
	m->lossy = dw_sql_bool(0, 21);
	m->paused = dw_sql_bool(0, 22);
	m->pause_reason = dw_sql_text(0, 23, cxt);
	m->marks_changed = m->verified && !dw_sql_bool(0, 24);
	if (m->marks_changed)
		m->verified = m->verified_since_phase = false;
	if (m->verified)
		m->verified_at = DatumGetTimestampTz(dw_sql_datum(0, 28, &isnull));
	m->proof = dw_sql_bool(0, 25);
	m->proof_present = dw_sql_bool(0, 26);
	m->proven = m->verified && m->proof_present && dw_sql_bool(0, 27);
	m->two_way = true;
	read_members(m, cxt);
	return m;
}

DwMigration *
dw_migration_find(const char *name, bool missing_ok)
{
	MemoryContext cxt = CurrentMemoryContext;
	DwMigration *m = NULL;
	DwRun		run;

	dw_run_begin(&run, dw_own_role());
	if (DW_SQL(MIGRATION_QUERY " WHERE m.name = $1 ORDER BY m.phase IN ('aborted', 'finalized'), m.id DESC LIMIT 1", DW_TEXT(name)) > 0)
		m = read_migration(cxt);
	dw_run_end(&run);
	if (m == NULL && !missing_ok)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("migration \"%s\" does not exist", name),
				 errdetail("No migration of this database has that name."),
				 errhint("SELECT migration FROM dw_status lists the migrations of this database.")));
	return m;
}

DwMigration *
dw_migration_get(int id)
{
	MemoryContext cxt = CurrentMemoryContext;
	DwMigration *m = NULL;
	DwRun		run;

	dw_run_begin(&run, dw_own_role());
	if (DW_SQL(MIGRATION_QUERY " WHERE m.id = $1", DW_INT4(id)) > 0)
		m = read_migration(cxt);
	dw_run_end(&run);
	return m;
}

List *
dw_migration_ids(void)
{
	return DW_OWN_INTS("SELECT m.id FROM dualwrite.migration m WHERE m.phase NOT IN ($1, 'aborted') ORDER BY m.id", DW_TEXT("finalized"));
}

/* Makes every backend load the mirror's configuration anew before its next statement. */
static void
invalidate(DwMigration *m)
{
	ListCell   *lc;

	foreach(lc, m->members)
	{
		DwMember   *b = lfirst(lc);

		if (SearchSysCacheExists1(RELOID, ObjectIdGetDatum(b->relid)))
			CacheInvalidateRelcacheByRelid(b->relid);
	}
}

/* ---- writing migrations ---- */

int
dw_migration_insert(const char *name, Oid owner, Jsonb *definition, DwMirrorMode mirror, DwConflict conflict,
					DwOnError on_error, Jsonb *options)
{
	DwRun		run;
	int			id;

	dw_run_begin(&run, dw_own_role());
	DW_SQL("INSERT INTO dualwrite.migration (id, name, owner, definition, phase, mirror, conflict, on_error, options, home)"
		   " VALUES (pg_catalog.nextval('dualwrite.migration_id')::integer, $1, $2, $3, 'backfilling', $4, $5, $6, $7, $8) RETURNING id",
		   DW_TEXT(name), DW_TEXT(GetUserNameFromId(owner, false)), DW_DATUM(JSONBOID, JsonbPGetDatum(definition), false),
		   DW_TEXT(dw_enum_name(dw_mirror_names, mirror)), DW_TEXT(dw_enum_name(dw_conflict_names, conflict)),
		   DW_TEXT(dw_enum_name(dw_on_error_names, on_error)), DW_DATUM(JSONBOID, JsonbPGetDatum(options), false),
		   DW_TEXT(dw_home()));
	id = dw_sql_int(0, 0);
	DW_SQL("INSERT INTO dualwrite.control (migration_id) VALUES ($1)", DW_INT4(id));
	dw_run_end(&run);
	return id;
}

int
dw_member_id(void)
{
	return DW_OWN_INT("SELECT pg_catalog.nextval('dualwrite.member_id')::integer + $1", DW_INT4(0));
}

static Datum
name_array(List *names)
{
	Datum	   *d = palloc(sizeof(Datum) * Max(list_length(names), 1));
	int			n = 0;
	ListCell   *lc;

	foreach(lc, names)
	{
		Name		nm = palloc(NAMEDATALEN);

		namestrcpy(nm, (char *) lfirst(lc));
		d[n++] = NameGetDatum(nm);
	}
	return PointerGetDatum(construct_array(d, n, NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR));
}

void
dw_member_insert(int id, int migration_id, int ord, Oid relid, List *old_columns, List *new_columns, List *created,
				 bool has_backward, Oid relfilenode)
{
	DW_OWN_SQL("INSERT INTO dualwrite.member (id, migration_id, ord, relation, old_columns, new_columns, created_columns, has_backward, filling, relfilenode)"
			   " VALUES ($1, $2, $3, $4::regclass, $5, $6, $7, $8, true, $9)",
			   DW_INT4(id), DW_INT4(migration_id), DW_INT4(ord), DW_OID(relid),
			   DW_DATUM(NAMEARRAYOID, name_array(old_columns), false),
			   DW_DATUM(NAMEARRAYOID, name_array(new_columns), false),
			   DW_DATUM(NAMEARRAYOID, name_array(created), false),
			   DW_BOOL(has_backward), DW_OID(relfilenode));
  }

void
dw_member_set_begin(int member_id, const char *snapshot, const char *xids, bool fuzzy, Oid relfilenode)
{
	DW_OWN_SQL("UPDATE dualwrite.member SET begin_snapshot = $2::pg_snapshot, begin_xids = $3::xid8[], begin_fuzzy = $4, relfilenode = $5"
			   " WHERE id = $1",
			   DW_INT4(member_id), DW_TEXT(snapshot), DW_TEXT(xids), DW_BOOL(fuzzy), DW_OID(relfilenode));
  }

void
dw_member_set_filling(DwMigration *m, bool filling)
{
	DW_OWN_SQL("UPDATE dualwrite.member SET filling = $2 WHERE migration_id = $1", DW_INT4(m->id), DW_BOOL(filling));
  	invalidate(m);
}

void
dw_migration_set_phase(DwMigration *m, DwPhase from, DwPhase to)
{
	uint64		n;

	n = DW_OWN_SQL("UPDATE dualwrite.migration SET phase = $3, phase_since = pg_catalog.clock_timestamp(), failed = false,"
				   " finished_at = CASE WHEN $3 IN ('finalized', 'aborted') THEN pg_catalog.clock_timestamp() END"
				   " WHERE id = $1 AND phase = $2",
				   DW_INT4(m->id), DW_TEXT(dw_enum_name(dw_phase_names, from)), DW_TEXT(dw_enum_name(dw_phase_names, to)));
	if (n != 1)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("migration \"%s\" is no longer in phase %s", m->name, dw_enum_name(dw_phase_names, from)),
				 errdetail("Someone else moved it on."),
				 errhint("Look at dw_status and repeat the call.")));
	m->phase = to;
	invalidate(m);
}

void
dw_migration_set_options(DwMigration *m, int64 epoch, Jsonb *options, DwMirrorMode mirror, DwConflict conflict, DwOnError on_error)
{
	uint64		n;

	/* the brake takes no lock: whoever pulls it must not find it released by a call that had looked before */
	n = DW_OWN_SQL("UPDATE dualwrite.migration SET options = $2, mirror = $3, conflict = $4, on_error = $5 WHERE id = $1 AND epoch = $6",
				   DW_INT4(m->id), DW_DATUM(JSONBOID, JsonbPGetDatum(options), false),
				   DW_TEXT(dw_enum_name(dw_mirror_names, mirror)), DW_TEXT(dw_enum_name(dw_conflict_names, conflict)),
				   DW_TEXT(dw_enum_name(dw_on_error_names, on_error)), DW_INT8(epoch));
	if (n != 1)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the mirror of migration \"%s\" was changed meanwhile", m->name),
				 errdetail("Somebody turned it off while this call was at work."),
				 errhint("Look at dw_status and repeat the call.")));
	invalidate(m);
}

void
dw_migration_brake(DwMigration *m)
{
	DW_OWN_SQL("UPDATE dualwrite.migration SET options = options || '{\"mirror\": \"off\"}', mirror = 'off', epoch = epoch + $2 WHERE id = $1",
			   DW_INT4(m->id), DW_INT8(1));
  	invalidate(m);
}

void
dw_migration_open_hole(DwMigration *m, bool heal)
{
	DW_OWN_SQL("UPDATE dualwrite.migration SET epoch = epoch + 1, heal = heal OR $2 WHERE id = $1", DW_INT4(m->id), DW_BOOL(heal));
  	invalidate(m);
}

void
dw_migration_set_heal(DwMigration *m, bool heal)
{
	DW_OWN_SQL("UPDATE dualwrite.migration SET heal = $2 WHERE id = $1", DW_INT4(m->id), DW_BOOL(heal));
  	invalidate(m);
}

int64
dw_checking_begin(DwMigration *m)
{
	int64		token;

	token = DW_OWN_INT("UPDATE dualwrite.migration SET checking = pg_catalog.pg_current_xact_id()::text::bigint WHERE id = $1 RETURNING checking", DW_INT4(m->id));
	invalidate(m);
	return token;
}

bool
dw_checking_end(DwMigration *m, int64 token)
{
	bool		ours;

	ours = DW_OWN_SQL("UPDATE dualwrite.migration SET checking = 0 WHERE id = $1 AND ($2 = 0 OR checking = $2)", DW_INT4(m->id), DW_INT8(token)) > 0;
	if (ours)
		invalidate(m);
	return ours;
}

void
dw_migration_set_failed(int id, bool failed, const char *error)
{
	DW_OWN_SQL("UPDATE dualwrite.migration SET failed = $2, last_error = coalesce($3, last_error),"
			   " last_error_at = CASE WHEN $3 IS NULL THEN last_error_at ELSE pg_catalog.clock_timestamp() END WHERE id = $1",
			   DW_INT4(id), DW_BOOL(failed), DW_TEXT(error));
  }

void
dw_migration_adopt(DwMigration *m)
{
	DW_OWN_SQL("UPDATE dualwrite.migration SET home = $2, epoch = epoch + 1 WHERE id = $1", DW_INT4(m->id), DW_TEXT(dw_home()));
  	DW_OWN_SQL("INSERT INTO dualwrite.control (migration_id) VALUES ($1) ON CONFLICT DO NOTHING", DW_INT4(m->id));
  	m->copied = false;
	invalidate(m);
}

bool
dw_migration_set_verified(DwMigration *m, int64 epoch, const char *marks, int64 lossy, int64 losses_seen, bool proven)
{
	return DW_OWN_SQL("UPDATE dualwrite.migration SET verified_at = n.at, verified_epoch = $2, verified_marks = $3, verified_lossy = $4,"
					  " drifted = 0, unconvertible = 0, losses_seen = greatest(losses_seen, $5),"
					  /* proven since the first of the passes that followed each other without anything to void them */
					  " proven_at = CASE WHEN $6 AND verified_at IS NOT NULL AND verified_epoch = $2 AND verified_marks = $3"
					  "   THEN coalesce(proven_at, n.at) WHEN $6 THEN n.at END FROM (SELECT pg_catalog.clock_timestamp() AS at) n"
					  " WHERE id = $1 AND epoch = $2 AND mirror = 'both'",
					  DW_INT4(m->id), DW_INT8(epoch), DW_TEXT(marks), DW_INT8(lossy), DW_INT8(losses_seen), DW_BOOL(proven)) == 1;
}

void
dw_migration_unprove(DwMigration *m)
{
	DW_OWN_SQL("UPDATE dualwrite.migration SET proven_at = NULL WHERE id = $1", DW_INT4(m->id));
  	m->proven = false;
}

bool
dw_member_proof(DwMember *b)
{
	DwRun		run;
	bool		found;

	dw_run_begin(&run, dw_own_role());
	DW_SQL("SELECT dualwrite.proof_constraint($1, $2) IS NOT NULL", DW_INT4(b->id), DW_OID(b->relid));
	found = dw_sql_bool(0, 0);
	dw_run_end(&run);
	return found;
}

void
dw_migration_set_counts(DwMigration *m, int64 drifted, int64 unconvertible)
{
	DW_OWN_SQL("UPDATE dualwrite.migration SET drifted = $2, unconvertible = $3, verified_at = NULL, proven_at = NULL WHERE id = $1",
			   DW_INT4(m->id), DW_INT8(drifted), DW_INT8(unconvertible));
  }

char *
dw_migration_marks(DwMigration *m)
{
	return DW_OWN_TEXT("SELECT pg_catalog.string_agg(dualwrite.marks(b.id, b.relation), ' ' ORDER BY b.ord) FROM dualwrite.member b WHERE b.migration_id = $1",
					   DW_INT4(m->id));
}

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
dw_migration_forget(DwMigration *m)
{
	DW_OWN_SQL("DELETE FROM dualwrite.progress WHERE member_id IN (SELECT id FROM dualwrite.member WHERE migration_id = $1)", DW_INT4(m->id));
  	DW_OWN_SQL("DELETE FROM dualwrite.skipped WHERE member_id IN (SELECT id FROM dualwrite.member WHERE migration_id = $1)", DW_INT4(m->id));
  	DW_OWN_SQL("DELETE FROM dualwrite.control WHERE migration_id = $1", DW_INT4(m->id));
  	DW_OWN_SQL("DELETE FROM dualwrite.worker WHERE migration_id = $1", DW_INT4(m->id));
  }

void
dw_worker_gone(int migration_id)
{
	DW_OWN_SQL("DELETE FROM dualwrite.worker WHERE migration_id = $1", DW_INT4(migration_id));
  }

int
dw_worker_count(void)
{
	return DW_OWN_INT("SELECT count(DISTINCT l.pid) FROM pg_catalog.pg_locks l WHERE l.locktype = 'advisory' AND l.objsubid = $1 AND l.granted"
					  " AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())",
					  DW_INT4(DW_LOCK_WORKER));
}

/* ---- passes ---- */

bool
dw_progress_get(int member_id, const char *pass, int part, DwProgress *p)
{
	MemoryContext cxt = CurrentMemoryContext;
	DwRun		run;
	bool		found;

	memset(p, 0, sizeof(*p));
	dw_run_begin(&run, dw_own_role());
	found = DW_SQL("SELECT relfilenode, epoch, marks, snapshot, token, losses, blocks_total, blocks_done, rows_estimated, rows_done, rows_already, rows_locked,"
				   " rows_failed, rows_drifted, rows_lossy, wal_bytes, throttled_ms, batch_ms, rows_per_second, finished, first_block"
				   " FROM dualwrite.progress WHERE member_id = $1 AND pass = $2 AND part = $3",
				   DW_INT4(member_id), DW_TEXT(pass), DW_INT4(part)) > 0;
	p->part = part;
	if (found)
	{
		int64	   *counts[] = {&p->blocks_total, &p->blocks_done, &p->rows_estimated, &p->rows_done, &p->rows_already,
			&p->rows_locked, &p->rows_failed, &p->rows_drifted, &p->rows_lossy, &p->wal_bytes, &p->throttled_ms};

		p->relfilenode = (Oid) dw_sql_int(0, 0);
		p->epoch = dw_sql_int(0, 1);
		p->marks = dw_sql_text(0, 2, cxt);
		p->snapshot = dw_sql_text(0, 3, cxt);
		for (int i = 0; i < (int) lengthof(counts); i++)
			*counts[i] = dw_sql_int(0, 6 + i);
		p->token = dw_sql_int(0, 4);
		p->losses = dw_sql_int(0, 5);
		p->batch_ms = dw_sql_float(0, 17);
		p->rows_per_second = dw_sql_float(0, 18);
		p->finished = dw_sql_bool(0, 19);
		p->first_block = dw_sql_int(0, 20);
	}
	dw_run_end(&run);
	return found;
}

int
dw_progress_unfinished(int member_id, const char *pass, int max, int *parts)
{
	DwRun		run;
	int			n = -1;

	dw_run_begin(&run, dw_own_role());
	if (DW_SQL("SELECT 1 FROM dualwrite.progress WHERE member_id = $1 AND pass = $2 AND part = 0", DW_INT4(member_id), DW_TEXT(pass)) > 0)
	{
		n = DW_SQL("SELECT part FROM dualwrite.progress WHERE member_id = $1 AND pass = $2 AND NOT finished ORDER BY part LIMIT $3",
				   DW_INT4(member_id), DW_TEXT(pass), DW_INT4(max));
		for (int i = 0; i < n; i++)
			parts[i] = dw_sql_int(i, 0);
	}
	dw_run_end(&run);
	return n;
}

void
dw_progress_sum(int member_id, const char *pass, int64 *done, int64 *total)
{
	DwRun		run;

	dw_run_begin(&run, dw_own_role());
	DW_SQL("SELECT sum(blocks_done), sum(blocks_total) FROM dualwrite.progress WHERE member_id = $1 AND pass = $2", DW_INT4(member_id), DW_TEXT(pass));
	*done = dw_sql_int(0, 0);
	*total = dw_sql_int(0, 1);
	dw_run_end(&run);
}

void
dw_progress_start(int member_id, const char *pass, DwProgress *p)
{
	if (p->part == 0)
		DW_OWN_SQL("DELETE FROM dualwrite.progress WHERE member_id = $1 AND pass = $2 AND part > 0", DW_INT4(member_id), DW_TEXT(pass));
  	DW_OWN_SQL("INSERT INTO dualwrite.progress AS p (member_id, pass, relfilenode, epoch, marks, snapshot, blocks_total, rows_estimated, token, losses, part, first_block)"
			   " VALUES ($1, $2, $3, $4, $5, $6::pg_snapshot, $7, $8, $9, $10, $11, $12)"
			   " ON CONFLICT (member_id, pass, part) DO UPDATE SET relfilenode = $3, epoch = $4, marks = $5, snapshot = $6::pg_snapshot, first_block = $12,"
			   " blocks_total = $7, rows_estimated = $8, token = $9, losses = $10, blocks_done = 0, rows_done = 0, rows_already = 0, rows_locked = 0, rows_failed = 0,"
			   " rows_drifted = 0, rows_lossy = 0, wal_bytes = 0, throttled_ms = 0, throttled_by = '{}', batch_ms = 0, rows_per_second = 0,"
			   " started_at = pg_catalog.clock_timestamp(), last_batch_at = NULL, finished = false",
			   DW_INT4(member_id), DW_TEXT(pass), DW_OID(p->relfilenode), DW_INT8(p->epoch), DW_TEXT(p->marks), DW_TEXT(p->snapshot),
			   DW_INT8(p->blocks_total), DW_INT8(p->rows_estimated), DW_INT8(p->token), DW_INT8(p->losses), DW_INT4(p->part),
			   DW_INT8(p->first_block));
  }

void
dw_progress_put(int member_id, const char *pass, const DwProgress *p)
{
	DW_OWN_SQL("UPDATE dualwrite.progress SET blocks_total = $3, blocks_done = $4, rows_done = $5, rows_already = $6, rows_locked = $7,"
			   " rows_failed = $8, rows_drifted = $9, rows_lossy = $10, wal_bytes = $11, batch_ms = $12,"
			   " rows_per_second = $13, finished = $14, last_batch_at = pg_catalog.clock_timestamp()"
			   " WHERE member_id = $1 AND pass = $2 AND part = $15 AND token = $16",
			   DW_INT4(member_id), DW_TEXT(pass), DW_INT8(p->blocks_total), DW_INT8(p->blocks_done), DW_INT8(p->rows_done),
			   DW_INT8(p->rows_already), DW_INT8(p->rows_locked), DW_INT8(p->rows_failed), DW_INT8(p->rows_drifted),
			   DW_INT8(p->rows_lossy), DW_INT8(p->wal_bytes), DW_FLOAT8(p->batch_ms),
			   DW_FLOAT8(p->rows_per_second), DW_BOOL(p->finished), DW_INT4(p->part), DW_INT8(p->token));
  }

bool
dw_progress_throttled(int member_id, const char *signal, int64 ms)
{
	return DW_OWN_SQL("UPDATE dualwrite.progress SET throttled_ms = throttled_ms + $3,"
					  " throttled_by = throttled_by || pg_catalog.jsonb_build_object($2, coalesce((throttled_by ->> $2)::bigint, 0) + $3)"
					  " WHERE member_id = $1 AND part = 0 AND pass = (SELECT q.pass FROM dualwrite.progress q WHERE q.member_id = $1 AND NOT q.finished ORDER BY q.pass LIMIT 1)", DW_INT4(member_id), DW_TEXT(signal), DW_INT8(ms)) > 0;
}

void
dw_progress_forget(DwMigration *m, const char *pass)
{
	DW_OWN_SQL("DELETE FROM dualwrite.progress WHERE member_id IN (SELECT id FROM dualwrite.member WHERE migration_id = $1) AND pass = $2",
			   DW_INT4(m->id), DW_TEXT(pass));
  }

void
dw_skipped_add(int member_id, BlockNumber block)
{
	DW_OWN_SQL("INSERT INTO dualwrite.skipped VALUES ($1, $2) ON CONFLICT DO NOTHING", DW_INT4(member_id), DW_INT8((int64) block));
  }

void
dw_skipped_done(int member_id, BlockNumber block)
{
	DW_OWN_SQL("DELETE FROM dualwrite.skipped WHERE member_id = $1 AND block = $2", DW_INT4(member_id), DW_INT8((int64) block));
  }

int
dw_skipped_list(int member_id, int max, BlockNumber *blocks)
{
	DwRun		run;
	int			n;

	dw_run_begin(&run, dw_own_role());
	n = DW_SQL("SELECT block FROM dualwrite.skipped WHERE member_id = $1 ORDER BY block LIMIT $2", DW_INT4(member_id), DW_INT4(max));
	for (int i = 0; i < n; i++)
		blocks[i] = (BlockNumber) dw_sql_int(i, 0);
	dw_run_end(&run);
	return n;
}

void
dw_skipped_clear(int member_id)
{
	DW_OWN_SQL("DELETE FROM dualwrite.skipped WHERE member_id = $1", DW_INT4(member_id));
  }

/* ---- drift and loss ---- */

void
dw_drift_record(int member_id, ItemPointer ctid, Datum key, bool key_null, Datum old_values, Datum new_values,
				const char *reason, const char *sqlstate, const char *message, bool repaired)
{
	/*
	 * An older record of the row goes, unless another recorder has just locked
	 * it: nobody ever waits for a record.  So there may be two; readers count
	 * rows.  Where the older one knows what was raised, that stays.
	 */
	DW_OWN_SQL("WITH n AS (SELECT pg_catalog.jsonb_object($3) AS key, pg_catalog.jsonb_object($4) AS old_values, pg_catalog.jsonb_object($5) AS new_values),"
			   " gone AS (DELETE FROM dualwrite.drift WHERE id IN (SELECT d.id FROM dualwrite.drift d, n WHERE d.member_id = $1 AND d.repaired_at IS NULL"
			   "   AND (d.row_ctid = $2 OR d.key = n.key) FOR UPDATE OF d SKIP LOCKED) RETURNING reason, sqlstate, message, old_values),"
			   " why AS (SELECT g.* FROM gone g, n WHERE $7 IS NULL AND g.sqlstate IS NOT NULL AND g.old_values = n.old_values LIMIT 1)"
			   " INSERT INTO dualwrite.drift (member_id, row_ctid, key, old_values, new_values, reason, sqlstate, message, repaired_at)"
			   " SELECT $1, $2, n.key, n.old_values, n.new_values, coalesce(why.reason, $6), coalesce(why.sqlstate, $7), coalesce(why.message, $8),"
			   " CASE WHEN $9 THEN pg_catalog.clock_timestamp() END FROM n LEFT JOIN why ON true",
			   DW_INT4(member_id), DW_DATUM(TIDOID, PointerGetDatum(ctid), ctid == NULL),
			   DW_DATUM(TEXTARRAYOID, key, key_null), DW_DATUM(TEXTARRAYOID, old_values, false), DW_DATUM(TEXTARRAYOID, new_values, false),
			   DW_TEXT(reason), DW_TEXT(sqlstate), DW_TEXT(message), DW_BOOL(repaired));
 }

void
dw_drift_repaired(int member_id, ItemPointer ctid)
{
	DW_OWN_SQL("UPDATE dualwrite.drift SET repaired_at = pg_catalog.clock_timestamp() WHERE id IN"
			   " (SELECT id FROM dualwrite.drift WHERE member_id = $1 AND row_ctid = $2 AND repaired_at IS NULL FOR UPDATE SKIP LOCKED)",
			   DW_INT4(member_id), DW_DATUM(TIDOID, PointerGetDatum(ctid), false));
  }

void
dw_drift_close(DwMigration *m, const char *snapshot, int64 last_id)
{
	DW_OWN_SQL("UPDATE dualwrite.drift SET repaired_at = pg_catalog.clock_timestamp() WHERE repaired_at IS NULL"
			   " AND member_id IN (SELECT id FROM dualwrite.member WHERE migration_id = $1)"
			   /* a snapshot's text doesn't tell that our own id is still in progress */
			   " AND CASE WHEN xid = pg_catalog.pg_current_xact_id_if_assigned() THEN id <= $3"
			   " ELSE pg_catalog.pg_visible_in_snapshot(xid, $2::pg_snapshot) END",
			   DW_INT4(m->id), DW_TEXT(snapshot), DW_INT8(last_id));
  }

int64
dw_drift_last(void)
{
	return DW_OWN_INT("SELECT coalesce(max(id), 0) + $1 FROM dualwrite.drift", DW_INT8(0));
}

/*
 * Sets a sequence of a member, or (value 0) advances it so many times.  A sequence, because
 * nobody waits for another writer of a sequence, and it doesn't bloat.
 */
static void
touch_sequence(int member_id, const char *what, int64 value, int times)
{
	char		name[NAMEDATALEN];
	Oid			seq;
	Oid			userid;
	int			sec_context;

	snprintf(name, sizeof(name), "m%d_%s", member_id, what);
	seq = get_relname_relid(name, get_namespace_oid(DW_SCHEMA, false));
	if (!OidIsValid(seq))
		return;
	GetUserIdAndSecContext(&userid, &sec_context);
	SetUserIdAndSecContext(dw_own_role(), sec_context | SECURITY_LOCAL_USERID_CHANGE);
	if (value)
		DirectFunctionCall2(setval_oid, ObjectIdGetDatum(seq), Int64GetDatum(value));
	for (int i = 0; value == 0 && i < times; i++)
		(void) nextval_internal(seq, false);
	SetUserIdAndSecContext(userid, sec_context);
}

void
dw_side_written(int member_id, DwSide side)
{
	touch_sequence(member_id, side == DW_OLD ? "old_written" : "new_written", (int64) time(NULL), 1);
}

void
dw_loss_count(int member_id)
{
	touch_sequence(member_id, "losses", 0, 1);
}

void
dw_sample_count(int member_id, int n, bool drift)
{
	if (n > 0)
		touch_sequence(member_id, drift ? "sample_drift" : "samples", 0, n);
}

int64
dw_loss_counted(DwMigration *m)
{
	return DW_OWN_INT("SELECT coalesce(sum(dualwrite.sequence_value(q.oid)), 0) FROM dualwrite.member b JOIN pg_catalog.pg_class q"
					  " ON q.relkind = 'S' AND q.relnamespace = 'dualwrite'::regnamespace AND q.relname = ('m' || b.id || '_losses')::name WHERE b.migration_id = $1",
					  DW_INT4(m->id));
}


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
dw_migration_phase(const char *name)
{
	Relation	rel = table_open(get_relname_relid("migration", get_namespace_oid(DW_SCHEMA, false)), AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tup;
	int			phase = -1;
	int			id = 0;

	while (HeapTupleIsValid(tup = systable_getnext(scan)))
	{
		TupleDesc	desc = RelationGetDescr(rel);
		bool		isnull;
		char	   *n = TextDatumGetCString(heap_getattr(tup, MIGRATION_NAME, desc, &isnull));
		int			p = dw_enum_value(dw_phase_names, TextDatumGetCString(heap_getattr(tup, MIGRATION_PHASE, desc, &isnull)));
		int			i = DatumGetInt32(heap_getattr(tup, MIGRATION_ID, desc, &isnull));

		/* the active one, else the latest; an active one is always the latest */
		if (strcmp(n, name) == 0 && i > id)
		{
			phase = p;
			id = i;
		}
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return phase;
}

char *
dw_current_snapshot(void)
{
	return DW_OWN_TEXT("SELECT pg_catalog.pg_current_snapshot(), $1", DW_INT4(0));
}

List *
dw_members_of(Oid relid, int except)
{
	return DW_OWN_INTS("SELECT b.id FROM dualwrite.member b JOIN dualwrite.migration m ON m.id = b.migration_id"
					   " WHERE b.relation = $1::regclass AND b.id <> $2 AND m.phase NOT IN ('finalized', 'aborted') ORDER BY b.id",
					   DW_OID(relid), DW_INT4(except));
}

List *
dw_member_created(int member_id)
{
	return DW_OWN_INTS("SELECT pg_catalog.array_position(b.new_columns, c)::integer - 1 FROM dualwrite.member b, pg_catalog.unnest(b.created_columns) c WHERE b.id = $1",
					   DW_INT4(member_id));
}

/* ---- the mirror's configuration ---- */

/* First row of an own table by its integer key: a copy, or NULL. */
static HeapTuple
fetch_row(const char *table, const char *index, AttrNumber keyattr, int key, TupleDesc *desc)
{
	Oid			nsp = get_namespace_oid(DW_SCHEMA, true);
	Oid			relid = OidIsValid(nsp) ? get_relname_relid(table, nsp) : InvalidOid;
	Relation	rel;
	SysScanDesc scan;
	ScanKeyData skey;
	HeapTuple	tup;

	if (!OidIsValid(relid))
		return NULL;
	rel = table_open(relid, AccessShareLock);
	ScanKeyInit(&skey, keyattr, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(key));

	/* no snapshot given: the latest committed state, as for a catalog */
	scan = systable_beginscan(rel, get_relname_relid(index, nsp), true, NULL, 1, &skey);
	tup = systable_getnext(scan);
	if (HeapTupleIsValid(tup))
		tup = heap_copytuple(tup);
	systable_endscan(scan);
	if (desc)
		*desc = CreateTupleDescCopy(RelationGetDescr(rel));
	table_close(rel, AccessShareLock);
	return tup;
}

/* xmin and position of a row of an own table, by its integer key, appended; false if there is none */
static bool
append_version(StringInfo buf, const char *table, const char *index, int key)
{
	HeapTuple	tup = fetch_row(table, index, 1, key, NULL);

	if (tup == NULL)
		return false;
	appendStringInfo(buf, "%u %u/%u ", HeapTupleHeaderGetRawXmin(tup->t_data),
					 ItemPointerGetBlockNumber(&tup->t_self), ItemPointerGetOffsetNumber(&tup->t_self));
	heap_freetuple(tup);
	return true;
}

bool
dw_migration_look(int id, DwPhase *phase, int64 *epoch)
{
	TupleDesc	desc;
	HeapTuple	tup = fetch_row("migration", "migration_pkey", MIGRATION_ID, id, &desc);
	bool		isnull;

	if (tup == NULL)
		return false;
	*phase = dw_enum_value(dw_phase_names, TextDatumGetCString(heap_getattr(tup, MIGRATION_PHASE, desc, &isnull)));
	*epoch = DatumGetInt64(heap_getattr(tup, MIGRATION_EPOCH, desc, &isnull));
	return true;
}

/* asked for before each batch of the backfill, hence without SPI */
char *
dw_migration_stamp(int id)
{
	StringInfoData buf;

	initStringInfo(&buf);
	if (!append_version(&buf, "migration", "migration_pkey", id))
		return NULL;
	(void) append_version(&buf, "control", "control_pkey", id);
	return buf.data;
}

static int
compare_xids(const void *a, const void *b)
{
	TransactionId x = *(const TransactionId *) a;
	TransactionId y = *(const TransactionId *) b;

	return x < y ? -1 : x > y;
}

/* Takes "xmin:xmax:xip,xip,..." apart. */
static void
parse_begin(const char *snapshot, Datum xids, bool xids_null, DwBegin *begin)
{
	const char *p = snapshot;
	char	   *end;
	int			n = 1;

	for (const char *c = p; *c; c++)
		n += *c == ',';
	begin->xip = palloc(sizeof(TransactionId) * n);
	begin->xmin = FullTransactionIdFromU64(strtoull(p, &end, 10));
	begin->xmax = FullTransactionIdFromU64(strtoull(end + 1, &end, 10));
	while (*end && end[1])
		begin->xip[begin->nxip++] = (TransactionId) strtoull(end + 1, &end, 10);
	qsort(begin->xip, begin->nxip, sizeof(TransactionId), compare_xids);
	if (!xids_null)
	{
		Datum	   *d;

		deconstruct_array(DatumGetArrayTypeP(xids), XID8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &d, NULL, &begin->nown);
		begin->own = palloc(sizeof(TransactionId) * Max(begin->nown, 1));
		for (int i = 0; i < begin->nown; i++)
			begin->own[i] = (TransactionId) DatumGetUInt64(d[i]);
	}

	/*
	 * Ids on rows are 32 bits wide.  They can be compared as long as fewer
	 * than 2^31 have been handed out since; half of that is a safe margin.
	 */
	begin->valid = U64FromFullTransactionId(ReadNextFullTransactionId()) - U64FromFullTransactionId(begin->xmax) < (UINT64CONST(1) << 30);
}

bool
dw_mirror_config(int member_id, DwMirrorConfig *cfg)
{
	TupleDesc	desc;
	HeapTuple	tup = fetch_row("member", "member_pkey", MEMBER_ID, member_id, &desc);
	int			migration_id;
	bool		isnull;
	Datum		snapshot;
	bool		snapshot_null;
	DwOptions	options;

	memset(cfg, 0, sizeof(*cfg));
	if (tup == NULL)
		return false;
	cfg->member_id = member_id;
	cfg->migration_id = migration_id = DatumGetInt32(heap_getattr(tup, MEMBER_MIGRATION_ID, desc, &isnull));
	cfg->relid = DatumGetObjectId(heap_getattr(tup, MEMBER_RELATION, desc, &isnull));
	cfg->has_backward = DatumGetBool(heap_getattr(tup, MEMBER_HAS_BACKWARD, desc, &isnull));
	cfg->filling = DatumGetBool(heap_getattr(tup, MEMBER_FILLING, desc, &isnull));
	cfg->begin.relfilenode = DatumGetObjectId(heap_getattr(tup, MEMBER_RELFILENODE, desc, &isnull));
	cfg->begin.fuzzy = DatumGetBool(heap_getattr(tup, MEMBER_BEGIN_FUZZY, desc, &isnull));
	snapshot = heap_getattr(tup, MEMBER_BEGIN_SNAPSHOT, desc, &snapshot_null);
	if (!snapshot_null)
	{
		Datum		xids = heap_getattr(tup, MEMBER_BEGIN_XIDS, desc, &isnull);

		parse_begin(OidOutputFunctionCall(F_PG_SNAPSHOT_OUT, snapshot), xids, isnull, &cfg->begin);
	}

	tup = fetch_row("migration", "migration_pkey", MIGRATION_ID, migration_id, &desc);
	if (tup == NULL)
		return false;
	cfg->migration = TextDatumGetCString(heap_getattr(tup, MIGRATION_NAME, desc, &isnull));
	cfg->phase = dw_enum_value(dw_phase_names, TextDatumGetCString(heap_getattr(tup, MIGRATION_PHASE, desc, &isnull)));
	cfg->mirror = dw_enum_value(dw_mirror_names, TextDatumGetCString(heap_getattr(tup, MIGRATION_MIRROR, desc, &isnull)));
	cfg->conflict = dw_enum_value(dw_conflict_names, TextDatumGetCString(heap_getattr(tup, MIGRATION_CONFLICT, desc, &isnull)));
	cfg->on_error = dw_enum_value(dw_on_error_names, TextDatumGetCString(heap_getattr(tup, MIGRATION_ON_ERROR, desc, &isnull)));
	cfg->heal = DatumGetBool(heap_getattr(tup, MIGRATION_HEAL, desc, &isnull));
	dw_options_read(DatumGetJsonbP(heap_getattr(tup, MIGRATION_OPTIONS, desc, &isnull)), &options);
	cfg->sample_rate = options.sample_rate;
	cfg->checking = 0 != DatumGetInt64(heap_getattr(tup, MIGRATION_CHECKING, desc, &isnull));
	/* in a restored copy the snapshot is about another heap */
	if (strcmp(TextDatumGetCString(heap_getattr(tup, MIGRATION_HOME, desc, &isnull)), dw_home()) != 0)
		cfg->begin.valid = false;
	return true;
}

/* The value of a sequence of the extension, by a look that leaves no lock; false if it has none, or is gone by now. */
static bool
sequence_value(Oid seq, int64 *value)
{
	Relation	rel = dw_peek(seq);
	bool		called = false;

	if (rel == NULL)
		return false;
	/* ours only: anybody may call this */
	if (rel->rd_rel->relkind == RELKIND_SEQUENCE && RelationGetNamespace(rel) == get_namespace_oid(DW_SCHEMA, false))
	{
		Buffer		buf = ReadBuffer(rel, 0);
		HeapTupleHeader tup;
		Form_pg_sequence_data data;

		LockBuffer(buf, BUFFER_LOCK_SHARE);
		tup = (HeapTupleHeader) PageGetItem(BufferGetPage(buf), PageGetItemId(BufferGetPage(buf), FirstOffsetNumber));
		data = (Form_pg_sequence_data) ((char *) tup + tup->t_hoff);
		called = data->is_called;
		*value = data->last_value;
		UnlockReleaseBuffer(buf);
	}
	/* pg_sequence_last_value() would keep a lock until the end of the transaction, in the way of dw_abort and dw_finalize */
	relation_close(rel, AccessShareLock);
	return called;
}

/* dualwrite.sequence_value(oid): NULL if it has none, or is gone by now */
Datum
dw_sequence_value(PG_FUNCTION_ARGS)
{
	int64		value;

	if (!sequence_value(PG_GETARG_OID(0), &value))
		PG_RETURN_NULL();
	PG_RETURN_INT64(value);
}

/* ---- fault points ---- */

int
dw_faults_read(DwFault *faults, Oid *relid)
{
	Oid			nsp = get_namespace_oid(DW_SCHEMA, true);
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tup;
	int			n = 0;

	*relid = OidIsValid(nsp) ? get_relname_relid("fault", nsp) : InvalidOid;
	if (!OidIsValid(*relid))
		return 0;
	rel = table_open(*relid, AccessShareLock);
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while (n < DW_MAX_FAULTS && HeapTupleIsValid(tup = systable_getnext(scan)))
	{
		TupleDesc	desc = RelationGetDescr(rel);
		DwFault    *f = &faults[n++];
		bool		isnull;
		Datum		d;
		char	   *sqlstate;

		memset(f, 0, sizeof(*f));
		f->slot = DatumGetInt32(heap_getattr(tup, FAULT_SLOT, desc, &isnull));
		strlcpy(f->point, TextDatumGetCString(heap_getattr(tup, FAULT_POINT, desc, &isnull)), NAMEDATALEN);
		d = heap_getattr(tup, FAULT_MIGRATION, desc, &isnull);
		if (!isnull)
			strlcpy(f->migration, TextDatumGetCString(d), NAMEDATALEN);
		f->action = dw_enum_value(dw_fault_action_names, TextDatumGetCString(heap_getattr(tup, FAULT_ACTION, desc, &isnull)));
		d = heap_getattr(tup, FAULT_TIMES, desc, &isnull);
		f->times = isnull ? 0 : DatumGetInt64(d);
		f->base = DatumGetInt64(heap_getattr(tup, FAULT_BASE, desc, &isnull));
		f->probability = DatumGetFloat8(heap_getattr(tup, FAULT_PROBABILITY, desc, &isnull));
		f->delay_ms = DatumGetFloat8(heap_getattr(tup, FAULT_DELAY, desc, &isnull));
		sqlstate = TextDatumGetCString(heap_getattr(tup, FAULT_SQLSTATE, desc, &isnull));
		f->sqlerrcode = MAKE_SQLSTATE(sqlstate[0], sqlstate[1], sqlstate[2], sqlstate[3], sqlstate[4]);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return n;
}

static Oid
fault_sequence(int slot)
{
	char		name[NAMEDATALEN];

	snprintf(name, sizeof(name), "fault_%d", slot);
	return get_relname_relid(name, get_namespace_oid(DW_SCHEMA, false));
}

/*
 * By setval(), which writes the very value to WAL; nextval() is ahead of itself
 * there, and a crash would use up what is left.
 */
bool
dw_fault_count(const DwFault *f)
{
	Oid			seq = fault_sequence(f->slot);
	int64		value;
	Oid			userid;
	int			sec_context;
	bool		left;

	if (!OidIsValid(seq))
		return false;
	dw_brief_lock(DW_LOCK_FAULT, f->slot);
	if (!sequence_value(seq, &value))
		value = 0;
	left = f->times == 0 || value - f->base < f->times;
	if (left)
	{
		GetUserIdAndSecContext(&userid, &sec_context);
		SetUserIdAndSecContext(dw_own_role(), sec_context | SECURITY_LOCAL_USERID_CHANGE);
		DirectFunctionCall2(setval_oid, ObjectIdGetDatum(seq), Int64GetDatum(value + 1));
		SetUserIdAndSecContext(userid, sec_context);
		XLogFlush(XactLastRecEnd);
	}
	dw_brief_unlock(DW_LOCK_FAULT, f->slot);
	return left;
}

bool
dw_fault_put(const DwFault *f)
{
	Oid			relid = get_relname_relid("fault", get_namespace_oid(DW_SCHEMA, false));
	DwRun		run;
	bool		found;

	dw_lock_relation(relid, ShareRowExclusiveLock);
	dw_run_begin(&run, dw_own_role());
	DW_SQL("DELETE FROM dualwrite.fault WHERE point = $1 AND coalesce(migration, '') = $2", DW_TEXT(f->point), DW_TEXT(f->migration));
	found = DW_SQL("INSERT INTO dualwrite.fault (slot, point, migration, action, times, base, probability, delay_ms, sqlstate)"
				   " SELECT s, $1, nullif($2, ''), $3, nullif($4, 0), coalesce(dualwrite.sequence_value(pg_catalog.to_regclass('dualwrite.fault_' || s)), 0), $5, $6, $7"
				   " FROM pg_catalog.generate_series(1, $8) s WHERE s NOT IN (SELECT slot FROM dualwrite.fault) ORDER BY s LIMIT 1",
				   DW_TEXT(f->point), DW_TEXT(f->migration), DW_TEXT(dw_enum_name(dw_fault_action_names, f->action)), DW_INT8(f->times),
				   DW_FLOAT8(f->probability), DW_FLOAT8(f->delay_ms), DW_TEXT(unpack_sql_state(f->sqlerrcode)), DW_INT4(DW_MAX_FAULTS)) > 0;
	dw_run_end(&run);
	CacheInvalidateRelcacheByRelid(relid);
	return found;
}

int
dw_fault_remove(const char *point)
{
	Oid			relid = get_relname_relid("fault", get_namespace_oid(DW_SCHEMA, false));
	DwRun		run;
	int			n;

	dw_lock_relation(relid, ShareRowExclusiveLock);
	dw_run_begin(&run, dw_own_role());
	n = (int) DW_SQL("DELETE FROM dualwrite.fault WHERE $1 IS NULL OR point = $1", DW_TEXT(point));
	dw_run_end(&run);
	CacheInvalidateRelcacheByRelid(relid);
	return n;
}
