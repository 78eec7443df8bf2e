/*
 * query.h
 *		Option throttle_query: a query of the user's own that says how loaded the
 *		database is.
 */
#ifndef DW_QUERY_H
#define DW_QUERY_H

#include "postgres.h"

/*
 * Raises unless the text is one SELECT that gives one boolean or number; names
 * are looked up as the role, with nothing but pg_catalog in the search path.
 */
extern void dw_throttle_query_check(const char *query, Oid role);

/*
 * Runs it as the role, read only, for a second at most.  true is 1.  Inside a
 * step, whose transaction it leaves aborted or not: the caller ends it.
 * Raises what the query raises, and where it gives no value.
 */
extern double dw_throttle_query_run(const char *query, Oid role);

#endif							/* DW_QUERY_H */
