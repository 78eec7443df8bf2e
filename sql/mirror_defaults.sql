--
-- NOT NULL, defaults, serial and identity columns, on either side: a default is never "given".
--

-- a constant default on the old side, NOT NULL as these are
CREATE TABLE md (id int PRIMARY KEY, a int NOT NULL DEFAULT 7);
INSERT INTO md VALUES (1, DEFAULT), (2, 2);
SELECT dw_begin('md', 'md', 'a', 'bigint', 'b', 'a * 10', 'b / 10');
INSERT INTO md (id) VALUES (3);
INSERT INTO md (id, a) VALUES (4, 4);
INSERT INTO md (id, b) VALUES (5, 50);
INSERT INTO md (id, a, b) VALUES (6, DEFAULT, 60);
INSERT INTO md (id, a, b) VALUES (7, 70, DEFAULT);
INSERT INTO md (id, a, b) VALUES (8, 7, 80);
INSERT INTO md (id, a, b) VALUES (9, 7, 70);
INSERT INTO md (id, a, b) VALUES (10, DEFAULT, DEFAULT);
-- this isn't the default, so it was given
INSERT INTO md (id, a, b) VALUES (11, 8, 90);
\echo :SQLSTATE
-- which version of the application says nothing about a row that it gave neither side
SET pg_dualwrite.side = 'new';
INSERT INTO md (id) VALUES (12);
SET pg_dualwrite.side = 'old';
INSERT INTO md (id) VALUES (13);
RESET pg_dualwrite.side;
-- NULL stays an error
INSERT INTO md (id, a) VALUES (14, NULL);
\echo :SQLSTATE
UPDATE md SET b = NULL WHERE id = 1;
\echo :SQLSTATE
UPDATE md SET b = 110 WHERE id = 1;
SELECT *, b = a * 10 AS ok FROM md ORDER BY id;
SELECT rows_checked, drifted, unconvertible FROM dw_verify('md');
SELECT dw_switch('md');
INSERT INTO md (id) VALUES (20);
INSERT INTO md (id, b) VALUES (21, 210);
INSERT INTO md (id, a) VALUES (22, 22);
SELECT *, b = a * 10 AS ok FROM md WHERE id >= 20 ORDER BY id;
SELECT dw_finalize('md');
-- a counterpart: the default, carried forward
ALTER TABLE md ALTER b SET DEFAULT 70;
INSERT INTO md (id) VALUES (23);
INSERT INTO md (id, b) VALUES (24, 240);
INSERT INTO md (id, a) VALUES (25, 25);
INSERT INTO md (id, a, b) VALUES (26, 26, DEFAULT);
INSERT INTO md (id, a, b) VALUES (27, DEFAULT, 270);
SELECT *, b = a * 10 AS ok FROM md WHERE id >= 23 ORDER BY id;
SELECT dw_finalize('md');
ALTER TABLE md ALTER b SET NOT NULL;
SELECT dw_finalize('md');
DROP TABLE md;

-- a default on the new side from the first day: only the old side's, carried forward
CREATE TABLE md (id int PRIMARY KEY, a int DEFAULT 7, b bigint NOT NULL DEFAULT 70);
INSERT INTO md VALUES (1, DEFAULT), (2, 2);
SELECT dw_begin('md', 'md', 'a', new_column => 'b', forward => 'a * 10', backward => 'b / 10');
SELECT *, b = a * 10 AS ok FROM md ORDER BY id;
INSERT INTO md (id) VALUES (3);
INSERT INTO md (id, a) VALUES (4, 4);
INSERT INTO md (id, b) VALUES (5, 50);
INSERT INTO md (id, a, b) VALUES (6, NULL, 60), (8, 8, 70), (9, 7, 90), (10, 7, 70);
INSERT INTO md (id, a, b) VALUES (11, 8, 90);
SELECT *, b = a * 10 AS ok FROM md WHERE id > 2 ORDER BY id;
-- both have defaults, neither was given: forward, and forward of NULL is NULL
INSERT INTO md (id, a) VALUES (12, NULL);
ALTER TABLE md ALTER b DROP NOT NULL;
INSERT INTO md (id, a) VALUES (13, NULL);
SELECT *, b = a * 10 AS ok FROM md WHERE id > 11 ORDER BY id;
SELECT dw_abort('md');
DROP TABLE md;

-- a default that comes, goes and changes while the migration runs
CREATE TABLE md (id int PRIMARY KEY, a int);
SELECT dw_begin('md', 'md', 'a', 'bigint', 'b', 'a * 10', 'b / 10');
ALTER TABLE md ALTER a SET DEFAULT 3;
INSERT INTO md (id) VALUES (1);
INSERT INTO md (id, b) VALUES (2, 20);
ALTER TABLE md ALTER a SET DEFAULT 4;
INSERT INTO md (id, a, b) VALUES (3, 4, 30);
INSERT INTO md (id, a, b) VALUES (4, 3, 40);
ALTER TABLE md ALTER a DROP DEFAULT;
INSERT INTO md (id, a, b) VALUES (5, 4, 40), (6, NULL, 60);
ALTER TABLE md ALTER b SET DEFAULT 1000;
INSERT INTO md (id) VALUES (7);
INSERT INTO md (id, a) VALUES (8, 8);
INSERT INTO md (id, b) VALUES (9, 90);
SELECT *, b = a * 10 AS ok FROM md ORDER BY id;
SELECT dw_abort('md');
DROP TABLE md;

-- volatile and stable defaults always look given; they aren't
CREATE SEQUENCE md_seq;
CREATE TABLE md (id int PRIMARY KEY, a int NOT NULL DEFAULT nextval('md_seq') * 100, d date NOT NULL DEFAULT current_date);
SELECT dw_begin('md', 'md', 'a', 'bigint', 'b', 'a * 10', 'b / 10');
SELECT dw_begin('md d', 'md', 'd', 'int', 'year', 'extract(year from d)', 'make_date(year, 1, 1)');
INSERT INTO md (id) VALUES (1);
INSERT INTO md (id, a) VALUES (2, 2);
INSERT INTO md (id, b) VALUES (3, 30);
INSERT INTO md (id, year) VALUES (4, 1999);
INSERT INTO md (id, b, year) VALUES (5, 50, 2000);
INSERT INTO md (id, d) VALUES (6, '2001-02-03');
INSERT INTO md (id, d, year) VALUES (7, '2001-02-03', 2001);
SELECT id, a, b, b = a * 10 AS ok, CASE WHEN year < 2010 THEN d END AS d, CASE WHEN year < 2010 THEN year END AS year, year = extract(year from d) AS ok FROM md ORDER BY id;
SELECT dw_switch('md'), dw_switch('md d');
INSERT INTO md (id) VALUES (11);
INSERT INTO md (id, b) VALUES (12, 120);
INSERT INTO md (id, a) VALUES (13, 13);
SELECT id, a, b, b = a * 10 AS ok, year = extract(year from d) AS ok FROM md WHERE id > 10 ORDER BY id;
SELECT dw_abort('md'), dw_abort('md d');
DROP TABLE md;
DROP SEQUENCE md_seq;

-- keys: serial and identity, BY DEFAULT and ALWAYS
CREATE TABLE md (id serial PRIMARY KEY, i int GENERATED BY DEFAULT AS IDENTITY, j int GENERATED ALWAYS AS IDENTITY, t text);
INSERT INTO md (t) VALUES ('before');
SELECT dw_begin('md', 'md', 'id', 'bigint', 'id8');
SELECT dw_begin('md i', 'md', 'i', 'bigint', 'i8');
SELECT dw_begin('md j', 'md', 'j', 'bigint', 'j8');
INSERT INTO md (t) VALUES ('neither') RETURNING *;
INSERT INTO md (t, id8, i8, j8) VALUES ('new', 100, 200, 300) RETURNING *;
INSERT INTO md (t, id, i) VALUES ('old', 1000, 2000) RETURNING *;
INSERT INTO md (t, id, i, j) OVERRIDING SYSTEM VALUE VALUES ('old', 1001, 2001, 3001) RETURNING *;
INSERT INTO md (t) VALUES ('neither') RETURNING *;
-- a key that doesn't fit the old side can't be written before the switch
INSERT INTO md (t, id8) VALUES ('wide', 3000000000);
\echo :SQLSTATE
SELECT * FROM md ORDER BY id;
-- NOT NULL of the old side, and its key: nothing can be recorded there
SELECT dw_switch('md');
INSERT INTO md (t, id8) VALUES ('wide', 3000000000);
SELECT id8, t, id IS NULL AS nothing FROM md WHERE t = 'wide';
SELECT key - 'id' AS key, old_values - 'id' AS old_values, new_values, reason, sqlstate FROM dw_drift WHERE migration = 'md' AND repaired_at IS NULL;
SELECT dw_rollback('md');
DELETE FROM md WHERE t = 'wide';
SELECT rows_checked, drifted, unconvertible FROM dw_verify('md');
SELECT dw_rollback('md');
SELECT dw_abort('md'), dw_abort('md i'), dw_abort('md j');
DROP TABLE md;

-- domains with defaults, NOT NULL and CHECK; defaults of types; columns added with a default and never stored
CREATE DOMAIN md_dom AS int DEFAULT 5 CHECK (VALUE <> 13);
CREATE TABLE md (id int PRIMARY KEY, a md_dom);
INSERT INTO md VALUES (1, DEFAULT), (2, 2);
ALTER TABLE md ADD COLUMN dropped int DEFAULT 1, ADD COLUMN c int NOT NULL DEFAULT 42;
ALTER TABLE md DROP COLUMN dropped;
INSERT INTO md VALUES (3, 3, 3);
SELECT dw_begin('md', 'md', 'a', 'bigint', 'b', 'a * 10', 'b / 10');
SELECT dw_begin('md c', 'md', 'c', 'text', 'd');
INSERT INTO md (id) VALUES (4);
INSERT INTO md (id, b) VALUES (5, 50);
INSERT INTO md (id, b) VALUES (6, 130);
\echo :SQLSTATE
INSERT INTO md (id, d) VALUES (7, '77');
SELECT *, b = a * 10 AS ok, c::text = d AS ok FROM md ORDER BY id;
UPDATE md SET d = '43' WHERE id = 1;
UPDATE md SET a = 1 WHERE id = 1;
SELECT *, b = a * 10 AS ok, c::text = d AS ok FROM md WHERE id = 1;
SELECT rows_checked, drifted, unconvertible FROM dw_verify('md');
SELECT dw_abort('md'), dw_abort('md c');
DROP TABLE md;
CREATE TABLE md (id int PRIMARY KEY, a int);
INSERT INTO md VALUES (1, 1), (2, NULL);
ALTER TABLE md ALTER a SET DEFAULT 7, ADD COLUMN b bigint NOT NULL DEFAULT 70;
SELECT dw_begin('md', 'md', 'a', new_column => 'b', forward => 'coalesce(a, 0) * 10', backward => 'b / 10');
SELECT * FROM md ORDER BY id;
SELECT dw_abort('md');
-- a domain as the new type that has a default of its own is a default, too
CREATE DOMAIN md_dom5 AS int DEFAULT 5;
SELECT dw_begin('md', 'md', 'a', 'md_dom5', 'c');
\echo :SQLSTATE
ALTER TABLE md ALTER a SET DEFAULT 5;
SELECT dw_begin('md', 'md', 'a', 'md_dom5', 'c');
INSERT INTO md (id) VALUES (3);
INSERT INTO md (id, a) VALUES (4, 4);
INSERT INTO md (id, c) VALUES (5, 6);
SELECT id, a, c FROM md ORDER BY id;
SELECT dw_abort('md');
DROP TABLE md;
DROP DOMAIN md_dom, md_dom5;

-- both sides of a mapping: the side whose defaults aren't all NULL, forward if both
CREATE TABLE md (id int PRIMARY KEY, a text DEFAULT 'x', b text, ab text);
SELECT dw_begin_mapping('md', 'md', '{a,b}', '{"ab": "a || coalesce(''-'' || b, '''')"}', '{"a": "split_part(ab, ''-'', 1)", "b": "nullif(split_part(ab, ''-'', 2), '''')"}');
INSERT INTO md (id) VALUES (1);
INSERT INTO md (id, b) VALUES (2, 'y');
INSERT INTO md (id, ab) VALUES (3, 'p-q');
INSERT INTO md (id, a, ab) VALUES (4, 'x', 'p-q');
INSERT INTO md (id, a, b, ab) VALUES (5, NULL, NULL, NULL);
SELECT *, ab IS NOT DISTINCT FROM a || coalesce('-' || b, '') AS ok FROM md ORDER BY id;
INSERT INTO md (id, b, ab) VALUES (6, 'y', 'p-q');
\echo :SQLSTATE
SELECT dw_abort('md');
DROP TABLE md;
