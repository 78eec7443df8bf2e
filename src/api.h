/*
 * api.h
 *		What the SQL entry points share.
 */
#ifndef DW_API_H
#define DW_API_H

#include "fmgr.h"
#include "storage/lockdefs.h"

#include "catalog.h"
#include "options.h"

/* Raises 25006 on a standby or in a read-only transaction. */
extern void dw_check_writable(const char *verb);

/* Raises 42501 unless the current role owns every table of the migration (or, where these are gone, the migration). */
extern void dw_check_owner(const DwMigration *m);

/* Is a table of the migration gone? */
extern bool dw_table_missing(const DwMigration *m);

/* Raises 42P01 where a table of the migration was dropped. */
extern void dw_check_tables(const DwMigration *m);

/* Raises 55000 where the migration has ended. */
extern void dw_check_active(const DwMigration *m);

/* Raises 55000: a verb's participle, and a hint that takes the migration's name, quoted, for a %s. */
extern void dw_wrong_phase(DwMigration *m, const char *verb, const char *hint);

/*
 * Raises 55000 where something other than the phase keeps authority from
 * moving.  Called under the lock that has drained the writers, with a fresh
 * look at everything.  unconvertible_ok: rows that the old side can't hold are
 * not in the way.
 */
extern void dw_check_may_flip(DwMigration *m, const char *verb, bool unconvertible_ok);

/* The first argument, the name of a migration; raises 22004 where it is null. */
extern char *dw_verb_name(FunctionCallInfo fcinfo, const char *verb);

/* The second one, a phase, ready where it is null; raises 22023 where it is none. */
extern DwPhase dw_phase_arg(FunctionCallInfo fcinfo);

/*
 * Start of a verb: checks as above, locks the name in short tries, and reads
 * the migration.
 */
extern DwMigration *dw_verb_begin(const char *verb, const char *name);

/* Raises 22023 where the options don't go with proof. */
extern void dw_check_proof_options(const DwOptions *o);

/*
 * Locks all tables of the migration in short tries, and what `more` names with
 * them (see dw_lock_relations), and reads the migration anew.
 */
extern void dw_lock_tables_and(DwMigration *m, LOCKMODE mode, List *(*more) (void *arg), void *arg);
extern void dw_lock_tables(DwMigration *m, LOCKMODE mode);

/* Says in a transaction block that the lock of that name is kept. */
extern void dw_notice_lock(const char *mode);

/* What a verb returns. */
extern text *dw_result(const char *fmt,...) pg_attribute_printf(1, 2);

/* Launches a worker if work is due and none is running; a NOTICE if that can't be done now. */
extern void dw_launch_if_due(int migration_id);

#endif							/* DW_API_H */
