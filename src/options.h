/*
 * options.h
 *		The options of a migration: jsonb in, checked values out.
 */
#ifndef DW_OPTIONS_H
#define DW_OPTIONS_H

#include "utils/jsonb.h"

#include "dualwrite.h"

typedef struct DwOptions
{
	DwMirrorMode mirror;
	DwConflict	conflict;
	DwOnError	on_error;
	bool		subscribers_ready;
	int			batch_time;		/* ms */
	int			max_rows_per_second;	/* 0: no limit */
	int			workers;		/* 1 or more */
	bool		vacuum;
	bool		proof;
	int			max_wal_per_second; /* kB; 0: no limit */
	int			max_replica_lag;	/* ms; 0: not watched */
	int			max_slot_retention; /* kB; 0: no limit but the server's */
	const char *window;			/* empty: always */
	const char *throttle_query; /* empty: none */
	int			recheck_interval;	/* s; 0: never */
	double		sample_rate;	/* of the writes, 0 to 1 */
} DwOptions;

/*
 * Effective values, with defaults where the object is silent; texts are
 * palloc'd.  Raises 22023, 0A000.
 */
extern void dw_options_read(Jsonb *options, DwOptions *result);

/* Does the object name the option? */
extern bool dw_options_name(Jsonb *options, const char *option);

/* base with changes merged in; null resets an option */
extern Jsonb *dw_options_merge(Jsonb *base, Jsonb *changes);

#endif							/* DW_OPTIONS_H */
