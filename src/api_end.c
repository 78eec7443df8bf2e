/*
 * api_end.c
 *		The two ends of a migration: finalize and abort.
 *
 * Either drops the mirror, and the side that goes with it.  Everything that is
 * dropped or changed is locked before the first of it is.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_class.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "api.h"
#include "attach.h"
#include "carry.h"
#include "expr.h"
#include "migration.h"
#include "proof.h"
#include "run.h"
#include "worker.h"

PG_FUNCTION_INFO_V1(dw_finalize);
PG_FUNCTION_INFO_V1(dw_abort);

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
	if (g->side == DW_NEW)
		forboth(lc, g->m->members, lc2, columns)
		{
			dw_check_abortable(g->m, ((DwMember *) lfirst(lc))->relid, lfirst(lc2));
			dw_return_sequences(((DwMember *) lfirst(lc))->relid, lfirst(lc2));
		}
	foreach(lc, g->m->members)
		dw_detach(((DwMember *) lfirst(lc))->id, ((DwMember *) lfirst(lc))->relid);
	CommandCounterIncrement();
	forboth(lc, g->m->members, lc2, columns)
		dw_drop_columns(((DwMember *) lfirst(lc))->relid, lfirst(lc2));
}

Datum
dw_finalize(PG_FUNCTION_ARGS)
{
	DwMigration *m = dw_verb_begin("dw_finalize()", dw_verb_name(fcinfo, "dw_finalize"));
	bool		drop_old = PG_ARGISNULL(1) ? true : PG_GETARG_BOOL(1);
	Going		going = {m, DW_OLD, drop_old};
	ListCell   *lc;

	if (m->phase == DW_FINALIZED)
		PG_RETURN_TEXT_P(dw_result("migration \"%s\" is finalized already", m->name));
	dw_check_active(m);
	if (m->phase != DW_SWITCHED)
		dw_wrong_phase(m, "finalized", "SELECT dw_switch(%s) comes first.");
	dw_check_tables(m);
	dw_lock_tables_and(m, AccessExclusiveLock, relations_going, &going);
	dw_work_now(m);
	if (m->phase != DW_SWITCHED)
		dw_wrong_phase(m, "finalized", "Look at dw_status, migration %s.");
	dw_check_may_flip(m, "finalized", true);
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
	dw_notice_lock("ACCESS EXCLUSIVE");
	dw_migration_forget(m);
	dw_transition(m, "finalize", drop_old ? "the old side was dropped" : "the old side was kept");
	PG_RETURN_TEXT_P(dw_result("migration \"%s\" is finalized: the mirror is gone, the old side %s", m->name,
							drop_old ? "was dropped" : "was kept and is no longer in sync"));
}

/* ---- abort ---- */

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
	DwMigration *m = dw_verb_begin("dw_abort()", dw_verb_name(fcinfo, "dw_abort"));
	bool		accept_loss = !PG_ARGISNULL(1) && PG_GETARG_BOOL(1);
	LossScan	scan;
	bool		present = !dw_table_missing(m);
	bool		rules;
	bool		created = false;
	Going		going = {m, DW_NEW, false};
	ListCell   *lc;

	if (m->phase == DW_ABORTED)
		PG_RETURN_TEXT_P(dw_result("migration \"%s\" is aborted already", m->name));
	dw_check_active(m);
	/*
	 * Where the rules are lost, so may be the old side, and with them the
	 * names of the columns: everything that holds data stays.
	 */
	rules = going.columns = present && rules_present(m);
	if (rules && !accept_loss)
		check_loss(m, &scan);
	if (present)
		dw_lock_tables_and(m, AccessExclusiveLock, relations_going, &going);
	if (rules && !accept_loss)
		recheck_loss(m, &scan);
	foreach(lc, m->members)
		created |= ((DwMember *) lfirst(lc))->ncreated > 0;
	remove_members(&going);
	if (present)
		dw_notice_lock("ACCESS EXCLUSIVE");
	dw_migration_set_failed(m->id, false, NULL);
	dw_migration_forget(m);
	dw_transition(m, "abort", accept_loss ? "losses accepted" : present ? NULL : "the table was dropped");
	PG_RETURN_TEXT_P(dw_result("migration \"%s\" is aborted: the mirror %s", m->name,
							present && !rules ? "is gone; its rules were lost, so every column is kept"
							: created ? "and the columns that it created are gone" : "is gone"));
}
