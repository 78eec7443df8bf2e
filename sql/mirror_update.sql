--
-- UPDATE: the direction follows from what the statement changed.
--
CREATE TABLE mu (id int PRIMARY KEY, total numeric(10,2), note text, rate int DEFAULT 2);
INSERT INTO mu SELECT i, i FROM generate_series(1, 9) i;
SELECT dw_begin('mu', 'mu', 'total', 'bigint', 'cents', 'round(total * 100)', 'cents / 100.0');
CREATE VIEW mu_wrong AS SELECT * FROM mu WHERE cents IS DISTINCT FROM round(total * 100);

UPDATE mu SET total = 10.50 WHERE id = 1;
UPDATE mu SET cents = 2050 WHERE id = 2;
UPDATE mu SET total = NULL WHERE id = 3;
UPDATE mu SET cents = NULL WHERE id = 4;
UPDATE mu SET total = total + 1, cents = cents + 100 WHERE id = 5;
UPDATE mu SET note = 'x' WHERE id = 6;
-- an application that writes back every column it has read: what changed counts
UPDATE mu SET total = total, cents = 7077 WHERE id = 7;
UPDATE mu SET total = 8.08, cents = cents WHERE id = 8;
UPDATE mu SET total = total, cents = cents WHERE id = 9;
SELECT * FROM mu ORDER BY id;
SELECT * FROM mu_wrong;
-- one column from another side, swaps and the like see the row before
UPDATE mu SET total = cents WHERE id = 1;
UPDATE mu SET cents = total WHERE id = 2;
UPDATE mu SET id = -id, total = id WHERE id = 3;
SELECT * FROM mu WHERE id < 3 ORDER BY id;
SELECT * FROM mu_wrong;
UPDATE mu SET id = -id WHERE id < 0;
-- both, inconsistent
UPDATE mu SET total = 1, cents = 1;
\echo :SQLSTATE
-- twice in a transaction, from either side
BEGIN;
UPDATE mu SET total = 1 WHERE id = 1;
UPDATE mu SET cents = cents + 1 WHERE id = 1;
SAVEPOINT s;
UPDATE mu SET cents = 999999 WHERE id = 1;
ROLLBACK TO s;
UPDATE mu SET total = total * 2 WHERE id = 1;
COMMIT;
SELECT * FROM mu WHERE id = 1;
SELECT * FROM mu_wrong;

-- rows that something made inconsistent: triggers off for a moment
SELECT tgname AS mirror FROM pg_trigger WHERE tgrelid = 'mu'::regclass AND tgname ~ 'dualwrite' \gset
ALTER TABLE mu DISABLE TRIGGER :"mirror";
UPDATE mu SET total = 1, cents = 2;
ALTER TABLE mu ENABLE ALWAYS TRIGGER :"mirror";
-- rewriting the same value heals, from the side that was SET; of both, from the authority
UPDATE mu SET total = 1 WHERE id = 1;
UPDATE mu SET cents = 2 WHERE id = 2;
UPDATE mu SET total = total, cents = cents WHERE id = 3;
-- a change heals as ever
UPDATE mu SET total = 4 WHERE id = 4;
UPDATE mu SET cents = 5 WHERE id = 5;
-- what SETs neither leaves it alone
UPDATE mu SET note = 'neither' WHERE id = 6;
SELECT * FROM mu ORDER BY id;
SELECT rows_checked, drifted, unconvertible FROM dw_verify('mu');
CALL dw_reconcile('mu');
SELECT * FROM mu_wrong;
SELECT dw_switch('mu');
SELECT tgname AS mirror FROM pg_trigger WHERE tgrelid = 'mu'::regclass AND tgname ~ 'dualwrite' \gset
ALTER TABLE mu DISABLE TRIGGER :"mirror";
UPDATE mu SET total = 1, cents = 2;
ALTER TABLE mu ENABLE ALWAYS TRIGGER :"mirror";
UPDATE mu SET total = total, cents = cents WHERE id = 3;
SELECT * FROM mu WHERE id = 3;
CALL dw_reconcile('mu');
SELECT DISTINCT total, cents FROM mu ORDER BY 1;
SELECT * FROM mu_wrong;
SELECT dw_rollback('mu');
DROP VIEW mu_wrong;
SELECT dw_abort('mu', accept_loss => true);

-- a rule that reads a column on neither side: when that changes, the authority says what follows
SELECT dw_begin('mu', 'mu', 'total', 'bigint', 'worth', 'total * rate', 'worth / rate');
CREATE VIEW mu_wrong AS SELECT * FROM mu WHERE worth IS DISTINCT FROM (total * rate)::bigint;
UPDATE mu SET total = id;
SELECT * FROM mu_wrong;
UPDATE mu SET rate = 10 WHERE id <= 3;
UPDATE mu SET rate = 5, total = 7 WHERE id = 4;
UPDATE mu SET rate = 5, worth = 100 WHERE id = 5;
UPDATE mu SET rate = 5, total = 3, worth = 15 WHERE id = 6;
UPDATE mu SET rate = 2 WHERE id = 7;
UPDATE mu SET rate = NULL WHERE id = 8;
INSERT INTO mu (id, worth, rate) VALUES (10, 50, 25);
INSERT INTO mu (id, worth) VALUES (11, 50);
SELECT * FROM mu ORDER BY id;
SELECT * FROM mu_wrong;
SELECT dw_switch('mu');
UPDATE mu SET rate = 1 WHERE id <= 3;
UPDATE mu SET rate = 4, total = 8 WHERE id = 4;
SELECT * FROM mu WHERE id <= 4 ORDER BY id;
SELECT * FROM mu_wrong;
SELECT rows_checked, drifted, unconvertible FROM dw_verify('mu');
SELECT dw_finalize('mu');
DROP VIEW mu_wrong;
SELECT dw_finalize('mu');
SELECT * FROM mu WHERE id <= 4 ORDER BY id;
DROP TABLE mu;

-- what has nothing to do with the table's rules is as before: ctid chains, EvalPlanQual, FOR UPDATE, cursors
CREATE TABLE mu (id int PRIMARY KEY, a int);
INSERT INTO mu VALUES (1, 1), (2, 2), (3, 3);
SELECT dw_begin('mu', 'mu', 'a', 'bigint', 'b');
BEGIN;
DECLARE c CURSOR FOR SELECT * FROM mu ORDER BY id FOR UPDATE;
FETCH c;
UPDATE mu SET b = 100 WHERE CURRENT OF c;
FETCH c;
UPDATE mu SET a = 200 WHERE CURRENT OF c;
FETCH c;
DELETE FROM mu WHERE CURRENT OF c;
COMMIT;
UPDATE mu m SET b = o.a + 1 FROM mu o WHERE o.id <> m.id;
WITH u AS (UPDATE mu SET a = a + 1000 RETURNING *) SELECT * FROM u ORDER BY id;
PREPARE mu_up(bigint, int) AS UPDATE mu SET b = $1 WHERE id = $2 RETURNING a, b;
EXECUTE mu_up(5, 1);
SELECT dw_switch('mu');
EXECUTE mu_up(6, 2);
SELECT dw_rollback('mu');
EXECUTE mu_up(7, 1);
SELECT dw_abort('mu');
EXECUTE mu_up(8, 1);
DEALLOCATE mu_up;
DROP TABLE mu;
