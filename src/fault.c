/*
 * fault.c
 *		Fault points: errors, delays and crashes on request, for a rehearsal.
 *
 * What is armed stands in a table of the extension (catalog_fault.c), so it holds for
 * every backend and worker, over restarts, on a promoted standby, and without
 * preload.  Each backend keeps a copy, which arming and disarming invalidate by
 * a relcache invalidation of that table: a statement that has begun goes on as
 * it began.
 *
 * How often a point has fired is counted beyond transactions, and on disk
 * before the fault happens: a crash that is to happen once must not happen
 * again after the restart.
 *
 * The points around a commit are served by transaction callbacks.  Before the
 * commit everything may still fail; after it the transaction is committed, but
 * its locks are held and its client hasn't been told yet.  There the only
 * choices left are to sleep or to crash, and what to do has been decided
 * before the commit.  (A batch of the backfill isn't on disk by then: work.c.)
 */
#include "postgres.h"

#include <signal.h>
#include <unistd.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "common/pg_prng.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "portability/instr_time.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"
#include "utils/wait_event.h"

#include "fault.h"

PG_FUNCTION_INFO_V1(dw_known_faults);

/* a point that is reached by a call, and not at a commit */
typedef struct Point
{
	const char *name;
	const char *description;
} Point;

static const Point points[] = {
	{"mirror_before", "in a write, before the other side of the row is derived"},
	{"mirror_after", "in a write, after the other side was derived and before the row is stored"},
	{"fill_updated", "in the worker, after rows were filled and before the progress is stored"},
	{"fill_between", "in the worker, between two batches of the backfill"},
	{"verify_chunk", "in the worker, after a chunk was compared and before the progress is stored"},
	{"reconcile_chunk", "in dw_reconcile, after a chunk was repaired and before its commit"},
};

/* what commits: two points each, <event>_before_commit and <event>_after_commit */
static const Point events[] = {
	{"fill", "of a batch of the backfill"},
	{"verify", "of a chunk of the verification"},
	{"begin", "of dw_begin"},
	{"filled", "of the step from backfilling to verifying"},
	{"verified", "of the step from verifying to ready"},
	{"hole", "of the step back to backfilling"},
	{"switch", "of dw_switch"},
	{"rollback", "of dw_rollback"},
	{"finalize", "of dw_finalize"},
	{"abort", "of dw_abort"},
};

#define BEFORE_COMMIT "_before_commit"
#define AFTER_COMMIT "_after_commit"

/* this backend's copy of what is armed */
static DwFault faults[DW_MAX_FAULTS];
static int	nfaults = 0;
static bool known = false;
static Oid	fault_relid = InvalidOid;

/* commit points that the transaction at hand will reach; in TopTransactionContext */
typedef struct Pending
{
	const char *event;
	char	   *migration;
	int			level;			/* nest level of the subtransaction that did it */
} Pending;

static List *pending = NIL;
static DwFault after;			/* to happen after the commit */
static bool after_due = false;

/* ---- what is armed ---- */

void
dw_fault_relcache(Oid relid)
{
	if (relid == fault_relid || relid == InvalidOid)
		known = false;
}

static bool
any_armed(void)
{
	Assert(IsTransactionState());
	if (!known)
	{
		/* set first, so that an invalidation that arrives meanwhile sticks */
		known = true;
		nfaults = dw_faults_read(faults, &fault_relid);
		if (!OidIsValid(fault_relid))
			known = false;
	}
	return nfaults > 0;
}

static bool
concerns(const DwFault *f, const char *migration)
{
	return f->migration[0] == '\0' || strcmp(f->migration, migration) == 0;
}

bool
dw_fault_armed(const char *prefix, const char *migration)
{
	if (any_armed())
		for (int i = 0; i < nfaults; i++)
			if (strncmp(faults[i].point, prefix, strlen(prefix)) == 0 && concerns(&faults[i], migration))
				return true;
	return false;
}

/* The fault that is due at a point, counted; false if none is. */
static bool
take(const char *point, const char *migration, DwFault *result)
{
	/* what doesn't write can't count */
	if (!any_armed() || XactReadOnly || RecoveryInProgress())
		return false;
	for (int i = 0; i < nfaults; i++)
	{
		DwFault		f = faults[i];

		if (strcmp(f.point, point) != 0 || !concerns(&f, migration))
			continue;
		if (f.probability < 1 && pg_prng_double(&pg_global_prng_state) >= f.probability)
			continue;
		if (!dw_fault_count(&f))
			continue;			/* used up */
		*result = f;
		return true;
	}
	return false;
}

/* ---- what happens ---- */

static void
pause_for(double ms)
{
	instr_time	start;
	double		left = ms;
	bool		woken = false;

	INSTR_TIME_SET_CURRENT(start);
	while (left > 0)
	{
		instr_time	now;

		if (WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, (long) Min(left + 1, 60000), PG_WAIT_EXTENSION) & WL_LATCH_SET)
		{
			ResetLatch(MyLatch);
			woken = true;
		}
		CHECK_FOR_INTERRUPTS();
		INSTR_TIME_SET_CURRENT(now);
		INSTR_TIME_SUBTRACT(now, start);
		left = ms - INSTR_TIME_GET_MILLISEC(now);
	}
	if (woken)
		SetLatch(MyLatch);		/* whatever it was set for */
}

/* As the kernel's out-of-memory killer does it: the postmaster restarts everyone. */
static void
crash(void)
{
	kill(MyProcPid, SIGKILL);
	for (;;)
		pg_usleep(1000000L);
}

static void
act(const DwFault *f, const char *migration)
{
	switch (f->action)
	{
		case DW_FAULT_ERROR:
			ereport(ERROR,
					(errcode(f->sqlerrcode),
					 errmsg("fault point \"%s\" was reached by migration \"%s\"", f->point, migration),
					 errdetail("It has been armed by dw_fault()."),
					 errhint("SELECT dw_fault_off() disarms all fault points.")));
			break;
		case DW_FAULT_CRASH:
			ereport(LOG,
					(errmsg("fault point \"%s\" was reached by migration \"%s\": this process kills itself", f->point, migration)));
			crash();
			break;
		case DW_FAULT_SLEEP:
			pause_for(f->delay_ms);
			break;
	}
}

void
dw_fault_here(const char *point, const char *migration)
{
	DwFault		f;

	Assert(dw_fault_known(point, NULL));
	if (any_armed() && take(point, migration, &f))
		act(&f, migration);
}

/* ---- around commits ---- */

void
dw_fault_at_commit(const char *event, const char *migration)
{
	MemoryContext old;
	Pending    *p;

	if (!any_armed())
		return;
	old = MemoryContextSwitchTo(TopTransactionContext);
	p = palloc(sizeof(Pending));
	p->event = pstrdup(event);
	p->migration = pstrdup(migration);
	p->level = GetCurrentTransactionNestLevel();
	pending = lappend(pending, p);
	MemoryContextSwitchTo(old);
}

static void
before_commit(void)
{
	List	   *list = pending;
	ListCell   *lc;

	/* an error makes this an abort, whose callback finds nothing left to do */
	pending = NIL;
	foreach(lc, list)
	{
		Pending    *p = lfirst(lc);
		DwFault		f;

		if (take(psprintf("%s%s", p->event, BEFORE_COMMIT), p->migration, &f))
			act(&f, p->migration);
		if (!after_due && take(psprintf("%s%s", p->event, AFTER_COMMIT), p->migration, &after))
			after_due = true;
	}
}

static void
xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			if (pending != NIL)
				before_commit();
			break;
		case XACT_EVENT_COMMIT:
			if (after_due)
			{
				after_due = false;
				if (after.action == DW_FAULT_CRASH)
					crash();
				pause_for(after.delay_ms);
			}
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			pending = NIL;
			after_due = false;
			break;
		default:
			break;
	}
}

static void
subxact_callback(SubXactEvent event, SubTransactionId mySubid, SubTransactionId parentSubid, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();
	ListCell   *lc;

	foreach(lc, pending)
	{
		Pending    *p = lfirst(lc);

		if (p->level < level)
			continue;
		if (event == SUBXACT_EVENT_COMMIT_SUB)
			p->level = level - 1;
		else if (event == SUBXACT_EVENT_ABORT_SUB)
			pending = foreach_delete_current(pending, lc);
	}
}

void
dw_fault_init(void)
{
	RegisterXactCallback(xact_callback, NULL);
	RegisterSubXactCallback(subxact_callback, NULL);
}

/* ---- the list of points ---- */

bool
dw_fault_known(const char *point, bool *after_commit)
{
	bool		ignored;

	if (after_commit == NULL)
		after_commit = &ignored;
	*after_commit = false;
	for (int i = 0; i < (int) lengthof(points); i++)
		if (strcmp(points[i].name, point) == 0)
			return true;
	for (int i = 0; i < (int) lengthof(events); i++)
	{
		size_t		n = strlen(events[i].name);

		if (strncmp(events[i].name, point, n) != 0)
			continue;
		*after_commit = strcmp(point + n, AFTER_COMMIT) == 0;
		if (*after_commit || strcmp(point + n, BEFORE_COMMIT) == 0)
			return true;
	}
	return false;
}

char *
dw_fault_points(void)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; i < (int) lengthof(points); i++)
		appendStringInfo(&buf, "%s%s", i ? ", " : "", points[i].name);
	for (int i = 0; i < (int) lengthof(events); i++)
		appendStringInfo(&buf, ", %s%s, %s%s", events[i].name, BEFORE_COMMIT, events[i].name, AFTER_COMMIT);
	return buf.data;
}

/* dualwrite.known_faults(): a row a point, for the view dw_faults */
Datum
dw_known_faults(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < (int) lengthof(points) + 2 * (int) lengthof(events); i++)
	{
		int			e = i - (int) lengthof(points);
		Datum		values[2];
		bool		nulls[2] = {false};

		if (e < 0)
		{
			values[0] = CStringGetTextDatum(points[i].name);
			values[1] = CStringGetTextDatum(points[i].description);
		}
		else
		{
			values[0] = CStringGetTextDatum(psprintf("%s%s", events[e / 2].name, e % 2 ? AFTER_COMMIT : BEFORE_COMMIT));
			values[1] = CStringGetTextDatum(psprintf("right %s the commit %s", e % 2 ? "after" : "before", events[e / 2].description));
		}
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
