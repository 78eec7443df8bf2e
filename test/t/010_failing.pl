# Rows that can't be filled: their values don't convert, or what they convert to
# breaks a constraint.  They are recorded and passed over, the rest is done, the
# migration says what is wrong, and goes on once that is mended.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use DW;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = dw_node('failing');
my $rows = 2000;
my $failed = q(SELECT state = 'failed' FROM dw_status WHERE migration = '%s');

sub open_drift
{
	my ($m) = @_;
	return answer($node, <<SQL);
SELECT count(*), string_agg(DISTINCT reason, ' '), string_agg(DISTINCT sqlstate, ' ') FROM dw_drift
 WHERE migration = '$m' AND repaired_at IS NULL
SQL
}

# --- values that don't convert ---

$node->safe_psql('postgres', <<SQL);
CREATE TABLE conv (id int PRIMARY KEY, v text, filler text);
INSERT INTO conv SELECT i, CASE WHEN i % 100 = 0 THEN 'bad ' || i ELSE i::text END, repeat('x', 200) FROM generate_series(1, $rows) i;
SELECT dw_begin('conv', 'conv', 'v', 'int', 'n', 'v::int', 'n::text');
SQL
wait_until($node, sprintf($failed, 'conv'), 'a migration with rows that do not convert fails');
status_is($node, 'conv', 'phase', 'verifying', '... after the backfill has passed over all of them');
status_is($node, 'conv', 'unconvertible', $rows / 100, '... and counts them');
like(answer($node, "SELECT last_error FROM dw_status WHERE migration = 'conv'"), qr/\b20 of 2000 rows\b/, '... and says so');
like(answer($node, "SELECT next_step FROM dw_status WHERE migration = 'conv'"), qr/dw_drift/, '... and what to do');
is(open_drift('conv'), '20|unconvertible|22P02', 'each of them is on record');
is(answer($node, q(SELECT old_values, new_values, message FROM dw_drift WHERE migration = 'conv' AND repaired_at IS NULL AND key ->> 'id' = '300')),
	'{"v": "bad 300"}|{"n": null}|invalid input syntax for type integer: "bad 300"', '... with its key, its values and why');
is(answer($node, 'SELECT count(*) FROM conv WHERE n IS DISTINCT FROM CASE WHEN id % 100 <> 0 THEN v::int END'), 0, 'all others are filled');
sql_fails($node, "CALL dw_wait('conv')", '55000', qr/failed: .*rows/, 'dw_wait raises');
sql_fails($node, "SELECT dw_switch('conv')", '55000', qr/is verifying/, 'dw_switch is refused');
sql_fails($node, "SELECT dw_require('conv')", '55000', qr/is verifying, not yet ready/, 'dw_require too');

# the mirror goes on
sql_ok($node, "UPDATE conv SET v = '4711' WHERE id = 1; UPDATE conv SET n = 4712 WHERE id = 2", 'writes go on');
is(answer($node, 'SELECT v, n FROM conv WHERE id IN (1, 2) ORDER BY id'), "4711|4711\n4712|4712", '... and are mirrored');
sql_ok($node, "UPDATE conv SET v = 'also bad' WHERE id = 3", 'the side in authority takes what the other can not');
sql_ok($node, "UPDATE conv SET filler = 'y' WHERE id = 100", 'a row that does not convert can be written');
answer($node, "SELECT dw_resume('conv')");
wait_until($node, sprintf($failed, 'conv'), 'resumed and not mended: it fails again');
is(answer($node, "SELECT count(DISTINCT key) FROM dw_drift WHERE migration = 'conv' AND repaired_at IS NULL"), 21, '... with one row more');
sql_ok($node, "UPDATE conv SET v = '7' WHERE v ~ 'bad'", 'mended');
answer($node, "SELECT dw_resume('conv')");
wait_ready($node, 'conv', test => 'mended and resumed: ready');
is(open_drift('conv'), '0||', 'all records are closed');
is(answer($node, 'SELECT count(*) FROM conv WHERE n IS DISTINCT FROM v::int'), 0, 'every row is filled');
answer($node, "SELECT dw_switch('conv')");
status_is($node, 'conv', 'phase', 'switched', 'it can be switched');

# --- constraints on the new column ---

$node->safe_psql('postgres', <<SQL);
CREATE FUNCTION inverse(x bigint) RETURNS numeric LANGUAGE sql IMMUTABLE RETURN 1.0 / (x - 5000);
SQL
my @cases = (
	[ 'checked', 'CHECK (cents % 10000 <> 0)', 23514, 20, 'ALTER TABLE %s DROP CONSTRAINT %s_cents_check' ],
	[ 'fkey', 'REFERENCES parent', 23503, 20, 'INSERT INTO parent SELECT i * 10000 FROM generate_series(1, 20) i' ],
	[ 'fkey_later', 'REFERENCES parent DEFERRABLE INITIALLY DEFERRED', 23503, 20, 'INSERT INTO parent SELECT i * 10000 FROM generate_series(1, 20) i' ],
	[ 'uniq', 'UNIQUE', 23505, 20, 'UPDATE %s SET amount = -id WHERE id % 100 = 0' ],
	[ 'uniq_later', 'UNIQUE DEFERRABLE INITIALLY DEFERRED', 23505, 20, 'UPDATE %s SET amount = -id WHERE id % 100 = 0' ],
	[ 'excluded', 'EXCLUDE', 23514, 20, 'UPDATE %s SET amount = -id WHERE id % 100 = 0' ],
	[ 'indexed', 'INDEX', 22012, 1, 'DROP INDEX %s_expression' ]);
foreach my $case (@cases)
{
	my ($name, $constraint, $sqlstate, $n, $mend) = @$case;

	$mend =~ s{%s}{$name}g;
	$node->safe_psql('postgres', <<SQL);
SET client_min_messages = warning;
DROP TABLE IF EXISTS parent CASCADE;
CREATE TABLE parent (id bigint PRIMARY KEY);
INSERT INTO parent SELECT i * 100 FROM generate_series(1, $rows) i WHERE i % 100 <> 0;
SQL
	make_table($node, $rows, table => $name);
	if ($name eq 'indexed')
	{
		$node->safe_psql('postgres', "ALTER TABLE $name ADD COLUMN cents bigint; CREATE INDEX ${name}_expression ON $name (inverse(cents))");
	}
	elsif ($name eq 'excluded')
	{
		$sqlstate = '23P01';
		$node->safe_psql('postgres', "ALTER TABLE $name ADD COLUMN cents bigint, ADD EXCLUDE USING btree (cents WITH =)");
	}
	else
	{
		$node->safe_psql('postgres', "ALTER TABLE $name ADD COLUMN cents bigint $constraint");
	}
	$node->safe_psql('postgres', "UPDATE $name SET amount = id - 1 WHERE id % 100 = 0") if $name =~ /uniq|excluded/;
	begin_cents($node, $name, table => $name);
	wait_until($node, sprintf($failed, $name), "$name: rows that break it make it fail");
	is(open_drift($name), "$n|unconvertible|$sqlstate", '... each is on record, with the SQLSTATE');
	is(answer($node, "SELECT count(*) FROM $name WHERE cents IS NULL"), $n, '... and not filled');
	is(answer($node, "SELECT count(*) FROM $name WHERE cents IS DISTINCT FROM amount * 100::bigint"), $n, '... but all others are');
	like(answer($node, "SELECT last_error FROM dw_status WHERE migration = '$name'"), qr/\b$n of $rows rows\b/, '... it says how many');
	sql_ok($node, $mend, '... mended');

	# rows that needed no mending themselves have not been written by anybody
	sql_ok($node, "SET client_min_messages = warning; CALL dw_reconcile('$name')", '... dw_reconcile fills what is left');
	answer($node, "SELECT dw_resume('$name')");
	wait_ready($node, $name, test => '... and it becomes ready');
	check_cents($node, '... every row is filled', table => $name);
	is(answer($node, "SELECT count(*) FROM $name"), $rows, '... none came or went');
	is(open_drift($name), '0||', '... all records are closed');
}

# --- nothing that has to do with rows ---

make_table($node, $rows, table => 'whole');
$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION broken(x bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS
 $$ BEGIN RAISE EXCEPTION 'the function is broken' USING ERRCODE = 'XX000'; END $$;
ALTER TABLE whole ADD COLUMN cents bigint, ADD CHECK (broken(cents) IS NOT NULL) NOT VALID;
SQL
begin_cents($node, 'whole', table => 'whole');
wait_until($node, sprintf($failed, 'whole'), 'an error that is no row\'s makes it fail at once');
status_is($node, 'whole', 'phase', 'backfilling', '... where it is');
status_is($node, 'whole', 'state_reason', 'the function is broken', '... and it says why');
is(answer($node, "SELECT note FROM dw_events WHERE migration = 'whole' AND event = 'failed'"), 'the function is broken', '... as dw_events does');
$node->safe_psql('postgres', 'CREATE OR REPLACE FUNCTION broken(x bigint) RETURNS bigint LANGUAGE sql IMMUTABLE RETURN coalesce(x, 0)');
answer($node, "SELECT dw_resume('whole')");
wait_ready($node, 'whole', test => '... mended and resumed: ready');
check_cents($node, '... every row is filled', table => 'whole');

# the server's log tells of every failure, and nothing else
check_log($node, 'the log is clean', qr/failed:|can't be switched|not yet ready/);
$node->stop;
done_testing();
