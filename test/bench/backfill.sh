# shellcheck shell=bash
# What it costs to fill the rows that are there: four techniques, by order of
# the key, width of the row, number of indexes and fillfactor.
# To be sourced by test/bench/run.
# shellcheck disable=SC2154,SC2034   # what it shares with test/bench/run

# --- tables ------------------------------------------------------------------

# A table of orders whose total is to become total_cents, about 88 rows a page,
# in the order of its key. A case changes what is particular to it; the main
# ones are measured several times.
backfill_case() { # CASE
	columns='id bigint, total numeric(12,2), customer int, note text'
	values="i, (1000 + i % 9000) + 0.25, i * 7919::bigint % 100003, 'an order of the shop, paid by invoice'"
	rows=$backfill_rows
	order=i
	indexes=(customer)
	with=fillfactor=100
	old=total new=total_cents type=bigint forward='(total * 100)::bigint' backward='total_cents / 100.0'
	blocks=12
	main_case=0
	case $1 in
	sequential) indexes=() main_case=1 ;;
	random) indexes=() order='hashint8(i)' main_case=1 ;;
	two_indexes) ;;
	three_indexes) indexes+=(total) ;;
	fillfactor_90) indexes=() with=fillfactor=90 ;;
	numeric) ;;
	integer)
		columns=${columns/total numeric(12,2)/ref int} values=${values/(1000 + i % 9000) + 0.25/i}
		old=ref new=ref_big forward='ref::bigint' backward='ref_big::int' indexes=()
		;;
	narrow)             # 185 rows a page
		columns='id bigint, ref int' values='i, i'
		old=ref new=ref_big forward='ref::bigint' backward='ref_big::int' indexes=() blocks=6
		;;
	wide)               # 7 rows a page, one in four with a text beside the table
		columns+=', terms text, doc text'
		values+=", repeat(md5(i::text), 30), CASE WHEN i % 4 = 0 THEN repeat(md5(i::text), 100) END"
		rows=$((backfill_rows / 3)) indexes=() blocks=140 main_case=1
		;;
	esac
}

storage() { # TABLE   nothing is compressed, so that a width is what it seems
	[[ $columns != *doc* ]] ||
		sql -c "ALTER TABLE $1 ALTER terms SET STORAGE EXTERNAL, ALTER terms SET STORAGE MAIN, ALTER doc SET STORAGE EXTERNAL"
}

make_backfill_source() {
	sql -c "CREATE TABLE source ($columns)"
	storage source
	sql -c "INSERT INTO source SELECT $values FROM generate_series(1, $rows) i ORDER BY $order"
}

make_orders() {
	local column
	sql -c "CREATE TABLE orders ($columns, PRIMARY KEY (id)) WITH ($with)"
	storage orders
	for column in "${indexes[@]}"; do sql -c "CREATE INDEX ON orders ($column)"; done
	sql -c 'INSERT INTO orders SELECT * FROM source'
	sql -c 'VACUUM (FREEZE, ANALYZE) orders' -c CHECKPOINT
}

# Heap and indexes as a table is that has been loaded with the new column.
ideal_size() {
	sql <<-SQL
		CREATE TABLE ideal WITH ($with) AS SELECT *, $forward AS $new FROM source;
		SELECT pg_relation_size('ideal');
		DROP TABLE ideal;
	SQL
}

# --- techniques --------------------------------------------------------------

# Each prints what it cost, as own_costs does.

add_column() { sql -c "ALTER TABLE orders ADD $new $type"; }

backfill_naive() {
	add_column
	own_costs "UPDATE orders SET $new = $forward"
}

backfill_key() {
	add_column
	sql -c "SELECT bench_set_plpgsql('orders', ARRAY['$new'], ARRAY['${forward/$old/@$old}'])" > /dev/null
	own_costs 'CALL bench_batches_by_key()'
	sql -c 'DROP FUNCTION orders_fill() CASCADE'
}

backfill_block() {
	add_column
	own_costs "CALL bench_batches_by_block('$new', '$forward', $blocks)"
}

# The worker's CPU is counted from its start, the WAL from before dw_begin.
backfill_dw() { # OPTIONS
	sql <<-SQL
		TRUNCATE bench_event;
		SELECT pg_current_wal_insert_lsn() AS lsn, clock_timestamp() AS at \gset
		DO \$\$BEGIN PERFORM dw_begin('m', 'orders', '$old', '$type', '$new', '$forward', '$backward', '${1:-{\}}'); END\$\$;
		CALL dw_wait('m', 'verifying');
		SELECT cpu, lsn - :'lsn', extract(epoch FROM at - :'at') FROM bench_event;
	SQL
}

end_dw() {
	sql -c "CALL dw_wait('m', 'ready')"
	sql -c "SELECT dw_abort('m', true)"
}

backfill_dw_vacuum() { backfill_dw "$vacuum_option"; }

# The worker may VACUUM the table meanwhile, if this version can and doesn't do
# so anyway: what to say for three times.
probe_vacuum_option() {
	case $(sql -c "SELECT fallback FROM dualwrite.known_options() WHERE name = 'vacuum'") in
	0) echo '{"vacuum": 3}' ;;
	f* | off) echo '{"vacuum": true}' ;;
	esac
}

# --- measuring ---------------------------------------------------------------

check_orders() { # TECHNIQUE
	local wrong
	wrong=$(sql -c "SELECT count(*) FROM orders WHERE $new IS DISTINCT FROM $forward")
	[ "$wrong" = 0 ] || die "backfill $1: $wrong rows are not filled"
}

measure_backfill() { # CASE TECHNIQUE
	local heap index cpu wal seconds
	progress "backfill: $1, $2"
	make_orders
	IFS='|' read -r heap index < <(sql -c "SELECT pg_relation_size('orders'), pg_indexes_size('orders')")
	IFS='|' read -r cpu wal seconds < <("backfill_$2")
	[ -n "$seconds" ] || die "backfill $1: $2 has not come to an end"
	check_orders "$2"
	measured backfill "$1" "$2" 'cpu' "$(awk "BEGIN { print $cpu / $rows }")"
	measured backfill "$1" "$2" 'wal' "$(awk "BEGIN { print $wal / $rows }")"
	sql -F ' ' -c "SELECT pg_relation_size('orders')::float8 / $heap, pg_relation_size('orders')::float8 / $ideal,
			pg_indexes_size('orders')::float8 / $index" | {
		read -r growth to_ideal index_growth
		measured backfill "$1" "$2" 'heap, to ideal' "$to_ideal"
		measured backfill "$1" "$2" 'heap, to before' "$growth"
		measured backfill "$1" "$2" 'indexes, to before' "$index_growth"
	}
	measured backfill "$1" "$2" 'rows/s' "$(awk "BEGIN { print $rows / $seconds }")"
	if [[ $2 == dw* ]]; then end_dw > /dev/null; fi
	sql -c 'DROP TABLE orders'
}

run_backfill() {
	local name technique round ideal vacuum_option
	local columns values rows order indexes with old new type forward backward blocks main_case
	local techniques=(naive key block dw)
	fresh_database
	sql < "$bench/backfill.sql"
	vacuum_option=$(probe_vacuum_option)
	[ -z "$vacuum_option" ] || techniques+=(dw_vacuum)
	for name in "${backfill_cases[@]}"; do
		wanted_case "$name" || continue
		backfill_case "$name"
		make_backfill_source
		ideal=$(ideal_size)
		for ((round = 1; round <= (main_case ? backfill_rounds : 1); round++)); do
			for technique in "${techniques[@]}"; do measure_backfill "$name" "$technique"; done
		done
		sql -c 'DROP TABLE source'
	done
}
