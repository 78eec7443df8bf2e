/*
 * record.c
 *		Puts rows on record that are not consistent (dualwrite.drift), and names
 *		them in messages.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "catalog.h"
#include "record.h"

static Datum
texts(TupleDesc desc, TupleTableSlot *slot, int n, AttrNumber (*attnum) (void *, int), void *arg)
{
	Datum	   *d = palloc(sizeof(Datum) * n * 2);
	bool	   *nulls = palloc0(sizeof(bool) * n * 2);
	int			dims[1] = {n * 2};
	int			lbs[1] = {1};

	for (int i = 0; i < n; i++)
	{
		AttrNumber	att = attnum(arg, i);
		Form_pg_attribute a = TupleDescAttr(desc, att - 1);
		Datum		value;
		Oid			out;
		bool		varlena;

		d[i * 2] = CStringGetTextDatum(NameStr(a->attname));
		value = slot_getattr(slot, att, &nulls[i * 2 + 1]);
		if (nulls[i * 2 + 1])
			continue;
		getTypeOutputInfo(a->atttypid, &out, &varlena);
		d[i * 2 + 1] = CStringGetTextDatum(OidOutputFunctionCall(out, value));
	}
	return PointerGetDatum(construct_md_array(d, nulls, 1, dims, lbs, TEXTOID, -1, false, TYPALIGN_INT));
}

static AttrNumber
side_attnum(void *arg, int i)
{
	return ((DwSideRule *) arg)->cols[i].attnum;
}

static AttrNumber
key_attnum(void *arg, int i)
{
	return ((DwRule *) arg)->key[i];
}

static Datum
side_texts(DwRule *rule, DwSide side, TupleTableSlot *slot)
{
	return texts(rule->desc, slot, rule->side[side].n, side_attnum, &rule->side[side]);
}

static Datum
key_texts(DwRule *rule, TupleTableSlot *slot, bool *isnull)
{
	*isnull = rule->nkey == 0;
	return *isnull ? (Datum) 0 : texts(rule->desc, slot, rule->nkey, key_attnum, rule);
}

static void
record(DwRule *rule, TupleTableSlot *slot, ItemPointer tid, const char *reason, const char *sqlstate, const char *message, bool repaired)
{
	bool		key_null;
	Datum		key = key_texts(rule, slot, &key_null);

	dw_drift_record(rule->cfg.member_id, tid, key, key_null, side_texts(rule, DW_OLD, slot), side_texts(rule, DW_NEW, slot),
					reason, sqlstate, message, repaired);
}

void
dw_record(DwRule *rule, TupleTableSlot *slot, ItemPointer tid, const char *reason, const char *message)
{
	record(rule, slot, tid, reason, NULL, message, false);
}

void
dw_record_unconvertible(DwRule *rule, TupleTableSlot *slot, ItemPointer tid, const ErrorData *error)
{
	record(rule, slot, tid, "unconvertible", pstrdup(unpack_sql_state(error->sqlerrcode)), error->message, false);
}

void
dw_record_repaired(DwRule *rule, TupleTableSlot *slot, ItemPointer tid, const char *reason)
{
	record(rule, slot, tid, reason, NULL, NULL, true);
}

char *
dw_row_key(DwRule *rule, TupleTableSlot *slot)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; i < rule->nkey; i++)
	{
		Form_pg_attribute a = TupleDescAttr(rule->desc, rule->key[i] - 1);
		bool		isnull;
		Datum		value = slot_getattr(slot, rule->key[i], &isnull);
		Oid			out;
		bool		varlena;

		getTypeOutputInfo(a->atttypid, &out, &varlena);
		appendStringInfo(&buf, "%s%s=%s", i ? " " : "", NameStr(a->attname), isnull ? "null" : OidOutputFunctionCall(out, value));
	}
	if (rule->nkey == 0)
		appendStringInfo(&buf, "ctid=(%u,%u)", ItemPointerGetBlockNumberNoCheck(&slot->tts_tid), ItemPointerGetOffsetNumberNoCheck(&slot->tts_tid));
	return buf.data;
}
