--
-- Loss: what the old side can't hold is known, counted, and never given up by accident.
--
CREATE TABLE lo (id int PRIMARY KEY, price int);
INSERT INTO lo VALUES (1, 10), (2, 20), (3, 30);
SELECT dw_begin('lo', 'lo', 'price', 'numeric', 'exact', 'price', 'trunc(exact)');
SELECT rollback_note FROM dw_status WHERE migration = 'lo';
-- a first loss before the switch: blind writes of the new version
INSERT INTO lo (id, exact) VALUES (4, 40);
SELECT rollback_note FROM dw_status WHERE migration = 'lo';
INSERT INTO lo (id, exact) VALUES (5, 50.5);
UPDATE lo SET exact = 20.75 WHERE id = 2;
SELECT * FROM lo ORDER BY id;
SELECT rollback_note, drifted FROM dw_status WHERE migration = 'lo';
-- the row is consistent: new isn't forward(old), but old is backward(new)
SELECT rows_checked, drifted, unconvertible FROM dw_verify('lo');
CALL dw_reconcile('lo');
SELECT * FROM lo ORDER BY id;
-- what the backfill and the mirror leave alone: writes that change neither side, the same again, a SET to what is there
UPDATE lo SET id = id WHERE id = 2;
UPDATE lo SET price = price WHERE id = 2;
UPDATE lo SET price = 20, exact = 20.75 WHERE id = 2;
SELECT * FROM lo WHERE id = 2;
-- the old version writes: forward, and its word is all there is
UPDATE lo SET price = 21 WHERE id = 2;
SELECT * FROM lo WHERE id = 2;
UPDATE lo SET exact = 21.5 WHERE id = 2;

-- switch, more of it, rollback: nothing is lost by that
SELECT dw_switch('lo');
UPDATE lo SET exact = 10.25 WHERE id = 1;
SELECT rows_checked, drifted, unconvertible FROM dw_verify('lo');
SELECT rollback_possible, rollback_note FROM dw_status WHERE migration = 'lo';
SELECT dw_rollback('lo');
SELECT * FROM lo ORDER BY id;
SELECT dw_switch('lo');
SELECT dw_rollback('lo');
SELECT * FROM lo ORDER BY id;
-- abort is where it would be
SELECT dw_abort('lo');
\echo :SQLSTATE
SELECT count(*) FROM lo;
UPDATE lo SET exact = trunc(exact) WHERE id <> 5;
SELECT dw_abort('lo');
UPDATE lo SET exact = trunc(exact);
-- noted once, it stays noted until it has been verified away
SELECT rows_checked, drifted, unconvertible FROM dw_verify('lo');
SELECT rollback_note FROM dw_status WHERE migration = 'lo';
SELECT dw_abort('lo');
SELECT * FROM lo ORDER BY id;

-- a loss that is rolled back may be counted, until a verification, or an abort, has looked
SELECT dw_begin('lo', 'lo', 'price', 'numeric', 'exact', 'price', 'trunc(exact)');
BEGIN;
UPDATE lo SET exact = 1.5 WHERE id = 1;
ROLLBACK;
BEGIN;
SAVEPOINT s;
UPDATE lo SET exact = 1.5 WHERE id = 1;
ROLLBACK TO s;
UPDATE lo SET exact = 15 WHERE id = 1;
COMMIT;
SELECT rows_checked, drifted, unconvertible FROM dw_verify('lo');
SELECT rollback_note FROM dw_status WHERE migration = 'lo' AND finished_at IS NULL;
BEGIN;
UPDATE lo SET exact = 1.5 WHERE id = 1;
ROLLBACK;
BEGIN;
SELECT dw_abort('lo');
ROLLBACK;
-- the next one, in the same session, is noted all the same
BEGIN;
SAVEPOINT s;
UPDATE lo SET exact = 1.5 WHERE id = 1;
ROLLBACK TO s;
UPDATE lo SET exact = 2.5 WHERE id = 1;
COMMIT;
SELECT rollback_note FROM dw_status WHERE migration = 'lo' AND finished_at IS NULL;
SELECT dw_abort('lo');
SELECT dw_abort('lo', accept_loss => true);
SELECT * FROM lo ORDER BY id;

-- a value that can't be converted at all, after the switch: widened beyond the old type
SELECT dw_begin('lo', 'lo', 'price', 'bigint', 'wide');
SELECT dw_switch('lo');
UPDATE lo SET wide = 3000000000 WHERE id = 1;
INSERT INTO lo (id, wide) VALUES (6, 6000000000), (7, 7);
SELECT * FROM lo ORDER BY id;
SELECT unconvertible, drifted, rollback_possible, rollback_note FROM dw_status WHERE migration = 'lo' AND finished_at IS NULL;
SELECT dw_rollback('lo');
\echo :SQLSTATE
SELECT dw_abort('lo');
\echo :SQLSTATE
-- that is what the migration is for: it can be finalized
SELECT rows_checked, drifted, unconvertible FROM dw_verify('lo');
SELECT dw_finalize('lo');
SELECT * FROM lo ORDER BY id;
DROP TABLE lo;

-- forward loses: the old side in authority holds more than the new; consistent by forward, and it stays so
CREATE TABLE lo (id int PRIMARY KEY, exact numeric);
INSERT INTO lo VALUES (1, 1.25), (2, 2.5), (3, 3);
SELECT dw_begin('lo', 'lo', 'exact', 'int', 'rounded', 'round(exact)', 'rounded');
SELECT * FROM lo ORDER BY id;
UPDATE lo SET rounded = 1 WHERE id = 1;
UPDATE lo SET rounded = 7 WHERE id = 2;
SELECT * FROM lo ORDER BY id;
SELECT rows_checked, drifted, unconvertible FROM dw_verify('lo');
SELECT dw_switch('lo');
SELECT * FROM lo ORDER BY id;
UPDATE lo SET exact = 3.25 WHERE id = 3;
SELECT * FROM lo ORDER BY id;
SELECT rows_checked, drifted, unconvertible FROM dw_verify('lo');
CALL dw_reconcile('lo');
SELECT * FROM lo ORDER BY id;
SELECT dw_abort('lo');
SELECT * FROM lo ORDER BY id;
DROP TABLE lo;

-- many rows at a loss: some keys are named
CREATE TABLE lo (k text, n int, a int, PRIMARY KEY (k, n));
SELECT dw_begin('lo', 'lo', 'a', 'numeric', 'b', 'a', 'trunc(b)');
INSERT INTO lo (k, n, b) SELECT 'k' || i, i, i + 0.5 FROM generate_series(1, 20) i;
SELECT dw_abort('lo');
SELECT dw_abort('lo', true);
DROP TABLE lo;
CREATE TABLE lo (a int);
SELECT dw_begin('lo', 'lo', 'a', 'numeric', 'b', 'a', 'trunc(b)');
INSERT INTO lo (b) VALUES (1), (2.5);
SELECT dw_abort('lo');
SELECT dw_abort('lo', true);
DROP TABLE lo;
