--
-- What happens when somebody lays hands on what dw_begin has made: it is refused, or noticed; nothing is mirrored wrongly for it.
--
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_dw_owner, regress_dw_other;
CREATE ROLE regress_dw_owner;
CREATE ROLE regress_dw_other;
CREATE SCHEMA ta AUTHORIZATION regress_dw_owner;
GRANT USAGE ON SCHEMA ta TO regress_dw_other;
-- names that don't depend on what has run before
ALTER SEQUENCE dualwrite.member_id RESTART 770001;
SET ROLE regress_dw_owner;
SET search_path = ta, public;
CREATE TABLE ta (id int PRIMARY KEY, a int);
INSERT INTO ta VALUES (1, 1), (2, 2);
CREATE TABLE ta2 (id int PRIMARY KEY, a int, b bigint);
SELECT dw_begin('ta', 'ta', 'a', 'bigint', 'b', 'a * 10', 'b / 10');
SELECT tgname FROM pg_trigger WHERE tgrelid = 'ta'::regclass;
SELECT relname, relkind, relowner <> 'regress_dw_owner'::regrole AS not_the_owner FROM pg_class
 WHERE relnamespace = 'dualwrite'::regnamespace AND relname ~ '^m770001_' ORDER BY 1;

-- the table's owner may not change the rules, nor read or write the state, nor put anything beside it
\set VERBOSITY sqlstate
SELECT * FROM dualwrite.m770001_rules;
CREATE OR REPLACE VIEW dualwrite.m770001_rules AS SELECT 1 AS x;
ALTER VIEW dualwrite.m770001_rules RENAME TO mine;
ALTER VIEW dualwrite.m770001_rules OWNER TO regress_dw_other;
DROP VIEW dualwrite.m770001_rules;
SELECT setval('dualwrite.m770001_losses', 1000);
DROP SEQUENCE dualwrite.m770001_losses;
SELECT count(*) FROM dualwrite.drift;
UPDATE dualwrite.migration SET phase = 'switched';
INSERT INTO dualwrite.drift (member_id, reason) VALUES (1, 'x');
TRUNCATE dualwrite.event;
CREATE VIEW dualwrite.v AS SELECT 1;
CREATE FUNCTION dualwrite.f() RETURNS int LANGUAGE sql AS 'SELECT 1';
ALTER FUNCTION dualwrite.mirror() RENAME TO mine;
DROP EXTENSION pg_dualwrite;
\set VERBOSITY default
UPDATE ta SET a = 3 WHERE id = 1;
SELECT * FROM ta ORDER BY id;

-- a trigger by hand: on another table, on the table itself a second time, of a migration that isn't, with words for arguments
CREATE TRIGGER t BEFORE INSERT OR UPDATE ON ta2 FOR EACH ROW EXECUTE FUNCTION dualwrite.mirror('770001');
INSERT INTO ta2 VALUES (1, 1, 1);
\echo :SQLSTATE
DROP TRIGGER t ON ta2;
CREATE TRIGGER t BEFORE INSERT OR UPDATE ON ta2 FOR EACH ROW EXECUTE FUNCTION dualwrite.mirror('2000000000', 'first');
INSERT INTO ta2 VALUES (1, 1, 1);
\echo :SQLSTATE
DROP TRIGGER t ON ta2;
CREATE TRIGGER t BEFORE INSERT OR UPDATE ON ta2 FOR EACH ROW EXECUTE FUNCTION dualwrite.mirror('x');
INSERT INTO ta2 VALUES (2, 1, 1);
DROP TRIGGER t ON ta2;
CREATE TRIGGER t BEFORE INSERT OR UPDATE ON ta2 FOR EACH ROW EXECUTE FUNCTION dualwrite.mirror('-1');
INSERT INTO ta2 VALUES (3, 1, 1);
DROP TRIGGER t ON ta2;
CREATE TRIGGER t BEFORE DELETE ON ta2 FOR EACH ROW EXECUTE FUNCTION dualwrite.mirror('1');
DELETE FROM ta2;
\echo :SQLSTATE
DROP TRIGGER t ON ta2;
CREATE TRIGGER aaa BEFORE INSERT OR UPDATE ON ta FOR EACH ROW EXECUTE FUNCTION dualwrite.mirror('770001');
CREATE TRIGGER zzzzz BEFORE INSERT OR UPDATE ON ta FOR EACH ROW EXECUTE FUNCTION dualwrite.mirror('770001', 'first');
INSERT INTO ta (id, a) VALUES (3, 3);
INSERT INTO ta (id, b) VALUES (4, 40);
UPDATE ta SET a = 5 WHERE id = 1;
UPDATE ta SET b = 60 WHERE id = 2;
SELECT *, b = a * 10 AS ok FROM ta ORDER BY id;
DROP TRIGGER aaa ON ta;
DROP TRIGGER zzzzz ON ta;

-- ours renamed, so that another one comes after it
CREATE FUNCTION ta_wrong() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.b := -1; RETURN NEW; END';
CREATE TRIGGER m BEFORE UPDATE ON ta FOR EACH ROW EXECUTE FUNCTION ta_wrong();
SELECT dw_resume('ta') IS NOT NULL AS resumed;
SELECT tgname AS mirror FROM pg_trigger WHERE tgrelid = 'ta'::regclass AND tgname ~ 'dualwrite' AND tgname !~ 'first' \gset
ALTER TRIGGER :"mirror" ON ta RENAME TO a;
UPDATE ta SET a = 7 WHERE id = 1;
SELECT *, b = a * 10 AS ok FROM ta WHERE id = 1;
SELECT state, state_reason, next_step FROM dw_status WHERE migration = 'ta';
SELECT dw_switch('ta');
SELECT dw_resume('ta') IS NOT NULL AS resumed;
SELECT string_agg(CASE WHEN tgname ~ 'first' THEN '[first]' WHEN tgname ~ 'dualwrite' THEN '[last]' ELSE tgname END, ' ' ORDER BY tgname COLLATE "C") FROM pg_trigger WHERE tgrelid = 'ta'::regclass;
DROP TRIGGER m ON ta;
CALL dw_reconcile('ta');
SELECT *, b = a * 10 AS ok FROM ta WHERE id = 1;
SELECT dw_switch('ta') IS NOT NULL AS switched;
SELECT dw_rollback('ta') IS NOT NULL AS back;

-- disabled, or dropped: dw_status says so before anybody has compared a row, and how to mend it, also where it is paused
ALTER TABLE ta DISABLE TRIGGER USER;
SELECT state, state_reason, next_step FROM dw_status WHERE migration = 'ta';
SELECT dw_pause('ta') IS NOT NULL AS paused;
SELECT state, state_reason, next_step FROM dw_status WHERE migration = 'ta';
SELECT dw_resume('ta') IS NOT NULL AS resumed;
SELECT state, state_reason, next_step FROM dw_status WHERE migration = 'ta';
ALTER TABLE ta ENABLE TRIGGER ALL;
SELECT state, state_reason FROM dw_status WHERE migration = 'ta';
-- a verification has met that, too; what is wrong later is another thing
SELECT count(*) FROM dw_verify('ta');
SELECT state, state_reason FROM dw_status WHERE migration = 'ta';
SELECT tgname AS mirror FROM pg_trigger WHERE tgrelid = 'ta'::regclass \gset
DROP TRIGGER :"mirror" ON ta;
SELECT state, state_reason, next_step FROM dw_status WHERE migration = 'ta';
SELECT dw_resume('ta') IS NOT NULL AS resumed;
SELECT dw_pause('ta') IS NOT NULL AS paused;
SELECT state, state_reason FROM dw_status WHERE migration = 'ta';
SELECT dw_resume('ta') IS NOT NULL AS resumed;
RESET ROLE;

-- a superuser may do more: without its rules the table can't be written, but the migration can be given up
DROP VIEW dualwrite.m770001_rules CASCADE;
UPDATE ta SET a = 9 WHERE id = 1;
\echo :SQLSTATE
SELECT dw_switch('ta');
\echo :SQLSTATE
SELECT dw_verify('ta');
SET ROLE regress_dw_owner;
SELECT dw_abort('ta', true) IS NOT NULL AS aborted;
UPDATE ta SET a = 9 WHERE id = 1;
\d ta
SELECT dw_begin('ta', 'ta', 'a', 'bigint', 'c');
RESET ROLE;
-- its statistics gone, it works as before
DROP SEQUENCE dualwrite.m770002_losses, dualwrite.m770002_old_written, dualwrite.m770002_new_written;
UPDATE ta SET a = 10 WHERE id = 1;
UPDATE ta SET c = 11 WHERE id = 2;
SELECT * FROM ta ORDER BY id;
SELECT rows_checked, drifted, unconvertible FROM dw_verify('ta');
SELECT state, phase FROM dw_status WHERE migration = 'ta' AND finished_at IS NULL;
-- its record gone, the triggers are left over, and say so
DELETE FROM dualwrite.member WHERE id = 770002;
UPDATE ta SET a = 12 WHERE id = 1;
SELECT * FROM ta WHERE id = 1;
DROP TABLE ta;
SELECT state, next_step FROM dw_status WHERE migration = 'ta' AND finished_at IS NULL;
SELECT dw_abort('ta') IS NOT NULL AS aborted;

-- the table goes, and its migration is nobody's but the former owner's
SET ROLE regress_dw_owner;
SELECT dw_begin('ta 2', 'ta2', 'a', new_column => 'b');
DROP TABLE ta2;
SET ROLE regress_dw_other;
SELECT dw_abort('ta 2');
\echo :SQLSTATE
SET ROLE regress_dw_owner;
SELECT dw_abort('ta 2');
RESET ROLE;
RESET search_path;
DROP SCHEMA ta CASCADE;
DROP ROLE regress_dw_owner, regress_dw_other;
SELECT relname FROM pg_class WHERE relnamespace = 'dualwrite'::regnamespace AND relname ~ '^m[0-9]';
