# What a batch stores of its progress is of its own commit, and nobody else's
# change of that row is lost.  Looked at in one snapshot, whenever that is, as many rows
# are done as are filled: while others update the row, and while an old snapshot
# keeps all of its versions, so that they need entries in the index.  And what
# the table's statistics say of a pass.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use DW;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = dw_node('progress', conf => "pg_dualwrite.horizon_wait = 0\nautovacuum = off\n");
my $seen = 0;
my $wrong = '';

# One look: rows done, and rows filled.
sub look
{
	my $line = answer($node, <<SQL);
SELECT (SELECT sum(rows_done) FROM dualwrite.progress WHERE pass = 'fill'), (SELECT count(cents) FROM t)
SQL
	my ($done, $filled) = split /\|/, $line;

	$wrong .= "$line\n" if $done != $filled;
	$seen++;
	return $done;
}

make_table($node, 80000);
begin_cents($node, 'm', rate => 3000);
wait_middle($node, 'm');

# Each waits until the worker waits for it, and commits then: the row isn't what
# the worker has found any more.
my $other = $node->background_psql('postgres');
my $times = 10;
for (1 .. $times)
{
	$other->query_safe(<<'SQL');
BEGIN;
UPDATE dualwrite.progress SET throttled_by = throttled_by || jsonb_build_object('test', coalesce((throttled_by ->> 'test')::int, 0) + 1) WHERE pass = 'fill';
DO $$
BEGIN
  LOOP
    EXIT WHEN EXISTS (SELECT 1 FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE a.backend_type ~ 'pg_dualwrite' AND NOT l.granted);
    PERFORM pg_sleep(0.001);
  END LOOP;
END $$;
COMMIT;
SQL
	look();
}
is(answer($node, "SELECT throttled_by ->> 'test' FROM dualwrite.progress WHERE pass = 'fill' AND part = 0"), $times, 'no change of somebody else is lost');
is(answer($node, "SELECT phase FROM dw_status"), 'backfilling', 'the backfill is still under way');

# versions that can't be pruned: more than a page of them
$other->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
my $blocks = "SELECT pg_relation_size('dualwrite.progress') / current_setting('block_size')::int";
my $before = answer($node, $blocks);
wait_until($node, "SELECT ($blocks) > $before + 1");
look() for 1 .. 20;
$other->query_safe('COMMIT');
$other->quit;
is(answer($node, "SELECT phase FROM dw_status"), 'backfilling', '... and so it is with an old snapshot');
full_speed($node, 'm');
look() while answer($node, 'SELECT phase FROM dw_status') eq 'backfilling';
is($wrong, '', 'as many rows are done as are filled');
cmp_ok($seen, '>', 30, '... however often one looks');
wait_ready($node, 'm');
is(answer($node, 'SELECT count(*) FROM t WHERE cents IS DISTINCT FROM amount * 100'), '0', 'every row has its value');
is( answer($node, 'SET enable_seqscan = off; SELECT count(*), sum(rows_done) FROM dualwrite.progress WHERE member_id > 0'),
	answer($node, 'SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off; SELECT count(*), sum(rows_done) FROM dualwrite.progress WHERE member_id > 0'),
	'its index and its table agree');

# a verification of many chunks is one scan of the table; nobody else has looked at this one
make_table($node, 80000, table => 'u');
answer($node, q{SELECT dw_begin('u', 'u', 'amount', 'bigint', 'cents', 'amount * 100::bigint', 'cents / 100', '{"recheck_interval": 0}')});
wait_ready($node, 'u');
wait_until($node, "SELECT seq_tup_read >= 80000 FROM pg_stat_user_tables WHERE relname = 'u'");
cmp_ok(answer($node, "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'u'"), '<=', 2, 'a verification is one scan of the table');
$node->stop;
done_testing();
