# The server stops at once in the middle of a backfill and starts again.
# Without preload somebody has to ask for the workers; with it they come by
# themselves, in every database.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use DW;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = dw_node('restart');
my $rows = 4000;
my $none = "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'pg_dualwrite worker'";

sub crash_and_start
{
	$node->stop('immediate');
	$node->start;
	return;
}

# --- without preload ---

make_table($node, $rows);
my $writers = start_writers($node, $rows);
begin_cents($node, 'm', rate => 250);
wait_middle($node, 'm');
crash_and_start();
is(workers($node), 0, 'without preload no worker comes by itself');
status_is($node, 'm', 'state', 'no_worker', '... and dw_status says so');
like(answer($node, "SELECT next_step FROM dw_status WHERE migration = 'm'"),
	qr/dw_ensure_workers/, '... and what to do');

# the mirror needs no worker
answer($node, 'INSERT INTO t (id, amount) VALUES (-1, 7), (-2, 8)');
answer($node, 'UPDATE t SET cents = 900 WHERE id = -2');
is(answer($node, 'SELECT id, amount, cents FROM t WHERE id < 0 ORDER BY id'), "-2|9|900\n-1|7|700", 'the mirror works');
answer($node, 'DELETE FROM t WHERE id < 0');

my $done = answer($node, "SELECT blocks_done FROM dw_progress WHERE migration = 'm'");
is(answer($node, 'SELECT dw_ensure_workers()'), 1, 'dw_ensure_workers starts it');
my $pid = worker_pid($node, 'm');
is(answer($node, 'SELECT dw_ensure_workers()'), 0, '... once');
cmp_ok(answer($node, "SELECT coalesce(max(blocks_done), 999999) FROM dw_progress WHERE migration = 'm'"),
	'>=', $done, 'it goes on where it was');
wait_middle($node, 'm');

# and again; this time dw_wait brings it back
crash_and_start();
full_speed($node, 'm');
wait_ready($node, 'm', test => 'dw_wait brings the worker back');
stop_writers($writers);
compare_writers($writers, 'every acknowledged write is there, and both sides of every row agree');
answer($node, "SELECT dw_abort('m', accept_loss => true)");
wait_until($node, $none);

# paused stays paused over a restart, and needs no worker
begin_cents($node, 'paused', rate => 500);
wait_middle($node, 'paused');
answer($node, "SELECT dw_pause('paused', 'maintenance')");
crash_and_start();
is(answer($node, 'SELECT dw_ensure_workers()'), 0, 'a paused migration gets no worker');
status_is($node, 'paused', 'state_reason', 'maintenance', 'it is paused still');

# --- with preload ---

$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('postgres', 'CREATE DATABASE without');
$node->safe_psql('other', 'CREATE EXTENSION pg_dualwrite');
make_table($node, $rows, db => 'other');
make_table($node, $rows, db => 'other', table => 'u');
begin_cents($node, 'o', db => 'other', rate => 500);
begin_cents($node, 'p', db => 'other', rate => 500, table => 'u');
wait_middle($node, 'o', 'other');
wait_middle($node, 'p', 'other');
answer($node, "SELECT dw_resume('paused')");
wait_middle($node, 'paused');
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'pg_dualwrite'");
crash_and_start();
wait_until($node, "SELECT cardinality(worker_pids) = 1 FROM dw_status WHERE migration = 'paused'",
	'with preload a worker comes by itself');
wait_until($node, "SELECT count(*) > 0 FROM dw_status WHERE migration IN ('o', 'p') AND cardinality(worker_pids) = 1",
	'... in another database, too', 'other');
full_speed($node, 'paused');
full_speed($node, 'o', 'other');
full_speed($node, 'p', 'other');
wait_until($node, "SELECT phase = 'ready' FROM dw_status WHERE migration = 'paused'", 'it ends, and nobody has asked for it');
wait_until($node, "SELECT count(*) = 2 FROM dw_status WHERE migration IN ('o', 'p') AND phase = 'ready'",
	'... likewise two in the other database', 'other');
check_cents($node, 'every row is filled');
check_cents($node, 'every row is filled in the other database', db => 'other');
check_cents($node, 'every row of the other table is filled', db => 'other', table => 'u');
wait_until($node, $none, 'all workers go when there is nothing left to do');
is(answer($node, "SELECT string_agg(backend_type, ' ') FROM pg_stat_activity WHERE backend_type ~ 'pg_dualwrite' AND backend_type <> 'pg_dualwrite worker'"),
	'pg_dualwrite launcher', 'of the extension the launcher stays');

# a clean restart with nothing to do
$node->restart;
answer($node, 'SELECT 1');
wait_until($node, $none, 'after a restart with nothing to do no worker stays');
check_log($node, 'the log is clean',
	qr/terminating connection because of|the database system is (?:in recovery mode|starting up|shutting down|not yet accepting connections)/,
	qr/terminating (?:background worker "pg_dualwrite|connection due to administrator)/);
$node->stop;
done_testing();
