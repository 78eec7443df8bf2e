--
-- Every way to write a row: COPY, MERGE, ON CONFLICT, RETURNING, other people's rights.
--
CREATE TABLE co (id int PRIMARY KEY, a int, note text);
INSERT INTO co VALUES (1, 1), (2, 2), (3, 3);
SELECT dw_begin('co', 'co', 'a', 'bigint', 'b', 'a * 10', 'b / 10');
CREATE VIEW co_wrong AS SELECT * FROM co WHERE b IS DISTINCT FROM a * 10;

-- COPY: old version's columns, new version's, both, with defaults left out; CSV; WHERE; FREEZE; from a query
COPY co (id, a) FROM stdin;
10	10
11	\N
\.
COPY co (id, b) FROM stdin WITH (FORMAT csv);
12,120
13,
\.
COPY co (id, a, b) FROM stdin WHERE id <> 16;
14	14	\N
15	\N	150
16	1	1
17	17	170
18	\N	\N
\.
COPY co (id, a, b) FROM stdin;
20	20	200
21	21	1
\.
COPY co (id, a, b) TO stdout;
SELECT * FROM co_wrong;
BEGIN;
TRUNCATE co;
COPY co (id, b) FROM stdin WITH (FREEZE);
1	10
2	20
3	30
\.
COMMIT;
SELECT * FROM co ORDER BY id;

-- ON CONFLICT, with either side, in values and in what happens on conflict
INSERT INTO co (id, a) VALUES (1, 100), (4, 4) ON CONFLICT (id) DO NOTHING;
INSERT INTO co (id, a) VALUES (1, 100) ON CONFLICT (id) DO UPDATE SET a = excluded.a RETURNING *;
INSERT INTO co (id, b) VALUES (2, 2000) ON CONFLICT (id) DO UPDATE SET b = excluded.b RETURNING *;
-- excluded is the row as the mirror left it, so it has both sides
INSERT INTO co (id, a) VALUES (3, 300) ON CONFLICT (id) DO UPDATE SET b = excluded.b RETURNING *;
INSERT INTO co (id, b) VALUES (3, 30) ON CONFLICT (id) DO UPDATE SET a = excluded.a, note = 'a' RETURNING *;
INSERT INTO co (id, b) VALUES (3, 40) ON CONFLICT (id) DO UPDATE SET a = excluded.a, b = excluded.b RETURNING *;
INSERT INTO co (id, b) VALUES (3, 50) ON CONFLICT (id) DO UPDATE SET a = co.a + excluded.a RETURNING *;
INSERT INTO co (id, b) VALUES (3, 60) ON CONFLICT (id) DO UPDATE SET a = 1, b = 1 RETURNING *;
INSERT INTO co (id, b) VALUES (3, 60), (5, 50) ON CONFLICT (id) DO UPDATE SET note = 'seen' WHERE co.b < excluded.b RETURNING *;
SELECT * FROM co_wrong;

-- MERGE
MERGE INTO co USING (VALUES (1, 11), (5, 55), (6, 66), (7, 77)) s(id, v) ON co.id = s.id
 WHEN MATCHED AND s.id = 1 THEN UPDATE SET a = v
 WHEN MATCHED THEN UPDATE SET b = v * 10
 WHEN NOT MATCHED AND s.id = 6 THEN INSERT (id, a) VALUES (s.id, v)
 WHEN NOT MATCHED THEN INSERT (id, b) VALUES (s.id, v * 10);
MERGE INTO co USING (VALUES (1), (7)) s(id) ON co.id = s.id
 WHEN MATCHED AND s.id = 7 THEN DELETE
 WHEN MATCHED THEN UPDATE SET note = co.b::text || '/' || co.a;
SELECT * FROM co ORDER BY id;
SELECT * FROM co_wrong;

-- RETURNING and CTEs that write
WITH u AS (UPDATE co SET b = b + 10 WHERE id <= 2 RETURNING id, a, b), i AS (INSERT INTO co (id, a) SELECT id + 100, a FROM u RETURNING *)
SELECT * FROM u UNION ALL SELECT id, a, b FROM i ORDER BY id;
UPDATE co SET a = s.a FROM (VALUES (1, 5), (2, 6)) s(id, a) WHERE co.id = s.id RETURNING co.*;
UPDATE co SET (a, note) = (SELECT 9, 'row') WHERE id = 1 RETURNING *;
UPDATE co SET (note, b) = ROW('row', 880) WHERE id = 1 RETURNING *;
DELETE FROM co WHERE id > 100 RETURNING *;
INSERT INTO co SELECT id + 200, a, note, b FROM co WHERE id < 3 RETURNING *;
INSERT INTO co TABLE co_wrong RETURNING *;
CREATE RULE co_rule AS ON DELETE TO co WHERE old.id = 4 DO INSTEAD UPDATE co SET b = 0 WHERE id = old.id;
DELETE FROM co WHERE id IN (4, 201);
SELECT * FROM co WHERE id IN (4, 201);
DROP RULE co_rule ON co;
SELECT * FROM co_wrong;

-- replica: what is applied there is mirrored as well (the triggers are ENABLE ALWAYS), user triggers aren't fired
SET session_replication_role = replica;
INSERT INTO co (id, a) VALUES (300, 30);
INSERT INTO co (id, b) VALUES (301, 310);
UPDATE co SET b = 10 WHERE id = 1;
UPDATE co SET a = 20 WHERE id = 2;
SET session_replication_role = local;
UPDATE co SET a = 21 WHERE id = 2;
RESET session_replication_role;
SELECT * FROM co WHERE id IN (1, 2, 300, 301) ORDER BY id;
SELECT * FROM co_wrong;
SELECT rows_checked, drifted, unconvertible FROM dw_verify('co');
DROP VIEW co_wrong;
SELECT dw_abort('co');
DROP TABLE co;

-- writers with privileges on one side only, on no table of the extension, through functions that are SECURITY DEFINER
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_dw_owner, regress_dw_old, regress_dw_new, regress_dw_caller;
RESET client_min_messages;
CREATE ROLE regress_dw_owner;
CREATE ROLE regress_dw_old;
CREATE ROLE regress_dw_new;
CREATE ROLE regress_dw_caller;
CREATE SCHEMA regress_dw AUTHORIZATION regress_dw_owner;
SET ROLE regress_dw_owner;
CREATE TABLE regress_dw.co (id int PRIMARY KEY, a text, note text);
INSERT INTO regress_dw.co VALUES (1, '1'), (2, '2');
SELECT dw_begin('co', 'regress_dw.co', 'a', 'int', 'b');
GRANT USAGE ON SCHEMA regress_dw TO regress_dw_old, regress_dw_new, regress_dw_caller;
GRANT SELECT (id), INSERT (id, a), UPDATE (a) ON regress_dw.co TO regress_dw_old;
GRANT SELECT (id), INSERT (id, b), UPDATE (b) ON regress_dw.co TO regress_dw_new;
CREATE FUNCTION regress_dw.set_b(int, int) RETURNS text SECURITY DEFINER LANGUAGE sql AS 'UPDATE regress_dw.co SET b = $2 WHERE id = $1 RETURNING co.*::text';
SET ROLE regress_dw_old;
INSERT INTO regress_dw.co (id, a) VALUES (3, '3');
UPDATE regress_dw.co SET a = '11' WHERE id = 1;
INSERT INTO regress_dw.co (id, b) VALUES (4, 4);
UPDATE regress_dw.co SET b = 5 WHERE id = 1;
-- it may write what can't be converted, too, which has to be recorded where it has no rights
UPDATE regress_dw.co SET a = 'x' WHERE id = 2;
SET ROLE regress_dw_new;
INSERT INTO regress_dw.co (id, b) VALUES (4, 4);
UPDATE regress_dw.co SET b = 13 WHERE id = 3;
UPDATE regress_dw.co SET a = '5' WHERE id = 1;
SET ROLE regress_dw_caller;
SELECT regress_dw.set_b(4, 44);
SELECT regress_dw.set_b(2, 22);
UPDATE regress_dw.co SET b = 13 WHERE id = 3;
SET ROLE regress_dw_owner;
SELECT * FROM regress_dw.co ORDER BY id;
SELECT key, old_values, reason FROM dw_drift WHERE migration = 'co' AND repaired_at IS NULL;
SELECT rows_checked, drifted, unconvertible FROM dw_verify('co');
-- a member of the owner may drive the migration; others may only look
RESET ROLE;
GRANT regress_dw_owner TO regress_dw_caller;
SET ROLE regress_dw_caller;
SELECT dw_switch('co');
RESET ROLE;
SELECT actor, event FROM dw_events WHERE migration = 'co' AND event IN ('begin', 'switch') AND actor ~ '^regress' ORDER BY at;
-- after the switch the same, the other way round
SET ROLE regress_dw_new;
UPDATE regress_dw.co SET b = 7 WHERE id = 1;
SET ROLE regress_dw_old;
UPDATE regress_dw.co SET a = '70' WHERE id = 3;
UPDATE regress_dw.co SET a = 'y' WHERE id = 3;
\echo :SQLSTATE
RESET ROLE;
SELECT * FROM regress_dw.co ORDER BY id;

-- row-level security hides nothing from the backfill, the verification, the mirror
SET ROLE regress_dw_owner;
SELECT dw_abort('co');
ALTER TABLE regress_dw.co ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY p ON regress_dw.co USING (id <> 2) WITH CHECK (id < 100);
SELECT count(*) FROM regress_dw.co;
SELECT dw_begin('co', 'regress_dw.co', 'a', 'int', 'b');
UPDATE regress_dw.co SET b = 8 WHERE id = 1;
UPDATE regress_dw.co SET b = 8 WHERE id = 2;
SELECT rows_checked, drifted, unconvertible FROM dw_verify('co');
RESET ROLE;
SELECT * FROM regress_dw.co ORDER BY id;
SELECT tgname AS mirror FROM pg_trigger WHERE tgrelid = 'regress_dw.co'::regclass AND tgname ~ 'dualwrite' \gset
ALTER TABLE regress_dw.co DISABLE TRIGGER :"mirror";
UPDATE regress_dw.co SET b = 9 WHERE id = 2;
ALTER TABLE regress_dw.co ENABLE ALWAYS TRIGGER :"mirror";
SET ROLE regress_dw_owner;
SELECT rows_checked, drifted, unconvertible FROM dw_verify('co');
CALL dw_reconcile('co');
SELECT dw_switch('co');
SELECT dw_finalize('co');
RESET ROLE;
SELECT * FROM regress_dw.co ORDER BY id;

-- the name of the table's schema, search_path and objects that shadow ours make no difference
CREATE SCHEMA regress_dw_evil;
CREATE FUNCTION regress_dw_evil.length(text) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT -1';
CREATE FUNCTION regress_dw_evil.int4mul(int, int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT -1';
CREATE OPERATOR regress_dw_evil.* (LEFTARG = int, RIGHTARG = int, FUNCTION = regress_dw_evil.int4mul);
CREATE TABLE co (id int PRIMARY KEY, a text, n int);
INSERT INTO co VALUES (1, 'abc', 5);
SELECT dw_begin('co', 'co', 'a', 'int', 'len', 'length(a) * n', 'lpad('''', len / n, ''x'')');
SET search_path = regress_dw_evil, pg_catalog, public;
INSERT INTO co (id, a, n) VALUES (2, 'abcd', 3);
UPDATE co SET n = 2 WHERE id = 1;
UPDATE co SET len = 10 WHERE id = 1;
SELECT *, pg_catalog.length(a) OPERATOR(pg_catalog.*) n = len AS ok FROM co ORDER BY id;
SELECT rows_checked, drifted, unconvertible FROM dw_verify('co');
SELECT dw_switch('co');
SELECT dw_rollback('co');
SELECT dw_abort('co');
-- functions are bound when the migration begins
SELECT dw_begin('co', 'co', 'a', 'int', 'len', 'length(a)', 'lpad('''', len, ''x'')');
RESET search_path;
INSERT INTO co (id, a) VALUES (3, 'abcd');
SELECT id, a, len FROM co ORDER BY id;
SELECT dw_abort('co', accept_loss => true);
DROP TABLE co;
SET client_min_messages = warning;
DROP SCHEMA regress_dw_evil CASCADE;
DROP OWNED BY regress_dw_owner, regress_dw_old, regress_dw_new, regress_dw_caller CASCADE;
DROP ROLE regress_dw_owner, regress_dw_old, regress_dw_new, regress_dw_caller;
