/*
 * catalog_drift.c
 *		Rows on record as not consistent, and the counts of what the mirror has
 *		written.
 *
 * Writers of user tables come here, so nothing here makes one of them wait
 * for another: records are skipped where they are locked, and what is counted
 * is counted by sequences, which no transaction keeps.
 */
#include "postgres.h"

#include <time.h>

#include "access/relation.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "catalog_internal.h"
#include "compat.h"
#include "run.h"

PG_FUNCTION_INFO_V1(dw_sequence_value);

void
dw_drift_record(int member_id, ItemPointer ctid, Datum key, bool key_null, Datum old_values, Datum new_values,
				const char *reason, const char *sqlstate, const char *message, bool repaired)
{
	/*
	 * An older record of the row goes, unless another recorder has just locked
	 * it: nobody ever waits for a record.  So there may be two; readers count
	 * rows.  Where the older one knows what was raised, that stays.
	 */
	DW_OWN_SQL("WITH n AS (SELECT pg_catalog.jsonb_object($3) AS key, pg_catalog.jsonb_object($4) AS old_values, pg_catalog.jsonb_object($5) AS new_values),"
			   " gone AS (DELETE FROM dualwrite.drift WHERE id IN (SELECT d.id FROM dualwrite.drift d, n WHERE d.member_id = $1 AND d.repaired_at IS NULL"
			   "   AND (d.row_ctid = $2 OR d.key = n.key) FOR UPDATE OF d SKIP LOCKED) RETURNING reason, sqlstate, message, old_values),"
			   " why AS (SELECT g.* FROM gone g, n WHERE $7 IS NULL AND g.sqlstate IS NOT NULL AND g.old_values = n.old_values LIMIT 1)"
			   " INSERT INTO dualwrite.drift (member_id, row_ctid, key, old_values, new_values, reason, sqlstate, message, repaired_at)"
			   " SELECT $1, $2, n.key, n.old_values, n.new_values, coalesce(why.reason, $6), coalesce(why.sqlstate, $7), coalesce(why.message, $8),"
			   " CASE WHEN $9 THEN pg_catalog.clock_timestamp() END FROM n LEFT JOIN why ON true",
			   DW_INT4(member_id), DW_DATUM(TIDOID, PointerGetDatum(ctid), ctid == NULL),
			   DW_DATUM(TEXTARRAYOID, key, key_null), DW_DATUM(TEXTARRAYOID, old_values, false), DW_DATUM(TEXTARRAYOID, new_values, false),
			   DW_TEXT(reason), DW_TEXT(sqlstate), DW_TEXT(message), DW_BOOL(repaired));
}

void
dw_drift_repaired(int member_id, ItemPointer ctid)
{
	DW_OWN_SQL("UPDATE dualwrite.drift SET repaired_at = pg_catalog.clock_timestamp() WHERE id IN"
			   " (SELECT id FROM dualwrite.drift WHERE member_id = $1 AND row_ctid = $2 AND repaired_at IS NULL FOR UPDATE SKIP LOCKED)",
			   DW_INT4(member_id), DW_DATUM(TIDOID, PointerGetDatum(ctid), false));
}

void
dw_drift_close(DwMigration *m, const char *snapshot, int64 last_id)
{
	DW_OWN_SQL("UPDATE dualwrite.drift SET repaired_at = pg_catalog.clock_timestamp() WHERE repaired_at IS NULL"
			   " AND member_id IN (SELECT id FROM dualwrite.member WHERE migration_id = $1)"
			   /* a snapshot's text doesn't tell that our own id is still in progress */
			   " AND CASE WHEN xid = pg_catalog.pg_current_xact_id_if_assigned() THEN id <= $3"
			   " ELSE pg_catalog.pg_visible_in_snapshot(xid, $2::pg_snapshot) END",
			   DW_INT4(m->id), DW_TEXT(snapshot), DW_INT8(last_id));
}

int64
dw_drift_last(void)
{
	return DW_OWN_INT("SELECT coalesce(max(id), 0) + $1 FROM dualwrite.drift", DW_INT8(0));
}

/* ---- counting, by sequences ---- */

/*
 * Sets a sequence of a member, or (value 0) advances it so many times.  A sequence, because
 * nobody waits for another writer of a sequence, and it doesn't bloat.
 */
static void
touch_sequence(int member_id, const char *what, int64 value, int times)
{
	char		name[NAMEDATALEN];
	Oid			seq;
	Oid			userid;
	int			sec_context;

	snprintf(name, sizeof(name), "m%d_%s", member_id, what);
	seq = get_relname_relid(name, get_namespace_oid(DW_SCHEMA, false));
	if (!OidIsValid(seq))
		return;
	GetUserIdAndSecContext(&userid, &sec_context);
	SetUserIdAndSecContext(dw_own_role(), sec_context | SECURITY_LOCAL_USERID_CHANGE);
	if (value)
		DirectFunctionCall2(setval_oid, ObjectIdGetDatum(seq), Int64GetDatum(value));
	for (int i = 0; value == 0 && i < times; i++)
		(void) nextval_internal(seq, false);
	SetUserIdAndSecContext(userid, sec_context);
}

void
dw_side_written(int member_id, DwSide side)
{
	touch_sequence(member_id, side == DW_OLD ? "old_written" : "new_written", (int64) time(NULL), 1);
}

void
dw_loss_count(int member_id)
{
	touch_sequence(member_id, "losses", 0, 1);
}

void
dw_sample_count(int member_id, int n, bool drift)
{
	if (n > 0)
		touch_sequence(member_id, drift ? "sample_drift" : "samples", 0, n);
}

int64
dw_loss_counted(DwMigration *m)
{
	return DW_OWN_INT("SELECT coalesce(sum(dualwrite.sequence_value(q.oid)), 0) FROM dualwrite.member b JOIN pg_catalog.pg_class q"
					  " ON q.relkind = 'S' AND q.relnamespace = 'dualwrite'::regnamespace AND q.relname = ('m' || b.id || '_losses')::name WHERE b.migration_id = $1",
					  DW_INT4(m->id));
}

bool
dw_own_sequence_value(Oid seq, int64 *value)
{
	Relation	rel = dw_peek(seq);
	bool		called = false;

	if (rel == NULL)
		return false;
	/* ours only: anybody may call this */
	if (rel->rd_rel->relkind == RELKIND_SEQUENCE && RelationGetNamespace(rel) == get_namespace_oid(DW_SCHEMA, false))
	{
		Buffer		buf = ReadBuffer(rel, 0);
		HeapTupleHeader tup;
		Form_pg_sequence_data data;

		LockBuffer(buf, BUFFER_LOCK_SHARE);
		tup = (HeapTupleHeader) PageGetItem(BufferGetPage(buf), PageGetItemId(BufferGetPage(buf), FirstOffsetNumber));
		data = (Form_pg_sequence_data) ((char *) tup + tup->t_hoff);
		called = data->is_called;
		*value = data->last_value;
		UnlockReleaseBuffer(buf);
	}
	/* pg_sequence_last_value() would keep a lock until the end of the transaction, in the way of dw_abort and dw_finalize */
	relation_close(rel, AccessShareLock);
	return called;
}

/* dualwrite.sequence_value(oid): NULL if it has none, or is gone by now */
Datum
dw_sequence_value(PG_FUNCTION_ARGS)
{
	int64		value;

	if (!dw_own_sequence_value(PG_GETARG_OID(0), &value))
		PG_RETURN_NULL();
	PG_RETURN_INT64(value);
}
