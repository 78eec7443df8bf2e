/*
 * drop.c
 *		What happens before DROP EXTENSION: the event trigger's function.
 *
 * DROP EXTENSION ... CASCADE locks the extension's tables first, and the tables
 * that are mirrored only when it drops their triggers.  A writer has the lock of
 * its table, and may then need the extension's tables: its rules, a record.
 * Each would wait for the other, and the one that is thrown out would be the
 * writer, as its wait is the later one.  So before anything else we lock the
 * tables that are mirrored, which takes all writers out of the way, in short
 * tries, so that nobody queues behind us for long.
 *
 * Without CASCADE nothing is locked: while a migration is under way, the answer
 * is no.  PostgreSQL would say so, too, but only with those locks in its hands,
 * and it would name triggers and not migrations.
 *
 * DROP SCHEMA ... CASCADE of the extension's schema comes to the same.  An event
 * trigger runs before privileges are looked at, hence the looks here: whoever
 * may not drop locks nothing, and gets PostgreSQL's own answer.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "commands/event_trigger.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "nodes/value.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"

#include "catalog.h"
#include "compat.h"
#include "expr.h"
#include "run.h"

#define EXTENSION "pg_dualwrite"

PG_FUNCTION_INFO_V1(dw_before_drop);

/* Is it the schema of the verbs and views? */
static bool
is_extension_schema(Oid schema)
{
	DwRun		run;
	bool		found;

	dw_run_begin(&run, dw_own_role());
	found = DW_SQL("SELECT 1 FROM pg_catalog.pg_extension e WHERE e.extname = 'pg_dualwrite' AND e.extnamespace = $1", DW_OID(schema)) > 0;
	dw_run_end(&run);
	return found;
}

/* Would the command drop the extension, and may the caller do that? */
static bool
drops_extension(DropStmt *stmt, Oid extension)
{
	ListCell   *lc;

	foreach(lc, stmt->objects)
	{
		char	   *name = strVal(lfirst(lc));
		Oid			schema;

		if (stmt->removeType == OBJECT_EXTENSION && strcmp(name, EXTENSION) == 0)
			return dw_extension_ownercheck(extension, GetUserId());
		if (stmt->removeType == OBJECT_SCHEMA && stmt->behavior == DROP_CASCADE && OidIsValid(schema = get_namespace_oid(name, true)) &&
			is_extension_schema(schema))
			return dw_schema_ownercheck(schema, GetUserId());
	}
	return false;
}

/* Tables that the mirror has triggers on, whatever their migrations say. */
static List *
mirrored_tables(void)
{
	MemoryContext cxt = CurrentMemoryContext;
	List	   *relids = NIL;
	DwRun		run;

	dw_run_begin(&run, dw_own_role());
	DW_SQL("SELECT DISTINCT t.tgrelid::bigint FROM pg_catalog.pg_trigger t WHERE t.tgfoid = $1 ORDER BY 1", DW_OID(dw_mirror_function()));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		Oid			relid = (Oid) strtoul(dw_sql_text(i, 0, cxt), NULL, 10);
		MemoryContext old = MemoryContextSwitchTo(cxt);

		relids = lappend_oid(relids, relid);
		MemoryContextSwitchTo(old);
	}
	dw_run_end(&run);
	return relids;
}

static void
refuse_while_under_way(void)
{
	StringInfoData names;
	int			n = 0;
	ListCell   *lc;

	initStringInfo(&names);
	foreach(lc, dw_migration_ids())
	{
		DwMigration *m = dw_migration_get(lfirst_int(lc));

		if (m)
			appendStringInfo(&names, "%s%s (%s)", n++ ? ", " : "", m->name, dw_enum_name(dw_phase_names, m->phase));
	}
	if (n > 0)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot drop extension %s while migrations are under way", EXTENSION),
				 errdetail("There %s: %s.", n == 1 ? "is one" : "are several", names.data),
				 errhint("End them with dw_finalize or dw_abort. DROP EXTENSION ... CASCADE takes their mirrors along, and leaves both sides as they are, no longer in sync.")));
}

/* With the tables locked: our own, too, so that no other table gets a mirror meanwhile. */
static List *
own_tables(void *arg)
{
	return list_make1_oid(get_relname_relid("migration", get_namespace_oid(DW_SCHEMA, false)));
}

/* dualwrite.before_drop(): on ddl_command_start of DROP EXTENSION and DROP SCHEMA */
Datum
dw_before_drop(PG_FUNCTION_ARGS)
{
	EventTriggerData *td = (EventTriggerData *) fcinfo->context;
	Oid			extension = get_extension_oid(EXTENSION, true);
	DropStmt   *stmt;
	List	   *relids;

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("dualwrite.before_drop() must be called as an event trigger"),
				 errdetail("It was called in another way."),
				 errhint("Its event trigger is made by CREATE EXTENSION.")));
	stmt = (DropStmt *) td->parsetree;
	if (!OidIsValid(extension) || !IsA(stmt, DropStmt) || !drops_extension(stmt, extension))
		PG_RETURN_NULL();
	if (stmt->behavior != DROP_CASCADE)
	{
		refuse_while_under_way();
		PG_RETURN_NULL();
	}
	relids = mirrored_tables();
	dw_lock_relations(relids, AccessExclusiveLock, own_tables, NULL);
	if (list_difference_oid(mirrored_tables(), relids) != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("cannot drop extension %s: a migration was begun meanwhile", EXTENSION),
				 errdetail("Its table is not locked."),
				 errhint("Repeat the command.")));
	PG_RETURN_NULL();
}
