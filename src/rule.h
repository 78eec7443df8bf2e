/*
 * rule.h
 *		The compiled form of a member: columns of both sides, expressions between
 *		them, and what the mirror has to know to use them.
 */
#ifndef DW_RULE_H
#define DW_RULE_H

#include "executor/tuptable.h"
#include "nodes/execnodes.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "catalog.h"
#include "expr.h"

/* what a column's default says about a value that an INSERT brings */
typedef enum DwDefault
{
	DW_DEFAULT_NONE,			/* NULL */
	DW_DEFAULT_CONST,			/* a constant: a value equal to it was not given */
	DW_DEFAULT_OTHER			/* differs from row to row: nothing can be told */
} DwDefault;

typedef struct DwColumn
{
	AttrNumber	attnum;
	int16		typlen;
	bool		typbyval;
	bool		notnull;		/* the column's own, or its domain's */
	Oid			notnull_domain; /* ... which is then this one; else InvalidOid */
	DwDefault	deflt;
	Datum		value;			/* of DW_DEFAULT_CONST */
} DwColumn;

typedef struct DwSideRule
{
	int			n;
	DwColumn   *cols;
	Bitmapset  *bits;			/* attnums, offset as in tg_updatedcols */
	bool		derivable;		/* has expressions that derive it from the other side */
	DwGuard		guard;
	ExprState **states;			/* one a column; NULL: not made yet */
} DwSideRule;

/*
 * One use of a member's rule: lives in the memory context it was opened in
 * (per query, or per batch), never longer than the transaction.
 */
typedef struct DwRule
{
	DwMirrorConfig cfg;
	DwSideRule	side[2];		/* by DwSide */
	Bitmapset  *reads;			/* columns on neither side that a rule reads, offset */
	Bitmapset  *watch;			/* all of the above */
	bool		undecided;		/* the snapshot says nothing about this heap */
	bool		has_first;		/* the table has our first trigger too */
	bool		other_before;	/* ... and BEFORE ROW triggers of its own */
	bool		faults;			/* a fault point of the mirror is armed */
	const char *overtaken;	/* one of these that fires after us; empty: none */
	Oid			relid;
	char		relname[NAMEDATALEN];	/* for messages */
	TupleDesc	desc;			/* of the table; not owned */
	int			nkey;			/* primary key, to name rows */
	AttrNumber *key;
	ExprContext *econtext;		/* made with the first state, or reset */
	TupleTableSlot *scratch;	/* virtual; made when needed */
	MemoryContext cxt;
	struct DwRuleEntry *entry;	/* in the backend's cache */
	struct DwCompiled *compiled;	/* ... and what was loaded; arrays and sets above are its own */
	MemoryContextCallback use;	/* which ends with the memory context */
} DwRule;

/*
 * Opens the rule of a member for use on rel; NULL where the member is unknown
 * or ended.  Allocates in CurrentMemoryContext.
 */
extern DwRule *dw_rule_open(int member_id, Relation rel);

/* The same, where the member must be active: else 55000. */
extern DwRule *dw_rule_open_active(int member_id, Relation rel);

/* forget results of the last row; by value, there are none (arrays may be in contexts of their own) */
static inline void
dw_rule_reset(DwRule *rule)
{
	MemoryContext cxt = rule->econtext ? rule->econtext->ecxt_per_tuple_memory : NULL;

	if (cxt && (!cxt->isReset || cxt->firstchild != NULL))
		MemoryContextReset(cxt);
}

/*
 * Derives side `target` of the row in slot from its other side.  values and
 * nulls are indexed as the side's columns and live until dw_rule_reset.
 * Returns false where it can't be converted; *error (palloc'd in the rule's
 * per-row memory) says why.
 */
extern bool dw_rule_derive(DwRule *rule, DwSide target, TupleTableSlot *slot, Datum *values, bool *nulls, ErrorData **error);

/* Current values of a side in a slot. */
extern void dw_rule_values(DwRule *rule, DwSide side, TupleTableSlot *slot, Datum *values, bool *nulls);

/* Do two value lists of a side have the same image? */
extern bool dw_rule_same(DwRule *rule, DwSide side, const Datum *v1, const bool *n1, const Datum *v2, const bool *n2);

/*
 * consistent(row) of the contract.  lossy, where given, is set where it holds
 * although new isn't forward(old).  error, where given, says what the last
 * expression that raised had to say.
 */
extern bool dw_rule_consistent(DwRule *rule, TupleTableSlot *slot, bool *lossy, ErrorData **error);

/*
 * The quick half of it: is new = forward(old)?  For a scan of many rows, where
 * the caller catches what the rule raises (dw_rule_error_of_value), for all rows
 * at once; not for DW_GUARD_SUBXACT.
 */
extern bool dw_rule_forward_holds(DwRule *rule, TupleTableSlot *slot);

/* In PG_CATCH: does the error say that a value can't be converted?  If not, it has to be thrown on. */
extern bool dw_rule_error_of_value(void);

/* Has every column of the side its initial value (null or its constant default)? */
extern bool dw_rule_initial(DwRule *rule, DwSide side, const Datum *values, const bool *nulls);

/* The row with some columns replaced, in the rule's scratch slot, valid until the next call. */
extern TupleTableSlot *dw_rule_with(DwRule *rule, TupleTableSlot *slot, DwSide side, const Datum *values, const bool *nulls);

/* when a row was written, as far as its xmin tells */
typedef enum DwAge
{
	DW_AGE_BEFORE,				/* before the mirror came on */
	DW_AGE_AFTER,
	DW_AGE_UNKNOWN
} DwAge;
extern DwAge dw_rule_age(DwRule *rule, HeapTupleHeader tup);

/* notes in the backend's cache when a side was last seen written; true once a minute */
extern bool dw_rule_note_written(DwRule *rule, DwSide side);

/* true the first time in this subtransaction */
extern bool dw_rule_note_overtaken(DwRule *rule);

/* registers the invalidation callback; once, from _PG_init */
extern void dw_rule_init(void);

#endif							/* DW_RULE_H */
