/*
 * begin_attach.c
 *		Makes a migration on a table that is locked: its new columns, its rules,
 *		its triggers.
 *
 * Everything here is one transaction with the lock, so that it is all there
 * or nothing.  What the caller's texts mean is analyzed as the table's owner,
 * by the caller's search_path.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "parser/parse_coerce.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "attach.h"
#include "begin.h"
#include "compat.h"
#include "expr.h"
#include "fault.h"
#include "proof.h"
#include "rule.h"
#include "run.h"

/* ---- columns ---- */

/* Type of a new column: the given one, that of the column that is there, or of the old column. */
static void
new_column_type(DwSpec *spec, DwSpecColumn *col, Relation rel, Oid *type, int32 *typmod, Oid *collation)
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
create_columns(DwSpec *spec)
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
		DwSpecColumn *col = &spec->cols[DW_NEW][i];
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

/* ---- rules ---- */

/* The type of a new column that is there already must be the one asked for. */
static void
check_existing_types(DwSpec *spec, Relation rel)
{
	for (int i = 0; i < spec->n[DW_NEW]; i++)
	{
		DwSpecColumn *col = &spec->cols[DW_NEW][i];
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
analyze(Relation rel, const char *text, DwSide target, DwSpecColumn *col)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), col->attnum - 1);

	return dw_expr_analyze(rel, text, target == DW_NEW ? "forward" : "backward", col->name, att->atttypid, att->atttypmod, att->attcollation);
}

/* Expressions that dw_begin was not given. */
static void
default_casts(DwSpec *spec, Relation rel)
{
	DwSpecColumn *old = &spec->cols[DW_OLD][0];
	DwSpecColumn *new = &spec->cols[DW_NEW][0];
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
analyze_rules(DwSpec *spec, Relation rel)
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
rule_texts(DwSpec *spec, DwSide side, Relation rel, DwRuleText *texts)
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
check_new_defaults(DwSpec *spec, DwRule *rule, Relation rel)
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

/* ---- the member ---- */

static List *
names_of(DwSpec *spec, DwSide side, bool created_only)
{
	List	   *names = NIL;

	for (int i = 0; i < spec->n[side]; i++)
		if (!created_only || spec->cols[side][i].create)
			names = lappend(names, spec->cols[side][i].name);
	return names;
}

/* The rules of a new member: stored, and seen to be usable. */
static void
attach_rules(DwSpec *spec, int member_id)
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
	dw_spec_check_others(rel, bms_union(rule->side[DW_OLD].bits, rule->side[DW_NEW].bits), rule->reads, member_id);
	dw_run_end(&run);
	relation_close(rel, NoLock);
}

DwMigration *
dw_spec_attach(DwSpec *spec)
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
