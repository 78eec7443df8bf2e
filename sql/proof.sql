--
-- proof: a check constraint makes the database refuse rows whose sides part.
--
CREATE TABLE pr (id int PRIMARY KEY, a int NOT NULL, note text);
INSERT INTO pr SELECT i, i FROM generate_series(1, 10) i;
CREATE VIEW pr_proof AS SELECT phase, state, proof, proven_at IS NOT NULL AS proven, verified_at IS NOT NULL AS verified FROM dw_status WHERE migration = 'pr' AND finished_at IS NULL;
-- the constraint, by a name that doesn't depend on what ran before
CREATE VIEW pr_check AS
SELECT regexp_replace(conname, '\d+', '<id>') AS name, pg_get_constraintdef(oid) AS definition FROM pg_constraint WHERE conrelid = 'pr'::regclass AND contype = 'c';

-- runs a command with that name in it
CREATE FUNCTION pr_alter(command text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format(command, (SELECT conname FROM pg_constraint WHERE conrelid = 'pr'::regclass AND contype = 'c'));
END $$;

-- what doesn't go with it
SELECT dw_begin('pr', 'pr', 'a', 'bigint', 'b', options => '{"proof": true, "on_error": "record"}');
\echo :SQLSTATE
SELECT dw_begin('pr', 'pr', 'a', 'bigint', 'b', forward => 'a * 10', backward => 'b / 10', options => '{"proof": true}');
\echo :SQLSTATE
SELECT dw_begin('pr', 'pr', 'a', 'bigint', 'b', forward => 'a + 0', options => '{"proof": true}');
\echo :SQLSTATE
SELECT dw_begin('pr', 'pr', 'a', 'bigint', 'b', options => '{"proof": "maybe"}');
\echo :SQLSTATE
SELECT attname FROM pg_attribute WHERE attrelid = 'pr'::regclass AND attnum > 0 AND NOT attisdropped;

-- small enough to be filled, built, and verified on the spot
SELECT dw_begin('pr', 'pr', 'a', 'bigint', 'b', options => '{"proof": true}');
SELECT * FROM pr_proof;
SELECT * FROM pr_check;
SELECT event, phase_from, phase_to, note FROM dw_events WHERE migration = 'pr' ORDER BY at;
SELECT name, setting, source FROM dw_options WHERE migration = 'pr' AND name = 'proof';
-- what the mirror mirrors goes through
UPDATE pr SET a = 20 WHERE id = 2;
UPDATE pr SET b = 30 WHERE id = 3;
INSERT INTO pr (id, a) VALUES (11, 11);
INSERT INTO pr (id, b) VALUES (12, 12);
SELECT * FROM pr WHERE a <> id OR a > 10 ORDER BY id;
-- however a row got past the mirror, it is refused
ALTER TABLE pr DISABLE TRIGGER USER;
\set VERBOSITY sqlstate
UPDATE pr SET a = 5 WHERE id = 4;
UPDATE pr SET b = 5 WHERE id = 4;
INSERT INTO pr (id, a) VALUES (13, 13);
UPDATE pr SET b = NULL WHERE id = 4;
UPDATE pr SET b = 3000000000 WHERE id = 4;
UPDATE pr SET a = 40, b = 40 WHERE id = 4;
UPDATE pr SET note = 'free' WHERE id = 5;
\set VERBOSITY default
SELECT * FROM pr_proof;
-- the trigger back, and the proof is to be made again
SELECT dw_switch('pr');
\echo :SQLSTATE
SELECT dw_resume('pr');
SELECT * FROM pr_proof;
-- a trigger that fires after the mirror
CREATE FUNCTION pr_spoil() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN new.b := 7; RETURN new; END';
CREATE TRIGGER "~~~~zz" BEFORE UPDATE ON pr FOR EACH ROW EXECUTE FUNCTION pr_spoil();
\set VERBOSITY sqlstate
UPDATE pr SET a = 50 WHERE id = 5;
\set VERBOSITY default
DROP TRIGGER "~~~~zz" ON pr;
SELECT dw_verify('pr') IS NOT NULL AS verified;
SELECT * FROM pr_proof;

-- what can't be recorded any more
SELECT dw_set('pr', '{"on_error": "record"}');
\echo :SQLSTATE
-- VALIDATE makes no difference
SELECT pr_alter('ALTER TABLE pr VALIDATE CONSTRAINT %I');
SELECT * FROM pr_proof;
-- a column renamed
ALTER TABLE pr RENAME COLUMN a TO aa;
SELECT * FROM pr_check;
UPDATE pr SET aa = 60 WHERE id = 6;
ALTER TABLE pr RENAME COLUMN aa TO a;
\set VERBOSITY sqlstate
ALTER TABLE pr ALTER COLUMN a TYPE numeric;
\set VERBOSITY default
SELECT * FROM pr_proof;
-- dropped by hand: no proof, and no verification either
SELECT pr_alter('ALTER TABLE pr DROP CONSTRAINT %I');
SELECT * FROM pr_proof;
SELECT dw_switch('pr');
SELECT * FROM pr_proof;
SELECT * FROM pr_check;
-- kept through the switch; what the old side can't hold is refused there, too
\set VERBOSITY sqlstate
UPDATE pr SET b = 3000000000 WHERE id = 7;
\set VERBOSITY default
UPDATE pr SET b = 70 WHERE id = 7;
SELECT dw_rollback('pr');
SELECT * FROM pr_proof;
SELECT dw_switch('pr');
SELECT * FROM pr_proof;
SELECT count(*), count(*) FILTER (WHERE b IS DISTINCT FROM a) AS wrong FROM pr;

-- off: the constraint goes, and what it refused is recorded again
SELECT dw_set('pr', '{"proof": null}');
SELECT * FROM pr_proof;
SELECT * FROM pr_check;
ALTER TABLE pr ALTER COLUMN a DROP NOT NULL;
UPDATE pr SET b = 3000000000 WHERE id = 7;
SELECT dw_set('pr', '{"proof": true}');
\echo :SQLSTATE
UPDATE pr SET b = 7 WHERE id = 7;
SELECT dw_set('pr', '{"proof": true}');
SELECT dw_verify('pr') IS NOT NULL AS verified;
SELECT dw_set('pr', '{"proof": true}');
SELECT * FROM pr_proof;

-- the emergency brake takes the constraint along: it would refuse every write
SELECT dw_set('pr', '{"mirror": "off"}');
SELECT * FROM pr_check;
SELECT * FROM pr_proof;
UPDATE pr SET b = 80 WHERE id = 8;
SELECT dw_set('pr', '{"mirror": "both", "conflict": "authority"}');
SELECT * FROM pr WHERE id = 8;
SELECT * FROM pr_proof;
SELECT count(*) FROM pr_check;
SELECT dw_set('pr', '{"mirror": "off", "proof": false}');
UPDATE pr SET b = 90 WHERE id = 9;
SELECT dw_set('pr', '{"mirror": "both", "proof": true}');
SELECT * FROM pr_proof;

-- a repair is no proof, the pass after it is
SELECT pr_alter('ALTER TABLE pr DROP CONSTRAINT %I');
ALTER TABLE pr DISABLE TRIGGER USER;
\set VERBOSITY sqlstate
UPDATE pr SET a = -1 WHERE id = 10;
\set VERBOSITY default
DO $$
BEGIN
    EXECUTE format('ALTER TABLE pr ENABLE ALWAYS TRIGGER %I', (SELECT tgname FROM pg_trigger WHERE tgrelid = 'pr'::regclass AND NOT tgisinternal));
END $$;
CALL dw_reconcile('pr');
SELECT * FROM pr WHERE id = 10;
SELECT * FROM pr_proof;
SELECT dw_resume('pr');
SELECT * FROM pr_proof;

-- the end takes it along, by whatever name
ALTER TABLE pr ALTER COLUMN b SET NOT NULL;
SELECT pr_alter('ALTER TABLE pr RENAME CONSTRAINT %I TO pr_mine');
SELECT dw_finalize('pr', drop_old => false);
SELECT * FROM pr_check;
SELECT count(*), count(*) FILTER (WHERE b IS DISTINCT FROM a) AS wrong FROM pr;
UPDATE pr SET b = 1;
SELECT event, phase_from, phase_to FROM dw_events WHERE migration = 'pr' AND event ~ 'proof|proven|build|built' ORDER BY at;
ALTER TABLE pr DROP COLUMN b;

-- drop the old side; abort
SELECT dw_begin('pr2', 'pr', 'a', 'bigint', 'b', options => '{"proof": true}') IS NOT NULL AS begun;
SELECT count(*) FROM pr_check;
SELECT dw_abort('pr2');
SELECT count(*) FROM pr_check;
UPDATE pr SET a = 8 WHERE id = 8;
SELECT dw_begin('pr3', 'pr', 'a', 'bigint', 'b') IS NOT NULL AS begun;
SELECT dw_set('pr3', '{"proof": "on"}');
SELECT proof FROM dw_status WHERE migration = 'pr3';
SELECT dw_switch('pr3');
SELECT dw_finalize('pr3');
SELECT * FROM pr_check;
SELECT * FROM pr WHERE id = 8;
DROP VIEW pr_proof, pr_check;
DROP FUNCTION pr_alter, pr_spoil;
DROP TABLE pr;

-- a rename, texts, and what only the image tells
CREATE TABLE pr (id int PRIMARY KEY, a text COLLATE "C", n numeric, r float8);
INSERT INTO pr VALUES (1, 'x', 1.0, 0), (2, NULL, NULL, NULL), (3, repeat('y', 5000), 'NaN', 'NaN');
SELECT dw_begin('pra', 'pr', 'a', new_column => 'b', options => '{"proof": true}');
SELECT dw_begin('prn', 'pr', 'n', new_column => 'm', options => '{"proof": true}');
SELECT dw_begin('prr', 'pr', 'r', new_column => 's', options => '{"proof": true}');
SELECT migration, phase, proof FROM dw_status WHERE migration IN ('pra', 'prn', 'prr') ORDER BY 1;
SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'pr'::regclass AND contype = 'c' ORDER BY 1 COLLATE "C";
UPDATE pr SET a = 'z', m = 5, r = 1.5 WHERE id = 1;
ALTER TABLE pr DISABLE TRIGGER USER;
\set VERBOSITY sqlstate
UPDATE pr SET m = 5.0 WHERE id = 1;
UPDATE pr SET s = '-0', r = 0 WHERE id = 1;
UPDATE pr SET a = NULL WHERE id = 1;
UPDATE pr SET b = '' WHERE id = 2;
UPDATE pr SET b = repeat('y', 5000) WHERE id = 3;
UPDATE pr SET b = repeat('y', 4999) || 'z' WHERE id = 3;
\set VERBOSITY default
SELECT id, a = b, n, m, r, s FROM pr ORDER BY id;
SELECT count(*) FROM (SELECT dw_abort(m, true) FROM unnest('{pra,prn,prr}'::text[]) m) x;
SELECT count(*) FROM pg_constraint WHERE conrelid = 'pr'::regclass AND contype = 'c';
DROP TABLE pr;

-- the way back is left out only where it explains nothing more: not if it swaps columns, or narrows what was not widened
CREATE TABLE pr (id int PRIMARY KEY, a int, a2 int, s smallint);
INSERT INTO pr VALUES (1, 1, 2, 3);
SELECT dw_begin_mapping('prx', 'pr', '{a,a2}', '{"b": "a", "b2": "a2"}', '{"a": "b2", "a2": "b"}', '{"b": "int", "b2": "int"}', '{"proof": true}');
SELECT dw_begin('prs', 'pr', 's', 'bigint', 't', options => '{"proof": true}');
SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'pr'::regclass AND contype = 'c' ORDER BY 1 COLLATE "C";
SELECT dw_switch('prx') IS NOT NULL AS switched;
UPDATE pr SET b = 5, b2 = 6;
SELECT * FROM pr;
SELECT count(*) FROM (SELECT dw_abort(m, true) FROM unnest('{prx,prs}'::text[]) m) x;
DROP TABLE pr;

-- lengths: the check raises where the mirror does, it doesn't cut
CREATE TABLE pr (id int PRIMARY KEY, a varchar(3));
INSERT INTO pr VALUES (1, 'abc');
SELECT dw_begin('prl', 'pr', 'a', 'varchar(10)', 'b', options => '{"proof": true}');
SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'pr'::regclass AND contype = 'c' ORDER BY 1 COLLATE "C";
UPDATE pr SET b = 'abcdef';
UPDATE pr SET b = 'def';
ALTER TABLE pr DISABLE TRIGGER USER;
\set VERBOSITY sqlstate
UPDATE pr SET b = 'defgh';
\set VERBOSITY default
SELECT * FROM pr;
SELECT dw_abort('prl', true) IS NOT NULL AS aborted;
DROP TABLE pr;

-- a split whose way back can't raise; a row that only this way explains
CREATE TABLE pr (id int PRIMARY KEY, a int, flag boolean);
INSERT INTO pr VALUES (1, 1, true), (2, 2, false);
SELECT dw_begin_mapping('prm', 'pr', '{a,flag}', '{"b": "CASE WHEN flag THEN a * 2 ELSE a * 2 + 1 END", "c": "flag"}',
                        '{"a": "CASE WHEN c THEN 1 ELSE 2 END", "flag": "c"}', '{"b": "int", "c": "boolean"}', '{"proof": true}');
SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'pr'::regclass AND contype = 'c' ORDER BY 1 COLLATE "C";
SELECT dw_switch('prm') IS NOT NULL AS switched;
UPDATE pr SET b = 77 WHERE id = 2;
SELECT * FROM pr ORDER BY id;
ALTER TABLE pr DISABLE TRIGGER USER;
\set VERBOSITY sqlstate
UPDATE pr SET flag = NOT flag WHERE id = 2;
\set VERBOSITY default
SELECT dw_abort('prm', true) IS NOT NULL AS aborted;
DROP TABLE pr;

-- temporary tables, too
CREATE TEMPORARY TABLE pr (id int PRIMARY KEY, a int);
INSERT INTO pr VALUES (1, 1);
SELECT dw_begin('prt', 'pr', 'a', 'bigint', 'b', options => '{"proof": true}');
SELECT proof FROM dw_status WHERE migration = 'prt';
SELECT dw_abort('prt') IS NOT NULL AS aborted;
DROP TABLE pr;

-- rows on record: the constraint waits until they are mended
CREATE TABLE pr (id int PRIMARY KEY, a bigint);
INSERT INTO pr VALUES (1, 1), (2, 3000000000);
SELECT dw_begin('prd', 'pr', 'a', 'int', 'b', options => '{"proof": true}');
SELECT phase, state, proof, last_error, next_step FROM dw_status WHERE migration = 'prd';
SELECT event, phase_from, phase_to, note FROM dw_events WHERE migration = 'prd' ORDER BY at;
UPDATE pr SET a = 3 WHERE id = 2;
SELECT dw_resume('prd');
SELECT phase, state, proof, next_step FROM dw_status WHERE migration = 'prd';
UPDATE pr SET a = 3000000000 WHERE id = 1;
SELECT dw_abort('prd') IS NOT NULL AS aborted;
SELECT * FROM pr ORDER BY id;
DROP TABLE pr;

-- what nobody should call
SELECT dualwrite.same(1, 1), dualwrite.same(1, 2), dualwrite.same(NULL::int, NULL::int), dualwrite.same(NULL::int, 1), dualwrite.same(1.0, 1.00);
SELECT dualwrite.same(1, 'x'::text);
\echo :SQLSTATE
