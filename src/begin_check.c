/*
 * begin_check.c
 *		What keeps a table's columns from being migrated.
 *
 * The caller has the table open, with whatever lock; what depends on the lock
 * is looked at again once it is held.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/catalog.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "begin.h"
#include "compat.h"
#include "rule.h"
#include "run.h"

static void
wrong_table(int code, Relation rel, const char *what, const char *hint)
{
	ereport(ERROR,
			(errcode(code),
			 errmsg("\"%s\" %s", RelationGetRelationName(rel), what),
			 errdetail("Columns are migrated in ordinary tables."),
			 errhint("%s", hint)));
}

void
dw_spec_check_table(Relation rel)
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

bool
dw_spec_check_columns(DwSpec *spec, Relation rel)
{
	bool		create = false;

	for (int s = 0; s < 2; s++)
		for (int i = 0; i < spec->n[s]; i++)
		{
			DwSpecColumn *col = &spec->cols[s][i];
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

void
dw_spec_check_publications(Relation rel, bool create)
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
void
dw_spec_check_others(Relation rel, Bitmapset *sides, Bitmapset *reads, int except)
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
