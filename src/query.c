/*
 * query.c
 *		Option throttle_query.
 *
 * A query of the table's owner, run by the worker once a second.  It is
 * contained like everything else of the owner's: as the owner, in a restricted
 * security context; besides, read only, for a second at most, and in a
 * transaction that is rolled back afterwards, so that nothing that it set, took
 * or deferred outlives it.
 */
#include "postgres.h"

#include <math.h>

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/plancache.h"
#include "utils/timeout.h"

#include "compat.h"
#include "query.h"
#include "run.h"

#define QUERY_MS 1000

static void
refuse(const char *query, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("bad value \"%s\" for option \"throttle_query\"", query),
			 errdetail("%s", detail),
			 errhint("It is one SELECT of a boolean (true: stop) or a number (0.5: slow down, 1: stop), with names qualified: SELECT count(*) > 50 FROM public.jobs.")));
}

static bool
usable_type(Oid type)
{
	return type == BOOLOID || type == INT2OID || type == INT4OID || type == INT8OID || type == FLOAT4OID || type == FLOAT8OID || type == NUMERICOID;
}

void
dw_throttle_query_check(const char *query, Oid role)
{
	DwRun		run;
	SPIPlanPtr	plan;
	List	   *sources;
	CachedPlanSource *source;
	Query	   *tree;

	/* parses and binds names; runs nothing */
	dw_run_begin(&run, role);
	plan = SPI_prepare(query, 0, NULL);
	if (plan == NULL)
		refuse(query, "It can't be prepared.");
	sources = SPI_plan_get_plan_sources(plan);
	if (list_length(sources) != 1)
		refuse(query, "It is not one SELECT.");
	source = linitial(sources);
	if (!IsA(source->raw_parse_tree->stmt, SelectStmt))
		refuse(query, "It is not one SELECT.");
	tree = linitial_node(Query, source->query_list);
	if (source->resultDesc == NULL || source->resultDesc->natts != 1 || !usable_type(TupleDescAttr(source->resultDesc, 0)->atttypid))
		refuse(query, "It doesn't return a single boolean or number.");
	if (tree->hasModifyingCTE || tree->rowMarks != NIL)
		refuse(query, "It is run read only.");

	/* plans it and checks privileges; still runs nothing */
	(void) SPI_execute(psprintf("EXPLAIN %s", query), false, 0);
	dw_run_end(&run);
}

static double
run_query(const char *query)
{
	int			rc;
	char	   *value;
	double		load;

	SPI_connect();
	rc = SPI_execute(query, true, 1);
	if (rc != SPI_OK_SELECT)
		elog(ERROR, "could not execute the query: %s", SPI_result_code_string(rc));
	value = SPI_processed > 0 ? SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1) : NULL;
	if (value == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA_FOUND),
				 errmsg("the query gave no value")));
	/* the tables may have changed since it was checked */
	if (!usable_type(SPI_gettypeid(SPI_tuptable->tupdesc, 1)))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("the query gave neither a boolean nor a number")));
	if (SPI_gettypeid(SPI_tuptable->tupdesc, 1) == BOOLOID)
		return value[0] == 't' ? 1 : 0;
	load = strtod(value, NULL);
	/* neither above nor below a limit */
	if (isnan(load))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("the query gave NaN")));
	return load;
}

double
dw_throttle_query_run(const char *query, Oid role)
{
	volatile double load = 0;

	XactReadOnly = true;
	(void) set_config_option("row_security", "on", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	SetUserIdAndSecContext(role, SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
	enable_timeout_after(STATEMENT_TIMEOUT, QUERY_MS);
	PG_TRY();
	{
		load = run_query(query);
	}
	PG_FINALLY();
	{
		disable_timeout(STATEMENT_TIMEOUT, false);
	}
	PG_END_TRY();
	return load;
}
