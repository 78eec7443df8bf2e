# What the TAP tests of pg_dualwrite share: nodes, asking, waiting, and writers
# of both application versions whose acknowledged writes are remembered outside
# of the database and compared with it row by row at the end.
#
# The table of most tests is t(id, amount, cents): amount is the old side, whole
# units; cents the new one, a hundred times as much.
package DW;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use POSIX ();
use Time::HiRes 'sleep';

use DWSession;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(
  dw_node make_table begin_cents begin_sql sql_ok sql_fails answer status_is
  wait_until wait_ready wait_middle full_speed is_held is_going workers worker_pid crash
  check_cents check_log crashed crash_noise
  start_writers stop_writers compare_writers);

# ---- nodes ----

# A server with the extension in database postgres.  conf: lines of
# postgresql.conf; init: arguments of init; create => 0: no extension.
sub dw_node
{
	my ($name, %arg) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(%{ $arg{init} || {} });
	$node->append_conf('postgresql.conf', <<CONF);
log_statement = none
log_min_messages = warning
max_connections = 40
shared_buffers = 16MB
autovacuum = off
restart_after_crash = on
max_prepared_transactions = 10
max_worker_processes = 12
pg_dualwrite.inline_limit = 0
CONF
	$node->append_conf('postgresql.conf', $arg{conf}) if defined $arg{conf};
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION pg_dualwrite') unless defined $arg{create} && !$arg{create};
	return $node;
}

# Table t with so many rows: amount = id, and a filler that makes some 30 rows
# a page.
sub make_table
{
	my ($node, $rows, %arg) = @_;
	my $db = $arg{db} || 'postgres';
	my $t = $arg{table} || 't';

	$node->safe_psql($db, <<SQL);
CREATE TABLE $t (id int PRIMARY KEY, amount int, filler text);
INSERT INTO $t SELECT i, i, repeat('x', 200) FROM generate_series(1, $rows) i;
SQL
	return;
}

# Begins migration $m of amount to cents.  rate: rows a second, for tests that
# want to be in the middle of it.
sub begin_cents
{
	my ($node, $m, %arg) = @_;
	return $node->safe_psql($arg{db} || 'postgres', begin_sql($m, %arg));
}

sub begin_sql
{
	my ($m, %arg) = @_;
	my $t = $arg{table} || 't';
	my $options = defined $arg{rate} ? qq({"max_rows_per_second": $arg{rate}}) : '{}';

	return "SELECT dw_begin('$m', '$t', 'amount', 'bigint', 'cents', 'amount * 100::bigint', 'cents / 100', '$options')";
}

# ---- asking ----

sub psql_params
{
	my (%arg) = @_;
	my @params = ('-v', 'VERBOSITY=verbose');

	push @params, '-U', $arg{user} if $arg{user};
	return \@params;
}

# Runs SQL and expects it to succeed.
sub sql_ok
{
	my ($node, $sql, $test, %arg) = @_;
	my ($ret, $out, $err) = $node->psql($arg{db} || 'postgres', $sql, extra_params => psql_params(%arg));

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($ret == 0, $test) or diag("$sql\nexit code $ret\n$err");
	return $out;
}

# Runs SQL and expects an error of that SQLSTATE (several: a list) whose
# message, detail or hint matches.
sub sql_fails
{
	my ($node, $sql, $sqlstate, $pattern, $test, %arg) = @_;
	my ($ret, $out, $err) = $node->psql($arg{db} || 'postgres', $sql, extra_params => psql_params(%arg));
	my ($got) = $err =~ /(?:ERROR|FATAL):  ([0-9A-Z]{5}):/;
	my @states = ref $sqlstate ? @$sqlstate : ($sqlstate);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($ret != 0 && defined $got && (grep { $_ eq $got } @states) && $err =~ $pattern, $test)
	  or diag("$sql\nexpected @states, $pattern\nexit code $ret\n$out\n$err");
	return;
}

sub answer
{
	my ($node, $sql, $db) = @_;
	return $node->safe_psql($db || 'postgres', $sql);
}

# A column of dw_status.
sub status_is
{
	my ($node, $m, $column, $expected, $test, %arg) = @_;
	my $got = answer($node, "SELECT $column FROM dw_status WHERE migration = '$m'", $arg{db});

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is($got, $expected, $test);
}

# ---- waiting ----

# Polls until a query answers t; a failing poll is a failed test.
sub wait_until
{
	my ($node, $sql, $test, $db) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $ok;

	# While a server restarts, psql may be gone before it has been told the query:
	# that is no answer, and IPC::Run dies of it.
	for (1 .. 200)
	{
		last if eval { $ok = $node->poll_query_until($db || 'postgres', $sql); 1 };
		die $@ unless $@ =~ /Broken pipe/;
		sleep 0.05;
	}
	return ok($ok, $test) if defined $test;
	$ok or die "timed out: $sql";
	return;
}

# Kills a process of the server, and waits until all is back.  Until the server
# has noticed, it answers as if nothing were; its log says when it has.
sub crash
{
	my ($node, $pid, $test) = @_;
	my $log = -s $node->logfile;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	my $back;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	kill 9, $pid;
	sleep 0.05 until ($back = slurp_file($node->logfile, $log) =~ /ready to accept connections/) || time > $deadline;
	return ok($back && $node->poll_query_until('postgres', undef, ''), $test);
}

sub wait_ready
{
	my ($node, $m, %arg) = @_;
	my $phase = $arg{phase} || 'ready';

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return sql_ok($node, "SET client_min_messages = warning; CALL dw_wait('$m', '$phase', '2 min')",
		$arg{test} || "migration $m becomes $phase", %arg);
}

# Waits until some rows, and not all, are filled.
sub wait_middle
{
	my ($node, $m, $db) = @_;

	wait_until($node, <<SQL, undef, $db);
SELECT EXISTS (SELECT 1 FROM dw_progress WHERE migration = '$m' AND phase = 'backfilling' AND rows_done > 0)
SQL
	return;
}

sub full_speed
{
	my ($node, $m, $db) = @_;
	return answer($node, "SELECT dw_set('$m', '{\"max_rows_per_second\": null}')", $db);
}

# The backfill stands still for two seconds by its own account, because of that
# signal; $and: what else holds in dw_progress.  Returns how many rows are done.
sub is_held
{
	my ($node, $m, $signal, $test, $and) = @_;
	my $from = "FROM dw_progress WHERE migration = '$m'";
	my $held = "coalesce((throttled_by ->> '$signal')::numeric, 0)";

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_until($node, "SELECT state = 'throttled' AND throttle_signal = '$signal'" . (defined $and ? " AND $and" : '') . " $from", "$test: stopped, and says why")
	  or diag(answer($node, "SELECT * $from"));
	my $s = answer($node, "SELECT $held $from");
	wait_until($node, "SELECT $held > $s + 1 $from", '... for a second more');
	my $done = answer($node, "SELECT rows_done $from");
	wait_until($node, "SELECT $held > $s + 3 $from", '... for two seconds more');
	is(answer($node, "SELECT rows_done $from"), $done, '... in which no row was filled');
	return $done;
}

# More rows are done than $done.
sub is_going
{
	my ($node, $m, $done, $test) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_until($node, "SELECT rows_done > $done FROM dw_progress WHERE migration = '$m'", $test);
}

# Number of worker processes, of all databases.
sub workers
{
	my ($node) = @_;
	return answer($node, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_dualwrite worker'");
}

# Process id of a migration's worker, which has to be there or to come.
sub worker_pid
{
	my ($node, $m, $db) = @_;

	wait_until($node, "SELECT cardinality(worker_pids) = 1 FROM dw_status WHERE migration = '$m'", undef, $db);
	return answer($node, "SELECT worker_pids[1] FROM dw_status WHERE migration = '$m'", $db);
}

# Runs SQL that lets the server crash, and waits until it is back.
sub crashed
{
	my ($node, $sql, $test, %arg) = @_;
	my $offset = -s $node->logfile;
	my ($ret, $out, $err) = $node->psql($arg{db} || 'postgres', $sql);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($ret == 2 && $err =~ /server closed the connection unexpectedly|connection to server was lost/, $test)
	  or diag("$sql\nexit code $ret\n$out\n$err");

	# The postmaster may not know yet, and let others in for another moment.
	foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return if slurp_file($node->logfile, $offset) =~ /database system is ready to accept connections/;
		sleep 0.1;
	}
	die 'the server does not come back';
}

# What the log says when a process has crashed.
sub crash_noise
{
	return (
		qr/terminating connection because of crash of another server process/,
		qr/the database system is (?:in recovery mode|starting up|shutting down|not yet accepting connections)/,
		qr/terminating background worker "pg_dualwrite worker" due to administrator command/);
}

# ---- checking ----

# Every row, by SQL that knows nothing of the extension.
sub check_cents
{
	my ($node, $test, %arg) = @_;
	my $t = $arg{table} || 't';

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(
		answer($node, "SELECT count(*) FROM $t WHERE cents IS DISTINCT FROM amount * 100::bigint", $arg{db}),
		0, $test);
}

# The server's log holds nothing worse than what is allowed (a list of patterns).
sub check_log
{
	my ($node, $test, @allowed) = @_;
	my @bad;

	foreach my $line (split /\n/, slurp_file($node->logfile))
	{
		next unless $line =~ /\b(?:ERROR|FATAL|PANIC|WARNING):  /;
		push @bad, $line unless grep { $line =~ $_ } @allowed;
	}
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(!@bad, $test) or diag(join "\n", @bad[ 0 .. ($#bad < 20 ? $#bad : 20) ]);
	return;
}

# ---- writers ----

# One writer.  It alone writes its keys (id modulo the number of writers), and
# so knows what each must hold; all writers add to the shared rows.  kind: old
# or new, the version of the application.  Writes to its log what has been
# acknowledged: "= id amount", "- id", "+ id", "? id" (an addition in doubt),
# "E sqlstate", "L text" (a write that is gone), "N count".
sub writer_loop
{
	my ($w) = @_;
	my ($connstr, $me, $all, $kind, $t) = @$w{qw(connstr number writers kind table)};
	my %have;                       # id => amount, or undef for none
	my $next = $w->{first_new} + $me;
	my $s;
	my $count = 0;
	my $known = $kind eq 'old';

	open my $log, '>', $w->{log} or die $!;
	srand(7919 * ($me + 1));
	while (!-e $w->{stop} && getppid == $w->{parent})
	{
		unless ($s)
		{
			$s = session_open($connstr);
			my ($r) = session_do($s, 'SELECT 1');
			if ($r ne 'ok')
			{
				session_close($s);
				undef $s;
				sleep 0.02;
				next;
			}
		}
		if (!$known)                 # the new version comes when its column is there
		{
			my (undef, $there) = session_do($s,
				"SELECT count(*) FROM pg_attribute WHERE attrelid = '$t'::regclass AND attname = 'cents'");
			$known = $there;
			sleep 0.02 unless $known;
			next;
		}
		my $value = int rand 1_000_000;
		my $set = $kind eq 'old' ? "amount = $value" : 'cents = ' . $value * 100;
		my $dice = rand;
		my ($sql, $id, $after);

		if ($dice < 0.15)                    # add to a shared row
		{
			$id = 1 + int rand $w->{shared};
			$sql = $kind eq 'old' ? "UPDATE $t SET amount = amount + 1 WHERE id = $id"
				: "UPDATE $t SET filler = filler WHERE id = $id";
			my ($r, $state) = session_do($s, $sql);
			print $log $r eq 'ok' ? ($kind eq 'old' ? "+ $id\n" : '') : $r eq 'lost' ? "? $id\n" : "E $state\n";
			if ($r eq 'lost') { session_close($s); undef $s }
			next;
		}
		if ($dice < 0.35)                    # a new row
		{
			$id = $next;
			$next += $all;
			$sql = $kind eq 'old' ? "INSERT INTO $t (id, amount) VALUES ($id, $value)"
				: "INSERT INTO $t (id, cents) VALUES ($id, $value * 100::bigint)";
			$after = $value;
		}
		else
		{
			# a row of mine: one that was there before, or one that I made
			$id = $dice < 0.8 ? $w->{shared} + 1 + $me + $all * int rand $w->{rows_each}
				: $w->{first_new} + $me + $all * int rand(1 + ($next - $w->{first_new}) / $all);
			next if $id >= $next;
			if ($dice < 0.4)
			{
				$sql = "DELETE FROM $t WHERE id = $id";
				$after = undef;
			}
			elsif ($dice < 0.45)             # nothing of this may stay
			{
				$sql = "BEGIN\\; UPDATE $t SET $set WHERE id = $id\\; ROLLBACK";
				$after = $have{$id};
				next unless exists $have{$id};
			}
			elsif ($dice < 0.5)              # in a subtransaction, beside one that is undone
			{
				$sql = "BEGIN\\; SAVEPOINT a\\; UPDATE $t SET $set WHERE id = $id\\; RELEASE a\\; SAVEPOINT b\\;"
				  . " DELETE FROM $t WHERE id = $id\\; ROLLBACK TO b\\; COMMIT";
				$after = $value;
			}
			else
			{
				$sql = "UPDATE $t SET $set WHERE id = $id";
				$after = $value;
			}
			# an update of a row that isn't there
			$after = undef if exists $have{$id} && !defined $have{$id};
		}
		my ($r, $state) = session_do($s, $sql);
		if ($r eq 'lost')
		{
			# Did it commit?  Nobody but me has written this row.
			my @row;
			session_close($s);
			while (getppid == $w->{parent})
			{
				$s = session_open($connstr);
				($r, @row) = session_do($s, "SELECT coalesce(amount, cents / 100) FROM $t WHERE id = $id");
				last if $r eq 'ok';
				session_close($s);
				sleep 0.02;
			}
			my $found = $row[0];
			my $is = sub { defined $_[0] ? defined $found && $found == $_[0] : !defined $found };

			# a row that I haven't written yet has the amount it began with
			my $before = exists $have{$id} ? $have{$id} : $id < $w->{first_new} ? $id : undef;
			print $log 'L ', $id, ' holds ', defined $found ? $found : 'nothing', "\n"
			  unless $is->($after) || $is->($before);
			$have{$id} = $found;
		}
		elsif ($r eq 'ok') { $have{$id} = $after; $count++ }
		else
		{
			print $log "E $state $sql\n";
			session_do($s, 'ROLLBACK');
		}
	}
	if ($s)
	{
		session_close($s);
	}
	print $log defined $have{$_} ? "= $_ $have{$_}\n" : "- $_\n" foreach sort keys %have;
	print $log "N $count\n";
	close $log;
	return;
}

# Starts writers of both versions on table t of make_table (rows: how many it
# has).  The first 50 rows are shared.  touch: how many of the rows they write (a
# third); what writers touch is filled, and the backfill has to have work for
# longer.  Returns a handle for the two below.
sub start_writers
{
	my ($node, $rows, %arg) = @_;
	my @kinds = @{ $arg{kinds} || [ 'old', 'new' ] };
	my $shared = 50;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $h = { node => $node, rows => $rows, stop => "$dir/stop", db => $arg{db} || 'postgres', table => $arg{table} || 't',
		shared => $shared, writers => [] };

	foreach my $i (0 .. $#kinds)
	{
		my $w = {
			connstr => $arg{connstr} || $node->connstr($h->{db}),
			number => $i,
			writers => scalar @kinds,
			kind => $kinds[$i],
			table => $h->{table},
			shared => $shared,
			rows_each => int((($arg{touch} || $rows / 3) - $shared) / @kinds),
			first_new => $rows + 1,
			log => "$dir/writer$i",
			stop => $h->{stop},
			parent => $$                # should the test die, they end, too
		};
		my $pid = fork;
		die 'fork failed' unless defined $pid;
		if ($pid == 0)
		{
			eval { writer_loop($w); 1 } or print STDERR "writer $i: $@";
			POSIX::_exit(0);
		}
		$w->{pid} = $pid;
		push @{ $h->{writers} }, $w;
	}
	return $h;
}

# Ends the writers; afterwards the handle knows what they were told.
sub stop_writers
{
	my ($h) = @_;

	append_to_file($h->{stop}, 'stop');
	waitpid $_->{pid}, 0 foreach @{ $h->{writers} };
	@$h{qw(expect plus doubt errors lost count)} = ({}, {}, {}, [], [], 0);
	foreach my $w (@{ $h->{writers} })
	{
		foreach my $line (split /\n/, slurp_file($w->{log}))
		{
			my ($what, $id, $value) = split / /, $line, 3;

			if ($what eq '=') { $h->{expect}{$id} = $value }
			elsif ($what eq '-') { $h->{expect}{$id} = undef }
			elsif ($what eq '+') { $h->{plus}{$id}++ }
			elsif ($what eq '?') { $h->{doubt}{$id}++ }
			elsif ($what eq 'E') { push @{ $h->{errors} }, $line }
			elsif ($what eq 'L') { push @{ $h->{lost} }, $line }
			elsif ($what eq 'N') { $h->{count} += $id }
		}
	}
	return;
}

# Compares every row of the table with what the writers were told.
sub compare_writers
{
	my ($h, $test, %arg) = @_;
	my $node = $arg{node} || $h->{node};
	my @bad = (@{ $h->{errors} }, @{ $h->{lost} });
	my %row;

	foreach (split /\n/, answer($node, "SELECT id, amount, cents FROM $h->{table}", $h->{db}))
	{
		my ($id, $amount, $cents) = split /\|/, $_, -1;

		$row{$id} = $amount;
		push @bad, "row $id: amount $amount, cents $cents" unless $cents eq $amount * 100;
	}
	foreach my $id (1 .. $h->{rows})
	{
		next if exists $h->{expect}{$id};
		my $plus = $h->{plus}{$id} || 0;
		my $doubt = $h->{doubt}{$id} || 0;

		push @bad, 'row ' . $id . ': ' . (defined $row{$id} ? $row{$id} : 'gone') . ", expected $id + $plus"
		  unless defined $row{$id} && $row{$id} >= $id + $plus && $row{$id} <= $id + $plus + $doubt;
		delete $row{$id};
	}
	foreach my $id (keys %{ $h->{expect} })
	{
		my $want = $h->{expect}{$id};

		push @bad, "row $id: " . (defined $row{$id} ? $row{$id} : 'gone') . ', expected ' . (defined $want ? $want : 'none')
		  if defined $want ? !defined $row{$id} || $row{$id} ne $want : defined $row{$id};
		delete $row{$id};
	}
	push @bad, "row $_ from nowhere" foreach keys %row;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(!@bad && $h->{count} > 0, "$test ($h->{count} acknowledged writes)")
	  or diag(join "\n", @bad[ 0 .. ($#bad < 20 ? $#bad : 20) ]);
	return;
}

1;
