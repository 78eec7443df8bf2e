# shellcheck shell=bash
# What the application feels: its latency without a backfill, with the mirror
# alone, beside a process that only computes, with pg_dualwrite's backfill, and
# with one UPDATE, at a rate that it can well sustain.
# Processors and locks, not the disk: without fsync, as everywhere in the bench,
# because the file system makes new WAL files wait for seconds, with and without
# a backfill.
# To be sourced by test/bench/run.
# shellcheck disable=SC2154,SC2034   # what it shares with test/bench/run

# --- the application ---------------------------------------------------------

# pgbench's own transactions, and some on the table that is migrated: 8 clients
# that don't wait for each other, so that a wait is felt by whoever comes next.
write_load_script() {
	cat > "$scratch/tmp/orders.sql" <<-SQL
		\set id random(1, $latency_rows)
		BEGIN;
		SELECT total, note FROM orders WHERE id = :id;
		UPDATE orders SET total = total + 1 WHERE id = :id;
		END;
	SQL
}

pgbench_load() { # PGBENCH-OPTION...
	in_target pgbench -n -M prepared -c 8 -j 2 -b tpcb-like@1 -f "$scratch/tmp/orders.sql@2" -U postgres "$@"
}

# A quarter of what it could do.
choose_rate() {
	local most
	make_latency_orders none
	most=$(pgbench_load -T 5 2> /dev/null | sed -n 's/^tps = \([0-9]*\).*/\1/p')
	[ -n "$most" ] || die 'pgbench does not run'
	rate=$((most / 4))
	sql -c 'DROP TABLE orders'
}

start_load() { # TECHNIQUE
	log=$scratch/tmp/load.$1
	rm -f "$log".*
	# shellcheck disable=SC2016
	in_target sh -c 'echo $$ > "$0.pid"; exec "$@"' "$log" \
		pgbench -n -M prepared -c 8 -j 2 -b tpcb-like@1 -f "$scratch/tmp/orders.sql@2" -U postgres \
		-R "$rate" -T 600 -l --log-prefix="$log" > "$scratch/log/pgbench.log" 2>&1 &
	load=$!
	sleep 2
}

# pgbench ends a run when its alarm clock rings; ring it now.
stop_load() {
	kill -ALRM "$(cat "$log.pid")"
	wait "$load" || die "pgbench: $(tail -n 3 "$scratch/log/pgbench.log")"
}

# --- a window ----------------------------------------------------------------

make_latency_orders() { # TECHNIQUE
	sql -c "CREATE TABLE orders ($columns, PRIMARY KEY (id))"
	# on the empty table: ready at once, and the rows lie as they do without it
	[ "$1" != mirror ] || {
		sql -c "SELECT dw_begin('m', 'orders', '$old', '$type', '$new', '$forward', '$backward')" > /dev/null
		sql -c "CALL dw_wait('m', 'ready')"
	}
	sql <<-SQL
		INSERT INTO orders ($names) SELECT $values FROM generate_series(1, $latency_rows) i;
		VACUUM (FREEZE, ANALYZE) orders;
		CHECKPOINT;
	SQL
}

# What goes on in a window. The work notes when it began, in $from: adding a
# column takes a lock for a moment, and that is another matter.

# The migration has been ready since before the load: writes pass the mirror, and that is all.
work_mirror() { sleep "$latency_seconds"; }

# What any process costs that computes as much as the worker does on two
# processors under this load, in the same rhythm, and nothing else: the floor.
work_spin() {
	perl -MTime::HiRes=time,usleep -e '
		my $end = time + $ARGV[0];
		while (time < $end) { my $rest = time + 0.0002; 1 while time < $rest; usleep(1500) }' "$latency_seconds"
}
work_naive() {
	sql -c "ALTER TABLE orders ADD $new $type"
	from=$EPOCHREALTIME
	sql -c "UPDATE orders SET $new = $forward"
}
work_dw() {
	sql -c "SELECT dw_begin('m', 'orders', '$old', '$type', '$new', '$forward', '$backward')" > /dev/null
	from=$EPOCHREALTIME
	sql -c "CALL dw_wait('m', 'ready')"
}

# Percentiles of the transactions that were due between two moments, in ms.
# pgbench's log has the latency, which counts from when the transaction was due,
# in the third column, and when it ended in the fifth and sixth.
percentiles() { # FROM TO
	cat "$log".[0-9]* | awk -v from="$1" -v to="$2" '
		{ due = $5 + $6 / 1000000 - $3 / 1000000 }
		due >= from && due <= to { print $3 / 1000 }' | sort -n |
		awk '{ v[NR] = $1 } END { if (NR) print v[int(NR * 0.5) + 1], v[int(NR * 0.95) + 1], v[int(NR * 0.99) + 1], v[NR], NR }'
}

measured_window() { # TECHNIQUE FROM TO
	local p50 p95 p99 longest n
	read -r p50 p95 p99 longest n < <(percentiles "$2" "$3")
	[ "${n:-0}" -ge 100 ] || die "latency: $1: no more than ${n:-0} transactions"
	measured latency p50 "$1" latency "$p50"
	measured latency p95 "$1" latency "$p95"
	measured latency p99 "$1" latency "$p99"
	measured latency longest "$1" latency "$longest"
}

# A load, a window of it alone, and one with the work. On a machine that isn't
# ours alone, the load's own percentiles wander by a fifth within a minute: what
# is compared has to lie close together, and more than once.
measure_latency() { # TECHNIQUE
	local start from to p50 p95 p99 longest n
	progress "latency: $1"
	make_latency_orders "$1"
	start_load "$1"
	if [ "$1" != mirror ]; then
		from=$EPOCHREALTIME
		sleep "$latency_seconds"
		to=$EPOCHREALTIME
		measured_window none "$from" "$to"
	fi
	start=$EPOCHREALTIME from=$start
	"work_$1"
	to=$EPOCHREALTIME
	stop_load
	measured_window "$1" "$from" "$to"
	if [ "$1" = dw ]; then
		read -r p50 p95 p99 longest n < <(percentiles "$start" "$from")
		measured latency 'longest in dw_begin' dw latency "$longest"
	fi
	case $1 in
	mirror | dw) sql -c "SELECT dw_abort('m', true)" > /dev/null ;;
	esac
	sql -c 'DROP TABLE orders'
}

run_latency() {
	local round technique rate load log
	local names columns values rows order indexes with old new type forward backward blocks main_case
	fresh_database
	quietly in_target pgbench -i -q -s 10 -U postgres
	backfill_case sequential
	names='id, total, customer, note'
	write_load_script
	choose_rate
	for ((round = 1; round <= latency_rounds; round++)); do
		for technique in spin dw mirror naive; do measure_latency "$technique"; done
	done
}
