# shellcheck shell=bash
# test/demo --crash: the worker is killed with kill -9, twice, and the server
# once, while clients write that keep books of what was acknowledged
# (crash-client). To be sourced by test/demo.
# shellcheck disable=SC2154,SC2034   # what it shares with test/demo

job_packages=(perl libdbd-pg-perl)

clients=4

# Clients learn from files here what has been deployed.
office=

start_clients() {
	local number
	office=$scratch/office
	in_target mkdir "$office"
	for ((number = 0; number < clients; number++)); do
		in_target "$scratch/tree/test/demo.d/crash-client" "$office" "$number" "$clients" $((scale * 100000)) \
			2> "$scratch/log/client-$number.log" &
	done
}

# How many writes have been acknowledged so far, to within a second.
clients_say() {
	cat "$office"/*.so_far 2>/dev/null | awk '{ n += $1 } END { print n + 0, "writes acknowledged" }'
}

deploy() { in_target touch "$office/$1"; } # new|ready|stop

# Wait until all books are there, and add up what stands in them.
stop_clients() {
	local acknowledged doubtful lost_here errors reconnects
	deploy stop
	for _ in {1..700}; do
		[ "$(compgen -G "$office/*.result" | wc -l)" -lt "$clients" ] || break
		sleep 0.1
	done
	[ "$(compgen -G "$office/*.result" | wc -l)" -eq "$clients" ] || fail "a client has died: $(cat "$scratch"/log/client-*.log)"
	read -r acknowledged doubtful lost_here errors reconnects < <(
		awk '{ for (i = 1; i <= NF; i++) sum[i] += $i } END { print sum[1], sum[2], sum[3], sum[4], sum[5] }' "$office"/*.result)
	note "$clients clients: $acknowledged writes acknowledged, $doubtful in doubt when a connection broke, $reconnects reconnects"
	cat "$scratch"/log/client-*.log
	transactions=$acknowledged
	failed=$errors
	lost=$lost_here
	owner -c 'CREATE TABLE books (aid int PRIMARY KEY, balance int NOT NULL)'
	cat "$office"/*.books | owner -c 'COPY books FROM STDIN'
}

# A write that stands in the books and not in the table is lost.
check_books() {
	local before=$inconsistent
	plain_check check-books.sql -v balance=abalance
	lost=$((lost + inconsistent - before))
	inconsistent=$before
}

# PostgreSQL takes such a death for a crash: it ends every session, runs
# recovery, and starts the worker again.
kill_9() { # PID
	printf '  => kill -9 %s\n' "$1"
	in_target sh -c "kill -9 $1"      # as user postgres: it can only be a server's process
}

kill_worker() {
	step 'Kill the worker with -9: the server ends every session and recovers'
	replace_worker kill_9
}

# The extension isn't preloaded, so that after a restart of the whole server
# somebody (cron, say) has to ask for the worker. dw_wait does, too.
crash_server() {
	step 'Stop the server as in a crash, and start it again'
	printf '  => pg_ctl stop -m immediate; pg_ctl start\n'
	in_target pg_ctl -D "$data" -m immediate -w stop > /dev/null
	start_server
	sql_named "SELECT state, state_reason, next_step FROM dw_status"
	sql "SELECT dw_ensure_workers()"
}

run_job() {
	step "$clients clients write, as the old version of the application; every acknowledged write goes into their books"
	start_clients
	sleep 1
	step 'dw_begin adds the column, puts the mirror on and starts a worker that fills a million rows'
	begin_migration
	note 'from now on the clients are now the old version, now the new one, which must not read abalance_cents yet'
	deploy new
	progress_until "percent_done >= 25 OR phase <> 'backfilling'"
	kill_worker
	progress_until "percent_done >= 50 OR phase <> 'backfilling'"
	kill_worker
	progress_until "percent_done >= 75 OR phase <> 'backfilling'"
	crash_server
	progress_until "phase = 'ready'"
	deploy ready
	plain_check check-sides.sql

	step 'Verify, switch, and let both versions write'
	sql_named "SELECT * FROM dw_verify('cents')"
	sql "SELECT dw_switch('cents')"
	sleep 3
	plain_check check-sides.sql
	step 'Roll back, and switch again'
	sql "SELECT dw_rollback('cents')"
	sleep 3
	plain_check check-sides.sql
	sql "SELECT dw_switch('cents')"
	sleep 3
	sql_named "SELECT * FROM dw_verify('cents')"

	step 'Stop the clients and compare every account with their books'
	stop_clients
	plain_check check-sides.sql
	check_books
	step 'Finalize: the mirror and the old column go; compare once more'
	sql "SELECT dw_finalize('cents')"
	plain_check check-books.sql -v balance='abalance_cents / 100.0'
}
