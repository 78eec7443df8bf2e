# How many workers anybody can start, and a worker that meets another migration
# under the number of the one that it was started for.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use DW;
use Test::More;

my $node = dw_node('burst', conf => "pg_dualwrite.max_workers = 2\n");
my $processes = q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_dualwrite worker');

sub slow
{
	my ($m, $table) = @_;
	return begin_sql($m, table => $table, rate => 1);
}

answer($node, 'CREATE ROLE nobody LOGIN; CREATE ROLE somebody LOGIN; GRANT CREATE ON SCHEMA public TO somebody');
make_table($node, 200, table => "t$_") for 1 .. 6;

# --- anybody, as often as they like ---

answer($node, slow('m1', 't1'));
$node->restart;
is(sql_ok($node, 'SELECT sum(dw_ensure_workers()) FROM generate_series(1, 300)', 'a loop without a transaction id', user => 'nobody'),
	1, '... starts one worker for a migration');
is(answer($node, $processes), 1, '... and no process more');

# --- in transactions that stay open ---

answer($node, slow("m$_", "t$_")) for 2 .. 3;
$node->restart;
my @idle;
foreach (1 .. 4)
{
	my $s = $node->background_psql('postgres', extra_params => [ '-U', 'nobody' ]);
	$s->query_safe('BEGIN; SELECT pg_current_xact_id() IS NOT NULL; SELECT sum(dw_ensure_workers()) FROM generate_series(1, 20)');
	push @idle, $s;
}
wait_until($node, 'SELECT count(*) = 2 FROM dw_status WHERE cardinality(worker_pids) > 0', 'workers are started, and wait for none of these transactions');
is(answer($node, $processes), 2, '... as many as there may be');
$_->quit for @idle;
answer($node, "SELECT dw_abort('m$_')") for 1 .. 3;
wait_until($node, "SELECT ($processes) = 0", 'they go');

# --- owners, whose workers wait for their transactions ---

@idle = ();
foreach (1 .. 4)
{
	my $s = $node->background_psql('postgres');
	$s->query_safe('SET client_min_messages = error; BEGIN; ' . slow("o$_", "t$_"));
	wait_until($node, "SELECT ($processes) = " . ($_ < 2 ? $_ : 2));
	push @idle, $s;
}
is(answer($node, $processes), 2, 'those that wait for a transaction count');
foreach (@idle)
{
	$_->query_safe('ROLLBACK');
	$_->quit;
}
wait_until($node, "SELECT ($processes) = 0", '... and go with it');

# --- the same number, another migration ---

answer($node, <<'SQL');
CREATE FUNCTION leave(n int) RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
	IF EXISTS (SELECT FROM pg_stat_activity WHERE pid = pg_backend_pid() AND backend_type = 'pg_dualwrite worker') THEN
		PERFORM set_config('my.left', 'something', false);
	END IF;
	RETURN n;
END $$;
CREATE FUNCTION meet(n int) RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
	IF current_setting('my.left', true) <> '' THEN
		RAISE 'met %', current_setting('my.left') USING errcode = '22000';
	END IF;
	RETURN n;
END $$;
ALTER TABLE t6 OWNER TO somebody;
SQL
answer($node, q(DROP EXTENSION pg_dualwrite; CREATE EXTENSION pg_dualwrite));
answer($node, q(SELECT dw_begin('first', 't5', 'amount', 'bigint', 'cents', 'leave(amount)', 'cents', '{"max_rows_per_second": 20}')));
wait_middle($node, 'first');
my $pid = worker_pid($node, 'first');
answer($node, <<'SQL');
SET client_min_messages = error;
BEGIN;
DROP EXTENSION pg_dualwrite CASCADE;
CREATE EXTENSION pg_dualwrite;
SELECT dw_begin('second', 't6', 'amount', 'bigint', 'cents', 'meet(amount)', 'cents');
COMMIT;
SQL
is(answer($node, 'SELECT id FROM dualwrite.migration'), 1, 'the number is the same');
wait_ready($node, 'second', test => 'the other migration becomes ready');
status_is($node, 'second', 'drifted + unconvertible', 0, '... and its code has met nothing of the first one');
is(answer($node, 'SELECT count(*) FROM t6 WHERE cents IS DISTINCT FROM amount'), 0, '... every row is filled');
is(answer($node, 'SELECT count(*) > 0 FROM t5 WHERE cents IS NULL'), 't', '... and nobody goes on with the first one');

check_log($node, 'nothing bad in the log', qr/due to administrator command/);
done_testing();
