/*
 * mirror.h
 *		The row that the mirror has at hand: shared by the files mirror*.c, and
 *		nobody else includes it.
 */
#ifndef DW_MIRROR_H
#define DW_MIRROR_H

#include "commands/trigger.h"
#include "executor/tuptable.h"
#include "utils/datum.h"

#include "rule.h"
#include "tuple.h"

/* The row at hand. */
typedef struct DwRow
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
} DwRow;

/* Takes a side's values from NEW: only when they are wanted, as taking a tuple apart is a good part of the cost. */
static inline void
dw_row_load(DwRow *row, DwSide s)
{
	DwSideRule *side = &row->rule->side[s];

	if (row->loaded[s])
		return;
	for (int i = 0; i < side->n; i++)
		row->now[s][i] = dw_slot_getattr(row->slot, side->cols[i].attnum, &row->now_null[s][i]);
	row->loaded[s] = true;
}

static inline bool
dw_row_same_value(const DwColumn *col, Datum v1, bool null1, Datum v2, bool null2)
{
	if (null1 || null2)
		return null1 == null2;
	return col->typbyval ? v1 == v2 : datum_image_eq(v1, v2, false, col->typlen);
}

/* Did the statement SET the column? */
static inline bool
dw_row_was_set(const DwRow *row, AttrNumber attnum)
{
	return bms_is_member(attnum - FirstLowInvalidHeapAttributeNumber, row->td->tg_updatedcols);
}

/* ---- mirror_derive.c ---- */

/* Derives the other side from this one. */
extern void dw_row_derive(DwRow *row, DwSide from);

/* Derives the new side.  fill: the client wrote neither side, it only came across an unfilled row. */
extern void dw_row_forward(DwRow *row, bool fill);

/*
 * The new side of an unfilled row is written: columns of it that the statement
 * doesn't SET are derived from OLD first.  False if that can't be done.
 */
extern bool dw_row_fill_unset(DwRow *row);

/* Both sides were written, and may disagree. by_trigger: not by the client alone. */
extern void dw_row_resolve(DwRow *row, bool by_trigger);

/* Neither side changed, and rows from a hole in the mirror are being looked for. */
extern void dw_row_heal(DwRow *row);

/* ---- mirror_memo.c ---- */

/* what the first of two triggers left in the row, by member and depth */
typedef struct DwMemo
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
	struct DwMemo *next;
} DwMemo;

/* What the first of us left for this row of the statement; NULL: nothing. */
extern DwMemo *dw_memo_find(int member_id, MemoryContext query);

/* Leaves the values of both sides, and of what the rules read, for the last of us. */
extern void dw_memo_store(DwRow *row, MemoryContext query);

#endif							/* DW_MIRROR_H */
