#!/usr/bin/perl
# The chaos run: a server, writers of both versions of an application, migration
# after migration, and faults all the time.  What every row must hold is known
# outside the database, by what the writers have been told.
#
#     run.pl [--seed N] [--keep] SECONDS
#
# Needs PostgreSQL's programs in PATH, with the extension installed, and must
# not be root.  test/chaos makes such a place.
use strict;
use warnings FATAL => 'all';

use Cwd 'abs_path';
use File::Temp ();
use FindBin;
use Getopt::Long;
use POSIX ();
use Time::HiRes qw(sleep time);

use lib "$FindBin::RealBin/../t", $FindBin::RealBin;
use DWSession;
use Writer;

my ($seed, $keep) = (int rand 1_000_000, 0);
GetOptions('seed=i' => \$seed, 'keep' => \$keep) && @ARGV == 1 && $ARGV[0] =~ /^\d+$/
  or die "usage: run.pl [--seed N] [--keep] SECONDS\n";
my $seconds = $ARGV[0];

my $rows = 3000;
my $shared = 20;
my $nwriters = 4;

$| = 1;
srand $seed;
my $dir = File::Temp::tempdir('chaos.XXXXXX', TMPDIR => 1);
my $data = "$dir/data";
my $connstr = "host=$dir port=5432 user=postgres dbname=postgres";
my $began = time;
my ($session, $holder, $stopper);
my @writers;                         # pids
my ($passed, $failed) = (0, 0);
my %did;                             # "verb dw_switch" => { ok => n, 55000 => n, lost => n }, "fault ..." => n
my %state = (gen => 0, old => 0, new => '', may => 'oa or', read => 0, hold => 0);
my $hole = 0;                        # the mirror has been off: only the side in authority says anything
my $begun = 0;                       # migrations
my %reported;                        # problems of writers

sub note { printf "%7.2f  %s\n", time - $began, join '', @_; return }

sub check
{
	my ($ok, $what, @why) = @_;

	if ($ok) { $passed++; return 1 }
	$failed++;
	note("FAILED: $what");
	note("        $_") foreach @why[ 0 .. ($#why < 19 ? $#why : 19) ];
	return 0;
}

# --- the server ---------------------------------------------------------------

sub run_quietly
{
	my @command = @_;
	my $pid = fork // die 'fork failed';

	if ($pid == 0)
	{
		open STDIN, '<', '/dev/null';
		open STDOUT, '>>', "$dir/commands.log";
		open STDERR, '>&', \*STDOUT;
		exec @command or POSIX::_exit(127);
	}
	waitpid $pid, 0;
	return $? == 0;
}

sub make_server
{
	run_quietly('initdb', '-D', $data, '-U', 'postgres', '-A', 'trust', '--no-sync', '--no-locale', '--encoding=UTF8') or die "initdb failed, see $dir\n";
	open my $conf, '>>', "$data/postgresql.conf" or die $!;
	print $conf <<CONF;
listen_addresses = ''
unix_socket_directories = '$dir'
fsync = off
shared_buffers = 16MB
max_connections = 40
max_worker_processes = 12
max_prepared_transactions = 5
autovacuum_naptime = 1
autovacuum_vacuum_threshold = 200
checkpoint_timeout = 30
log_line_prefix = '%m [%p] %b %a %e '
log_min_messages = warning
pg_dualwrite.inline_limit = 0
pg_dualwrite.lock_retries = 20
CONF
	print $conf "shared_preload_libraries = 'pg_dualwrite'\n" if rand() < 0.5;
	close $conf;
	start_server();
	return;
}

sub start_server
{
	for (1 .. 100)
	{
		return 1 if run_quietly('pg_ctl', '-D', $data, '-l', "$dir/server.log", '-w', 'start');
		sleep 0.2;
	}
	die "the server doesn't start, see $dir\n";
}

sub postmaster_pid
{
	open my $file, '<', "$data/postmaster.pid" or return;
	my $pid = <$file>;

	return $pid && $pid =~ /^(\d+)/ ? $1 : undef;
}

sub children
{
	my ($parent) = @_;
	my @pids;

	foreach my $file (glob '/proc/[0-9]*/stat')
	{
		open my $in, '<', $file or next;
		my $stat = <$in> // next;
		push @pids, $1 if $stat =~ /^(\d+) \(.*\) \S (\d+) /s && $2 == $parent;
	}
	return @pids;
}

sub kill_postmaster
{
	my $pid = postmaster_pid() or return;

	kill 'STOP', $pid;
	my @children = children($pid);
	kill 'KILL', $pid;
	for (1 .. 500)
	{
		@children = grep { kill 0, $_ } @children or last;
		sleep 0.02;
	}
	kill 'KILL', @children if @children;
	start_server();
	return;
}

# --- asking -------------------------------------------------------------------

# Runs a statement once.  ('ok', rows), ('error', sqlstate), ('lost').
sub once
{
	my ($sql) = @_;

	unless ($session)
	{
		my $s = session_open($connstr, "$dir/err");
		my ($r) = session_do($s, "SET application_name = 'chaos'");
		if ($r ne 'ok')
		{
			session_close($s);
			return ('lost');
		}
		$session = $s;
	}
	truncate "$dir/err", 0;
	my @answer = session_do($session, $sql);
	if ($answer[0] eq 'lost')
	{
		session_close($session);
		undef $session;
	}
	return @answer;
}

sub message
{
	open my $in, '<', "$dir/err" or return '';
	my $text = join ' ', grep { !/^NOTICE/ } <$in>;

	$text =~ s/[\0\s]+/ /g;
	return substr $text, 0, 300;
}

# ... until there is an answer; the server has a minute to come back.
sub ask
{
	my ($sql) = @_;
	my $end = time + 60;

	while (time < $end)
	{
		my ($r, @rows) = once($sql);

		return @rows if $r eq 'ok';
		die "$sql: $rows[0] " . message() . "\n" if $r eq 'error' && $rows[0] ne '57014';
		sleep 0.1;
	}
	die "the server doesn't come back, see $dir\n";
}

# The active migration, as (name, phase, state, mirror, verified, last_error); () if there is none.
sub active
{
	my ($row) = ask(<<SQL);
SELECT s.migration, s.phase, s.state, o.setting, s.verified_at IS NOT NULL, s.worker_pids <> '{}', s.drifted + s.unconvertible, coalesce(s.last_error, '')
  FROM dw_status s JOIN dw_options o ON o.migration = s.migration AND o.name = 'mirror'
 WHERE s.phase NOT IN ('finalized', 'aborted')
SQL
	my %m;

	return unless defined $row;
	@m{qw(name phase state mirror verified worker drift error)} = split /\|/, $row, 8;
	return \%m;
}

# --- what writers may do ------------------------------------------------------

sub announce
{
	my (%now) = @_;

	%state = (%state, %now, gen => $state{gen} + 1);
	Writer::spill("$dir/state", map { "$_=$state{$_}\n" } keys %state);
	return;
}

# Waits until all writers have heard; false if one is stuck.
sub heard
{
	my ($seconds) = @_;
	my $end = time + $seconds;
	my $late = 0;

	while (time < $end)
	{
		$late = 0;
		foreach my $i (0 .. $nwriters - 1)
		{
			my $gen = -1;

			if (open my $in, '<', "$dir/ack.$i") { $gen = <$in> // -1 }
			$late++ if $gen != $state{gen};
		}
		return 1 unless $late;
		sleep 0.02;
	}
	return 0;
}

# By the migration as it is now.
sub announce_by
{
	my ($m) = @_;
	my ($first, $second) = split / /, join ' ', ask("SELECT substr(attname, 2) FROM pg_attribute WHERE attrelid = 't'::regclass AND attname ~ '^c[0-9]+\$' AND NOT attisdropped ORDER BY attnum");
	my %now = (old => $first, new => '', may => 'oa or', read => $first, hold => $state{hold});

	if (!$m)
	{
		check(!defined $second, "without a migration there is one column (c$first" . (defined $second ? " c$second" : '') . ')');
		$hole = 0;
	}
	elsif (!check(defined $second, "a migration has two columns, and not only c$first")) { }
	else
	{
		my $switched = $m->{phase} eq 'switched';

		$now{new} = $second;
		$hole = 0 if $hole && $m->{mirror} eq 'both' && $m->{verified} eq 't';
		$now{read} = $second if $switched;
		if ($hole) { $now{may} = $switched ? 'na nr' : 'oa or' }
		elsif ($m->{phase} =~ /^(?:ready|switched)$/) { $now{may} = 'oa or na nr' }
		else { $now{may} = 'oa or na' }
	}
	announce(%now) if grep { $state{$_} ne $now{$_} } keys %now;
	return;
}

# --- verbs --------------------------------------------------------------------

# What a verb may answer, besides that it has worked.
my $tolerated = qr/^(?:55000|55P03|DWFLT|57014|53400)$/;

sub verb
{
	my ($what, $sql) = @_;
	my ($r, $state) = once($sql);
	my $result = $r eq 'error' ? $state : $r;

	$did{"verb $what"}{$result}++;
	note("$what: $result", $r eq 'error' ? ' ' . message() : '');
	check(0, "$what answers $state", message()) if $r eq 'error' && $state !~ $tolerated;
	return $r;
}

sub begin
{
	my $old = $state{old};
	my $new = $old + 1;
	my $name = 'm' . ++$begun;
	my ($type, $forward, $backward) = $new % 2 ? ('bigint', "c$old * 100::bigint", "c$new / 100") : ('int', "c$old / 100", "c$new * 100::bigint");
	my $options = '"conflict": "authority"';

	$options .= ', "max_rows_per_second": ' . (500 + int rand 3000) if rand() < 0.5;
	$options .= ', "batch_time": ' . (1 + int rand 20) if rand() < 0.3;
	verb('dw_begin', "SELECT dw_begin('$name', 't', 'c$old', '$type', 'c$new', '$forward', '$backward', '{$options}')");
	return;
}

# The verbs that take columns away: applications that use them are gone by then.
sub ends
{
	my ($verb, $m, %now) = @_;

	announce(%now);
	if (!heard(5)) { note("a writer has not heard, so no $verb") }
	elsif (verb($verb, "SELECT $verb('$m->{name}')") eq 'ok')
	{
		my ($phase) = ask("SELECT phase FROM dw_status WHERE migration = '$m->{name}'");

		check($phase eq ($verb eq 'dw_abort' ? 'aborted' : 'finalized'), "an acknowledged $verb has happened ($phase)");
	}
	return;
}

sub mirror_off
{
	my ($m) = @_;
	my $switched = $m->{phase} eq 'switched';

	$hole = 1;
	announce(may => $switched ? 'na nr' : 'oa or');
	if (heard(5)) { verb('dw_set mirror off', "SELECT dw_set('$m->{name}', '{\"mirror\": \"off\"}')") }
	return;
}

sub flip
{
	my ($verb, $m, $phase) = @_;

	return unless verb($verb, "SELECT $verb('$m->{name}')") eq 'ok';
	my ($now) = ask("SELECT phase FROM dw_status WHERE migration = '$m->{name}'");
	check($now eq $phase, "an acknowledged $verb has happened ($now)");
	return;
}

sub some_verb
{
	my ($m) = @_;
	my $dice = rand;

	return begin() unless $m;
	my $q = "'$m->{name}'";
	return verb('dw_resume', "SELECT dw_resume($q)") if $m->{state} =~ /^(?:paused|failed)$/ && $dice < 0.7;
	return verb('dw_ensure_workers', 'SELECT dw_ensure_workers()') if $m->{state} eq 'no_worker' && $dice < 0.7;
	return verb('dw_set mirror both', "SELECT dw_set($q, '{\"mirror\": \"both\"}')") if $m->{mirror} ne 'both' && $dice < 0.5;
	$dice = rand;
	return verb('dw_pause', "SELECT dw_pause($q)") if $dice < 0.05;
	return verb('dw_set', "SELECT dw_set($q, '{\"max_rows_per_second\": " . ($dice < 0.08 ? 'null' : 300 + int rand 3000) . '}\')') if $dice < 0.1;
	return verb('dw_verify', "SELECT dw_verify($q)") if $dice < 0.15;
	return verb('dw_reconcile', "CALL dw_reconcile($q)") if $dice < 0.2;
	return mirror_off($m) if $dice < 0.23 && $m->{mirror} eq 'both';
	if ($m->{phase} eq 'ready')
	{
		return flip('dw_switch', $m, 'switched') if $dice < 0.5;
		return ends('dw_abort', $m, new => '', may => 'oa or', read => $state{old}) if $dice < 0.55;
	}
	elsif ($m->{phase} eq 'switched')
	{
		return flip('dw_rollback', $m, 'ready') if $dice < 0.3;
		return ends('dw_finalize', $m, may => 'na nr', read => $state{new}) if $dice < 0.55;
		# in sync, unless the mirror is, or was, off: then the old side isn't up to date
		return ends('dw_abort', $m, new => '', may => 'oa or', read => $state{old}) if $dice < 0.58 && !$hole;
	}
	else
	{
		return ends('dw_abort', $m, new => '', may => 'oa or', read => $state{old}) if $dice < 0.25;
	}
	sleep 0.1 + rand 0.3;
	return;
}

# --- faults -------------------------------------------------------------------

# An idle transaction, in a process of its own, which ends it after a while; one at a time.
sub hold
{
	my ($sql, $seconds) = @_;

	return if $holder;
	Writer::spill("$dir/holder.sql", "BEGIN;\nSET LOCAL lock_timeout = '2s';\n$sql;\n\\! sleep " . sprintf('%.2f', $seconds) . "\n",
		rand() < 0.5 ? "COMMIT;\n" : "ROLLBACK;\n");
	$holder = fork // die 'fork failed';
	return if $holder;
	open STDIN, '<', "$dir/holder.sql";
	open STDOUT, '>', '/dev/null';
	open STDERR, '>&', \*STDOUT;
	exec 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $connstr or POSIX::_exit(127);
}

sub process
{
	my ($where) = @_;

	return (ask("SELECT pid FROM pg_stat_activity WHERE $where ORDER BY random() LIMIT 1"))[0];
}

my $a_writer = "application_name = 'psql' AND backend_type = 'client backend'";
my $a_worker = "backend_type = 'pg_dualwrite worker'";
my @points = (qw(mirror_before mirror_after fill_updated fill_between verify_chunk reconcile_chunk),
  map { ("${_}_before_commit", "${_}_after_commit") } qw(fill verify begin filled verified hole switch rollback finalize abort));

my @faults = (
	[ 4, 'kill -9 of a worker', sub { my $p = process($a_worker) or return; kill 'KILL', $p } ],
	[ 2, 'kill -9 of a writer', sub { my $p = process($a_writer) or return; kill 'KILL', $p } ],
	[ 5, 'pg_terminate_backend of a worker', sub { my $p = process($a_worker) or return; once("SELECT pg_terminate_backend($p)") } ],
	[ 3, 'pg_terminate_backend of a writer', sub { my $p = process($a_writer) or return; once("SELECT pg_terminate_backend($p)") } ],
	[ 3, 'pg_cancel_backend of a worker', sub { my $p = process($a_worker) or return; once("SELECT pg_cancel_backend($p)") } ],
	[ 2, 'pg_cancel_backend of a writer', sub { my $p = process($a_writer) or return; once("SELECT pg_cancel_backend($p)") } ],
	[ 2, 'immediate restart', sub { run_quietly('pg_ctl', '-D', $data, '-m', 'immediate', 'stop'); start_server() } ],
	[ 1, 'fast restart', sub { run_quietly('pg_ctl', '-D', $data, '-m', 'fast', 'stop'); start_server() } ],
	[ 2, 'kill -9 of the postmaster', \&kill_postmaster ],
	[ 3, 'stopped worker', \&stop_worker ],
	[ 4, 'lock of rows', sub { hold('SELECT id FROM t WHERE id % ' . (2 + int rand 50) . ' = 0 FOR UPDATE', rand 1.5) } ],
	[ 2, 'lock of the table', sub { hold('LOCK TABLE t IN ' . (qw(SHARE EXCLUSIVE), 'ROW EXCLUSIVE')[ rand 3 ] . ' MODE', rand 1) } ],
	[ 2, 'open transaction that has written', sub { hold('UPDATE t SET filler = filler WHERE id <= ' . (1 + int rand $shared), rand 2) } ],
	[ 1, 'old snapshot', sub { hold('SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class', rand 3) } ],
	[ 1, 'VACUUM', sub { once('VACUUM t') } ],
	[ 1, 'VACUUM FREEZE', sub { once('VACUUM FREEZE t') } ],
	[ 1, 'VACUUM FULL', sub { once('VACUUM FULL t') } ],
	[ 1, 'CLUSTER', sub { once('CLUSTER t USING t_pkey') } ],
	[ 16, 'fault point', \&fault_point ],
	[ 3, 'fault points off', sub { once('SELECT dw_fault_off()') } ],
);

# It goes on by itself: a verb that waits for a lock of the worker would keep
# this process from telling it.
sub stop_worker
{
	return if $stopper;
	my $p = process($a_worker) or return;

	kill 'STOP', $p;
	$stopper = fork // die "fork: $!";
	return if $stopper > 0;
	select(undef, undef, undef, rand 1.5);
	kill 'CONT', $p;
	POSIX::_exit(0);
}

sub fault_point
{
	my $point = $points[ rand @points ];
	my $action = (qw(error crash sleep))[ rand 3 ];
	my $often = $point =~ /^mirror/ ? ', probability => 0.02' : '';

	$action = (qw(crash sleep))[ rand 2 ] if $point =~ /_after_commit$/;
	my $code = (qw(DWFLT DWFLT XX000 53100 40001 55P03))[ rand 6 ];
	$code = 'DWFLT' if $point =~ /^(?:mirror|reconcile|begin|hole|switch|rollback|finalize|abort)/;
	my $delay = sprintf '%d ms', 20 + rand 600;
	my ($r) = once("SELECT dw_fault('$point', '$action', times => " . (1 + int rand 2) . ", delay => '$delay', sqlstate => '$code'$often)");
	$did{'fault point ' . $action}{$point}++ if $r eq 'ok';
	return;
}

sub some_fault
{
	my $sum = 0;
	$sum += $_->[0] foreach @faults;
	my $dice = rand $sum;

	foreach my $f (@faults)
	{
		$dice -= $f->[0];
		next if $dice >= 0;
		note("fault: $f->[1]");
		$did{'fault'}{ $f->[1] }++;
		$f->[2]->();
		return;
	}
	return;
}

# What was begun some time ago and is over now.
sub let_go
{
	undef $holder if $holder && waitpid($holder, POSIX::WNOHANG()) != 0;
	undef $stopper if $stopper && waitpid($stopper, POSIX::WNOHANG()) != 0;
	return;
}

# --- the oracle ---------------------------------------------------------------

sub books
{
	my %books = (expect => {}, plus => {}, doubt => {}, count => {}, problems => []);

	foreach my $i (0 .. $nwriters - 1)
	{
		open my $in, '<', "$dir/books.$i" or next;
		while (<$in>)
		{
			chomp;
			my ($what, $id, $value) = split / /, $_, 3;

			if ($what eq '=') { $books{expect}{$id} = $value }
			elsif ($what eq '+') { $books{plus}{$id} += $value }
			elsif ($what eq '?') { $books{doubt}{$id} += $value }
			elsif ($what eq 'N') { $books{count}{$id} += $value }
			elsif ($what eq 'P') { push @{ $books{problems} }, "$id $value" }
		}
	}
	return \%books;
}

# Every row, by plain SQL, against the writers' books; while they hold.
sub compare
{
	my ($what, $m) = @_;
	my $books = books();
	my ($old, $new) = @state{qw(old new)};
	my @bad;
	my %row;
	my $both = $m && !$hole && $new ne '';
	my $full = $m && $m->{phase} =~ /^(?:ready|switched)$/;

	foreach (ask('SELECT * FROM (SELECT id, c' . $old . '::text AS o, ' . ($both ? "c$new" : 'NULL') . "::text AS n, c$state{read}::text FROM t) x"))
	{
		my ($id, $o, $n, $value) = split /\|/, $_, -1;

		$row{$id} = $value eq '' ? 'null' : $value / Writer::scale($state{read});
		push @bad, "row $id: c$old is $o, c$new is $n"
		  if $both && ($full || $n ne '') && ($o eq '' || $n eq '' || $o * Writer::scale($new) != $n * Writer::scale($old));
	}
	my $checked = scalar keys %row;
	foreach my $id (1 .. $shared)
	{
		my ($plus, $doubt) = map { $books->{$_}{$id} // 0 } qw(plus doubt);
		my $is = delete $row{$id} // 'gone';

		push @bad, "row $id holds $is, not $id + $plus" . ($doubt ? " to $doubt more" : '')
		  unless $is =~ /^-?\d+$/ && $is >= $id + $plus && $is <= $id + $plus + $doubt;
	}
	foreach my $id ($shared + 1 .. $rows) { $books->{expect}{$id} //= $id }
	foreach my $id (keys %{ $books->{expect} })
	{
		my $is = delete $row{$id} // 'nothing';

		push @bad, "row $id holds $is, not $books->{expect}{$id}" unless $is eq $books->{expect}{$id};
	}
	push @bad, "row $_ is from nowhere" foreach keys %row;
	push @bad, grep { !$reported{$_}++ } @{ $books->{problems} };
	$did{rows}{checked} += $checked;
	$did{rows}{wrong} += @bad;
	note("$what: $checked rows compared, " . @bad . ' lost or wrong');
	check(!@bad, "$what: every row holds what its writer was told", @bad);
	return;
}

sub hold_and_compare
{
	my ($what) = @_;

	announce(hold => 1);
	if (!heard(20))
	{
		check(0, "$what: a writer is stuck", ask("SELECT pid, state, wait_event_type, wait_event, query FROM pg_stat_activity WHERE state <> 'idle'"));
		return;
	}
	my $m = active();
	announce_by($m);
	compare($what, $m);
	return;
}

# --- the run ------------------------------------------------------------------

sub look_at
{
	my ($m) = @_;

	return unless $m;
	check($m->{worker} eq 't', "state $m->{state} has a worker") if $m->{state} =~ /^(?:running|throttled)$/;
	check(0, "rows were found to differ", ask('SELECT key, old_values, new_values, reason, message FROM dw_drift WHERE repaired_at IS NULL LIMIT 5'), $m->{error}) if $m->{drift} > 0 && !$hole;
	check(0, "migration $m->{name} has failed: $m->{error}") if $m->{state} eq 'failed' && $m->{error} !~ /fault point/;
	return;
}

sub start_writer
{
	my ($i) = @_;
	my $parent = $$;
	my $pid = fork // die 'fork failed';

	if ($pid == 0)
	{
		# its own of everything
		$session = $holder = undef;
		my $w = Writer->new(dir => $dir, connstr => $connstr, number => $i, writers => $nwriters, rows => $rows,
			shared => $shared, seed => $seed * 100 + $i, parent => $parent);
		eval { $w->run; 1 } or do { $w->problem("died: $@"); $w->leave_books };
		POSIX::_exit(0);
	}
	push @writers, $pid;
	return;
}

# Nothing is armed, held or stopped any more: now it has to get well by itself.
sub recover
{
	my $end = time + 60;

	waitpid $stopper, 0 if $stopper;
	undef $stopper;
	ask('SELECT dw_fault_off()');
	while (time < $end)
	{
		my $m = active();

		announce_by($m);
		return 1 if !$m || ($m->{phase} =~ /^(?:ready|switched)$/ && !$hole && $m->{state} eq 'idle');
		my $q = "'$m->{name}'";
		if ($m->{mirror} ne 'both') { verb('dw_set mirror both', "SELECT dw_set($q, '{\"mirror\": \"both\"}')") }
		elsif ($m->{state} =~ /^(?:paused|failed)$/) { verb('dw_resume', "SELECT dw_resume($q)") }
		elsif ($m->{state} eq 'no_worker') { verb('dw_ensure_workers', 'SELECT dw_ensure_workers()') }
		once("SELECT dw_set($q, '{\"max_rows_per_second\": null}')");
		sleep 0.2;
	}
	return 0;
}

sub log_complaints
{
	open my $in, '<', "$dir/server.log" or return ();
	return grep { /PANIC:|TRAP:|terminated by signal (?:4|6|7|8|11):|reference leak|refcount leak|you don't own a lock|XX000 (?:ERROR|FATAL):  (?!fault point)|XX000 LOG:  pg_dualwrite worker of migration \d+: (?!fault point)|cache lookup failed|invalid page|could not open relation with OID/ } <$in>;
}

sub report
{
	my $books = books();
	my $writes = $books->{count}{ok} // 0;

	print "\n";
	printf "%-34s %s\n", 'seed', $seed;
	printf "%-34s %s\n", 'writes acknowledged', $writes;
	printf "%-34s %s\n", 'writes in doubt, looked up later', $books->{count}{lost} // 0;
	printf "%-34s %s\n", 'writes refused', join ', ', map { "$_ $books->{count}{$_}" } grep { /^[0-9A-Z]{5}$/ } sort keys %{ $books->{count} };
	printf "%-34s %s\n", 'rows read back by their writers', $books->{count}{read} // 0;
	foreach my $what (sort grep { /^(?:verb|fault)/ } keys %did)
	{
		printf "%-34s %s\n", $what, join ', ', map { "$_ $did{$what}{$_}" } sort keys %{ $did{$what} };
	}
	printf "%-34s %d\n", 'migrations begun', $begun;
	printf "%-34s %d\n", 'rows compared', $did{rows}{checked} // 0;
	printf "%-34s %d\n", 'lost or wrong values', $did{rows}{wrong} // 0;
	check($writes > 0, 'something was written');
	return;
}

sub finish
{
	if ($keep || $failed) { note("kept: $dir") }
	my $pid = postmaster_pid();
	run_quietly('pg_ctl', '-D', $data, '-m', 'immediate', 'stop') if $pid;
	system 'rm', '-rf', $dir unless $keep || $failed;
	return;
}

sub main
{
	note("seed $seed, in $dir");
	make_server();
	ask($_) foreach 'CREATE EXTENSION pg_dualwrite', 'CREATE TABLE t (id int PRIMARY KEY, c0 int, filler text)',
	  "INSERT INTO t SELECT i, i, repeat('x', 150) FROM generate_series(1, $rows) i";
	announce();
	start_writer($_) foreach 0 .. $nwriters - 1;

	my $next_compare = time + 6;
	while (time - $began < $seconds)
	{
		let_go();
		if (time > $next_compare)
		{
			hold_and_compare('in between');
			announce(hold => 0);
			$next_compare = time + 6 + rand 6;
		}
		my $m = active();
		announce_by($m);
		look_at($m);
		if (rand() < 0.35) { some_fault() }
		else { some_verb($m) }
		sleep rand 0.15;
	}
	check(recover(), 'it gets well by itself', ask('SELECT * FROM dw_status'));
	announce(hold => 0);
	sleep 1;
	hold_and_compare('at the end');
	my $m = active();
	look_at($m);
	check(scalar(ask("SELECT count(*) FROM dw_events")) > 0, 'events were recorded');
	Writer::spill("$dir/stop", "stop\n");
	waitpid $_, 0 foreach @writers;
	my @complaints = log_complaints();
	check(!@complaints, 'the server log has no complaints', @complaints);
	report();
	return;
}

my $main = $$;
local $SIG{INT} = local $SIG{TERM} = sub { exit 1 };
eval { main(); 1 } or check(0, "the run broke: $@");
foreach (@writers) { kill 'TERM', $_ if kill 0, $_ }
finish();
print "$passed passed, $failed failed\n";
exit($failed ? 1 : 0);
