/*
 * api.c
 *		What the verbs share, and the verbs that only ask.
 *
 * Each verb checks arguments and rights and then does one transition.  Order
 * of locks everywhere: the name, then the tables, then rows of the extension.
 * dw_pause and mirror off take no lock that anybody holds for long.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_class.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "api.h"
#include "compat.h"
#include "migration.h"
#include "run.h"
#include "worker.h"

PG_FUNCTION_INFO_V1(dw_side);
PG_FUNCTION_INFO_V1(dw_require);
PG_FUNCTION_INFO_V1(dw_not_supported);
PG_FUNCTION_INFO_V1(dw_home_sql);

void
dw_check_writable(const char *verb)
{
	PreventCommandIfReadOnly(verb);
	PreventCommandIfParallelMode(verb);
	PreventCommandDuringRecovery(verb);
}

void
dw_check_owner(const DwMigration *m)
{
	bool		any = false;
	ListCell   *lc;

	foreach(lc, m->members)
	{
		DwMember   *b = lfirst(lc);
		char	   *name = get_rel_name(b->relid);

		if (name == NULL)
			continue;
		any = true;
		if (!object_ownercheck(RelationRelationId, b->relid, GetUserId()))
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("must be owner of table \"%s\" to drive migration \"%s\"", name, m->name),
					 errdetail("The table is owned by role \"%s\".",
							   GetUserNameFromId(m->owner, true) ? GetUserNameFromId(m->owner, true) : "?"),
					 errhint("SET ROLE to the owner, or ask it.")));
	}
	if (!any && !has_privs_of_role(GetUserId(), m->owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of migration \"%s\"", m->name),
				 errdetail("It was begun by the owner of a table that is gone."),
				 errhint("SET ROLE to the owner, or ask it.")));
}

bool
dw_table_missing(const DwMigration *m)
{
	ListCell   *lc;

	foreach(lc, m->members)
		if (get_rel_name(((DwMember *) lfirst(lc))->relid) == NULL)
			return true;
	return false;
}

void
dw_check_tables(const DwMigration *m)
{
	if (dw_table_missing(m))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the table of migration \"%s\" was dropped", m->name),
				 errdetail("Its triggers and rules went with it."),
				 errhint("SELECT dw_abort(%s) closes the migration.", quote_literal_cstr(m->name))));
}

void
dw_check_active(const DwMigration *m)
{
	if (m->phase >= DW_FINALIZED)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("migration \"%s\" is %s", m->name, dw_enum_name(dw_phase_names, m->phase)),
				 errdetail("It has ended; its mirror is gone."),
				 errhint("dw_events tells when and by whom.")));
}

DwMigration *
dw_verb_begin(const char *verb, const char *name)
{
	DwMigration *m;

	dw_check_writable(verb);
	dw_check_owner(dw_migration_find(name, false));
	dw_lock_name(name);
	m = dw_migration_find(name, false);
	dw_check_owner(m);
	return m;
}

void
dw_lock_tables_and(DwMigration *m, LOCKMODE mode, List *(*more) (void *arg), void *arg)
{
	List	   *relids = NIL;
	ListCell   *lc;

	foreach(lc, m->members)
	{
		DwMember   *b = lfirst(lc);

		if (get_rel_name(b->relid))
			relids = lappend_oid(relids, b->relid);
	}
	dw_lock_relations(relids, mode, more, arg);
	/* whatever was known before the lock may be out of date */
	*m = *dw_migration_get(m->id);
}

void
dw_lock_tables(DwMigration *m, LOCKMODE mode)
{
	dw_lock_tables_and(m, mode, NULL, NULL);
}

void
dw_launch_if_due(int migration_id)
{
	DwMigration *m = dw_migration_get(migration_id);

	if (dw_work_due(m, NULL) == DW_WORK_NONE || dw_worker_launch(m->id))
		return;
	ereport(NOTICE,
			(errmsg("no background worker slot is free for migration \"%s\"", m->name),
			 errdetail("The mirror is on; the background work begins when a worker of another migration is through and takes it over."),
			 errhint("SELECT dw_ensure_workers() starts one as soon as there is a slot; pg_dualwrite.max_workers and max_worker_processes limit them.")));
}

text *
dw_result(const char *fmt,...)
{
	char		buf[1024];
	va_list		args;

	va_start(args, fmt);
	vsnprintf(buf, sizeof(buf), fmt, args);
	va_end(args);
	return cstring_to_text(buf);
}

char *
dw_verb_name(FunctionCallInfo fcinfo, const char *verb)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s needs the name of a migration", verb),
				 errdetail("The name is null."),
				 errhint("SELECT migration FROM dw_status lists the migrations of this database.")));
	return text_to_cstring(PG_GETARG_TEXT_PP(0));
}

DwPhase
dw_phase_arg(FunctionCallInfo fcinfo)
{
	char	   *phase = PG_ARGISNULL(1) ? "ready" : text_to_cstring(PG_GETARG_TEXT_PP(1));
	int			value = dw_enum_value(dw_phase_names, phase);

	if (value < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown phase \"%s\"", phase),
				 errdetail("A migration goes through the phases in a fixed order."),
				 errhint("Phases are backfilling, building, verifying, ready, switched, finalized, aborted.")));
	return value;
}

void
dw_notice_lock(const char *mode)
{
	if (IsTransactionBlock())
		ereport(NOTICE,
				(errmsg("the lock (%s) lasts until the end of this transaction", mode)));
}

void
dw_wrong_phase(DwMigration *m, const char *verb, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("migration \"%s\" can't be %s: it is %s", m->name, verb, dw_enum_name(dw_phase_names, m->phase)),
			 m->failed && m->last_error ? errdetail("It failed: %s.", m->last_error)
			 : errdetail("Authority is with the %s side.", dw_side_name(DW_AUTHORITY(m->phase))),
			 m->failed && m->phase < DW_READY ? errhint("next_step in dw_status says how to mend it; then SELECT dw_resume(%s).", quote_literal_cstr(m->name))
			 : errhint(hint, quote_literal_cstr(m->name))));
}

/* ---- asking ---- */

Datum
dw_side(PG_FUNCTION_ARGS)
{
	char	   *name = dw_verb_name(fcinfo, "dw_side");
	int			phase = dw_migration_phase(name);

	if (phase < 0)
		dw_migration_unknown(name);
	if (dw_session_side != DW_SESSION_AUTO)
		PG_RETURN_TEXT_P(cstring_to_text(dw_session_side == DW_SESSION_OLD ? "old" : "new"));
	PG_RETURN_TEXT_P(cstring_to_text(dw_side_name(DW_AUTHORITY(phase))));
}

Datum
dw_require(PG_FUNCTION_ARGS)
{
	char	   *name = dw_verb_name(fcinfo, "dw_require");
	DwPhase		want = dw_phase_arg(fcinfo);
	const char *phase = dw_enum_name(dw_phase_names, want);
	DwMigration *m = dw_migration_find(name, false);

	if (m->phase < want || (m->phase == DW_ABORTED && want != DW_ABORTED))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("migration \"%s\" is %s, not %s%s", m->name, dw_enum_name(dw_phase_names, m->phase), m->phase >= DW_FINALIZED ? "" : "yet ", phase),
				 m->failed && m->last_error && has_privs_of_role(GetUserId(), m->owner) ? errdetail("It failed: %s.", m->last_error)
				 : errdetail("Authority is with the %s side.", dw_side_name(DW_AUTHORITY(m->phase))),
				 m->phase >= DW_FINALIZED ? errhint("It has ended; dw_events tells when and by whom.")
				 : m->failed ? errhint("next_step in dw_status says how to mend it; then SELECT dw_resume(%s).", quote_literal_cstr(m->name))
				 : m->phase >= DW_READY ? errhint("No worker does that: next_step in dw_status says which call comes next.")
				 : errhint("CALL dw_wait(%s, %s) waits for it.", quote_literal_cstr(m->name), quote_literal_cstr(phase))));
	PG_RETURN_TEXT_P(dw_result("migration \"%s\" is %s", m->name, dw_enum_name(dw_phase_names, m->phase)));
}

Datum
dw_not_supported(PG_FUNCTION_ARGS)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("%s is not supported by this version of pg_dualwrite", get_func_name(fcinfo->flinfo->fn_oid)),
			 errdetail("It is part of the design and comes with a later release."),
			 errhint("Columns are migrated by dw_begin and dw_begin_mapping.")));
	PG_RETURN_NULL();
}

Datum
dw_home_sql(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(dw_home()));
}
