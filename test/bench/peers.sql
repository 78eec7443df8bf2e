-- What the peers of pg_dualwrite's mirror need: the module, the table of
-- results of single statements, and builders of triggers. An expression names
-- the row's columns with a leading @.

CREATE EXTENSION pg_dualwrite;

CREATE FUNCTION bench_noop() RETURNS trigger LANGUAGE c AS 'bench';
CREATE FUNCTION bench_cpu(pid int) RETURNS bigint STRICT LANGUAGE c AS 'bench';

CREATE FUNCTION bench_set_noop(tbl text) RETURNS void LANGUAGE plpgsql AS $body$
BEGIN
	EXECUTE format('CREATE TRIGGER noop BEFORE INSERT OR UPDATE ON %I FOR EACH ROW EXECUTE FUNCTION bench_noop()', tbl);
END $body$;

-- The trigger that somebody writes by hand: one assignment a column.
CREATE FUNCTION bench_set_plpgsql(tbl text, new text[], forward text[]) RETURNS void LANGUAGE plpgsql AS $body$
DECLARE
	body text := '';
BEGIN
	FOR i IN 1 .. cardinality(new) LOOP
		body := body || format('NEW.%I := %s; ', new[i], replace(forward[i], '@', 'NEW.'));
	END LOOP;
	EXECUTE format('CREATE FUNCTION %I() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN %s RETURN NEW; END$$', tbl || '_fill', body);
	EXECUTE format('CREATE TRIGGER fill BEFORE INSERT OR UPDATE ON %I FOR EACH ROW EXECUTE FUNCTION %I()', tbl, tbl || '_fill');
END $body$;

-- The pair that schema-migration tools install: one trigger a direction. Each
-- has a variable for every column of the row, so that expressions can name
-- them, asks search_path which version of the application is writing, and
-- carries over if it is its turn.
CREATE FUNCTION bench_set_pair(tbl text, new text[], forward text[], old text[], backward text[]) RETURNS void LANGUAGE plpgsql AS $body$
DECLARE
	variables text;
	directions text[] := '{up,down}';
	targets text[];
	expressions text[];
	body text;
BEGIN
	SELECT string_agg(format('%I %I.%I%%TYPE := NEW.%I; ', attname, tbl, attname, attname), '' ORDER BY attnum) INTO variables
	  FROM pg_attribute WHERE attrelid = tbl::regclass AND attnum > 0 AND NOT attisdropped;
	FOR d IN 1 .. 2 LOOP
		targets := CASE d WHEN 1 THEN new ELSE old END;
		expressions := CASE d WHEN 1 THEN forward ELSE backward END;
		body := '';
		FOR i IN 1 .. cardinality(targets) LOOP
			body := body || format('NEW.%I := %s; ', targets[i], replace(expressions[i], '@', ''));
		END LOOP;
		EXECUTE format('CREATE FUNCTION %I() RETURNS trigger LANGUAGE plpgsql AS $$'
			'DECLARE %s writer_path text; '
			'BEGIN SELECT setting INTO writer_path FROM current_setting(''search_path'') AS setting; '
			'IF writer_path %s ''app_v2'' THEN %s END IF; RETURN NEW; END$$',
			tbl || '_' || directions[d], variables, CASE d WHEN 1 THEN '<>' ELSE '=' END, body);
		EXECUTE format('CREATE TRIGGER %I BEFORE INSERT OR UPDATE ON %I FOR EACH ROW EXECUTE FUNCTION %I()',
			directions[d], tbl, tbl || '_' || directions[d]);
	END LOOP;
END $body$;
