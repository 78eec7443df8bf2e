/*
 * api.c
 *		The verbs that drive a migration: pause, resume, set, switch, rollback,
 *		finalize, abort, side, require.
 *
 * Each checks arguments and rights and then does one transition.  Order of
 * locks everywhere: the name, then the tables, then rows of the extension.
 * dw_pause and mirror off take no lock that anybody holds for long.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "api.h"
#include "attach.h"
#include "carry.h"
#include "compat.h"
#include "expr.h"
#include "migration.h"
#include "options.h"
#include "proof.h"
#include "query.h"
#include "run.h"
#include "worker.h"

PG_FUNCTION_INFO_V1(dw_pause);
PG_FUNCTION_INFO_V1(dw_resume);
PG_FUNCTION_INFO_V1(dw_set);
PG_FUNCTION_INFO_V1(dw_switch);
PG_FUNCTION_INFO_V1(dw_rollback);
PG_FUNCTION_INFO_V1(dw_finalize);
PG_FUNCTION_INFO_V1(dw_abort);
PG_FUNCTION_INFO_V1(dw_side);
PG_FUNCTION_INFO_V1(dw_require);
PG_FUNCTION_INFO_V1(dw_not_supported);
PG_FUNCTION_INFO_V1(dw_home_sql);

/* ---- what verbs share ---- */

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

static bool
table_missing(const DwMigration *m)
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
	if (table_missing(m))
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

static void
lock_tables(DwMigration *m, LOCKMODE mode, List *(*more) (void *arg), void *arg)
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
dw_check_proof_options(const DwOptions *o)
{
	if (o->proof && o->on_error == DW_ON_ERROR_RECORD)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options \"proof\" and \"on_error\": \"record\" exclude each other"),
				 errdetail("With proof the database refuses the rows that would be recorded."),
				 errhint("Leave one of them out, or set on_error to authority or reject.")));
}

void
dw_lock_tables(DwMigration *m, LOCKMODE mode)
{
	lock_tables(m, mode, NULL, NULL);
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

static text *
result(const char *fmt,...) pg_attribute_printf(1, 2);

static text *
result(const char *fmt,...)
{
	char		buf[1024];
	va_list		args;

	va_start(args, fmt);
	vsnprintf(buf, sizeof(buf), fmt, args);
	va_end(args);
	return cstring_to_text(buf);
}

static char *
name_arg(FunctionCallInfo fcinfo, const char *verb)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s needs the name of a migration", verb),
				 errdetail("The name is null."),
				 errhint("SELECT migration FROM dw_status lists the migrations of this database.")));
	return text_to_cstring(PG_GETARG_TEXT_PP(0));
}

static void
locks_last(const char *mode)
{
	if (IsTransactionBlock())
		ereport(NOTICE,
				(errmsg("the lock (%s) lasts until the end of this transaction", mode)));
}

/* ---- pause, resume, set ---- */

Datum
dw_pause(PG_FUNCTION_ARGS)
{
	char	   *name = name_arg(fcinfo, "dw_pause");
	DwMigration *m;

	dw_check_writable("dw_pause()");
	m = dw_migration_find(name, false);
	dw_check_owner(m);
	dw_check_active(m);
	if (m->paused)
		PG_RETURN_TEXT_P(result("migration \"%s\" is paused already", m->name));
	dw_control_set(m->id, true, PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1)));
	dw_event(m->id, m->name, "pause", -1, -1, PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1)));
	PG_RETURN_TEXT_P(result("migration \"%s\" is paused; its mirror stays on", m->name));
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
	locks_last(mode == AccessExclusiveLock ? "ACCESS EXCLUSIVE" : "SHARE ROW EXCLUSIVE");
	close_hole(m, "the mirror's triggers were missing, disabled or overtaken");
}

Datum
dw_resume(PG_FUNCTION_ARGS)
{
	char	   *name = name_arg(fcinfo, "dw_resume");
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
	dw_work_now(m);
	dw_launch_if_due(m->id);
	PG_RETURN_TEXT_P(idle ? result("migration \"%s\" was not paused", m->name)
					 : result("migration \"%s\" goes on, phase %s", m->name, dw_enum_name(dw_phase_names, m->phase)));
}

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

Datum
dw_set(PG_FUNCTION_ARGS)
{
	char	   *name = name_arg(fcinfo, "dw_set");
	DwMigration *m;
	DwOptions	o;
	DwOptions	was;
	Jsonb	   *changes;
	Jsonb	   *merged;
	int64		epoch;
	bool		barrier;
	bool		disprove;
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

	/*
	 * The emergency brake takes no table lock, and waits for no verb but one in
	 * an open transaction.  With a proof constraint on the table it would make
	 * every write fail, so then the constraint has to go along.
	 */
	if (dw_options_name(changes, "mirror") && o.mirror == DW_MIRROR_OFF && JB_ROOT_COUNT(changes) == 1 && !dw_proof_found(m))
	{
		if (m->mirror == DW_MIRROR_OFF)
			PG_RETURN_TEXT_P(result("the mirror of migration \"%s\" is off already", name));
		dw_migration_brake(m);
		dw_event(m->id, m->name, "brake", -1, -1, "the mirror is off: from now on the sides part");
		PG_RETURN_TEXT_P(result("the mirror of migration \"%s\" is off", name));
	}
	m = dw_verb_begin("dw_set()", name);
	epoch = m->epoch;
	dw_check_active(m);
	dw_check_tables(m);
	merged = merged_options(m, changes, &o);
	dw_options_read(m->options, &was);
	if (o.throttle_query[0] && dw_options_name(changes, "throttle_query"))
		dw_throttle_query_check(o.throttle_query, m->owner);
	if (o.subscribers_ready != was.subscribers_ready)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"subscribers_ready\" can only be given to dw_begin"),
				 errdetail("The column has been added already."),
				 errhint("Leave it out.")));
	check_proof(m, &o);
	barrier = o.mirror != m->mirror || o.conflict != m->conflict || o.on_error != m->on_error;
	disprove = dw_proof_found(m) && (!o.proof || o.mirror != DW_MIRROR_BOTH);
	if (barrier || disprove)
	{
		LOCKMODE	mode = o.mirror == DW_MIRROR_BOTH ? Max(ShareRowExclusiveLock, trigger_lock(m)) : ShareRowExclusiveLock;

		if (disprove)
			mode = AccessExclusiveLock;
		dw_lock_tables(m, mode);
		locks_last(mode == AccessExclusiveLock ? "ACCESS EXCLUSIVE" : "SHARE ROW EXCLUSIVE");
	}
	if (disprove)
		(void) dw_proof_drop(m);
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
	PG_RETURN_TEXT_P(result("options of migration \"%s\" are set", m->name));
}

/* ---- switch and rollback ---- */

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

/*
 * What keeps authority from moving, other than the phase.  Called under the
 * lock that has drained the writers, with a fresh look at everything.
 * unconvertible_ok: rows that the old side can't hold are not in the way.
 */
static void
check_may_flip(DwMigration *m, const char *verb, bool unconvertible_ok)
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
wrong_phase(DwMigration *m, const char *verb, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("migration \"%s\" can't be %s: it is %s", m->name, verb, dw_enum_name(dw_phase_names, m->phase)),
			 m->failed && m->last_error ? errdetail("It failed: %s.", m->last_error)
			 : errdetail("Authority is with the %s side.", dw_side_name(DW_AUTHORITY(m->phase))),
			 m->failed && m->phase < DW_READY ? errhint("next_step in dw_status says how to mend it; then SELECT dw_resume(%s).", quote_literal_cstr(m->name))
			 : errhint(hint, quote_literal_cstr(m->name))));
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
	DwMigration *m = dw_verb_begin("dw_switch()", name_arg(fcinfo, "dw_switch"));

	if (m->phase == DW_SWITCHED)
		PG_RETURN_TEXT_P(result("migration \"%s\" is switched already", m->name));
	if (m->phase >= DW_FINALIZED)
		dw_check_active(m);
	if (m->phase != DW_READY)
		wrong_phase(m, "switched", "CALL dw_wait(%s), then repeat the call.");
	dw_check_tables(m);
	dw_lock_tables(m, ShareRowExclusiveLock);
	dw_work_now(m);
	if (m->phase != DW_READY)
		wrong_phase(m, "switched", "CALL dw_wait(%s), then repeat the call.");
	check_may_flip(m, "switched", false);
	check_proven(m);
	dw_transition(m, "switch", NULL);
	locks_last("SHARE ROW EXCLUSIVE");
	dw_work_now(m);
	dw_launch_if_due(m->id);
	PG_RETURN_TEXT_P(result("migration \"%s\" is switched: the new side is in authority, the old side is kept in sync%s", m->name,
							m->two_way ? "" : " as far as it is written itself (one way)"));
}

Datum
dw_rollback(PG_FUNCTION_ARGS)
{
	DwMigration *m = dw_verb_begin("dw_rollback()", name_arg(fcinfo, "dw_rollback"));

	if (m->phase < DW_SWITCHED)
		PG_RETURN_TEXT_P(result("migration \"%s\" is not switched: the old side is in authority", m->name));
	dw_check_active(m);
	dw_check_tables(m);
	dw_lock_tables(m, ShareRowExclusiveLock);
	dw_work_now(m);
	if (m->phase != DW_SWITCHED)
		wrong_phase(m, "rolled back", "Look at dw_status, migration %s.");
	if (!m->two_way && m->lossy)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("migration \"%s\" can't be rolled back: it is one way, and the new side has been written", m->name),
				 errdetail("The old side doesn't have what was written to the new one since the switch."),
				 errhint("Write the old side from the new one, then SELECT dw_abort(%s, accept_loss => true); or go on with dw_finalize.",
						 quote_literal_cstr(m->name))));
	check_may_flip(m, "rolled back", false);
	dw_transition(m, "rollback", NULL);
	dw_migration_unprove(m);
	locks_last("SHARE ROW EXCLUSIVE");
	if (m->proof)
	{
		dw_work_now(m);
		dw_launch_if_due(m->id);
	}
	PG_RETURN_TEXT_P(result("migration \"%s\" is rolled back: the old side is in authority, nothing was dropped", m->name));
}

/* ---- the two ends ---- */

/* What goes with the end of a migration. */
typedef struct Going
{
	DwMigration *m;
	DwSide		side;			/* finalize: old; abort: new */
	bool		columns;		/* those of the side go, too (new: if dw_begin created them) */
} Going;

/* Columns of a member that go; NIL if none. */
static List *
columns_going(const Going *g, DwMember *b)
{
	DwSideColumns *sides;

	if (!g->columns || (g->side == DW_NEW && b->ncreated == 0) || (sides = dw_side_columns(b->id)) == NULL)
		return NIL;
	return g->side == DW_OLD ? sides->names[DW_OLD] : dw_created_columns(b, sides);
}

/* Everything beside the tables that has to be locked for that. */
static List *
relations_going(void *arg)
{
	const Going *g = arg;
	List	   *relids = NIL;
	ListCell   *lc;

	foreach(lc, g->m->members)
	{
		DwMember   *b = lfirst(lc);

		relids = list_concat(relids, dw_attach_relations(b->id));
		relids = list_concat(relids, dw_columns_relations(b->relid, columns_going(g, b)));
	}
	return relids;
}

/* The mirror and the columns go; all locks are held. */
static void
remove_members(const Going *g)
{
	List	   *columns = NIL;
	ListCell   *lc;
	ListCell   *lc2;

	(void) dw_proof_drop(g->m);

	/* named before the rules that know them go */
	foreach(lc, g->m->members)
		columns = lappend(columns, columns_going(g, lfirst(lc)));
	foreach(lc, g->m->members)
		dw_detach(((DwMember *) lfirst(lc))->id, ((DwMember *) lfirst(lc))->relid);
	CommandCounterIncrement();
	forboth(lc, g->m->members, lc2, columns)
		dw_drop_columns(((DwMember *) lfirst(lc))->relid, lfirst(lc2));
}

Datum
dw_finalize(PG_FUNCTION_ARGS)
{
	DwMigration *m = dw_verb_begin("dw_finalize()", name_arg(fcinfo, "dw_finalize"));
	bool		drop_old = PG_ARGISNULL(1) ? true : PG_GETARG_BOOL(1);
	Going		going = {m, DW_OLD, drop_old};
	ListCell   *lc;

	if (m->phase == DW_FINALIZED)
		PG_RETURN_TEXT_P(result("migration \"%s\" is finalized already", m->name));
	dw_check_active(m);
	if (m->phase != DW_SWITCHED)
		wrong_phase(m, "finalized", "SELECT dw_switch(%s) comes first.");
	dw_check_tables(m);
	lock_tables(m, AccessExclusiveLock, relations_going, &going);
	dw_work_now(m);
	if (m->phase != DW_SWITCHED)
		wrong_phase(m, "finalized", "Look at dw_status, migration %s.");
	check_may_flip(m, "finalized", true);
	if (m->two_way && !m->verified_since_phase)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("migration \"%s\" can't be finalized: it has not been verified since the switch", m->name),
				 errdetail("The last verification is older than the switch."),
				 errhint("SELECT * FROM dw_verify(%s), then repeat the call.", quote_literal_cstr(m->name))));

	/* nothing that the new side would need a counterpart of */
	(void) dw_proof_drop(m);
	foreach(lc, m->members)
	{
		DwMember   *b = lfirst(lc);
		DwSideColumns *sides = dw_side_columns(b->id);

		if (sides == NULL)
			elog(ERROR, "the rules of member %d are missing", b->id);
		if (drop_old)
			dw_check_counterparts(m, b->relid, sides);
	}
	remove_members(&going);
	locks_last("ACCESS EXCLUSIVE");
	dw_migration_forget(m);
	dw_transition(m, "finalize", drop_old ? "the old side was dropped" : "the old side was kept");
	PG_RETURN_TEXT_P(result("migration \"%s\" is finalized: the mirror is gone, the old side %s", m->name,
							drop_old ? "was dropped" : "was kept and is no longer in sync"));
}

/* Could the new side hold what the old can't?  Known without a scan. */
static bool
loss_possible(DwMigration *m)
{
	if (m->lossy || m->open_drift > 0 || m->heal || m->mirror != DW_MIRROR_BOTH)
		return true;
	if (m->phase == DW_BACKFILLING)
		return false;
	return !m->verified || m->verified_lossy > 0;
}

/* What a scan for losses took account of. */
typedef struct LossScan
{
	int64		counted;		/* dw_loss_counted */
	int64		last_drift;		/* dw_drift_last */
	int64		epoch;
} LossScan;

static void
scan_losses(DwMigration *m)
{
	StringInfoData keys;
	DwTotals	t;

	initStringInfo(&keys);
	dw_check_now(m, 1, false, &t, &keys);
	if (t.losses > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("migration \"%s\" can't be aborted without loss: in " INT64_FORMAT " of " INT64_FORMAT
						" rows the new side holds what the old side can't", m->name, t.losses, t.rows),
				 errdetail("Among them: %s.", keys.data),
				 errhint("SELECT dw_abort(%s, accept_loss => true) gives these values up.", quote_literal_cstr(m->name))));
}

/* Who holds the tables' locks, for the message; palloc'd. */
static char *
describe_writers(List *members)
{
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	foreach(lc, members)
		appendStringInfo(&buf, "%s%s", buf.len ? "; " : "", dw_describe_holders(((DwMember *) lfirst(lc))->relid, ShareLock));
	return buf.data;
}

/*
 * Refuses where the new side holds what the old can't.  The mirror notes and
 * counts such writes, so where it noted none, and there was no hole, there is
 * none, and nothing has to be scanned.  The scan runs before the table is
 * locked; before it, whoever was counted but has not committed has to end.
 */
static void
check_loss(DwMigration *m, LossScan *scan)
{
	List	   *writers;

	scan->counted = dw_loss_counted(m);
	scan->last_drift = dw_drift_last();
	scan->epoch = m->epoch;
	if (!loss_possible(m))
		return;
	writers = dw_writers_now(m);
	for (int waited = 0; !dw_writers_gone(writers); waited += 20)
	{
		if (waited / dw_lock_timeout >= dw_lock_retries)
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("migration \"%s\" can't be aborted while transactions that write its table are open", m->name),
					 errdetail("They may store what the old side can't hold: %s.", describe_writers(m->members)),
					 errhint("End them (blockers in dw_status), and repeat the call.")));
		dw_sleep(20);
	}
	scan_losses(m);
}

/* The same under the lock, where nothing changes any more: is what the scan found still true? */
static void
recheck_loss(DwMigration *m, const LossScan *scan)
{
	/* with a hole in the mirror nobody has counted: the price of the brake is a scan under the lock */
	if (m->mirror != DW_MIRROR_BOTH || m->epoch != scan->epoch)
		scan_losses(m);
	else if (dw_loss_counted(m) != scan->counted || (m->open_drift > 0 && dw_drift_last() != scan->last_drift))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("migration \"%s\" can't be aborted without loss: the new side has just been written with what the old side can't hold", m->name),
				 errdetail("It was written while this call looked for such rows."),
				 errhint("Repeat the call; it names the rows.")));
}

static bool
rules_present(DwMigration *m)
{
	ListCell   *lc;

	foreach(lc, m->members)
	{
		DwMember   *b = lfirst(lc);

		if (!OidIsValid(dw_rules_view(b->id, get_rel_persistence(b->relid) == RELPERSISTENCE_TEMP)))
			return false;
	}
	return true;
}

Datum
dw_abort(PG_FUNCTION_ARGS)
{
	DwMigration *m = dw_verb_begin("dw_abort()", name_arg(fcinfo, "dw_abort"));
	bool		accept_loss = !PG_ARGISNULL(1) && PG_GETARG_BOOL(1);
	LossScan	scan;
	bool		present = !table_missing(m);
	bool		rules;
	bool		created = false;
	Going		going = {m, DW_NEW, false};
	ListCell   *lc;

	if (m->phase == DW_ABORTED)
		PG_RETURN_TEXT_P(result("migration \"%s\" is aborted already", m->name));
	dw_check_active(m);
	/*
	 * Where the rules are lost, so may be the old side, and with them the
	 * names of the columns: everything that holds data stays.
	 */
	rules = going.columns = present && rules_present(m);
	if (rules && !accept_loss)
		check_loss(m, &scan);
	if (present)
		lock_tables(m, AccessExclusiveLock, relations_going, &going);
	if (rules && !accept_loss)
		recheck_loss(m, &scan);
	foreach(lc, m->members)
		created |= ((DwMember *) lfirst(lc))->ncreated > 0;
	remove_members(&going);
	if (present)
		locks_last("ACCESS EXCLUSIVE");
	dw_migration_set_failed(m->id, false, NULL);
	dw_migration_forget(m);
	dw_transition(m, "abort", accept_loss ? "losses accepted" : present ? NULL : "the table was dropped");
	PG_RETURN_TEXT_P(result("migration \"%s\" is aborted: the mirror %s", m->name,
							present && !rules ? "is gone; its rules were lost, so every column is kept"
							: created ? "and the columns that it created are gone" : "is gone"));
}

/* ---- asking ---- */

Datum
dw_side(PG_FUNCTION_ARGS)
{
	char	   *name = name_arg(fcinfo, "dw_side");
	int			phase = dw_migration_phase(name);

	if (phase < 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("migration \"%s\" does not exist", name),
				 errdetail("No migration of this database has that name."),
				 errhint("SELECT migration FROM dw_status lists the migrations of this database.")));
	if (dw_session_side != DW_SESSION_AUTO)
		PG_RETURN_TEXT_P(cstring_to_text(dw_session_side == DW_SESSION_OLD ? "old" : "new"));
	PG_RETURN_TEXT_P(cstring_to_text(dw_side_name(DW_AUTHORITY(phase))));
}

Datum
dw_require(PG_FUNCTION_ARGS)
{
	char	   *name = name_arg(fcinfo, "dw_require");
	char	   *phase = PG_ARGISNULL(1) ? "ready" : text_to_cstring(PG_GETARG_TEXT_PP(1));
	int			want = dw_enum_value(dw_phase_names, phase);
	DwMigration *m;

	if (want < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown phase \"%s\"", phase),
				 errdetail("A migration goes through the phases in a fixed order."),
				 errhint("Phases are backfilling, building, verifying, ready, switched, finalized, aborted.")));
	m = dw_migration_find(name, false);
	if ((int) m->phase < want || (m->phase == DW_ABORTED && want != DW_ABORTED))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("migration \"%s\" is %s, not %s%s", m->name, dw_enum_name(dw_phase_names, m->phase), m->phase >= DW_FINALIZED ? "" : "yet ", phase),
				 m->failed && m->last_error && has_privs_of_role(GetUserId(), m->owner) ? errdetail("It failed: %s.", m->last_error)
				 : errdetail("Authority is with the %s side.", dw_side_name(DW_AUTHORITY(m->phase))),
				 m->phase >= DW_FINALIZED ? errhint("It has ended; dw_events tells when and by whom.")
				 : m->failed ? errhint("next_step in dw_status says how to mend it; then SELECT dw_resume(%s).", quote_literal_cstr(m->name))
				 : m->phase >= DW_READY ? errhint("No worker does that: next_step in dw_status says which call comes next.")
				 : errhint("CALL dw_wait(%s, %s) waits for it.", quote_literal_cstr(m->name), quote_literal_cstr(phase))));
	PG_RETURN_TEXT_P(result("migration \"%s\" is %s", m->name, dw_enum_name(dw_phase_names, m->phase)));
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
