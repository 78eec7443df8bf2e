/*
 * api_fault.c
 *		Arming and disarming fault points.
 *
 * For superusers only: who may let the server crash.  Takes a lock on the
 * extension's own table, so that two callers wait for each other, and none on
 * tables of users.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lockdefs.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "api.h"
#include "fault.h"

PG_FUNCTION_INFO_V1(dw_fault);
PG_FUNCTION_INFO_V1(dw_fault_off);

static void
check_superuser(const char *verb)
{
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to use %s", verb),
				 errdetail("A fault point can make every session fail."),
				 errhint("Fault points are for rehearsals on a server that may crash.")));
	dw_check_writable(verb);
}

static char *
point_arg(FunctionCallInfo fcinfo, bool *after_commit)
{
	char	   *point = PG_ARGISNULL(0) ? "" : text_to_cstring(PG_GETARG_TEXT_PP(0));

	if (!dw_fault_known(point, after_commit))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown fault point \"%s\"", point),
				 errdetail("Known are %s.", dw_fault_points()),
				 errhint("SELECT point, description FROM dw_faults says what they are.")));
	return point;
}

static void
bad_value(const char *what, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("bad value for %s of a fault point", what),
			 errdetail("Nothing was armed."),
			 errhint("%s", hint)));
}

static int
sqlstate_arg(FunctionCallInfo fcinfo, int arg)
{
	char	   *s = PG_ARGISNULL(arg) ? "" : text_to_cstring(PG_GETARG_TEXT_PP(arg));

	if (strlen(s) != 5 || strspn(s, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") != 5 || strspn(s, "0") >= 2 || strncmp(s, "01", 2) == 0 || strncmp(s, "02", 2) == 0)
		bad_value("sqlstate", "Give five digits or capital letters of an error, such as 'XX000', '53100' or '40001'.");
	return MAKE_SQLSTATE(s[0], s[1], s[2], s[3], s[4]);
}

/* dw_fault(point, action, times, probability, delay, sqlstate, migration) */
Datum
dw_fault(PG_FUNCTION_ARGS)
{
	DwFault		f = {0};
	bool		after_commit;
	char	   *action;
	int			value;

	check_superuser("dw_fault()");
	strlcpy(f.point, point_arg(fcinfo, &after_commit), NAMEDATALEN);
	action = PG_ARGISNULL(1) ? "" : text_to_cstring(PG_GETARG_TEXT_PP(1));
	value = dw_enum_value(dw_fault_action_names, action);
	if (value < 0)
		bad_value("action", "Actions are error, crash and sleep.");
	f.action = value;
	if (after_commit && f.action == DW_FAULT_ERROR)
		bad_value("action", "The transaction has committed there: an error comes too late. Use crash or sleep, or the point before the commit.");
	f.times = PG_ARGISNULL(2) ? 0 : PG_GETARG_INT64(2);
	if (f.times < 0 || (f.times == 0 && !PG_ARGISNULL(2)))
		bad_value("times", "Give a number from 1 on, or null: no limit.");
	f.probability = PG_ARGISNULL(3) ? 0 : PG_GETARG_FLOAT8(3);
	if (!(f.probability > 0 && f.probability <= 1))
		bad_value("probability", "Give a number above 0 and up to 1.");
	if (!PG_ARGISNULL(4))
	{
		Interval   *delay = PG_GETARG_INTERVAL_P(4);

		f.delay_ms = delay->month * (double) DAYS_PER_MONTH * SECS_PER_DAY * 1000.0 + delay->day * (double) SECS_PER_DAY * 1000.0 + delay->time / 1000.0;
	}
	if (!(f.delay_ms > 0 && f.delay_ms <= 86400000.0))
		bad_value("delay", "Give an interval above 0 and up to a day.");
	f.sqlerrcode = sqlstate_arg(fcinfo, 5);
	if (!PG_ARGISNULL(6))
	{
		char	   *migration = text_to_cstring(PG_GETARG_TEXT_PP(6));

		/* it may be one that is still to begin */
		if (migration[0] == '\0' || strlen(migration) >= NAMEDATALEN)
			bad_value("migration", "Give the name of a migration, or null: any.");
		strlcpy(f.migration, migration, NAMEDATALEN);
	}
	if (!dw_fault_put(&f))
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no more than %d fault points can be armed at once", DW_MAX_FAULTS),
				 errdetail("Those whose times are used up count, too."),
				 errhint("SELECT dw_fault_off(point) disarms one, dw_fault_off() all.")));
	PG_RETURN_TEXT_P(cstring_to_text(psprintf("fault point \"%s\" is armed: %s", f.point, action)));
}

Datum
dw_fault_off(PG_FUNCTION_ARGS)
{
	int			n;

	check_superuser("dw_fault_off()");
	n = dw_fault_remove(PG_ARGISNULL(0) ? NULL : point_arg(fcinfo, NULL));
	PG_RETURN_TEXT_P(cstring_to_text(n == 0 ? "nothing to do: no fault point was armed" : psprintf("%d %s disarmed", n, n == 1 ? "fault point is" : "fault points are")));
}
