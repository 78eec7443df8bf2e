--
-- Bad input: each gets an SQLSTATE, a DETAIL and a HINT, and changes nothing.
--
CREATE TABLE errors_t (id int PRIMARY KEY, a int, b int, t text, n numeric(10,2), g int GENERATED ALWAYS AS (id * 2) STORED);
INSERT INTO errors_t VALUES (1, 1, 1, 'x', 1.5);
CREATE TABLE errors_other (x int);
CREATE FUNCTION errors_volatile(int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN $1; END';
CREATE FUNCTION errors_stable(int) RETURNS int LANGUAGE plpgsql STABLE AS 'BEGIN RETURN $1; END';
CREATE FUNCTION errors_srf(int) RETURNS SETOF int LANGUAGE sql IMMUTABLE AS 'SELECT generate_series(1, $1)';

-- what is missing
SELECT dw_begin(NULL, 'errors_t', 'a', 'bigint', 'c');
\echo :SQLSTATE
SELECT dw_begin('', 'errors_t', 'a', 'bigint', 'c');
\echo :SQLSTATE
SELECT dw_begin('errors', NULL, 'a', 'bigint', 'c');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', NULL, 'bigint', 'c');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', '');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a');
\echo :SQLSTATE

-- unknown table, column, type
SELECT dw_begin('errors', 'no_such_table', 'a', 'bigint', 'c');
\echo :SQLSTATE
SELECT dw_begin('errors', 0, 'a', 'bigint', 'c');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'no_such_column', 'bigint', 'c');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'no_such_type', 'c');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'int; DROP TABLE errors_t', 'c');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', '', 'c');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'setof int', 'c');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'anyelement', 'c');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'errors_t', 'c');
\echo :SQLSTATE

-- columns that can't be on a side
SELECT dw_begin('errors', 'errors_t', 'a', 'int', 'a');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'ctid', 'text', 'c');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', new_column => 'xmin');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'g', 'bigint', 'c');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', new_column => 'g');
\echo :SQLSTATE
-- a new column that exists with another type
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'b');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'b', 'numeric(12,2)', 'n');
\echo :SQLSTATE

-- no such cast
SELECT dw_begin('errors', 'errors_t', 'a', 'point', 'c');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', forward => 'point(a, a)');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', forward => 'a', backward => 't');
\echo :SQLSTATE

-- expressions
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', forward => '');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', forward => 'a +');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', forward => 'a; DROP TABLE errors_t');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', forward => 'a;');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', forward => 'a, b');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', forward => 'a FROM errors_t');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', forward => 'a AS x');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', forward => 'a WHERE true');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', forward => 'a UNION SELECT 1');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', forward => 'DISTINCT a');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', forward => 'a ORDER BY 1');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', forward => 'a LIMIT 1');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', forward => 'a FOR UPDATE');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', forward => '*');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', forward => 'DEFAULT');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', forward => '$1');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', forward => 'a) + (1');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', forward => '(SELECT max(x) FROM errors_other)');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', forward => 'a IN (SELECT 1)');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', forward => 'max(a)');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', forward => 'row_number() OVER ()');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', forward => 'errors_srf(a)');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', forward => 'errors_volatile(a)');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', forward => 'errors_stable(a)');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', forward => 'random()');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'timestamptz', 'c', forward => 'now()');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'text', 'c', forward => 'current_user');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'date', 'c', forward => 'to_date(t, ''YYYY'')');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', backward => 'errors_volatile(a)');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'text', 'c', forward => 'ctid::text');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', forward => 'tableoid::bigint');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', forward => 'errors_other.x');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', forward => 'g');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', forward => 'no_such_column');
\echo :SQLSTATE
\set VERBOSITY sqlstate
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', forward => 'no_such_function(a)');
\set VERBOSITY default
SELECT dw_begin('errors', 'errors_t', 'a', 'text', 'c', forward => 'errors_t::text');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', forward => '1 / 0');
\echo :SQLSTATE
-- none of this has left anything
\d errors_t
SELECT count(*) FROM dw_status WHERE migration = 'errors';
SELECT count(*) FROM pg_proc WHERE pronamespace = 'dualwrite'::regnamespace AND proname ~ '^m[0-9]';

-- a default of the new column that isn't the old one's
ALTER TABLE errors_t ALTER b SET DEFAULT 5;
SELECT dw_begin('errors', 'errors_t', 'a', new_column => 'b');
\echo :SQLSTATE
ALTER TABLE errors_t ALTER b SET DEFAULT (random() * 10)::int, ALTER a SET DEFAULT 5;
SELECT dw_begin('errors', 'errors_t', 'a', new_column => 'b');
\echo :SQLSTATE
ALTER TABLE errors_t ALTER b DROP DEFAULT, ALTER b SET NOT NULL, ALTER b ADD GENERATED BY DEFAULT AS IDENTITY, ALTER a DROP DEFAULT;
SELECT dw_begin('errors', 'errors_t', 'a', new_column => 'b');
\echo :SQLSTATE
ALTER TABLE errors_t ALTER b DROP IDENTITY, ALTER b DROP NOT NULL;

-- mappings
SELECT dw_begin_mapping('errors', 'errors_t', NULL, '{"c": "a"}');
\echo :SQLSTATE
SELECT dw_begin_mapping('errors', 'errors_t', '{a}', NULL);
\echo :SQLSTATE
SELECT dw_begin_mapping('errors', 'errors_t', '{}', '{"b": "a"}');
\echo :SQLSTATE
SELECT dw_begin_mapping('errors', 'errors_t', '{a}', '{}');
\echo :SQLSTATE
SELECT dw_begin_mapping('errors', 'errors_t', '{a,a}', '{"b": "a"}');
\echo :SQLSTATE
SELECT dw_begin_mapping('errors', 'errors_t', '{a,NULL}', '{"b": "a"}');
\echo :SQLSTATE
SELECT dw_begin_mapping('errors', 'errors_t', '{a}', '{"a": "a"}');
\echo :SQLSTATE
SELECT dw_begin_mapping('errors', 'errors_t', '{a}', '["b"]');
\echo :SQLSTATE
SELECT dw_begin_mapping('errors', 'errors_t', '{a}', '"b"');
\echo :SQLSTATE
SELECT dw_begin_mapping('errors', 'errors_t', '{a}', '{"b": 1}');
\echo :SQLSTATE
SELECT dw_begin_mapping('errors', 'errors_t', '{a}', '{"b": {"b": "a"}}');
\echo :SQLSTATE
SELECT dw_begin_mapping('errors', 'errors_t', '{a}', '{"b": null}');
\echo :SQLSTATE
SELECT dw_begin_mapping('errors', 'errors_t', '{a}', '{"c": "a"}');
\echo :SQLSTATE
SELECT dw_begin_mapping('errors', 'errors_t', '{a}', '{"b": "a"}', backward => '{"id": "b"}');
\echo :SQLSTATE
SELECT dw_begin_mapping('errors', 'errors_t', '{a,t}', '{"b": "a"}', backward => '{"a": "b"}');
\echo :SQLSTATE
SELECT dw_begin_mapping('errors', 'errors_t', '{a}', '{"b": "a"}', new_types => '{"d": "int"}');
\echo :SQLSTATE
SELECT dw_begin_mapping('errors', 'errors_t', '{a}', '{"b": "a"}', new_types => '[]');
\echo :SQLSTATE
SELECT dw_begin_mapping('errors', 'errors_t', '{a}', '{"b": "a"}', new_types => '{"b": "text"}');
\echo :SQLSTATE
SELECT dw_begin_mapping('errors', 'errors_t', '{a}', jsonb_build_object(repeat('x', 64), 'a'));
\echo :SQLSTATE
SELECT dw_begin_mapping('errors', 'errors_t', (SELECT array_agg('c' || i)::name[] FROM generate_series(1, 33) i), '{"b": "a"}');
\echo :SQLSTATE

-- options
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', options => '{"no_such_option": 1}');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', options => '[1]');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', options => '{"conflict": "both"}');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', options => '{"carry": true}');
\echo :SQLSTATE

-- relations that aren't plain tables
CREATE VIEW errors_v AS SELECT * FROM errors_other;
CREATE MATERIALIZED VIEW errors_m AS SELECT * FROM errors_other;
CREATE SEQUENCE errors_s;
CREATE TYPE errors_ct AS (x int);
CREATE FOREIGN DATA WRAPPER errors_fdw;
CREATE SERVER errors_srv FOREIGN DATA WRAPPER errors_fdw;
CREATE FOREIGN TABLE errors_f (x int) SERVER errors_srv;
CREATE TABLE errors_p (x int) PARTITION BY RANGE (x);
CREATE TABLE errors_p1 PARTITION OF errors_p FOR VALUES FROM (0) TO (10);
CREATE TABLE errors_i (x int);
CREATE TABLE errors_i1 () INHERITS (errors_i);
SELECT dw_begin('errors', 'errors_v', 'x', 'bigint', 'c');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_m', 'x', 'bigint', 'c');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_s', 'last_value', 'bigint', 'c');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_ct', 'x', 'bigint', 'c');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t_pkey', 'id', 'bigint', 'c');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_f', 'x', 'bigint', 'c');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_p', 'x', 'bigint', 'c');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_p1', 'x', 'bigint', 'c');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_i', 'x', 'bigint', 'c');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_i1', 'x', 'bigint', 'c');
\echo :SQLSTATE
SELECT dw_begin('errors', 'pg_class', 'relname', 'text', 'c');
\echo :SQLSTATE
SELECT dw_begin('errors', 'pg_toast.pg_toast_1255', 'chunk_seq', 'bigint', 'c');
\echo :SQLSTATE
SELECT dw_begin('errors', 'information_schema.sql_features', 'feature_id', 'text', 'c');
\echo :SQLSTATE
SELECT dw_begin('errors', 'dualwrite.migration', 'name', 'text', 'c');
\echo :SQLSTATE
DROP VIEW errors_v;
DROP MATERIALIZED VIEW errors_m;
DROP SEQUENCE errors_s;
DROP TYPE errors_ct;
DROP FOREIGN DATA WRAPPER errors_fdw CASCADE;
DROP TABLE errors_p, errors_i, errors_i1;

-- a table that is published would stop its subscribers
CREATE PUBLICATION errors_pub FOR TABLE errors_t;
CREATE PUBLICATION "Errors all" FOR ALL TABLES;
CREATE PUBLICATION errors_schema FOR TABLES IN SCHEMA public;
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c');
\echo :SQLSTATE
DROP PUBLICATION "Errors all";
DROP PUBLICATION errors_schema;
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c');
-- ... unless they are ready, or don't get the column, or it is there already
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c', options => '{"subscribers_ready": true}');
SELECT dw_abort('errors');
SELECT dw_begin('errors', 'errors_t', 'a', new_column => 'b');
SELECT dw_abort('errors');
ALTER PUBLICATION errors_pub SET TABLE errors_t (id, a);
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c');
SELECT dw_abort('errors');
-- one whose updates the publication forbids is never begun: its backfill would fail
ALTER TABLE errors_t REPLICA IDENTITY NOTHING;
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c');
\echo :SQLSTATE
ALTER TABLE errors_t REPLICA IDENTITY DEFAULT;
DROP PUBLICATION errors_pub;

-- columns that another migration has, on a side or in a rule
SELECT dw_begin('errors 1', 'errors_t', 'a', 'bigint', 'c', 'a + id', 'c - id');
SELECT dw_begin('errors 2', 'errors_t', 'a', 'bigint', 'd');
\echo :SQLSTATE
SELECT dw_begin('errors 2', 'errors_t', 'c', 'bigint', 'd');
SELECT dw_begin('errors 2', 'errors_t', 'b', new_column => 'c');
SELECT dw_begin('errors 2', 'errors_t', 'id', 'bigint', 'd');
SELECT dw_begin('errors 2', 'errors_t', 'b', 'bigint', 'd', 'b + c');
SELECT dw_begin_mapping('errors 2', 'errors_t', '{a,b}', '{"d": "a + b"}', new_types => '{"d": "int"}');
SELECT dw_abort('errors 1');

-- in place, tables, plans, versioned schemas, keys of dw_side: not yet
SELECT dw_begin('errors', 'errors_t', 'id', 'bigint');
\echo :SQLSTATE
SELECT dw_begin_table('errors', 'errors_t', 'errors_other');
\echo :SQLSTATE
SELECT dw_plan('errors');
\echo :SQLSTATE
SELECT dw_expose('errors', 'a', 'b');
\echo :SQLSTATE
SELECT dw_side('errors', 'key'::text);
\echo :SQLSTATE
SELECT dw_side('errors', 42);
\echo :SQLSTATE

-- no such migration, or none named, or of no known phase
SELECT dw_pause('no such'), 1;
\echo :SQLSTATE
SELECT dw_resume('no such');
\echo :SQLSTATE
SELECT dw_set('no such', '{}');
\echo :SQLSTATE
SELECT dw_verify('no such');
\echo :SQLSTATE
CALL dw_reconcile('no such');
\echo :SQLSTATE
SELECT dw_switch('no such');
\echo :SQLSTATE
SELECT dw_rollback('no such');
\echo :SQLSTATE
SELECT dw_finalize('no such');
\echo :SQLSTATE
SELECT dw_abort('no such');
\echo :SQLSTATE
SELECT dw_side('no such');
\echo :SQLSTATE
SELECT dw_require('no such');
\echo :SQLSTATE
CALL dw_wait('no such');
\echo :SQLSTATE
SELECT dw_pause(NULL);
\echo :SQLSTATE
SELECT dw_set(NULL, '{}');
CALL dw_wait(NULL);
\echo :SQLSTATE
SELECT dw_require('no such', 'done');
\echo :SQLSTATE
CALL dw_wait('no such', 'done');
\echo :SQLSTATE

-- not the owner
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_dw_owner, regress_dw_writer;
RESET client_min_messages;
CREATE ROLE regress_dw_owner;
CREATE ROLE regress_dw_writer;
ALTER TABLE errors_t OWNER TO regress_dw_owner;
GRANT ALL ON errors_t TO regress_dw_writer;
SET ROLE regress_dw_writer;
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c');
\echo :SQLSTATE
RESET ROLE;
SET ROLE regress_dw_owner;
SELECT dw_begin('errors', 'errors_t', 'a', new_column => 'b');
SET ROLE regress_dw_writer;
SELECT dw_begin('errors', 'errors_t', 'a', new_column => 'b');
SELECT dw_pause('errors');
\echo :SQLSTATE
SELECT dw_resume('errors');
\echo :SQLSTATE
SELECT dw_set('errors', '{"mirror": "off"}');
\echo :SQLSTATE
SELECT dw_verify('errors');
\echo :SQLSTATE
CALL dw_reconcile('errors');
\echo :SQLSTATE
SELECT dw_switch('errors');
\echo :SQLSTATE
SELECT dw_rollback('errors');
\echo :SQLSTATE
SELECT dw_finalize('errors');
\echo :SQLSTATE
SELECT dw_abort('errors');
\echo :SQLSTATE
-- but everyone may ask
SELECT dw_side('errors'), dw_require('errors');
CALL dw_wait('errors');
RESET ROLE;

-- rules run as the writer, who must be allowed to execute what they call
SET ROLE regress_dw_owner;
SELECT dw_abort('errors');
RESET ROLE;
CREATE FUNCTION errors_secret(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1; END';
REVOKE EXECUTE ON FUNCTION errors_secret(int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION errors_secret(int) TO regress_dw_owner;
SET ROLE regress_dw_owner;
SELECT dw_begin('errors', 'errors_t', 'a', new_column => 'b', forward => 'errors_secret(a)', backward => 'b');
\echo :SQLSTATE
RESET ROLE;
REVOKE ALL ON errors_t FROM regress_dw_writer;
GRANT SELECT, UPDATE (t) ON errors_t TO regress_dw_writer;
SET ROLE regress_dw_owner;
SELECT dw_begin('errors', 'errors_t', 'a', new_column => 'b', forward => 'errors_secret(a)', backward => 'b');
RESET ROLE;
REVOKE ALL ON errors_t FROM regress_dw_writer;
REVOKE UPDATE (t) ON errors_t FROM regress_dw_writer;
SET ROLE regress_dw_owner;
SELECT dw_begin('errors', 'errors_t', 'a', new_column => 'b', forward => 'errors_secret(a)', backward => 'b');
SELECT dw_abort('errors');
RESET ROLE;

-- whoever begins it, the table's owner has to be one of them; rules are looked up with the owner's rights
CREATE FUNCTION errors_mine(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1';
REVOKE EXECUTE ON FUNCTION errors_mine(int) FROM PUBLIC;
CREATE SCHEMA errors_schema;
CREATE FUNCTION errors_schema.f(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1';
SELECT dw_begin('errors', 'errors_t', 'a', new_column => 'b', forward => 'errors_mine(a)', backward => 'b');
\echo :SQLSTATE
SELECT dw_begin('errors', 'errors_t', 'a', new_column => 'b', forward => 'errors_schema.f(a)', backward => 'b');
\echo :SQLSTATE
DROP FUNCTION errors_mine;
DROP SCHEMA errors_schema CASCADE;

-- the table is in use by the very statement, or by a cursor
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c') FROM errors_t;
\echo :SQLSTATE
BEGIN;
DECLARE c CURSOR FOR SELECT * FROM errors_t;
FETCH c;
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c');
\echo :SQLSTATE
ROLLBACK;
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c');
SELECT dw_abort('errors') FROM errors_t;
\echo :SQLSTATE
SELECT dw_require('errors');
UPDATE errors_t SET c = 5;
SELECT a, c FROM errors_t;
SELECT dw_abort('errors');

-- the trigger function is for triggers of dw_begin's making
SELECT dualwrite.mirror();
\echo :SQLSTATE
CREATE TRIGGER errors_a AFTER INSERT ON errors_other FOR EACH ROW EXECUTE FUNCTION dualwrite.mirror('1');
INSERT INTO errors_other VALUES (1);
\echo :SQLSTATE
DROP TRIGGER errors_a ON errors_other;
CREATE TRIGGER errors_a BEFORE INSERT ON errors_other FOR EACH ROW EXECUTE FUNCTION dualwrite.mirror();
INSERT INTO errors_other VALUES (1);
\echo :SQLSTATE
DROP TRIGGER errors_a ON errors_other;
CREATE TRIGGER errors_a BEFORE INSERT ON errors_other FOR EACH ROW EXECUTE FUNCTION dualwrite.mirror('2000000000');
INSERT INTO errors_other VALUES (1);
SELECT * FROM errors_other;

-- read only
BEGIN READ ONLY;
SELECT dw_begin('errors', 'errors_t', 'a', 'bigint', 'c');
\echo :SQLSTATE
ROLLBACK;
BEGIN READ ONLY;
SELECT dw_ensure_workers();
\echo :SQLSTATE
ROLLBACK;

DROP TABLE errors_t, errors_other;
DROP FUNCTION errors_secret, errors_volatile, errors_stable, errors_srf;
DROP ROLE regress_dw_owner, regress_dw_writer;
