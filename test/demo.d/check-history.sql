-- Has every write of either application arrived, exactly once? pgbench notes
-- each one in its history, in the transaction that made it; seq gives the order
-- of two writes to the same account, because the second could not be made
-- before the first had been committed. What an account must hold is the
-- balance last set plus everything added since; one that was never written,
-- nothing. Likewise tellers and branches, whose balances were only added to.
-- `balance` is the expression for what an account holds.
WITH last_set AS (
    SELECT DISTINCT ON (aid) aid, seq, delta AS balance
      FROM pgbench_history
     WHERE filler = 'set'
     ORDER BY aid, seq DESC
), expected AS (
    SELECT h.aid, coalesce(max(s.balance), 0) + coalesce(sum(h.delta) FILTER (WHERE h.filler IS NULL AND h.seq > coalesce(s.seq, 0)), 0) AS balance
      FROM pgbench_history h LEFT JOIN last_set s USING (aid)
     GROUP BY h.aid
), added AS (
    SELECT coalesce(sum(delta), 0) AS total FROM pgbench_history WHERE filler IS NULL
)
SELECT count(*),
       count(*) FILTER (WHERE :balance IS DISTINCT FROM coalesce(e.balance, 0))
       + (SELECT count(*) FROM added
           WHERE total <> (SELECT sum(tbalance) FROM pgbench_tellers)
              OR total <> (SELECT sum(bbalance) FROM pgbench_branches))
  FROM pgbench_accounts a LEFT JOIN expected e USING (aid);
