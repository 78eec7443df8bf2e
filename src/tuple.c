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
 * before ADD COLUMN) or
 * a value isn't stored as it stands (expanded objects), heap_form_tuple does
 * it.  Both must agree in every bit; with assertions, each call compares.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/tupmacs.h"

#include "dualwrite.h"
#include "tuple.h"

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

	/* nothing behind: the data ends there */
	while (i < desc->natts && HeapTupleHasNulls(tuple) && att_isnull(i, td->t_bits))
		i++;
	if (i == desc->natts)
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

		if (nulls[i])
			continue;
		room += MAXIMUM_ALIGNOF;
		if (att->attlen > 0)
			room += att->attlen;
		else if (att->attlen == -1 && !VARATT_IS_EXTERNAL_EXPANDED(DatumGetPointer(values[i])))
			room += VARSIZE_ANY(DatumGetPointer(values[i]));
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

/* The tuple up to `first`, and the given values from there on; NULL where that can't be done. */
static HeapTuple
splice_tail(HeapTuple tuple, TupleDesc desc, int first, const Datum *values, const bool *nulls)
{
	int			natts = desc->natts;
	bool		hasnull = memchr(nulls, true, natts) != NULL;
	Size		hoff = MAXALIGN(SizeofHeapTupleHeader + (hasnull ? BITMAPLEN(natts) : 0));
	Size		room = room_from(desc, first, values, nulls);
	Form_pg_attribute att = TupleDescAttr(desc, first);
	HeapTupleHeader old = tuple->t_data;
	Size		prefix;
	HeapTuple	result;
	HeapTupleHeader td;
	char	   *p;
	uint16		infomask = hasnull ? HEAP_HASNULL : 0;

	if (room == 0)
		return NULL;
	prefix = end_before(tuple, desc, first, att->attlen > 0 && !nulls[first]);
	result = palloc(HEAPTUPLESIZE + hoff + prefix + room);
	result->t_self = tuple->t_self;
	result->t_tableOid = tuple->t_tableOid;
	result->t_data = td = (HeapTupleHeader) ((char *) result + HEAPTUPLESIZE);
	memset(td, 0, hoff);
	td->t_ctid = old->t_ctid;
	td->t_hoff = hoff;
	HeapTupleHeaderSetNatts(td, natts);
	if (hasnull)
		for (int i = 0; i < natts; i++)
			if (!nulls[i])
				td->t_bits[i >> 3] |= 1 << (i & 0x07);
	p = (char *) td + hoff;
	memcpy(p, (char *) old + old->t_hoff, prefix);
	p += prefix;

	/* flags of the part that is copied: those of the whole may be those of what is replaced */
	for (int i = 0; i < first && (infomask & HEAP_HASVARWIDTH) == 0; i++)
		if (!nulls[i] && TupleDescAttr(desc, i)->attlen < 0)
			infomask |= HEAP_HASVARWIDTH;
	if (old->t_infomask & HEAP_HASEXTERNAL)
		for (int i = 0; i < first; i++)
			if (!nulls[i] && TupleDescAttr(desc, i)->attlen == -1 && VARATT_IS_EXTERNAL(DatumGetPointer(values[i])))
				infomask |= HEAP_HASEXTERNAL;

	for (int i = first; i < natts; i++)
		if (!nulls[i])
			p = append(p, TupleDescAttr(desc, i), values[i], &infomask);
	td->t_infomask = infomask;
	result->t_len = p - (char *) td;
	HeapTupleHeaderSetDatumLength(td, result->t_len);
	HeapTupleHeaderSetTypeId(td, desc->tdtypeid);
	HeapTupleHeaderSetTypMod(td, desc->tdtypmod);
	return result;
}

/* The whole of it formed anew. */
static HeapTuple
form(HeapTuple tuple, TupleDesc desc, const Datum *values, const bool *nulls)
{
	HeapTuple	result = heap_form_tuple(desc, unconstify(Datum *, values), unconstify(bool *, nulls));

	result->t_data->t_ctid = tuple->t_data->t_ctid;
	result->t_self = tuple->t_self;
	result->t_tableOid = tuple->t_tableOid;
	return result;
}

HeapTuple
dw_tuple_replace(HeapTuple tuple, TupleDesc desc, TupleTableSlot *slot,
				 int n, const int *cols, const Datum *values, const bool *nulls)
{
	Datum	   *all = slot->tts_values;
	bool	   *allnull = slot->tts_isnull;
	Datum		was[DW_MAX_COLUMNS * 2];
	bool		wasnull[DW_MAX_COLUMNS * 2];
	int			first = desc->natts;
	HeapTuple	result = NULL;

	Assert(n <= DW_MAX_COLUMNS * 2);
	slot_getallattrs(slot);

	/* the new values stand in the slot's arrays for as long as the tuple is made */
	for (int i = 0; i < n; i++)
	{
		int			att = cols[i] - 1;

		was[i] = all[att];
		wasnull[i] = allnull[att];
		all[att] = values[i];
		allnull[att] = nulls[i];
		first = Min(first, att);
	}
	if (first >= desc->natts / 2 && HeapTupleHeaderGetNatts(tuple->t_data) == desc->natts)
		result = splice_tail(tuple, desc, first, all, allnull);
#ifdef USE_ASSERT_CHECKING
	if (result)
	{
		HeapTuple	formed = form(tuple, desc, all, allnull);

		Assert(formed->t_len == result->t_len);
		Assert(memcmp(formed->t_data, result->t_data, formed->t_len) == 0);
	}
#endif
	if (result == NULL)
		result = form(tuple, desc, all, allnull);
	for (int i = 0; i < n; i++)
	{
		all[cols[i] - 1] = was[i];
		allnull[cols[i] - 1] = wasnull[i];
	}
	return result;
}
