/*
 * signal.h
 *		The health signals that the throttle follows, and reading them.
 */
#ifndef DW_SIGNAL_H
#define DW_SIGNAL_H

#include "catalog.h"
#include "options.h"
#include "pace.h"
#include "watch.h"

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

/*
 * Reads one signal, in a transaction of its own, as the bootstrap superuser
 * (the user's query: as the table's owner).  Whatever goes wrong is in the
 * reading.  Not inside a step.
 */
extern void dw_signal_read(DwSignal signal, DwWatch *watch, DwMigration *m, const DwOptions *o, DwReading *reading);

#endif							/* DW_SIGNAL_H */
