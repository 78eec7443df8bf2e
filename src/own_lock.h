/*
 * own_lock.h
 *		Locks on migrations and pieces of them.
 */
#ifndef DW_OWN_LOCK_H
#define DW_OWN_LOCK_H

#include "storage/lock.h"

/* The tag of a lock of ours (kind: DW_LOCK_*). */
extern void dw_own_tag(LOCKTAG *tag, int kind, uint32 key, uint32 piece);

/*
 * In a worker, whose session locks nobody's code may give back: once, and then
 * at the beginning of each of its transactions.
 */
extern void dw_keep_locks_init(void);
extern void dw_keep_locks(void);

/* A lock for an instant; an abort gives it back, too.  dw_brief_try doesn't wait. */
extern void dw_brief_lock(int kind, int key);
extern bool dw_brief_try(int kind, int key);
extern void dw_brief_unlock(int kind, int key);

/*
 * Session locks on a migration (DW_LOCK_WORKER, DW_LOCK_PASS): they outlive
 * transactions and errors, and go with the process.
 */
extern bool dw_session_lock(int kind, int migration_id, bool wait);
extern void dw_session_unlock(int kind, int migration_id);
extern bool dw_session_lock_wanted(int kind, int migration_id);	/* does someone wait for ours? */
extern bool dw_session_lock_kept(int kind, int migration_id);	/* by us, still? */
extern bool dw_session_locked(int kind, int migration_id);	/* by another process */

/* The same for a numbered piece of it; 0 is the whole.  Nobody waits for these. */
extern bool dw_piece_lock(int kind, int id, int piece);
extern void dw_piece_unlock(int kind, int id, int piece);
extern bool dw_piece_locked(int kind, int id, int piece);

#endif							/* DW_OWN_LOCK_H */
