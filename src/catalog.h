/*
 * catalog.h
 *		The extension's own tables.  Only the files catalog*.c name them;
 *		everything else sees these structs and verbs.
 */
#ifndef DW_CATALOG_H
#define DW_CATALOG_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "storage/block.h"
#include "storage/itemptr.h"
#include "utils/jsonb.h"

#include "dualwrite.h"

/*
 * The state of the table when the mirror came on, to tell rows written before
 * it from rows written after.  Allocated in one context with its arrays.
 */
typedef struct DwBegin
{
	bool		valid;			/* false: nothing is known */
	bool		fuzzy;			/* subtransactions between xmin and xmax are unknown */
	FullTransactionId xmin;
	FullTransactionId xmax;
	int			nxip;
	TransactionId *xip;			/* in progress then, sorted as uint32 */
	int			nown;
	TransactionId *own;			/* ids of dw_begin's own transaction */
	Oid			relfilenode;	/* of the heap that this is about */
} DwBegin;

typedef struct DwMember
{
	int			id;
	int			migration_id;
	int			ord;
	Oid			relid;
	bool		has_backward;
	bool		filling;		/* unfilled rows may exist */
	int			ncreated;
	char	  **created;		/* new columns that dw_begin created, as named then */
	Oid			relfilenode;
} DwMember;

typedef struct DwMigration
{
	int			id;
	char	   *name;
	Oid			owner;
	char	   *definition;		/* jsonb as text */
	DwPhase		phase;
	char	   *phase_since;
	DwMirrorMode mirror;
	DwConflict	conflict;
	DwOnError	on_error;
	bool		heal;
	Jsonb	   *options;
	int64		epoch;
	bool		failed;
	char	   *last_error;
	bool		table_missing;	/* a member's table was dropped */
	bool		copied;			/* restored from a dump of another database */
	bool		verified;		/* a clean pass counts: no hole since it began */
	bool		marks_changed;	/* ... it doesn't, because triggers or rules changed */
	TimestampTz verified_at;	/* if it counts */
	bool		verified_since_phase;	/* ... and it ended after the phase began */
	int64		verified_lossy;
	int64		open_drift;		/* rows recorded and not seen repaired */
	int64		open_unconvertible;
	bool		lossy;			/* the mirror counted losses that no clean pass has seen to */
	bool		proof;			/* option */
	bool		proof_present;	/* every member has the constraint */
	bool		proven;			/* verified, and the constraint was there before the pass began */
	bool		two_way;		/* every member has a backward rule */
	bool		paused;
	char	   *pause_reason;
	List	   *members;		/* DwMember *, by ord */
} DwMigration;

/* side in authority in a phase */
#define DW_AUTHORITY(phase) ((phase) == DW_SWITCHED || (phase) == DW_FINALIZED ? DW_NEW : DW_OLD)

/* What the mirror has to know of its member and migration. */
typedef struct DwMirrorConfig
{
	int			member_id;
	int			migration_id;
	Oid			relid;
	char	   *migration;
	DwPhase		phase;
	DwMirrorMode mirror;
	DwConflict	conflict;
	DwOnError	on_error;
	bool		heal;
	bool		checking;		/* a pass in chunks is under way */
	bool		has_backward;
	bool		filling;
	double		sample_rate;	/* of the writes to read back */
	DwBegin		begin;
} DwMirrorConfig;

/* identity of this database: system identifier and OID; palloc'd */
extern char *dw_home(void);

/*
 * All below that reads or writes state does so as the extension's owner (or
 * below SQL, where nobody is asked), with a snapshot of this moment; results are
 * in the caller's memory context.
 */

/* active migration of that name, else the latest ended one; NULL if none and missing_ok, else 42704 */
extern DwMigration *dw_migration_find(const char *name, bool missing_ok);
extern void dw_migration_unknown(const char *name); /* raises 42704 */
extern DwMigration *dw_migration_get(int id);	/* NULL if none */

/* Phase and epoch only, without SPI; false if there is none. */
extern bool dw_migration_look(int id, DwPhase *phase, int64 *epoch);

/* unfinished migrations of this database, ids by age */
extern List *dw_migration_ids(void);

extern int	dw_migration_insert(const char *name, Oid owner, Jsonb *definition, DwMirrorMode mirror, DwConflict conflict,
								DwOnError on_error, Jsonb *options);
extern int	dw_member_id(void); /* next id */
extern void dw_member_insert(int id, int migration_id, int ord, Oid relid, List *old_columns, List *new_columns, List *created,
							 bool has_backward, Oid relfilenode);

/* stores the begin snapshot; NULL: the snapshot rule is off from now on */
extern void dw_member_set_begin(int member_id, const char *snapshot, const char *xids, bool fuzzy, Oid relfilenode);

/* marks members filled, or to be filled again */
extern void dw_member_set_filling(DwMigration *m, bool filling);

/* phase change, compare and set; 55000 if the phase is no longer `from` */
extern void dw_migration_set_phase(DwMigration *m, DwPhase from, DwPhase to);

/* 55000 if a hole was opened since `epoch` */
extern void dw_migration_set_options(DwMigration *m, int64 epoch, Jsonb *options, DwMirrorMode mirror, DwConflict conflict, DwOnError on_error);

/* mirror off, and nothing else, in one statement: overwrites nothing that someone else sets meanwhile */
extern void dw_migration_brake(DwMigration *m);
extern void dw_migration_open_hole(DwMigration *m, bool heal);	/* epoch + 1, verification void */

/*
 * A pass in chunks announces itself to the mirror and gets a token; it ends
 * true if no other pass has taken its place meanwhile.  Token 0: not a pass in
 * chunks, ends any that is under way.
 */
extern int64 dw_checking_begin(DwMigration *m);
extern bool dw_checking_end(DwMigration *m, int64 token);

extern void dw_migration_set_heal(DwMigration *m, bool heal);
extern void dw_migration_set_failed(int id, bool failed, const char *error);	/* error NULL: keeps the last one */
extern void dw_migration_adopt(DwMigration *m); /* this database is its home now */

/* The verification of all members ended clean; false if a hole opened since it began. */
extern bool dw_migration_set_verified(DwMigration *m, int64 epoch, const char *marks, int64 lossy, int64 losses_seen, bool proven);

/* The proof counts no more. */
extern void dw_migration_unprove(DwMigration *m);

/* Has the member its proof constraint? */
extern bool dw_member_proof(DwMember *b);
extern void dw_migration_set_counts(DwMigration *m, int64 drifted, int64 unconvertible);

/* versions of triggers and rules of all members; palloc'd */
extern char *dw_migration_marks(DwMigration *m);

/* pauses or resumes; resuming forgets the standbys, so that those that are gone are let go of */
extern void dw_control_set(int migration_id, bool paused, const char *reason);

/* names (char *, palloc'd) of the standbys that have been there; *known: somebody has looked already */
extern List *dw_standbys_get(int migration_id, bool *known);
extern void dw_standbys_set(int migration_id, List *names);

/* appends to dw_events; from, to -1: no phase change. Phase changes are also notified */
extern void dw_event(int migration_id, const char *name, const char *event, int from, int to, const char *note);

/*
 * What the worker says of itself.  signal NULL: not throttled; value and limit
 * may be NaN.  replica_lag: a jsonb array as text, or NULL.
 */
extern void dw_worker_report(int migration_id, const char *state, const char *reason, int nblocked_by, const int *blocked_by,
							 const char *signal, const char *subject, double value, double limit, const char *replica_lag);
extern void dw_worker_gone(int migration_id);

/* How far the migration of that name is and who is at it, for a message; palloc'd, NULL if there is none. */
extern char *dw_describe_status(const char *name);

/* what an ended migration needs no more */
extern void dw_migration_forget(DwMigration *m);

/* a pass over a member */
typedef struct DwProgress
{
	int			part;
	int64		first_block;
	Oid			relfilenode;
	int64		epoch;
	int64		token;			/* of dw_checking_begin */
	int64		losses;			/* dw_loss_counted, before it began */
	char	   *marks;
	char	   *snapshot;
	int64		blocks_total;
	int64		blocks_done;
	int64		rows_estimated;
	int64		rows_done;
	int64		rows_already;
	int64		rows_locked;
	int64		rows_failed;
	int64		rows_drifted;
	int64		rows_lossy;
	int64		wal_bytes;
	int64		throttled_ms;
	double		batch_ms;
	double		rows_per_second;
	bool		finished;
} DwProgress;

/* The pass over one part of the member; false if there is none. */
extern bool dw_progress_get(int member_id, const char *pass, int part, DwProgress *p);

/* Parts that aren't finished, in order, at most max; -1: the pass was never begun. */
extern int	dw_progress_unfinished(int member_id, const char *pass, int max, int *parts);

/* Blocks done and to be done, over all parts. */
extern void dw_progress_sum(int member_id, const char *pass, int64 *done, int64 *total);

/* Begins a part; p->part 0 begins the pass anew, without other parts. */
extern void dw_progress_start(int member_id, const char *pass, DwProgress *p);

/* Stores how far a part is, unless the pass that it belonged to (p->token) is gone. */
extern void dw_progress_put(int member_id, const char *pass, const DwProgress *p);

/* adds up what the pass that is under way was held back, by what; false if there is none */
extern bool dw_progress_throttled(int member_id, const char *signal, int64 ms);
extern void dw_progress_forget(DwMigration *m, const char *pass);

extern void dw_skipped_add(int member_id, BlockNumber block);
extern void dw_skipped_done(int member_id, BlockNumber block);
extern int	dw_skipped_list(int member_id, int max, BlockNumber *blocks);
extern void dw_skipped_clear(int member_id);

/*
 * Records a row that isn't consistent; a record of the same row (by ctid or
 * key) that is still open is replaced, if nobody else is just doing that.  Arrays of text; ctid and key may be NULL.
 */
extern void dw_drift_record(int member_id, ItemPointer ctid, Datum key, bool key_null, Datum old_values, Datum new_values,
							const char *reason, const char *sqlstate, const char *message, bool repaired);

/* an open record of the row is closed */
extern void dw_drift_repaired(int member_id, ItemPointer ctid);

/*
 * A complete pass began after them, so records are closed that had committed when
 * the snapshot was taken, or were made by this transaction up to last_id.
 */
extern void dw_drift_close(DwMigration *m, const char *snapshot, int64 last_id);

/* the latest record of this transaction or another one */
extern int64 dw_drift_last(void);

/*
 * Counts writes that the old side can't hold, beyond transactions and without
 * waiting: a write is counted before it commits.  The sum over all members.
 */
extern void dw_loss_count(int member_id);
extern int64 dw_loss_counted(DwMigration *m);

/* Counts n writes that were read back; drift: those of them that had drifted. */
extern void dw_sample_count(int member_id, int n, bool drift);

/* the sequence that remembers when a side was last written gets now's value */
extern void dw_side_written(int member_id, DwSide side);

/* phase of a migration by name, without SPI: works in parallel workers and on standbys; -1 if there is none */
extern int	dw_migration_phase(const char *name);

/* changes with every change of the migration or its pause; palloc'd, NULL if it is gone */
extern char *dw_migration_stamp(int id);

/* pg_current_snapshot() as text, palloc'd */
extern char *dw_current_snapshot(void);

/* mirror's configuration by index scan, no SPI; false if there is no such member */
extern bool dw_mirror_config(int member_id, DwMirrorConfig *cfg);

/* active members that touch the relation: ids of members other than `except` */
extern List *dw_members_of(Oid relid, int except);

/* of the columns that dw_begin created, their positions among the member's new ones, from 0 */
extern List *dw_member_created(int member_id);

/* ---- fault points ---- */

/* as many may be armed at once: each has a sequence, which counts */
#define DW_MAX_FAULTS 8

typedef struct DwFault
{
	int			slot;			/* 1 to DW_MAX_FAULTS */
	char		point[NAMEDATALEN];
	char		migration[NAMEDATALEN]; /* empty: any */
	DwFaultAction action;
	int64		times;			/* 0: no limit */
	int64		base;			/* value of the sequence when it was armed */
	double		probability;
	double		delay_ms;		/* of DW_FAULT_SLEEP */
	int			sqlerrcode;		/* of DW_FAULT_ERROR */
} DwFault;

/* Reads what is armed, by a scan, no SPI; faults has room for DW_MAX_FAULTS.  *relid: the table, InvalidOid if there is none. */
extern int	dw_faults_read(DwFault *faults, Oid *relid);

/* Counts one use, on disk and whatever becomes of the transaction; false if the fault is used up. */
extern bool dw_fault_count(const DwFault *f);

/* Arms, in place of what is armed there for the same migration; false if no slot is free.  Every backend looks again. */
extern bool dw_fault_put(const DwFault *f);

/* Disarms a point (NULL: all); returns how many were armed. */
extern int	dw_fault_remove(const char *point);

#endif							/* DW_CATALOG_H */
