# The throttle and a standby that the network takes away: the connection runs
# through a proxy that stops to forward, forwards again, closes, and refuses.  While
# it is silent the server still believes that the standby is there.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use DW;
use IO::Select;
use IO::Socket::INET;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;

# ---- the network ----

# One connection after the other, from 127.0.0.1:port to the primary.
# $to is told a letter: h(old: forward nothing, close nothing), g(o on),
# c(ut: close everything, refuse everything).
my ($to, $proxy_pid, $proxy_port);

sub proxy
{
	my ($commands, $listener, $port) = @_;
	my $held = 0;
	my $parent = getppid;
	my $here = $listener->sockport;
	my (%socket, %peer);           # by their names; the other end

	while (getppid == $parent)
	{
		my @sockets = grep { defined fileno $_ } values %socket;
		my $read = IO::Select->new($commands, $listener ? $listener : (), $held ? () : @sockets);

		foreach my $s ($read->can_read(0.5))
		{
			if ($s == $commands)
			{
				my $n = sysread $commands, my $what, 1;

				return unless $n;
				$held = $what eq 'h';
				if ($what eq 'c')
				{
					close $_ foreach @sockets;
					%socket = %peer = ();
					close $listener if $listener;
					undef $listener;
				}
				elsif ($what eq 'g' && !$listener)
				{
					$listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $here, Listen => 5, ReuseAddr => 1);
				}
				last;
			}
			elsif ($listener && $s == $listener)
			{
				my $in = $listener->accept or next;
				my $out = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) or next;

				@socket{ "$in", "$out" } = ($in, $out);
				@peer{ "$in", "$out" } = ($out, $in);
			}
			elsif (my $other = $peer{$s})
			{
				my $n = sysread $s, my $bytes, 65536;
				my $at = 0;

				# written by a blocking write: the other side always reads
				while ($n && $at < $n)
				{
					my $m = syswrite $other, $bytes, $n - $at, $at;
					if (!defined $m) { $n = 0; last }
					$at += $m;
				}
				next if $n;
				delete @peer{ "$s", "$other" };
				delete @socket{ "$s", "$other" };
				close $s;
				close $other;
				last;
			}
		}
	}
	return;
}

sub start_proxy
{
	my ($port) = @_;
	my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 5, ReuseAddr => 1) or die $!;

	$proxy_port = $listener->sockport;
	pipe my $commands, $to or die $!;
	$proxy_pid = fork;
	die 'fork failed' unless defined $proxy_pid;
	if ($proxy_pid == 0)
	{
		close $to;
		local $SIG{PIPE} = 'IGNORE';
		eval { proxy($commands, $listener, $port); 1 } or print STDERR "proxy: $@";
		POSIX::_exit(0);
	}
	close $commands;
	return;
}

sub network
{
	my ($what) = @_;
	syswrite $to, $what;
	return;
}

# ---- the servers ----

my $rows = 30000;
my $primary = dw_node('primary', init => { allows_streaming => 1 }, conf => <<'CONF');
listen_addresses = '127.0.0.1'
max_wal_senders = 5
pg_dualwrite.max_replica_lag = 2s
CONF
start_proxy($primary->port);
$primary->backup('b');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'b', has_streaming => 1);
$standby->append_conf('postgresql.conf', <<CONF);
listen_addresses = ''
primary_conninfo = 'host=127.0.0.1 port=$proxy_port application_name=standby'
wal_retrieve_retry_interval = 200ms
wal_receiver_timeout = 3s
CONF
$standby->start;
make_table($primary, $rows);
$primary->wait_for_catchup($standby);

my $progress = "FROM dw_progress WHERE migration = 'm'";
my $held = "coalesce((throttled_by ->> 'replica_lag')::numeric, 0)";
my $walsender = q(SELECT count(*), min(pid) FROM pg_stat_replication WHERE application_name = 'standby' AND state = 'streaming');

sub stands_still
{
	my ($subject, $test) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_until($primary, "SELECT state = 'throttled' AND throttle_signal = 'replica_lag' AND throttle_subject = '$subject' AND throttle_value >= throttle_limit AND throttle_limit = 2 $progress",
		"$test: stopped, and says why");
	my ($done, $s) = split /\|/, answer($primary, "SELECT rows_done, $held $progress");
	wait_until($primary, "SELECT $held > $s + 1 $progress", '... for a second more');
	is(answer($primary, "SELECT rows_done $progress"), $done, '... in which no row was filled');
	return $done;
}

begin_cents($primary, 'm', rate => 400);
wait_middle($primary, 'm');
my $connected = answer($primary, $walsender);
like($connected, qr/^1\|/, 'the standby is connected through the proxy');

# --- silent for a while ---

network('h');
my $done = stands_still('standby', 'the network is silent');
is(answer($primary, $walsender), $connected, '... the server believes that the standby is there');
is(answer($primary, "SELECT replica_lag -> 0 ->> 'connected', (replica_lag -> 0 ->> 'seconds')::float8 >= 2 FROM dw_status WHERE migration = 'm'"), 'true|t', '... dw_status tells how far behind');
network('g');
is_going($primary, 'm', $done, '... and it goes on when something is heard of it');

# --- cut ---

network('c');
$done = stands_still('standby (gone)', 'the connection is cut');
is(answer($primary, $walsender), '0|', '... the server knows of no standby');
answer($primary, 'SELECT pg_terminate_backend(' . worker_pid($primary, 'm') . ')');
$done = stands_still('standby (gone)', '... nor has a new worker ever seen it');
network('g');
is_going($primary, 'm', $done, '... and it goes on when the standby is connected again');

# --- silent, until the server gives it up ---

$primary->append_conf('postgresql.conf', 'wal_sender_timeout = 3s');
$primary->reload;
network('h');
$done = stands_still('standby (gone)', 'the network is silent until the server gives the standby up');
network('g');
is_going($primary, 'm', $done, '... and it goes on when the standby has noticed, too');

# --- the end ---

full_speed($primary, 'm');
wait_ready($primary, 'm');
check_cents($primary, 'every row is filled');
is(answer($primary, 'SELECT count(*), sum(amount) FROM t'), "$rows|" . $rows * ($rows + 1) / 2, 'no row came or went');
$primary->wait_for_catchup($standby);
check_cents($standby, 'every row is filled on the standby');
is(answer($standby, 'SELECT count(*), sum(amount) FROM t'), "$rows|" . $rows * ($rows + 1) / 2, '... and none came or went there');
check_log($primary, 'the log is clean', qr/terminating background worker|terminating walsender|replication terminated|connection to standby/);
$standby->stop;
$primary->stop;
close $to;
waitpid $proxy_pid, 0;
done_testing();
