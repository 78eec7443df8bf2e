/*
 * expr.c
 *		Expression text -> checked tree -> stored rule, and back.
 *
 * The rules of a member are kept in a view over its table, dualwrite.m<id>_rules:
 * columns old_<n> and new_<n> name the columns of both sides, forward_<n> and
 * backward_<n> give the expressions between them.  Nobody selects from it; a
 * view is what PostgreSQL itself knows how to protect, to rename in and to
 * dump.  (A function of the table's row type would do the same, but forbids
 * ALTER TABLE ADD COLUMN ... DEFAULT as long as it is there.)  The text is
 * deparsed from the checked tree, never the user's.
 *
 * Length coercion is not part of the stored rule: a cast written out would cut
 * silently.  dw_rules_expr adds it, as an assignment: what doesn't fit raises.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/transam.h"
#include "catalog/pg_authid.h"
#include "catalog/namespace.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/pathnodes.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "parser/parse_collate.h"
#include "parser/parse_expr.h"
#include "parser/parse_node.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteHandler.h"
#include "rewrite/rewriteManip.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"

#include "compat.h"
#include "dualwrite.h"
#include "expr.h"

/* for messages about an expression */
typedef struct ExprContext_
{
	const char *direction;
	const char *column;
	const char *text;
} ExprContext_;

static void
expr_error_callback(void *arg)
{
	ExprContext_ *ec = arg;
	int			pos = geterrposition();
	int			code = geterrcode();

	if (pos > 0)
	{
		errposition(0);
		internalerrposition(pos);
		internalerrquery(ec->text);
	}
	if (code == ERRCODE_FEATURE_NOT_SUPPORTED || code == ERRCODE_SYNTAX_ERROR || code == ERRCODE_GROUPING_ERROR ||
		code == ERRCODE_WINDOWING_ERROR)
		errhint("A rule may use what a generated column may use: columns of the row, constants, operators and immutable functions.");
	errcontext("%s expression for column \"%s\"", ec->direction, ec->column);
}

static void
not_single(const char *text)
{
	ereport(ERROR,
			(errcode(ERRCODE_SYNTAX_ERROR),
			 errmsg("\"%s\" is not a single expression", text),
			 errdetail("A rule gives one value for one column.")));
}

/* The one expression in the text; anything more is a syntax error. */
static Node *
parse_text(const char *text)
{
	List	   *list = raw_parser(text, RAW_PARSE_PLPGSQL_EXPR);
	SelectStmt *s = castNode(SelectStmt, linitial_node(RawStmt, list)->stmt);
	ResTarget  *target;

	if (list_length(s->targetList) != 1 || s->fromClause || s->whereClause || s->groupClause || s->havingClause ||
		s->windowClause || s->sortClause || s->limitOffset || s->limitCount || s->lockingClause || s->withClause ||
		s->distinctClause || s->intoClause || s->valuesLists || s->op != SETOP_NONE)
		not_single(text);
	/* a star is expanded by SELECT only; nothing below knows what to do with it */
	target = linitial_node(ResTarget, s->targetList);
	if (target->name || target->indirection || IsA(target->val, SetToDefault) ||
		(IsA(target->val, ColumnRef) && IsA(llast(((ColumnRef *) target->val)->fields), A_Star)))
		not_single(text);
	return target->val;
}

static void
check_columns(Node *expr, Relation rel)
{
	List	   *vars = pull_var_clause(expr, PVC_RECURSE_AGGREGATES | PVC_RECURSE_WINDOWFUNCS | PVC_RECURSE_PLACEHOLDERS);
	ListCell   *lc;

	foreach(lc, vars)
	{
		Var		   *var = lfirst_node(Var, lc);

		if (var->varattno <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
					 var->varattno < 0 ? errmsg("a rule can't use system columns")
					 : errmsg("a rule can't use the whole row"),
					 var->varattno < 0 ? errdetail("A BEFORE trigger sees the row before it has any.")
					 : errdetail("The rule would depend on every column, its own included."),
					 errhint("Name the columns that the rule needs.")));
		if (TupleDescAttr(RelationGetDescr(rel), var->varattno - 1)->attgenerated)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
					 errmsg("a rule can't use generated column \"%s\"",
							NameStr(TupleDescAttr(RelationGetDescr(rel), var->varattno - 1)->attname)),
					 errdetail("Generated columns are computed after the mirror."),
					 errhint("Write the generated column's own expression.")));
	}
}

Node *
dw_expr_analyze(Relation rel, const char *text, const char *direction, const char *column,
				Oid type, int32 typmod, Oid collation)
{
	ParseState *pstate = make_parsestate(NULL);
	ParseNamespaceItem *nsitem;
	ExprContext_ ec = {direction, column, text};
	ErrorContextCallback callback = {error_context_stack, expr_error_callback, &ec};
	Node	   *expr;
	Node	   *coerced;

	error_context_stack = &callback;
	pstate->p_sourcetext = text;
	nsitem = addRangeTableEntryForRelation(pstate, rel, AccessShareLock, NULL, false, true);
	addNSItemToQuery(pstate, nsitem, false, true, true);

	expr = transformExpr(pstate, parse_text(text), EXPR_KIND_ALTER_COL_TRANSFORM);
	coerced = coerce_to_target_type(pstate, copyObject(expr), exprType(expr), type, typmod,
									COERCION_ASSIGNMENT, COERCE_IMPLICIT_CAST, -1);
	if (coerced == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" is of type %s but the %s expression is of type %s",
						column, format_type_be(type), direction, format_type_be(exprType(expr))),
				 errdetail("PostgreSQL has no assignment cast between them."),
				 errhint("Rewrite or cast the expression.")));
	/* a literal has no type of its own yet; the view would make it a text */
	if (exprType(expr) == UNKNOWNOID)
		expr = coerce_to_target_type(pstate, expr, UNKNOWNOID, type, -1, COERCION_ASSIGNMENT, COERCE_EXPLICIT_CAST, -1);
	assign_expr_collations(pstate, expr);
	assign_expr_collations(pstate, coerced);
	check_columns(expr, rel);

	if (contain_volatile_functions_after_planning((Expr *) coerced))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("the %s expression for column \"%s\" uses a volatile function", direction, column),
				 errdetail("Both sides could never be compared."),
				 errhint("Use immutable functions only.")));
	if (contain_mutable_functions_after_planning((Expr *) coerced))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("the %s expression for column \"%s\" is not immutable", direction, column),
				 errdetail("Its result depends on settings of the session, such as the time zone, or on the transaction."),
				 errhint("Use immutable functions only; between timestamp and timestamptz, name the zone with AT TIME ZONE.")));
	error_context_stack = callback.previous;
	free_parsestate(pstate);
	return expr;
}

bool
dw_expr_is_mutable(Relation rel, const char *text, AttrNumber target)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), target - 1);
	ParseState *pstate = make_parsestate(NULL);
	ParseNamespaceItem *nsitem = addRangeTableEntryForRelation(pstate, rel, AccessShareLock, NULL, false, true);
	Node	   *expr;

	addNSItemToQuery(pstate, nsitem, false, true, true);
	expr = transformExpr(pstate, parse_text(text), EXPR_KIND_ALTER_COL_TRANSFORM);
	expr = coerce_to_target_type(pstate, expr, exprType(expr), att->atttypid, att->atttypmod, COERCION_ASSIGNMENT, COERCE_IMPLICIT_CAST, -1);
	assign_expr_collations(pstate, expr);
	free_parsestate(pstate);
	return expr == NULL || contain_mutable_functions_after_planning((Expr *) expr);
}

char *
dw_expr_deparse(Node *expr, Oid relid)
{
	int			nestlevel = NewGUCNestLevel();
	char	   *text;

	/* the body is parsed under this path, so names are printed for it */
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	text = deparse_expression(expr, deparse_context_for("r", relid), true, false);
	AtEOXact_GUC(true, nestlevel);
	return text;
}

/*
 * Coercions print as nothing or as a cast, and a cast that is written out cuts
 * what is too long.  Called as the functions that they are, they do what they
 * do in an assignment.  Those that don't change a value's image are left away,
 * and so are a domain's checks: a column that is equal has passed them.
 */
static Node *
spell_out(Node *node, bool outermost)
{
	if (IsA(node, CoerceToDomain))
		return spell_out((Node *) ((CoerceToDomain *) node)->arg, outermost);
	if (IsA(node, RelabelType) && outermost)
		return spell_out((Node *) ((RelabelType *) node)->arg, true);
	if (IsA(node, RelabelType))
	{
		RelabelType *r = (RelabelType *) node;

		r->relabelformat = COERCE_EXPLICIT_CAST;
		r->arg = (Expr *) spell_out((Node *) r->arg, false);
	}
	else if (IsA(node, CoerceViaIO))
		((CoerceViaIO *) node)->coerceformat = COERCE_EXPLICIT_CAST;
	else if (IsA(node, ArrayCoerceExpr))
		((ArrayCoerceExpr *) node)->coerceformat = COERCE_EXPLICIT_CAST;
	else if (IsA(node, FuncExpr) && ((FuncExpr *) node)->funcformat != COERCE_EXPLICIT_CALL)
	{
		FuncExpr   *f = (FuncExpr *) node;

		f->funcformat = COERCE_EXPLICIT_CALL;
		linitial(f->args) = spell_out(linitial(f->args), false);
	}
	return node;
}

char *
dw_expr_check_text(Node *expr, Relation rel)
{
	int			nestlevel = NewGUCNestLevel();
	char	   *text;

	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	text = deparse_expression(spell_out(copyObject(expr), true), deparse_context_for(RelationGetRelationName(rel), RelationGetRelid(rel)), false, false);
	AtEOXact_GUC(true, nestlevel);
	return text;
}

Bitmapset *
dw_expr_reads(Node *expr)
{
	Bitmapset  *reads = NULL;
	ListCell   *lc;

	foreach(lc, pull_var_clause(expr, 0))
		reads = bms_add_member(reads, lfirst_node(Var, lc)->varattno);
	return reads;
}

/* ---- who may execute what ---- */

typedef struct WritersContext
{
	Relation	rel;
	List	   *roles;			/* OIDs; 0 is PUBLIC */
} WritersContext;

/* roles that the table's or a column's privileges let write */
static List *
writing_roles(Relation rel)
{
	List	   *roles = list_make1_oid(rel->rd_rel->relowner);
	int			natts = RelationGetNumberOfAttributes(rel);

	for (int att = 0; att <= natts; att++)
	{
		HeapTuple	tup = att == 0 ? SearchSysCache1(RELOID, ObjectIdGetDatum(RelationGetRelid(rel)))
			: SearchSysCache2(ATTNUM, ObjectIdGetDatum(RelationGetRelid(rel)), Int16GetDatum(att));
		bool		isnull;
		Datum		d;

		if (!HeapTupleIsValid(tup))
			continue;
		d = SysCacheGetAttr(att == 0 ? RELOID : ATTNUM, tup, att == 0 ? Anum_pg_class_relacl : Anum_pg_attribute_attacl, &isnull);
		if (!isnull)
		{
			Acl		   *acl = DatumGetAclPCopy(d);

			for (int i = 0; i < ACL_NUM(acl); i++)
				if (ACLITEM_GET_PRIVS(ACL_DAT(acl)[i]) & (ACL_INSERT | ACL_UPDATE))
					roles = list_append_unique_oid(roles, ACL_DAT(acl)[i].ai_grantee);
		}
		ReleaseSysCache(tup);
	}
	return roles;
}

/* May PUBLIC, and so everyone, execute the function? */
static bool
public_may_execute(Oid funcid)
{
	HeapTuple	tup = SearchSysCache1(PROCOID, ObjectIdGetDatum(funcid));
	bool		isnull;
	Datum		d = SysCacheGetAttr(PROCOID, tup, Anum_pg_proc_proacl, &isnull);
	bool		result = isnull;	/* the default is yes */

	if (!isnull)
	{
		Acl		   *acl = DatumGetAclPCopy(d);

		for (int i = 0; i < ACL_NUM(acl); i++)
			if (ACL_DAT(acl)[i].ai_grantee == ACL_ID_PUBLIC && (ACLITEM_GET_PRIVS(ACL_DAT(acl)[i]) & ACL_EXECUTE))
				result = true;
	}
	ReleaseSysCache(tup);
	return result;
}

static bool
check_function_writers(Oid funcid, void *context)
{
	WritersContext *wc = context;
	ListCell   *lc;

	if (funcid < FirstGenbkiObjectId || public_may_execute(funcid))
		return false;
	foreach(lc, wc->roles)
	{
		Oid			role = lfirst_oid(lc);

		if (OidIsValid(role) && object_aclcheck(ProcedureRelationId, funcid, role, ACL_EXECUTE) == ACLCHECK_OK)
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("role \"%s\" may write table \"%s\" but not execute function %s",
						OidIsValid(role) ? GetUserNameFromId(role, false) : "public",
						RelationGetRelationName(wc->rel), format_procedure(funcid)),
				 errdetail("In the mirror, rules run as the role that writes."),
				 errhint("GRANT EXECUTE ON FUNCTION %s TO %s.", format_procedure(funcid),
						 OidIsValid(role) ? quote_identifier(GetUserNameFromId(role, false)) : "PUBLIC")));
	}
	return false;
}

static bool
check_writers_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (check_functions_in_node(node, check_function_writers, context))
		return true;
	return expression_tree_walker(node, check_writers_walker, context);
}

void
dw_expr_check_writers(Node *expr, Relation rel)
{
	WritersContext wc = {rel, writing_roles(rel)};

	(void) check_writers_walker(expr, &wc);
}

/* ---- guards ---- */

static bool
raises_function(Oid funcid, void *context)
{
	DwGuard    *guard = context;
	HeapTuple	tup = SearchSysCache1(PROCOID, ObjectIdGetDatum(funcid));
	Form_pg_proc proc;

	if (!HeapTupleIsValid(tup))
		elog(ERROR, "cache lookup failed for function %u", funcid);
	proc = (Form_pg_proc) GETSTRUCT(tup);
	if (proc->prolang != INTERNALlanguageId || funcid >= FirstNormalObjectId)
		*guard = DW_GUARD_SUBXACT;
	else if (!proc->proleakproof)
		*guard = Max(*guard, DW_GUARD_CATCH);
	ReleaseSysCache(tup);
	return false;
}

/*
 * Leakproof functions promise to raise nothing that depends on a value.
 * Built-in functions written in C are pure computations: where they complain
 * about a value, nothing but memory is left behind.  A user's type
 * brings its own functions along, by ways not shown in the tree.
 */
static bool
guard_walker(Node *node, void *context)
{
	DwGuard    *guard = context;

	if (node == NULL)
		return false;
	if (IsA(node, List))
		return expression_tree_walker(node, guard_walker, context);
	(void) check_functions_in_node(node, raises_function, context);
	switch (nodeTag(node))
	{
		case T_Var:
		case T_Const:
		case T_RelabelType:
		case T_BoolExpr:
		case T_CaseExpr:
		case T_CaseWhen:
		case T_CaseTestExpr:
		case T_CoalesceExpr:
		case T_NullTest:
		case T_BooleanTest:
		case T_FuncExpr:
		case T_OpExpr:
		case T_DistinctExpr:
		case T_NullIfExpr:
		case T_ScalarArrayOpExpr:
			break;
		case T_CoerceToDomain:
			*guard = DW_GUARD_SUBXACT;
			break;
		default:
			*guard = Max(*guard, DW_GUARD_CATCH);
			break;
	}
	if (!IsA(node, CaseWhen))
	{
		Oid			type = exprType(node);

		if (type >= FirstNormalObjectId && get_typtype(type) != TYPTYPE_ENUM)
			*guard = DW_GUARD_SUBXACT;
	}
	return expression_tree_walker(node, guard_walker, context);
}

DwGuard
dw_expr_guard(Node *expr)
{
	DwGuard		guard = DW_GUARD_NONE;

	(void) guard_walker(expr, &guard);
	return guard;
}

/* ---- stored rules ---- */

Oid
dw_mirror_function(void)
{
	Oid			nsp = get_namespace_oid(DW_SCHEMA, false);
	CatCList   *list = SearchSysCacheList1(PROCNAMEARGSNSP, CStringGetDatum("mirror"));
	Oid			found = InvalidOid;

	for (int i = 0; i < list->n_members; i++)
	{
		Form_pg_proc proc = (Form_pg_proc) GETSTRUCT(&list->members[i]->tuple);

		if (proc->pronamespace == nsp)
			found = proc->oid;
	}
	ReleaseSysCacheList(list);
	return found;
}

Oid
dw_rules_view(int member_id, bool temporary)
{
	char		name[NAMEDATALEN];
	Oid			nsp = InvalidOid;
	Oid			toast;

	snprintf(name, sizeof(name), "m%d_rules", member_id);
	if (temporary)
		GetTempNamespaceState(&nsp, &toast);
	else
		nsp = get_namespace_oid(DW_SCHEMA, false);
	return OidIsValid(nsp) ? get_relname_relid(name, nsp) : InvalidOid;
}

static void
tampered(Oid view)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("view %s is not what dw_begin made of it", get_rel_name(view)),
			 errdetail("It holds the rules of a migration."),
			 errhint("Give the migration up with dw_abort.")));
}

/* Anything but what dw_expr_analyze lets through. context: the table's index. */
static bool
forbidden_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
	{
		Var		   *var = (Var *) node;

		return var->varno != *(int *) context || var->varlevelsup != 0 || var->varattno <= 0;
	}
	if (IsA(node, SubLink) || IsA(node, Aggref) || IsA(node, WindowFunc) || IsA(node, GroupingFunc) || IsA(node, Param) ||
		IsA(node, SetToDefault) || IsA(node, CurrentOfExpr) || IsA(node, Query))
		return true;
	return expression_tree_walker(node, forbidden_walker, context);
}

/*
 * A copy of the view's column of that name, its table as varno 1; NULL if
 * there is none.  The view belongs to the extension's owner, but that of a
 * temporary table to the user, and a dump may have been edited: so its shape
 * is checked.
 */
static Node *
stored_expr(Oid view, Oid table, const char *name)
{
	Relation	rel = relation_open(view, AccessShareLock);
	Query	   *query;
	Node	   *expr = NULL;
	ListCell   *lc;
	int			rtindex;

	if (rel->rd_rel->relkind != RELKIND_VIEW)
		tampered(view);
	query = get_view_query(rel);
	if (list_length(query->jointree->fromlist) != 1 || !IsA(linitial(query->jointree->fromlist), RangeTblRef) || query->jointree->quals ||
		query->groupClause || query->groupingSets || query->havingQual || query->distinctClause || query->setOperations ||
		query->limitCount || query->limitOffset || query->hasAggs || query->hasWindowFuncs || query->hasSubLinks || query->hasTargetSRFs)
		tampered(view);
	rtindex = linitial_node(RangeTblRef, query->jointree->fromlist)->rtindex;
	if (rt_fetch(rtindex, query->rtable)->rtekind != RTE_RELATION || rt_fetch(rtindex, query->rtable)->relid != table)
		tampered(view);
	foreach(lc, query->targetList)
	{
		TargetEntry *te = lfirst_node(TargetEntry, lc);

		if (!te->resjunk && strcmp(te->resname, name) == 0)
		{
			if (forbidden_walker((Node *) te->expr, &rtindex))
				tampered(view);
			expr = copyObject((Node *) te->expr);
			ChangeVarNodes(expr, rtindex, 1, 0);
			break;
		}
	}
	/* unlocked at once: whoever ends the migration must not wait for readers of its rules */
	relation_close(rel, AccessShareLock);
	return expr;
}

int
dw_rules_columns(Oid view, Oid table, DwSide side, AttrNumber *attnums, int max)
{
	int			n = 0;
	Node	   *expr;

	while ((expr = stored_expr(view, table, psprintf("%s_%d", dw_side_name(side), n + 1))) != NULL)
	{
		if (n >= max)
			elog(ERROR, "view %u names too many columns", view);
		if (!IsA(expr, Var))
			tampered(view);
		attnums[n++] = ((Var *) expr)->varattno;
	}
	return n;
}

Node *
dw_rules_expr(Oid view, DwSide side, int i, Relation rel, AttrNumber target)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), target - 1);
	Node	   *stored = stored_expr(view, RelationGetRelid(rel), psprintf("%s_%d", side == DW_NEW ? "forward" : "backward", i));
	Node	   *expr;

	if (stored == NULL)
		return NULL;
	expr = coerce_to_target_type(NULL, stored, exprType(stored), att->atttypid, att->atttypmod, COERCION_ASSIGNMENT, COERCE_IMPLICIT_CAST, -1);
	if (expr == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("a rule no longer fits column \"%s\"", NameStr(att->attname))));
	return expr;
}
