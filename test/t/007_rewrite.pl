# The table is rewritten, truncated or vacuumed in the middle of the backfill.
# Positions and transaction ids of rows mean nothing any more; no value that the
# new side wrote may be overwritten, and no row forgotten.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use DW;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = dw_node('rewrite');
my $rows = 2000;

# --- one after the other, while both versions write ---

make_table($node, $rows);
answer($node, 'CREATE INDEX filler ON t (filler, id DESC)');
my $writers = start_writers($node, $rows);
begin_cents($node, 'm', rate => 200);
wait_middle($node, 'm');
foreach my $command (
	'VACUUM FULL t',
	'ALTER TABLE t ADD COLUMN at timestamptz DEFAULT clock_timestamp()',
	'CLUSTER t USING filler',
	'VACUUM (FREEZE) t',
	'ALTER TABLE t ALTER COLUMN filler TYPE varchar(1000) USING filler || filler',
	'VACUUM (FREEZE, DISABLE_PAGE_SKIPPING) t',
	'REINDEX TABLE t',
	'ANALYZE t')
{
	my $before = answer($node, "SELECT pg_relation_filenode('t')");

	sql_ok($node, $command, "$command in the middle of the backfill");
	if ($command =~ /FULL|CLUSTER|ALTER/)
	{
		isnt(answer($node, "SELECT pg_relation_filenode('t')"), $before, '... writes another heap');
		wait_until($node, <<SQL, '... and the backfill begins again on it');
SELECT p.relfilenode = pg_relation_filenode('t') AND p.blocks_done + p.rows_done + p.rows_already > 0 OR m.phase <> 'backfilling'
  FROM dualwrite.progress p JOIN dualwrite.member b ON b.id = p.member_id JOIN dualwrite.migration m ON m.id = b.migration_id
 WHERE m.name = 'm' AND p.pass = 'fill'
SQL
	}
}
full_speed($node, 'm');
wait_ready($node, 'm');
sql_ok($node, 'VACUUM FULL t', 'VACUUM FULL when it is ready');
answer($node, "SELECT dw_switch('m')");
sql_ok($node, 'CLUSTER t USING filler', 'CLUSTER after the switch');
wait_until($node, "SELECT verified_at > phase_since FROM dw_status WHERE migration = 'm'", 'verified after the switch');
stop_writers($writers);
compare_writers($writers, 'every acknowledged write is there, and both sides of every row agree');

# --- what the new side wrote, and the old one can't hold ---

foreach my $command ('VACUUM FULL u', 'CLUSTER u USING u_pkey', 'ALTER TABLE u ADD COLUMN more float8 DEFAULT random()', 'VACUUM (FREEZE) u')
{
	answer($node, 'DROP TABLE IF EXISTS u');
	make_table($node, $rows, table => 'u');
	answer($node, "SELECT dw_abort(migration) FROM dw_status WHERE migration ~ '^u' AND phase <> 'aborted'");
	(my $m = "u, $command") =~ s/\W+/ /g;
	begin_cents($node, $m, table => 'u', rate => 200);
	wait_middle($node, $m);

	# rows that are filled and rows that aren't, ones that are made anew, NULL too
	answer($node, 'UPDATE u SET cents = id * 100 + 50 WHERE id % 10 = 1');
	answer($node, 'UPDATE u SET cents = NULL WHERE id % 10 = 2');
	answer($node, 'UPDATE u SET amount = NULL WHERE id % 10 = 3');
	answer($node, 'UPDATE u SET amount = -id WHERE id % 10 = 4');
	answer($node, 'DELETE FROM u WHERE id % 10 = 5');
	answer($node, "INSERT INTO u (id, cents) SELECT i, i * 100 + 50 FROM generate_series($rows + 1, $rows + 100) i");
	answer($node, "INSERT INTO u (id, amount) SELECT i, i FROM generate_series($rows + 101, $rows + 200) i");
	cmp_ok(answer($node, 'SELECT count(*) FROM u WHERE cents IS NULL AND amount IS NOT NULL'), '>', 0, 'in the middle');
	sql_ok($node, $command, "$command after writes of the new side");
	full_speed($node, $m);
	wait_ready($node, $m);
	is( answer($node, <<SQL), 0, 'no value of either side was overwritten, and every row is filled');
SELECT count(*) FROM u WHERE (amount, cents) IS DISTINCT FROM
 CASE WHEN id > $rows + 100 THEN (id, id * 100::bigint) WHEN id > $rows THEN (id, id * 100::bigint + 50)
      WHEN id % 10 = 1 THEN (id, id * 100::bigint + 50) WHEN id % 10 IN (2, 3) THEN (NULL::int, NULL::bigint)
      WHEN id % 10 = 4 THEN (-id, -id * 100::bigint) ELSE (id, id * 100::bigint) END
SQL
	is(answer($node, 'SELECT count(*) FROM u'), $rows * 9 / 10 + 200, 'no row came or went');
}

# --- TRUNCATE ---

make_table($node, $rows, table => 'v');
begin_cents($node, 'v', table => 'v', rate => 200);
wait_middle($node, 'v');
sql_ok($node, 'TRUNCATE v', 'TRUNCATE in the middle of the backfill');
wait_ready($node, 'v');
is(answer($node, 'SELECT count(*) FROM v'), 0, 'nothing is left');
answer($node, "SELECT dw_abort('v')");

# truncated and filled again in one transaction, and one that is undone
answer($node, "INSERT INTO v SELECT i, i, repeat('x', 200) FROM generate_series(1, $rows) i");
begin_cents($node, 'v2', table => 'v', rate => 200);
wait_middle($node, 'v2');
answer($node, 'BEGIN; TRUNCATE v; INSERT INTO v (id, amount) VALUES (1, 1); ROLLBACK');
is(answer($node, 'SELECT count(*) FROM v'), $rows, 'TRUNCATE is undone');
answer($node, "BEGIN; TRUNCATE v; INSERT INTO v (id, amount) SELECT i, i FROM generate_series(1, $rows) i; INSERT INTO v (id, cents) VALUES (-1, 250); COMMIT");
full_speed($node, 'v2');
wait_ready($node, 'v2');
check_cents($node, 'what was written after the TRUNCATE is complete', table => '(SELECT * FROM v WHERE id > 0) AS x');
is(answer($node, 'SELECT count(*), min(cents) FROM v'), $rows + 1 . '|100', '... and all there');
answer($node, "SELECT dw_abort('v2', accept_loss => true)");

# --- the end of the table goes ---

# (with room in the blocks that stay, so that the backfill puts nothing at the end)
make_table($node, $rows, table => 'w');
answer($node, "DELETE FROM w WHERE ctid < '(30,0)' AND id % 2 = 0");
answer($node, 'VACUUM w');
begin_cents($node, 'w', table => 'w', rate => 200);
wait_middle($node, 'w');
answer($node, "DELETE FROM w WHERE ctid >= '(30,0)'");
my $kept = answer($node, 'SELECT count(*) FROM w');
sql_ok($node, 'VACUUM w', 'VACUUM cuts the end off');
cmp_ok(answer($node, "SELECT pg_relation_size('w') / 8192"), '<', answer($node, "SELECT blocks_total FROM dw_progress WHERE migration = 'w'"),
	'the table is shorter than it was');
full_speed($node, 'w');
wait_ready($node, 'w');
check_cents($node, 'every row is filled', table => 'w');
is(answer($node, 'SELECT count(*) FROM w'), $kept, 'no row came or went');

# A table created, filled and begun in the transaction that truncates it: the
# heap stays the same file.
sql_ok($node, <<SQL, 'created, begun, truncated and filled in one transaction');
SET client_min_messages = warning;
BEGIN;
CREATE TABLE x (id int PRIMARY KEY, amount int, filler text);
INSERT INTO x SELECT i, i FROM generate_series(1, 100) i;
SELECT dw_begin('x', 'x', 'amount', 'bigint', 'cents', 'amount * 100::bigint', 'cents / 100');
TRUNCATE x;
INSERT INTO x (id, amount) SELECT i, i FROM generate_series(1, $rows) i;
SAVEPOINT a;
UPDATE x SET cents = 100 * amount WHERE id = 1;
COMMIT;
SQL
wait_ready($node, 'x');
check_cents($node, 'every row is filled', table => 'x');
is(answer($node, 'SELECT count(*) FROM x'), $rows, 'no row came or went');

check_log($node, 'the log is clean');
$node->stop;
done_testing();
