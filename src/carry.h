/*
 * carry.h
 *		What hangs on the columns of a side.
 */
#ifndef DW_CARRY_H
#define DW_CARRY_H

#include "catalog.h"

/* the columns of a member as they are named and numbered now */
typedef struct DwSideColumns
{
	List	   *names[2];		/* char *, by DwSide */
	List	   *attnums[2];		/* int */
} DwSideColumns;

/* NULL if the rules, which name the columns, are lost */
extern DwSideColumns *dw_side_columns(int member_id);

/* Columns of the new side that dw_begin created, as they are named now. */
extern List *dw_created_columns(DwMember *b, DwSideColumns *sides);

/* Are there deferrable constraints on columns of the new side? */
extern bool dw_new_side_deferrable(DwMember *b);

/*
 * Raises 55000 naming every index, constraint, NOT NULL, default and
 * statistics object of the old side that has no counterpart on the new, and
 * 2BP01 naming what depends on the old columns.
 */
extern void dw_check_counterparts(DwMigration *m, Oid relid, DwSideColumns *sides);

/* Raises 2BP01 naming what depends on columns of the new side that dw_abort would drop. */
extern void dw_check_abortable(DwMigration *m, Oid relid, List *names);

/* Sequences that these columns own, and something else uses, go back to the column that uses them. */
extern void dw_return_sequences(Oid relid, List *names);

/* Other relations that PostgreSQL locks to drop these columns: tables that their foreign keys reference, their sequences.  OIDs. */
extern List *dw_columns_relations(Oid relid, List *names);

/* ALTER TABLE ... DROP COLUMN, as the table's owner, never CASCADE. */
extern void dw_drop_columns(Oid relid, List *names);

#endif							/* DW_CARRY_H */
