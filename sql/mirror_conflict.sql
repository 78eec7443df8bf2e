--
-- A statement that sets both sides, inconsistently: option conflict, setting side.
--
CREATE TABLE mc (id int PRIMARY KEY, a int);
INSERT INTO mc SELECT i, i FROM generate_series(1, 9) i;
SELECT dw_begin('mc', 'mc', 'a', 'bigint', 'b', 'a * 10', 'b / 10');
CREATE VIEW mc_wrong AS SELECT * FROM mc WHERE b IS DISTINCT FROM a * 10;

-- error is the default
INSERT INTO mc VALUES (10, 1, 1);
UPDATE mc SET a = 5, b = 5 WHERE id = 1;
\echo :SQLSTATE
\echo :LAST_ERROR_MESSAGE
-- consistent is no conflict; nor is NULL in an INSERT, but it is in an UPDATE
UPDATE mc SET a = 5, b = 50 WHERE id = 1;
UPDATE mc SET a = NULL, b = 60 WHERE id = 1;
UPDATE mc SET a = 6, b = NULL WHERE id = 1;
UPDATE mc SET a = NULL, b = NULL WHERE id = 1;
-- nor is a side that is SET to what it was: it didn't change
UPDATE mc SET a = a, b = 70 WHERE id = 2;
SELECT * FROM mc WHERE id <= 2 ORDER BY id;

-- old, new
SELECT dw_set('mc', '{"conflict": "old"}');
INSERT INTO mc VALUES (20, 1, 1);
UPDATE mc SET a = 5, b = 5 WHERE id = 2;
UPDATE mc SET a = NULL, b = 50 WHERE id = 3;
SELECT dw_set('mc', '{"conflict": "new"}');
INSERT INTO mc VALUES (21, 1, 1000);
UPDATE mc SET a = 5, b = 500 WHERE id = 4;
UPDATE mc SET a = 50, b = NULL WHERE id = 5;
SELECT * FROM mc WHERE id IN (20, 21) OR id BETWEEN 2 AND 5 ORDER BY id;
SELECT * FROM mc_wrong;

-- authority: old before the switch, new after it
SELECT dw_set('mc', '{"conflict": "authority"}');
INSERT INTO mc VALUES (30, 1, 1000);
UPDATE mc SET a = 7, b = 700 WHERE id = 6;
SELECT dw_switch('mc');
INSERT INTO mc VALUES (31, 1, 1000);
UPDATE mc SET a = 7, b = 700 WHERE id = 7;
SELECT * FROM mc WHERE id IN (6, 7, 30, 31) ORDER BY id;
SELECT dw_rollback('mc');
SELECT * FROM mc_wrong;

-- null resets it to the default, which is that of the day dw_begin was called
SELECT dw_set('mc', '{"conflict": null}');
UPDATE mc SET a = 8, b = 8 WHERE id = 6;

-- the session says which version of the application it is
SET pg_dualwrite.side = 'old';
INSERT INTO mc VALUES (40, 1, 1000);
UPDATE mc SET a = 8, b = 800 WHERE id = 8;
SET pg_dualwrite.side = 'new';
INSERT INTO mc VALUES (41, 1, 1000);
UPDATE mc SET a = 9, b = 900 WHERE id = 9;
SELECT * FROM mc WHERE id IN (8, 9, 40, 41) ORDER BY id;
-- ... but which side a statement wrote counts first
UPDATE mc SET a = 11 WHERE id = 8;
INSERT INTO mc (id, a) VALUES (42, 42);
INSERT INTO mc (id) VALUES (43);
SET pg_dualwrite.side = 'old';
UPDATE mc SET b = 120 WHERE id = 9;
INSERT INTO mc (id, b) VALUES (44, 440);
INSERT INTO mc (id) VALUES (45);
RESET pg_dualwrite.side;
SELECT * FROM mc WHERE id IN (8, 9) OR id > 41 ORDER BY id;
SELECT * FROM mc_wrong;
SET pg_dualwrite.side = 'both';
\echo :SQLSTATE
SELECT dw_side('mc');
SET pg_dualwrite.side = 'new';
SELECT dw_side('mc');
RESET pg_dualwrite.side;

-- what a replica applies is never refused: authority
SET session_replication_role = replica;
UPDATE mc SET a = 13, b = 5 WHERE id = 1;
INSERT INTO mc VALUES (50, 14, 5);
RESET session_replication_role;
SELECT * FROM mc WHERE id IN (1, 50) ORDER BY id;

-- nor is what another trigger adds to the statement
CREATE FUNCTION mc_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' OR NEW.a IS DISTINCT FROM OLD.a THEN
        NEW.b := -1;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER a_trigger BEFORE INSERT OR UPDATE ON mc FOR EACH ROW EXECUTE FUNCTION mc_trigger();
UPDATE mc SET a = 15 WHERE id = 2;
INSERT INTO mc (id, a) VALUES (60, 16);
SELECT * FROM mc WHERE id IN (2, 60) ORDER BY id;
SELECT dw_verify('mc') IS NOT NULL AS looked;
SELECT dw_switch('mc');
UPDATE mc SET a = 17 WHERE id = 2;
INSERT INTO mc (id, a) VALUES (61, 18);
SELECT * FROM mc WHERE id IN (2, 61) ORDER BY id;
DROP VIEW mc_wrong;
SELECT dw_abort('mc', accept_loss => true);
DROP TABLE mc;
DROP FUNCTION mc_trigger;

-- the default of the session that begins is taken then, whoever writes later
SET pg_dualwrite.conflict = 'new';
CREATE TABLE mc (id int PRIMARY KEY, a int);
SELECT dw_begin('mc', 'mc', 'a', 'bigint', 'b', 'a * 10', 'b / 10');
RESET pg_dualwrite.conflict;
INSERT INTO mc VALUES (1, 1, 20);
SELECT * FROM mc;
-- what else is set leaves it alone
SELECT dw_set('mc', '{"batch_time": 5}');
INSERT INTO mc VALUES (2, 1, 20);
SELECT * FROM mc ORDER BY id;
SELECT name, setting, source FROM dw_options WHERE migration = 'mc' ORDER BY name;
SELECT dw_abort('mc');

-- one way: there is nothing to go back by, whatever conflict says
CREATE TABLE mc1 (id int PRIMARY KEY, a int);
SELECT dw_begin('mc', 'mc1', 'a', 'bigint', 'b', 'a * 10', options => '{"conflict": "new"}');
INSERT INTO mc1 VALUES (1, 1, 20);
\echo :SQLSTATE
SELECT dw_set('mc', '{"conflict": "old"}');
INSERT INTO mc1 VALUES (1, 1, 20);
SELECT * FROM mc1;
SELECT dw_abort('mc');
DROP TABLE mc, mc1;
