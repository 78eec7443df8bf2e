/*
 * catalog_scan.c
 *		What has to be known often, or where SPI is not to be had: read by a scan
 *		of the extension's own tables, as a system catalog is.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "catalog.h"
#include "compat.h"
#include "options.h"

/* columns of dualwrite.migration and dualwrite.member that dw_mirror_config reads */
enum
{
	MIGRATION_ID = 1,
	MIGRATION_NAME = 2,
	MIGRATION_PHASE = 5,
	MIGRATION_MIRROR = 7,
	MIGRATION_CONFLICT = 8,
	MIGRATION_ON_ERROR = 9,
	MIGRATION_HEAL = 10,
	MIGRATION_OPTIONS = 11,
	MIGRATION_EPOCH = 12,
	MIGRATION_HOME = 13,
	MIGRATION_CHECKING = 14,
	MEMBER_ID = 1,
	MEMBER_MIGRATION_ID = 2,
	MEMBER_RELATION = 4,
	MEMBER_HAS_BACKWARD = 8,
	MEMBER_FILLING = 9,
	MEMBER_BEGIN_SNAPSHOT = 10,
	MEMBER_BEGIN_XIDS = 11,
	MEMBER_BEGIN_FUZZY = 12,
	MEMBER_RELFILENODE = 13
};

/* First row of an own table by its integer key: a copy, or NULL. */
static HeapTuple
fetch_row(const char *table, const char *index, AttrNumber keyattr, int key, TupleDesc *desc)
{
	Oid			nsp = get_namespace_oid(DW_SCHEMA, true);
	Oid			relid = OidIsValid(nsp) ? get_relname_relid(table, nsp) : InvalidOid;
	Relation	rel;
	SysScanDesc scan;
	ScanKeyData skey;
	HeapTuple	tup;

	if (!OidIsValid(relid))
		return NULL;
	rel = table_open(relid, AccessShareLock);
	ScanKeyInit(&skey, keyattr, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(key));

	/* no snapshot given: the latest committed state, as for a catalog */
	scan = systable_beginscan(rel, get_relname_relid(index, nsp), true, NULL, 1, &skey);
	tup = systable_getnext(scan);
	if (HeapTupleIsValid(tup))
		tup = heap_copytuple(tup);
	systable_endscan(scan);
	if (desc)
		*desc = CreateTupleDescCopy(RelationGetDescr(rel));
	table_close(rel, AccessShareLock);
	return tup;
}

/* xmin and position of a row of an own table, by its integer key, appended; false if there is none */
static bool
append_version(StringInfo buf, const char *table, const char *index, int key)
{
	HeapTuple	tup = fetch_row(table, index, 1, key, NULL);

	if (tup == NULL)
		return false;
	appendStringInfo(buf, "%u %u/%u ", HeapTupleHeaderGetRawXmin(tup->t_data),
					 ItemPointerGetBlockNumber(&tup->t_self), ItemPointerGetOffsetNumber(&tup->t_self));
	heap_freetuple(tup);
	return true;
}

bool
dw_migration_look(int id, DwPhase *phase, int64 *epoch)
{
	TupleDesc	desc;
	HeapTuple	tup = fetch_row("migration", "migration_pkey", MIGRATION_ID, id, &desc);
	bool		isnull;

	if (tup == NULL)
		return false;
	*phase = dw_enum_value(dw_phase_names, TextDatumGetCString(heap_getattr(tup, MIGRATION_PHASE, desc, &isnull)));
	*epoch = DatumGetInt64(heap_getattr(tup, MIGRATION_EPOCH, desc, &isnull));
	return true;
}

/* asked for before each batch of the backfill, hence without SPI */
char *
dw_migration_stamp(int id)
{
	StringInfoData buf;

	initStringInfo(&buf);
	if (!append_version(&buf, "migration", "migration_pkey", id))
		return NULL;
	(void) append_version(&buf, "control", "control_pkey", id);
	return buf.data;
}

int
dw_migration_phase(const char *name)
{
	Relation	rel = table_open(get_relname_relid("migration", get_namespace_oid(DW_SCHEMA, false)), AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tup;
	int			phase = -1;
	int			id = 0;

	while (HeapTupleIsValid(tup = systable_getnext(scan)))
	{
		TupleDesc	desc = RelationGetDescr(rel);
		bool		isnull;
		char	   *n = TextDatumGetCString(heap_getattr(tup, MIGRATION_NAME, desc, &isnull));
		int			p = dw_enum_value(dw_phase_names, TextDatumGetCString(heap_getattr(tup, MIGRATION_PHASE, desc, &isnull)));
		int			i = DatumGetInt32(heap_getattr(tup, MIGRATION_ID, desc, &isnull));

		/* the active one, else the latest; an active one is always the latest */
		if (strcmp(n, name) == 0 && i > id)
		{
			phase = p;
			id = i;
		}
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return phase;
}

/* ---- the mirror's configuration ---- */

static int
compare_xids(const void *a, const void *b)
{
	TransactionId x = *(const TransactionId *) a;
	TransactionId y = *(const TransactionId *) b;

	return x < y ? -1 : x > y;
}

/* Takes "xmin:xmax:xip,xip,..." apart. */
static void
parse_begin(const char *snapshot, Datum xids, bool xids_null, DwBegin *begin)
{
	const char *p = snapshot;
	char	   *end;
	int			n = 1;

	for (const char *c = p; *c; c++)
		n += *c == ',';
	begin->xip = palloc(sizeof(TransactionId) * n);
	begin->xmin = FullTransactionIdFromU64(strtoull(p, &end, 10));
	begin->xmax = FullTransactionIdFromU64(strtoull(end + 1, &end, 10));
	while (*end && end[1])
		begin->xip[begin->nxip++] = (TransactionId) strtoull(end + 1, &end, 10);
	qsort(begin->xip, begin->nxip, sizeof(TransactionId), compare_xids);
	if (!xids_null)
	{
		Datum	   *d;

		deconstruct_array(DatumGetArrayTypeP(xids), XID8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &d, NULL, &begin->nown);
		begin->own = palloc(sizeof(TransactionId) * Max(begin->nown, 1));
		for (int i = 0; i < begin->nown; i++)
			begin->own[i] = (TransactionId) DatumGetUInt64(d[i]);
	}

	/*
	 * Ids on rows are 32 bits wide.  They can be compared as long as fewer
	 * than 2^31 have been handed out since; half of that is a safe margin.
	 */
	begin->valid = U64FromFullTransactionId(ReadNextFullTransactionId()) - U64FromFullTransactionId(begin->xmax) < (UINT64CONST(1) << 30);
}

bool
dw_mirror_config(int member_id, DwMirrorConfig *cfg)
{
	TupleDesc	desc;
	HeapTuple	tup = fetch_row("member", "member_pkey", MEMBER_ID, member_id, &desc);
	int			migration_id;
	bool		isnull;
	Datum		snapshot;
	bool		snapshot_null;
	DwOptions	options;

	memset(cfg, 0, sizeof(*cfg));
	if (tup == NULL)
		return false;
	cfg->member_id = member_id;
	cfg->migration_id = migration_id = DatumGetInt32(heap_getattr(tup, MEMBER_MIGRATION_ID, desc, &isnull));
	cfg->relid = DatumGetObjectId(heap_getattr(tup, MEMBER_RELATION, desc, &isnull));
	cfg->has_backward = DatumGetBool(heap_getattr(tup, MEMBER_HAS_BACKWARD, desc, &isnull));
	cfg->filling = DatumGetBool(heap_getattr(tup, MEMBER_FILLING, desc, &isnull));
	cfg->begin.relfilenode = DatumGetObjectId(heap_getattr(tup, MEMBER_RELFILENODE, desc, &isnull));
	cfg->begin.fuzzy = DatumGetBool(heap_getattr(tup, MEMBER_BEGIN_FUZZY, desc, &isnull));
	snapshot = heap_getattr(tup, MEMBER_BEGIN_SNAPSHOT, desc, &snapshot_null);
	if (!snapshot_null)
	{
		Datum		xids = heap_getattr(tup, MEMBER_BEGIN_XIDS, desc, &isnull);

		parse_begin(OidOutputFunctionCall(F_PG_SNAPSHOT_OUT, snapshot), xids, isnull, &cfg->begin);
	}

	tup = fetch_row("migration", "migration_pkey", MIGRATION_ID, migration_id, &desc);
	if (tup == NULL)
		return false;
	cfg->migration = TextDatumGetCString(heap_getattr(tup, MIGRATION_NAME, desc, &isnull));
	cfg->phase = dw_enum_value(dw_phase_names, TextDatumGetCString(heap_getattr(tup, MIGRATION_PHASE, desc, &isnull)));
	cfg->mirror = dw_enum_value(dw_mirror_names, TextDatumGetCString(heap_getattr(tup, MIGRATION_MIRROR, desc, &isnull)));
	cfg->conflict = dw_enum_value(dw_conflict_names, TextDatumGetCString(heap_getattr(tup, MIGRATION_CONFLICT, desc, &isnull)));
	cfg->on_error = dw_enum_value(dw_on_error_names, TextDatumGetCString(heap_getattr(tup, MIGRATION_ON_ERROR, desc, &isnull)));
	cfg->heal = DatumGetBool(heap_getattr(tup, MIGRATION_HEAL, desc, &isnull));
	dw_options_read(DatumGetJsonbP(heap_getattr(tup, MIGRATION_OPTIONS, desc, &isnull)), &options);
	cfg->sample_rate = options.sample_rate;
	cfg->checking = 0 != DatumGetInt64(heap_getattr(tup, MIGRATION_CHECKING, desc, &isnull));
	/* in a restored copy the snapshot is about another heap */
	if (strcmp(TextDatumGetCString(heap_getattr(tup, MIGRATION_HOME, desc, &isnull)), dw_home()) != 0)
		cfg->begin.valid = false;
	return true;
}
