/*
 * others.c
 *		Who else computes, and how much to keep out of their way.
 *
 * We are in somebody's way when he wants to compute and all processors are
 * busy, one of them with us.  How likely that is follows from how many others
 * compute.  It is next to nothing on a machine with processors to spare, and
 * there a step may work through; where it isn't, it works in bursts, and rests
 * between them for longer the likelier it is.
 *
 * Two counts, as neither is the whole truth.  Sessions that compute are set
 * against the processors that this server may use; but a session of short
 * statements spends half its time in calls of the kernel, where it counts as
 * waiting for its client.  The machine's runnable processes (Linux) are set
 * against all its processors: they count other programs, too, and also other
 * workers of ours.  The higher chance counts.
 *
 * How long: with the square of the chance, as waits grow faster than the load
 * that makes them, and a machine that does next to nothing is never without
 * noise.  Measured on two processors, a load that kept 1.5 of them busy (and the
 * chance near 0.7), one backfill, paused and let go in turns of ten seconds: p95
 * and p99 beside those of the turns in which it was paused, medians of seven:
 * x1.25 and x1.28 with rests of 4.5 times the work, x1.14 and x1.06 with 7.3,
 * x1.12 and x1.13 with 10.8; it did 50, 30 and 20 thousand rows a second.  With
 * half duty it had been x1.9.
 */
#include "postgres.h"

#include <math.h>
#include <sched.h>
#include <unistd.h>

#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/proc.h"

#include "clock.h"
#include "compat.h"
#include "others.h"

/* each look sees an instant; what counts is the mean of that many, and of fewer at first */
#define LOOK_MS 10.0
#define LOOKS 50
#define LOOKS_MIN 10

/* a rest is never longer, in times of the work */
#define REST_MOST 14.0

/* a chance that isn't worth a rest: who comes back from one is slow */
#define CHANCE_SMALL 0.1

static double
machine_processors(void)
{
	static double n = 0;

	if (n == 0)
		n = Max(sysconf(_SC_NPROCESSORS_ONLN), 1);
	return n;
}

double
dw_processors(void)
{
	static double n = 0;
	FILE	   *file;
	double		quota;
	double		period;
#ifdef CPU_COUNT
	cpu_set_t	set;
#endif

	if (n > 0)
		return n;
	n = machine_processors();
#ifdef CPU_COUNT
	if (sched_getaffinity(0, sizeof(set), &set) == 0)
		n = Min(n, Max(CPU_COUNT(&set), 1));
#endif
	if ((file = AllocateFile("/sys/fs/cgroup/cpu.max", "r")) != NULL)
	{
		if (fscanf(file, "%lf %lf", &quota, &period) == 2 && period > 0 && quota > 0)
			n = Min(n, quota / period);
		FreeFile(file);
	}
	return n;
}

/*
 * Read without a lock, as the activity view does: a mean may be off now and
 * then.  A place that nobody has any more is told by its latch: on PostgreSQL
 * 15, the pid stays.
 */
static int
sessions(void)
{
	int			n = 0;

	for (int i = 0; i < MaxBackends; i++)
	{
		volatile PGPROC *proc = &ProcGlobal->allProcs[i];

		n += proc->procLatch.owner_pid != 0 && proc->wait_event_info == 0 && dw_proc_is_session(proc);
	}
	return n;
}

static int
runnable(void)
{
	FILE	   *file = AllocateFile("/proc/loadavg", "r");
	int			n;

	if (file == NULL)
		return -1;
	if (fscanf(file, "%*f %*f %*f %d/", &n) != 1)
		n = 0;
	FreeFile(file);
	return n - 1;
}

/* That all processors but ours are busy, as if each were, or not, independently. */
static double
chance(double others, double processors)
{
	double		left = Max(processors - 1, 1);

	return others <= 0 ? 0 : others >= left ? 1 : pow(others / left, left);
}

double
dw_others_rest(DwOthers *o)
{
	double		in_the_way;

	if (o->looks == 0 || dw_ms_since(o->looked) >= LOOK_MS)
	{
		INSTR_TIME_SET_CURRENT(o->looked);
		o->looks = Min(o->looks + 1, LOOKS);
		o->sessions += (sessions() - o->sessions) / o->looks;
		o->runnable += (runnable() - o->runnable) / o->looks;
	}
	if (o->looks < LOOKS_MIN)
		return 1;
	in_the_way = Max(chance(o->sessions, dw_processors()), chance(o->runnable, machine_processors()));
	return in_the_way < CHANCE_SMALL ? 0 : 1 + (REST_MOST - 1) * in_the_way * in_the_way;
}
