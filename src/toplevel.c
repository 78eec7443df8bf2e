/*
 * toplevel.c
 *		Running one command that can't run inside a function.
 *
 * SPI is a function call to such commands.  So it goes the way a client's
 * command goes, by a portal, which they also want for its memory context.  The
 * text and its parse tree outlive the transactions that the command makes.
 */
#include "postgres.h"

#include "access/xact.h"
#include "nodes/parsenodes.h"
#include "tcop/cmdtag.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/memutils.h"
#include "utils/portal.h"

#include "compat.h"
#include "toplevel.h"

void
dw_toplevel(const char *sql)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext cxt = AllocSetContextCreate(caller, "pg_dualwrite command", ALLOCSET_DEFAULT_SIZES);
	RawStmt    *raw;
	List	   *plans;
	Portal		portal;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	MemoryContextSwitchTo(cxt);
	raw = linitial_node(RawStmt, pg_parse_query(sql));
	plans = pg_plan_queries(pg_analyze_and_rewrite_fixedparams(raw, sql, NULL, 0, NULL), sql, 0, NULL);
	portal = CreatePortal("", true, true);
	portal->visible = false;
	PortalDefineQuery(portal, NULL, sql, CreateCommandTag(raw->stmt), plans, NULL);
	PortalStart(portal, NULL, 0, InvalidSnapshot);
	(void) dw_portal_run(portal);
	PortalDrop(portal, false);
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(cxt);
}
