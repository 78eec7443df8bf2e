/*
 * pg_dualwrite.c
 *		Loading of the library: settings, callbacks, and the launcher where it is
 *		preloaded.  Nothing here or elsewhere needs preloading.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "dualwrite.h"
#include "fault.h"
#include "launcher.h"
#include "rule.h"
#include "sample.h"

#ifdef PG_MODULE_MAGIC_EXT
PG_MODULE_MAGIC_EXT(.name = "pg_dualwrite",.version = "1.0");
#else
PG_MODULE_MAGIC;
#endif

PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	dw_define_settings();
	dw_rule_init();
	dw_sample_init();
	dw_fault_init();
	if (process_shared_preload_libraries_in_progress)
		dw_launcher_register();
}
