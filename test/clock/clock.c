/*
 * clock.c
 *		A clock that a test can set, a disk that it can make slow, and a number of
 *		processors that it can choose.
 *
 * To be preloaded (LD_PRELOAD) by a server.  The file named by DW_CLOCK is
 * mapped, and says how far the wall clock is ahead, how fast the monotonic clock
 * runs since when, and how much longer a flush takes.  DW_PROCESSORS: how many processors there are.
 *
 * The test writes the setting that isn't in use, and then says which is.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

typedef struct Setting
{
	double		ahead;			/* of the wall clock, in seconds */
	double		since;			/* monotonic seconds */
	double		speed;			/* from then on */
	double		extra;			/* seconds that were gained before */
	double		flush;			/* seconds that a flush of a file takes longer */
} Setting;

typedef struct Clock
{
	int64_t		current;
	Setting		settings[2];
} Clock;

static const volatile Clock *
the_clock(void)
{
	static const volatile Clock *map = NULL;
	static int	tried = 0;

	if (!tried)
	{
		const char *path = getenv("DW_CLOCK");
		int			fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;

		tried = 1;
		if (fd >= 0)
		{
			void	   *p = mmap(NULL, sizeof(Clock), PROT_READ, MAP_SHARED, fd, 0);

			map = p == MAP_FAILED ? NULL : p;
			close(fd);
		}
	}
	return map;
}

static void
add(struct timespec *t, double seconds)
{
	int64_t		ns = t->tv_nsec + (int64_t) (seconds * 1e9);

	t->tv_sec += ns / 1000000000;
	t->tv_nsec = ns % 1000000000;
}

int
clock_gettime(clockid_t id, struct timespec *t)
{
	static int	(*real) (clockid_t, struct timespec *) = NULL;
	const volatile Clock *c = the_clock();
	int			rc;

	if (!real)
		real = (int (*) (clockid_t, struct timespec *)) dlsym(RTLD_NEXT, "clock_gettime");
	rc = real(id, t);
	if (rc == 0 && c && id == CLOCK_MONOTONIC)
	{
		const volatile Setting *s = &c->settings[c->current];

		add(t, s->extra + (t->tv_sec + t->tv_nsec / 1e9 - s->since) * (s->speed - 1));
	}
	else if (rc == 0 && c && id == CLOCK_REALTIME)
		add(t, c->settings[c->current].ahead);
	return rc;
}

int
gettimeofday(struct timeval *restrict t, void *restrict zone)
{
	struct timespec now;

	(void) zone;
	if (clock_gettime(CLOCK_REALTIME, &now) != 0)
		return -1;
	t->tv_sec = now.tv_sec;
	t->tv_usec = now.tv_nsec / 1000;
	return 0;
}

static void
slow_down(void)
{
	const volatile Clock *c = the_clock();
	double		seconds = c ? c->settings[c->current].flush : 0;

	if (seconds > 0)
		usleep((useconds_t) (seconds * 1e6));
}

int
fdatasync(int fd)
{
	static int	(*real) (int) = NULL;

	if (!real)
		real = (int (*) (int)) dlsym(RTLD_NEXT, "fdatasync");
	slow_down();
	return real(fd);
}

long
sysconf(int name)
{
	static long (*real) (int) = NULL;
	const char *n = getenv("DW_PROCESSORS");

	if (!real)
		real = (long (*) (int)) dlsym(RTLD_NEXT, "sysconf");
	return name == _SC_NPROCESSORS_ONLN && n ? atol(n) : real(name);
}
