/*
 * pace.c
 *		The backfill's pace.
 *
 * Two loops.  The size of a batch follows its duration: row locks last until
 * commit, so what the application can feel is the length of one transaction.
 * The rest after a batch is as long as the batch (half duty), so that there is
 * as much room for others as for us; a limit on rows per second is a token
 * bucket that holds one second at most.
 */
#include "pace.h"

void
dw_pace_init(DwPace *pace)
{
	pace->max_rows = 50;
	pace->tokens = 0;
	pace->rows_per_second = 0;
}

double
dw_pace_next(DwPace *pace, int rows, double ms, double cycle_ms, double target_ms, int limit, bool *limited)
{
	double		rest = ms;

	/* only a full batch says how many rows fit; damped, because batches differ */
	if (rows >= pace->max_rows || ms > target_ms)
	{
		double		factor = ms > 0 ? target_ms / ms : 2;

		factor = Min(Max(factor, 0.5), 1.5);
		pace->max_rows = Min(Max((int) (pace->max_rows * factor + 0.5), 1), DW_PACE_MAX_ROWS);
	}
	if (cycle_ms > 0)
	{
		double		weight = Min(cycle_ms / 2000, 1);

		pace->rows_per_second += weight * (rows * 1000.0 / cycle_ms - pace->rows_per_second);
	}

	*limited = false;
	if (limit > 0)
	{
		pace->tokens = Min(pace->tokens + limit * cycle_ms / 1000, limit) - rows;
		if (pace->tokens < 0 && -pace->tokens * 1000 / limit > rest)
		{
			rest = -pace->tokens * 1000 / limit;
			*limited = true;
		}
	}
	else
		pace->tokens = 0;
	return rest;
}
