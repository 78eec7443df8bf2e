# The worker is killed with -9 while both versions of the application write:
# PostgreSQL restarts every backend, the worker comes back and finishes, and
# nothing that was acknowledged is lost.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use DW;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = dw_node('crash');
my $rows = 12000;

# Kills the migration's worker, and waits until everybody is back.
sub kill_worker
{
	my ($m) = @_;
	my $pid = worker_pid($node, $m);

	crash($node, $pid, 'the server is back after the crash');
	wait_until($node, <<SQL, 'the worker is back, too');
SELECT coalesce(worker_pids[1] <> $pid, false) OR phase IN ('ready', 'switched') FROM dw_status WHERE migration = '$m'
SQL
	return;
}

make_table($node, $rows);
my $writers = start_writers($node, $rows, kinds => [ 'old', 'new', 'old', 'new' ]);
begin_cents($node, 'm', rate => 1000);

# in the middle of the backfill, twice
wait_middle($node, 'm');
my $done = answer($node, "SELECT blocks_done FROM dw_progress WHERE migration = 'm'");
kill_worker('m');
cmp_ok(answer($node, "SELECT coalesce(max(blocks_done), 999999) FROM dw_progress WHERE migration = 'm'"),
	'>=', $done, 'progress is kept');
wait_until($node, "SELECT rows_done + rows_already > 1000 FROM dw_progress WHERE migration = 'm'", 'it goes on');
kill_worker('m');
full_speed($node, 'm');
wait_ready($node, 'm', test => 'it becomes ready, with writers at work');

# and after the switch, in the verification
answer($node, "SELECT dw_switch('m')");
kill_worker('m');
wait_until($node, "SELECT verified_at > phase_since FROM dw_status WHERE migration = 'm'", 'verified after the switch');
stop_writers($writers);
compare_writers($writers, 'every acknowledged write is there, and both sides of every row agree');
status_is($node, 'm', 'drifted + unconvertible', 0, 'nothing was recorded as drift');

# A verb right after a crash
answer($node, "SELECT dw_rollback('m')");
status_is($node, 'm', 'phase', 'ready', 'rolled back');
answer($node, "SELECT dw_switch('m')");
wait_until($node, "SELECT verified_at > phase_since FROM dw_status WHERE migration = 'm'", 'switched again and verified');
answer($node, "SELECT dw_finalize('m')");
is(answer($node, 'SELECT count(*) FROM t WHERE cents IS NULL'), 0, 'the new column is complete');

check_log($node, 'the log speaks of the crashes only',
	qr/terminating connection because of crash of another server process/,
	qr/the database system is (?:in recovery mode|starting up|shutting down|not yet accepting connections)/,
	qr/terminating background worker "pg_dualwrite worker" due to administrator command/);
$node->stop;
done_testing();
