/*
 * run.h
 *		Running SQL and taking locks as someone else, and giving both back.
 */
#ifndef DW_RUN_H
#define DW_RUN_H

#include "executor/spi.h"
#include "nodes/pg_list.h"
#include "storage/lockdefs.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/rel.h"

/* what dw_run_begin changed; lives on the caller's stack */
typedef struct DwRun
{
	Oid			userid;
	int			sec_context;
	int			nestlevel;
} DwRun;

/* Sets search_path to pg_catalog, pg_temp and row_security off; asks first, because setting is dear. */
extern void dw_safe_settings(GucAction action);

/*
 * Connects to SPI as role userid, in a way that the role's own code can't
 * leave, with search_path pg_catalog, pg_temp and row_security off.  On error
 * the (sub)transaction's abort restores everything.
 */
extern void dw_run_begin(DwRun *run, Oid userid);
extern void dw_run_end(DwRun *run);

/* The owner of the extension's tables: the role that may write them. */
extern Oid	dw_own_role(void);

/* one argument of dw_sql */
typedef struct DwArg
{
	Oid			type;
	Datum		value;
	bool		isnull;
} DwArg;

#define DW_INT4(v) ((DwArg) {INT4OID, Int32GetDatum(v), false})
#define DW_INT8(v) ((DwArg) {INT8OID, Int64GetDatum(v), false})
#define DW_BOOL(v) ((DwArg) {BOOLOID, BoolGetDatum(v), false})
#define DW_OID(v) ((DwArg) {OIDOID, ObjectIdGetDatum(v), false})
#define DW_FLOAT8(v) ((DwArg) {FLOAT8OID, Float8GetDatum(v), false})
#define DW_TEXT(v) dw_text_arg(v)
#define DW_DATUM(t, v, n) ((DwArg) {t, v, n})

/* text argument; NULL is an SQL null */
extern DwArg dw_text_arg(const char *value);

/*
 * Runs one statement on the extension's own tables, between dw_run_begin and
 * dw_run_end, with a snapshot of this moment whatever the isolation level.
 * sql must be a string literal: its plan is kept for the session.  Returns
 * SPI_processed; rows, if any, stand in SPI_tuptable.
 */
extern uint64 dw_sql(const char *sql, int nargs, const DwArg *args);
#define DW_ARGS(...) lengthof(((const DwArg[]) {__VA_ARGS__})), (const DwArg[]) {__VA_ARGS__}
#define DW_SQL(sql, ...) dw_sql(sql, DW_ARGS(__VA_ARGS__))

/*
 * Values in SPI_tuptable, by row and column, both from 0.  A null is false, 0,
 * NULL; text and jsonb (never null) are copied into the given context.
 */
extern Datum dw_sql_datum(uint64 row, int column, bool *isnull);
extern bool dw_sql_bool(uint64 row, int column);
extern int64 dw_sql_int(uint64 row, int column);
extern double dw_sql_float(uint64 row, int column);
extern char *dw_sql_text(uint64 row, int column, MemoryContext cxt);
extern Jsonb *dw_sql_jsonb(uint64 row, int column, MemoryContext cxt);

/*
 * All of it in one call, as dw_own_role: gives how many rows it were; the value
 * of the first row, which must be there; or the first column of all rows, as a
 * list.  Text, Jsonb and lists are palloc'd.
 */
extern uint64 dw_own_sql(const char *sql, int nargs, const DwArg *args);
extern int64 dw_own_int(const char *sql, int nargs, const DwArg *args);
extern char *dw_own_text(const char *sql, int nargs, const DwArg *args);
extern Jsonb *dw_own_jsonb(const char *sql, int nargs, const DwArg *args);
extern List *dw_own_ints(const char *sql, int nargs, const DwArg *args);
extern List *dw_own_oids(const char *sql, int nargs, const DwArg *args);
extern List *dw_own_texts(const char *sql, int nargs, const DwArg *args);	/* of char * */

#define DW_OWN_SQL(sql, ...) dw_own_sql(sql, DW_ARGS(__VA_ARGS__))
#define DW_OWN_INT(sql, ...) dw_own_int(sql, DW_ARGS(__VA_ARGS__))
#define DW_OWN_TEXT(sql, ...) dw_own_text(sql, DW_ARGS(__VA_ARGS__))
#define DW_OWN_JSONB(sql, ...) dw_own_jsonb(sql, DW_ARGS(__VA_ARGS__))
#define DW_OWN_INTS(sql, ...) dw_own_ints(sql, DW_ARGS(__VA_ARGS__))
#define DW_OWN_OIDS(sql, ...) dw_own_oids(sql, DW_ARGS(__VA_ARGS__))
#define DW_OWN_TEXTS(sql, ...) dw_own_texts(sql, DW_ARGS(__VA_ARGS__))

/*
 * Runs a command, between dw_run_begin and dw_run_end.  Locks that it needs
 * are waited for no longer than dw_lock_timeout (55P03); those that others may
 * hold for long are taken beforehand, by dw_lock_relations.
 */
extern void dw_command(const char *sql);

/*
 * Locks a relation with short tries: dw_lock_timeout each, dw_lock_retries of
 * them with jitter between, one where the transaction holds table locks
 * already.  Raises 55P03 naming who holds the lock.  The lock lasts until the
 * end of the transaction.
 */
extern void dw_lock_relation(Oid relid, LOCKMODE mode);

/*
 * The same for several relations: each try gets all of them within one
 * dw_lock_timeout, or none.  more, if given, is called with them locked and says
 * what else is to be locked then (a list of OIDs); it may be called more than once.
 */
extern void dw_lock_relations(List *relids, LOCKMODE mode, List *(*more) (void *arg), void *arg);

/* One such try: false if not all of the locks are got within dw_lock_timeout; then none is. */
extern bool dw_try_lock_relations(List *relids, LOCKMODE mode);

/* Who holds locks on the relation that conflict with the mode, for a message; palloc'd. */
extern char *dw_describe_holders(Oid relid, LOCKMODE mode);

/* Opens a relation with ACCESS SHARE, if that can be had without waiting; NULL if not, or if it is gone. */
extern Relation dw_peek(Oid relid);

/* Do we hold a lock on the relation that keeps everyone else from writing it? */
extern bool dw_lock_excludes_writers(Oid relid);

/* The same for the name of a migration: verbs on one name exclude each other. */
extern void dw_lock_name(const char *name);

#endif							/* DW_RUN_H */
