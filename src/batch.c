/*
 * batch.c
 *		Fills the rows of a range of blocks: which of them, and when.
 *
 * Invariant: a range is passed only when every row in it that was written
 * before the mirror came on is consistent, or recorded in dualwrite.drift, or
 * its block stands in dualwrite.skipped.  A row is recognized by its xmin
 * (dw_rule_age); what the backfill has written is after the mirror by that
 * test, so any batch may be repeated.
 *
 * After a hole in the mirror (heal.c) rows can't be told by their xmin: every
 * row in the range is looked at, and whoever moves one that isn't consistent
 * from a range ahead to one behind heals it on the way (mirror.c).
 *
 * PERFORMANCE.  A page that is full has no room for new versions of its rows;
 * updating all of them at once would move every row elsewhere and double heap
 * and indexes.  So a range is visited many times, and each visit updates only
 * a slice of each page's rows (SLICE of them, at least one): the first slice
 * moves off the page, later ones fit as HOT updates into the room that its
 * dead versions left, once these are pruned.  Where versions are dead but can't
 * be pruned yet, because somebody's snapshot still sees them, the page is left
 * for a later visit (unless the caller has waited enough).
 * Pages of few rows are visited every few passes, and a batch ends after a pass
 * that moved some of them, so that indexes can be told of it.  The figures are measured:
 * 6.5 % keeps the leaf pages of an index from splitting, ranges of 64 to 256
 * blocks do equally well.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/bufmgr.h"
#include "storage/freespace.h"
#include "utils/snapmgr.h"

#include "batch.h"
#include "burst.h"
#include "compat.h"
#include "heal.h"
#include "index_dead.h"
#include "store.h"
#include "writer.h"

#define SLICE 0.065				/* of a page's rows a visit */
#define STARVED_PAGES 4			/* that end a batch */
#define FEW_ROWS 15				/* pages with fewer are visited every few passes */
#define CLOCK_EVERY 8			/* pages and rows */

void
dw_range_init(DwRange *range, BlockNumber start, int nblocks)
{
	memset(range, 0, sizeof(*range));
	range->start = start;
	range->nblocks = range->left = nblocks;
	for (int i = 0; i < nblocks; i++)
		range->next[i] = FirstOffsetNumber;
}

void
dw_range_clip(DwRange *range, BlockNumber nblocks)
{
	if (range->start >= nblocks)
		range->nblocks = 0;
	else if (range->start + range->nblocks > nblocks)
		range->nblocks = nblocks - range->start;
	if (range->cursor >= range->nblocks)
		range->cursor = 0;
	range->left = 0;
	for (int i = 0; i < range->nblocks; i++)
		range->left += !range->done[i];
}

/* ---- deciding about one row ---- */

typedef enum Verdict
{
	SKIP,						/* not ours to fill */
	ALREADY,					/* consistent */
	FORWARD,
	BACKWARD,
	LEAVE						/* the user has to choose a side */
} Verdict;

static Verdict
fill_verdict(DwRule *rule, HeapTuple tup, TupleTableSlot *slot)
{
	Datum		v[DW_MAX_COLUMNS];
	bool		n[DW_MAX_COLUMNS];

	if (rule->cfg.heal)
		switch (dw_heal_decide(rule, slot))
		{
			case DW_HEAL_NOT:
				return ALREADY;
			case DW_HEAL_FORWARD:
				return FORWARD;
			case DW_HEAL_BACKWARD:
				return BACKWARD;
			case DW_HEAL_LEAVE:
				return LEAVE;
		}
	switch (dw_rule_age(rule, tup->t_data))
	{
		case DW_AGE_AFTER:
			return SKIP;
		case DW_AGE_BEFORE:
			return FORWARD;
		case DW_AGE_UNKNOWN:
			break;
	}
	if (dw_rule_consistent(rule, slot, NULL, NULL))
		return ALREADY;
	dw_rule_values(rule, DW_NEW, slot, v, n);
	return dw_rule_initial(rule, DW_NEW, v, n) ? FORWARD : SKIP;
}

/* ---- one page ---- */

/* What a page looks like before any of its rows are taken. */
typedef struct PageLook
{
	int			rows;			/* versions on it */
	int			size;			/* bytes of one, with its line pointer */
	int			room;			/* bytes that are free */
	bool		dead;			/* there are versions that can be pruned before long */
} PageLook;

/* The page is locked. */
static PageLook
look_at(Page page, OffsetNumber maxoff, HeapTuple tup, Snapshot snapshot, Buffer buf)
{
	PageLook	look = {0};
	Size		bytes = 0;

	for (OffsetNumber off = FirstOffsetNumber; off <= maxoff; off++)
	{
		ItemId		lp = PageGetItemId(page, off);

		if (!ItemIdIsNormal(lp))
			continue;
		look.rows++;
		bytes += ItemIdGetLength(lp);
		tup->t_data = (HeapTupleHeader) PageGetItem(page, lp);
		if (look.dead || (tup->t_data->t_infomask & HEAP_XMAX_INVALID) || HEAP_XMAX_IS_LOCKED_ONLY(tup->t_data->t_infomask))
			continue;
		/* our own batch's, too, which the snapshot still sees */
		if (!(tup->t_data->t_infomask & HEAP_XMAX_IS_MULTI) &&
			TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetRawXmax(tup->t_data)))
		{
			look.dead = true;
			continue;
		}
		tup->t_len = ItemIdGetLength(lp);
		ItemPointerSetOffsetNumber(&tup->t_self, off);
		look.dead = !HeapTupleSatisfiesVisibility(tup, snapshot, buf);
	}
	if (look.rows > 0)
	{
		look.size = MAXALIGN(bytes / look.rows) + sizeof(ItemIdData);
		look.room = PageGetHeapFreeSpace(page);
	}
	return look;
}

/* Rows of a page that a visit takes. */
static inline int
slice_of(int rows)
{
	return Max(1, (int) (rows * SLICE + 0.5));
}

/* Pages of few rows take turns; unknown how many, a page is looked at. */
static inline bool
in_turn(const DwRange *range, int i)
{
	int			rows = range->rows[i];

	return rows == 0 || rows >= FEW_ROWS || (range->pass + i) % (FEW_ROWS / rows) == 0;
}

/*
 * How many rows a visit may take: a slice.  Those of them that don't fit move
 * off the page, a tenth of all rows or so, as rows grow and a HOT update costs a
 * line pointer.  But where versions are about to be pruned, there will be room:
 * the page is left alone (*starved), or gets what fits.  `left` rows are still
 * to be taken from it.
 */
static int
quota(const PageLook *look, int left, const DwRange *range, int i, DwBatch *batch, bool *starved)
{
	int			slice = slice_of(look->rows);
	int			fit;

	if (look->rows == 0)
		return 1;				/* nothing on it: to be done with it */
	if (!in_turn(range, i))
		return 0;
	if (!look->dead || batch->plain)
		return slice;
	fit = look->room / (look->size + (int) (MAXALIGN(Max(range->growth, 0)) + sizeof(ItemIdData)));
	if (fit >= slice || fit >= left)
		return slice;
	*starved = fit <= slice / 2;
	return *starved ? 0 : fit;
}

/*
 * PostgreSQL prunes a page once a row didn't fit on it, or less than a tenth of
 * it is free.  Where a slice may need more than that tenth, because rows are
 * wide or grow much, the page is marked as if one hadn't fitted.
 */
static void
prune(Relation rel, Buffer buf, const DwRange *range, int i)
{
	Page		page = BufferGetPage(buf);

	int			rows = range->rows[i];

	if (rows > 0 && slice_of(rows) * (BLCKSZ / rows + range->growth) > BLCKSZ / 10 &&
		TransactionIdIsValid(((PageHeader) page)->pd_prune_xid) && !PageIsFull(page))
	{
		LockBuffer(buf, BUFFER_LOCK_EXCLUSIVE);
		PageSetFull(page);		/* a hint, as heap_update gives it */
		LockBuffer(buf, BUFFER_LOCK_UNLOCK);
	}
	dw_prune(rel, buf);
}

/*
 * Takes row versions that may need filling off a page, going on where the last
 * visit ended.  Copies, because the page is unlocked before anything is
 * computed.  For a writer it stays pinned; without one locks are likely to be
 * waited for, and a VACUUM would wait for the pin.
 */
static int
collect(DwRule *rule, Relation rel, DwRange *range, int i, int max_rows, HeapTuple *tuples, DwBatch *batch, DwWriter *writer, bool *starved, bool *ended)
{
	Snapshot	snapshot = GetActiveSnapshot();
	Buffer		buf = ReadBufferExtended(rel, MAIN_FORKNUM, range->start + i, RBM_NORMAL, NULL);
	Page		page;
	OffsetNumber maxoff;
	OffsetNumber off;
	HeapTupleData tup;
	PageLook	look;
	OffsetNumber alone = InvalidOffsetNumber;
	int			n = 0;

	if (ItemPointerIsValid(&batch->alone) && ItemPointerGetBlockNumber(&batch->alone) == range->start + i)
		alone = ItemPointerGetOffsetNumber(&batch->alone);
	prune(rel, buf, range, i);
	LockBuffer(buf, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buf);
	maxoff = PageIsNew(page) ? 0 : PageGetMaxOffsetNumber(page);
	tup.t_tableOid = RelationGetRelid(rel);
	ItemPointerSet(&tup.t_self, range->start + i, FirstOffsetNumber);
	look = look_at(page, maxoff, &tup, snapshot, buf);
	range->rows[i] = look.rows;
	if (range->last[i] == InvalidOffsetNumber)
		range->last[i] = maxoff;
	maxoff = Min(maxoff, range->last[i]);	/* versions that came later have passed the mirror */
	max_rows = Min(max_rows, quota(&look, maxoff - range->next[i] + 1, range, i, batch, starved));

	for (off = range->next[i]; off <= maxoff && n < max_rows; off++)
	{
		ItemId		lp = PageGetItemId(page, off);

		if (!ItemIdIsNormal(lp))
			continue;
		tup.t_data = (HeapTupleHeader) PageGetItem(page, lp);
		tup.t_len = ItemIdGetLength(lp);
		ItemPointerSetOffsetNumber(&tup.t_self, off);
		if (off == alone && n + batch->written > 0)
		{
			*ended = n == 0;	/* else at the next visit */
			break;
		}
		if (!rule->cfg.heal && dw_rule_age(rule, tup.t_data) == DW_AGE_AFTER)
			continue;
		if (!HeapTupleSatisfiesVisibility(&tup, snapshot, buf))
			continue;
		tuples[n++] = heap_copytuple(&tup);
	}
	range->next[i] = off;
	if (off > maxoff)
	{
		range->done[i] = true;
		range->left--;
		*starved = false;
	}
	LockBuffer(buf, BUFFER_LOCK_UNLOCK);
	if (writer)
		writer->page = buf;
	else
		ReleaseBuffer(buf);
	return n;
}

/* Indexes are told of rows that moved off pages of few (index_dead.c says why), once the old versions are dead. */
static void
note_moved(DwRange *range, ItemPointer from, ItemPointer to)
{
	if (!ItemPointerIsValid(to) || range->nmoved == lengthof(range->moved) ||
		range->rows[ItemPointerGetBlockNumber(from) - range->start] >= FEW_ROWS)
		return;
	range->moved[range->nmoved++] = *to;
	range->moved_xid = GetCurrentTransactionId();
}

/* False: they can't be told yet. */
static bool
tell_indexes(Relation rel, DwRange *range)
{
	if (range->nmoved > 0)
	{
		if (!GlobalVisCheckRemovableXid(rel, range->moved_xid))
			return false;
		dw_index_mark_dead(rel, GetActiveSnapshot(), range->moved, range->nmoved);
		range->nmoved = 0;
	}
	return true;
}

static void
unpin(DwWriter *writer)
{
	if (writer == NULL)
		return;
	ReleaseBuffer(writer->page);
	writer->page = InvalidBuffer;
}

/* Works on the rows taken off a page. */
static void
fill_rows(DwRule *rule, List *others, Relation rel, DwWriter *writer, TupleTableSlot *slot, HeapTuple *tuples, int n,
		  DwRange *range, DwBatch *batch)
{
	for (int i = 0; i < n; i++)
	{
		HeapTuple	tup = tuples[i];
		Verdict		verdict;
		DwOutcome	outcome = DW_STORE_UNCHANGED;

		if (batch->at)
			*batch->at = tup->t_self;
		dw_rule_reset(rule);
		ExecStoreHeapTuple(tup, slot, false);
		verdict = fill_verdict(rule, tup, slot);
		if (verdict == FORWARD || verdict == BACKWARD)
		{
			DwSide		target = verdict == FORWARD ? DW_NEW : DW_OLD;

			outcome = batch->careful ? dw_store_row_careful(rule, others, rel, tup, slot, target, false)
				: dw_store_row(rule, others, writer, tup, slot, target, false);
		}
		else if (verdict == LEAVE)
		{
			dw_heal_leave(rule, slot, &tup->t_self);
			outcome = DW_STORE_FAILED;
		}
		if (outcome == DW_STORE_WRITTEN && writer)
		{
			range->growth += (writer->growth - range->growth) / 4;
			note_moved(range, &tup->t_self, &writer->moved);
		}
		batch->written += outcome == DW_STORE_WRITTEN;
		batch->already += outcome == DW_STORE_UNCHANGED && verdict != SKIP;
		batch->failed += outcome == DW_STORE_FAILED;
		if (outcome == DW_STORE_LOCKED)
		{
			/* in this commit, before the range can be passed */
			dw_skipped_add(rule->cfg.member_id, ItemPointerGetBlockNumber(&tup->t_self));
			batch->locked++;
		}
		ExecClearTuple(slot);
		heap_freetuple(tup);

		/*
		 * A second wait could add up with this one to a deadlock of someone
		 * who waits for a row that we have filled.  The block is noted, so the
		 * rest of it may be left.
		 */
		if (outcome == DW_STORE_LOCKED && batch->careful)
		{
			batch->waited = true;
			break;
		}
	}
}

/* Is there time left?  Rests on the way, if that is due. */
static bool
goes_on(const DwBatch *batch, instr_time start, DwBurst *burst)
{
	instr_time	now;
	double		due = dw_burst_due(burst, &now);

	/* a rest that would be the end of the batch is taken after the commit, with no row locked */
	INSTR_TIME_SUBTRACT(now, start);
	if (INSTR_TIME_GET_MILLISEC(now) + due >= batch->max_ms)
		return false;
	if (due > 0)
		dw_burst_rest(burst, due);
	return true;
}

void
dw_fill_batch(DwRule *rule, Relation rel, DwRange *range, DwBatch *batch)
{
	HeapTuple	tuples[MaxHeapTuplesPerPage];
	TupleTableSlot *slot;
	List	   *others;
	DwWriter   *writer;
	int			starved = 0;	/* pages in a row where nothing can be pruned yet */
	int			unchecked = 0;	/* pages and rows since the clock was asked, which costs as much as a few of them */
	int			moved;			/* rows when the batch began, of which indexes don't know */
	instr_time	start;
	DwBurst		burst;

	INSTR_TIME_SET_CURRENT(start);
	dw_burst_begin(&burst, batch->rest);
	if (batch->rest > 0)
		burst.began = batch->worked_since;	/* what came before the rows is work, too */
	if (!tell_indexes(rel, range) && !batch->plain)
	{
		batch->starved = true;
		return;
	}
	moved = range->nmoved;
	slot = MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsHeapTuple);
	others = dw_other_rules(rule, rel);
	writer = batch->careful ? NULL : dw_writer_open(rel, GetActiveSnapshot());
	while (!dw_range_done(range))
	{
		int			room = batch->max_rows - batch->written - batch->failed;
		bool		wait = false;
		bool		ended = false;	/* the next row is to be the first of a batch */

		CHECK_FOR_INTERRUPTS();
		if (!range->done[range->cursor] && in_turn(range, range->cursor))
		{
			int			n;

			if (room <= 0 || batch->waited)
				break;
			if (unchecked >= CLOCK_EVERY)
			{
				if (!goes_on(batch, start, &burst))
					break;
				unchecked = 0;
			}
			n = collect(rule, rel, range, range->cursor, room, tuples, batch, writer, &wait, &ended);
			fill_rows(rule, others, rel, writer, slot, tuples, n, range, batch);
			unpin(writer);
			if (ended)
				break;
			unchecked += 1 + n;
			starved = wait ? starved + 1 : 0;
		}
		if (++range->cursor >= range->nblocks)
		{
			range->cursor = 0;
			range->pass++;
			/* the indexes have little room: first they are told of what moved */
			if (range->nmoved > moved && !batch->plain)
				break;
		}
		/* the pages behind these were updated later */
		if (starved > 0 && starved >= Min(STARVED_PAGES, range->left))
		{
			batch->starved = true;
			break;
		}
	}
	batch->rested_ms = burst.rested_ms;
	if (writer)
		dw_writer_close(writer);
	ExecDropSingleTupleTableSlot(slot);
}

void
dw_range_free_space(Relation rel, BlockNumber start, int nblocks)
{
	for (int i = 0; i < nblocks; i++)
	{
		Buffer		buf = ReadBufferExtended(rel, MAIN_FORKNUM, start + i, RBM_NORMAL, NULL);
		Size		space;

		CHECK_FOR_INTERRUPTS();
		dw_prune(rel, buf);
		LockBuffer(buf, BUFFER_LOCK_SHARE);
		space = PageGetHeapFreeSpace(BufferGetPage(buf));
		UnlockReleaseBuffer(buf);
		RecordPageWithFreeSpace(rel, start + i, space);
	}
	FreeSpaceMapVacuumRange(rel, start, start + nblocks);
}
