--
-- One way: no backward expression.
--
CREATE TABLE ow (id int PRIMARY KEY, a text, k int);
INSERT INTO ow VALUES (1, 'x', 1), (2, NULL, 2), (3, 'zzz', 3);
SELECT dw_begin('ow', 'ow', 'a', 'int', 'b', 'length(a)');
SELECT * FROM ow ORDER BY id;
SELECT rollback_possible, rollback_note FROM dw_status WHERE migration = 'ow';
-- the old side is mirrored; the new side can't be written, unless it says what is there
INSERT INTO ow (id, a) VALUES (4, 'four');
UPDATE ow SET a = 'xx' WHERE id = 1;
INSERT INTO ow (id, b) VALUES (5, 5);
\echo :SQLSTATE
UPDATE ow SET b = 5 WHERE id = 1;
\echo :SQLSTATE
UPDATE ow SET b = NULL WHERE id = 1;
UPDATE ow SET b = b, k = 7 WHERE id = 1;
UPDATE ow SET b = 2 WHERE id = 1;
INSERT INTO ow (id, a, b) VALUES (6, 'six', 3);
INSERT INTO ow (id, a, b) VALUES (7, 'seven', 3);
\echo :SQLSTATE
INSERT INTO ow (id) VALUES (8);
SELECT *, b IS NOT DISTINCT FROM length(a) AS ok FROM ow ORDER BY id;
SELECT rows_checked, drifted, unconvertible FROM dw_verify('ow');
-- nothing has been written, so there is a way back
SELECT dw_switch('ow');
SELECT dw_rollback('ow');
SELECT dw_switch('ow');
SELECT rollback_possible, rollback_note, next_step FROM dw_status WHERE migration = 'ow';
-- after the switch both may be written: the old side still reaches the new one
INSERT INTO ow (id, a) VALUES (9, 'nine!');
UPDATE ow SET a = 'y' WHERE id = 3;
UPDATE ow SET k = 8;
SELECT dw_rollback('ow');
SELECT dw_switch('ow');
-- ... but not the other way round
UPDATE ow SET b = 100 WHERE id = 1;
INSERT INTO ow (id, b) VALUES (10, 10);
SELECT *, b IS NOT DISTINCT FROM length(a) AS ok FROM ow ORDER BY id;
SELECT rollback_possible, rollback_note FROM dw_status WHERE migration = 'ow';
SELECT dw_rollback('ow');
\echo :SQLSTATE
SELECT dw_abort('ow');
\echo :SQLSTATE
-- a verification finds that the sides differ, which is what one way means: it says so, and is in nobody's way
SELECT rows_checked, drifted, unconvertible FROM dw_verify('ow');
CALL dw_reconcile('ow');
SELECT *, b IS NOT DISTINCT FROM length(a) AS ok FROM ow WHERE id IN (1, 10) ORDER BY id;
SELECT dw_finalize('ow');
SELECT * FROM ow ORDER BY id;
DROP TABLE ow;

-- given up before the switch, nothing is lost; after it, only on request
CREATE TABLE ow (id int PRIMARY KEY, a text);
INSERT INTO ow VALUES (1, 'x');
SELECT dw_begin('ow', 'ow', 'a', 'int', 'b', 'length(a)');
SELECT dw_abort('ow');
SELECT dw_begin('ow', 'ow', 'a', 'int', 'b', 'length(a)');
SELECT dw_switch('ow');
SELECT dw_abort('ow');
SELECT dw_begin('ow', 'ow', 'a', 'int', 'b', 'length(a)');
SELECT dw_switch('ow');
UPDATE ow SET b = 5;
SELECT dw_abort('ow');
SELECT dw_abort('ow', true);
SELECT * FROM ow;

-- on_error record: the new side is written before the switch, and on record
SELECT dw_begin('ow', 'ow', 'a', 'int', 'b', 'length(a)', options => '{"on_error": "record"}');
UPDATE ow SET b = 5;
INSERT INTO ow (id, b) VALUES (2, 7);
SELECT * FROM ow ORDER BY id;
SELECT key, old_values, new_values, reason, message FROM dw_drift WHERE migration = 'ow' AND repaired_at IS NULL ORDER BY key->>'id';
SELECT dw_switch('ow');
CALL dw_reconcile('ow');
SELECT * FROM ow ORDER BY id;
SELECT dw_switch('ow');
SELECT dw_abort('ow');

-- a mapping can be one way, too; unconvertible old values as ever
SELECT dw_begin_mapping('ow', 'ow', '{a}', '{"n": "a::int", "s": "upper(a)"}', new_types => '{"n": "int", "s": "text"}');
SELECT * FROM ow ORDER BY id;
SELECT phase, state, unconvertible, drifted FROM dw_status WHERE migration = 'ow' AND finished_at IS NULL;
UPDATE ow SET a = '11' WHERE id = 1;
SELECT dw_resume('ow');
SELECT * FROM ow ORDER BY id;
UPDATE ow SET n = 5 WHERE id = 1;
\echo :SQLSTATE
SELECT dw_abort('ow');
DROP TABLE ow;
