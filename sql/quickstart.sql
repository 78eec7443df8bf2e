CREATE EXTENSION IF NOT EXISTS pg_dualwrite;

CREATE TABLE orders (id integer PRIMARY KEY, total numeric(12,2) NOT NULL);
INSERT INTO orders VALUES (1, 10.00), (2, 19.99);

-- Adds the column total_cents, mirrors every write from now on, fills the rows that are there.
SELECT dw_begin('cents', 'orders', 'total', new_column => 'total_cents', new_type => 'bigint',
                forward => 'round(total * 100)', backward => 'total_cents / 100.0');

-- Returns when every row is filled and verified. A table this small is ready already.
CALL dw_wait('cents', 'ready');

-- One version of the application writes the old column, another one the new column.
INSERT INTO orders (id, total) VALUES (3, 5.50);
INSERT INTO orders (id, total_cents) VALUES (4, 725);
UPDATE orders SET total_cents = 2099 WHERE id = 2;
SELECT id, total, total_cents FROM orders ORDER BY id;

-- From now on the new column decides where the two disagree. The old one stays in sync.
SELECT dw_switch('cents');

-- The way back, and forth again.
SELECT dw_rollback('cents');
SELECT dw_switch('cents');

-- The old column is NOT NULL, so the new one has to be before the old one may go.
ALTER TABLE orders ALTER COLUMN total_cents SET NOT NULL;
SELECT dw_finalize('cents');
SELECT * FROM orders ORDER BY id;
