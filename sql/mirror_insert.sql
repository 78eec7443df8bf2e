--
-- INSERT: which side a row was given, and the other one derived from it.
--
CREATE TABLE mi (id int PRIMARY KEY, total numeric(10,2), note text);
SELECT dw_begin('mi', 'mi', 'total', 'bigint', 'cents', 'round(total * 100)', 'cents / 100.0');

-- old side, new side, both and consistent, neither
INSERT INTO mi (id, total) VALUES (1, 12.34);
INSERT INTO mi (id, cents) VALUES (2, 567);
INSERT INTO mi (id, total, cents) VALUES (3, 8.90, 890);
INSERT INTO mi (id, note) VALUES (4, 'neither');
-- NULL is never given against a value
INSERT INTO mi (id, total, cents) VALUES (5, 1.00, NULL);
INSERT INTO mi (id, total, cents) VALUES (6, NULL, 200);
INSERT INTO mi (id, total, cents) VALUES (7, NULL, NULL);
-- a value is, even 0 or one that equals what would be derived in another scale
INSERT INTO mi (id, total, cents) VALUES (8, 0, NULL);
INSERT INTO mi (id, total, cents) VALUES (9, NULL, 0);
-- many rows, each by what it has
INSERT INTO mi (id, total, cents) VALUES (10, 1, NULL), (11, NULL, 2), (12, 3, 300), (13, NULL, NULL);
INSERT INTO mi (id, total, cents)
SELECT i, CASE WHEN i % 2 = 0 THEN i END, CASE WHEN i % 3 = 0 THEN i * 100 END FROM generate_series(20, 32) i;
SELECT *, cents IS NOT DISTINCT FROM round(total * 100) AS ok FROM mi ORDER BY id;

-- both, and inconsistent: refused, and nothing of the statement stays
INSERT INTO mi (id, total, cents) VALUES (40, 1, 100), (41, 1, 101);
\echo :SQLSTATE
INSERT INTO mi (id, total, cents) VALUES (42, 0, 1);
SELECT count(*) FROM mi WHERE id >= 40;

-- what a rule rounds: the old side is in authority, the row is consistent
INSERT INTO mi (id, total) VALUES (50, 0.005), (51, -0.005), (52, 99999999.99);
-- and what the statement returns is what is stored
INSERT INTO mi (id, cents) VALUES (53, 5) RETURNING *;
INSERT INTO mi (id, total) VALUES (54, 5) RETURNING id, total, cents;
SELECT *, cents IS NOT DISTINCT FROM round(total * 100) AS ok FROM mi WHERE id >= 50 ORDER BY id;
SELECT rows_checked, drifted, unconvertible FROM dw_verify('mi');

-- after the switch the same, with the new side in authority
SELECT dw_switch('mi');
INSERT INTO mi (id, total) VALUES (101, 12.34);
INSERT INTO mi (id, cents) VALUES (102, 567);
INSERT INTO mi (id, total, cents) VALUES (103, 8.90, 890);
INSERT INTO mi (id, note) VALUES (104, 'neither');
INSERT INTO mi (id, total, cents) VALUES (105, 1.00, NULL);
INSERT INTO mi (id, total, cents) VALUES (106, NULL, 200);
INSERT INTO mi (id, total, cents) VALUES (107, 1, 101);
SELECT *, cents IS NOT DISTINCT FROM round(total * 100) AS ok FROM mi WHERE id > 100 ORDER BY id;
SELECT rows_checked, drifted, unconvertible FROM dw_verify('mi');
SELECT dw_finalize('mi');
INSERT INTO mi (id, cents) VALUES (201, 1);
SELECT * FROM mi WHERE id > 105 ORDER BY id;
DROP TABLE mi;

-- what tells a side apart is the image: -0 isn't 0, NaN is NaN, '' isn't NULL
CREATE TABLE mi (id int PRIMARY KEY, f float8, t text);
SELECT dw_begin('mi f', 'mi', 'f', 'float8', 'g', '-f', '-g');
SELECT dw_begin('mi t', 'mi', 't', 'text', 'u', 'nullif(t, '''')', 'u');
INSERT INTO mi (id, f) VALUES (1, 0), (2, 'NaN'), (3, '-Infinity'), (4, NULL);
INSERT INTO mi (id, g) VALUES (5, 0);
INSERT INTO mi (id, t) VALUES (6, '');
INSERT INTO mi (id, t, u) VALUES (7, '', NULL), (8, 'x', NULL), (9, NULL, 'y');
INSERT INTO mi (id, u) VALUES (10, '');
SELECT id, f, g, t, u, t IS NULL AS t_null, u IS NULL AS u_null FROM mi ORDER BY id;
DROP TABLE mi;
SELECT dw_abort('mi f'), dw_abort('mi t');

-- wide values: toasted, compressed, external
CREATE TABLE mi (id int PRIMARY KEY, a text, b bytea);
ALTER TABLE mi ALTER a SET STORAGE EXTERNAL;
SELECT dw_begin('mi', 'mi', 'a', 'text', 'c', 'upper(a)', 'lower(c)');
INSERT INTO mi (id, a) VALUES (1, repeat('abc', 5000));
INSERT INTO mi (id, c) VALUES (2, repeat('XYZ', 5000));
SELECT id, length(a), length(c), c = upper(a) AS ok, a = lower(c) AS ok2 FROM mi ORDER BY id;
UPDATE mi SET b = '\x00';
UPDATE mi SET c = c || 'Q';
SELECT id, length(a), length(c), c = upper(a) AS ok, a = lower(c) AS ok2 FROM mi ORDER BY id;
SELECT dw_abort('mi');
DROP TABLE mi;
