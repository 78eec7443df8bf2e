/*
 * carry.c
 *		The inventory of what hangs on the columns of a side, and their removal.
 *
 * Definitions are compared as PostgreSQL prints them, with the old column's
 * name replaced by the new one's; only a member of one column on each side can
 * have counterparts of indexes and constraints.  Where the comparison is in
 * doubt it finds a difference: the user is asked, nothing is lost.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "attach.h"
#include "carry.h"
#include "compat.h"
#include "expr.h"
#include "run.h"

DwSideColumns *
dw_side_columns(int member_id)
{
	DwSideColumns *sides = palloc0(sizeof(DwSideColumns));
	DwMirrorConfig cfg;

	if (!dw_mirror_config(member_id, &cfg))
		elog(ERROR, "member %d is missing", member_id);
	if (!OidIsValid(dw_rules_view(member_id, get_rel_persistence(cfg.relid) == RELPERSISTENCE_TEMP)))
		return NULL;
	for (int s = 0; s < 2; s++)
	{
		AttrNumber	attnums[DW_MAX_COLUMNS];
		int			n = dw_rules_columns(dw_rules_view(member_id, get_rel_persistence(cfg.relid) == RELPERSISTENCE_TEMP), cfg.relid, s, attnums, DW_MAX_COLUMNS);

		for (int i = 0; i < n; i++)
		{
			sides->names[s] = lappend(sides->names[s], get_attname(cfg.relid, attnums[i], false));
			sides->attnums[s] = lappend_int(sides->attnums[s], attnums[i]);
		}
	}
	return sides;
}

/*
 * The catalog remembers created columns by the name they had then; the rules
 * keep the order of the new side, and so tell the name of today.
 */
List *
dw_created_columns(DwMember *b, DwSideColumns *sides)
{
	List	   *names = NIL;
	ListCell   *lc;

	foreach(lc, dw_member_created(b->id))
		names = lappend(names, list_nth(sides->names[DW_NEW], lfirst_int(lc)));
	return names;
}

static Datum
int2_array(List *attnums)
{
	Datum	   *d = palloc(sizeof(Datum) * list_length(attnums));
	int			n = 0;
	ListCell   *lc;

	foreach(lc, attnums)
		d[n++] = Int16GetDatum(lfirst_int(lc));
	return PointerGetDatum(construct_array(d, n, INT2OID, 2, true, TYPALIGN_SHORT));
}

bool
dw_new_side_deferrable(DwMember *b)
{
	DwSideColumns *sides = dw_side_columns(b->id);

	if (sides == NULL)
		return false;
	return DW_OWN_SQL("SELECT 1 FROM pg_catalog.pg_constraint c WHERE c.conrelid = $1 AND c.condeferrable AND c.conkey && $2 LIMIT 1",
					  DW_OID(b->relid), DW_DATUM(INT2ARRAYOID, int2_array(sides->attnums[DW_NEW]), false)) > 0;
}

/* One text, or NULL: what a query of (relation, old attnums, new attnums, old name, new name) aggregates. */
#define ASK(sql, relid, sides, cxt) \
	(DW_SQL(sql, DW_OID(relid), DW_DATUM(INT2ARRAYOID, int2_array((sides)->attnums[DW_OLD]), false), \
			DW_DATUM(INT2ARRAYOID, int2_array((sides)->attnums[DW_NEW]), false), \
			DW_TEXT(quote_identifier(linitial((sides)->names[DW_OLD]))), DW_TEXT(quote_identifier(linitial((sides)->names[DW_NEW]))), \
			DW_BOOL(list_length((sides)->names[DW_OLD]) == 1 && list_length((sides)->names[DW_NEW]) == 1)), \
	 dw_sql_text(0, 0, cxt))

/* definition text with the old name replaced: whole words, or as it is where quoted */
#define RENAMED(def) \
	"CASE WHEN $4 ~ '^[a-z_][a-z0-9_$]*$' THEN pg_catalog.regexp_replace(" def ", '\\m' || pg_catalog.replace($4, '$', '\\$') || '\\M'," \
	" pg_catalog.replace($5, '\\', '\\\\'), 'g') ELSE pg_catalog.replace(" def ", $4, $5) END"
#define INDEX_BODY(oid) "pg_catalog.regexp_replace(pg_catalog.pg_get_indexdef(" oid "), '^.*? USING ', '')"

/* What of the old side has no counterpart, as a list for the message; NULL if nothing. */
static char *
missing_counterparts(Oid relid, DwSideColumns *sides)
{
	MemoryContext cxt = CurrentMemoryContext;
	StringInfoData buf;
	char	   *part;
	DwRun		run;

	initStringInfo(&buf);
	dw_run_begin(&run, dw_own_role());
#define ADD(sql) \
	if ((part = ASK(sql, relid, sides, cxt)) != NULL) \
		appendStringInfo(&buf, "%s%s", buf.len ? ", " : "", part)

	ADD("SELECT pg_catalog.string_agg(pg_catalog.format('index %s', i.indexrelid::pg_catalog.regclass), ', ' ORDER BY i.indexrelid::pg_catalog.regclass::text)"
		" FROM pg_catalog.pg_index i WHERE i.indrelid = $1"
		" AND (EXISTS (SELECT 1 FROM pg_catalog.unnest(i.indkey::int2[]) k WHERE k = ANY ($2))"
		"   OR EXISTS (SELECT 1 FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = i.indexrelid"
		"              AND d.refobjid = $1 AND d.refobjsubid = ANY ($2)))"
		" AND NOT ($6 AND EXISTS (SELECT 1 FROM pg_catalog.pg_index n WHERE n.indrelid = $1 AND n.indexrelid <> i.indexrelid AND n.indisvalid"
		"   AND n.indisunique >= i.indisunique AND n.indisprimary >= i.indisprimary AND n.indisexclusion = i.indisexclusion AND n.indimmediate >= i.indimmediate"
		"   AND EXISTS (SELECT 1 FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = n.indexrelid"
		"               AND d.refobjid = $1 AND d.refobjsubid = ANY ($3) UNION ALL SELECT 1 FROM pg_catalog.unnest(n.indkey::int2[]) k WHERE k = ANY ($3))"
		"   AND " INDEX_BODY("n.indexrelid") " = " RENAMED(INDEX_BODY("i.indexrelid")) "))");
	ADD("SELECT pg_catalog.string_agg(pg_catalog.format('constraint %I%s', c.conname, CASE WHEN c.conrelid <> $1 THEN ' of table ' || c.conrelid::pg_catalog.regclass ELSE '' END),"
		" ', ' ORDER BY c.conname)"
		" FROM pg_catalog.pg_constraint c WHERE c.contype IN ('c', 'f', 'x')"
		" AND (c.conrelid = $1 AND c.conkey && $2 OR c.confrelid = $1 AND c.confkey && $2)"
		" AND NOT ($6 AND EXISTS (SELECT 1 FROM pg_catalog.pg_constraint n WHERE n.oid <> c.oid AND n.conrelid = c.conrelid AND n.contype = c.contype AND n.convalidated"
		"   AND (n.conkey && $3 OR n.confkey && $3 AND n.confrelid = $1)"
		"   AND pg_catalog.pg_get_constraintdef(n.oid) = " RENAMED("pg_catalog.pg_get_constraintdef(c.oid)") "))");
	ADD("SELECT pg_catalog.string_agg(pg_catalog.format('NOT NULL of column %I', a.attname), ', ' ORDER BY a.attnum)"
		" FROM pg_catalog.pg_attribute a WHERE a.attrelid = $1 AND a.attnum = ANY ($2) AND a.attnotnull"
		" AND $4 IS NOT NULL AND $5 IS NOT NULL AND $6 IS NOT NULL"
		" AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_attribute n WHERE n.attrelid = $1 AND n.attnum = ANY ($3) AND n.attnotnull)");
	ADD("SELECT pg_catalog.string_agg(pg_catalog.format('%s of column %I', CASE WHEN a.attidentity <> '' THEN 'identity' ELSE 'default' END, a.attname), ', ' ORDER BY a.attnum)"
		" FROM pg_catalog.pg_attribute a WHERE a.attrelid = $1 AND a.attnum = ANY ($2) AND (a.atthasdef OR a.attidentity <> '')"
		" AND $4 IS NOT NULL AND $5 IS NOT NULL AND $6 IS NOT NULL"
		" AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_attribute n WHERE n.attrelid = $1 AND n.attnum = ANY ($3) AND (n.atthasdef OR n.attidentity <> ''))");
	ADD("SELECT pg_catalog.string_agg(pg_catalog.format('statistics object %I', s.stxname), ', ' ORDER BY s.stxname)"
		" FROM pg_catalog.pg_statistic_ext s WHERE s.stxrelid = $1"
		" AND EXISTS (SELECT 1 FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass AND d.objid = s.oid"
		"             AND d.refobjid = $1 AND d.refobjsubid = ANY ($2))"
		" AND NOT ($6 AND EXISTS (SELECT 1 FROM pg_catalog.pg_statistic_ext n WHERE n.oid <> s.oid AND n.stxrelid = $1 AND n.stxkind = s.stxkind"
		/* the same columns, in whatever order they stand in the table, and the same expressions */
		"   AND ARRAY(SELECT k FROM pg_catalog.unnest(n.stxkeys::int2[]) k ORDER BY 1)"
		"     = ARRAY(SELECT CASE WHEN k = $2[1] THEN $3[1] ELSE k END FROM pg_catalog.unnest(s.stxkeys::int2[]) k ORDER BY 1)"
		"   AND coalesce(pg_catalog.pg_get_expr(n.stxexprs, $1), '') = " RENAMED("coalesce(pg_catalog.pg_get_expr(s.stxexprs, $1), '')") "))");
#undef ADD
	dw_run_end(&run);
	return buf.len ? buf.data : NULL;
}

/* What else would have to go with the old columns; NULL if nothing. */
static char *
dependents(Oid relid, DwSideColumns *sides)
{
	MemoryContext cxt = CurrentMemoryContext;
	DwRun		run;
	char	   *list;

	dw_run_begin(&run, dw_own_role());
	list = ASK("SELECT pg_catalog.string_agg(DISTINCT CASE WHEN d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND EXISTS (SELECT 1 FROM pg_catalog.pg_rewrite w"
			   "   JOIN pg_catalog.pg_class c ON c.oid = w.ev_class WHERE w.oid = d.objid AND c.relkind IN ('v', 'm'))"
			   " THEN (SELECT pg_catalog.format('%s %s', CASE c.relkind WHEN 'm' THEN 'materialized view' ELSE 'view' END, c.oid::pg_catalog.regclass)"
			   "         FROM pg_catalog.pg_rewrite w JOIN pg_catalog.pg_class c ON c.oid = w.ev_class WHERE w.oid = d.objid)"
			   " ELSE pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid) END, ', ')"
			   " FROM pg_catalog.pg_depend d WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = $1"
			   " AND d.refobjsubid = ANY ($2) AND d.deptype = 'n' AND $3 IS NOT NULL AND $4 IS NOT NULL AND $5 IS NOT NULL AND $6 IS NOT NULL"
			   " AND NOT (d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND EXISTS (SELECT 1 FROM pg_catalog.pg_constraint k"
			   "          WHERE k.oid = d.objid AND k.conrelid = $1))"
			   " AND NOT (d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND EXISTS (SELECT 1 FROM pg_catalog.pg_rewrite w"
			   "          JOIN pg_catalog.pg_class c ON c.oid = w.ev_class WHERE w.oid = d.objid AND c.relname ~ '^m[0-9]+_rules$'"
			   "          AND (c.relnamespace = 'dualwrite'::pg_catalog.regnamespace OR c.relpersistence = 't')))", relid, sides, cxt);
	dw_run_end(&run);
	return list;
}

/*
 * A sequence goes with the column that owns it.  One that something else uses,
 * as the new column's default does once it shares the old one's, must not.
 */
static char *
shared_sequences(Oid relid, DwSideColumns *sides)
{
	MemoryContext cxt = CurrentMemoryContext;
	DwRun		run;
	char	   *list;

	dw_run_begin(&run, dw_own_role());
	list = ASK("SELECT pg_catalog.string_agg(DISTINCT pg_catalog.format('sequence %s (for %s)', s.oid::pg_catalog.regclass,"
			   "   pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid)), ', ')"
			   " FROM pg_catalog.pg_depend o JOIN pg_catalog.pg_class s ON s.oid = o.objid AND s.relkind = 'S'"
			   " JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = s.oid AND d.deptype = 'n'"
			   " WHERE o.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND o.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass"
			   " AND o.refobjid = $1 AND o.refobjsubid = ANY ($2) AND o.deptype IN ('a', 'i')"
			   " AND NOT (d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND EXISTS (SELECT 1 FROM pg_catalog.pg_attrdef f"
			   "          WHERE f.oid = d.objid AND f.adrelid = $1 AND f.adnum = ANY ($2)))"
			   " AND $3 IS NOT NULL AND $4 IS NOT NULL AND $5 IS NOT NULL AND $6 IS NOT NULL", relid, sides, cxt);
	dw_run_end(&run);
	return list;
}

void
dw_check_counterparts(DwMigration *m, Oid relid, DwSideColumns *sides)
{
	char	   *list = missing_counterparts(relid, sides);

	if (list)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("migration \"%s\" can't be finalized: without a counterpart on the new side: %s", m->name, list),
				 errdetail("They would be dropped together with the old side of table \"%s\".", get_rel_name(relid)),
				 errhint("Create the same on the new side, or drop them first where they are no longer wanted.")));
	list = dependents(relid, sides);
	if (list)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("migration \"%s\" can't be finalized: other objects depend on the old side: %s", m->name, list),
				 errdetail("They use columns of table \"%s\" that would be dropped.", get_rel_name(relid)),
				 errhint("Let them use the new side, or drop them; nothing is ever dropped with CASCADE.")));
	list = shared_sequences(relid, sides);
	if (list)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("migration \"%s\" can't be finalized: the old side owns what something else uses: %s", m->name, list),
				 errdetail("A sequence is dropped together with the column that owns it."),
				 errhint("ALTER SEQUENCE ... OWNED BY %s.%s hands it over.", dw_table_name(relid),
						 quote_identifier(linitial(sides->names[DW_NEW])))));
}

static List *
attnums_of(Oid relid, List *names)
{
	List	   *attnums = NIL;
	ListCell   *lc;

	foreach(lc, names)
		attnums = lappend_int(attnums, get_attnum(relid, lfirst(lc)));
	return attnums;
}

void
dw_check_abortable(DwMigration *m, Oid relid, List *names)
{
	List	   *attnums = attnums_of(relid, names);
	DwSideColumns going = {{names, names}, {attnums, attnums}};
	char	   *list = names == NIL ? NULL : dependents(relid, &going);

	if (list)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("migration \"%s\" can't be aborted: other objects depend on the new side: %s", m->name, list),
				 errdetail("They use columns of table \"%s\" that dw_begin created, and that would be dropped.", get_rel_name(relid)),
				 errhint("Let them use the old side, or drop them; nothing is ever dropped with CASCADE.")));
}

/*
 * Who migrates a serial column hands its sequence over, so that it outlives the
 * old column.  Given up, it has to outlive the new one.
 */
void
dw_return_sequences(Oid relid, List *names)
{
	MemoryContext cxt = CurrentMemoryContext;
	char	   *table;
	List	   *commands = NIL;
	Relation	rel;
	DwRun		run;
	ListCell   *lc;

	if (names == NIL)
		return;					/* the table may be gone */
	table = dw_table_name(relid);
	dw_run_begin(&run, dw_own_role());
	DW_SQL("SELECT pg_catalog.format('%I.%I', s.relnamespace::pg_catalog.regnamespace::pg_catalog.name, s.relname),"
		   " (SELECT pg_catalog.quote_ident(a.attname) FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_attrdef f ON f.oid = d.objid"
		   "   JOIN pg_catalog.pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum"
		   "   WHERE d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass"
		   "   AND d.refobjid = s.oid AND d.deptype = 'n' AND f.adrelid = $1 AND NOT f.adnum = ANY ($2) ORDER BY f.adnum LIMIT 1)"
		   " FROM pg_catalog.pg_depend o JOIN pg_catalog.pg_class s ON s.oid = o.objid AND s.relkind = 'S'"
		   " WHERE o.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND o.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass"
		   " AND o.refobjid = $1 AND o.refobjsubid = ANY ($2) AND o.deptype = 'a'"
		   " AND EXISTS (SELECT 1 FROM pg_catalog.pg_depend d WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = s.oid"
		   "   AND d.deptype = 'n' AND NOT (d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND EXISTS (SELECT 1 FROM pg_catalog.pg_attrdef f"
		   "   WHERE f.oid = d.objid AND f.adrelid = $1 AND f.adnum = ANY ($2)))) ORDER BY s.oid",
		   DW_OID(relid), DW_DATUM(INT2ARRAYOID, int2_array(attnums_of(relid, names)), false));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		char	   *sequence = dw_sql_text(i, 0, cxt);
		char	   *column = dw_sql_text(i, 1, cxt);
		MemoryContext old = MemoryContextSwitchTo(cxt);

		/* what only other tables use belongs to nobody then */
		commands = lappend(commands, psprintf("ALTER SEQUENCE %s OWNED BY %s%s%s", sequence, column ? table : "NONE",
											  column ? "." : "", column ? column : ""));
		MemoryContextSwitchTo(old);
	}
	dw_run_end(&run);
	if (commands == NIL)
		return;
	rel = table_open(relid, NoLock);
	dw_run_begin(&run, rel->rd_rel->relowner);
	table_close(rel, NoLock);
	foreach(lc, commands)
		dw_command(lfirst(lc));
	dw_run_end(&run);
	CommandCounterIncrement();
}

List *
dw_columns_relations(Oid relid, List *names)
{
	List	   *attnums = attnums_of(relid, names);

	/* in an order that is the same for everybody */
	return DW_OWN_OIDS("SELECT c.confrelid FROM pg_catalog.pg_constraint c WHERE c.conrelid = $1 AND c.contype = 'f' AND c.conkey && $2"
					   " UNION SELECT d.objid FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'"
					   " WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass"
					   " AND d.refobjid = $1 AND d.refobjsubid = ANY ($2) AND d.deptype IN ('a', 'i') ORDER BY 1",
					   DW_OID(relid), DW_DATUM(INT2ARRAYOID, int2_array(attnums), false));
}

void
dw_drop_columns(Oid relid, List *names)
{
	StringInfoData sql;
	Relation	rel;
	DwRun		run;
	ListCell   *lc;

	if (names == NIL)
		return;
	initStringInfo(&sql);
	appendStringInfo(&sql, "ALTER TABLE %s", dw_table_name(relid));
	foreach(lc, names)
		appendStringInfo(&sql, "%s DROP COLUMN %s", lc == list_head(names) ? "" : ",", quote_identifier(lfirst(lc)));
	rel = table_open(relid, NoLock);
	dw_run_begin(&run, rel->rd_rel->relowner);
	table_close(rel, NoLock);
	dw_command(sql.data);
	dw_run_end(&run);
}
