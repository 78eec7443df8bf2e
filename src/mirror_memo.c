/*
 * mirror_memo.c
 *		What the first of two mirror triggers leaves for the last (see mirror.c).
 *
 * By trigger depth: a nested statement on the same table has a deeper one.
 */
#include "postgres.h"

#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "compat.h"
#include "mirror.h"

static DwMemo *memos = NULL;	/* in TopMemoryContext; a few at most */

/* The place for this member and depth, or NULL. */
static DwMemo *
place(int member_id, int depth)
{
	DwMemo	   *m = memos;

	while (m && (m->member_id != member_id || m->depth != depth))
		m = m->next;
	return m;
}

static int
trigger_depth(void)
{
	return DatumGetInt32(DirectFunctionCall1(pg_trigger_depth, (Datum) 0));
}

DwMemo *
dw_memo_find(int member_id, MemoryContext query)
{
	DwMemo	   *m = place(member_id, trigger_depth());

	return m && m->query == query && m->lxid == dw_lxid() ? m : NULL;
}

/*
 * Copies live in the per-row context of the statement, which lasts until all
 * BEFORE triggers of the row have run; nobody looks at them after that,
 * because the next row's first trigger comes before its last.
 */
void
dw_memo_store(DwRow *row, MemoryContext query)
{
	int			member_id = row->rule->cfg.member_id;
	int			depth = trigger_depth();
	DwMemo	   *m = place(member_id, depth);

	if (m == NULL)
	{
		m = MemoryContextAllocZero(TopMemoryContext, sizeof(DwMemo));
		m->member_id = member_id;
		m->depth = depth;
		m->next = memos;
		memos = m;
	}
	m->query = query;
	m->lxid = dw_lxid();
	dw_row_load(row, DW_OLD);
	dw_row_load(row, DW_NEW);
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
