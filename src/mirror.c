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
 * what the first one left behind (a memo, by trigger depth: a nested statement
 * on the same table has a deeper one).
 *
 * No SPI here but to record what went wrong.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "replication/logicalworker.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "compat.h"
#include "fault.h"
#include "heal.h"
#include "record.h"
#include "rule.h"
#include "sample.h"
#include "tuple.h"

PG_FUNCTION_INFO_V1(dw_mirror);

/* in fn_extra, for the length of a query */
typedef struct MirrorCall
{
	DwRule	   *rule;			/* NULL: nothing to do */
	bool		first;			/* another one of us follows */
} MirrorCall;

/* what the first of two triggers left in the row, by member and depth */
typedef struct Memo
{
	int			member_id;
	int			depth;
	MemoryContext query;		/* of the statement; with lxid, tells a stale memo */
	LocalTransactionId lxid;
	Datum		values[2][DW_MAX_COLUMNS];
	bool		nulls[2][DW_MAX_COLUMNS];
	Bitmapset  *read_set;		/* columns that rules read besides */
	Datum	   *reads;			/* ... and their values, in order */
	bool	   *reads_null;
	struct Memo *next;
} Memo;

static Memo *memos = NULL;		/* in TopMemoryContext; a few at most */

/* The row at hand. */
typedef struct Row
{
	DwRule	   *rule;
	TriggerData *td;
	bool		update;
	TupleTableSlot *slot;		/* NEW */
	TupleTableSlot *old;		/* OLD, for an update */
	Datum		now[2][DW_MAX_COLUMNS]; /* values in NEW, by side, once loaded */
	bool		now_null[2][DW_MAX_COLUMNS];
	bool		loaded[2];
	Datum		out[2][DW_MAX_COLUMNS]; /* values to store instead, where dirty */
	bool		out_null[2][DW_MAX_COLUMNS];
	bool		dirty[2];
} Row;

/* Takes a side's values from NEW: only when they are wanted, as taking a tuple apart is a good part of the cost. */
static inline void
load(Row *row, DwSide s)
{
	DwSideRule *side = &row->rule->side[s];

	if (row->loaded[s])
		return;
	for (int i = 0; i < side->n; i++)
		row->now[s][i] = dw_slot_getattr(row->slot, side->cols[i].attnum, &row->now_null[s][i]);
	row->loaded[s] = true;
}

static inline bool
same_value(const DwColumn *col, Datum v1, bool null1, Datum v2, bool null2)
{
	if (null1 || null2)
		return null1 == null2;
	return col->typbyval ? v1 == v2 : datum_image_eq(v1, v2, false, col->typlen);
}

/* Did the statement SET the column? */
static inline bool
was_set(const Row *row, AttrNumber attnum)
{
	return bms_is_member(attnum - FirstLowInvalidHeapAttributeNumber, row->td->tg_updatedcols);
}

/* ---- consequences ---- */

/*
 * A side could not be derived.  fill: the client wrote neither side, it only
 * came across an unfilled row.
 */
static void
not_convertible(Row *row, DwSide target, ErrorData *error, bool fill)
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
	load(row, target);
	for (int i = 0; i < side->n; i++)
	{
		row->out[target][i] = side->cols[i].notnull ? row->now[target][i] : (Datum) 0;
		row->out_null[target][i] = side->cols[i].notnull ? row->now_null[target][i] : true;
	}
	row->dirty[target] = true;
}

/* The new side was written and there is no rule that leads back. */
static void
one_way(Row *row)
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

static void
forward(Row *row, bool fill)
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
count_loss(Row *row)
{
	DwRule	   *rule = row->rule;
	Datum		again[DW_MAX_COLUMNS];
	bool		again_null[DW_MAX_COLUMNS];
	Datum	   *have = row->dirty[DW_NEW] ? row->out[DW_NEW] : row->now[DW_NEW];
	bool	   *have_null = row->dirty[DW_NEW] ? row->out_null[DW_NEW] : row->now_null[DW_NEW];
	TupleTableSlot *with;
	ErrorData  *error;

	load(row, DW_NEW);
	with = dw_rule_with(rule, row->slot, DW_NEW, have, have_null);
	with = dw_rule_with(rule, with, DW_OLD, row->out[DW_OLD], row->out_null[DW_OLD]);
	if (dw_rule_derive(rule, DW_NEW, with, again, again_null, &error) &&
		dw_rule_same(rule, DW_NEW, have, have_null, again, again_null))
		return;
	dw_loss_count(rule->cfg.member_id);
}

static void
backward(Row *row)
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
static bool
fill_unset(Row *row)
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

	load(row, DW_NEW);
	dw_rule_values(rule, DW_NEW, row->old, old, old_null);
	for (int i = 0; i < side->n; i++)
	{
		bool		same = same_value(&side->cols[i], old[i], old_null[i], row->now[DW_NEW][i], row->now_null[DW_NEW][i]);

		given[i] = !same || was_set(row, side->cols[i].attnum);
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

static void
derive(Row *row, DwSide from)
{
	if (dw_rule_note_written(row->rule, from))
		dw_side_written(row->rule->cfg.member_id, from);
	if (from == DW_OLD)
		forward(row, false);
	else
		backward(row);
}

/* Both sides were written and disagree. by_trigger: not by the client alone. */
static void
resolve_conflict(Row *row, bool by_trigger)
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
			derive(row, DW_OLD);
			break;
		case DW_CONFLICT_NEW:
			derive(row, DW_NEW);
			break;
		case DW_CONFLICT_AUTHORITY:
			derive(row, DW_AUTHORITY(rule->cfg.phase));
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

/* ---- deciding ---- */

/*
 * How much a side says for itself in an INSERT: 2, the statement gave it;
 * 1, it has a value that may come from a default that differs from row to row;
 * 0, it is NULL or its constant default.
 */
static int
given(Row *row, DwSide s)
{
	DwSideRule *side = &row->rule->side[s];
	int			result = 0;

	load(row, s);
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
all_null(Row *row, DwSide s)
{
	load(row, s);
	for (int i = 0; i < row->rule->side[s].n; i++)
		if (!row->now_null[s][i])
			return false;
	return true;
}

static bool
has_default(Row *row, DwSide s)
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
mirror_insert(Row *row)
{
	int			old = given(row, DW_OLD);
	int			new = given(row, DW_NEW);

	if (old == 2 && new == 2)
		resolve_conflict(row, row->rule->other_before && !row->rule->has_first);
	else if (old > new)
		derive(row, DW_OLD);
	else if (new > old)
	{
		/* a row that comes complete, from a copy or another partition, is left alone */
		if (all_null(row, DW_OLD) || !dw_rule_consistent(row->rule, row->slot, NULL, NULL))
			derive(row, DW_NEW);
	}
	else if (row->rule->side[DW_OLD].derivable && has_default(row, DW_NEW) &&
			 (!has_default(row, DW_OLD) || dw_session_side == DW_SESSION_NEW))
		derive(row, DW_NEW);	/* neither was given: the side that has defaults */
	else
		derive(row, DW_OLD);
}

/* Is OLD a row whose new side nobody has ever written, though the old one says something? */
static bool
left_behind(Row *row)
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
unfilled(Row *row)
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
changed(Row *row, DwSide s, bool set, const Memo *memo, bool *by_trigger)
{
	DwSideRule *side = &row->rule->side[s];
	bool		result = false;

	if (!set && memo == NULL && !row->rule->other_before)
		return false;
	load(row, s);
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
		if (same_value(col, value, isnull, row->now[s][i], row->now_null[s][i]))
			continue;
		result = true;
		if (memo || !was_set(row, col->attnum))
			*by_trigger = true;
	}
	return result;
}

/* Did a column change that a rule reads and that is on neither side? */
static bool
reads_changed(Row *row, const Memo *memo)
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

/*
 * Neither side changed, and rows from a hole in the mirror are being looked
 * for: the new version may lie behind the pass, so it is treated as there.
 */
static void
heal(Row *row)
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

static void
mirror_update(Row *row)
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
		if (!unfilled(row) || fill_unset(row))
			resolve_conflict(row, by_trigger && !rule->has_first);
	}
	else if (old_changed)
		derive(row, DW_OLD);
	else if (unfilled(row) || (new_changed && left_behind(row)))
	{
		/* else the new version would lie behind the backfill's back */
		if (!new_changed && (old_set || !new_set))
			forward(row, !old_set);
		else if (fill_unset(row))
			derive(row, DW_NEW);
	}
	else if (new_changed)
		derive(row, DW_NEW);
	else if ((old_set || new_set) && !dw_rule_consistent(rule, row->slot, NULL, NULL))
		derive(row, old_set && new_set ? authority : old_set ? DW_OLD : DW_NEW);
	else if (reads_changed(row, NULL) && (authority == DW_OLD || rule->side[DW_OLD].derivable))
		derive(row, authority);
	else if (rule->cfg.heal && rule->cfg.mirror == DW_MIRROR_BOTH)
		heal(row);
	else if (rule->cfg.checking && !dw_rule_consistent(rule, row->slot, NULL, NULL))
		/* it may move to a block that the pass has behind it */
		dw_record(row->rule, row->slot, NULL, "drift", "the sides don't follow from each other");
}

/* What the table's own triggers changed after the first of us. */
static void
mirror_after(Row *row, Memo *memo)
{
	bool		by_trigger;
	bool		old_changed = changed(row, DW_OLD, true, memo, &by_trigger);
	bool		new_changed = changed(row, DW_NEW, true, memo, &by_trigger);

	if (old_changed && new_changed)
		resolve_conflict(row, true);
	else if (old_changed)
		derive(row, DW_OLD);
	else if (new_changed)
		derive(row, DW_NEW);
	else if (reads_changed(row, memo) &&
			 (DW_AUTHORITY(row->rule->cfg.phase) == DW_OLD || row->rule->side[DW_OLD].derivable))
		derive(row, DW_AUTHORITY(row->rule->cfg.phase));
}

/* ---- memos ---- */

static Memo *
memo_find(int member_id, MemoryContext query, bool create)
{
	int			depth = DatumGetInt32(DirectFunctionCall1(pg_trigger_depth, (Datum) 0));
	Memo	   *m;

	for (m = memos; m; m = m->next)
		if (m->member_id == member_id && m->depth == depth)
			break;
	if (m && !create)
		return m->query == query && m->lxid == dw_lxid() ? m : NULL;
	if (m || !create)
		return m;
	m = MemoryContextAllocZero(TopMemoryContext, sizeof(Memo));
	m->member_id = member_id;
	m->depth = depth;
	m->next = memos;
	memos = m;
	return m;
}

/*
 * Copies live in the per-row context of the statement, which lasts until all
 * BEFORE triggers of the row have run; nobody looks at them after that,
 * because the next row's first trigger comes before its last.
 */
static void
memo_store(Row *row, MemoryContext query)
{
	Memo	   *m = memo_find(row->rule->cfg.member_id, query, true);

	m->query = query;
	m->lxid = dw_lxid();
	load(row, DW_OLD);
	load(row, DW_NEW);
	for (int s = 0; s < 2; s++)
		for (int i = 0; i < row->rule->side[s].n; i++)
		{
			DwColumn   *col = &row->rule->side[s].cols[i];
			Datum		v = row->dirty[s] ? row->out[s][i] : row->now[s][i];

			m->nulls[s][i] = row->dirty[s] ? row->out_null[s][i] : row->now_null[s][i];
			m->values[s][i] = m->nulls[s][i] ? (Datum) 0 : datumCopy(v, col->typbyval, col->typlen);
		}
	m->read_set = bms_copy(row->rule->reads);
	m->reads = palloc(sizeof(Datum) * (bms_num_members(row->rule->reads) + 1));
	m->reads_null = palloc(sizeof(bool) * (bms_num_members(row->rule->reads) + 1));
	for (int att = -1, i = 0; (att = bms_next_member(row->rule->reads, att)) >= 0; i++)
	{
		Form_pg_attribute a = TupleDescAttr(row->rule->desc, att + FirstLowInvalidHeapAttributeNumber - 1);
		Datum		v = slot_getattr(row->slot, a->attnum, &m->reads_null[i]);

		m->reads[i] = m->reads_null[i] ? (Datum) 0 : datumCopy(v, a->attbyval, a->attlen);
	}
}

/* ---- the trigger ---- */

/*
 * Another trigger fires after us and may undo what we do; it may be gone again
 * when somebody looks.  So the write leaves a record that only a verification
 * begun after it closes.
 */
static void
note_overtaken(Row *row)
{
	if (dw_rule_note_overtaken(row->rule))
		dw_record(row->rule, row->slot, NULL, "overtaken", psprintf("trigger \"%s\" fired after the mirror", row->rule->overtaken));
}

/* The row to store: the given one, or a copy with what was derived. */
static HeapTuple
result_tuple(Row *row, HeapTuple tuple)
{
	int			cols[DW_MAX_COLUMNS * 2];
	Datum		values[DW_MAX_COLUMNS * 2];
	bool		nulls[DW_MAX_COLUMNS * 2];
	int			n = 0;

	for (int s = 0; s < 2; s++)
		for (int i = 0; row->dirty[s] && i < row->rule->side[s].n; i++)
		{
			DwColumn   *col = &row->rule->side[s].cols[i];

			if (row->loaded[s] && same_value(col, row->out[s][i], row->out_null[s][i], row->now[s][i], row->now_null[s][i]))
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
	Memo	   *memo = NULL;
	Row			row;

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
		memo = memo_find(rule->cfg.member_id, fcinfo->flinfo->fn_mcxt, false);
	if (memo)
		mirror_after(&row, memo);
	else if (row.update)
		mirror_update(&row);
	else
		mirror_insert(&row);
	if (call->first)
		memo_store(&row, fcinfo->flinfo->fn_mcxt);
	if (unlikely(rule->faults))
		dw_fault_here("mirror_after", rule->cfg.migration);
	tuple = result_tuple(&row, tuple);
	if (!call->first && dw_sample_due(rule->cfg.sample_rate))
		dw_sample_note(rule, tuple);
	return PointerGetDatum(tuple);
}
