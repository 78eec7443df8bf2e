/*
 * window.c
 *		Option window.
 *
 * What counts is the wall clock of the zone, as PostgreSQL's own time zone
 * data tells it: a window from 01:00 to 05:00 is three hours long in the night
 * in which the clock goes forward and five in the one in which it goes back,
 * and 02:00-03:00 doesn't come at all in the former.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "window.h"

PG_FUNCTION_INFO_V1(dw_window_open_sql);

#define MINUTES_A_DAY (24 * 60)

/* "HH:MM" -> minutes, and what follows it; -1 if it is no time of a day */
static int
parse_time(const char **p)
{
	int			value[2] = {0, 0};

	for (int part = 0; part < 2; part++)
	{
		int			digits = 0;

		for (; **p >= '0' && **p <= '9' && digits < 2; (*p)++, digits++)
			value[part] = value[part] * 10 + (**p - '0');
		if (digits == 0 || (part == 1 && digits < 2))
			return -1;
		if (part == 0 && *(*p)++ != ':')
			return -1;
	}
	if (value[0] > 24 || value[1] > 59 || (value[0] == 24 && value[1] > 0))
		return -1;
	return value[0] * 60 + value[1];
}

bool
dw_window_parse(const char *text, DwWindow *window, const char **problem)
{
	const char *p = text;

	*problem = "It is not of the form HH:MM-HH:MM ZONE.";
	if ((window->from = parse_time(&p)) < 0 || *p++ != '-' || (window->to = parse_time(&p)) < 0 || *p != ' ')
		return false;
	while (*p == ' ')
		p++;
	if (*p == '\0')
		return false;
	*problem = "It begins and ends at the same time of the day.";
	if (window->from % MINUTES_A_DAY == window->to % MINUTES_A_DAY)
		return false;
	*problem = "There is no such time zone.";
	window->zone = strlen(p) <= TZ_STRLEN_MAX ? pg_tzset(p) : NULL;
	return window->zone != NULL && pg_tz_acceptable(window->zone);
}

/* Is it open at that instant? */
static bool
is_open(const DwWindow *window, pg_time_t at)
{
	struct pg_tm *local = pg_localtime(&at, window->zone);
	int			minute;

	if (local == NULL)
		return false;			/* a year that no calendar has */
	minute = local->tm_hour * 60 + local->tm_min;
	if (window->from < window->to)
		return minute >= window->from && minute < window->to;
	return minute >= window->from || minute < window->to;
}

int
dw_window_opens_in(const DwWindow *window, pg_time_t at)
{
	/* whole minutes of every zone in use are whole minutes of UTC */
	pg_time_t	then = is_open(window, at) ? at : at - at % 60;

	/* two days: one may have no such time */
	for (int i = 0; i <= 2 * MINUTES_A_DAY && !is_open(window, then); i++)
		then += 60;
	return (int) (then - at);
}

/* dualwrite.window_open(window, at): what the worker would find */
Datum
dw_window_open_sql(PG_FUNCTION_ARGS)
{
	char	   *value = text_to_cstring(PG_GETARG_TEXT_PP(0));
	TimestampTz at = PG_GETARG_TIMESTAMPTZ(1);
	DwWindow	window;
	const char *problem;

	if (!dw_window_parse(value, &window, &problem))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not a window", value),
				 errdetail("%s", problem),
				 errhint("For example '01:00-05:00 Europe/Berlin'.")));
	if (TIMESTAMP_NOT_FINITE(at))
		PG_RETURN_BOOL(false);
	PG_RETURN_BOOL(is_open(&window, timestamptz_to_time_t(at)));
}
