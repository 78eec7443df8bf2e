-- The new version of the application before `ready`: it knows abalance_cents
-- only, and since rows that aren't filled yet read as NULL there, it writes the
-- column without reading it. So it sets balances instead of adding to them, and
-- says so in the history.
\set aid random(1, 100000 * :scale)
\set bid random(1, 1 * :scale)
\set tid random(1, 10 * :scale)
\set balance random(-100000, 100000)
BEGIN;
UPDATE pgbench_accounts SET abalance_cents = :balance::bigint * 100 WHERE aid = :aid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime, filler)
    VALUES (:tid, :bid, :aid, :balance, CURRENT_TIMESTAMP, 'set');
END;
