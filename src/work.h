/*
 * work.h
 *		What the worker's steps share: the worker's state, transactions of its
 *		own, what it says of itself; and the steps.
 */
#ifndef DW_WORK_H
#define DW_WORK_H

#include "nodes/pg_list.h"
#include "utils/rel.h"

#include "batch.h"
#include "catalog.h"
#include "clock.h"
#include "options.h"
#include "throttle.h"

/* a worker reports itself at least this often */
#define DW_HEARTBEAT_MS 1000

/* parts of a table at the most */
#define DW_MAX_PARTS 256

#define DW_NO_PART (-1)
/* ranges of blocks that a worker has under way at a time */
#define DW_MAX_RANGES 64

#define DW_REVISIT (-2)			/* blocks that were passed over: the worker's own, when all parts are through */

/* what the worker knows from one step to the next */
typedef struct DwWorker
{
	int			migration_id;
	Oid			home;			/* the table that has it, and ... */
	Oid			owner;			/* ... whose it is, when it was first read */
	DwMigration *m;				/* as last read; in cxt */
	char	   *stamp;			/* ... and what tells that it has changed */
	DwOptions	options;
	MemoryContext cxt;
	MemoryContext step;
	DwThrottle	throttle;
	bool		careful;		/* the next batch takes its rows one by one */
	int			careful_left;
	ItemPointerData at;			/* row that a batch works on, or worked on when it ended by an error */
	ItemPointerData alone;		/* one that took so long that its batch was cut short */
	int			slot;			/* 0: the worker of the migration; else one that only helps it fill */
	int			member;			/* index of the member that is worked on */
	int			part;			/* of its backfill, locked by us: DW_NO_PART, DW_REVISIT */
	int			part_member;	/* id of its member */
	DwProgress	progress;		/* of that part, as committed */
	bool		revisit_locked; /* a row of the block that is revisited was locked again */
	DwRange		ranges[DW_MAX_RANGES];	/* under way in the part, by position */
	int			nranges;
	int			range;			/* index of the one at hand */
	int64		opened;			/* blocks of the part that belong to ranges, under way or done */
	bool		move_on;		/* nothing can be pruned in it: another one next */
	int			starved;		/* ... as in so many before it, one after the other */
	bool		range_ended;	/* the last batch was the last of a range */
	BlockNumber spent_start;	/* range whose free space is still to be told */
	int			spent_blocks;
	bool		starving;		/* nothing can be pruned ... */
	instr_time	starving_since;
	bool		plain;			/* ... and we have waited enough */
	TransactionId plain_xmin;	/* ... for whoever needs this */
	int			horizon_pid;	/* its session; 0: none */
	instr_time	helped;			/* when missing helpers were last looked for */
	double		vacuumed;		/* share of the table after which VACUUM was last thought of; -1: not yet */
	int64		index_blocks;	/* when the first was */
	instr_time	vacuum_looked;	/* when the share was last asked for */
	bool		vacuuming;
	List	   *writers;		/* transactions to wait for before a pass in chunks */
	bool		writers_known;
	bool		pass_locked;	/* DW_LOCK_PASS is ours */
	int64		token;			/* of the pass in chunks */
	int64		losses;			/* counted before it */
	bool		readers_block;	/* what is waited for conflicts with readers, too */
	Oid			locking;		/* table whose lock is being waited for, or invalid */
	int			rest_ms;		/* after a step of the verification */
	BlockNumber chunk_blocks;	/* that its next chunk takes; 0: not known yet */
	const char *state;			/* as last reported */
	char		reason[256];
	instr_time	reported;
} DwWorker;

/*
 * A step is one transaction: search_path pg_catalog, row_security off, a
 * snapshot.  It ends as the bootstrap superuser, whoever it became, in the
 * context given to dw_step_use.
 */
extern void dw_step_use(MemoryContext cxt);
extern void dw_step_begin(void);
extern void dw_step_commit(void);

/* Ends it by a rollback, also after an error. */
extern void dw_step_abort(void);

/*
 * This step's locks are given back before its commit is safe on disk and with
 * synchronous standbys; dw_step_commit waits for that all the same.  Only for
 * what may be lost in a crash and done again.
 */
extern void dw_step_unlock_first(void);

/* How many steps that wrote have committed since this was last asked, and how long their commits took in all. */
extern int	dw_step_commits(double *ms);

/* From here to the end of the step, code of the table's owner may run; waits are short. */
extern void dw_step_become_owner(Relation rel);

/* Says what the worker is doing, if that is news, or if it hasn't spoken for a while.  Not inside a step. */
extern void dw_work_report(DwWorker *w, const char *state, const char *reason, const char *signal, double value, double limit);


/* Reads the migration, inside a step; false if it is gone, or is another one by now, or somebody else's. */
extern bool dw_work_read(DwWorker *w);

/* Is it as it was when read?  Asked inside a step, under the table's lock. */
extern bool dw_work_unchanged(DwWorker *w);

/* Opens a table in a step, and waits no longer than dw_lock_timeout for its lock (55P03); NULL if it is gone. */
extern Relation dw_work_open_table(DwWorker *w, Oid relid, LOCKMODE mode);

/* The same for a member; NULL also if the migration has changed meanwhile. */
extern Relation dw_work_open_member(DwWorker *w, DwMember *b, LOCKMODE mode);

/* Is the extension there?  DROP EXTENSION ... CASCADE may have taken it from under us. */
extern bool dw_extension_present(void);

/* Begins a pass over a member of `total` blocks, in parts of `size`; *p: what they have in common. */
extern void dw_work_start_parts(DwMember *b, Relation rel, const char *pass, BlockNumber total, BlockNumber size, DwProgress *p);

/*
 * Once a second: starts the helpers that are missing (option workers; one for
 * each unfinished part of the member's pass, but for some that aren't shared),
 * and counts everyone.
 */
extern void dw_work_call_helpers(DwWorker *w, const char *pass, int unshared);

/* What a filled table gets before it is verified (work_build.c). */
extern void dw_work_build(DwWorker *w);

/* Gives the part of the backfill at hand up; after an error, or when the migration has to be read anew. */
extern void dw_work_unclaim(DwWorker *w);

/* One batch of the backfill (work_fill.c), one chunk of the verification (work_verify.c), each with the rest after it. */
extern bool dw_work_fill(DwWorker *w);	/* false: no work for a helper */
extern void dw_work_fill_announce(DwMember *b);	/* so that its progress can be seen before the first batch */
extern void dw_work_verify(DwWorker *w);
extern bool dw_work_help_verify(DwWorker *w);	/* a helper's chunk; false: none left */

/* Gives up the lock of the pass in chunks, if the worker has it. */
extern void dw_work_unlock_pass(DwWorker *w);

#endif							/* DW_WORK_H */
