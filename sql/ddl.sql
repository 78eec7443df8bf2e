--
-- Other DDL in the middle of a migration: before the backfill has begun, and when all is filled.
--
SET client_min_messages = warning;
SET pg_dualwrite.inline_limit = 0;
-- begun, and paused before anything is filled
CREATE PROCEDURE dd_begin() LANGUAGE plpgsql AS $$
BEGIN
    DROP TABLE IF EXISTS dd CASCADE;
    PERFORM dw_abort(migration, true) FROM dw_status WHERE migration = 'dd' AND finished_at IS NULL;
    CREATE TABLE dd (id int PRIMARY KEY, x int DEFAULT 1, a int, note text);
    INSERT INTO dd SELECT i, i, i, 'n' FROM generate_series(1, 50) i;
    PERFORM dw_begin('dd', 'dd', 'a', 'bigint', 'b', 'a * 10', 'b / 10');
    PERFORM dw_pause('dd');
END $$;
CREATE PROCEDURE dd_look() LANGUAGE plpgsql AS $$
DECLARE
    n int;
    wrong int;
    s record;
BEGIN
    SELECT count(*), count(*) FILTER (WHERE b IS DISTINCT FROM a * 10 AND a IS DISTINCT FROM b / 10) INTO n, wrong FROM dd;
    SELECT * INTO s FROM dw_status WHERE migration = 'dd' AND finished_at IS NULL;
    RAISE WARNING '% rows, % wrong; %, % drifted', n, wrong, s.phase, s.drifted;
END $$;

-- columns come and go
CALL dd_begin();
ALTER TABLE dd DROP COLUMN x;
ALTER TABLE dd ADD COLUMN y int DEFAULT 7, ADD COLUMN z timestamptz DEFAULT clock_timestamp();
UPDATE dd SET b = 15 WHERE id = 1;
UPDATE dd SET note = 'moved' WHERE id = 2;
INSERT INTO dd (id, b) VALUES (101, 1010);
SELECT dw_resume('dd');
CALL dw_wait('dd');
CALL dd_look();
ALTER TABLE dd DROP COLUMN y;
ALTER TABLE dd ALTER note TYPE varchar USING note || note;
UPDATE dd SET a = 3, note = 'x' WHERE id = 1;
UPDATE dd SET b = 45 WHERE id = 2;
SELECT id, a, b, note FROM dd WHERE id IN (1, 2, 101) ORDER BY id;
CALL dd_look();

-- the table is rewritten: ALTER TYPE of another column, CLUSTER, VACUUM FULL, SET UNLOGGED
CALL dd_begin();
UPDATE dd SET b = 15 WHERE id = 1;
ALTER TABLE dd ALTER x TYPE bigint;
UPDATE dd SET b = 25 WHERE id = 2;
CLUSTER dd USING dd_pkey;
UPDATE dd SET note = 'x' WHERE id = 3;
ALTER TABLE dd SET UNLOGGED;
UPDATE dd SET b = NULL WHERE id = 4;
ALTER TABLE dd SET LOGGED;
SELECT id, a, b, note FROM dd WHERE id <= 5 ORDER BY id;
SELECT dw_resume('dd');
CALL dw_wait('dd');
CALL dd_look();
SELECT id, a, b, note FROM dd WHERE id <= 5 ORDER BY id;
VACUUM FULL dd;
UPDATE dd SET b = 100 WHERE id = 5;
CALL dd_look();
SELECT dw_switch('dd') IS NOT NULL AS switched;

-- TRUNCATE, before the backfill, and after it
CALL dd_begin();
TRUNCATE dd;
INSERT INTO dd (id, a) VALUES (1, 1);
INSERT INTO dd (id, b) VALUES (2, 25);
SELECT dw_resume('dd');
CALL dw_wait('dd');
CALL dd_look();
SELECT id, a, b FROM dd ORDER BY id;
TRUNCATE dd;
INSERT INTO dd (id, b) VALUES (3, 35);
SELECT rows_checked, drifted FROM dw_verify('dd');
SELECT id, a, b FROM dd ORDER BY id;
BEGIN;
TRUNCATE dd;
INSERT INTO dd (id, b) VALUES (3, 45);
ROLLBACK;
SELECT id, a, b FROM dd ORDER BY id;
SELECT dw_switch('dd') IS NOT NULL AS switched;

-- it becomes a partition: rows come and go through the parent, whose columns are in another order
CALL dd_begin();
CREATE TABLE dd_parent (note text, b bigint, id int NOT NULL, a int, x int) PARTITION BY RANGE (id);
CREATE TABLE dd_other PARTITION OF dd_parent FOR VALUES FROM (1000) TO (2000);
ALTER TABLE dd_parent ATTACH PARTITION dd FOR VALUES FROM (0) TO (1000);
INSERT INTO dd_parent (id, a) VALUES (100, 100);
INSERT INTO dd_parent (id, b) VALUES (101, 1015);
UPDATE dd_parent SET b = 15 WHERE id = 1;
UPDATE dd_parent SET note = 'x' WHERE id = 2;
UPDATE dd_parent SET a = 33 WHERE id = 3;
-- out of it, unfilled, and back in, consistent and not
UPDATE dd_parent SET id = id + 1000 WHERE id IN (4, 5, 101);
SELECT id, a, b FROM dd_parent WHERE id > 1000 ORDER BY id;
UPDATE dd_parent SET id = id - 1000 WHERE id IN (1004, 1101);
UPDATE dd_parent SET id = id - 1000, b = 55 WHERE id = 1005;
INSERT INTO dd_other (id, a, b) VALUES (1006, 1, 1);
UPDATE dd_parent SET id = 106 WHERE id = 1006;
\echo :SQLSTATE
SELECT id, a, b FROM dd WHERE id <= 6 OR id >= 100 ORDER BY id;
SELECT dw_resume('dd');
CALL dw_wait('dd');
CALL dd_look();
-- a partition's column goes with the parent's, not alone
\set VERBOSITY sqlstate
SELECT dw_switch('dd');
\set VERBOSITY default
ALTER TABLE dd_parent DETACH PARTITION dd;
SELECT dw_switch('dd') IS NOT NULL AS switched;
DROP TABLE dd_parent;

-- children by inheritance have no mirror: their rows aren't the table's
CALL dd_begin();
SELECT dw_resume('dd');
CALL dw_wait('dd');
CREATE TABLE dd_child () INHERITS (dd);
INSERT INTO dd_child (id, a) VALUES (200, 200);
UPDATE dd SET a = 5 WHERE id IN (1, 200);
SELECT id, a, b FROM dd WHERE id IN (1, 200) ORDER BY id;
SELECT rows_checked, drifted FROM dw_verify('dd');
\set VERBOSITY sqlstate
SELECT dw_switch('dd');
\set VERBOSITY default
DROP TABLE dd_child;
SELECT dw_switch('dd') IS NOT NULL AS switched;

-- indexes and constraints that come while it runs are obeyed by the backfill; rows that break them are recorded
CALL dd_begin();
CREATE UNIQUE INDEX dd_b ON dd (b);
ALTER TABLE dd ADD CONSTRAINT dd_check CHECK (b <> 200) NOT VALID;
UPDATE dd SET a = 3 WHERE id = 30;
SELECT dw_resume('dd');
\set VERBOSITY sqlstate
CALL dw_wait('dd');
\set VERBOSITY default
SELECT key->>'id' AS id, old_values, reason, sqlstate, regexp_replace(message, 'row.*violates', 'row violates') AS message FROM dw_drift WHERE migration = 'dd' AND repaired_at IS NULL
   AND found_at > (SELECT started_at FROM dw_status WHERE migration = 'dd' AND finished_at IS NULL) ORDER BY 1;
UPDATE dd SET a = 0 WHERE id IN (3, 20);
\echo :SQLSTATE
UPDATE dd SET a = -id WHERE id IN (3, 20);
SELECT dw_resume('dd');
CALL dw_wait('dd');
CALL dd_look();

-- the last column but ours goes, and a table of no key, and of no row
CALL dd_begin();
ALTER TABLE dd DROP COLUMN id, DROP COLUMN x, DROP COLUMN note;
SELECT dw_resume('dd');
CALL dw_wait('dd');
CALL dd_look();
DELETE FROM dd;
VACUUM dd;
SELECT rows_checked, drifted FROM dw_verify('dd');
SELECT dw_switch('dd') IS NOT NULL AS switched;
SELECT rows_checked, drifted FROM dw_verify('dd');
SELECT dw_finalize('dd');
SELECT * FROM dd;
DROP TABLE dd;
DROP PROCEDURE dd_begin, dd_look;
