/*
 * throttle-model.c
 *		Replica lag over time under the throttle of pg_dualwrite, and under a
 *		plain threshold rule: src/pace.c itself against a model of a primary and a
 *		standby.
 *
 * The primary's application writes WAL at a steady rate, the backfill in
 * batches; the standby replays what it got, in order, as fast as it can, which
 * changes over the minutes.  Lag is the age of the oldest byte not yet
 * replayed, looked at once a second.
 *
 * Prints second, lag under the throttle, lag under the rule, and the WAL that
 * the backfill has written so far under either, in MB.
 */
#include "postgres.h"

#undef printf
#include <stdio.h>
#include <stdlib.h>

#include "pace.h"

#define MB (1024.0 * 1024.0)
#define SECONDS 300
#define APPLICATION (10 * MB)	/* a second */
#define BACKFILL (80 * MB)		/* a second, inside a batch */
#define BATCH_MS 2.0
#define STOP_S 5.0

/* What the standby replays in a second: plenty; busy with queries; hung; a slow disk. */
static double
capacity(double t)
{
	if (t < 60)
		return 28 * MB;
	if (t < 140)
		return 16 * MB;
	if (t < 180)
		return 28 * MB;
	if (t < 192)
		return 0;
	return 22 * MB;
}

/* WAL in milliseconds: how much had been written by then */
static double written[SECONDS * 1000 + 1];

static void
run(bool throttle, double *lag_at, double *done_at)
{
	DwPace		pace;
	double		total = 0;
	double		replayed = 0;
	double		backfilled = 0;
	double		wait = 0;		/* ms until the next batch */
	double		batch_left = 0;
	double		batch_wal = 0;
	double		since = 0;
	bool		stopped = false;
	int			oldest = 0;

	dw_pace_init(&pace);
	for (int ms = 0; ms < SECONDS * 1000; ms++)
	{
		double		lag;

		total += APPLICATION / 1000;
		since++;
		if (batch_left > 0)
		{
			total += BACKFILL / 1000;
			backfilled += BACKFILL / 1000;
			batch_wal += BACKFILL / 1000;
			if (--batch_left <= 0)
			{
				DwPaceBatch b = {.rows = 100,.wal = batch_wal,.ms = BATCH_MS,.duty_rest = 1,.cycle_ms = since,.target_ms = BATCH_MS,.workers = 1};
				DwLimit		why;

				pace.max_rows = 400;
				wait = throttle ? dw_pace_next(&pace, &b, &why) : BATCH_MS;
				since = 0;
			}
		}
		else if (wait > 0)
			wait--;
		else if (!(throttle ? pace.stopped && !pace.let_one : stopped))
		{
			batch_left = BATCH_MS;
			batch_wal = 0;
		}
		written[ms] = total;
		replayed = Min(replayed + capacity(ms / 1000.0) / 1000, total);
		while (oldest < ms && written[oldest] <= replayed)
			oldest++;
		lag = written[oldest] > replayed ? (ms - oldest) / 1000.0 : 0;
		if (ms % 1000 == 999)
		{
			DwReading	r = {.on = true,.known = true,.budget = true,.shape = DW_QUEUE,.value = lag,.soft = STOP_S / 2,.stop = STOP_S};

			if (throttle)
				dw_pace_tick(&pace, 1, &r, 1, 0);
			stopped = lag > STOP_S;
			lag_at[ms / 1000] = lag;
			done_at[ms / 1000] = backfilled / MB;
		}
	}
}

int
main(void)
{
	static double lag[2][SECONDS];
	static double done[2][SECONDS];

	run(true, lag[0], done[0]);
	run(false, lag[1], done[1]);
	for (int t = 0; t < SECONDS; t++)
		printf("%d %.3f %.3f %.0f %.0f\n", t + 1, lag[0][t], lag[1][t], done[0][t], done[1][t]);
	return 0;
}
