/*
 * mirror.c
 *		The row trigger that keeps both sides of a row consistent, in the
 *		transaction that writes it.
 *
 * Invariant: a row stored while the mirror is on is consistent, or has been
 * recorded in dualwrite.drift in the same transaction.  It runs BEFORE ROW,
 * so the row is locked and its newest version at hand; two writers of one row
 * can't interleave here.
 *
 * The direction follows from what the statement changed (see mirror_update and
 * mirror_insert), the rest from the member's configuration, which can't change
 * under a statement: every change takes a lock that conflicts with writers,
 * or (mirror off) may come one statement late without harm.
 *
 * Rows stored earlier need not be consistent yet.  While a pass looks for them
 * (filling, healing, checking) the mirror looks at every row that an UPDATE
 * brings, whatever it changes, and does what the pass would do: the new version
 * may lie in a block that the pass has behind it.  A pass begins only when every
 * writer knows of it: filling and healing begin under a lock that has drained
 * them, checking waits for them.
 *
 * Where the table has BEFORE ROW triggers of its own there are two of us.  The
 * first mirrors what the client wrote, so that no trigger computes from a
 * stale side; the last mirrors what those triggers changed, which it tells by
 * what the first one left behind (a memo).
 *
 * This file decides which side a row takes its values from; mirror_derive.c
 * does it.
 *
 * No SPI here but to record what went wrong.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "fmgr.h"

#include "fault.h"
#include "mirror.h"
#include "record.h"
#include "sample.h"

PG_FUNCTION_INFO_V1(dw_mirror);

/* in fn_extra, for the length of a query */
typedef struct MirrorCall
{
	DwRule	   *rule;			/* NULL: nothing to do */
	bool		first;			/* another one of us follows */
} MirrorCall;

/* ---- deciding ---- */

/*
 * How much a side says for itself in an INSERT: 2, the statement gave it;
 * 1, it has a value that may come from a default that differs from row to row;
 * 0, it is NULL or its constant default.
 */
static int
given(DwRow *row, DwSide s)
{
	DwSideRule *side = &row->rule->side[s];
	int			result = 0;

	dw_row_load(row, s);
	for (int i = 0; i < side->n; i++)
	{
		DwColumn   *col = &side->cols[i];

		if (row->now_null[s][i])
			continue;
		if (col->deflt == DW_DEFAULT_OTHER)
			result = Max(result, 1);
		else if (col->deflt == DW_DEFAULT_NONE ||
				 !datum_image_eq(row->now[s][i], col->value, col->typbyval, col->typlen))
			return 2;
	}
	return result;
}

static bool
all_null(DwRow *row, DwSide s)
{
	dw_row_load(row, s);
	for (int i = 0; i < row->rule->side[s].n; i++)
		if (!row->now_null[s][i])
			return false;
	return true;
}

static bool
has_default(DwRow *row, DwSide s)
{
	for (int i = 0; i < row->rule->side[s].n; i++)
		if (row->rule->side[s].cols[i].deflt != DW_DEFAULT_NONE)
			return true;
	return false;
}

/*
 * NULL is never given against a value on the other side, nor is a default.
 * The comparison of strengths says who was; what is left is a tie.
 */
static void
mirror_insert(DwRow *row)
{
	int			old = given(row, DW_OLD);
	int			new = given(row, DW_NEW);

	if (old == 2 && new == 2)
		dw_row_resolve(row, row->rule->other_before && !row->rule->has_first);
	else if (old > new)
		dw_row_derive(row, DW_OLD);
	else if (new > old)
	{
		/* a row that comes complete, from a copy or another partition, is left alone */
		if (all_null(row, DW_OLD) || !dw_rule_consistent(row->rule, row->slot, NULL, NULL))
			dw_row_derive(row, DW_NEW);
	}
	else if (row->rule->side[DW_OLD].derivable && has_default(row, DW_NEW) &&
			 (!has_default(row, DW_OLD) || dw_session_side == DW_SESSION_NEW))
		dw_row_derive(row, DW_NEW);	/* neither was given: the side that has defaults */
	else
		dw_row_derive(row, DW_OLD);
}

/* Is OLD a row whose new side nobody has ever written, though the old one says something? */
static bool
left_behind(DwRow *row)
{
	Datum		v[DW_MAX_COLUMNS];
	bool		n[DW_MAX_COLUMNS];

	if (DW_AUTHORITY(row->rule->cfg.phase) == DW_NEW)
		return false;
	dw_rule_values(row->rule, DW_NEW, row->old, v, n);
	return dw_rule_initial(row->rule, DW_NEW, v, n) && !dw_rule_consistent(row->rule, row->old, NULL, NULL);
}

/* Is the old version a row that nothing has made consistent yet? */
static bool
unfilled(DwRow *row)
{
	DwRule	   *rule = row->rule;

	/* after the switch, the old side no longer decides what the new one holds */
	if (!rule->cfg.filling || DW_AUTHORITY(rule->cfg.phase) == DW_NEW)
		return false;
	switch (dw_rule_age(rule, row->td->tg_trigtuple->t_data))
	{
		case DW_AGE_BEFORE:
			return true;
		case DW_AGE_AFTER:
			return false;
		case DW_AGE_UNKNOWN:
			break;
	}
	return left_behind(row);
}

/*
 * Has a column of the side another value than in OLD, or (memo) than the first
 * of us left there?  set: the statement SETs one of them.  Where it doesn't and
 * the table has no BEFORE triggers of its own, nobody has changed it.
 */
static bool
changed(DwRow *row, DwSide s, bool set, const DwMemo *memo, bool *by_trigger)
{
	DwSideRule *side = &row->rule->side[s];
	bool		result = false;

	if (!set && memo == NULL && !row->rule->other_before)
		return false;
	dw_row_load(row, s);
	for (int i = 0; i < side->n; i++)
	{
		DwColumn   *col = &side->cols[i];
		bool		isnull;
		Datum		value;

		if (memo)
		{
			value = memo->values[s][i];
			isnull = memo->nulls[s][i];
		}
		else
			value = slot_getattr(row->old, col->attnum, &isnull);
		if (dw_row_same_value(col, value, isnull, row->now[s][i], row->now_null[s][i]))
			continue;
		result = true;
		if (memo || !dw_row_was_set(row, col->attnum))
			*by_trigger = true;
	}
	return result;
}

/* Did a column change that a rule reads and that is on neither side? */
static bool
reads_changed(DwRow *row, const DwMemo *memo)
{
	if (memo == NULL && !row->rule->other_before && !bms_overlap(row->td->tg_updatedcols, row->rule->reads))
		return false;
	/* a function that a rule inlines may have been replaced between the two triggers */
	if (memo && !bms_equal(memo->read_set, row->rule->reads))
		return true;
	for (int att = -1, i = 0; (att = bms_next_member(row->rule->reads, att)) >= 0; i++)
	{
		AttrNumber	attnum = att + FirstLowInvalidHeapAttributeNumber;
		Form_pg_attribute a = TupleDescAttr(row->rule->desc, attnum - 1);
		bool		old_null;
		bool		new_null;
		Datum		old;
		Datum		new = slot_getattr(row->slot, attnum, &new_null);

		if (memo)
		{
			old = memo->reads[i];
			old_null = memo->reads_null[i];
		}
		else
			old = slot_getattr(row->old, attnum, &old_null);

		if (old_null != new_null || (!old_null && !datum_image_eq(old, new, a->attbyval, a->attlen)))
			return true;
	}
	return false;
}

static void
mirror_update(DwRow *row)
{
	DwRule	   *rule = row->rule;
	DwSide		authority = DW_AUTHORITY(rule->cfg.phase);
	bool		by_trigger = false;
	bool		old_set = bms_overlap(row->td->tg_updatedcols, rule->side[DW_OLD].bits);
	bool		new_set = bms_overlap(row->td->tg_updatedcols, rule->side[DW_NEW].bits);
	bool		old_changed = changed(row, DW_OLD, old_set, NULL, &by_trigger);
	bool		new_changed = changed(row, DW_NEW, new_set, NULL, &by_trigger);

	if (old_changed && new_changed)
	{
		if (!unfilled(row) || dw_row_fill_unset(row))
			dw_row_resolve(row, by_trigger && !rule->has_first);
	}
	else if (old_changed)
		dw_row_derive(row, DW_OLD);
	else if (unfilled(row) || (new_changed && left_behind(row)))
	{
		/* else the new version would lie behind the backfill's back */
		if (!new_changed && (old_set || !new_set))
			dw_row_forward(row, !old_set);
		else if (dw_row_fill_unset(row))
			dw_row_derive(row, DW_NEW);
	}
	else if (new_changed)
		dw_row_derive(row, DW_NEW);
	else if ((old_set || new_set) && !dw_rule_consistent(rule, row->slot, NULL, NULL))
		dw_row_derive(row, old_set && new_set ? authority : old_set ? DW_OLD : DW_NEW);
	else if (reads_changed(row, NULL) && (authority == DW_OLD || rule->side[DW_OLD].derivable))
		dw_row_derive(row, authority);
	else if (rule->cfg.heal && rule->cfg.mirror == DW_MIRROR_BOTH)
		dw_row_heal(row);
	else if (rule->cfg.checking && !dw_rule_consistent(rule, row->slot, NULL, NULL))
		/* it may move to a block that the pass has behind it */
		dw_record(row->rule, row->slot, NULL, "drift", "the sides don't follow from each other");
}

/* What the table's own triggers changed after the first of us. */
static void
mirror_after(DwRow *row, DwMemo *memo)
{
	bool		by_trigger;
	bool		old_changed = changed(row, DW_OLD, true, memo, &by_trigger);
	bool		new_changed = changed(row, DW_NEW, true, memo, &by_trigger);

	if (old_changed && new_changed)
		dw_row_resolve(row, true);
	else if (old_changed)
		dw_row_derive(row, DW_OLD);
	else if (new_changed)
		dw_row_derive(row, DW_NEW);
	else if (reads_changed(row, memo) &&
			 (DW_AUTHORITY(row->rule->cfg.phase) == DW_OLD || row->rule->side[DW_OLD].derivable))
		dw_row_derive(row, DW_AUTHORITY(row->rule->cfg.phase));
}

/* ---- the trigger ---- */

/*
 * Another trigger fires after us and may undo what we do; it may be gone again
 * when somebody looks.  So the write leaves a record that only a verification
 * begun after it closes.
 */
static void
note_overtaken(DwRow *row)
{
	if (dw_rule_note_overtaken(row->rule))
		dw_record(row->rule, row->slot, NULL, "overtaken", psprintf("trigger \"%s\" fired after the mirror", row->rule->overtaken));
}

/* The row to store: the given one, or a copy with what was derived. */
static HeapTuple
result_tuple(DwRow *row, HeapTuple tuple)
{
	int			cols[DW_MAX_COLUMNS * 2];
	Datum		values[DW_MAX_COLUMNS * 2];
	bool		nulls[DW_MAX_COLUMNS * 2];
	int			n = 0;

	for (int s = 0; s < 2; s++)
		for (int i = 0; row->dirty[s] && i < row->rule->side[s].n; i++)
		{
			DwColumn   *col = &row->rule->side[s].cols[i];

			if (row->loaded[s] && dw_row_same_value(col, row->out[s][i], row->out_null[s][i], row->now[s][i], row->now_null[s][i]))
				continue;
			cols[n] = col->attnum;
			values[n] = row->out[s][i];
			nulls[n++] = row->out_null[s][i];
		}
	if (n == 0)
		return tuple;
	return dw_tuple_replace(tuple, row->rule->desc, row->update ? row->td->tg_newslot : row->td->tg_trigslot, n, cols, values, nulls);
}

static MirrorCall *
open_call(FmgrInfo *flinfo, TriggerData *td)
{
	MemoryContext old = MemoryContextSwitchTo(flinfo->fn_mcxt);
	MirrorCall *call = palloc0(sizeof(MirrorCall));

	if (td->tg_trigger->tgnargs < 1)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("dualwrite.mirror() needs a member id"),
				 errdetail("The trigger has no arguments."),
				 errhint("Its triggers are made by dw_begin.")));
	call->rule = dw_rule_open(atoi(td->tg_trigger->tgargs[0]), td->tg_relation);
	if (call->rule == NULL)
		ereport(WARNING,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("trigger \"%s\" of table \"%s\" mirrors nothing: its migration is not known in this database",
						td->tg_trigger->tgname, RelationGetRelationName(td->tg_relation)),
				 errhint("If it was left over by a restore, drop it.")));
	call->first = td->tg_trigger->tgnargs > 1;
	MemoryContextSwitchTo(old);
	flinfo->fn_extra = call;
	return call;
}

Datum
dw_mirror(PG_FUNCTION_ARGS)
{
	TriggerData *td = (TriggerData *) fcinfo->context;
	MirrorCall *call = fcinfo->flinfo->fn_extra;
	DwRule	   *rule;
	HeapTuple	tuple;
	DwMemo	   *memo = NULL;
	DwRow		row;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BEFORE(td->tg_event) || !TRIGGER_FIRED_FOR_ROW(td->tg_event) ||
		TRIGGER_FIRED_BY_DELETE(td->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("dualwrite.mirror() must be called as a BEFORE INSERT OR UPDATE trigger FOR EACH ROW"),
				 errdetail("It was called in another way."),
				 errhint("Its triggers are made by dw_begin.")));
	row.update = TRIGGER_FIRED_BY_UPDATE(td->tg_event);
	tuple = row.update ? td->tg_newtuple : td->tg_trigtuple;
	if (call == NULL)
		call = open_call(fcinfo->flinfo, td);
	rule = call->rule;
	if (rule == NULL || rule->cfg.mirror == DW_MIRROR_OFF)
		return PointerGetDatum(tuple);

	row.rule = rule;
	row.td = td;
	row.slot = row.update ? td->tg_newslot : td->tg_trigslot;
	row.old = row.update ? td->tg_trigslot : NULL;
	if (rule->overtaken[0] && !call->first)
		note_overtaken(&row);

	/* nobody but the client has touched the row: what it didn't SET is as it was */
	if (row.update && !rule->cfg.filling && !rule->cfg.checking && !rule->other_before && !bms_overlap(td->tg_updatedcols, rule->watch))
		return PointerGetDatum(tuple);

	if (unlikely(rule->faults))
		dw_fault_here("mirror_before", rule->cfg.migration);
	row.dirty[DW_OLD] = row.dirty[DW_NEW] = row.loaded[DW_OLD] = row.loaded[DW_NEW] = false;
	dw_rule_reset(rule);

	if (rule->has_first && !call->first)
		memo = dw_memo_find(rule->cfg.member_id, fcinfo->flinfo->fn_mcxt);
	if (memo)
		mirror_after(&row, memo);
	else if (row.update)
		mirror_update(&row);
	else
		mirror_insert(&row);
	if (call->first)
		dw_memo_store(&row, fcinfo->flinfo->fn_mcxt);
	if (unlikely(rule->faults))
		dw_fault_here("mirror_after", rule->cfg.migration);
	tuple = result_tuple(&row, tuple);
	if (!call->first && dw_sample_due(rule->cfg.sample_rate))
		dw_sample_note(rule, tuple);
	return PointerGetDatum(tuple);
}
