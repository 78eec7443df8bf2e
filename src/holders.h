/*
 * holders.h
 *		Who holds locks that matter to us.
 */
#ifndef DW_HOLDERS_H
#define DW_HOLDERS_H

#include "nodes/pg_list.h"

/* virtual transactions (palloc'd) that may be writing the relation, prepared ones included; ours is not among them */
extern List *dw_table_writers(Oid relid);

/* pids that hold row or table locks of the relation, other than ours; readers: theirs, too; at most max */
extern int	dw_table_lockers(Oid relid, bool readers, int max, int *pids);

/* workers of this extension in this database, by the locks they hold */
extern int	dw_worker_count(void);

#endif							/* DW_HOLDERS_H */
