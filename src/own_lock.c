/*
 * own_lock.c
 *		Locks on migrations and pieces of them: advisory-class locks with tags of
 *		our own.
 *
 * They are of the lock method of advisory locks, because session locks of the
 * other method go with every abort.  So pg_advisory_unlock_all() gives them back,
 * too, and a worker runs code of tables' owners: rules, CHECK constraints,
 * index expressions.  Two workers would then do the same piece, and writers would
 * take a pass for dead that goes on.  Hence a worker keeps its locks
 * (dw_keep_locks): each of its transactions holds them as a transaction, too,
 * which that function doesn't touch; and at the transaction's end, when no
 * foreign code runs any more, and before its own locks go, the session gets what it
 * should have, and nothing else.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"

#include "compat.h"
#include "dualwrite.h"
#include "own_lock.h"

/* the locks that this process, a worker, keeps */
#define MAX_KEPT 8
static LOCKTAG kept[MAX_KEPT];
static int	nkept = 0;
static bool keeping = false;

/* does the transaction at hand hold them as well? */
static bool doubled = false;

void
dw_own_tag(LOCKTAG *tag, int kind, uint32 key, uint32 piece)
{
	tag->locktag_field1 = MyDatabaseId;
	tag->locktag_field2 = key;
	tag->locktag_field3 = piece;
	tag->locktag_field4 = kind;
	tag->locktag_type = LOCKTAG_ADVISORY;
	tag->locktag_lockmethodid = USER_LOCKMETHOD;
}

/* ---- keeping them ---- */

/* The lock, for the transaction; it is ours already, so nobody can be in the way. */
static void
hold_twice(const LOCKTAG *tag)
{
	if (LockAcquire(tag, ExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		ereport(FATAL,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("pg_dualwrite worker has lost a lock on migration or member %u", tag->locktag_field2)));
}

void
dw_keep_locks(void)
{
	Assert(IsTransactionState());
	for (int i = 0; i < nkept; i++)
		hold_twice(&kept[i]);
	doubled = true;
}

/*
 * Whatever the session holds by now, it gives back (all of it by counting: the
 * transaction still holds ours), and takes ours again.
 */
static void
xact_callback(XactEvent event, void *arg)
{
	if (!doubled || (event != XACT_EVENT_PRE_COMMIT && event != XACT_EVENT_ABORT))
		return;
	doubled = false;
	LockReleaseSession(USER_LOCKMETHOD);
	for (int i = 0; i < nkept; i++)
		(void) LockAcquire(&kept[i], ExclusiveLock, true, true);
}

void
dw_keep_locks_init(void)
{
	keeping = true;
	RegisterXactCallback(xact_callback, NULL);
}

static bool
acquire(const LOCKTAG *tag, bool dont_wait)
{
	if (keeping && nkept == MAX_KEPT)
		elog(ERROR, "pg_dualwrite worker keeps too many locks");
	if (LockAcquire(tag, ExclusiveLock, true, dont_wait) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	if (keeping)
	{
		if (doubled)
			hold_twice(tag);
		kept[nkept++] = *tag;
	}
	return true;
}

/* Within a step others get it only when the step ends. */
static void
release(const LOCKTAG *tag)
{
	for (int i = 0; i < nkept; i++)
		if (memcmp(&kept[i], tag, sizeof(LOCKTAG)) == 0)
		{
			kept[i] = kept[--nkept];
			break;
		}
	(void) LockRelease(tag, ExclusiveLock, true);
}

/* ---- taking them ---- */

void
dw_brief_lock(int kind, int key)
{
	LOCKTAG		tag;

	dw_own_tag(&tag, kind, key, 0);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

bool
dw_brief_try(int kind, int key)
{
	LOCKTAG		tag;

	dw_own_tag(&tag, kind, key, 0);
	return LockAcquire(&tag, ExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL;
}

void
dw_brief_unlock(int kind, int key)
{
	LOCKTAG		tag;

	dw_own_tag(&tag, kind, key, 0);
	LockRelease(&tag, ExclusiveLock, false);
}

bool
dw_session_lock(int kind, int migration_id, bool wait)
{
	LOCKTAG		tag;

	dw_own_tag(&tag, kind, migration_id, 0);
	/* what is in the way may be a mere probe, which is gone in an instant */
	for (int i = 0; !wait && i < 5; i++)
	{
		if (acquire(&tag, true))
			return true;
		pg_usleep(2000);
	}
	return acquire(&tag, !wait);
}

void
dw_session_unlock(int kind, int migration_id)
{
	LOCKTAG		tag;

	dw_own_tag(&tag, kind, migration_id, 0);
	release(&tag);
}

bool
dw_session_lock_wanted(int kind, int migration_id)
{
	LOCKTAG		tag;

	dw_own_tag(&tag, kind, migration_id, 0);
	return LockHasWaiters(&tag, ExclusiveLock, true);
}

bool
dw_session_lock_kept(int kind, int migration_id)
{
	LOCKTAG		tag;

	dw_own_tag(&tag, kind, migration_id, 0);
	return dw_lock_held(&tag, ExclusiveLock);
}

bool
dw_session_locked(int kind, int migration_id)
{
	return dw_piece_locked(kind, migration_id, 0);
}

bool
dw_piece_lock(int kind, int id, int piece)
{
	LOCKTAG		tag;

	dw_own_tag(&tag, kind, id, piece);
	return acquire(&tag, true);
}

void
dw_piece_unlock(int kind, int id, int piece)
{
	LOCKTAG		tag;

	dw_own_tag(&tag, kind, id, piece);
	release(&tag);
}

bool
dw_piece_locked(int kind, int id, int piece)
{
	LOCKTAG		tag;

	/*
	 * A probe conflicts with the lock itself only.  (GetLockConflicts doesn't
	 * see a holder that is between two transactions.)
	 */
	dw_own_tag(&tag, kind, id, piece);
	if (LockAcquire(&tag, RowShareLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return true;
	LockRelease(&tag, RowShareLock, false);
	return false;
}
