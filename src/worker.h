/*
 * worker.h
 *		Background workers: starting them, and their main function.
 */
#ifndef DW_WORKER_H
#define DW_WORKER_H

#include "postgres.h"

/* what a worker is told at its start; in bgw_extra */
typedef struct DwWorkerArgs
{
	Oid			database;
	int			migration_id;	/* 0: whatever there is */
	TransactionId xid;			/* to wait for, or invalid */
	int			slot;			/* 0; a helper: its own number */
} DwWorkerArgs;

/* ---- worker_start.c ---- */

/*
 * Registers a worker for a migration; it waits for the current transaction to
 * end and goes away again if that rolls back, or if the migration has a worker
 * then: one that runs now may be gone by the end of the transaction.  False if
 * there is no free slot, or pg_dualwrite.max_workers are running.
 */
extern bool dw_worker_launch(int migration_id);

/* Registers a worker that looks for work in a database (used by the launcher). */
extern bool dw_worker_launch_database(Oid database);

/* Registers a helper: a worker that only helps the migration's own one to fill.  Slots from 1. */
extern bool dw_worker_launch_helper(int migration_id, int slot);

/* Is a worker at work on this migration? */
extern bool dw_worker_running(int migration_id);

/* Starts missing workers of this database; how many, and how many could not be. */
extern int	dw_workers_start(int *refused);

/* ---- worker.c ---- */

/* waits for ms, or until something happens to the process */
extern void dw_sleep(double ms);

extern PGDLLEXPORT void dw_worker_main(Datum arg);

#endif							/* DW_WORKER_H */
