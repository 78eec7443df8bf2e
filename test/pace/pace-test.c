/*
 * pace-test.c
 *		The arithmetic of src/pace.c, without a server; TAP on stdout.
 */
#include "postgres.h"

#undef printf
#undef vprintf
#include <stdio.h>
#include <stdlib.h>
#include <math.h>

#include "pace.h"

#define MB (1024.0 * 1024.0)

static int	count = 0;
static int	failed = 0;

static void
ok(bool good, const char *name)
{
	count++;
	if (!good)
		failed++;
	printf("%sok %d - %s\n", good ? "" : "not ", count, name);
}

static void
near(double got, double expected, const char *name)
{
	bool		good = fabs(got - expected) <= 1e-6 * Max(fabs(expected), 1);

	ok(good, name);
	if (!good)
		printf("# got %g, expected %g\n", got, expected);
}

static DwReading
gauge(double value, double soft, double stop)
{
	return (DwReading) {.on = true,.known = true,.value = value,.soft = soft,.stop = stop};
}

static DwReading
queue(double value)
{
	return (DwReading) {.on = true,.known = true,.budget = true,.shape = DW_QUEUE,.value = value,.soft = 2.5,.stop = 5};
}

static DwReading
level(double value)
{
	return (DwReading) {.on = true,.known = true,.budget = true,.shape = DW_LEVEL,.value = value,.soft = 85,.stop = 95};
}

/* one tick of a second, in which all that was allowed has been written */
static void
tick(DwPace *p, DwReading r)
{
	p->wal_written = p->wal_rate;
	dw_pace_tick(p, 1, &r, 1, 0);
}

/* a batch that writes nothing */
static void
batch(DwPace *p)
{
	DwPaceBatch b = {.target_ms = 2,.duty_rest = 1,.workers = 1};
	DwLimit		why;

	dw_pace_next(p, &b, &why);
}

/* a pace that had seen a standby when it began */
static void
begin(DwPace *p)
{
	DwReading	r = queue(0);

	dw_pace_init(p);
	dw_pace_tick(p, 1, &r, 0, 0);
	batch(p);
}

static void
loads(void)
{
	DwReading	r = gauge(0, 50, 100);

	near(dw_pace_load(&r), 0, "nothing is no load");
	r.value = 25;
	near(dw_pace_load(&r), 0.25, "half of soft is a quarter");
	r.value = 50;
	near(dw_pace_load(&r), 0.5, "soft is a half");
	r.value = 75;
	near(dw_pace_load(&r), 0.75, "between soft and stop, in proportion");
	r.value = 100;
	near(dw_pace_load(&r), 1, "stop is 1");
	r.value = 300;
	near(dw_pace_load(&r), 3, "beyond stop it goes on");
	r.value = -5;
	near(dw_pace_load(&r), 0, "below nothing is nothing");
	r = gauge(0.9, 0, 1);
	near(dw_pace_load(&r), 0, "a switch that is off");
	r.value = 1;
	near(dw_pace_load(&r), 1, "a switch that is on");
	r = gauge(3, 21, 42);
	r.forced = true;
	near(dw_pace_load(&r), 1, "forced");
	r.value = 84;
	near(dw_pace_load(&r), 2, "forced, and beyond stop");
}

static void
stopping(void)
{
	DwPace		p;
	double		rate;

	begin(&p);
	near(p.wal_rate, 16 * MB, "it begins at a segment a second");
	dw_pace_init(&p);
	dw_pace_tick(&p, 1, (DwReading[]) {gauge(0, 50, 100)}, 0, 0);
	near(p.wal_rate, 64 * MB, "... where nobody follows the WAL, at four");
	dw_pace_tick(&p, 1, (DwReading[]) {queue(0)}, 0, 0);
	near(p.wal_rate, 16 * MB, "... unless somebody comes before the first batch");
	dw_pace_tick(&p, 1, (DwReading[]) {gauge(0, 50, 100)}, 0, 0);
	batch(&p);
	dw_pace_tick(&p, 1, (DwReading[]) {queue(0)}, 0, 0);
	near(p.wal_rate, 64 * MB, "... but not after it");
	begin(&p);
	ok(!p.stopped && p.ruling == -1, "... and free");
	rate = p.wal_rate;
	tick(&p, gauge(100, 50, 100));
	ok(p.stopped && p.ruling == 0, "at stop it stops");
	near(p.wal_rate, rate / 2, "... at half the rate");
	near(p.load, 1, "... and says the load");
	tick(&p, gauge(120, 50, 100));
	tick(&p, gauge(70, 50, 100));
	ok(p.stopped, "between stop and 0.4 it stays stopped");
	tick(&p, gauge(40, 50, 100));
	ok(p.stopped, "at 0.4, too");
	near(p.wal_rate, rate / 2, "... and the rate is halved once, not each tick");
	tick(&p, gauge(39, 50, 100));
	ok(!p.stopped, "below 0.4 it goes on");
	tick(&p, gauge(70, 50, 100));
	ok(!p.stopped, "... until stop again");
	tick(&p, gauge(100, 50, 100));
	near(p.wal_rate, rate / 2 * 1.15 * 0.7 * 0.5, "grown, shrunk, halved");
}

static void
shrinking(void)
{
	DwPace		p;
	double		rate;

	begin(&p);
	tick(&p, gauge(0, 50, 100));
	near(p.wal_rate, 24 * MB, "x 1.5 until it is slowed for the first time");
	tick(&p, gauge(49, 50, 100));
	near(p.wal_rate, 36 * MB, "below soft a gauge doesn't matter");
	tick(&p, gauge(50, 50, 100));
	near(p.wal_rate, 36 * MB * 0.7, "from soft on x 0.7");
	ok(p.cause == 0 && p.ruling == 0, "... which says why");
	tick(&p, gauge(99, 50, 100));
	near(p.wal_rate, 36 * MB * 0.49, "... each tick");
	rate = p.wal_rate;
	tick(&p, gauge(10, 50, 100));
	near(p.wal_rate, rate * 1.15, "far below the knee it grows faster");
	while (p.wal_rate < 36 * MB * 0.75)
		tick(&p, gauge(0, 50, 100));
	rate = p.wal_rate;
	tick(&p, gauge(0, 50, 100));
	near(p.wal_rate, rate * 1.05, "near the knee slowly");
	for (int i = 0; i < 10; i++)
		tick(&p, gauge(0, 50, 100));
	rate = p.wal_rate;
	tick(&p, gauge(0, 50, 100));
	near(p.wal_rate, rate * 1.15, "... and faster again after ten calm seconds");

	rate = p.wal_rate;
	p.wal_written = rate * 0.5;
	dw_pace_tick(&p, 1, (DwReading[]) {gauge(0, 50, 100)}, 1, 0);
	near(p.wal_rate, rate, "it doesn't grow while it isn't used");
	p.wal_written = rate * 0.5;
	dw_pace_tick(&p, 1, (DwReading[]) {gauge(60, 50, 100)}, 1, 0);
	near(p.wal_rate, rate * 0.5 * 0.7, "shrinking begins at what was used");
	for (int i = 0; i < 100; i++)
		tick(&p, gauge(90, 50, 100));
	near(p.wal_rate, 256 * 1024, "there is a lowest rate");

	begin(&p);
	p.wal_written = p.wal_rate;
	dw_pace_tick(&p, 1, (DwReading[]) {gauge(0, 50, 100)}, 1, 2 * MB);
	near(p.wal_rate, 2 * MB, "max_wal_per_second is never passed");
}

static void
queues(void)
{
	DwPace		p;
	double		rate;

	begin(&p);
	tick(&p, queue(0));
	rate = p.wal_rate;
	tick(&p, queue(0.25));
	near(p.wal_rate, rate * (1 - 0.3 * (0.2 - 0.05) / 0.45), "a queue that grows counts for what it will be in three seconds");
	rate = p.wal_rate;
	tick(&p, queue(1));
	near(p.wal_rate, rate * 0.7, "... which is soft here");
	ok(!p.stopped, "... but is never a stop");
	rate = p.wal_rate;
	tick(&p, queue(0.9));
	near(p.wal_rate, rate, "one that shrinks is left to it");
	tick(&p, queue(0.9));
	near(p.wal_rate, rate * (1 - 0.3 * (0.18 - 0.05) / 0.45), "one that stays is shrunk a little");
	rate = p.wal_rate;
	tick(&p, queue(3));
	tick(&p, queue(2.9));
	near(p.wal_rate, rate * 0.49, "above soft also one that shrinks");
	rate = p.wal_rate;
	tick(&p, queue(0.1));
	ok(p.wal_rate > rate, "near nothing it grows");
	tick(&p, queue(5));
	ok(p.stopped, "stop");
}

static void
levels(void)
{
	DwPace		p;

	begin(&p);
	for (int i = 0; i < 20; i++)
		tick(&p, level(80));
	ok(p.wal_rate > 100 * MB, "below soft a level doesn't matter");
	for (int i = 0; i < 200; i++)
		tick(&p, level(87.5));
	near(p.wal_rate, 16 * 0.75 * MB, "above it sets a ceiling, and no more");
	ok(p.cause == 0 && !p.stopped, "... which says why");
	for (int i = 0; i < 200; i++)
		tick(&p, level(94));
	near(p.wal_rate, 16 * 0.1 * MB, "... a lower one near stop");
	tick(&p, level(95));
	ok(p.stopped, "stop");
	tick(&p, level(91));
	ok(p.stopped, "above 0.75 it stays so");
	tick(&p, level(89.9));
	ok(!p.stopped, "below it goes on");
}

static void
unreadable(void)
{
	DwPace		p;
	DwReading	r = queue(0);
	DwReading	l = gauge(0, 50, 100);
	double		rate;

	begin(&p);
	tick(&p, r);
	rate = p.wal_rate;
	r.known = false;
	for (int i = 0; i < 14; i++)
		tick(&p, r);
	ok(!p.stopped, "a budget signal that can't be read for 14 seconds");
	near(p.wal_rate, rate, "... keeps the rate from growing");
	tick(&p, r);
	ok(p.stopped && p.ruling == 0, "... and stops after 15");
	near(p.wal_rate, rate, "... without halving it");
	for (int i = 0; i < 300; i++)
	{
		tick(&p, r);
		if (p.let_one)
			break;
	}
	ok(!p.let_one, "no batch is let past it");
	tick(&p, queue(0));
	ok(!p.stopped, "read again, it goes on at once");
	for (int i = 0; i < 14; i++)
		tick(&p, r);
	ok(!p.stopped, "the seconds are counted anew");

	begin(&p);
	l.known = false;
	rate = p.wal_rate;
	for (int i = 0; i < 300; i++)
		tick(&p, l);
	ok(!p.stopped, "a load signal that can't be read never stops");
	near(p.wal_rate, rate, "... but holds the rate");
	tick(&p, gauge(100, 50, 100));
	tick(&p, l);
	ok(p.stopped, "one that had stopped goes on stopping");
	l.on = false;
	tick(&p, l);
	ok(!p.stopped, "one that isn't there any more doesn't");
}

static void
let_one(void)
{
	DwPace		p;
	DwReading	r[2] = {gauge(200, 50, 100), queue(0)};
	int			lets = 0;

	begin(&p);
	for (int i = 0; i <= 180; i++)
	{
		dw_pace_tick(&p, 2, r, 1, 0);
		lets += p.let_one;
		p.let_one = false;
	}
	ok(lets == 3 && p.stopped, "stopped by load alone, one batch a minute is let through");
	r[1].value = 10;
	lets = 0;
	for (int i = 0; i <= 180; i++)
	{
		dw_pace_tick(&p, 2, r, 1, 0);
		lets += p.let_one;
	}
	ok(lets == 0, "never past a budget signal");
	r[0].value = 0;
	r[1].value = 3;
	dw_pace_tick(&p, 2, r, 1, 0);
	ok(p.stopped && p.ruling == 1, "... which rules until it is below 0.4");
	r[1].value = 1;
	dw_pace_tick(&p, 2, r, 1, 0);
	ok(!p.stopped && p.ruling == 1, "the worst rules");

	/* a switch stops, and lets go with the rate that was there */
	begin(&p);
	tick(&p, gauge(60, 50, 100));
	r[0] = gauge(1, 0, 1);
	r[0].budget = true;
	{
		double		rate = p.wal_rate;

		dw_pace_tick(&p, 1, r, 1, 0);
		ok(p.stopped, "a switch stops");
		near(p.wal_rate, rate, "... and leaves the rate alone");
		r[0].value = 0;
		dw_pace_tick(&p, 1, r, 1, 0);
		ok(!p.stopped, "... and lets go");
	}
}

static void
batches(void)
{
	DwPace		p;
	DwPaceBatch b = {.rows = 50,.wal = 0,.ms = 1,.duty_rest = 1,.cycle_ms = 2,.target_ms = 2,.workers = 1};
	DwLimit		why;
	double		rest = 0;
	double		ms = 0;
	double		rows = 0;

	begin(&p);
	near(dw_pace_next(&p, &b, &why), 1, "the rest is as long as the batch");
	ok(why == DW_LIMIT_NONE && p.max_rows == 75, "a batch that was short makes the next one larger");
	b.ms = 20;
	b.rows = 75;
	dw_pace_next(&p, &b, &why);
	ok(p.max_rows == 38, "one that was long makes it smaller, by half at most");
	b.ms = 1;
	b.rows = 3;
	dw_pace_next(&p, &b, &why);
	ok(p.max_rows == 38, "one that wasn't full says nothing");
	dw_pace_shrink(&p);
	ok(p.max_rows == 1, "cut short");
	for (int i = 0; i < 50; i++)
	{
		b.rows = p.max_rows;
		b.ms = 0.1;
		dw_pace_next(&p, &b, &why);
	}
	ok(p.max_rows == DW_PACE_MAX_ROWS, "there is a largest batch");

	b = (DwPaceBatch) {.rows = 50,.ms = 3,.rested_ms = 1.5,.duty_rest = 2,.cycle_ms = 4,.target_ms = 2,.workers = 1};
	near(dw_pace_next(&p, &b, &why), 1.5, "what has been rested on the way counts");
	near(dw_pace_duty_rest(&b), 1.5, "... and can be told without");
	b.rested_ms = 2;
	near(dw_pace_next(&p, &b, &why), 0.2, "who has rested enough rests for a burst: the commit is work, too");
	b.rested_ms = 0;
	b.duty_rest = 4;
	near(dw_pace_next(&p, &b, &why), 12, "four times as long as it worked");

	/* rows, over a minute */
	for (int workers = 1; workers <= 3; workers += 2)
	{
		begin(&p);
		rest = ms = rows = 0;
		b = (DwPaceBatch) {.rows = 20,.ms = 2,.duty_rest = 1,.target_ms = 2,.max_rows_per_second = 300,.workers = workers};
		while (ms < 60000)
		{
			b.cycle_ms = 2 + rest;
			rest = dw_pace_next(&p, &b, &why);
			rows += b.rows;
			ms += 2 + rest;
		}
		ok(why == DW_LIMIT_ROWS && fabs(rows * 1000 / ms - 300.0 / workers) < 10, workers == 1 ? "max_rows_per_second holds" : "... shared by three");
	}

	/* WAL, over a minute */
	for (int option = 0; option <= 1; option++)
	{
		double		wal = 0;

		begin(&p);
		rest = ms = 0;
		b = (DwPaceBatch) {.rows = 20,.wal = 100000,.ms = 2,.duty_rest = 1,.target_ms = 2,.max_wal_per_second = option ? 5 * MB : 0,.workers = 2};
		while (ms < 60000)
		{
			b.cycle_ms = 2 + rest;
			rest = dw_pace_next(&p, &b, &why);
			wal += b.wal;
			ms += 2 + rest;
		}
		ok(why == (option ? DW_LIMIT_WAL_OPTION : DW_LIMIT_WAL) && fabs(wal * 1000 / ms / (option ? 2.5 * MB : 8 * MB) - 1) < 0.05,
		   option ? "max_wal_per_second holds, shared by two" : "the rate holds, shared by two");
	}

	/* a long pause saves up a quarter of a second, no more */
	begin(&p);
	b = (DwPaceBatch) {.wal = 8 * MB,.ms = 2,.duty_rest = 1,.cycle_ms = 1e6,.target_ms = 2,.workers = 1};
	near(dw_pace_next(&p, &b, &why), 250, "a pause doesn't become a burst");
}

int
main(void)
{
	loads();
	stopping();
	shrinking();
	queues();
	levels();
	unreadable();
	let_one();
	batches();
	printf("1..%d\n", count);
	return failed > 0;
}
