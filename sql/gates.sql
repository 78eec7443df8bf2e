--
-- Verbs in the wrong phase say what is missing; repeated verbs say that there is nothing to do; all of them work inside a
-- transaction block beside other DDL, but for dw_wait and dw_reconcile.
--
CREATE TABLE ga (id int PRIMARY KEY, a int);
INSERT INTO ga SELECT i, i FROM generate_series(1, 5) i;

-- backfilling: a worker would fill it, but it is paused
SET pg_dualwrite.inline_limit = 0;
SET client_min_messages = warning;
BEGIN;
SELECT dw_begin('ga', 'ga', 'a', 'bigint', 'b', 'a * 10', 'b / 10') IS NOT NULL AS begun;
SELECT dw_pause('ga', 'lunch') IS NOT NULL AS paused;
COMMIT;
RESET client_min_messages;
SELECT dw_require('ga', 'backfilling');
SELECT dw_require('ga', 'building');
\echo :SQLSTATE
SELECT dw_require('ga');
SELECT dw_require('ga', 'aborted');
SELECT dw_switch('ga');
\echo :SQLSTATE
SELECT dw_rollback('ga');
SELECT dw_finalize('ga');
\echo :SQLSTATE
CALL dw_reconcile('ga');
\echo :SQLSTATE
\set VERBOSITY terse
CALL dw_wait('ga', 'ready', '50ms');
\echo :SQLSTATE
CALL dw_wait('ga', 'ready', '-1 day');
\set VERBOSITY default
CALL dw_wait('ga', 'backfilling');
SELECT dw_side('ga');
SELECT dw_ensure_workers();
-- a verification of what there is, that counts for nothing
SELECT rows_checked, drifted, unconvertible FROM dw_verify('ga');
SELECT count(*) FROM dw_drift WHERE migration = 'ga';
SELECT dw_pause('ga');
SELECT dw_pause('ga', 'again');
SELECT state, state_reason FROM dw_status WHERE migration = 'ga';
SELECT dw_resume('ga');
CALL dw_wait('ga');
SELECT dw_resume('ga');

-- ready
SELECT dw_require('ga', 'verifying'), dw_require('ga', 'ready');
SELECT dw_require('ga', 'switched');
SELECT dw_rollback('ga');
SELECT dw_finalize('ga');
\set VERBOSITY terse
CALL dw_wait('ga', 'switched', '0');
\set VERBOSITY default
SELECT dw_side('ga');
-- switched, and paused, so that nobody verifies it
BEGIN;
SELECT dw_switch('ga');
SELECT dw_pause('ga');
COMMIT;
SELECT dw_switch('ga');
SELECT dw_require('ga', 'ready'), dw_require('ga', 'switched');
CALL dw_wait('ga', 'switched');
SELECT dw_side('ga');
SELECT dw_finalize('ga');
\echo :SQLSTATE
SELECT state, next_step FROM dw_status WHERE migration = 'ga';
SELECT rows_checked, drifted, unconvertible FROM dw_verify('ga');
BEGIN;
SELECT dw_rollback('ga');
SELECT dw_rollback('ga');
SELECT dw_switch('ga');
SELECT dw_finalize('ga');
ROLLBACK;
SELECT dw_finalize('ga');
-- finalized
SELECT dw_finalize('ga');
SELECT dw_require('ga', 'finalized');
SELECT dw_require('ga', 'aborted');
SELECT dw_side('ga');
SELECT dw_switch('ga');
\echo :SQLSTATE
SELECT dw_rollback('ga');
SELECT dw_abort('ga');
SELECT dw_verify('ga');
CALL dw_reconcile('ga');
SELECT dw_set('ga', '{}');
SELECT dw_pause('ga');
SELECT dw_resume('ga');
CALL dw_wait('ga', 'finalized');
\set VERBOSITY terse
CALL dw_wait('ga', 'aborted', '10s');
\echo :SQLSTATE
\set VERBOSITY default
SELECT state, next_step FROM dw_status WHERE migration = 'ga';
-- aborted
SELECT dw_begin('ga 2', 'ga', 'b', 'int', 'c');
CALL dw_wait('ga 2');
SELECT dw_abort('ga 2');
SELECT dw_abort('ga 2');
SELECT dw_require('ga 2', 'aborted');
SELECT dw_require('ga 2', 'backfilling');
\echo :SQLSTATE
CALL dw_wait('ga 2');
\echo :SQLSTATE
CALL dw_wait('ga 2', 'aborted');
SELECT dw_switch('ga 2');
SELECT dw_finalize('ga 2');
SELECT dw_side('ga 2');
SELECT dw_ensure_workers();
RESET pg_dualwrite.inline_limit;
DROP TABLE ga;

-- one file: the table, its rows, the migration, more rows, other DDL; undone, or done
BEGIN;
CREATE TABLE ga (id int PRIMARY KEY, a int);
INSERT INTO ga VALUES (1, 1), (2, 2);
SAVEPOINT s;
INSERT INTO ga VALUES (3, 3);
SELECT dw_begin('gates', 'ga', 'a', 'bigint', 'b', 'a * 10', 'b / 10');
ROLLBACK TO s;
INSERT INTO ga VALUES (4, 4);
SAVEPOINT s2;
INSERT INTO ga VALUES (5, 5);
RELEASE s2;
SELECT dw_begin('gates', 'ga', 'a', 'bigint', 'b', 'a * 10', 'b / 10');
SELECT dw_begin('gates', 'ga', 'a', 'bigint', 'b', 'a * 10', 'b / 10');
INSERT INTO ga (id, a) VALUES (6, 6);
INSERT INTO ga (id, b) VALUES (7, 70);
UPDATE ga SET a = 10 WHERE id = 1;
UPDATE ga SET b = 20 WHERE id = 2;
SELECT dw_require('gates');
SELECT dw_switch('gates');
INSERT INTO ga (id, b) VALUES (8, 80);
SELECT dw_finalize('gates');
ALTER TABLE ga ADD COLUMN c text DEFAULT 'x';
SELECT * FROM ga ORDER BY id;
ROLLBACK;
SELECT count(*) FROM dw_status WHERE migration = 'gates';
SELECT to_regclass('ga');
SELECT count(*) FROM pg_proc WHERE pronamespace = 'dualwrite'::regnamespace AND proname ~ '^m[0-9]';
BEGIN;
CREATE TABLE ga (id int PRIMARY KEY, a int);
INSERT INTO ga VALUES (1, 1), (2, 2);
SELECT dw_begin('gates', 'ga', 'a', 'bigint', 'b', 'a * 10', 'b / 10');
INSERT INTO ga (id, b) VALUES (3, 30);
ALTER TABLE ga ADD COLUMN c text DEFAULT 'x';
CREATE INDEX ON ga (b);
UPDATE ga SET a = 100 WHERE id = 2;
COMMIT;
SELECT *, b = a * 10 AS ok FROM ga ORDER BY id;
BEGIN;
SELECT dw_switch('gates');
UPDATE ga SET b = 50 WHERE id = 1;
SELECT dw_rollback('gates');
UPDATE ga SET a = 6 WHERE id = 2;
SELECT dw_switch('gates');
COMMIT;
SELECT *, b = a * 10 AS ok FROM ga ORDER BY id;
BEGIN;
SELECT dw_rollback('gates');
SELECT dw_abort('gates');
SELECT dw_begin('gates', 'ga', 'a', 'bigint', 'd');
INSERT INTO ga (id, d) VALUES (9, 9);
SELECT dw_abort('gates');
COMMIT;
SELECT * FROM ga ORDER BY id;

-- the same with the worker: rows of dw_begin's own transaction, written before and after it
SET pg_dualwrite.inline_limit = 0;
DROP TABLE ga;
BEGIN;
CREATE TABLE ga (id int PRIMARY KEY, a int);
INSERT INTO ga SELECT i, i FROM generate_series(1, 9) i;
SAVEPOINT s;
INSERT INTO ga SELECT i, i FROM generate_series(10, 19) i;
RELEASE s;
SELECT dw_begin('gates', 'ga', 'a', 'bigint', 'b', 'a * 10', 'b / 10');
INSERT INTO ga (id, a) SELECT i, i FROM generate_series(20, 29) i;
INSERT INTO ga (id, b) SELECT i, i * 10 + 5 FROM generate_series(30, 39) i;
INSERT INTO ga (id) SELECT i FROM generate_series(40, 49) i;
UPDATE ga SET b = 55 WHERE id = 5;
UPDATE ga SET b = 155 WHERE id = 15;
UPDATE ga SET a = -a WHERE id IN (6, 16, 26);
SAVEPOINT s;
UPDATE ga SET b = 0;
ROLLBACK TO s;
COMMIT;
CALL dw_wait('gates');
SELECT count(*), count(*) FILTER (WHERE b = a * 10) AS forward, count(*) FILTER (WHERE a = b / 10) AS backward, count(*) FILTER (WHERE a IS NULL AND b IS NULL) AS nothing FROM ga;
SELECT * FROM ga WHERE id IN (5, 6, 15, 16, 25, 26, 35, 45) ORDER BY id;
SELECT dw_abort('gates', true);
RESET pg_dualwrite.inline_limit;

-- isolation levels: a verb sees what has committed since the transaction began
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM ga;
SELECT dw_begin('gates', 'ga', 'a', 'bigint', 'b');
UPDATE ga SET b = 1000 WHERE id = 1;
SELECT dw_switch('gates');
COMMIT;
SELECT *, a = b AS ok FROM ga WHERE id <= 2 ORDER BY id;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT count(*) FROM ga;
SELECT dw_rollback('gates');
SELECT rows_checked, drifted FROM dw_verify('gates');
COMMIT;
-- asking is allowed everywhere
BEGIN READ ONLY;
SELECT dw_side('gates'), dw_require('gates');
SELECT dw_switch('gates');
\echo :SQLSTATE
ROLLBACK;
BEGIN READ ONLY;
SELECT dw_abort('gates');
ROLLBACK;
BEGIN READ ONLY;
SELECT dw_verify('gates');
ROLLBACK;
BEGIN READ ONLY;
SELECT dw_pause('gates');
ROLLBACK;
BEGIN READ ONLY;
SELECT dw_set('gates', '{}');
ROLLBACK;

-- procedures commit as they go
BEGIN;
CALL dw_wait('gates');
\echo :SQLSTATE
ROLLBACK;
BEGIN;
CALL dw_reconcile('gates');
\echo :SQLSTATE
ROLLBACK;
CREATE FUNCTION ga_call(what text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'CALL ' || what; END $$;
SELECT ga_call('dw_wait(''gates'')');
\echo :SQLSTATE
SELECT ga_call('dw_reconcile(''gates'')');
DROP FUNCTION ga_call;
DO $$ BEGIN CALL dw_wait('gates'); CALL dw_reconcile('gates'); END $$;

-- the table is dropped: the migration says so, nothing but an abort is of use, and the name isn't free before
DROP TABLE ga;
SELECT phase, state, state_reason, next_step, relations IS NOT NULL AS relations FROM dw_status WHERE migration = 'gates' AND finished_at IS NULL;
SELECT dw_verify('gates');
\echo :SQLSTATE
CALL dw_reconcile('gates');
\echo :SQLSTATE
SELECT dw_switch('gates');
\echo :SQLSTATE
SELECT dw_rollback('gates');
SELECT dw_finalize('gates');
SELECT dw_set('gates', '{"conflict": "old"}');
SELECT dw_set('gates', '{"mirror": "off"}');
SELECT dw_resume('gates');
SELECT dw_side('gates'), dw_require('gates');
CREATE TABLE ga (id int PRIMARY KEY, a int);
SELECT dw_begin('gates', 'ga', 'a', 'bigint', 'b');
\echo :SQLSTATE
SELECT dw_abort('gates');
SELECT dw_begin('gates', 'ga', 'a', 'bigint', 'b');
INSERT INTO ga (id, b) VALUES (1, 1);
SELECT * FROM ga;
-- its schema as well
CREATE SCHEMA ga_schema;
ALTER TABLE ga SET SCHEMA ga_schema;
INSERT INTO ga_schema.ga (id, b) VALUES (2, 2);
SELECT dw_switch('gates');
DROP TABLE ga_schema.ga;
SELECT dw_abort('gates');
DROP SCHEMA ga_schema;
SELECT count(*) FROM pg_proc WHERE pronamespace = 'dualwrite'::regnamespace AND proname ~ '^m[0-9]';
SELECT count(*) FROM pg_class WHERE relnamespace = 'dualwrite'::regnamespace AND relname ~ '^m[0-9]' AND relname <> 'migration';
