/*
 * work_verify.c
 *		The verification's steps: a pass in chunks over all members.
 *
 * A pass is one uninterrupted holding of DW_LOCK_PASS.  Before it begins, every
 * writer has to know that it must look at the rows that it moves, and those
 * that might not know have to end (migration.h); then each chunk is a step.
 *
 * A large table is checked in parts, and helpers take some (option workers).
 * Whoever holds a part's lock checks a chunk of it: reads the part's row of
 * dualwrite.progress, then takes a snapshot, and stores what it found if the
 * row still belongs to the pass.  So nothing is stored that was seen before the
 * pass began, when rows that moved were not reported.  Nobody waits for a chunk:
 * a pass that has become needless is thrown away under it.
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
#include "own_lock.h"
#include "rule.h"
#include "run.h"
#include "verify.h"
#include "work.h"
#include "worker.h"

/* rest in a recheck, in times of the work */
#define RECHECK_REST 4

/* how long a chunk may take: whoever needs the table for himself waits for its end */
#define CHUNK_MS 50.0

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
		Relation	rel = dw_work_open_table(w, b->relid, AccessShareLock);
		DwProgress	p = {.epoch = pass.epoch,.token = pass.token,.losses = pass.losses,.marks = pass.marks,.snapshot = pass.snapshot};
		BlockNumber total;

		if (rel == NULL)
			continue;
		total = RelationGetNumberOfBlocks(rel);
		dw_work_start_parts(b, rel, "verify", total, (total / DW_MAX_PARTS / DW_CHUNK_BLOCKS + 1) * DW_CHUNK_BLOCKS, &p);
		relation_close(rel, NoLock);
	}
	dw_step_commit();
}

/* Locks all tables, against verbs that end the migration; false if it has changed meanwhile. */
static bool
open_members(DwWorker *w)
{
	ListCell   *lc;

	foreach(lc, w->m->members)
	{
		Relation	rel = dw_work_open_member(w, lfirst(lc), AccessShareLock);

		if (rel == NULL)
			return false;
		relation_close(rel, NoLock);
	}
	return true;
}

/*
 * All members are through: what did the pass find?  In a step that has written
 * nothing yet: dw_verify changes the migration and then deletes the pass, so
 * whoever holds a row of dualwrite.progress must not wait for the migration's.
 */
static void
end_verify(DwWorker *w)
{
	DwTotals	t = {0};
	DwProgress	pass;
	DwProgress	p;
	ListCell   *lc;
	DwVerdict	verdict;
	int			first = ((DwMember *) linitial(w->m->members))->id;

	foreach(lc, w->m->members)
	{
		int			id = ((DwMember *) lfirst(lc))->id;

		/* dw_verify was faster, and has thrown the pass away */
		if (!dw_progress_get(id, "verify", 0, &pass))
			return;
		for (int part = 0; dw_progress_get(id, "verify", part, &p); part++)
		{
			t.rows += p.rows_done;
			t.drifted += p.rows_drifted;
			t.unconvertible += p.rows_failed;
			t.lossy += p.rows_lossy;
		}
	}
	verdict = dw_pass_end(w->m, &(DwPass) {.token = pass.token,.epoch = pass.epoch,.marks = pass.marks,.snapshot = pass.snapshot,.losses = pass.losses}, &t);
	/* ... or has done so while we waited for it */
	if (verdict == DW_VOID && !dw_progress_get(first, "verify", 0, &pass))
		return;
	dw_progress_forget(w->m, "verify");
	if (verdict == DW_VOID)
		dw_event(w->m->id, w->m->name, "verification void", -1, -1, "triggers, rules or options changed while it ran; it begins again");
}

/* what a look at a member came to */
typedef enum CheckResult
{
	CHECK_CHUNK,				/* a chunk was checked, or something else: go on */
	CHECK_OTHERS,				/* what is left is in the hands of other workers */
	CHECK_THROUGH,				/* all parts are */
	CHECK_ANEW					/* the pass has to begin, or to begin anew */
} CheckResult;

/*
 * Takes a part for one chunk.  The last part goes to the end of the table as
 * it will be when all others are through: rows may have moved there.
 */
static CheckResult
take_part(DwWorker *w, DwMember *b, Relation rel, DwProgress *p, bool *last)
{
	int			parts[DW_MAX_PARTS];
	int			n = dw_progress_unfinished(b->id, "verify", DW_MAX_PARTS, parts);

	*last = n == 1;
	if (n < 0)
		return CHECK_ANEW;
	if (n == 0)
		return CHECK_THROUGH;
	for (int i = 0; i < Max(n - 1, 1); i++)
	{
		if (!dw_piece_lock(DW_LOCK_PART, b->id, parts[i]))
			continue;
		w->part = parts[i];
		w->part_member = b->id;

		/* whoever had it may have finished it since we asked */
		if (dw_progress_get(b->id, "verify", w->part, p) && !p->finished)
			return p->relfilenode == dw_relfilenode(rel) && p->epoch == w->m->epoch ? CHECK_CHUNK : CHECK_ANEW;
		dw_work_unclaim(w);
	}
	return CHECK_OTHERS;
}

/* The next chunk of the part, as the table is now.  *p becomes what is known of the part then. */
static void
check_chunk(DwWorker *w, DwMember *b, Relation rel, DwProgress *p, bool last)
{
	/* where the last verification still counts, nobody waits for this one */
	double		burst_rest = dw_throttle_duty_rest(w);
	double		rest = Max(burst_rest, w->m->verified ? RECHECK_REST : 1);
	DwCheck		check = {.record = true,.rest = burst_rest > 0 ? rest : 0};
	BlockNumber nblocks = RelationGetNumberOfBlocks(rel);
	BlockNumber start = p->first_block + p->blocks_done;
	BlockNumber limit = last ? nblocks : Min((BlockNumber) (p->first_block + p->blocks_total), nblocks);
	BlockNumber end = Min(start + (w->chunk_blocks ? w->chunk_blocks : DW_CHUNK_BLOCKS / 8), limit);
	instr_time	began;
	double		ms;

	INSTR_TIME_SET_CURRENT(began);
	dw_step_become_owner(rel);
	dw_check_blocks(dw_rule_open_active(b->id, rel), rel, GetActiveSnapshot(), start, end, &check);
	ms = dw_ms_since(began);
	if (end < limit || ms > CHUNK_MS)
		w->chunk_blocks = Min(Max((BlockNumber) ((end - start) * Min(CHUNK_MS / Max(ms, 0.01), 2)), 1), DW_CHUNK_BLOCKS);
	dw_fault_here("verify_chunk", w->m->name);
	p->finished = end >= limit;
	p->blocks_done = Max(end, start) - p->first_block;
	if (p->finished)
		p->blocks_total = p->blocks_done;
	else if (last)
		p->blocks_total = nblocks - p->first_block;
	p->rows_done += check.rows;
	p->rows_drifted += check.drifted;
	p->rows_failed += check.unconvertible;
	p->rows_lossy += check.lossy;
	p->batch_ms = dw_ms_since(began);
	w->rest_ms = Max((p->batch_ms - check.rested_ms) * rest - check.rested_ms, 0);
	p->rows_per_second = p->batch_ms > 0 ? check.rows * 1000.0 / (p->batch_ms + w->rest_ms) : 0;
	dw_progress_put(b->id, "verify", p);
	dw_fault_at_commit("verify", w->m->name);
	w->careful = false;
}

static CheckResult
verify_member(DwWorker *w, DwMember *b)
{
	Relation	rel = dw_work_open_member(w, b, AccessShareLock);
	DwProgress	p;
	CheckResult result;
	bool		last;

	w->rest_ms = 0;
	if (rel == NULL)
	{
		w->stamp = NULL;
		return CHECK_CHUNK;
	}
	result = take_part(w, b, rel, &p, &last);
	if (result == CHECK_CHUNK)
	{
		/* the one we have may be older than the pass that the part belongs to */
		PopActiveSnapshot();
		PushActiveSnapshot(GetLatestSnapshot());
		check_chunk(w, b, rel, &p, last);
		if (last && p.finished)
			result = CHECK_THROUGH;
	}
	table_close(rel, NoLock);
	return result;
}

/* Not for a recheck: nobody waits for it.  The last part isn't shared. */
static void
call_helpers(DwWorker *w)
{
	if (!w->m->verified)
		dw_work_call_helpers(w, "verify", 1);
}

void
dw_work_verify(DwWorker *w)
{
	DwMember   *b = list_nth(w->m->members, w->member);
	CheckResult result;
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
	result = verify_member(w, b);
	ended = result == CHECK_THROUGH && w->member + 1 == list_length(w->m->members);
	dw_step_commit();
	dw_work_unclaim(w);			/* only now: whoever takes the part must see what became of it */
	if (ended)
	{
		dw_step_begin();
		if (open_members(w))
			end_verify(w);
		dw_step_commit();
		/* whatever it found, the migration is another one now; had the commit failed, it would be the old one */
		w->stamp = NULL;
	}
	if (result == CHECK_ANEW)
	{
		w->member = 0;
		if (pass_may_begin(w))
		{
			start_verify(w);
			/* should it begin anew, then with a token of its own: a chunk that somebody has under way isn't for that one */
			w->writers_known = false;
			INSTR_TIME_SET_ZERO(w->helped);
			call_helpers(w);
			dw_work_report(w, "running", NULL, NULL, 0, 0);
		}
		return;
	}
	if (w->stamp == NULL)
		return;
	if (result == CHECK_THROUGH)
		w->member = (w->member + 1) % list_length(w->m->members);
	else
		call_helpers(w);
	if (result == CHECK_OTHERS)
	{
		dw_work_report(w, "running", "the last parts are with the other workers", NULL, 0, 0);
		dw_sleep(20);
		return;
	}
	w->throttle.rest_ms = w->rest_ms;
	dw_throttle_rest(w);
}

bool
dw_work_help_verify(DwWorker *w)
{
	CheckResult result;

	if (!dw_throttle_go(w, false))
		return true;
	dw_step_begin();
	result = verify_member(w, list_nth(w->m->members, w->member));
	dw_step_commit();
	dw_work_unclaim(w);
	if (w->stamp == NULL)
		return true;
	if (result == CHECK_THROUGH && w->member + 1 < list_length(w->m->members))
		w->member++;
	else if (result != CHECK_CHUNK)
		return false;
	w->throttle.rest_ms = w->rest_ms;
	dw_throttle_rest(w);
	return true;
}
