/*
 * writer.h
 *		Storing new versions of rows the way an UPDATE would, but for triggers of
 *		the user.
 */
#ifndef DW_WRITER_H
#define DW_WRITER_H

#include "access/htup.h"
#include "nodes/execnodes.h"
#include "utils/rel.h"
#include "utils/snapshot.h"

typedef struct DwWriter
{
	Relation	rel;
	EState	   *estate;
	ResultRelInfo *rri;
	TupleTableSlot *slot;
	Snapshot	snapshot;
	Bitmapset  *key;			/* columns of unique indexes, offset */
	int			growth;			/* bytes that the last row grew by */
	Buffer		page;			/* the block of the rows to come, which the caller has pinned; else invalid */
	bool		searchable;		/* there is an index that can be told of what moved (index_dead.h) */
	ItemPointerData moved;		/* where the last row is now, if in another block, and there is one; else invalid */
} DwWriter;

typedef enum DwWriteResult
{
	DW_WROTE,
	DW_WRITE_LOCKED,			/* someone else has the row */
	DW_WRITE_GONE				/* updated or deleted since: the mirror saw it */
} DwWriteResult;

/*
 * A writer lives in the current memory context and resource owner until
 * dw_writer_close, which also runs the immediate foreign key checks.  After
 * an error it is simply forgotten: the (sub)transaction's abort frees it.
 */
extern DwWriter *dw_writer_open(Relation rel, Snapshot snapshot);
extern void dw_writer_close(DwWriter *w);

/*
 * Replaces columns of the row version `old`, which the slot holds and which
 * must be visible in the writer's snapshot.  locked: its lock is already ours.  Raises what an UPDATE
 * would raise (constraints, unique indexes).
 */
extern DwWriteResult dw_writer_update(DwWriter *w, HeapTuple old, TupleTableSlot *slot, bool locked,
									  int n, int *cols, Datum *values, bool *nulls);

#endif							/* DW_WRITER_H */
