# shellcheck shell=bash
# test/demo: the main job, with pgbench for both versions of the application.
# To be sourced by test/demo.
# shellcheck disable=SC2154,SC2034   # what it shares with test/demo

# --- the applications --------------------------------------------------------

# One version of the application: pgbench with a few connections. It prepares
# its statements once and keeps them for as long as it runs (-M prepared), as
# drivers do, so a plan made before dw_begin must survive every step. It does,
# because no statement of it says SELECT *: only a result that changes its shape
# is an error in PostgreSQL.
start_app() { # NAME PGBENCH-OPTION...
	local name=$1
	shift
	# shellcheck disable=SC2016
	in_target env PGAPPNAME="$name" sh -c 'echo $$ > "$0.pid"; exec "$@"' "$scratch/$name" \
		pgbench -U shopkeeper -n -M prepared -c 3 -s "$scale" -T 3600 -P 1 "$@" \
		> "$scratch/log/$name.log" 2>&1 &
	wait_for_writes "$name"
}

app_says() { # NAME   its last progress report, or nothing yet
	grep -a '^progress' "$scratch/log/$1.log" 2>/dev/null | tail -n 1
}

app_running() { [ -e "$scratch/$1.pid" ] && kill -0 "$(cat "$scratch/$1.pid")" 2>/dev/null; } # NAME

wait_for_writes() { # NAME
	for _ in {1..100}; do
		[[ $(app_says "$1") != *', '[1-9]*' tps,'* ]] || return 0
		sleep 0.1
	done
	cat "$scratch/log/$1.log" >&2
	fail "$1 does not write"
}

# pgbench ends a run when its alarm clock rings, after -T seconds; ring it now,
# and it finishes what it is at and closes with its own account of the run.
stop_app() { # NAME
	local log=$scratch/log/$1.log done_count failed_count errors
	kill -ALRM "$(cat "$scratch/$1.pid")" 2>/dev/null || true
	for _ in {1..100}; do
		app_running "$1" || break
		sleep 0.1
	done
	done_count=$(sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p' "$log")
	failed_count=$(sed -n 's/^number of failed transactions: \([0-9]*\).*/\1/p' "$log")
	errors=$(grep -acE 'error:|ERROR:|FATAL:|aborted' "$log" || true)
	note "$1: ${done_count:-no} transactions done, ${failed_count:-all} failed, $errors errors in its log"
	[ "$errors" -eq 0 ] || grep -aE 'error:|ERROR:|FATAL:|aborted' "$log" | head -n 5
	transactions=$((transactions + ${done_count:-0}))
	failed=$((failed + ${failed_count:-1} + errors))
}

# "1234 tps" of each application that is running.
clients_say() {
	local name said
	for name in old-app new-app-blind new-app; do
		app_running "$name" || continue
		said=$(app_says "$name")
		[[ ! $said =~ ([0-9]+)\.[0-9]+\ tps ]] || printf ' %s %s tps' "$name" "${BASH_REMATCH[1]}"
	done
}

# Let the applications write for a while and show that they do.
let_them_write() { # SECONDS
	sleep "$1"
	note "meanwhile:$(clients_say)"
}

# --- the main job ------------------------------------------------------------

terminate_worker() { # PID   which a superuser may only
	printf '  => SELECT pg_terminate_backend(%s)\n' "$1"
	admin -c "SELECT pg_terminate_backend($1)" > /dev/null
}

backfill_with_a_terminated_worker() {
	step 'dw_begin adds the column, puts the mirror on and starts a worker that fills a million rows'
	begin_migration
	step 'The new version of the application arrives; it writes abalance_cents, which is not filled yet'
	start_app new-app-blind -f "$scratch/tree/test/demo.d/new-blind.sql"
	progress_until "percent_done >= 40 OR phase <> 'backfilling'"
	step 'Terminate the worker in the middle'
	replace_worker terminate_worker
	progress_until "percent_done >= 60 OR phase <> 'backfilling'"
	step 'No speed limit from here on'
	sql "SELECT dw_set('cents', '{\"max_rows_per_second\": null}')"
	progress_until "phase = 'ready'"
	sql "CALL dw_wait('cents', 'ready')"
	plain_check check-sides.sql
	plain_check check-history.sql -v balance=abalance
}

switch_and_back() {
	step 'Ready: a release of the new version that reads abalance_cents, too, replaces the blind one'
	start_app new-app -f "$scratch/tree/test/demo.d/new-relative.sql"
	stop_app new-app-blind
	step 'Verify, then switch: from now on abalance_cents is authoritative, abalance follows'
	sql_named "SELECT * FROM dw_verify('cents')"
	sql "SELECT dw_switch('cents')"
	let_them_write 4
	plain_check check-sides.sql
	step 'Roll back, as if the release had been bad: abalance is authoritative again, nothing is lost'
	sql "SELECT dw_rollback('cents')"
	let_them_write 4
	plain_check check-sides.sql
	step 'Switch again'
	sql "SELECT dw_switch('cents')"
	let_them_write 4
	sql_named "SELECT * FROM dw_verify('cents')"
	plain_check check-sides.sql
	plain_check check-history.sql -v balance=abalance
}

finalize() {
	step 'The old version of the application is taken out of service'
	stop_app old-app
	plain_check check-sides.sql
	step 'Finalize while the new version writes: the mirror and the old column go'
	sql "SELECT dw_finalize('cents')"
	sql "SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute
      WHERE attrelid = 'pgbench_accounts'::regclass AND attnum > 0 AND NOT attisdropped"
	let_them_write 3
	stop_app new-app
	plain_check check-history.sql -v balance='abalance_cents / 100.0'
}

# Also those in which the worker was the victim, which no application notices.
count_deadlocks() {
	local deadlocks
	deadlocks=$(admin -c "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
	note "deadlocks, according to pg_stat_database: $deadlocks"
	failed=$((failed + deadlocks))
}

run_job() {
	step "The old version of the application: pgbench's own TPC-B-like script, which knows abalance"
	start_app old-app -b tpcb-like
	backfill_with_a_terminated_worker
	switch_and_back
	finalize
	count_deadlocks
}

