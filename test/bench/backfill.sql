-- The peers of pg_dualwrite's backfill, for table orders, and what notes how
-- far its worker got. Numbers are of the process that does the work.

-- By primary key, a thousand rows a transaction, each touched so that a trigger
-- fills it.
CREATE PROCEDURE bench_batches_by_key() LANGUAGE plpgsql AS $body$
DECLARE
	last bigint := -1;
	n bigint;
BEGIN
	LOOP
		WITH batch AS (
			SELECT id FROM orders WHERE id > last ORDER BY id LIMIT 1000 FOR NO KEY UPDATE
		), touched AS (
			UPDATE orders SET id = orders.id FROM batch WHERE orders.id = batch.id RETURNING orders.id
		)
		SELECT max(id) INTO n FROM touched;
		EXIT WHEN n IS NULL;
		last := n;
		COMMIT;
	END LOOP;
END $body$;

-- By ranges of blocks, about as many rows a transaction.
CREATE PROCEDURE bench_batches_by_block(new name, forward text, step int) LANGUAGE plpgsql AS $body$
DECLARE
	blocks int := pg_relation_size('orders') / current_setting('block_size')::int;
	b int := 0;
BEGIN
	WHILE b < blocks LOOP
		EXECUTE format('UPDATE orders SET %I = %s WHERE ctid = ANY (ARRAY(SELECT ctid FROM orders WHERE ctid >= $1 AND ctid < $2 AND %1$I IS NULL FOR NO KEY UPDATE SKIP LOCKED))',
			new, forward) USING format('(%s,0)', b)::tid, format('(%s,0)', least(b + step, blocks))::tid;
		b := b + step;
		COMMIT;
	END LOOP;
END $body$;

-- The worker says when it has filled the last row; in the same transaction
-- this notes what it has used until then.
CREATE TABLE bench_event (migration text, cpu bigint, lsn pg_lsn, at timestamptz);

CREATE FUNCTION bench_note_event() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_catalog AS $body$
BEGIN
	INSERT INTO bench_event VALUES (NEW.migration, bench_cpu(pg_backend_pid()), pg_current_wal_insert_lsn(), clock_timestamp());
	RETURN NULL;
END $body$;

CREATE TRIGGER bench AFTER INSERT ON dualwrite.event FOR EACH ROW WHEN (NEW.event = 'filled') EXECUTE FUNCTION bench_note_event();
