/*
 * watch.h
 *		The memory of the health signals.
 */
#ifndef DW_WATCH_H
#define DW_WATCH_H

#include "access/xlogdefs.h"
#include "portability/instr_time.h"

#include "pace.h"

/* positions of the WAL over time, and standbys, that the watch knows */
#define DW_RING_SIZE 1024
#define DW_MAX_STANDBYS 64

typedef struct DwStandby
{
	char		name[NAMEDATALEN];
	bool		there;			/* connected when last looked */
	double		lag_s;
	double		there_ms;		/* when it was last connected; by the watch's clock */
} DwStandby;

/*
 * What reading the signals remembers from tick to tick.  Plain memory, all
 * zero at first; owns nothing.
 */
typedef struct DwWatch
{
	instr_time	epoch;			/* beginning of its clock */
	bool		started;

	/* LSN flushed at a time, oldest first */
	int			nring;
	XLogRecPtr	ring_lsn[DW_RING_SIZE];
	double		ring_ms[DW_RING_SIZE];

	int			nstandbys;
	DwStandby	standbys[DW_MAX_STANDBYS];

	double		archive_failing_ms; /* since when; 0: it isn't */
	double		active;			/* backends, smoothed */
	TransactionId oldest_xmin;
	double		oldest_ms;		/* when it was first seen */

	/* from the batches since the last tick */
	double		commit_ms;		/* sum */
	int			commits;
	double		commit_mean;	/* as last known */
	double		blocked_ms;		/* longest batch that somebody waited for */
} DwWatch;

/* Remembers how far the WAL is now.  Cheap; wants to be called several times a second. */
extern void dw_watch_mark(DwWatch *watch);

/* n of our commits took ms together; somebody waited for a batch that took that long. */
extern void dw_watch_commits(DwWatch *watch, int n, double ms);
extern void dw_watch_blocked(DwWatch *watch, double ms);

/* Time by the watch's clock, in ms; never 0. */
extern double dw_watch_ms(DwWatch *watch);

/*
 * Looks who follows and how far, and reads the worst lag; those that have been
 * there are kept with the migration.  max_replica_lag in ms; 0: nobody looks.
 */
extern void dw_watch_standbys(DwWatch *watch, int migration_id, int max_replica_lag, DwReading *reading);

/* The lag of each standby, as the text of a jsonb array; palloc'd, NULL if there are none. */
extern char *dw_watch_lags(const DwWatch *watch);

#endif							/* DW_WATCH_H */
