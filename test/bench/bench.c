/*
 * bench.c
 *		What test/bench needs of C: the cheapest trigger there can be, and the
 *		CPU time of a process.
 *
 * Goes only into the private server of a run.
 */
#include "postgres.h"

#include <time.h>

#include "commands/trigger.h"
#include "fmgr.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(bench_noop);
PG_FUNCTION_INFO_V1(bench_cpu);

/* bench_noop(): the floor of any BEFORE ROW trigger */
Datum
bench_noop(PG_FUNCTION_ARGS)
{
	TriggerData *td = (TriggerData *) fcinfo->context;

	return PointerGetDatum(TRIGGER_FIRED_BY_UPDATE(td->tg_event) ? td->tg_newtuple : td->tg_trigtuple);
}

/* bench_cpu(pid int): CPU time it has used, user and system, in microseconds; NULL if it is gone */
Datum
bench_cpu(PG_FUNCTION_ARGS)
{
	clockid_t	clock;
	struct timespec t;

	if (clock_getcpuclockid(PG_GETARG_INT32(0), &clock) != 0 || clock_gettime(clock, &t) != 0)
		PG_RETURN_NULL();
	PG_RETURN_INT64(t.tv_sec * INT64CONST(1000000) + t.tv_nsec / 1000);
}
