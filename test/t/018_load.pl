# The throttle and the load on the server: sessions that are active, commits that
# take long, sessions that wait for a row of ours, a snapshot that has been held
# for half an hour.  Sessions, locks and snapshots are real; the server runs under
# a clock that this test can set, on a disk that it can make slow, and believes
# that it has two processors (test/clock/clock.c).
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use DW;
use DWSession;
use IPC::Run;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC time);

# ---- the clock ----

my $dir = PostgreSQL::Test::Utils::tempdir();

chomp(my $cc = `pg_config --cc`);
$cc = 'cc' if system("command -v $cc >/dev/null 2>&1") != 0;
plan skip_all => 'needs a C compiler, and Linux'
  unless $^O eq 'linux' && system("command -v $cc >/dev/null 2>&1") == 0;
system($cc, '-O1', '-Wall', '-Werror', '-shared', '-fPIC', '-o', "$dir/clock.so", "$FindBin::RealBin/../clock/clock.c", '-ldl') == 0
  or die 'the clock does not compile';

my %clock = (current => 0, ahead => 0, since => 0, speed => 1, extra => 0, flush => 0);
my $clock_file;

sub set_clock
{
	my (%change) = @_;
	my $now = clock_gettime(CLOCK_MONOTONIC);

	$clock{extra} += ($now - $clock{since}) * ($clock{speed} - 1);
	$clock{since} = $now;
	%clock = (%clock, %change);
	$clock{current} = 1 - $clock{current};
	sysseek $clock_file, 8 + 40 * $clock{current}, 0;
	syswrite $clock_file, pack('d5', @clock{qw(ahead since speed extra flush)});
	sysseek $clock_file, 0, 0;
	syswrite $clock_file, pack('q', $clock{current});
	return;
}

open $clock_file, '+>', "$dir/clock" or die $!;
syswrite $clock_file, "\0" x 88;
set_clock();

my $node;
{
	local $ENV{DW_CLOCK} = "$dir/clock";
	local $ENV{DW_PROCESSORS} = 2;
	local $ENV{LD_PRELOAD} = "$dir/clock.so";
	local $ENV{ASAN_OPTIONS} = ($ENV{ASAN_OPTIONS} ? "$ENV{ASAN_OPTIONS}:" : '') . 'verify_asan_link_order=0';

	# from 19 on the processor's own clock may be read, which the file doesn't set
	my ($major) = `pg_config --version` =~ /(\d+)/;
	my $clock = $major >= 19 ? 'timing_clock_source = system' : '';

	$node = dw_node('load', conf => <<CONF);
max_connections = 60
pg_dualwrite.horizon_wait = 0
$clock
CONF
}

# ---- helpers ----

# All that workers say, lest a poll miss it.
$node->safe_psql('postgres', <<'SQL');
CREATE TABLE nothing (i int);
CREATE TABLE said (n serial, migration text, state text, signal text, subject text, value float8, stop float8);
CREATE FUNCTION say() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS $$
BEGIN
    INSERT INTO said (migration, state, signal, subject, value, stop)
    SELECT m.name, NEW.state, NEW.throttle_signal, NEW.throttle_subject, NEW.throttle_value, NEW.throttle_limit
      FROM dualwrite.migration m WHERE m.id = NEW.migration_id;
    RETURN NULL;
END
$$;
CREATE TRIGGER say AFTER INSERT OR UPDATE ON dualwrite.worker FOR EACH ROW EXECUTE FUNCTION say();
SQL

sub progress
{
	my ($m, $columns) = @_;
	return answer($node, "SELECT $columns FROM dw_progress WHERE migration = '$m'");
}

# Polls dw_progress.
sub until_progress
{
	my ($m, $condition, $test) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_until($node, "SELECT $condition FROM dw_progress WHERE migration = '$m'", $test)
	  or diag(progress($m, 'dw_progress'));
	return;
}

# The backfill stands still, because of that signal; returns its rows.
sub stands_still
{
	my ($m, $signal, $test) = @_;
	my $held = "coalesce((throttled_by ->> '$signal')::numeric, 0)";

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	until_progress($m, "state = 'throttled' AND throttle_signal = '$signal' AND throttle_value >= throttle_limit", "$test: stopped, and says why");
	is(answer($node, "SELECT state, state_reason ~ '^$signal: [0-9.]+, limit [0-9.]+\$' FROM dw_status WHERE migration = '$m'"), 'throttled|t', '... dw_status, too');
	my ($done, $s) = split /\|/, progress($m, "rows_done, $held");
	until_progress($m, "$held > $s + 1", '... for a second');
	is(progress($m, 'rows_done'), $done, '... in which no row was filled');
	return $done;
}

# Bytes of WAL a second, over that many more of them.
sub measure_wal
{
	my ($m, $more) = @_;
	my $sql = 'wal_bytes, extract(epoch FROM clock_timestamp())';
	my ($w0, $t0) = split /\|/, progress($m, $sql);

	until_progress($m, "wal_bytes > $w0 + $more");
	my ($w1, $t1) = split /\|/, progress($m, $sql);
	note(sprintf '%.0f bytes of WAL a second', ($w1 - $w0) / ($t1 - $t0));
	return ($w1 - $w0) / ($t1 - $t0);
}

sub finish
{
	my ($m, $rows, $sum) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	full_speed($node, $m);
	wait_ready($node, $m);
	check_cents($node, 'every row is filled', table => $m);
	is(answer($node, "SELECT count(*), sum(amount) FROM $m"), "$rows|" . ($rows * ($rows + 1) / 2 + ($sum || 0)), 'no row came or went');
	return;
}

sub set
{
	my ($line) = @_;

	$node->append_conf('postgresql.conf', $line);
	$node->reload;
	return;
}

# --- active_backends ---

# Sessions that read from a file that nobody has written yet: they count as the
# disk's, and take no processor from anybody.
my @readers;

sub readers
{
	my ($n) = @_;
	my $script = "$dir/script" . @readers;
	my $fifo = "$dir/fifo" . @readers;
	my ($in, $out, $err) = ('', '', '');

	POSIX::mkfifo($fifo, 0600) or die $!;
	append_to_file($script, "COPY nothing FROM '$fifo';\n");
	my $run = IPC::Run::start([ 'pgbench', '-n', '-c', $n, '-t', 1, '-f', $script, $node->connstr('postgres') ], \$in, '>', \$out, '2>', \$err);
	push @readers, { fifo => $fifo, run => $run };
	wait_until($node, "SELECT count(*) = $n FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%$fifo%' AND pid <> pg_backend_pid()");
	return;
}

sub readers_end
{
	foreach (@readers)
	{
		sysopen my $file, $_->{fifo}, POSIX::O_WRONLY() or die $!;
		close $file;
		$_->{run}->finish;
	}
	@readers = ();
	return;
}

make_table($node, 200000, table => 'a');
set_clock(speed => 5);
begin_cents($node, 'a', table => 'a', rate => 200);
readers(15);
wait_until($node, "SELECT count(*) >= 8 FROM said WHERE migration = 'a'");
set_clock(speed => 1);
full_speed($node, 'a');
until_progress('a', "state = 'throttled' AND throttle_signal = 'active_backends' AND throttle_value BETWEEN 4 AND 7.99 AND throttle_limit = 8",
	'many active sessions make it slow');
cmp_ok(measure_wal('a', 1_000_000), '<', 4_500_000, '... by the WAL that it may write');
answer($node, q(SELECT dw_set('a', '{"max_rows_per_second": 100}')));
set_clock(speed => 3);
readers(17);
my $done = stands_still('a', 'active_backends', 'as many as stop it');
is(progress('a', 'throttle_value BETWEEN 8 AND 17'), 't', '... counted a processor');

# A load that never ends only makes it slow: after a minute (of its own clock) one
# batch goes through.
set_clock(speed => 20);
my $began = time;
is_going($node, 'a', $done, 'load alone does not stop it for ever');
until_progress('a', "state = 'throttled' AND throttle_signal = 'active_backends'", '... though the load is still there');
my $batches = 1 + (time - $began) / 3;
cmp_ok(progress('a', 'rows_done') - $done, '<=', 400 * $batches, '... one batch a minute');
readers_end();
wait_until($node, "SELECT state = 'running' FROM said WHERE migration = 'a' ORDER BY n DESC LIMIT 1", '... and it goes on when the sessions have ended');
set_clock(speed => 1);
finish('a', 200000);

# --- commit_time ---

set('fsync = on');
set_clock(speed => 2, flush => 0.03);    # that is 60 ms of the server's
make_table($node, 150000, table => 'c');
$node->safe_psql('postgres',
	q(SELECT dw_begin('c', 'c', 'amount', 'bigint', 'cents', 'amount * 100::bigint', 'cents / 100', '{"batch_time": "50ms"}')));
until_progress('c', "state = 'throttled' AND throttle_signal = 'commit_time' AND throttle_value BETWEEN 50 AND 99.9 AND throttle_limit = 100",
	'commits that take long make it slow');
set_clock(flush => 0.1);
$done = stands_still('c', 'commit_time', 'commits that take too long');
set_clock(flush => 0);
is_going($node, 'c', $done, '... and it goes on when they are fast again');
set('fsync = off');
finish('c', 150000);
set_clock(speed => 1);

# --- blocked_sessions ---

# The worker, and nobody else, takes its time for some rows: many, as one that is the
# first of its batch finds no row locked.
$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION cents_of(amount int) RETURNS bigint LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    IF (amount IN (1, 2) OR amount BETWEEN 1000 AND 3000 AND amount % 100 = 0) AND current_setting('load.slow') = 'on' AND EXISTS (SELECT 1 FROM pg_stat_activity WHERE pid = pg_backend_pid() AND backend_type ~ 'worker') THEN
        PERFORM pg_sleep(CASE amount WHEN 1 THEN 0.7 ELSE 2 END);
    END IF;
    RETURN amount * 100::bigint;
END
$$;
SQL
set('load.slow = on');
make_table($node, 3000, table => 'b');
my $s = session_open($node->connstr('postgres'));
my $plus = 0;

# The application writes a row that a batch has locked for a while already, and
# will for a while, as it is busy with a slow one.
sub write_locked_row
{
	my ($test) = @_;
	my ($r, $row, $waited);
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	do
	{
		my $t0 = time;
		($r, $row) = session_do($s, <<'SQL');
UPDATE b SET amount = amount + 100000 WHERE id = (SELECT min(id) FROM b WHERE xmax::text =
  (SELECT backend_xid::text FROM pg_stat_activity
    WHERE backend_type = 'pg_dualwrite worker' AND wait_event = 'PgSleep' AND clock_timestamp() - xact_start > '150 ms')) RETURNING id || ' ' || amount || ' ' || cents
SQL
		$waited = time - $t0;
	} while ($r eq 'ok' && !defined $row && time < $deadline);
	note(sprintf 'row %s, waited %.2f s', $row // 'none', $waited);
	$plus += 100000;
	my ($id) = ($row // '') =~ /^(\d+)/;
	is($row, defined $id ? "$id " . ($id + 100000) . ' ' . ($id + 100000) * 100 : 'a row', "$test: the application's write is done, in both columns");
	cmp_ok($waited, '<', 1.5, '... and did not wait for the end of the batch');
	return;
}

$node->safe_psql('postgres',
	q(SELECT dw_begin('b', 'b', 'amount', 'bigint', 'cents', 'public.cents_of(amount)', 'cents / 100')));
write_locked_row('a row, and the one before it was slow, too');
write_locked_row('a batch that meets a slow row');
session_close($s);
wait_until($node, 'SELECT count(*) FILTER (WHERE id = 2) = 1 AND count(*) > 1 FROM b WHERE (id = 2 OR amount BETWEEN 1000 AND 3000 AND amount % 100 = 0) AND cents IS NOT NULL',
	'the slow rows are filled');
set('load.slow = off');
finish('b', 3000, $plus);
cmp_ok(() = slurp_file($node->logfile) =~ /canceling statement due to user request\n.*DETAIL:  The batch had held row locks for half a second/g, '>=', 2,
	'the log says that the batches were cut short');
is(answer($node, "SELECT DISTINCT state, value, stop FROM said WHERE migration = 'b' AND signal = 'blocked_sessions' AND value >= stop"),
	'throttled|500|500', 'it stood still for a moment, and said why');
is(answer($node, q(SELECT drifted + unconvertible, (SELECT count(*) FROM dw_drift) FROM dw_status WHERE migration = 'b')), '0|0', 'nothing was recorded as drift');

# --- old_snapshot ---

make_table($node, 40000, table => 'o');
my $old = $node->background_psql('postgres');
my $since = time;
my ($pid) = $old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_backend_pid(), count(*) FROM nothing') =~ /^(\d+)/;
answer($node, 'UPDATE o SET amount = amount') foreach 1 .. 2;
wait_until($node, "SELECT n_dead_tup >= 80000 FROM pg_stat_user_tables WHERE relname = 'o'");
begin_cents($node, 'o', table => 'o', rate => 200);
wait_middle($node, 'o');
set_clock(ahead => 1750 - (time - $since));
# 17 MB of WAL in all, and after the next tick not more than 0.9 MB a second
answer($node, q(SELECT dw_set('o', '{"max_rows_per_second": null, "max_wal_per_second": "1MB"}')));
until_progress('o', "state = 'throttled' AND throttle_signal = 'old_snapshot' AND throttle_value BETWEEN 1750 AND 1799.9 AND throttle_limit = 1800"
	. " AND throttle_subject = 'pid $pid'", 'a snapshot that was taken half an hour ago makes it slow, which says whose it is');
set_clock(ahead => 1900);
$done = stands_still('o', 'old_snapshot', 'an older one');
$old->quit;
is_going($node, 'o', $done, '... and it goes on when that has ended');
answer($node, q(SELECT dw_set('o', '{"max_wal_per_second": null}')));
set_clock(speed => 3);
finish('o', 40000);

check_log($node, 'the log is clean');
$node->stop;
done_testing();
