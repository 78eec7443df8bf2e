# pg_dump and restore of a database with migrations in several phases: the
# copy is paused and says why, its mirror works at once, dw_resume adopts it.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use DW;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = dw_node('dump');
my $dir = $node->basedir;
my $rows = 2000;
my $phases = q(SELECT string_agg(migration || ' ' || phase, ', ' ORDER BY migration) FROM dw_status);

sub dump_schema
{
	my ($db, @more) = @_;
	my ($out, $err);

	IPC::Run::run([ 'pg_dump', '-s', '-d', $node->connstr($db), @more ], '>', \$out, '2>', \$err) or die $err;

	# newer versions guard a dump with a random key
	$out =~ s/^\\(?:un)?restrict .*\n//mg;
	return $out;
}

sub run_ok
{
	my ($test, @command) = @_;
	my ($out, $err) = ('', '');

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $ok = IPC::Run::run(\@command, '>', \$out, '2>', \$err);
	ok($ok && $err !~ /error|warning/i, $test) or diag("@command\n$out$err");
	return;
}

# --- the original: names to be quoted, attribute numbers with gaps ---

$node->safe_psql('postgres', 'CREATE ROLE "the Owner" NOLOGIN; GRANT CREATE ON SCHEMA public TO "the Owner"');
foreach my $t ('in the "middle"', 'Is Ready', 'switched', 'over')
{
	(my $q = $t) =~ s/"/""/g;
	$node->safe_psql('postgres', <<SQL);
SET ROLE "the Owner";
CREATE TABLE "$q" (gone int, "The Id" int PRIMARY KEY, also_gone text, "The ""Amount""" int, filler text);
ALTER TABLE "$q" DROP COLUMN gone, DROP COLUMN also_gone;
INSERT INTO "$q" SELECT i, i, repeat('x', 200) FROM generate_series(1, $rows) i;
SQL
}
my $args = q('"The ""Amount""" * 100::bigint', '"Cents, new" / 100');
my @tables = ('"in the ""middle"""', '"Is Ready"', 'switched', 'over');
my %pristine = map { $_ => dump_schema('postgres', '-t', $_) } @tables;
$node->safe_psql('postgres', qq(SELECT dw_begin('b', '"Is Ready"', 'The "Amount"', 'bigint', 'Cents, new', $args)));
$node->safe_psql('postgres', qq(SELECT dw_begin('c', 'switched', 'The "Amount"', 'bigint', 'Cents, new', $args)));
$node->safe_psql('postgres', qq(SELECT dw_begin('d', 'over', 'The "Amount"', 'bigint', 'Cents, new', $args)));
wait_ready($node, $_) foreach qw(b c d);
$node->safe_psql('postgres', "SELECT dw_switch('c'); SELECT dw_switch('d')");
wait_until($node, "SELECT verified_at > phase_since FROM dw_status WHERE migration = 'd'");
$node->safe_psql('postgres', "SELECT dw_finalize('d')");
$node->safe_psql('postgres',
	qq(SELECT dw_begin('a, in "quotes"', '"in the ""middle"""', 'The "Amount"', 'bigint', 'Cents, new', $args, '{"max_rows_per_second": 300}')));
wait_middle($node, 'a, in "quotes"');
is(answer($node, $phases), 'a, in "quotes" backfilling, b ready, c switched, d finalized', 'the phases to be dumped');

# --- dump and restore, three ways ---

run_ok('pg_dump, custom format', 'pg_dump', '-Fc', '-f', "$dir/dump", $node->connstr('postgres'));
run_ok('pg_dump, plain', 'pg_dump', '-f', "$dir/dump.sql", $node->connstr('postgres'));
run_ok('pg_dump, directory format, two jobs', 'pg_dump', '-Fd', '-j2', '-f', "$dir/dumpdir", $node->connstr('postgres'));
run_ok('pg_dumpall', 'pg_dumpall', '-f', "$dir/all.sql", '-d', $node->connstr('postgres'));
full_speed($node, 'a, in "quotes"');
$node->safe_psql('postgres', 'CREATE DATABASE copy1');
$node->safe_psql('postgres', 'CREATE DATABASE copy2');
$node->safe_psql('postgres', 'CREATE DATABASE copy3');
run_ok('pg_restore', 'pg_restore', '-e', '-d', $node->connstr('copy1'), "$dir/dump");
run_ok('psql', 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-o', '/dev/null', '-f', "$dir/dump.sql", $node->connstr('copy2'));
run_ok('pg_restore with two jobs', 'pg_restore', '-e', '-j2', '-d', $node->connstr('copy3'), "$dir/dumpdir");

# and into another cluster
my $second = dw_node('second', create => 0);
IPC::Run::run([ 'psql', '-Xq', '-f', "$dir/all.sql", '-d', $second->connstr('postgres') ], '>', '/dev/null', '2>', \my $err);
my @errors = grep { /ERROR/ && !/role "[^"]*" already exists/ } split /\n/, $err;
is(join("\n", @errors), '', 'restored into another cluster');

# --- the copies ---

sub check_copy
{
	my ($n, $db, $adopt) = @_;
	my %arg = (db => $db);

	subtest "copy in database $db of " . $n->name => sub {
		is( answer($n, 'SELECT string_agg(state, \' \' ORDER BY migration) FROM dw_status', $db),
			'paused paused paused idle', 'unfinished migrations are paused');
		like(answer($n, "SELECT state_reason FROM dw_status WHERE migration = 'b'", $db), qr/restored copy/, '... and say why');
		like(answer($n, "SELECT next_step FROM dw_status WHERE migration = 'b'", $db), qr/dw_resume/, '... and what to do');
		sql_fails($n, "CALL dw_wait('b', 'switched')", '55000', qr/restored copy/, 'dw_wait says so', db => $db);
		sql_fails($n, "SELECT dw_switch('b')", '55000', qr/restored copy/, 'dw_switch refuses', db => $db);
		is(answer($n, 'SELECT dw_ensure_workers()', $db), 0, 'a copy gets no worker');
		is(answer($n, 'SELECT count(*) FROM dw_drift', $db), 0, 'what holds data of the tables is not dumped');

		# The mirror works before anybody adopts it.  A row that isn't filled
		# yet, a new one, one from the new side.
		foreach my $t ('"in the ""middle"""', '"Is Ready"', 'switched')
		{
			sql_ok($n, <<SQL, "writes to $t", %arg);
UPDATE $t SET filler = 'y' WHERE "The Id" = $rows;
UPDATE $t SET "The ""Amount""" = 5 WHERE "The Id" = $rows - 1;
UPDATE $t SET "Cents, new" = 600 WHERE "The Id" = $rows - 2;
INSERT INTO $t ("The Id", "The ""Amount""") VALUES (-1, 7);
INSERT INTO $t ("The Id", "Cents, new") VALUES (-2, 800);
SQL
			is( answer($n, <<SQL, $db), "$rows|${rows}00\n5|500\n6|600\n7|700\n8|800", '... are mirrored');
SELECT "The ""Amount""", "Cents, new" FROM $t WHERE "The Id" IN ($rows, $rows - 1, $rows - 2, -1, -2)
ORDER BY "The Id" <= 0, abs("The Id") * CASE WHEN "The Id" > 0 THEN -1 ELSE 1 END
SQL
		}

		return unless $adopt;

		# adopted
		sql_ok($n, "SELECT dw_resume(migration) FROM dw_status WHERE state = 'paused'", 'dw_resume adopts it', %arg);
		full_speed($n, 'a, in "quotes"', $db);
		wait_ready($n, 'a, in "quotes"', %arg, test => 'the backfill goes on to its end');
		wait_until($n, "SELECT verified_at IS NOT NULL FROM dw_status WHERE migration = '$_'", "$_ is verified", $db) foreach qw(b c);
		is(answer($n, $phases, $db), 'a, in "quotes" ready, b ready, c switched, d finalized', 'the phases are those of the original');
		foreach my $t ('"in the ""middle"""', '"Is Ready"', 'switched')
		{
			is( answer($n, <<SQL, $db), 0, "every row of $t is filled");
SELECT count(*) FROM $t WHERE "Cents, new" IS DISTINCT FROM "The ""Amount""" * 100::bigint
SQL
			is(answer($n, "SELECT count(*) FROM $t", $db), $rows + 2, '... and there');
		}

		# and taken to their ends
		answer($n, q(SELECT dw_switch('a, in "quotes"')), $db);
		answer($n, "SELECT dw_abort('b')", $db);
		wait_until($n, "SELECT count(*) = 2 FROM dw_status WHERE phase = 'switched' AND verified_at > phase_since", undef, $db);
		sql_ok($n, q(SELECT dw_finalize('c'); SELECT dw_finalize('a, in "quotes"')), 'finalized', %arg);
		sql_ok($n, 'DROP EXTENSION pg_dualwrite', 'DROP EXTENSION works when all have ended', %arg);
		sql_ok($n, 'DROP TABLE "Is Ready", switched, "in the ""middle""", over', 'nothing holds the tables', %arg);
		is(answer($n, "SELECT count(*) FROM pg_namespace WHERE nspname = 'dualwrite'", $db), 0, 'nothing is left');
	};
	return;
}
check_copy($node, 'copy1', 1);
check_copy($node, $_, 0) foreach qw(copy2 copy3);
check_copy($second, 'postgres', 1);
$second->stop;

# A table of a copy that nobody has adopted goes, too, and the migration can be
# given up.
$node->safe_psql('postgres', 'CREATE DATABASE copy4');
run_ok('restored once more', 'pg_restore', '-e', '-d', $node->connstr('copy4'), "$dir/dump");
sql_ok($node, "SELECT dw_abort('b', accept_loss => true)", 'dw_abort of a copy that was not adopted', db => 'copy4');
is( answer($node, q(SELECT count(*) FROM pg_attribute WHERE attrelid = '"Is Ready"'::regclass AND attname = 'Cents, new'), 'copy4'),
	0, '... drops what dw_begin made');
sql_ok($node, 'DROP TABLE switched CASCADE', 'DROP TABLE of a copy that was not adopted', db => 'copy4');
status_is($node, 'c', 'state_reason', 'the table was dropped', '... dw_status says so', db => 'copy4');
sql_ok($node, "SELECT dw_abort('c')", '... and dw_abort ends it', db => 'copy4');

# Restored without data, those of the extension included: the mirror's trigger
# knows nothing and must not be in the way.
run_ok('the schema alone', 'pg_dump', '-s', '-Fc', '-f', "$dir/schema", $node->connstr('postgres'));
$node->safe_psql('postgres', 'CREATE DATABASE copy5');
run_ok('... restored', 'pg_restore', '-e', '-d', $node->connstr('copy5'), "$dir/schema");
sql_ok($node, q(INSERT INTO "Is Ready" ("The Id", "The ""Amount""") VALUES (1, 7)), '... takes writes', db => 'copy5');

# --- the original is as it was before ---

wait_ready($node, 'a, in "quotes"');
answer($node, q(SELECT dw_abort('a, in "quotes"')));
answer($node, "SELECT dw_abort('b')");
answer($node, "SELECT dw_rollback('c')");
answer($node, "SELECT dw_abort('c')");
is(dump_schema('postgres', '-t', $_), $pristine{$_}, "pg_dump -s of $_ after dw_abort is what it was before dw_begin")
  foreach @tables[ 0 .. 2 ];
(my $expected = $pristine{over}) =~ s/    "The ""Amount""" integer,\n    filler text\n/    filler text,\n    "Cents, new" bigint\n/;
is(dump_schema('postgres', '-t', 'over'), $expected, '... after dw_finalize it has the new column in place of the old one');
is(dump_schema('postgres', '-n', 'dualwrite') =~ /CREATE (?:FUNCTION|SEQUENCE|TABLE)/ ? 1 : 0, 0, 'nothing stays in the schema dualwrite');
check_log($node, 'the log is clean', qr/restored copy/, qr/has not been adopted/, qr/mirrors nothing/);
$node->stop;
done_testing();
