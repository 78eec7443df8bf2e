# Option proof with a worker and real writers; rechecks, by cron and preloaded.
#
# The table of the proof tests is widened: only a cast that can't raise can be
# proven.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

use DW;

my $rows = 3000;
my $node = dw_node('proof');
my $dir = PostgreSQL::Test::Utils::tempdir();

sub make
{
	my ($db) = @_;

	$node->safe_psql($db, <<SQL);
CREATE TABLE w (id int PRIMARY KEY, a int CHECK (a <> -5), filler text);
INSERT INTO w SELECT i, i, repeat('x', 200) FROM generate_series(1, $rows) i;
SQL
	return;
}

sub wrong
{
	my ($db) = @_;
	return answer($node, 'SELECT count(*) FROM w WHERE b IS DISTINCT FROM a', $db);
}

sub dump_schema
{
	my ($db) = @_;
	my ($out, $err) = ('', '');

	IPC::Run::run([ 'pg_dump', '-s', '-t', 'w', $node->connstr($db) ], '>', \$out, '2>', \$err) or die $err;
	# a random key, in newer versions
	$out =~ s/^\\(un)?restrict.*$//mg;
	return $out;
}

# --- from begin to finalize under writers of both sides, who notice nothing ---

make('postgres');
my $before = dump_schema('postgres');
append_to_file("$dir/old.sql", "\\set id random(1, $rows)\nUPDATE w SET a = a + 1 WHERE id = :id;\n");
append_to_file("$dir/new.sql", "\\set id random(1, $rows)\nUPDATE w SET b = coalesce(b, a) + 1 WHERE id = :id;\n");
append_to_file("$dir/insert.sql", "INSERT INTO w (id, a) SELECT $rows + 1 + count(*), 1 FROM w ON CONFLICT DO NOTHING;\n");
sql_ok($node, <<SQL, 'begun with proof');
SELECT dw_begin('m', 'w', 'a', 'bigint', 'b', options => '{"proof": true, "max_rows_per_second": 2000, "sample_rate": 0.5}')
SQL
my ($out, $err) = ('', '');
my $bench = IPC::Run::start(
	[ 'pgbench', '-n', '-c', 4, '-j', 2, '-t', 1500, '-f', "$dir/old.sql\@2", '-f', "$dir/new.sql\@2", '-f', "$dir/insert.sql", '-d', $node->connstr('postgres') ],
	'>', \$out, '2>', \$err);
wait_ready($node, 'm');
status_is($node, 'm', 'proof', 'proven', 'ready is proven');
status_is($node, 'm', 'proven_at = verified_at', 't', 'since the verification that has just ended');
sql_ok($node, "SELECT dw_switch('m')", 'switched, the writers go on');
wait_until($node, "SELECT verified_at > phase_since FROM dw_status WHERE migration = 'm'", 'verified after the switch');
status_is($node, 'm', 'proof', 'proven', 'and still proven');
$bench->finish;
is($bench->result(0), 0, 'pgbench went through') or diag "$out\n$err";
like($out, qr/number of transactions actually processed: 6000\/6000/, 'every write was acknowledged');
unlike($out, qr/failed transactions: [1-9]/, 'none failed');
is(wrong('postgres'), 0, 'every row is consistent');
is(answer($node, "SELECT sampled_writes > 1000 AND sampled_drift = 0 AND drift_rate_bound < 0.003 FROM dw_status WHERE migration = 'm'"),
	't', 'writes were read back, and none had drifted');

# what the database refuses, and what it doesn't
sql_ok($node, 'ALTER TABLE w DISABLE TRIGGER USER', 'somebody disables the mirror');
sql_fails($node, 'UPDATE w SET a = a + 1 WHERE id = 1', '23514', qr/dualwrite_m\d+_proof/, 'one side is refused');
sql_fails($node, "COPY w (id, a) FROM PROGRAM 'echo 1000000,1' WITH (FORMAT csv)", '23514', qr/_proof/, '... by COPY, too');
sql_ok($node, 'UPDATE w SET a = 5, b = 5 WHERE id = 1', 'both sides are not');
sql_ok($node, "SELECT dw_resume('m')", 'dw_resume mends the trigger');
wait_until($node, "SELECT proof = 'proven' FROM dw_status WHERE migration = 'm'", 'and it is proven again');
is(wrong('postgres'), 0, 'every row is consistent');

# --- a dump carries it ---

PostgreSQL::Test::Utils::system_or_bail('pg_dump', '-Fc', '-f', "$dir/dump", $node->connstr('postgres'));
$node->safe_psql('postgres', 'CREATE DATABASE copy');
PostgreSQL::Test::Utils::system_or_bail('pg_restore', '-e', '-d', $node->connstr('copy'), "$dir/dump");
is(answer($node, "SELECT count(*) FROM pg_constraint WHERE conrelid = 'w'::regclass AND conname ~ '_proof\$' AND NOT convalidated", 'copy'),
	1, 'the restored copy has the constraint');
sql_ok($node, 'UPDATE w SET b = b + 1 WHERE id = 2', 'the mirror works there', db => 'copy');
sql_ok($node, "SELECT dw_resume('m')", 'adopted', db => 'copy');
wait_until($node, "SELECT proof = 'proven' FROM dw_status WHERE migration = 'm'", 'proven in the copy', 'copy');
is(wrong('copy'), 0, 'every row of the copy is consistent');
sql_ok($node, "ALTER TABLE w DISABLE TRIGGER USER; INSERT INTO w (id, a, b) VALUES (-1, 1, 1)", 'a row', db => 'copy');
sql_fails($node, 'UPDATE w SET b = 2 WHERE id = -1', '23514', qr/_proof/, 'and refuses', db => 'copy');

# --- the two ends ---

sql_ok($node, "SELECT dw_rollback('m'); SELECT dw_abort('m')", 'aborted');
is(dump_schema('postgres'), $before, 'pg_dump -s is what it was before');
sql_ok($node, "SELECT dw_begin('n', 'w', 'a', 'bigint', 'b')", 'begun without proof');
wait_ready($node, 'n');
sql_ok($node, q(SELECT dw_set('n', '{"proof": true}')), 'proof is set later');
wait_until($node, "SELECT proof = 'proven' FROM dw_status WHERE migration = 'n'", 'the worker adds it, and compares again');
sql_ok($node, "SELECT dw_switch('n')", 'switched');
wait_until($node, "SELECT verified_at > phase_since FROM dw_status WHERE migration = 'n'");
$node->safe_psql('postgres', 'ALTER TABLE w DROP CONSTRAINT w_a_check, ADD CONSTRAINT w_b_check CHECK (b <> -5)');
sql_ok($node, "SELECT dw_finalize('n')", 'finalized');
is(answer($node, "SELECT string_agg(conname, ' ') FROM pg_constraint WHERE conrelid = 'w'::regclass AND contype = 'c'"), 'w_b_check', 'its constraint is gone');
is(answer($node, "SELECT count(*) FROM dw_status WHERE migration = 'n' AND proof IS NULL"), 1, 'and says nothing any more');

# --- the server dies between the constraint and the proof ---

$node->safe_psql('postgres', <<SQL);
CREATE TABLE k (id int PRIMARY KEY, a int);
INSERT INTO k SELECT i, i FROM generate_series(1, $rows) i;
SELECT dw_begin('k', 'k', 'a', 'bigint', 'b', options => '{"proof": true, "max_rows_per_second": 4000}');
SQL
wait_until($node, "SELECT phase IN ('building', 'verifying', 'ready') FROM dw_status WHERE migration = 'k'");
$node->stop('immediate');
$node->start;
sql_ok($node, "CALL dw_wait('k', 'ready', '2 min')", 'goes on after the crash');
status_is($node, 'k', 'proof', 'proven', 'and is proven');
is(answer($node, "SELECT count(*) FROM pg_constraint WHERE conrelid = 'k'::regclass AND contype = 'c'"), 1, 'by one constraint');
is(answer($node, 'SELECT count(*) FROM k WHERE b IS DISTINCT FROM a'), 0, 'every row is consistent');

# --- rechecks, when somebody calls dw_ensure_workers ---

# a rule that can be made to say something else, so that nothing but a look at the rows can tell
$node->safe_psql('postgres', <<SQL);
CREATE TABLE planted (a int);
CREATE FUNCTION rule(a int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
\$\$ BEGIN RETURN a * 2 + (SELECT count(*) FROM public.planted p WHERE p.a = rule.a); END \$\$;
CREATE TABLE r (id int PRIMARY KEY, a int);
INSERT INTO r SELECT i, i FROM generate_series(1, $rows) i;
SELECT dw_begin('r', 'r', 'a', 'int', 'b', 'rule(a)', '(b - (b % 2)) / 2 + 1000000');
SQL
wait_ready($node, 'r');
wait_until($node, "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'pg_dualwrite worker'", 'the worker has gone');
is(answer($node, 'SELECT dw_ensure_workers()'), 0, 'nothing is due');
my $verified = answer($node, "SELECT verified_at FROM dw_status WHERE migration = 'r'");
$node->safe_psql('postgres', q(SELECT dw_set('r', '{"recheck_interval": "1s"}')));
wait_until($node, "SELECT verified_at > '$verified' FROM dw_status WHERE migration = 'r'", 'a shorter interval, and it is compared again');
$node->safe_psql('postgres', q(SELECT dw_set('r', '{"recheck_interval": 0}')));
wait_until($node, "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'pg_dualwrite worker'", 'the worker has gone');
$verified = answer($node, "SELECT verified_at FROM dw_status WHERE migration = 'r'");
$node->safe_psql('postgres', 'INSERT INTO planted VALUES (77)');
is(answer($node, 'SELECT dw_ensure_workers()'), 0, 'never, and no worker is started');
is(answer($node, "SELECT phase, state, verified_at = '$verified' FROM dw_status WHERE migration = 'r'"), 'ready|idle|t', 'nobody has seen the drift');
$node->safe_psql('postgres', q(UPDATE dualwrite.migration SET verified_at = verified_at - interval '2 days', phase_since = phase_since - interval '2 days' WHERE name = 'r'));
is(answer($node, 'SELECT dw_ensure_workers()'), 0, 'two days later neither');
$node->append_conf('postgresql.conf', "pg_dualwrite.recheck_interval = 1h\n");
$node->reload;
wait_until($node, "SELECT current_setting('pg_dualwrite.recheck_interval') = '1h'");
$node->safe_psql('postgres', q(SELECT dw_set('r', '{"recheck_interval": null}')));
wait_until($node, "SELECT state = 'failed' FROM dw_status WHERE migration = 'r'", 'the default again, and the drift is found');
is( answer($node, "SELECT key, new_values, reason FROM dw_drift WHERE migration = 'r' AND repaired_at IS NULL"),
	'{"id": "77"}|{"b": "154"}|drift', 'and the row is on record');
sql_fails($node, "SELECT dw_switch('r')", '55000', qr/row is not consistent/, 'dw_switch refuses');
$node->stop;

# --- and by itself, where the library is preloaded ---

my $preloaded = dw_node('preloaded', conf => "shared_preload_libraries = 'pg_dualwrite'\npg_dualwrite.naptime = 1s\n");
make_table($preloaded, 100);
begin_cents($preloaded, 'p');
wait_ready($preloaded, 'p');
$preloaded->safe_psql('postgres', q(SELECT dw_set('p', '{"recheck_interval": "7s"}')));
wait_until($preloaded, "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'pg_dualwrite worker'", 'its worker goes');
my $first = answer($preloaded, "SELECT verified_at FROM dw_status WHERE migration = 'p'");
wait_until($preloaded, "SELECT verified_at > '$first' FROM dw_status WHERE migration = 'p'", 'compared again, though nobody called');
is(answer($preloaded, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_dualwrite launcher'"), 1, 'the launcher is there');
is(answer($preloaded, 'SELECT count(*) FROM t WHERE cents IS DISTINCT FROM amount * 100::bigint'), 0, 'every row is consistent');
$preloaded->safe_psql('postgres', 'CREATE DATABASE other');
sql_ok($preloaded, 'DROP DATABASE other', 'it is in nobody\'s way');
$preloaded->stop;

done_testing();
