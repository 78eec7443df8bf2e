--
-- The brakes: values of max_wal_per_second, max_replica_lag, max_slot_retention,
-- window, throttle_query; and the window over many instants.
--
CREATE TABLE th (id int PRIMARY KEY, a int);
SELECT dw_begin('th', 'th', 'a', 'bigint', 'b',
    options => '{"max_wal_per_second": "10MB", "max_replica_lag": "3s", "max_slot_retention": "2GB", "window": "01:00-05:00 Europe/Berlin", "throttle_query": "SELECT false"}');
SELECT name, setting, unit, source FROM dw_options WHERE migration = 'th' AND name IN ('max_wal_per_second', 'max_replica_lag', 'max_slot_retention', 'window', 'throttle_query') ORDER BY name COLLATE "C";
SELECT dw_set('th', '{"max_wal_per_second": 0, "max_replica_lag": 0, "max_slot_retention": 0, "window": "", "throttle_query": ""}');
SELECT dw_set('th', '{"max_wal_per_second": null, "max_replica_lag": null, "max_slot_retention": null, "window": null, "throttle_query": null}');
SELECT name, setting, unit, source FROM dw_options WHERE migration = 'th' AND source = 'migration' ORDER BY name COLLATE "C";

-- what is no value
SELECT dw_set('th', '{"max_wal_per_second": -1}');
\echo :SQLSTATE
SELECT dw_set('th', '{"max_wal_per_second": "1 hour"}');
SELECT dw_set('th', '{"max_replica_lag": "soon"}');
SELECT dw_set('th', '{"max_replica_lag": true}');
SELECT dw_set('th', '{"max_slot_retention": "3TBs"}');
SELECT dw_set('th', '{"window": "01:00-05:00"}');
\echo :SQLSTATE
SELECT dw_set('th', '{"window": "1-5 UTC"}');
SELECT dw_set('th', '{"window": "01:00-25:00 UTC"}');
SELECT dw_set('th', '{"window": "01:00-05:60 UTC"}');
SELECT dw_set('th', '{"window": "01:00-01:00 UTC"}');
SELECT dw_set('th', '{"window": "00:00-24:00 UTC"}');
SELECT dw_set('th', '{"window": "01:00-05:00 Europe/Nowhere"}');
SELECT dw_set('th', '{"window": 5}');
SELECT dw_set('th', '{"throttle_query": "no query"}');
\echo :SQLSTATE
SELECT dw_set('th', '{"throttle_query": "SELECT * FROM public.no_such_table"}');
\echo :SQLSTATE
SELECT dw_set('th', '{"throttle_query": "SELECT count(*) > 3 FROM th"}');
SELECT dw_set('th', '{"throttle_query": "DELETE FROM public.th"}');
\echo :SQLSTATE
SELECT dw_set('th', '{"throttle_query": "SELECT 1; SELECT 2"}');
SELECT dw_set('th', '{"throttle_query": "SELECT 1, 2"}');
SELECT dw_set('th', '{"throttle_query": "SELECT ''a''::text"}');
SELECT dw_set('th', '{"throttle_query": "SELECT 1.0 INTO public.th2"}');
SELECT dw_set('th', '{"throttle_query": "WITH x AS (DELETE FROM public.th RETURNING id) SELECT count(*) FROM x"}');
SELECT dw_set('th', '{"throttle_query": "SELECT id FROM public.th FOR UPDATE"}');
SELECT dw_set('th', '{"throttle_query": "SELECT count(*) FROM public.th", "window": "23:30-6:00 America/St_Johns"}');
SELECT dw_set('th', '{"throttle_query": "VALUES (0.5)"}');
SELECT dw_begin('th2', 'th', 'a', 'bigint', 'c', options => '{"throttle_query": "SELECT"}');
SELECT dw_begin('th2', 'th', 'a', 'bigint', 'c', options => '{"window": "now"}');

-- the query is the owner's: others don't see it, and it is checked as the owner, whoever asks
CREATE ROLE regress_dw_th NOLOGIN;
CREATE TABLE th_secret (n int);
CREATE TABLE th_own (id int PRIMARY KEY, a int);
ALTER TABLE th_own OWNER TO regress_dw_th;
GRANT CREATE ON SCHEMA public TO regress_dw_th;
SELECT dw_begin('th_own', 'th_own', 'a', 'bigint', 'b', options => '{"throttle_query": "SELECT count(*) FROM public.th_own"}');
SELECT dw_set('th_own', '{"throttle_query": "SELECT count(*) FROM public.th_secret"}');
SELECT dw_set('th_own', '{"throttle_query": ["SELECT 1"]}');
SET ROLE regress_dw_th;
SELECT setting FROM dw_options WHERE migration = 'th' AND name = 'throttle_query';
SELECT setting FROM dw_options WHERE migration = 'th_own' AND name = 'throttle_query';
RESET ROLE;

-- the wall clock of the zone: which of the 48 half hours of a day (UTC) it is open in
CREATE FUNCTION th_open(w text, day date) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(CASE WHEN dualwrite.window_open(w, (day + i * interval '30 min') AT TIME ZONE 'UTC') THEN '#' ELSE '.' END, '' ORDER BY i)
      FROM generate_series(0, 47) i
$$;
SELECT w, day, th_open(w, day) FROM (VALUES ('01:00-05:00 UTC'), ('22:00-02:00 UTC'), ('00:00-12:00 UTC'), ('12:00-24:00 UTC'), ('24:00-01:00 UTC')) v(w), (VALUES (date '2026-01-15')) d(day) ORDER BY w COLLATE "C";
-- winter, the night the clock goes forward, summer, the night it goes back
SELECT w, day, th_open(w, day) FROM (VALUES ('01:00-05:00 Europe/Berlin'), ('02:00-03:00 Europe/Berlin'), ('23:00-04:00 Europe/Berlin'), ('01:00-05:00 Asia/Kolkata'), ('01:00-02:30 America/New_York')) v(w),
    (VALUES (date '2026-01-15'), ('2026-03-08'), ('2026-03-28'), ('2026-03-29'), ('2026-07-15'), ('2026-10-24'), ('2026-10-25'), ('2026-11-01')) d(day)
 ORDER BY w COLLATE "C", day;
-- the same told by SQL, for every quarter of an hour of two years
SELECT w, count(*), count(*) FILTER (WHERE dualwrite.window_open(w, t)) > 0 AS opens,
       count(*) FILTER (WHERE dualwrite.window_open(w, t) IS DISTINCT FROM
           CASE WHEN f < e THEN (t AT TIME ZONE z)::time >= f AND (t AT TIME ZONE z)::time < e
                ELSE (t AT TIME ZONE z)::time >= f OR (t AT TIME ZONE z)::time < e END) AS wrong
  FROM (SELECT w, split_part(w, '-', 1)::time AS f, split_part(split_part(w, '-', 2), ' ', 1)::time AS e, split_part(w, ' ', 2) AS z
          FROM unnest('{01:00-05:00 Europe/Berlin,22:15-03:45 America/New_York,23:45-00:15 Australia/Lord_Howe,05:30-05:45 Asia/Kathmandu,12:00-00:00 Pacific/Apia}'::text[]) w) v,
       generate_series(timestamptz '2025-12-31 23:00Z', '2027-12-31 23:00Z', '15 min') t
 GROUP BY w ORDER BY w COLLATE "C";
-- minutes at the edges, and what is no instant
SELECT t, dualwrite.window_open('01:00-05:00 UTC', t) FROM unnest('{2026-01-01 00:59:59.999Z,2026-01-01 01:00Z,2026-01-01 04:59:59.999Z,2026-01-01 05:00Z,1900-01-01 02:00Z,infinity,-infinity}'::timestamptz[]) t;
SELECT dualwrite.window_open('01:00-05:00 Mars/Olympus', now());
SELECT dualwrite.window_open('', now());

SELECT dw_abort('th');
SELECT dw_abort('th_own');
DROP TABLE th, th_own, th_secret;
DROP FUNCTION th_open(text, date);
REVOKE CREATE ON SCHEMA public FROM regress_dw_th;
DROP ROLE regress_dw_th;
