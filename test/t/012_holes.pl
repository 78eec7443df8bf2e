# Holes in the mirror: the emergency brake under load, disabled triggers, a
# trigger or a function changed behind its back.  Each voids the verification,
# and dw_switch refuses until it has been made again.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use DW;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = dw_node('holes');
my $rows = 3000;

# The migration must not be switchable, and dw_status must know.
sub void
{
	my ($m, $what) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	sql_fails($node, "SELECT dw_switch('$m')", '55000', qr/can't be switched/, "$what: dw_switch refuses");
	return;
}

sub mirror_triggers
{
	my ($table, $enable) = @_;

	return "DO \$\$ DECLARE t name; BEGIN FOR t IN SELECT tgname FROM pg_trigger WHERE tgrelid = '$table'::regclass"
	  . " AND tgfoid = 'dualwrite.mirror'::regproc LOOP EXECUTE format('ALTER TABLE $table $enable TRIGGER %I', t); END LOOP; END \$\$";
}

# --- the brake, under load, and released ---

make_table($node, $rows);
my $writers = start_writers($node, $rows, kinds => [ 'old', 'old' ]);
begin_cents($node, 'm');
wait_ready($node, 'm');
sql_ok($node, q(SELECT dw_set('m', '{"mirror": "off"}')), 'the brake under load');
void('m', 'mirror off');
my $before = answer($node, 'SELECT count(*) FROM t WHERE cents IS DISTINCT FROM amount * 100::bigint');
wait_until($node, "SELECT count(*) > $before + 100 FROM t WHERE cents IS DISTINCT FROM amount * 100::bigint", 'the sides part');
status_is($node, 'm', 'phase', 'ready', 'the phase stays');
isnt(answer($node, "SELECT state || coalesce(state_reason, '') FROM dw_status WHERE migration = 'm'"), 'idle', '... but the state tells');
sql_fails($node, "CALL dw_wait('m', 'switched', '1 s')", [ '55000', '57014' ], qr/./, 'nobody heals it behind our back');
answer($node, 'INSERT INTO t (id, cents) SELECT i, i * 100 FROM generate_series(800001, 800300) i');
sql_ok($node, q(SELECT dw_set('m', '{"mirror": "both", "conflict": "authority"}')), 'the brake is released under load, the old side wins');
wait_until($node, "SELECT phase = 'ready' AND verified_at IS NOT NULL FROM dw_status WHERE migration = 'm'", 'it is filled and verified again');
is(answer($node, 'WITH d AS (DELETE FROM t WHERE id BETWEEN 800001 AND 800300 RETURNING *) SELECT count(*) FROM d WHERE amount = id AND cents = id * 100'),
	300, 'rows that only the new side had written have come backward');
stop_writers($writers);
compare_writers($writers, 'every acknowledged write is there, and both sides of every row agree');
cmp_ok(answer($node, "SELECT count(*) FROM dw_drift WHERE migration = 'm' AND reason ~ 'overwritten'"), '>', 0,
	'values that were overwritten are on record');
like( answer($node, "SELECT string_agg(coalesce(phase_to, event), ' ' ORDER BY at) FROM dw_events WHERE migration = 'm'"),
	qr/^backfilling verifying ready brake set backfilling verifying ready$/, 'dw_events tells the story');
sql_ok($node, "SELECT dw_switch('m')", 'now it can be switched');

# ... after the switch: the new side is in authority, and the old one follows
wait_until($node, "SELECT verified_at > phase_since FROM dw_status WHERE migration = 'm'");
answer($node, q(SELECT dw_set('m', '{"mirror": "off"}')));
answer($node, 'UPDATE t SET cents = cents + 700 WHERE id <= 500');
answer($node, 'INSERT INTO t (id, cents) SELECT i, i * 100 FROM generate_series(900001, 900100) i');
sql_fails($node, "SELECT dw_rollback('m')", '55000', qr/can't be rolled back/, 'dw_rollback is refused over a hole');
sql_fails($node, "SELECT dw_finalize('m')", '55000', qr/can't be finalized/, 'dw_finalize too');
my $new = answer($node, 'SELECT md5(string_agg(format(\'%s %s\', id, cents), \',\' ORDER BY id)) FROM t');
answer($node, q(SELECT dw_set('m', '{"mirror": "both", "conflict": "authority"}')));
wait_until($node, "SELECT verified_at > phase_since AND rollback_possible FROM dw_status WHERE migration = 'm'", 'healed after the switch');
check_cents($node, 'both sides of every row agree');
is(answer($node, 'SELECT md5(string_agg(format(\'%s %s\', id, cents), \',\' ORDER BY id)) FROM t'), $new, 'and nothing of the new side was touched');
sql_ok($node, "SELECT dw_rollback('m')", 'rolled back');
answer($node, q(SELECT dw_abort('m')));

# ... during the backfill
make_table($node, $rows, table => 'u');
begin_cents($node, 'u', table => 'u', rate => 500);
wait_middle($node, 'u');
answer($node, q(SELECT dw_set('u', '{"mirror": "off"}')));
answer($node, 'UPDATE u SET amount = -id WHERE id % 10 = 0');
answer($node, q(SELECT dw_set('u', '{"mirror": "both", "conflict": "authority", "max_rows_per_second": null}')));
wait_ready($node, 'u', test => 'brake on and off during the backfill');
check_cents($node, 'every row is filled', table => 'u');
is(answer($node, 'SELECT count(*) FROM u WHERE amount = -id'), $rows / 10, 'and no write of the old side undone');

# Where neither side has its initial value, the user chooses
answer($node, q(SELECT dw_set('u', '{"conflict": null}')));
answer($node, q(SELECT dw_set('u', '{"mirror": "off"}')));
answer($node, 'UPDATE u SET cents = 4200 WHERE id = 1; UPDATE u SET amount = 43 WHERE id = 2');
answer($node, q(SELECT dw_set('u', '{"mirror": "both"}')));
wait_until($node, "SELECT state = 'failed' FROM dw_status WHERE migration = 'u'", 'rows that hold two values are left to the user');
is(answer($node, "SELECT string_agg(key ->> 'id', ' ' ORDER BY key ->> 'id') FROM dw_drift WHERE migration = 'u' AND repaired_at IS NULL"), '1 2', '... and named');
is(answer($node, 'SELECT amount, cents FROM u WHERE id IN (1, 2) ORDER BY id'), "1|4200\n43|200", '... and left alone');
void('u', 'open drift');
answer($node, 'UPDATE u SET cents = 4200 WHERE id = 1; UPDATE u SET amount = 43 WHERE id = 2');
answer($node, "SELECT dw_resume('u')");
wait_until($node, "SELECT phase = 'ready' AND verified_at IS NOT NULL FROM dw_status WHERE migration = 'u'", 'written again, and resumed: ready');
is(answer($node, 'SELECT amount, cents FROM u WHERE id IN (1, 2) ORDER BY id'), "42|4200\n43|4300", '... as the user wanted');
check_cents($node, 'both sides of every row agree', table => 'u');

# --- triggers ---

# Nobody verifies behind our back: a worker would, at once.
$node->append_conf('postgresql.conf', 'pg_dualwrite.max_workers = 0');
$node->reload;
wait_until($node, "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'pg_dualwrite worker'");
my $verify = "SELECT * FROM dw_verify('u')";
my $switch = "SELECT dw_switch('u'); SELECT dw_rollback('u')";
sql_ok($node, $switch, 'a verified migration can be switched');

answer($node, mirror_triggers('u', 'DISABLE'));
void('u', 'a disabled trigger');
answer($node, 'UPDATE u SET amount = 17 WHERE id = 17');
answer($node, mirror_triggers('u', 'ENABLE ALWAYS'));
void('u', 'a trigger that was disabled and is enabled again');
answer($node, 'UPDATE u SET amount = 17 WHERE id = 17');

# a write in between is found
answer($node, mirror_triggers('u', 'DISABLE'));
answer($node, 'UPDATE u SET amount = 1818 WHERE id = 18');
answer($node, mirror_triggers('u', 'ENABLE ALWAYS'));
like(sql_ok($node, $verify, 'dw_verify'), qr/^$rows\|1\|0\|/, '... finds the row that was written meanwhile');
void('u', 'the row it found');
sql_ok($node, "SET client_min_messages = warning; CALL dw_reconcile('u')", 'dw_reconcile repairs it');
is(answer($node, 'SELECT cents FROM u WHERE id = 18'), 181800, '... from the side in authority');
sql_ok($node, $switch, '... and it can be switched');

# Enabled as usual only: a replica would go past it.
answer($node, mirror_triggers('u', 'ENABLE'));
void('u', 'a trigger that does not fire always');
answer($node, mirror_triggers('u', 'ENABLE ALWAYS'));
sql_ok($node, $verify, 'verified');
sql_ok($node, $switch, '... and it can be switched');

# One that sorts after ours
answer($node, <<'SQL');
CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.cents := 1; RETURN NEW; END $$;
CREATE TRIGGER "~~~~ zzz" BEFORE UPDATE ON u FOR EACH ROW WHEN (NEW.id = 19) EXECUTE FUNCTION spoil();
SQL
void('u', 'a trigger that fires after the mirror');
answer($node, 'UPDATE u SET amount = 1919 WHERE id = 19');
like(sql_ok($node, $verify, 'dw_verify'), qr/^$rows\|1\|0\|/, '... finds what it did');
answer($node, 'DROP TRIGGER "~~~~ zzz" ON u; UPDATE u SET amount = 1919, cents = 191900 WHERE id = 19');
sql_ok($node, $verify, 'verified again');
sql_ok($node, $switch, '... and it can be switched');

# One that sorts before ours is none of our business
answer($node, 'CREATE TRIGGER "!" BEFORE UPDATE ON u FOR EACH ROW WHEN (NEW.id = -1) EXECUTE FUNCTION spoil()');
my ($ret, $out, $err) = $node->psql('postgres', $switch);
if ($ret != 0)
{
	sql_ok($node, $verify, 'verified, with a trigger that fires before the mirror');
	sql_ok($node, $switch, '... it can be switched');
}
answer($node, 'DROP TRIGGER "!" ON u');

# --- functions ---

make_table($node, $rows, table => 'v');
answer($node, <<'SQL');
CREATE FUNCTION hundredfold(x int) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN x * 100; END $$;
SET pg_dualwrite.inline_limit = '100MB';
SELECT dw_begin('v', 'v', 'amount', 'bigint', 'cents', 'hundredfold(amount)', 'cents / 100');
SQL
status_is($node, 'v', 'phase', 'ready', 'filled on the spot');
answer($node, <<'SQL');
CREATE OR REPLACE FUNCTION hundredfold(x int) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN x * 100 + 1; END $$;
SQL
void('v', 'a function of a rule replaced');
like(sql_ok($node, "SELECT * FROM dw_verify('v')", 'dw_verify'), qr/^$rows\|0\|0\|/, '... takes the other rule, which still leads back');
answer($node, <<'SQL');
CREATE OR REPLACE FUNCTION hundredfold(x int) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN x * 100 + 100; END $$;
UPDATE v SET cents = amount * 100 + 700 WHERE id = 5;
SQL
void('v', 'replaced again');
answer($node, <<'SQL');
CREATE OR REPLACE FUNCTION hundredfold(x int) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN x * 100; END $$;
SQL
sql_ok($node, "SELECT * FROM dw_verify('v')", 'verified');
sql_ok($node, "SELECT dw_switch('v')", '... and switched');
check_cents($node, 'both sides of every row agree', table => 'v');
check_log($node, 'the log is clean', qr/can't be (?:switched|rolled back|finalized)/, qr/did not become switched in time/, qr/migration "m" failed/);
$node->stop;
done_testing();
