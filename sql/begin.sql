--
-- dw_begin: what it makes of its arguments, and calling it again.
--

-- another type, casts both ways; a table this small is ready at once
CREATE TABLE begin_t (id int PRIMARY KEY, a int);
INSERT INTO begin_t VALUES (1, 10), (2, NULL), (3, -30);
SELECT dw_begin('begin', 'begin_t', 'a', 'bigint', 'b');
SELECT * FROM begin_t ORDER BY id;
SELECT attname, format_type(atttypid, atttypmod), attnotnull, atthasdef FROM pg_attribute
 WHERE attrelid = 'begin_t'::regclass AND attnum > 0 ORDER BY attnum;
INSERT INTO begin_t (id, a) VALUES (4, 40);
INSERT INTO begin_t (id, b) VALUES (5, 50);
UPDATE begin_t SET a = a + 1 WHERE id = 1;
UPDATE begin_t SET b = b + 1 WHERE id = 3;
SELECT * FROM begin_t ORDER BY id;
SELECT phase, state, authority, percent_done, bar, pending_rows, drifted, unconvertible, verified_at IS NOT NULL AS verified, next_step
  FROM dw_status WHERE migration = 'begin';

-- the same again is nothing to do, in every phase; another definition under the name is refused
SELECT dw_begin('begin', 'begin_t', 'a', 'bigint', 'b');
SELECT dw_begin('begin', 'public.begin_t', 'a', new_column => 'b', new_type => 'bigint', options => '{}');
SELECT dw_begin('begin', 'begin_t', 'a', 'bigint', 'c');
\echo :SQLSTATE
SELECT dw_begin('begin', 'begin_t', 'a', 'bigint', 'b', 'a + 1');
SELECT dw_begin('begin', 'begin_t', 'a', 'bigint', 'b', options => '{"conflict": "old"}');
SELECT dw_begin('begin', 'pg_class', 'a', 'bigint', 'b');
SELECT dw_begin_mapping('begin', 'begin_t', '{a}', '{"c": "a + 1"}', new_types => '{"c": "int"}');
SELECT dw_switch('begin');
SELECT dw_begin('begin', 'begin_t', 'a', 'bigint', 'b');
SELECT dw_begin('begin', 'begin_t', 'a', 'bigint', 'c');
SELECT dw_finalize('begin');
SELECT dw_begin('begin', 'begin_t', 'a', 'bigint', 'b');
SELECT * FROM begin_t ORDER BY id;

-- the name of a finalized migration is free for another definition, under which the first one is another
SELECT dw_begin('begin', 'begin_t', 'b', 'numeric', 'c');
SELECT dw_begin('begin', 'begin_t', 'b', 'numeric', 'c');
SELECT dw_begin('begin', 'begin_t', 'a', 'bigint', 'b');
SELECT migration, phase FROM dw_status WHERE migration = 'begin' ORDER BY started_at;

-- after an abort it begins again
SELECT dw_abort('begin');
SELECT * FROM begin_t ORDER BY id LIMIT 1;
SELECT dw_begin('begin', 'begin_t', 'b', 'numeric', 'c');
SELECT dw_abort('begin');
DROP TABLE begin_t;

-- a rename: type, length and collation are the old column's
CREATE TABLE begin_t (id int PRIMARY KEY, a varchar(5) COLLATE "C", n numeric(6,2));
INSERT INTO begin_t VALUES (1, 'x', 1.5), (2, 'abcde', 1234.5);
SELECT dw_begin('begin', 'begin_t', 'a', new_column => 'b');
SELECT dw_begin('begin n', 'begin_t', 'n', new_column => 'm');
SELECT attname, format_type(atttypid, atttypmod), attcollation::regcollation FROM pg_attribute
 WHERE attrelid = 'begin_t'::regclass AND attnum > 0 AND attname <> 'id' ORDER BY attnum;
INSERT INTO begin_t (id, b, m) VALUES (3, 'fghij', 9.99);
SELECT * FROM begin_t ORDER BY id;
INSERT INTO begin_t (id, b) VALUES (4, 'too long');
SELECT dw_abort('begin'), dw_abort('begin n');
\d begin_t
DROP TABLE begin_t;

-- a cast from a text is one that raises, whatever it meets
CREATE TABLE begin_t (id int PRIMARY KEY, a text);
INSERT INTO begin_t VALUES (1, '1'), (2, ' 2 '), (3, NULL);
SELECT dw_begin('begin', 'begin_t', 'a', 'int', 'b');
SELECT id, a, b FROM begin_t ORDER BY id;
-- the backward cast is there, and row 2 isn't touched by it
UPDATE begin_t SET b = 3 WHERE id = 3;
INSERT INTO begin_t (id, a) VALUES (4, 'four');
UPDATE begin_t SET b = 22 WHERE id = 2;
SELECT id, a, b FROM begin_t ORDER BY id;
-- what could not be converted went its way, is on record, and keeps the switch from happening
SELECT key, old_values, new_values, reason, sqlstate, message, repaired_at IS NOT NULL AS repaired
  FROM dw_drift WHERE migration = 'begin';
SELECT dw_switch('begin');
\echo :SQLSTATE
SELECT dw_abort('begin', accept_loss => true);
DROP TABLE begin_t;

-- no cast back that is immutable, or a forward expression that no cast undoes: one way
CREATE TABLE begin_t (id int PRIMARY KEY, a timestamp, total numeric(10,2));
INSERT INTO begin_t VALUES (1, '2024-02-29 12:00', 12.34);
SELECT dw_begin('begin', 'begin_t', 'a', 'timestamptz', 'b', 'a AT TIME ZONE ''UTC''');
SELECT dw_begin('begin 2', 'begin_t', 'total', 'bigint', 'cents', 'round(total * 100)');
SELECT id, b AT TIME ZONE 'UTC' AS b, cents FROM begin_t;
-- neither cast between these is immutable; the other way needs a zone, too
SELECT dw_begin('begin 3', 'begin_t', 'a', 'timestamptz', 'c');
\echo :SQLSTATE
SELECT rollback_note FROM dw_status WHERE migration = 'begin 2' AND phase = 'ready';
SELECT dw_abort('begin'), dw_abort('begin 2');
-- a forward expression that is the cast has the cast back
SELECT dw_begin('begin', 'begin_t', 'total', 'text', 'tt', 'total::text');
UPDATE begin_t SET tt = '5.50';
SELECT total, tt FROM begin_t;
SELECT dw_abort('begin');
DROP TABLE begin_t;

-- columns that are there already are taken as they are, and left there at the end
CREATE TABLE begin_t (id int PRIMARY KEY, a int, b bigint);
INSERT INTO begin_t VALUES (1, 1, 1), (2, 2, NULL), (3, 3, 999);
SELECT dw_begin('begin', 'begin_t', 'a', new_column => 'b');
-- the old side is in authority: whatever stood in the new column before the mirror, the backfill derives forward
SELECT * FROM begin_t ORDER BY id;
SELECT dw_abort('begin');
SELECT * FROM begin_t ORDER BY id;
UPDATE begin_t SET b = NULL;
SELECT dw_begin('begin', 'begin_t', 'a', 'int8', 'b');
SELECT * FROM begin_t ORDER BY id;
SELECT dw_begin('begin', 'begin_t', 'a', 'int8', 'b');
SELECT dw_abort('begin');
SELECT * FROM begin_t ORDER BY id;
DROP TABLE begin_t;

-- inline_limit: a table that isn't small is left to the worker
SET pg_dualwrite.inline_limit = 0;
CREATE TABLE begin_t (id int PRIMARY KEY, a int);
SELECT dw_begin('begin', 'begin_t', 'a', 'bigint', 'b');
SELECT dw_abort('begin');
INSERT INTO begin_t SELECT i, i FROM generate_series(1, 1000) i;
SELECT dw_begin('begin', 'begin_t', 'a', 'bigint', 'b');
CALL dw_wait('begin');
SELECT count(*), bool_and(a = b) FROM begin_t;
SELECT phase, percent_done, pending_rows, drifted FROM dw_status WHERE migration = 'begin' AND finished_at IS NULL;
SELECT dw_begin('begin', 'begin_t', 'a', 'bigint', 'b');
SELECT event, phase_from, phase_to FROM dw_events WHERE migration = 'begin' AND phase_to IS NOT NULL
   AND at >= (SELECT started_at FROM dw_status WHERE migration = 'begin' AND finished_at IS NULL) ORDER BY at;
SELECT dw_abort('begin');
RESET pg_dualwrite.inline_limit;
DROP TABLE begin_t;

-- unlogged and temporary tables, and one without a key
CREATE UNLOGGED TABLE begin_u (a int);
CREATE TEMP TABLE begin_p (a int);
INSERT INTO begin_u SELECT 1 FROM generate_series(1, 3);
INSERT INTO begin_p SELECT 2 FROM generate_series(1, 3);
SELECT dw_begin('begin u', 'begin_u', 'a', 'bigint', 'b');
SELECT dw_begin('begin p', 'begin_p', 'a', 'bigint', 'b');
INSERT INTO begin_u (b) VALUES (4);
INSERT INTO begin_p (b) VALUES (5);
SELECT * FROM begin_u UNION ALL SELECT * FROM begin_p ORDER BY 1;
SELECT dw_switch('begin u'), dw_switch('begin p');
SELECT dw_finalize('begin u'), dw_finalize('begin p');
SELECT * FROM begin_u UNION ALL SELECT * FROM begin_p ORDER BY 1;
DROP TABLE begin_u, begin_p;

-- a table that was made anew is another table: the same call begins, where the former one has been finalized
CREATE TABLE begin_t (a int);
SELECT dw_begin('begin again', 'begin_t', 'a', 'bigint', 'b');
SELECT dw_switch('begin again');
SELECT dw_finalize('begin again');
DROP TABLE begin_t;
CREATE TABLE begin_t (a int);
INSERT INTO begin_t VALUES (1);
SELECT dw_begin('begin again', 'begin_t', 'a', 'bigint', 'b');
SELECT dw_begin('Begin again', 'begin_t', 'b', 'bigint', 'c');
SELECT dw_begin(' begin again', 'begin_t', 'b', 'bigint', 'c');
SELECT * FROM begin_t;
SELECT dw_abort('begin again');
SELECT dw_side('begin again');
DROP TABLE begin_t;

-- an empty table; several migrations on one table, columns apart
CREATE TABLE begin_t (a int, b int, c int);
SELECT dw_begin('begin 1', 'begin_t', 'a', 'bigint', 'a8');
SELECT dw_begin('begin 2', 'begin_t', 'b', 'bigint', 'b8');
INSERT INTO begin_t (a, b8) VALUES (1, 2);
SELECT * FROM begin_t;
UPDATE begin_t SET a8 = 10, b = 20, c = 30;
SELECT * FROM begin_t;
SELECT dw_switch('begin 1');
SELECT dw_finalize('begin 1');
UPDATE begin_t SET b8 = 200;
SELECT * FROM begin_t;
SELECT dw_abort('begin 2');
SELECT * FROM begin_t;
DROP TABLE begin_t;

-- constraints of the new column are obeyed, also on the spot: rows that break one are recorded, the others filled
CREATE TABLE begin_ref (id bigint PRIMARY KEY);
INSERT INTO begin_ref SELECT generate_series(1, 10);
CREATE TABLE begin_t (id int PRIMARY KEY, a int, b bigint CHECK (b <> 3) UNIQUE REFERENCES begin_ref DEFERRABLE INITIALLY DEFERRED, c bigint NOT NULL DEFAULT -1);
INSERT INTO begin_t (id, a) VALUES (1, 1), (2, 2), (3, 3), (4, 1), (5, 11), (6, NULL);
ALTER TABLE begin_t ALTER c DROP DEFAULT;
SELECT dw_begin('begin', 'begin_t', 'a', new_column => 'b') IS NOT NULL AS begun;
\set VERBOSITY terse
CALL dw_wait('begin');
\set VERBOSITY default
SELECT * FROM begin_t ORDER BY id;
SELECT key, old_values, sqlstate, message FROM dw_drift WHERE migration = 'begin' AND repaired_at IS NULL AND found_at > (SELECT started_at FROM dw_status WHERE migration = 'begin' AND finished_at IS NULL) ORDER BY (key->>'id')::int;
SELECT dw_abort('begin', true);
ALTER TABLE begin_t DROP CONSTRAINT begin_t_b_fkey;
SELECT dw_begin('begin c', 'begin_t', 'a', new_column => 'c');
SELECT id, a, c FROM begin_t ORDER BY id;
SELECT key, old_values, sqlstate, message FROM dw_drift WHERE migration = 'begin c' AND repaired_at IS NULL;
SELECT dw_abort('begin c', true);
DROP TABLE begin_t, begin_ref;

-- rules that read nothing
CREATE TABLE begin_t (id int PRIMARY KEY, a int);
INSERT INTO begin_t VALUES (1, 1), (2, NULL);
SELECT dw_begin('begin', 'begin_t', 'a', 'text', 'b', '''it''''s''', 'length(b)');
SELECT dw_begin('begin 2', 'begin_t', 'id', 'point', 'c', 'NULL');
INSERT INTO begin_t (id, a) VALUES (3, 3);
INSERT INTO begin_t (id, b) VALUES (4, 'four');
UPDATE begin_t SET a = 5 WHERE id = 1;
SELECT * FROM begin_t ORDER BY id;
SELECT dw_abort('begin', true), dw_abort('begin 2');
DROP TABLE begin_t;

-- another access method, even one that is a heap by another name
CREATE ACCESS METHOD begin_am TYPE TABLE HANDLER heap_tableam_handler;
CREATE TABLE begin_t (id int PRIMARY KEY, a int) USING begin_am;
SELECT dw_begin('begin', 'begin_t', 'a', 'bigint', 'b');
\echo :SQLSTATE
DROP TABLE begin_t;
DROP ACCESS METHOD begin_am;

-- a temporary table is filled on the spot whatever its size, and not at the price of memory for each row
CREATE FUNCTION be_peak() RETURNS int LANGUAGE sql AS -- 0 where there is no /proc, or with a sanitizer, which keeps what is freed
 $$ SELECT CASE WHEN pg_read_file('/proc/self/maps', 0, 1000000, true) !~ 'libasan'
     THEN (regexp_match(pg_read_file('/proc/self/status', 0, 8192, true), 'VmHWM:\s+(\d+) kB'))[1]::int ELSE 0 END $$;
CREATE TEMP TABLE be_temp (id int PRIMARY KEY, a int);
INSERT INTO be_temp SELECT i, i FROM generate_series(1, 100000) i;
SELECT be_peak() AS peak \gset
SELECT dw_begin('be_temp', 'be_temp', 'a', 'bigint', 'b');
SELECT be_peak() - :peak < 30000 AS little_memory, count(*), count(*) FILTER (WHERE b = a) AS filled FROM be_temp;
SELECT dw_abort('be_temp', true) IS NOT NULL AS aborted;
DROP TABLE be_temp;
DROP FUNCTION be_peak;

-- workers that wait for the end of the transaction that has asked for them: one a migration, and no more than there may be
CREATE TABLE begin_t (id int PRIMARY KEY, a int);
INSERT INTO begin_t SELECT i, i FROM generate_series(1, 1000) i;
SET pg_dualwrite.inline_limit = 0;
BEGIN;
SELECT dw_begin('begin', 'begin_t', 'a', 'bigint', 'b');
SELECT sum(dw_ensure_workers()) AS more FROM generate_series(1, 40);
SAVEPOINT s;
SELECT dw_set('begin', '{"batch_time": 3}') FROM generate_series(1, 3);
ROLLBACK TO s;
SELECT dw_ensure_workers() AS more;
SELECT count(*) < 5 AS few FROM pg_stat_activity WHERE backend_type = 'pg_dualwrite worker' AND datname = current_database();
ROLLBACK;
RESET pg_dualwrite.inline_limit;
DROP TABLE begin_t;
