/*
 * api.h
 *		What the SQL entry points share.
 */
#ifndef DW_API_H
#define DW_API_H

#include "catalog.h"
#include "options.h"

/* Raises 25006 on a standby or in a read-only transaction. */
extern void dw_check_writable(const char *verb);

/* Raises 42501 unless the current role owns every table of the migration (or, where these are gone, the migration). */
extern void dw_check_owner(const DwMigration *m);

/* Raises 42P01 where a table of the migration was dropped. */
extern void dw_check_tables(const DwMigration *m);

/* Raises 55000 where the migration has ended. */
extern void dw_check_active(const DwMigration *m);

/*
 * Start of a verb: checks as above, locks the name in short tries, and reads
 * the migration.
 */
extern DwMigration *dw_verb_begin(const char *verb, const char *name);

/* Raises 22023 where the options don't go with proof. */
extern void dw_check_proof_options(const DwOptions *o);

/* Locks all tables of the migration in short tries. */
extern void dw_lock_tables(DwMigration *m, LOCKMODE mode);

/* Launches a worker if work is due and none is running; a NOTICE if that can't be done now. */
extern void dw_launch_if_due(int migration_id);

#endif							/* DW_API_H */
