# shellcheck shell=bash
# What it costs to compare both sides of every row: count(*), which looks at no
# column, one query, and the pass in chunks.
# To be sourced by test/bench/run.
# shellcheck disable=SC2154,SC2034   # what it shares with test/bench/run

# An empty table is ready at once, and the mirror fills the rows.
make_verified_table() { # CASE
	backfill_case "$1"
	sql <<-SQL > /dev/null
		CREATE TABLE orders ($columns, PRIMARY KEY (id));
		SELECT dw_begin('m', 'orders', '$old', '$type', '$new', '$forward', '$backward');
		INSERT INTO orders SELECT $values FROM generate_series(1, $verify_rows) i;
		VACUUM (FREEZE, ANALYZE) orders;
	SQL
}

# All in one session, in turns; the first round warms up. Each line that comes
# out is "TECHNIQUE|microseconds".
# shellcheck disable=SC2016
verify_script() {
	local round name statement
	echo 'SET enable_indexonlyscan = off;'
	for ((round = 0; round <= verify_rounds; round++)); do
		for name in count query chunks; do
			case $name in
			count) statement='DO $$BEGIN PERFORM count(*) FROM orders; END$$' ;;
			query) statement='DO $$BEGIN PERFORM dw_verify('\''m'\''); END$$' ;;
			chunks) statement='CALL dw_reconcile('\''m'\'', false)' ;;
			esac
			printf 'SELECT bench_cpu(pg_backend_pid()) AS cpu \\gset\n%s;\n' "$statement"
			[ "$round" -eq 0 ] ||
				printf "SELECT '%s', bench_cpu(pg_backend_pid()) - :cpu;\n" "$name"
		done
	done
}

run_verify() {
	local name technique cpu
	local columns values rows order indexes with old new type forward backward blocks main_case
	fresh_database
	for name in integer numeric; do
		progress "verify: $name"
		make_verified_table "$name"
		verify_script | sql > "$scratch/verify.out"
		while IFS='|' read -r technique cpu; do
			measured verify "$name" "$technique" cpu "$(awk "BEGIN { print $cpu / $verify_rows }")"
		done < "$scratch/verify.out"
		sql -c "SELECT dw_abort('m', true)" -c 'DROP TABLE orders' > /dev/null
	done
}
