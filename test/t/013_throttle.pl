# The pace of the backfill: limits hold, batches are short, and dw_progress says
# what rules.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use DW;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes 'time';

my $node = dw_node('throttle');
my $rows = 20000;
my $rate = "SELECT rows_done, extract(epoch FROM clock_timestamp()) FROM dw_progress WHERE migration = '%s'";

# Rows a second over some seconds, by what has been committed.
sub measure
{
	my ($m, $rows_more) = @_;
	my ($n0, $t0) = split /\|/, answer($node, sprintf $rate, $m);

	wait_until($node, "SELECT rows_done >= $n0 + $rows_more FROM dw_progress WHERE migration = '$m'");
	my ($n1, $t1) = split /\|/, answer($node, sprintf $rate, $m);
	return ($n1 - $n0) / ($t1 - $t0);
}

make_table($node, $rows);
begin_cents($node, 'm', rate => 400);
wait_middle($node, 'm');
my $got = measure('m', 800);
note("limit 400: $got rows/s");

# Never above the limit but for what a second of rest had saved up; below it
# only on a machine that is too slow.
cmp_ok($got, '<', 400 * 1.25 + 50, 'the limit holds');
cmp_ok($got, '>', 400 * 0.5, '... and is made use of');

# where the machine is slow for a moment, that rules
wait_until($node, "SELECT state = 'throttled' FROM dw_progress WHERE migration = 'm'");
is(answer($node, "SELECT throttle_signal, throttle_limit, throttle_value < 600 FROM dw_progress WHERE migration = 'm' AND state = 'throttled'"),
	'max_rows_per_second|400|t', 'dw_progress says what rules, and what its value is');
cmp_ok(answer($node, "SELECT throttled_seconds FROM dw_progress WHERE migration = 'm'"), '>', 1, '... and what it has cost');
wait_until($node, "SELECT state = 'throttled' AND state_reason ~ '^max_rows_per_second: [0-9.]+, limit 400.0\$' FROM dw_status WHERE migration = 'm'", 'dw_status too');

# changed while it runs, in either direction
answer($node, q(SELECT dw_set('m', '{"max_rows_per_second": 2000}')));
$got = measure('m', 3000);
note("limit 2000: $got rows/s");
cmp_ok($got, '<', 2000 * 1.25 + 200, 'a higher limit holds');
cmp_ok($got, '>', 450, '... and is higher');
wait_until($node, "SELECT blocks_done > 0 FROM dw_progress WHERE migration = 'm'");
is(answer($node, "SELECT rows_per_second BETWEEN 500 AND 4000 AND time_left > '1 s' AND percent_done BETWEEN 1 AND 90 FROM dw_status WHERE migration = 'm'"),
	't', '... with rate, time left and percent');
like(answer($node, "SELECT bar FROM dw_status WHERE migration = 'm'"), qr/^\[#*\.+\]$/, '... drawn');
answer($node, q(SELECT dw_set('m', '{"max_rows_per_second": 100}')));
$got = measure('m', 100);
cmp_ok($got, '<', 100 * 1.25 + 150, 'a lower limit holds');

# Writers are not limited: they find short transactions.
my $t0 = time;
answer($node, 'UPDATE t SET amount = amount + 1');
note(sprintf 'updated all rows beside it in %.1f s', time - $t0);
check_cents($node, 'every row written meanwhile is filled');

# pausing a throttled worker, which is asleep
answer($node, q(SELECT dw_set('m', '{"max_rows_per_second": 1}')));
$t0 = time;
answer($node, "SELECT dw_pause('m')");
wait_until($node, "SELECT coalesce(cardinality(worker_pids), 0) = 0 OR NOT EXISTS (SELECT FROM dualwrite.worker k WHERE k.state = 'throttled') FROM dw_status WHERE migration = 'm'");
cmp_ok(time - $t0, '<', 10, 'a worker that rests notices a pause');
answer($node, "SELECT dw_resume('m')");
full_speed($node, 'm');
wait_ready($node, 'm');
check_cents($node, 'every row is filled');
answer($node, "SELECT dw_abort('m')");

# --- batch_time ---

make_table($node, $rows, table => 'u');
$node->safe_psql('postgres', 'CREATE TABLE seen (batch_ms float8)');
$node->safe_psql('postgres',
	q(SELECT dw_begin('b', 'u', 'amount', 'bigint', 'cents', 'amount * 100::bigint', 'cents / 100', '{"batch_time": "5ms", "max_rows_per_second": 10000}')));
is(answer($node, q(SELECT setting, unit, source FROM dw_options WHERE migration = 'b' AND name = 'batch_time')), '5ms|ms|migration', 'batch_time with a unit');
wait_until($node, <<'SQL');
WITH s AS (INSERT INTO seen SELECT batch_ms FROM dw_progress WHERE migration = 'b' AND batch_ms > 0 RETURNING 1)
SELECT phase <> 'backfilling' FROM dw_status WHERE migration = 'b'
SQL
wait_ready($node, 'b');
check_cents($node, 'every row is filled', table => 'u');

# The median: one batch may be held up by anything.
cmp_ok(answer($node, 'SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY batch_ms) FROM seen'), '<', 50, 'batches stay short');

# --- the same from the settings ---

$node->append_conf('postgresql.conf', 'pg_dualwrite.max_rows_per_second = 300');
$node->reload;
make_table($node, 3000, table => 'v');
begin_cents($node, 's', table => 'v');
wait_middle($node, 's');
$got = measure('s', 600);
cmp_ok($got, '<', 300 * 1.25 + 50, 'the limit of the settings holds');
is(answer($node, q(SELECT setting, source FROM dw_options WHERE migration = 's' AND name = 'max_rows_per_second')),
	'300|pg_dualwrite.max_rows_per_second', '... and dw_options says where it comes from');
answer($node, q(SELECT dw_set('s', '{"max_rows_per_second": 0}')));
wait_ready($node, 's', test => '0 is no limit, whatever the settings say');
check_cents($node, 'every row is filled', table => 'v');

# --- a query that gives NaN, which is neither above nor below a limit ---

make_table($node, 3000, table => 'w');
$node->safe_psql('postgres',
	q(SELECT dw_begin('n', 'w', 'amount', 'bigint', 'cents', 'amount * 100::bigint', 'cents / 100', '{"throttle_query": "SELECT ''NaN''::float8", "max_rows_per_second": 20}')));
wait_until($node, "SELECT throttle_signal = 'throttle_query' AND throttle_subject ~ 'NaN' FROM dw_progress WHERE migration = 'n'", 'it is a query that gives no answer');
answer($node, q(SELECT dw_set('n', '{"throttle_query": null, "max_rows_per_second": 0}')));
wait_ready($node, 'n', test => '... and without it the backfill goes on');
check_cents($node, 'every row is filled', table => 'w');
check_log($node, 'the log is clean');
$node->stop;
done_testing();
