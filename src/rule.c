/*
 * rule.c
 *		One use of a member's rules: evaluation, comparison, and what messages
 *		show of a row.
 *
 * A DwRule refers to what the backend's cache has loaded (rule_cache.c) and
 * keeps it there.  No ExprState outlives the query it was made for.
 *
 * Errors of an expression are survived in one of three ways (DwGuard).
 * Expressions that only call leakproof functions run bare.  Those of built-in
 * C functions run inside PG_TRY: they are pure computations, and hold nothing
 * but memory when they complain about a value, so no subtransaction is needed
 * to clean up; errors of any other kind are thrown on.  All other expressions
 * get a subtransaction.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/datum.h"
#include "utils/resowner.h"

#include "compat.h"
#include "fault.h"
#include "rule.h"
#include "rule_cache.h"
#include "run.h"
#include "tuple.h"

/* ---- one use ---- */

DwRule *
dw_rule_open(int member_id, Relation rel)
{
	struct DwRuleEntry *entry;
	DwCompiled *c = dw_compiled_get(member_id, rel, &entry);
	DwRule	   *rule;

	if (c == NULL)
		return NULL;
	rule = palloc0(sizeof(DwRule));
	rule->cxt = CurrentMemoryContext;
	rule->compiled = c;
	dw_compiled_use(c, rule->cxt, &rule->use);
	rule->cfg = c->cfg;
	for (int s = 0; s < 2; s++)
	{
		DwSideRule *side = &rule->side[s];

		side->n = c->n[s];
		side->cols = c->cols[s];
		side->bits = c->bits[s];
		side->derivable = c->derivable[s];
		side->guard = c->guard[s];
	}
	rule->reads = c->reads;
	rule->watch = c->watch;
	rule->undecided = c->undecided;
	rule->has_first = c->has_first;
	rule->faults = dw_fault_armed("mirror_", rule->cfg.migration);
	rule->other_before = c->other_before;
	rule->overtaken = c->overtaken;
	rule->relid = c->relid;
	strlcpy(rule->relname, RelationGetRelationName(rel), NAMEDATALEN);
	rule->desc = RelationGetDescr(rel);
	rule->nkey = c->nkey;
	rule->key = c->key;
	rule->entry = entry;
	return rule;
}

/* Most statements derive one side, or none: what that takes is made when it is asked for. */
static void
init_states(DwRule *rule, DwSide target)
{
	DwSideRule *side = &rule->side[target];
	MemoryContext old = MemoryContextSwitchTo(rule->cxt);
	ExprState **states = palloc(sizeof(ExprState *) * side->n);

	/* steps may point into the tree, which is there as long as this use is */
	for (int i = 0; i < side->n; i++)
		states[i] = ExecInitExpr(rule->compiled->trees[target][i], NULL);
	side->states = states;
	if (rule->econtext == NULL)
		rule->econtext = CreateStandaloneExprContext();
	MemoryContextSwitchTo(old);
}

DwRule *
dw_rule_open_active(int member_id, Relation rel)
{
	DwRule	   *rule = dw_rule_open(member_id, rel);

	if (rule == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the migration of table \"%s\" has ended meanwhile", RelationGetRelationName(rel)),
				 errdetail("Its mirror is gone."),
				 errhint("dw_events tells when and by whom.")));
	return rule;
}

/* for CONTEXT: which rule was at work */
typedef struct EvalContext
{
	DwRule	   *rule;
	DwSide		target;
	int			column;
} EvalContext;

static void
eval_error_callback(void *arg)
{
	EvalContext *ec = arg;

	errcontext("%s rule of migration \"%s\" for column \"%s\" of table \"%s\"",
			   ec->target == DW_NEW ? "forward" : "backward", ec->rule->cfg.migration,
			   NameStr(TupleDescAttr(ec->rule->desc, ec->rule->side[ec->target].cols[ec->column].attnum - 1)->attname),
			   ec->rule->relname);
}

static inline void
eval_side(DwRule *rule, DwSideRule *side, EvalContext *ec, Datum *values, bool *nulls)
{
	for (int i = 0; i < side->n; i++)
	{
		ec->column = i;
		values[i] = ExecEvalExprSwitchContext(side->states[i], rule->econtext, &nulls[i]);
	}
}

/*
 * Does an error say that the value can't be converted?  Others are thrown on:
 * what an EXCEPTION WHEN OTHERS would not catch, and what would be the same
 * for any value, or another time might not happen at all.
 */
static bool
about_value(int sqlerrcode)
{
	switch (sqlerrcode)
	{
		case ERRCODE_ASSERT_FAILURE:
		case ERRCODE_INSUFFICIENT_PRIVILEGE:
		case ERRCODE_STATEMENT_TOO_COMPLEX: /* stack depth */
			return false;
	}
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case ERRCODE_TRANSACTION_ROLLBACK:
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE:	/* lock timeout, too */
		case ERRCODE_OPERATOR_INTERVENTION: /* query canceled, too */
		case ERRCODE_SYSTEM_ERROR:
		case ERRCODE_INTERNAL_ERROR:
			return false;
	}
	return true;
}

/* Errors of built-in functions about their values are caught where they are. */
static bool
eval_catching(DwRule *rule, DwSideRule *side, EvalContext *ec, Datum *values, bool *nulls, ErrorData **error)
{
	MemoryContext cxt = CurrentMemoryContext;
	uint32		holdoff = InterruptHoldoffCount;
	volatile bool ok = true;

	PG_TRY();
	{
		eval_side(rule, side, ec, values, nulls);
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		if (!about_value(geterrcode()))
			PG_RE_THROW();
		MemoryContextSwitchTo(rule->econtext->ecxt_per_tuple_memory);
		edata = CopyErrorData();
		FlushErrorState();
		MemoryContextSwitchTo(cxt);
		InterruptHoldoffCount = holdoff;	/* ereport resets it */
		*error = edata;
		ok = false;
	}
	PG_END_TRY();
	return ok;
}

/* Anything else gets a subtransaction, like an EXCEPTION block. */
static bool
eval_subxact(DwRule *rule, DwSideRule *side, EvalContext *ec, Datum *values, bool *nulls, ErrorData **error)
{
	MemoryContext cxt = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool ok = true;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(cxt);
	PG_TRY();
	{
		eval_side(rule, side, ec, values, nulls);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		MemoryContextSwitchTo(rule->econtext->ecxt_per_tuple_memory);
		edata = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(cxt);
		CurrentResourceOwner = owner;
		if (!about_value(edata->sqlerrcode))
			ReThrowError(edata);
		*error = edata;
		ok = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(cxt);
	CurrentResourceOwner = owner;
	return ok;
}

bool
dw_rule_derive(DwRule *rule, DwSide target, TupleTableSlot *slot, Datum *values, bool *nulls, ErrorData **error)
{
	DwSideRule *side = &rule->side[target];
	EvalContext ec = {rule, target, 0};
	ErrorContextCallback callback = {error_context_stack, eval_error_callback, &ec};
	bool		ok = true;

	Assert(side->derivable);
	if (unlikely(side->states == NULL))
		init_states(rule, target);
	error_context_stack = &callback;
	rule->econtext->ecxt_scantuple = slot;
	switch (side->guard)
	{
		case DW_GUARD_NONE:
			eval_side(rule, side, &ec, values, nulls);
			break;
		case DW_GUARD_CATCH:
			ok = eval_catching(rule, side, &ec, values, nulls, error);
			break;
		case DW_GUARD_SUBXACT:
			ok = eval_subxact(rule, side, &ec, values, nulls, error);
			break;
	}
	error_context_stack = callback.previous;
	return ok;
}

void
dw_rule_values(DwRule *rule, DwSide side, TupleTableSlot *slot, Datum *values, bool *nulls)
{
	DwSideRule *s = &rule->side[side];

	for (int i = 0; i < s->n; i++)
		values[i] = dw_slot_getattr(slot, s->cols[i].attnum, &nulls[i]);
}

bool
dw_rule_same(DwRule *rule, DwSide side, const Datum *v1, const bool *n1, const Datum *v2, const bool *n2)
{
	DwSideRule *s = &rule->side[side];

	for (int i = 0; i < s->n; i++)
	{
		if (n1[i] != n2[i])
			return false;
		if (!n1[i] && !datum_image_eq(v1[i], v2[i], s->cols[i].typbyval, s->cols[i].typlen))
			return false;
	}
	return true;
}

bool
dw_rule_consistent(DwRule *rule, TupleTableSlot *slot, bool *lossy, ErrorData **error)
{
	Datum		have[DW_MAX_COLUMNS];
	bool		have_null[DW_MAX_COLUMNS];
	Datum		want[DW_MAX_COLUMNS];
	bool		want_null[DW_MAX_COLUMNS];
	ErrorData  *ignored = NULL;

	if (error == NULL)
		error = &ignored;
	if (lossy)
		*lossy = false;
	dw_rule_values(rule, DW_NEW, slot, have, have_null);
	if (dw_rule_derive(rule, DW_NEW, slot, want, want_null, error) &&
		dw_rule_same(rule, DW_NEW, have, have_null, want, want_null))
		return true;
	if (!rule->side[DW_OLD].derivable)
		return false;
	dw_rule_values(rule, DW_OLD, slot, have, have_null);
	if (dw_rule_derive(rule, DW_OLD, slot, want, want_null, error) &&
		dw_rule_same(rule, DW_OLD, have, have_null, want, want_null))
	{
		if (lossy)
			*lossy = true;
		return true;
	}
	return false;
}

bool
dw_rule_error_of_value(void)
{
	return about_value(geterrcode());
}

bool
dw_rule_forward_holds(DwRule *rule, TupleTableSlot *slot)
{
	DwSideRule *side = &rule->side[DW_NEW];

	if (unlikely(side->states == NULL))
		init_states(rule, DW_NEW);
	rule->econtext->ecxt_scantuple = slot;
	for (int i = 0; i < side->n; i++)
	{
		DwColumn   *col = &side->cols[i];
		bool		have_null;
		bool		want_null;
		Datum		have = slot_getattr(slot, col->attnum, &have_null);
		Datum		want = ExecEvalExprSwitchContext(side->states[i], rule->econtext, &want_null);

		if (have_null || want_null ? have_null != want_null
			: col->typbyval ? have != want : !datum_image_eq(have, want, false, col->typlen))
			return false;
	}
	return true;
}

bool
dw_rule_initial(DwRule *rule, DwSide side, const Datum *values, const bool *nulls)
{
	DwSideRule *s = &rule->side[side];

	for (int i = 0; i < s->n; i++)
	{
		if (nulls[i])
			continue;
		if (s->cols[i].deflt != DW_DEFAULT_CONST ||
			!datum_image_eq(values[i], s->cols[i].value, s->cols[i].typbyval, s->cols[i].typlen))
			return false;
	}
	return true;
}

TupleTableSlot *
dw_rule_with(DwRule *rule, TupleTableSlot *slot, DwSide side, const Datum *values, const bool *nulls)
{
	DwSideRule *s = &rule->side[side];
	TupleTableSlot *scratch;

	if (rule->scratch == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(rule->cxt);

		rule->scratch = MakeSingleTupleTableSlot(CreateTupleDescCopy(rule->desc), &TTSOpsVirtual);
		MemoryContextSwitchTo(old);
	}
	scratch = rule->scratch;
	if (scratch != slot)
	{
		ExecClearTuple(scratch);
		slot_getallattrs(slot);
		memcpy(scratch->tts_values, slot->tts_values, sizeof(Datum) * rule->desc->natts);
		memcpy(scratch->tts_isnull, slot->tts_isnull, sizeof(bool) * rule->desc->natts);
		ExecStoreVirtualTuple(scratch);
	}
	for (int i = 0; i < s->n; i++)
	{
		scratch->tts_values[s->cols[i].attnum - 1] = values[i];
		scratch->tts_isnull[s->cols[i].attnum - 1] = nulls[i];
	}
	return scratch;
}

/* ---- the snapshot rule ---- */

static bool
xid_listed(TransactionId xid, const TransactionId *list, int n)
{
	for (int i = 0; i < n; i++)
		if (list[i] == xid)
			return true;
	return false;
}

static bool
xid_found(TransactionId xid, const TransactionId *sorted, int n)
{
	int			lo = 0;
	int			hi = n;

	while (lo < hi)
	{
		int			mid = (lo + hi) / 2;

		if (sorted[mid] == xid)
			return true;
		if (sorted[mid] < xid)
			lo = mid + 1;
		else
			hi = mid;
	}
	return false;
}

DwAge
dw_rule_age(DwRule *rule, HeapTupleHeader tup)
{
	DwBegin    *b = &rule->cfg.begin;
	TransactionId xid = HeapTupleHeaderGetRawXmin(tup);

	if (rule->undecided)
		return DW_AGE_UNKNOWN;
	if (!TransactionIdIsNormal(xid))
		return DW_AGE_BEFORE;	/* frozen long before there was this extension */
	if (xid_listed(xid, b->own, b->nown))
		return DW_AGE_UNKNOWN;
	if (TransactionIdPrecedes(xid, XidFromFullTransactionId(b->xmin)))
		return DW_AGE_BEFORE;

	/*
	 * A frozen row's xmin may be one of long ago, wrapped around; one that
	 * isn't frozen is what it seems to be.
	 */
	if (!TransactionIdPrecedes(xid, XidFromFullTransactionId(b->xmax)) || xid_found(xid, b->xip, b->nxip))
		return HeapTupleHeaderXminFrozen(tup) ? DW_AGE_UNKNOWN : DW_AGE_AFTER;
	return b->fuzzy ? DW_AGE_UNKNOWN : DW_AGE_BEFORE;
}
