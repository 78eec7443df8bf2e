--
-- Other triggers on the table: before, after and around the mirror's.
--
CREATE FUNCTION mt_order(regclass) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(CASE WHEN tgname ~ 'dualwrite' THEN CASE WHEN tgname ~ 'first' THEN '[first]' ELSE '[last]' END || CASE tgenabled WHEN 'A' THEN '' ELSE tgenabled::text END
                           ELSE tgname END, ' ' ORDER BY tgname COLLATE "C")
      FROM pg_trigger WHERE tgrelid = $1 AND NOT tgisinternal
$$;

-- a trigger that computes from either side must see both sides fresh, whatever its name
CREATE TABLE mt (id int PRIMARY KEY, a int, log text);
CREATE FUNCTION mt_log() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.log := concat_ws(' ', NEW.log, TG_NAME || '(' || concat_ws(',', NEW.a, (to_jsonb(NEW)->>'b')) || ')');
    RETURN NEW;
END $$;
CREATE TRIGGER "A" BEFORE INSERT OR UPDATE ON mt FOR EACH ROW EXECUTE FUNCTION mt_log();
CREATE TRIGGER zzzz BEFORE INSERT OR UPDATE ON mt FOR EACH ROW EXECUTE FUNCTION mt_log();
CREATE TRIGGER "00" BEFORE INSERT OR UPDATE ON mt FOR EACH ROW EXECUTE FUNCTION mt_log();
INSERT INTO mt VALUES (1, 1);
SELECT dw_begin('mt', 'mt', 'a', 'bigint', 'b', 'a * 10', 'b / 10');
SELECT mt_order('mt');
-- the backfill did not fire them
SELECT * FROM mt;
INSERT INTO mt (id, a) VALUES (2, 2);
INSERT INTO mt (id, b) VALUES (3, 30);
UPDATE mt SET a = 4, log = NULL WHERE id = 1;
SELECT * FROM mt ORDER BY id;
UPDATE mt SET b = 50, log = NULL WHERE id = 1;
SELECT * FROM mt ORDER BY id;

-- what a trigger changes is mirrored, too
CREATE OR REPLACE FUNCTION mt_log() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_NAME = 'A' THEN
        NEW.a := least(NEW.a, 100);
    END IF;
    RETURN NEW;
END $$;
INSERT INTO mt (id, a) VALUES (4, 400);
INSERT INTO mt (id, b) VALUES (5, 5000);
INSERT INTO mt (id, a, b) VALUES (6, 600, 6000);
INSERT INTO mt (id) VALUES (7);
UPDATE mt SET a = 101 WHERE id = 2;
UPDATE mt SET b = 2000 WHERE id = 3;
UPDATE mt SET log = 'x';
SELECT id, a, b, b IS NOT DISTINCT FROM a * 10 AS ok FROM mt ORDER BY id;
-- a statement that contradicts itself is refused before they see it
INSERT INTO mt (id, a, b) VALUES (8, 1, 1);
\echo :SQLSTATE
-- one that skips a row, among rows that it doesn't
CREATE OR REPLACE FUNCTION mt_log() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.id % 2 = 0 THEN RETURN NULL; END IF;
    RETURN NEW;
END $$;
INSERT INTO mt (id, a, b) VALUES (10, 10, NULL), (11, NULL, 110), (12, NULL, 120), (13, 13, NULL), (14, 14, NULL), (15, NULL, 150);
UPDATE mt SET a = a + 1;
SELECT id, a, b, b IS NOT DISTINCT FROM a * 10 AS ok FROM mt WHERE id > 8 OR id = 1 ORDER BY id;
SELECT rows_checked, drifted, unconvertible FROM dw_verify('mt');

-- a trigger that writes the same table, to other rows
CREATE OR REPLACE FUNCTION mt_log() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_NAME = 'A' AND pg_trigger_depth() < 3 THEN
        IF TG_OP = 'INSERT' THEN
            INSERT INTO mt (id, b) VALUES (NEW.id * 10 + 1, NEW.b + 10), (NEW.id * 10 + 2, NEW.b + 20);
        ELSE
            UPDATE mt SET a = a + 1 WHERE id = NEW.id * 10 + 1;
        END IF;
        NEW.a := NEW.a + 1000;
    END IF;
    RETURN NEW;
END $$;
DELETE FROM mt;
INSERT INTO mt (id, a) VALUES (1, 1), (2, 2);
INSERT INTO mt (id, b) VALUES (3, 30);
SELECT id, a, b, b IS NOT DISTINCT FROM a * 10 AS ok FROM mt ORDER BY id;
UPDATE mt SET b = b + 10 WHERE id IN (1, 3);
SELECT id, a, b, b IS NOT DISTINCT FROM a * 10 AS ok FROM mt WHERE id::text ~ '^[13]' ORDER BY id;
SELECT rows_checked, drifted, unconvertible FROM dw_verify('mt');

-- a nested statement that fails and is caught
CREATE OR REPLACE FUNCTION mt_log() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_NAME = 'A' AND pg_trigger_depth() = 1 THEN
        BEGIN
            UPDATE mt SET a = 1, b = 1 WHERE id = 2;
        EXCEPTION WHEN check_violation THEN
            NEW.log := 'caught';
            NEW.b := NEW.b + 10;
        END;
    END IF;
    RETURN NEW;
END $$;
UPDATE mt SET a = 5 WHERE id = 1;
SELECT id, a, b, log, b IS NOT DISTINCT FROM a * 10 AS ok FROM mt WHERE id IN (1, 2) ORDER BY id;

-- triggers added, renamed, disabled later: the verification is void, dw_resume puts ours back to both ends
SELECT dw_verify('mt') IS NOT NULL AS looked;
CREATE TRIGGER "~~~~later" BEFORE UPDATE ON mt FOR EACH ROW EXECUTE FUNCTION mt_log();
SELECT mt_order('mt');
SELECT dw_switch('mt');
\echo :SQLSTATE
SELECT dw_resume('mt');
SELECT mt_order('mt');
SELECT dw_switch('mt');
SELECT dw_rollback('mt');
-- one that sorts before changes nothing of that, nor do statement, AFTER and DELETE triggers
CREATE TRIGGER "B" BEFORE UPDATE ON mt FOR EACH ROW EXECUTE FUNCTION mt_log();
CREATE TRIGGER "~~~~~after" AFTER UPDATE ON mt FOR EACH ROW EXECUTE FUNCTION mt_log();
CREATE TRIGGER "~~~~~statement" BEFORE UPDATE ON mt EXECUTE FUNCTION mt_log();
CREATE TRIGGER "~~~~~delete" BEFORE DELETE ON mt FOR EACH ROW EXECUTE FUNCTION mt_log();
SELECT dw_switch('mt');
SELECT dw_rollback('mt');
-- renamed: it sorts after ours
ALTER TRIGGER "B" ON mt RENAME TO U&"\+10FFFFz";
\set VERBOSITY sqlstate
SELECT dw_switch('mt');
\set VERBOSITY default
ALTER TRIGGER U&"\+10FFFFz" ON mt RENAME TO "B";
SELECT dw_switch('mt');
SELECT dw_rollback('mt');
-- disabled, dropped, only for replicas: ours
SELECT tgname AS last FROM pg_trigger WHERE tgrelid = 'mt'::regclass AND tgname ~ 'dualwrite' AND tgname !~ 'first' \gset
ALTER TABLE mt DISABLE TRIGGER :"last";
SELECT dw_switch('mt');
UPDATE mt SET a = 77 WHERE id = 3;
SELECT dw_resume('mt');
SELECT mt_order('mt');
SELECT phase, state, drifted, next_step FROM dw_status WHERE migration = 'mt';
CALL dw_reconcile('mt');
SELECT dw_switch('mt');
SELECT dw_rollback('mt');
SELECT tgname AS last FROM pg_trigger WHERE tgrelid = 'mt'::regclass AND tgname ~ 'dualwrite' AND tgname !~ 'first' \gset
DROP TRIGGER :"last" ON mt;
SELECT dw_switch('mt');
SELECT dw_resume('mt');
SELECT mt_order('mt');
SELECT dw_switch('mt');
SELECT dw_rollback('mt');
ALTER TABLE mt DISABLE TRIGGER USER;
SELECT dw_switch('mt');
SELECT dw_resume('mt');
SELECT mt_order('mt');
ALTER TABLE mt ENABLE TRIGGER USER;
SELECT dw_switch('mt');
SELECT dw_resume('mt');
SELECT mt_order('mt');
SELECT dw_switch('mt');
SELECT dw_abort('mt');
SELECT mt_order('mt');
DROP TABLE mt;

-- hostile names: nothing sorts after ours, nor before its first
CREATE TABLE mt (id int PRIMARY KEY, a int);
CREATE TRIGGER " " BEFORE UPDATE ON mt FOR EACH ROW EXECUTE FUNCTION mt_log();
CREATE TRIGGER "~~~~" BEFORE UPDATE ON mt FOR EACH ROW EXECUTE FUNCTION mt_log();
CREATE TRIGGER "ÿ ""quoted"" é" BEFORE UPDATE ON mt FOR EACH ROW EXECUTE FUNCTION mt_log();
SELECT dw_begin('mt', 'mt', 'a', 'bigint', 'b');
SELECT mt_order('mt');
SELECT dw_abort('mt');
SELECT mt_order('mt');
CREATE TRIGGER U&"\+10FFFF\+10FFFF" BEFORE UPDATE ON mt FOR EACH ROW EXECUTE FUNCTION mt_log();
\set VERBOSITY sqlstate
SELECT dw_begin('mt', 'mt', 'a', 'bigint', 'b');
\set VERBOSITY default
DROP TRIGGER U&"\+10FFFF\+10FFFF" ON mt;
CREATE TRIGGER U&"\0001\0001" BEFORE UPDATE ON mt FOR EACH ROW EXECUTE FUNCTION mt_log();
\set VERBOSITY sqlstate
SELECT dw_begin('mt', 'mt', 'a', 'bigint', 'b');
\set VERBOSITY default
ALTER TRIGGER U&"\0001\0001" ON mt RENAME TO "~ highest";
SELECT dw_begin('mt', 'mt', 'a', 'bigint', 'b');
-- a name that can't be outdone comes later
CREATE TRIGGER U&"\+10FFFFz" BEFORE UPDATE ON mt FOR EACH ROW EXECUTE FUNCTION mt_log();
\set VERBOSITY sqlstate
SELECT dw_switch('mt');
SELECT dw_resume('mt');
SELECT dw_switch('mt');
\set VERBOSITY default
SELECT state FROM dw_status WHERE migration = 'mt' AND finished_at IS NULL;
ALTER TRIGGER U&"\+10FFFFz" ON mt RENAME TO low;
SELECT dw_resume('mt');
SELECT dw_switch('mt');
SELECT dw_abort('mt');
DROP TABLE mt;

-- everything else that happens to rows: foreign keys that act, generated columns, column triggers, constraint triggers, transition tables
CREATE TABLE mt_parent (id int PRIMARY KEY);
CREATE TABLE mt (id int PRIMARY KEY, a int REFERENCES mt_parent ON UPDATE CASCADE ON DELETE SET NULL,
                 g text GENERATED ALWAYS AS ('a is ' || a::text) STORED);
INSERT INTO mt_parent VALUES (1), (2), (3), (4);
INSERT INTO mt VALUES (1, 1), (2, 2), (3, 3);
SELECT dw_begin('mt', 'mt', 'a', 'bigint', 'b', 'a * 10', 'b / 10');
UPDATE mt_parent SET id = 11 WHERE id = 1;
DELETE FROM mt_parent WHERE id = 2;
UPDATE mt SET b = 40 WHERE id = 3;
SELECT * FROM mt ORDER BY id;
UPDATE mt SET b = 50 WHERE id = 3;
INSERT INTO mt (id, b) VALUES (4, 110) RETURNING *;
CREATE FUNCTION mt_after() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    n int;
    wrong int;
BEGIN
    IF TG_LEVEL = 'STATEMENT' THEN
        SELECT count(*), count(*) FILTER (WHERE b IS DISTINCT FROM a * 10) INTO n, wrong FROM new_rows;
        RAISE NOTICE '%: % rows, % wrong', TG_NAME, n, wrong;
    ELSE
        RAISE NOTICE '%: a % -> %, b % -> %', TG_NAME, OLD.a, NEW.a, OLD.b, NEW.b;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER t_of AFTER UPDATE OF a ON mt FOR EACH ROW EXECUTE FUNCTION mt_after();
CREATE TRIGGER t_when AFTER UPDATE ON mt FOR EACH ROW WHEN (OLD.a IS DISTINCT FROM NEW.a) EXECUTE FUNCTION mt_after();
CREATE TRIGGER t_statement AFTER UPDATE ON mt REFERENCING NEW TABLE AS new_rows EXECUTE FUNCTION mt_after();
CREATE CONSTRAINT TRIGGER t_constraint AFTER UPDATE ON mt DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION mt_after();
-- UPDATE OF looks at what is SET: a trigger on the old column doesn't see writes of the new one
BEGIN;
UPDATE mt SET b = 30 WHERE id = 3;
UPDATE mt SET a = 4 WHERE id = 3;
COMMIT;
SELECT * FROM mt ORDER BY id;
SELECT dw_switch('mt');
BEGIN;
UPDATE mt SET b = 30 WHERE id = 3;
COMMIT;
-- through a view, with rules and INSTEAD OF triggers of its own
CREATE VIEW mt_view AS SELECT id, b AS amount FROM mt WITH CHECK OPTION;
INSERT INTO mt_view VALUES (5, 30) RETURNING *;
UPDATE mt_view SET amount = 40 WHERE id = 5;
SELECT id, a, b, g FROM mt WHERE id = 5;
DROP VIEW mt_view;
SELECT dw_abort('mt');
DROP TABLE mt, mt_parent;
DROP FUNCTION mt_after, mt_log, mt_order;
