/*
 * proof.c
 *		The CHECK constraint that says what the mirror promises: a row is
 *		consistent.  The only file that builds DDL for it.
 *
 * From the moment when it is there, PostgreSQL itself refuses a row whose
 * sides would part, whatever brought it past the mirror.  So a complete pass
 * that begins later and finds no drift is a proof that holds until the
 * constraint goes.  It is added NOT VALID and stays so: VALIDATE would scan the
 * table once more, with one long snapshot, to learn what the pass in chunks
 * tells as well.
 *
 * The check is
 *
 *		CASE WHEN new = forward(old) THEN true ELSE old = backward(new) END
 *
 * or the other way round, or the first half alone where the second adds
 * nothing, "=" by image, which is dualwrite.same().  An
 * expression that raises doesn't explain a row.  A check can't catch errors, so
 * the first of the two must be one that can't raise: else it would refuse rows
 * that the second explains.  The second is looked at only where the first
 * fails, and if it raises then the row would be refused anyway.
 *
 * Locks: ACCESS EXCLUSIVE on the table, for an instant, by short tries; it
 * drains the writers, so there is none that doesn't know the constraint.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "attach.h"
#include "compat.h"
#include "expr.h"
#include "proof.h"
#include "rule.h"
#include "run.h"

PG_FUNCTION_INFO_V1(dw_same);

/* in fn_extra of dw_same */
typedef struct SameType
{
	int16		typlen;
	bool		typbyval;
} SameType;

/* dualwrite.same(a, b): have two values the same image?  NULL is the same as NULL. */
Datum
dw_same(PG_FUNCTION_ARGS)
{
	SameType   *type = fcinfo->flinfo->fn_extra;

	if (type == NULL)
	{
		Oid			a = get_fn_expr_argtype(fcinfo->flinfo, 0);
		Oid			b = get_fn_expr_argtype(fcinfo->flinfo, 1);

		if (!OidIsValid(a) || !OidIsValid(b) || get_typlen(a) != get_typlen(b) || get_typbyval(a) != get_typbyval(b))
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("values of different types have no image to compare"),
					 errdetail("dualwrite.same() compares values bit by bit."),
					 errhint("It is for the constraints that pg_dualwrite makes.")));
		type = fcinfo->flinfo->fn_extra = MemoryContextAlloc(fcinfo->flinfo->fn_mcxt, sizeof(SameType));
		get_typlenbyval(a, &type->typlen, &type->typbyval);
	}
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_BOOL(PG_ARGISNULL(0) && PG_ARGISNULL(1));
	PG_RETURN_BOOL(datum_image_eq(PG_GETARG_DATUM(0), PG_GETARG_DATUM(1), type->typbyval, type->typlen));
}

/* ---- what it says ---- */

static char *
constraint_name(int member_id)
{
	return psprintf("dualwrite_m%d_proof", member_id);
}

/* The side whose derivation is looked at first: one that can't raise; -1 if neither is. */
static int
first_arm(DwRule *rule)
{
	if (rule->side[DW_NEW].guard == DW_GUARD_NONE)
		return DW_NEW;
	if (rule->side[DW_OLD].guard == DW_GUARD_NONE)
		return DW_OLD;
	return -1;
}

/*
 * The column that an expression takes over as it is, or widened from one
 * integer type to another (back: narrowed); 0 if it does anything else.
 */
static AttrNumber
taken_over(Node *expr, bool back)
{
	while (expr && IsA(expr, RelabelType))
		expr = (Node *) ((RelabelType *) expr)->arg;
	if (expr && IsA(expr, FuncExpr))
	{
		FuncExpr   *f = (FuncExpr *) expr;

		switch (f->funcid)
		{
			case F_INT8_INT4:
			case F_INT8_INT2:
			case F_INT4_INT2:
				if (back)
					return 0;
				break;
			case F_INT4_INT8:
			case F_INT2_INT8:
			case F_INT2_INT4:
				if (!back)
					return 0;
				break;
			default:
				return 0;
		}
		expr = linitial(f->args);
	}
	return expr && IsA(expr, Var) ? ((Var *) expr)->varattno : 0;
}

/*
 * Does backward explain no row that forward doesn't?  So it is where the one
 * takes columns over, at most to a wider integer type, and the other takes the
 * same ones back.  The check is half as long then, and PostgreSQL reads it anew
 * for each statement.
 */
static bool
one_arm_will_do(DwRule *rule, Relation rel)
{
	Oid			view = dw_rules_view(rule->cfg.member_id, RelationUsesLocalBuffers(rel));
	DwSideRule *new = &rule->side[DW_NEW];
	DwSideRule *old = &rule->side[DW_OLD];

	if (new->n != old->n)
		return false;
	for (int i = 0; i < new->n; i++)
	{
		AttrNumber	from = taken_over(dw_rules_expr(view, DW_NEW, i + 1, rel, new->cols[i].attnum), false);
		int			j = 0;

		while (j < old->n && old->cols[j].attnum != from)
			j++;
		if (j == old->n || taken_over(dw_rules_expr(view, DW_OLD, j + 1, rel, from), true) != new->cols[i].attnum)
			return false;
	}
	return true;
}

/* Every column of the side is what its rule says. */
static char *
arm(DwRule *rule, DwSide side, Relation rel)
{
	Oid			view = dw_rules_view(rule->cfg.member_id, RelationUsesLocalBuffers(rel));
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; i < rule->side[side].n; i++)
	{
		AttrNumber	attnum = rule->side[side].cols[i].attnum;

		appendStringInfo(&buf, "%s" DW_SCHEMA ".same(%s, %s)", i ? " AND " : "",
						 quote_identifier(NameStr(TupleDescAttr(RelationGetDescr(rel), attnum - 1)->attname)),
						 dw_expr_check_text(dw_rules_expr(view, side, i + 1, rel, attnum), rel));
	}
	return buf.data;
}

void
dw_proof_check(const char *migration, int member_id, Oid relid)
{
	Relation	rel = relation_open(relid, AccessShareLock);
	DwRun		run;
	DwRule	   *rule;

	/* planning a rule may run code of the owner */
	dw_run_begin(&run, rel->rd_rel->relowner);
	rule = dw_rule_open_active(member_id, rel);
	if (!rule->side[DW_OLD].derivable)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("option \"proof\" needs a backward expression, and migration \"%s\" has none", migration),
				 errdetail("After the switch of a one-way migration the sides part by right."),
				 errhint("Leave it out; every row is compared all the same.")));
	if (first_arm(rule) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("option \"proof\" needs an expression that can't raise an error, and both of migration \"%s\" may", migration),
				 errdetail("A check constraint would refuse a row for which one of them raises, even where the other one explains it."),
				 errhint("Expressions of columns, constants and leakproof functions only can't raise, such as a cast to a wider integer type. Leave it out; every row is compared all the same.")));
	dw_run_end(&run);
	relation_close(rel, AccessShareLock);
}

/* ---- on and off ---- */

bool
dw_proof_try_lock(DwMigration *m)
{
	List	   *relids = NIL;
	ListCell   *lc;

	foreach(lc, m->members)
		relids = lappend_oid(relids, ((DwMember *) lfirst(lc))->relid);
	if (!dw_try_lock_relations(relids, AccessExclusiveLock))
		return false;
	foreach(lc, relids)
	{
		Relation	rel = try_relation_open(lfirst_oid(lc), NoLock);
		bool		busy;

		if (rel == NULL)
			return false;
		/* what ALTER TABLE would complain of is gone in another session */
		busy = rel->rd_refcnt != 1 || AfterTriggerPendingOnRel(RelationGetRelid(rel));
		relation_close(rel, NoLock);
		if (busy)
			return false;
	}
	return true;
}

static void
add_constraint(DwMember *b)
{
	Relation	rel = relation_open(b->relid, NoLock);
	StringInfoData sql;
	DwRule	   *rule;
	DwRun		run;
	int			first;

	dw_run_begin(&run, rel->rd_rel->relowner);
	rule = dw_rule_open_active(b->id, rel);
	first = first_arm(rule);
	/* the functions may be others than those that were looked at */
	if (first < 0 || !rule->side[DW_OLD].derivable)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("the proof constraint can't be made: both expressions may raise an error by now"),
				 errhint("SELECT dw_set(%s, '{\"proof\": false}').", quote_literal_cstr(rule->cfg.migration))));
	initStringInfo(&sql);
	appendStringInfo(&sql, "ALTER TABLE %s ADD CONSTRAINT %s CHECK (", dw_table_name(b->relid), constraint_name(b->id));
	if (first == DW_NEW && one_arm_will_do(rule, rel))
		appendStringInfoString(&sql, arm(rule, first, rel));
	else
		appendStringInfo(&sql, "CASE WHEN %s THEN true ELSE %s END", arm(rule, first, rel), arm(rule, DW_OTHER(first), rel));
	appendStringInfoString(&sql, ") NOT VALID");
	relation_close(rel, NoLock);
	dw_command(sql.data);
	dw_run_end(&run);
}

void
dw_proof_add(DwMigration *m)
{
	bool		any = false;
	ListCell   *lc;

	foreach(lc, m->members)
	{
		DwMember   *b = lfirst(lc);

		if (dw_member_proof(b))
			continue;
		add_constraint(b);
		any = true;
	}
	if (any)
		dw_event(m->id, m->name, "proof added", -1, -1, "rows whose sides part are refused from now on");
	CommandCounterIncrement();
}

/*
 * Names of the constraints on the member's table that are ours: a renamed one
 * refuses rows all the same.  char *, palloc'd.
 */
static List *
constraints(DwMember *b)
{
	return DW_OWN_TEXTS("SELECT c.conname FROM pg_catalog.pg_constraint c WHERE c.conrelid = $1 AND c.contype = 'c'"
						" AND EXISTS (SELECT 1 FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND d.objid = c.oid"
						"   AND d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.refobjid = 'dualwrite.same'::pg_catalog.regproc)"
						" AND (c.conname = $2 OR c.conname !~ '^dualwrite_m[0-9]+_proof$')",
						DW_OID(b->relid), DW_TEXT(constraint_name(b->id)));
}

bool
dw_proof_found(DwMigration *m)
{
	ListCell   *lc;

	foreach(lc, m->members)
		if (constraints(lfirst(lc)) != NIL)
			return true;
	return false;
}

bool
dw_proof_drop(DwMigration *m)
{
	bool		any = false;
	ListCell   *lc;
	ListCell   *lc2;

	foreach(lc, m->members)
	{
		DwMember   *b = lfirst(lc);

		foreach(lc2, constraints(b))
		{
			Relation	rel = relation_open(b->relid, NoLock);
			DwRun		run;

			dw_run_begin(&run, rel->rd_rel->relowner);
			relation_close(rel, NoLock);
			dw_command(psprintf("ALTER TABLE %s DROP CONSTRAINT %s", dw_table_name(b->relid), quote_identifier(lfirst(lc2))));
			dw_run_end(&run);
			any = true;
		}
	}
	if (any)
		dw_event(m->id, m->name, "proof dropped", -1, -1, NULL);
	CommandCounterIncrement();
	return any;
}
