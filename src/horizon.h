/*
 * horizon.h
 *		Who keeps dead row versions from being removed.
 */
#ifndef DW_HORIZON_H
#define DW_HORIZON_H

#include "access/transam.h"

typedef struct DwHorizon
{
	TransactionId xmin;			/* the oldest that somebody else in this database may still need */
	int			pid;			/* whose it is; 0: not a session */
	double		seconds;		/* age of its transaction; 0: not known */
	char		who[128];		/* "pid 123", "slot x", "prepared transaction y" */
} DwHorizon;

/* False if nobody does.  Inside a transaction, as a role that sees all sessions. */
extern bool dw_horizon(DwHorizon *h);

#endif							/* DW_HORIZON_H */
