/*
 * store.c
 *		Derives one side of a stored row and stores it.
 *
 * Race with writers: a row version is read and its other side derived without
 * a lock; writer.c then replaces exactly that version or nothing.  Whoever was
 * faster has gone through the mirror.
 *
 * Other migrations of the table get what an UPDATE of that row owes them.
 */
#include "postgres.h"

#include "executor/tuptable.h"
#include "utils/snapmgr.h"

#include "heal.h"
#include "record.h"
#include "store.h"
#include "subxact.h"

bool
dw_error_of_lock(int sqlerrcode)
{
	return sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE || ERRCODE_TO_CATEGORY(sqlerrcode) == ERRCODE_TRANSACTION_ROLLBACK;
}

bool
dw_error_of_row(int sqlerrcode)
{
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_OPERATOR_INTERVENTION:
		case ERRCODE_SYSTEM_ERROR:
		case ERRCODE_INTERNAL_ERROR:
		case ERRCODE_CONFIG_FILE_ERROR:
		case ERRCODE_INVALID_TRANSACTION_STATE:
		case ERRCODE_TRANSACTION_ROLLBACK:
			return false;
		default:
			return sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE && sqlerrcode != ERRCODE_INSUFFICIENT_PRIVILEGE;
	}
}

List *
dw_other_rules(DwRule *rule, Relation rel)
{
	TriggerDesc *desc = rel->trigdesc;
	Oid			mirror = desc && desc->numtriggers > 1 ? dw_mirror_function() : InvalidOid;
	List	   *others = NIL;

	for (int i = 0; OidIsValid(mirror) && i < desc->numtriggers; i++)
	{
		Trigger    *t = &desc->triggers[i];
		DwRule	   *other;

		if (t->tgfoid != mirror || t->tgnargs != 1 || atoi(t->tgargs[0]) == rule->cfg.member_id)
			continue;
		other = dw_rule_open(atoi(t->tgargs[0]), rel);
		if (other)
			others = lappend(others, other);
	}
	return others;
}

/*
 * What an UPDATE of other columns owes to another migration of the table, we
 * owe it, too (compare mirror_update): an unfilled row is filled, lest it look
 * like one that its mirror has seen; a row from a hole in the mirror is healed;
 * a row that differs is reported to a pass.
 */
static void
serve_other(DwRule *other, HeapTuple tup, TupleTableSlot *slot, int *n, int *cols, Datum *values, bool *nulls)
{
	DwSide		target = DW_NEW;
	DwSideRule *side;
	Datum		v[DW_MAX_COLUMNS];
	bool		isnull[DW_MAX_COLUMNS];
	bool		owed = false;
	DwAge		age;
	ErrorData  *error;

	dw_rule_reset(other);
	if (other->cfg.mirror == DW_MIRROR_OFF || other->cfg.mirror == DW_MIRROR_BACKWARD)
		return;
	if (other->cfg.heal && other->cfg.mirror == DW_MIRROR_BOTH)
	{
		DwHeal		what = dw_heal_decide(other, slot);

		target = what == DW_HEAL_BACKWARD ? DW_OLD : DW_NEW;
		owed = what == DW_HEAL_FORWARD || what == DW_HEAL_BACKWARD;
		if (owed)
			dw_heal_note(other, slot, NULL, target);
		else if (what == DW_HEAL_LEAVE)
			dw_heal_leave(other, slot, NULL);
	}
	else if (other->cfg.filling && DW_AUTHORITY(other->cfg.phase) == DW_OLD && (age = dw_rule_age(other, tup->t_data)) != DW_AGE_AFTER)
	{
		dw_rule_values(other, DW_NEW, slot, v, isnull);
		if (age == DW_AGE_UNKNOWN &&
			(!dw_rule_initial(other, DW_NEW, v, isnull) || dw_rule_consistent(other, slot, NULL, NULL)))
			return;
		owed = true;
	}
	else if (other->cfg.checking && !dw_rule_consistent(other, slot, NULL, NULL))
		dw_record(other, slot, NULL, "drift", "the sides don't follow from each other");
	if (!owed)
		return;
	if (!dw_rule_derive(other, target, slot, v, isnull, &error))
	{
		dw_record_unconvertible(other, slot, &tup->t_self, error);
		return;
	}
	side = &other->side[target];
	for (int i = 0; i < side->n; i++)
	{
		cols[*n] = side->cols[i].attnum;
		values[*n] = v[i];
		nulls[(*n)++] = isnull[i];
	}
}

DwOutcome
dw_store_row(DwRule *rule, List *others, DwWriter *writer, HeapTuple tup, TupleTableSlot *slot, DwSide target, bool locked)
{
	int			n = 0;
	int			room = DW_MAX_COLUMNS * (1 + list_length(others));
	ListCell   *lc;
	DwSideRule *side = &rule->side[target];
	Datum		have[DW_MAX_COLUMNS];
	bool		have_null[DW_MAX_COLUMNS];
	Datum	   *values = palloc(sizeof(Datum) * room);
	bool	   *nulls = palloc(sizeof(bool) * room);
	int		   *cols = palloc(sizeof(int) * room);
	ErrorData  *error;

	if (!dw_rule_derive(rule, target, slot, values, nulls, &error))
	{
		dw_record_unconvertible(rule, slot, &tup->t_self, error);
		return DW_STORE_FAILED;
	}
	dw_rule_values(rule, target, slot, have, have_null);
	if (dw_rule_same(rule, target, have, have_null, values, nulls))
		return DW_STORE_UNCHANGED;
	for (; n < side->n; n++)
		cols[n] = side->cols[n].attnum;
	foreach(lc, others)
		serve_other(lfirst(lc), tup, slot, &n, cols, values, nulls);
	switch (dw_writer_update(writer, tup, slot, locked, n, cols, values, nulls))
	{
		case DW_WRITE_LOCKED:
			return DW_STORE_LOCKED;
		case DW_WRITE_GONE:
			return DW_STORE_GONE;
		case DW_WROTE:
			break;
	}
	if (rule->cfg.heal)
		dw_heal_note(rule, slot, &tup->t_self, target);
	return DW_STORE_WRITTEN;
}

DwOutcome
dw_store_row_careful(DwRule *rule, List *others, Relation rel, HeapTuple tup, TupleTableSlot *slot, DwSide target, bool locked)
{
	DwSubxact	sub;
	volatile DwOutcome outcome = DW_STORE_FAILED;
	volatile bool alone = false;

	dw_subxact_begin(&sub);
	PG_TRY();
	{
		/* opened in here: after an error its pins and relations go with the subtransaction */
		DwWriter   *writer = dw_writer_open(rel, GetActiveSnapshot());

		outcome = dw_store_row(rule, others, writer, tup, slot, target, locked);
		dw_writer_close(writer);
		dw_subxact_end(&sub);
	}
	PG_CATCH();
	{
		ErrorData  *error = dw_subxact_caught(&sub);

		if (dw_error_of_lock(error->sqlerrcode))
			outcome = DW_STORE_LOCKED;
		else if (!dw_error_of_row(error->sqlerrcode))
			ReThrowError(error);
		else if (others != NIL)
		{
			ListCell   *lc;

			/* whose columns they were can't be told: the others' go on record, ours get a try of their own */
			foreach(lc, others)
				if (((DwRule *) lfirst(lc))->cfg.filling && dw_rule_age(lfirst(lc), tup->t_data) != DW_AGE_AFTER)
					dw_record_unconvertible(lfirst(lc), slot, &tup->t_self, error);
			alone = true;
		}
		else
		{
			dw_record_unconvertible(rule, slot, &tup->t_self, error);
			outcome = DW_STORE_FAILED;
		}
		FreeErrorData(error);
	}
	PG_END_TRY();
	return alone ? dw_store_row_careful(rule, NIL, rel, tup, slot, target, locked) : outcome;
}
