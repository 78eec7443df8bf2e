/*
 * toplevel.h
 *		Running one command that can't run inside a function.
 */
#ifndef DW_TOPLEVEL_H
#define DW_TOPLEVEL_H

/*
 * Runs VACUUM, CREATE INDEX CONCURRENTLY or the like, in a transaction of its
 * own, or in as many as it makes itself: outside of any transaction only, and
 * with no snapshot held.  Names in it must be quoted.
 */
extern void dw_toplevel(const char *sql);

#endif							/* DW_TOPLEVEL_H */
