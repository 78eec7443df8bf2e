/*
 * rule_cache.c
 *		The backend's cache of compiled members: configuration, columns, planned
 *		expressions.
 *
 * A member is loaded anew after its table's relcache entry was invalidated or
 * a cached expression went stale.  What was loaded before stays until the last
 * use of it ends, because a nested statement may cause the load while the
 * outer one is in the middle of a row.  The relcache callback only sets a flag.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/xact.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "fault.h"
#include "own_lock.h"
#include "rule.h"
#include "rule_cache.h"
#include "run.h"
#include "tuple.h"

#define WRITTEN_INTERVAL (INT64CONST(60) * USECS_PER_SEC)

typedef struct DwRuleEntry
{
	int			member_id;		/* hash key */
	bool		valid;			/* cleared by the relcache callback */
	bool		loading;		/* c is not complete yet */
	DwCompiled *c;				/* NULL: no such member, or ended */
	Oid			relid;
	CachedExpression **exprs[2];	/* of c's expressions, columns as parameters: these tell when they go stale */
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
	for (int s = 0; entry->c && s < 2; s++)
		for (int i = 0; entry->exprs[s] && i < entry->c->n[s]; i++)
			if (!entry->exprs[s][i]->is_valid)
				return false;
	return true;
}

/* The cached expressions go at once: c has copies.  c itself stays for those who use it. */
static void
entry_free(DwRuleEntry *entry)
{
	DwCompiled *c = entry->c;

	if (c == NULL)
		return;
	for (int s = 0; s < 2; s++)
		for (int i = 0; entry->exprs[s] && i < c->n[s]; i++)
			if (entry->exprs[s][i])
				FreeCachedExpression(entry->exprs[s][i]);
	entry->exprs[0] = entry->exprs[1] = NULL;
	entry->c = NULL;
	c->current = false;
	if (c->refs == 0)
		MemoryContextDelete(c->cxt);
}

static void
end_use(void *arg)
{
	DwCompiled *c = arg;

	if (--c->refs == 0 && !c->current)
		MemoryContextDelete(c->cxt);
}

void
dw_compiled_use(DwCompiled *c, MemoryContext cxt, MemoryContextCallback *use)
{
	use->func = end_use;
	use->arg = c;
	MemoryContextRegisterResetCallback(cxt, use);
	c->refs++;
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

/* The domain, type itself or one that it is over, that is NOT NULL; InvalidOid if there is none. */
static Oid
notnull_domain(Oid type)
{
	while (OidIsValid(type))
	{
		HeapTuple	tup = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
		bool		notnull;
		Oid			base;

		if (!HeapTupleIsValid(tup))
			elog(ERROR, "cache lookup failed for type %u", type);
		notnull = ((Form_pg_type) GETSTRUCT(tup))->typnotnull;
		base = ((Form_pg_type) GETSTRUCT(tup))->typbasetype;
		ReleaseSysCache(tup);
		if (notnull)
			break;
		type = base;
	}
	return type;
}

static void
load_columns(DwCompiled *c, DwSide side, Relation rel, Oid view)
{
	AttrNumber	attnums[DW_MAX_COLUMNS];

	c->n[side] = dw_rules_columns(view, RelationGetRelid(rel), side, attnums, DW_MAX_COLUMNS);
	c->cols[side] = palloc0(sizeof(DwColumn) * c->n[side]);
	for (int i = 0; i < c->n[side]; i++)
	{
		DwColumn   *col = &c->cols[side][i];
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), attnums[i] - 1);

		col->attnum = attnums[i];
		col->typlen = att->attlen;
		col->typbyval = att->attbyval;
		col->notnull_domain = notnull_domain(att->atttypid);
		col->notnull = att->attnotnull || OidIsValid(col->notnull_domain);
		load_default(col, rel);
		c->bits[side] = bms_add_member(c->bits[side], col->attnum - FirstLowInvalidHeapAttributeNumber);
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
	DwCompiled *c = entry->c;

	if (target == DW_OLD && !c->cfg.has_backward)
		return;
	entry->exprs[target] = palloc0(sizeof(CachedExpression *) * c->n[target]);
	c->trees[target] = palloc0(sizeof(Expr *) * c->n[target]);
	c->derivable[target] = true;
	c->guard[target] = DW_GUARD_NONE;
	for (int i = 0; i < c->n[target]; i++)
	{
		Node	   *expr = dw_rules_expr(view, target, i + 1, rel, c->cols[target][i].attnum);
		DwGuard		guard;
		int			att = -1;
		Bitmapset  *reads;

		if (expr == NULL)
			elog(ERROR, "a rule of member %d is missing", entry->member_id);
		entry->exprs[target][i] = GetCachedExpression(vars_to_params(expr, NULL));
		c->trees[target][i] = (Expr *) params_to_vars(entry->exprs[target][i]->expr, NULL);
		guard = dw_expr_guard((Node *) c->trees[target][i]);
		c->guard[target] = Max(c->guard[target], guard);
		reads = dw_expr_reads((Node *) c->trees[target][i]);
		while ((att = bms_next_member(reads, att)) >= 0)
			c->reads = bms_add_member(c->reads, att - FirstLowInvalidHeapAttributeNumber);
	}
}

static void
load_triggers(DwCompiled *c, Relation rel)
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
			c->other_before = true;
			if (strcmp(t->tgname, last) > 0)
				strlcpy(c->overtaken, t->tgname, NAMEDATALEN);
		}
		else if (t->tgnargs > 0 && atoi(t->tgargs[0]) == c->cfg.member_id)
			ours++;
	}
	c->has_first = ours > 1;
}

static void
load_key(DwCompiled *c, Relation rel)
{
	Bitmapset  *pk = RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_PRIMARY_KEY);
	int			att = -1;

	c->key = palloc(sizeof(AttrNumber) * Max(bms_num_members(pk), 1));
	while ((att = bms_next_member(pk, att)) >= 0)
		c->key[c->nkey++] = att + FirstLowInvalidHeapAttributeNumber;
}

static void
entry_load(DwRuleEntry *entry, Relation rel)
{
	MemoryContext cxt;
	MemoryContext old;
	DwCompiled *c;
	Oid			view;

	entry_free(entry);
	entry->relid = RelationGetRelid(rel);
	cxt = AllocSetContextCreate(CacheMemoryContext, "pg_dualwrite rule", ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(cxt);
	c = palloc0(sizeof(DwCompiled));
	c->cxt = cxt;
	c->current = true;
	c->relid = entry->relid;

	/* set first, so that an invalidation that arrives meanwhile sticks */
	entry->c = c;
	entry->valid = true;
	if (!dw_mirror_config(entry->member_id, &c->cfg) || c->cfg.phase >= DW_FINALIZED)
	{
		MemoryContextSwitchTo(old);
		entry_free(entry);
		return;
	}
	/* a trigger made by hand, or a table attached to someone else's name */
	if (c->cfg.relid != RelationGetRelid(rel))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" is not part of migration \"%s\"", RelationGetRelationName(rel), c->cfg.migration),
				 errhint("Drop the triggers on it that call dualwrite.mirror().")));
	/* a pass that died has left its token, but not its lock */
	if (c->cfg.checking && !dw_session_locked(DW_LOCK_PASS, c->cfg.migration_id))
		c->cfg.checking = false;
	view = dw_rules_view(entry->member_id, RelationUsesLocalBuffers(rel));
	if (!OidIsValid(view))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("view %s.m%d_rules of migration \"%s\" is missing", DW_SCHEMA, entry->member_id, c->cfg.migration),
				 errdetail("It held the rules of the migration."),
				 errhint("dw_abort ends the migration, and keeps every column.")));
	load_columns(c, DW_OLD, rel, view);
	load_columns(c, DW_NEW, rel, view);
	load_exprs(entry, DW_NEW, rel, view);
	load_exprs(entry, DW_OLD, rel, view);
	load_triggers(c, rel);
	load_key(c, rel);
	c->reads = bms_difference(bms_difference(c->reads, c->bits[DW_OLD]), c->bits[DW_NEW]);
	c->watch = bms_union(bms_union(c->bits[DW_OLD], c->bits[DW_NEW]), c->reads);
	c->undecided = !c->cfg.begin.valid || c->cfg.heal || c->cfg.begin.relfilenode != dw_relfilenode(rel);
	MemoryContextSwitchTo(old);
}

/*
 * Loading plans the rules, and planning may run functions of theirs.  One that
 * calls itself immutable but writes the table comes here again, and there is
 * nothing yet that it could be mirrored by.
 */
static void
check_not_loading(DwRuleEntry *entry, Relation rel)
{
	if (entry->loading)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("table \"%s\" can't be written while its rules are being read", RelationGetRelationName(rel)),
				 errdetail("A function that a rule of a migration calls writes the table that the rule belongs to."),
				 errhint("Rules may only call functions that compute.")));
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
	check_not_loading(entry, rel);

	/*
	 * Loading reads catalogs, and so may itself be told to look again; a few
	 * turns settle it, and a stale entry would be noticed by the next call.
	 */
	for (int i = 0; i < 3 && (!entry_fresh(entry) || entry->relid != RelationGetRelid(rel)); i++)
	{
		entry->loading = true;
		PG_TRY();
		{
			entry_load(entry, rel);
		}
		PG_CATCH();
		{
			entry->valid = entry->loading = false;
			PG_RE_THROW();
		}
		PG_END_TRY();
		entry->loading = false;
	}
	return entry;
}

DwCompiled *
dw_compiled_get(int member_id, Relation rel, DwRuleEntry **entry)
{
	*entry = entry_get(member_id, rel);
	return (*entry)->c;
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
