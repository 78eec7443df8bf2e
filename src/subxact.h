/*
 * subxact.h
 *		Subtransactions that catch an error.
 */
#ifndef DW_SUBXACT_H
#define DW_SUBXACT_H

#include "utils/palloc.h"
#include "utils/resowner.h"

/* what is current before and after it; on the stack of whoever has the PG_TRY */
typedef struct DwSubxact
{
	MemoryContext cxt;
	ResourceOwner owner;
} DwSubxact;

/* Before PG_TRY; the memory context stays what it is. */
extern void dw_subxact_begin(DwSubxact *s);

/* The last thing in PG_TRY. */
extern void dw_subxact_end(const DwSubxact *s);

/* The first thing in PG_CATCH: everything is rolled back.  The error is copied into the context of before. */
extern ErrorData *dw_subxact_caught(const DwSubxact *s);

#endif							/* DW_SUBXACT_H */
