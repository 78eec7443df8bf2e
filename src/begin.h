/*
 * begin.h
 *		A migration as asked for, and what dw_begin does with it.
 */
#ifndef DW_BEGIN_H
#define DW_BEGIN_H

#include "nodes/nodes.h"
#include "utils/jsonb.h"
#include "utils/rel.h"

#include "catalog.h"
#include "options.h"
#include "rule.h"

/* one column of a side, as asked for */
typedef struct DwSpecColumn
{
	char	   *name;
	char	   *expr;			/* that gives it; NULL: none given */
	char	   *type;			/* of a new column; NULL: none given */
	bool		create;
	AttrNumber	attnum;
	Node	   *node;			/* the analyzed expression; NULL: none */
} DwSpecColumn;

/* a migration, as asked for; lives on the stack of the verb */
typedef struct DwSpec
{
	char	   *name;
	Oid			relid;
	int			n[2];
	DwSpecColumn	cols[2][DW_MAX_COLUMNS];	/* by side */
	bool		simple;			/* dw_begin: expressions left out are casts */
	bool		has_backward;
	Jsonb	   *options_given;
	DwOptions	options;
	Jsonb	   *definition;
} DwSpec;

/* Raises where it is no table of the caller's that can be migrated. */
extern void dw_spec_check_table(Relation rel);

/* Looks the columns up, raises what is wrong with them; true if some have to be created. */
extern bool dw_spec_check_columns(DwSpec *spec, Relation rel);

/* Raises where a subscriber would stop.  create: the table gets new columns. */
extern void dw_spec_check_publications(Relation rel, bool create);

/*
 * Raises where a column is written or read by another migration, too.  sides,
 * reads: columns of this one, as pull_varattnos numbers them; except: its member.
 */
extern void dw_spec_check_others(Relation rel, Bitmapset *sides, Bitmapset *reads, int except);

/* All of it, on a table that is locked and checked. */
extern DwMigration *dw_spec_attach(DwSpec *spec);

#endif							/* DW_BEGIN_H */
