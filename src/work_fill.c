/*
 * work_fill.c
 *		The backfill's steps: which range is next, one batch of it, and the pace.
 *
 * Progress is stored in the commit of each batch, blocks that were passed over
 * with it.  The range at hand is known in memory only: after a crash it is begun
 * again, and what has been filled is recognized (batch.c).
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "executor/instrument.h"
#include "storage/bufmgr.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "fault.h"
#include "migration.h"
#include "rule.h"
#include "run.h"
#include "work.h"
#include "worker.h"

/* The range to work on next; false if the member is through. */
static bool
next_range(DwWorker *w, DwMember *b, Relation rel, DwProgress *p)
{
	BlockNumber nblocks = Min((BlockNumber) p->blocks_total, RelationGetNumberOfBlocks(rel));
	BlockNumber skipped;

	if (w->range_active)
	{
		/* VACUUM may have cut the end off since */
		dw_range_clip(&w->range, RelationGetNumberOfBlocks(rel));
		return true;
	}
	if (p->blocks_done < nblocks)
	{
		dw_range_init(&w->range, p->blocks_done, Min(DW_RANGE_BLOCKS, nblocks - p->blocks_done));
		w->revisit = false;
	}
	else
	{
		p->blocks_done = p->blocks_total;
		if (dw_skipped_list(b->id, 1, &skipped) == 0)
			return false;
		if (skipped >= RelationGetNumberOfBlocks(rel))
		{
			dw_skipped_done(b->id, skipped);
			return next_range(w, b, rel, p);
		}
		dw_range_init(&w->range, skipped, 1);
		w->revisit = true;
		w->revisit_locked = false;
	}
	w->range_active = true;
	return true;
}

static void
start_fill(DwMember *b, Relation rel, DwProgress *p)
{
	memset(p, 0, sizeof(*p));
	p->relfilenode = dw_relfilenode(rel);
	p->blocks_total = RelationGetNumberOfBlocks(rel);
	p->rows_estimated = dw_work_estimate_rows(rel, p->blocks_total);
	dw_progress_start(b->id, "fill", p);
	dw_skipped_clear(b->id);
}

/* So that progress can be seen, and held-back time be added up, before the first batch. */
void
dw_work_fill_announce(DwMember *b)
{
	DwProgress	p;
	Relation	rel;

	if (dw_progress_get(b->id, "fill", &p) || (rel = dw_peek(b->relid)) == NULL)
		return;
	start_fill(b, rel, &p);
	relation_close(rel, AccessShareLock);
}

/* One batch of one member.  Returns true if the member is through. */
static bool
fill_member(DwWorker *w, DwMember *b, DwProgress *p)
{
	Relation	rel = dw_work_open_member(w, b, RowExclusiveLock);
	DwBatch		batch = {.max_rows = dw_throttle_rows(w),.max_ms = w->options.batch_time,.careful = w->careful};
	instr_time	start;
	uint64		wal = pgWalUsage.wal_bytes;
	double		ms;

	w->still_locked = false;
	if (rel == NULL)
	{
		w->stamp = NULL;
		return false;
	}
	INSTR_TIME_SET_CURRENT(start);
	if (!dw_progress_get(b->id, "fill", p) || p->relfilenode != dw_relfilenode(rel))
	{
		/* never begun, or the heap has been rewritten: positions mean nothing any more */
		start_fill(b, rel, p);
		w->range_active = false;
	}
	if (!p->finished && !next_range(w, b, rel, p))
	{
		p->finished = true;
		dw_progress_put(b->id, "fill", p);
	}
	if (p->finished)
	{
		table_close(rel, NoLock);
		return true;
	}

	dw_step_become_owner(rel);
	dw_throttle_guard(w, &batch.written);
	dw_fill_batch(dw_rule_open_active(b->id, rel), rel, &w->range, &batch);
	dw_throttle_unguard(w);
	dw_fault_here("fill_updated", w->m->name);
	w->revisit_locked |= batch.locked > 0;
	if (dw_range_done(&w->range))
	{
		dw_range_free_space(rel, &w->range);
		if (!w->revisit)
			p->blocks_done = w->range.start + w->range.nblocks;
		else if (!w->revisit_locked)
			dw_skipped_done(b->id, w->range.start); /* only now: the visit may take several batches */
		w->range_active = false;
	}
	ms = dw_ms_since(start);
	p->rows_done += batch.written;
	p->rows_already += batch.already;
	p->rows_locked += batch.locked;
	p->rows_failed += batch.failed;
	p->wal_bytes += pgWalUsage.wal_bytes - wal;
	p->batch_ms = ms;
	dw_throttle_batch(w, batch.written, ms);
	p->rows_per_second = w->throttle.pace.rows_per_second;
	dw_progress_put(b->id, "fill", p);
	dw_fault_at_commit("fill", w->m->name);
	if (w->careful && --w->careful_left <= 0)
		w->careful = false;

	/* a block that is still locked: give its holder time */
	if (w->revisit && w->revisit_locked && !w->range_active)
		w->still_locked = true;
	table_close(rel, NoLock);
	return false;
}

void
dw_work_fill(DwWorker *w)
{
	DwMember   *b = list_nth(w->m->members, w->member);
	DwProgress	p;
	bool		through;
	bool		filled = false;
	bool		fault;

	if (!dw_throttle_go(w, true))
		return;
	dw_step_begin();
	through = fill_member(w, b, &p);
	fault = dw_fault_armed("fill_between", w->m->name);
	if (through && w->member + 1 == list_length(w->m->members) && dw_work_unchanged(w))
	{
		dw_filled(w->m);
		filled = true;
	}
	dw_step_commit();
	if (filled)
		w->stamp = NULL;		/* only now: should the commit fail, it is the migration that it was */
	if (fault)
	{
		dw_step_begin();
		dw_fault_here("fill_between", w->m->name);
		dw_step_commit();
	}
	if (through)
	{
		w->member = (w->member + 1) % list_length(w->m->members);
		w->range_active = false;
		return;
	}
	if (w->still_locked)
	{
		dw_work_report(w, "waiting", "rows that the backfill passed over are still locked", NULL, 0, 0);
		dw_sleep(200);
	}
	else
		dw_throttle_rest(w);
}
