/*
 * run.c
 *		Running SQL on the extension's own tables and taking locks.
 *
 * The extension's tables belong to the role that installed it; nobody else
 * may write them.  C code becomes that role for the length of a statement, by
 * SetUserIdAndSecContext with SECURITY_LOCAL_USERID_CHANGE, which forbids SET
 * ROLE and SET SESSION AUTHORIZATION to anything run meanwhile.  Becoming the
 * owner of a user's table in somebody else's session goes further, as core does
 * it for index functions: SECURITY_RESTRICTED_OPERATION, so that the owner's
 * code leaves neither deferred triggers nor temporary objects nor settings
 * behind for the caller to run into.
 *
 * The search path is pg_catalog and every name qualified, so a user's objects
 * are never found by accident.
 *
 * Statements run under a snapshot taken now, also in a REPEATABLE READ
 * transaction: a verb must see what has committed since it got its lock.
 *
 * Locks: tries are short, because a request that waits for a strong lock
 * makes every later writer queue behind it.  Each try is a subtransaction, so
 * that its timeout can be caught, and what it has got is given back with it: a
 * verb that needs several relations gets all or none, and only then changes
 * anything.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "portability/instr_time.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/wait_event.h"

#include "compat.h"
#include "dualwrite.h"
#include "own_lock.h"
#include "run.h"
#include "subxact.h"

#define SAFE_PATH "pg_catalog, pg_temp"

/* plans of the literals that dw_sql has met, by address; live for the session */
typedef struct PlanEntry
{
	const char *sql;
	SPIPlanPtr	plan;
} PlanEntry;

static HTAB *plans = NULL;

Oid
dw_own_role(void)
{
	Oid			nsp = get_namespace_oid(DW_SCHEMA, false);
	Oid			relid = get_relname_relid("migration", nsp);
	HeapTuple	tup = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner;

	if (!HeapTupleIsValid(tup))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the tables of pg_dualwrite are missing in this database"),
				 errhint("Run CREATE EXTENSION pg_dualwrite.")));
	owner = ((Form_pg_class) GETSTRUCT(tup))->relowner;
	ReleaseSysCache(tup);
	return owner;
}

void
dw_safe_settings(GucAction action)
{
	if (strcmp(namespace_search_path, SAFE_PATH) != 0)
		(void) set_config_option("search_path", SAFE_PATH, PGC_USERSET, PGC_S_SESSION, action, true, 0, false);
	if (row_security)
		(void) set_config_option("row_security", "off", PGC_USERSET, PGC_S_SESSION, action, true, 0, false);
}

void
dw_run_begin(DwRun *run, Oid userid)
{
	GetUserIdAndSecContext(&run->userid, &run->sec_context);
	SetUserIdAndSecContext(userid, run->sec_context | SECURITY_LOCAL_USERID_CHANGE |
						   (userid != run->userid && userid != dw_own_role() ? SECURITY_RESTRICTED_OPERATION : 0));
	run->nestlevel = NewGUCNestLevel();
	dw_safe_settings(GUC_ACTION_SAVE);
	SPI_connect();
}

void
dw_run_end(DwRun *run)
{
	SPI_finish();
	/* as if rolled back: nothing that was set meanwhile stays, whoever set it */
	AtEOXact_GUC(false, run->nestlevel);
	SetUserIdAndSecContext(run->userid, run->sec_context);
}

DwArg
dw_text_arg(const char *value)
{
	DwArg		arg = {TEXTOID, (Datum) 0, value == NULL};

	if (value)
		arg.value = CStringGetTextDatum(value);
	return arg;
}

uint64
dw_sql(const char *sql, int nargs, const DwArg *args)
{
	PlanEntry  *entry;
	bool		found;
	Datum		values[24];
	char		nulls[24];
	int			rc;

	Assert(nargs <= (int) lengthof(values));
	if (plans == NULL)
	{
		HASHCTL		ctl = {.keysize = sizeof(const char *),.entrysize = sizeof(PlanEntry)};

		plans = hash_create("pg_dualwrite plans", 64, &ctl, HASH_ELEM | HASH_BLOBS);
	}
	entry = hash_search(plans, &sql, HASH_ENTER, &found);
	if (!found)
		entry->plan = NULL;
	if (entry->plan == NULL)
	{
		Oid			types[24];
		SPIPlanPtr	plan;

		for (int i = 0; i < nargs; i++)
			types[i] = args[i].type;
		plan = SPI_prepare(sql, nargs, types);
		if (plan == NULL)
			elog(ERROR, "could not prepare \"%s\": %s", sql, SPI_result_code_string(SPI_result));
		SPI_keepplan(plan);
		entry->plan = plan;
	}
	for (int i = 0; i < nargs; i++)
	{
		values[i] = args[i].value;
		nulls[i] = args[i].isnull ? 'n' : ' ';
	}

	/*
	 * The snapshot sees what this transaction did so far (SPI advances the
	 * command counter) and everything committed by now.
	 */
	rc = SPI_execute_snapshot(entry->plan, values, nulls, GetLatestSnapshot(), InvalidSnapshot,
							  false, true, 0);
	if (rc < 0)
		elog(ERROR, "could not execute \"%s\": %s", sql, SPI_result_code_string(rc));
	return SPI_processed;
}

Datum
dw_sql_datum(uint64 row, int column, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column + 1, isnull);
}

bool
dw_sql_bool(uint64 row, int column)
{
	bool		isnull;
	Datum		value = dw_sql_datum(row, column, &isnull);

	return !isnull && DatumGetBool(value);
}

int64
dw_sql_int(uint64 row, int column)
{
	char	   *value = SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column + 1);

	return value ? strtoll(value, NULL, 10) : 0;
}

double
dw_sql_float(uint64 row, int column)
{
	char	   *value = SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column + 1);

	return value ? strtod(value, NULL) : 0;
}

char *
dw_sql_text(uint64 row, int column, MemoryContext cxt)
{
	char	   *value = SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column + 1);

	return value ? MemoryContextStrdup(cxt, value) : NULL;
}

Jsonb *
dw_sql_jsonb(uint64 row, int column, MemoryContext cxt)
{
	MemoryContext old = MemoryContextSwitchTo(cxt);
	bool		isnull;
	Jsonb	   *value = DatumGetJsonbPCopy(dw_sql_datum(row, column, &isnull));

	MemoryContextSwitchTo(old);
	return value;
}

uint64
dw_own_sql(const char *sql, int nargs, const DwArg *args)
{
	DwRun		run;
	uint64		n;

	dw_run_begin(&run, dw_own_role());
	n = dw_sql(sql, nargs, args);
	dw_run_end(&run);
	return n;
}

int64
dw_own_int(const char *sql, int nargs, const DwArg *args)
{
	DwRun		run;
	int64		value;

	dw_run_begin(&run, dw_own_role());
	dw_sql(sql, nargs, args);
	value = dw_sql_int(0, 0);
	dw_run_end(&run);
	return value;
}

Jsonb *
dw_own_jsonb(const char *sql, int nargs, const DwArg *args)
{
	MemoryContext cxt = CurrentMemoryContext;
	DwRun		run;
	Jsonb	   *value;

	dw_run_begin(&run, dw_own_role());
	dw_sql(sql, nargs, args);
	value = dw_sql_jsonb(0, 0, cxt);
	dw_run_end(&run);
	return value;
}

char *
dw_own_text(const char *sql, int nargs, const DwArg *args)
{
	MemoryContext cxt = CurrentMemoryContext;
	DwRun		run;
	char	   *value;

	dw_run_begin(&run, dw_own_role());
	dw_sql(sql, nargs, args);
	value = dw_sql_text(0, 0, cxt);
	dw_run_end(&run);
	return value;
}

/* The first column of all rows, in the caller's context, as a list of the given type. */
static List *
own_list(NodeTag type, const char *sql, int nargs, const DwArg *args)
{
	MemoryContext cxt = CurrentMemoryContext;
	List	   *values = NIL;
	DwRun		run;
	uint64		n;

	dw_run_begin(&run, dw_own_role());
	n = dw_sql(sql, nargs, args);
	for (uint64 i = 0; i < n; i++)
	{
		char	   *text = type == T_List ? dw_sql_text(i, 0, cxt) : NULL;
		int64		number = type == T_List ? 0 : dw_sql_int(i, 0);
		MemoryContext old = MemoryContextSwitchTo(cxt);

		values = type == T_List ? lappend(values, text)
			: type == T_OidList ? lappend_oid(values, (Oid) number) : lappend_int(values, (int) number);
		MemoryContextSwitchTo(old);
	}
	dw_run_end(&run);
	return values;
}

List *
dw_own_ints(const char *sql, int nargs, const DwArg *args)
{
	return own_list(T_IntList, sql, nargs, args);
}

List *
dw_own_oids(const char *sql, int nargs, const DwArg *args)
{
	return own_list(T_OidList, sql, nargs, args);
}

List *
dw_own_texts(const char *sql, int nargs, const DwArg *args)
{
	return own_list(T_List, sql, nargs, args);
}

void
dw_command(const char *sql)
{
	char		timeout[32];
	int			rc;

	/* the table is locked already; what else the command needs must not keep everyone waiting */
	snprintf(timeout, sizeof(timeout), "%d", dw_lock_timeout);
	(void) set_config_option("lock_timeout", timeout, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	rc = SPI_execute(sql, false, 0);
	if (rc < 0)
		elog(ERROR, "could not execute \"%s\": %s", sql, SPI_result_code_string(rc));
}

/* Does this transaction hold locks on tables, other than reads of our own? */
static bool
holds_table_locks(void)
{
	DwRun		run;
	bool		held;

	dw_run_begin(&run, dw_own_role());
	held = DW_SQL("SELECT 1 FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_class c ON c.oid = l.relation"
				  " WHERE l.locktype = 'relation' AND l.granted AND l.pid = pg_catalog.pg_backend_pid()"
				  " AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())"
				  " AND c.relkind IN ('r', 'p', 'm', 'f') AND l.relation >= $1"
				  " AND c.relnamespace <> 'dualwrite'::pg_catalog.regnamespace AND l.mode <> 'AccessShareLock'"
				  " LIMIT 1", DW_OID(FirstNormalObjectId)) > 0;
	dw_run_end(&run);
	return held;
}

/*
 * Who holds locks on the tag, for the error message; palloc'd.  What a session
 * runs is told to those only whom pg_stat_activity would tell.
 */
static char *
describe_holders(const LOCKTAG *tag, LOCKMODE mode)
{
	StringInfoData buf;
	VirtualTransactionId *vxid = GetLockConflicts(tag, mode, NULL);
	DwRun		run;
	MemoryContext cxt = CurrentMemoryContext;
	Oid			reader = GetUserId();

	initStringInfo(&buf);
	for (; VirtualTransactionIdIsValid(*vxid); vxid++)
	{
		char	   *name;
		bool		found;

		name = psprintf("%d/%u", dw_vxid_backend(*vxid), vxid->localTransactionId);
		dw_run_begin(&run, dw_own_role());
		found = DW_SQL("SELECT CASE WHEN l.pid IS NULL THEN pg_catalog.format('prepared transaction \"%s\"', x.gid)"
					   " WHEN NOT coalesce(pg_catalog.pg_has_role($2, a.usesysid, 'USAGE') OR pg_catalog.pg_has_role($2, 'pg_read_all_stats', 'USAGE'), false)"
					   " THEN pg_catalog.format('pid %s', l.pid)"
					   " ELSE pg_catalog.format('pid %s (%s): %s', l.pid, coalesce(a.state, a.backend_type),"
					   " pg_catalog.left(pg_catalog.regexp_replace(coalesce(a.query, ''), '\\s+', ' ', 'g'), 200)) END"
					   " FROM pg_catalog.pg_locks l"
					   " LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid"
					   /* a prepared transaction keeps the virtual id of its session; its real id is what it has locked itself */
					   " LEFT JOIN pg_catalog.pg_locks t ON l.pid IS NULL AND t.pid IS NULL AND t.locktype = 'transactionid'"
					   "      AND t.virtualtransaction = l.virtualtransaction"
					   " LEFT JOIN pg_catalog.pg_prepared_xacts x ON x.transaction = t.transactionid"
					   " WHERE l.virtualtransaction = $1 AND l.granted LIMIT 1", DW_TEXT(name), DW_OID(reader)) > 0;
		if (found)
			appendStringInfo(&buf, "%s%s", buf.len ? "; " : "", dw_sql_text(0, 0, cxt));
		dw_run_end(&run);
	}
	return buf.data;
}

/* What a verb wants to lock. */
typedef struct Wanted
{
	LOCKMODE	mode;
	List	   *relids;			/* NIL: the tag is all */
	List	   *(*more) (void *arg);	/* see dw_lock_relations */
	void	   *arg;
	LOCKTAG		tag;			/* the lock that is being waited for, or was in vain */
	const char *what;			/* ... for the message */
} Wanted;

/* Sets the timeout for the next lock to what is left of it since start. */
static void
arm_timeout(instr_time start)
{
	instr_time	now;
	char		timeout[32];

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, start);
	snprintf(timeout, sizeof(timeout), "%d", Max(dw_lock_timeout - (int) INSTR_TIME_GET_MILLISEC(now), 1));
	(void) set_config_option("lock_timeout", timeout, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

static void
acquire_relations(Wanted *w, List *relids, instr_time start)
{
	ListCell   *lc;

	foreach(lc, relids)
	{
		SET_LOCKTAG_RELATION(w->tag, MyDatabaseId, lfirst_oid(lc));
		arm_timeout(start);
		LockRelationOid(lfirst_oid(lc), w->mode);
	}
}

/* All of it within one timeout, as what we have got already keeps others waiting. */
static void
acquire(Wanted *w)
{
	instr_time	start;
	int			nestlevel = NewGUCNestLevel();

	INSTR_TIME_SET_CURRENT(start);
	if (w->relids == NIL)
	{
		arm_timeout(start);
		(void) LockAcquire(&w->tag, w->mode, false, false);
	}
	else
	{
		acquire_relations(w, w->relids, start);
		if (w->more)
			acquire_relations(w, w->more(w->arg), start);
	}
	AtEOXact_GUC(true, nestlevel);
}

/* One try: true if all was got within the timeout; else nothing was. */
static bool
try_lock(Wanted *w)
{
	DwSubxact	sub;
	volatile bool got = false;

	dw_subxact_begin(&sub);
	PG_TRY();
	{
		acquire(w);
		dw_subxact_end(&sub);
		got = true;
	}
	PG_CATCH();
	{
		ErrorData  *edata = dw_subxact_caught(&sub);

		/* a deadlock, where lock_timeout is the longer one: given way, it is none any more */
		if (edata->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE && edata->sqlerrcode != ERRCODE_T_R_DEADLOCK_DETECTED)
			ReThrowError(edata);
		FreeErrorData(edata);
	}
	PG_END_TRY();
	return got;
}

/* What could not be locked, for the message; palloc'd. */
static const char *
describe_wanted(const Wanted *w)
{
	char	   *name;

	if (w->relids == NIL)
		return w->what;
	name = get_rel_name((Oid) w->tag.locktag_field2);
	return psprintf("%s \"%s\"", get_rel_relkind((Oid) w->tag.locktag_field2) == RELKIND_SEQUENCE ? "sequence" : "table", name ? name : "?");
}

static void
short_tries(Wanted *w)
{
	int			tries = holds_table_locks() ? 1 : dw_lock_retries;
	char	   *holders;

	for (int i = 1;; i++)
	{
		if (try_lock(w))
			return;
		if (i >= tries)
			break;

		/*
		 * Between tries the writers that queued behind us go through.
		 * Uneven pauses keep two callers from meeting again and again.
		 */
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 (long) (dw_lock_timeout / 4 + pg_prng_double(&pg_global_prng_state) * dw_lock_timeout / 2),
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	holders = describe_holders(&w->tag, w->mode);
	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("could not lock %s in %d %s of %d ms", describe_wanted(w), tries, tries == 1 ? "try" : "tries", dw_lock_timeout),
			 holders[0] ? errdetail("It is held by %s.", holders) : 0,
			 tries == 1 && dw_lock_retries > 1
			 ? errhint("There was one try only, because this transaction holds table locks already. Repeat the whole transaction.")
			 : errhint("Nothing was changed. Repeat the call, or end the transaction that holds the lock.")));
}

void
dw_lock_relations(List *relids, LOCKMODE mode, List *(*more) (void *arg), void *arg)
{
	Wanted		w = {.mode = mode,.relids = relids,.more = more,.arg = arg};
	bool		held = more == NULL;
	ListCell   *lc;

	foreach(lc, relids)
	{
		if (get_rel_name(lfirst_oid(lc)) == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_TABLE),
					 errmsg("relation with OID %u does not exist", lfirst_oid(lc))));
		SET_LOCKTAG_RELATION(w.tag, MyDatabaseId, lfirst_oid(lc));
		held &= dw_lock_held(&w.tag, mode);
	}
	if (relids != NIL && !held)
		short_tries(&w);
}

void
dw_lock_relation(Oid relid, LOCKMODE mode)
{
	dw_lock_relations(list_make1_oid(relid), mode, NULL, NULL);
}

bool
dw_try_lock_relations(List *relids, LOCKMODE mode)
{
	Wanted		w = {.mode = mode,.relids = relids};

	return relids == NIL || try_lock(&w);
}

char *
dw_describe_holders(Oid relid, LOCKMODE mode)
{
	LOCKTAG		tag;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, relid);
	return describe_holders(&tag, mode);
}

Relation
dw_peek(Oid relid)
{
	if (!ConditionalLockRelationOid(relid, AccessShareLock))
		return NULL;
	/* locked, so it is there to stay, or has gone already */
	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
	{
		UnlockRelationOid(relid, AccessShareLock);
		return NULL;
	}
	return relation_open(relid, NoLock);
}

bool
dw_lock_excludes_writers(Oid relid)
{
	LOCKTAG		tag;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, relid);
	return dw_lock_held(&tag, ShareRowExclusiveLock) || dw_lock_held(&tag, ExclusiveLock) || dw_lock_held(&tag, AccessExclusiveLock);
}

void
dw_lock_name(const char *name)
{
	Wanted		w = {.mode = ExclusiveLock,.what = psprintf("migration \"%s\"", name)};

	dw_own_tag(&w.tag, DW_LOCK_NAME, hash_bytes((const unsigned char *) name, strlen(name)), 0);
	short_tries(&w);
}
