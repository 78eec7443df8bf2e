# A streaming standby: what works there, what is refused, and what becomes of a
# migration when the standby is promoted in the middle of its backfill.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use DW;
use PostgreSQL::Test::Utils;
use Test::More;

my $rows = 4000;
my $primary = dw_node('primary', init => { allows_streaming => 1 }, conf => <<'CONF');
synchronous_commit = remote_apply
max_wal_senders = 5
CONF
$primary->backup('b');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'b', has_streaming => 1);
$standby->start;

# nothing that is acknowledged may be missing after the promotion
$primary->append_conf('postgresql.conf', "synchronous_standby_names = '*'");
$primary->reload;

make_table($primary, $rows);

# clients that go where they can write
my $connstr = sprintf 'host=%s,%s port=%d,%d dbname=postgres target_session_attrs=read-write',
  $primary->host, $standby->host, $primary->port, $standby->port;
my $writers = start_writers($primary, $rows, connstr => $connstr);
begin_cents($primary, 'm', rate => 200);
wait_middle($primary, 'm');
$primary->wait_for_catchup($standby);

# --- reading works ---

is(answer($standby, "SELECT dw_side('m')"), 'old', 'dw_side');
is(answer($standby, "SET pg_dualwrite.side = new; SELECT dw_side('m')"), 'new', 'dw_side of a session that has chosen');
status_is($standby, 'm', 'phase', 'backfilling', 'dw_status');
wait_until($standby, <<SQL, '... does not claim a worker of its own, and says what the primary reported');
SELECT state IN ('running', 'throttled') AND state_reason ~ 'its worker is on the primary\$' AND worker_pids = '{}' AND blockers = '{}'
  FROM dw_status WHERE migration = 'm'
SQL
is(answer($standby, "SELECT pid IS NULL AND state IN ('running', 'throttled') AND blocked_by = '{}' FROM dw_progress"), 't', '... nor does dw_progress');
is(answer($standby, 'SELECT count(*) FROM dw_faults WHERE action IS NOT NULL'), 0, 'dw_faults');
is(answer($standby, "SELECT count(*) FROM dw_progress WHERE blocks_done < blocks_total"), 1, 'dw_progress');
is(answer($standby, "SELECT event FROM dw_events WHERE migration = 'm' ORDER BY at LIMIT 1"), 'begin', 'dw_events');
is(answer($standby, "SELECT count(*) FROM dw_drift"), 0, 'dw_drift');
is(answer($standby, "SELECT setting FROM dw_options WHERE migration = 'm' AND name = 'max_rows_per_second'"), 200, 'dw_options');
like(sql_ok($standby, "SELECT dw_require('m', 'backfilling')", 'dw_require'), qr/is backfilling/, '... says the phase');
sql_fails($standby, "SELECT dw_require('m')", '55000', qr/is backfilling, not yet ready/, '... and raises');
sql_fails($standby, "CALL dw_wait('m', 'ready', '0.2 s')", '57014', qr/did not become ready in time/, 'dw_wait waits');
sql_ok($standby, "CALL dw_wait('m', 'backfilling', '10 s')", '... and returns');
is(workers($standby), 0, 'no worker runs on a standby');

# --- writing does not ---

foreach my $verb (
	"dw_begin('x', 't', 'amount', 'bigint', 'y')",
	"dw_begin_mapping('x', 't', '{amount}', '{\"y\": \"amount\"}', NULL, '{\"y\": \"int\"}')",
	"dw_pause('m')",
	"dw_resume('m')",
	"dw_set('m', '{\"batch_time\": 1}')",
	"dw_set('m', '{\"mirror\": \"off\"}')",
	"dw_verify('m')",
	"dw_switch('m')",
	"dw_rollback('m')",
	"dw_finalize('m')",
	"dw_abort('m')",
	"dw_fault('mirror_before')",
	"dw_fault_off()",
	"dw_ensure_workers()")
{
	sql_fails($standby, "SELECT $verb", '25006', qr/cannot execute/, "$verb is refused");
}
sql_fails($standby, "CALL dw_reconcile('m')", '25006', qr/cannot execute/, 'dw_reconcile is refused');
answer($primary, "SELECT dw_pause('m', 'for a look')");
$primary->wait_for_catchup($standby);
is(answer($standby, "SELECT state, state_reason, next_step FROM dw_status WHERE migration = 'm'"),
	"paused|for a look|-- on the primary: SELECT dw_resume('m'); -- it is paused", 'what to do next is for the primary');
answer($primary, "SELECT dw_resume('m')");
wait_until($standby, "SELECT state IN ('running', 'throttled') FROM dw_status WHERE migration = 'm'");

# --- promotion in the middle of the backfill ---

my $done = answer($standby, "SELECT rows_done FROM dw_progress WHERE migration = 'm'");
my $left = answer($standby, 'SELECT count(*) FROM t WHERE cents IS NULL AND id <= ' . $rows);
cmp_ok($left, '>', 0, 'the standby is in the middle');
$primary->stop('immediate');
$standby->promote;
is(workers($standby), 0, 'nobody resumes it without preload');
status_is($standby, 'm', 'state', 'no_worker', '... which dw_status says');
is(answer($standby, 'SELECT dw_ensure_workers()'), 1, 'dw_ensure_workers on the new primary');
wait_middle($standby, 'm');
cmp_ok(answer($standby, "SELECT rows_done FROM dw_progress WHERE migration = 'm'"), '>=', $done, 'it goes on where it was');
full_speed($standby, 'm');
wait_ready($standby, 'm', test => 'it becomes ready on the new primary');
answer($standby, "SELECT dw_switch('m')");
is(answer($standby, "SELECT dw_side('m')"), 'new', 'switched on the new primary');
wait_until($standby, "SELECT verified_at > phase_since FROM dw_status WHERE migration = 'm'", 'verified after the switch');
stop_writers($writers);
compare_writers($writers, 'no write that either primary acknowledged is missing', node => $standby);
answer($standby, "SELECT dw_finalize('m')");

# --- with preload a promoted standby goes on by itself ---

make_table($standby, $rows, table => 'u');
begin_cents($standby, 'n', table => 'u', rate => 1000);
wait_middle($standby, 'n');
$standby->backup('b');
my $third = PostgreSQL::Test::Cluster->new('third');
$third->init_from_backup($standby, 'b', has_streaming => 1);
$third->append_conf('postgresql.conf', "shared_preload_libraries = 'pg_dualwrite'");
$third->start;
$standby->wait_for_catchup($third);
is(workers($third), 0, 'no worker runs on a standby, preloaded or not');
$standby->stop('immediate');
$third->promote;
wait_until($third, "SELECT phase = 'ready' FROM dw_status WHERE migration = 'n'", 'with preload it goes on by itself after the promotion');
check_cents($third, 'every row is filled', table => 'u');
is(answer($third, 'SELECT count(*), sum(amount) FROM u'), "$rows|" . $rows * ($rows + 1) / 2, 'no row came or went');

check_log($standby, 'the log of the standby is clean', qr/cannot execute|not yet ready|did not become ready/,
	qr/could not (?:send|receive|connect)|replication terminated|terminating walreceiver/,
	qr/streaming replication|the database system is/);
check_log($third, '... and of the next one',
	qr/could not (?:send|receive|connect)|replication terminated|terminating walreceiver|streaming replication|the database system is/);
$third->stop;
done_testing();
