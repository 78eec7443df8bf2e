/*
 * compat.h
 *		Every difference between PostgreSQL 15 and 19 that the extension has to
 *		know; no other file tests PG_VERSION_NUM.
 */
#ifndef DW_COMPAT_H
#define DW_COMPAT_H

#include "access/genam.h"
#include "access/heapam.h"
#include "access/tableam.h"
#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "parser/parse_type.h"
#include "pgstat.h"
#include "storage/proc.h"
#include "tcop/pquery.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/rel.h"
#include "utils/typcache.h"

#if PG_VERSION_NUM < 150000 || PG_VERSION_NUM >= 200000
#error "pg_dualwrite supports PostgreSQL 15 to 19"
#endif

#if PG_VERSION_NUM < 160000
#define object_ownercheck(classid, objectid, roleid) \
	pg_class_ownercheck(objectid, roleid)
#define object_aclcheck(classid, objectid, roleid, mode) \
	pg_proc_aclcheck(objectid, roleid, mode)
#define dw_extension_ownercheck(oid, role) pg_extension_ownercheck(oid, role)
#define dw_schema_ownercheck(oid, role) pg_namespace_ownercheck(oid, role)
#define dw_relfilenode(rel) ((rel)->rd_node.relNode)
#define TU_UpdateIndexes bool
#define TU_None false
#define TU_Summarizing 2
#else
#define dw_extension_ownercheck(oid, role) object_ownercheck(ExtensionRelationId, oid, role)
#define dw_schema_ownercheck(oid, role) object_ownercheck(NamespaceRelationId, oid, role)
#define dw_relfilenode(rel) ((rel)->rd_locator.relNumber)
#endif

/* is this lock, or a stronger one, held by this backend? */
#if PG_VERSION_NUM < 170000
#define dw_lock_held(tag, mode) LockHeldByMe(tag, mode)
#define dw_vxid_backend(v) ((v).backendId)
#else
#define dw_lock_held(tag, mode) LockHeldByMe(tag, mode, true)
#define dw_vxid_backend(v) ((v).procNumber)
#endif

/* the local transaction id, as something to compare with itself only */
#if PG_VERSION_NUM < 170000
#define dw_lxid() (MyProc->lxid)
#else
#define dw_lxid() (MyProc->vxid.lxid)
#endif

/* DROP and ALTER DATABASE may end a worker that says so */
#ifndef BGWORKER_INTERRUPTIBLE
#define BGWORKER_INTERRUPTIBLE 0
#endif

#if PG_VERSION_NUM >= 190000
#define dw_index_beginscan(rel, index, snapshot, nkeys) index_beginscan(rel, index, snapshot, NULL, nkeys, 0, SO_NONE)
#elif PG_VERSION_NUM >= 180000
#define dw_index_beginscan(rel, index, snapshot, nkeys) index_beginscan(rel, index, snapshot, NULL, nkeys, 0)
#else
#define dw_index_beginscan(rel, index, snapshot, nkeys) index_beginscan(rel, index, snapshot, nkeys, 0)
#endif

#if PG_VERSION_NUM >= 190000
#define dw_prune(rel, buf) \
	do { Buffer vmbuf_ = InvalidBuffer; heap_page_prune_opt(rel, buf, &vmbuf_, false); if (BufferIsValid(vmbuf_)) ReleaseBuffer(vmbuf_); } while (0)
#else
#define dw_prune(rel, buf) heap_page_prune_opt(rel, buf)
#endif

/* a scan that has just begun isn't one to the table's statistics */
static inline void
dw_uncount_scan(Relation rel)
{
	if (pgstat_should_count_relation(rel))
#if PG_VERSION_NUM >= 160000
		rel->pgstat_info->counts.numscans--;
#else
		rel->pgstat_info->t_counts.t_numscans--;
#endif
}

/* put a new version of a row in place of tid; see table_tuple_update */
static inline TM_Result
dw_tuple_update(Relation rel, ItemPointer tid, TupleTableSlot *slot, Snapshot snapshot,
				TM_FailureData *tmfd, LockTupleMode *lockmode, TU_UpdateIndexes *update_indexes)
{
#if PG_VERSION_NUM >= 190000
	return table_tuple_update(rel, tid, slot, GetCurrentCommandId(true), 0, snapshot, InvalidSnapshot, true,
							  tmfd, lockmode, update_indexes);
#else
	return table_tuple_update(rel, tid, slot, GetCurrentCommandId(true), snapshot, InvalidSnapshot, true,
							  tmfd, lockmode, update_indexes);
#endif
}

/* index entries of an updated row; returns the indexes to recheck at commit */
static inline List *
dw_update_indexes(ResultRelInfo *rri, EState *estate, TupleTableSlot *slot, TU_UpdateIndexes which)
{
#if PG_VERSION_NUM >= 190000
	return ExecInsertIndexTuples(rri, estate, EIIT_IS_UPDATE | (which == TU_Summarizing ? EIIT_ONLY_SUMMARIZING : 0),
								 slot, NIL, NULL);
#elif PG_VERSION_NUM >= 160000
	return ExecInsertIndexTuples(rri, slot, estate, true, false, NULL, NIL, which == TU_Summarizing);
#else
	return ExecInsertIndexTuples(rri, slot, estate, true, false, NULL, NIL);
#endif
}

/* does ALTER TABLE ADD COLUMN of this type rewrite the table? */
static inline bool
dw_add_column_rewrites(Oid type)
{
#if PG_VERSION_NUM >= 190000
	bool		has_volatile = false;

	return DomainHasConstraints(type, &has_volatile) && has_volatile;
#else
	return DomainHasConstraints(type);
#endif
}

/* run a portal of a command without a result, as if a client had sent it */
static inline bool
dw_portal_run(Portal portal)
{
#if PG_VERSION_NUM >= 180000
	return PortalRun(portal, FETCH_ALL, true, None_Receiver, None_Receiver, NULL);
#else
	return PortalRun(portal, FETCH_ALL, true, true, None_Receiver, None_Receiver, NULL);
#endif
}

/* is this a client's session, or a parallel worker of one?  (before 18: or autovacuum's, or a walsender) */
static inline bool
dw_proc_is_session(volatile PGPROC *proc)
{
	if (proc->lockGroupLeader != NULL && proc->lockGroupLeader != proc)
		return true;
#if PG_VERSION_NUM >= 190000
	return proc->backendType == B_BACKEND;
#elif PG_VERSION_NUM >= 180000
	return proc->isRegularBackend;
#else
	return !proc->isBackgroundWorker;
#endif
}

/* type name as users write it -> type; raises */
static inline void
dw_parse_type(const char *text, Oid *type, int32 *typmod)
{
#if PG_VERSION_NUM >= 160000
	(void) parseTypeString(text, type, typmod, NULL);
#else
	parseTypeString(text, type, typmod, false);
#endif
}

#endif							/* DW_COMPAT_H */
