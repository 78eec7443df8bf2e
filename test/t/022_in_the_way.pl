# Who may be in the way of the background work, and for how long: rows that are
# written without end, rows and tables that an idle transaction has locked, and
# transactions that hold an old snapshot.  The work goes on around them, dw_status
# names who it waits for, and nothing is filled wrong or left out.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use DW;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

# old snapshots are waited for, or not: that has a test of its own, 024_workers.pl
my $node = dw_node('way', conf => "pg_dualwrite.horizon_wait = 0\n");
my $rows = 2000;
my $dir = PostgreSQL::Test::Utils::tempdir();

# An idle transaction: its statement has been done, and nothing ends it.
my %idle;

sub idle_transaction
{
	my ($name, $sql) = @_;
	my ($in, $out, $err) = ("SET application_name = '$name'; BEGIN; $sql;\n\\echo in transaction\n", '', '');
	my $timer = IPC::Run::timer(60);

	$idle{$name} = { in => \$in, run => IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') ], '<', \$in, '>', \$out, '2>', \$err, $timer) };
	$idle{$name}{run}->pump until $out =~ /in transaction/ || $timer->is_expired;
	return answer($node, "SELECT pid FROM pg_stat_activity WHERE application_name = '$name' AND state = 'idle in transaction'");
}

sub end_transaction
{
	my ($name, $sql) = @_;

	${ $idle{$name}{in} } .= "$sql;\n\\q\n";
	$idle{$name}{run}->finish;
	return;
}

sub blocked_by
{
	my ($m, $pid, $test) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_until($node, <<SQL, $test);
SELECT state = 'waiting' AND EXISTS (SELECT 1 FROM unnest(blockers) b WHERE b LIKE 'pid $pid (idle in transaction)%')
  FROM dw_status WHERE migration = '$m'
SQL
}

# --- a row that is locked, in an idle transaction ---

make_table($node, $rows);
begin_cents($node, 'm', rate => 100);
my $pid = idle_transaction('holder', 'SELECT * FROM t WHERE id IN (1800, 1900) FOR UPDATE');
full_speed($node, 'm');
blocked_by('m', $pid, 'the holder of a row lock is named in dw_status.blockers');
like(answer($node, "SELECT state_reason FROM dw_status WHERE migration = 'm'"), qr/locked/, '... and state_reason says what it does');
status_is($node, 'm', 'phase', 'backfilling', '... and it waits for it');
is(answer($node, 'SELECT count(*) FROM t WHERE cents IS NULL'), 2, 'all but the locked rows are filled');
is(answer($node, "SELECT pending_rows > 0 FROM dw_status WHERE migration = 'm'"), 't', 'dw_status knows of rows to fill');
end_transaction('holder', 'UPDATE t SET amount = -3 WHERE id = 1800; COMMIT');
wait_ready($node, 'm', test => 'once the lock is gone it becomes ready');
check_cents($node, 'every row is filled');
is(answer($node, 'SELECT amount, cents FROM t WHERE id = 1800'), '-3|-300', 'the update of the holder is there');
is(answer($node, "SELECT blockers FROM dw_status WHERE migration = 'm'"), '{}', 'nobody is in the way any more');

# --- a table that is locked ---

answer($node, "SELECT dw_abort('m')");
begin_cents($node, 'm2', rate => 100);
wait_middle($node, 'm2');
$pid = idle_transaction('locker', 'LOCK TABLE t IN SHARE MODE');
blocked_by('m2', $pid, 'the holder of a table lock is named');
status_is($node, 'm2', 'state_reason', 'waiting for a lock on table public.t', '... and dw_status says in plain words for what');
like(slurp_file($node->logfile), qr/worker of migration \d+: canceling statement due to lock timeout/, '... the log, how it was noticed');
# writers wait for the locker, and not for the worker behind it: 300 ms at most
end_transaction('locker', 'COMMIT');
wait_until($node, "SELECT state <> 'waiting' FROM dw_status WHERE migration = 'm2'", 'it goes on');

# --- whatever else it may wait for, in plain words ---

my %words = (
	'55P03' => 'rows or keys are locked by other transactions',
	'40P01' => 'rows or keys are locked by other transactions',
	'40001' => 'another transaction was in the way: fault point.*',
	'53100' => 'the server is short of resources: fault point.*',
	'57014' => 'its statement was canceled; it is repeated');
foreach my $state (sort keys %words)
{
	answer($node, "SELECT dw_fault('fill_updated', sqlstate => '$state', times => NULL)");
	wait_until($node, "SELECT state = 'waiting' AND state_reason ~ '^$words{$state}\$' FROM dw_status WHERE migration = 'm2'",
		"$state is waited for: $words{$state}");
	answer($node, 'SELECT dw_fault_off()');
}
wait_until($node, "SELECT state <> 'waiting' FROM dw_status WHERE migration = 'm2'", '... and it goes on');

# --- a transaction that wrote before the verification began ---

# a row that is not for the backfill to fill, which would wait for it, too
answer($node, 'INSERT INTO t (id, amount) VALUES (-7, 7)');
$pid = idle_transaction('writer', 'UPDATE t SET amount = amount + 1 WHERE id = -7');
full_speed($node, 'm2');
blocked_by('m2', $pid, 'who has written before the verification began is named');
status_is($node, 'm2', 'phase', 'verifying', '... when it is verifying');
end_transaction('writer', 'COMMIT');
wait_ready($node, 'm2', test => 'then it becomes ready');
check_cents($node, 'every row is filled');
is(answer($node, 'DELETE FROM t WHERE id < 0 RETURNING amount, cents'), '8|800', 'its update is there');

# a verb names who is in its way
$pid = idle_transaction('writer', 'UPDATE t SET amount = amount + 1 WHERE id = 7');
sql_fails($node, "SET pg_dualwrite.lock_retries = 2; SELECT dw_switch('m2')", '55P03',
	qr/DETAIL:  It is held by pid $pid \(idle in transaction\): UPDATE t SET amount/, 'dw_switch names who it could not wait for');
end_transaction('writer', 'ROLLBACK');
sql_ok($node, "SELECT dw_switch('m2')", '... and goes through once it is gone');
answer($node, "SELECT dw_abort('m2')");

# --- an old snapshot ---

# It keeps every dead version, so that rows don't fit onto their pages; the
# backfill ends all the same.
idle_transaction('old', 'SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class');
begin_cents($node, 'm3');
wait_ready($node, 'm3', test => 'an old snapshot is not in the way');
check_cents($node, 'every row is filled');
is(answer($node, "SELECT count(*), sum(amount) FROM t"), answer($node, "SELECT $rows, $rows * ($rows + 1) / 2 - 1803"), 'no row came or went');
end_transaction('old', "UPDATE t SET amount = 1 WHERE id = 1; COMMIT");
is(answer($node, 'SELECT amount FROM t WHERE id = 1'), 1, 'who held it could not update what it did not see filled');
answer($node, "SELECT dw_abort('m3')");

# --- a hot row ---

# One row is updated, another one locked, without end and by several clients;
# the table grows without end, too.
my @running;

sub pgbench
{
	my ($clients, $script) = @_;
	my $file = "$dir/script" . @running;
	my ($out, $err) = ('', '');

	append_to_file($file, $script);
	push @running, {
		run => IPC::Run::start([ 'pgbench', '-n', '-c', $clients, '-T', 600, '-f', $file, $node->connstr('postgres') ], '>', \$out, '2>', \$err),
		err => \$err };
	return;
}

$node->safe_psql('postgres', 'CREATE SEQUENCE hot; CREATE SEQUENCE ids START 1000000');
my $was = answer($node, 'SELECT amount FROM t WHERE id = 100');
pgbench(3, <<'SCRIPT');
BEGIN;
UPDATE t SET amount = amount + 1 WHERE id = 100;
SELECT nextval('hot');
COMMIT;
SCRIPT
pgbench(3, <<'SCRIPT');
SELECT 1 FROM t WHERE id = 200 FOR UPDATE;
INSERT INTO t (id, amount) VALUES (nextval('ids'), 5);
SCRIPT
begin_cents($node, 'm4');
wait_ready($node, 'm4', test => 'it becomes ready under endless updates, locks and inserts');
sql_ok($node, "SELECT dw_switch('m4')", 'it can be switched');
foreach my $p (@running)
{
	$p->{run}->signal('INT');
	$p->{run}->finish;
	unlike(${ $p->{err} }, qr/ERROR|aborted/, 'no statement failed') or diag(substr ${ $p->{err} }, 0, 1000);
}
wait_until($node, "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'pgbench'");
check_cents($node, 'every row is filled');
my $n = answer($node, 'SELECT last_value FROM hot');
my $is = answer($node, 'SELECT amount FROM t WHERE id = 100') - $was;
ok($is <= $n && $is >= $n - 3, "no update of the hot row was lost ($is of $n)");
is(answer($node, 'SELECT count(*) FROM t WHERE id >= 1000000 AND (amount <> 5 OR cents <> 500)'), 0, 'the rows inserted meanwhile are right');
status_is($node, 'm4', 'drifted + unconvertible', 0, 'nothing was recorded as drift');
check_log($node, 'the log is clean', qr/canceling statement due to user request|connection to client lost|could not serialize access|could not lock table/);
$node->stop;
done_testing();
