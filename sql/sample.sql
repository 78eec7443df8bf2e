--
-- sample_rate: writes are read back before the commit.
--
CREATE TABLE sm (id int PRIMARY KEY, a int, note text);
INSERT INTO sm SELECT i, i FROM generate_series(1, 10) i;
SELECT dw_begin('sm', 'sm', 'a', 'bigint', 'b', 'a * 10', 'b / 10');
CREATE VIEW sm_counts AS SELECT sampled_writes, sampled_drift, round(drift_rate_bound::numeric, 6) AS bound FROM dw_status WHERE migration = 'sm';
SELECT * FROM sm_counts;

-- bad values
SELECT dw_set('sm', '{"sample_rate": 1.5}');
\echo :SQLSTATE
SELECT dw_set('sm', '{"sample_rate": -0.1}');
SELECT dw_set('sm', '{"sample_rate": "often"}');
SELECT dw_set('sm', '{"sample_rate": "NaN"}');
SELECT dw_set('sm', '{"sample_rate": true}');
SELECT dw_set('sm', '{"sample_rate": 0}');
SELECT * FROM sm_counts;

-- every write of the sides is read back, and nothing else
SELECT dw_set('sm', '{"sample_rate": 1}');
SELECT name, setting, source FROM dw_options WHERE migration = 'sm' AND name = 'sample_rate';
UPDATE sm SET a = a + 1 WHERE id <= 3;
SELECT * FROM sm_counts;
UPDATE sm SET b = b + 10 WHERE id <= 3;
UPDATE sm SET note = 'x';
INSERT INTO sm (id, a) VALUES (11, 11);
INSERT INTO sm (id, b) VALUES (12, 120) ON CONFLICT (id) DO UPDATE SET b = excluded.b;
INSERT INTO sm (id, b) VALUES (12, 130) ON CONFLICT (id) DO UPDATE SET b = excluded.b;
SELECT * FROM sm_counts;
-- written twice, deleted, moved to another key, rolled back
BEGIN;
UPDATE sm SET a = 100 WHERE id = 4;
UPDATE sm SET b = 2000 WHERE id = 4;
UPDATE sm SET a = 5 WHERE id = 5;
DELETE FROM sm WHERE id = 5;
UPDATE sm SET a = 6 WHERE id = 6;
UPDATE sm SET id = 66 WHERE id = 6;
SAVEPOINT s;
UPDATE sm SET a = 7 WHERE id = 7;
ROLLBACK TO s;
COMMIT;
SELECT * FROM sm_counts;
BEGIN;
UPDATE sm SET a = 0;
ROLLBACK;
SELECT * FROM sm_counts;
-- at prepare
BEGIN;
UPDATE sm SET a = 8 WHERE id = 8;
PREPARE TRANSACTION 'sm';
SELECT * FROM sm_counts;
COMMIT PREPARED 'sm';
SELECT * FROM sm_counts;
-- a statement of many rows holds a thousand of them
INSERT INTO sm (id, a) SELECT i, i FROM generate_series(1001, 5000) i;
SELECT * FROM sm_counts;

-- what another trigger does after the mirror is found in the row as it is stored
CREATE FUNCTION sm_spoil() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF new.note = 'spoil' THEN
        new.b := new.b + 100;
    END IF;
    RETURN new;
END $$;
CREATE TRIGGER "~~~~zz" BEFORE UPDATE ON sm FOR EACH ROW EXECUTE FUNCTION sm_spoil();
UPDATE sm SET a = 1000, note = 'spoil' WHERE id = 1;
SELECT * FROM sm_counts;
SELECT key, old_values, new_values, reason, message, repaired_at IS NULL AS open FROM dw_drift WHERE migration = 'sm';
SELECT * FROM sm WHERE id = 1;
DROP TRIGGER "~~~~zz" ON sm;
SELECT dw_switch('sm');
UPDATE sm SET a = 1001 WHERE id = 1;
SELECT dw_verify('sm') IS NOT NULL AS verified;
SELECT dw_switch('sm') IS NOT NULL AS switched;

-- a rule that doesn't say the same twice
CREATE TABLE sm_planted (a int);
CREATE FUNCTION sm_rule(a int) RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
    RETURN a * 10 + (SELECT count(*) FROM public.sm_planted p WHERE p.a = sm_rule.a);
END $$;
SELECT dw_abort('sm') IS NOT NULL AS aborted;
DELETE FROM sm WHERE id > 1000;
SELECT dw_begin('sm2', 'sm', 'a', 'bigint', 'b', 'sm_rule(a)', 'b / 10 + 5', '{"sample_rate": "1"}');
BEGIN;
UPDATE sm SET a = 77 WHERE id IN (7, 8);
INSERT INTO sm_planted VALUES (77);
COMMIT;
SELECT sampled_writes, sampled_drift, round(drift_rate_bound::numeric, 6) AS bound FROM dw_status WHERE migration = 'sm2';
SELECT key, old_values, new_values, reason FROM dw_drift WHERE migration = 'sm2' AND repaired_at IS NULL ORDER BY key ->> 'id';
-- a rule that raises while reading back is no error of the write
BEGIN;
UPDATE sm SET a = 78 WHERE id = 7;
DROP TABLE sm_planted;
COMMIT;
SELECT id, a, b FROM sm WHERE id = 7;
SELECT dw_abort('sm2', true) IS NOT NULL AS aborted;

-- what can't be converted is on record already
SELECT dw_begin('sm3', 'sm', 'note', 'int', 'n', options => '{"sample_rate": 1}') IS NOT NULL AS begun;
UPDATE sm SET note = 'seven' WHERE id = 7;
UPDATE sm SET note = '8' WHERE id = 8;
SELECT sampled_writes, sampled_drift FROM dw_status WHERE migration = 'sm3';
SELECT reason, count(*) FROM dw_drift WHERE migration = 'sm3' AND key ->> 'id' IN ('7', '8') GROUP BY 1;
-- the mirror off: what isn't mirrored isn't read back
SELECT dw_set('sm3', '{"mirror": "off"}');
UPDATE sm SET note = '9' WHERE id = 8;
SELECT sampled_writes, sampled_drift FROM dw_status WHERE migration = 'sm3';
SELECT dw_abort('sm3', true) IS NOT NULL AS aborted;

-- who wrote inside a security definer function may be another one at commit
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_dw_sample;
RESET client_min_messages;
CREATE ROLE regress_dw_sample;
CREATE FUNCTION sm_mul(a int) RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN a * 10; END';
REVOKE EXECUTE ON FUNCTION sm_mul FROM PUBLIC;
SELECT dw_begin('sm4', 'sm', 'a', 'bigint', 'b', 'sm_mul(a)', 'b / 10', '{"sample_rate": 1}') IS NOT NULL AS begun;
CREATE FUNCTION sm_write() RETURNS void SECURITY DEFINER LANGUAGE sql AS 'UPDATE sm SET a = 9 WHERE id = 9';
SET ROLE regress_dw_sample;
SELECT sm_write();
SELECT sampled_writes FROM dw_status WHERE migration = 'sm4';
RESET ROLE;
SELECT sampled_writes, sampled_drift FROM dw_status WHERE migration = 'sm4';
SELECT count(*), count(*) FILTER (WHERE b IS DISTINCT FROM a * 10) AS wrong FROM sm;
SELECT dw_abort('sm4') IS NOT NULL AS aborted;
DROP FUNCTION sm_write, sm_mul, sm_rule;
DROP ROLE regress_dw_sample;

-- half of them: some thousand draws, far from none and from all
SELECT dw_begin('sm5', 'sm', 'a', 'bigint', 'b', 'a * 10', 'b / 10', '{"sample_rate": 0.5}') IS NOT NULL AS begun;
DO $$
BEGIN
    FOR i IN 1..2000 LOOP
        UPDATE sm SET a = a + 1 WHERE id = 9;
        IF i % 500 = 0 THEN
            COMMIT;
        END IF;
    END LOOP;
END $$;
SELECT sampled_writes BETWEEN 850 AND 1150 AS half, sampled_drift FROM dw_status WHERE migration = 'sm5';
SELECT dw_abort('sm5') IS NOT NULL AS aborted;
DROP VIEW sm_counts;
DROP TABLE sm;
DROP FUNCTION sm_spoil;

-- a table without a key
CREATE TABLE sm (a int);
SELECT dw_begin('sm6', 'sm', 'a', 'bigint', 'b', options => '{"sample_rate": 0.01}');
\echo :SQLSTATE
SELECT dw_begin('sm6', 'sm', 'a', 'bigint', 'b') IS NOT NULL AS begun;
SELECT dw_set('sm6', '{"sample_rate": 0.01}');
\echo :SQLSTATE
SELECT dw_abort('sm6') IS NOT NULL AS aborted;
DROP TABLE sm;

-- the bound: the rule of three, and limits of Clopper and Pearson that others have computed
SELECT n, k, round(dualwrite.drift_bound(n, k)::numeric, 7) AS bound, round((3.0 / nullif(n, 0))::numeric, 7) AS rule_of_three
  FROM (VALUES (0, 0), (1, 0), (10, 0), (100, 0), (1000000, 0), (10, 1), (20, 2), (100, 1), (100, 5), (1000, 10), (10000000, 3), (10, 10)) v(n, k);
-- with that rate, seeing no more than k is as likely as 5 %
SELECT n, k, round(sum(p)::numeric, 6) AS likelihood
  FROM (VALUES (10, 1), (20, 2), (50, 7)) v(n, k), LATERAL (SELECT dualwrite.drift_bound(n, k)) b(r), generate_series(0, k) i,
       LATERAL (SELECT (factorial(n) / factorial(i) / factorial(n - i))::float8 * r ^ i * (1 - r) ^ (n - i)) l(p)
 GROUP BY n, k ORDER BY n;
