/*
 * signal.h
 *		The health signals that the throttle follows, and reading them.
 */
#ifndef DW_SIGNAL_H
#define DW_SIGNAL_H

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "portability/instr_time.h"

#include "catalog.h"
#include "options.h"
#include "pace.h"

typedef enum DwSignal
{
	DW_SIGNAL_REPLICA_LAG,
	DW_SIGNAL_SLOT_RETENTION,
	DW_SIGNAL_ARCHIVE,
	DW_SIGNAL_DISK,
	DW_SIGNAL_WINDOW,
	DW_SIGNAL_QUERY,
	DW_SIGNAL_BACKENDS,
	DW_SIGNAL_COMMIT,
	DW_SIGNAL_BLOCKED,
	DW_SIGNAL_DEAD,
	DW_SIGNAL_SNAPSHOT,
	DW_SIGNALS					/* how many there are */
} DwSignal;

/* as dw_progress shows it; static */
extern const char *dw_signal_name(DwSignal signal);

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

/*
 * Reads one signal, in a transaction of its own, as the bootstrap superuser
 * (the user's query: as the table's owner).  Whatever goes wrong is in the
 * reading.  Not inside a step.
 */
extern void dw_signal_read(DwSignal signal, DwWatch *watch, DwMigration *m, const DwOptions *o, DwReading *reading);

/* The lag of each standby, as the text of a jsonb array; palloc'd, NULL if there are none. */
extern char *dw_watch_lags(const DwWatch *watch);

#endif							/* DW_SIGNAL_H */
