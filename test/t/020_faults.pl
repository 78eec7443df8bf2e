# Crashes exactly where they hurt, by fault points: in the worker between the
# UPDATE and the progress, around each of its commits, in a write, and around
# the commit of each transition, while both versions of the application write.
# After each the migration is in exactly one of two states, the verb can be
# repeated, and no acknowledged write is lost.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use DW;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = dw_node('faults');
my $rows = 1500;

# --- the worker ---

# One after the other the worker reaches all of them; each crash happens once,
# the first three times: the count survives the crashes.
my @points = qw(fill_updated fill_before_commit fill_after_commit filled_before_commit
  verify_chunk verify_before_commit verified_before_commit verified_after_commit);
make_table($node, $rows);
my $writers = start_writers($node, $rows);
answer($node, "SELECT dw_fault('$_', 'crash', times => " . ($_ eq $points[0] ? 3 : 1) . ')') foreach @points;
$node->psql('postgres', begin_sql('m'));    # it may be told, or be gone before
wait_until($node, "SELECT phase = 'ready' FROM dw_status WHERE migration = 'm'", 'it becomes ready, through crashes of the worker');
is(answer($node, "SELECT string_agg(point || ' ' || fired, ', ' ORDER BY armed_at) FROM dw_faults WHERE action = 'crash'"),
	join(', ', map { $_ . ($_ eq $points[0] ? ' 3' : ' 1') } @points), 'the worker died at every point, as often as it was to');
is(() = slurp_file($node->logfile) =~ /fault point "\w+" was reached by migration "m": this process kills itself/g, 8,
	'... and says so where it can');    # not after a commit
answer($node, 'SELECT dw_fault_off()');
check_cents($node, 'every row is filled');

# errors of the worker: waited out, or the migration stops and can go on
make_table($node, $rows, table => 'e');
answer($node, "SELECT dw_fault('fill_updated', sqlstate => '53100')");
answer($node, "SELECT dw_fault('fill_between', 'sleep', delay => '5 ms', times => 5)");
answer($node, "SELECT dw_fault('filled_before_commit')");
begin_cents($node, 'e', table => 'e');
wait_until($node, "SELECT state = 'failed' FROM dw_status WHERE migration = 'e'", 'an error at the end of the backfill stops it');
is(answer($node, "SELECT string_agg(point || ' ' || fired, ', ' ORDER BY armed_at) FROM dw_faults WHERE action IS NOT NULL"),
	'fill_updated 1, fill_between 5, filled_before_commit 1', '... and those before did not');
answer($node, "SELECT dw_fault('verify_chunk', sqlstate => '40001')");
answer($node, "SELECT dw_fault('verified_before_commit')");
answer($node, "SELECT dw_resume('e')");
wait_until($node, "SELECT state = 'failed' FROM dw_status WHERE migration = 'e'", 'so does an error at the end of the verification');
status_is($node, 'e', 'phase', 'verifying', '... which is undone');
answer($node, "SELECT dw_resume('e')");
wait_ready($node, 'e', test => 'it goes on; a serialization failure in the verification did not stop it');
check_cents($node, 'every row is filled', table => 'e');
answer($node, 'SELECT dw_fault_off()');

# --- a write ---

my $before = answer($node, 'SELECT amount, cents FROM t WHERE id = 1');
foreach my $point (qw(mirror_before mirror_after))
{
	answer($node, "SELECT dw_fault('$point', 'crash', migration => 'e')");
	crashed($node, "UPDATE e SET amount = amount + 1 WHERE id = 1", "a crash at $point");
}
is(answer($node, 'SELECT amount, cents FROM e WHERE id = 1'), '1|100', 'the writes are not there');
is(answer($node, "UPDATE e SET cents = 200 WHERE id = 1 RETURNING amount, cents"), '2|200', 'the fault does not come again');
answer($node, 'SELECT dw_fault_off()');

# --- the transitions ---

my $id = 1000;

# Both sides of every row of u agree, and go on doing so.
sub check_mirror
{
	my ($test) = @_;

	$id += 2;
	answer($node, "INSERT INTO u (id, amount) VALUES ($id, $id)");
	answer($node, "INSERT INTO u (id, cents) VALUES ($id + 1, $id * 100)");
	answer($node, "UPDATE u SET cents = cents + 100 WHERE id <= 10");
	answer($node, "UPDATE u SET amount = amount + 1 WHERE id <= 10");
	check_cents($node, "$test: both sides of every row agree", table => 'u');
	return;
}

sub columns
{
	return answer($node, "SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'u'::regclass AND attnum > 0 AND NOT attisdropped");
}

sub phase
{
	return answer($node, "SELECT phase FROM dw_status WHERE migration = 'u' ORDER BY started_at DESC LIMIT 1");
}

my $inline = "SET pg_dualwrite.inline_limit = '1MB'; ";
my $begin = "SELECT dw_begin('u', 'u', 'amount', 'bigint', 'cents', 'amount * 100::bigint', 'cents / 100')";

# Crashes before and after the commit of a verb; calls it again each time.
sub around
{
	my ($point, $verb, $from, $to, $again, $check) = @_;

	answer($node, "SELECT dw_fault('${point}_before_commit', 'crash', migration => 'u')");
	crashed($node, $inline . $verb, "a crash before the commit of $point");
	is(phase(), $from, "... leaves it $from");
	$check->("before $point", $from);
	answer($node, "SELECT dw_fault('${point}_after_commit', 'crash', migration => 'u')");
	crashed($node, $inline . $verb, "called again: a crash after its commit");
	is(phase(), $to, "... leaves it $to");
	$check->("after $point", $to);
	like(answer($node, $verb), $again, 'the verb can be repeated');
	is(phase(), $to, '... and changes nothing');
	is(answer($node, "SELECT string_agg(fired::text, ' ') FROM dw_faults WHERE action IS NOT NULL"), '1 1', 'each crash happened once');
	answer($node, 'SELECT dw_fault_off()');
	return;
}

make_table($node, 200, table => 'u');
around('begin', $begin, '', 'ready', qr/nothing to do: .*ready/, sub {
	my ($when, $phase) = @_;

	return check_mirror($when) if $phase;
	is(columns(), 'id amount filler', "$when: no new column");
	is(answer($node, "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'u'::regclass"), 0, "$when: no mirror");
});
around('switch', "SELECT dw_switch('u')", 'ready', 'switched', qr/switched already/, \&check_mirror);
around('rollback', "SELECT dw_rollback('u')", 'switched', 'ready', qr/is not switched/, \&check_mirror);
around('abort', "SELECT dw_abort('u')", 'ready', 'aborted', qr/aborted already/, sub {
	my ($when, $phase) = @_;

	return check_mirror($when) if $phase eq 'ready';
	is(columns(), 'id amount filler', "$when: the new column is gone");
	is(answer($node, "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'u'::regclass"), 0, "$when: so is the mirror");
});
answer($node, $inline . $begin);
answer($node, $inline . "SELECT dw_switch('u')");
my $sum = answer($node, 'SELECT count(*) FROM u');
around('finalize', "SELECT dw_finalize('u')", 'switched', 'finalized', qr/finalized already/, sub {
	my ($when, $phase) = @_;

	if ($phase eq 'switched')
	{
		check_mirror($when);
		$sum = answer($node, 'SELECT count(*), sum(amount) * 100 FROM u');
		return;
	}
	is(columns(), 'id filler cents', "$when: the old column is gone");
	is(answer($node, "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'u'::regclass"), 0, "$when: so is the mirror");
	is(answer($node, 'SELECT count(*), sum(cents) FROM u'), $sum, "$when: every value is there");
});

# --- and all the time, two applications ---

stop_writers($writers);
compare_writers($writers, 'no acknowledged write was lost in any of these crashes');
status_is($node, 'm', 'drifted + unconvertible', 0, 'nothing was recorded as drift');
check_log($node, 'the log speaks of the faults only', crash_noise(),
	qr/fault point "\w+" was reached/);
$node->stop;
done_testing();
