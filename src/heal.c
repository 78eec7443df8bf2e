/*
 * heal.c
 *		What becomes of a row that a hole in the mirror may have left.
 *
 * While the mirror was not on both ways, each side may have been written alone.
 * Once it is on again (dw_set, dw_resume), migration.heal and member.filling are
 * set under a lock that has drained the writers, and the backfill passes over
 * the whole table.  Invariant, until that pass is through: every row is ahead of
 * the pass, or consistent, or recorded in dualwrite.drift, or in a block noted
 * in dualwrite.skipped.  The pass treats the rows that it meets; the mirror
 * treats the rows that it stores, with the same decision, because they may come
 * to lie behind the pass.
 */
#include "postgres.h"

#include "heal.h"
#include "record.h"

/* Which side was written last can be told only where the other was never written. */
DwHeal
dw_heal_decide(DwRule *rule, TupleTableSlot *slot)
{
	DwSide		authority = DW_AUTHORITY(rule->cfg.phase);
	bool		back = rule->side[DW_OLD].derivable;
	Datum		v[2][DW_MAX_COLUMNS];
	bool		n[2][DW_MAX_COLUMNS];
	bool		old_initial;
	bool		new_initial;

	if (dw_rule_consistent(rule, slot, NULL, NULL))
		return DW_HEAL_NOT;
	dw_rule_values(rule, DW_OLD, slot, v[DW_OLD], n[DW_OLD]);
	dw_rule_values(rule, DW_NEW, slot, v[DW_NEW], n[DW_NEW]);
	old_initial = dw_rule_initial(rule, DW_OLD, v[DW_OLD], n[DW_OLD]);
	new_initial = dw_rule_initial(rule, DW_NEW, v[DW_NEW], n[DW_NEW]);
	if (new_initial && authority == DW_OLD)
		return DW_HEAL_FORWARD;
	if (old_initial && !new_initial && back)
		return DW_HEAL_BACKWARD;
	switch (rule->cfg.conflict)
	{
		case DW_CONFLICT_OLD:
			return authority == DW_OLD ? DW_HEAL_FORWARD : DW_HEAL_LEAVE;
		case DW_CONFLICT_NEW:
			return back ? DW_HEAL_BACKWARD : DW_HEAL_LEAVE;
		case DW_CONFLICT_AUTHORITY:
			return authority == DW_OLD ? DW_HEAL_FORWARD : back ? DW_HEAL_BACKWARD : DW_HEAL_LEAVE;
		case DW_CONFLICT_ERROR:
			break;
	}
	return DW_HEAL_LEAVE;
}

void
dw_heal_note(DwRule *rule, TupleTableSlot *slot, ItemPointer tid, DwSide target)
{
	Datum		v[DW_MAX_COLUMNS];
	bool		n[DW_MAX_COLUMNS];

	dw_rule_values(rule, target, slot, v, n);
	if (dw_rule_initial(rule, target, v, n))
		return;
	dw_record_repaired(rule, slot, tid, target == DW_NEW ? "healed: the new side was overwritten" : "healed: the old side was overwritten");
}

void
dw_heal_leave(DwRule *rule, TupleTableSlot *slot, ItemPointer tid)
{
	dw_record(rule, slot, tid, "drift", "both sides hold values, and the mirror was not on when they were written");
}
