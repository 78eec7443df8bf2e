/*
 * attach.c
 *		Attaches a member to its table and detaches it: the only file that
 *		builds DDL for triggers and rules.
 *
 * Triggers fire in the order of their names, by strcmp.  The mirror's last one
 * must come after every other BEFORE ROW trigger, and where there are such
 * triggers its first one before them; so names are chosen against those that
 * are there.
 *
 * The view with the rules is visible to pg_dump.  It depends on the columns that it names, so that they can't be
 * dropped or change type; that would make DROP TABLE ask for CASCADE, too, so
 * a second dependency, AUTO on the table, lets it go along.
 *
 * Commands run as the extension's owner, who may create in schema dualwrite.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_rewrite.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "mb/pg_wchar.h"
#include "rewrite/rewriteSupport.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/snapmgr.h"

#include "attach.h"
#include "compat.h"
#include "expr.h"
#include "run.h"

char *
dw_table_name(Oid relid)
{
	char	   *name = get_rel_name(relid);

	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), name);
}

static void
command(const char *sql)
{
	DwRun		run;

	dw_run_begin(&run, dw_own_role());
	dw_command(sql);
	dw_run_end(&run);
}

/* ---- rules ---- */

static void
append_columns(StringInfo buf, const char *side, const char *direction, Relation rel, int n, const DwRuleText *rules)
{
	for (int i = 0; i < n; i++)
	{
		appendStringInfo(buf, "%sr.%s AS %s_%d", buf->len ? ", " : "",
						 quote_identifier(NameStr(TupleDescAttr(RelationGetDescr(rel), rules[i].attnum - 1)->attname)), side, i + 1);
		if (rules[i].body)
			appendStringInfo(buf, ", (%s) AS %s_%d", rules[i].body, direction, i + 1);
	}
}

/* A name for a schema that nobody has taken; palloc'd. */
static char *
free_schema(int member_id)
{
	char	   *name = psprintf("dualwrite_stage_%d", member_id);

	for (int i = 1; OidIsValid(get_namespace_oid(name, true)); i++)
		name = psprintf("dualwrite_stage_%d_%d", member_id, i);
	return name;
}

static void
make_sequence(int member_id, const char *what)
{
	command(psprintf("CREATE SEQUENCE dualwrite.m%d_%s", member_id, what));
	/* for dw_status, which asks as whoever reads it */
	command(psprintf("GRANT SELECT ON SEQUENCE dualwrite.m%d_%s TO PUBLIC", member_id, what));
}

/*
 * Parsing a rule may run code of the owner (a domain's CHECK, for a literal of
 * an array of it), so it is parsed as the owner, who may not create anything
 * in schema dualwrite: the view is made in a schema of its own, for the length
 * of this call, moved, and taken over, so that nobody can replace it.  That of
 * a temporary table is temporary itself.
 */
void
dw_attach_rules(int member_id, Relation rel, int nold, const DwRuleText *backward, int nnew, const DwRuleText *forward)
{
	char	   *owner = GetUserNameFromId(rel->rd_rel->relowner, false);
	char	   *own = GetUserNameFromId(dw_own_role(), false);
	char	   *stage = free_schema(member_id);
	bool		temp = RelationUsesLocalBuffers(rel);
	StringInfoData list;
	DwRun		run;

	initStringInfo(&list);
	append_columns(&list, "old", "backward", rel, nold, backward);
	append_columns(&list, "new", "forward", rel, nnew, forward);
	if (!temp)
		command(psprintf("CREATE SCHEMA %s AUTHORIZATION %s", stage, quote_identifier(owner)));
	dw_run_begin(&run, rel->rd_rel->relowner);
	/* that the view of a temporary table is temporary is no news */
	(void) set_config_option("client_min_messages", "warning", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	dw_command(psprintf("CREATE VIEW %s.m%d_rules AS SELECT %s FROM %s r", temp ? "pg_temp" : stage, member_id, list.data,
						dw_table_name(RelationGetRelid(rel))));
	dw_run_end(&run);
	if (!temp)
	{
		command(psprintf("ALTER VIEW %s.m%d_rules SET SCHEMA dualwrite", stage, member_id));
		command(psprintf("ALTER VIEW dualwrite.m%d_rules OWNER TO %s", member_id, quote_identifier(own)));
		/* without CASCADE: anything else in there was not ours */
		command(psprintf("DROP SCHEMA %s", stage));
	}
	make_sequence(member_id, "old_written");
	make_sequence(member_id, "new_written");
	make_sequence(member_id, "losses");
	CommandCounterIncrement();
	dw_attach_dependencies(member_id, RelationGetRelid(rel));
}

/* OIDs of the sequences of a member */
static List *
member_sequences(int member_id, List **names)
{
	MemoryContext cxt = CurrentMemoryContext;
	List	   *oids = NIL;
	DwRun		run;

	*names = NIL;
	dw_run_begin(&run, dw_own_role());
	DW_SQL("SELECT c.relname, c.oid FROM pg_catalog.pg_class c WHERE c.relnamespace = 'dualwrite'::regnamespace AND c.relkind = 'S'"
		   " AND c.relname >= ('m' || $1 || '_')::name AND c.relname < ('m' || $1 || '`')::name ORDER BY 1", DW_INT4(member_id));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		char	   *name = dw_sql_text(i, 0, cxt);
		Oid			oid = dw_sql_int(i, 1);
		MemoryContext old = MemoryContextSwitchTo(cxt);

		*names = lappend(*names, name);
		oids = lappend_oid(oids, oid);
		MemoryContextSwitchTo(old);
	}
	dw_run_end(&run);
	return oids;
}

List *
dw_attach_relations(int member_id)
{
	List	   *names;
	List	   *oids = member_sequences(member_id, &names);

	for (int temp = 0; temp < 2; temp++)
	{
		Oid			view = dw_rules_view(member_id, temp);

		if (OidIsValid(view))
			oids = lappend_oid(oids, view);
	}
	return oids;
}

/* AUTO: the object goes along with the other one, and is in nobody's way. */
static void
goes_with(ObjectAddress object, ObjectAddress other)
{
	(void) deleteDependencyRecordsForSpecific(object.classId, object.objectId, DEPENDENCY_AUTO, other.classId, other.objectId);
	recordDependencyOn(&object, &other, DEPENDENCY_AUTO);
}

/*
 * The view goes with the table, the sequences with the view's rule: pg_dump
 * takes a sequence that goes with a relation for one that a column owns.
 */
void
dw_attach_dependencies(int member_id, Oid relid)
{
	ObjectAddress table = {RelationRelationId, relid, 0};
	ObjectAddress view = {RelationRelationId, dw_rules_view(member_id, get_rel_persistence(relid) == RELPERSISTENCE_TEMP), 0};
	ObjectAddress rule = {RewriteRelationId, get_rewrite_oid(view.objectId, "_RETURN", false), 0};
	List	   *names;
	ListCell   *lc;

	goes_with(view, table);
	foreach(lc, member_sequences(member_id, &names))
	{
		ObjectAddress sequence = {RelationRelationId, lfirst_oid(lc), 0};

		goes_with(sequence, rule);
	}
	CommandCounterIncrement();
}

void
dw_attach_samples(int member_id, Oid relid)
{
	Relation	rel = relation_open(relid, AccessShareLock);

	(void) RelationGetIndexList(rel);
	if (!OidIsValid(rel->rd_pkindex))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("option \"sample_rate\" needs a primary key, and table \"%s\" has none", RelationGetRelationName(rel)),
				 errdetail("A write is read back by the key of its row."),
				 errhint("Leave it out, or add a primary key first.")));
	relation_close(rel, AccessShareLock);
	if (OidIsValid(get_relname_relid(psprintf("m%d_samples", member_id), get_namespace_oid(DW_SCHEMA, false))))
		return;
	make_sequence(member_id, "samples");
	make_sequence(member_id, "sample_drift");
	CommandCounterIncrement();
	dw_attach_dependencies(member_id, relid);
}

/* ---- triggers ---- */

/* What the table's triggers are like, as far as one member is concerned. */
typedef struct TriggerSurvey
{
	int			others;			/* BEFORE ROW triggers on INSERT or UPDATE that aren't ours */
	char		lowest[NAMEDATALEN];	/* of their names */
	char		highest[NAMEDATALEN];
	char		first[NAMEDATALEN]; /* ours, by name; empty: none */
	char		last[NAMEDATALEN];
	bool		disabled;		/* one of ours isn't ENABLE ALWAYS */
} TriggerSurvey;

static void
survey(int member_id, Relation rel, TriggerSurvey *s)
{
	Oid			mirror = dw_mirror_function();
	TriggerDesc *desc = rel->trigdesc;

	memset(s, 0, sizeof(*s));
	for (int i = 0; desc && i < desc->numtriggers; i++)
	{
		Trigger    *t = &desc->triggers[i];

		if (t->tgfoid == mirror)
		{
			if (t->tgnargs < 1 || atoi(t->tgargs[0]) != member_id)
				continue;
			strlcpy(t->tgnargs > 1 ? s->first : s->last, t->tgname, NAMEDATALEN);
			s->disabled |= t->tgenabled != TRIGGER_FIRES_ALWAYS;
			continue;
		}
		if (t->tgisinternal || !TRIGGER_FOR_BEFORE(t->tgtype) || !TRIGGER_FOR_ROW(t->tgtype) ||
			!(TRIGGER_FOR_INSERT(t->tgtype) || TRIGGER_FOR_UPDATE(t->tgtype)))
			continue;
		if (s->others == 0 || strcmp(t->tgname, s->lowest) < 0)
			strlcpy(s->lowest, t->tgname, NAMEDATALEN);
		if (s->others == 0 || strcmp(t->tgname, s->highest) > 0)
			strlcpy(s->highest, t->tgname, NAMEDATALEN);
		s->others++;
	}
}

/*
 * A name that sorts after (first: before) every other trigger.  Members sort
 * among themselves by age, hence the zeros.
 */
static char *
choose_name(int member_id, bool first, const TriggerSurvey *s, Relation rel)
{
	const char *last_prefixes[] = {"zzz_", "~~~_", "\xF4\x8F\xBF\xBF_"};
	const char *first_prefixes[] = {"000_", "   _", "\x01_"};

	for (int i = 0; i < 3; i++)
	{
		char	   *name;

		if (!first && i == 2 && GetDatabaseEncoding() != PG_UTF8)
			break;
		name = psprintf("%sdualwrite_%08d%s", first ? first_prefixes[i] : last_prefixes[i], member_id, first ? "_first" : "");
		if (s->others == 0 || (first ? strcmp(name, s->lowest) < 0 : strcmp(name, s->highest) > 0))
			return name;
	}
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("the mirror can't fire %s trigger \"%s\" of table \"%s\"", first ? "before" : "after",
					first ? s->lowest : s->highest, RelationGetRelationName(rel)),
			 errdetail("Triggers fire in the order of their names."),
			 errhint("Rename that trigger.")));
	return NULL;				/* keep compiler quiet */
}

static void
enable_trigger(Oid relid, const char *name)
{
	command(psprintf("ALTER TABLE %s ENABLE ALWAYS TRIGGER %s", dw_table_name(relid), quote_identifier(name)));
}

static void
make_trigger(int member_id, Oid relid, const char *name, bool first)
{
	char	   *table = dw_table_name(relid);

	command(psprintf("CREATE TRIGGER %s BEFORE INSERT OR UPDATE ON %s FOR EACH ROW EXECUTE FUNCTION dualwrite.mirror('%d'%s)",
					 quote_identifier(name), table, member_id, first ? ", 'first'" : ""));
	enable_trigger(relid, name);
}

static void
drop_trigger(Oid relid, const char *name)
{
	command(psprintf("DROP TRIGGER %s ON %s", quote_identifier(name), dw_table_name(relid)));
}

/* What has to be done so that all triggers are as they should be. */
typedef struct TriggerPlan
{
	bool		make_last;
	bool		make_first;
	bool		drop_last;
	bool		drop_first;
	bool		enable;
} TriggerPlan;

static TriggerPlan
plan_triggers(const TriggerSurvey *s)
{
	TriggerPlan p;

	p.make_last = s->last[0] == '\0' || (s->others > 0 && strcmp(s->last, s->highest) < 0);
	p.make_first = s->others > 0 && (s->first[0] == '\0' || strcmp(s->first, s->lowest) > 0);
	p.drop_last = p.make_last && s->last[0];
	p.drop_first = s->first[0] && (p.make_first || s->others == 0);
	p.enable = s->disabled;
	return p;
}

LOCKMODE
dw_attach_lock(int member_id, Oid relid)
{
	Relation	rel = dw_peek(relid);
	TriggerSurvey s;
	TriggerPlan p;

	/* not to be had now: nothing is mended now, and a verification sees it */
	if (rel == NULL)
		return NoLock;
	survey(member_id, rel, &s);
	relation_close(rel, AccessShareLock);
	p = plan_triggers(&s);
	return p.drop_last || p.drop_first ? AccessExclusiveLock : p.make_last || p.make_first || p.enable ? ShareRowExclusiveLock : NoLock;
}

bool
dw_attach_triggers(int member_id, Oid relid)
{
	Relation	rel = relation_open(relid, NoLock);
	TriggerSurvey s;
	TriggerPlan p;
	char	   *last = NULL;
	char	   *first = NULL;

	survey(member_id, rel, &s);
	p = plan_triggers(&s);
	if (p.make_last)
		last = choose_name(member_id, false, &s, rel);
	if (p.make_first)
		first = choose_name(member_id, true, &s, rel);

	/* ALTER TABLE wants nobody to hold a reference */
	relation_close(rel, NoLock);
	if (p.drop_first)
		drop_trigger(relid, s.first);
	else if (p.enable && s.first[0])
		enable_trigger(relid, s.first);
	if (p.drop_last)
		drop_trigger(relid, s.last);
	else if (p.enable && s.last[0])
		enable_trigger(relid, s.last);
	if (last)
		make_trigger(member_id, relid, last, false);
	if (first)
		make_trigger(member_id, relid, first, true);
	CommandCounterIncrement();
	return last || first || p.drop_first || p.enable;
}

char *
dw_attach_problem(int member_id, Oid relid)
{
	Relation	rel = dw_peek(relid);
	TriggerSurvey s;
	char	   *problem = NULL;

	if (rel == NULL)
		return NULL;
	survey(member_id, rel, &s);
	if (s.last[0] == '\0')
		problem = psprintf("the mirror's trigger on table \"%s\" is missing", RelationGetRelationName(rel));
	else if (s.disabled)
		problem = psprintf("the mirror's trigger on table \"%s\" is not enabled ALWAYS", RelationGetRelationName(rel));
	else if (s.others > 0 && strcmp(s.last, s.highest) < 0)
		problem = psprintf("trigger \"%s\" of table \"%s\" fires after the mirror's", s.highest, RelationGetRelationName(rel));
	relation_close(rel, NoLock);
	return problem;
}

/* ---- the snapshot rule ---- */

static FullTransactionId
widen(TransactionId xid, FullTransactionId next)
{
	uint32		epoch = EpochFromFullTransactionId(next);

	if (xid > XidFromFullTransactionId(next))
		epoch--;
	return FullTransactionIdFromEpochAndXid(epoch, xid);
}

static int
compare_full(const void *a, const void *b)
{
	uint64		x = U64FromFullTransactionId(*(const FullTransactionId *) a);
	uint64		y = U64FromFullTransactionId(*(const FullTransactionId *) b);

	return x < y ? -1 : x > y;
}

void
dw_attach_begin(int member_id, Relation rel)
{
	TransactionId top = GetTopTransactionId();
	Snapshot	s = GetLatestSnapshot();
	FullTransactionId next = ReadNextFullTransactionId();
	int			n = 0;
	FullTransactionId *xip = palloc(sizeof(FullTransactionId) * (s->xcnt + Max(s->subxcnt, 0) + 1));
	FullTransactionId xmax = widen(s->xmax, next);
	StringInfoData snapshot;
	StringInfoData xids;

	/* ids of subtransactions may be beyond xmax, where everything is in progress anyway */
	for (uint32 i = 0; i < s->xcnt; i++)
		xip[n++] = widen(s->xip[i], next);
	for (int i = 0; !s->suboverflowed && i < s->subxcnt; i++)
		if (FullTransactionIdPrecedes(widen(s->subxip[i], next), xmax))
			xip[n++] = widen(s->subxip[i], next);
	qsort(xip, n, sizeof(FullTransactionId), compare_full);

	initStringInfo(&snapshot);
	appendStringInfo(&snapshot, UINT64_FORMAT ":" UINT64_FORMAT ":", U64FromFullTransactionId(widen(s->xmin, next)),
					 U64FromFullTransactionId(xmax));
	for (int i = 0; i < n; i++)
		appendStringInfo(&snapshot, "%s" UINT64_FORMAT, i ? "," : "", U64FromFullTransactionId(xip[i]));

	/* rows of this very transaction may have been written before or after now */
	initStringInfo(&xids);
	appendStringInfoChar(&xids, '{');
	while (TransactionIdPrecedes(top, XidFromFullTransactionId(next)))
	{
		CHECK_FOR_INTERRUPTS();
		if (TransactionIdIsCurrentTransactionId(top))
			appendStringInfo(&xids, "%s" UINT64_FORMAT, xids.len > 1 ? "," : "", U64FromFullTransactionId(widen(top, next)));
		TransactionIdAdvance(top);
	}
	appendStringInfoChar(&xids, '}');
	dw_member_set_begin(member_id, snapshot.data, xids.data, s->suboverflowed, dw_relfilenode(rel));
}

/* ---- the end ---- */

void
dw_detach(int member_id, Oid relid)
{
	Oid			view;
	List	   *names;
	ListCell   *lc;

	if (get_rel_name(relid) != NULL)
	{
		Relation	rel = relation_open(relid, NoLock);
		TriggerSurvey s;

		survey(member_id, rel, &s);
		relation_close(rel, NoLock);
		if (s.first[0])
			drop_trigger(relid, s.first);
		if (s.last[0])
			drop_trigger(relid, s.last);
	}
	(void) member_sequences(member_id, &names);
	foreach(lc, names)
		command(psprintf("DROP SEQUENCE dualwrite.%s", quote_identifier(lfirst(lc))));
	view = dw_rules_view(member_id, false);
	if (!OidIsValid(view))
		view = dw_rules_view(member_id, true);
	if (OidIsValid(view))
		command(psprintf("DROP VIEW %s", dw_table_name(view)));
}
