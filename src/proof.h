/*
 * proof.h
 *		The CHECK constraint that a member's rows are consistent (option proof).
 */
#ifndef DW_PROOF_H
#define DW_PROOF_H

#include "catalog.h"

/*
 * Raises 42P17 where the rules of a member can't be made a check, because it
 * could refuse a row that is consistent.
 */
extern void dw_proof_check(const char *migration, int member_id, Oid relid);

/* ACCESS EXCLUSIVE on all tables, by one short try each; false if that can't be had, or a table is in use by this session. */
extern bool dw_proof_try_lock(DwMigration *m);

/* Adds the constraint, NOT VALID, to the tables that lack it; needs ACCESS EXCLUSIVE. */
extern void dw_proof_add(DwMigration *m);

/* Is there a constraint to drop? */
extern bool dw_proof_found(DwMigration *m);

/* Drops the constraint of all members, whatever it is called by now; needs ACCESS EXCLUSIVE.  True if there was one. */
extern bool dw_proof_drop(DwMigration *m);

#endif							/* DW_PROOF_H */
