--
-- Domains as a side's type.
--
-- one with constraints (from 19 on: volatile ones) makes ALTER TABLE rewrite the table: not on one that isn't small
CREATE DOMAIN domains_check AS bigint CHECK (VALUE > 0 AND random() >= 0);
CREATE DOMAIN domains_check_2 AS bigint;
CREATE TABLE domains_t (id int PRIMARY KEY, a int);
INSERT INTO domains_t SELECT i, i FROM generate_series(1, 500) i;
SET pg_dualwrite.inline_limit = 0;
SELECT dw_begin('domains', 'domains_t', 'a', 'domains_check', 'b');
\echo :SQLSTATE
SELECT dw_begin('domains', 'domains_t', 'a', 'domains_check_2', 'b');
CALL dw_wait('domains');
SELECT dw_abort('domains');
RESET pg_dualwrite.inline_limit;
SELECT dw_begin('domains', 'domains_t', 'a', 'domains_check', 'b');
SELECT count(*), count(*) FILTER (WHERE a = b) AS ok FROM domains_t;
SELECT dw_abort('domains');
DROP TABLE domains_t;
DROP DOMAIN domains_check, domains_check_2;

-- NOT NULL, and a default: the domain's say, as the column's would be
CREATE DOMAIN domains_notnull AS bigint NOT NULL DEFAULT 0 CHECK (VALUE >= 0);
CREATE TABLE domains_t (id int PRIMARY KEY, a int DEFAULT 0);
INSERT INTO domains_t VALUES (1, 1), (2, NULL);
SELECT dw_begin('domains', 'domains_t', 'a', 'domains_notnull', 'b');
SELECT * FROM domains_t ORDER BY id;
SELECT key, old_values, new_values, sqlstate, message FROM dw_drift WHERE migration = 'domains' AND repaired_at IS NULL;
UPDATE domains_t SET a = 5 WHERE id = 2;
INSERT INTO domains_t (id) VALUES (3);
INSERT INTO domains_t (id, b) VALUES (4, 4);
INSERT INTO domains_t (id, b) VALUES (5, -4);
\echo :SQLSTATE
-- as with a NOT NULL column: a row keeps what it has, a new one gets the default
UPDATE domains_t SET a = -5 WHERE id = 2;
INSERT INTO domains_t (id, a) VALUES (6, -4);
SELECT * FROM domains_t WHERE id IN (2, 6) ORDER BY id;
SELECT key, old_values, reason, sqlstate FROM dw_drift WHERE migration = 'domains' AND repaired_at IS NULL AND old_values->>'a' = '-5';
UPDATE domains_t SET a = 5 WHERE id = 2;
DELETE FROM domains_t WHERE id = 6;
SELECT dw_resume('domains') IS NOT NULL AS resumed;
SELECT * FROM domains_t ORDER BY id;
SELECT phase, drifted, unconvertible FROM dw_status WHERE migration = 'domains' AND finished_at IS NULL;
SELECT dw_abort('domains', true) IS NOT NULL AS aborted;
-- without a default nobody could insert who doesn't know the column; a domain over the domain is no way round it
TRUNCATE domains_t;
ALTER DOMAIN domains_notnull DROP DEFAULT;
CREATE DOMAIN domains_over AS domains_notnull CHECK (VALUE < 1000);
SELECT dw_begin('domains', 'domains_t', 'a', 'domains_notnull', 'b');
\echo :SQLSTATE
SELECT dw_begin('domains', 'domains_t', 'a', 'domains_over', 'b');
\echo :SQLSTATE
ALTER TABLE domains_t ADD b domains_over;
SELECT dw_begin('domains', 'domains_t', 'a', new_column => 'b');
INSERT INTO domains_t (id, a) VALUES (6, 4);
-- the old side's type: what the new side is given has to pass it
CREATE DOMAIN domains_even AS int CHECK (VALUE % 2 = 0);
DROP TABLE domains_t;
CREATE TABLE domains_t (id int PRIMARY KEY, a domains_even);
INSERT INTO domains_t VALUES (1, 2), (2, NULL);
SELECT dw_begin('domains', 'domains_t', 'a', 'bigint', 'b');
INSERT INTO domains_t (id, b) VALUES (3, 4);
INSERT INTO domains_t (id, b) VALUES (4, 5);
\echo :SQLSTATE
-- a condition that comes later holds for what is mirrored from then on
ALTER DOMAIN domains_even ADD CONSTRAINT small CHECK (VALUE < 100);
INSERT INTO domains_t (id, b) VALUES (5, 98), (6, 98);
INSERT INTO domains_t (id, b) VALUES (7, 200);
\echo :SQLSTATE
SELECT dw_switch('domains') IS NOT NULL AS switched;
INSERT INTO domains_t (id, b) VALUES (8, 200);
SELECT * FROM domains_t ORDER BY id;
SELECT key, sqlstate, message FROM dw_drift WHERE migration = 'domains' AND repaired_at IS NULL;
ALTER DOMAIN domains_even DROP CONSTRAINT small;
CALL dw_reconcile('domains');
SELECT * FROM domains_t WHERE id = 8;
SELECT dw_abort('domains', true) IS NOT NULL AS aborted;
DROP TABLE domains_t;
DROP DOMAIN domains_over, domains_notnull, domains_even;
