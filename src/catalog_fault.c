/*
 * catalog_fault.c
 *		The fault points that are armed.
 *
 * Each slot has a sequence of its own, which counts its uses beyond
 * transactions.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "catalog_internal.h"
#include "own_lock.h"
#include "run.h"

/* columns of dualwrite.fault */
enum
{
	FAULT_SLOT = 1,
	FAULT_POINT = 2,
	FAULT_MIGRATION = 3,
	FAULT_ACTION = 4,
	FAULT_TIMES = 5,
	FAULT_BASE = 6,
	FAULT_PROBABILITY = 7,
	FAULT_DELAY = 8,
	FAULT_SQLSTATE = 9
};

int
dw_faults_read(DwFault *faults, Oid *relid)
{
	Oid			nsp = get_namespace_oid(DW_SCHEMA, true);
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tup;
	int			n = 0;

	*relid = OidIsValid(nsp) ? get_relname_relid("fault", nsp) : InvalidOid;
	if (!OidIsValid(*relid))
		return 0;
	rel = table_open(*relid, AccessShareLock);
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while (n < DW_MAX_FAULTS && HeapTupleIsValid(tup = systable_getnext(scan)))
	{
		TupleDesc	desc = RelationGetDescr(rel);
		DwFault    *f = &faults[n++];
		bool		isnull;
		Datum		d;
		char	   *sqlstate;

		memset(f, 0, sizeof(*f));
		f->slot = DatumGetInt32(heap_getattr(tup, FAULT_SLOT, desc, &isnull));
		strlcpy(f->point, TextDatumGetCString(heap_getattr(tup, FAULT_POINT, desc, &isnull)), NAMEDATALEN);
		d = heap_getattr(tup, FAULT_MIGRATION, desc, &isnull);
		if (!isnull)
			strlcpy(f->migration, TextDatumGetCString(d), NAMEDATALEN);
		f->action = dw_enum_value(dw_fault_action_names, TextDatumGetCString(heap_getattr(tup, FAULT_ACTION, desc, &isnull)));
		d = heap_getattr(tup, FAULT_TIMES, desc, &isnull);
		f->times = isnull ? 0 : DatumGetInt64(d);
		f->base = DatumGetInt64(heap_getattr(tup, FAULT_BASE, desc, &isnull));
		f->probability = DatumGetFloat8(heap_getattr(tup, FAULT_PROBABILITY, desc, &isnull));
		f->delay_ms = DatumGetFloat8(heap_getattr(tup, FAULT_DELAY, desc, &isnull));
		sqlstate = TextDatumGetCString(heap_getattr(tup, FAULT_SQLSTATE, desc, &isnull));
		f->sqlerrcode = MAKE_SQLSTATE(sqlstate[0], sqlstate[1], sqlstate[2], sqlstate[3], sqlstate[4]);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return n;
}

static Oid
fault_sequence(int slot)
{
	char		name[NAMEDATALEN];

	snprintf(name, sizeof(name), "fault_%d", slot);
	return get_relname_relid(name, get_namespace_oid(DW_SCHEMA, false));
}

/*
 * By setval(), which writes the very value to WAL; nextval() is ahead of itself
 * there, and a crash would use up what is left.
 */
bool
dw_fault_count(const DwFault *f)
{
	Oid			seq = fault_sequence(f->slot);
	int64		value;
	Oid			userid;
	int			sec_context;
	bool		left;

	if (!OidIsValid(seq))
		return false;
	dw_brief_lock(DW_LOCK_FAULT, f->slot);
	if (!dw_own_sequence_value(seq, &value))
		value = 0;
	left = f->times == 0 || value - f->base < f->times;
	if (left)
	{
		GetUserIdAndSecContext(&userid, &sec_context);
		SetUserIdAndSecContext(dw_own_role(), sec_context | SECURITY_LOCAL_USERID_CHANGE);
		DirectFunctionCall2(setval_oid, ObjectIdGetDatum(seq), Int64GetDatum(value + 1));
		SetUserIdAndSecContext(userid, sec_context);
		XLogFlush(XactLastRecEnd);
	}
	dw_brief_unlock(DW_LOCK_FAULT, f->slot);
	return left;
}

bool
dw_fault_put(const DwFault *f)
{
	Oid			relid = get_relname_relid("fault", get_namespace_oid(DW_SCHEMA, false));
	DwRun		run;
	bool		found;

	dw_lock_relation(relid, ShareRowExclusiveLock);
	dw_run_begin(&run, dw_own_role());
	DW_SQL("DELETE FROM dualwrite.fault WHERE point = $1 AND coalesce(migration, '') = $2", DW_TEXT(f->point), DW_TEXT(f->migration));
	found = DW_SQL("INSERT INTO dualwrite.fault (slot, point, migration, action, times, base, probability, delay_ms, sqlstate)"
				   " SELECT s, $1, nullif($2, ''), $3, nullif($4, 0), coalesce(dualwrite.sequence_value(pg_catalog.to_regclass('dualwrite.fault_' || s)), 0), $5, $6, $7"
				   " FROM pg_catalog.generate_series(1, $8) s WHERE s NOT IN (SELECT slot FROM dualwrite.fault) ORDER BY s LIMIT 1",
				   DW_TEXT(f->point), DW_TEXT(f->migration), DW_TEXT(dw_enum_name(dw_fault_action_names, f->action)), DW_INT8(f->times),
				   DW_FLOAT8(f->probability), DW_FLOAT8(f->delay_ms), DW_TEXT(unpack_sql_state(f->sqlerrcode)), DW_INT4(DW_MAX_FAULTS)) > 0;
	dw_run_end(&run);
	CacheInvalidateRelcacheByRelid(relid);
	return found;
}

int
dw_fault_remove(const char *point)
{
	Oid			relid = get_relname_relid("fault", get_namespace_oid(DW_SCHEMA, false));
	DwRun		run;
	int			n;

	dw_lock_relation(relid, ShareRowExclusiveLock);
	dw_run_begin(&run, dw_own_role());
	n = (int) DW_SQL("DELETE FROM dualwrite.fault WHERE $1 IS NULL OR point = $1", DW_TEXT(point));
	dw_run_end(&run);
	CacheInvalidateRelcacheByRelid(relid);
	return n;
}
