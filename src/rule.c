/*
 * rule.c
 *		Backend-local cache of members, and evaluation of their rules.
 *
 * Two layers.  The cache entry, by member, lives in a context of its own under
 * CacheMemoryContext until the table's relcache entry is invalidated or a
 * cached expression goes stale: configuration, columns, planned expressions.
 * A DwRule is one use of it and copies all it needs, expression trees
 * included, into the caller's context: a nested statement may rebuild the
 * entry while the outer one is in the middle of a row.  No ExprState outlives
 * the query it was made for.
 *
 * Errors of an expression are survived in one of three ways (DwGuard).
 * Expressions that only call leakproof functions run bare.  Those of built-in
 * C functions run inside PG_TRY: they are pure computations, and hold nothing
 * but memory when they complain about a value, so no subtransaction is needed
 * to clean up; errors of any other kind are thrown on.  All other expressions
 * get a subtransaction.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/subtrans.h"
#include "access/sysattr.h"
#include "access/xact.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "storage/proc.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "fault.h"
#include "rule.h"
#include "run.h"
#include "tuple.h"

#define WRITTEN_INTERVAL (INT64CONST(60) * USECS_PER_SEC)

typedef struct DwRuleEntry
{
	int			member_id;		/* hash key */
	bool		valid;			/* cleared by the relcache callback */
	bool		exists;			/* false: no such member, or ended */
	MemoryContext cxt;			/* of everything below */
	Oid			relid;
	DwMirrorConfig cfg;
	int			n[2];
	DwColumn   *cols[2];
	CachedExpression **exprs[2];	/* planned, columns as parameters: these tell when they go stale */
	Expr	  **trees[2];		/* the same, columns as Vars */
	bool		derivable[2];
	DwGuard		guard[2];
	Bitmapset  *bits[2];
	Bitmapset  *reads;
	Bitmapset  *watch;
	bool		undecided;
	bool		has_first;
	bool		other_before;
	char		overtaken[NAMEDATALEN];
	int			nkey;
	AttrNumber *key;
	/* kept over rebuilds */
	TimestampTz written_at[2];
	LocalTransactionId note_lxid;
	SubTransactionId note_subid;
} DwRuleEntry;

static HTAB *entries = NULL;

static void
relcache_callback(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS status;
	DwRuleEntry *entry;

	dw_fault_relcache(relid);
	if (entries == NULL)
		return;
	hash_seq_init(&status, entries);
	while ((entry = hash_seq_search(&status)) != NULL)
		if (relid == InvalidOid || entry->relid == relid)
			entry->valid = false;
}

void
dw_rule_init(void)
{
	CacheRegisterRelcacheCallback(relcache_callback, (Datum) 0);
}

/* ---- building the cache entry ---- */

static bool
entry_fresh(DwRuleEntry *entry)
{
	if (!entry->valid)
		return false;
	for (int s = 0; s < 2; s++)
		for (int i = 0; entry->derivable[s] && i < entry->n[s]; i++)
			if (!entry->exprs[s][i]->is_valid)
				return false;
	return true;
}

static void
entry_free(DwRuleEntry *entry)
{
	for (int s = 0; s < 2; s++)
		for (int i = 0; entry->derivable[s] && i < entry->n[s]; i++)
			if (entry->exprs[s][i])
				FreeCachedExpression(entry->exprs[s][i]);
	entry->derivable[0] = entry->derivable[1] = false;
	if (entry->cxt)
		MemoryContextDelete(entry->cxt);
	entry->cxt = NULL;
}

static void
load_default(DwColumn *col, Relation rel)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), col->attnum - 1);
	Node	   *expr;

	col->deflt = DW_DEFAULT_NONE;
	if (att->attidentity)
	{
		col->deflt = DW_DEFAULT_OTHER;
		return;
	}
	if (!att->atthasdef && get_typdefault(att->atttypid) == NULL)
		return;
	expr = build_column_default(rel, col->attnum);
	if (expr == NULL)
		return;
	expr = (Node *) expression_planner((Expr *) expr);
	/* a domain checks its values, but doesn't change them */
	while (IsA(expr, CoerceToDomain))
		expr = (Node *) ((CoerceToDomain *) expr)->arg;
	if (!IsA(expr, Const))
		col->deflt = DW_DEFAULT_OTHER;
	else if (!((Const *) expr)->constisnull)
	{
		col->deflt = DW_DEFAULT_CONST;
		col->value = datumCopy(((Const *) expr)->constvalue, col->typbyval, col->typlen);
	}
}

static void
load_columns(DwRuleEntry *entry, DwSide side, Relation rel, Oid view)
{
	AttrNumber	attnums[DW_MAX_COLUMNS];

	entry->n[side] = dw_rules_columns(view, RelationGetRelid(rel), side, attnums, DW_MAX_COLUMNS);
	entry->cols[side] = palloc0(sizeof(DwColumn) * entry->n[side]);
	for (int i = 0; i < entry->n[side]; i++)
	{
		DwColumn   *col = &entry->cols[side][i];
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), attnums[i] - 1);

		col->attnum = attnums[i];
		col->typlen = att->attlen;
		col->typbyval = att->attbyval;
		col->notnull = att->attnotnull;
		load_default(col, rel);
		entry->bits[side] = bms_add_member(entry->bits[side], col->attnum - FirstLowInvalidHeapAttributeNumber);
	}
}

/*
 * GetCachedExpression plans without a range table, so a Var in the expression
 * is nothing that the planner may ask about (PostgreSQL 19 does: is the column
 * NOT NULL?).  Columns go through it as parameters that have no value.
 */
static Node *
vars_to_params(Node *node, void *context)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Var))
	{
		Var		   *var = (Var *) node;
		Param	   *param = makeNode(Param);

		param->paramkind = PARAM_EXTERN;
		param->paramid = var->varattno;
		param->paramtype = var->vartype;
		param->paramtypmod = var->vartypmod;
		param->paramcollid = var->varcollid;
		param->location = -1;
		return (Node *) param;
	}
	return expression_tree_mutator(node, vars_to_params, context);
}

static Node *
params_to_vars(Node *node, void *context)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Param))
	{
		Param	   *param = (Param *) node;

		return (Node *) makeVar(1, param->paramid, param->paramtype, param->paramtypmod, param->paramcollid, 0);
	}
	return expression_tree_mutator(node, params_to_vars, context);
}

static void
load_exprs(DwRuleEntry *entry, DwSide target, Relation rel, Oid view)
{
	if (target == DW_OLD && !entry->cfg.has_backward)
		return;
	entry->exprs[target] = palloc0(sizeof(CachedExpression *) * entry->n[target]);
	entry->trees[target] = palloc0(sizeof(Expr *) * entry->n[target]);
	entry->derivable[target] = true;
	entry->guard[target] = DW_GUARD_NONE;
	for (int i = 0; i < entry->n[target]; i++)
	{
		Node	   *expr = dw_rules_expr(view, target, i + 1, rel, entry->cols[target][i].attnum);
		DwGuard		guard;
		int			att = -1;
		Bitmapset  *reads;

		if (expr == NULL)
			elog(ERROR, "a rule of member %d is missing", entry->member_id);
		entry->exprs[target][i] = GetCachedExpression(vars_to_params(expr, NULL));
		entry->trees[target][i] = (Expr *) params_to_vars(entry->exprs[target][i]->expr, NULL);
		guard = dw_expr_guard((Node *) entry->trees[target][i]);
		entry->guard[target] = Max(entry->guard[target], guard);
		reads = dw_expr_reads((Node *) entry->trees[target][i]);
		while ((att = bms_next_member(reads, att)) >= 0)
			entry->reads = bms_add_member(entry->reads, att - FirstLowInvalidHeapAttributeNumber);
	}
}

static void
load_triggers(DwRuleEntry *entry, Relation rel)
{
	TriggerDesc *desc = rel->trigdesc;
	Oid			mirror = dw_mirror_function();
	int			ours = 0;
	const char *last = "";

	for (int i = 0; desc && i < desc->numtriggers; i++)
		if (desc->triggers[i].tgfoid == mirror && desc->triggers[i].tgnargs == 1 && strcmp(desc->triggers[i].tgname, last) > 0)
			last = desc->triggers[i].tgname;	/* of all members: they don't undo each other's work */
	for (int i = 0; desc && i < desc->numtriggers; i++)
	{
		Trigger    *t = &desc->triggers[i];

		if (t->tgisinternal || !TRIGGER_FOR_BEFORE(t->tgtype) || !TRIGGER_FOR_ROW(t->tgtype) || t->tgenabled == TRIGGER_DISABLED)
			continue;
		if (t->tgfoid != mirror && (TRIGGER_FOR_INSERT(t->tgtype) || TRIGGER_FOR_UPDATE(t->tgtype)))
		{
			entry->other_before = true;
			if (strcmp(t->tgname, last) > 0)
				strlcpy(entry->overtaken, t->tgname, NAMEDATALEN);
		}
		else if (t->tgnargs > 0 && atoi(t->tgargs[0]) == entry->member_id)
			ours++;
	}
	entry->has_first = ours > 1;
}

static void
load_key(DwRuleEntry *entry, Relation rel)
{
	Bitmapset  *pk = RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_PRIMARY_KEY);
	int			att = -1;

	entry->key = palloc(sizeof(AttrNumber) * Max(bms_num_members(pk), 1));
	while ((att = bms_next_member(pk, att)) >= 0)
		entry->key[entry->nkey++] = att + FirstLowInvalidHeapAttributeNumber;
}

static void
entry_load(DwRuleEntry *entry, Relation rel)
{
	MemoryContext cxt;
	MemoryContext old;
	Oid			view;

	entry_free(entry);
	cxt = AllocSetContextCreate(CacheMemoryContext, "pg_dualwrite rule", ALLOCSET_SMALL_SIZES);
	entry->cxt = cxt;
	entry->n[0] = entry->n[1] = 0;
	entry->bits[0] = entry->bits[1] = entry->reads = entry->watch = NULL;
	entry->exists = entry->has_first = entry->other_before = false;
	entry->overtaken[0] = '\0';
	entry->nkey = 0;
	entry->relid = RelationGetRelid(rel);

	/* set first, so that an invalidation that arrives meanwhile sticks */
	entry->valid = true;
	old = MemoryContextSwitchTo(cxt);
	if (dw_mirror_config(entry->member_id, &entry->cfg) && entry->cfg.phase < DW_FINALIZED)
	{
		/* a trigger made by hand, or a table attached to someone else's name */
		if (entry->cfg.relid != RelationGetRelid(rel))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("table \"%s\" is not part of migration \"%s\"", RelationGetRelationName(rel), entry->cfg.migration),
					 errhint("Drop the triggers on it that call dualwrite.mirror().")));
		/* a pass that died has left its token, but not its lock */
		if (entry->cfg.checking && !dw_session_locked(DW_LOCK_PASS, entry->cfg.migration_id))
			entry->cfg.checking = false;
		view = dw_rules_view(entry->member_id, RelationUsesLocalBuffers(rel));
		if (!OidIsValid(view))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("view %s.m%d_rules of migration \"%s\" is missing", DW_SCHEMA, entry->member_id, entry->cfg.migration),
					 errdetail("It held the rules of the migration."),
					 errhint("dw_abort ends the migration, and keeps every column.")));
		load_columns(entry, DW_OLD, rel, view);
		load_columns(entry, DW_NEW, rel, view);
		load_exprs(entry, DW_NEW, rel, view);
		load_exprs(entry, DW_OLD, rel, view);
		load_triggers(entry, rel);
		load_key(entry, rel);
		entry->reads = bms_difference(bms_difference(entry->reads, entry->bits[DW_OLD]), entry->bits[DW_NEW]);
		entry->watch = bms_union(bms_union(entry->bits[DW_OLD], entry->bits[DW_NEW]), entry->reads);
		entry->undecided = !entry->cfg.begin.valid || entry->cfg.heal || entry->cfg.begin.relfilenode != dw_relfilenode(rel);
		entry->exists = true;
	}
	MemoryContextSwitchTo(old);
}

static DwRuleEntry *
entry_get(int member_id, Relation rel)
{
	DwRuleEntry *entry;
	bool		found;

	if (entries == NULL)
	{
		HASHCTL		ctl = {.keysize = sizeof(int),.entrysize = sizeof(DwRuleEntry)};

		entries = hash_create("pg_dualwrite rules", 16, &ctl, HASH_ELEM | HASH_BLOBS);
	}
	entry = hash_search(entries, &member_id, HASH_ENTER, &found);
	if (!found)
	{
		memset(entry, 0, sizeof(*entry));
		entry->member_id = member_id;
	}

	/*
	 * Loading reads catalogs, and so may itself be told to look again; a few
	 * turns settle it, and a stale entry would be noticed by the next call.
	 */
	for (int i = 0; i < 3 && (!entry_fresh(entry) || entry->relid != RelationGetRelid(rel)); i++)
	{
		PG_TRY();
		{
			entry_load(entry, rel);
		}
		PG_CATCH();
		{
			entry->valid = false;
			PG_RE_THROW();
		}
		PG_END_TRY();
	}
	return entry;
}

/* ---- one use ---- */

DwRule *
dw_rule_open(int member_id, Relation rel)
{
	DwRuleEntry *entry = entry_get(member_id, rel);
	DwRule	   *rule;

	if (!entry->exists)
		return NULL;
	rule = palloc0(sizeof(DwRule));
	rule->cxt = CurrentMemoryContext;
	rule->cfg = entry->cfg;
	rule->cfg.migration = pstrdup(entry->cfg.migration);
	rule->cfg.begin.xip = palloc(sizeof(TransactionId) * Max(entry->cfg.begin.nxip, 1));
	if (entry->cfg.begin.nxip)
		memcpy(rule->cfg.begin.xip, entry->cfg.begin.xip, sizeof(TransactionId) * entry->cfg.begin.nxip);
	rule->cfg.begin.own = palloc(sizeof(TransactionId) * Max(entry->cfg.begin.nown, 1));
	if (entry->cfg.begin.nown)
		memcpy(rule->cfg.begin.own, entry->cfg.begin.own, sizeof(TransactionId) * entry->cfg.begin.nown);
	for (int s = 0; s < 2; s++)
	{
		DwSideRule *side = &rule->side[s];

		side->n = entry->n[s];
		side->cols = palloc(sizeof(DwColumn) * side->n);
		memcpy(side->cols, entry->cols[s], sizeof(DwColumn) * side->n);
		for (int i = 0; i < side->n; i++)
			if (side->cols[i].deflt == DW_DEFAULT_CONST)
				side->cols[i].value = datumCopy(side->cols[i].value, side->cols[i].typbyval, side->cols[i].typlen);
		side->bits = bms_copy(entry->bits[s]);
		side->derivable = entry->derivable[s];
		side->guard = entry->guard[s];
		if (side->derivable)
		{
			side->states = palloc(sizeof(ExprState *) * side->n);
			for (int i = 0; i < side->n; i++)
				side->states[i] = ExecInitExpr(copyObject(entry->trees[s][i]), NULL);
		}
	}
	rule->reads = bms_copy(entry->reads);
	rule->watch = bms_copy(entry->watch);
	rule->undecided = entry->undecided;
	rule->has_first = entry->has_first;
	rule->faults = dw_fault_armed("mirror_", rule->cfg.migration);
	rule->other_before = entry->other_before;
	strlcpy(rule->overtaken, entry->overtaken, NAMEDATALEN);
	rule->relid = entry->relid;
	strlcpy(rule->relname, RelationGetRelationName(rel), NAMEDATALEN);
	rule->desc = RelationGetDescr(rel);
	rule->nkey = entry->nkey;
	rule->key = palloc(sizeof(AttrNumber) * Max(entry->nkey, 1));
	if (entry->nkey)
		memcpy(rule->key, entry->key, sizeof(AttrNumber) * entry->nkey);
	rule->econtext = CreateStandaloneExprContext();
	rule->entry = entry;
	return rule;
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

void
dw_rule_reset(DwRule *rule)
{
	ResetExprContext(rule->econtext);
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

/* ---- what records and messages show ---- */

static Datum
texts(TupleDesc desc, TupleTableSlot *slot, int n, AttrNumber (*attnum) (void *, int), void *arg)
{
	Datum	   *d = palloc(sizeof(Datum) * n * 2);
	bool	   *nulls = palloc0(sizeof(bool) * n * 2);
	int			dims[1] = {n * 2};
	int			lbs[1] = {1};

	for (int i = 0; i < n; i++)
	{
		AttrNumber	att = attnum(arg, i);
		Form_pg_attribute a = TupleDescAttr(desc, att - 1);
		Datum		value;
		Oid			out;
		bool		varlena;

		d[i * 2] = CStringGetTextDatum(NameStr(a->attname));
		value = slot_getattr(slot, att, &nulls[i * 2 + 1]);
		if (nulls[i * 2 + 1])
			continue;
		getTypeOutputInfo(a->atttypid, &out, &varlena);
		d[i * 2 + 1] = CStringGetTextDatum(OidOutputFunctionCall(out, value));
	}
	return PointerGetDatum(construct_md_array(d, nulls, 1, dims, lbs, TEXTOID, -1, false, TYPALIGN_INT));
}

static AttrNumber
side_attnum(void *arg, int i)
{
	return ((DwSideRule *) arg)->cols[i].attnum;
}

static AttrNumber
key_attnum(void *arg, int i)
{
	return ((DwRule *) arg)->key[i];
}

Datum
dw_rule_side_texts(DwRule *rule, DwSide side, TupleTableSlot *slot)
{
	return texts(rule->desc, slot, rule->side[side].n, side_attnum, &rule->side[side]);
}

Datum
dw_rule_key_texts(DwRule *rule, TupleTableSlot *slot, bool *isnull)
{
	*isnull = rule->nkey == 0;
	return *isnull ? (Datum) 0 : texts(rule->desc, slot, rule->nkey, key_attnum, rule);
}

char *
dw_rule_key_string(DwRule *rule, TupleTableSlot *slot)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; i < rule->nkey; i++)
	{
		Form_pg_attribute a = TupleDescAttr(rule->desc, rule->key[i] - 1);
		bool		isnull;
		Datum		value = slot_getattr(slot, rule->key[i], &isnull);
		Oid			out;
		bool		varlena;

		getTypeOutputInfo(a->atttypid, &out, &varlena);
		appendStringInfo(&buf, "%s%s=%s", i ? " " : "", NameStr(a->attname), isnull ? "null" : OidOutputFunctionCall(out, value));
	}
	if (rule->nkey == 0)
		appendStringInfo(&buf, "ctid=(%u,%u)", ItemPointerGetBlockNumberNoCheck(&slot->tts_tid), ItemPointerGetOffsetNumberNoCheck(&slot->tts_tid));
	return buf.data;
}

char *
dw_rule_sqlstate(ErrorData *error)
{
	return pstrdup(unpack_sql_state(error->sqlerrcode));
}

/* ---- notes ---- */

bool
dw_rule_note_written(DwRule *rule, DwSide side)
{
	TimestampTz now = GetCurrentStatementStartTimestamp();

	if (now - rule->entry->written_at[side] < WRITTEN_INTERVAL)
		return false;
	rule->entry->written_at[side] = now;
	return true;
}

bool
dw_rule_note_overtaken(DwRule *rule)
{
	DwRuleEntry *entry = rule->entry;

	if (entry->note_lxid == dw_lxid() && entry->note_subid == GetCurrentSubTransactionId())
		return false;
	entry->note_lxid = dw_lxid();
	entry->note_subid = GetCurrentSubTransactionId();
	return true;
}
