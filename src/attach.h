/*
 * attach.h
 *		What a member hangs on its table: rules, triggers, sequences.
 */
#ifndef DW_ATTACH_H
#define DW_ATTACH_H

#include "storage/lockdefs.h"
#include "utils/rel.h"

#include "catalog.h"

/* one rule to be stored */
typedef struct DwRuleText
{
	AttrNumber	attnum;			/* column that it gives */
	char	   *body;			/* from dw_expr_deparse; NULL: none */
} DwRuleText;

/* schema-qualified, quoted name of a table; palloc'd */
extern char *dw_table_name(Oid relid);

/* Makes the view m<member>_rules and the sequences of a new member. */
extern void dw_attach_rules(int member_id, Relation rel, int nold, const DwRuleText *backward, int nnew, const DwRuleText *forward);

/* The view and the sequences of a member, as far as they are there: OIDs. */
extern List *dw_attach_relations(int member_id);

/* Records anew what a dump loses: that the rules go with the table. */
extern void dw_attach_dependencies(int member_id, Oid relid);

/* Makes the counters of writes that are read back, if they aren't there.  55000 where the table has no primary key. */
extern void dw_attach_samples(int member_id, Oid relid);

/*
 * Makes the triggers of a member, or mends them: missing, disabled, or no
 * longer first and last.  Needs SHARE ROW EXCLUSIVE on the table, or what
 * dw_attach_lock says.  Returns true if anything had to be done.
 */
extern bool dw_attach_triggers(int member_id, Oid relid);

/* The lock that dw_attach_triggers needs; NoLock: there is nothing to do. */
extern LOCKMODE dw_attach_lock(int member_id, Oid relid);

/* What keeps the member's triggers from doing their work, palloc'd; NULL if nothing. */
extern char *dw_attach_problem(int member_id, Oid relid);

/* Stores the snapshot that tells rows written before this moment; needs the lock that drained the writers. */
extern void dw_attach_begin(int member_id, Relation rel);

/* Removes triggers, rules and sequences of a member; the table may be gone. */
extern void dw_detach(int member_id, Oid relid);

#endif							/* DW_ATTACH_H */
