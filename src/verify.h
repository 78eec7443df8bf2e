/*
 * verify.h
 *		Comparing both sides of every row.
 */
#ifndef DW_VERIFY_H
#define DW_VERIFY_H

#include "lib/stringinfo.h"
#include "storage/block.h"
#include "utils/rel.h"
#include "utils/snapshot.h"

#include "rule.h"

/* blocks of one chunk, at most */
#define DW_CHUNK_BLOCKS 1024

typedef struct DwCheck
{
	bool		record;			/* in: drifted rows go to dw_drift */
	double		rest;			/* in: after a burst of work, in times of it (burst.h); 0: none */
	double		rested_ms;		/* out: in all */
	StringInfo	losses;			/* in: where keys of rows whose new side would be lost go, or NULL */
	int			max_tids;		/* in: positions to remember */
	ItemPointerData *tids;		/* out: of the first drifted rows */
	int			ntids;
	int64		rows;
	int64		drifted;		/* not consistent */
	int64		unconvertible;	/* ... because an expression raises; among drifted */
	int64		lossy;			/* consistent, but the old side can't hold the new */
	int64		foreign_new;	/* not consistent, and the new side isn't initial */
} DwCheck;

/*
 * Checks rows of blocks [start, end) that the snapshot sees.  Reads below
 * row-level security.  Needs the role that expressions are to run as.
 */
extern void dw_check_blocks(DwRule *rule, Relation rel, Snapshot snapshot, BlockNumber start, BlockNumber end, DwCheck *check);

#endif							/* DW_VERIFY_H */
