# A batch's commit waits for synchronous standbys, and nobody waits with it:
# rows and table are unlocked by then.  A crash between the commit and that loses
# no more than the batch, and loses its progress with it; whoever ends the worker
# while it waits loses nothing.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use DW;
use PostgreSQL::Test::Utils;
use Test::More;

my $rows = 20000;
my $node = dw_node('commit', init => { allows_streaming => 1 });
my $filled = "(SELECT count(cents) FROM t)";
my $done = "(SELECT sum(rows_done) FROM dualwrite.progress WHERE pass = 'fill')";

# Nobody confirms a commit any more; or nobody has to.
sub standbys
{
	my ($names) = @_;

	$node->append_conf('postgresql.conf', "synchronous_standby_names = '$names'");
	$node->reload;
	return;
}

# Not inside of a transaction, where it would have locks.
sub waits_for_standby
{
	my ($test) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_until($node, <<SQL, $test);
SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE backend_type = 'pg_dualwrite worker' AND wait_event = 'SyncRep' AND xact_start IS NULL)
SQL
}

make_table($node, $rows);
begin_cents($node, 'm', rate => 300);
wait_middle($node, 'm');
standbys('nobody');
waits_for_standby('the worker waits for a standby');
my ($before, $id) = split /\|/, answer($node, "SELECT $filled, (SELECT max(id) FROM t WHERE cents IS NOT NULL)");
is(answer($node, "SELECT $filled = $done AND $filled > 0"), 't', 'what the batch did can be seen');

# these don't wait for a standby themselves
my $local = 'SET synchronous_commit = local';
is(answer($node, "$local; SELECT count(*) FROM (SELECT 1 FROM t FOR UPDATE SKIP LOCKED) l"), $rows, 'no row is locked');
is( answer($node, "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE a.backend_type = 'pg_dualwrite worker' AND l.relation = 't'::regclass"),
	0, '... nor the table');
sql_ok($node, "$local; SET lock_timeout = '5 s'; UPDATE t SET amount = -id WHERE id = $id", 'a row that it filled can be written');
sql_ok($node, "$local; SELECT dw_pause('m', 'a look')", 'the migration can be paused');
is(answer($node, "SELECT state FROM dw_status WHERE migration = 'm'"), 'paused', '... and is');
is(answer($node, "SELECT $filled"), $before, 'the worker does no other batch');
standbys('');
sql_ok($node, "SELECT dw_resume('m')", 'standbys no longer count');
wait_until($node, "SELECT $filled > $before");

# Canceled, it goes on without standbys, as a session does; terminated, another one comes.
standbys('nobody');
waits_for_standby('the worker waits again');
$before = answer($node, "SELECT $filled");
answer($node, "SELECT pg_cancel_backend(" . worker_pid($node, 'm') . ")");
wait_until($node, "SELECT $filled > $before", 'canceled, it goes on');
waits_for_standby('... and waits');
answer($node, "SELECT pg_terminate_backend(" . worker_pid($node, 'm') . ")");
$before = answer($node, "SELECT $filled");
is(answer($node, "SELECT $filled = $done"), 't', 'terminated, it has lost nothing');
standbys('');
wait_until($node, "SELECT $filled > $before", '... and another one goes on');

# Committed, and not on disk.
answer($node, "SELECT dw_fault('fill_after_commit', 'crash')");
wait_until($node, "SELECT fired = 1 FROM dw_faults WHERE point = 'fill_after_commit'", 'the server crashes after a commit');
is(answer($node, "SELECT $filled = $done AND $filled >= $before"), 't', 'rows and progress are of one batch');

# Waiting, after which all is on disk.
standbys('nobody');
waits_for_standby('the worker waits once more');
$before = answer($node, "SELECT $filled");
crash($node, worker_pid($node, 'm'), 'the server is back after a crash');
is(answer($node, "SELECT $filled = $done AND $filled >= $before"), 't', '... and nothing is lost');
standbys('');
full_speed($node, 'm');
wait_ready($node, 'm');
is(answer($node, "SELECT count(*) FROM t WHERE amount <> CASE WHEN id = $id THEN -id ELSE id END OR cents IS DISTINCT FROM amount * 100"),
	0, 'every row is as it was written, and filled');
check_log($node, 'the log is clean', crash_noise(), qr/cancell?ing (?:the )?wait for synchronous replication/, qr/terminating background worker/);
$node->stop;
done_testing();
