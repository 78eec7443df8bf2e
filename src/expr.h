/*
 * expr.h
 *		Expression text, checked trees, and the rule functions that store them.
 */
#ifndef DW_EXPR_H
#define DW_EXPR_H

#include "nodes/bitmapset.h"
#include "nodes/nodes.h"
#include "utils/rel.h"

/* How an evaluation has to be protected so that an error can be survived. */
typedef enum DwGuard
{
	DW_GUARD_NONE,				/* can't raise */
	DW_GUARD_CATCH,				/* built-in functions only: complaints about a value leave nothing behind */
	DW_GUARD_SUBXACT			/* may run anything: needs a subtransaction */
} DwGuard;

/*
 * Parses and checks a rule: an expression over the columns of rel (varno 1)
 * that can be assigned to a column of the given type.  direction ("forward",
 * "backward") and column are for messages.  Raises 42601, 42703, 42804,
 * 42P17, 0A000.
 */
extern Node *dw_expr_analyze(Relation rel, const char *text, const char *direction, const char *column,
							 Oid type, int32 typmod, Oid collation);

/* Would the text, as a rule for the column, not be immutable? */
extern bool dw_expr_is_mutable(Relation rel, const char *text, AttrNumber target);

/* The expression as SQL, columns as r.<name>; palloc'd. */
extern char *dw_expr_deparse(Node *expr, Oid relid);

/* attribute numbers that the expression reads; palloc'd */
extern Bitmapset *dw_expr_reads(Node *expr);

/* Raises 42501 where a role that may write rel may not execute what the expression calls. */
extern void dw_expr_check_writers(Node *expr, Relation rel);

/* of a planned expression */
extern DwGuard dw_expr_guard(Node *expr);

/* A rule function by its name in schema dualwrite; InvalidOid if there is none. */
extern Oid	dw_rule_function(const char *name);

/* attribute numbers that an anchor function (m<member>_old, m<member>_new) names, in order */
extern int	dw_anchor_columns(Oid function, AttrNumber *attnums, int max);

/*
 * Call of a rule function on the row (varno 1, whole row), coerced to the
 * column's type as an assignment would.
 */
extern Node *dw_rule_call(Oid function, Relation rel, AttrNumber target);

#endif							/* DW_EXPR_H */
