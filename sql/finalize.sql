--
-- dw_finalize: refuses while anything of the old side has no counterpart on the new one, or depends on it; each is named.
--
SET client_min_messages = warning;
CREATE TABLE fi_parent (id int PRIMARY KEY, id8 bigint UNIQUE);
CREATE TABLE fi (id int PRIMARY KEY, a int NOT NULL DEFAULT 7, aa int, note text, "A" int);
INSERT INTO fi_parent SELECT i, i FROM generate_series(1, 9) i;
INSERT INTO fi SELECT i, i, i FROM generate_series(1, 5) i;
SELECT dw_begin('fi', 'fi', 'a', 'bigint', 'b');
SELECT dw_switch('fi');
RESET client_min_messages;
-- the error's list, a line each
CREATE FUNCTION fi_missing() RETURNS SETOF text LANGUAGE plpgsql SET client_min_messages = warning AS $$
DECLARE
    message text;
BEGIN
    PERFORM dw_finalize('fi');
    RAISE EXCEPTION 'nothing is missing' USING ERRCODE = 'DW000';
EXCEPTION WHEN OTHERS THEN
    RETURN NEXT SQLSTATE;
    message := regexp_replace(SQLERRM, '^migration "fi" can''t be finalized: (without a counterpart on the new side|other objects depend on the old side): ', '');
    RETURN QUERY SELECT regexp_split_to_table(message, ', (?=(index|constraint|NOT NULL|default|identity|statistics|view|materialized|function|trigger|policy|rule|column|publication) )');
END $$;

-- NOT NULL and default
SELECT dw_finalize('fi');
\echo :SQLSTATE
ALTER TABLE fi ALTER b SET DEFAULT 7;
SELECT dw_finalize('fi');
ALTER TABLE fi ALTER b SET NOT NULL;
-- an option not to drop: nothing is in its way, and nothing is dropped (undone)
BEGIN;
SELECT dw_finalize('fi', drop_old => false);
INSERT INTO fi (id, a) VALUES (100, 100);
SELECT * FROM fi WHERE id = 100;
ROLLBACK;

-- indexes: plain, of several columns, unique, partial, expression, INCLUDE, other method, other order
CREATE INDEX fi_a ON fi (a);
CREATE INDEX fi_aa_a ON fi (aa, a DESC NULLS LAST);
CREATE UNIQUE INDEX fi_uniq ON fi (a);
CREATE INDEX fi_partial ON fi (note) WHERE a > 2;
CREATE INDEX fi_expr ON fi ((a + aa));
CREATE INDEX fi_include ON fi (note) INCLUDE (a);
CREATE INDEX fi_hash ON fi USING hash (a);
CREATE INDEX fi_not_mine ON fi (aa, note);
SELECT * FROM fi_missing();
-- what comes near isn't enough
CREATE INDEX fi_b_other ON fi (b, aa);
CREATE INDEX fi_b_partial_other ON fi (note) WHERE b > 3;
SELECT * FROM fi_missing();
-- the same are
CREATE INDEX fi_aa_b ON fi (aa, b DESC NULLS LAST);
CREATE UNIQUE INDEX fi_b_uniq ON fi (b);
CREATE INDEX fi_b_partial ON fi (note) WHERE b > 2;
CREATE INDEX fi_b_expr ON fi ((b + aa));
CREATE INDEX fi_b_include ON fi (note) INCLUDE (b);
CREATE INDEX fi_b_hash ON fi USING hash (b);
-- the unique index does for the plain one, too
SELECT * FROM fi_missing();
DROP INDEX fi_partial, fi_b_partial;

-- constraints: UNIQUE, CHECK of one column and of several, EXCLUDE, FOREIGN KEY both ways
ALTER TABLE fi ADD CONSTRAINT a_unique UNIQUE (a), ADD CONSTRAINT a_positive CHECK (a > 0), ADD CONSTRAINT a_above_aa CHECK (a >= aa OR note IS NOT NULL),
    ADD CONSTRAINT a_exclude EXCLUDE USING btree (a WITH =), ADD CONSTRAINT a_parent FOREIGN KEY (a) REFERENCES fi_parent (id) ON DELETE CASCADE,
    ADD CONSTRAINT "A note" CHECK (note <> 'a'), ADD CONSTRAINT a_deferrable UNIQUE (a, note) DEFERRABLE;
CREATE TABLE fi_child (id int PRIMARY KEY, fi_a int REFERENCES fi (a));
SELECT * FROM fi_missing();
ALTER TABLE fi ADD CONSTRAINT b_positive CHECK (b > 1) NOT VALID, ADD CONSTRAINT b_parent FOREIGN KEY (b) REFERENCES fi_parent (id8);
SELECT * FROM fi_missing();
ALTER TABLE fi DROP CONSTRAINT b_positive, DROP CONSTRAINT b_parent;
ALTER TABLE fi ADD CONSTRAINT b_unique UNIQUE (b), ADD CONSTRAINT b_positive CHECK (b > 0) NOT VALID, ADD CONSTRAINT b_above_aa CHECK (b >= aa OR note IS NOT NULL),
    ADD CONSTRAINT b_exclude EXCLUDE USING btree (b WITH =), ADD CONSTRAINT b_parent FOREIGN KEY (b) REFERENCES fi_parent (id) ON DELETE CASCADE,
    ADD CONSTRAINT b_deferrable UNIQUE (b, note) DEFERRABLE;
SELECT * FROM fi_missing();
ALTER TABLE fi VALIDATE CONSTRAINT b_positive;
-- the child's key references the old column: it needs one that references the new
SELECT * FROM fi_missing();
ALTER TABLE fi_child ADD CONSTRAINT child_b FOREIGN KEY (fi_a) REFERENCES fi (b);
-- ... and to let go of the old one itself
SELECT * FROM fi_missing();
ALTER TABLE fi_child DROP CONSTRAINT fi_child_fi_a_fkey;
SELECT * FROM fi_missing();

-- statistics objects
CREATE STATISTICS fi_stat (dependencies) ON a, aa FROM fi;
CREATE STATISTICS fi_stat_e ON (a + aa), note FROM fi;
SELECT * FROM fi_missing();
CREATE STATISTICS fi_stat_b (dependencies) ON b, aa FROM fi;
CREATE STATISTICS fi_stat_be ON (b + aa), note FROM fi;
SELECT * FROM fi_missing();
DROP STATISTICS fi_stat, fi_stat_e;

-- dependents: views, functions, triggers, policies, rules, generated columns, publications
CREATE VIEW fi_view AS SELECT id, a FROM fi;
CREATE VIEW "Fi View" AS SELECT * FROM fi_view;
CREATE MATERIALIZED VIEW fi_mat AS SELECT count(a) FROM fi;
-- first: newer servers add no such column while a function uses the row type
ALTER TABLE fi ADD COLUMN gen int GENERATED ALWAYS AS (a + 1) STORED;
CREATE FUNCTION fi_function(fi) RETURNS int LANGUAGE sql IMMUTABLE RETURN ($1).a;
CREATE FUNCTION fi_trigger() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER t_of AFTER UPDATE OF a ON fi FOR EACH ROW EXECUTE FUNCTION fi_trigger();
CREATE TRIGGER t_when AFTER UPDATE ON fi FOR EACH ROW WHEN (OLD.a <> NEW.a) EXECUTE FUNCTION fi_trigger();
CREATE POLICY fi_policy ON fi USING (a > 0);
CREATE RULE fi_rule AS ON UPDATE TO fi WHERE NEW.a = 12345 DO ALSO DELETE FROM fi_parent WHERE id = 12345;
CREATE PUBLICATION fi_pub FOR TABLE fi (id, a);
SELECT * FROM fi_missing();
SELECT count(*), min(a), min(gen) FROM fi;
DROP MATERIALIZED VIEW fi_mat;
DROP VIEW fi_view CASCADE;
DROP FUNCTION fi_function;
DROP TRIGGER t_of ON fi;
DROP TRIGGER t_when ON fi;
DROP POLICY fi_policy ON fi;
DROP RULE fi_rule ON fi;
DROP PUBLICATION fi_pub;
SELECT * FROM fi_missing();
ALTER TABLE fi DROP COLUMN gen;
SELECT dw_finalize('fi');
SELECT attname FROM pg_attribute WHERE attrelid = 'fi'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum;
SELECT * FROM fi ORDER BY id;
DROP TABLE fi_child, fi, fi_parent;
DROP FUNCTION fi_missing, fi_trigger;

-- a column that was the primary key; identity; names that need quotes, one a part of the other
SET client_min_messages = warning;
CREATE TABLE fi ("Id" int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, "Id 8 old" int, "Id 8" bigint);
INSERT INTO fi ("Id 8 old") VALUES (1), (2);
SELECT dw_begin('fi', 'fi', 'Id', new_column => 'Id 8');
SELECT dw_switch('fi');
RESET client_min_messages;
CREATE INDEX "Idx" ON fi ("Id 8 old", "Id");
SELECT dw_finalize('fi');
CREATE INDEX "Idx 8" ON fi ("Id 8 old", "Id 8");
CREATE UNIQUE INDEX fi_id8 ON fi ("Id 8");
ALTER TABLE fi ALTER "Id 8" SET NOT NULL;
SELECT dw_finalize('fi');
ALTER TABLE fi ALTER "Id" DROP IDENTITY;
BEGIN;
ALTER TABLE fi DROP CONSTRAINT fi_pkey, ADD PRIMARY KEY USING INDEX fi_id8;
SELECT dw_finalize('fi');
COMMIT;
\d fi
DROP TABLE fi;

-- a mapping has no counterparts of its own: whatever is on the old columns has to go first
SET client_min_messages = warning;
CREATE TABLE fi (id int PRIMARY KEY, a int NOT NULL, b int DEFAULT 1 CHECK (b > 0), c text UNIQUE);
INSERT INTO fi VALUES (1, 1, 1, 'x');
SELECT dw_begin_mapping('fi', 'fi', '{a,b}', '{"ab": "a * 100 + b"}', '{"a": "ab / 100", "b": "ab % 100"}', '{"ab": "int"}');
SELECT dw_switch('fi');
RESET client_min_messages;
CREATE INDEX fi_ab ON fi (a, b);
CREATE INDEX fi_new ON fi (ab);
SELECT dw_finalize('fi');
DROP INDEX fi_ab;
ALTER TABLE fi DROP CONSTRAINT fi_b_check, ALTER b DROP DEFAULT, ALTER a DROP NOT NULL;
SELECT dw_finalize('fi');
\d fi
DROP TABLE fi;

-- kept: the old side stays where it is, no longer in sync; what is left of the migration is its name
SET client_min_messages = warning;
CREATE TABLE fi (id int PRIMARY KEY, a int NOT NULL DEFAULT 5);
INSERT INTO fi VALUES (1, 1);
SELECT dw_begin('fi', 'fi', 'a', 'bigint', 'b');
SELECT dw_switch('fi');
CREATE VIEW fi_view AS SELECT a FROM fi;
SELECT dw_finalize('fi', false);
RESET client_min_messages;
INSERT INTO fi (id, b) VALUES (2, 2);
UPDATE fi SET b = 10 WHERE id = 1;
SELECT * FROM fi ORDER BY id;
SELECT dw_finalize('fi');
SELECT dw_begin('fi', 'fi', 'a', 'bigint', 'b');
-- what an abort would drop is not dropped with CASCADE either
DROP VIEW fi_view;
ALTER TABLE fi DROP COLUMN b;
SELECT dw_begin('fi 2', 'fi', 'a', 'bigint', 'b');
CREATE VIEW fi_view AS SELECT b FROM fi;
\set VERBOSITY sqlstate
SELECT dw_abort('fi 2');
\set VERBOSITY default
SELECT phase FROM dw_status WHERE migration = 'fi 2';
UPDATE fi SET a = 100 WHERE id = 1;
SELECT * FROM fi_view ORDER BY 1;
DROP VIEW fi_view;
SELECT dw_abort('fi 2');
DROP TABLE fi;

-- a primary key with a sequence, which the new column's default has to share: the sequence is handed over, or not dropped
SET client_min_messages = warning;
CREATE TABLE fi (id serial PRIMARY KEY, note text);
INSERT INTO fi (note) VALUES ('one'), ('two');
SELECT dw_begin('fi', 'fi', 'id', 'bigint', 'id8');
SELECT dw_switch('fi');
ALTER TABLE fi ALTER id8 SET NOT NULL, ALTER id8 SET DEFAULT nextval('fi_id_seq');
CREATE UNIQUE INDEX fi_id8 ON fi (id8);
SELECT dw_finalize('fi');
BEGIN;
ALTER TABLE fi DROP CONSTRAINT fi_pkey, ADD CONSTRAINT fi_pkey PRIMARY KEY USING INDEX fi_id8;
SELECT dw_finalize('fi');
\echo :SQLSTATE
ROLLBACK;
ALTER SEQUENCE fi_id_seq OWNED BY fi.id8;

-- given up after that, the sequence goes back; what else uses the new column is named
CREATE TABLE fi_other (id int DEFAULT nextval('fi_id_seq'));
CREATE SEQUENCE fi_lent OWNED BY fi.id8;
CREATE SEQUENCE fi_own OWNED BY fi.id8;
ALTER TABLE fi_other ADD n int DEFAULT nextval('fi_lent');
CREATE VIEW fi_view AS SELECT id8 FROM fi;
SELECT dw_abort('fi');
DROP VIEW fi_view;
BEGIN;
SELECT dw_abort('fi');
SELECT s.relname, a.attname AS owned_by FROM pg_class s LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = s.oid AND d.deptype = 'a'
  LEFT JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid WHERE s.relkind = 'S' AND s.relname ~ '^fi_' ORDER BY 1;
INSERT INTO fi (note) VALUES ('aborted');
SELECT * FROM fi ORDER BY id;
ROLLBACK;
DROP TABLE fi_other;
DROP SEQUENCE fi_lent, fi_own;
BEGIN;
ALTER TABLE fi DROP CONSTRAINT fi_pkey, ADD CONSTRAINT fi_pkey PRIMARY KEY USING INDEX fi_id8;
SELECT dw_finalize('fi');
COMMIT;
INSERT INTO fi (note) VALUES ('three');
SELECT * FROM fi ORDER BY id8;
RESET client_min_messages;
DROP TABLE fi;
