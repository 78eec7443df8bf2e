# Failover by Patroni, with etcd: the primary is killed with -9, Patroni promotes
# the standby, and makes a standby of the old primary (pg_rewind); then it
# switches over, back to it.  The library is preloaded on the second node only.
# Both versions of the application write all the time.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use DW;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes 'sleep';

sub in_path
{
	my ($program) = @_;
	return grep { -x "$_/$program" } split /:/, $ENV{PATH};
}

foreach my $program (qw(patroni patronictl etcd))
{
	plan skip_all => "$program is not installed" unless in_path($program);
}

my $dir = PostgreSQL::Test::Utils::tempdir();
my $user = getpwuid $<;
my %running;                         # name => pid
my %port = map { $_ => PostgreSQL::Test::Cluster::get_free_port() } qw(etcd peer rest1 rest2);

sub spawn
{
	my ($name, $log, @command) = @_;
	my $pid = fork;

	die 'fork failed' unless defined $pid;
	if ($pid == 0)
	{
		setpgrp;
		open STDIN, '<', '/dev/null';
		open STDOUT, '>>', $log;
		open STDERR, '>&', \*STDOUT;
		exec @command or POSIX::_exit(127);
	}
	$running{$name} = $pid;
	return;
}

sub end_all
{
	foreach my $name (qw(patroni1 patroni2 etcd))
	{
		my $pid = delete $running{$name} or next;

		kill 'TERM', $pid;
		for (1 .. 300)
		{
			last if waitpid($pid, POSIX::WNOHANG()) != 0;
			sleep 0.1;
			kill 'KILL', $pid if $_ == 250;
		}
	}
	return;
}

END
{
	my $status = $?;
	end_all() if %running;
	$? = $status;
}

my @nodes = map { PostgreSQL::Test::Cluster->new("n$_") } 1, 2;
my $bin = $nodes[0]->config_data('--bindir');

sub start_patroni
{
	my ($i, %parameters) = @_;
	my $node = $nodes[ $i - 1 ];
	my $address = '127.0.0.1:' . $port{"rest$i"};
	my $parameters = join ', ', map { "$_: \"$parameters{$_}\"" } sort keys %parameters;

	append_to_file("$dir/n$i.yml", <<YML) unless -e "$dir/n$i.yml";
scope: dw
name: n$i
restapi: {listen: "$address", connect_address: "$address"}
etcd3: {hosts: "127.0.0.1:$port{etcd}"}
bootstrap:
  dcs:
    ttl: 20
    loop_wait: 1
    retry_timeout: 3
    maximum_lag_on_failover: 1048576
    primary_start_timeout: 0
    synchronous_mode: true
    postgresql:
      use_pg_rewind: true
      use_slots: true
      parameters: {wal_log_hints: "on", max_wal_senders: 10, max_replication_slots: 10, max_worker_processes: 12, fsync: "off", max_connections: 40}
  initdb: [{auth: trust}, {encoding: UTF8}, {locale: C}, no-sync]
  pg_hba: ["local all all trust", "local replication all trust", "host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"]
postgresql:
  listen: "127.0.0.1:${\$node->port}"
  connect_address: "127.0.0.1:${\$node->port}"
  data_dir: "${\$node->data_dir}"
  bin_dir: "$bin"
  pgpass: "$dir/pgpass$i"
  authentication:
    superuser: {username: $user, password: x}
    replication: {username: repl, password: x}
    rewind: {username: $user, password: x}
  parameters: {unix_socket_directories: "${\$node->host}"${\($parameters && ", $parameters")}}
YML
	spawn("patroni$i", $node->logfile, 'patroni', "$dir/n$i.yml");
	return;
}

# A query that answers t, on a node that may not even be there.
sub comes_true
{
	my ($node, $sql, $test) = @_;
	my $end = time + 90;
	my $out = '';

	while (time < $end)
	{
		($out) = run_command([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', $sql ]);
		last if $out eq 't';
		sleep 0.2;
	}
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($out eq 't', $test) or BAIL_OUT("$test: $sql");
	return;
}

# Patroni itself has to know, else it doesn't promote it.
sub synchronous
{
	my ($name, $test) = @_;
	my $end = time + 90;
	my $out = '';

	while (time < $end)
	{
		($out) = run_command([ 'timeout', '30', 'patronictl', '-c', "$dir/n1.yml", 'list' ]);
		last if $out =~ /\b$name\b.*\bSync Standby\b.*\b(?:running|streaming)\b/;
		sleep 0.3;
	}
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	like($out, qr/\b$name\b.*\bSync Standby\b/, $test);
	return;
}

my $primary = 'SELECT NOT pg_is_in_recovery()';

spawn('etcd', "$dir/etcd.out", 'etcd', '--name', 'e', '--data-dir', "$dir/etcd", '--heartbeat-interval', '100', '--election-timeout', '1000',
	'--unsafe-no-fsync', '--listen-client-urls', "http://127.0.0.1:$port{etcd}", '--advertise-client-urls', "http://127.0.0.1:$port{etcd}",
	'--listen-peer-urls', "http://127.0.0.1:$port{peer}", '--initial-advertise-peer-urls', "http://127.0.0.1:$port{peer}",
	'--initial-cluster', "e=http://127.0.0.1:$port{peer}", '--log-level', 'warn');
start_patroni(1);
my ($one, $two) = @nodes;
comes_true($one, $primary, 'Patroni has made a primary');
start_patroni(2, shared_preload_libraries => 'pg_dualwrite');
synchronous('n2', '... and a synchronous standby');

my $rows = 8000;
answer($one, "CREATE EXTENSION pg_dualwrite; ALTER DATABASE postgres SET pg_dualwrite.inline_limit = 0");
make_table($one, $rows);
my $writers = start_writers($one, $rows, touch => 2000,
	connstr => sprintf 'host=%s,%s port=%d,%d dbname=postgres target_session_attrs=read-write', map({ $_->host } @nodes), map { $_->port } @nodes);
begin_cents($one, 'm', rate => 20);
wait_middle($one, 'm');

# --- failover, to a node that has the library preloaded ---

my $done = answer($one, "SELECT rows_done FROM dw_progress WHERE migration = 'm'");
my ($pid) = slurp_file($one->data_dir . '/postmaster.pid') =~ /^(\d+)/;
kill 'KILL', $pid;
comes_true($two, $primary, 'the primary is killed, and Patroni promotes the standby');
comes_true($two, "SELECT cardinality(worker_pids) = 1 FROM dw_status WHERE migration = 'm'", 'with preload, the worker comes by itself');
comes_true($two, "SELECT state IN ('running', 'throttled') FROM dw_status WHERE migration = 'm'", '... and works');
is(answer($two, "SELECT phase FROM dw_status WHERE migration = 'm'"), 'backfilling', 'still in the backfill');
cmp_ok(answer($two, "SELECT rows_done FROM dw_progress WHERE migration = 'm'"), '>', 0, '... which has not begun again');

# --- the old primary rejoins ---

comes_true($one, 'SELECT pg_is_in_recovery()', 'Patroni makes a standby of the old primary');
synchronous('n1', '... a synchronous one');
comes_true($one, <<SQL, '... which shows what the primary reports');
SELECT state IN ('running', 'throttled') AND state_reason ~ 'its worker is on the primary\$' AND worker_pids = '{}' FROM dw_status WHERE migration = 'm'
SQL
is(workers($one), 0, '... and has no worker');
sql_fails($one, "SELECT dw_pause('m')", '25006', qr/cannot execute/, '... and refuses verbs');

# --- a planned switchover, to a node without preload ---

my $before = answer($two, "SELECT rows_done FROM dw_progress WHERE migration = 'm'");
my ($said) = run_command([ 'timeout', '60', 'patronictl', '-c', "$dir/n1.yml", 'switchover', '--master', 'n2', '--candidate', 'n1', '--force', 'dw' ]);
like($said, qr/Successfully switched over/, 'patronictl switchover');
comes_true($one, $primary, 'the first node is the primary again');
is(answer($one, "SELECT state, worker_pids FROM dw_status WHERE migration = 'm'"), 'no_worker|{}', 'without preload nobody is at work, and dw_status says so');
is(answer($one, 'SELECT dw_ensure_workers()'), 1, 'dw_ensure_workers');
comes_true($one, "SELECT cardinality(worker_pids) = 1 FROM dw_status WHERE migration = 'm'", '... starts the worker');
cmp_ok(answer($one, "SELECT rows_done FROM dw_progress WHERE migration = 'm'"), '>=', $before, '... which goes on where it was');
full_speed($one, 'm');
wait_ready($one, 'm', test => 'it becomes ready');
sql_ok($one, "SELECT dw_switch('m')", 'it is switched');
comes_true($one, "SELECT verified_at > phase_since FROM dw_status WHERE migration = 'm'", '... and verified');
stop_writers($writers);
compare_writers($writers, 'no write that any primary acknowledged is missing', node => $one);
check_cents($one, 'every row is filled');
status_is($one, 'm', 'drifted + unconvertible', 0, 'nothing was recorded as drift');
end_all();
done_testing();
