/*
 * catalog.c
 *		Migrations and their members: reading and writing them.
 *
 * The files catalog*.c are the only ones that open the extension's own tables.
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

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "catalog_internal.h"
#include "run.h"

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
	" CASE WHEN m.verified_at IS NOT NULL AND m.verified_epoch = m.epoch" \
	"   THEN m.verified_marks IS NOT DISTINCT FROM (SELECT pg_catalog.string_agg(dualwrite.marks(b.id, b.relation), ' ' ORDER BY b.ord)" \
	"     FROM dualwrite.member b WHERE b.migration_id = m.id) ELSE true END," \
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

void
dw_migration_unknown(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("migration \"%s\" does not exist", name),
			 errdetail("No migration of this database has that name."),
			 errhint("SELECT migration FROM dw_status lists the migrations of this database.")));
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
		dw_migration_unknown(name);
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

char *
dw_migration_marks(DwMigration *m)
{
	return DW_OWN_TEXT("SELECT pg_catalog.string_agg(dualwrite.marks(b.id, b.relation), ' ' ORDER BY b.ord) FROM dualwrite.member b WHERE b.migration_id = $1",
					   DW_INT4(m->id));
}

/* ---- writing migrations ---- */

void
dw_members_invalidate(DwMigration *m)
{
	ListCell   *lc;

	foreach(lc, m->members)
	{
		DwMember   *b = lfirst(lc);

		if (SearchSysCacheExists1(RELOID, ObjectIdGetDatum(b->relid)))
			CacheInvalidateRelcacheByRelid(b->relid);
	}
}

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
	dw_members_invalidate(m);
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
	dw_members_invalidate(m);
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
	dw_members_invalidate(m);
}

void
dw_migration_brake(DwMigration *m)
{
	DW_OWN_SQL("UPDATE dualwrite.migration SET options = options || '{\"mirror\": \"off\"}', mirror = 'off', epoch = epoch + $2 WHERE id = $1",
			   DW_INT4(m->id), DW_INT8(1));
	dw_members_invalidate(m);
}

void
dw_migration_open_hole(DwMigration *m, bool heal)
{
	DW_OWN_SQL("UPDATE dualwrite.migration SET epoch = epoch + 1, heal = heal OR $2 WHERE id = $1", DW_INT4(m->id), DW_BOOL(heal));
	dw_members_invalidate(m);
}

void
dw_migration_set_heal(DwMigration *m, bool heal)
{
	DW_OWN_SQL("UPDATE dualwrite.migration SET heal = $2 WHERE id = $1", DW_INT4(m->id), DW_BOOL(heal));
	dw_members_invalidate(m);
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
	dw_members_invalidate(m);
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

void
dw_migration_set_counts(DwMigration *m, int64 drifted, int64 unconvertible)
{
	DW_OWN_SQL("UPDATE dualwrite.migration SET drifted = $2, unconvertible = $3, verified_at = NULL, proven_at = NULL WHERE id = $1",
			   DW_INT4(m->id), DW_INT8(drifted), DW_INT8(unconvertible));
}

void
dw_migration_forget(DwMigration *m)
{
	DW_OWN_SQL("DELETE FROM dualwrite.progress WHERE member_id IN (SELECT id FROM dualwrite.member WHERE migration_id = $1)", DW_INT4(m->id));
	DW_OWN_SQL("DELETE FROM dualwrite.skipped WHERE member_id IN (SELECT id FROM dualwrite.member WHERE migration_id = $1)", DW_INT4(m->id));
	DW_OWN_SQL("DELETE FROM dualwrite.control WHERE migration_id = $1", DW_INT4(m->id));
	DW_OWN_SQL("DELETE FROM dualwrite.worker WHERE migration_id = $1", DW_INT4(m->id));
}
