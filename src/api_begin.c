/*
 * api_begin.c
 *		dw_begin and dw_begin_mapping: from arguments to a running migration.
 *
 * One transaction, one lock: the table is locked (which drains its writers),
 * columns that are missing are added, the rules are analyzed and stored, the
 * triggers made, and the snapshot taken that tells rows written before the
 * mirror from rows written after it.  What can be refused without the lock is
 * refused before it is asked for.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/catalog.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "parser/parse_type.h"
#include "rewrite/rewriteHandler.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "api.h"
#include "attach.h"
#include "compat.h"
#include "expr.h"
#include "fault.h"
#include "migration.h"
#include "options.h"
#include "proof.h"
#include "query.h"
#include "rule.h"
#include "run.h"
#include "worker.h"

PG_FUNCTION_INFO_V1(dw_begin);
PG_FUNCTION_INFO_V1(dw_begin_mapping);

/* one column of a side, as asked for */
typedef struct SpecColumn
{
	char	   *name;
	char	   *expr;			/* that gives it; NULL: none given */
	char	   *type;			/* of a new column; NULL: none given */
	bool		create;
	AttrNumber	attnum;
	Node	   *node;			/* the analyzed expression; NULL: none */
} SpecColumn;

/* a migration, as asked for */
typedef struct Spec
{
	char	   *name;
	Oid			relid;
	int			n[2];
	SpecColumn	cols[2][DW_MAX_COLUMNS];	/* by side */
	bool		simple;			/* dw_begin: expressions left out are casts */
	bool		has_backward;
	Jsonb	   *options_given;
	DwOptions	options;
	Jsonb	   *definition;
} Spec;

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

static SpecColumn *
add_column(Spec *spec, DwSide side, char *name)
{
	SpecColumn *col;

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

static SpecColumn *
find_column(Spec *spec, DwSide side, const char *name)
{
	for (int i = 0; i < spec->n[side]; i++)
		if (strcmp(spec->cols[side][i].name, name) == 0)
			return &spec->cols[side][i];
	return NULL;
}

/* What an object maps column names to; calls back with name and text. */
static void
each_entry(Jsonb *object, const char *what, void (*callback) (Spec *, char *, char *), Spec *spec)
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
forward_entry(Spec *spec, char *key, char *value)
{
	add_column(spec, DW_NEW, key)->expr = value;
}

static void
backward_entry(Spec *spec, char *key, char *value)
{
	SpecColumn *col = find_column(spec, DW_OLD, key);

	if (col == NULL)
		bad_argument(psprintf("backward gives column \"%s\", which is not among old_columns", key), "Only the old side can be derived backward.", "backward gives the old columns, forward the new ones.");
	col->expr = value;
}

static void
type_entry(Spec *spec, char *key, char *value)
{
	SpecColumn *col = find_column(spec, DW_NEW, key);

	if (col == NULL)
		bad_argument(psprintf("new_types gives a type for column \"%s\", which forward does not give", key), "Every new column is given by an expression.", "new_types is for the columns that forward gives.");
	col->type = value;
}

static void
check_common(Spec *spec, FunctionCallInfo fcinfo, int options_arg)
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
spec_texts(Spec *spec, DwSide side, size_t offset)
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
make_definition(Spec *spec)
{
	spec->definition =
		DW_OWN_JSONB("SELECT pg_catalog.jsonb_build_object('old', $1, 'new', $2, 'backward', $3, 'forward', $4, 'types', $5, 'options', $6)",
					 DW_DATUM(TEXTARRAYOID, spec_texts(spec, DW_OLD, offsetof(SpecColumn, name)), false),
					 DW_DATUM(TEXTARRAYOID, spec_texts(spec, DW_NEW, offsetof(SpecColumn, name)), false),
					 DW_DATUM(TEXTARRAYOID, spec_texts(spec, DW_OLD, offsetof(SpecColumn, expr)), false),
					 DW_DATUM(TEXTARRAYOID, spec_texts(spec, DW_NEW, offsetof(SpecColumn, expr)), false),
					 DW_DATUM(TEXTARRAYOID, spec_texts(spec, DW_NEW, offsetof(SpecColumn, type)), false),
					 DW_DATUM(JSONBOID, JsonbPGetDatum(spec->options_given), false));
}

/* A migration of that name that is in the way, or is this one already. */
static DwMigration *
same_again(Spec *spec)
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

/* ---- the table ---- */

static void
wrong_table(int code, Relation rel, const char *what, const char *hint)
{
	ereport(ERROR,
			(errcode(code),
			 errmsg("\"%s\" %s", RelationGetRelationName(rel), what),
			 errdetail("Columns are migrated in ordinary tables."),
			 errhint("%s", hint)));
}

static void
check_table(Relation rel)
{
	switch (rel->rd_rel->relkind)
	{
		case RELKIND_RELATION:
			break;
		case RELKIND_PARTITIONED_TABLE:
			wrong_table(ERRCODE_FEATURE_NOT_SUPPORTED, rel, "is partitioned, which this version does not support", "Partitioned tables come with a later release.");
			break;
		case RELKIND_VIEW:
		case RELKIND_MATVIEW:
			wrong_table(ERRCODE_WRONG_OBJECT_TYPE, rel, "is a view", "Name the table below it.");
			break;
		case RELKIND_FOREIGN_TABLE:
			wrong_table(ERRCODE_WRONG_OBJECT_TYPE, rel, "is a foreign table", "Migrate it where its rows are.");
			break;
		default:
			wrong_table(ERRCODE_WRONG_OBJECT_TYPE, rel, "is not a table", "Name a table.");
	}
	if (IsCatalogRelation(rel) || IsToastRelation(rel) || RelationGetRelid(rel) < FirstNormalObjectId)
		wrong_table(ERRCODE_INSUFFICIENT_PRIVILEGE, rel, "is a system catalog", "Name a table of your own.");
	if (RelationGetNamespace(rel) == get_namespace_oid(DW_SCHEMA, false))
		wrong_table(ERRCODE_INSUFFICIENT_PRIVILEGE, rel, "belongs to pg_dualwrite itself", "Name a table of your own.");
	if (RELATION_IS_OTHER_TEMP(rel))
		wrong_table(ERRCODE_FEATURE_NOT_SUPPORTED, rel, "is a temporary table of another session", "Only its own session can reach it.");
	if (rel->rd_rel->relispartition)
		wrong_table(ERRCODE_FEATURE_NOT_SUPPORTED, rel, "is a partition, which this version does not support", "Partitioned tables come with a later release.");
	if (has_superclass(RelationGetRelid(rel)) || find_inheritance_children(RelationGetRelid(rel), NoLock) != NIL)
		wrong_table(ERRCODE_FEATURE_NOT_SUPPORTED, rel, "inherits or is inherited from, which this version does not support", "Inheritance comes with a later release.");
	if (rel->rd_rel->relam != HEAP_TABLE_AM_OID)
		wrong_table(ERRCODE_FEATURE_NOT_SUPPORTED, rel, "is not stored as a heap", "Other table access methods are not supported.");
	if (!object_ownercheck(RelationRelationId, RelationGetRelid(rel), GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of table \"%s\" to migrate it", RelationGetRelationName(rel)),
				 errdetail("It is owned by role \"%s\".", GetUserNameFromId(rel->rd_rel->relowner, false)),
				 errhint("SET ROLE to the owner, or ask it.")));
}

/* Looks the columns up; true if some have to be created. */
static bool
check_columns(Spec *spec, Relation rel)
{
	bool		create = false;

	for (int s = 0; s < 2; s++)
		for (int i = 0; i < spec->n[s]; i++)
		{
			SpecColumn *col = &spec->cols[s][i];
			Form_pg_attribute att;

			col->attnum = get_attnum(RelationGetRelid(rel), col->name);
			if (col->attnum == InvalidAttrNumber && s == DW_NEW && (spec->simple || col->type))
			{
				col->create = create = true;
				continue;
			}
			if (col->attnum == InvalidAttrNumber)
				ereport(ERROR,
						(errcode(ERRCODE_UNDEFINED_COLUMN),
						 errmsg("column \"%s\" of table \"%s\" does not exist", col->name, RelationGetRelationName(rel)),
						 errdetail("It is on the %s side of migration \"%s\".", dw_side_name(s), spec->name),
						 s == DW_NEW ? errhint("Give it a type in new_types, and it will be created.")
						 : errhint("Look at the columns of the table.")));
			if (col->attnum < 0)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
						 errmsg("column \"%s\" is a system column", col->name),
						 errdetail("System columns can't be written."),
						 errhint("Name a column of your own.")));
			att = TupleDescAttr(RelationGetDescr(rel), col->attnum - 1);
			if (att->attgenerated)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
						 errmsg("column \"%s\" is a generated column", col->name),
						 errdetail("Nobody writes it, so it can't be on a side of a migration."),
						 errhint("Drop its expression first (ALTER TABLE ... ALTER COLUMN ... DROP EXPRESSION).")));
		}
	return create;
}

static void
check_publications(Relation rel, bool create)
{
	MemoryContext cxt = CurrentMemoryContext;
	DwRun		run;
	char	   *names;
	char	   *all;

	dw_run_begin(&run, dw_own_role());
	DW_SQL("SELECT pg_catalog.string_agg(pg_catalog.quote_ident(p.pubname), ', ' ORDER BY p.pubname) FROM pg_catalog.pg_publication p"
		   " WHERE p.puballtables"
		   " OR EXISTS (SELECT 1 FROM pg_catalog.pg_publication_namespace n WHERE n.pnpubid = p.oid AND n.pnnspid = $2)"
		   " OR EXISTS (SELECT 1 FROM pg_catalog.pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid = $1 AND r.prattrs IS NULL)",
		   DW_OID(RelationGetRelid(rel)), DW_OID(RelationGetNamespace(rel)));
	names = create ? dw_sql_text(0, 0, cxt) : NULL;
	DW_SQL("SELECT pg_catalog.string_agg(pg_catalog.quote_ident(p.pubname), ', ' ORDER BY p.pubname) FROM pg_catalog.pg_publication p"
		   " WHERE p.puballtables OR EXISTS (SELECT 1 FROM pg_catalog.pg_publication_namespace n WHERE n.pnpubid = p.oid AND n.pnnspid = $1)",
		   DW_OID(get_namespace_oid(DW_SCHEMA, false)));
	all = dw_sql_text(0, 0, cxt);
	dw_run_end(&run);
	if (all && !names)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("publication %s publishes the tables of pg_dualwrite, and a subscriber without them would stop", all),
				 errdetail("All tables are published, those in which migrations are recorded among them."),
				 errhint("CREATE EXTENSION pg_dualwrite on every subscriber and give the option {\"subscribers_ready\": true}, or publish tables by name.")));
	if (names)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" is published by %s, and a subscriber without the new column would stop", RelationGetRelationName(rel), names),
				 errdetail("The new column becomes part of what is published at once."),
				 all ? errhint("Add the column, and CREATE EXTENSION pg_dualwrite, on every subscriber and give the option {\"subscribers_ready\": true}.")
				 : errhint("Add the column on every subscriber and give the option {\"subscribers_ready\": true}, or publish a column list.")));
}

/* No column may be touched by two migrations, not even by reading it. */
static void
check_other_members(Spec *spec, Relation rel, Bitmapset *sides, Bitmapset *reads, int except)
{
	ListCell   *lc;

	foreach(lc, dw_members_of(RelationGetRelid(rel), except))
	{
		DwRule	   *other = dw_rule_open(lfirst_int(lc), rel);
		Bitmapset  *other_sides;
		Bitmapset  *both;

		if (other == NULL)
			continue;
		other_sides = bms_union(other->side[DW_OLD].bits, other->side[DW_NEW].bits);
		both = bms_union(bms_intersect(sides, other->watch), bms_intersect(reads, other_sides));
		if (!bms_is_empty(both))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("column \"%s\" is in migration \"%s\" already",
							get_attname(RelationGetRelid(rel), bms_next_member(both, -1) + FirstLowInvalidHeapAttributeNumber, false),
							other->cfg.migration),
					 errdetail("A column can be written or read by the rules of one migration at a time."),
					 errhint("End that migration first, with dw_finalize or dw_abort.")));
	}
}

/* ---- columns and rules ---- */

/* Type of a new column: the given one, that of the column that is there, or of the old column. */
static void
new_column_type(Spec *spec, SpecColumn *col, Relation rel, Oid *type, int32 *typmod, Oid *collation)
{
	Form_pg_attribute old = TupleDescAttr(RelationGetDescr(rel), spec->cols[DW_OLD][0].attnum - 1);

	if (col->type)
	{
		dw_parse_type(col->type, type, typmod);
		if (get_typtype(*type) == TYPTYPE_PSEUDO)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
					 errmsg("column \"%s\" can't have pseudo-type %s", col->name, format_type_be(*type)),
					 errdetail("Pseudo-types have no values that could be stored."),
					 errhint("Name a data type.")));
		*collation = get_typcollation(*type);
		if (OidIsValid(*collation) && spec->simple && OidIsValid(old->attcollation))
			*collation = old->attcollation;
	}
	else
	{
		*type = old->atttypid;
		*typmod = old->atttypmod;
		*collation = old->attcollation;
	}
}

static char *
qualified_collation(Oid collation)
{
	HeapTuple	tup = SearchSysCache1(COLLOID, ObjectIdGetDatum(collation));
	Form_pg_collation form;
	char	   *name;

	if (!HeapTupleIsValid(tup))
		elog(ERROR, "cache lookup failed for collation %u", collation);
	form = (Form_pg_collation) GETSTRUCT(tup);
	name = quote_qualified_identifier(get_namespace_name(form->collnamespace), NameStr(form->collname));
	ReleaseSysCache(tup);
	return name;
}

/*
 * Adds the columns that are missing, in one command, as the table's owner.
 * The table is locked but not open: ALTER TABLE wants nobody to use it.
 */
static void
create_columns(Spec *spec)
{
	Relation	rel = relation_open(spec->relid, NoLock);
	Oid			owner = rel->rd_rel->relowner;
	StringInfoData sql;
	bool		any = false;
	DwRun		run;

	initStringInfo(&sql);
	appendStringInfo(&sql, "ALTER TABLE %s", dw_table_name(RelationGetRelid(rel)));
	for (int i = 0; i < spec->n[DW_NEW]; i++)
	{
		SpecColumn *col = &spec->cols[DW_NEW][i];
		Oid			type;
		Oid			collation;
		int32		typmod;

		if (!col->create)
			continue;
		new_column_type(spec, col, rel, &type, &typmod, &collation);
		if (dw_add_column_rewrites(type) && RelationGetNumberOfBlocks(rel) > (BlockNumber) dw_inline_limit * 1024 / BLCKSZ)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("column \"%s\" can't be added with type %s, a domain with constraints", col->name, format_type_be(type)),
					 errdetail("PostgreSQL would rewrite the whole table under an exclusive lock."),
					 errhint("Take the domain's base type %s, and add its conditions as a CHECK constraint NOT VALID.",
							 format_type_be(getBaseType(type)))));
		appendStringInfo(&sql, "%s ADD COLUMN %s %s", any ? "," : "", quote_identifier(col->name),
						 format_type_extended(type, typmod, FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY));
		if (OidIsValid(collation) && collation != get_typcollation(type))
			appendStringInfo(&sql, " COLLATE %s", qualified_collation(collation));
		any = true;
	}
	relation_close(rel, NoLock);
	if (!any)
		return;
	dw_run_begin(&run, owner);
	dw_command(sql.data);
	dw_run_end(&run);
	CommandCounterIncrement();
	for (int i = 0; i < spec->n[DW_NEW]; i++)
		spec->cols[DW_NEW][i].attnum = get_attnum(spec->relid, spec->cols[DW_NEW][i].name);
}

/* The type of a new column that is there already must be the one asked for. */
static void
check_existing_types(Spec *spec, Relation rel)
{
	for (int i = 0; i < spec->n[DW_NEW]; i++)
	{
		SpecColumn *col = &spec->cols[DW_NEW][i];
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), col->attnum - 1);
		Oid			type;
		int32		typmod;

		if (col->create || col->type == NULL)
			continue;
		dw_parse_type(col->type, &type, &typmod);
		if (type != att->atttypid || (typmod != -1 && typmod != att->atttypmod))
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("column \"%s\" exists and is of type %s, not %s", col->name,
							format_type_with_typemod(att->atttypid, att->atttypmod), col->type),
					 errdetail("An existing column is taken as it is."),
					 errhint("Leave the type out, or name a column that does not exist.")));
	}
}

/* The text of a cast between two columns; NULL if PostgreSQL has none. */
static char *
cast_text(Relation rel, AttrNumber from, AttrNumber to)
{
	Form_pg_attribute f = TupleDescAttr(RelationGetDescr(rel), from - 1);
	Form_pg_attribute t = TupleDescAttr(RelationGetDescr(rel), to - 1);
	Oid			func;

	if (f->atttypid == t->atttypid)
		return pstrdup(quote_identifier(NameStr(f->attname)));
	if (find_coercion_pathway(t->atttypid, f->atttypid, COERCION_EXPLICIT, &func) == COERCION_PATH_NONE)
		return NULL;
	/* without length: what doesn't fit has to raise, as in an assignment */
	return psprintf("CAST(%s AS %s)", quote_identifier(NameStr(f->attname)),
					format_type_extended(t->atttypid, -1, FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY));
}

static Node *
analyze(Relation rel, const char *text, DwSide target, SpecColumn *col)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), col->attnum - 1);

	return dw_expr_analyze(rel, text, target == DW_NEW ? "forward" : "backward", col->name, att->atttypid, att->atttypmod, att->attcollation);
}

/* Expressions that dw_begin was not given. */
static void
default_casts(Spec *spec, Relation rel)
{
	SpecColumn *old = &spec->cols[DW_OLD][0];
	SpecColumn *new = &spec->cols[DW_NEW][0];
	char	   *forward = cast_text(rel, old->attnum, new->attnum);
	char	   *backward = cast_text(rel, new->attnum, old->attnum);

	if (new->expr == NULL && forward == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("type %s of column \"%s\" can't be cast to type %s",
						format_type_be(get_atttype(RelationGetRelid(rel), old->attnum)), old->name,
						format_type_be(get_atttype(RelationGetRelid(rel), new->attnum))),
				 errdetail("No forward expression was given, so a cast was looked for."),
				 errhint("Give a forward expression (and a backward one).")));
	new->node = analyze(rel, new->expr ? new->expr : forward, DW_NEW, new);
	if (old->expr)
		old->node = analyze(rel, old->expr, DW_OLD, old);
	else if (backward)
	{
		/*
		 * A cast is the way back of a cast, not of a forward expression that
		 * says something else: total * 100 cast back would be a hundredfold.
		 */
		bool		plain = new->expr == NULL ||
			(forward != NULL && !dw_expr_is_mutable(rel, forward, new->attnum) &&
			 equal(new->node, analyze(rel, forward, DW_NEW, new)));

		if (plain && !dw_expr_is_mutable(rel, backward, old->attnum))
			old->node = analyze(rel, backward, DW_OLD, old);
	}
	if (old->node == NULL)
		ereport(NOTICE,
				(errmsg("migration \"%s\" is one way: without a backward expression, writes to the new side are refused before dw_switch and don't reach the old side after it", spec->name)));
}

static void
analyze_rules(Spec *spec, Relation rel)
{
	if (spec->simple)
		default_casts(spec, rel);
	else
		for (int s = 0; s < 2; s++)
			for (int i = 0; i < spec->n[s]; i++)
				if (spec->cols[s][i].expr)
					spec->cols[s][i].node = analyze(rel, spec->cols[s][i].expr, s, &spec->cols[s][i]);
	spec->has_backward = spec->cols[DW_OLD][0].node != NULL;
	for (int s = 0; s < 2; s++)
		for (int i = 0; i < spec->n[s]; i++)
			if (spec->cols[s][i].node)
				dw_expr_check_writers(spec->cols[s][i].node, rel);
}

static void
rule_texts(Spec *spec, DwSide side, Relation rel, DwRuleText *texts)
{
	for (int i = 0; i < spec->n[side]; i++)
	{
		texts[i].attnum = spec->cols[side][i].attnum;
		texts[i].body = spec->cols[side][i].node ? dw_expr_deparse(spec->cols[side][i].node, RelationGetRelid(rel)) : NULL;
	}
}

/*
 * A default of a new column would be taken for a value wherever the old side
 * says something else; only forward(old's defaults) is harmless.
 */
static void
check_new_defaults(Spec *spec, DwRule *rule, Relation rel)
{
	Datum	   *values = palloc0(sizeof(Datum) * RelationGetNumberOfAttributes(rel));
	bool	   *nulls = palloc(sizeof(bool) * RelationGetNumberOfAttributes(rel));
	TupleTableSlot *slot;
	Datum		want[DW_MAX_COLUMNS];
	bool		want_null[DW_MAX_COLUMNS];
	ErrorData  *error;
	bool		known = true;
	DwSideRule *new = &rule->side[DW_NEW];

	memset(nulls, true, sizeof(bool) * RelationGetNumberOfAttributes(rel));
	for (int i = 0; i < rule->side[DW_OLD].n; i++)
	{
		DwColumn   *col = &rule->side[DW_OLD].cols[i];

		known &= col->deflt != DW_DEFAULT_OTHER;
		nulls[col->attnum - 1] = col->deflt != DW_DEFAULT_CONST;
		values[col->attnum - 1] = col->value;
	}
	slot = MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsVirtual);
	memcpy(slot->tts_values, values, sizeof(Datum) * RelationGetNumberOfAttributes(rel));
	memcpy(slot->tts_isnull, nulls, sizeof(bool) * RelationGetNumberOfAttributes(rel));
	ExecStoreVirtualTuple(slot);
	known &= dw_rule_derive(rule, DW_NEW, slot, want, want_null, &error);
	for (int i = 0; i < new->n; i++)
	{
		DwColumn   *col = &new->cols[i];

		if (col->deflt == DW_DEFAULT_NONE && OidIsValid(col->notnull_domain))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
					 errmsg("column \"%s\" can't be of domain %s, which is NOT NULL and has no default", spec->cols[DW_NEW][i].name,
							format_type_be(col->notnull_domain)),
					 errdetail("PostgreSQL refuses every INSERT that doesn't name such a column, before triggers fire."),
					 errhint("Take the domain's base type.")));
		if (col->deflt == DW_DEFAULT_NONE ||
			(col->deflt == DW_DEFAULT_CONST && known && !want_null[i] && datum_image_eq(col->value, want[i], col->typbyval, col->typlen)))
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("column \"%s\" has a default that is not the old side's default carried forward", spec->cols[DW_NEW][i].name),
				 errdetail("The mirror could not tell it from a value that the application wrote."),
				 errhint("Drop the default; set it again after dw_finalize.")));
	}
	ExecDropSingleTupleTableSlot(slot);
}

/* ---- beginning ---- */

static List *
names_of(Spec *spec, DwSide side, bool created_only)
{
	List	   *names = NIL;

	for (int i = 0; i < spec->n[side]; i++)
		if (!created_only || spec->cols[side][i].create)
			names = lappend(names, spec->cols[side][i].name);
	return names;
}

/* The rules of a new member: stored, and seen to be usable. */
static void
attach_rules(Spec *spec, int member_id)
{
	Relation	rel = relation_open(spec->relid, NoLock);
	DwRuleText	texts[2][DW_MAX_COLUMNS];
	DwRule	   *rule;
	DwRun		run;
	Oid			userid;
	int			sec_context;
	int			nestlevel;
	int			id;

	/*
	 * Parsing and planning may run code of the table's owner: as the owner, but
	 * by the caller's search_path, by which the caller's text is meant.
	 */
	GetUserIdAndSecContext(&userid, &sec_context);
	SetUserIdAndSecContext(rel->rd_rel->relowner, sec_context | SECURITY_LOCAL_USERID_CHANGE |
						   (rel->rd_rel->relowner != userid ? SECURITY_RESTRICTED_OPERATION : 0));
	nestlevel = NewGUCNestLevel();
	check_existing_types(spec, rel);
	analyze_rules(spec, rel);
	rule_texts(spec, DW_OLD, rel, texts[DW_OLD]);
	rule_texts(spec, DW_NEW, rel, texts[DW_NEW]);
	AtEOXact_GUC(false, nestlevel);
	SetUserIdAndSecContext(userid, sec_context);
	id = dw_migration_insert(spec->name, rel->rd_rel->relowner, spec->definition, spec->options.mirror, spec->options.conflict,
							 spec->options.on_error, spec->options_given);
	dw_member_insert(member_id, id, 1, RelationGetRelid(rel), names_of(spec, DW_OLD, false), names_of(spec, DW_NEW, false),
					 names_of(spec, DW_NEW, true), spec->has_backward, dw_relfilenode(rel));
	dw_attach_rules(member_id, rel, spec->n[DW_OLD], texts[DW_OLD], spec->n[DW_NEW], texts[DW_NEW]);
	if (spec->options.proof)
		dw_proof_check(spec->name, member_id, spec->relid);
	if (spec->options.sample_rate > 0)
		dw_attach_samples(member_id, spec->relid);
	CommandCounterIncrement();

	/* planning and evaluating a rule may run code of the owner */
	dw_run_begin(&run, rel->rd_rel->relowner);
	rule = dw_rule_open(member_id, rel);
	check_new_defaults(spec, rule, rel);
	check_other_members(spec, rel, bms_union(rule->side[DW_OLD].bits, rule->side[DW_NEW].bits), rule->reads, member_id);
	dw_run_end(&run);
	relation_close(rel, NoLock);
}

/* All of it, on a table that is locked. */
static DwMigration *
attach(Spec *spec)
{
	int			member_id = dw_member_id();
	Relation	rel;
	DwMigration *m;

	create_columns(spec);
	attach_rules(spec, member_id);
	(void) dw_attach_triggers(member_id, spec->relid);

	/* from here on every write is mirrored: what has been written before is what the snapshot sees */
	rel = relation_open(spec->relid, NoLock);
	dw_attach_begin(member_id, rel);
	relation_close(rel, NoLock);
	CommandCounterIncrement();
	m = dw_migration_find(spec->name, false);
	dw_event(m->id, m->name, "begin", -1, DW_BACKFILLING, NULL);
	dw_fault_at_commit("begin", m->name);
	/* tells everyone to load the configuration */
	dw_member_set_filling(m, true);
	CommandCounterIncrement();
	return m;
}

static text *
begin(Spec *spec, const char *verb)
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
		check_table(relation_open(spec->relid, AccessShareLock));
	dw_lock_name(spec->name);
	m = same_again(spec);
	if (m)
		return cstring_to_text(psprintf("nothing to do: migration \"%s\" is %s", m->name, dw_enum_name(dw_phase_names, m->phase)));

	/* refuse what can be refused before anybody has to wait */
	rel = try_relation_open(spec->relid, AccessShareLock);
	if (rel == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", spec->relid),
				 errdetail("It was dropped, or the number never named one."),
				 errhint("Name the table.")));
	check_table(rel);
	create = check_columns(spec, rel);
	if (!spec->options.subscribers_ready)
		check_publications(rel, create);
	CheckCmdReplicaIdentity(rel, CMD_UPDATE);
	if (spec->options.throttle_query[0])
		dw_throttle_query_check(spec->options.throttle_query, rel->rd_rel->relowner);
	relation_close(rel, AccessShareLock);

	dw_lock_relation(spec->relid, create ? AccessExclusiveLock : ShareRowExclusiveLock);
	rel = relation_open(spec->relid, NoLock);
	check_table(rel);
	if (check_columns(spec, rel) != create)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" was changed meanwhile", RelationGetRelationName(rel)),
				 errdetail("Its columns are no longer those that were looked at before it was locked."),
				 errhint("Repeat the call.")));
	relation_close(rel, NoLock);
	m = attach(spec);
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
	Spec		spec = {.name = text_arg(fcinfo, 0),.simple = true};
	char	   *new_type = text_arg(fcinfo, 3);
	char	   *new_column = name_arg(fcinfo, 4);
	SpecColumn *col;

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
	Spec		spec = {.name = text_arg(fcinfo, 0)};
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
