# Code of a table's owner that gives back all advisory locks, where the worker
# and dw_reconcile run it: in a rule, in a CHECK constraint, in an index.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use DW;
use Test::More;

my $node = dw_node('own_locks');

make_table($node, 6000);
answer($node, <<'SQL');
-- while the gate is closed (someone holds advisory lock 1), the verification waits at 3000
CREATE FUNCTION unlock(n bigint) RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
	IF EXISTS (SELECT FROM pg_stat_activity WHERE pid = pg_backend_pid() AND application_name LIKE 'pg_dualwrite%') THEN
		PERFORM pg_advisory_unlock_all();
		WHILE n = 3000 AND EXISTS (SELECT FROM dualwrite.migration WHERE phase = 'verifying') AND EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND (objid, objsubid) = (1, 1)) LOOP
			PERFORM pg_sleep(0.01);
		END LOOP;
	END IF;
	RETURN n;
END $$;
CREATE INDEX ON t (unlock(amount));
ALTER TABLE t ADD CHECK (unlock(amount) IS NOT NULL);
SQL

my $begin = q(SELECT dw_begin('m', 't', 'amount', 'bigint', 'cents', 'unlock(amount) * 100', 'cents / 100', '{"workers": 1, "max_rows_per_second": 3000}'));
my $kept = q(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = %d);
my $gate = $node->background_psql('postgres');

# --- the backfill ---

answer($node, $begin);
wait_middle($node, 'm');
is(answer($node, sprintf($kept, 208)), 1, 'the worker has its lock after a batch');
is(answer($node, 'SELECT dw_ensure_workers()'), 0, '... so nobody starts a second one');
is(answer($node, sprintf($kept, 212)), 1, '... and that of the part that it fills');

# --- the verification ---

$gate->query_safe('SELECT pg_advisory_lock(1)');
full_speed($node, 'm');
wait_until($node, "SELECT phase = 'verifying' AND state <> 'waiting' AND EXISTS (SELECT FROM pg_stat_activity WHERE application_name LIKE 'pg_dualwrite%' AND wait_event = 'PgSleep') FROM dw_status",
	'the worker is in the middle of a chunk');
is(answer($node, sprintf($kept, $_)), 1, "... and has lock $_ though its chunk gave all back") for (208, 210, 212);
$gate->query_safe('SELECT pg_advisory_unlock(1)');
wait_ready($node, 'm');
check_cents($node, 'every row is filled');
wait_until($node, sprintf('SELECT (%s) = 0 FROM (SELECT 1) x', sprintf($kept, 210)), 'locks that have done their duty are given back');

# --- what the code takes itself is gone when the worker takes up another migration ---

is(answer($node, q(SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' AND l.objsubid IN (1, 2) AND a.backend_type LIKE 'pg_dualwrite%')),
	0, 'the worker has no advisory locks of others');

# --- dw_reconcile ---

sql_fails($node, q(SET application_name = 'pg_dualwrite as well'; CALL dw_reconcile('m')), '55000', qr/has lost its lock/, 'dw_reconcile says so and stops');
is(answer($node, sprintf($kept, 210)), 0, '... without a lock left');
sql_ok($node, q(SET client_min_messages = warning; CALL dw_reconcile('m')), '... and works where nobody does that');
status_is($node, 'm', 'phase', 'ready', 'the migration is ready');

$gate->quit;
check_log($node, "nothing bad in the log", qr{has lost its lock});
done_testing();
