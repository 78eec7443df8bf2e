# Failover there and back, while both versions of the application write: the
# primary is killed, the standby promoted, the old primary rejoins by pg_rewind,
# and takes over again when the new one is killed.  The first time somebody has
# to ask for the worker, the second time the library is preloaded.  The state
# never says that somebody is at work who isn't, the work goes on where it was,
# and nothing that was acknowledged is lost.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use DW;
use PostgreSQL::Test::Utils;
use Test::More;

my $rows = 8000;
my $one = dw_node('one', init => { allows_streaming => 1 }, conf => <<'CONF');
wal_log_hints = on
max_wal_senders = 5
wal_keep_size = 200MB
CONF
$one->backup('b');
my $two = PostgreSQL::Test::Cluster->new('two');
$two->init_from_backup($one, 'b', has_streaming => 1);
$two->start;
make_table($one, $rows);

# what is acknowledged is on both
sub synchronous
{
	my ($node, $names) = @_;

	$node->safe_psql('postgres', "ALTER SYSTEM SET synchronous_standby_names = '$names'");
	$node->reload;
	return;
}

# Off before the promotion, because nobody would confirm a write; by the file, as a standby can't.
sub synchronous_off
{
	my ($node) = @_;

	$node->append_conf('postgresql.auto.conf', "synchronous_standby_names = ''");
	$node->reload;
	return;
}

synchronous($one, '*');
my $connstr = sprintf 'host=%s,%s port=%d,%d dbname=postgres target_session_attrs=read-write',
  $one->host, $two->host, $one->port, $two->port;
my $writers = start_writers($one, $rows, touch => 2000, connstr => $connstr);
begin_cents($one, 'm', rate => 30);
wait_middle($one, 'm');

# --- there, without preload ---

$one->wait_for_catchup($two);
my $done = answer($two, "SELECT rows_done FROM dw_progress WHERE migration = 'm'");
$one->stop('immediate');
is(answer($two, "SELECT worker_pids FROM dw_status WHERE migration = 'm'"), '{}', 'the standby claims no worker');
synchronous_off($two);
is(answer($two, 'SELECT pg_promote()'), 't', 'pg_promote');
is(answer($two, "SELECT phase, state, worker_pids, blockers, rows_per_second IS NULL FROM dw_status WHERE migration = 'm'"),
	'backfilling|no_worker|{}|{}|t', 'the new primary says that nobody is at work');
is(answer($two, "SELECT pid IS NULL, state FROM dw_progress WHERE migration = 'm'"), 't|no_worker', '... dw_progress, too');
like(answer($two, "SELECT next_step FROM dw_status WHERE migration = 'm'"), qr/^SELECT dw_ensure_workers\(\);/, '... and what to do');
is(answer($two, 'SELECT dw_ensure_workers()'), 1, 'done');
wait_until($two, "SELECT state IN ('running', 'throttled') AND cardinality(worker_pids) = 1 FROM dw_status WHERE migration = 'm'", 'somebody is at work');
cmp_ok(answer($two, "SELECT rows_done FROM dw_progress WHERE migration = 'm'"), '>=', $done, '... and goes on where the old one was');

# --- the old primary rejoins ---

# pg_rewind looks for the new timeline in the control file
answer($two, 'CHECKPOINT');
my $conf = slurp_file($one->data_dir . '/postgresql.conf');
command_ok([ 'pg_rewind', '-D', $one->data_dir, '--source-server', $two->connstr('postgres') ], 'pg_rewind of the old primary');
unlink $one->data_dir . '/postgresql.conf', $one->data_dir . '/postgresql.auto.conf';
append_to_file($one->data_dir . '/postgresql.conf', $conf);
append_to_file($one->data_dir . '/postgresql.auto.conf', '');
chmod 0600, $one->data_dir . '/postgresql.conf', $one->data_dir . '/postgresql.auto.conf';
$one->append_conf('postgresql.conf', "shared_preload_libraries = 'pg_dualwrite'\nrecovery_target_timeline = 'latest'");
$one->enable_streaming($two);
$one->start;
$two->wait_for_catchup($one);
synchronous($two, '*');
is(workers($one), 0, 'it is a standby, and no worker runs there, preloaded or not');
is(answer($one, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_dualwrite launcher'"), 0, '... nor the launcher');
wait_until($one, <<SQL, '... which dw_status shows');
SELECT state IN ('running', 'throttled') AND state_reason ~ 'its worker is on the primary\$' AND worker_pids = '{}' FROM dw_status WHERE migration = 'm'
SQL
sql_fails($one, "SELECT dw_switch('m')", '25006', qr/cannot execute/, 'it refuses verbs');

# --- and back, with preload ---

$done = answer($one, "SELECT rows_done FROM dw_progress WHERE migration = 'm'");
status_is($one, 'm', 'phase', 'backfilling', 'still in the middle');
$two->stop('immediate');
synchronous_off($one);
is(answer($one, 'SELECT pg_promote()'), 't', 'pg_promote');
wait_until($one, "SELECT cardinality(worker_pids) = 1 OR phase <> 'backfilling' FROM dw_status WHERE migration = 'm'", 'with preload the worker comes by itself');
cmp_ok(answer($one, "SELECT coalesce(max(rows_done) FILTER (WHERE phase = 'backfilling'), 999999) FROM dw_progress WHERE migration = 'm'"), '>=', $done, '... and goes on where the old one was');
full_speed($one, 'm');
wait_ready($one, 'm', test => 'it becomes ready');
sql_ok($one, "SELECT dw_switch('m')", 'it is switched');
wait_until($one, "SELECT verified_at > phase_since FROM dw_status WHERE migration = 'm'", '... and verified');
stop_writers($writers);
compare_writers($writers, 'no write that any primary acknowledged is missing', node => $one);
check_cents($one, 'every row is filled');
status_is($one, 'm', 'drifted + unconvertible', 0, 'nothing was recorded as drift');
check_log($_, 'the log of ' . $_->name . ' is clean', qr/cannot execute/, crash_noise(),
	qr/could not (?:send|receive|connect)|replication terminated|terminating walreceiver|streaming replication|the database system is/,
	qr/canceling wait for synchronous replication|terminating connection due to/) foreach $one, $two;
$one->stop;
done_testing();
