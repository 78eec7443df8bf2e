# The postmaster is killed with -9 under 16 writers: in the backfill, in the
# verification, and after the switch.  Nobody is left who could say goodbye; on
# the next start the migration doesn't claim to be running, goes on where it
# was, and no acknowledged write is lost.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use DW;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes 'sleep';

my $node = dw_node('postmaster', conf => "fsync = off\n");
my $rows = 3000;

# Processes whose parent is that one.
sub children
{
	my ($parent) = @_;
	my @pids;

	foreach my $file (glob '/proc/[0-9]*/stat')
	{
		my $stat = eval { slurp_file($file) } or next;
		push @pids, $1 if $stat =~ /^(\d+) \(.*\) \S (\d+) /s && $2 == $parent;
	}
	return @pids;
}

# kill -9, and a start once its children have noticed, and nobody takes it for alive
sub kill_postmaster
{
	my ($when) = @_;
	my ($pid) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;

	kill 'STOP', $pid;
	my @pids = ($pid, children($pid));
	$node->kill9;
	for (1 .. 3000)
	{
		last unless @pids = grep { kill 0, $_ } @pids;
		sleep 0.02;
	}
	$node->start;
	is(workers($node), 0, "kill -9 of the postmaster $when, and it starts again, without a worker");
	return;
}

make_table($node, $rows);
# the verification will be held up between a chunk and its commit
answer($node, "SELECT dw_fault('verify_chunk', 'sleep', delay => '1 min')");
my $writers = start_writers($node, $rows, kinds => [ ('old', 'new') x 8 ]);
begin_cents($node, 'm', rate => 300);
wait_middle($node, 'm');
my $done = answer($node, "SELECT rows_done FROM dw_progress WHERE migration = 'm'");
kill_postmaster('in the backfill');
is(answer($node, "SELECT state, worker_pids, coalesce(rows_per_second, -1) FROM dw_status WHERE migration = 'm'"),
	'no_worker|{}|-1', 'dw_status claims no worker');
is(answer($node, "SELECT pid, state FROM dw_progress WHERE migration = 'm'"), '|no_worker', 'nor does dw_progress');
is(answer($node, 'SELECT dw_ensure_workers()'), 1, 'dw_ensure_workers starts it');
wait_until($node, "SELECT phase <> 'backfilling' OR state IN ('running', 'throttled') FROM dw_status WHERE migration = 'm'");
cmp_ok(answer($node, "SELECT coalesce(max(rows_done) FILTER (WHERE phase = 'backfilling'), 999999) FROM dw_progress WHERE migration = 'm'"), '>=', $done, 'it goes on where it was');

full_speed($node, 'm');
wait_until($node, "SELECT fired = 1 FROM dw_faults WHERE action IS NOT NULL", 'it is verifying');
# the one that dw_set has started goes again; it would otherwise take over for a moment, without a postmaster
wait_until($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'pg_dualwrite worker'");
kill_postmaster('in the verification');
status_is($node, 'm', 'phase || state', 'verifyingno_worker', 'dw_status says so');
wait_ready($node, 'm', test => 'dw_wait brings the worker back');
answer($node, 'SELECT dw_fault_off()');

answer($node, "SELECT dw_switch('m')");
kill_postmaster('after the switch');
is(answer($node, "SELECT phase, authority FROM dw_status WHERE migration = 'm'"), 'switched|new', 'it is switched');
answer($node, 'SELECT dw_ensure_workers()');
wait_until($node, "SELECT verified_at > phase_since FROM dw_status WHERE migration = 'm'", 'verified after the switch');

stop_writers($writers);
compare_writers($writers, 'every acknowledged write is there, and both sides of every row agree');
check_cents($node, 'every row is filled');
status_is($node, 'm', 'drifted + unconvertible', 0, 'nothing was recorded as drift');
check_log($node, 'the log is clean', crash_noise(), qr/pre-existing shared memory block|lock file .* already exists/,
	qr/terminating (?:connection|background worker).* due to|unexpected postmaster exit|could not create .*lock file/);
$node->stop;
done_testing();
