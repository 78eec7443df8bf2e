--
-- Rules: whatever an expression may be made of, kept, renamed, evaluated; wide values; third columns that triggers change.
--
SET client_min_messages = warning;
CREATE TYPE ru_address AS (street text, zip int);
CREATE TYPE ru_range AS RANGE (subtype = float8);
-- a table and columns with the names of things that rules are made of
CREATE TABLE r (r int, id int PRIMARY KEY, old int, new int, "forward" text, ru int);
INSERT INTO r VALUES (1, 1, 10, 20, 'x', 5), (2, 2, NULL, NULL, NULL, NULL);
SELECT dw_begin('ru', 'r', 'r', 'bigint', 'excluded', 'r + r.old * public.r.new - public.r.old * new', 'excluded');
SELECT dw_begin('ru 2', 'r', 'ru', 'int', 'm', 'ru -- a comment
    + /* another /* nested */ one */ 1', E'm\n-\n1');
INSERT INTO r (r, id, ru) VALUES (3, 3, 3);
INSERT INTO r (excluded, id, m) VALUES (4, 4, 4);
SELECT id, r, excluded, ru, m FROM r ORDER BY id;
SELECT dw_switch('ru'), dw_switch('ru 2');
SELECT dw_finalize('ru'), dw_finalize('ru 2');
DROP TABLE r;

-- all kinds of expressions, each the way forward of one of many columns; what it gives is compared with plain SQL
CREATE TABLE ru (id int PRIMARY KEY, i int, t text, n numeric, d date, ts timestamp, tz timestamptz, a int[], j jsonb, addr ru_address, b bytea, f float8, iv interval, u uuid, bits bit(4), rng ru_range, x xml, e text COLLATE "C");
CREATE FUNCTION ru_expressions(OUT n int, OUT type text, OUT expression text) RETURNS SETOF record LANGUAGE sql AS $$ VALUES
    (1, 'text', 'case i when 1 then ''one'' when 2 then t else null end'),
    (2, 'int', 'coalesce(i, length(t), -1)'),
    (3, 'bool', 'i between 1 and 10 and t is not null or not (i > 5) is true'),
    (4, 'text', 'extract(year from d) || ''/'' || lpad(extract(month from ts)::text, 2, ''0'')'),
    (5, 'timestamptz', 'ts at time zone ''Europe/Berlin'''),
    (6, 'timestamp', 'tz at time zone ''UTC'''),
    (7, 'int', 'a[1] + a[array_upper(a, 1)]'),
    (8, 'int[]', 'array[i, a[2], 3] || a[1:2]'),
    (9, 'text', 'j -> ''k'' ->> 0'),
    (10, 'text', '(addr).street || '' '' || (addr).zip::text'),
    (11, 'ru_address', 'row(t, i)::ru_address'),
    (12, 'text', 'trim(both ''x'' from t) || overlay(t placing ''Q'' from 1 for 1) || substring(t from 2 for 1) || position(''a'' in t)'),
    (13, 'text', 't collate "C" || upper(t collate "C")'),
    (14, 'bool', 't like ''a\_%'' escape ''\'' or t ~ ''^[a-z''''"\\]+$'' or t similar to ''x%'''),
    (15, 'int', 'greatest(i, 2) + least(i, 2) + nullif(i, 3)'),
    (16, 'bool', 'i = any (a) or i in (1, 2, 3) or (i, t) = (1, ''a'') or i is distinct from 2'),
    (17, 'numeric', 'n::numeric(10,1) + 1e-3 + ''12.5''::numeric + i ^ 2 + @ (-i) + 7 / 2'),
    (18, 'text', 'encode(b, ''hex'') || md5(t) || E''\\x41\t\u00e9'' || U&''\00e9'''),
    (19, 'interval', 'iv * 2 + interval ''1 day'''),
    (20, 'text', 'u::text || bits::text || lower(rng)::text'),
    (21, 'float8', 'sqrt(abs(f)) + ''infinity''::float8 * 0.5'),
    (22, 'jsonb', 'j || ''{"x": [1, null, "q"]}'' || jsonb ''[]'''),
    (23, 'bool', 'j @> ''{"k": [1]}'' and j ? ''k'' and jsonb_path_exists(j, ''$.k[*] ? (@ == 1)'')'),
    (24, 'ru_range', 'ru_range(f, f + 1, ''[]'')')
$$;
SELECT jsonb_object_agg('c' || n, expression) AS forward, jsonb_object_agg('c' || n, type) AS types FROM ru_expressions() \gset
INSERT INTO ru VALUES (1, 1, 'abc', 1.25, '2024-02-29', '2024-03-31 02:30', '2024-03-31 02:30+00', '{1,2,3}', '{"k": [1]}', '("Main St",12345)', '\xdeadbeef', 2.25, '1 mon 2 days', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '1010', '[1,2)', NULL, 'e'),
                      (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL), (3, 7, 'x''"\y', -0.5, '0044-03-15 BC', 'infinity', '-infinity', '{}', 'null', NULL, '', 'NaN', '-1 day', NULL, '0000', 'empty', NULL, '');
SELECT dw_begin_mapping('ru', 'ru', '{i,t,n,d,ts,tz,a,j,addr,b,f,iv,u,bits,rng}', :'forward', new_types => :'types');
INSERT INTO ru (id, i, t, n, d, ts, tz, a, j, addr, b, f, iv, u, bits, rng) SELECT id + 10, i, t, n, d, ts, tz, a, j, addr, b, f, iv, u, bits, rng FROM ru;
SELECT string_agg(format('(to_jsonb(c%s) is distinct from to_jsonb((%s)::%s))::int', n, expression, type), ' + ' ORDER BY n) AS wrong FROM ru_expressions() \gset
SELECT id, :wrong AS wrong FROM ru ORDER BY id;
SELECT rows_checked, drifted, unconvertible FROM dw_verify('ru');
-- in a session that reads literals another way, too
\c -
SET client_min_messages = warning;
DO $$
BEGIN
    SET escape_string_warning = off;
    SET standard_conforming_strings = off;
EXCEPTION WHEN OTHERS THEN      -- PostgreSQL 19 knows only the one way
    NULL;
END $$;
SET TimeZone = 'Asia/Tokyo';
SET DateStyle = 'German';
SET IntervalStyle = 'iso_8601';
SET bytea_output = 'escape';
SET extra_float_digits = -5;
SET lc_monetary = 'C';
UPDATE ru SET i = i + 1 WHERE id < 10;
UPDATE ru SET i = i - 1 WHERE id < 10;
SELECT rows_checked, drifted, unconvertible FROM dw_verify('ru');
SELECT count(*) FROM ru x JOIN ru y ON y.id = x.id + 10
 WHERE (x.c4, x.c5, x.c6, x.c12, x.c14, x.c18, x.c19, x.c21, x.c22) IS NOT DISTINCT FROM (y.c4, y.c5, y.c6, y.c12, y.c14, y.c18, y.c19, y.c21, y.c22);
\c -
SET client_min_messages = warning;
SELECT dw_abort('ru');
DROP TABLE ru;
DROP FUNCTION ru_expressions;

-- wide values that are carried over as they are: each column has its own copy
CREATE TABLE ru (id int PRIMARY KEY, a text, note text);
ALTER TABLE ru ALTER a SET STORAGE EXTERNAL;
INSERT INTO ru VALUES (1, repeat('x', 10000)), (2, repeat('y', 10000));
SELECT dw_begin('ru', 'ru', 'a', new_column => 'b');
INSERT INTO ru (id, b) VALUES (3, repeat('z', 10000));
UPDATE ru SET note = 'x';
UPDATE ru SET a = 'short' WHERE id = 1;
UPDATE ru SET b = repeat('Y', 20000) WHERE id = 2;
UPDATE ru SET note = repeat('n', 5000);
VACUUM ru;
SELECT id, length(a), length(b), a = b AS ok, length(note) FROM ru ORDER BY id;
SELECT dw_switch('ru');
SELECT dw_finalize('ru');
VACUUM ru;
SELECT id, length(b), left(b, 1), right(b, 1) FROM ru ORDER BY id;
DROP TABLE ru;

-- a composite, taken apart and put together
CREATE TABLE ru (id int PRIMARY KEY, addr ru_address);
INSERT INTO ru VALUES (1, '("Main St",1)'), (2, NULL), (3, '(,)');
SELECT dw_begin_mapping('ru', 'ru', '{addr}', '{"street": "(addr).street", "zip": "(addr).zip"}', '{"addr": "row(street, zip)::ru_address"}', '{"street": "text", "zip": "int"}');
UPDATE ru SET zip = 5 WHERE id = 1;
UPDATE ru SET addr.street = 'Side St' WHERE id = 1;
UPDATE ru SET addr = ('', 7) WHERE id = 2;
INSERT INTO ru (id, addr.zip) VALUES (4, 9);
INSERT INTO ru (id, street) VALUES (5, 's');
INSERT INTO ru (id) VALUES (6);
SELECT *, addr IS NULL AS is_null FROM ru ORDER BY id;
SELECT rows_checked, drifted, unconvertible FROM dw_verify('ru');
SELECT dw_abort('ru', true);
DROP TABLE ru;
DROP TYPE ru_address, ru_range;

-- a third column that another trigger changes, before ours, between ours, with the row consistent by backward alone
CREATE TABLE ru (id int PRIMARY KEY, y int, tz text);
CREATE FUNCTION ru_upper() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.tz := upper(NEW.tz); RETURN NEW; END';
CREATE TRIGGER between BEFORE INSERT OR UPDATE ON ru FOR EACH ROW EXECUTE FUNCTION ru_upper();
SELECT dw_begin('ru', 'ru', 'y', 'text', 'label', 'y || ''/'' || tz', 'split_part(label, ''/'', 1)::int');
INSERT INTO ru (id, y, tz) VALUES (1, 1, 'utc');
UPDATE ru SET tz = 'cet' WHERE id = 1;
SELECT *, label = y || '/' || tz AS ok FROM ru ORDER BY id;
DROP TRIGGER between ON ru;
SELECT dw_resume('ru');
UPDATE ru SET tz = 'est' WHERE id = 1;
INSERT INTO ru (id, y, tz) VALUES (3, 3, 'utc');
SELECT *, label = y || '/' || tz AS ok FROM ru ORDER BY id;
SELECT dw_abort('ru', true);
DROP TABLE ru;
DROP FUNCTION ru_upper;

-- two migrations of a table, and a trigger that changes the old sides of both
CREATE TABLE ru (id int PRIMARY KEY, p int, q int);
CREATE FUNCTION ru_clamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.p := least(NEW.p, 100); NEW.q := least(NEW.q, 100); RETURN NEW; END';
CREATE TRIGGER clamp BEFORE INSERT OR UPDATE ON ru FOR EACH ROW EXECUTE FUNCTION ru_clamp();
SELECT dw_begin('ru p', 'ru', 'p', 'int', 'pp', 'p * 2', 'pp / 2');
SELECT dw_begin('ru q', 'ru', 'q', 'int', 'qq', 'q * 3', 'qq / 3');
INSERT INTO ru (id, p, q) VALUES (1, 5, 500);
INSERT INTO ru (id, pp, qq) VALUES (2, 500, 3);
INSERT INTO ru (id, p, qq) VALUES (3, 500, 500), (4, 4, 12);
UPDATE ru SET qq = 30, p = 1000 WHERE id = 4;
SELECT *, pp = p * 2 AS ok, qq / 3 = q AS ok2 FROM ru ORDER BY id;
SELECT dw_switch('ru q');
UPDATE ru SET qq = 900, pp = 900 WHERE id = 1;
SELECT *, pp = p * 2 AS ok, qq / 3 = q AS ok2 FROM ru WHERE id = 1;
SELECT dw_verify('ru p') IS NOT NULL, dw_verify('ru q') IS NOT NULL;
SELECT migration, phase, drifted, unconvertible FROM dw_status WHERE migration IN ('ru p', 'ru q') ORDER BY 1;
SELECT dw_abort('ru p', true), dw_abort('ru q', true);
DROP TABLE ru;
DROP FUNCTION ru_clamp;

-- a trigger that sets both sides, against each other and against what the statement says: authority
CREATE TABLE ru (id int PRIMARY KEY, a int);
CREATE FUNCTION ru_both() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.a := 1000; NEW.b := -10; RETURN NEW; END';
SELECT dw_begin('ru', 'ru', 'a', 'bigint', 'b', 'a * 10', 'b / 10');
CREATE TRIGGER set_both BEFORE INSERT OR UPDATE ON ru FOR EACH ROW EXECUTE FUNCTION ru_both();
SELECT dw_resume('ru') IS NOT NULL AS resumed;
INSERT INTO ru (id, a) VALUES (1, 1);
INSERT INTO ru (id, b) VALUES (2, 20);
UPDATE ru SET id = 3 WHERE id = 2;
SELECT * FROM ru ORDER BY id;
SELECT dw_switch('ru') IS NOT NULL AS switched;
INSERT INTO ru (id, a) VALUES (4, 1);
UPDATE ru SET b = 30 WHERE id = 1;
SELECT * FROM ru ORDER BY id;
SELECT rows_checked, drifted, unconvertible FROM dw_verify('ru');
SELECT dw_abort('ru', true) IS NOT NULL AS aborted;
DROP TABLE ru;
DROP FUNCTION ru_both;

-- a function that calls itself immutable, and writes the table while its rules are read
CREATE TABLE ru (id int PRIMARY KEY, a int);
INSERT INTO ru VALUES (1, 1);
CREATE FUNCTION ru_write() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('ru.write', 'off', false);
	UPDATE ru SET a = a + 1 WHERE id = 1;
END $$;
CREATE FUNCTION ru_sly(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
	IF current_setting('ru.write', true) = 'on' THEN
		PERFORM ru_write();
	END IF;
	RETURN $1;
END $$;
SELECT dw_begin('ru', 'ru', 'a', 'int', 'b', 'a + ru_sly(1)', 'b - ru_sly(1)');
\c
SET ru.write = 'on';
INSERT INTO ru (id, a) VALUES (2, 2);
-- once more, and caught by the function
CREATE OR REPLACE FUNCTION ru_write() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('ru.write', 'off', false);
	UPDATE ru SET a = a + 1 WHERE id = 1;
EXCEPTION WHEN OTHERS THEN
	RAISE NOTICE 'caught: %', SQLSTATE;
END $$;
SET ru.write = 'on';
INSERT INTO ru (id, a) VALUES (2, 2);
INSERT INTO ru (id, a) VALUES (3, 3);
SELECT * FROM ru ORDER BY id;
SELECT dw_abort('ru', true) IS NOT NULL AS aborted;
DROP TABLE ru;
DROP FUNCTION ru_sly, ru_write;
