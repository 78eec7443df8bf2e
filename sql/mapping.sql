--
-- n:m columns: split and merge.
--

-- split: one column into two
CREATE TABLE mp (id int PRIMARY KEY, name text, note text);
INSERT INTO mp VALUES (1, 'Ada Lovelace'), (2, 'Plato'), (3, NULL), (4, ''), (5, 'Johann Sebastian Bach');
\set VERBOSITY terse
SELECT dw_begin_mapping('mp', 'mp', '{name}',
    '{"first": "case when strpos(name, '' '') > 0 then left(name, strpos(name, '' '') - 1) else name end",
      "last": "case when strpos(name, '' '') > 0 then substr(name, strpos(name, '' '') + 1) end"}',
    '{"name": "concat_op(first, last)"}', '{"first": "text", "last": "varchar(20)"}');
\set VERBOSITY default
\echo :SQLSTATE
SELECT dw_begin_mapping('mp', 'mp', '{name}',
    '{"first": "case when strpos(name, '' '') > 0 then left(name, strpos(name, '' '') - 1) else name end",
      "last": "case when strpos(name, '' '') > 0 then substr(name, strpos(name, '' '') + 1) end"}',
    '{"name": "first || coalesce('' '' || last, '''')"}', '{"first": "text", "last": "varchar(20)"}');
SELECT *, first IS NULL AS f_null, last IS NULL AS l_null FROM mp ORDER BY id;
-- one of the two new columns; both; the old one
UPDATE mp SET last = 'Byron' WHERE id = 1;
UPDATE mp SET first = 'Aristotle', last = NULL WHERE id = 2;
UPDATE mp SET name = 'Kurt Gödel' WHERE id = 3;
UPDATE mp SET last = 'Nobody' WHERE id = 4;
UPDATE mp SET first = NULL WHERE id = 5;
INSERT INTO mp (id, name) VALUES (6, 'Emmy Noether');
INSERT INTO mp (id, first, last) VALUES (7, 'Alan', 'Turing');
INSERT INTO mp (id, first) VALUES (8, 'Euclid');
INSERT INTO mp (id, last) VALUES (9, 'Gauss');
INSERT INTO mp (id, name, first, last) VALUES (10, 'Leonhard Euler', 'Leonhard', 'Euler');
INSERT INTO mp (id, note) VALUES (11, 'nobody');
SELECT *, first IS NULL AS f_null, last IS NULL AS l_null FROM mp ORDER BY id;
-- half of the other side is a contradiction; one that doesn't fit its column is unconvertible
INSERT INTO mp (id, name, first) VALUES (12, 'Leonhard Euler', 'Leonhard');
\echo :SQLSTATE
UPDATE mp SET name = 'Wolfgang Theophilus Gottlieb Mozart' WHERE id = 6;
SELECT * FROM mp WHERE id = 6;
SELECT key, old_values, new_values, sqlstate FROM dw_drift WHERE migration = 'mp' AND repaired_at IS NULL;
UPDATE mp SET name = 'W A' WHERE id = 6;
SELECT rows_checked, drifted, unconvertible FROM dw_verify('mp');
-- row 9: a NULL first makes the name NULL, and the last name is what the old side can't hold
SELECT rollback_note FROM dw_status WHERE migration = 'mp';
SELECT dw_switch('mp');
UPDATE mp SET first = 'C F', last = 'Gauss' WHERE id = 9;
UPDATE mp SET first = 'Johann' WHERE id = 5;
SELECT * FROM mp WHERE id IN (5, 9) ORDER BY id;
SELECT rows_checked, drifted, unconvertible FROM dw_verify('mp');
SELECT dw_finalize('mp');
SELECT * FROM mp ORDER BY id LIMIT 2;
DROP TABLE mp;

-- merge: two columns into one that exists, only old_columns go
CREATE TABLE mp (id int PRIMARY KEY, lat float8, lon float8, label text, pos point);
INSERT INTO mp VALUES (1, 1.5, 2.5, 'x'), (2, NULL, NULL, 'y'), (3, 3, NULL, 'z');
SELECT dw_begin_mapping('mp', 'mp', '{lat,lon}', '{"pos": "point(lat, lon)"}', '{"lat": "pos[0]", "lon": "pos[1]"}');
SELECT * FROM mp ORDER BY id;
UPDATE mp SET lat = 9 WHERE id = 1;
UPDATE mp SET lon = 9 WHERE id = 2;
UPDATE mp SET pos = '(7,8)' WHERE id = 3;
INSERT INTO mp (id, pos) VALUES (4, '(4,5)');
INSERT INTO mp (id, lat) VALUES (5, 5);
UPDATE mp SET lat = 0, pos = '(0,9)' WHERE id = 1;
UPDATE mp SET lat = 1, lon = 1, pos = '(0,9)' WHERE id = 1;
\echo :SQLSTATE
SELECT * FROM mp ORDER BY id;
SELECT rows_checked, drifted, unconvertible FROM dw_verify('mp');
SELECT dw_switch('mp');
UPDATE mp SET lat = lat + 1, lon = coalesce(lon, 0) + 1;
UPDATE mp SET pos = pos + point '(10,10)' WHERE id = 4;
SELECT * FROM mp ORDER BY id;
SELECT dw_finalize('mp');
SELECT * FROM mp ORDER BY id;
DROP TABLE mp;

-- three to two, with a rule that reads one more; the order of the columns is the definition's
CREATE TABLE mp (y int, d int, m int, tz text, id int PRIMARY KEY);
INSERT INTO mp VALUES (2024, 29, 2, 'UTC', 1), (1999, 31, 12, 'x', 2), (2023, 29, 2, 'UTC', 3);
SELECT dw_begin_mapping('mp', 'mp', '{y,m,d}', '{"day": "make_date(y, m, d)", "label": "y || ''/'' || tz"}',
    '{"d": "extract(day from day)", "m": "extract(month from day)", "y": "extract(year from day)"}', '{"label": "text", "day": "date"}');
SELECT * FROM mp ORDER BY id;
SELECT key, old_values, new_values, sqlstate, message FROM dw_drift WHERE migration = 'mp' AND repaired_at IS NULL AND old_values ? 'y';
UPDATE mp SET d = 28 WHERE id = 3;
SELECT dw_resume('mp');
UPDATE mp SET day = '2000-01-02' WHERE id = 1;
UPDATE mp SET label = 'mine' WHERE id = 2;
UPDATE mp SET tz = 'CET';
SELECT * FROM mp ORDER BY id;
SELECT rows_checked, drifted, unconvertible FROM dw_verify('mp');
SELECT dw_begin_mapping('mp', 'mp', '{y,m,d}', '{"label": "y || ''/'' || tz", "day": "make_date(y, m, d)"}',
    '{"y": "extract(year from day)", "d": "extract(day from day)", "m": "extract(month from day)"}', '{"day": "date", "label": "text"}');
SELECT dw_begin_mapping('mp', 'mp', '{y,d,m}', '{"label": "y || ''/'' || tz", "day": "make_date(y, m, d)"}',
    '{"y": "extract(year from day)", "d": "extract(day from day)", "m": "extract(month from day)"}', '{"day": "date", "label": "text"}');
SELECT dw_abort('mp', accept_loss => true);
SELECT * FROM mp ORDER BY id;
DROP TABLE mp;

-- as many columns as there may be
CREATE TABLE mp (id int PRIMARY KEY);
SELECT string_agg(format('ADD COLUMN o%s int', i), ', ') AS cols, '{' || string_agg('o' || i, ',') || '}' AS old,
       jsonb_object_agg('n' || i, format('o%s + %s', i, i)) AS forward, jsonb_object_agg('o' || i, format('n%s - %s', i, i)) AS backward,
       jsonb_object_agg('n' || i, 'bigint') AS types
  FROM generate_series(1, 32) i \gset
ALTER TABLE mp :cols;
INSERT INTO mp (id, o1, o17, o32) VALUES (1, 1, 17, 32);
SELECT dw_begin_mapping('mp', 'mp', :'old', :'forward', :'backward', :'types');
INSERT INTO mp (id, n1, n32) VALUES (2, 100, 100);
UPDATE mp SET n17 = 0 WHERE id = 1;
SELECT id, o1, n1, o17, n17, o31, n31, o32, n32 FROM mp ORDER BY id;
SELECT rows_checked, drifted, unconvertible FROM dw_verify('mp');
SELECT dw_switch('mp');
SELECT dw_finalize('mp');
SELECT id, n1, n17, n31, n32 FROM mp ORDER BY id;
DROP TABLE mp;
