/*
 * batch.h
 *		The backfill's work on a range of blocks, in batches.
 */
#ifndef DW_BATCH_H
#define DW_BATCH_H

#include "portability/instr_time.h"
#include "storage/block.h"
#include "storage/off.h"
#include "utils/rel.h"

#include "rule.h"

/* blocks worked on together; see PERFORMANCE in batch.c */
#define DW_RANGE_BLOCKS 128

/*
 * Where the backfill stands within a range.  Kept in memory only: after a
 * crash the range is begun again, and what has been filled is recognized.
 */
typedef struct DwRange
{
	BlockNumber start;
	int			nblocks;
	int			left;			/* blocks that are not done */
	int			cursor;			/* block to visit next, from start */
	int			pass;			/* how often all blocks have been visited */
	int			growth;			/* bytes that a row grows by, smoothed */
	OffsetNumber next[DW_RANGE_BLOCKS]; /* line pointer to go on with */
	OffsetNumber last[DW_RANGE_BLOCKS]; /* ... and to end with: the last there was at the first visit */
	uint16		rows[DW_RANGE_BLOCKS];	/* on the page at the last visit; 0 before the first */
	bool		done[DW_RANGE_BLOCKS];
	int			nmoved;			/* rows of pages with few that moved: where to, until indexes know */
	ItemPointerData moved[DW_RANGE_BLOCKS];
	TransactionId moved_xid;	/* the last that moved one */
} DwRange;

extern void dw_range_init(DwRange *range, BlockNumber start, int nblocks);
static inline bool
dw_range_done(const DwRange *range)
{
	return range->left == 0;
}

/* The heap has nblocks now: what lies beyond is gone, with all rows. */
extern void dw_range_clip(DwRange *range, BlockNumber nblocks);

/* what a batch did */
typedef struct DwBatch
{
	int			max_rows;		/* in: rows to write at most */
	double		max_ms;			/* in: time to take at most, rests included */
	double		rest;			/* in: after a burst of work, in times of it (burst.h); 0: none */
	instr_time	worked_since;	/* in: when the last rest ended; used if there is to be another */
	bool		careful;		/* in: every row in a subtransaction of its own */
	bool		plain;			/* in: don't wait for dead versions to be pruned */
	ItemPointerData alone;		/* in: a row that takes long: no other row is locked before it; all zero: none */
	ItemPointer at;				/* in: where the row at hand is told, or NULL */
	bool		starved;		/* nothing to do before dead versions can be pruned */
	bool		waited;			/* one of them was waited for in vain: the batch is over */
	double		rested_ms;		/* in all */
	int			written;
	int			already;		/* were consistent */
	int			locked;			/* passed over, block noted */
	int			failed;			/* passed over, row recorded */
} DwBatch;

/*
 * Fills rows of the range until it is done or the batch is full.  Needs a
 * transaction, an active snapshot, a lock on rel that keeps it from changing,
 * and the role of the table's owner.  Raises what a row raises, unless careful:
 * then such rows are recorded and passed over.
 */
extern void dw_fill_batch(DwRule *rule, Relation rel, DwRange *range, DwBatch *batch);

/* tell the free space map what blocks have room for */
extern void dw_range_free_space(Relation rel, BlockNumber start, int nblocks);

#endif							/* DW_BATCH_H */
