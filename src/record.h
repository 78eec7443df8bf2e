/*
 * record.h
 *		Rows on record, with both sides as they are in the slot.
 */
#ifndef DW_RECORD_H
#define DW_RECORD_H

#include "rule.h"

/*
 * Puts a row on record: tid is where it is stored, NULL where it isn't yet;
 * message may be NULL.  See dw_drift_record.
 */
extern void dw_record(DwRule *rule, TupleTableSlot *slot, ItemPointer tid, const char *reason, const char *message);

/* ... because a side of it could not be derived */
extern void dw_record_unconvertible(DwRule *rule, TupleTableSlot *slot, ItemPointer tid, const ErrorData *error);

/* ... and closes the record at once */
extern void dw_record_repaired(DwRule *rule, TupleTableSlot *slot, ItemPointer tid, const char *reason);

/* The row's primary key, or position, for a message; palloc'd. */
extern char *dw_row_key(DwRule *rule, TupleTableSlot *slot);

#endif							/* DW_RECORD_H */
