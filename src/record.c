/*
 * record.c
 *		Puts rows on record that are not consistent (dualwrite.drift), and names
 *		them in messages.
 *
 * A record must never be what makes a write fail, and jsonb holds less than a
 * row may: a string of 256 MB, all of them together as much.  So long values are cut: to
 * what a reader can use, where the row still has them; to what a record
 * holds, where the record is about a value that was replaced.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "catalog.h"
#include "record.h"

/* bytes that are kept of a value that the row has; of all values of a side that were replaced; of a message */
#define VALUE_BYTES 8192
#define REPLACED_BYTES (128 * 1024 * 1024)
#define MESSAGE_BYTES 8192

/* a value of this size, which can't be printed in part, isn't printed: its text might be many times as long */
#define WHOLE_BYTES (4 * 1024 * 1024)

/* Not longer than that, and how long it was. */
static char *
clip(char *s, size_t len, size_t total, int limit)
{
	if (len <= (size_t) limit && len == total)
		return s;
	return psprintf("%.*s... (%zu bytes)", pg_mbcliplen(s, len, Min(len, (size_t) limit)), s, total);
}

/* What is recorded of a value. */
static char *
value_text(Form_pg_attribute a, Datum value, int limit)
{
	Oid			type = getBaseType(a->atttypid);
	Oid			out;
	bool		is_varlena;
	char	   *s;

	getTypeOutputInfo(a->atttypid, &out, &is_varlena);
	if (a->attlen == -1)
	{
		size_t		total = toast_raw_datum_size(value) - VARHDRSZ;

		/* only the beginning is read */
		if ((type == TEXTOID || type == VARCHAROID || type == BPCHAROID || type == JSONOID || type == XMLOID) && total > (size_t) limit)
		{
			text	   *part = DatumGetTextPSlice(value, 0, limit);

			return clip(VARDATA_ANY(part), VARSIZE_ANY_EXHDR(part), total, limit);
		}
		if (type == BYTEAOID && total > (size_t) limit / 2)
			return psprintf("%s... (%zu bytes)", OidOutputFunctionCall(out, PointerGetDatum(DatumGetByteaPSlice(value, 0, limit / 2))), total);
		if (total > WHOLE_BYTES)
			return psprintf("... (%zu bytes of type %s)", total, format_type_be(a->atttypid));
	}
	s = OidOutputFunctionCall(out, value);
	return clip(s, strlen(s), strlen(s), limit);
}

static Datum
texts(TupleDesc desc, TupleTableSlot *slot, int n, AttrNumber (*attnum) (void *, int), void *arg, int limit)
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

		d[i * 2] = CStringGetTextDatum(NameStr(a->attname));
		value = slot_getattr(slot, att, &nulls[i * 2 + 1]);
		if (nulls[i * 2 + 1])
			continue;
		d[i * 2 + 1] = CStringGetTextDatum(value_text(a, value, limit));
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
side_texts(DwRule *rule, DwSide side, TupleTableSlot *slot, bool replaced)
{
	int			n = rule->side[side].n;

	return texts(rule->desc, slot, n, side_attnum, &rule->side[side], replaced ? REPLACED_BYTES / n : VALUE_BYTES);
}

static Datum
key_texts(DwRule *rule, TupleTableSlot *slot, bool *isnull)
{
	*isnull = rule->nkey == 0;
	/* whole: it tells rows apart, and can't be larger than what an index holds, compressed */
	return *isnull ? (Datum) 0 : texts(rule->desc, slot, rule->nkey, key_attnum, rule, WHOLE_BYTES);
}

static void
record(DwRule *rule, TupleTableSlot *slot, ItemPointer tid, const char *reason, const char *sqlstate, const char *message, bool repaired)
{
	bool		key_null;
	Datum		key = key_texts(rule, slot, &key_null);

	dw_drift_record(rule->cfg.member_id, tid, key, key_null, side_texts(rule, DW_OLD, slot, repaired), side_texts(rule, DW_NEW, slot, repaired),
					reason, sqlstate, message ? clip(pstrdup(message), strlen(message), strlen(message), MESSAGE_BYTES) : NULL, repaired);
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
		bool		is_varlena;

		getTypeOutputInfo(a->atttypid, &out, &is_varlena);
		appendStringInfo(&buf, "%s%s=%s", i ? " " : "", NameStr(a->attname), isnull ? "null" : OidOutputFunctionCall(out, value));
	}
	if (rule->nkey == 0)
		appendStringInfo(&buf, "ctid=(%u,%u)", ItemPointerGetBlockNumberNoCheck(&slot->tts_tid), ItemPointerGetOffsetNumberNoCheck(&slot->tts_tid));
	return buf.data;
}
