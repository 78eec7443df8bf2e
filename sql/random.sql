--
-- A thousand random writes of either side, each compared with what plain SQL says should have come of it. No outcome depends on the random numbers:
-- there is nothing to see unless something is wrong.
--
SET client_min_messages = warning;
-- label = name:k, and back; k is on neither side
CREATE TABLE ra (id int PRIMARY KEY, name text, k int NOT NULL DEFAULT 0, note text);
CREATE TABLE ra_want (id int PRIMARY KEY, name text, k int NOT NULL, note text, label text, filled boolean NOT NULL DEFAULT true);
CREATE FUNCTION ra_note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.note := upper(NEW.note); RETURN NEW; END';

-- what is there, and what is wanted; how often they differ
CREATE FUNCTION ra_differ() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT count(*) FROM ra r FULL JOIN ra_want w USING (id)
     WHERE r.id IS NULL OR w.id IS NULL OR (r.name, r.k, upper(r.note), r.label) IS DISTINCT FROM (w.name, w.k, upper(w.note), CASE WHEN w.filled THEN w.label END));
END $$;
CREATE FUNCTION ra_number(n int) RETURNS int LANGUAGE sql AS 'SELECT floor(random() * n)::int';

-- one write, and the same to ra_want in its own words
CREATE PROCEDURE ra_write(new_side boolean) LANGUAGE plpgsql AS $$
DECLARE
    op int := ra_number(19);
    r int := 1 + ra_number(60);
    kk int := ra_number(5);
    v text := 'v' || ra_number(1000000);
    refused boolean := false;
BEGIN
    CASE op
    WHEN 0 THEN
        INSERT INTO ra (id, name, k) VALUES (r, v, kk) ON CONFLICT DO NOTHING;
        INSERT INTO ra_want (id, name, k, label) VALUES (r, v, kk, v || ':' || kk) ON CONFLICT DO NOTHING;
    WHEN 1 THEN
        INSERT INTO ra (id, label, k) VALUES (r, v || ':77', kk) ON CONFLICT DO NOTHING;
        INSERT INTO ra_want (id, name, k, label) VALUES (r, v, kk, v || ':77') ON CONFLICT DO NOTHING;
    WHEN 2 THEN
        INSERT INTO ra (id, k) VALUES (r, kk) ON CONFLICT DO NOTHING;
        INSERT INTO ra_want (id, k) VALUES (r, kk) ON CONFLICT DO NOTHING;
    WHEN 3 THEN
        UPDATE ra SET name = v WHERE id = r;
        UPDATE ra_want SET name = v, label = v || ':' || k, filled = true WHERE id = r;
    WHEN 4 THEN
        UPDATE ra SET label = v || ':' || k WHERE id = r;
        UPDATE ra_want SET name = v, label = v || ':' || k, filled = true WHERE id = r;
    WHEN 5 THEN
        UPDATE ra SET label = v || ':99', note = 'five' WHERE id = r;
        UPDATE ra_want SET name = v, label = v || ':99', filled = true, note = 'five' WHERE id = r;
    WHEN 6 THEN
        -- what the rule reads derives from the authority; the row is new to it where it wasn't filled
        UPDATE ra SET k = k + 1 + kk WHERE id = r;
        UPDATE ra_want SET k = k + 1 + kk, label = CASE WHEN new_side AND filled THEN label ELSE name || ':' || k + 1 + kk END, filled = true WHERE id = r;
    WHEN 7 THEN
        UPDATE ra SET note = v WHERE id = r;
        UPDATE ra_want SET note = v, filled = true WHERE id = r;
    WHEN 8 THEN
        UPDATE ra SET name = NULL WHERE id = r;
        UPDATE ra_want SET label = CASE WHEN name IS NULL AND filled THEN label END, name = NULL, filled = true WHERE id = r;
    WHEN 9 THEN
        UPDATE ra SET label = NULL WHERE id = r;
        UPDATE ra_want SET label = NULL, name = NULL, filled = true WHERE id = r;
    WHEN 10 THEN
        UPDATE ra SET name = name, label = label WHERE id = r;
        UPDATE ra_want SET filled = true WHERE id = r;
    WHEN 11 THEN
        UPDATE ra SET label = v || ':' || k, name = v WHERE id = r;
        UPDATE ra_want SET name = v, label = v || ':' || k, filled = true WHERE id = r;
    WHEN 12 THEN
        BEGIN
            UPDATE ra SET label = v || ':1', name = 'not ' || v WHERE id = r;
            refused := NOT FOUND;
        EXCEPTION WHEN check_violation THEN
            refused := true;
        END;
        IF NOT refused THEN RAISE WARNING 'a contradiction was taken'; END IF;
    WHEN 13 THEN
        IF kk = 0 THEN
            DELETE FROM ra WHERE id = r;
            DELETE FROM ra_want WHERE id = r;
        END IF;
    WHEN 14 THEN
        INSERT INTO ra (id, name, k) VALUES (r, v, kk) ON CONFLICT (id) DO UPDATE SET name = excluded.name;
        INSERT INTO ra_want (id, name, k, label) VALUES (r, v, kk, v || ':' || kk)
            ON CONFLICT (id) DO UPDATE SET name = v, label = v || ':' || ra_want.k, filled = true;
    WHEN 15 THEN
        INSERT INTO ra (id, label, k) VALUES (r, v || ':55', kk) ON CONFLICT (id) DO UPDATE SET label = excluded.label, k = excluded.k;
        INSERT INTO ra_want (id, name, k, label) VALUES (r, v, kk, v || ':55')
            ON CONFLICT (id) DO UPDATE SET name = v, label = v || ':55', k = kk, filled = true;
    WHEN 16 THEN
        BEGIN
            UPDATE ra SET name = v, note = 'undone' WHERE id = r;
            UPDATE ra SET label = 'undone' WHERE id = r + 1;
            DELETE FROM ra WHERE id = r + 2;
            RAISE division_by_zero;
        EXCEPTION WHEN division_by_zero THEN
            NULL;
        END;
    WHEN 17 THEN
        UPDATE ra SET name = name || 'x' WHERE id % 7 = kk;
        UPDATE ra_want SET label = CASE WHEN name IS NULL AND filled THEN label ELSE name || 'x:' || k END, name = name || 'x', filled = true WHERE id % 7 = kk;
    WHEN 18 THEN
        MERGE INTO ra USING generate_series(1, 60, 7) s(id) ON ra.id = s.id
         WHEN MATCHED AND ra.k % 2 = 0 THEN UPDATE SET label = 'm' || v || ':7'
         WHEN MATCHED THEN UPDATE SET name = 'n' || v;
        UPDATE ra_want SET name = CASE WHEN k % 2 = 0 THEN 'm' ELSE 'n' END || v, label = CASE WHEN k % 2 = 0 THEN 'm' || v || ':7' ELSE 'n' || v || ':' || k END, filled = true
         WHERE id % 7 = 1;
    END CASE;
    IF ra_differ() <> 0 THEN
        RAISE WARNING 'operation % on row %: % rows differ', op, r, ra_differ();
        RAISE raise_exception;
    END IF;
END $$;

-- a migration with writes all along: unfilled, filled, switched, rolled back, switched
CREATE PROCEDURE ra_run(seed float8, writes int) LANGUAGE plpgsql AS $$
DECLARE
    phase text;
BEGIN
    PERFORM setseed(seed);
    TRUNCATE ra, ra_want;
    INSERT INTO ra SELECT i, CASE WHEN i % 9 > 0 THEN 'name' || i END, i % 3, 'note' FROM generate_series(1, 50) i;
    PERFORM set_config('pg_dualwrite.inline_limit', '0', false);
    PERFORM dw_begin('ra', 'ra', 'name', 'text', 'label', 'name || '':'' || k', 'split_part(label, '':'', 1)');
    PERFORM dw_pause('ra');
    INSERT INTO ra_want SELECT id, name, k, note, name || ':' || k, false FROM ra;
    COMMIT;
    FOREACH phase IN ARRAY '{unfilled,ready,switched,back,switched again}'::text[] LOOP
        CASE phase
        WHEN 'unfilled' THEN
            NULL;
        WHEN 'ready' THEN
            PERFORM dw_resume('ra');
            COMMIT;
            CALL dw_wait('ra');
            UPDATE ra_want SET filled = true;
        WHEN 'back' THEN
            PERFORM dw_verify('ra');
            PERFORM dw_rollback('ra');
        ELSE
            PERFORM dw_verify('ra');
            PERFORM dw_switch('ra');
        END CASE;
        COMMIT;
        IF ra_differ() <> 0 THEN
            RAISE WARNING 'seed %, %: % rows differ', seed, phase, ra_differ();
        END IF;
        FOR i IN 1..writes LOOP
            CALL ra_write(phase ~ 'switched');
            COMMIT;
        END LOOP;
        IF EXISTS (SELECT 1 FROM dw_drift WHERE migration = 'ra' AND repaired_at IS NULL) THEN
            RAISE WARNING 'seed %, %: rows are on record', seed, phase;
        END IF;
    END LOOP;
    IF (SELECT drifted + unconvertible FROM dw_verify('ra')) <> 0 THEN
        RAISE WARNING 'seed %: the verification finds something', seed;
    END IF;
    PERFORM dw_abort('ra', true);
END $$;
CALL ra_run(0.1, 60);
-- with a trigger of the table's own, so that there are two of ours
CREATE TRIGGER note BEFORE INSERT OR UPDATE ON ra FOR EACH ROW EXECUTE FUNCTION ra_note();
CALL ra_run(0.2, 60);
DROP TABLE ra, ra_want;
DROP PROCEDURE ra_run, ra_write;
DROP FUNCTION ra_differ, ra_number, ra_note;
RESET pg_dualwrite.inline_limit;
