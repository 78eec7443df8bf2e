/*
 * rule_cache.h
 *		The backend's cache of compiled members.
 */
#ifndef DW_RULE_CACHE_H
#define DW_RULE_CACHE_H

#include "nodes/primnodes.h"

#include "rule.h"

/*
 * What there is to know of a member, as of one load.  Never changed once it is
 * loaded.  Lives in a context of its own, until it is out of date and nobody
 * uses it any more.
 */
typedef struct DwCompiled
{
	MemoryContext cxt;			/* of this and everything below */
	int			refs;			/* uses */
	bool		current;		/* the cache's own; false: goes with the last use */
	Oid			relid;
	DwMirrorConfig cfg;
	int			n[2];			/* by DwSide, as all pairs */
	DwColumn   *cols[2];
	Expr	  **trees[2];		/* planned; columns as Vars of varno 1 */
	bool		derivable[2];
	DwGuard		guard[2];
	Bitmapset  *bits[2];
	Bitmapset  *reads;
	Bitmapset  *watch;
	bool		undecided;
	bool		has_first;
	bool		other_before;
	char		overtaken[NAMEDATALEN];
	int			nkey;
	AttrNumber *key;
} DwCompiled;

/* The member as it is now; NULL where it is unknown or ended.  *entry gets the cache entry, which stays for the session. */
extern DwCompiled *dw_compiled_get(int member_id, Relation rel, struct DwRuleEntry **entry);

/* One use more, until the context is reset or deleted; use must live in it. */
extern void dw_compiled_use(DwCompiled *c, MemoryContext cxt, MemoryContextCallback *use);

#endif							/* DW_RULE_CACHE_H */
