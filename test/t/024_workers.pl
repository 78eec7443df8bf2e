# Several workers on one migration: each has parts of its own, one that goes is
# replaced, a crash of one ends all and costs nothing, and every row is right.
# And what the backfill does about a snapshot that keeps dead rows alive.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use DW;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = dw_node('workers', conf => "pg_dualwrite.horizon_wait = 1h\n");
my $rows = 100000;              # three parts, at 34 rows a page

# Waits until something has been done in so many parts.
sub wait_parts
{
	my ($n, $test) = @_;
	wait_until($node, "SELECT count(*) FILTER (WHERE rows_done > 0) >= $n FROM dualwrite.progress WHERE pass = 'fill'", $test);
	return;
}

make_table($node, $rows);
$node->safe_psql('postgres', 'ALTER TABLE t ADD COLUMN seen int');
my $writers = start_writers($node, $rows, kinds => [ 'old', 'new' ]);
$node->safe_psql('postgres', <<SQL);
SELECT dw_begin('m', 't', 'amount', 'bigint', 'cents', 'amount * 100::bigint', 'cents / 100', '{"workers": 3, "max_rows_per_second": 6000}')
SQL
wait_until($node, "SELECT cardinality(worker_pids) = 3 FROM dw_status WHERE migration = 'm'", 'three workers are at work');
wait_parts(3, 'each on a part of its own');
# more, where a worker came to be without work meanwhile
cmp_ok(answer($node, "SELECT count(*) FROM dualwrite.progress WHERE pass = 'fill'"), '>=', 3, 'the table has three parts');
is(answer($node, "SELECT blocks_total > 2500 FROM dw_progress WHERE migration = 'm'"), 't', 'dw_progress adds them up');

# a helper that goes is replaced; so is the worker itself
foreach my $which (3, 1)
{
	my $pid = answer($node, "SELECT worker_pids[$which] FROM dw_status WHERE migration = 'm'");
	answer($node, "SELECT pg_terminate_backend($pid)");
	wait_until($node, "SELECT cardinality(worker_pids) = 3 AND NOT $pid = ANY (worker_pids) FROM dw_status WHERE migration = 'm'",
		"worker $which is replaced");
}


my $victim = answer($node, "SELECT worker_pids[2] FROM dw_status WHERE migration = 'm'");
crash($node, $victim, 'the server is back after the crash of a helper');
wait_until($node, "SELECT cardinality(worker_pids) >= 2 OR phase = 'ready' FROM dw_status WHERE migration = 'm'", 'the workers are back, too');
full_speed($node, 'm');
wait_ready($node, 'm', test => 'it becomes ready');
stop_writers($writers);
compare_writers($writers, 'every acknowledged write is there, and both sides of every row agree');
is(answer($node, 'SELECT count(*) FROM t WHERE cents IS NULL AND amount IS NOT NULL'), 0, 'no row is left out');
is(answer($node, "SELECT bool_and(finished) FROM dualwrite.progress WHERE pass = 'fill'"), 't', 'every part is finished');
is(answer($node, 'SELECT count(*) FROM dualwrite.skipped'), 0, 'no block is left over');
status_is($node, 'm', 'drifted + unconvertible', 0, 'nothing was recorded as drift');
answer($node, "SELECT dw_abort('m')");

# Verification by several, while rows move and one of the helpers goes.  Rows all
# over the table went past the mirror: each is found, and no other.
$node->safe_psql('postgres', <<SQL);
SELECT dw_begin('v', 't', 'amount', 'bigint', 'cents', 'amount * 100::bigint', 'cents / 100', '{"workers": 3, "max_rows_per_second": 100}')
SQL
my $mirror = answer($node, "SELECT string_agg(quote_ident(tgname), ',') FROM pg_trigger WHERE tgrelid = 't'::regclass AND NOT tgisinternal");
my $planted = 'id > 3000 AND id <= 100000 AND id % 1000 = 0';
$node->safe_psql('postgres', join ";\n", 'BEGIN', (map { "ALTER TABLE t DISABLE TRIGGER $_" } split /,/, $mirror),
	"UPDATE t SET cents = amount * 100::bigint + 700 WHERE $planted",
	(map { "ALTER TABLE t ENABLE ALWAYS TRIGGER $_" } split /,/, $mirror), 'COMMIT');
my $expected = answer($node, "SELECT string_agg(id::text, ' ' ORDER BY id) FROM t WHERE $planted");
cmp_ok(answer($node, "SELECT count(DISTINCT ((ctid::text::point)[0] / 1024)::int) FROM t WHERE $planted"), '>=', 3, 'rows are planted all over the table');
answer($node, "SELECT dw_fault('verify_chunk', 'sleep', times => NULL, delay => '2 s')");
$writers = start_writers($node, 3 * $rows, touch => 2000, kinds => [ 'old', 'new' ]);
full_speed($node, 'v');
wait_ready($node, 'v', phase => 'verifying');
wait_until($node, "SELECT cardinality(worker_pids) = 3 FROM dw_status WHERE migration = 'v' AND phase = 'verifying'", 'three workers verify');
cmp_ok(answer($node, "SELECT count(*) FROM dualwrite.progress WHERE pass = 'verify'"), '>=', 3, '... in three parts or more');
answer($node, "SELECT pg_terminate_backend(worker_pids[3]) FROM dw_status WHERE migration = 'v'");
wait_until($node, "SELECT state = 'failed' FROM dw_status WHERE migration = 'v'", 'it ends, also without one of them');
answer($node, 'SELECT dw_fault_off()');
is(answer($node, "SELECT string_agg(key ->> 'id', ' ' ORDER BY (key ->> 'id')::int) FROM dw_drift WHERE migration = 'v' AND repaired_at IS NULL"),
	$expected, 'every planted row is found, and no other');
is(answer($node, "SELECT rows_done >= $rows - 2000 AND blocks_done = blocks_total FROM dw_progress WHERE migration = 'v'"), 't', 'every row was looked at');
stop_writers($writers);
is(answer($node, "SELECT string_agg(id::text, ' ' ORDER BY id) FROM t WHERE cents IS DISTINCT FROM amount * 100::bigint"), $expected, '... as plain SQL finds them');
$node->safe_psql('postgres', "CALL dw_reconcile('v')");
check_cents($node, 'dw_reconcile mends them');
answer($node, "SELECT dw_abort('v')");

# Somebody's snapshot: it says whose, waits, and the table doesn't double.
$node->safe_psql('postgres', 'VACUUM FULL t');
my $holder = $node->background_psql('postgres');
$holder->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
my $pid = $holder->query_safe('SELECT pg_backend_pid()');
my $size = answer($node, "SELECT pg_relation_size('t')");
begin_cents($node, 'h');
wait_until($node, "SELECT throttle_signal = 'xmin_horizon' FROM dw_progress WHERE migration = 'h'", 'dead rows that stay are noticed');
is(answer($node, "SELECT throttle_subject FROM dw_progress WHERE migration = 'h'"), "pid $pid", '... and because of whom');
is(answer($node, "SELECT $pid = ANY (blocked_by) FROM dw_progress WHERE migration = 'h'"), 't', '... as a blocker');
status_is($node, 'h', 'state', 'waiting', '... and dw_status says that it waits');
cmp_ok(answer($node, "SELECT pg_relation_size('t')"), '<', $size * 1.2, 'it waits rather than let the table grow');
$holder->query_safe('COMMIT');
wait_ready($node, 'h', test => 'it goes on when the snapshot is gone');
cmp_ok(answer($node, "SELECT pg_relation_size('t')"), '<', $size * 1.25, 'the table has hardly grown');
check_cents($node, 'every row is filled');
answer($node, "SELECT dw_abort('h')");

# Wide rows leave a page with room that is too small for another, and too large
# for PostgreSQL to prune the page by itself.
$node->safe_psql('postgres', <<'SQL');
CREATE TABLE wide (id int PRIMARY KEY, amount int, filler text);
ALTER TABLE wide ALTER filler SET STORAGE PLAIN;
INSERT INTO wide SELECT i, i, repeat('x', 1150 + i % 150) FROM generate_series(1, 20000) i;
SELECT dw_begin('w', 'wide', 'amount', 'bigint', 'cents', 'amount * 100::bigint', 'cents / 100');
SQL
$size = answer($node, "SELECT pg_relation_size('wide')");
my $index_size = answer($node, "SELECT pg_relation_size('wide_pkey')");
wait_ready($node, 'w', test => 'wide rows are not taken for rows that somebody still sees');
is(answer($node, 'SELECT count(*) FROM wide WHERE cents IS DISTINCT FROM amount * 100::bigint'), 0, '... and filled');
cmp_ok(answer($node, "SELECT pg_relation_size('wide')"), '<', $size * 1.1, '... in their place');
cmp_ok(answer($node, "SELECT pg_relation_size('wide_pkey')"), '<', $index_size * 1.3, '... without an index that doubles');
answer($node, "SELECT dw_abort('w')");

# A table that is emptied while the worker rests: what it wants to tell the
# index about is gone, with the blocks.
$node->safe_psql('postgres', <<'SQL');
CREATE TABLE stop ();
CREATE TABLE gone (id int PRIMARY KEY, amount int, filler text);
ALTER TABLE gone ALTER filler SET STORAGE PLAIN;
INSERT INTO gone SELECT i, i, repeat('x', 1150 + i % 150) FROM generate_series(1, 2000) i;
SELECT dw_begin('g', 'gone', 'amount', 'bigint', 'cents', 'amount * 100::bigint', 'cents / 100',
	'{"max_rows_per_second": 60, "throttle_query": "SELECT EXISTS (SELECT FROM public.stop)"}');
SQL
wait_until($node, "SELECT rows_done > 0 FROM dw_progress WHERE migration = 'g'", 'some rows have moved');
answer($node, 'INSERT INTO stop DEFAULT VALUES');
wait_until($node, "SELECT state = 'throttled' AND state_reason ~ 'throttle_query' FROM dw_status WHERE migration = 'g'", 'the worker waits');
answer($node, 'DELETE FROM gone; VACUUM gone');
is(answer($node, "SELECT pg_relation_size('gone')"), 0, '... the table is emptied');
answer($node, 'DELETE FROM stop');
wait_ready($node, 'g', test => '... and the worker gets over it');
answer($node, "SELECT dw_abort('g')");

# ... but not for ever
$node->safe_psql('postgres', 'VACUUM FULL t');
$node->safe_psql('postgres', $_) foreach ("ALTER SYSTEM SET pg_dualwrite.horizon_wait = '2s'", 'SELECT pg_reload_conf()');
$holder->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
$holder->query_safe('SELECT 1');
begin_cents($node, 'p');
wait_ready($node, 'p', phase => 'verifying', test => 'after horizon_wait it goes on all the same');
check_cents($node, 'every row is filled, again');
$holder->query_safe('COMMIT');
$holder->quit;

check_log($node, 'the log speaks of what was done to the workers only',
	qr/terminating connection because of crash of another server process/,
	qr/the database system is (?:in recovery mode|starting up|shutting down|not yet accepting connections)/,
	qr/terminating background worker "pg_dualwrite worker" due to administrator command/);
$node->stop;
done_testing();
