-- Do the two columns say the same, in every row? One statement, so one snapshot.
SELECT count(*), count(*) FILTER (WHERE abalance_cents IS DISTINCT FROM abalance::bigint * 100)
  FROM pgbench_accounts;
