/*
 * expr.h
 *		Expression text, checked trees, and the view that stores them.
 */
#ifndef DW_EXPR_H
#define DW_EXPR_H

#include "nodes/bitmapset.h"
#include "nodes/nodes.h"
#include "utils/rel.h"

#include "dualwrite.h"

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

/*
 * The same for a check constraint of the table, of an expression from
 * dw_rules_expr: columns without prefix, and what the coercion to the column
 * does (raise where a value is too long, for example) written out.
 */
extern char *dw_expr_check_text(Node *expr, Relation rel);

/* attribute numbers that the expression reads; palloc'd */
extern Bitmapset *dw_expr_reads(Node *expr);

/* Raises 42501 where a role that may write rel may not execute what the expression calls. */
extern void dw_expr_check_writers(Node *expr, Relation rel);

/* of a planned expression */
extern DwGuard dw_expr_guard(Node *expr);

/* The view that holds a member's rules (temporary: of a temporary table of this session); InvalidOid if there is none. */
extern Oid	dw_rules_view(int member_id, bool temporary);

/* the trigger function dualwrite.mirror() */
extern Oid	dw_mirror_function(void);

/* Attribute numbers of a side's columns, in order: those that old_1, ... or new_1, ... of the view name. */
extern int	dw_rules_columns(Oid view, Oid table, DwSide side, AttrNumber *attnums, int max);

/*
 * The rule that gives column `target` (the i-th of its side, from 1), over the
 * columns of rel (varno 1), coerced to the column's type as an assignment
 * would.  NULL if the view has none.
 */
extern Node *dw_rules_expr(Oid view, DwSide side, int i, Relation rel, AttrNumber target);

#endif							/* DW_EXPR_H */
