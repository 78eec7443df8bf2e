--
-- Verification finds what any bypass planted, says where, and repairs in the direction of authority.
--
-- the mirror's triggers of a table, off and on again as they were
CREATE PROCEDURE ve_bypass(command text) LANGUAGE plpgsql AS $$
DECLARE
    t record;
BEGIN
    FOR t IN SELECT tgname, tgrelid::regclass AS rel FROM pg_trigger WHERE tgfoid = 'dualwrite.mirror'::regproc LOOP
        EXECUTE format('ALTER TABLE %s DISABLE TRIGGER %I', t.rel, t.tgname);
    END LOOP;
    EXECUTE command;
    FOR t IN SELECT tgname, tgrelid::regclass AS rel FROM pg_trigger WHERE tgfoid = 'dualwrite.mirror'::regproc LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', t.rel, t.tgname);
    END LOOP;
END $$;
CREATE TABLE ve (id int PRIMARY KEY, a int, note text);
INSERT INTO ve SELECT i, i FROM generate_series(1, 10) i;
SELECT dw_begin('ve', 've', 'a', 'bigint', 'b', 'a * 10', 'b / 10');
CREATE VIEW ve_drift AS
SELECT key, old_values, new_values, reason, sqlstate, row_ctid = (SELECT ctid FROM ve WHERE id = (key->>'id')::int) AS here, repaired_at IS NOT NULL AS repaired
  FROM dw_drift WHERE migration = 've';

-- triggers off for a while: the verification is void, whatever was done
CALL ve_bypass('SELECT 1');
SELECT verified_at IS NOT NULL AS verified, next_step FROM dw_status WHERE migration = 've';
SELECT rows_checked, drifted, unconvertible FROM dw_verify('ve');
SELECT verified_at IS NOT NULL AS verified FROM dw_status WHERE migration = 've';
CALL ve_bypass('UPDATE ve SET b = -1 WHERE id = 3');
CALL ve_bypass('UPDATE ve SET a = NULL WHERE id = 4');
CALL ve_bypass('INSERT INTO ve VALUES (11, 11, NULL, NULL), (12, 12, NULL, 120), (13, NULL, NULL, 130)');
SELECT rows_checked, drifted, unconvertible FROM dw_verify('ve');
SELECT * FROM ve_drift WHERE NOT repaired ORDER BY (key->>'id')::int;
SELECT phase, state, state_reason, drifted, unconvertible, last_error, next_step FROM dw_status WHERE migration = 've';
SELECT dw_switch('ve');
-- again: the same rows, not twice as many
SELECT rows_checked, drifted, unconvertible FROM dw_verify('ve');
SELECT count(*) FROM ve_drift WHERE NOT repaired;
-- a look without a repair; a repair; what was repaired is on record
CALL dw_reconcile('ve', repair => false);
SELECT count(*) FROM ve_drift WHERE NOT repaired;
CALL dw_reconcile('ve');
SELECT *, b IS NOT DISTINCT FROM a * 10 AS ok FROM ve WHERE id IN (3, 4, 11, 12, 13) ORDER BY id;
SELECT count(*) FROM ve_drift WHERE NOT repaired;
SELECT verified_at IS NOT NULL AS verified, state, drifted, next_step FROM dw_status WHERE migration = 've';

-- after the switch the new side is right
SELECT dw_switch('ve');
CALL ve_bypass('UPDATE ve SET a = -1 WHERE id = 3');
CALL ve_bypass('UPDATE ve SET b = NULL WHERE id = 5');
CALL ve_bypass('INSERT INTO ve VALUES (14, 14, NULL, NULL), (15, NULL, NULL, 155)');
SELECT rows_checked, drifted, unconvertible FROM dw_verify('ve');
SELECT dw_finalize('ve');
SELECT dw_rollback('ve');
CALL dw_reconcile('ve');
SELECT *, b / 10 IS NOT DISTINCT FROM a AS ok FROM ve WHERE id IN (3, 5, 14, 15) ORDER BY id;
SELECT verified_at IS NOT NULL AS verified FROM dw_status WHERE migration = 've';
SELECT dw_rollback('ve');

-- a trigger that sorts after ours, for a while; nothing of it is left when anyone looks
CREATE FUNCTION ve_trigger() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.b := 99; RETURN NEW; END';
CREATE TRIGGER zzzz BEFORE UPDATE ON ve FOR EACH ROW EXECUTE FUNCTION ve_trigger();
UPDATE ve SET a = 1 WHERE id = 1;
DROP TRIGGER zzzz ON ve;
SELECT * FROM ve WHERE id = 1;
SELECT dw_switch('ve');
\echo :SQLSTATE
CALL dw_reconcile('ve');
SELECT * FROM ve WHERE id = 1;
SELECT dw_switch('ve');
SELECT dw_rollback('ve');

-- a function that a rule uses, changed behind its back
SELECT dw_abort('ve', accept_loss => true);
DROP VIEW ve_drift;
CREATE FUNCTION ve_rule(int) RETURNS bigint IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 10::bigint';
SELECT dw_begin('ve', 've', 'a', 'bigint', 'b', 've_rule(a)', 'b / 1000');
CREATE OR REPLACE FUNCTION ve_rule(int) RETURNS bigint IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 20::bigint';
SELECT verified_at IS NOT NULL AS verified FROM dw_status WHERE migration = 've' AND finished_at IS NULL;
UPDATE ve SET a = 33 WHERE id = 3;
INSERT INTO ve (id, a) VALUES (16, 16);
SELECT * FROM ve WHERE id IN (2, 3, 16) ORDER BY id;
SELECT dw_switch('ve');
\echo :SQLSTATE
SELECT rows_checked, drifted, unconvertible FROM dw_verify('ve');
-- it is the rule from now on
CALL dw_reconcile('ve');
SELECT count(*), count(*) FILTER (WHERE b IS DISTINCT FROM a * 20) AS wrong FROM ve;
SELECT dw_switch('ve');
SELECT dw_rollback('ve');
-- what a rule uses can't be dropped, and a column's type can't be changed under it
\set VERBOSITY sqlstate
DROP FUNCTION ve_rule(int);
ALTER TABLE ve ALTER a TYPE bigint USING a + 1;
ALTER TABLE ve ALTER b TYPE numeric USING b + 1;
ALTER TABLE ve DROP COLUMN a;
ALTER TABLE ve DROP COLUMN b;
\set VERBOSITY default
SELECT dw_abort('ve', true);
DROP TABLE ve;
DROP FUNCTION ve_rule, ve_trigger;

-- values that only look the same: by image, not by equality
CREATE TABLE ve (id int PRIMARY KEY, n numeric, j json, t text, z text, f float8, x xml, r int4range, arr int[], d interval, j2 jsonb, c char(5));
INSERT INTO ve VALUES (1, 1.0, '{"a": 1}', 'ab', 'ab', 0, NULL, '[1,3)', '{1,2}', '1 day', '{"a":1}', 'x'),
                      (2, 1.50, '{"a":1}', NULL, '', -0.0, NULL, 'empty', '[0:1]={1,2}', '24 hours', 'null', 'y '),
                      (3, NULL, 'null', 'x', NULL, 'NaN', NULL, NULL, '{}', NULL, NULL, NULL);
SELECT dw_begin('ve n', 've', 'n', new_column => 'n_new');
SELECT dw_begin('ve j', 've', 'j', new_column => 'j_new');
SELECT dw_begin('ve t', 've', 't', new_column => 't_new');
SELECT dw_begin('ve z', 've', 'z', new_column => 'z_new', forward => 'coalesce(z, '''')', backward => 'nullif(z_new, '''')');
SELECT dw_begin('ve f', 've', 'f', new_column => 'f_new');
SELECT dw_begin('ve r', 've', 'r', new_column => 'r_new');
SELECT dw_begin('ve arr', 've', 'arr', new_column => 'arr_new');
SELECT dw_begin('ve d', 've', 'd', new_column => 'd_new');
SELECT dw_begin('ve j2', 've', 'j2', new_column => 'j2_new');
SELECT dw_begin('ve c', 've', 'c', new_column => 'c_new');
SELECT id, n_new, j_new, t_new, z_new, f_new, r_new, arr_new, d_new, j2_new, c_new || '|' AS c_new FROM ve ORDER BY id;
CALL ve_bypass($$UPDATE ve SET n_new = 1.00, j_new = '{"a":1}', f_new = '-0', arr_new = '[0:1]={1,2}', d_new = '24 hours' WHERE id = 1$$);
-- equal, every one of them, to the type's operator where it has one
SELECT n = n_new AS n, f = f_new AS f, d = d_new AS d FROM ve WHERE id = 1;
SELECT migration, v.rows_checked, v.drifted, v.unconvertible FROM dw_status s, dw_verify(s.migration) v WHERE s.migration ~ '^ve ' AND s.finished_at IS NULL ORDER BY 1;
SELECT migration, key, old_values, new_values FROM dw_drift WHERE migration ~ '^ve ' AND repaired_at IS NULL ORDER BY 1;
CALL dw_reconcile('ve n');
CALL dw_reconcile('ve j');
CALL dw_reconcile('ve f');
CALL dw_reconcile('ve arr');
CALL dw_reconcile('ve d');
SELECT n_new::text, j_new, f_new, arr_new, d_new FROM ve WHERE id = 1;
-- NULL where the derived value is a default, and the other way round
CALL ve_bypass('UPDATE ve SET z_new = NULL, t_new = '''', j_new = ''null'', j2_new = ''null'', arr_new = ''{}''');
SELECT migration, v.rows_checked, v.drifted FROM dw_status s, dw_verify(s.migration) v WHERE s.migration IN ('ve z', 've t', 've j', 've j2', 've arr') AND s.finished_at IS NULL ORDER BY 1;
SELECT dw_abort(migration, true) IS NOT NULL AS aborted FROM dw_status WHERE migration ~ '^ve ' AND finished_at IS NULL ORDER BY migration;
DROP TABLE ve;

-- text that is equal only under its collation (where there is ICU)
SET client_min_messages = error;
DO $$
BEGIN
    CREATE COLLATION ve_collation (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
EXCEPTION WHEN OTHERS THEN
    CREATE COLLATION ve_collation FROM "C";
END $$;
RESET client_min_messages;
CREATE TABLE ve (id int PRIMARY KEY, t text COLLATE ve_collation);
INSERT INTO ve VALUES (1, 'abc'), (2, 'DEF');
SELECT dw_begin('ve', 've', 't', new_column => 'u');
SELECT attname, attcollation::regcollation FROM pg_attribute WHERE attrelid = 've'::regclass AND attname IN ('t', 'u') ORDER BY 1;
CALL ve_bypass('UPDATE ve SET u = lower(u)');
SELECT rows_checked, drifted, unconvertible FROM dw_verify('ve');
CALL dw_reconcile('ve');
UPDATE ve SET u = 'ABC' WHERE id = 1;
UPDATE ve SET t = 'def' WHERE id = 2;
INSERT INTO ve VALUES (3, 'x', 'X');
\echo :SQLSTATE
SELECT * FROM ve ORDER BY id;
SELECT dw_abort('ve');
DROP TABLE ve;
DROP COLLATION ve_collation;

-- 0 where the new column's default, carried forward, is 0, and NULL was
CREATE TABLE ve (id int PRIMARY KEY, a int DEFAULT 0, b bigint DEFAULT 0);
INSERT INTO ve VALUES (1, NULL), (2, 0), (3, 5);
SELECT dw_begin('ve', 've', 'a', new_column => 'b');
SELECT * FROM ve ORDER BY id;
CALL ve_bypass('UPDATE ve SET b = 0');
SELECT rows_checked, drifted, unconvertible FROM dw_verify('ve');
CALL dw_reconcile('ve');
SELECT * FROM ve ORDER BY id;
SELECT dw_abort('ve');
DROP TABLE ve;

-- rows that are consistent by backward alone aren't drift, nor repaired into loss; those that are neither are
CREATE TABLE ve (id int PRIMARY KEY, price int);
INSERT INTO ve VALUES (1, 10), (2, 20), (3, 30);
SELECT dw_begin('ve', 've', 'price', 'numeric', 'exact', 'price', 'trunc(exact)');
UPDATE ve SET exact = 10.75 WHERE id = 1;
CALL ve_bypass('UPDATE ve SET exact = 21.5 WHERE id = 2');
CALL ve_bypass('UPDATE ve SET exact = 30.5 WHERE id = 3');
SELECT rows_checked, drifted, unconvertible FROM dw_verify('ve');
CALL dw_reconcile('ve');
SELECT * FROM ve ORDER BY id;
SELECT dw_switch('ve');
CALL ve_bypass('UPDATE ve SET price = 11 WHERE id = 1');
CALL dw_reconcile('ve');
SELECT * FROM ve ORDER BY id;
SELECT dw_abort('ve', true);
DROP TABLE ve;

-- a sample counts nothing but what it has seen; whole tables only are verifications
CREATE TABLE ve (id int PRIMARY KEY, a int, fill char(500) DEFAULT 'x');
INSERT INTO ve SELECT i, i FROM generate_series(1, 1000) i;
SELECT dw_begin('ve', 've', 'a', 'bigint', 'b');
CALL ve_bypass('UPDATE ve SET b = 0 WHERE id = 500');
SELECT rows_checked BETWEEN 1 AND 999 AS some, drifted <= 1 AS maybe FROM dw_verify('ve', 0.5);
SELECT verified_at IS NULL AS not_verified FROM dw_status WHERE migration = 've' AND finished_at IS NULL;
SELECT rows_checked, drifted FROM dw_verify('ve', 1);
SELECT dw_verify('ve', 0);
\echo :SQLSTATE
SELECT dw_verify('ve', 1.5);
SELECT dw_verify('ve', 'NaN');
SELECT dw_verify('ve', NULL) IS NOT NULL AS null_is_all;
-- the repair fires no trigger of the user's, and obeys constraints: a row that breaks one stays, and is on record
ALTER TABLE ve ADD CONSTRAINT b_is_small CHECK (b < 900) NOT VALID;
CREATE FUNCTION ve_fired() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE NOTICE ''% fired'', TG_NAME; RETURN NEW; END';
CREATE TRIGGER a_before BEFORE UPDATE ON ve FOR EACH ROW EXECUTE FUNCTION ve_fired();
CREATE TRIGGER a_after AFTER UPDATE ON ve FOR EACH ROW EXECUTE FUNCTION ve_fired();
CALL ve_bypass('UPDATE ve SET b = 0 WHERE id = 950');
CALL dw_reconcile('ve');
SELECT id, a, b FROM ve WHERE id IN (500, 950) ORDER BY id;
SELECT key, reason, sqlstate, message FROM dw_drift WHERE migration = 've' AND repaired_at IS NULL AND key->>'id' = '950';
SELECT dw_abort('ve', true);
DROP TABLE ve;
DROP FUNCTION ve_fired;
DROP PROCEDURE ve_bypass;
