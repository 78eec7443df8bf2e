/* pg_dualwrite 1.0: installed by CREATE EXTENSION pg_dualwrite */

-- complain if the script is sourced in psql rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION pg_dualwrite" to load this file. \quit

-- nothing below is found anywhere but in pg_catalog; CREATE EXTENSION restores the path
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

/*
 * Everything that is not a verb or a view of the public surface lives in the
 * schema "dualwrite": state tables, the trigger function, and, while a
 * migration is under way, its rules (views m<member>_rules).  The state is
 * written only by the extension's C code, acting as the owner of these tables.
 */
CREATE SCHEMA dualwrite;
GRANT USAGE ON SCHEMA dualwrite TO PUBLIC;

CREATE SEQUENCE dualwrite.migration_id AS integer;
CREATE SEQUENCE dualwrite.member_id AS integer;

/*
 * No foreign keys among these tables: their checks look with the snapshot of
 * the writer's transaction, and a REPEATABLE READ writer of a user's table may
 * be older than the migration that its row has to be recorded for.
 *
 * One row a migration.  phase is what the contract calls it; authority follows
 * from it (new in 'switched', old before).  epoch counts the holes opened in
 * the mirror: a verification counts only while the epoch it began in is still
 * the current one and the marks (catalog versions of triggers and rules) are
 * unchanged.  checking: the token of the pass in chunks
 * that is under way, or 0; while there is one, the mirror looks at every row
 * that it passes.  losses_seen: writes that the old side can't hold are counted
 * by the sequences m<member>_losses; up to this count a clean pass has seen to
 * them.  proven_at: since when every pass found every row consistent, with the
 * proof constraint on the table before the first of them began.  heal: a hole was opened and closed; the next pass goes over
 * inconsistent rows only.
 */
CREATE TABLE dualwrite.migration (
    id              integer PRIMARY KEY,
    name            text NOT NULL,
    owner           text NOT NULL,
    definition      jsonb NOT NULL,
    phase           text NOT NULL CHECK (phase IN ('backfilling', 'building', 'verifying', 'ready', 'switched', 'finalized', 'aborted')),
    phase_since     timestamptz NOT NULL DEFAULT clock_timestamp(),
    mirror          text NOT NULL CHECK (mirror IN ('both', 'forward', 'backward', 'off')),
    conflict        text NOT NULL CHECK (conflict IN ('error', 'old', 'new', 'authority')),
    on_error        text NOT NULL CHECK (on_error IN ('authority', 'reject', 'record')),
    heal            boolean NOT NULL DEFAULT false,
    options         jsonb NOT NULL DEFAULT '{}',
    epoch           bigint NOT NULL DEFAULT 1,
    home            text NOT NULL,
    checking        bigint NOT NULL DEFAULT 0,
    failed          boolean NOT NULL DEFAULT false,
    last_error      text,
    last_error_at   timestamptz,
    verified_at     timestamptz,
    verified_epoch  bigint,
    verified_marks  text,
    verified_lossy  bigint,
    drifted         bigint NOT NULL DEFAULT 0,
    unconvertible   bigint NOT NULL DEFAULT 0,
    started_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at     timestamptz,
    losses_seen     bigint NOT NULL DEFAULT 0,
    proven_at       timestamptz
);
-- a migration that has ended leaves its name free
CREATE UNIQUE INDEX migration_name ON dualwrite.migration (name) WHERE phase NOT IN ('finalized', 'aborted');

/*
 * One row a member.  The columns themselves are named by the view
 * dualwrite.m<id>_rules, which follows renames and dumps; the names here are
 * those of the day it began.  begin_snapshot is the snapshot taken under
 * dw_begin's lock, begin_xids the ids of dw_begin's own transaction that it
 * does not tell apart, begin_fuzzy whether subtransactions overflowed it.
 */
CREATE TABLE dualwrite.member (
    id              integer PRIMARY KEY,
    migration_id    integer NOT NULL,
    ord             integer NOT NULL,
    relation        regclass NOT NULL,
    old_columns     name[] NOT NULL,
    new_columns     name[] NOT NULL,
    created_columns name[] NOT NULL,
    has_backward    boolean NOT NULL,
    filling         boolean NOT NULL,
    begin_snapshot  pg_snapshot,
    begin_xids      xid8[],
    begin_fuzzy     boolean NOT NULL DEFAULT false,
    relfilenode     oid NOT NULL,
    UNIQUE (migration_id, ord)
);

/*
 * How far a pass over a member has come; stored in the commit of each batch.
 * A large table is filled in parts, so that several workers can share it: a
 * part is blocks_total blocks from first_block on, and the first of them that
 * may hold a row not yet visited is first_block + blocks_done.  No CHECK: each
 * batch updates a row, and each statement would parse the constraint again.
 */
CREATE TABLE dualwrite.progress (
    member_id       integer NOT NULL,
    pass            text NOT NULL,          -- fill, verify
    part            integer NOT NULL DEFAULT 0,
    relfilenode     oid NOT NULL,
    epoch           bigint NOT NULL,
    token           bigint NOT NULL DEFAULT 0,
    losses          bigint NOT NULL DEFAULT 0,
    marks           text,
    snapshot        pg_snapshot,
    first_block     bigint NOT NULL DEFAULT 0,
    blocks_total    bigint NOT NULL,
    blocks_done     bigint NOT NULL DEFAULT 0,
    rows_estimated  bigint NOT NULL DEFAULT 0,
    rows_done       bigint NOT NULL DEFAULT 0,
    rows_already    bigint NOT NULL DEFAULT 0,
    rows_locked     bigint NOT NULL DEFAULT 0,
    rows_failed     bigint NOT NULL DEFAULT 0,
    rows_drifted    bigint NOT NULL DEFAULT 0,
    rows_lossy      bigint NOT NULL DEFAULT 0,
    wal_bytes       bigint NOT NULL DEFAULT 0,
    throttled_ms    bigint NOT NULL DEFAULT 0,
    throttled_by    jsonb NOT NULL DEFAULT '{}',
    batch_ms        float8 NOT NULL DEFAULT 0,
    rows_per_second float8 NOT NULL DEFAULT 0,
    started_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_batch_at   timestamptz,
    finished        boolean NOT NULL DEFAULT false,
    PRIMARY KEY (member_id, pass, part)
) WITH (fillfactor = 50);

-- blocks that the fill passed while a row in them was locked by someone else
CREATE TABLE dualwrite.skipped (
    member_id       integer NOT NULL,
    block           bigint NOT NULL,
    PRIMARY KEY (member_id, block)
);

-- what the worker of a migration says of itself
CREATE TABLE dualwrite.worker (
    migration_id    integer PRIMARY KEY,
    pid             integer,
    state           text NOT NULL,
    reason          text,
    since           timestamptz NOT NULL DEFAULT clock_timestamp(),
    heartbeat_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    blocked_by      integer[] NOT NULL DEFAULT '{}',
    throttle_signal text,
    throttle_subject text,
    throttle_value  float8,
    throttle_limit  float8,
    replica_lag     jsonb
) WITH (fillfactor = 50);

-- pause has a row of its own, so that dw_pause never waits for a transition;
-- standbys: the names of those that have been there, null until a worker has
-- looked; on another timeline (one of them is the primary now) they mean nothing
CREATE TABLE dualwrite.control (
    migration_id    integer PRIMARY KEY,
    paused          boolean NOT NULL DEFAULT false,
    reason          text,
    since           timestamptz NOT NULL DEFAULT clock_timestamp(),
    standbys        text[],
    timeline        bigint
);

CREATE TABLE dualwrite.drift (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    member_id       integer NOT NULL,
    row_ctid        tid,
    key             jsonb,
    old_values      jsonb,
    new_values      jsonb,
    reason          text NOT NULL,
    sqlstate        text,
    message         text,
    found_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    xid             xid8 NOT NULL DEFAULT pg_current_xact_id(),
    repaired_at     timestamptz
);
CREATE INDEX drift_open ON dualwrite.drift (member_id, row_ctid) WHERE repaired_at IS NULL;
-- by hash: a key may be as large as an index of the table allows, and is larger here
CREATE INDEX drift_open_key ON dualwrite.drift USING hash (key) WHERE repaired_at IS NULL;

CREATE TABLE dualwrite.event (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at              timestamptz NOT NULL DEFAULT clock_timestamp(),
    migration_id    integer,
    migration       text NOT NULL,
    event           text NOT NULL,
    phase_from      text,
    phase_to        text,
    actor           text NOT NULL DEFAULT session_user,
    application_name text DEFAULT current_setting('application_name'),
    pid             integer NOT NULL DEFAULT pg_backend_pid(),
    note            text,
    detail          jsonb
);

/*
 * Fault points that are armed, for rehearsals: nothing that a dump takes along.
 * The sequence of the slot counts how often a fault happened, base is where it
 * stood when the point was armed.
 */
CREATE TABLE dualwrite.fault (
    slot            integer PRIMARY KEY,
    point           text NOT NULL,
    migration       text,
    action          text NOT NULL CHECK (action IN ('error', 'crash', 'sleep')),
    times           bigint,
    base            bigint NOT NULL,
    probability     float8 NOT NULL,
    delay_ms        float8 NOT NULL,
    sqlstate        text NOT NULL,
    armed_at        timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE SEQUENCE dualwrite.fault_1;
CREATE SEQUENCE dualwrite.fault_2;
CREATE SEQUENCE dualwrite.fault_3;
CREATE SEQUENCE dualwrite.fault_4;
CREATE SEQUENCE dualwrite.fault_5;
CREATE SEQUENCE dualwrite.fault_6;
CREATE SEQUENCE dualwrite.fault_7;
CREATE SEQUENCE dualwrite.fault_8;

/*
 * What an unfinished migration needs to go on in a restored copy.  Progress is
 * not kept (a restored table is another heap), nor drift and events, which
 * hold data of the table.  Finished migrations are kept so that repeating
 * their files stays a no-op.
 */
SELECT pg_catalog.pg_extension_config_dump('dualwrite.migration_id', '');
SELECT pg_catalog.pg_extension_config_dump('dualwrite.member_id', '');
SELECT pg_catalog.pg_extension_config_dump('dualwrite.migration', $$WHERE phase <> 'aborted'$$);
SELECT pg_catalog.pg_extension_config_dump('dualwrite.member', $$WHERE migration_id IN (SELECT id FROM dualwrite.migration WHERE phase NOT IN ('aborted', 'finalized'))$$);

-- so that pg_dump of the database's owner, who need not be a superuser, goes on working
GRANT SELECT ON dualwrite.migration, dualwrite.member, dualwrite.migration_id, dualwrite.member_id TO pg_database_owner;

/* ---- internals; what the views call is executed by whoever reads them ---- */

CREATE FUNCTION dualwrite.mirror() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'dw_mirror';
COMMENT ON FUNCTION dualwrite.mirror() IS
    'row trigger of pg_dualwrite: keeps the old and the new side of a member consistent (arguments: member id; "first" where another one follows)';

-- before DROP EXTENSION locks anything (drop.c)
CREATE FUNCTION dualwrite.before_drop() RETURNS event_trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'dw_before_drop';
COMMENT ON FUNCTION dualwrite.before_drop() IS
    'event trigger of pg_dualwrite: DROP EXTENSION waits for writers of the tables that are mirrored, and is refused without CASCADE while a migration is under way';
CREATE EVENT TRIGGER dualwrite_before_drop ON ddl_command_start WHEN TAG IN ('DROP EXTENSION', 'DROP SCHEMA')
    EXECUTE FUNCTION dualwrite.before_drop();
ALTER EVENT TRIGGER dualwrite_before_drop ENABLE ALWAYS;

CREATE FUNCTION dualwrite.known_options(OUT name text, OUT unit text, OUT fallback text, OUT source text, OUT changeable text, OUT description text)
    RETURNS SETOF record LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'dw_known_options';

CREATE FUNCTION dualwrite.known_faults(OUT point text, OUT description text)
    RETURNS SETOF record LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'dw_known_faults';

-- is the option window open at that instant?
CREATE FUNCTION dualwrite.window_open("window" text, at timestamptz) RETURNS boolean
    LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'dw_window_open_sql';

-- may the reader see what PostgreSQL's own monitoring shows of standbys?
CREATE FUNCTION dualwrite.may_monitor() RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    RETURN pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE');

CREATE FUNCTION dualwrite.home() RETURNS text
    LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'dw_home_sql';

-- the value of a sequence, by a look that waits for no lock and leaves none; NULL for one that is being dropped
CREATE FUNCTION dualwrite.sequence_value(sequence oid) RETURNS bigint
    LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'dw_sequence_value';

-- 95 % upper bound of the rate of drift, where of n writes that were read back k had drifted (Clopper and Pearson)
CREATE FUNCTION dualwrite.drift_bound(n bigint, k bigint) RETURNS float8
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'dw_drift_bound';

-- whose a migration is: the owner of its (first) table; where that is gone, who owned it when it began
CREATE VIEW dualwrite.owners AS
SELECT m.id, coalesce((SELECT c.relowner FROM dualwrite.member o JOIN pg_catalog.pg_class c ON c.oid = o.relation
                        WHERE o.migration_id = m.id ORDER BY o.ord LIMIT 1), to_regrole(quote_ident(m.owner))::oid) AS owner
  FROM dualwrite.migration m;

-- do two values have the same image?  For the proof constraint: CHECK constraints run as whoever writes
CREATE FUNCTION dualwrite.same("any", "any") RETURNS boolean
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'dw_same';

-- the proof constraint of a member; NULL if its table has none
CREATE FUNCTION dualwrite.proof_constraint(member integer, relation oid) RETURNS oid
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    BEGIN ATOMIC
    SELECT c.oid FROM pg_catalog.pg_constraint c
     WHERE c.conrelid = relation AND c.contype = 'c' AND c.conname = 'dualwrite_m' || member || '_proof'
       -- from PostgreSQL 19 on it may not be enforced
       AND coalesce((pg_catalog.to_jsonb(c) ->> 'conenforced')::boolean, true)
       AND EXISTS (SELECT 1 FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND d.objid = c.oid
                      AND d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.refobjid = 'dualwrite.same'::pg_catalog.regproc);
    END;

-- what is wrong with the triggers of a member; NULL if nothing.  As dw_attach_problem() sees it, without a lock on the table
CREATE FUNCTION dualwrite.mirror_problem(member integer, relation oid) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    BEGIN ATOMIC
    SELECT CASE WHEN s.last IS NULL THEN pg_catalog.format('the mirror''s trigger on table "%s" is missing', s.relname)
                WHEN s.disabled THEN pg_catalog.format('the mirror''s trigger on table "%s" is not enabled ALWAYS', s.relname)
                WHEN s.highest > s.last THEN pg_catalog.format('trigger "%s" of table "%s" fires after the mirror''s', s.highest, s.relname) END
      FROM (SELECT r.relname,
                   pg_catalog.max(t.tgname COLLATE "C") FILTER (WHERE t.ours AND t.tgnargs = 1) AS last,
                   pg_catalog.bool_or(t.tgenabled <> 'A') FILTER (WHERE t.ours) AS disabled,
                   pg_catalog.max(t.tgname COLLATE "C") FILTER (WHERE t.tgfoid <> 'dualwrite.mirror'::pg_catalog.regproc) AS highest
              FROM pg_catalog.pg_class r
              LEFT JOIN (SELECT g.*, g.tgfoid = 'dualwrite.mirror'::pg_catalog.regproc
                                AND pg_catalog.substr(g.tgargs, 1, pg_catalog.length(member::pg_catalog.text) + 1)
                                    = pg_catalog.decode(member::pg_catalog.text, 'escape') || '\x00'::pg_catalog.bytea AS ours
                           FROM pg_catalog.pg_trigger g
                          -- BEFORE ROW triggers on INSERT or UPDATE
                          WHERE g.tgrelid = relation AND NOT g.tgisinternal AND g.tgtype & 3 = 3 AND g.tgtype & 20 <> 0) t ON true
             WHERE r.oid = relation
             GROUP BY r.relname) s;
    END;

-- versions, in the system catalogs, of everything that a verification relies on:
-- our triggers, row triggers that fire after them, the rules, what they call and
-- the columns that they name, the proof constraint (whether it is VALIDATEd makes no difference)
CREATE FUNCTION dualwrite.marks(member integer, relation oid) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    BEGIN ATOMIC
    SELECT pg_catalog.md5(coalesce(pg_catalog.string_agg(v, ',' ORDER BY v COLLATE "C"), ''))
      FROM (SELECT pg_catalog.format('t%s:%s:%s:%s', t.oid, t.xmin, t.tgenabled, t.tgname)
              FROM pg_catalog.pg_trigger t
             WHERE t.tgrelid = relation AND NOT t.tgisinternal
               AND (t.tgfoid = 'dualwrite.mirror'::pg_catalog.regproc
                    AND pg_catalog.substr(t.tgargs, 1, pg_catalog.length(member::pg_catalog.text) + 1)
                        = pg_catalog.decode(member::pg_catalog.text, 'escape') || '\x00'::pg_catalog.bytea
                    -- BEFORE ROW triggers that could undo what the mirror did
                    OR t.tgfoid <> 'dualwrite.mirror'::pg_catalog.regproc AND t.tgtype & 3 = 3 AND t.tgtype & 20 <> 0
                       AND t.tgname COLLATE "C" > (SELECT pg_catalog.max(o.tgname COLLATE "C") FROM pg_catalog.pg_trigger o
                                                    WHERE o.tgrelid = relation AND o.tgfoid = 'dualwrite.mirror'::pg_catalog.regproc))
            UNION ALL
            SELECT pg_catalog.format('r%s:%s', w.oid, w.xmin)
              FROM pg_catalog.pg_depend v JOIN pg_catalog.pg_class k ON k.oid = v.objid JOIN pg_catalog.pg_rewrite w ON w.ev_class = k.oid
             WHERE v.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND v.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
               AND v.refobjid = relation AND v.refobjsubid = 0 AND v.deptype = 'a' AND k.relname = 'm' || member || '_rules'
            UNION ALL
            SELECT pg_catalog.format('p%s:%s', c.oid, c.conbin)
              FROM pg_catalog.pg_constraint c WHERE c.oid = dualwrite.proof_constraint(member, relation)
            UNION ALL
            SELECT DISTINCT pg_catalog.format('a%s:%s:%s:%s', a.attnum, a.atttypid, a.atttypmod, a.attcollation)
              FROM pg_catalog.pg_depend v JOIN pg_catalog.pg_class r ON r.oid = v.objid JOIN pg_catalog.pg_rewrite w ON w.ev_class = r.oid
              JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = w.oid
               AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = relation
              JOIN pg_catalog.pg_attribute a ON a.attrelid = relation AND a.attnum = d.refobjsubid
             WHERE v.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND v.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
               AND v.refobjid = relation AND v.refobjsubid = 0 AND v.deptype = 'a' AND r.relname = 'm' || member || '_rules'
            UNION ALL
            SELECT DISTINCT pg_catalog.format('c%s:%s', c.oid, c.xmin)
              FROM pg_catalog.pg_depend v JOIN pg_catalog.pg_class r ON r.oid = v.objid JOIN pg_catalog.pg_rewrite w ON w.ev_class = r.oid
              JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = w.oid
              LEFT JOIN pg_catalog.pg_operator o ON d.refclassid = 'pg_catalog.pg_operator'::pg_catalog.regclass AND o.oid = d.refobjid
              LEFT JOIN pg_catalog.pg_cast k ON d.refclassid = 'pg_catalog.pg_cast'::pg_catalog.regclass AND k.oid = d.refobjid
              JOIN pg_catalog.pg_proc c ON c.oid = CASE WHEN d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass THEN d.refobjid
                                                        ELSE coalesce(o.oprcode::pg_catalog.oid, k.castfunc) END
             WHERE v.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND v.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
               AND v.refobjid = relation AND v.refobjsubid = 0 AND v.deptype = 'a' AND r.relname = 'm' || member || '_rules') s(v);
    END;

/* ---- verbs ---- */

CREATE FUNCTION @extschema@.dw_begin(migration text, relation regclass, old_column name, new_type text DEFAULT NULL,
                         new_column name DEFAULT NULL, forward text DEFAULT NULL, backward text DEFAULT NULL,
                         options jsonb DEFAULT '{}')
    RETURNS text LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dw_begin';
COMMENT ON FUNCTION @extschema@.dw_begin(text, regclass, name, text, name, text, text, jsonb) IS
    'begin a migration of one column: creates new_column where it is absent (type new_type), mirrors every write both ways and starts the backfill. forward gives the new column from the row, backward the old one; left out, a cast. Errors: 42710 name in use, 42P01/42703, 42501 not the owner, 42804/42P17 expression, 22023 option, 55P03 lock';

CREATE FUNCTION @extschema@.dw_begin_mapping(migration text, relation regclass, old_columns name[], forward jsonb,
                                 backward jsonb DEFAULT NULL, new_types jsonb DEFAULT '{}', options jsonb DEFAULT '{}')
    RETURNS text LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dw_begin_mapping';
COMMENT ON FUNCTION @extschema@.dw_begin_mapping(text, regclass, name[], jsonb, jsonb, jsonb, jsonb) IS
    'begin a migration of several columns (split, merge): forward and backward map column name to expression, new_types column name to the type of a column to create. Only old_columns are dropped at the end. Errors as dw_begin';

CREATE FUNCTION @extschema@.dw_begin_table(migration text, old_relation regclass, new_relation regclass, forward jsonb DEFAULT NULL,
                               backward jsonb DEFAULT NULL, key_columns name[] DEFAULT NULL, options jsonb DEFAULT '{}')
    RETURNS text LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dw_not_supported';
COMMENT ON FUNCTION @extschema@.dw_begin_table(text, regclass, regclass, jsonb, jsonb, name[], jsonb) IS
    'table to table migrations: not supported by this version (0A000)';

CREATE FUNCTION @extschema@.dw_plan(migration text) RETURNS TABLE (step integer, command text, lock_mode text, blocks text, estimate text, note text)
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dw_not_supported';
COMMENT ON FUNCTION @extschema@.dw_plan(text) IS 'what a migration will do: not supported by this version (0A000)';

CREATE FUNCTION @extschema@.dw_plan(migration text, relation regclass, old_column name, new_type text DEFAULT NULL,
                        new_column name DEFAULT NULL, forward text DEFAULT NULL, backward text DEFAULT NULL, options jsonb DEFAULT '{}')
    RETURNS TABLE (step integer, command text, lock_mode text, blocks text, estimate text, note text)
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dw_not_supported';
COMMENT ON FUNCTION @extschema@.dw_plan(text, regclass, name, text, name, text, text, jsonb) IS 'what a migration would do: not supported by this version (0A000)';

CREATE FUNCTION @extschema@.dw_expose(migration text, old_schema name, new_schema name)
    RETURNS text LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dw_not_supported';
COMMENT ON FUNCTION @extschema@.dw_expose(text, name, name) IS 'versioned schemas: not supported by this version (0A000)';

CREATE FUNCTION @extschema@.dw_pause(migration text, reason text DEFAULT NULL)
    RETURNS text LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dw_pause';
COMMENT ON FUNCTION @extschema@.dw_pause(text, text) IS
    'stop background work after the current batch; the mirror stays on. Takes no table lock. Errors: 42704, 42501, 55000 finished';

CREATE FUNCTION @extschema@.dw_resume(migration text)
    RETURNS text LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dw_resume';
COMMENT ON FUNCTION @extschema@.dw_resume(text) IS
    'go on after dw_pause or a failure, and adopt a restored copy. Errors: 42704, 42501, 55000 finished, 55P03 lock';

CREATE FUNCTION @extschema@.dw_set(migration text, options jsonb)
    RETURNS text LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dw_set';
COMMENT ON FUNCTION @extschema@.dw_set(text, jsonb) IS
    'merge options while the migration runs; null resets one to its default. mirror, conflict and on_error take SHARE ROW EXCLUSIVE in short tries, except mirror off, which takes no table lock. Errors: 22023 unknown option or value, 42704, 42501, 55P03';

CREATE FUNCTION @extschema@.dw_verify(migration text, sample float8 DEFAULT 1.0,
                          OUT rows_checked bigint, OUT drifted bigint, OUT unconvertible bigint, OUT seconds float8)
    RETURNS record LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dw_verify';
COMMENT ON FUNCTION @extschema@.dw_verify(text, float8) IS
    'compare both sides of every row (sample: the fraction of blocks, 0 < sample <= 1) in one snapshot; rows that differ stand in dw_drift. Changes no row of the table. Errors: 42704, 42501, 22023, 55000 finished';

CREATE PROCEDURE @extschema@.dw_reconcile(migration text, repair boolean DEFAULT true)
    LANGUAGE c AS 'MODULE_PATHNAME', 'dw_reconcile';
COMMENT ON PROCEDURE @extschema@.dw_reconcile(text, boolean) IS
    'compare both sides of every row in chunks, one transaction each, and repair rows that differ from the side in authority, under row lock after checking again. Errors: 25001 inside a transaction block, 42704, 42501, 55000 finished';

CREATE FUNCTION @extschema@.dw_switch(migration text)
    RETURNS text LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dw_switch';
COMMENT ON FUNCTION @extschema@.dw_switch(text) IS
    'move authority to the new side; the old side stays in sync. Takes SHARE ROW EXCLUSIVE in short tries. Errors: 55000 says what is missing, 42704, 42501, 55P03';

CREATE FUNCTION @extschema@.dw_rollback(migration text)
    RETURNS text LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dw_rollback';
COMMENT ON FUNCTION @extschema@.dw_rollback(text) IS
    'the inverse of dw_switch: authority returns to the old side, nothing is dropped. Takes SHARE ROW EXCLUSIVE in short tries. Errors: 55000, 42704, 42501, 55P03';

CREATE FUNCTION @extschema@.dw_finalize(migration text, drop_old boolean DEFAULT NULL)
    RETURNS text LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dw_finalize';
COMMENT ON FUNCTION @extschema@.dw_finalize(text, boolean) IS
    'end the migration: drops the mirror and (drop_old null or true) the old columns. Takes ACCESS EXCLUSIVE in short tries. Errors: 55000 not switched, not verified since, or no counterpart on the new side; 2BP01 dependents; 42704, 42501, 55P03';

CREATE FUNCTION @extschema@.dw_abort(migration text, accept_loss boolean DEFAULT false)
    RETURNS text LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dw_abort';
COMMENT ON FUNCTION @extschema@.dw_abort(text, boolean) IS
    'give the migration up: removes the mirror and the columns that dw_begin created. Refused (55000) where the new side holds what the old cannot, unless accept_loss. Takes ACCESS EXCLUSIVE in short tries. Errors: 42704, 42501, 2BP01, 55P03';

CREATE FUNCTION @extschema@.dw_side(migration text)
    RETURNS text LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'dw_side';
COMMENT ON FUNCTION @extschema@.dw_side(text) IS
    'the side to read, old or new: pg_dualwrite.side where the session sets it, old before the switch, new after it. Works on standbys. Errors: 42704';

CREATE FUNCTION @extschema@.dw_side(migration text, key text)
    RETURNS text LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'dw_not_supported';
COMMENT ON FUNCTION @extschema@.dw_side(text, text) IS 'the side to read for a key: not supported by this version (0A000)';

CREATE FUNCTION @extschema@.dw_side(migration text, key anyelement)
    RETURNS text LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'dw_not_supported';
COMMENT ON FUNCTION @extschema@.dw_side(text, anyelement) IS 'the side to read for a key: not supported by this version (0A000)';

CREATE FUNCTION @extschema@.dw_require(migration text, phase text DEFAULT 'ready')
    RETURNS text LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'dw_require';
COMMENT ON FUNCTION @extschema@.dw_require(text, text) IS
    'for migration files: returns where the migration is at or beyond phase, raises 55000 at once where it is not. Errors: 42704, 22023 unknown phase';

CREATE PROCEDURE @extschema@.dw_wait(migration text, phase text DEFAULT 'ready', timeout interval DEFAULT '1 hour')
    LANGUAGE c AS 'MODULE_PATHNAME', 'dw_wait';
COMMENT ON PROCEDURE @extschema@.dw_wait(text, text, interval) IS
    'wait, holding no snapshot, until the migration is at or beyond phase; starts a missing worker. Errors: 25001 inside a transaction block, 55000 failed or aborted, 57014 timeout, 42704, 22023';

CREATE FUNCTION @extschema@.dw_ensure_workers()
    RETURNS integer LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dw_ensure_workers';
COMMENT ON FUNCTION @extschema@.dw_ensure_workers() IS
    'start the missing workers of this database and return how many were started (for cron, after a restart or failover without preload). Errors: 53400 no background worker slot is free';

CREATE FUNCTION @extschema@.dw_fault(point text, action text DEFAULT 'error', times bigint DEFAULT 1, probability float8 DEFAULT 1,
                         delay interval DEFAULT '1 second', sqlstate text DEFAULT 'XX000', migration text DEFAULT NULL)
    RETURNS text LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dw_fault';
COMMENT ON FUNCTION @extschema@.dw_fault(text, text, bigint, float8, interval, text, text) IS
    'for rehearsals, superusers only: arm a fault point (dw_faults lists them) for all sessions and workers. action: error (with sqlstate), crash (the process kills itself, and the server restarts), sleep (for delay). times null: no limit; migration null: any. Errors: 42501, 22023, 53400 all slots in use';
REVOKE EXECUTE ON FUNCTION @extschema@.dw_fault(text, text, bigint, float8, interval, text, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.dw_fault_off(point text DEFAULT NULL)
    RETURNS text LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'dw_fault_off';
COMMENT ON FUNCTION @extschema@.dw_fault_off(text) IS
    'for superusers: disarm a fault point, or (null) all of them. Errors: 42501, 22023';
REVOKE EXECUTE ON FUNCTION @extschema@.dw_fault_off(text) FROM PUBLIC;

/* ---- views ---- */

CREATE VIEW @extschema@.dw_faults AS
SELECT k.point, k.description, f.action, f.migration, f.times,
       least(coalesce(dualwrite.sequence_value(pg_catalog.to_regclass('dualwrite.fault_' || f.slot)), 0) - f.base, f.times) AS fired,
       f.probability, make_interval(secs => f.delay_ms / 1000) AS delay, f.sqlstate, f.armed_at
  FROM dualwrite.known_faults() k LEFT JOIN dualwrite.fault f ON f.point = k.point;
COMMENT ON VIEW @extschema@.dw_faults IS 'the fault points of a rehearsal, a row each, and what is armed there (action null: nothing)';
GRANT SELECT ON @extschema@.dw_faults TO PUBLIC;

CREATE VIEW @extschema@.dw_progress AS
-- on a standby there is no worker, but what the primary's says of itself comes here, too
SELECT w.here AS pid, d.oid AS datid, d.datname, m.name AS migration, b.ord AS member, b.relation, m.phase,
       coalesce(w.state, 'no_worker') AS state,
       coalesce(p.blocks_total, 0) AS blocks_total, coalesce(p.blocks_done, 0) AS blocks_done, coalesce(p.rows_estimated, 0) AS rows_estimated,
       coalesce(p.rows_done, 0) AS rows_done, coalesce(p.rows_already, 0) AS rows_already, coalesce(p.rows_locked, 0) AS rows_locked,
       coalesce(p.rows_failed, 0) AS rows_failed, coalesce(p.rows_per_second, 0) AS rows_per_second, coalesce(p.wal_bytes, 0) AS wal_bytes,
       CASE WHEN p.last_batch_at > p.started_at THEN p.wal_bytes / extract(epoch FROM p.last_batch_at - p.started_at)::float8 ELSE 0 END AS wal_bytes_per_second,
       w.throttle_signal,
       -- a standby's name is shown to those to whom pg_stat_replication shows it; an error of the owner's query to the owner
       CASE WHEN dualwrite.may_monitor() OR w.throttle_signal <> 'replica_lag'
                 AND coalesce(pg_catalog.pg_has_role((SELECT o.owner FROM dualwrite.owners o WHERE o.id = m.id), 'USAGE'), false)
            THEN w.throttle_subject END AS throttle_subject,
       w.throttle_value, w.throttle_limit,
       round(coalesce(p.throttled_ms, 0) / 1000.0, 3) AS throttled_seconds,
       coalesce((SELECT jsonb_object_agg(t.key, round(t.value::numeric / 1000, 3)) FROM jsonb_each_text(p.throttled_by) t), '{}') AS throttled_by,
       CASE WHEN w.here IS NOT NULL THEN w.blocked_by ELSE '{}' END AS blocked_by, coalesce(p.batch_ms, 0) AS batch_ms, p.last_batch_at
  FROM dualwrite.migration m
  JOIN dualwrite.member b ON b.migration_id = m.id
  LEFT JOIN LATERAL (SELECT q.pass, sum(q.blocks_total)::bigint AS blocks_total, sum(q.blocks_done)::bigint AS blocks_done, sum(q.rows_estimated)::bigint AS rows_estimated,
                            sum(q.rows_done)::bigint AS rows_done, sum(q.rows_already)::bigint AS rows_already, sum(q.rows_locked)::bigint AS rows_locked,
                            sum(q.rows_failed)::bigint AS rows_failed, sum(q.rows_per_second) FILTER (WHERE NOT q.finished) AS rows_per_second,
                            sum(q.wal_bytes)::bigint AS wal_bytes, sum(q.throttled_ms) AS throttled_ms, min(q.started_at) AS started_at,
                            max(q.last_batch_at) AS last_batch_at,
                            (array_agg(q.batch_ms ORDER BY q.last_batch_at DESC NULLS LAST))[1] AS batch_ms,
                            (array_agg(q.throttled_by ORDER BY q.part))[1] AS throttled_by
                       FROM dualwrite.progress q WHERE q.member_id = b.id GROUP BY q.pass
                      ORDER BY q.pass <> CASE WHEN m.phase = 'backfilling' OR m.heal THEN 'fill' ELSE 'verify' END LIMIT 1) p ON true
  LEFT JOIN LATERAL (SELECT k.*, l.pid AS here FROM dualwrite.worker k
                      LEFT JOIN pg_catalog.pg_locks l ON l.locktype = 'advisory' AND l.objsubid = 208 AND l.objid = 0
                           AND l.classid = k.migration_id::oid AND l.pid = k.pid AND l.granted
                           AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
                     WHERE k.migration_id = m.id
                       AND (l.pid IS NOT NULL OR pg_is_in_recovery() AND k.heartbeat_at > clock_timestamp() - interval '1 minute')) w ON true
 CROSS JOIN pg_catalog.pg_database d
 WHERE d.datname = current_database() AND m.phase NOT IN ('finalized', 'aborted');
COMMENT ON VIEW @extschema@.dw_progress IS 'one row an active member: how far its current pass (backfill or verification) is and what holds it';
GRANT SELECT ON @extschema@.dw_progress TO PUBLIC;

CREATE VIEW @extschema@.dw_status AS
WITH live AS (
    SELECT l.classid::integer AS migration_id, array_agg(l.pid ORDER BY l.objid) AS pids
      FROM pg_catalog.pg_locks l
     WHERE l.locktype = 'advisory' AND l.objsubid = 208 AND l.granted
       AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
     GROUP BY 1
), prog AS (
    SELECT b.migration_id, p.pass, sum(p.blocks_total) AS blocks_total, sum(p.blocks_done) AS blocks_done,
           sum(CASE WHEN p.rows_estimated > 0 OR p.blocks_done = 0 THEN p.rows_estimated
                    ELSE (p.rows_done + p.rows_already) * p.blocks_total / p.blocks_done END) AS rows_estimated, sum(p.rows_per_second) FILTER (WHERE NOT p.finished) AS rows_per_second,
           min(p.started_at) AS started_at, max(p.last_batch_at) AS last_batch_at, bool_and(p.finished) AS finished,
           sum((SELECT count(*) FROM dualwrite.skipped s WHERE s.member_id = b.id)) AS skipped
      FROM dualwrite.member b JOIN dualwrite.progress p ON p.member_id = b.id
     GROUP BY 1, 2
), base AS (
    SELECT m.*, l.pids, w.state AS w_state, w.reason AS w_reason, w.since AS w_since, w.heartbeat_at, w.blocked_by, w.replica_lag,
           CASE WHEN w.throttle_signal <> 'window' AND w.state = 'throttled' AND w.reason = w.throttle_signal
                THEN format(': %s, limit %s', round(w.throttle_value::numeric, 1), round(w.throttle_limit::numeric, 1)) END AS w_values,
           pg_is_in_recovery() AS standby,
           c.paused, c.reason AS pause_reason, c.since AS pause_since,
           m.home <> dualwrite.home() AS copied,
           m.verified_at IS NOT NULL AND m.verified_epoch = m.epoch
             AND m.verified_marks = (SELECT pg_catalog.string_agg(dualwrite.marks(b.id, b.relation), ' ' ORDER BY b.ord)
                                       FROM dualwrite.member b WHERE b.migration_id = m.id) AS verified,
           coalesce((m.options ->> 'proof')::boolean, false) AS proof,
           coalesce((m.options ->> 'proof')::boolean, false) AND (SELECT bool_and(dualwrite.proof_constraint(b.id, b.relation) IS NOT NULL)
                                                                    FROM dualwrite.member b WHERE b.migration_id = m.id) AS proof_present,
           (SELECT count(DISTINCT coalesce(d.key::text, d.row_ctid::text, d.id::text)) FROM dualwrite.drift d JOIN dualwrite.member b ON b.id = d.member_id
             WHERE b.migration_id = m.id AND d.repaired_at IS NULL) AS open_drift,
           (SELECT count(DISTINCT coalesce(d.key::text, d.row_ctid::text, d.id::text)) FROM dualwrite.drift d JOIN dualwrite.member b ON b.id = d.member_id
             WHERE b.migration_id = m.id AND d.repaired_at IS NULL AND d.reason = 'unconvertible') AS open_unconvertible,
           NOT EXISTS (SELECT 1 FROM dualwrite.member b WHERE b.migration_id = m.id AND NOT b.has_backward) AS two_way,
           (SELECT bool_and(EXISTS (SELECT 1 FROM pg_catalog.pg_class r WHERE r.oid = b.relation)) FROM dualwrite.member b WHERE b.migration_id = m.id) AS present,
           CASE WHEN m.phase NOT IN ('finalized', 'aborted') AND m.home = dualwrite.home()
                THEN (SELECT min(dualwrite.mirror_problem(b.id, b.relation)) FROM dualwrite.member b WHERE b.migration_id = m.id) END AS mirror_problem,
           (SELECT array_agg(b.relation ORDER BY b.ord) FROM dualwrite.member b WHERE b.migration_id = m.id) AS relations,
           coalesce(pg_catalog.pg_has_role((SELECT w.owner FROM dualwrite.owners w WHERE w.id = m.id), 'USAGE'), false) AS mine,
           (SELECT w.owner FROM dualwrite.owners w WHERE w.id = m.id)::regrole AS owner_now,
           CASE WHEN pg_catalog.pg_has_role((SELECT w.owner FROM dualwrite.owners w WHERE w.id = m.id), 'USAGE') THEN m.losses_seen <
             (SELECT coalesce(sum(dualwrite.sequence_value(q.oid)), 0) FROM dualwrite.member b JOIN pg_catalog.pg_class q ON q.relkind = 'S'
               AND q.relnamespace = 'dualwrite'::regnamespace AND q.relname = 'm' || b.id || '_losses' WHERE b.migration_id = m.id) ELSE false END AS lossy
      FROM dualwrite.migration m
      LEFT JOIN live l ON l.migration_id = m.id
      LEFT JOIN dualwrite.worker w ON w.migration_id = m.id
      LEFT JOIN dualwrite.control c ON c.migration_id = m.id
), st AS (
    SELECT b.*,
           b.mirror = 'both' AND (b.phase IN ('backfilling', 'building', 'verifying') OR b.heal) OR b.mirror = 'both' AND (b.phase IN ('ready', 'switched') AND b.two_way
             AND (NOT coalesce(b.verified, false) OR b.phase = 'switched' AND b.verified_at < b.phase_since))
             OR b.mirror = 'both' AND b.phase IN ('ready', 'switched') AND b.proof AND NOT (coalesce(b.verified, false) AND b.proof_present AND b.proven_at IS NOT NULL)
             AND b.open_drift = 0 AS work,
           coalesce(b.verified, false) AND b.proof_present AND b.proven_at IS NOT NULL AS proven,
           p.blocks_total, p.blocks_done, p.rows_estimated, p.rows_per_second AS rate, p.started_at AS pass_started, p.last_batch_at, p.skipped
      FROM base b
      LEFT JOIN prog p ON p.migration_id = b.id
           AND p.pass = CASE WHEN b.phase = 'backfilling' OR b.heal THEN 'fill' ELSE 'verify' END
), fin AS (
    SELECT s.*, q.samples, q.sample_drift,
           CASE WHEN s.phase IN ('finalized', 'aborted') THEN 'idle'
                WHEN NOT coalesce(s.present, false) THEN 'failed'
                WHEN s.failed OR s.mirror_problem IS NOT NULL THEN 'failed'
                WHEN s.copied OR coalesce(s.paused, false) THEN 'paused'
                WHEN s.mirror <> 'both' THEN 'waiting'
                -- what the primary has reported lately
                WHEN s.work AND s.standby THEN CASE WHEN greatest(s.heartbeat_at, s.last_batch_at) > clock_timestamp() - interval '1 minute'
                                                    THEN coalesce(s.w_state, 'no_worker') ELSE 'no_worker' END
                WHEN s.work AND s.pids IS NULL THEN 'no_worker'
                WHEN s.work OR s.pids IS NOT NULL AND s.checking <> 0 THEN coalesce(nullif(s.w_state, 'idle'), 'running')
                ELSE 'idle' END AS state_now,
           CASE WHEN s.phase IN ('ready', 'switched', 'finalized') AND NOT s.heal THEN 100
                WHEN s.phase = 'aborted' THEN NULL
                WHEN coalesce(s.blocks_total, 0) = 0 THEN 0
                ELSE least(100, round(floor(1000.0 * s.blocks_done / s.blocks_total) / 10, 1)) END AS pct
      FROM st s
      LEFT JOIN LATERAL (SELECT coalesce(sum(dualwrite.sequence_value(c.oid)) FILTER (WHERE c.relname = 'm' || b.id || '_samples'), 0)::bigint AS samples,
                                coalesce(sum(dualwrite.sequence_value(c.oid)) FILTER (WHERE c.relname = 'm' || b.id || '_sample_drift'), 0)::bigint AS sample_drift
                           FROM dualwrite.member b JOIN pg_catalog.pg_class c ON c.relkind = 'S' AND c.relnamespace = 'dualwrite'::regnamespace
                            AND c.relname IN (('m' || b.id || '_samples')::name, ('m' || b.id || '_sample_drift')::name)
                          WHERE b.migration_id = s.id HAVING count(*) > 0) q ON s.mine
)
SELECT f.name AS migration, f.relations, f.owner_now AS owner, f.phase, f.phase_since,
       f.state_now AS state,
       CASE f.state_now
            WHEN 'failed' THEN CASE WHEN NOT coalesce(f.present, false) THEN 'the table was dropped'
                                    -- what is wrong with the mirror now, not what was when a verification met it
                                    WHEN f.mirror_problem IS NOT NULL AND (NOT f.failed OR f.last_error = f.mirror_problem
                                         OR EXISTS (SELECT 1 FROM dualwrite.event e WHERE e.migration_id = f.id AND e.event = 'mirror broken' AND e.note = f.last_error))
                                      THEN f.mirror_problem
                                    ELSE concat_ws('; ', CASE WHEN f.mine THEN f.last_error ELSE 'the error is shown to the owner' END, f.mirror_problem) END
            WHEN 'paused' THEN CASE WHEN f.copied THEN 'this database is a restored copy of the one where the migration began'
                                 ELSE coalesce(f.pause_reason, 'by dw_pause; dw_events tells by whom') END
            WHEN 'waiting' THEN CASE WHEN f.mirror <> 'both' THEN format('the mirror is set to %s: writes make the sides part', f.mirror)
                                     WHEN f.standby THEN coalesce(f.w_reason || '; ', '') || 'its worker is on the primary'
                                     ELSE f.w_reason END
            WHEN 'no_worker' THEN CASE WHEN f.standby THEN 'no background worker on the primary has reported for a minute' ELSE 'no background worker is running for it' END
            WHEN 'idle' THEN NULL
            ELSE CASE WHEN f.standby THEN coalesce(f.w_reason || coalesce(f.w_values, '') || '; ', '') || 'its worker is on the primary'
                      ELSE f.w_reason || coalesce(f.w_values, '') END END AS state_reason,
       CASE f.state_now WHEN 'failed' THEN CASE WHEN f.failed THEN f.last_error_at END WHEN 'paused' THEN f.pause_since WHEN 'idle' THEN f.phase_since ELSE f.w_since END AS state_since,
       CASE WHEN f.phase IN ('switched', 'finalized') THEN 'new' ELSE 'old' END AS authority,
       f.pct AS percent_done,
       CASE WHEN f.pct IS NOT NULL THEN '[' || repeat('#', (f.pct / 5)::integer) || repeat('.', 20 - (f.pct / 5)::integer) || ']' END AS bar,
       CASE WHEN f.work AND f.pids IS NOT NULL THEN round(coalesce(f.rate, 0)::numeric, 1) END AS rows_per_second,
       CASE WHEN f.work AND f.blocks_done > 0 AND f.last_batch_at > f.pass_started
            THEN justify_interval(date_trunc('second', (f.last_batch_at - f.pass_started) * ((f.blocks_total - f.blocks_done)::float8 / f.blocks_done))) END AS time_left,
       CASE WHEN f.phase = 'backfilling' OR f.heal
            -- before the first range of a table that was never analyzed, nobody knows
            THEN greatest(f.skipped, (nullif(f.rows_estimated, 0) * (1 - f.blocks_done::float8 / greatest(f.blocks_total, 1)))::bigint) ELSE 0 END AS pending_rows,
       CASE WHEN f.phase = 'backfilling' OR f.heal THEN clock_timestamp() - coalesce(f.pass_started, f.phase_since) END AS pending_age,
       CASE WHEN dualwrite.may_monitor() AND f.pids IS NOT NULL THEN f.replica_lag END AS replica_lag,
       f.open_drift - f.open_unconvertible AS drifted,
       f.open_unconvertible AS unconvertible,
       CASE WHEN f.verified THEN f.verified_at END AS verified_at,
       f.phase = 'switched' AND f.two_way AND f.open_drift = 0 AND NOT f.heal AND coalesce(f.verified, false) AS rollback_possible,
       CASE WHEN f.phase IN ('finalized', 'aborted') THEN 'the migration has ended'
            WHEN NOT f.two_way AND f.phase <> 'switched' THEN 'one way: after the switch there is no way back for what the new side writes'
            WHEN NOT f.two_way THEN 'one way: nothing written to the new side reaches the old one'
            WHEN f.phase = 'switched' AND f.open_drift > 0 AND f.open_drift = f.open_unconvertible
                 THEN format('the old side cannot hold the values of %s row(s): see dw_drift', f.open_drift)
            WHEN f.open_drift > 0 THEN 'rows differ: see dw_drift'
            WHEN f.phase = 'switched' AND (f.heal OR NOT coalesce(f.verified, false)) THEN 'not verified since a hole in the mirror'
            WHEN f.lossy OR f.verified_lossy > 0 THEN 'dw_rollback loses nothing, but the new side holds values that the old side cannot: dw_abort would lose them'
            WHEN f.phase = 'switched' THEN 'one call: dw_rollback'
            ELSE 'nothing has been switched' END AS rollback_note,
       CASE WHEN f.mine THEN
            (SELECT coalesce(array_agg(format('pid %s (%s): %s', a.pid, coalesce(a.state, a.backend_type), left(regexp_replace(a.query, '\s+', ' ', 'g'), 100)) ORDER BY a.pid), '{}')
               FROM pg_catalog.pg_stat_activity a
              WHERE a.pid = ANY (coalesce(f.blocked_by, '{}') ||
                    coalesce((SELECT array_agg(x) FROM unnest(f.pids) q, unnest(pg_catalog.pg_blocking_pids(q)) x), '{}'))
                AND f.pids IS NOT NULL AND f.work)
            ELSE '{}' END AS blockers,
       CASE WHEN f.mine THEN f.last_error WHEN f.last_error IS NOT NULL THEN 'shown to the owner' END AS last_error,
       f.last_error_at,
       coalesce(f.pids, '{}') AS worker_pids,
       greatest(f.heartbeat_at, f.last_batch_at) AS heartbeat_at,
       CASE WHEN f.mine THEN (SELECT max(to_timestamp(nullif(dualwrite.sequence_value(q.oid), 1))) FROM dualwrite.member b JOIN pg_catalog.pg_class q ON q.relkind = 'S'
           AND q.relnamespace = 'dualwrite'::regnamespace AND q.relname = 'm' || b.id || '_old_written' WHERE b.migration_id = f.id) END AS old_side_written_at,
       CASE WHEN f.mine THEN (SELECT max(to_timestamp(nullif(dualwrite.sequence_value(q.oid), 1))) FROM dualwrite.member b JOIN pg_catalog.pg_class q ON q.relkind = 'S'
           AND q.relnamespace = 'dualwrite'::regnamespace AND q.relname = 'm' || b.id || '_new_written' WHERE b.migration_id = f.id) END AS new_side_written_at,
       -- a standby refuses verbs that write
       regexp_replace(CASE WHEN f.phase IN ('finalized', 'aborted') THEN '-- nothing: the migration has ended'
            WHEN NOT coalesce(f.present, false) THEN format('SELECT dw_abort(%L); -- the table was dropped', f.name)
            WHEN f.mirror_problem IS NOT NULL THEN format('SELECT dw_resume(%L); -- mends the mirror, and every row is compared again', f.name)
            WHEN f.failed AND f.open_drift > 0 THEN format('SELECT * FROM dw_drift WHERE migration = %L AND repaired_at IS NULL; -- mend these rows%s, then dw_resume',
                                                           f.name, CASE WHEN f.open_drift > f.open_unconvertible THEN ' (or CALL dw_reconcile)' END)
            WHEN f.failed THEN format('SELECT dw_resume(%L); -- once what last_error says is mended', f.name)
            WHEN f.state_now = 'paused' THEN format('SELECT dw_resume(%L); -- it is paused', f.name)
            WHEN f.mirror <> 'both' THEN format('SELECT dw_set(%L, ''{"mirror": "both"}''); -- the mirror is not on both ways', f.name)
            WHEN f.state_now = 'no_worker' THEN 'SELECT dw_ensure_workers(); -- no background worker is running for it'
            WHEN f.phase IN ('backfilling', 'building', 'verifying') THEN 
                 format('CALL dw_wait(%L); -- %s', f.name, CASE f.state_now WHEN 'throttled' THEN 'it goes on by itself; dw_progress says what holds it back'
                                                                            WHEN 'waiting' THEN 'it goes on once the sessions in blockers have ended'
                                                                            ELSE 'the worker is at work' END)
            WHEN f.open_drift > CASE WHEN f.phase = 'switched' THEN f.open_unconvertible ELSE 0 END THEN format('SELECT * FROM dw_drift WHERE migration = %L AND repaired_at IS NULL; -- these rows differ: mend them, then dw_verify', f.name)
            WHEN f.heal OR f.two_way AND NOT coalesce(f.verified, false) THEN format('SELECT * FROM dw_verify(%L); -- not verified since the last change of the mirror', f.name)
            WHEN f.phase = 'ready' AND f.proof AND NOT f.proven THEN format('SELECT proof FROM dw_status WHERE migration = %L; -- dw_switch waits until it is proven', f.name)
            WHEN f.phase = 'ready' THEN format('SELECT dw_switch(%L); -- once every application version that is running can use the new side', f.name)
            WHEN f.two_way AND f.verified_at < f.phase_since THEN format('SELECT * FROM dw_verify(%L); -- dw_finalize needs a verification made after the switch', f.name)
            ELSE format('SELECT dw_finalize(%L); -- once no application version uses the old side%s', f.name,
                        CASE WHEN f.two_way AND f.open_drift = 0 THEN '; until then dw_rollback is the way back' END) END,
            CASE WHEN f.standby THEN '^(?=SELECT (dw_|\* FROM dw_verify))' ELSE '$^' END, '-- on the primary: ') AS next_step,
       f.started_at, f.finished_at,
       CASE WHEN f.phase IN ('finalized', 'aborted') THEN NULL WHEN NOT f.proof THEN 'off' WHEN f.proven THEN 'proven'
            WHEN f.proof_present THEN 'checking' ELSE 'waiting' END AS proof,
       CASE WHEN f.proven THEN f.proven_at END AS proven_at,
       f.samples AS sampled_writes, f.sample_drift AS sampled_drift,
       CASE WHEN f.samples > 0 THEN dualwrite.drift_bound(f.samples, f.sample_drift) END AS drift_rate_bound
  FROM fin f;
COMMENT ON VIEW @extschema@.dw_status IS 'one row a migration: where it is, why, and what to do next';
GRANT SELECT ON @extschema@.dw_status TO PUBLIC;

CREATE VIEW @extschema@.dw_drift WITH (security_barrier) AS
SELECT m.name AS migration, b.relation, d.row_ctid, d.key, d.old_values, d.new_values, d.reason, d.sqlstate, d.message, d.found_at, d.repaired_at
  FROM dualwrite.drift d
  JOIN dualwrite.member b ON b.id = d.member_id
  JOIN dualwrite.migration m ON m.id = b.migration_id
 WHERE pg_catalog.pg_has_role((SELECT c.relowner FROM pg_catalog.pg_class c WHERE c.oid = b.relation), 'USAGE')
   -- who records a row waits for nobody, so two that find it at the same moment both do: the later one counts
   AND NOT EXISTS (SELECT FROM dualwrite.drift l WHERE l.repaired_at IS NULL AND d.repaired_at IS NULL
                    AND l.member_id = d.member_id AND l.row_ctid = d.row_ctid AND l.id > d.id)
   AND NOT EXISTS (SELECT FROM dualwrite.drift l WHERE l.repaired_at IS NULL AND d.repaired_at IS NULL
                    AND l.member_id = d.member_id AND l.key = d.key AND l.id > d.id);
COMMENT ON VIEW @extschema@.dw_drift IS 'rows found or recorded as not consistent, for the owner of the migration; repaired_at tells when a row was seen consistent again';
GRANT SELECT ON @extschema@.dw_drift TO PUBLIC;

CREATE VIEW @extschema@.dw_events AS
SELECT e.at, e.migration, e.event, e.phase_from, e.phase_to, e.actor, e.application_name, e.pid,
       CASE WHEN pg_catalog.pg_has_role((SELECT w.owner FROM dualwrite.owners w WHERE w.id = m.id), 'USAGE') THEN e.note END AS note,
       CASE WHEN pg_catalog.pg_has_role((SELECT w.owner FROM dualwrite.owners w WHERE w.id = m.id), 'USAGE') THEN e.detail END AS detail
  FROM dualwrite.event e LEFT JOIN dualwrite.migration m ON m.id = e.migration_id;
COMMENT ON VIEW @extschema@.dw_events IS 'everything that happened to the migrations, and by whom; notes, which may show data, to the owner';
GRANT SELECT ON @extschema@.dw_events TO PUBLIC;

CREATE VIEW @extschema@.dw_options AS
SELECT m.name AS migration, o.name,
       CASE WHEN o.name = 'throttle_query' AND m.options ? o.name
                 AND NOT coalesce(pg_catalog.pg_has_role((SELECT w.owner FROM dualwrite.owners w WHERE w.id = m.id), 'USAGE'), false) THEN 'shown to the owner'
            WHEN o.name = 'mirror' THEN m.mirror WHEN o.name = 'conflict' THEN m.conflict WHEN o.name = 'on_error' THEN m.on_error
            ELSE coalesce(m.options ->> o.name, o.fallback) END AS setting, o.unit,
       CASE WHEN m.options ? o.name THEN 'migration' ELSE o.source END AS source, o.changeable, o.description
  FROM dualwrite.migration m CROSS JOIN dualwrite.known_options() o
 WHERE m.phase NOT IN ('finalized', 'aborted');
COMMENT ON VIEW @extschema@.dw_options IS 'the options of each unfinished migration, with their settings and where these come from';
GRANT SELECT ON @extschema@.dw_options TO PUBLIC;
