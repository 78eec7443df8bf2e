# The user's own brakes, changed while the backfill runs: max_wal_per_second,
# window, throttle_query, and the settings that stand in for them.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use DW;
use PostgreSQL::Test::Utils;
use Test::More;

my $rows = 20000;
my $node = dw_node('brakes');
my $from = "FROM dw_progress WHERE migration = 'm'";

sub set
{
	my ($options) = @_;
	return answer($node, "SELECT dw_set('m', '$options')");
}

# a window that is closed now and for the next hours, and one that is open
my $closed = answer($node, "SELECT to_char(now() AT TIME ZONE 'Asia/Kolkata' + interval '3 hours', 'HH24:MI') || '-' || to_char(now() AT TIME ZONE 'Asia/Kolkata' + interval '4 hours', 'HH24:MI') || ' Asia/Kolkata'");
my $open = answer($node, "SELECT to_char(now() AT TIME ZONE 'Asia/Kolkata' - interval '3 hours', 'HH24:MI') || '-' || to_char(now() AT TIME ZONE 'Asia/Kolkata' + interval '4 hours', 'HH24:MI') || ' Asia/Kolkata'");

# --- from the settings; closed from the start ---

$node->append_conf('postgresql.conf', "pg_dualwrite.window = '$closed'");
$node->reload;
make_table($node, $rows);
answer($node, 'ANALYZE t');
begin_cents($node, 'm', rate => 300);
my $done = is_held($node, 'm', 'window', 'a window of the settings that is closed');
is($done, 0, '... and nothing at all was done');
is(answer($node, "SELECT throttle_subject, throttle_value BETWEEN 2.8 * 3600 AND 3 * 3600 $from"), "$closed|t", '... says when it opens');
is(answer($node, "SELECT state, state_reason ~ '^window', pending_rows, pending_age > '3 s' AND pending_age < '10 min' FROM dw_status WHERE migration = 'm'"),
	"throttled|t|$rows|t", 'dw_status says what is not mirrored yet, and since when');
set(qq({"window": "$open"}));
is_going($node, 'm', $done, 'an open one goes on');
set(qq({"window": "$closed"}));
$done = is_held($node, 'm', 'window', 'closed while it runs');
$node->append_conf('postgresql.conf', "pg_dualwrite.window = ''");
$node->reload;
set('{"window": null}');
is_going($node, 'm', $done, 'no window');
$node->append_conf('postgresql.conf', "pg_dualwrite.window = 'tomorrow'");
$node->reload;
is($node->safe_psql('postgres', "SET client_min_messages = error; LOAD 'pg_dualwrite'; SELECT current_setting('pg_dualwrite.window')"), '', 'a bad window in the settings is no window');
$node->append_conf('postgresql.conf', "pg_dualwrite.window = ''");
$node->reload;

# --- throttle_query: the owner's, who may not do much else ---

$node->safe_psql('postgres', <<'SQL');
CREATE ROLE owner NOLOGIN;
GRANT CREATE ON SCHEMA public TO owner;
ALTER TABLE t OWNER TO owner;
CREATE TABLE load (boole boolean, number float8);
INSERT INTO load VALUES (false, 0);
GRANT SELECT ON load TO owner;
CREATE TABLE secret (n int);
CREATE TABLE log (who text, may boolean);
GRANT ALL ON log TO owner;
CREATE FUNCTION try() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    BEGIN
        INSERT INTO public.log VALUES (current_user, true);
        RETURN true;
    EXCEPTION WHEN read_only_sql_transaction THEN NULL;
    END;
    BEGIN
        SET ROLE postgres;
        RETURN true;
    EXCEPTION WHEN insufficient_privilege THEN NULL;
    END;
    PERFORM set_config('work_mem', '1MB', false);
    RETURN current_user <> 'owner' OR current_setting('work_mem') <> '1MB';
END
$$;
CREATE FUNCTION slow() RETURNS boolean LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(100); RETURN false; END';
CREATE FUNCTION broken() RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''the owner knows why''; END';
SQL
set('{"throttle_query": "SELECT boole FROM public.load"}');
$done = answer($node, "SELECT rows_done $from");
is_going($node, 'm', $done, 'a query that says false');
answer($node, 'UPDATE load SET boole = true');
$done = is_held($node, 'm', 'throttle_query', 'one that says true');
is(answer($node, "SELECT throttle_value, throttle_limit $from"), '1|1', '... with value and limit');
set('{"throttle_query": "SELECT number FROM public.load"}');
is_going($node, 'm', $done, 'a number that is low');
answer($node, 'UPDATE load SET number = 3.5');
$done = is_held($node, 'm', 'throttle_query', 'one that is high');
is(answer($node, "SELECT throttle_value, throttle_limit $from"), '3.5|1', '... with value and limit');
set('{"throttle_query": "SELECT public.try()"}');
is_going($node, 'm', $done, 'a query that would write, become somebody else, or leave a setting behind');
is(answer($node, 'SELECT count(*) FROM log'), 0, '... has not written');

# unreadable: fifteen seconds, then it stops, and says why to the owner
set('{"throttle_query": "SELECT public.broken()"}');
$done = is_held($node, 'm', 'throttle_query', 'a query that fails');
is(answer($node, "SELECT throttle_subject, throttle_value IS NULL $from"), "can't be read: the owner knows why|t", '... with its error');
is(answer($node, "CREATE ROLE someone LOGIN; SET ROLE someone; SELECT throttle_signal, throttle_subject IS NULL $from"), 'throttle_query|t', '... which is for the owner');
set('{"throttle_query": "SELECT public.slow()"}');
wait_until($node, "SELECT throttle_subject LIKE '%statement timeout' $from", 'one that takes longer than a second is ended');
set('{"throttle_query": "SELECT true WHERE false"}');
wait_until($node, "SELECT throttle_subject LIKE '%gave no value' $from", 'one that gives nothing');
set('{"throttle_query": null}');
is_going($node, 'm', $done, 'none');

# --- WAL ---

set('{"max_rows_per_second": 0, "max_wal_per_second": "100kB"}');
wait_until($node, "SELECT throttle_signal = 'max_wal_per_second' AND throttle_limit = 102400 $from", 'max_wal_per_second rules');
my ($w0, $t0) = split /\|/, answer($node, "SELECT wal_bytes, extract(epoch FROM clock_timestamp()) $from");
wait_until($node, "SELECT wal_bytes > $w0 + 400000 $from");
my ($w1, $t1) = split /\|/, answer($node, "SELECT wal_bytes, extract(epoch FROM clock_timestamp()) $from");
note(sprintf '%.0f bytes/s', ($w1 - $w0) / ($t1 - $t0));
cmp_ok(($w1 - $w0) / ($t1 - $t0), '<', 102400 * 1.2, '... and holds');
set('{"max_wal_per_second": null}');
wait_ready($node, 'm');
check_cents($node, 'every row is filled');
is(answer($node, 'SELECT count(*), sum(amount) FROM t'), "$rows|" . $rows * ($rows + 1) / 2, 'no row came or went');

# --- a verification is held back by the user's brakes, too ---

set(qq({"window": "$closed"}));
answer($node, q(SELECT dw_switch('m')));
wait_until($node, "SELECT state = 'throttled' AND state_reason ~ '^window' FROM dw_status WHERE migration = 'm'", 'a verification waits for the window');
set('{"window": null}');
wait_until($node, "SELECT verified_at > phase_since FROM dw_status WHERE migration = 'm'", '... and is done in it');
check_log($node, 'the log is clean', qr/throttle signal|invalid value for parameter|contains errors/);
$node->stop;
done_testing();
