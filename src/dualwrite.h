/*
 * dualwrite.h
 *		The vocabulary of pg_dualwrite: phases, sides, options, and the settings
 *		that every module may read.
 */
#ifndef DUALWRITE_H
#define DUALWRITE_H

#include "access/transam.h"
#include "nodes/bitmapset.h"
#include "utils/guc.h"

#define DW_SCHEMA "dualwrite"
#define DW_CHANNEL "pg_dualwrite"

/* most columns on one side of a member */
#define DW_MAX_COLUMNS 32

/* most workers of one migration */
#define DW_MAX_WORKERS 64

/*
 * Our advisory-class lock tags carry these in the field that separates
 * pg_advisory_lock(bigint) (1) from pg_advisory_lock(int, int) (2), so that
 * they can never meet a user's advisory lock.
 */
#define DW_LOCK_WORKER 208		/* session lock of the worker of a migration */
#define DW_LOCK_NAME 209		/* transaction lock of a verb, by name */
#define DW_LOCK_PASS 210		/* session lock of a pass in chunks over a migration */
#define DW_LOCK_PART 212			/* session lock of a part of a backfill, by member */
#define DW_LOCK_STARTING 213	/* session lock of a worker that has no migration yet, by pid */
#define DW_LOCK_START 214		/* while a worker is started */
#define DW_LOCK_FAULT 211		/* while a fault is counted */

/* in the order in which a migration goes through them */
typedef enum DwPhase
{
	DW_BACKFILLING,
	DW_BUILDING,
	DW_VERIFYING,
	DW_READY,
	DW_SWITCHED,
	DW_FINALIZED,
	DW_ABORTED
} DwPhase;

typedef enum DwSide
{
	DW_OLD,
	DW_NEW
} DwSide;

#define DW_OTHER(side) ((side) == DW_OLD ? DW_NEW : DW_OLD)

/* option mirror: which way writes are carried over */
typedef enum DwMirrorMode
{
	DW_MIRROR_BOTH,
	DW_MIRROR_FORWARD,
	DW_MIRROR_BACKWARD,
	DW_MIRROR_OFF
} DwMirrorMode;

/* option conflict: which side wins when a statement sets both */
typedef enum DwConflict
{
	DW_CONFLICT_ERROR,
	DW_CONFLICT_OLD,
	DW_CONFLICT_NEW,
	DW_CONFLICT_AUTHORITY
} DwConflict;

/* option on_error: what becomes of a write that can't be converted */
typedef enum DwOnError
{
	DW_ON_ERROR_AUTHORITY,
	DW_ON_ERROR_REJECT,
	DW_ON_ERROR_RECORD
} DwOnError;

/* what happens at a fault point */
typedef enum DwFaultAction
{
	DW_FAULT_ERROR,
	DW_FAULT_CRASH,
	DW_FAULT_SLEEP
} DwFaultAction;

/* setting side: which version of the application this session is */
typedef enum DwSessionSide
{
	DW_SESSION_AUTO,
	DW_SESSION_OLD,
	DW_SESSION_NEW
} DwSessionSide;

/* names of the above, as users write them (guc.c) */
extern const struct config_enum_entry dw_phase_names[];
extern const struct config_enum_entry dw_mirror_names[];
extern const struct config_enum_entry dw_conflict_names[];
extern const struct config_enum_entry dw_on_error_names[];
extern const struct config_enum_entry dw_fault_action_names[];

/* Value of a name, or -1. */
extern int	dw_enum_value(const struct config_enum_entry *names, const char *name);

/* Name of a value; static storage. */
extern const char *dw_enum_name(const struct config_enum_entry *names, int value);

/* "old" or "new"; static storage. */
extern const char *dw_side_name(DwSide side);

/* pg_dualwrite.* (guc.c) */
extern int	dw_lock_timeout;	/* ms a single try waits for a table lock */
extern int	dw_lock_retries;	/* tries before 55P03 */
extern int	dw_session_side;	/* DwSessionSide */
extern int	dw_default_workers; /* of one migration */
extern int	dw_horizon_wait;	/* s that the backfill waits for dead versions to be pruned */
extern int	dw_max_workers;		/* workers of one database */
extern int	dw_inline_limit;	/* kB; a table this small needs no worker */
extern int	dw_default_conflict;	/* DwConflict */
extern int	dw_default_on_error;	/* DwOnError */
extern int	dw_default_batch_time;	/* ms */
extern int	dw_default_max_rows;	/* rows per second, 0: no limit */
extern int	dw_default_max_wal; /* kB per second, 0: no limit */
extern int	dw_default_max_replica_lag; /* ms, 0: not watched */
extern int	dw_default_max_slot_retention;	/* kB, 0: no limit */
extern char *dw_default_window; /* empty: always */
extern int	dw_default_recheck; /* s, 0: never */
extern int	dw_naptime;			/* s, of the launcher */

extern void dw_define_settings(void);

#endif							/* DUALWRITE_H */
