/*
 * guc.c
 *		The settings pg_dualwrite.*, and the names of the vocabulary's values.
 *
 * No setting needs a restart.  Those that stand in for an option of a
 * migration (conflict, on_error, batch_time, max_..., window) apply where
 * the migration doesn't set the option itself; conflict and on_error are read
 * once, when the migration begins, because the mirror must not depend on who
 * writes.
 */
#include "postgres.h"

#include <limits.h>

#include "dualwrite.h"
#include "window.h"

const struct config_enum_entry dw_phase_names[] = {
	{"backfilling", DW_BACKFILLING, false},
	{"building", DW_BUILDING, false},
	{"verifying", DW_VERIFYING, false},
	{"ready", DW_READY, false},
	{"switched", DW_SWITCHED, false},
	{"finalized", DW_FINALIZED, false},
	{"aborted", DW_ABORTED, false},
	{NULL, 0, false}
};

const struct config_enum_entry dw_mirror_names[] = {
	{"both", DW_MIRROR_BOTH, false},
	{"forward", DW_MIRROR_FORWARD, false},
	{"backward", DW_MIRROR_BACKWARD, false},
	{"off", DW_MIRROR_OFF, false},
	{NULL, 0, false}
};

const struct config_enum_entry dw_conflict_names[] = {
	{"error", DW_CONFLICT_ERROR, false},
	{"old", DW_CONFLICT_OLD, false},
	{"new", DW_CONFLICT_NEW, false},
	{"authority", DW_CONFLICT_AUTHORITY, false},
	{NULL, 0, false}
};

const struct config_enum_entry dw_on_error_names[] = {
	{"authority", DW_ON_ERROR_AUTHORITY, false},
	{"reject", DW_ON_ERROR_REJECT, false},
	{"record", DW_ON_ERROR_RECORD, false},
	{NULL, 0, false}
};

const struct config_enum_entry dw_fault_action_names[] = {
	{"error", DW_FAULT_ERROR, false},
	{"crash", DW_FAULT_CRASH, false},
	{"sleep", DW_FAULT_SLEEP, false},
	{NULL, 0, false}
};

static const struct config_enum_entry side_names[] = {
	{"auto", DW_SESSION_AUTO, false},
	{"old", DW_SESSION_OLD, false},
	{"new", DW_SESSION_NEW, false},
	{NULL, 0, false}
};

int			dw_lock_timeout = 300;
int			dw_lock_retries = 60;
int			dw_session_side = DW_SESSION_AUTO;
int			dw_default_workers = 1;
int			dw_horizon_wait = 60;
int			dw_max_workers = 4;
int			dw_inline_limit = 1024;
int			dw_default_conflict = DW_CONFLICT_ERROR;
int			dw_default_on_error = DW_ON_ERROR_AUTHORITY;
int			dw_default_batch_time = 2;
int			dw_default_max_rows = 0;
int			dw_default_max_wal = 0;
int			dw_default_max_replica_lag = 5000;
int			dw_default_max_slot_retention = 0;
char	   *dw_default_window = NULL;
int			dw_default_recheck = 86400;
int			dw_naptime = 600;

int
dw_enum_value(const struct config_enum_entry *names, const char *name)
{
	for (; names->name; names++)
		if (strcmp(names->name, name) == 0)
			return names->val;
	return -1;
}

const char *
dw_enum_name(const struct config_enum_entry *names, int value)
{
	for (; names->name; names++)
		if (names->val == value)
			return names->name;
	elog(ERROR, "unexpected value %d", value);
	return NULL;				/* keep compiler quiet */
}

const char *
dw_side_name(DwSide side)
{
	return side == DW_OLD ? "old" : "new";
}

static bool
check_window(char **newval, void **extra, GucSource source)
{
	DwWindow	window;
	const char *problem;

	if (**newval == '\0' || dw_window_parse(*newval, &window, &problem))
		return true;
	GUC_check_errdetail("%s", problem);
	return false;
}

void
dw_define_settings(void)
{
	DefineCustomIntVariable("pg_dualwrite.lock_timeout",
							"How long a single try waits for a table lock.",
							"Writers queue behind a waiting try for no longer than this.",
							&dw_lock_timeout, 300, 1, INT_MAX / 2, PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_dualwrite.lock_retries",
							"How many times a verb tries to take its table locks.",
							"One try where the transaction holds table locks already.",
							&dw_lock_retries, 60, 1, 100000, PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomEnumVariable("pg_dualwrite.side",
							 "Which version of the application this session is.",
							 "old and new decide where a statement sets both sides or neither; auto looks at what it set.",
							 &dw_session_side, DW_SESSION_AUTO, side_names, PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_dualwrite.max_workers",
							"How many background workers one database may have at a time.",
							"Further migrations wait for one to become free. Taken from max_worker_processes.",
							&dw_max_workers, 4, 0, 256, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_dualwrite.workers",
							"Default of the option workers: background workers that share the backfill of one migration.",
							NULL,
							&dw_default_workers, 1, 1, DW_MAX_WORKERS, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_dualwrite.horizon_wait",
							"How long the backfill waits for an old snapshot that keeps dead row versions from being pruned.",
							"After that it goes on, and the table grows. 0: it doesn't wait.",
							&dw_horizon_wait, 60, 0, INT_MAX / 1000, PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_dualwrite.inline_limit",
							"Tables up to this size are backfilled and verified inside dw_begin's own transaction.",
							NULL,
							&dw_inline_limit, 1024, 0, INT_MAX / 2, PGC_USERSET, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomEnumVariable("pg_dualwrite.conflict",
							 "Default of the option conflict, taken when a migration begins.",
							 NULL,
							 &dw_default_conflict, DW_CONFLICT_ERROR, dw_conflict_names, PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomEnumVariable("pg_dualwrite.on_error",
							 "Default of the option on_error, taken when a migration begins.",
							 NULL,
							 &dw_default_on_error, DW_ON_ERROR_AUTHORITY, dw_on_error_names, PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_dualwrite.batch_time",
							"Default of the option batch_time: how long one transaction of the backfill may take.",
							NULL,
							&dw_default_batch_time, 2, 1, 60000, PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_dualwrite.max_rows_per_second",
							"Default of the option max_rows_per_second; 0 means no limit.",
							NULL,
							&dw_default_max_rows, 0, 0, INT_MAX, PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_dualwrite.max_wal_per_second",
							"Default of the option max_wal_per_second: WAL that a backfill may write; 0 means no limit.",
							NULL,
							&dw_default_max_wal, 0, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_dualwrite.max_replica_lag",
							"Default of the option max_replica_lag: lag of a standby at which a backfill stops; 0 means that lag is not watched.",
							NULL,
							&dw_default_max_replica_lag, 5000, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_dualwrite.max_slot_retention",
							"Default of the option max_slot_retention: WAL kept for a replication slot at which a backfill stops; 0 means no limit but max_slot_wal_keep_size.",
							NULL,
							&dw_default_max_slot_retention, 0, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomStringVariable("pg_dualwrite.window",
							   "Default of the option window: part of the day in which background work may run.",
							   "Such as 01:00-05:00 Europe/Berlin; empty means always.",
							   &dw_default_window, "", PGC_SIGHUP, 0, check_window, NULL, NULL);
	DefineCustomIntVariable("pg_dualwrite.recheck_interval",
							"Default of the option recheck_interval: how old a verification gets before every row is compared again.",
							"0 means any age.",
							&dw_default_recheck, 86400, 0, INT_MAX / 2, PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("pg_dualwrite.naptime",
							"How often a preloaded library looks for work that no worker is doing, in each database.",
							NULL,
							&dw_naptime, 600, 1, INT_MAX / 1000, PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	MarkGUCPrefixReserved("pg_dualwrite");
}
