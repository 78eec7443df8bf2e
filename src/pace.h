/*
 * pace.h
 *		How fast the backfill may go: arithmetic only.
 */
#ifndef DW_PACE_H
#define DW_PACE_H

#include "postgres.h"

/* rows that a batch may lock at most; more show in the tail of the application's latency */
#define DW_PACE_MAX_ROWS 400

/* work without a rest; see burst.h */
#define DW_BURST_MS 0.2

/* signals that a tick may be given */
#define DW_PACE_MAX_SIGNALS 16

/* how a signal behaves when we go slower */
typedef enum DwSignalShape
{
	DW_GAUGE,					/* falls: time that a commit takes */
	DW_QUEUE,					/* falls once less comes than goes: lag */
	DW_LEVEL					/* stays: how full a disk is */
} DwSignalShape;

/*
 * One signal as read by a tick.  Its load is 0.5 at soft and 1 at stop, and in
 * proportion below, between and above.  soft 0: a switch, which stops and
 * lets go, and has no opinion on the rate.
 */
typedef struct DwReading
{
	bool		on;				/* it means something here: there are standbys, an archive, ... */
	bool		known;			/* it could be read */
	bool		budget;			/* something would break; else somebody would have to wait */
	DwSignalShape shape;
	bool		forced;			/* stop, whatever value says */
	double		value;
	double		soft;
	double		stop;
	char		subject[128];	/* which standby, slot, ...; or why it can't be read */
} DwReading;

/* why the next batch has to wait longer than half duty asks for */
typedef enum DwLimit
{
	DW_LIMIT_NONE,
	DW_LIMIT_ROWS,				/* max_rows_per_second */
	DW_LIMIT_WAL_OPTION,		/* max_wal_per_second */
	DW_LIMIT_WAL				/* the rate found by the ticks */
} DwLimit;

typedef struct DwPace
{
	int			max_rows;		/* for the next batch */
	double		tokens;			/* rows that the rate limit allows now */
	double		rows_per_second;	/* smoothed */

	double		wal_rate;		/* bytes a second that all workers may write */
	double		wal_tokens;		/* bytes that may be written now */
	double		wal_written;	/* bytes since the last tick */
	double		wal_used;		/* bytes a second before it */
	bool		started;		/* there has been a batch */
	bool		ramp;			/* nothing has slowed it yet: look for the rate quickly */
	double		knee;			/* rate at which it was slowed last */
	bool		shrinking;		/* ... by the last tick */
	double		calm_s;			/* since then */

	bool		stopped;		/* no batch until this is false again */
	bool		let_one;		/* ... but for one batch; whoever takes it resets this */
	double		stopped_s;		/* since the stop, or since one was let through */
	int			ruling;			/* signal with the highest load; -1: none */
	double		load;			/* ... and that load */
	int			cause;			/* signal that last lowered the rate; -1: none did */

	/* per signal */
	bool		stopping[DW_PACE_MAX_SIGNALS];	/* reached stop and hasn't let go yet */
	double		unread_s[DW_PACE_MAX_SIGNALS];
	double		last[DW_PACE_MAX_SIGNALS];	/* value a tick ago */
	bool		seen[DW_PACE_MAX_SIGNALS];	/* ... is known */
} DwPace;

/* what a batch did, and under which limits */
typedef struct DwPaceBatch
{
	int			rows;
	double		wal;			/* bytes */
	double		ms;				/* that it took */
	double		rested_ms;		/* of these */
	double		duty_rest;		/* how long to rest, in times of the work */
	double		cycle_ms;		/* since the one before began */
	double		target_ms;		/* option batch_time */
	int			max_rows_per_second;	/* 0: no limit */
	double		max_wal_per_second; /* bytes; 0: no limit */
	int			workers;		/* that share the limits */
} DwPaceBatch;

extern void dw_pace_init(DwPace *pace);

/* What is left to rest after a batch that has rested on its way, in ms. */
extern double dw_pace_duty_rest(const DwPaceBatch *batch);

/*
 * After a batch: adapts max_rows so that one takes target_ms.  Returns how
 * long to rest, in ms: what is left of duty_rest, longer if a limit asks for it;
 * *why says which.
 */
extern double dw_pace_next(DwPace *pace, const DwPaceBatch *batch, DwLimit *why);

/*
 * Once a second or so: takes the n signals in (always the same, in the same
 * order), sets wal_rate, stopped, let_one, ruling, load and cause.
 */
extern void dw_pace_tick(DwPace *pace, int n, const DwReading *readings, double seconds, double max_wal_per_second);

/* 0.5 at soft, 1 at stop */
extern double dw_pace_load(const DwReading *reading);

/* The batch was cut short because others waited: the next one is to be a small one. */
extern void dw_pace_shrink(DwPace *pace);

#endif							/* DW_PACE_H */
