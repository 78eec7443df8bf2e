--
-- What CREATE EXTENSION brings, and that it goes without a trace.
--
CREATE EXTENSION pg_dualwrite;

-- the public surface: functions and procedures ...
\pset format unaligned
\pset tuples_only on
SELECT format('%s %s(%s)%s%s', CASE p.prokind WHEN 'p' THEN 'procedure' ELSE 'function' END, p.proname,
              pg_get_function_arguments(p.oid), coalesce(' returns ' || pg_get_function_result(p.oid), ''),
              coalesce(c.says, CASE WHEN obj_description(p.oid, 'pg_proc') IS NULL THEN ' HAS NO COMMENT' END))
  FROM pg_proc p
  JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
  JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'pg_dualwrite'
  -- of the comment, the errors it names
  LEFT JOIN LATERAL (SELECT ' raises ' || string_agg(DISTINCT m[1], ' ')
                       FROM regexp_matches(obj_description(p.oid, 'pg_proc'), '\m(\d[0-9A-Z]{4})\M', 'g') m) c(says) ON true
 WHERE p.pronamespace <> 'dualwrite'::regnamespace
 ORDER BY p.proname COLLATE "C", p.oid::regprocedure::text COLLATE "C";

-- ... and views
SELECT format('view %s%s', c.relname, CASE WHEN obj_description(c.oid, 'pg_class') IS NULL THEN ' HAS NO COMMENT' END)
  FROM pg_class c
  JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
  JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'pg_dualwrite'
 WHERE c.relnamespace <> 'dualwrite'::regnamespace
 ORDER BY c.relname COLLATE "C";
\pset format aligned
\pset tuples_only off

-- everything public is named dw_*, everything internal isn't and lives in dualwrite
SELECT n.nspname, o.kind, o.name
  FROM (SELECT 'pg_proc'::regclass AS classid, oid, pronamespace AS nsp, 'function' AS kind, proname AS name FROM pg_proc
        UNION ALL
        SELECT 'pg_class'::regclass, oid, relnamespace, 'relation', relname FROM pg_class
        UNION ALL
        SELECT 'pg_type'::regclass, oid, typnamespace, 'type', typname FROM pg_type WHERE typtype <> 'c' AND typelem = 0) o
  JOIN pg_namespace n ON n.oid = o.nsp
  JOIN pg_depend d ON d.classid = o.classid AND d.objid = o.oid AND d.deptype = 'e'
  JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'pg_dualwrite'
 WHERE (n.nspname = 'dualwrite') = starts_with(o.name, 'dw_')
 ORDER BY 1, 2, 3;

-- nothing internal is for everyone to read or write
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_dw_nobody;
RESET client_min_messages;
CREATE ROLE regress_dw_nobody;
SELECT c.relname, c.relkind
  FROM pg_class c
 WHERE c.relnamespace = 'dualwrite'::regnamespace AND c.relkind IN ('r', 'v', 'm', 'S', 'p')
   AND CASE c.relkind WHEN 'S' THEN has_sequence_privilege('regress_dw_nobody', c.oid, 'USAGE, SELECT, UPDATE')
            ELSE has_table_privilege('regress_dw_nobody', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER') END
 ORDER BY c.relname COLLATE "C";
-- nor to execute, but for what the views call, and mirror(): a dump is restored by tables' owners
-- who make triggers of it
SELECT p.oid::regprocedure
  FROM pg_proc p
 WHERE p.pronamespace = 'dualwrite'::regnamespace AND has_function_privilege('regress_dw_nobody', p.oid, 'EXECUTE')
 ORDER BY p.proname COLLATE "C";
SELECT has_schema_privilege('regress_dw_nobody', 'dualwrite', 'CREATE') AS may_create;
SET ROLE regress_dw_nobody;
SELECT count(*) FROM dualwrite.migration;
UPDATE dualwrite.migration SET phase = 'ready';
-- what is public, everyone may ask
SELECT count(*) FROM dw_status;
SELECT count(*) FROM dw_progress;
SELECT count(*) FROM dw_drift;
SELECT count(*) FROM dw_events;
SELECT count(*) FROM dw_options;
RESET ROLE;
DROP ROLE regress_dw_nobody;

-- the settings
SELECT name, boot_val AS setting, unit, context, vartype, min_val, max_val, enumvals
  FROM pg_settings WHERE name LIKE 'pg\_dualwrite.%' ORDER BY name COLLATE "C";
SET pg_dualwrite.no_such_setting = 1;

-- of its columns, state that an unfinished migration needs goes into a dump
SELECT unnest(extconfig)::regclass AS dumped, unnest(extcondition) AS condition
  FROM pg_extension WHERE extname = 'pg_dualwrite' ORDER BY 1;

-- a running migration keeps the extension from being dropped by accident
CREATE TABLE install_t (id int PRIMARY KEY, a int);
INSERT INTO install_t SELECT i, i FROM generate_series(1, 10) i;
SELECT dw_begin('install', 'install_t', 'a', 'bigint', 'b');
DROP EXTENSION pg_dualwrite;
SELECT migration, phase FROM dw_status;
CREATE ROLE regress_dw_nobody;
SET ROLE regress_dw_nobody;
DROP EXTENSION pg_dualwrite;
DROP EXTENSION pg_dualwrite CASCADE;
RESET ROLE;
DROP ROLE regress_dw_nobody;
SELECT dualwrite.before_drop();
INSERT INTO install_t (id, a) VALUES (11, 11);
SELECT count(*), bool_and(a = b) FROM install_t;

-- on purpose, it goes with everything that it made but the users' columns
SET client_min_messages = warning;
DROP EXTENSION pg_dualwrite CASCADE;
RESET client_min_messages;
SELECT tgname FROM pg_trigger WHERE tgrelid = 'install_t'::regclass;
SELECT nspname FROM pg_namespace WHERE nspname = 'dualwrite';
SELECT count(*) FROM pg_proc WHERE proname ~ '^dw_' OR proname ~ '^m[0-9]+_';
INSERT INTO install_t (id, a) VALUES (12, 12);
SELECT * FROM install_t WHERE id >= 10 ORDER BY id;
DROP TABLE install_t;

-- with no migration under way, or none unfinished, it goes without CASCADE
CREATE SCHEMA install_s;
CREATE EXTENSION pg_dualwrite SCHEMA install_s;
SELECT extnamespace::regnamespace FROM pg_extension WHERE extname = 'pg_dualwrite';
\set VERBOSITY terse
SELECT dw_side('x');
\set VERBOSITY default
CREATE TABLE install_t (id int PRIMARY KEY, a int);
SELECT install_s.dw_begin('schema', 'install_t', 'a', 'bigint', 'b');
SET client_min_messages = warning;
\set VERBOSITY terse
DROP SCHEMA install_s;
\set VERBOSITY default
DROP SCHEMA install_s CASCADE;
RESET client_min_messages;
INSERT INTO install_t VALUES (1, 1, 2);
TABLE install_t;
ALTER TABLE install_t DROP COLUMN b;
CREATE SCHEMA install_s;
CREATE EXTENSION pg_dualwrite SCHEMA install_s;
SELECT install_s.dw_begin('install', 'install_t', 'a', 'bigint', 'b');
SELECT install_s.dw_begin('install2', 'install_t', 'id', 'bigint', 'id2');
SELECT install_s.dw_switch('install');
SELECT install_s.dw_abort('install2');
SELECT install_s.dw_finalize('install');
DROP EXTENSION pg_dualwrite;
DROP SCHEMA install_s;
DROP TABLE install_t;

-- the other tests need it
CREATE EXTENSION pg_dualwrite;
