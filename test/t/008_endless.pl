# Both versions of the application insert and update without end while the
# table is filled: the backfill and the verification come to an end all the
# same, and no update is lost.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use DW;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = dw_node('endless');
my $rows = 3000;
my $dir = PostgreSQL::Test::Utils::tempdir();
my @running;

# A pgbench that goes on until it is ended.
sub pgbench
{
	my ($clients, $script) = @_;
	my $file = "$dir/script" . @running;

	append_to_file($file, $script);
	my ($out, $err) = ('', '');
	push @running, {
		run => IPC::Run::start(
			[ 'pgbench', '-n', '-c', $clients, '-T', 600, '-f', $file, $node->connstr('postgres') ],
			'>', \$out, '2>', \$err),
		out => \$out, err => \$err };
	return;
}

make_table($node, $rows);
$node->safe_psql('postgres', <<SQL);
CREATE SEQUENCE ids START 1000000;
CREATE TABLE added (id int, n int);
SQL

# The old version inserts, adds to rows that are there, and keeps account.
pgbench(2, <<SCRIPT);
\\set id random(1, $rows)
\\set n random(1, 9)
BEGIN;
INSERT INTO t (id, amount, filler) VALUES (nextval('ids'), :n, repeat('y', 200));
UPDATE t SET amount = amount + :n WHERE id = :id;
INSERT INTO added VALUES (:id, :n);
COMMIT;
SCRIPT
my $begun = answer($node, 'SELECT clock_timestamp()');
begin_cents($node, 'm', rate => 100);

# The new version inserts, and writes its column without reading it, in rows of its own.
pgbench(2, <<SCRIPT);
\\set n random(1, 1000000)
INSERT INTO t (id, cents, filler) VALUES (nextval('ids'), :n * 100, repeat('z', 200)) RETURNING id \\gset
UPDATE t SET cents = :n * 200 WHERE id = :id;
INSERT INTO t (id, cents) VALUES (:id, 0) ON CONFLICT (id) DO UPDATE SET cents = excluded.cents + :n * 300;
SCRIPT
wait_until($node, "SELECT count(*) > $rows FROM t WHERE id >= 1000000", 'more rows come than there were');
full_speed($node, 'm');
wait_until($node, "SELECT phase <> 'backfilling' FROM dw_status WHERE migration = 'm'", 'the backfill ends under endless inserts');
my $end = answer($node, "SELECT extract(epoch FROM at - '$begun') FROM dw_events WHERE migration = 'm' AND event = 'filled'");
wait_ready($node, 'm', test => 'so does the verification');
note("filled after $end s");

# both read and write now, and the switch finds its moment
pgbench(1, <<SCRIPT);
\\set id random(1, $rows)
\\set n random(1, 9)
BEGIN;
UPDATE t SET cents = cents + :n * 100 WHERE id = :id;
INSERT INTO added VALUES (:id, :n);
COMMIT;
SCRIPT
foreach my $i (1 .. 3)
{
	sql_ok($node, "SELECT dw_switch('m')", 'switched under load');
	wait_until($node, "SELECT verified_at > phase_since FROM dw_status WHERE migration = 'm'", 'verified under load');
	sql_ok($node, "SELECT dw_rollback('m')", 'rolled back under load');
}
sql_ok($node, "SELECT * FROM dw_verify('m')", 'dw_verify under load');
sql_ok($node, "CALL dw_reconcile('m')", 'dw_reconcile under load');

# the end
foreach my $p (@running)
{
	$p->{run}->signal('INT');
	$p->{run}->finish;
	unlike(${ $p->{err} }, qr/ERROR|aborted/, 'no statement failed') or diag(substr ${ $p->{err} }, 0, 2000);
}
wait_until($node, "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'pgbench'");
check_cents($node, 'both sides of every row agree');
is( answer($node, <<SQL), 0, 'no update was lost');
SELECT count(*) FROM t LEFT JOIN (SELECT id, sum(n) AS n FROM added GROUP BY id) a USING (id)
 WHERE id <= $rows AND amount <> id + coalesce(n, 0)
SQL
is(answer($node, "SELECT count(*) FROM t WHERE id <= $rows"), $rows, 'no row came or went');
status_is($node, 'm', 'drifted + unconvertible', 0, 'nothing was recorded');
check_log($node, 'the log is clean', qr/canceling statement due to user request|connection to client lost/);
$node->stop;
done_testing();
