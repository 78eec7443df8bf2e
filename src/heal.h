/*
 * heal.h
 *		What becomes of a row that a hole in the mirror may have left.
 */
#ifndef DW_HEAL_H
#define DW_HEAL_H

#include "rule.h"

typedef enum DwHeal
{
	DW_HEAL_NOT,				/* consistent */
	DW_HEAL_FORWARD,			/* the new side is derived */
	DW_HEAL_BACKWARD,			/* the old side is derived */
	DW_HEAL_LEAVE				/* the user has to choose a side */
} DwHeal;

/* What is to be done with the row; changes nothing. */
extern DwHeal dw_heal_decide(DwRule *rule, TupleTableSlot *slot);

/* Before a side is derived: if it holds a value that somebody wrote, both sides go on record.  tid may be NULL. */
extern void dw_heal_note(DwRule *rule, TupleTableSlot *slot, ItemPointer tid, DwSide target);

/* Puts a row that is left as it is on record.  tid may be NULL. */
extern void dw_heal_leave(DwRule *rule, TupleTableSlot *slot, ItemPointer tid);

#endif							/* DW_HEAL_H */
