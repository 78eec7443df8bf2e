# Whom the worker sees at work beside it: sessions that compute, not those that
# wait, nor those that have gone and whose place is still to be seen.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use DW;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = dw_node('others', conf => "log_min_messages = debug1\n");

# The last means that the worker has told since $from: sessions, and processes.
sub beside
{
	my ($from) = @_;
	my @all = slurp_file($node->logfile, $from) =~ /tick of the throttle.* ([\d.-]+) sessions and ([\d.-]+) processes beside us/g;

	return @all[ -2, -1 ] if @all;
	return;
}

# Waits until the mean of the sessions is as it should be.
sub becomes
{
	my ($from, $right, $test) = @_;
	my ($sessions, $processes);

	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		($sessions, $processes) = beside($from);
		last if defined $sessions && $right->($sessions);
		select(undef, undef, undef, 0.1);
	}
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(defined $sessions && $right->($sessions), $test) or diag('sessions: ' . ($sessions // 'never told'));
	return $processes;
}

# places that have been used, and are free again; and sessions that do nothing
my @gone = map { $node->background_psql('postgres') } 1 .. 12;
$_->query_safe('SELECT 1') foreach @gone;
$_->quit foreach @gone;
my @idle = map { $node->background_psql('postgres') } 1 .. 3;
$idle[0]->query_safe('BEGIN; SELECT 1');

make_table($node, 60000);
begin_cents($node, 'm', rate => 1000);
wait_middle($node, 'm');

# a mean of fifty looks, so wait for some ticks
for (1 .. 3)
{
	my $at = -s $node->logfile;
	becomes($at, sub { 1 }, "tick $_");
}
becomes(-s $node->logfile, sub { $_[0] < 0.2 }, 'nobody computes: places that are free and sessions that wait do not count');

my $busy = $node->background_psql('postgres');
$busy->query_until(qr/begun/, "\\echo begun\nDO 'BEGIN LOOP PERFORM 1; END LOOP; END';\n");
my $processes = becomes(-s $node->logfile, sub { $_[0] > 0.6 }, 'a session that computes counts');
SKIP:
{
	skip 'no /proc/loadavg', 1 unless -e '/proc/loadavg';
	ok($processes > 0.6, '... and so does its process');
}
answer($node, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ~ 'LOOP' AND pid <> pg_backend_pid()");
becomes(-s $node->logfile, sub { $_[0] < 0.2 }, '... until it ends');

answer($node, "SELECT dw_abort('m', true)");
$_->quit foreach @idle;
eval { $busy->quit };
$node->stop;
done_testing();
