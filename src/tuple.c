/*
 * tuple.c
 *		Replaces attributes of a heap tuple at the price of what changes.
 *
 * heap_modify_tuple takes a tuple apart and forms another one, attribute by
 * attribute: for a row of 30 columns most of the mirror's cost.  New columns
 * mostly stand at the end of a table (ADD COLUMN puts them there), so here the
 * part before the first replaced attribute is copied as it is, and only what
 * follows is filled in anew.  A tuple's data is relative to its own start, so
 * it may be copied behind a header of another length.
 *
 * Where that is no gain (a replaced attribute in the first half of the row; a tuple from
 * before the last ADD COLUMN but one) or
 * a value isn't stored as it stands (expanded objects), heap_form_tuple does
 * it.  Both must agree in every bit; with assertions, each call compares.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/tupmacs.h"

#include "dualwrite.h"
#include "tuple.h"

/* most attributes to fill in one by one */
#define MAX_TAIL (DW_MAX_COLUMNS * 2)

/*
 * The end of the data of the attributes before `first` (0-based), from the
 * start of the data.  fixed: attribute `first` will have a value of its fixed
 * length.
 */
static Size
end_before(HeapTuple tuple, TupleDesc desc, int first, bool fixed)
{
	HeapTupleHeader td = tuple->t_data;
	char	   *data = (char *) td + td->t_hoff;
	Size		off = 0;
	int			i = first;
	int			natts = HeapTupleHeaderGetNatts(td);

	/* nothing behind: the data ends there */
	while (i < natts && HeapTupleHasNulls(tuple) && att_isnull(i, td->t_bits))
		i++;
	if (i == natts)
		return tuple->t_len - td->t_hoff;
	/* a last value of fixed length stands at the very end, and the new one will, too */
	if (fixed && i == first && first == desc->natts - 1)
		return tuple->t_len - td->t_hoff - TupleDescAttr(desc, first)->attlen;

	for (i = 0; i < first; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (HeapTupleHasNulls(tuple) && att_isnull(i, td->t_bits))
			continue;
		off = att_align_pointer(off, att->attalign, att->attlen, data + off);
		off = att_addlength_pointer(off, att->attlen, data + off);
	}
	return off;
}

/* How long the attributes from `first` on can get; 0: not to be filled in here. */
static Size
room_from(TupleDesc desc, int first, const Datum *values, const bool *nulls)
{
	Size		room = 1;

	for (int i = first; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		Datum		value = values[i - first];

		if (nulls[i - first])
			continue;
		room += MAXIMUM_ALIGNOF;
		if (att->attlen > 0)
			room += att->attlen;
		else if (att->attlen == -1 && !VARATT_IS_EXTERNAL_EXPANDED(DatumGetPointer(value)))
			room += VARSIZE_ANY(DatumGetPointer(value));
		else
			return 0;
	}
	return room;
}

static char *
pad_to(char *p, char *to)
{
	while (p < to)
		*p++ = 0;
	return p;
}

/* Appends one value, as heap_fill_tuple does; returns the end. */
static char *
append(char *p, Form_pg_attribute att, Datum value, uint16 *infomask)
{
	char	   *from;
	Size		len;

	if (att->attbyval)
	{
		p = pad_to(p, (char *) att_align_nominal(p, att->attalign));
		store_att_byval(p, value, att->attlen);
		return p + att->attlen;
	}
	from = DatumGetPointer(value);
	if (att->attlen > 0)
	{
		p = pad_to(p, (char *) att_align_nominal(p, att->attalign));
		memcpy(p, from, att->attlen);
		return p + att->attlen;
	}
	*infomask |= HEAP_HASVARWIDTH;
	if (VARATT_IS_EXTERNAL(from))
	{
		*infomask |= HEAP_HASEXTERNAL;
		len = VARSIZE_EXTERNAL(from);
	}
	else if (VARATT_IS_SHORT(from))
		len = VARSIZE_SHORT(from);
	else if (att->attstorage != TYPSTORAGE_PLAIN && VARATT_CAN_MAKE_SHORT(from))
	{
		len = VARATT_CONVERTED_SHORT_SIZE(from);
		SET_VARSIZE_SHORT(p, len);
		memcpy(p + 1, VARDATA(from), len - 1);
		return p + len;
	}
	else
	{
		p = pad_to(p, (char *) att_align_nominal(p, att->attalign));
		len = VARSIZE(from);
	}
	memcpy(p, from, len);
	return p + len;
}

/* Is one of the first n attributes NULL? */
static bool
null_before(HeapTuple tuple, int n)
{
	uint8	   *bits = tuple->t_data->t_bits;

	if (!HeapTupleHasNulls(tuple))
		return false;
	for (; n >= 8; n -= 8)
		if (*bits++ != 0xFF)
			return true;
	return n > 0 && (*bits & ((1 << n) - 1)) != (1 << n) - 1;
}

/*
 * Flags that tell of the part before `first`.  Those of the tuple tell of the
 * whole, the part that is replaced included.  False: it can't be told cheaply.
 */
static bool
flags_before(HeapTuple tuple, TupleDesc desc, int first, uint16 *infomask)
{
	uint16		flags = tuple->t_data->t_infomask & (HEAP_HASVARWIDTH | HEAP_HASEXTERNAL);

	*infomask = flags;
	if (flags == 0)
		return true;
	for (int i = first; i < desc->natts; i++)
	{
		if (TupleDescAttr(desc, i)->attlen > 0)
			continue;
		if (flags & HEAP_HASEXTERNAL)
			return false;
		*infomask = 0;
		for (int j = 0; j < first && *infomask == 0; j++)
			if (TupleDescAttr(desc, j)->attlen < 0 && !(HeapTupleHasNulls(tuple) && att_isnull(j, tuple->t_data->t_bits)))
				*infomask = HEAP_HASVARWIDTH;
		break;
	}
	return true;
}

static void
fill_bitmap(uint8 *bits, HeapTuple tuple, int first, int natts, const bool *nulls)
{
	if (HeapTupleHasNulls(tuple))
	{
		memcpy(bits, tuple->t_data->t_bits, BITMAPLEN(first));
		if (first & 0x07)
			bits[first >> 3] &= (1 << (first & 0x07)) - 1;
	}
	else
		for (int i = 0; i < first; i++)
			bits[i >> 3] |= 1 << (i & 0x07);
	for (int i = first; i < natts; i++)
		if (!nulls[i - first])
			bits[i >> 3] |= 1 << (i & 0x07);
}

/* The tuple up to `first`, and the given values from there on; NULL where that can't be done. */
static HeapTuple
splice_tail(HeapTuple tuple, TupleDesc desc, int first, const Datum *values, const bool *nulls)
{
	int			natts = desc->natts;
	bool		hasnull = null_before(tuple, first) || memchr(nulls, true, natts - first) != NULL;
	Size		hoff = MAXALIGN(SizeofHeapTupleHeader + (hasnull ? BITMAPLEN(natts) : 0));
	Size		room = room_from(desc, first, values, nulls);
	HeapTupleHeader old = tuple->t_data;
	Size		prefix;
	HeapTuple	result;
	HeapTupleHeader td;
	char	   *p;
	uint16		infomask;

	if (room == 0 || !flags_before(tuple, desc, first, &infomask))
		return NULL;
	prefix = end_before(tuple, desc, first, TupleDescAttr(desc, first)->attlen > 0 && !nulls[0]);

	result = palloc(HEAPTUPLESIZE + hoff + prefix + room);
	result->t_self = tuple->t_self;
	result->t_tableOid = tuple->t_tableOid;
	result->t_data = td = (HeapTupleHeader) ((char *) result + HEAPTUPLESIZE);
	memset(td, 0, hoff);
	td->t_ctid = old->t_ctid;
	td->t_hoff = hoff;
	HeapTupleHeaderSetNatts(td, natts);
	if (hasnull)
	{
		infomask |= HEAP_HASNULL;
		fill_bitmap(td->t_bits, tuple, first, natts, nulls);
	}
	p = (char *) td + hoff;
	memcpy(p, (char *) old + old->t_hoff, prefix);
	p += prefix;
	for (int i = first; i < natts; i++)
		if (!nulls[i - first])
			p = append(p, TupleDescAttr(desc, i), values[i - first], &infomask);
	td->t_infomask = infomask;
	result->t_len = p - (char *) td;
	HeapTupleHeaderSetDatumLength(td, result->t_len);
	HeapTupleHeaderSetTypeId(td, desc->tdtypeid);
	HeapTupleHeaderSetTypMod(td, desc->tdtypmod);
	return result;
}

/* The whole of it formed anew. */
static HeapTuple
form(HeapTuple tuple, TupleDesc desc, TupleTableSlot *slot, int n, const int *cols, const Datum *values, const bool *nulls)
{
	Datum	   *all = palloc(sizeof(Datum) * desc->natts);
	bool	   *allnull = palloc(sizeof(bool) * desc->natts);
	HeapTuple	result;

	slot_getallattrs(slot);
	memcpy(all, slot->tts_values, sizeof(Datum) * desc->natts);
	memcpy(allnull, slot->tts_isnull, sizeof(bool) * desc->natts);
	for (int i = 0; i < n; i++)
	{
		all[cols[i] - 1] = values[i];
		allnull[cols[i] - 1] = nulls[i];
	}
	result = heap_form_tuple(desc, all, allnull);
	pfree(all);
	pfree(allnull);
	result->t_data->t_ctid = tuple->t_data->t_ctid;
	result->t_self = tuple->t_self;
	result->t_tableOid = tuple->t_tableOid;
	return result;
}

/*
 * The last attribute, of a type passed by value, gets a value: what most
 * migrations do, and so without loops.  NULL where the row has other NULLs.
 */
static HeapTuple
replace_last(HeapTuple tuple, TupleDesc desc, Datum value)
{
	int			natts = desc->natts;
	Form_pg_attribute att = TupleDescAttr(desc, natts - 1);
	HeapTupleHeader old = tuple->t_data;
	Size		hoff = MAXALIGN(SizeofHeapTupleHeader);
	Size		prefix = tuple->t_len - old->t_hoff;
	Size		start;
	HeapTuple	result;
	HeapTupleHeader td;
	char	   *data;

	if (null_before(tuple, natts - 1))
		return NULL;
	if (HeapTupleHeaderGetNatts(old) == natts && !(HeapTupleHasNulls(tuple) && att_isnull(natts - 1, old->t_bits)))
		prefix -= att->attlen;
	start = att_align_nominal(prefix, att->attalign);
	result = palloc(HEAPTUPLESIZE + hoff + start + sizeof(Datum));
	result->t_len = hoff + start + att->attlen;
	result->t_self = tuple->t_self;
	result->t_tableOid = tuple->t_tableOid;
	result->t_data = td = (HeapTupleHeader) ((char *) result + HEAPTUPLESIZE);
	memset(td, 0, MAXALIGN(SizeofHeapTupleHeader));
	td->t_ctid = old->t_ctid;
	td->t_hoff = hoff;
	td->t_infomask = old->t_infomask & (HEAP_HASVARWIDTH | HEAP_HASEXTERNAL);
	HeapTupleHeaderSetNatts(td, natts);
	HeapTupleHeaderSetDatumLength(td, result->t_len);
	HeapTupleHeaderSetTypeId(td, desc->tdtypeid);
	HeapTupleHeaderSetTypMod(td, desc->tdtypmod);
	data = (char *) td + hoff;
	memcpy(data, (char *) old + old->t_hoff, prefix);
	(void) pad_to(data + prefix, data + start);
	store_att_byval(data + start, value, att->attlen);
	return result;
}

/* What replaces by the part at the end; NULL where that can't be done, or is no gain. */
static HeapTuple
replace_tail(HeapTuple tuple, TupleDesc desc, TupleTableSlot *slot,
			 int n, const int *cols, const Datum *values, const bool *nulls)
{
	int			natts = desc->natts;
	int			first = natts;
	Datum		tail[MAX_TAIL];
	bool		tailnull[MAX_TAIL];

	for (int i = 0; i < n; i++)
		first = Min(first, cols[i] - 1);
	if (natts - first > MAX_TAIL || first < natts / 2 ||
		(HeapTupleHeaderGetNatts(tuple->t_data) != natts && HeapTupleHeaderGetNatts(tuple->t_data) != first))
		return NULL;
	if (n < natts - first)
	{
		slot_getallattrs(slot);
		memcpy(tail, slot->tts_values + first, sizeof(Datum) * (natts - first));
		memcpy(tailnull, slot->tts_isnull + first, sizeof(bool) * (natts - first));
	}
	for (int i = 0; i < n; i++)
	{
		tail[cols[i] - 1 - first] = values[i];
		tailnull[cols[i] - 1 - first] = nulls[i];
	}
	return splice_tail(tuple, desc, first, tail, tailnull);
}

HeapTuple
dw_tuple_replace(HeapTuple tuple, TupleDesc desc, TupleTableSlot *slot,
				 int n, const int *cols, const Datum *values, const bool *nulls)
{
	int			natts = desc->natts;
	HeapTuple	result = NULL;

	if (n == 1 && cols[0] == natts && !nulls[0] && TupleDescAttr(desc, natts - 1)->attbyval &&
		HeapTupleHeaderGetNatts(tuple->t_data) >= natts - 1)
		result = replace_last(tuple, desc, values[0]);
	if (result == NULL)
		result = replace_tail(tuple, desc, slot, n, cols, values, nulls);
	if (result == NULL)
		return form(tuple, desc, slot, n, cols, values, nulls);
#ifdef USE_ASSERT_CHECKING
	{
		HeapTuple	formed = form(tuple, desc, slot, n, cols, values, nulls);

		Assert(formed->t_len == result->t_len);
		Assert(memcmp(formed->t_data, result->t_data, formed->t_len) == 0);
	}
#endif
	return result;
}
