/*
 * migration.c
 *		The state machine: which phase follows by which event, what work is due,
 *		and when a verification counts.
 *
 * Every transition is one compare-and-set on the phase, in one transaction
 * with its event row.  Whoever makes one holds what its guard needs: verbs the
 * lock of the name and of the table, the worker its session lock.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "attach.h"
#include "batch.h"
#include "carry.h"
#include "compat.h"
#include "fault.h"
#include "holders.h"
#include "migration.h"
#include "options.h"
#include "proof.h"
#include "run.h"
#include "store.h"
#include "subxact.h"
#include "verify.h"

typedef struct Transition
{
	DwPhase		from;
	const char *event;
	DwPhase		to;
	bool		(*guard) (const DwMigration *m);	/* NULL: always */
} Transition;

/* Has the filled table to get something before it is verified? */
static bool
is_incomplete(const DwMigration *m)
{
	return m->proof && !m->proof_present;
}

static const Transition transitions[] = {
	{DW_BACKFILLING, "filled", DW_BUILDING, is_incomplete},
	{DW_BACKFILLING, "filled", DW_VERIFYING},
	{DW_BUILDING, "built", DW_VERIFYING},
	{DW_VERIFYING, "verified", DW_READY},
	{DW_BUILDING, "hole", DW_BACKFILLING},
	{DW_VERIFYING, "hole", DW_BACKFILLING},
	{DW_READY, "hole", DW_BACKFILLING},
	{DW_READY, "switch", DW_SWITCHED},
	{DW_SWITCHED, "rollback", DW_READY},
	{DW_SWITCHED, "finalize", DW_FINALIZED},
	{DW_BACKFILLING, "abort", DW_ABORTED},
	{DW_BUILDING, "abort", DW_ABORTED},
	{DW_VERIFYING, "abort", DW_ABORTED},
	{DW_READY, "abort", DW_ABORTED},
	{DW_SWITCHED, "abort", DW_ABORTED},
};

void
dw_transition(DwMigration *m, const char *event, const char *note)
{
	for (int i = 0; i < (int) lengthof(transitions); i++)
	{
		const Transition *t = &transitions[i];

		if (t->from != m->phase || strcmp(t->event, event) != 0 || (t->guard && !t->guard(m)))
			continue;
		dw_migration_set_phase(m, t->from, t->to);
		dw_event(m->id, m->name, event, t->from, t->to, note);
		dw_fault_at_commit(event, m->name);
		CommandCounterIncrement();
		return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("migration \"%s\" is in phase %s, which \"%s\" does not leave", m->name,
					dw_enum_name(dw_phase_names, m->phase), event)));
}

bool
dw_to_build(const DwMigration *m)
{
	/* not over rows on record: each write to one of them would be refused */
	return is_incomplete(m) && m->open_drift == 0 && m->two_way && m->mirror == DW_MIRROR_BOTH;
}

/* Is a pass due that begins after the constraint was added?  It would find again what is on record. */
static bool
is_to_prove(const DwMigration *m)
{
	return m->proof && m->proof_present && !m->proven && m->open_drift == 0;
}

/* Has the verification grown old?  Nothing waits for the next one. */
static bool
is_to_recheck(const DwMigration *m)
{
	DwOptions	o;

	if (!m->verified || !m->two_way || (m->phase != DW_READY && m->phase != DW_SWITCHED))
		return false;
	dw_options_read(m->options, &o);
	return o.recheck_interval > 0 &&
		GetCurrentTimestamp() >= TimestampTzPlusMilliseconds(m->verified_at, (int64) o.recheck_interval * 1000);
}

DwWork
dw_work_due(const DwMigration *m, const char **reason)
{
	const char *ignored;

	if (reason == NULL)
		reason = &ignored;
	*reason = NULL;
	if (m->phase >= DW_FINALIZED)
		return DW_WORK_NONE;
	if (m->copied)
		*reason = "restored copy";
	else if (m->members == NIL)
		*reason = "no members";
	else if (m->table_missing)
		*reason = "the table was dropped";
	else if (m->paused)
		*reason = "paused";
	else if (m->failed)
		*reason = "failed";
	else if (m->phase == DW_BACKFILLING || m->heal)
	{
		if (m->mirror == DW_MIRROR_BOTH)
			return DW_WORK_FILL;
		*reason = "the mirror is not on both ways";
	}
	else if (m->phase == DW_BUILDING || dw_to_build(m))
	{
		if (m->mirror == DW_MIRROR_BOTH)
			return DW_WORK_BUILD;
		*reason = "the mirror is not on both ways";
	}
	else if (m->phase == DW_VERIFYING || is_to_prove(m) ||
			 (m->phase == DW_READY && !m->verified) ||
			 (m->phase == DW_SWITCHED && m->two_way && !m->verified_since_phase))
	{
		if (m->mirror == DW_MIRROR_BOTH)
			return DW_WORK_VERIFY;
		*reason = "the mirror is not on both ways";
	}
	else if (m->mirror == DW_MIRROR_BOTH && is_to_recheck(m))
		return DW_WORK_VERIFY;
	return DW_WORK_NONE;
}

void
dw_filled(DwMigration *m)
{
	dw_member_set_filling(m, false);
	if (m->heal)
	{
		dw_migration_set_heal(m, false);
		m->heal = false;
	}
	if (m->phase == DW_BACKFILLING)
		dw_transition(m, "filled", NULL);
	else
		dw_event(m->id, m->name, "healed", -1, -1, NULL);
	CommandCounterIncrement();
}

void
dw_built(DwMigration *m)
{
	if (dw_to_build(m))
		dw_proof_add(m);
	if (m->phase == DW_BUILDING)
		dw_transition(m, "built", is_incomplete(m) && m->open_drift > 0 ? "without the proof constraint: rows are recorded as not consistent" : NULL);
	CommandCounterIncrement();
}

/* Do we hold locks that keep everyone else from writing the tables? */
static bool
writers_excluded(DwMigration *m)
{
	ListCell   *lc;

	foreach(lc, m->members)
	{
		DwMember   *b = lfirst(lc);

		if (get_rel_persistence(b->relid) != RELPERSISTENCE_TEMP && !dw_lock_excludes_writers(b->relid))
			return false;
	}
	return true;
}

char *
dw_mirror_problem(DwMigration *m)
{
	ListCell   *lc;

	foreach(lc, m->members)
	{
		DwMember   *b = lfirst(lc);
		char	   *problem = get_rel_name(b->relid) ? dw_attach_problem(b->id, b->relid) : pstrdup("the table was dropped");

		if (problem)
			return problem;
	}
	return NULL;
}

/* The pass ended, but not clean: the migration stops until someone has looked. */
static void
stop_on(DwMigration *m, const char *event, const char *note)
{
	dw_migration_set_failed(m->id, true, note);
	dw_event(m->id, m->name, event, -1, -1, note);
	CommandCounterIncrement();
}

/*
 * A loss is counted before its transaction commits.  So the count includes
 * losses that the pass doesn't see, if writers are under way at this moment;
 * a pass in chunks has waited for those that were when its count was taken.
 */
void
dw_pass_begin(DwMigration *m, int64 token, int64 losses, DwPass *pass)
{
	pass->token = token;
	pass->epoch = m->epoch;
	pass->losses = token ? losses : dw_loss_counted(m);
	if (token == 0 && !writers_excluded(m) && dw_writers_now(m) != NIL)
		pass->losses = -1;
	pass->marks = dw_migration_marks(m);
	pass->snapshot = dw_current_snapshot();
	pass->last_drift = token ? 0 : dw_drift_last();
}

DwVerdict
dw_pass_end(DwMigration *m, const DwPass *pass, const DwTotals *t)
{
	char	   *note;
	DwMigration *fresh;
	DwPhase		phase;
	int64		epoch;
	bool		proven;

	/*
	 * Once the new side is in authority, a row that the old side can't hold is
	 * right as it is; it stays on record, and in the way of dw_rollback.
	 */
	int64		tolerated = m->phase == DW_SWITCHED ? t->unconvertible : 0;

	if (!dw_checking_end(m, pass->token))
		return DW_VOID;
	/* we may have waited there for somebody who changed it */
	if (!dw_migration_look(m->id, &phase, &epoch) || phase != m->phase || strcmp(dw_migration_marks(m), pass->marks) != 0)
		return DW_VOID;

	/* what the pass did not record again, it has seen consistent */
	dw_drift_close(m, pass->snapshot, pass->last_drift);
	if (t->drifted > tolerated)
	{
		dw_migration_set_counts(m, t->drifted - t->unconvertible, t->unconvertible);
		note = psprintf(INT64_FORMAT " of " INT64_FORMAT " rows %s not consistent (see dw_drift)", t->drifted, t->rows,
						t->drifted == 1 ? "is" : "are");
		stop_on(m, "drift found", note);
		return DW_DRIFT;
	}
	if ((note = dw_mirror_problem(m)) != NULL)
	{
		stop_on(m, "mirror broken", note);
		return DW_DRIFT;
	}
	CommandCounterIncrement();
	fresh = dw_migration_get(m->id);
	if (fresh->open_drift > (m->phase == DW_SWITCHED ? fresh->open_unconvertible : 0))
	{
		note = psprintf(INT64_FORMAT " %s recorded as not consistent while the verification ran (see dw_drift)",
						fresh->open_drift, fresh->open_drift == 1 ? "row was" : "rows were");
		stop_on(m, "drift found", note);
		return DW_DRIFT;
	}
	/* the marks are those of the begin: the constraint was there, if it is now */
	proven = fresh->proof && fresh->proof_present && tolerated == 0 && t->repaired == 0;
	if (!dw_migration_set_verified(m, pass->epoch, pass->marks, t->lossy + tolerated, t->lossy + tolerated == 0 ? pass->losses : -1, proven))
		return DW_VOID;
	dw_migration_set_failed(m->id, false, NULL);
	note = tolerated == 0 ? psprintf(INT64_FORMAT " rows, all consistent", t->rows)
		: psprintf(INT64_FORMAT " rows, " INT64_FORMAT " of them hold what the old side can't", t->rows, tolerated);
	if (m->phase == DW_VERIFYING && (proven || !fresh->proof))
		dw_transition(m, "verified", note);
	else
		dw_event(m->id, m->name, "verified", -1, -1, note);
	if (proven && !fresh->proven)
		dw_event(m->id, m->name, "proven", -1, -1, NULL);
	CommandCounterIncrement();
	return DW_CLEAN;
}

/* ---- on the spot ---- */

/* Are all tables of the migration small enough to be dealt with on the spot? */
static bool
is_small(const DwMigration *m)
{
	int64		bytes = 0;
	ListCell   *lc;

	foreach(lc, m->members)
	{
		DwMember   *b = lfirst(lc);
		Relation	rel = dw_peek(b->relid);

		if (rel == NULL)
			return false;
		/* no worker can see a temporary table */
		if (!RelationUsesLocalBuffers(rel))
			bytes += (int64) RelationGetNumberOfBlocks(rel) * BLCKSZ;
		relation_close(rel, NoLock);
	}
	return bytes <= (int64) dw_inline_limit * 1024;
}

/* One batch in a subtransaction; if a row raises, again with every row on its own. */
static void
fill_batch_now(DwRule *rule, Relation rel, DwRange *range)
{
	DwSubxact	sub;
	DwRange		saved = *range;
	/* plain: what keeps dead versions from being pruned, a snapshot or this very transaction, can't be waited for here */
	DwBatch		batch = {.max_rows = INT_MAX,.max_ms = 1e18,.plain = true};
	volatile bool again = false;

	dw_subxact_begin(&sub);
	PG_TRY();
	{
		dw_fill_batch(rule, rel, range, &batch);
		dw_subxact_end(&sub);
	}
	PG_CATCH();
	{
		ErrorData  *error = dw_subxact_caught(&sub);

		if (!dw_error_of_row(error->sqlerrcode) && !dw_error_of_lock(error->sqlerrcode))
			ReThrowError(error);
		FreeErrorData(error);
		again = true;
	}
	PG_END_TRY();
	if (again)
	{
		DwBatch		careful = {.max_rows = INT_MAX,.max_ms = 1e18,.plain = true,.careful = true};

		*range = saved;
		dw_fill_batch(rule, rel, range, &careful);
		batch.waited = careful.waited;
	}
	/* else the block is noted, and the worker comes back to it */
	if (!dw_range_done(range) && !batch.waited)
		elog(ERROR, "blocks from %u on were not filled to their end", range->start);
}

/* Fills all members in this transaction, as the tables' owners. */
static void
fill_now(DwMigration *m)
{
	ListCell   *lc;

	foreach(lc, m->members)
	{
		DwMember   *b = lfirst(lc);
		Relation	rel = table_open(b->relid, RowExclusiveLock);
		BlockNumber nblocks = RelationGetNumberOfBlocks(rel);
		MemoryContext turn;
		DwRun		run;

		dw_run_begin(&run, rel->rd_rel->relowner);
		/* of a range: a temporary table may have any size */
		turn = AllocSetContextCreate(CurrentMemoryContext, "pg_dualwrite fill", ALLOCSET_DEFAULT_SIZES);
		(void) set_config_option("lock_timeout", "100", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
		for (BlockNumber start = 0; start < nblocks; start += DW_RANGE_BLOCKS)
		{
			MemoryContext old = MemoryContextSwitchTo(turn);
			DwRule	   *rule;
			DwRange		range;

			CommandCounterIncrement();
			PushActiveSnapshot(GetLatestSnapshot());
			rule = dw_rule_open_active(b->id, rel);
			dw_range_init(&range, start, Min(DW_RANGE_BLOCKS, nblocks - start));
			fill_batch_now(rule, rel, &range);
			PopActiveSnapshot();
			MemoryContextSwitchTo(old);
			MemoryContextReset(turn);
		}
		dw_run_end(&run);
		table_close(rel, NoLock);
		CommandCounterIncrement();
	}
}

void
dw_check_now(DwMigration *m, double sample, bool record, DwTotals *t, StringInfo losses)
{
	ListCell   *lc;

	memset(t, 0, sizeof(*t));
	CommandCounterIncrement();

	/* all locks first: a snapshot from before a rewrite would see none of its rows */
	foreach(lc, m->members)
		LockRelationOid(((DwMember *) lfirst(lc))->relid, AccessShareLock);
	PushActiveSnapshot(GetLatestSnapshot());
	foreach(lc, m->members)
	{
		DwMember   *b = lfirst(lc);
		Relation	rel = table_open(b->relid, AccessShareLock);
		BlockNumber nblocks = RelationGetNumberOfBlocks(rel);
		DwCheck		check = {.record = record,.losses = losses};
		DwRun		run;
		DwRule	   *rule;

		dw_run_begin(&run, rel->rd_rel->relowner);
		rule = dw_rule_open_active(b->id, rel);
		if (sample >= 1)
			dw_check_blocks(rule, rel, GetActiveSnapshot(), 0, nblocks, &check);
		else
			for (BlockNumber block = 0; block < nblocks; block++)
				if (pg_prng_double(&pg_global_prng_state) < sample)
					dw_check_blocks(rule, rel, GetActiveSnapshot(), block, block + 1, &check);
		dw_run_end(&run);
		t->rows += check.rows;
		t->drifted += check.drifted;
		t->unconvertible += check.unconvertible;
		t->lossy += check.lossy;
		t->losses += check.lossy + check.foreign_new;
		table_close(rel, NoLock);
	}
	PopActiveSnapshot();
	CommandCounterIncrement();
}

/*
 * Rows that someone has locked can't be filled on the spot; that is for the
 * worker, who comes back.  So are rows whose constraints this transaction may
 * still mend before it commits: we check them at once (writer.c).
 */
static bool
may_fill_now(DwMigration *m)
{
	ListCell   *lc;

	if (!writers_excluded(m))
		return false;
	foreach(lc, m->members)
	{
		DwMember   *b = lfirst(lc);

		if (get_rel_persistence(b->relid) != RELPERSISTENCE_TEMP && dw_new_side_deferrable(b))
			return false;
	}
	return true;
}

static bool
skipped_any(DwMigration *m)
{
	BlockNumber block;
	ListCell   *lc;

	foreach(lc, m->members)
		if (dw_skipped_list(((DwMember *) lfirst(lc))->id, 1, &block) > 0)
			return true;
	return false;
}

void
dw_work_now(DwMigration *m)
{
	DwWork		work;

	/* asked once: the fill makes it grow */
	if (!is_small(m))
		return;
	for (int i = 0; i < 6; i++)
	{
		DwMigration *fresh = dw_migration_get(m->id);

		if ((work = dw_work_due(fresh, NULL)) == DW_WORK_NONE ||
			(work == DW_WORK_FILL && !may_fill_now(fresh)))
			break;
		if (work == DW_WORK_FILL)
		{
			fill_now(fresh);
			if (skipped_any(fresh))
				break;			/* row locks don't conflict with the table's: the worker comes back to them */
			dw_filled(fresh);
		}
		else if (work == DW_WORK_BUILD)
		{
			/* else it is for the worker */
			if (dw_to_build(fresh) && !dw_proof_try_lock(fresh))
				break;
			dw_built(fresh);
		}
		else
		{
			DwPass		pass;
			DwTotals	t;

			dw_pass_begin(fresh, 0, 0, &pass);
			dw_check_now(fresh, 1, true, &t, NULL);
			if (dw_pass_end(fresh, &pass, &t) != DW_CLEAN)
				break;
		}
	}
	CommandCounterIncrement();
	*m = *dw_migration_get(m->id);
}

/* ---- passes in chunks ---- */

List *
dw_writers_now(DwMigration *m)
{
	List	   *writers = NIL;
	ListCell   *lc;

	foreach(lc, m->members)
		writers = list_concat(writers, dw_table_writers(((DwMember *) lfirst(lc))->relid));
	return writers;
}

bool
dw_writers_gone(List *writers)
{
	ListCell   *lc;

	foreach(lc, writers)
	{
		VirtualTransactionId *v = lfirst(lc);

		if (!VirtualXactLock(*v, false))
			return false;
	}
	return true;
}
