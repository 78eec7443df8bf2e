/*
 * catalog_internal.h
 *		What the files catalog*.c share; nobody else includes it.
 */
#ifndef DW_CATALOG_INTERNAL_H
#define DW_CATALOG_INTERNAL_H

#include "catalog.h"

/* Makes every backend load the mirror's configuration anew before its next statement. */
extern void dw_members_invalidate(DwMigration *m);

/* The value of a sequence of the extension, by a look that leaves no lock; false if it has none, or is gone by now. */
extern bool dw_own_sequence_value(Oid seq, int64 *value);

#endif							/* DW_CATALOG_INTERNAL_H */
