/*
 * pace.c
 *		The backfill's pace.
 *
 * Three loops.  The size of a batch follows its duration: row locks last until
 * commit, so what the application can feel is the length of one transaction.
 * It rests as long as it works (half duty), or longer where it is in others'
 * way (others.c), after each burst and after the batch.  And the WAL that may
 * be written in a second follows the health of the database: a token bucket
 * that fills at wal_rate, which a tick a second sets from the signals.
 *
 * A signal's load is 0.5 at its soft value and 1 at its stop value.
 *
 *	 load >= 1		stop, and halve the rate; go on when the signal that stopped
 *					has come down to 0.4 (a level: 0.75)
 *	 0.5 to 1		rate x 0.7
 *	 below 0.5		rate x 1.05, if what it allows is being used; x 1.15 while
 *					it is far below the rate at which it was slowed last, and
 *					when nothing has slowed it for 10 s; x 1.5 until something
 *					does for the first time
 *	 queues, 0.05 to 0.5	rate x 1 to x 0.7, in proportion
 *
 * Queues (lag, files waiting for the archive) fill as long as more comes than
 * goes.  A rule that lets the rate grow until the threshold and shrink above it
 * makes the threshold the place where lag lives; so growing ends when there is
 * lag at all that can be told from none.  A queue that grows is taken for what
 * it will be in three seconds, because what is on its way to a standby can't be
 * taken back; one that shrinks is left to it.
 *
 * The rate starts low: what is too much for a standby or the archive is on its
 * way before a tick can see it.  Where there is neither, it starts at what a
 * processor can write; too much for the disk, it is slowed by the next tick.
 *
 * A level, such as a disk that fills up, doesn't fall because the rate does.
 * Shrinking by 0.7 each second would end at nothing, on a disk that is 86 % full
 * for years.  So a level only sets a ceiling, from the starting rate at 0.5 down
 * to the lowest at 1.
 *
 * The numbers come from test/bench/throttle, which runs this file against a
 * model of a standby that is slowed down and hangs for a while (doc/throttle.svg).
 * Mean lag but for the half minute around the hang, and WAL written in five
 * minutes:
 *
 *	 as it stands						0.34 s	3325 MB
 *	 queues grow up to 0.5				1.10 s	2605 MB
 *	 without the look ahead				0.51 s	2911 MB
 *	 x 0.9 instead of x 0.7				0.69 s	3356 MB
 *	 x 1.05 instead of x 1.15			0.25 s	3038 MB
 *	 a threshold: pause above 5 s		6.14 s	3648 MB
 *
 * Signals that can't be read: a budget signal (something would break) stops the
 * work after 15 s; a load signal (somebody would have to wait) never does.  The
 * rate doesn't grow meanwhile.  When load signals alone have stopped the work
 * for a minute, one batch is let through, so that a threshold that is wrong for
 * this server makes the work slow, not endless.
 */
#include "pace.h"

#define START_RATE		(16.0 * 1024 * 1024)	/* one WAL segment a second */
#define START_RATE_FREE	(64.0 * 1024 * 1024)	/* ... where nobody follows the WAL */
#define LOWEST_RATE		(256.0 * 1024)
#define HIGHEST_RATE	1e12

/* what the bucket holds, in seconds: a second of rest must not become a burst */
#define BUCKET_SECONDS	0.25

#define LOOK_AHEAD_S	3.0
#define UNREADABLE_S	15.0
#define LET_ONE_S		60.0

#define LOAD_GROW		0.05
#define LOAD_SOFT		0.5
#define LOAD_GO			0.4
#define LOAD_GO_LEVEL	0.75

#define GROW_RAMP		1.5
#define GROW			1.05
#define GROW_BACK		1.15
#define NEAR_KNEE		0.75
#define CALM_S			10.0
#define SHRINK			0.7

void
dw_pace_init(DwPace *pace)
{
	memset(pace, 0, sizeof(*pace));
	pace->max_rows = 50;
	pace->wal_rate = START_RATE;
	pace->ramp = true;
	pace->ruling = -1;
	pace->cause = -1;
}

/* ---- after each batch ---- */

/* only a full batch says how many rows fit; damped, because batches differ */
static void
adapt_rows(DwPace *pace, const DwPaceBatch *b)
{
	double		factor;

	if (b->rows < pace->max_rows && b->ms <= b->target_ms)
		return;
	factor = b->ms > 0 ? b->target_ms / b->ms : 2;
	factor = Min(Max(factor, 0.5), 1.5);
	pace->max_rows = Min(Max((int) (pace->max_rows * factor + 0.5), 1), DW_PACE_MAX_ROWS);
}

/* Takes `used` out of a bucket that has been filling; returns how long it must fill until there is some again, in ms. */
static double
take(double *tokens, double per_second, double bucket_seconds, double cycle_ms, double used)
{
	*tokens = Min(*tokens + per_second * cycle_ms / 1000, per_second * bucket_seconds) - used;
	return *tokens < 0 ? -*tokens * 1000 / per_second : 0;
}

double
dw_pace_duty_rest(const DwPaceBatch *b)
{
	return Max((b->ms - b->rested_ms) * b->duty_rest - b->rested_ms, 0);
}

double
dw_pace_next(DwPace *pace, const DwPaceBatch *b, DwLimit *why)
{
	/* the commit and what comes before the next batch are work, too */
	double		rest = Max(dw_pace_duty_rest(b), Min(b->ms, DW_BURST_MS));
	double		rate = pace->wal_rate;
	int			workers = Max(b->workers, 1);
	double		wait;

	adapt_rows(pace, b);
	if (b->cycle_ms > 0)
	{
		double		weight = Min(b->cycle_ms / 2000, 1);

		pace->rows_per_second += weight * (b->rows * 1000.0 / b->cycle_ms - pace->rows_per_second);
	}
	pace->wal_written += b->wal;
	pace->started = true;

	*why = DW_LIMIT_NONE;
	if (b->max_wal_per_second > 0 && rate >= b->max_wal_per_second)
		rate = b->max_wal_per_second;
	wait = take(&pace->wal_tokens, rate / workers, BUCKET_SECONDS, b->cycle_ms, b->wal);
	if (wait > rest)
	{
		rest = wait;
		*why = rate == b->max_wal_per_second ? DW_LIMIT_WAL_OPTION : DW_LIMIT_WAL;
	}
	if (b->max_rows_per_second > 0)
	{
		wait = take(&pace->tokens, (double) b->max_rows_per_second / workers, 1, b->cycle_ms, b->rows);
		if (wait > rest)
		{
			rest = wait;
			*why = DW_LIMIT_ROWS;
		}
	}
	else
		pace->tokens = 0;
	return rest;
}

void
dw_pace_shrink(DwPace *pace)
{
	pace->max_rows = 1;
}

/* ---- once a second ---- */

static double
load_of(const DwReading *r, double value)
{
	if (r->forced)
		return Max(1, r->stop > 0 ? value / r->stop : 1);
	if (value >= r->stop)
		return r->stop > 0 ? value / r->stop : 1;
	if (value <= 0 || r->soft <= 0)
		return 0;
	if (value < r->soft)
		return LOAD_SOFT * value / r->soft;
	return LOAD_SOFT + (1 - LOAD_SOFT) * (value - r->soft) / (r->stop - r->soft);
}

double
dw_pace_load(const DwReading *r)
{
	return load_of(r, r->value);
}

/*
 * The load of signal i now, and what it will be if it goes on rising, which is
 * never a stop.  *hold: it can't be read, so let nothing grow.
 */
static double
judge(DwPace *pace, int i, const DwReading *r, double seconds, double *ahead, bool *hold)
{
	double		load;

	*ahead = 0;
	if (!r->known)
	{
		pace->seen[i] = false;
		pace->unread_s[i] += seconds;
		*hold = true;

		/* what had stopped goes on stopping */
		return (r->budget && pace->unread_s[i] >= UNREADABLE_S) || pace->stopping[i] ? 1 : 0;
	}
	pace->unread_s[i] = 0;
	load = load_of(r, r->value);
	*ahead = load;
	if (r->shape != DW_QUEUE)
	{
		/* below soft a gauge has no opinion */
		if (load < LOAD_SOFT)
			*ahead = 0;
	}
	else if (pace->seen[i] && seconds > 0)
	{
		double		later = r->value + (r->value - pace->last[i]) * LOOK_AHEAD_S / seconds;

		if (later > r->value)
			*ahead = Max(load, Min(load_of(r, later), 0.99));
		else if (load < LOAD_SOFT && later < r->value)
			*ahead = Min(load, LOAD_GROW);	/* it is going down: the rate is right */
	}
	pace->last[i] = r->value;
	pace->seen[i] = true;
	return load;
}

/* What the rate is multiplied with at this load. */
static double
factor_at(const DwPace *pace, double load)
{
	if (load < LOAD_GROW)
		return pace->ramp ? GROW_RAMP : pace->wal_rate < pace->knee * NEAR_KNEE || pace->calm_s >= CALM_S ? GROW_BACK : GROW;
	if (load >= LOAD_SOFT)
		return SHRINK;
	return 1 - (1 - SHRINK) * (load - LOAD_GROW) / (LOAD_SOFT - LOAD_GROW);
}

/* what the signals of a tick come to */
typedef struct Tick
{
	bool		hold;			/* the rate doesn't grow: a signal can't be read */
	bool		budget;			/* a budget signal is among those that stop */
	bool		halve;			/* one has just stopped that the rate can help */
	double		ceiling;		/* of the rate, by the levels */
	int			level;			/* ... and the one that sets it; -1: none */
	bool		queues;			/* there is one that could grow */
	double		flow_load;		/* the highest load that the rate answers for */
	int			flow;			/* ... and its signal; -1: none */
} Tick;

/* Adds a signal to what the tick comes to. */
static void
weigh(DwPace *pace, int i, const DwReading *r, double seconds, Tick *t)
{
	bool		was = pace->stopping[i];
	double		ahead;
	double		load;

	if (!r->on)
	{
		pace->stopping[i] = false;
		pace->unread_s[i] = 0;
		pace->seen[i] = false;
		return;
	}
	t->queues |= r->shape == DW_QUEUE;
	load = judge(pace, i, r, seconds, &ahead, &t->hold);
	pace->stopping[i] = load >= 1 || (was && load >= (r->shape == DW_LEVEL ? LOAD_GO_LEVEL : LOAD_GO));
	if (pace->stopping[i])
	{
		pace->stopped = true;
		t->budget |= r->budget;
		t->halve |= !was && r->known && r->soft > 0;
	}
	/* one that stops rules over one that doesn't, whatever their loads */
	if (load > 0 && (pace->ruling < 0 || pace->stopping[i] > pace->stopping[pace->ruling] ||
					 (pace->stopping[i] == pace->stopping[pace->ruling] && load > pace->load)))
	{
		pace->ruling = i;
		pace->load = load;
	}
	if (r->shape == DW_LEVEL)
	{
		double		c = START_RATE * 2 * (1 - Min(load, 1));

		if (r->known && load > LOAD_SOFT && c < t->ceiling)
		{
			t->ceiling = c;
			t->level = i;
		}
	}
	else if (ahead > t->flow_load)
	{
		t->flow_load = ahead;
		t->flow = i;
	}
}

static void
set_rate(DwPace *pace, double factor, const Tick *t, double seconds, double max_wal_per_second)
{
	double		used = seconds > 0 ? pace->wal_written / seconds : 0;

	if (factor < 1)
	{
		/* what it allows and nobody used doesn't count: shrinking has to be felt at once */
		if (used > LOWEST_RATE && used < pace->wal_rate)
			pace->wal_rate = Max(used, pace->wal_rate / 4);
		if (!pace->shrinking)
			pace->knee = pace->wal_rate;
		pace->wal_rate *= factor;
		pace->cause = t->flow;
		pace->ramp = false;
	}
	else if (!t->hold && !pace->stopped && used > pace->wal_rate * 0.7)
		pace->wal_rate *= factor;
	pace->calm_s = factor < 1 || pace->stopped ? 0 : pace->calm_s + seconds;
	pace->shrinking = factor < 1;
	if (pace->wal_rate > t->ceiling)
	{
		pace->wal_rate = t->ceiling;
		pace->cause = t->level;
		pace->ramp = false;
	}
	if (max_wal_per_second > 0)
		pace->wal_rate = Min(pace->wal_rate, max_wal_per_second);
	pace->wal_rate = Max(pace->wal_rate, LOWEST_RATE);
	pace->wal_rate = Min(pace->wal_rate, HIGHEST_RATE);
	pace->wal_used = used;
	pace->wal_written = 0;
}

void
dw_pace_tick(DwPace *pace, int n, const DwReading *readings, double seconds, double max_wal_per_second)
{
	bool		was_stopped = pace->stopped;
	Tick		t = {.ceiling = HIGHEST_RATE,.flow = -1,.level = -1};
	double		factor;

	pace->stopped = false;
	pace->ruling = -1;
	pace->load = 0;
	for (int i = 0; i < n; i++)
		weigh(pace, i, &readings[i], seconds, &t);

	if (!pace->started)
		pace->wal_rate = t.queues ? START_RATE : START_RATE_FREE;
	factor = factor_at(pace, t.flow_load);
	if (t.halve)
	{
		factor = 0.5;
		if (t.flow < 0)
			t.flow = pace->ruling;
	}
	else if (pace->stopped)
		factor = 1;				/* it has been halved; what follows is the old rate's doing */
	set_rate(pace, factor, &t, seconds, max_wal_per_second);

	pace->stopped_s = pace->stopped && was_stopped ? pace->stopped_s + seconds : 0;
	pace->let_one = pace->stopped && !t.budget && pace->stopped_s >= LET_ONE_S;
	if (pace->let_one)
		pace->stopped_s = 0;
}
