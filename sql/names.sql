--
-- Names: quotes, spaces, uppercase, non-ASCII, keywords, 63 bytes; renames in the middle of a migration.
--
CREATE SCHEMA "Schema ""q"" é";
SET search_path = "Schema ""q"" é", public;
CREATE TYPE "Schema ""q"" é"."select" AS ENUM ('a', 'b', '''; DROP');
CREATE TYPE "Schema ""q"" é"."user" AS ENUM ('a', 'b', '''; DROP');
CREATE FUNCTION "Schema ""q"" é"."order"("select") RETURNS "user" IMMUTABLE LANGUAGE plpgsql SET search_path FROM CURRENT AS 'BEGIN RETURN $1::text::"user"; END';
CREATE FUNCTION "Schema ""q"" é"."order"("user") RETURNS "select" IMMUTABLE LANGUAGE plpgsql SET search_path FROM CURRENT AS 'BEGIN RETURN $1::text::"select"; END';
CREATE TABLE "Table ""q"" table" ("from" int PRIMARY KEY, "where ""q""" "select", "ORDER" text, "näme" text, "$1" int, "a'b\c" int);
INSERT INTO "Table ""q"" table" VALUES (1, 'a', 'x', 'y', 1, 1), (2, NULL, NULL, NULL, NULL, NULL);
SELECT dw_begin('it''s "me"; DROP TABLE x; -- %s %n', '"Table ""q"" table"', 'where "q"', '"user"', 'GROUP by', '"order"("where ""q""")', '"order"("GROUP by")');
SELECT dw_begin(E'line\nbreak', '"Table ""q"" table"', 'ORDER', new_column => 'order');
SELECT dw_begin('naïve 日本', '"Schema ""q"" é"."Table ""q"" table"', 'näme', 'varchar(10)', 'ñew 日本', 'upper("näme")', 'lower("ñew 日本")');
SELECT dw_begin('$1', '"Table ""q"" table"', '$1', 'bigint', '$2', '"$1" + 1', '"$2" - 1');
SELECT dw_begin('a''b\c', '"Table ""q"" table"', 'a''b\c', 'bigint', '\', '"a''b\c" * 2', '"\" / 2');
SELECT * FROM "Table ""q"" table" ORDER BY 1;
INSERT INTO "Table ""q"" table" ("from", "GROUP by", "order", "ñew 日本", "$2", "\") VALUES (3, 'b', 'o', 'ÑEW', 10, 20);
UPDATE "Table ""q"" table" SET "where ""q""" = 'b', "ORDER" = 'z', "näme" = 'ü', "$1" = 5, "a'b\c" = 6 WHERE "from" = 2;
SELECT * FROM "Table ""q"" table" ORDER BY 1;
SELECT migration, relations, phase, next_step FROM dw_status WHERE relations = ARRAY['"Table ""q"" table"'::regclass] ORDER BY started_at;
SELECT v.* FROM dw_status s, LATERAL (SELECT s.migration, x.rows_checked, x.drifted FROM dw_verify(s.migration) x) v WHERE relations = ARRAY['"Table ""q"" table"'::regclass] ORDER BY s.started_at;
SELECT dw_switch('it''s "me"; DROP TABLE x; -- %s %n');
SELECT dw_rollback('it''s "me"; DROP TABLE x; -- %s %n');
SELECT dw_set('$1', '{"conflict": "old"}');
UPDATE "Table ""q"" table" SET "näme" = 'longer than ten' WHERE "from" = 1;
SELECT key, old_values, new_values, message FROM dw_drift WHERE migration = 'naïve 日本';
SELECT dw_switch('naïve 日本');
UPDATE "Table ""q"" table" SET "ñew 日本" = 'OK' WHERE "from" = 1;
SELECT rows_checked, drifted FROM dw_verify('naïve 日本');
RESET search_path;
SELECT dw_switch(migration) FROM dw_status WHERE relations = ARRAY['"Schema ""q"" é"."Table ""q"" table"'::regclass] ORDER BY started_at;
SELECT dw_finalize(migration) FROM dw_status WHERE relations = ARRAY['"Schema ""q"" é"."Table ""q"" table"'::regclass] ORDER BY started_at;
SELECT * FROM "Schema ""q"" é"."Table ""q"" table" ORDER BY 1;
SET client_min_messages = warning;
DROP SCHEMA "Schema ""q"" é" CASCADE;
RESET client_min_messages;

-- 63 bytes, of everything
CREATE SCHEMA s23456789_123456789_123456789_123456789_123456789_123456789_123;
CREATE TABLE s23456789_123456789_123456789_123456789_123456789_123456789_123.t23456789_123456789_123456789_123456789_123456789_123456789_123
    (c23456789_123456789_123456789_123456789_123456789_123456789_123 int, "ééééééééééééééééééééééééééééééé1" int);
SET search_path = s23456789_123456789_123456789_123456789_123456789_123456789_123;
INSERT INTO t23456789_123456789_123456789_123456789_123456789_123456789_123 VALUES (1, 2);
SELECT public.dw_begin('m23456789_123456789_123456789_123456789_123456789_123456789_123_and_longer_than_that', 't23456789_123456789_123456789_123456789_123456789_123456789_123',
    'c23456789_123456789_123456789_123456789_123456789_123456789_123', 'bigint', 'n23456789_123456789_123456789_123456789_123456789_123456789_123');
SELECT public.dw_begin('é', 't23456789_123456789_123456789_123456789_123456789_123456789_123', 'ééééééééééééééééééééééééééééééé1', 'bigint', 'ééééééééééééééééééééééééééééééé2');
INSERT INTO t23456789_123456789_123456789_123456789_123456789_123456789_123 (n23456789_123456789_123456789_123456789_123456789_123456789_123, "ééééééééééééééééééééééééééééééé2") VALUES (3, 4);
SELECT * FROM t23456789_123456789_123456789_123456789_123456789_123456789_123 ORDER BY 1;
SELECT public.dw_switch('m23456789_123456789_123456789_123456789_123456789_123456789_123_and_longer_than_that'), public.dw_switch('é');
SELECT public.dw_finalize('m23456789_123456789_123456789_123456789_123456789_123456789_123_and_longer_than_that'), public.dw_finalize('é');
SELECT * FROM t23456789_123456789_123456789_123456789_123456789_123456789_123 ORDER BY 1;
DROP TABLE t23456789_123456789_123456789_123456789_123456789_123456789_123;
RESET search_path;
DROP SCHEMA s23456789_123456789_123456789_123456789_123456789_123456789_123;
-- a migration's name is a text of any reasonable length
CREATE TABLE na (id int PRIMARY KEY, a int);
SELECT left(dw_begin(repeat('é', 600), 'na', 'a', 'bigint', 'b'), 20);
SELECT length(migration), phase FROM dw_status WHERE length(migration) = 600;
SELECT left(dw_switch(repeat('é', 600)), 20), left(dw_rollback(repeat('é', 600)), 20), left(dw_abort(repeat('é', 600)), 20);
\set VERBOSITY sqlstate
SELECT left(dw_begin(repeat('x', 20000), 'na', 'a', 'bigint', 'b'), 20);
\set VERBOSITY default
SELECT count(*) FROM dw_status WHERE length(migration) > 10000;

-- text that our commands are made of is made for their search_path, not the user's
CREATE COLLATION na_collation FROM "C";
CREATE SCHEMA na_schema;
CREATE FUNCTION na_schema.plus(int, int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1 + $2; END';
CREATE OPERATOR na_schema.|+| (LEFTARG = int, RIGHTARG = int, FUNCTION = na_schema.plus);
CREATE DOMAIN na_schema.na_domain AS text COLLATE na_collation;
ALTER TABLE na ADD COLUMN t text COLLATE na_collation, ADD COLUMN d na_schema.na_domain;
SET search_path = na_schema, public;
SELECT dw_begin('na', 'na', 'a', 'bigint', 'b', 'a |+| 1 + length(''x''::na_domain)', 'plus(b::int, -2)');
SELECT dw_begin('na t', 'na', 't', 'na_domain', 'u', 'upper(t COLLATE na_collation)', 'lower(u)');
SELECT dw_begin('na d', 'na', 'd', 'varchar(9)', 'e', 'd || ''!''', 'rtrim(e, ''!'')');
RESET search_path;
INSERT INTO na (id, a, t, d) VALUES (1, 1, 't', 'd');
INSERT INTO na (id, b, u, e) VALUES (2, 12, 'U', 'e!');
SELECT * FROM na ORDER BY id;
SELECT dw_abort('na'), dw_abort('na t'), dw_abort('na d');
DROP TABLE na;
SET client_min_messages = warning;
DROP SCHEMA na_schema CASCADE;
RESET client_min_messages;
DROP COLLATION na_collation;

-- renames while it runs: columns of either side, one that a rule reads, the table, its schema, its owner, a function, a type
SET client_min_messages = warning;
CREATE TYPE na_enum AS ENUM ('x', 'y');
CREATE FUNCTION na_function(int, int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1 * $2; END';
CREATE TABLE na (id int PRIMARY KEY, a int, k int DEFAULT 10, e na_enum);
INSERT INTO na VALUES (1, 1, 10, 'x'), (2, 2, 10, 'y');
SELECT dw_begin('na', 'na', 'a', 'bigint', 'b', 'na_function(a, k)', 'b / k');
SELECT dw_begin('na e', 'na', 'e', 'na_enum', 'f');
RESET client_min_messages;
ALTER TABLE na RENAME a TO "old A";
ALTER TABLE na RENAME b TO "new B";
ALTER TABLE na RENAME k TO factor;
ALTER TABLE na RENAME id TO "Id";
ALTER TABLE na RENAME TO "Na";
ALTER TYPE na_enum RENAME TO "Na Enum";
ALTER TYPE "Na Enum" ADD VALUE 'z';
ALTER FUNCTION na_function(int, int) RENAME TO "Na Function";
CREATE SCHEMA na_schema;
ALTER TABLE "Na" SET SCHEMA na_schema;
ALTER FUNCTION "Na Function"(int, int) SET SCHEMA na_schema;
SET search_path = na_schema, public;
INSERT INTO "Na" ("Id", "old A", f) VALUES (3, 3, 'z');
INSERT INTO "Na" ("Id", "new B") VALUES (4, 40);
UPDATE "Na" SET factor = 100 WHERE "Id" = 1;
UPDATE "Na" SET "new B" = 77 WHERE "Id" = 2;
SELECT * FROM "Na" ORDER BY "Id";
SELECT migration, relations, phase FROM dw_status WHERE migration IN ('na', 'na e') AND finished_at IS NULL ORDER BY 1;
UPDATE "Na" SET factor = 0 WHERE "Id" = 1;
UPDATE "Na" SET "new B" = 1 WHERE "Id" = 1;
\echo :SQLSTATE
UPDATE "Na" SET factor = 1 WHERE "Id" = 1;
SELECT rows_checked, drifted, unconvertible FROM dw_verify('na');
-- the names of today are those that are told, and dropped
SELECT dw_switch('na');
CREATE INDEX ON "Na" ("old A");
SELECT dw_finalize('na');
DROP INDEX "Na_old A_idx";
SELECT dw_finalize('na');
SELECT dw_abort('na e');
SELECT * FROM "Na" ORDER BY "Id";
-- swapped, names and all: rules follow columns, not names
ALTER TABLE "Na" ADD COLUMN a int;
SELECT dw_begin('na', '"Na"', 'a', 'int', 'b', 'a + 1', 'b - 1');
ALTER TABLE "Na" RENAME a TO c;
ALTER TABLE "Na" RENAME b TO a;
ALTER TABLE "Na" RENAME c TO b;
UPDATE "Na" SET a = 5 WHERE "Id" = 1;
UPDATE "Na" SET b = 5 WHERE "Id" = 2;
SELECT "Id", a, b FROM "Na" WHERE a IS NOT NULL ORDER BY "Id";
SELECT dw_switch('na');
SELECT dw_finalize('na');
SELECT "Id", a FROM "Na" WHERE a IS NOT NULL ORDER BY "Id";
-- the owner changes: the new one drives it from then on
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_dw_one, "regress_dw Two";
RESET client_min_messages;
CREATE ROLE regress_dw_one;
CREATE ROLE "regress_dw Two";
GRANT ALL ON SCHEMA na_schema TO regress_dw_one, "regress_dw Two";
ALTER TABLE "Na" OWNER TO regress_dw_one;
SET ROLE regress_dw_one;
SELECT dw_begin('na', '"Na"', 'a', 'bigint', 'b');
RESET ROLE;
ALTER TABLE "Na" OWNER TO "regress_dw Two";
SET ROLE regress_dw_one;
SELECT dw_switch('na');
\echo :SQLSTATE
SELECT owner FROM dw_status WHERE migration = 'na' AND finished_at IS NULL;
SET ROLE "regress_dw Two";
UPDATE "Na" SET b = 3000000000 WHERE "Id" = 1;
SELECT dw_set('na', '{"on_error": "record"}');
UPDATE "Na" SET b = 3000000000 WHERE "Id" = 1;
SELECT key, new_values FROM dw_drift WHERE migration = 'na';
SET ROLE regress_dw_one;
SELECT key, new_values FROM dw_drift WHERE migration = 'na';
SET ROLE "regress_dw Two";
UPDATE "Na" SET b = 6 WHERE "Id" = 1;
SELECT rows_checked, drifted FROM dw_verify('na');
SELECT dw_switch('na');
SELECT dw_finalize('na');
SELECT "Id", b FROM "Na" WHERE b IS NOT NULL ORDER BY "Id";
RESET ROLE;
RESET search_path;
SET client_min_messages = warning;
DROP SCHEMA na_schema CASCADE;
DROP TYPE "Na Enum";
DROP ROLE regress_dw_one, "regress_dw Two";
