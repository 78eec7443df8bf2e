/*
 * launcher.h
 *		Automatic resume, where the library is preloaded.
 */
#ifndef DW_LAUNCHER_H
#define DW_LAUNCHER_H

#include "postgres.h"

/* registers the launcher; from _PG_init, while shared_preload_libraries are loaded */
extern void dw_launcher_register(void);

extern PGDLLEXPORT void dw_launcher_main(Datum arg);

#endif							/* DW_LAUNCHER_H */
