# The throttle and what would break: an archive that fails, a replication slot
# near its limit, a disk that is nearly full; and an old snapshot that keeps dead
# rows.  Real ones: archive_command, slots, a tmpfs of 64 MB as tablespace.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

# A small disk needs a mount, and a mount the right to it: this test begins
# itself anew in a name space in which it has that right, and is the same user
# as before again.  (Before the modules below redirect its output.)
BEGIN
{
	require File::Temp;
	my $disk = File::Temp::tempdir('dw_diskXXXX', $ENV{TESTDATADIR} && -d $ENV{TESTDATADIR} ? (DIR => $ENV{TESTDATADIR}) : (TMPDIR => 1));
	my ($uid, $gid) = ($<, $( + 0);
	my $inner = "mount -t tmpfs -o size=64m,mode=777 none '$disk' && exec unshare --user --map-user=$uid --map-group=$gid";

	if (!$ENV{DW_SMALL_DISK} && system("unshare --user --map-root-user --mount sh -c \"$inner true\" 2>/dev/null") == 0)
	{
		$ENV{DW_SMALL_DISK} = $disk;
		exec 'unshare', '--user', '--map-root-user', '--mount', 'sh', '-c', "$inner \"\$@\"", 'sh', $^X, (map { "-I$_" } @INC), $0, @ARGV;
	}
}

use DW;
use PostgreSQL::Test::Utils;
use Test::More;

my $small = $ENV{DW_SMALL_DISK} || '';
my $slow = PostgreSQL::Test::Utils::tempdir() . '/slow';

my $rows = 12000;
my $node = dw_node('budgets', init => { allows_streaming => 1 }, conf => <<'CONF');
max_wal_senders = 5
archive_mode = on
archive_command = 'true'
CONF

# The backfill stands still, because of a file, slot, table or disk of that name.
my $stopped = "(throttle_value >= throttle_limit OR throttle_subject ~ 'fails') AND throttle_subject ~ '%s'";

sub stands_still
{
	my ($m, $signal, $subject, $test) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is_held($node, $m, $signal, $test, sprintf $stopped, $subject);
}

sub finish
{
	my ($m, $t) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	full_speed($node, $m);
	wait_ready($node, $m);
	check_cents($node, 'every row is filled', table => $t);
	is(answer($node, "SELECT count(*), sum(amount) FROM $t"), "$rows|" . $rows * ($rows + 1) / 2, 'no row came or went');
	return;
}

# --- archive ---

make_table($node, $rows);
begin_cents($node, 'a', rate => 200);
wait_middle($node, 'a');
$node->append_conf('postgresql.conf', "archive_command = 'false'");
$node->reload;
answer($node, 'SELECT pg_switch_wal()');
my $done = stands_still('a', 'archive', '^archiving fails', 'archive_command fails');
$node->append_conf('postgresql.conf', "archive_command = 'true'");
$node->reload;
# the archiver looks again when there is another file
answer($node, 'CREATE TABLE something (i int); SELECT pg_switch_wal()');
is_going($node, 'a', $done, '... and goes on when it succeeds');

# many files, and nothing that fails: an archive that is slow
$node->append_conf('postgresql.conf', "archive_command = 'while test -e $slow; do sleep 0.1; done'");
append_to_file("$slow", '');
$node->reload;
answer($node, "INSERT INTO something VALUES ($_); SELECT pg_switch_wal()") foreach 1 .. 45;
$done = stands_still('a', 'archive', '^files waiting', 'archive is slow');
is(answer($node, "SELECT throttle_limit, throttle_value BETWEEN 42 AND 60 FROM dw_progress WHERE migration = 'a'"), '42|t', '... with value and limit');
unlink "$slow";
is_going($node, 'a', $done, '... and goes on when it has caught up');

# --- slots ---

answer($node, q(SELECT dw_set('a', '{"max_slot_retention": "20MB"}')));
answer($node, "SELECT pg_create_physical_replication_slot('idle', true), pg_switch_wal()");
answer($node, "INSERT INTO something VALUES ($_); SELECT pg_switch_wal()") foreach 1 .. 2;
$done = stands_still('a', 'slot_retention', '^idle$', 'a slot at max_slot_retention');
is(answer($node, "SELECT throttle_limit FROM dw_progress WHERE migration = 'a'"), 20 * 1024 * 1024, '... says the limit');
answer($node, q(SELECT dw_set('a', '{"max_slot_retention": "1GB"}')));
is_going($node, 'a', $done, '... a higher limit lets it go on');
$node->append_conf('postgresql.conf', "max_slot_wal_keep_size = '160MB'");
$node->reload;
answer($node, 'INSERT INTO something VALUES (1); SELECT pg_switch_wal()')
  while answer($node, "SELECT pg_current_wal_lsn() - restart_lsn < 130 * 1024 * 1024 FROM pg_replication_slots") eq 't';
$done = stands_still('a', 'slot_retention', '^idle$', 'a slot near max_slot_wal_keep_size');
is(answer($node, "SELECT throttle_limit, (SELECT wal_status FROM pg_replication_slots) IN ('reserved', 'extended') FROM dw_progress WHERE migration = 'a'"),
	0.8 * 160 * 1024 * 1024 . '|t', '... before it is lost');

# the next checkpoint may take it: none is to come by itself
answer($node, 'CHECKPOINT');
$node->append_conf('postgresql.conf', "max_slot_wal_keep_size = '64MB'\nmax_wal_size = '20GB'");
$node->reload;
wait_until($node, "SELECT wal_status = 'unreserved' FROM pg_replication_slots", 'a slot that has lost its claim');
$done = stands_still('a', 'slot_retention', '^idle$', '... is not given up');
is(answer($node, "SELECT throttle_limit, throttle_value > 64 * 1024 * 1024, (SELECT wal_status FROM pg_replication_slots) FROM dw_progress WHERE migration = 'a'"),
	0.8 * 64 * 1024 * 1024 . '|t|unreserved', '... by our WAL');
answer($node, "SELECT pg_drop_replication_slot('idle')");
is_going($node, 'a', $done, '... and goes on when it is dropped');
finish('a', 't');

# --- an old snapshot ---

# Dead rows that an open snapshot keeps, in a table that autovacuum would come for.
$node->append_conf('postgresql.conf', "autovacuum = on\nautovacuum_naptime = '1h'");
$node->reload;
make_table($node, $rows, table => 'o');
my $old = $node->background_psql('postgres');
$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM something');
answer($node, 'UPDATE o SET amount = amount') foreach 1 .. 2;
wait_until($node, "SELECT n_dead_tup > $rows FROM pg_stat_user_tables WHERE relname = 'o'", 'dead rows are counted');
begin_cents($node, 'o', table => 'o', rate => 200);
$done = stands_still('o', 'dead_rows', '^o$', 'dead rows that a snapshot keeps');
$old->quit;
answer($node, 'VACUUM o');
is_going($node, 'o', $done, '... and goes on when they are gone');
finish('o', 'o');

# --- disk ---

SKIP:
{
	skip 'no right to mount a small file system here', 18 unless $small;

	mkdir "$small/space" or die $!;
	answer($node, "CREATE TABLESPACE small LOCATION '$small/space'");
	make_table($node, $rows, table => 'd');
	answer($node, 'ALTER TABLE d SET TABLESPACE small');
	begin_cents($node, 'd', table => 'd', rate => 200);
	wait_middle($node, 'd');
	system("head -c 59M /dev/zero > '$small/filler'");
	$done = stands_still('d', 'disk', '^tablespace small$', 'a disk that is nearly full');
	is(answer($node, "SELECT throttle_limit, throttle_value BETWEEN 95 AND 100 FROM dw_progress WHERE migration = 'd'"), '95|t', '... with value and limit');
	unlink "$small/filler";
	is_going($node, 'd', $done, '... and goes on when there is room');

	# only an index is there
	answer($node, 'ALTER TABLE d SET TABLESPACE pg_default; ALTER INDEX d_pkey SET TABLESPACE small');
	system("head -c 63M /dev/zero > '$small/filler'");
	$done = stands_still('d', 'disk', '^tablespace small$', 'a full disk that only an index is on');
	unlink "$small/filler";
	is_going($node, 'd', $done, '... and goes on when there is room');
	finish('d', 'd');
}

check_log($node, 'the log is clean', qr/archive command failed|archiving write-ahead log file|No space left/);
$node->stop;
done_testing();
