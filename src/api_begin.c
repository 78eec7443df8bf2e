/*
 * api_begin.c
 *		dw_begin and dw_begin_mapping: from arguments to a running migration.
 *
 * One transaction, one lock: the table is locked (which drains its writers),
 * columns that are missing are added, the rules are analyzed and stored, the
 * triggers made, and the snapshot taken that tells rows written before the
 * mirror from rows written after it (begin_attach.c).  What can be refused
 * without the lock is refused before it is asked for (begin_check.c).
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "api.h"
#include "begin.h"
#include "compat.h"
#include "migration.h"
#include "query.h"
#include "run.h"
#include "worker.h"

PG_FUNCTION_INFO_V1(dw_begin);
PG_FUNCTION_INFO_V1(dw_begin_mapping);

/* ---- arguments ---- */

static void
bad_argument(const char *message, const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s", message),
			 errdetail("%s", detail),
			 errhint("%s", hint)));
}

static char *
text_arg(FunctionCallInfo fcinfo, int i)
{
	return PG_ARGISNULL(i) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(i));
}

static char *
name_arg(FunctionCallInfo fcinfo, int i)
{
	return PG_ARGISNULL(i) ? NULL : pstrdup(NameStr(*PG_GETARG_NAME(i)));
}

static DwSpecColumn *
add_column(DwSpec *spec, DwSide side, char *name)
{
	DwSpecColumn *col;

	if (name == NULL || name[0] == '\0')
		bad_argument("a column name is empty", "A column is found, or created, by its name.", "Every column needs a name.");
	for (int s = 0; s < 2; s++)
		for (int i = 0; i < spec->n[s]; i++)
			if (strcmp(spec->cols[s][i].name, name) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
						 errmsg("column \"%s\" is named twice", name),
						 errdetail("A column is on one side of a migration, and there once."),
						 errhint("The new side needs columns of its own.")));
	if (spec->n[side] >= DW_MAX_COLUMNS)
		bad_argument("too many columns on one side of a migration", "There can be at most 32.", "Use several migrations.");
	col = &spec->cols[side][spec->n[side]++];
	memset(col, 0, sizeof(*col));
	col->name = name;
	return col;
}

static DwSpecColumn *
find_column(DwSpec *spec, DwSide side, const char *name)
{
	for (int i = 0; i < spec->n[side]; i++)
		if (strcmp(spec->cols[side][i].name, name) == 0)
			return &spec->cols[side][i];
	return NULL;
}

/* What an object maps column names to; calls back with name and text. */
static void
each_entry(Jsonb *object, const char *what, void (*callback) (DwSpec *, char *, char *), DwSpec *spec)
{
	JsonbIterator *it;
	JsonbValue	v;
	JsonbIteratorToken t;

	if (!JB_ROOT_IS_OBJECT(object))
		bad_argument(psprintf("%s must be a JSON object", what), "It is something else.", "It maps column names to texts, for example '{\"first_name\": \"split_part(name, '' '', 1)\"}'.");
	it = JsonbIteratorInit(&object->root);
	while ((t = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		char	   *key;

		if (t != WJB_KEY)
			continue;
		if (v.val.string.len >= NAMEDATALEN)
			ereport(ERROR,
					(errcode(ERRCODE_NAME_TOO_LONG),
					 errmsg("column name \"%s\" in %s is too long", pnstrdup(v.val.string.val, v.val.string.len), what),
					 errdetail("It has %d bytes.", v.val.string.len),
					 errhint("Names have at most %d bytes.", NAMEDATALEN - 1)));
		key = pnstrdup(v.val.string.val, v.val.string.len);
		(void) JsonbIteratorNext(&it, &v, true);
		if (v.type != jbvString)
			bad_argument(psprintf("%s for column \"%s\" is not a text", what, key), "It is another kind of JSON value.", "Expressions and types are given as JSON strings.");
		callback(spec, key, pnstrdup(v.val.string.val, v.val.string.len));
	}
}

static void
forward_entry(DwSpec *spec, char *key, char *value)
{
	add_column(spec, DW_NEW, key)->expr = value;
}

static void
backward_entry(DwSpec *spec, char *key, char *value)
{
	DwSpecColumn *col = find_column(spec, DW_OLD, key);

	if (col == NULL)
		bad_argument(psprintf("backward gives column \"%s\", which is not among old_columns", key), "Only the old side can be derived backward.", "backward gives the old columns, forward the new ones.");
	col->expr = value;
}

static void
type_entry(DwSpec *spec, char *key, char *value)
{
	DwSpecColumn *col = find_column(spec, DW_NEW, key);

	if (col == NULL)
		bad_argument(psprintf("new_types gives a type for column \"%s\", which forward does not give", key), "Every new column is given by an expression.", "new_types is for the columns that forward gives.");
	col->type = value;
}

static void
check_common(DwSpec *spec, FunctionCallInfo fcinfo, int options_arg)
{
	if (spec->name == NULL || spec->name[0] == '\0')
		bad_argument("a migration needs a name", "It is null or empty.", "The first argument is the name of the migration.");
	if (PG_ARGISNULL(1))
		bad_argument("a migration needs a table", "It is null.", "The second argument is the table.");
	spec->relid = PG_GETARG_OID(1);
	spec->options_given = PG_ARGISNULL(options_arg) ? DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")))
		: PG_GETARG_JSONB_P(options_arg);
	dw_options_read(spec->options_given, &spec->options);
	dw_check_proof_options(&spec->options);
}

/* ---- the same again? ---- */

static Datum
spec_texts(DwSpec *spec, DwSide side, size_t offset)
{
	Datum	   *d = palloc(sizeof(Datum) * spec->n[side]);
	bool	   *nulls = palloc(sizeof(bool) * spec->n[side]);
	int			dims[1] = {spec->n[side]};
	int			lbs[1] = {1};

	for (int i = 0; i < spec->n[side]; i++)
	{
		char	   *value = *(char **) ((char *) &spec->cols[side][i] + offset);

		nulls[i] = value == NULL;
		d[i] = value ? CStringGetTextDatum(value) : (Datum) 0;
	}
	return PointerGetDatum(construct_md_array(d, nulls, 1, dims, lbs, TEXTOID, -1, false, TYPALIGN_INT));
}

/* The arguments as given, to tell a repeated call from another one. */
static void
make_definition(DwSpec *spec)
{
	spec->definition =
		DW_OWN_JSONB("SELECT pg_catalog.jsonb_build_object('old', $1, 'new', $2, 'backward', $3, 'forward', $4, 'types', $5, 'options', $6)",
					 DW_DATUM(TEXTARRAYOID, spec_texts(spec, DW_OLD, offsetof(DwSpecColumn, name)), false),
					 DW_DATUM(TEXTARRAYOID, spec_texts(spec, DW_NEW, offsetof(DwSpecColumn, name)), false),
					 DW_DATUM(TEXTARRAYOID, spec_texts(spec, DW_OLD, offsetof(DwSpecColumn, expr)), false),
					 DW_DATUM(TEXTARRAYOID, spec_texts(spec, DW_NEW, offsetof(DwSpecColumn, expr)), false),
					 DW_DATUM(TEXTARRAYOID, spec_texts(spec, DW_NEW, offsetof(DwSpecColumn, type)), false),
					 DW_DATUM(JSONBOID, JsonbPGetDatum(spec->options_given), false));
}

/* A migration of that name that is in the way, or is this one already. */
static DwMigration *
same_again(DwSpec *spec)
{
	DwMigration *m = dw_migration_find(spec->name, true);
	Oid			relid = m && m->members ? ((DwMember *) linitial(m->members))->relid : InvalidOid;
	char	   *definition = JsonbToCString(NULL, &spec->definition->root, 0);

	if (m == NULL || m->phase == DW_ABORTED)
		return NULL;
	if (strcmp(definition, m->definition) == 0 && (relid == spec->relid || (m->phase == DW_FINALIZED && m->members == NIL)))
		return m;
	if (m->phase == DW_FINALIZED)
		return NULL;
	ereport(ERROR,
			(errcode(ERRCODE_DUPLICATE_OBJECT),
			 errmsg("migration \"%s\" exists with another definition", spec->name),
			 errdetail("It is %s, on table \"%s\".", dw_enum_name(dw_phase_names, m->phase),
					   get_rel_name(relid) ? get_rel_name(relid) : "(dropped)"),
			 errhint("Choose another name, or end it with dw_finalize or dw_abort.")));
	return NULL;				/* keep compiler quiet */
}

/* ---- beginning ---- */

/* Refuses what can be refused before anybody has to wait.  True if columns are to be created. */
static bool
check_unlocked(DwSpec *spec)
{
	Relation	rel;
	bool		create;

	rel = try_relation_open(spec->relid, AccessShareLock);
	if (rel == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", spec->relid),
				 errdetail("It was dropped, or the number never named one."),
				 errhint("Name the table.")));
	dw_spec_check_table(rel);
	create = dw_spec_check_columns(spec, rel);
	if (!spec->options.subscribers_ready)
		dw_spec_check_publications(rel, create);
	CheckCmdReplicaIdentity(rel, CMD_UPDATE);
	if (spec->options.throttle_query[0])
		dw_throttle_query_check(spec->options.throttle_query, rel->rd_rel->relowner);
	relation_close(rel, AccessShareLock);
	return create;
}

static text *
begin(DwSpec *spec, const char *verb)
{
	DwMigration *m;
	Relation	rel;
	bool		create;

	dw_check_writable(verb);
	make_definition(spec);

	/* nobody gets to hold the name who could not use it */
	m = dw_migration_find(spec->name, true);
	if (m && m->phase < DW_FINALIZED)
		dw_check_owner(m);
	if (get_rel_name(spec->relid) && get_rel_relkind(spec->relid) == RELKIND_RELATION &&
		!object_ownercheck(RelationRelationId, spec->relid, GetUserId()))
		dw_spec_check_table(relation_open(spec->relid, AccessShareLock));
	dw_lock_name(spec->name);
	m = same_again(spec);
	if (m)
		return cstring_to_text(psprintf("nothing to do: migration \"%s\" is %s", m->name, dw_enum_name(dw_phase_names, m->phase)));

	create = check_unlocked(spec);
	dw_lock_relation(spec->relid, create ? AccessExclusiveLock : ShareRowExclusiveLock);
	rel = relation_open(spec->relid, NoLock);
	dw_spec_check_table(rel);
	if (dw_spec_check_columns(spec, rel) != create)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" was changed meanwhile", RelationGetRelationName(rel)),
				 errdetail("Its columns are no longer those that were looked at before it was locked."),
				 errhint("Repeat the call.")));
	relation_close(rel, NoLock);
	m = dw_spec_attach(spec);
	if (IsTransactionBlock())
		ereport(NOTICE,
				(errmsg("the lock on table \"%s\" (%s) lasts until the end of this transaction", get_rel_name(spec->relid),
						create ? "ACCESS EXCLUSIVE" : "SHARE ROW EXCLUSIVE")));
	dw_work_now(m);
	dw_launch_if_due(m->id);
	if (m->mirror != DW_MIRROR_BOTH)
		return cstring_to_text(psprintf("migration \"%s\" has begun with the mirror set to %s: nothing is backfilled until it is on both ways",
										m->name, dw_enum_name(dw_mirror_names, m->mirror)));
	if (m->phase == DW_BACKFILLING)
		return cstring_to_text(psprintf("migration \"%s\" has begun: the mirror is on, the backfill runs in the background", m->name));
	return cstring_to_text(psprintf("migration \"%s\" has begun and is %s%s", m->name, dw_enum_name(dw_phase_names, m->phase),
									m->failed ? ": it failed, see dw_status" : ""));
}

Datum
dw_begin(PG_FUNCTION_ARGS)
{
	DwSpec		spec = {.name = text_arg(fcinfo, 0),.simple = true};
	char	   *new_type = text_arg(fcinfo, 3);
	char	   *new_column = name_arg(fcinfo, 4);
	DwSpecColumn *col;

	check_common(&spec, fcinfo, 7);
	if (new_column == NULL && new_type == NULL)
		bad_argument("nothing to change: neither new_column nor new_type is given", "A migration gives a column another name, another type, or both.", "Name the new column, its type, or both.");
	if (new_column == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("changing a column in place is not supported by this version of pg_dualwrite"),
				 errdetail("It is part of the design and comes with a later release."),
				 errhint("Name a new_column; applications then move from one column to the other.")));
	col = add_column(&spec, DW_OLD, name_arg(fcinfo, 2));
	col->expr = text_arg(fcinfo, 6);
	col = add_column(&spec, DW_NEW, new_column);
	col->type = new_type;
	col->expr = text_arg(fcinfo, 5);
	PG_RETURN_TEXT_P(begin(&spec, "dw_begin()"));
}

Datum
dw_begin_mapping(PG_FUNCTION_ARGS)
{
	DwSpec		spec = {.name = text_arg(fcinfo, 0)};
	Datum	   *names;
	bool	   *nulls;
	int			n;

	check_common(&spec, fcinfo, 6);
	if (PG_ARGISNULL(2) || PG_ARGISNULL(3))
		bad_argument("a mapping needs old_columns and forward", "One of them is null.", "For example dw_begin_mapping('names', 'people', '{name}', '{\"first_name\": \"split_part(name, '' '', 1)\"}').");
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(2), NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR, &names, &nulls, &n);
	for (int i = 0; i < n; i++)
		(void) add_column(&spec, DW_OLD, nulls[i] ? NULL : pstrdup(NameStr(*DatumGetName(names[i]))));
	each_entry(PG_GETARG_JSONB_P(3), "forward", forward_entry, &spec);
	if (spec.n[DW_OLD] == 0 || spec.n[DW_NEW] == 0)
		bad_argument("a mapping needs columns on both sides", "One side has none.", "Name old_columns, and give an expression in forward for each new column.");
	if (!PG_ARGISNULL(4))
	{
		each_entry(PG_GETARG_JSONB_P(4), "backward", backward_entry, &spec);
		for (int i = 0; i < n; i++)
			if (spec.cols[DW_OLD][i].expr == NULL)
				bad_argument(psprintf("backward gives no expression for column \"%s\"", spec.cols[DW_OLD][i].name),
							 "A row written by the new side would be left half old.", "It gives all old_columns, or is left out (one way).");
	}
	if (!PG_ARGISNULL(5))
		each_entry(PG_GETARG_JSONB_P(5), "new_types", type_entry, &spec);
	PG_RETURN_TEXT_P(begin(&spec, "dw_begin_mapping()"));
}
