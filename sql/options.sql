--
-- dw_set: every option, bad values, the mirror off, one way, and on again.
--
CREATE TABLE op (id int PRIMARY KEY, a int);
INSERT INTO op SELECT i, i FROM generate_series(1, 9) i;
SELECT dw_begin('op', 'op', 'a', 'bigint', 'b', 'a * 10', 'b / 10', '{"batch_time": "20ms", "subscribers_ready": true}');
SELECT name, setting, unit, source, changeable, description FROM dw_options WHERE migration = 'op' ORDER BY name COLLATE "C";
-- merged, not replaced; numbers, texts, units, booleans; null resets
SELECT dw_set('op', '{"conflict": "authority", "max_rows_per_second": 1000}');
SELECT dw_set('op', '{"on_error": "reject", "max_rows_per_second": "500", "batch_time": "1s"}');
SELECT name, setting, source FROM dw_options WHERE migration = 'op' ORDER BY name COLLATE "C";
SELECT dw_set('op', '{"conflict": null, "on_error": null, "max_rows_per_second": null, "batch_time": null, "mirror": null}');
SELECT name, setting, source FROM dw_options WHERE migration = 'op' ORDER BY name COLLATE "C";
SELECT dw_set('op', '{}');
-- what isn't an option, or no value for it
SELECT dw_set('op', '{"mirrors": "off"}');
\echo :SQLSTATE
SELECT dw_set('op', '{"mirror": "on"}');
\echo :SQLSTATE
SELECT dw_set('op', '{"mirror": "BOTH"}');
SELECT dw_set('op', '{"mirror": true}');
SELECT dw_set('op', '{"mirror": ["both"]}');
SELECT dw_set('op', '{"mirror": {}}');
SELECT dw_set('op', '{"on_error": ""}');
SELECT dw_set('op', '{"batch_time": 0}');
SELECT dw_set('op', '{"batch_time": -1}');
SELECT dw_set('op', '{"batch_time": "soon"}');
SELECT dw_set('op', '{"batch_time": 1e20}');
SELECT dw_set('op', '{"batch_time": 2.5}');
SELECT dw_set('op', '{"max_rows_per_second": -5}');
SELECT dw_set('op', '{"max_rows_per_second": "1ms"}');
SELECT dw_set('op', '{"max_rows_per_second": 99999999999}');
SELECT dw_set('op', '{"recheck_interval": -1}');
SELECT dw_set('op', '{"recheck_interval": "now and then"}');
SELECT dw_set('op', '{"recheck_interval": "12h"}');
SELECT setting FROM dw_options WHERE migration = 'op' AND name = 'recheck_interval';
SELECT dw_set('op', '{"recheck_interval": null}');
SELECT dw_set('op', '{"subscribers_ready": 7}');
SELECT dw_set('op', '{"subscribers_ready": false}');
\echo :SQLSTATE
SELECT dw_set('op', '{"workers": 0}');
SELECT dw_set('op', '{"workers": 65}');
SELECT dw_set('op', '{"vacuum": "sometimes"}');
SELECT dw_set('op', '{"workers": 2, "vacuum": false}');
SELECT name, setting, source FROM dw_options WHERE migration = 'op' AND name IN ('workers', 'vacuum') ORDER BY name COLLATE "C";
SELECT dw_set('op', '{"workers": null, "vacuum": null}');
SELECT dw_set('op', '{"subscribers_ready": true}');
SELECT dw_set('op', '[]');
SELECT dw_set('op', '"mirror"');
SELECT dw_set('op', 'null');
SELECT dw_set('op', NULL);
\echo :SQLSTATE
SELECT k, dw_set('op', jsonb_build_object(k, 1)) FROM unnest('{carry}'::text[]) k;
\echo :SQLSTATE
DO $$
DECLARE
    k text;
BEGIN
    FOREACH k IN ARRAY '{carry,follow_references,new_reads_percent}'::text[] LOOP
        BEGIN
            PERFORM dw_set('op', jsonb_build_object(k, NULL));
            RAISE NOTICE '% is accepted', k;
        EXCEPTION WHEN feature_not_supported THEN
            RAISE NOTICE '%', SQLERRM;
        END;
    END LOOP;
END $$;
SELECT name, setting, source FROM dw_options WHERE migration = 'op' AND source = 'migration' ORDER BY name COLLATE "C";

-- mirror off: nothing is carried over, the verification is void, nothing can be switched
SELECT dw_set('op', '{"mirror": "off"}');
SELECT phase, state, verified_at IS NOT NULL AS verified, next_step FROM dw_status WHERE migration = 'op';
UPDATE op SET a = 100 WHERE id = 1;
UPDATE op SET b = 200 WHERE id = 2;
INSERT INTO op (id, a) VALUES (10, 10);
INSERT INTO op (id, b) VALUES (11, 110);
INSERT INTO op (id, a, b) VALUES (12, 1, 1);
UPDATE op SET a = 3, b = 3 WHERE id = 3;
SELECT *, b IS NOT DISTINCT FROM a * 10 AS ok FROM op WHERE id IN (1, 2, 3, 10, 11, 12) ORDER BY id;
SELECT dw_switch('op');
\echo :SQLSTATE
SELECT dw_set('op', '{"mirror": "off"}');
SELECT rows_checked, drifted, unconvertible FROM dw_verify('op');
SELECT verified_at IS NOT NULL AS verified FROM dw_status WHERE migration = 'op';
SELECT dw_switch('op');
-- both again: what was written meanwhile is looked for; where one side was never written the other counts, else the user chooses
SELECT dw_set('op', '{"mirror": "both"}');
SELECT *, b IS NOT DISTINCT FROM a * 10 AS ok FROM op WHERE id IN (1, 2, 3, 10, 11, 12) ORDER BY id;
SELECT phase, state, drifted, unconvertible, last_error FROM dw_status WHERE migration = 'op';
SELECT key, old_values, new_values, reason, message FROM dw_drift WHERE migration = 'op' AND repaired_at IS NULL ORDER BY (key->>'id')::int;
SELECT dw_switch('op');
UPDATE op SET b = b WHERE id = 2;
CALL dw_reconcile('op');
SELECT *, b IS NOT DISTINCT FROM a * 10 AS ok FROM op WHERE id IN (1, 2, 3, 10, 11, 12) ORDER BY id;
SELECT phase, state, drifted FROM dw_status WHERE migration = 'op';
-- the user's choice beforehand: conflict; what is overwritten is on record
SELECT dw_set('op', '{"mirror": "off"}');
UPDATE op SET a = 1, b = 55 WHERE id = 1;
SELECT dw_set('op', '{"mirror": "both", "conflict": "new"}');
SELECT * FROM op WHERE id = 1;
SELECT dw_set('op', '{"mirror": "off"}');
UPDATE op SET a = 2, b = 66 WHERE id = 1;
SELECT dw_set('op', '{"mirror": "both", "conflict": "old"}');
SELECT * FROM op WHERE id = 1;
SELECT key, old_values, new_values, reason FROM dw_drift WHERE migration = 'op' AND reason ~ 'healed' ORDER BY found_at;
SELECT phase, state, drifted, verified_at IS NOT NULL AS verified FROM dw_status WHERE migration = 'op';

-- off, and back, in one transaction; beside writes
BEGIN;
SELECT dw_set('op', '{"mirror": "off"}');
UPDATE op SET a = 5, b = NULL WHERE id = 5;
SELECT dw_set('op', '{"mirror": "both"}');
UPDATE op SET a = 6 WHERE id = 6;
COMMIT;
SELECT *, b IS NOT DISTINCT FROM a * 10 AS ok FROM op WHERE id IN (5, 6) ORDER BY id;
SELECT phase, state, drifted FROM dw_status WHERE migration = 'op';

-- forward only: the old side's writes are carried over, the new side's aren't
SELECT dw_set('op', '{"mirror": "forward"}');
UPDATE op SET a = 70 WHERE id = 7;
UPDATE op SET b = 888 WHERE id = 8;
INSERT INTO op (id, a) VALUES (20, 20);
INSERT INTO op (id, b) VALUES (21, 21);
SELECT *, b IS NOT DISTINCT FROM a * 10 AS ok FROM op WHERE id IN (7, 8, 20, 21) ORDER BY id;
SELECT dw_switch('op');
-- backward only
SELECT dw_set('op', '{"mirror": "backward"}');
UPDATE op SET a = 77 WHERE id = 7;
UPDATE op SET b = 880 WHERE id = 8;
INSERT INTO op (id, a) VALUES (22, 22);
INSERT INTO op (id, b) VALUES (23, 230);
SELECT *, b IS NOT DISTINCT FROM a * 10 AS ok FROM op WHERE id IN (7, 8, 22, 23) ORDER BY id;
SELECT dw_set('op', '{"mirror": "both"}');
SELECT *, b IS NOT DISTINCT FROM a * 10 AS ok FROM op WHERE id > 6 ORDER BY id;
SELECT phase, state, drifted, verified_at IS NOT NULL AS verified FROM dw_status WHERE migration = 'op';
SELECT dw_switch('op');

-- after the switch: never forward over what the new side says
SELECT dw_set('op', '{"mirror": "off", "conflict": "error"}');
UPDATE op SET a = 1000 WHERE id = 1;
UPDATE op SET b = 2000 WHERE id = 2;
UPDATE op SET a = 1, b = NULL WHERE id = 3;
UPDATE op SET a = NULL, b = 4000 WHERE id = 4;
INSERT INTO op (id, a) VALUES (30, 30);
INSERT INTO op (id, b) VALUES (31, 310);
SELECT dw_rollback('op');
\echo :SQLSTATE
SELECT dw_finalize('op');
SELECT dw_set('op', '{"mirror": "both"}');
SELECT *, b IS NOT DISTINCT FROM a * 10 AS ok FROM op WHERE id IN (1, 2, 3, 4, 30, 31) ORDER BY id;
SELECT phase, state, drifted, verified_at IS NOT NULL AS verified FROM dw_status WHERE migration = 'op';
SELECT key, old_values, new_values, reason FROM dw_drift WHERE migration = 'op' AND repaired_at IS NULL ORDER BY (key->>'id')::int;
SELECT dw_finalize('op');
CALL dw_reconcile('op');
SELECT *, b IS NOT DISTINCT FROM a * 10 AS ok FROM op WHERE id IN (1, 2, 3, 4, 30, 31) ORDER BY id;
SELECT dw_rollback('op');
SELECT dw_abort('op', true);

-- begun with the mirror off: nothing happens before it is on
SELECT dw_begin('op', 'op', 'a', 'bigint', 'b', 'a * 10', 'b / 10', '{"mirror": "off"}');
SELECT count(b) FROM op;
SELECT phase, state, state_reason FROM dw_status WHERE migration = 'op' AND finished_at IS NULL;
UPDATE op SET a = 11 WHERE id = 1;
UPDATE op SET b = 222 WHERE id = 2;
SELECT dw_set('op', '{"mirror": "both"}');
SELECT phase, state, drifted FROM dw_status WHERE migration = 'op' AND finished_at IS NULL;
SELECT *, b IS NOT DISTINCT FROM a * 10 AS ok FROM op WHERE id <= 3 ORDER BY id;
SELECT key, old_values, new_values, reason FROM dw_drift WHERE migration = 'op' AND repaired_at IS NULL ORDER BY (key->>'id')::int;
SELECT dw_abort('op', true);
DROP TABLE op;

-- off while the backfill runs: it stands still, and begins again
SET pg_dualwrite.inline_limit = 0;
CREATE TABLE op (id int PRIMARY KEY, a int);
INSERT INTO op SELECT i, i FROM generate_series(1, 100) i;
BEGIN;
SELECT dw_begin('op', 'op', 'a', 'bigint', 'b', 'a * 10', 'b / 10');
SELECT dw_pause('op');
SELECT dw_set('op', '{"mirror": "off"}');
COMMIT;
SELECT dw_resume('op');
UPDATE op SET a = -a WHERE id = 10;
UPDATE op SET b = 0 WHERE id = 20;
DELETE FROM op WHERE id = 30;
INSERT INTO op (id, b) VALUES (101, 1010);
SELECT count(b) FROM op;
SELECT dw_set('op', '{"mirror": "both", "conflict": "new"}');
CALL dw_wait('op');
SELECT count(*), count(*) FILTER (WHERE b IS DISTINCT FROM a * 10) AS wrong FROM op;
SELECT * FROM op WHERE id IN (10, 20, 101) ORDER BY id;
SELECT dw_abort('op', true);
DROP TABLE op;
RESET pg_dualwrite.inline_limit;

-- what a switch or a rollback says while a hole isn't closed: nothing here is done on the spot
SET pg_dualwrite.inline_limit = 0;
SET client_min_messages = warning;
CREATE FUNCTION op_rule(int) RETURNS bigint IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 10::bigint';
CREATE TABLE op (id int PRIMARY KEY, a int);
INSERT INTO op SELECT i, i FROM generate_series(1, 10) i;
SELECT dw_begin('op', 'op', 'a', 'bigint', 'b', 'op_rule(a)', 'b / 10') IS NOT NULL AS begun;
CALL dw_wait('op');
SELECT dw_pause('op') IS NOT NULL AS paused;
CREATE OR REPLACE FUNCTION op_rule(int) RETURNS bigint IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 5 * 2::bigint';
SELECT dw_switch('op');
\echo :SQLSTATE
SELECT rows_checked, drifted FROM dw_verify('op');
SELECT dw_switch('op') IS NOT NULL AS switched;
SELECT dw_set('op', '{"mirror": "off"}') IS NOT NULL AS off;
UPDATE op SET a = 100 WHERE id = 1;
SELECT dw_set('op', '{"mirror": "both", "conflict": "authority"}') IS NOT NULL AS both;
SELECT state, next_step, rollback_possible, rollback_note FROM dw_status WHERE migration = 'op' AND finished_at IS NULL;
SELECT dw_rollback('op');
\echo :SQLSTATE
SELECT dw_finalize('op');
CALL dw_reconcile('op');
\echo :SQLSTATE
SELECT rows_checked, drifted FROM dw_verify('op');
SELECT dw_resume('op') IS NOT NULL AS resumed;
-- there is no phase to wait for: it is switched all the time
DO $$
BEGIN
    FOR i IN 1..600 LOOP
        EXIT WHEN (SELECT verified_at IS NOT NULL FROM dw_status WHERE migration = 'op' AND finished_at IS NULL);
        PERFORM pg_sleep(0.05);
        COMMIT;
    END LOOP;
END $$;
SELECT * FROM op WHERE id = 1;
SELECT key, old_values, new_values, reason, repaired_at IS NOT NULL AS repaired FROM dw_drift WHERE migration = 'op' AND found_at > (SELECT started_at FROM dw_status WHERE migration = 'op' AND finished_at IS NULL);
SELECT dw_rollback('op') IS NOT NULL AS back;
SELECT dw_abort('op', true) IS NOT NULL AS aborted;
DROP TABLE op;
DROP FUNCTION op_rule;
