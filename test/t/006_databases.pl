# Several migrations and several databases at once, more of them than there are
# workers; and what happens when the ground is taken away under a worker: DROP
# TABLE, DROP EXTENSION, DROP DATABASE.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use DW;
use PostgreSQL::Test::Utils;
use Test::More;

my $rows = 1500;

# The logical replication launcher takes one of these.
my $node = dw_node('databases', conf => <<'CONF');
max_worker_processes = 4
pg_dualwrite.max_workers = 2
CONF
my $none = "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'pg_dualwrite worker'";
my $most = 0;

sub tables_with_migrations
{
	my ($db, $n, %arg) = @_;

	foreach my $i (1 .. $n)
	{
		make_table($node, $rows, db => $db, table => "t$i");
		begin_cents($node, "m$i", db => $db, table => "t$i", rate => $arg{rate});
	}
	return;
}

# --- more migrations than max_workers, than max_worker_processes ---

$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', 'CREATE EXTENSION pg_dualwrite');
my ($ret, $out, $err) = (0, '', '');
foreach my $i (1 .. 5)
{
	make_table($node, $rows, table => "t$i");
}

# in one transaction: no worker has begun when the next one is asked for
($ret, $out, $err) = $node->psql('postgres', 'BEGIN;' . join(';', map {
			"SELECT dw_begin('m$_', 't$_', 'amount', 'bigint', 'cents', 'amount * 100::bigint', 'cents / 100')"
		} 1 .. 5) . '; COMMIT');
is($ret, 0, 'five migrations begin in one transaction');
like($err, qr/no background worker slot is free for migration/, '... and are told that some have to wait');
tables_with_migrations('other', 3);
wait_until($node, <<'SQL', 'in the end all are ready, without anybody asking again');
SELECT count(*) = 5 FROM dw_status WHERE phase = 'ready'
SQL

# where there is no worker at all, one has to be asked for, and then does them all
wait_ready($node, 'm1', db => 'other', test => 'dw_wait in the other database');
wait_until($node, "SELECT count(*) = 3 FROM dw_status WHERE phase = 'ready'", '... gets all of them done', 'other');
check_cents($node, "every row of t$_ is filled", table => "t$_") foreach 1 .. 5;
check_cents($node, "every row of t$_ in the other database is filled", table => "t$_", db => 'other') foreach 1 .. 3;
cmp_ok(
	answer($node, "SELECT count(DISTINCT pid) FROM dw_events WHERE event = 'filled'"),
	'<=', 4, 'no more workers than there are slots have filled them');
wait_until($node, $none, 'then they go');
answer($node, "SELECT dw_abort(migration) FROM dw_status");
answer($node, "SELECT dw_abort(migration) FROM dw_status", 'other');

# --- max_workers holds, and no slot at all is an error ---

begin_cents($node, "n$_", table => "t$_", rate => 200) foreach 1 .. 4;
wait_until($node, "SELECT count(*) = 2 FROM dw_progress WHERE state <> 'no_worker' AND rows_done > 0", 'two workers at work');
is(workers($node), 2, '... and no more than max_workers');
is(answer($node, 'SELECT dw_ensure_workers()'), 0, 'dw_ensure_workers has no slot to give');
is(answer($node, "SELECT count(*) FROM dw_status WHERE state = 'no_worker'"), 2, 'the others have no worker');
$node->append_conf('postgresql.conf', 'pg_dualwrite.max_workers = 3');
$node->reload;
wait_until($node, 'SELECT dw_ensure_workers() = 1', 'max_workers is raised, and one more starts');
wait_until($node, "SELECT count(*) = 1 FROM dw_status WHERE state = 'no_worker'", 'one is left');
full_speed($node, "n$_") foreach 1 .. 4;
wait_until($node, "SELECT count(*) = 4 FROM dw_status WHERE phase = 'ready'", 'all are ready');
check_cents($node, "every row of t$_ is filled", table => "t$_") foreach 1 .. 4;
wait_until($node, $none);
answer($node, "SELECT dw_abort(migration) FROM dw_status WHERE phase = 'ready'");

$node->append_conf('postgresql.conf', 'pg_dualwrite.max_workers = 0');
$node->reload;
begin_cents($node, 'o1', table => 't1');
status_is($node, 'o1', 'state', 'no_worker', 'with max_workers 0 nobody comes');
sql_fails($node, 'SELECT dw_ensure_workers()', '53400', qr/no background worker slot is free/, '... and dw_ensure_workers says why');
sql_fails($node, "CALL dw_wait('o1', 'ready', '0.5 s')", '57014', qr/no worker/, '... likewise dw_wait');
answer($node, "UPDATE t1 SET amount = 4 WHERE id = 1");
is(answer($node, 'SELECT cents FROM t1 WHERE id = 1'), 400, 'the mirror needs none');
$node->append_conf('postgresql.conf', 'pg_dualwrite.max_workers = 2');
$node->reload;
wait_until($node, 'SELECT dw_ensure_workers() = 1', 'a slot, and a worker');
wait_ready($node, 'o1');
check_cents($node, 'every row is filled', table => 't1');

# --- DROP TABLE under a worker ---

begin_cents($node, 'd1', table => 't2', rate => 200);
wait_middle($node, 'd1');
sql_ok($node, 'DROP TABLE t2', 'DROP TABLE in the middle of a backfill');
wait_until($node, "SELECT state = 'failed' AND cardinality(coalesce(worker_pids, '{}')) = 0 OR state_reason ~ 'dropped' FROM dw_status WHERE migration = 'd1'",
	'dw_status tells');
status_is($node, 'd1', 'state_reason', 'the table was dropped', '... why');
is(answer($node, "SELECT count(*) FROM pg_proc WHERE pronamespace = 'dualwrite'::regnamespace AND proname ~ '^m[0-9]'"),
	answer($node, "SELECT count(*) FROM pg_proc WHERE pronamespace = 'dualwrite'::regnamespace AND proname ~ '^m[0-9]' AND prorettype IS NOT NULL"
		. " AND proargtypes[0] IN (SELECT reltype FROM pg_class)"), 'its rules are gone');
sql_fails($node, "SELECT dw_switch('d1')", '55000', qr/./, 'it cannot be switched');
sql_ok($node, "SELECT dw_abort('d1')", 'it can be aborted');
status_is($node, 'd1', 'phase', 'aborted', '... and has ended');
begin_cents($node, 'd2', table => 't3', rate => 200);
wait_middle($node, 'd2');
sql_ok($node, 'BEGIN; DROP TABLE t3; CREATE TABLE t3 (id int, amount int); COMMIT', 'a table replaced in the middle');
sql_ok($node, 'INSERT INTO t3 VALUES (1, 1)', 'the new table has no mirror');
answer($node, "SELECT dw_abort('d2')");
begin_cents($node, 'd2', table => 't3');
wait_ready($node, 'd2', test => 'the same migration on the new table');
check_cents($node, 'every row is filled', table => 't3');
answer($node, "SELECT dw_abort('d2')");

# --- DROP EXTENSION under a worker ---

begin_cents($node, 'e1', table => 't4', rate => 200);
wait_middle($node, 'e1');
sql_fails($node, 'DROP EXTENSION pg_dualwrite', '2BP01', qr/migrations are under way/, 'DROP EXTENSION is refused while a mirror is on');
sql_ok($node, 'SET client_min_messages = warning; DROP EXTENSION pg_dualwrite CASCADE', 'CASCADE takes the mirror along');
wait_until($node, $none, 'the worker goes');
is(answer($node, "SELECT count(*) FROM pg_trigger WHERE tgrelid IN ('t1'::regclass, 't4'::regclass) AND NOT tgisinternal"), 0, 'no trigger is left');
sql_ok($node, 'UPDATE t4 SET amount = amount + 1', 'the table can be written');
is(answer($node, 'SELECT count(*), count(cents) < count(*) FROM t4'), "$rows|t", 'it keeps its rows, and the column as it is');
sql_ok($node, 'CREATE EXTENSION pg_dualwrite', 'it can be installed again');
begin_cents($node, 'e2', table => 't4');
wait_ready($node, 'e2', test => 'and begun again, on the column that is there');

# which is old: whatever is in it differs or is NULL
check_cents($node, 'every row is filled', table => 't4');
answer($node, "SELECT dw_abort('e2', accept_loss => true)");
wait_until($node, $none);

# in one transaction with dw_begin
sql_ok($node, <<'SQL', 'dw_begin and DROP EXTENSION in one transaction');
SET client_min_messages = warning;
BEGIN;
SELECT dw_begin('e3', 't5', 'amount', 'bigint', 'cents', 'amount * 100::bigint', 'cents / 100');
DROP EXTENSION pg_dualwrite CASCADE;
COMMIT;
CREATE EXTENSION pg_dualwrite;
SQL
wait_until($node, $none, 'its worker goes');

# --- DROP DATABASE under a worker ---

begin_cents($node, 'f1', db => 'other', table => 't1', rate => 200);
wait_middle($node, 'f1', 'other');
($ret, $out, $err) = $node->psql('postgres', 'DROP DATABASE other');
if ($ret != 0)
{
	like($err, qr/database "other" is being accessed by other users/, 'DROP DATABASE is refused while a worker is connected');
	is(workers($node), 1, '... and does no harm');
	sql_ok($node, 'DROP DATABASE other WITH (FORCE)', 'WITH (FORCE) ends the worker');
}
else
{
	pass('DROP DATABASE ends the worker');
}
wait_until($node, $none, 'no worker is left');

# The postmaster starts a worker that was terminated again, after a second:
# once, and then it must be forgotten.
$node->safe_psql('postgres', 'CREATE DATABASE third');
$node->safe_psql('third', 'CREATE EXTENSION pg_dualwrite');
make_table($node, $rows, db => 'third');
begin_cents($node, 'g', db => 'third');
wait_ready($node, 'g', db => 'third', test => 'the slot is free for others');
wait_until($node, $none);
$node->safe_psql('postgres', 'DROP DATABASE third');
my $log = slurp_file($node->logfile);
my $starts = () = $log =~ /FATAL:  database \d+ does not exist/g;
cmp_ok($starts, '<=', 1, 'a worker of a dropped database is not restarted again and again');
check_log($node, 'the log is clean', qr/no background worker slot is free/, qr/terminating background worker "pg_dualwrite/,
	qr/database \d+ does not exist/, qr/did not become ready in time/, qr/is being accessed by other users/,
	qr/cannot drop extension/, qr/"d1" can't be|table .*d1/, qr/the table was dropped/);
$node->stop;
done_testing();
