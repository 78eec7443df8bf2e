--
-- Values that can't be converted: option on_error.
--
CREATE TABLE me (id int PRIMARY KEY, a text, k int DEFAULT 1);
INSERT INTO me VALUES (1, '1'), (2, '2'), (3, '3'), (4, '4'), (5, '5');
SELECT dw_begin('me', 'me', 'a', 'int', 'b', 'a::int', '(100 / b)::text');
CREATE VIEW me_drift AS
SELECT key, old_values, new_values, reason, sqlstate, message, repaired_at IS NOT NULL AS repaired FROM dw_drift WHERE migration = 'me';

-- authority, the default: a write to the side in authority goes through and is on record ...
UPDATE me SET a = 'x' WHERE id = 1;
INSERT INTO me VALUES (6, 'y');
-- ... one to the other side is refused, with the SQLSTATE it has
UPDATE me SET b = 0 WHERE id = 2;
\echo :SQLSTATE
INSERT INTO me (id, b) VALUES (7, 0);
\echo :SQLSTATE
SELECT * FROM me ORDER BY id;
SELECT * FROM me_drift ORDER BY key->>'id';
SELECT drifted, unconvertible FROM dw_status WHERE migration = 'me';

-- the record blocks the switch, until the row is mended and that has been verified
SELECT dw_switch('me');
\echo :SQLSTATE
UPDATE me SET a = '10' WHERE id = 1;
SELECT * FROM me WHERE id = 1;
SELECT dw_switch('me');
SELECT rows_checked, drifted, unconvertible FROM dw_verify('me');
SELECT state, unconvertible, last_error FROM dw_status WHERE migration = 'me';
-- row 1 was seen consistent again
SELECT key, reason FROM me_drift WHERE NOT repaired;
CALL dw_reconcile('me');
DELETE FROM me WHERE id = 6;
SELECT rows_checked, drifted, unconvertible FROM dw_verify('me');
SELECT state, unconvertible FROM dw_status WHERE migration = 'me';
SELECT key, reason FROM me_drift WHERE NOT repaired;
SELECT dw_switch('me');

-- the same the other way round
UPDATE me SET b = 0 WHERE id = 2;
INSERT INTO me (id, b) VALUES (8, 0);
UPDATE me SET a = 'z' WHERE id = 3;
\echo :SQLSTATE
INSERT INTO me (id, a) VALUES (9, 'zz');
\echo :SQLSTATE
SELECT * FROM me ORDER BY id;
SELECT key, old_values, new_values, reason, sqlstate, message FROM me_drift WHERE NOT repaired ORDER BY key->>'id';
SELECT dw_rollback('me');
\echo :SQLSTATE
UPDATE me SET b = 20 WHERE id IN (2, 8);
SELECT rows_checked, drifted, unconvertible FROM dw_verify('me');
SELECT dw_rollback('me');

-- reject: neither side may be written so
SELECT dw_set('me', '{"on_error": "reject"}');
UPDATE me SET a = 'x' WHERE id = 1;
\echo :SQLSTATE
UPDATE me SET b = 0 WHERE id = 1;
\echo :SQLSTATE
INSERT INTO me VALUES (10, 'x'), (11, '11');
SELECT count(*) FROM me WHERE id >= 10;

-- record: nothing is refused, the side in authority stays as it is
SELECT dw_set('me', '{"on_error": "record"}');
UPDATE me SET a = 'x' WHERE id = 1;
UPDATE me SET b = 0 WHERE id = 2;
INSERT INTO me (id, b) VALUES (12, 0);
SELECT * FROM me ORDER BY id;
SELECT key, old_values, new_values, reason, sqlstate FROM me_drift WHERE NOT repaired ORDER BY key->>'id';
SELECT rows_checked, drifted, unconvertible FROM dw_verify('me');
-- what can be repaired is: row 2 from the old side; row 12 has nothing there; row 1 can't be
CALL dw_reconcile('me');
SELECT * FROM me ORDER BY id;
SELECT key, old_values, new_values, reason, sqlstate FROM me_drift WHERE NOT repaired ORDER BY key->>'id';
DROP VIEW me_drift;
SELECT dw_abort('me', accept_loss => true);
DROP TABLE me;

-- rows that are there when it begins: recorded, passed over, and the migration says so
CREATE TABLE me (id int PRIMARY KEY, a text);
INSERT INTO me SELECT i, CASE WHEN i % 10 = 0 THEN 'bad' ELSE i::text END FROM generate_series(1, 100) i;
SELECT dw_begin('me', 'me', 'a', 'int', 'b');
SELECT count(*), count(b), count(*) FILTER (WHERE b::text = a) AS ok FROM me;
SELECT phase, state, state_reason, drifted, unconvertible, last_error, next_step FROM dw_status WHERE migration = 'me' AND finished_at IS NULL;
SELECT count(*), min(key->>'id'), min(message) FROM dw_drift WHERE migration = 'me' AND repaired_at IS NULL AND found_at > (SELECT started_at FROM dw_status WHERE migration = 'me' AND finished_at IS NULL);
SELECT dw_require('me');
\echo :SQLSTATE
CALL dw_wait('me');
\echo :SQLSTATE
SELECT dw_switch('me');
\echo :SQLSTATE
-- it goes on once they are mended
UPDATE me SET a = id WHERE a = 'bad' AND id < 100;
SELECT dw_resume('me');
SELECT phase, state, unconvertible FROM dw_status WHERE migration = 'me' AND finished_at IS NULL;
UPDATE me SET a = NULL WHERE a = 'bad';
SELECT dw_resume('me');
SELECT phase, state, unconvertible, last_error IS NOT NULL AS had_one FROM dw_status WHERE migration = 'me' AND finished_at IS NULL;
SELECT count(*), count(b), count(*) FILTER (WHERE b::text = a) AS ok FROM me;
SELECT dw_switch('me');
SELECT dw_finalize('me');
DROP TABLE me;

-- all that an expression may raise: a domain, a function, a length, a limit of the program
CREATE DOMAIN me_even AS int CHECK (VALUE % 2 = 0);
CREATE FUNCTION me_odd(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
    IF $1 % 2 = 0 THEN
        RAISE EXCEPTION 'even: %', $1 USING ERRCODE = 'DW001', DETAIL = 'a detail', HINT = 'a hint';
    END IF;
    RETURN $1;
END $$;
CREATE TABLE me (id int PRIMARY KEY, a int, o int, t text, n numeric, w text);
SELECT dw_begin('me domain', 'me', 'a', 'me_even', 'a2');
SELECT dw_begin('me function', 'me', 'o', 'int', 'o2', 'me_odd(o)', 'me_odd(o2)');
SELECT dw_begin('me length', 'me', 't', 'varchar(3)', 't2');
SELECT dw_begin('me scale', 'me', 'n', 'numeric(4,2)', 'n2');
SELECT dw_begin('me limit', 'me', 'w', 'text', 'w2', 'lpad(w, length(w) * 10000000)', 'rtrim(w2)');
INSERT INTO me (id, a) VALUES (1, 1);
INSERT INTO me (id, o) VALUES (2, 2);
INSERT INTO me (id, t) VALUES (3, 'long');
INSERT INTO me (id, n) VALUES (4, 123.45);
INSERT INTO me (id, w) VALUES (5, repeat('x', 50));
SELECT id, a, a2, o, o2, t, t2, n, n2, length(w) AS w, w2 FROM me ORDER BY id;
SELECT migration, key, reason, sqlstate, message FROM dw_drift WHERE migration IN ('me domain', 'me function', 'me length', 'me scale', 'me limit') ORDER BY 1;
-- trailing blanks are cut, as by an assignment; more scale is rounded, as by an assignment
INSERT INTO me (id, t, n) VALUES (6, 'abc   ', 1.23456);
SELECT id, t, t2, n, n2 FROM me WHERE id = 6;
-- the other way round it is the client who hears of it
INSERT INTO me (id, o2) VALUES (7, 2);
\echo :SQLSTATE
DROP TABLE me;
SELECT dw_abort(migration) FROM dw_status WHERE migration IN ('me domain', 'me function', 'me length', 'me scale', 'me limit') ORDER BY migration;
DROP FUNCTION me_odd;
DROP DOMAIN me_even;

-- a NOT NULL column keeps what it has
CREATE TABLE me (id int PRIMARY KEY, a text NOT NULL, b int NOT NULL);
INSERT INTO me VALUES (1, '1', 1), (2, '2', 2);
SELECT dw_begin('me', 'me', 'a', new_column => 'b', options => '{"on_error": "record"}');
UPDATE me SET a = 'x' WHERE id = 1;
SELECT * FROM me ORDER BY id;
SELECT key, old_values, new_values, reason FROM dw_drift WHERE migration = 'me' AND repaired_at IS NULL AND found_at > (SELECT started_at FROM dw_status WHERE migration = 'me' AND finished_at IS NULL);
-- a new row can't be without one
INSERT INTO me (id, a) VALUES (3, 'y');
\echo :SQLSTATE
SELECT dw_switch('me');
UPDATE me SET a = '1' WHERE id = 1;
SELECT rows_checked, drifted, unconvertible FROM dw_verify('me');
SELECT dw_switch('me');
SELECT dw_abort('me');
DROP TABLE me;

-- a third column that makes the row inconvertible, before and after the switch
CREATE TABLE me (id int PRIMARY KEY, a int, k int);
INSERT INTO me VALUES (1, 10, 2), (2, 20, 2);
SELECT dw_begin('me', 'me', 'a', 'int', 'b', 'a / k', 'b * k');
UPDATE me SET k = 0 WHERE id = 1;
SELECT * FROM me ORDER BY id;
UPDATE me SET k = 5 WHERE id = 1;
SELECT * FROM me ORDER BY id;
SELECT rows_checked, drifted, unconvertible FROM dw_verify('me');
SELECT dw_switch('me');
UPDATE me SET k = 1000000000 WHERE id = 2;
SELECT * FROM me ORDER BY id;
UPDATE me SET k = 2 WHERE id = 2;
SELECT * FROM me ORDER BY id;
SELECT rows_checked, drifted, unconvertible FROM dw_verify('me');
SELECT dw_rollback('me');
SELECT dw_abort('me');
DROP TABLE me;

-- cancel, and what says nothing about the value, is never swallowed
CREATE FUNCTION me_slow(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep($1); RETURN $1; END';
CREATE TABLE me (id int PRIMARY KEY, a int);
SELECT dw_begin('me', 'me', 'a', 'int', 'b', 'me_slow(a)', 'b', options => '{"on_error": "record"}');
SET statement_timeout = '50ms';
INSERT INTO me (id, a) VALUES (1, 1000);
\echo :SQLSTATE
RESET statement_timeout;
SELECT * FROM me;
SELECT dw_abort('me');
DROP TABLE me;
DROP FUNCTION me_slow;

-- recorded and verified in one transaction: what still differs stays on record, what doesn't is closed
CREATE TABLE me (id int PRIMARY KEY, a text);
INSERT INTO me VALUES (1, '1'), (2, '2');
SELECT dw_begin('me', 'me', 'a', 'int', 'b');
BEGIN;
UPDATE me SET a = 'x';
UPDATE me SET a = '3' WHERE id = 1;
SELECT rows_checked, drifted, unconvertible FROM dw_verify('me');
COMMIT;
SELECT key, old_values, reason, sqlstate, repaired_at IS NOT NULL AS repaired FROM dw_drift WHERE migration = 'me' AND found_at > (SELECT started_at FROM dw_status WHERE migration = 'me' AND finished_at IS NULL) ORDER BY key->>'id', found_at;
SELECT unconvertible FROM dw_status WHERE migration = 'me' AND finished_at IS NULL;
SELECT dw_switch('me');
SELECT dw_abort('me');
DROP TABLE me;

-- the key of a row that is recorded is as large as an index allows
CREATE TABLE me (id text PRIMARY KEY, a text);
SELECT dw_begin('me', 'me', 'a', 'int', 'b');
INSERT INTO me SELECT string_agg(chr(35 + abs(hashint4(i)::bigint)::int % 56), '' ORDER BY i), 'x' FROM generate_series(1, 2688) i;
UPDATE me SET a = 'y';
SELECT length(key->>'id'), old_values, reason FROM dw_drift WHERE migration = 'me' AND repaired_at IS NULL AND relation = 'me'::regclass;
SELECT dw_abort('me', true) IS NOT NULL AS aborted;
DROP TABLE me;
