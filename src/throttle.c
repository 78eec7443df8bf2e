/*
 * throttle.c
 *		Holds the worker's steps back, and says why.
 *
 * A closed loop.  Once a second a tick reads the health signals (signal.c) and
 * gives them to the pace (pace.c), which says how much WAL may be written in a
 * second, or that nothing may happen at all.  Before a step the worker asks
 * whether it may; after it, it rests for as long as the pace says.
 *
 * A tick holds no lock and no snapshot: each signal is a transaction of its own,
 * and where others are busy it rests in between.  No step is open while the
 * worker rests (but for the short rests within a batch, burst.h).
 *
 * Time that was held back is added up by what ruled, and stored with the
 * worker's report, once a second.  What half duty asks for is not counted: that
 * is the pace of a healthy database.
 *
 * Row locks.  A batch ends by itself after batch_time, but one row may take
 * longer: a slow expression, a disk that stalls.  The rows before it in the
 * batch are locked meanwhile, so when the first of them has been for half a
 * second, a timer cancels the statement.  What follows is a batch of one row,
 * which is not cancelled; and when it is the slow row's turn again, it is the
 * first of its batch, so that nothing is locked while it is computed.  The
 * handler, which looks every tenth of a second, only sets flags.
 */
#include "postgres.h"

#include <math.h>

#include "access/xact.h"
#include "executor/instrument.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "burst.h"
#include "others.h"
#include "throttle.h"
#include "work.h"
#include "worker.h"

#define TICK_MS 1000.0

/* a rest is taken in slices, so that the watch knows where the WAL was in between */
#define SLICE_MS 100.0

/* row locks are held no longer, if that can be helped */
#define GUARD_MS 500
#define GUARD_LOOK_MS 100

/* somebody who waits for a shorter batch than this won't notice */
#define BLOCKED_MS 20.0

/* what else than a signal may hold back; indexes of held_ms */
enum
{
	HELD_ROWS = DW_SIGNALS,
	HELD_WAL,
	HELD_START,
	HELD_KINDS
};

StaticAssertDecl(HELD_KINDS == lengthof(((DwThrottle *) NULL)->held_ms), "one sum for each thing that may hold back");

/* the batch that the timer looks after; its handler sees nothing else */
static const volatile int *volatile guarded_rows = NULL;
static volatile int guard_looks = 0;	/* at which rows were locked */
static volatile sig_atomic_t cancelled = false;
static TimeoutId guard_timeout = MAX_TIMEOUTS;

void
dw_throttle_init(DwThrottle *t)
{
	memset(t, 0, sizeof(*t));
	dw_pace_init(&t->pace);
	INSTR_TIME_SET_CURRENT(t->began);
	t->wal = pgWalUsage.wal_bytes;
}

static const char *
held_name(int what)
{
	return what == HELD_ROWS ? "max_rows_per_second" : what == HELD_WAL ? "max_wal_per_second" : what == HELD_START ? "start_rate"
		: dw_signal_name(what);
}

static double
max_wal(const DwWorker *w)
{
	return w->options.max_wal_per_second * 1024.0;
}

/* ---- the tick ---- */

/* A verification writes next to nothing; what it could harm is those who compute. */
static bool
concerns_reading(DwSignal signal)
{
	return signal == DW_SIGNAL_WINDOW || signal == DW_SIGNAL_QUERY || signal == DW_SIGNAL_BACKENDS;
}

static void
tick(DwWorker *w, bool filling)
{
	DwThrottle *t = &w->throttle;
	double		seconds = t->ticking ? Min(dw_ms_since(t->ticked) / 1000, 5) : 1;
	double		ms;
	int			n;
	DwBurst		burst;

	INSTR_TIME_SET_CURRENT(t->ticked);
	dw_burst_begin(&burst, t->duty_rest);
	t->ticking = true;
	dw_watch_mark(&t->watch);
	n = dw_step_commits(&ms);
	dw_watch_commits(&t->watch, n, ms);
	for (int i = 0; i < DW_SIGNALS; i++)
	{
		DwReading  *r = &t->readings[i];

		if (!filling && !concerns_reading(i))
		{
			memset(r, 0, sizeof(*r));
			continue;
		}
		dw_signal_read(i, &t->watch, w->m, &w->options, r);
		if (r->on && !r->known && !t->said[i])
			ereport(LOG,
					(errmsg("pg_dualwrite worker of migration %d: throttle signal %s %s", w->migration_id, dw_signal_name(i), r->subject)));
		t->said[i] = r->on && !r->known;
		dw_burst_breathe(&burst);
	}
	dw_pace_tick(&t->pace, DW_SIGNALS, t->readings, seconds, max_wal(w));
	elog(DEBUG1, "tick of the throttle: %.2f ms, %.0f bytes of WAL a second, %.2f sessions and %.2f processes beside us",
		 dw_ms_since(t->ticked) - burst.rested_ms, t->pace.wal_rate, t->others.sessions, t->others.runnable);
}

/* ---- resting ---- */

/* Remembers what the rest is for. */
static void
ruled_by(DwWorker *w, int what)
{
	DwThrottle *t = &w->throttle;

	t->signal = held_name(what);
	t->subject[0] = '\0';
	if (what == HELD_ROWS)
	{
		t->value = t->pace.rows_per_second;
		t->limit = w->options.max_rows_per_second;
	}
	else if (what == HELD_WAL)
	{
		t->value = t->pace.wal_used;
		t->limit = max_wal(w);
	}
	else if (what == HELD_START)
	{
		t->value = t->pace.wal_used;
		t->limit = t->pace.wal_rate;
	}
	else
	{
		const DwReading *r = &t->readings[what];

		strlcpy(t->subject, r->subject, sizeof(t->subject));
		t->value = r->known ? r->value : NAN;
		t->limit = r->known ? r->stop : NAN;
	}
}

/* Says "throttled" or "running", by what most batches since the last report met. */
static void
report(DwWorker *w, double ms)
{
	DwThrottle *t = &w->throttle;
	bool		working = w->state && (strcmp(w->state, "running") == 0 || strcmp(w->state, "throttled") == 0);
	bool		throttled = t->was_stopped || t->limited * 2 > t->batches;

	if (working && dw_ms_since(w->reported) + ms < DW_HEARTBEAT_MS && !(t->was_stopped && strcmp(w->state, "running") == 0))
		return;
	if (throttled && t->signal)
		dw_work_report(w, "throttled", t->signal, t->signal, t->value, t->limit);
	else
		dw_work_report(w, "running", NULL, NULL, 0, 0);
	t->was_stopped = false;
	t->limited = t->batches = 0;
}

/* Sleeps, keeps the watch up to date, and comes back early if the migration has changed. */
static void
rest(DwWorker *w, double ms)
{
	DwThrottle *t = &w->throttle;
	instr_time	start;
	double		looked = 0;

	INSTR_TIME_SET_CURRENT(start);
	for (;;)
	{
		double		passed = dw_ms_since(start);

		dw_watch_mark(&t->watch);
		if (passed >= ms)
			break;
		if (passed - looked >= DW_HEARTBEAT_MS)
		{
			bool		same;

			looked = passed;
			report(w, ms - passed);
			dw_step_begin();
			same = dw_work_unchanged(w);
			dw_step_commit();
			/* the limit may have been raised, or the migration paused; and the pace wants its tick */
			if (!same || dw_ms_since(t->ticked) >= TICK_MS)
				break;
		}
		if (ms - passed < 1)
			pg_usleep((long) ((ms - passed) * 1000));	/* a latch knows whole milliseconds only */
		else
			dw_sleep(Min(ms - passed, SLICE_MS));
	}
}

bool
dw_throttle_go(DwWorker *w, bool filling)
{
	DwThrottle *t = &w->throttle;
	instr_time	start;

	/* a verification reads few of the signals: what is to be written needs them all first */
	if (!t->ticking || filling != t->filling || dw_ms_since(t->ticked) >= TICK_MS)
		tick(w, filling);
	t->filling = filling;
	if (!t->pace.stopped || t->pace.let_one)
	{
		t->pace.let_one = false;
		t->rest_ms = 0;
		t->cycle_ms = Min(dw_ms_since(t->began), 1e6);
		INSTR_TIME_SET_CURRENT(t->began);
		return true;
	}
	INSTR_TIME_SET_CURRENT(start);
	t->was_stopped = true;
	ruled_by(w, t->pace.ruling);
	report(w, 0);
	rest(w, Max(TICK_MS - dw_ms_since(t->ticked), 1));
	t->held_ms[t->pace.ruling] += dw_ms_since(start);
	return false;
}

void
dw_throttle_rest(DwWorker *w)
{
	DwThrottle *t = &w->throttle;

	report(w, t->rest_ms);
	rest(w, t->rest_ms);
}

/* ---- the batch ---- */

double
dw_throttle_duty_rest(DwWorker *w)
{
	return w->throttle.duty_rest = dw_others_rest(&w->throttle.others);
}

int
dw_throttle_rows(DwWorker *w)
{
	int			limit = w->options.max_rows_per_second;
	int			rows = w->throttle.pace.max_rows;

	/* ten batches a second at least, if each may have a row */
	return limit > 0 ? Min(rows, Max(limit / Max(w->throttle.workers, 1) / 10, 1)) : rows;
}

void
dw_throttle_batch(DwWorker *w, int rows, double ms, double rest, double rested_ms)
{
	DwThrottle *t = &w->throttle;
	DwPaceBatch b = {
		.rows = rows,
		.wal = pgWalUsage.wal_bytes - t->wal,
		.ms = ms,
		.rested_ms = rested_ms,
		.duty_rest = Max(rest, 1),
		.cycle_ms = t->cycle_ms,
		.target_ms = w->options.batch_time,
		.max_rows_per_second = w->options.max_rows_per_second,
		.max_wal_per_second = max_wal(w),
		.workers = t->workers
	};
	DwLimit		why;

	t->wal = pgWalUsage.wal_bytes;
	t->rest_ms = dw_pace_next(&t->pace, &b, &why);
	t->batches++;
	if (why != DW_LIMIT_NONE)
	{
		int			what = why == DW_LIMIT_ROWS ? HELD_ROWS : why == DW_LIMIT_WAL_OPTION ? HELD_WAL
			: t->pace.cause >= 0 ? t->pace.cause : HELD_START;

		t->limited++;
		ruled_by(w, what);
		t->held_ms[what] += t->rest_ms - dw_pace_duty_rest(&b);
	}
}

static void
guard_handler(void)
{
	if (guarded_rows == NULL || *guarded_rows == 0 || cancelled || ++guard_looks * GUARD_LOOK_MS < GUARD_MS)
		return;
	cancelled = true;
	QueryCancelPending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
}

void
dw_throttle_guard(DwWorker *w, const int *rows)
{
	if (guard_timeout == MAX_TIMEOUTS)
		guard_timeout = RegisterTimeout(USER_TIMEOUT, guard_handler);
	cancelled = false;
	guard_looks = 0;
	guarded_rows = rows;
	enable_timeout_every(guard_timeout, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), GUARD_LOOK_MS), GUARD_LOOK_MS);
}

static void
unguard(void)
{
	guarded_rows = NULL;
	if (guard_timeout != MAX_TIMEOUTS)
		disable_timeout(guard_timeout, false);
}

void
dw_throttle_unguard(DwWorker *w)
{
	DwThrottle *t = &w->throttle;
	double		ms = dw_ms_since(t->began);
	TransactionId xid = GetTopTransactionIdIfAny();

	unguard();
	if (cancelled)
	{
		/* too late: the batch is through */
		cancelled = false;
		QueryCancelPending = false;
	}
	if (ms >= BLOCKED_MS && TransactionIdIsValid(xid))
	{
		LOCKTAG		tag;

		/* who wants a row of ours waits for our transaction */
		SET_LOCKTAG_TRANSACTION(tag, xid);
		if (LockHasWaiters(&tag, ExclusiveLock, false))
			dw_watch_blocked(&t->watch, ms);
	}
}

bool
dw_throttle_cancelled(DwWorker *w)
{
	bool		was = cancelled;

	unguard();
	cancelled = false;
	if (was)
	{
		/* it may have come after the error that ended the batch */
		QueryCancelPending = false;
		dw_pace_shrink(&w->throttle.pace);
		dw_watch_blocked(&w->throttle.watch, GUARD_MS);
	}
	return was;
}

/* ---- the report ---- */

void
dw_throttle_report(DwWorker *w)
{
	DwThrottle *t = &w->throttle;
	DwMember   *b = list_nth(w->m->members, w->member);

	if (t->filling && t->was_stopped && w->slot == 0)
		dw_work_fill_announce(b);
	for (int i = 0; i < HELD_KINDS; i++)
		if (t->held_ms[i] >= 1 && dw_progress_throttled(b->id, held_name(i), (int64) t->held_ms[i]))
			t->held_ms[i] -= (int64) t->held_ms[i];
}
