--
-- Rows that the backfill has not reached yet, met by writers of either side. The migrations are paused as they begin, so that rows
-- stay as they are.
--
SET pg_dualwrite.inline_limit = 0;
SET client_min_messages = warning;
CREATE TABLE uf (id int PRIMARY KEY, a int, note text);
INSERT INTO uf SELECT i, i, 'note' FROM generate_series(1, 20) i;
BEGIN;
SELECT dw_begin('uf', 'uf', 'a', 'bigint', 'b', 'a * 10', 'b / 10');
SELECT dw_pause('uf', 'for the test');
COMMIT;
SELECT phase, state, state_reason, percent_done, pending_rows, next_step FROM dw_status WHERE migration = 'uf';
SELECT count(b) FROM uf;

-- neither side is changed: forward, or the row would move behind the backfill's back
UPDATE uf SET note = 'x' WHERE id = 1;
UPDATE uf SET note = note WHERE id = 2;
UPDATE uf SET id = -id WHERE id = 3;
-- old side: changed, or SET to what it is
UPDATE uf SET a = 400 WHERE id = 4;
UPDATE uf SET a = a WHERE id = 5;
UPDATE uf SET a = NULL WHERE id = 6;
-- new side, blind; NULL is a value that it may be given
UPDATE uf SET b = 700 WHERE id = 7;
UPDATE uf SET b = NULL WHERE id = 8;
-- an application that knows both and writes back all it has read: b as it was, NULL
UPDATE uf SET a = a, b = b, note = 'all' WHERE id = 9;
UPDATE uf SET a = 100, b = b, note = 'all' WHERE id = 10;
-- both, consistent or not
UPDATE uf SET a = 11, b = 110 WHERE id = 11;
UPDATE uf SET a = 12, b = 120 WHERE id = 12;
UPDATE uf SET a = 13, b = 999 WHERE id = 13;
UPDATE uf SET a = 140, b = 999 WHERE id = 14;
\echo :SQLSTATE
SELECT *, b IS NOT DISTINCT FROM a * 10 AS ok FROM uf ORDER BY abs(id);
-- twice, in one transaction; undone; an upsert; a row lock alone; a delete
BEGIN;
UPDATE uf SET note = 'once' WHERE id = 15;
UPDATE uf SET b = 1500 WHERE id = 15;
SAVEPOINT s;
UPDATE uf SET note = 'undone' WHERE id = 16;
ROLLBACK TO s;
COMMIT;
INSERT INTO uf VALUES (17, 1, 'upsert') ON CONFLICT (id) DO UPDATE SET note = excluded.note;
INSERT INTO uf (id, b) VALUES (18, 1800) ON CONFLICT (id) DO UPDATE SET b = excluded.b;
BEGIN;
SELECT id FROM uf WHERE id = 19 FOR UPDATE;
COMMIT;
DELETE FROM uf WHERE id = 20;
-- new rows are never unfilled
INSERT INTO uf (id, b) VALUES (30, 300);
INSERT INTO uf (id, a) VALUES (31, NULL);
UPDATE uf SET b = 310 WHERE id = 31;
SELECT *, b IS NOT DISTINCT FROM a * 10 AS ok FROM uf WHERE id >= 14 ORDER BY id;
-- frozen, they are still the old rows
VACUUM (FREEZE, INDEX_CLEANUP off) uf;
UPDATE uf SET note = 'frozen' WHERE id = 16;
SELECT *, b IS NOT DISTINCT FROM a * 10 AS ok FROM uf WHERE id IN (16, 19) ORDER BY id;
-- the rest
SELECT dw_resume('uf');
CALL dw_wait('uf');
SELECT count(*), count(*) FILTER (WHERE b IS DISTINCT FROM a * 10) AS wrong FROM uf;
SELECT * FROM uf WHERE id IN (7, 8, 14, 15, 18, 19, 31) ORDER BY id;
SELECT dw_abort('uf', accept_loss => true);

-- half of the new side: what the statement doesn't SET is derived from the row as it was, else half a name is lost
DROP TABLE uf;
CREATE TABLE uf (id int PRIMARY KEY, name text, note text);
INSERT INTO uf SELECT i, 'First' || i || ' Last' || i FROM generate_series(1, 12) i;
BEGIN;
SELECT dw_begin_mapping('uf', 'uf', '{name}', '{"first": "split_part(name, '' '', 1)", "last": "split_part(name, '' '', 2)"}',
    '{"name": "first || '' '' || last"}', '{"first": "text", "last": "text"}');
SELECT dw_pause('uf');
COMMIT;
UPDATE uf SET last = 'X' WHERE id = 1;
UPDATE uf SET first = 'Y' WHERE id = 2;
UPDATE uf SET first = 'A', last = 'B' WHERE id = 3;
UPDATE uf SET last = NULL WHERE id = 4;
UPDATE uf SET name = 'O P' WHERE id = 5;
UPDATE uf SET last = 'Q', note = 'and more' WHERE id = 6;
UPDATE uf SET last = 'R', name = 'First7 R' WHERE id = 7;
UPDATE uf SET last = 'R', name = name WHERE id = 8;
UPDATE uf SET note = 'only' WHERE id = 9;
-- both sides are changed, and half of the new one isn't there yet
UPDATE uf SET last = 'S', name = 'S T' WHERE id = 10;
\echo :SQLSTATE
UPDATE uf SET first = upper(first) WHERE id = 11;
SELECT *, name IS NOT DISTINCT FROM first || ' ' || last AS ok FROM uf ORDER BY id;
-- a table that was rewritten: nobody can tell by the row's age any more; its new columns tell
VACUUM FULL uf;
UPDATE uf SET last = 'V' WHERE id = 10;
UPDATE uf SET note = 'moved' WHERE id = 12;
UPDATE uf SET last = 'W' WHERE id = 1;
UPDATE uf SET first = NULL, last = NULL WHERE id = 2;
UPDATE uf SET note = 'both NULL, and filled' WHERE id = 2;
SELECT *, name IS NOT DISTINCT FROM first || ' ' || last AS ok FROM uf WHERE id IN (1, 2, 10, 12) ORDER BY id;
SELECT dw_resume('uf');
CALL dw_wait('uf');
SELECT *, name IS NOT DISTINCT FROM first || ' ' || last AS ok FROM uf ORDER BY id;
SELECT phase, drifted, unconvertible FROM dw_status WHERE migration = 'uf' AND finished_at IS NULL;
SELECT dw_abort('uf', accept_loss => true);

-- what can't be converted: recorded, and the write goes on
DROP TABLE uf;
CREATE TABLE uf (id int PRIMARY KEY, d text, note text);
INSERT INTO uf SELECT i, 'bad' || i FROM generate_series(1, 6) i;
INSERT INTO uf VALUES (7, '2024-01-02'), (8, '2024-01-02');
CREATE FUNCTION uf_day(text) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT split_part($1, ''-'', 3)::int';
CREATE FUNCTION uf_begin(on_error text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM dw_begin_mapping('uf', 'uf', '{d}', '{"y": "split_part(d, ''-'', 1)::int", "m": "split_part(d, ''-'', 2)::int", "day": "uf_day(d)"}',
        '{"d": "y || ''-'' || lpad(m::text, 2, ''0'') || ''-'' || lpad(day::text, 2, ''0'')"}', '{"y": "int", "m": "int", "day": "int"}',
        jsonb_build_object('on_error', on_error));
    RETURN dw_pause('uf');
END $$;
SELECT uf_begin('authority');
UPDATE uf SET note = 'x' WHERE id = 1;
UPDATE uf SET d = d WHERE id = 2;
UPDATE uf SET d = 'still bad' WHERE id = 3;
-- half of the new side of a row whose old side says nothing
UPDATE uf SET y = 1999 WHERE id = 4;
UPDATE uf SET y = 1999, m = 12, day = 31 WHERE id = 5;
UPDATE uf SET y = 1999 WHERE id = 7;
SELECT * FROM uf ORDER BY id;
SELECT key->>'id' AS id, old_values, new_values, reason, sqlstate, message FROM dw_drift WHERE migration = 'uf' AND repaired_at IS NULL ORDER BY 1;
SELECT dw_abort('uf', accept_loss => true);
SELECT * FROM uf ORDER BY id;
-- on_error reject is about what the client wrote: a row that it only came across is not
SELECT uf_begin('reject');
UPDATE uf SET note = 'y' WHERE id = 1;
UPDATE uf SET d = d WHERE id = 2;
\echo :SQLSTATE
UPDATE uf SET d = 'worse' WHERE id = 3;
\echo :SQLSTATE
UPDATE uf SET y = 1999 WHERE id = 4;
SELECT * FROM uf ORDER BY id;
SELECT count(*) FROM dw_drift WHERE migration = 'uf' AND repaired_at IS NULL AND found_at > (SELECT started_at FROM dw_status WHERE migration = 'uf' AND finished_at IS NULL);
SELECT dw_abort('uf', accept_loss => true);

-- one way: the new side is written before the switch only with what follows
BEGIN;
SELECT dw_begin('uf', 'uf', 'note', 'int', 'len', 'length(note)');
SELECT dw_pause('uf');
COMMIT;
UPDATE uf SET len = 5 WHERE id = 1;
\echo :SQLSTATE
UPDATE uf SET len = 1 WHERE id = 1;
UPDATE uf SET d = 'x' WHERE id = 2;
UPDATE uf SET note = 'longer' WHERE id = 3;
SELECT id, note, len FROM uf WHERE id <= 4 ORDER BY id;
SELECT dw_abort('uf');
DROP TABLE uf;
DROP FUNCTION uf_begin, uf_day;

-- conflict = new on a row whose new side isn't there yet: only what was SET is the new side's word
CREATE TABLE uf (id int PRIMARY KEY, name text, k int DEFAULT 1);
INSERT INTO uf VALUES (1, 'First1 Last1'), (2, 'First2 Last2'), (3, 'First3 Last3'), (4, 'First4 Last4');
BEGIN;
SELECT dw_begin_mapping('uf', 'uf', '{name}', '{"first": "split_part(name, '' '', 1)", "last": "repeat(split_part(name, '' '', 2), k)"}',
    '{"name": "first || '' '' || last"}', '{"first": "text", "last": "text"}', '{"conflict": "new"}');
SELECT dw_pause('uf');
COMMIT;
UPDATE uf SET last = 'S', name = 'S T' WHERE id = 1;
SET pg_dualwrite.side = 'old';
UPDATE uf SET last = 'S', name = 'S T' WHERE id = 2;
RESET pg_dualwrite.side;
-- a third column that a rule reads
UPDATE uf SET k = 2 WHERE id = 3;
UPDATE uf SET k = 2, first = 'F' WHERE id = 4;
SELECT * FROM uf ORDER BY id;
SELECT dw_resume('uf');
CALL dw_wait('uf');
SELECT * FROM uf ORDER BY id;
SELECT phase, drifted FROM dw_status WHERE migration = 'uf' AND finished_at IS NULL;
SELECT dw_abort('uf', accept_loss => true);
DROP TABLE uf;

-- a default in the new column that is the old one's, carried forward, and rows from before it: initial is what it says, or NULL
CREATE TABLE uf (id int PRIMARY KEY, a int DEFAULT 7);
INSERT INTO uf VALUES (1, 1), (2, 2), (3, 7), (4, NULL);
ALTER TABLE uf ADD COLUMN b bigint DEFAULT 70;
BEGIN;
SELECT dw_begin('uf', 'uf', 'a', new_column => 'b', forward => 'a * 10', backward => 'b / 10');
SELECT dw_pause('uf');
COMMIT;
SELECT * FROM uf ORDER BY id;
UPDATE uf SET id = 11 WHERE id = 1;
UPDATE uf SET b = 70 WHERE id = 2;
UPDATE uf SET a = a WHERE id = 4;
SELECT *, b IS NOT DISTINCT FROM a * 10 AS ok FROM uf ORDER BY id;
VACUUM FULL uf;
SELECT dw_resume('uf');
CALL dw_wait('uf');
SELECT *, b IS NOT DISTINCT FROM a * 10 AS ok FROM uf ORDER BY id;
SELECT dw_abort('uf');
DROP TABLE uf;

-- two migrations of a table: what fills a row for the one may not make it look filled for the other
CREATE TABLE uf (id int PRIMARY KEY, p text, q int, note text);
INSERT INTO uf SELECT i, CASE WHEN i % 10 = 3 THEN 'bad' ELSE i::text END, i FROM generate_series(1, 30) i;
BEGIN;
SELECT dw_begin('uf p', 'uf', 'p', 'int', 'pp');
SELECT dw_begin('uf q', 'uf', 'q', 'bigint', 'qq', 'q * 10', 'qq / 10');
SELECT dw_pause('uf p'), dw_pause('uf q');
COMMIT;
UPDATE uf SET qq = 15 WHERE id = 1;
UPDATE uf SET pp = 222 WHERE id = 2;
UPDATE uf SET note = 'x' WHERE id IN (3, 4);
SELECT *, pp::text = p AS ok, qq / 10 = q AS ok2 FROM uf WHERE id <= 5 ORDER BY id;
-- the one is filled while the other one stands still, and then the other
SELECT dw_resume('uf q');
CALL dw_wait('uf q');
SELECT count(*), count(*) FILTER (WHERE qq / 10 IS DISTINCT FROM q) AS wrong FROM uf;
UPDATE uf SET qq = 65 WHERE id = 6;
UPDATE uf SET pp = 7 WHERE id = 7;
UPDATE uf SET p = '13' WHERE id = 13;
SELECT dw_resume('uf p');
\set VERBOSITY terse
CALL dw_wait('uf p');
\set VERBOSITY default
SELECT count(*), count(*) FILTER (WHERE pp::text IS DISTINCT FROM p) AS wrong, count(*) FILTER (WHERE qq / 10 IS DISTINCT FROM q) AS wrong2 FROM uf;
SELECT key, old_values, new_values, sqlstate FROM dw_drift WHERE migration IN ('uf p', 'uf q') AND repaired_at IS NULL ORDER BY (key->>'id')::int;
UPDATE uf SET p = id WHERE p = 'bad';
SELECT dw_resume('uf p');
CALL dw_wait('uf p');
SELECT count(*), count(*) FILTER (WHERE pp::text IS DISTINCT FROM p) AS wrong, count(*) FILTER (WHERE qq / 10 IS DISTINCT FROM q) AS wrong2 FROM uf;
-- a repair for the one, on a row that the other one has not filled
SELECT dw_abort('uf p');
SELECT tgname AS mirror FROM pg_trigger WHERE tgrelid = 'uf'::regclass AND tgname ~ 'dualwrite' \gset
ALTER TABLE uf DISABLE TRIGGER :"mirror";
UPDATE uf SET qq = -1 WHERE id > 20;
ALTER TABLE uf ENABLE ALWAYS TRIGGER :"mirror";
BEGIN;
SELECT dw_begin('uf p', 'uf', 'p', 'int', 'pp', 'p::int * 2', '(pp / 2)::text');
SELECT dw_pause('uf p');
COMMIT;
CALL dw_reconcile('uf q');
SELECT count(*), count(pp) AS filled, count(*) FILTER (WHERE pp / 2 <> p::int) AS wrong, count(*) FILTER (WHERE qq / 10 IS DISTINCT FROM q) AS wrong2 FROM uf;
SELECT dw_resume('uf p');
CALL dw_wait('uf p');
SELECT count(*), count(*) FILTER (WHERE pp / 2 IS DISTINCT FROM p::int) AS wrong, count(*) FILTER (WHERE qq / 10 IS DISTINCT FROM q) AS wrong2 FROM uf;
SELECT dw_abort('uf p', true), dw_abort('uf q', true);
DROP TABLE uf;

-- a row that one of the two can't store takes nothing from the other one
CREATE TABLE uf (id int PRIMARY KEY, p int, q int);
INSERT INTO uf SELECT i, i, i FROM generate_series(1, 30) i;
BEGIN;
SELECT dw_begin('uf p', 'uf', 'p', 'int', 'pp');
SELECT dw_begin('uf q', 'uf', 'q', 'int', 'qq');
SELECT dw_pause('uf p'), dw_pause('uf q');
COMMIT;
ALTER TABLE uf ADD CHECK (pp % 10 <> 0);
SELECT dw_resume('uf q');
CALL dw_wait('uf q');
SELECT count(*), count(*) FILTER (WHERE qq IS DISTINCT FROM q) AS wrong2, count(*) FILTER (WHERE pp <> p) AS wrong FROM uf;
SELECT dw_resume('uf p');
\set VERBOSITY terse
CALL dw_wait('uf p');
\set VERBOSITY default
SELECT id, pp, qq FROM uf WHERE pp IS DISTINCT FROM p OR qq IS DISTINCT FROM q ORDER BY id;
SELECT migration, key, reason, sqlstate FROM dw_drift WHERE migration IN ('uf p', 'uf q') AND repaired_at IS NULL ORDER BY 1, (key->>'id')::int;
SELECT dw_abort('uf p', true), dw_abort('uf q', true);
DROP TABLE uf;

-- few rows a page: each page is visited several times, also on the spot
CREATE TABLE few (id int PRIMARY KEY, a int, f text);
ALTER TABLE few ALTER f SET STORAGE PLAIN;
INSERT INTO few SELECT i, i, repeat('x', 1150) FROM generate_series(1, 500) i;
SET pg_dualwrite.inline_limit = '4MB';
SELECT dw_begin('few', 'few', 'a', 'bigint', 'b', 'a * 100::bigint', 'b / 100');
RESET pg_dualwrite.inline_limit;
SELECT count(*) FILTER (WHERE b = a * 100), count(*) FROM few;
SELECT phase FROM dw_status WHERE migration = 'few';
SELECT dw_abort('few');
DROP TABLE few;

-- what a rule computes is forgotten after each row, an array's own context, too
CREATE TABLE arrays (id int PRIMARY KEY, a int[], b int[]);
SELECT dw_begin('arrays', 'arrays', 'a', NULL, 'b', 'a || 0', 'trim_array(b, 1)');
WITH i AS (INSERT INTO arrays (id, a) SELECT i, ARRAY[i] FROM generate_series(1, 2000) i
 RETURNING CASE WHEN id = 2000 THEN (SELECT count(*) FROM pg_backend_memory_contexts WHERE name = 'expanded array') END AS n)
 SELECT max(n) < 100 AS forgotten FROM i;
SELECT count(*) FILTER (WHERE b = a || 0), count(*) FROM arrays;
SELECT rows_checked, drifted FROM dw_verify('arrays');
SELECT dw_abort('arrays', true);
DROP TABLE arrays;
