# Whom a verification in chunks waits for, before it begins: everyone who may
# still write without looking at the rows that they move; and nobody else.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use DW;
use Test::More;

my $node = dw_node('drain');

make_table($node, 600);
answer($node, <<'SQL');
ALTER TABLE t ADD other int;
SET client_min_messages = warning;
SET pg_dualwrite.inline_limit = '1MB';
SELECT dw_begin('n', 't', 'other', 'bigint', 'other_new');
SET pg_dualwrite.inline_limit = 0;
SQL

# what it says while it waits
my $waiting = q(SELECT state_reason ~ 'transactions that wrote before' FROM dw_status WHERE migration = 'm');

# A switched migration wants a verification of its own.
sub again
{
	answer($node, "SELECT dw_resume('m')");
	return;
}

answer($node, begin_sql('m'));
wait_ready($node, 'm');

sub pause_switched
{
	answer($node, "SET client_min_messages = warning; SELECT dw_pause('m'); SELECT dw_switch('m')");
	return;
}

sub verified
{
	my ($test, $session) = @_;
	wait_until($node, "SELECT verified_at > phase_since FROM dw_status WHERE migration = 'm'", $test);
	$session->query_safe('ROLLBACK') if $session;
	answer($node, "SELECT dw_rollback('m')");
	return;
}

# --- a subtransaction that has written, and gone back: the transaction has not ended ---

my $s = $node->background_psql('postgres');

pause_switched();
$s->query_safe('BEGIN; SAVEPOINT a; UPDATE t SET filler = filler WHERE id = 1; RELEASE SAVEPOINT a');
again();
wait_until($node, $waiting, 'it waits for what a subtransaction has written');
$s->query_safe('COMMIT');
verified('... until the transaction has ended');

pause_switched();
$s->query_safe('BEGIN; SAVEPOINT a; UPDATE t SET filler = filler WHERE id = 1; ROLLBACK TO SAVEPOINT a');
again();
verified('what was rolled back is nothing to wait for', $s);

# --- a prepared transaction, also after a restart ---

pause_switched();
$s->query_safe("BEGIN; UPDATE t SET filler = filler WHERE id = 1; PREPARE TRANSACTION 'p'");
again();
wait_until($node, $waiting, 'it waits for a prepared transaction');
$s->quit;
$node->restart;
answer($node, 'SELECT dw_ensure_workers()');
wait_until($node, "$waiting AND cardinality(worker_pids) = 1", '... after a restart, too');
answer($node, "COMMIT PREPARED 'p'");
verified('... until it has ended');

# --- a transaction that is prepared while it is waited for ---

$s = $node->background_psql('postgres');
pause_switched();
$s->query_safe('BEGIN; UPDATE t SET filler = filler WHERE id = 1');
again();
wait_until($node, $waiting, 'it waits for a transaction');
$s->query_safe("PREPARE TRANSACTION 'p'");
$s->query_safe('BEGIN; UPDATE t SET filler = filler WHERE id = 2');
is(answer($node, "SELECT verified_at > phase_since FROM dw_status WHERE migration = 'm'"), 'f', '... that is prepared meanwhile');
answer($node, "COMMIT PREPARED 'p'");
verified('... and not for the next one of the same session, which knows', $s);

# --- one that has committed, and has not yet given its locks back: it has no number any more ---

pause_switched();
answer($node, q(SELECT dw_fault('switch_after_commit', 'sleep', delay => '1 hour', migration => 'n')));
$s->query_until(qr/switching/, "\\echo switching\nSELECT dw_switch('n');\n");
wait_until($node, q(SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 't'::regclass AND mode = 'ShareRowExclusiveLock' AND granted AND virtualtransaction ~ '/0$')),
	'a transaction has ended, and holds its lock');
again();
wait_until($node, "SELECT verified_at > phase_since FROM dw_status WHERE migration = 'm'", 'it is not waited for');
is(answer($node, q(SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND mode = 'ShareRowExclusiveLock' AND virtualtransaction ~ '/0$')), 1,
	'... and still holds its lock');
answer($node, q(SELECT pg_cancel_backend(pid) FROM pg_locks WHERE relation = 't'::regclass AND mode = 'ShareRowExclusiveLock'));

$node->stop('immediate');
done_testing();
