/*
 * api_switch.c
 *		The verbs that move authority: switch and rollback.
 *
 * Both lock the tables, which drains their writers, and look at everything
 * again under that lock: nothing changes between the look and the move.
 */
#include "postgres.h"

#include "catalog/pg_inherits.h"
#include "fmgr.h"
#include "utils/builtins.h"

#include "api.h"
#include "migration.h"

PG_FUNCTION_INFO_V1(dw_switch);
PG_FUNCTION_INFO_V1(dw_rollback);

static bool
inherits(DwMigration *m)
{
	ListCell   *lc;

	foreach(lc, m->members)
	{
		DwMember   *b = lfirst(lc);

		/* has_subclass() remembers children that are long gone */
		if (find_inheritance_children(b->relid, NoLock) != NIL || has_superclass(b->relid))
			return true;
	}
	return false;
}

void
dw_check_may_flip(DwMigration *m, const char *verb, bool unconvertible_ok)
{
	int64		drift = m->open_drift - (unconvertible_ok ? m->open_unconvertible : 0);
	const char *missing = NULL;
	const char *hint = "SELECT * FROM dw_verify(%s), then repeat the call.";

	if (m->copied)
	{
		missing = "it is a restored copy that has not been adopted";
		hint = "SELECT dw_resume(%s).";
	}
	else if (m->mirror != DW_MIRROR_BOTH)
	{
		missing = "the mirror is not on both ways, so writes may have made the sides part";
		hint = "SELECT dw_set(%s, '{\"mirror\": \"both\"}'), and wait until it is verified.";
	}
	else if (m->heal)
	{
		missing = "rows written while the mirror was not on are still being looked for";
		hint = "CALL dw_wait(%s).";
	}
	else if (drift > 0)
	{
		missing = psprintf(INT64_FORMAT " %s not consistent", drift, drift == 1 ? "row is" : "rows are");
		if (drift == m->open_unconvertible && m->phase == DW_SWITCHED)
			missing = psprintf("the old side can't hold the values of " INT64_FORMAT " %s", drift, drift == 1 ? "row" : "rows");
		hint = drift == m->open_unconvertible && m->phase == DW_SWITCHED
			? "dw_drift shows them. Go on with dw_finalize; or change these values, and SELECT * FROM dw_verify(%s)."
			: "SELECT * FROM dw_verify(%1$s) shows them in dw_drift; mend them (or CALL dw_reconcile(%1$s)), and verify again.";
	}
	else if (inherits(m))
	{
		missing = "its table has been made part of an inheritance tree, whose other tables have no mirror";
		hint = "Take the table out of it (ALTER TABLE ... NO INHERIT or DETACH PARTITION), and repeat the call. dw_status shows migration %s.";
	}
	else if ((missing = dw_mirror_problem(m)) != NULL)
		hint = "SELECT dw_resume(%s) mends the mirror, then it has to be verified again.";
	else if (m->marks_changed)
		missing = "its triggers or rules, or functions that these use, or triggers that fire after the mirror, have changed since it was verified";
	else if (!m->verified)
		missing = "it has not been verified since a hole was opened in the mirror";
	if (missing == NULL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("migration \"%s\" can't be %s: %s", m->name, verb, missing),
			 errdetail("Phase %s, authority %s.", dw_enum_name(dw_phase_names, m->phase), dw_side_name(DW_AUTHORITY(m->phase))),
			 errhint(hint, quote_literal_cstr(m->name))));
}

static void
check_proven(DwMigration *m)
{
	if (!m->proof || m->proven)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("migration \"%s\" can't be switched: it is not proven", m->name),
			 m->proof_present ? errdetail("No complete comparison has begun since the proof constraint was added, or the proof was voided.")
			 : errdetail("The proof constraint is not on its table."),
			 m->proof_present ? errhint("SELECT * FROM dw_verify(%s), or wait for the worker (proof in dw_status), then repeat the call.", quote_literal_cstr(m->name))
			 : errhint("The worker adds it (proof in dw_status); SELECT dw_ensure_workers() starts one.")));
}

Datum
dw_switch(PG_FUNCTION_ARGS)
{
	DwMigration *m = dw_verb_begin("dw_switch()", dw_verb_name(fcinfo, "dw_switch"));

	if (m->phase == DW_SWITCHED)
		PG_RETURN_TEXT_P(dw_result("migration \"%s\" is switched already", m->name));
	if (m->phase >= DW_FINALIZED)
		dw_check_active(m);
	if (m->phase != DW_READY)
		dw_wrong_phase(m, "switched", "CALL dw_wait(%s), then repeat the call.");
	dw_check_tables(m);
	dw_lock_tables(m, ShareRowExclusiveLock);
	dw_work_now(m);
	if (m->phase != DW_READY)
		dw_wrong_phase(m, "switched", "CALL dw_wait(%s), then repeat the call.");
	dw_check_may_flip(m, "switched", false);
	check_proven(m);
	dw_transition(m, "switch", NULL);
	dw_notice_lock("SHARE ROW EXCLUSIVE");
	dw_work_now(m);
	dw_launch_if_due(m->id);
	PG_RETURN_TEXT_P(dw_result("migration \"%s\" is switched: the new side is in authority, the old side is kept in sync%s", m->name,
							m->two_way ? "" : " as far as it is written itself (one way)"));
}

Datum
dw_rollback(PG_FUNCTION_ARGS)
{
	DwMigration *m = dw_verb_begin("dw_rollback()", dw_verb_name(fcinfo, "dw_rollback"));

	if (m->phase < DW_SWITCHED)
		PG_RETURN_TEXT_P(dw_result("migration \"%s\" is not switched: the old side is in authority", m->name));
	dw_check_active(m);
	dw_check_tables(m);
	dw_lock_tables(m, ShareRowExclusiveLock);
	dw_work_now(m);
	if (m->phase != DW_SWITCHED)
		dw_wrong_phase(m, "rolled back", "Look at dw_status, migration %s.");
	if (!m->two_way && m->lossy)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("migration \"%s\" can't be rolled back: it is one way, and the new side has been written", m->name),
				 errdetail("The old side doesn't have what was written to the new one since the switch."),
				 errhint("Write the old side from the new one, then SELECT dw_abort(%s, accept_loss => true); or go on with dw_finalize.",
						 quote_literal_cstr(m->name))));
	dw_check_may_flip(m, "rolled back", false);
	dw_transition(m, "rollback", NULL);
	dw_migration_unprove(m);
	dw_notice_lock("SHARE ROW EXCLUSIVE");
	if (m->proof)
	{
		dw_work_now(m);
		dw_launch_if_due(m->id);
	}
	PG_RETURN_TEXT_P(dw_result("migration \"%s\" is rolled back: the old side is in authority, nothing was dropped", m->name));
}
