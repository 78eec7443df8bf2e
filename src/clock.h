/*
 * clock.h
 *		How long ago something was.
 */
#ifndef DW_CLOCK_H
#define DW_CLOCK_H

#include "portability/instr_time.h"

static inline double
dw_ms_since(instr_time then)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, then);
	return INSTR_TIME_GET_MILLISEC(now);
}

#endif							/* DW_CLOCK_H */
