/*
 * migration.h
 *		The state machine, and the passes that may run inside a verb's own
 *		transaction.
 */
#ifndef DW_MIGRATION_H
#define DW_MIGRATION_H

#include "lib/stringinfo.h"

#include "catalog.h"

typedef enum DwWork
{
	DW_WORK_NONE,
	DW_WORK_FILL,
	DW_WORK_BUILD,
	DW_WORK_VERIFY
} DwWork;

/* Work that is due for a migration. reason, where given: why there is none although something is missing (static). */
extern DwWork dw_work_due(const DwMigration *m, const char **reason);

/* Moves the migration on: the phase that follows by this event; with an event row and a NOTIFY.  55000 if none does. */
extern void dw_transition(DwMigration *m, const char *event, const char *note);

/* Every unfilled row has been filled: on to building, or to the verification. */
extern void dw_filled(DwMigration *m);

/* Is something to be built, and can it be? */
extern bool dw_to_build(const DwMigration *m);

/* Builds it, under ACCESS EXCLUSIVE (dw_proof_try_lock); then on to the verification. */
extern void dw_built(DwMigration *m);

typedef struct DwTotals
{
	int64		rows;
	int64		drifted;		/* includes unconvertible */
	int64		unconvertible;
	int64		lossy;			/* consistent, but the old side can't hold the new */
	int64		repaired;		/* rows that the pass has put right itself */
	int64		losses;			/* ... and drifted rows whose new side isn't initial */
} DwTotals;

typedef enum DwVerdict
{
	DW_CLEAN,					/* counts: the migration is verified */
	DW_DRIFT,					/* rows differ, or were recorded meanwhile */
	DW_VOID						/* something changed since the pass began */
} DwVerdict;

/* What a pass has to remember of the moment when it began. */
typedef struct DwPass
{
	int64		token;			/* of dw_checking_begin; 0 for a pass in one snapshot */
	int64		epoch;
	char	   *marks;
	char	   *snapshot;		/* records that it sees are closed, if not made again */
	int64		last_drift;		/* ... and those of this transaction up to this one */
	int64		losses;			/* counted losses that a clean pass sees to; -1: can't be told */
} DwPass;

/*
 * Fills pass in, before the first row is looked at.  token: 0, or that of a
 * pass in chunks, for which losses were counted before the token was taken.
 */
extern void dw_pass_begin(DwMigration *m, int64 token, int64 losses, DwPass *pass);

/* Ends a complete pass. */
extern DwVerdict dw_pass_end(DwMigration *m, const DwPass *pass, const DwTotals *t);

/* What is wrong with the triggers of the mirror, palloc'd; NULL if nothing. */
extern char *dw_mirror_problem(DwMigration *m);

/*
 * Checks a fraction of the blocks of all members in one snapshot, as the
 * tables' owners.  Drifted rows are recorded where record says so.  losses,
 * where given: gets the keys of some rows whose new side the old one can't
 * hold; t->losses counts them.
 */
extern void dw_check_now(DwMigration *m, double sample, bool record, DwTotals *t, StringInfo losses);

/*
 * Fill (under a lock that excludes writers only) and verification of a small
 * migration, as far as due; nothing for others.
 */
extern void dw_work_now(DwMigration *m);

/*
 * A pass in chunks may miss a row that moves from a block ahead of it to one
 * behind it.  So before it begins every writer has to know that it must look
 * (dw_checking_begin, then commit), and those that might not know yet
 * have to end: dw_writers_now lists them (virtual transactions, palloc'd),
 * dw_writers_gone says whether they have ended.
 */
extern List *dw_writers_now(DwMigration *m);
extern bool dw_writers_gone(List *writers);

#endif							/* DW_MIGRATION_H */
