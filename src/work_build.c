/*
 * work_build.c
 *		The building step: what a filled table gets before it is verified.
 *
 * That is the proof constraint (proof.c), if there is to be one.  Its lock is
 * tried for once a step, for no longer than dw_lock_timeout, so that neither
 * the application queues behind us for longer, nor a snapshot is held while
 * somebody has the table.
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "storage/lockdefs.h"

#include "migration.h"
#include "proof.h"
#include "run.h"
#include "work.h"
#include "worker.h"

void
dw_work_build(DwWorker *w)
{
	bool		locked;

	dw_step_begin();
	locked = !dw_to_build(w->m) || dw_proof_try_lock(w->m);
	if (locked && dw_work_unchanged(w))
		dw_built(w->m);
	dw_step_commit();
	if (locked)
	{
		w->stamp = NULL;
		return;
	}
	w->readers_block = true;
	dw_work_report(w, "waiting", "a table lock for the proof constraint could not be had", NULL, 0, 0);
	w->readers_block = false;

	/* those who queued behind us go through */
	dw_sleep(dw_lock_timeout * (0.5 + pg_prng_double(&pg_global_prng_state)));
}
