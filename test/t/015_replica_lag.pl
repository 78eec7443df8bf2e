# The throttle and a standby that hangs (its receiver, or its startup process),
# lags on purpose, is stopped, and doesn't come back: the backfill stops,
# says which standby and how far, and goes on by itself or when told to.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use DW;
use PostgreSQL::Test::Utils;
use Test::More;

my $rows = 30000;
my $primary = dw_node('primary', init => { allows_streaming => 1 }, conf => <<'CONF');
max_wal_senders = 5
pg_dualwrite.max_replica_lag = 2s
CONF
$primary->backup('b');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'b', has_streaming => 1);
$standby->start;
make_table($primary, $rows);
$primary->wait_for_catchup($standby);
answer($primary, 'CREATE ROLE someone LOGIN');

my $progress = "FROM dw_progress WHERE migration = 'm'";
my $held = "coalesce((throttled_by ->> 'replica_lag')::numeric, 0)";

# The backfill stands still because of that standby.
sub stands_still
{
	my ($subject, $test) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is_held($primary, 'm', 'replica_lag', $test, "throttle_subject = '$subject' AND throttle_value >= throttle_limit");
}

begin_cents($primary, 'm', rate => 400);
wait_middle($primary, 'm');
is(answer($primary, "SELECT replica_lag -> 0 ->> 'standby', replica_lag -> 0 ->> 'connected', (replica_lag -> 0 ->> 'seconds')::float8 < 1.5 FROM dw_status WHERE migration = 'm'"),
	'standby|true|t', 'dw_status shows the standby and its lag');

# --- hung ---

foreach my $what ('walreceiver', 'startup')
{
	my $pid = answer($standby, "SELECT pid FROM pg_stat_activity WHERE backend_type = '$what'");

	kill 'STOP', $pid;
	my $done = stands_still('standby', "$what frozen");
	is(answer($primary, "SELECT throttle_limit, throttle_value BETWEEN 2 AND 60 $progress"), '2|t', '... with value and limit');
	is(answer($primary, "SELECT state, state_reason ~ '^replica_lag: [0-9.]+, limit 2.0\$' FROM dw_status WHERE migration = 'm'"), 'throttled|t', '... dw_status, too');
	is($primary->safe_psql('postgres', "SELECT throttle_signal, throttle_subject IS NULL, replica_lag IS NULL FROM dw_progress JOIN dw_status USING (migration) WHERE migration = 'm'",
			extra_params => [ '-U', 'someone' ]),
		'replica_lag|t|t', '... but nobody sees of the standby what pg_stat_replication would not show');
	kill 'CONT', $pid;
	is_going($primary, 'm', $done, '... and goes on when it does');
}

# --- gone for a while ---

$standby->stop;
my $done = stands_still('standby (gone)', 'standby stopped');
is(answer($primary, "SELECT replica_lag -> 0 ->> 'connected' FROM dw_status WHERE migration = 'm'"), 'false', '... dw_status says it is gone');

# a worker that has never seen it knows of it
answer($primary, "SELECT pg_terminate_backend(" . worker_pid($primary, 'm') . ')');
$done = stands_still('standby (gone)', 'with a new worker');
$standby->start;
is_going($primary, 'm', $done, '... and goes on when it is back');

# --- lagging on purpose ---

$standby->append_conf('postgresql.conf', "recovery_min_apply_delay = '15s'");
$standby->reload;
$done = stands_still('standby', 'standby lags');
answer($primary, q(SELECT dw_set('m', '{"max_replica_lag": 0}')));
is_going($primary, 'm', $done, 'max_replica_lag 0: lag is not watched');
is(answer($primary, "SELECT replica_lag IS NULL FROM dw_status WHERE migration = 'm'"), 't', '... nor shown');
$standby->append_conf('postgresql.conf', "recovery_min_apply_delay = 0");
$standby->reload;
$primary->wait_for_catchup($standby);
answer($primary, q(SELECT dw_set('m', '{"max_replica_lag": "3s"}')));
wait_until($primary, "SELECT replica_lag IS NOT NULL FROM dw_status WHERE migration = 'm'", 'watched again');

# --- gone for good ---

$standby->stop('immediate');
$done = stands_still('standby (gone)', 'standby gone for good');
like(answer($primary, "SELECT dw_resume('m')"), qr/was not paused/, 'dw_resume lets go of it');
is_going($primary, 'm', $done, '... and the backfill goes on');

my $most = answer($primary, "SELECT throttled_seconds >= $held AND $held > 12 $progress");
is($most, 't', 'what lag has cost adds up');
full_speed($primary, 'm');
wait_ready($primary, 'm');
check_cents($primary, 'every row is filled');
is(answer($primary, 'SELECT count(*), sum(amount) FROM t'), "$rows|" . $rows * ($rows + 1) / 2, 'no row came or went');
check_log($primary, 'the log is clean', qr/terminating background worker|terminating walsender|replication terminated|connection to standby/);
$primary->stop;
done_testing();
