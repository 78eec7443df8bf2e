-- Does every account hold what the books of the clients say, and an account in
-- no book nothing? `books` is a table that the demo has loaded from them;
-- `balance` is the expression for what an account holds.
SELECT count(*), count(*) FILTER (WHERE :balance IS DISTINCT FROM coalesce(b.balance, 0))
  FROM pgbench_accounts a LEFT JOIN books b USING (aid);
