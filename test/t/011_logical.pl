# Logical replication: a published table, and a table that a subscription
# writes.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib $FindBin::RealBin;

use DW;
use PostgreSQL::Test::Utils;
use Test::More;

my $rows = 2000;
my $pub = dw_node('publisher', init => { allows_streaming => 'logical' });
my $sub = dw_node('subscriber');
my $connstr = $pub->connstr . ' dbname=postgres';
my $begin = q(SELECT dw_begin('%s', '%s', 'amount', 'bigint', 'cents', 'amount * 100::bigint', 'cents / 100'%s));

# --- a published table: every publication is named ---

make_table($pub, $rows);
make_table($pub, $rows, table => 'listed');
$pub->safe_psql('postgres', <<'SQL');
CREATE SCHEMA s;
CREATE TABLE s.t (id int PRIMARY KEY, amount int);
CREATE PUBLICATION one FOR TABLE t;
CREATE PUBLICATION "Two, too" FOR TABLE t WHERE (id > 0);
CREATE PUBLICATION listed FOR TABLE listed (id, amount);
CREATE PUBLICATION inschema FOR TABLES IN SCHEMA s;
SQL
sql_fails($pub, sprintf($begin, 'm', 't', ''), '55000', qr/published by (?:one, "Two, too"|"Two, too", one)/,
	'dw_begin on a published table is refused and names the publications');
sql_fails($pub, sprintf($begin, 'm', 's.t', ''), '55000', qr/published by inschema/, '... published with its schema');
is(answer($pub, "SELECT count(*) FROM pg_attribute WHERE attname = 'cents'"), 0, '... and nothing was changed');
sql_ok($pub, sprintf($begin, 'listed', 'listed', ''), 'a column list that leaves the new column out is no hindrance');
wait_ready($pub, 'listed');
check_cents($pub, 'every row is filled', table => 'listed');
answer($pub, 'CREATE PUBLICATION everything FOR ALL TABLES');
sql_fails($pub, sprintf($begin, 'm', 't', ''), '55000', qr/everything/, 'FOR ALL TABLES is found');
answer($pub, 'DROP PUBLICATION everything');

# --- subscribers that have the column already ---

$sub->safe_psql('postgres', 'CREATE TABLE t (id int PRIMARY KEY, amount int, filler text, cents bigint)');
$sub->safe_psql('postgres', "CREATE SUBSCRIPTION s CONNECTION '$connstr' PUBLICATION one");
$sub->wait_for_subscription_sync($pub, 's');
my $writers = start_writers($pub, $rows);
sql_ok($pub, sprintf($begin, 'm', 't', q(, '{"subscribers_ready": true, "max_rows_per_second": 1000}')), 'dw_begin with subscribers_ready');
answer($sub, 'ALTER SUBSCRIPTION s REFRESH PUBLICATION');
wait_middle($pub, 'm');
full_speed($pub, 'm');
wait_ready($pub, 'm');
stop_writers($writers);
compare_writers($writers, 'on the publisher every acknowledged write is there');
$pub->wait_for_catchup('s');
is(answer($sub, 'SELECT md5(string_agg(format(\'%s %s %s\', id, amount, cents), \',\' ORDER BY id)) FROM t'),
	answer($pub, 'SELECT md5(string_agg(format(\'%s %s %s\', id, amount, cents), \',\' ORDER BY id)) FROM t'),
	'the subscriber, which has no mirror, has the same rows');
check_cents($sub, '... filled');
$sub->safe_psql('postgres', 'DROP SUBSCRIPTION s');

# --- a migration on the subscriber ---

# The publisher knows nothing of it: its u has both columns, and whatever values.
$pub->safe_psql('postgres', <<SQL);
CREATE TABLE u (id int PRIMARY KEY, amount int, cents bigint);
INSERT INTO u SELECT i, i FROM generate_series(1, $rows) i;
CREATE TABLE v (id int PRIMARY KEY, amount text);
INSERT INTO v SELECT i, i FROM generate_series(1, $rows) i;
CREATE PUBLICATION u FOR TABLE u, v;
SQL
$sub->safe_psql('postgres', <<SQL);
CREATE TABLE u (id int PRIMARY KEY, amount int, cents bigint);
CREATE TABLE v (id int PRIMARY KEY, amount text);
SELECT dw_begin('v', 'v', 'amount', 'int', 'n', 'amount::int', 'n::text');
SQL
my $rate = q(, '{"max_rows_per_second": 500}');
sql_ok($sub, sprintf($begin, 'u', 'u', ''), 'dw_begin on the subscriber');
$sub->safe_psql('postgres', "CREATE SUBSCRIPTION u CONNECTION '$connstr' PUBLICATION u");
$sub->wait_for_subscription_sync($pub, 'u');
is(answer($sub, 'SELECT count(*) FROM u WHERE cents = amount * 100'), $rows, 'the initial copy is mirrored');
is(answer($sub, 'SELECT count(*) FROM v WHERE n = amount::int'), $rows, '... in the other table, too');
wait_ready($sub, 'u');
wait_ready($sub, 'v');

# what arrives, in the direction of what changed
sub replicated
{
	my ($sql, $query, $expected, $test) = @_;

	$pub->safe_psql('postgres', $sql);
	$pub->wait_for_catchup('u');
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(answer($sub, $query), $expected, $test);
}
my $row = 'SELECT amount, cents FROM u WHERE id = ';

# A row comes whole, with the NULL that its cents are on the publisher: both
# sides change here, and NULL is not what the old side says.
replicated('UPDATE u SET amount = 77 WHERE id = 5', $row . 5, '77|7700', 'an update of the old side is mirrored');
replicated('INSERT INTO u (id, amount) VALUES (-1, 3)', $row . -1, '3|300', 'an insert of the old side is mirrored');
replicated('INSERT INTO u (id, cents) VALUES (-2, 700)', $row . -2, '7|700', 'an insert of the new side is mirrored');
replicated('INSERT INTO u VALUES (-3, 3, 900)', $row . -3, '3|300', 'both sides, and they disagree: the old one is in authority');
replicated('UPDATE u SET amount = 4, cents = 1000 WHERE id = -3', $row . -3, '4|400', '... in an update, too');
replicated("UPDATE v SET amount = 'bad' WHERE id = 1", 'SELECT amount, n FROM v WHERE id = 1', 'bad|', 'what does not convert is taken');
is(answer($sub, "SELECT key, sqlstate FROM dw_drift WHERE migration = 'v'"), '{"id": "1"}|22P02', '... and recorded');
replicated('DELETE FROM u WHERE id < 0; TRUNCATE v', 'SELECT count(*) FROM v', 0, 'deleted and truncated');
replicated('UPDATE u SET cents = amount * 100', 'SELECT count(*) FROM u WHERE cents IS DISTINCT FROM amount * 100', 0, 'made equal on both');

# after the switch the other side wins
like(sql_ok($sub, "SELECT * FROM dw_verify('u')", 'dw_verify'), qr/^$rows\|0\|0\|/, '... finds nothing');
sql_ok($sub, "SELECT dw_switch('u')", 'switched on the subscriber');
replicated('UPDATE u SET amount = 4, cents = 1000 WHERE id = 6', $row . 6, '10|1000', 'both sides, and they disagree: the new one is in authority');
replicated('INSERT INTO u VALUES (-3, 3, 900)', $row . -3, '9|900', '... in an insert, too');
replicated('UPDATE u SET cents = 1200 WHERE id = 7', $row . 7, '12|1200', 'an update of the new side is mirrored');
wait_until($sub, "SELECT verified_at > phase_since FROM dw_status WHERE migration = 'u'", 'verified after the switch');
check_cents($sub, 'both sides of every row agree', table => 'u');
is(answer($sub, "SELECT count(*) FROM pg_stat_subscription WHERE subname = 'u' AND pid IS NOT NULL AND relid IS NULL"), 1, 'the subscription is alive');

# --- backfill while rows arrive ---

make_table($pub, $rows, table => 'w');
make_table($sub, $rows, table => 'w');
answer($pub, 'CREATE PUBLICATION w FOR TABLE w');
$sub->safe_psql('postgres', "CREATE SUBSCRIPTION w CONNECTION '$connstr' PUBLICATION w WITH (copy_data = false)");
sql_ok($sub, sprintf($begin, 'w', 'w', $rate), 'dw_begin on a table that is being written by a subscription');
wait_middle($sub, 'w');
my $add = start_writers($pub, $rows, kinds => [ 'old', 'old' ], table => 'w');
wait_until($pub, "SELECT count(*) > $rows + 200 FROM w");
full_speed($sub, 'w');
wait_ready($sub, 'w');
stop_writers($add);
$pub->wait_for_catchup('w');
check_cents($sub, 'every row is filled', table => 'w');
is(answer($sub, 'SELECT md5(string_agg(format(\'%s %s\', id, amount), \',\' ORDER BY id)) FROM w'),
	answer($pub, 'SELECT md5(string_agg(format(\'%s %s\', id, amount), \',\' ORDER BY id)) FROM w'),
	'and no write has been lost');
check_log($sub, 'the log of the subscriber is clean', qr/terminating logical replication worker|could not receive data/);
check_log($pub, 'the log of the publisher is clean', qr/published by/);
$sub->safe_psql('postgres', 'DROP SUBSCRIPTION u');
$sub->safe_psql('postgres', 'DROP SUBSCRIPTION w');
$sub->stop;
$pub->stop;
done_testing();
