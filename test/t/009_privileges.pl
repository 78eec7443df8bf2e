# Who may do what, and what an owner's code can reach.  Code of the table's
# owner runs in many places (rules, constraints, indexes, defaults, domains), in
# the worker, which is connected as superuser, and in verbs that a superuser
# calls.  Here an owner tries to escape from all of them.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use DW;
use DWSession;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = dw_node('privileges');
my $none = "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'pg_dualwrite worker'";

# --- row-level security hides nothing ---

$node->safe_psql('postgres', <<'SQL');
CREATE ROLE app NOLOGIN;
CREATE ROLE member LOGIN IN ROLE app;
CREATE ROLE writer LOGIN;
CREATE ROLE stranger LOGIN;
CREATE SCHEMA app AUTHORIZATION app;
GRANT USAGE ON SCHEMA app TO writer, stranger;
SET ROLE app;
CREATE TABLE app.parent (id int PRIMARY KEY);
INSERT INTO app.parent SELECT i FROM generate_series(1, 3000) i;
CREATE TABLE app.t (id int PRIMARY KEY, amount int REFERENCES app.parent, owner name);
INSERT INTO app.t SELECT i, i, CASE i % 3 WHEN 0 THEN 'app' ELSE 'nobody' END FROM generate_series(1, 3000) i;
ALTER TABLE app.t ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.t FORCE ROW LEVEL SECURITY;
CREATE POLICY p ON app.t USING (owner = current_user);
ALTER TABLE app.parent ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.parent FORCE ROW LEVEL SECURITY;
GRANT SELECT (id, amount, owner), UPDATE (amount), INSERT (id, amount, owner) ON app.t TO writer;
GRANT SELECT ON app.t TO stranger;
SQL
my $begin = q(SELECT dw_begin('rls', 'app.t', 'amount', 'bigint', 'cents', 'amount * 100::bigint', 'cents / 100'));
sql_fails($node, $begin, '42501', qr/must be owner of table "t"/, 'a stranger cannot begin', user => 'stranger');
sql_fails($node, $begin, '42501', qr/must be owner of table "t"/, 'nor can who may write', user => 'writer');
sql_ok($node, $begin, 'a member of the owning role can', user => 'member');
wait_ready($node, 'rls', user => 'member');
check_cents($node, 'rows that a policy hides are filled', table => 'app.t');
like(sql_ok($node, "SELECT * FROM dw_verify('rls')", 'dw_verify by a member', user => 'member'), qr/^3000\|0\|0\|/, '... sees all of them');

# --- everybody else ---

foreach my $verb ("dw_pause('rls')", "dw_resume('rls')", "dw_set('rls', '{}')", "dw_verify('rls')", "dw_switch('rls')",
	"dw_rollback('rls')", "dw_finalize('rls')", "dw_abort('rls')", "dw_abort('rls', true)")
{
	sql_fails($node, "SELECT $verb", '42501', qr/must be owner/, "$verb is for the owner", user => 'writer');
}
sql_fails($node, "CALL dw_reconcile('rls')", '42501', qr/must be owner/, 'dw_reconcile is for the owner', user => 'writer');
is(sql_ok($node, "SELECT dw_side('rls')", 'dw_side is for all', user => 'stranger'), 'old', '... who may read it');
sql_ok($node, "SELECT dw_require('rls')", 'dw_require is for all', user => 'stranger');
sql_ok($node, "CALL dw_wait('rls')", 'dw_wait is for all', user => 'stranger');
is(sql_ok($node, "SELECT phase FROM dw_status WHERE migration = 'rls'", 'dw_status is for all', user => 'stranger'), 'ready', '... and tells the phase');
sql_ok($node, "SELECT * FROM $_", "$_ is for all", user => 'stranger') foreach qw(dw_progress dw_events dw_options dw_drift);
sql_fails($node, "SELECT * FROM dualwrite.$_", '42501', qr/permission denied for table $_/, "dualwrite.$_ is for nobody", user => 'member')
  foreach split /\n/, answer($node, "SELECT relname FROM pg_class WHERE relnamespace = 'dualwrite'::regnamespace AND relkind = 'r'");
sql_fails($node, "UPDATE dualwrite.migration SET phase = 'ready'", '42501', qr/permission denied/, 'nobody writes the state', user => 'member');
sql_fails($node, "CREATE FUNCTION dualwrite.f() RETURNS int LANGUAGE sql RETURN 1", '42501', qr/permission denied for schema/,
	'nobody makes objects in the schema of the extension', user => 'member');

# a writer with a privilege on one side only
$node->safe_psql('postgres', 'ALTER TABLE app.t NO FORCE ROW LEVEL SECURITY; ALTER TABLE app.t DISABLE ROW LEVEL SECURITY; ALTER TABLE app.parent DISABLE ROW LEVEL SECURITY');
sql_ok($node, 'UPDATE app.t SET amount = 2 WHERE id = 3; INSERT INTO app.t (id, amount, owner) VALUES (-1, 5, NULL)',
	'a writer with privileges on the old side only', user => 'writer');
sql_fails($node, 'UPDATE app.t SET cents = 2 WHERE id = 3', '42501', qr/permission denied/, '... has none on the new one', user => 'writer');
check_cents($node, '... and is mirrored', table => 'app.t');

# what is recorded of rows is the owner's
$node->safe_psql('postgres', "SET ROLE app; SELECT dw_set('rls', '{\"on_error\": \"record\"}')");
$node->safe_psql('postgres', 'UPDATE app.t SET amount = NULL WHERE id = 4');
$node->safe_psql('postgres', <<'SQL');
SELECT tgname AS name FROM pg_trigger WHERE tgrelid = 'app.t'::regclass AND tgfoid = 'dualwrite.mirror'::regproc \gset
BEGIN;
ALTER TABLE app.t DISABLE TRIGGER :"name";
UPDATE app.t SET cents = 777 WHERE id = 5;
ALTER TABLE app.t ENABLE ALWAYS TRIGGER :"name";
COMMIT;
SQL
sql_ok($node, "SELECT * FROM dw_verify('rls')", 'a row differs', user => 'member');
is(sql_ok($node, 'SELECT key, new_values FROM dw_drift WHERE repaired_at IS NULL', 'dw_drift', user => 'member'),
	'{"id": "5"}|{"cents": "777"}', '... shows it to the owner');
is(sql_ok($node, 'SELECT count(*) FROM dw_drift', 'dw_drift', user => 'stranger'), 0, '... and to nobody else');
is(sql_ok($node, "SELECT count(*) FROM dw_status WHERE last_error ~ '777' OR blockers::text ~ '777'", 'dw_status', user => 'stranger'), 0,
	'... likewise dw_status');

# who is in the way of a verb is named to the owner, but what others run is not shown
my $holder = session_open($node->connstr('postgres'));
my (undef, $pid) = session_do($holder, 'BEGIN; LOCK TABLE app.t IN SHARE MODE; SELECT pg_backend_pid()');
session_do($holder, "SELECT 'a secret of postgres'");
my $switch = "SET pg_dualwrite.lock_retries = 1; SET pg_dualwrite.lock_timeout = 50; SELECT dw_switch('rls')";
sql_fails($node, $switch, '55P03', qr/DETAIL:  It is held by pid $pid\.\n/, 'the owner learns who holds the lock, and no more', user => 'member');
sql_fails($node, $switch, '55P03', qr/DETAIL:  It is held by pid $pid \(idle in transaction\): SELECT 'a secret of postgres'/, '... and a superuser also why');
$node->safe_psql('postgres', 'GRANT pg_read_all_stats TO member');
sql_fails($node, $switch, '55P03', qr/DETAIL:  It is held by pid $pid \(idle in transaction\)/, '... and so does who may read all statistics', user => 'member');
$node->safe_psql('postgres', 'REVOKE pg_read_all_stats FROM member');
session_do($holder, 'ROLLBACK');
session_close($holder);

# --- another owner in the middle ---

$node->safe_psql('postgres', 'CREATE ROLE other NOLOGIN; GRANT USAGE, CREATE ON SCHEMA app TO other');
make_table($node, 3000, table => 'app.u');
$node->safe_psql('postgres', 'ALTER TABLE app.u OWNER TO app');
sql_ok($node, q(SELECT dw_begin('own', 'app.u', 'amount', 'bigint', 'cents', 'amount * 100::bigint', 'cents / 100', '{"max_rows_per_second": 300}')),
	'begun by one owner', user => 'member');
wait_middle($node, 'own');
$node->safe_psql('postgres', 'ALTER TABLE app.u OWNER TO other');
sql_fails($node, "SELECT dw_pause('own')", '42501', qr/must be owner/, 'the former owner has nothing to say any more', user => 'member');
$node->safe_psql('postgres', q(SET ROLE other; SELECT dw_set('own', '{"max_rows_per_second": null}')));
wait_ready($node, 'own', test => 'the worker goes on as the new owner');
check_cents($node, 'every row is filled', table => 'app.u');
$node->safe_psql('postgres', "SET ROLE other; SELECT dw_abort('own')");

# --- an owner who tries to escape ---

# Every statement is tried where evil.attack() is called, and the place is
# written down with the role that it was called as.
$node->safe_psql('postgres', <<'SQL');
CREATE ROLE evil LOGIN;
CREATE TABLE secret (x int);
CREATE FUNCTION process_kind() RETURNS text LANGUAGE sql SECURITY DEFINER
 RETURN (SELECT backend_type FROM pg_stat_activity WHERE pid = pg_backend_pid());
INSERT INTO secret VALUES (42);
CREATE SCHEMA evil AUTHORIZATION evil;
SQL

# In a session of evil's own: whoever has got there by SET ROLE can go back.
$node->safe_psql('postgres', <<'SQL', extra_params => [ '-U', 'evil' ]);
CREATE TABLE evil.log (place text, role name, super boolean, backend text, worked text);
CREATE TABLE evil.payload (sql text);
INSERT INTO evil.payload VALUES
 ('SET ROLE postgres'), ('SET LOCAL ROLE postgres'), ('RESET ROLE'), ('SET ROLE NONE'),
 ('SET SESSION AUTHORIZATION postgres'), ('RESET SESSION AUTHORIZATION'), ('SET SESSION AUTHORIZATION DEFAULT'),
 ('SELECT set_config(''role'', ''postgres'', false)'), ('SELECT set_config(''role'', ''none'', true)'),
 ('SELECT set_config(''session_authorization'', ''postgres'', false)'),
 ('ALTER ROLE evil SUPERUSER'), ('CREATE ROLE evil2 SUPERUSER'), ('GRANT postgres TO evil'), ('GRANT pg_execute_server_program TO evil'),
 ('UPDATE pg_authid SET rolsuper = true WHERE rolname = ''evil'''),
 ('DELETE FROM secret'), ('DROP TABLE secret'), ('GRANT ALL ON secret TO evil'),
 ('UPDATE dualwrite.migration SET owner = ''evil'''), ('CREATE FUNCTION dualwrite.x() RETURNS int LANGUAGE sql RETURN 1'),
 ('COPY (SELECT 1) TO PROGRAM ''true'''), ('COPY secret TO STDOUT'), ('SELECT pg_read_file(''postgresql.conf'')'),
 ('ALTER SYSTEM SET log_min_messages = debug1'), ('SET session_replication_role = replica'),
 ('CREATE FUNCTION evil.definer() RETURNS void LANGUAGE sql SECURITY DEFINER AS ''ALTER ROLE evil SUPERUSER'''),
 ('DO $x$ BEGIN PERFORM evil.definer(); END $x$'),
 ('SET search_path = evil, public'), ('SET row_security = on'), ('SET default_transaction_read_only = on'),
 ('SET default_transaction_isolation = ''serializable'''), ('SET lock_timeout = 1'), ('SET DateStyle = ''German'''),
 ('SET quote_all_identifiers = on'), ('SET standard_conforming_strings = off'), ('SET array_nulls = off'),
 ('SET pg_dualwrite.inline_limit = 1'), ('SET pg_dualwrite.side = new'),
 ('DISCARD PLANS'), ('RESET ALL'), ('LISTEN evil'), ('NOTIFY evil'),
 ('PREPARE evil AS SELECT evil.attack(''prepared'')'),
 ('DECLARE evil CURSOR WITH HOLD FOR SELECT evil.attack(''cursor'')'),
 ('CREATE TEMP TABLE pg_class AS SELECT 1 AS oid'), ('CREATE TEMP TABLE migration AS SELECT 1 AS id'),
 ('CREATE TEMP TABLE hook (x int) ON COMMIT DELETE ROWS'),
 ('INSERT INTO hook VALUES (1)'),
 ('INSERT INTO evil.deferred VALUES (1)'),
 ('SET CONSTRAINTS ALL DEFERRED');
CREATE FUNCTION evil.attack(place text) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
	who text := public.process_kind();
	p text;
BEGIN
	-- once a place, role and kind of process
	IF EXISTS (SELECT 1 FROM evil.log l WHERE l.place OPERATOR(pg_catalog.=) attack.place AND l.role OPERATOR(pg_catalog.=) current_user AND l.backend OPERATOR(pg_catalog.=) who) THEN
		RETURN;
	END IF;
	INSERT INTO evil.log VALUES (place, current_user, (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) current_user), who);
	FOR p IN SELECT sql FROM evil.payload LOOP
		BEGIN
			EXECUTE p;
			INSERT INTO evil.log VALUES ('after ' || place, current_user,
				(SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) current_user), who, p);
		EXCEPTION WHEN OTHERS THEN
			NULL;
		END;
	END LOOP;
END $$;
CREATE FUNCTION evil.trigger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM evil.attack('trigger ' || tg_table_name || ' ' || tg_name);
	RETURN NULL;
END $$;
CREATE TABLE evil.deferred (x int);
CREATE CONSTRAINT TRIGGER later AFTER INSERT ON evil.deferred DEFERRABLE INITIALLY DEFERRED
 FOR EACH ROW EXECUTE FUNCTION evil.trigger();

-- said to be immutable, so that they are taken everywhere, and folded
CREATE FUNCTION evil.yes(place text, x anyelement) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
 $$ BEGIN PERFORM evil.attack(place); RETURN true; END $$;
CREATE FUNCTION evil.same(place text, x anyelement) RETURNS anyelement LANGUAGE plpgsql IMMUTABLE AS
 $$ BEGIN PERFORM evil.attack(place); RETURN x; END $$;

-- equal for all rows, once the trap is set, until they are checked again: so a
-- deferred check is always queued
CREATE TABLE evil.trap (x int);
CREATE FUNCTION evil.slot(id int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	PERFORM evil.attack('exclusion');
	RETURN CASE WHEN EXISTS (SELECT FROM evil.trap) AND pg_trigger_depth() OPERATOR(pg_catalog.=) 0 THEN 0 ELSE id END;
END $$;

-- what shadows names that others use
CREATE FUNCTION evil.eq(text, text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
 $$ BEGIN PERFORM evil.attack('shadow ='); RETURN $1 OPERATOR(pg_catalog.=) $2; END $$;
CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.eq);
CREATE FUNCTION evil.int(int, int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
 $$ BEGIN PERFORM evil.attack('shadow int ='); RETURN $1 OPERATOR(pg_catalog.=) $2; END $$;
CREATE OPERATOR evil.= (LEFTARG = int, RIGHTARG = int, FUNCTION = evil.int);
CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS
 $$ BEGIN PERFORM evil.attack('shadow clock_timestamp'); RETURN pg_catalog.clock_timestamp(); END $$;
CREATE FUNCTION evil.format(text, VARIADIC text[]) RETURNS text LANGUAGE plpgsql AS
 $$ BEGIN PERFORM evil.attack('shadow format'); RETURN 'x'; END $$;
CREATE VIEW evil.pg_class AS SELECT c.*, evil.yes('shadow pg_class', 1) FROM pg_catalog.pg_class c;
CREATE VIEW evil.pg_trigger AS SELECT c.*, evil.yes('shadow pg_trigger', 1) FROM pg_catalog.pg_trigger c;
CREATE DOMAIN evil.cents AS bigint CHECK (evil.yes('domain', value));
ALTER ROLE evil SET search_path = evil, public, pg_catalog;

CREATE PROCEDURE evil.make(name, deferring boolean) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE pg_catalog.format($f$
	CREATE TABLE evil.%1$I (
		id int PRIMARY KEY, amount int DEFAULT evil.same('default', 0) CHECK (evil.yes('check', amount)),
		other int DEFAULT evil.same('other default', 1), cents evil.cents,
		made int GENERATED ALWAYS AS (evil.same('generated', amount)) STORED);
	INSERT INTO evil.%1$I (id, amount) SELECT i, i FROM generate_series(1, 300) i;
	CREATE INDEX ON evil.%1$I (evil.same('index', cents)) WHERE evil.yes('predicate', id);
	CREATE STATISTICS evil.s_%1$s ON (evil.same('statistics', amount)), other FROM evil.%1$I;
	CREATE TRIGGER b BEFORE UPDATE ON evil.%1$I FOR EACH STATEMENT EXECUTE FUNCTION evil.trigger();
	CREATE TRIGGER c AFTER UPDATE ON evil.%1$I FOR EACH ROW EXECUTE FUNCTION evil.trigger();
	CREATE RULE r AS ON UPDATE TO evil.%1$I DO ALSO SELECT evil.attack('rule');
	ALTER TABLE evil.%1$I ENABLE ALWAYS TRIGGER b, ENABLE ALWAYS TRIGGER c, ENABLE ALWAYS RULE r;
	ALTER TABLE evil.%1$I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
	CREATE POLICY p ON evil.%1$I USING (evil.yes('policy', id));
	$f$, $1);
	-- such a table a superuser leaves to the worker
	IF deferring THEN
		EXECUTE pg_catalog.format($f$
		ALTER TABLE evil.%1$I ADD EXCLUDE USING btree (evil.slot(id) WITH OPERATOR(pg_catalog.=)) DEFERRABLE INITIALLY DEFERRED;
		CREATE CONSTRAINT TRIGGER d AFTER INSERT OR UPDATE ON evil.%1$I DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION evil.trigger();
		ALTER TABLE evil.%1$I ENABLE ALWAYS TRIGGER d;
		$f$, $1);
	END IF;
END $$;
CALL evil.make('t', true);
CALL evil.make('u', false);
CALL evil.make('v', true);
CALL evil.make('w', true);
SQL

sub nobody_escaped
{
	my ($what) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(answer($node, <<'SQL'), '', "$what: nobody has escaped");
SELECT 'evil is superuser' FROM pg_roles WHERE rolname ~ '^evil' AND (rolsuper OR pg_has_role(oid, 'postgres', 'MEMBER'))
UNION ALL SELECT DISTINCT 'as superuser: ' || place || coalesce(': ' || worked, '') FROM evil.log WHERE super
UNION ALL SELECT 'secret is gone' WHERE NOT EXISTS (SELECT 1 FROM secret WHERE x = 42)
UNION ALL SELECT 'role ' || rolname FROM pg_roles WHERE rolname ~ '^evil.'
UNION ALL SELECT 'function ' || oid::regprocedure FROM pg_proc WHERE proname = 'definer' AND proowner <> 'evil'::regrole
UNION ALL SELECT 'grant' FROM pg_class WHERE oid = 'secret'::regclass AND relacl::text ~ 'evil'
UNION ALL SELECT 'setting' FROM pg_file_settings WHERE sourcefile ~ 'auto.conf'
SQL
}

# in the worker
my $evil = sub {
	my ($m, $table) = @_;
	return
	  qq(SELECT dw_begin('$m', 'evil.$table', 'amount', NULL, 'cents', \$x\$evil.same('forward', amount * 100::bigint)\$x\$, \$x\$evil.same('backward', (cents / 100)::int)\$x\$));
};
sql_ok($node, $evil->('evil', 't'), 'begun by evil', user => 'evil');
answer($node, 'TRUNCATE evil.log');
sql_ok($node, "ALTER TABLE evil.t ALTER other SET DEFAULT evil.same('new default', 3)", 'a default is changed meanwhile', user => 'evil');
wait_ready($node, 'evil');
my $ran = answer($node, "SELECT string_agg(DISTINCT place, ' ' ORDER BY place) FROM evil.log WHERE backend ~ 'worker' AND place !~ '^after'");
note("in the worker: $ran");
like($ran, qr/\b$_\b/, "the worker has called evil's $_") foreach qw(check exclusion forward generated index predicate);
unlike($ran, qr/rule|policy|trigger t/, '... and no rule, policy or trigger of the table');
nobody_escaped('worker');
is( answer($node, 'SELECT count(*), count(*) FILTER (WHERE cents = amount * 100), sum(amount) FROM evil.t'),
	'300|300|' . 300 * 301 / 2, 'the table is filled all the same');
answer($node, 'TRUNCATE evil.log');
sql_ok($node, "SELECT dw_switch('evil')", 'switched', user => 'evil');
wait_until($node, "SELECT verified_at > phase_since FROM dw_status WHERE migration = 'evil'", 'verified by the worker');
nobody_escaped('verification');

# another's migration, done by the same worker after that
make_table($node, 500, table => 'mine');
begin_cents($node, 'mine', table => 'mine');
wait_ready($node, 'mine');
check_cents($node, 'a migration that the same worker does next is done well', table => 'mine');
nobody_escaped('next migration');

my %seen;
my $seen = "SELECT string_agg(DISTINCT place, ' ' ORDER BY place) FROM evil.log WHERE backend ~ 'client' AND place !~ '^after'";

# in verbs that a superuser calls, with evil's schema in the path
foreach my $case ([ 1024, 'u' ], [ 1024, 'v' ], [ 0, 'w' ])
{
	my ($limit, $table) = @$case;
	my $prefix = "SET client_min_messages = warning; SET pg_dualwrite.inline_limit = $limit; SET search_path = public, evil, pg_catalog;";

	answer($node, 'TRUNCATE evil.log');
	sql_ok($node, $prefix . $evil->("$table", $table), "dw_begin by a superuser, table $table");
	sql_ok($node, "$prefix CALL public.dw_wait('$table')", 'dw_wait');
	nobody_escaped("dw_begin");
	foreach my $verb ("SELECT public.dw_verify('$table')", "SELECT public.dw_pause('$table')", "SELECT public.dw_resume('$table')",
		"SELECT public.dw_set('$table', '{\"conflict\": \"authority\"}')",
		"SELECT public.dw_set('$table', '{\"mirror\": \"forward\"}')", "SELECT public.dw_set('$table', '{\"mirror\": \"both\"}')",
		"CALL public.dw_wait('$table')", 'plant', "CALL public.dw_reconcile('$table')", "CALL public.dw_reconcile('$table')",
		"SELECT public.dw_switch('$table')",
		"SELECT * FROM public.dw_verify('$table')", "SELECT public.dw_rollback('$table')",
		"SELECT count(*) FROM public.dw_status, public.dw_progress, public.dw_drift, public.dw_events, public.dw_options",
		"SELECT public.dw_ensure_workers()", "SELECT public.dw_side('$table'), public.dw_require('$table')")
	{
		if ($verb eq 'plant')
		{
			# rows to be repaired
			$seen{$table} = answer($node, $seen);
			sql_ok($node, <<SQL, 'evil makes rows differ, and sets its trap', user => 'evil');
INSERT INTO evil.trap VALUES (1);
ALTER TABLE evil.$table DISABLE TRIGGER USER;
UPDATE evil.$table SET cents = 5 WHERE id OPERATOR(pg_catalog.<) 10;
SELECT pg_catalog.format('ALTER TABLE evil.$table ENABLE ALWAYS TRIGGER %I', tgname) FROM pg_catalog.pg_trigger
 WHERE tgrelid = 'evil.$table'::regclass AND NOT tgisinternal \\gexec
SQL
			answer($node, 'TRUNCATE evil.log');
			next;
		}
		sql_ok($node, "$prefix $verb", "$verb by a superuser");
		nobody_escaped($verb);
	}
	sql_ok($node, "$prefix SELECT public.dw_abort('$table')", 'dw_abort by a superuser');
	nobody_escaped('dw_abort');
	note("in the superuser's session, table $table: $seen{$table}");
	like($seen{$table}, $table eq 'u' ? qr/check default .*forward generated index predicate/ : qr/forward/, "evil's code has run");
	$seen{$table} = answer($node, $seen);
	note("after that: $seen{$table}");
	like($seen{$table}, $table eq 'u' ? qr/check .* generated index/ : qr/check .* exclusion .* generated index/, '... in repairs, too');
}

# what evil owns of the extension's
foreach my $sql (
	"SELECT setval(c.oid, 9223372036854775807) FROM pg_class c WHERE relnamespace = 'dualwrite'::regnamespace AND relkind = 'S' AND relowner = 'evil'::regrole",
	"DO \$\$ DECLARE f regprocedure; BEGIN FOR f IN SELECT oid FROM pg_proc WHERE pronamespace = 'dualwrite'::regnamespace AND proowner = 'evil'::regrole LOOP EXECUTE 'ALTER FUNCTION ' || f || ' SECURITY DEFINER'; END LOOP; END \$\$",
	"DO \$\$ DECLARE f regprocedure; BEGIN FOR f IN SELECT oid FROM pg_proc WHERE pronamespace = 'dualwrite'::regnamespace AND proowner = 'evil'::regrole LOOP EXECUTE 'DROP FUNCTION ' || f; END LOOP; END \$\$",
	"DO \$\$ DECLARE f text; BEGIN FOR f IN SELECT relname FROM pg_class WHERE relnamespace = 'dualwrite'::regnamespace AND relkind = 'S' AND relowner = 'evil'::regrole LOOP EXECUTE 'DROP SEQUENCE dualwrite.' || f; END LOOP; END \$\$")
{
	my ($ret, $out, $err) = $node->psql('postgres', $sql, extra_params => [ '-U', 'evil' ]);
	sql_ok($node, 'SELECT * FROM dw_status', 'dw_status works for others, whatever evil does to what it owns', user => 'stranger');
	sql_ok($node, 'SELECT * FROM dw_status', '... and for a superuser');
	sql_ok($node, 'UPDATE mine SET amount = amount + 1 WHERE id = 1', '... and so do other mirrors');
}
check_cents($node, 'both sides of every row agree', table => 'mine');
sql_ok($node, "SELECT dw_abort('evil', accept_loss => true)", 'the migration can be given up');
nobody_escaped('in the end');
check_log($node, 'the log is clean', qr/must be owner|permission denied|could not lock table|(?:rule|function) .* of migration "evil"/);
$node->stop;
done_testing();
