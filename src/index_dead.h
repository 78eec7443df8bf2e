/*
 * index_dead.h
 *		Telling indexes which of their entries are dead.
 */
#ifndef DW_INDEX_DEAD_H
#define DW_INDEX_DEAD_H

#include "storage/itemptr.h"
#include "utils/rel.h"
#include "utils/snapshot.h"

/*
 * The n rows have moved to tids: entries of older versions of them, which
 * nobody sees any more, are marked in the unique btree indexes.  The snapshot
 * must be active.
 */
extern void dw_index_mark_dead(Relation rel, Snapshot snapshot, ItemPointerData *tids, int n);

/* Is it such an index? */
extern bool dw_index_searchable(Relation index);

#endif							/* DW_INDEX_DEAD_H */
