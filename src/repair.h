/*
 * repair.h
 *		Repairing one row.
 */
#ifndef DW_REPAIR_H
#define DW_REPAIR_H

#include "storage/itemptr.h"
#include "utils/rel.h"

#include "rule.h"

/*
 * Repairs the row at tid, in a subtransaction: locks its newest version, looks
 * again, derives from the side `from`.
 */
typedef enum DwRepair
{
	DW_REPAIRED,
	DW_REPAIR_NOT_NEEDED,		/* consistent now, or gone */
	DW_REPAIR_LOCKED,
	DW_REPAIR_MOVED,			/* updated or deleted since tid was taken down */
	DW_REPAIR_FAILED			/* recorded in dw_drift */
} DwRepair;
extern DwRepair dw_repair_row(DwRule *rule, Relation rel, ItemPointer tid, DwSide from);

#endif							/* DW_REPAIR_H */
