/*
 * fault.h
 *		Fault points: places where a rehearsal may let the extension fail.
 *
 * A point is named; dw_fault() arms it, for all sessions and workers of the
 * database.  Where nothing is armed, none of the calls below does more than
 * test a variable.
 */
#ifndef DW_FAULT_H
#define DW_FAULT_H

#include "fmgr.h"

#include "catalog.h"

/* registers the callbacks; once, from _PG_init */
extern void dw_fault_init(void);

/* a relation's cache entry was invalidated (InvalidOid: all); from the relcache callback */
extern void dw_fault_relcache(Oid relid);

/* Is something armed at points that begin with the prefix?  Needs a transaction. */
extern bool dw_fault_armed(const char *prefix, const char *migration);

/* The point is reached: what is armed there happens.  Needs a transaction. */
extern void dw_fault_here(const char *point, const char *migration);

/*
 * The transaction at hand does what `event` names: the points
 * <event>_before_commit and <event>_after_commit are reached exactly before and
 * exactly after its commit, and not if it, or the subtransaction, rolls back.
 */
extern void dw_fault_at_commit(const char *event, const char *migration);

/* Is there such a point?  after_commit, where given: an error is too late there. */
extern bool dw_fault_known(const char *point, bool *after_commit);

/* names of all points, for a message; palloc'd */
extern char *dw_fault_points(void);

#endif							/* DW_FAULT_H */
