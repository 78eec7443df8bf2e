/*
 * subxact.c
 *		Subtransactions that catch an error, as an EXCEPTION block does.
 */
#include "postgres.h"

#include "access/xact.h"

#include "subxact.h"

void
dw_subxact_begin(DwSubxact *s)
{
	s->cxt = CurrentMemoryContext;
	s->owner = CurrentResourceOwner;
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(s->cxt);
}

void
dw_subxact_end(const DwSubxact *s)
{
	ReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(s->cxt);
	CurrentResourceOwner = s->owner;
}

ErrorData *
dw_subxact_caught(const DwSubxact *s)
{
	ErrorData  *error;

	MemoryContextSwitchTo(s->cxt);
	error = CopyErrorData();
	FlushErrorState();
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(s->cxt);
	CurrentResourceOwner = s->owner;
	return error;
}
