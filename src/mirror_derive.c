/*
 * mirror_derive.c
 *		What the mirror does to the row at hand: derives a side from the other,
 *		and what follows where that can't be done.
 */
#include "postgres.h"

#include "replication/logicalworker.h"
#include "utils/builtins.h"

#include "compat.h"
#include "heal.h"
#include "mirror.h"
#include "record.h"

/* ---- consequences ---- */

/*
 * A side could not be derived.  fill: the client wrote neither side, it only
 * came across an unfilled row.
 */
static void
not_convertible(DwRow *row, DwSide target, ErrorData *error, bool fill)
{
	DwRule	   *rule = row->rule;
	DwSide		authority = DW_AUTHORITY(rule->cfg.phase);
	DwSideRule *side = &rule->side[target];

	if (!fill && (rule->cfg.on_error == DW_ON_ERROR_REJECT ||
				  (rule->cfg.on_error == DW_ON_ERROR_AUTHORITY && target == authority)))
		ReThrowError(error);
	dw_record_unconvertible(rule, row->slot, NULL, error);
	if (fill || target == authority)
		return;

	/* nothing is better there than a value that belongs to an earlier row */
	dw_row_load(row, target);
	for (int i = 0; i < side->n; i++)
	{
		row->out[target][i] = side->cols[i].notnull ? row->now[target][i] : (Datum) 0;
		row->out_null[target][i] = side->cols[i].notnull ? row->now_null[target][i] : true;
	}
	row->dirty[target] = true;
}

/* The new side was written and there is no rule that leads back. */
static void
one_way(DwRow *row)
{
	DwRule	   *rule = row->rule;

	if (DW_AUTHORITY(rule->cfg.phase) == DW_NEW)
	{
		dw_loss_count(rule->cfg.member_id);
		return;
	}
	if (dw_rule_consistent(rule, row->slot, NULL, NULL))
		return;
	if (rule->cfg.on_error != DW_ON_ERROR_RECORD)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the new side of table \"%s\" can't be written before dw_switch: migration \"%s\" is one way",
						RelationGetRelationName(row->td->tg_relation), rule->cfg.migration),
				 errdetail("It has no backward expression, so the write could not reach the old side, which is in authority."),
				 errhint("Write the old side, or begin the migration with a backward expression.")));
	dw_record(row->rule, row->slot, NULL, "one way", "the new side was written and there is no backward expression");
}

/* ---- the two directions ---- */

void
dw_row_forward(DwRow *row, bool fill)
{
	DwRule	   *rule = row->rule;
	ErrorData  *error;

	if (rule->cfg.mirror == DW_MIRROR_BACKWARD)
		return;
	if (dw_rule_derive(rule, DW_NEW, row->slot, row->out[DW_NEW], row->out_null[DW_NEW], &error))
		row->dirty[DW_NEW] = true;
	else
		not_convertible(row, DW_NEW, error, fill);
}

/*
 * Would the new side come back as it is from what was derived from it?  Where
 * it would not, the old side can't hold all that the new one does.  The count
 * tells dw_abort whether it has to look, and whether there were more since.
 */
static void
count_loss(DwRow *row)
{
	DwRule	   *rule = row->rule;
	Datum		again[DW_MAX_COLUMNS];
	bool		again_null[DW_MAX_COLUMNS];
	Datum	   *have = row->dirty[DW_NEW] ? row->out[DW_NEW] : row->now[DW_NEW];
	bool	   *have_null = row->dirty[DW_NEW] ? row->out_null[DW_NEW] : row->now_null[DW_NEW];
	TupleTableSlot *with;
	ErrorData  *error;

	dw_row_load(row, DW_NEW);
	with = dw_rule_with(rule, row->slot, DW_NEW, have, have_null);
	with = dw_rule_with(rule, with, DW_OLD, row->out[DW_OLD], row->out_null[DW_OLD]);
	if (dw_rule_derive(rule, DW_NEW, with, again, again_null, &error) &&
		dw_rule_same(rule, DW_NEW, have, have_null, again, again_null))
		return;
	dw_loss_count(rule->cfg.member_id);
}

static void
backward(DwRow *row)
{
	DwRule	   *rule = row->rule;
	ErrorData  *error;

	if (rule->cfg.mirror == DW_MIRROR_FORWARD)
		return;
	if (!rule->side[DW_OLD].derivable)
	{
		one_way(row);
		return;
	}
	if (dw_rule_derive(rule, DW_OLD, row->slot, row->out[DW_OLD], row->out_null[DW_OLD], &error))
	{
		row->dirty[DW_OLD] = true;
		count_loss(row);
	}
	else
		not_convertible(row, DW_OLD, error, false);
}

/*
 * The new side of an unfilled row is written: columns of it that the statement
 * doesn't SET still have nothing in them, and going backward from that would
 * lose what the old side says about them.  They are derived from OLD first.
 * False if that can't be done: then the row is on record, and half a new side
 * is not carried over.
 */
bool
dw_row_fill_unset(DwRow *row)
{
	DwRule	   *rule = row->rule;
	DwSideRule *side = &rule->side[DW_NEW];
	Datum		was[DW_MAX_COLUMNS];
	bool		was_null[DW_MAX_COLUMNS];
	Datum		old[DW_MAX_COLUMNS];
	bool		old_null[DW_MAX_COLUMNS];
	bool		given[DW_MAX_COLUMNS];
	int			unset = 0;
	ErrorData  *error;

	dw_row_load(row, DW_NEW);
	dw_rule_values(rule, DW_NEW, row->old, old, old_null);
	for (int i = 0; i < side->n; i++)
	{
		bool		same = dw_row_same_value(&side->cols[i], old[i], old_null[i], row->now[DW_NEW][i], row->now_null[DW_NEW][i]);

		given[i] = !same || dw_row_was_set(row, side->cols[i].attnum);
		unset += !given[i];
	}
	if (unset == 0 || rule->cfg.mirror == DW_MIRROR_BACKWARD)
		return true;
	if (!dw_rule_derive(rule, DW_NEW, row->old, was, was_null, &error))
	{
		dw_record_unconvertible(rule, row->slot, NULL, error);
		return false;
	}
	for (int i = 0; i < side->n; i++)
	{
		row->out[DW_NEW][i] = given[i] ? row->now[DW_NEW][i] : was[i];
		row->out_null[DW_NEW][i] = given[i] ? row->now_null[DW_NEW][i] : was_null[i];
	}
	row->dirty[DW_NEW] = true;
	row->slot = dw_rule_with(rule, row->slot, DW_NEW, row->out[DW_NEW], row->out_null[DW_NEW]);
	return true;
}

void
dw_row_derive(DwRow *row, DwSide from)
{
	if (dw_rule_note_written(row->rule, from))
		dw_side_written(row->rule->cfg.member_id, from);
	if (from == DW_OLD)
		dw_row_forward(row, false);
	else
		backward(row);
}

/* Both sides were written and disagree. by_trigger: not by the client alone. */
void
dw_row_resolve(DwRow *row, bool by_trigger)
{
	DwRule	   *rule = row->rule;
	DwConflict	conflict = rule->cfg.conflict;

	if (dw_rule_consistent(rule, row->slot, NULL, NULL))
		return;
	if (by_trigger || IsLogicalWorker() || SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA)
		conflict = DW_CONFLICT_AUTHORITY;
	else if (dw_session_side != DW_SESSION_AUTO)
		conflict = dw_session_side == DW_SESSION_OLD ? DW_CONFLICT_OLD : DW_CONFLICT_NEW;
	switch (conflict)
	{
		case DW_CONFLICT_OLD:
			dw_row_derive(row, DW_OLD);
			break;
		case DW_CONFLICT_NEW:
			dw_row_derive(row, DW_NEW);
			break;
		case DW_CONFLICT_AUTHORITY:
			dw_row_derive(row, DW_AUTHORITY(rule->cfg.phase));
			break;
		case DW_CONFLICT_ERROR:
			ereport(ERROR,
					(errcode(ERRCODE_CHECK_VIOLATION),
					 errmsg("a statement sets both sides of migration \"%s\" in table \"%s\", and they disagree",
							rule->cfg.migration, RelationGetRelationName(row->td->tg_relation)),
					 errdetail("The values of the old and of the new side don't follow from each other."),
					 errhint("Write one side only, or choose the side that wins: dw_set(%s, '{\"conflict\": \"authority\"}'), or SET pg_dualwrite.side.",
							 quote_literal_cstr(rule->cfg.migration)),
					 errtablecol(row->td->tg_relation, rule->side[DW_NEW].cols[0].attnum)));
	}
}

/*
 * Neither side changed, and rows from a hole in the mirror are being looked
 * for: the new version may lie behind the pass, so it is treated as there.
 */
void
dw_row_heal(DwRow *row)
{
	DwHeal		what = dw_heal_decide(row->rule, row->slot);
	DwSide		target = what == DW_HEAL_BACKWARD ? DW_OLD : DW_NEW;
	ErrorData  *error;

	if (what == DW_HEAL_NOT)
		return;
	if (what == DW_HEAL_LEAVE)
		dw_heal_leave(row->rule, row->slot, NULL);
	else if (dw_rule_derive(row->rule, target, row->slot, row->out[target], row->out_null[target], &error))
	{
		dw_heal_note(row->rule, row->slot, NULL, target);
		row->dirty[target] = true;
	}
	else
		not_convertible(row, target, error, true);
}
