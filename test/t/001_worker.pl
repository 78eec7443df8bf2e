# The background worker: what starts it, what it does, and when it goes.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use DW;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes 'time';

my $node = dw_node('worker');
my $rows = 6000;
my $filled;

# --- a table that the worker fills ---

make_table($node, $rows);
like(begin_cents($node, 'm'), qr/the backfill runs in the background/, 'dw_begin leaves the work to a worker');
wait_ready($node, 'm');
check_cents($node, 'every row is filled');
is(answer($node, 'SELECT count(*), sum(amount) FROM t'), "$rows|" . $rows * ($rows + 1) / 2, 'no row came or went');
is( answer($node, "SELECT string_agg(coalesce(phase_to, event), ' ' ORDER BY at) FROM dw_events WHERE migration = 'm'"),
	'backfilling verifying ready', 'every phase is an event');

# --- it goes away ---

my $ready = time;
wait_until($node, "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'pg_dualwrite worker'",
	'a worker with nothing to do goes');
# it waits for 5 s; a busy machine adds to that
cmp_ok(time - $ready, '<', 30, '... before long')
  or diag(answer($node, "SELECT string_agg(concat_ws(' ', at, event, phase_to, note), E'\\n' ORDER BY at) FROM dw_events"));
status_is($node, 'm', 'state', 'idle', 'a migration with nothing to do is idle without a worker');
answer($node, "SELECT dw_abort('m')");

# --- what starts it: the commit, and nothing else ---

my $begin = q(SELECT dw_begin('begun', 't', 'amount', 'bigint', 'cents', 'amount * 100::bigint', 'cents / 100'));

# A worker is registered by dw_begin itself and waits for the transaction; so
# it may be seen, but must not do anything.
my $s = $node->background_psql('postgres');
$s->query_safe('SET client_min_messages = warning');
$s->query_safe("BEGIN; $begin");
$s->query_safe('ROLLBACK');
wait_until($node, "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'pg_dualwrite worker'",
	'after ROLLBACK no worker stays');
is(answer($node, "SELECT count(*) FROM dw_status WHERE migration = 'begun' AND phase <> 'aborted'"), 0, '... and no migration');

$s->query_safe("BEGIN; SAVEPOINT a; $begin; ROLLBACK TO SAVEPOINT a; COMMIT");
wait_until($node, "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'pg_dualwrite worker'",
	'after ROLLBACK TO SAVEPOINT no worker stays');
is(answer($node, "SELECT count(*) FROM dw_status WHERE migration = 'begun' AND phase <> 'aborted'"), 0, '... and no migration');
is( answer($node, "SELECT count(*) FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'cents'"),
	0, '... and no column');

# Dropped behind its back in the same transaction
$s->query_safe("BEGIN; SAVEPOINT a; $begin; ROLLBACK TO SAVEPOINT a; $begin; COMMIT");
wait_ready($node, 'begun', test => 'begun again after ROLLBACK TO SAVEPOINT, in the same transaction');
check_cents($node, 'every row is filled');
answer($node, "SELECT dw_abort('begun')");

# While the transaction is open nothing is filled
$s->query_safe("BEGIN; $begin");
is($s->query_safe('SELECT count(*) FROM t WHERE cents IS NOT NULL'), 0, 'nothing is filled before the commit');
$s->query_safe('COMMIT');
wait_ready($node, 'begun', test => 'filled after the commit of a transaction block');
check_cents($node, 'every row is filled');
answer($node, "SELECT dw_abort('begun')");

# Prepared transactions: a change of phase notifies, and that can't be prepared
sql_fails($node, "BEGIN; $begin; PREPARE TRANSACTION 'p'", '0A000', qr/cannot PREPARE a transaction that has executed .*NOTIFY/,
	'a transaction with dw_begin cannot be prepared');
wait_until($node, "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'pg_dualwrite worker'",
	'after a transaction that was to be prepared no worker stays');
is(answer($node, "SELECT count(*) FROM dw_status WHERE migration = 'begun' AND phase <> 'aborted'"), 0, '... and no migration');
$s->quit;

# dw_resume can be prepared, and it starts a worker
begin_cents($node, 'prepared', rate => 1000);
answer($node, "SELECT dw_pause('prepared')");
wait_until($node, "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'pg_dualwrite worker'",
	'the worker of a paused migration goes');
sql_ok($node, "BEGIN; SELECT dw_resume('prepared'); PREPARE TRANSACTION 'p'", 'a transaction with dw_resume is prepared');
$filled = answer($node, 'SELECT count(*) FROM t WHERE cents IS NOT NULL');
answer($node, "ROLLBACK PREPARED 'p'");
wait_until($node, "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'pg_dualwrite worker'",
	'after ROLLBACK PREPARED no worker stays');
is(answer($node, 'SELECT count(*) FROM t WHERE cents IS NOT NULL'), $filled, '... and nothing was filled');
status_is($node, 'prepared', 'state', 'paused', '... and the migration is paused');
sql_ok($node, "BEGIN; SELECT dw_resume('prepared'); PREPARE TRANSACTION 'p'", 'prepared again');
answer($node, "COMMIT PREPARED 'p'");
full_speed($node, 'prepared');
wait_ready($node, 'prepared', test => 'after COMMIT PREPARED it goes on');
check_cents($node, 'every row is filled');
answer($node, "SELECT dw_abort('prepared')");

# --- the owner ---

$node->safe_psql('postgres', <<'SQL');
CREATE ROLE app NOLOGIN;
CREATE ROLE deploy LOGIN IN ROLE app;
GRANT CREATE ON SCHEMA public TO app;
SET ROLE app;
CREATE TABLE owned (id int PRIMARY KEY, amount int);
INSERT INTO owned SELECT i, i FROM generate_series(1, 3000) i;
SQL
sql_ok($node, <<'SQL', 'an owner that is no superuser and cannot log in begins a migration', user => 'deploy');
SET ROLE app;
SELECT dw_begin('owned', 'owned', 'amount', 'bigint', 'cents', 'amount * 100::bigint', 'cents / 100');
SQL
wait_ready($node, 'owned', user => 'deploy', test => 'a worker fills the table of a role that cannot log in');
check_cents($node, 'every row is filled', table => 'owned');
sql_ok($node, "SET ROLE app; SELECT dw_switch('owned'); CALL dw_wait('owned', 'switched')", 'its owner switches it', user => 'deploy');
wait_until($node, "SELECT verified_at > phase_since FROM dw_status WHERE migration = 'owned'", 'verified after the switch, by a worker');
sql_ok($node, "SET ROLE app; SELECT dw_finalize('owned')", '... and finalizes it', user => 'deploy');
is(answer($node, 'SELECT count(*), sum(cents) FROM owned'), '3000|' . 100 * 3000 * 3001 / 2, 'the new column holds everything');

# --- pause, resume, set ---

begin_cents($node, 'pause', rate => 500);
wait_middle($node, 'pause');
answer($node, "SELECT dw_pause('pause', 'lunch')");
status_is($node, 'pause', 'state', 'paused', 'paused at once');
status_is($node, 'pause', 'state_reason', 'lunch', '... and says why');
wait_until($node, "SELECT worker_pids IS NULL OR worker_pids = '{}' FROM dw_status WHERE migration = 'pause'", 'the worker of a paused migration goes');
$filled = answer($node, 'SELECT count(*) FROM t WHERE cents IS NOT NULL');
cmp_ok($filled, '<', $rows, 'it was paused in the middle');
answer($node, 'UPDATE t SET amount = amount + 1 WHERE id = ' . $rows);
answer($node, 'UPDATE t SET cents = 4200 WHERE id = 1');
is(answer($node, "SELECT cents FROM t WHERE id = $rows"), 100 * ($rows + 1), 'the mirror stays on forward');
is(answer($node, 'SELECT amount FROM t WHERE id = 1'), 42, '... and backward');
answer($node, q(SELECT dw_set('pause', '{"max_rows_per_second": null, "batch_time": 1}')));
status_is($node, 'pause', 'state', 'paused', 'dw_set does not resume');
answer($node, "SELECT dw_resume('pause')");
wait_ready($node, 'pause', test => 'it goes on after dw_resume');
check_cents($node, 'every row is filled');
answer($node, 'UPDATE t SET amount = id');
answer($node, "SELECT dw_abort('pause', accept_loss => true)");

# Set while it runs
begin_cents($node, 'set', rate => 200);
wait_middle($node, 'set');
my $before = answer($node, "SELECT rows_done FROM dw_progress WHERE migration = 'set'");
full_speed($node, 'set');
wait_ready($node, 'set', test => 'the limit on its speed is lifted while it runs');
check_cents($node, 'every row is filled');
answer($node, "SELECT dw_abort('set')");

# --- ended in the middle ---

begin_cents($node, 'end', rate => 300);
wait_middle($node, 'end');
wait_until($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'pg_dualwrite worker'");
my $pid = worker_pid($node, 'end');
is(answer($node, "SELECT pg_terminate_backend($pid, 10000)"), 't', 'the worker is terminated');
wait_until($node, "SELECT worker_pids[1] <> $pid FROM dw_status WHERE migration = 'end'", 'another one comes by itself');
is( answer($node, "SELECT rows_done > 0 AND blocks_done < blocks_total FROM dw_progress WHERE migration = 'end'"),
	't', '... and goes on where it was');
$pid = worker_pid($node, 'end');
answer($node, "SELECT pg_cancel_backend($pid)");
full_speed($node, 'end');
wait_ready($node, 'end', test => 'it is finished, whoever is terminated or cancelled');
check_cents($node, 'every row is filled');
is(answer($node, 'SELECT count(*), sum(amount) FROM t'), "$rows|" . $rows * ($rows + 1) / 2, 'no row came or went');

check_log($node, 'the log is clean', qr/terminating background worker/, qr/cannot PREPARE a transaction/,
	qr/canceling statement due to user request/);
$node->stop;
done_testing();
