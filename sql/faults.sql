--
-- Fault points: who may arm them, with what, and that they happen where, as
-- often and to whom they are meant. (Crashes are in test/t/014_faults.pl.)
--
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_dw_fault;
RESET client_min_messages;
SELECT count(*) > 20 AS known, count(action) AS armed FROM dw_faults;
SELECT point, description FROM dw_faults WHERE point ~ '^(mirror|fill|switch)' ORDER BY point COLLATE "C";

-- for superusers only; everyone may look
CREATE ROLE regress_dw_fault;
SET ROLE regress_dw_fault;
SELECT dw_fault('mirror_before');
SELECT dw_fault_off();
SELECT count(action) FROM dw_faults;
SELECT * FROM dualwrite.fault;
RESET ROLE;
GRANT EXECUTE ON FUNCTION dw_fault, dw_fault_off TO regress_dw_fault;
SET ROLE regress_dw_fault;
SELECT dw_fault('mirror_before');
SELECT dw_fault_off();
RESET ROLE;
DROP OWNED BY regress_dw_fault;
DROP ROLE regress_dw_fault;

-- arguments
\set VERBOSITY terse
SELECT dw_fault('mirror');
SELECT dw_fault(NULL);
SELECT dw_fault('mirror_after_commit');
SELECT dw_fault_off('no_such_point');
\set VERBOSITY default
SELECT dw_fault('mirror_before', 'explode');
SELECT dw_fault('mirror_before', NULL);
SELECT dw_fault('switch_after_commit', 'error');
SELECT dw_fault('mirror_before', times => 0);
SELECT dw_fault('mirror_before', times => -1);
SELECT dw_fault('mirror_before', probability => 0);
SELECT dw_fault('mirror_before', probability => 1.1);
SELECT dw_fault('mirror_before', probability => 'NaN');
SELECT dw_fault('mirror_before', delay => '0');
SELECT dw_fault('mirror_before', delay => '2 days');
SELECT dw_fault('mirror_before', delay => NULL);
SELECT dw_fault('mirror_before', sqlstate => '00000');
SELECT dw_fault('mirror_before', sqlstate => '01000');
SELECT dw_fault('mirror_before', sqlstate => 'xx000');
SELECT dw_fault('mirror_before', sqlstate => NULL);
SELECT dw_fault('mirror_before', migration => '');
SELECT dw_fault('mirror_before', migration => repeat('m', 64));
BEGIN READ ONLY;
SELECT dw_fault('mirror_before');
ROLLBACK;
SELECT count(action) FROM dw_faults;

-- in the mirror
CREATE TABLE faults_t (id int PRIMARY KEY, a int, c text);
INSERT INTO faults_t VALUES (1, 1);
SELECT dw_begin('faults', 'faults_t', 'a', 'bigint', 'b');
SELECT dw_fault('mirror_before', times => 2);
SELECT point, action, migration, times, fired, probability, delay, sqlstate, armed_at IS NOT NULL AS armed FROM dw_faults WHERE action IS NOT NULL;
UPDATE faults_t SET a = 2;
SELECT fired FROM dw_faults WHERE action IS NOT NULL;
INSERT INTO faults_t VALUES (2, 2);
SELECT fired FROM dw_faults WHERE action IS NOT NULL;
-- used up
INSERT INTO faults_t VALUES (2, 2);
-- in place of it
SELECT dw_fault('mirror_before', times => 1, sqlstate => '53100');
UPDATE faults_t SET b = 3 WHERE id = 1;
\echo :SQLSTATE
UPDATE faults_t SET b = 3 WHERE id = 1;
SELECT count(action) FROM dw_faults;
-- a row that no rule reads isn't derived
SELECT dw_fault('mirror_after', times => NULL);
UPDATE faults_t SET c = 'x' WHERE id = 1;
UPDATE faults_t SET a = 4 WHERE id = 1;
UPDATE faults_t SET a = 4 WHERE id = 1;
UPDATE faults_t SET a = 4 WHERE id = 1;
SELECT point, times, fired FROM dw_faults WHERE action IS NOT NULL ORDER BY 1;
SELECT dw_fault_off('mirror_after');
SELECT dw_fault_off('mirror_after');
UPDATE faults_t SET a = 4 WHERE id = 1;
SELECT dw_fault_off();
SELECT dw_fault_off();

-- arming and disarming are transactional, counting isn't
BEGIN;
SELECT dw_fault('mirror_before');
SAVEPOINT a;
UPDATE faults_t SET a = 5;
ROLLBACK TO a;
UPDATE faults_t SET a = 5;
ROLLBACK;
UPDATE faults_t SET a = 5 WHERE id = 1;
SELECT dw_fault('mirror_before');
BEGIN;
SELECT dw_fault_off();
UPDATE faults_t SET a = 6 WHERE id = 1;
ROLLBACK;
UPDATE faults_t SET a = 7 WHERE id = 1;

-- for one migration, which may be one to come
CREATE TABLE faults_u (id int PRIMARY KEY, a int);
SELECT dw_begin('faults_u', 'faults_u', 'a', 'bigint', 'b');
SELECT dw_fault('mirror_before', times => NULL, migration => 'faults_u');
UPDATE faults_t SET a = 8 WHERE id = 1;
INSERT INTO faults_u VALUES (1, 1);
SELECT dw_fault('mirror_before', 'sleep', delay => '1 ms', migration => 'faults');
UPDATE faults_t SET a = 9 WHERE id = 1;
SELECT point, action, migration, fired, delay FROM dw_faults WHERE action IS NOT NULL ORDER BY migration;
SELECT dw_fault_off('mirror_before');

-- by probability
SELECT dw_fault('mirror_before', 'sleep', delay => '1 us', times => NULL, probability => 0.5);
INSERT INTO faults_u SELECT i, i FROM generate_series(1, 200) i;
SELECT fired BETWEEN 50 AND 150 AS about_half FROM dw_faults WHERE action IS NOT NULL;
SELECT dw_fault_off();

-- no more than eight
SELECT dw_fault('mirror_before', migration => 'm' || i) FROM generate_series(1, 8) i;
SELECT dw_fault('mirror_before', migration => 'm9');
SELECT dw_fault('mirror_before', 'sleep', migration => 'm8');
SELECT dw_fault_off();

-- before a commit: the verb is undone, and can be repeated
SELECT dw_fault('switch_before_commit');
SELECT dw_switch('faults');
SELECT phase, authority FROM dw_status WHERE migration = 'faults';
SELECT dw_switch('faults');
SELECT dw_fault('rollback_before_commit', sqlstate => '40001');
BEGIN;
SELECT dw_rollback('faults');
SELECT phase FROM dw_status WHERE migration = 'faults';
COMMIT;
SELECT phase FROM dw_status WHERE migration = 'faults';
-- what was undone doesn't reach it
SELECT dw_fault('rollback_before_commit', sqlstate => '40001');
BEGIN;
SAVEPOINT a;
SELECT dw_rollback('faults');
ROLLBACK TO a;
COMMIT;
BEGIN;
SELECT dw_rollback('faults');
ROLLBACK;
SELECT fired FROM dw_faults WHERE action IS NOT NULL AND point ~ '^rollback';
-- what was released does
BEGIN;
SAVEPOINT a;
SAVEPOINT b;
SELECT dw_rollback('faults');
RELEASE a;
COMMIT;
SELECT phase FROM dw_status WHERE migration = 'faults';
SELECT dw_rollback('faults');
SELECT phase FROM dw_status WHERE migration = 'faults';
SELECT dw_fault_off();
-- after a commit: it is done, and its lock still held
SELECT dw_fault('switch_after_commit', 'sleep', delay => '1 ms');
SELECT dw_switch('faults');
SELECT phase FROM dw_status WHERE migration = 'faults';
SELECT fired FROM dw_faults WHERE action IS NOT NULL;
SELECT dw_fault_off();

-- the others
SELECT dw_fault('hole_before_commit');
SELECT dw_fault('finalize_before_commit');
SELECT dw_fault('abort_before_commit');
SELECT dw_fault('begin_before_commit', migration => 'faults_v');
SELECT dw_fault('verify_chunk');
SELECT dw_fault('reconcile_chunk');
SELECT dw_rollback('faults');
CALL dw_reconcile('faults');
CALL dw_reconcile('faults');
SELECT dw_set('faults', '{"mirror": "off"}');
SELECT dw_set('faults', '{"mirror": "both"}');
SELECT phase FROM dw_status WHERE migration = 'faults';
SELECT dw_set('faults', '{"mirror": "both"}');
SELECT dw_switch('faults');
SELECT dw_finalize('faults');
SELECT dw_abort('faults');
SELECT phase FROM dw_status WHERE migration = 'faults';
SELECT dw_finalize('faults');
SELECT dw_begin('faults_v', 'faults_t', 'b', 'text', 'd');
SELECT column_name FROM information_schema.columns WHERE table_name = 'faults_t' ORDER BY ordinal_position;
SELECT dw_begin('faults_v', 'faults_t', 'b', 'text', 'd');
SELECT dw_abort('faults_v');
SELECT dw_abort('faults_u');
SELECT point, fired FROM dw_faults WHERE action IS NOT NULL ORDER BY point COLLATE "C";
SELECT dw_fault_off();

-- in the worker: the migration fails with it, and goes on after dw_resume
SET pg_dualwrite.inline_limit = 0;
SELECT dw_fault('fill_updated');
INSERT INTO faults_t (id, c, b) SELECT i, i, i FROM generate_series(100, 300) i;
SELECT dw_begin('faults_w', 'faults_t', 'b', 'text', 'd');
CALL dw_wait('faults_w');
SELECT phase, state, last_error FROM dw_status WHERE migration = 'faults_w';
SELECT count(*) FROM faults_t WHERE d IS NOT NULL;
SELECT dw_resume('faults_w');
CALL dw_wait('faults_w');
SELECT count(*) FROM faults_t WHERE d IS DISTINCT FROM b::text;
SELECT dw_abort('faults_w', accept_loss => true);
SELECT dw_fault_off();
DROP TABLE faults_t, faults_u;
