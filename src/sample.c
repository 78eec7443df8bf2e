/*
 * sample.c
 *		Reads a fraction of the writes back before they commit, and compares
 *		the sides of what is really stored.
 *
 * The mirror answers for the row that it hands on.  What becomes of it after
 * that (another trigger, another statement of the transaction, a rule that
 * doesn't say the same twice) only the stored row can tell.
 *
 * Which writes: the gaps between them are drawn from the geometric
 * distribution, so that a write that is passed over costs a comparison and a
 * decrement.  It forgets the past, so drawing anew whenever another rate comes
 * along biases nothing.
 *
 * When: just before the transaction commits (or is prepared), by primary key,
 * with a snapshot that sees what the transaction did.  The row is locked by
 * us, so nobody else can have changed it.  A row that is gone, or has another
 * key by then, isn't counted.
 *
 * Nothing here makes a transaction fail: it works in a subtransaction, and an
 * error goes to the server's log.  Expressions run as the role that wrote.
 *
 * Counts are sequences, which nobody waits for; after a crash one may be up to
 * 32 too high.
 *
 * Memory: samples live in TopTransactionContext.
 */
#include "postgres.h"

#include <math.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/xact.h"
#include "common/pg_prng.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "record.h"
#include "sample.h"
#include "subxact.h"

PG_FUNCTION_INFO_V1(dw_drift_bound);

/* of one transaction; a statement of millions of rows must not hold them all */
#define MAX_SAMPLES 1000

typedef struct Sample
{
	int			member_id;
	Oid			relid;
	Oid			userid;			/* who wrote */
	int			nkey;
	AttrNumber *attnums;
	Datum	   *values;
} Sample;

int64		dw_sample_left = 0;
double		dw_sample_drawn = 0;

static List *samples = NIL;

/* ---- choosing ---- */

/* How many writes until the next one that is read back, itself included. */
static void
draw(double rate)
{
	double		u = pg_prng_double(&pg_global_prng_state);
	double		gap = rate >= 1 ? 1 : 1 + floor(log(1 - u) / log(1 - rate));

	dw_sample_drawn = rate;
	dw_sample_left = gap < (double) PG_INT32_MAX ? (int64) gap : PG_INT32_MAX;
}

void
dw_sample_note(DwRule *rule, HeapTuple tuple)
{
	Sample	   *s;
	MemoryContext old;

	if (rule->cfg.sample_rate != dw_sample_drawn)
	{
		draw(rule->cfg.sample_rate);
		if (--dw_sample_left > 0)
			return;
	}
	draw(rule->cfg.sample_rate);
	if (rule->nkey == 0 || list_length(samples) >= MAX_SAMPLES)
		return;

	old = MemoryContextSwitchTo(TopTransactionContext);
	s = palloc(sizeof(Sample));
	s->member_id = rule->cfg.member_id;
	s->relid = rule->relid;
	s->userid = GetUserId();
	s->nkey = rule->nkey;
	s->attnums = palloc(sizeof(AttrNumber) * s->nkey);
	s->values = palloc(sizeof(Datum) * s->nkey);
	for (int i = 0; i < s->nkey; i++)
	{
		Form_pg_attribute att = TupleDescAttr(rule->desc, rule->key[i] - 1);
		bool		isnull;
		Datum		value = heap_getattr(tuple, rule->key[i], rule->desc, &isnull);

		/* generated (or about to be refused) */
		if (isnull)
		{
			MemoryContextSwitchTo(old);
			return;
		}
		s->attnums[i] = rule->key[i];
		s->values[i] = datumCopy(value, att->attbyval, att->attlen);
	}
	samples = lappend(samples, s);
	MemoryContextSwitchTo(old);
}

/* ---- reading back ---- */

/* Scan keys on the primary key's index; false if it isn't the key that the sample was taken by. */
static bool
make_keys(Sample *s, Relation index, ScanKey keys)
{
	if (IndexRelationGetNumberOfKeyAttributes(index) != s->nkey)
		return false;
	for (int i = 0; i < s->nkey; i++)
	{
		AttrNumber	attnum = index->rd_index->indkey.values[i];
		Oid			type = index->rd_opcintype[i];
		Oid			op = get_opfamily_member(index->rd_opfamily[i], type, type, BTEqualStrategyNumber);
		int			from = 0;

		while (from < s->nkey && s->attnums[from] != attnum)
			from++;
		if (from == s->nkey || !OidIsValid(op))
			return false;
		ScanKeyEntryInitialize(&keys[i], 0, attnum, BTEqualStrategyNumber, InvalidOid, index->rd_indcollation[i],
							   get_opcode(op), s->values[from]);
	}
	return true;
}

/* The stored row: does one side follow from the other?  True if it has drifted. */
static bool
compare(DwRule *rule, HeapTuple tup, TupleTableSlot *slot)
{
	DwSide		target = DW_OTHER(DW_AUTHORITY(rule->cfg.phase));
	Datum		values[DW_MAX_COLUMNS];
	bool		nulls[DW_MAX_COLUMNS];
	ErrorData  *error;

	dw_rule_reset(rule);
	ExecStoreHeapTuple(tup, slot, false);
	if (dw_rule_consistent(rule, slot, NULL, NULL))
		return false;

	/* what can't be converted the mirror has recorded itself */
	if (!rule->side[target].derivable || !dw_rule_derive(rule, target, slot, values, nulls, &error))
		return false;
	dw_record(rule, slot, &tup->t_self, "drift", "a write was read back, and its sides don't follow from each other");
	return true;
}

/* Samples from the first on that are of the same member and writer; returns how many. */
static int
read_back(List *list, int first)
{
	Sample	   *s = list_nth(list, first);
	Relation	rel = try_table_open(s->relid, AccessShareLock);
	Relation	index = NULL;
	DwRule	   *rule = NULL;
	TupleTableSlot *slot = NULL;
	ScanKeyData keys[INDEX_MAX_KEYS];
	int			n = 0;
	int			compared = 0;
	int			drifted = 0;

	if (rel != NULL)
	{
		(void) RelationGetIndexList(rel);
		if (OidIsValid(rel->rd_pkindex))
			rule = dw_rule_open(s->member_id, rel);
	}
	/* the mirror may have been switched off, and the sides of a one-way migration part, by right */
	if (rule && (rule->cfg.mirror != DW_MIRROR_BOTH || (!rule->side[DW_OLD].derivable && DW_AUTHORITY(rule->cfg.phase) == DW_NEW)))
		rule = NULL;
	if (rule)
	{
		index = index_open(rel->rd_pkindex, AccessShareLock);
		slot = MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsHeapTuple);
	}
	for (; first + n < list_length(list); n++)
	{
		Sample	   *next = list_nth(list, first + n);
		SysScanDesc scan;
		HeapTuple	tup;

		CHECK_FOR_INTERRUPTS();
		if (next->member_id != s->member_id || next->userid != s->userid)
			break;
		if (rule == NULL || !make_keys(next, index, keys))
			continue;
		scan = systable_beginscan(rel, RelationGetRelid(index), true, SnapshotSelf, next->nkey, keys);
		if (HeapTupleIsValid(tup = systable_getnext(scan)))
		{
			compared++;
			drifted += compare(rule, tup, slot);
		}
		ExecClearTuple(slot);
		systable_endscan(scan);
	}
	if (rule)
	{
		dw_sample_count(s->member_id, compared, false);
		dw_sample_count(s->member_id, drifted, true);
		ExecDropSingleTupleTableSlot(slot);
		index_close(index, AccessShareLock);
	}
	if (rel)
		table_close(rel, AccessShareLock);
	return n;
}

/* ... all of them, each writer's as that writer, in a way that its role can't leave. */
static void
read_back_all(List *list)
{
	Oid			userid;
	int			sec_context;

	GetUserIdAndSecContext(&userid, &sec_context);
	for (int i = 0; i < list_length(list);)
	{
		SetUserIdAndSecContext(((Sample *) list_nth(list, i))->userid, sec_context | SECURITY_LOCAL_USERID_CHANGE);
		i += read_back(list, i);
	}
	SetUserIdAndSecContext(userid, sec_context);
}

/* Cancelled, shut down, not serializable: that is the transaction's own affair. */
static bool
not_ours(int sqlerrcode)
{
	return ERRCODE_TO_CATEGORY(sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION ||
		ERRCODE_TO_CATEGORY(sqlerrcode) == ERRCODE_TRANSACTION_ROLLBACK;
}

static void
before_commit(void)
{
	MemoryContext cxt = AllocSetContextCreate(TopTransactionContext, "pg_dualwrite samples", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(cxt);
	DwSubxact	sub;
	List	   *list = samples;

	samples = NIL;
	dw_subxact_begin(&sub);
	PG_TRY();
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		read_back_all(list);
		PopActiveSnapshot();
		dw_subxact_end(&sub);
	}
	PG_CATCH();
	{
		ErrorData  *error = dw_subxact_caught(&sub);

		if (not_ours(error->sqlerrcode))
			ReThrowError(error);
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("pg_dualwrite could not read back what was written: %s", error->message)));
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	MemoryContextDelete(cxt);
}

static void
xact_callback(XactEvent event, void *arg)
{
	if (samples == NIL)
		return;
	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE)
		before_commit();
	else
		samples = NIL;
}

void
dw_sample_init(void)
{
	RegisterXactCallback(xact_callback, NULL);
}

/* ---- what the counts say ---- */

/*
 * Regularized incomplete beta function I_x(a, b), by its continued fraction
 * (Abramowitz and Stegun 26.5.8, evaluated as Lentz did).
 */
static double
incomplete_beta(double a, double b, double x)
{
	double		front;
	double		f = 1;
	double		c = 1;
	double		d;

	if (x <= 0 || x >= 1)
		return x <= 0 ? 0 : 1;
	if (x > (a + 1) / (a + b + 2))
		return 1 - incomplete_beta(b, a, 1 - x);
	front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x)) / a;
	d = 1 / Max(1 - (a + b) * x / (a + 1), 1e-300);
	f = d;
	for (int m = 1; m <= 10000; m++)
	{
		double		even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
		double		odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
		double		step;

		d = 1 / (1 + even * d);
		c = 1 + even / c;
		f *= c * d;
		d = 1 / (1 + odd * d);
		c = 1 + odd / c;
		step = c * d;
		f *= step;
		if (fabs(step - 1) < 1e-12)
			break;
	}
	return front * f;
}

/*
 * dualwrite.drift_bound(n, k): of n writes that were read back k had drifted.
 * The largest rate of drift under which so few would be seen with a
 * probability of 5 %, the exact one-sided limit of Clopper and Pearson
 * (Biometrika 26, 1934): the 95 % quantile of Beta(k + 1, n - k).  For k = 0
 * that is 1 - 0.05^(1/n), close to 3/n, the rule of three.
 */
Datum
dw_drift_bound(PG_FUNCTION_ARGS)
{
	int64		n = PG_GETARG_INT64(0);
	int64		k = PG_GETARG_INT64(1);
	double		lo = 0;
	double		hi = 1;

	if (n <= 0 || k >= n)
		PG_RETURN_FLOAT8(1);
	if (k <= 0)
		PG_RETURN_FLOAT8(-expm1(log(0.05) / n));
	for (int i = 0; i < 200 && hi - lo > hi * 1e-10; i++)
	{
		double		mid = (lo + hi) / 2;

		if (incomplete_beta(k + 1, n - k, mid) < 0.95)
			lo = mid;
		else
			hi = mid;
	}
	PG_RETURN_FLOAT8(hi);
}
