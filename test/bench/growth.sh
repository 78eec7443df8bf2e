# shellcheck shell=bash
# Does the backfill's cost grow with the table? Time per row, at three sizes.
# To be sourced by test/bench/run.
# shellcheck disable=SC2154,SC2034   # what it shares with test/bench/run

measure_growth() { # ROWS
	local cpu wal seconds
	progress "growth: $1 rows"
	sql <<-SQL
		CREATE TABLE orders ($columns, PRIMARY KEY (id));
		INSERT INTO orders SELECT $values FROM generate_series(1, $1) i;
		VACUUM (FREEZE, ANALYZE) orders;
		CHECKPOINT;
	SQL
	IFS='|' read -r cpu wal seconds < <(backfill_dw)
	[ -n "$seconds" ] || die "growth: $1 rows have not come to an end"
	measured growth "$1 rows" dw cpu "$(awk "BEGIN { print $cpu / $1 }")"
	measured growth "$1 rows" dw wal "$(awk "BEGIN { print $wal / $1 }")"
	measured growth "$1 rows" dw time "$(awk "BEGIN { print $seconds * 1000000 / $1 }")"
	end_dw > /dev/null
	sql -c 'DROP TABLE orders'
}

# Small tables are soon done, so they are measured more often.
run_growth() {
	local size n round
	local columns values rows order indexes with old new type forward backward blocks main_case
	fresh_database
	sql < "$bench/backfill.sql"
	backfill_case sequential
	for ((round = 1; round <= ${#growth_sizes[@]}; round++)); do
		n=${#growth_sizes[@]}
		for size in "${growth_sizes[@]}"; do
			if [ "$round" -le "$n" ]; then measure_growth "$size"; fi
			n=$((n - 1))
		done
	done
}
