--
-- The views: their columns, what they say in each phase, and to whom.
--
SELECT c.relname || '.' || a.attname AS column, format_type(a.atttypid, a.atttypmod) AS type
  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
 WHERE c.relname IN ('dw_status', 'dw_progress', 'dw_drift', 'dw_events', 'dw_options') AND c.relkind = 'v'
 ORDER BY c.relname COLLATE "C", a.attnum;

SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_dw_owner, regress_dw_other;
RESET client_min_messages;
CREATE ROLE regress_dw_owner;
CREATE ROLE regress_dw_other;
CREATE SCHEMA vi AUTHORIZATION regress_dw_owner;
GRANT USAGE ON SCHEMA vi TO regress_dw_other;
SET ROLE regress_dw_owner;
SET search_path = vi, public;
SET application_name = 'views';
SET client_min_messages = warning;
CREATE TABLE vi (id int PRIMARY KEY, a text);
INSERT INTO vi SELECT i, i FROM generate_series(1, 100) i;
-- one row of dw_status, without what differs from run to run
CREATE FUNCTION vi_status() RETURNS TABLE (name text, value text) LANGUAGE sql AS $$
    SELECT k, v FROM dw_status s, jsonb_each_text(to_jsonb(s) - '{relations,worker_pids,heartbeat_at,rows_per_second,time_left}'::text[]
               || jsonb_build_object('started_at', s.started_at IS NOT NULL, 'finished_at', s.finished_at IS NOT NULL, 'phase_since', s.phase_since IS NOT NULL, 'pending_age', s.pending_age > '0',
                                     'state_since', s.state_since IS NOT NULL, 'verified_at', s.verified_at IS NOT NULL, 'last_error_at', s.last_error_at IS NOT NULL,
                                     'old_side_written_at', s.old_side_written_at IS NOT NULL, 'new_side_written_at', s.new_side_written_at IS NOT NULL)) e(k, v)
     WHERE s.migration = 'vi' AND v IS NOT NULL ORDER BY 1
$$;
SET pg_dualwrite.inline_limit = 0;
BEGIN;
SELECT dw_begin('vi', 'vi', 'a', 'int', 'b');
SELECT dw_pause('vi', 'until the test has looked');
COMMIT;
SELECT * FROM vi_status();
SELECT relations, owner FROM dw_status WHERE migration = 'vi';
SELECT dw_resume('vi');
CALL dw_wait('vi');
SELECT * FROM vi_status();
-- when a side was last written: by clients, not by the backfill
INSERT INTO vi (id, a) VALUES (101, '101');
SELECT old_side_written_at > now() - interval '1 hour' AS old, new_side_written_at FROM dw_status WHERE migration = 'vi';
UPDATE vi SET b = 1 WHERE id = 2;
SELECT new_side_written_at > now() - interval '1 hour' AS new FROM dw_status WHERE migration = 'vi';
-- a row a member, where there is a pass to tell about
SELECT datname = current_database() AS here, migration, member, relation, phase, state, blocks_total > 0 AND blocks_done = blocks_total AS all_blocks, rows_done, rows_already, rows_locked, rows_failed,
       throttle_signal, blocked_by, batch_ms >= 0 AS batch_ms, last_batch_at IS NOT NULL AS last_batch_at FROM dw_progress WHERE migration = 'vi';

-- what can't be converted: an error, a row of dw_drift, the way on
UPDATE vi SET a = 'secret' WHERE id = 5;
SELECT * FROM vi_status() WHERE name IN ('drifted', 'unconvertible', 'next_step', 'state', 'rollback_note', 'verified_at');
SELECT rows_checked, drifted, unconvertible FROM dw_verify('vi');
SELECT * FROM vi_status() WHERE name IN ('drifted', 'unconvertible', 'next_step', 'state', 'state_reason', 'last_error', 'rollback_note', 'verified_at');
SELECT migration, relation, row_ctid IS NOT NULL AS ctid, key, old_values, new_values, reason, sqlstate, message, found_at IS NOT NULL AS found_at, repaired_at FROM dw_drift WHERE migration = 'vi';

-- others see that there is a migration, and how it is, but no data
SET ROLE regress_dw_other;
SELECT * FROM vi_status() WHERE name IN ('phase', 'state', 'drifted', 'unconvertible', 'next_step', 'last_error', 'state_reason', 'blockers');
SELECT count(*) FROM dw_drift;
SELECT count(*) > 0 AS events FROM dw_events WHERE migration = 'vi';
SELECT count(*) AS notes FROM dw_events WHERE migration = 'vi' AND (note ~ 'secret' OR detail::text ~ 'secret');
SELECT count(*) FROM dw_options WHERE migration = 'vi';
-- ... nor by a function in a condition that is tried before the view's own
CREATE FUNCTION pg_temp.leak(jsonb) RETURNS boolean COST 0.0000001 LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'leaked: %', $1; RETURN true; END $$;
SET client_min_messages = notice;
SELECT count(*) FROM dw_drift WHERE pg_temp.leak(old_values);
SET client_min_messages = warning;
DROP FUNCTION pg_temp.leak;
RESET ROLE;
SET search_path = vi, public;
SELECT count(*) FROM dw_drift WHERE migration = 'vi';
SET ROLE regress_dw_owner;

-- mended, switched, finalized
UPDATE vi SET a = '5' WHERE id = 5;
SELECT rows_checked, drifted, unconvertible FROM dw_verify('vi');
SELECT old_values, repaired_at IS NOT NULL AS repaired FROM dw_drift WHERE migration = 'vi';
BEGIN;
SELECT dw_switch('vi');
SELECT dw_pause('vi');
COMMIT;
SELECT * FROM vi_status() WHERE name IN ('phase', 'authority', 'next_step', 'rollback_possible', 'rollback_note', 'verified_at');
SELECT rows_checked, drifted, unconvertible FROM dw_verify('vi');
SELECT dw_resume('vi');
SELECT * FROM vi_status();
SELECT dw_finalize('vi');
SELECT * FROM vi_status();
SELECT count(*) FROM dw_progress WHERE migration = 'vi';
SELECT count(*) FROM dw_options WHERE migration = 'vi';
-- all of it is on record
SELECT migration, event, phase_from, phase_to, actor, application_name, pid IS NOT NULL AS pid, note, detail
  FROM dw_events WHERE migration = 'vi' AND application_name = 'views' ORDER BY at;
SELECT event, phase_from, phase_to FROM dw_events WHERE migration = 'vi' AND application_name <> 'views' ORDER BY at;
RESET ROLE;
RESET search_path;
RESET application_name;
RESET client_min_messages;
RESET pg_dualwrite.inline_limit;

-- nobody writes through a view
\set VERBOSITY sqlstate
UPDATE dw_status SET phase = 'ready';
DELETE FROM dw_drift;
\set VERBOSITY default
SET client_min_messages = warning;
DROP SCHEMA vi CASCADE;
DROP ROLE regress_dw_owner, regress_dw_other;
