/*
 * work.h
 *		What the worker's steps share: the worker's state, transactions of its
 *		own, what it says of itself; and the steps.
 */
#ifndef DW_WORK_H
#define DW_WORK_H

#include "nodes/pg_list.h"
#include "portability/instr_time.h"
#include "utils/rel.h"

#include "batch.h"
#include "catalog.h"
#include "options.h"
#include "throttle.h"

/* a worker reports itself at least this often */
#define DW_HEARTBEAT_MS 1000

/* what the worker knows from one step to the next */
typedef struct DwWorker
{
	int			migration_id;
	DwMigration *m;				/* as last read; in cxt */
	char	   *stamp;			/* ... and what tells that it has changed */
	DwOptions	options;
	MemoryContext cxt;
	MemoryContext step;
	DwThrottle	throttle;
	bool		careful;		/* the next batch takes its rows one by one */
	int			careful_left;
	int			member;			/* index of the member that range belongs to */
	bool		range_active;
	bool		revisit;		/* range is a single block passed over before */
	bool		revisit_locked; /* ... and a row of it was locked again */
	DwRange		range;
	List	   *writers;		/* transactions to wait for before a pass in chunks */
	bool		writers_known;
	bool		pass_locked;	/* DW_LOCK_PASS is ours */
	int64		token;			/* of the pass in chunks */
	int64		losses;			/* counted before it */
	bool		readers_block;	/* what is waited for conflicts with readers, too */
	int			rest_ms;		/* after a step of the verification */
	bool		still_locked;	/* a block passed over before has locked rows again */
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

/* How many steps that wrote have committed since this was last asked, and how long their commits took in all. */
extern int	dw_step_commits(double *ms);

/* From here to the end of the step, code of the table's owner may run; waits are short. */
extern void dw_step_become_owner(Relation rel);

extern double dw_ms_since(instr_time then);

/* Says what the worker is doing, if that is news, or if it hasn't spoken for a while.  Not inside a step. */
extern void dw_work_report(DwWorker *w, const char *state, const char *reason, const char *signal, double value, double limit);


/* Reads the migration, inside a step; false if it is gone. */
extern bool dw_work_read(DwWorker *w);

/* Is it as it was when read?  Asked inside a step, under the table's lock. */
extern bool dw_work_unchanged(DwWorker *w);

/* Opens a member's table for a step; NULL if it is gone or the migration has changed meanwhile. */
extern Relation dw_work_open_member(DwWorker *w, DwMember *b, LOCKMODE mode);

extern int64 dw_work_estimate_rows(Relation rel, BlockNumber nblocks);

/* What a filled table gets before it is verified (work_build.c). */
extern void dw_work_build(DwWorker *w);

/* One batch of the backfill (work_fill.c), one chunk of the verification (work_verify.c), each with the rest after it. */
extern void dw_work_fill(DwWorker *w);
extern void dw_work_fill_announce(DwMember *b);
extern void dw_work_verify(DwWorker *w);

/* Gives up the lock of the pass in chunks, if the worker has it. */
extern void dw_work_unlock_pass(DwWorker *w);

#endif							/* DW_WORK_H */
