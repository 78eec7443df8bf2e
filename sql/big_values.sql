-- Rows whose values are larger than what a record of them may hold: neither the
-- write nor the verification fails.
SET client_min_messages = warning;
CREATE TABLE big_t (id int PRIMARY KEY, a text, b bytea, j jsonb);
SELECT dw_begin_mapping('big', 'big_t', '{a,b,j}', '{"n": "a::int + length(b) + jsonb_array_length(j)"}', NULL, '{"n": "int"}') IS NOT NULL AS begun;

-- in the write
INSERT INTO big_t (id, a, b, j) SELECT 1, repeat('x', 3000000), decode(repeat('ab', 3000000), 'hex'), '[1]';
INSERT INTO big_t (id, a, b, j) SELECT 2, repeat('é', 100000), 'x', jsonb_agg(i) FROM generate_series(1, 900000) i;
INSERT INTO big_t (id, a, b, j) SELECT 3, 'short', 'x', jsonb_agg(i) FROM generate_series(1, 5000) i;
SELECT count(*) AS stored, count(n) AS converted FROM big_t;
SELECT key, length(old_values ->> 'a') AS a, right(old_values ->> 'a', 20) AS a_end, length(old_values ->> 'b') AS b, right(old_values ->> 'b', 20) AS b_end,
       length(old_values ->> 'j') AS j, right(old_values ->> 'j', 34) AS j_end, reason, sqlstate, left(message, 40) AS message, octet_length(message) < 9000 AS message_cut
  FROM dw_drift ORDER BY key;

-- in the verification
SELECT rows_checked, drifted, unconvertible FROM dw_verify('big');
SELECT count(*), max(pg_column_size(old_values)) < 40000 AS small FROM dw_drift WHERE repaired_at IS NULL;

-- a record in the end is closed like any other
UPDATE big_t SET a = '1', b = '', j = '[]';
SELECT rows_checked, drifted, unconvertible FROM dw_verify('big');
SELECT count(*) FROM dw_drift WHERE repaired_at IS NULL;
SELECT dw_abort('big') IS NOT NULL AS aborted;
DROP TABLE big_t;
RESET client_min_messages;
