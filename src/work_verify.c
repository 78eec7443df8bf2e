/*
 * work_verify.c
 *		The verification's steps: a pass in chunks over all members.
 *
 * A pass is one uninterrupted holding of DW_LOCK_PASS.  Before it begins, every
 * writer has to know that it must look at the rows that it moves, and those
 * that might not know have to end (migration.h); then each chunk is a step.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "storage/bufmgr.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "fault.h"
#include "migration.h"
#include "rule.h"
#include "run.h"
#include "verify.h"
#include "work.h"
#include "worker.h"

/* rest after a chunk of a recheck, in times of the chunk */
#define RECHECK_REST 4

void
dw_work_unlock_pass(DwWorker *w)
{
	if (w->pass_locked)
		dw_session_unlock(DW_LOCK_PASS, w->migration_id);
	w->pass_locked = false;
}

/* One pass in chunks at a time; dw_reconcile goes first. */
static bool
lock_pass(DwWorker *w)
{
	if (w->pass_locked && dw_session_lock_wanted(DW_LOCK_PASS, w->migration_id))
		dw_work_unlock_pass(w);
	else if (!w->pass_locked && dw_session_lock(DW_LOCK_PASS, w->migration_id, false))
	{
		w->pass_locked = true;

		/*
		 * A pass is one uninterrupted holding of the lock: a writer that looked
		 * while nobody held it took the pass for dead, and told us of no row
		 * that it moved.
		 */
		dw_step_begin();
		dw_progress_forget(w->m, "verify");
		dw_step_commit();
		w->writers_known = false;
	}
	return w->pass_locked;
}

/*
 * Before a pass in chunks begins, writers are told to look at every row, and
 * those that may not have heard must end.  True when the pass may begin.
 */
static bool
pass_may_begin(DwWorker *w)
{
	if (!w->writers_known)
	{
		MemoryContext old;

		dw_step_begin();
		w->losses = dw_loss_counted(w->m);
		w->token = dw_checking_begin(w->m);
		dw_step_commit();
		dw_step_begin();
		dw_work_read(w);		/* the stamp has changed by our own hand */
		if (w->m)
		{
			old = MemoryContextSwitchTo(w->cxt);
			w->writers = dw_writers_now(w->m);
			MemoryContextSwitchTo(old);
			w->writers_known = true;
		}
		dw_step_commit();
		if (w->m == NULL)
			return false;
	}
	dw_step_begin();
	if (!dw_writers_gone(w->writers))
	{
		dw_step_commit();
		dw_work_report(w, "waiting", "transactions that wrote before the verification began are still open", NULL, 0, 0);
		dw_sleep(100);
		return false;
	}
	dw_step_commit();
	return true;
}

/* Begins the pass over all members. */
static void
start_verify(DwWorker *w)
{
	DwPass		pass;
	ListCell   *lc;

	dw_step_begin();
	dw_pass_begin(w->m, w->token, w->losses, &pass);
	foreach(lc, w->m->members)
	{
		DwMember   *b = lfirst(lc);
		Relation	rel = try_relation_open(b->relid, AccessShareLock);
		DwProgress	p = {.epoch = pass.epoch,.token = pass.token,.losses = pass.losses,.marks = pass.marks,.snapshot = pass.snapshot};

		if (rel == NULL)
			continue;
		p.relfilenode = dw_relfilenode(rel);
		p.blocks_total = RelationGetNumberOfBlocks(rel);
		p.rows_estimated = dw_work_estimate_rows(rel, p.blocks_total);
		dw_progress_start(b->id, "verify", &p);
		relation_close(rel, NoLock);
	}
	dw_step_commit();
}

/* All members are through: what did the pass find? */
static void
end_verify(DwWorker *w)
{
	DwTotals	t = {0};
	DwProgress	p;
	ListCell   *lc;
	DwVerdict	verdict;

	if (!dw_work_unchanged(w))
		return;
	foreach(lc, w->m->members)
	{
		/* dw_verify was faster, and has thrown the pass away */
		if (!dw_progress_get(((DwMember *) lfirst(lc))->id, "verify", 0, &p))
			return;
		t.rows += p.rows_done;
		t.drifted += p.rows_drifted;
		t.unconvertible += p.rows_failed;
		t.lossy += p.rows_lossy;
	}
	verdict = dw_pass_end(w->m, &(DwPass) {.token = p.token,.epoch = p.epoch,.marks = p.marks,.snapshot = p.snapshot,.losses = p.losses}, &t);
	dw_progress_forget(w->m, "verify");
	if (verdict == DW_VOID)
		dw_event(w->m->id, w->m->name, "verification void", -1, -1, "triggers, rules or options changed while it ran; it begins again");
}

/* Checks one chunk.  Returns true if the member is through. */
static bool
verify_member(DwWorker *w, DwMember *b, bool *restart)
{
	Relation	rel = dw_work_open_member(w, b, AccessShareLock);
	DwProgress	p;
	DwCheck		check = {.record = true};
	BlockNumber nblocks;
	BlockNumber end;
	instr_time	start;

	*restart = false;
	w->rest_ms = 0;
	if (rel == NULL)
	{
		w->stamp = NULL;
		return false;
	}
	INSTR_TIME_SET_CURRENT(start);
	if (!dw_progress_get(b->id, "verify", 0, &p) || p.relfilenode != dw_relfilenode(rel) || p.epoch != w->m->epoch)
	{
		*restart = true;
		table_close(rel, NoLock);
		return false;
	}
	if (p.finished)
	{
		table_close(rel, NoLock);
		return true;
	}

	/* to the end as it is now: a row may have moved there */
	nblocks = RelationGetNumberOfBlocks(rel);
	end = Min((BlockNumber) p.blocks_done + DW_CHUNK_BLOCKS, nblocks);
	dw_step_become_owner(rel);
	dw_check_blocks(dw_rule_open_active(b->id, rel), rel, GetActiveSnapshot(), p.blocks_done, end, &check);
	dw_fault_here("verify_chunk", w->m->name);
	p.blocks_done = end;
	p.blocks_total = nblocks;
	p.rows_done += check.rows;
	p.rows_drifted += check.drifted;
	p.rows_failed += check.unconvertible;
	p.rows_lossy += check.lossy;
	p.finished = end >= nblocks;
	p.batch_ms = dw_ms_since(start);
	p.rows_per_second = p.batch_ms > 0 ? check.rows * 1000.0 / (p.batch_ms * 2) : 0;
	/* where the last verification still counts, nobody waits for this one */
	w->rest_ms = (int) p.batch_ms * (w->m->verified ? RECHECK_REST : 1);
	dw_progress_put(b->id, "verify", &p);
	dw_fault_at_commit("verify", w->m->name);
	w->careful = false;
	table_close(rel, NoLock);
	return p.finished;
}

void
dw_work_verify(DwWorker *w)
{
	DwMember   *b = list_nth(w->m->members, w->member);
	bool		restart;
	bool		through;
	bool		ended;

	if (!dw_throttle_go(w, false))
		return;
	if (!lock_pass(w))
	{
		dw_work_report(w, "waiting", "dw_reconcile is at work", NULL, 0, 0);
		dw_sleep(200);
		return;
	}
	dw_step_begin();
	through = verify_member(w, b, &restart);
	ended = through && w->member + 1 == list_length(w->m->members);
	if (ended)
		end_verify(w);
	dw_step_commit();
	/* whatever it found, the migration is another one now; had the commit failed, it would be the old one */
	if (ended)
		w->stamp = NULL;
	if (restart)
	{
		if (pass_may_begin(w))
			start_verify(w);
		w->member = 0;
		return;
	}
	if (through)
		w->member = (w->member + 1) % list_length(w->m->members);
	w->throttle.rest_ms = w->rest_ms;
	if (w->stamp)
		dw_throttle_rest(w);
}
