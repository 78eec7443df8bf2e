/*
 * work_fill.c
 *		The backfill's steps: which range is next, one batch of it, and the pace.
 *
 * A large table is filled in parts, and whoever holds a part's lock works on
 * it: the worker of the migration, or one of its helpers (option workers),
 * which do nothing else.  When all parts are through, the worker goes back to
 * the blocks that had been passed over.  A part's row is written by the holder
 * of its lock only, so it is read once.
 *
 * Progress is stored in the commit of each batch, blocks that were passed over
 * with it.  Ranges that are under way are known in memory only: after a crash
 * they are begun again, and what has been filled is recognized (batch.c).
 *
 * Somebody's snapshot may keep dead versions from being pruned: for an instant
 * or for the length of a report.  Meanwhile another range is worked on, up to
 * DW_MAX_RANGES of them; a part counts as done up to the first that is not.
 * When all of them have to wait, going on regardless would double the table: the
 * backfill waits, says for whom, and goes on after pg_dualwrite.horizon_wait.
 */
#include "postgres.h"

#include <math.h>

#include "access/relation.h"
#include "access/table.h"
#include "executor/instrument.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "attach.h"
#include "compat.h"
#include "fault.h"
#include "horizon.h"
#include "migration.h"
#include "own_lock.h"
#include "rule.h"
#include "run.h"
#include "toplevel.h"
#include "work.h"
#include "worker.h"

/* blocks of a part at the least */
#define PART_BLOCKS 1024

/* a table smaller than this is not vacuumed on the way */
#define VACUUM_BLOCKS 1024

/* how many times it is at the most: usually, and where the rows are so narrow that line pointers run out (see vacuum) */
#define VACUUM_STEPS 4
#define VACUUM_STEPS_NARROW 16
#define VACUUM_LOOK_MS 50.0		/* between two looks whether it is time */

/* what a look at a member came to */
typedef enum FillResult
{
	FILL_BATCH,					/* a batch was done, or something else: go on */
	FILL_LOCKED,				/* a block that was passed over is locked again */
	FILL_STARVED,				/* nothing can be pruned */
	FILL_OTHERS,				/* what is left is in the hands of other workers */
	FILL_THROUGH				/* nothing is left */
} FillResult;

/* ---- parts ---- */

void
dw_work_unclaim(DwWorker *w)
{
	if (w->part >= 0)
		dw_piece_unlock(DW_LOCK_PART, w->part_member, w->part);
	w->part = DW_NO_PART;
	w->nranges = 0;
	w->move_on = false;
	w->starved = 0;
	w->spent_blocks = 0;
}

/* Begins the member's backfill: all blocks that there are now. */
static void
start_fill(DwMember *b, Relation rel)
{
	BlockNumber total = RelationGetNumberOfBlocks(rel);
	BlockNumber size = Max(PART_BLOCKS, total / DW_MAX_PARTS + 1);
	DwProgress	p = {0};

	dw_work_start_parts(b, rel, "fill", total, size, &p);
	dw_skipped_clear(b->id);
}

/* So that progress can be seen, and held-back time be added up, before the first batch. */
void
dw_work_fill_announce(DwMember *b)
{
	DwProgress	p;
	Relation	rel;

	if (dw_progress_get(b->id, "fill", 0, &p) || (rel = dw_peek(b->relid)) == NULL)
		return;
	start_fill(b, rel);
	relation_close(rel, AccessShareLock);
}

/* Takes a part that nobody works on; false if there is none. */
static bool
claim(DwWorker *w, DwMember *b, int n, const int *parts)
{
	for (int i = 0; i < n; i++)
	{
		if (!dw_piece_lock(DW_LOCK_PART, b->id, parts[i]))
			continue;
		w->part = parts[i];
		w->part_member = b->id;

		/* whoever had it may have finished it since we asked */
		if (dw_progress_get(b->id, "fill", w->part, &w->progress) && !w->progress.finished)
		{
			w->opened = w->progress.blocks_done;
			return true;
		}
		dw_work_unclaim(w);
	}
	return false;
}

/* Finds something to do, with the table locked. */
static FillResult
find_part(DwWorker *w, DwMember *b, Relation rel)
{
	int			parts[DW_MAX_PARTS];
	int			n = dw_progress_unfinished(b->id, "fill", DW_MAX_PARTS, parts);

	if (n >= 0 && dw_progress_get(b->id, "fill", 0, &w->progress) && w->progress.relfilenode == dw_relfilenode(rel))
	{
		if (claim(w, b, n, parts))
			return FILL_BATCH;
		if (n > 0 || w->slot > 0)
			return FILL_OTHERS;
		w->part = DW_REVISIT;
		(void) dw_progress_get(b->id, "fill", 0, &w->progress);
		return FILL_BATCH;
	}

	/*
	 * Never begun, or the heap has been rewritten: positions mean nothing any
	 * more.  A helper that is in the middle of a part notices before its next
	 * batch, as its progress is about another heap.
	 */
	if (w->slot > 0)
		return FILL_OTHERS;
	start_fill(b, rel);
	w->vacuumed = -1;
	dw_progress_unfinished(b->id, "fill", DW_MAX_PARTS, parts);
	return claim(w, b, 1, parts) ? FILL_BATCH : FILL_OTHERS;
}

/* Begins another range of the part; false if there is none, or no room for it. */
static bool
open_range(DwWorker *w, BlockNumber nblocks)
{
	DwProgress *p = &w->progress;
	BlockNumber end = Min((BlockNumber) (p->first_block + p->blocks_total), nblocks);
	BlockNumber next = p->first_block + w->opened;

	if (w->part == DW_REVISIT || w->nranges == DW_MAX_RANGES || next >= end)
		return false;
	w->range = w->nranges++;
	dw_range_init(&w->ranges[w->range], next, Min(DW_RANGE_BLOCKS, end - next));
	w->opened += w->ranges[w->range].nblocks;
	return true;
}

/* A block that was passed over becomes the range; false if there is none. */
static bool
open_revisit(DwWorker *w, DwMember *b, BlockNumber nblocks)
{
	BlockNumber skipped;

	while (dw_skipped_list(b->id, 1, &skipped) > 0 && skipped >= nblocks)
		dw_skipped_done(b->id, skipped);
	if (dw_skipped_list(b->id, 1, &skipped) == 0)
		return false;
	w->range = 0;
	w->nranges = 1;
	dw_range_init(&w->ranges[0], skipped, 1);
	w->revisit_locked = false;
	return true;
}

/* Chooses the range to work on next; false if the part is through. */
static bool
next_range(DwWorker *w, DwMember *b, Relation rel)
{
	BlockNumber nblocks = RelationGetNumberOfBlocks(rel);

	if (w->nranges == 0)
		return w->part == DW_REVISIT ? open_revisit(w, b, nblocks) : open_range(w, nblocks);

	/* another one that is under way may have become ready; when all have been tried, a new one */
	if (w->move_on && !(w->starved >= w->nranges && open_range(w, nblocks)))
		w->range = (w->range + 1) % w->nranges;

	/* VACUUM may have cut the end off since */
	dw_range_clip(&w->ranges[w->range], nblocks);
	return true;
}

/* ---- a batch ---- */

/*
 * The free space map learns of a range when the next one begins: only then is
 * its last batch committed, and what that left can be pruned.
 */
static void
tell_free_space(DwWorker *w, Relation rel)
{
	BlockNumber nblocks = RelationGetNumberOfBlocks(rel);

	if (w->spent_blocks > 0 && w->spent_start < nblocks)
		dw_range_free_space(rel, w->spent_start, Min((BlockNumber) w->spent_blocks, nblocks - w->spent_start));
	w->spent_blocks = 0;
}

static void
range_through(DwWorker *w, DwMember *b)
{
	DwRange    *range = &w->ranges[w->range];

	w->range_ended = true;
	if (w->part == DW_REVISIT)
	{
		if (!w->revisit_locked)
			dw_skipped_done(b->id, range->start);	/* only now: the visit may take several batches */
		w->nranges = 0;
		return;
	}
	w->spent_start = range->start;
	w->spent_blocks = range->nblocks;
	memmove(range, range + 1, sizeof(DwRange) * (--w->nranges - w->range));
	if (w->range >= w->nranges)
		w->range = 0;
	w->progress.blocks_done = w->nranges > 0 ? w->ranges[0].start - w->progress.first_block : w->opened;
}

static FillResult
fill_batch(DwWorker *w, DwMember *b, Relation rel)
{
	DwProgress *p = &w->progress;
	DwBatch		batch = {.max_rows = dw_throttle_rows(w),.max_ms = w->options.batch_time,.rest = dw_throttle_duty_rest(w),
	.worked_since = w->throttle.began,.careful = w->careful,
	.plain = w->plain || w->part == DW_REVISIT,.alone = w->alone,.at = &w->at};
	uint64		wal = pgWalUsage.wal_bytes;
	instr_time	start;

	INSTR_TIME_SET_CURRENT(start);
	dw_step_unlock_first();
	dw_step_become_owner(rel);
	tell_free_space(w, rel);
	dw_throttle_guard(w, &batch.written);
	dw_fill_batch(dw_rule_open_active(b->id, rel), rel, &w->ranges[w->range], &batch);
	dw_throttle_unguard(w);
	dw_fault_here("fill_updated", w->m->name);
	w->revisit_locked |= batch.locked > 0;
	w->move_on = batch.starved;
	if (dw_range_done(&w->ranges[w->range]))
		range_through(w, b);
	p->rows_done += batch.written;
	p->rows_already += batch.already;
	p->rows_locked += batch.locked;
	p->rows_failed += batch.failed;
	p->wal_bytes += pgWalUsage.wal_bytes - wal;
	p->batch_ms = dw_ms_since(start);
	dw_throttle_batch(w, batch.written, p->batch_ms, batch.rest, batch.rested_ms);
	p->rows_per_second = w->throttle.pace.rows_per_second;
	dw_progress_put(b->id, "fill", p);
	dw_fault_at_commit("fill", w->m->name);
	if (w->careful && --w->careful_left <= 0)
		w->careful = false;
	if (w->part == DW_REVISIT && w->revisit_locked && w->range_ended)
		return FILL_LOCKED;		/* give its holder time */
	return batch.starved && batch.written == 0 ? FILL_STARVED : FILL_BATCH;
}

/* One batch of one member.  *unclaim: its part is to be given back after the commit. */
static FillResult
fill_member(DwWorker *w, DwMember *b, bool *unclaim)
{
	Relation	rel = dw_work_open_member(w, b, RowExclusiveLock);
	FillResult	result = FILL_BATCH;

	*unclaim = false;
	if (rel == NULL)
	{
		*unclaim = true;
		w->stamp = NULL;
		return FILL_BATCH;
	}
	if (w->part == DW_NO_PART || w->progress.relfilenode != dw_relfilenode(rel))
	{
		dw_work_unclaim(w);
		result = find_part(w, b, rel);
	}
	if (result == FILL_BATCH)
	{
		if (next_range(w, b, rel))
			result = fill_batch(w, b, rel);
		else if (w->part == DW_REVISIT)
			result = FILL_THROUGH;
		else
		{
			dw_step_unlock_first();
			dw_step_become_owner(rel);
			tell_free_space(w, rel);
			w->progress.blocks_done = w->progress.blocks_total;
			w->progress.finished = true;
			dw_progress_put(b->id, "fill", &w->progress);
			*unclaim = true;
		}
	}
	table_close(rel, NoLock);
	return result;
}

/* ---- between batches ---- */

/* Nothing can be pruned: waits, and decides for how long. */
static void
starve(DwWorker *w)
{
	DwHorizon	h = {0};
	double		waited;
	bool		found;

	if (!w->starving)
	{
		w->starving = true;
		INSTR_TIME_SET_CURRENT(w->starving_since);
	}
	waited = dw_ms_since(w->starving_since);
	if (waited < DW_HEARTBEAT_MS && dw_horizon_wait > 0)
	{
		/* transactions of an instant: the usual case */
		dw_sleep(Min(Max(waited / 2, 2), 50));
		return;
	}
	dw_step_begin();
	found = dw_horizon(&h);
	dw_step_commit();
	if (waited >= dw_horizon_wait * 1000.0)
	{
		w->plain = true;
		w->plain_xmin = found ? h.xmin : InvalidTransactionId;
		w->starving = false;
		w->horizon_pid = 0;
		ereport(LOG,
				(errmsg("pg_dualwrite worker of migration %d: dead rows can't be removed because of %s; going on, and the table grows",
						w->migration_id, found ? h.who : "a snapshot")));
		return;
	}
	w->horizon_pid = h.pid;
	strlcpy(w->throttle.subject, found ? h.who : "", sizeof(w->throttle.subject));
	dw_work_report(w, "waiting", psprintf("dead rows can't be removed because of %s", found ? h.who : "a snapshot"),
				   "xmin_horizon", waited / 1000, dw_horizon_wait);
	w->horizon_pid = 0;
	dw_sleep(200);
}

/* Having waited enough for somebody's snapshot doesn't hold for anybody else's. */
static void
end_plain(DwWorker *w)
{
	DwHorizon	h;

	dw_step_begin();
	if (!dw_horizon(&h) || h.xmin != w->plain_xmin)
		w->plain = false;
	dw_step_commit();
}

/* Blocks of the indexes that can be looked at without waiting for anybody. */
static int64
index_blocks(Oid relid)
{
	Relation	rel = dw_peek(relid);
	int64		blocks = 0;
	ListCell   *lc;

	if (rel == NULL)
		return 0;
	foreach(lc, RelationGetIndexList(rel))
	{
		Relation	index = dw_peek(lfirst_oid(lc));

		if (index == NULL)
			continue;
		blocks += RelationGetNumberOfBlocks(index);
		relation_close(index, AccessShareLock);
	}
	relation_close(rel, AccessShareLock);
	return blocks;
}

/*
 * Are there so many rows on a page that it can't hold a second line pointer for
 * each?  Then not all of them can be updated as HOT, and what the others leave
 * behind is a line pointer that only VACUUM frees.
 */
static bool
narrow_rows(DwWorker *w)
{
	return w->progress.rows_done + w->progress.rows_already > w->opened * (MaxHeapTuplesPerPage / 2);
}

/*
 * At each quarter, if the option says so and the indexes have grown: those
 * whose order is the table's don't, the others do, as each of their pages gets
 * a few entries from every range.  More often where rows are narrow: the room
 * that rows have left is given to the rows of the next ranges.  VACUUM here
 * waits for nobody, and goes easy on the disk.
 */
static void
vacuum(DwWorker *w)
{
	DwMember   *b = list_nth(w->m->members, w->member);
	bool		narrow = narrow_rows(w);
	int			steps = narrow ? VACUUM_STEPS_NARROW : VACUUM_STEPS;
	int64		done;
	int64		total;
	double		share;
	char	   *table = NULL;

	if (w->vacuumed >= 0 && dw_ms_since(w->vacuum_looked) < VACUUM_LOOK_MS)
		return;
	INSTR_TIME_SET_CURRENT(w->vacuum_looked);
	dw_step_begin();
	dw_progress_sum(b->id, "fill", &done, &total);
	share = total > VACUUM_BLOCKS ? floor((double) done * steps / total) / steps : 0;
	if (w->vacuumed < 0)
	{
		w->vacuumed = share;
		w->index_blocks = index_blocks(b->relid);
	}
	if (share > w->vacuumed && share < 1 && (narrow || index_blocks(b->relid) > w->index_blocks * 1.01))
	{
		MemoryContext old = MemoryContextSwitchTo(w->step);

		if (get_rel_name(b->relid) != NULL) /* it may have been dropped since the batch */
			table = dw_table_name(b->relid);
		MemoryContextSwitchTo(old);
	}
	dw_step_commit();
	w->vacuumed = Max(share, w->vacuumed);
	if (table == NULL)
		return;
	dw_work_report(w, "running", "VACUUM", NULL, 0, 0);
	w->vacuuming = true;
	dw_toplevel(psprintf("VACUUM (SKIP_LOCKED, TRUNCATE false) %s", table));
	w->vacuuming = false;
}

static void
fault_between(DwWorker *w)
{
	dw_step_begin();
	dw_fault_here("fill_between", w->m->name);
	dw_step_commit();
}

/*
 * What follows a step, outside of its transaction: a rest, a wait, the next
 * member.  false: a helper is no longer needed.
 */
static bool
after_step(DwWorker *w, FillResult result, bool last, int part)
{
	if (result != FILL_STARVED)
	{
		w->starving = false;
		w->starved = 0;
	}
	else if (++w->starved <= w->nranges && w->nranges < DW_MAX_RANGES)
		result = FILL_BATCH;	/* there are others to try, or to begin */
	if (w->plain && w->range_ended)
		end_plain(w);
	if (result == FILL_BATCH || result == FILL_OTHERS)
		dw_work_call_helpers(w, "fill", 0);
	if (w->slot == 0 && w->options.vacuum && w->range_ended && part >= 0)
		vacuum(w);
	switch (result)
	{
		case FILL_BATCH:
			dw_throttle_rest(w);
			break;
		case FILL_LOCKED:
			dw_work_report(w, "waiting", "rows that the backfill passed over are still locked", NULL, 0, 0);
			dw_sleep(200);
			break;
		case FILL_STARVED:
			starve(w);
			break;
		case FILL_OTHERS:
			if (w->slot > 0 && last)
				return false;
			if (w->slot > 0)
				w->member++;
			else
			{
				dw_work_report(w, "running", "the last parts are with the other workers", NULL, 0, 0);
				dw_sleep(50);
			}
			break;
		case FILL_THROUGH:
			w->member = (w->member + 1) % list_length(w->m->members);
			break;
	}
	return true;
}

bool
dw_work_fill(DwWorker *w)
{
	DwMember   *b = list_nth(w->m->members, w->member);
	FillResult	result;
	bool		last = w->member + 1 == list_length(w->m->members);
	bool		unclaim;
	bool		filled = false;
	bool		fault;
	int			part = w->part;

	w->range_ended = false;
	if (!dw_throttle_go(w, true))
	{
		/* no batch looks for us whether the migration has changed */
		dw_step_begin();
		if (!dw_work_unchanged(w))
			w->stamp = NULL;
		dw_step_commit();
		return true;
	}
	dw_step_begin();
	result = fill_member(w, b, &unclaim);
	if (result == FILL_THROUGH && last && dw_work_unchanged(w))
	{
		dw_filled(w->m);
		filled = true;
	}
	fault = w->m && dw_fault_armed("fill_between", w->m->name);
	dw_step_commit();
	if (unclaim || result == FILL_THROUGH)
		dw_work_unclaim(w);		/* only now: whoever takes it must see what became of it */
	if (filled)
		w->stamp = NULL;		/* only now: should the commit fail, it is the migration that it was */
	if (w->m == NULL || w->stamp == NULL)
		return true;
	if (fault)
		fault_between(w);

	return after_step(w, result, last, part);
}
