/*
 * api_set.c
 *		The verbs that change how a migration goes on: pause, resume, set.
 *
 * dw_pause and the brake (mirror off, and nothing else) wait for no table lock:
 * they are what is reached for when something is wrong.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"

#include "api.h"
#include "attach.h"
#include "compat.h"
#include "migration.h"
#include "options.h"
#include "proof.h"
#include "query.h"
#include "run.h"
#include "worker.h"

PG_FUNCTION_INFO_V1(dw_pause);
PG_FUNCTION_INFO_V1(dw_resume);
PG_FUNCTION_INFO_V1(dw_set);

/* ---- pause and resume ---- */

Datum
dw_pause(PG_FUNCTION_ARGS)
{
	char	   *name = dw_verb_name(fcinfo, "dw_pause");
	DwMigration *m;

	dw_check_writable("dw_pause()");
	m = dw_migration_find(name, false);
	dw_check_owner(m);
	dw_check_active(m);
	if (m->paused)
		PG_RETURN_TEXT_P(dw_result("migration \"%s\" is paused already", m->name));
	dw_control_set(m->id, true, PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1)));
	dw_event(m->id, m->name, "pause", -1, -1, PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1)));
	PG_RETURN_TEXT_P(dw_result("migration \"%s\" is paused; its mirror stays on", m->name));
}

/* The strongest lock that the triggers of any member need to be mended; NoLock if they are as they should be. */
static LOCKMODE
trigger_lock(DwMigration *m)
{
	LOCKMODE	mode = NoLock;
	ListCell   *lc;

	foreach(lc, m->members)
	{
		DwMember   *b = lfirst(lc);

		if (get_rel_name(b->relid))
			mode = Max(mode, dw_attach_lock(b->id, b->relid));
	}
	return mode;
}

/* A restored copy becomes a migration of this database: what a dump can't carry is made anew. */
static void
adopt(DwMigration *m)
{
	ListCell   *lc;

	dw_lock_tables(m, Max(ShareRowExclusiveLock, trigger_lock(m)));
	foreach(lc, m->members)
	{
		DwMember   *b = lfirst(lc);
		Relation	rel;

		dw_attach_dependencies(b->id, b->relid);
		(void) dw_attach_triggers(b->id, b->relid);
		rel = table_open(b->relid, NoLock);
		/* no snapshot rule: rows are told apart by what is in them */
		dw_member_set_begin(b->id, NULL, NULL, false, dw_relfilenode(rel));
		table_close(rel, NoLock);
	}
	dw_migration_adopt(m);
	dw_event(m->id, m->name, "adopted", -1, -1, "restored copy");
	CommandCounterIncrement();
}

/*
 * Back to both ways: rows written meanwhile went past the mirror, so they are
 * looked for, under a barrier that makes sure there are no more of them.
 */
static void
close_hole(DwMigration *m, const char *why)
{
	ListCell   *lc;

	foreach(lc, m->members)
	{
		DwMember   *b = lfirst(lc);
		Relation	rel;

		(void) dw_attach_triggers(b->id, b->relid);
		rel = table_open(b->relid, NoLock);
		dw_member_set_begin(b->id, NULL, NULL, false, dw_relfilenode(rel));
		dw_skipped_clear(b->id);
		table_close(rel, NoLock);
	}
	dw_progress_forget(m, "fill");
	dw_progress_forget(m, "verify");
	dw_member_set_filling(m, true);
	dw_migration_open_hole(m, true);
	if (m->phase == DW_BUILDING || m->phase == DW_VERIFYING || m->phase == DW_READY)
		dw_transition(m, "hole", why);
	else
		dw_event(m->id, m->name, "hole", -1, -1, why);
}

/*
 * Triggers that were dropped, disabled or overtaken are mended on the way, and
 * only then is there a lock to wait for.  Rows may have gone past the mirror.
 */
static void
mend_triggers(DwMigration *m)
{
	LOCKMODE	mode = trigger_lock(m);

	if (mode == NoLock)
		return;
	dw_lock_tables(m, mode);
	dw_notice_lock(mode == AccessExclusiveLock ? "ACCESS EXCLUSIVE" : "SHARE ROW EXCLUSIVE");
	close_hole(m, "the mirror's triggers were missing, disabled or overtaken");
}

Datum
dw_resume(PG_FUNCTION_ARGS)
{
	char	   *name = dw_verb_name(fcinfo, "dw_resume");
	DwMigration *m = dw_verb_begin("dw_resume()", name);
	bool		idle = !m->paused && !m->failed && !m->copied && dw_mirror_problem(m) == NULL;

	dw_check_active(m);
	dw_check_tables(m);
	if (m->copied)
		adopt(m);
	else if (!idle)
		mend_triggers(m);
	dw_control_set(m->id, false, NULL);
	dw_migration_set_failed(m->id, false, NULL);
	if (!idle)
		dw_event(m->id, m->name, "resume", -1, -1, NULL);
	CommandCounterIncrement();
	m = dw_migration_get(m->id);
	dw_work_now(m);
	dw_launch_if_due(m->id);
	PG_RETURN_TEXT_P(idle ? dw_result("migration \"%s\" was not paused", m->name)
					 : dw_result("migration \"%s\" goes on, phase %s", m->name, dw_enum_name(dw_phase_names, m->phase)));
}

/* ---- set ---- */

/*
 * The options as they will be.  What neither was nor is given stays as it was
 * when the migration began, whatever this session's settings are.
 */
static Jsonb *
merged_options(DwMigration *m, Jsonb *changes, DwOptions *o)
{
	Jsonb	   *merged = dw_options_merge(m->options, changes);

	dw_options_read(merged, o);
	if (!dw_options_name(merged, "conflict") && !dw_options_name(changes, "conflict"))
		o->conflict = m->conflict;
	if (!dw_options_name(merged, "on_error") && !dw_options_name(changes, "on_error"))
		o->on_error = m->on_error;
	return merged;
}

void
dw_check_proof_options(const DwOptions *o)
{
	if (o->proof && o->on_error == DW_ON_ERROR_RECORD)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options \"proof\" and \"on_error\": \"record\" exclude each other"),
				 errdetail("With proof the database refuses the rows that would be recorded."),
				 errhint("Leave one of them out, or set on_error to authority or reject.")));
}

/* May these options be those of a migration with proof? */
static void
check_proof(DwMigration *m, const DwOptions *o)
{
	ListCell   *lc;

	dw_check_proof_options(o);
	if (!o->proof || m->proof)
		return;
	foreach(lc, m->members)
		dw_proof_check(m->name, ((DwMember *) lfirst(lc))->id, ((DwMember *) lfirst(lc))->relid);
	if (m->open_drift > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("migration \"%s\" can't be proven while rows are recorded as not consistent", m->name),
				 errdetail(INT64_FORMAT " %s on record. The constraint would refuse every write to a row that isn't consistent.",
						   m->open_drift, m->open_drift == 1 ? "row is" : "rows are"),
				 errhint("SELECT * FROM dw_drift WHERE migration = %1$s AND repaired_at IS NULL; mend these rows (or CALL dw_reconcile(%1$s)), then SELECT * FROM dw_verify(%1$s).",
						 quote_literal_cstr(m->name))));
}

/*
 * The emergency brake takes no table lock, and waits for no verb but one in an
 * open transaction.  With a proof constraint on the table it would make every
 * write fail, so then the constraint has to go along, and it is no brake.
 */
static bool
is_brake(DwMigration *m, Jsonb *changes, const DwOptions *o)
{
	return dw_options_name(changes, "mirror") && o->mirror == DW_MIRROR_OFF && JB_ROOT_COUNT(changes) == 1 && !dw_proof_found(m);
}

static text *
brake(DwMigration *m)
{
	if (m->mirror == DW_MIRROR_OFF)
		return dw_result("the mirror of migration \"%s\" is off already", m->name);
	dw_migration_brake(m);
	dw_event(m->id, m->name, "brake", -1, -1, "the mirror is off: from now on the sides part");
	return dw_result("the mirror of migration \"%s\" is off", m->name);
}

/* May the options be changed into these? */
static void
check_changes(DwMigration *m, Jsonb *changes, const DwOptions *o)
{
	DwOptions	was;

	dw_options_read(m->options, &was);
	if (o->throttle_query[0] && dw_options_name(changes, "throttle_query"))
		dw_throttle_query_check(o->throttle_query, m->owner);
	if (o->subscribers_ready != was.subscribers_ready)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"subscribers_ready\" can only be given to dw_begin"),
				 errdetail("The column has been added already."),
				 errhint("Leave it out.")));
	check_proof(m, o);
}

/* Takes the lock that the change needs, if any, and drops a proof that no longer holds. */
static void
lock_for(DwMigration *m, const DwOptions *o)
{
	bool		barrier = o->mirror != m->mirror || o->conflict != m->conflict || o->on_error != m->on_error;
	bool		disprove = dw_proof_found(m) && (!o->proof || o->mirror != DW_MIRROR_BOTH);

	if (barrier || disprove)
	{
		LOCKMODE	mode = o->mirror == DW_MIRROR_BOTH ? Max(ShareRowExclusiveLock, trigger_lock(m)) : ShareRowExclusiveLock;

		if (disprove)
			mode = AccessExclusiveLock;
		dw_lock_tables(m, mode);
		dw_notice_lock(mode == AccessExclusiveLock ? "ACCESS EXCLUSIVE" : "SHARE ROW EXCLUSIVE");
	}
	if (disprove)
		(void) dw_proof_drop(m);
}

Datum
dw_set(PG_FUNCTION_ARGS)
{
	char	   *name = dw_verb_name(fcinfo, "dw_set");
	DwMigration *m;
	DwOptions	o;
	Jsonb	   *changes;
	Jsonb	   *merged;
	int64		epoch;
	ListCell   *lc;

	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("dw_set needs options"),
				 errdetail("They are null."),
				 errhint("For example '{\"conflict\": \"authority\"}'.")));
	changes = PG_GETARG_JSONB_P(1);
	dw_options_read(changes, &o);
	dw_check_writable("dw_set()");
	m = dw_migration_find(name, false);
	dw_check_owner(m);
	dw_check_active(m);
	if (is_brake(m, changes, &o))
		PG_RETURN_TEXT_P(brake(m));
	m = dw_verb_begin("dw_set()", name);
	epoch = m->epoch;
	dw_check_active(m);
	dw_check_tables(m);
	merged = merged_options(m, changes, &o);
	check_changes(m, changes, &o);
	lock_for(m, &o);
	if (o.sample_rate > 0)
		foreach(lc, m->members)
			dw_attach_samples(((DwMember *) lfirst(lc))->id, ((DwMember *) lfirst(lc))->relid);
	dw_migration_set_options(m, epoch, merged, o.mirror, o.conflict, o.on_error);
	dw_event(m->id, m->name, "set", -1, -1, DatumGetCString(DirectFunctionCall1(jsonb_out, JsonbPGetDatum(changes))));
	CommandCounterIncrement();
	if (o.mirror != m->mirror)
	{
		if (o.mirror == DW_MIRROR_BOTH)
			close_hole(m, "the mirror was not on both ways");
		else
			dw_migration_open_hole(m, false);
		CommandCounterIncrement();
	}
	dw_work_now(m);
	dw_launch_if_due(m->id);
	PG_RETURN_TEXT_P(dw_result("options of migration \"%s\" are set", m->name));
}
