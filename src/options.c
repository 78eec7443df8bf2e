/*
 * options.c
 *		The options of a migration.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/tuplestore.h"

#include "options.h"
#include "run.h"
#include "window.h"

PG_FUNCTION_INFO_V1(dw_known_options);

typedef enum OptionKind
{
	ENUM_OPTION,
	BOOL_OPTION,
	INT_OPTION,
	FRACTION_OPTION,
	TEXT_OPTION,
	LATER_OPTION				/* part of the contract, not of this version */
} OptionKind;

typedef struct Option
{
	const char *name;
	OptionKind	kind;
	size_t		offset;			/* in DwOptions */
	const struct config_enum_entry *names;
	int			flags;			/* GUC_UNIT_* */
	const char *unit;
	const char *setting;		/* where the default comes from, or NULL */
	const char *fallback;		/* default, where there is no setting */
	const char *changeable;
	const char *description;
} Option;

static const Option options[] = {
	{"mirror", ENUM_OPTION, offsetof(DwOptions, mirror), dw_mirror_names, 0, NULL, NULL, "both", "any time; off takes no table lock",
	"which way writes are carried over: both, forward, backward, off"},
	{"conflict", ENUM_OPTION, offsetof(DwOptions, conflict), dw_conflict_names, 0, NULL, "pg_dualwrite.conflict", NULL, "any time",
	"what a statement that sets both sides inconsistently does: error, old, new, authority"},
	{"on_error", ENUM_OPTION, offsetof(DwOptions, on_error), dw_on_error_names, 0, NULL, "pg_dualwrite.on_error", NULL, "any time",
	"what becomes of a write that can't be converted: authority, reject, record"},
	{"subscribers_ready", BOOL_OPTION, offsetof(DwOptions, subscribers_ready), NULL, 0, NULL, NULL, "false", "before dw_begin",
	"the subscribers of a published table have the new column already"},
	{"batch_time", INT_OPTION, offsetof(DwOptions, batch_time), NULL, GUC_UNIT_MS, "ms", "pg_dualwrite.batch_time", NULL, "any time",
	"how long one transaction of the backfill may take"},
	{"max_rows_per_second", INT_OPTION, offsetof(DwOptions, max_rows_per_second), NULL, 0, "rows/s", "pg_dualwrite.max_rows_per_second", NULL,
	"any time", "limit of the backfill; 0: none"},
	{"recheck_interval", INT_OPTION, offsetof(DwOptions, recheck_interval), NULL, GUC_UNIT_S, "s", "pg_dualwrite.recheck_interval", NULL, "any time",
	"how old a verification gets, in ready and switched, before every row is compared again; 0: any age"},
	{"proof", BOOL_OPTION, offsetof(DwOptions, proof), NULL, 0, NULL, NULL, "false", "any time; takes ACCESS EXCLUSIVE in short tries",
	"a check constraint makes the database refuse rows whose sides part, and dw_switch waits for the proof"},
	{"max_wal_per_second", INT_OPTION, offsetof(DwOptions, max_wal_per_second), NULL, GUC_UNIT_KB, "kB/s", "pg_dualwrite.max_wal_per_second", NULL,
	"any time", "WAL that the backfill may write; 0: no limit"},
	{"max_replica_lag", INT_OPTION, offsetof(DwOptions, max_replica_lag), NULL, GUC_UNIT_MS, "ms", "pg_dualwrite.max_replica_lag", NULL,
	"any time", "lag of a standby at which the backfill stops; 0: lag is not watched"},
	{"max_slot_retention", INT_OPTION, offsetof(DwOptions, max_slot_retention), NULL, GUC_UNIT_KB, "kB", "pg_dualwrite.max_slot_retention", NULL,
	"any time", "WAL kept for a replication slot at which the backfill stops; 0: four fifths of max_slot_wal_keep_size"},
	{"window", TEXT_OPTION, offsetof(DwOptions, window), NULL, 0, NULL, "pg_dualwrite.window", NULL, "any time",
	"part of the day in which background work may run, such as 01:00-05:00 Europe/Berlin; empty: always"},
	{"throttle_query", TEXT_OPTION, offsetof(DwOptions, throttle_query), NULL, 0, NULL, NULL, "", "any time",
	"SELECT of a boolean (true: stop) or a load (0.5: slow down, 1: stop), run once a second as the owner; empty: none"},
	{"sample_rate", FRACTION_OPTION, offsetof(DwOptions, sample_rate), NULL, 0, NULL, NULL, "0", "any time",
	"fraction of the writes that is read back before the commit and compared; 0: none, 1: all"},
	{"carry", LATER_OPTION}, {"follow_references", LATER_OPTION},
	{"workers", INT_OPTION, offsetof(DwOptions, workers), NULL, 0, NULL, "pg_dualwrite.workers", NULL, "any time",
	"background workers that share the backfill and the verification; more than one need a table of several parts"},
	{"vacuum", BOOL_OPTION, offsetof(DwOptions, vacuum), NULL, 0, NULL, NULL, "true", "any time",
	"the worker vacuums the table at each quarter of the backfill, if its indexes have grown"},
	{"new_reads_percent", LATER_OPTION},
};

static const Option *
find_option(const char *name)
{
	StringInfoData known;

	for (int i = 0; i < (int) lengthof(options); i++)
		if (strcmp(options[i].name, name) == 0)
			return &options[i];
	initStringInfo(&known);
	for (int i = 0; i < (int) lengthof(options); i++)
		if (options[i].kind != LATER_OPTION)
			appendStringInfo(&known, "%s%s", known.len ? ", " : "", options[i].name);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown option \"%s\"", name),
			 errdetail("Options are the keys of a JSON object."),
			 errhint("Known options: %s.", known.data)));
	return NULL;				/* keep compiler quiet */
}

static bool
is_workers(const Option *option)
{
	return option->kind == INT_OPTION && option->offset == offsetof(DwOptions, workers);
}

static int
least(const Option *option)
{
	return is_workers(option) || option->offset == offsetof(DwOptions, batch_time) ? 1 : 0;
}

static void
bad_value(const Option *option, const char *value)
{
	StringInfoData known;

	initStringInfo(&known);
	if (option->kind == BOOL_OPTION)
		appendStringInfoString(&known, "true or false");
	else if (option->kind == FRACTION_OPTION)
		appendStringInfoString(&known, "a number from 0 to 1");
	else if (option->kind == INT_OPTION)
		appendStringInfo(&known, "a number, %s%s%s", least(option) ? "1" : "0", is_workers(option) ? " to " CppAsString2(DW_MAX_WORKERS) : " or more",
						 option->flags == GUC_UNIT_S ? " (in s, or a text with a unit, such as \"12h\")" :
						 (option->flags & GUC_UNIT_TIME) ? " (in ms, or a text with a unit, such as \"5ms\")" :
						 (option->flags & GUC_UNIT_MEMORY) ? " (in kB, or a text with a unit, such as \"16MB\")" : "");
	else if (option->kind == TEXT_OPTION)
		appendStringInfoString(&known, "a text");
	else
		for (const struct config_enum_entry *e = option->names; e->name; e++)
			appendStringInfo(&known, "%s%s", known.len ? ", " : "", e->name);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("bad value \"%s\" for option \"%s\"", value, option->name),
			 errdetail("%s: %s.", option->name, option->description),
			 errhint("Possible values: %s.", known.data)));
}

/* A scalar as text; NULL for null. */
static char *
scalar_text(const Option *option, JsonbValue *v)
{
	switch (v->type)
	{
		case jbvNull:
			return NULL;
		case jbvString:
			return pnstrdup(v->val.string.val, v->val.string.len);
		case jbvNumeric:
			return DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(v->val.numeric)));
		case jbvBool:
			return pstrdup(v->val.boolean ? "true" : "false");
		default:
			bad_value(option, "(not a scalar)");
	}
	return NULL;
}

static void
read_option(const Option *option, const char *value, DwOptions *result)
{
	char	   *field = (char *) result + option->offset;
	int			i;
	double		d;
	DwWindow	window;
	const char *problem;

	switch (option->kind)
	{
		case ENUM_OPTION:
			if ((i = dw_enum_value(option->names, value)) < 0)
				bad_value(option, value);
			memcpy(field, &i, sizeof(int));
			break;
		case BOOL_OPTION:
			if (!parse_bool(value, (bool *) field))
				bad_value(option, value);
			break;
		case INT_OPTION:
			if (!parse_int(value, &i, option->flags, NULL) || i < least(option) || (is_workers(option) && i > DW_MAX_WORKERS))
				bad_value(option, value);
			memcpy(field, &i, sizeof(int));
			break;
		case FRACTION_OPTION:
			if (!parse_real(value, &d, 0, NULL) || !(d >= 0 && d <= 1))
				bad_value(option, value);
			memcpy(field, &d, sizeof(double));
			break;
		case TEXT_OPTION:
			if (option->offset == offsetof(DwOptions, window) && value[0] && !dw_window_parse(value, &window, &problem))
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("bad value \"%s\" for option \"window\"", value),
						 errdetail("%s", problem),
						 errhint("For example \"01:00-05:00 Europe/Berlin\": a time of the day in a zone, in the night if the second is before the first.")));
			*(const char **) field = value;
			break;
		case LATER_OPTION:
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("option \"%s\" is not supported by this version", option->name),
					 errdetail("It is part of the design and comes with a later release."),
					 errhint("Leave it out.")));
	}
}

void
dw_options_read(Jsonb *object, DwOptions *result)
{
	JsonbIterator *it;
	JsonbValue	v;
	JsonbIteratorToken t;

	result->mirror = DW_MIRROR_BOTH;
	result->conflict = dw_default_conflict;
	result->on_error = dw_default_on_error;
	result->subscribers_ready = false;
	result->workers = dw_default_workers;
	result->vacuum = true;
	result->batch_time = dw_default_batch_time;
	result->max_rows_per_second = dw_default_max_rows;
	result->proof = false;
	result->max_wal_per_second = dw_default_max_wal;
	result->max_replica_lag = dw_default_max_replica_lag;
	result->max_slot_retention = dw_default_max_slot_retention;
	result->window = pstrdup(dw_default_window);
	result->throttle_query = "";
	result->sample_rate = 0;
	result->recheck_interval = dw_default_recheck;
	if (!JB_ROOT_IS_OBJECT(object))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options must be a JSON object"),
				 errdetail("It is another kind of JSON value."),
				 errhint("For example '{\"conflict\": \"authority\"}'.")));
	it = JsonbIteratorInit(&object->root);
	while ((t = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		const Option *option;
		char	   *value;

		if (t != WJB_KEY)
			continue;
		option = find_option(pnstrdup(v.val.string.val, v.val.string.len));
		(void) JsonbIteratorNext(&it, &v, true);
		if (v.type == jbvBinary)
			bad_value(option, "(not a scalar)");
		value = scalar_text(option, &v);
		if (value)
			read_option(option, value, result);
		else if (option->kind == LATER_OPTION)
			read_option(option, "", result);
	}
}

bool
dw_options_name(Jsonb *object, const char *option)
{
	return getKeyJsonValueFromContainer(&object->root, option, strlen(option), NULL) != NULL;
}

Jsonb *
dw_options_merge(Jsonb *base, Jsonb *changes)
{
	return DW_OWN_JSONB("SELECT pg_catalog.jsonb_strip_nulls($1 || $2)", DW_DATUM(JSONBOID, JsonbPGetDatum(base), false),
						DW_DATUM(JSONBOID, JsonbPGetDatum(changes), false));
}

/* dualwrite.known_options(): a row an option, for the view dw_options */
Datum
dw_known_options(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < (int) lengthof(options); i++)
	{
		const Option *o = &options[i];
		Datum		values[6];
		bool		nulls[6] = {false};

		if (o->kind == LATER_OPTION)
			continue;
		values[0] = CStringGetTextDatum(o->name);
		nulls[1] = o->unit == NULL;
		if (o->unit)
			values[1] = CStringGetTextDatum(o->unit);
		values[2] = CStringGetTextDatum(o->setting ? GetConfigOption(o->setting, false, false) : o->fallback);
		values[3] = CStringGetTextDatum(o->setting ? o->setting : "default");
		values[4] = CStringGetTextDatum(o->changeable);
		values[5] = CStringGetTextDatum(o->description);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
