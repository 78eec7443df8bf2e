# shellcheck shell=bash
# The server that test/bench/run measures on, and what measures.
# To be sourced by test/bench/run.
# shellcheck disable=SC2154,SC2034   # what it shares with test/lib.sh and test/bench/run

bench_packages() {
	local packages=(make gcc libc6-dev perl)
	if [ -z "$prefix" ]; then
		packages+=("postgresql-$DW_HOST_PG" "postgresql-server-dev-$DW_HOST_PG")
	else
		id postgres >/dev/null 2>&1 || packages+=(postgresql-common)
	fi
	echo "${packages[@]}"
}

# Without it, CPU time has to do.
need_valgrind() {
	[ -n "$valgrind" ] && ! command -v valgrind > /dev/null || return 0
	need_packages valgrind || true
	command -v valgrind > /dev/null || { say 'there is no valgrind: no instruction counts'; valgrind=; }
}

# A release build in a private copy of the server, and a cluster in which
# nothing happens by itself: no autovacuum, no checkpoint in the middle, no JIT
# compiler that comes in at some table size. With checksums.
make_server() {
	make_scratch
	copy_source
	if [ -z "$prefix" ]; then copy_debian_server; else copy_prefix_server "$prefix"; fi
	give_to_postgres
	quietly install_extension WERROR=1
	quietly in_target make -s -C "$scratch/tree/test/bench" install with_llvm=no PG_CONFIG="$pg_bin/pg_config"
	data=$scratch/data
	quietly in_target initdb -D "$data" -A trust --no-sync --no-locale --encoding=UTF8 --data-checksums
	in_target tee -a "$data/postgresql.conf" > /dev/null <<-CONF
	listen_addresses = ''
	unix_socket_directories = '$scratch'
	shared_buffers = $shared_buffers
	fsync = off
	autovacuum = off
	checkpoint_timeout = 1d
	max_wal_size = 20GB
	min_wal_size = 2GB
	jit = off
	max_parallel_workers_per_gather = 0
	max_parallel_maintenance_workers = 0
	log_checkpoints = off
	CONF
	target_env+=(PGHOST="$scratch" PGDATABASE=bench PGOPTIONS='-c client_min_messages=warning')
	start_server
	make_segments
}

# Who needs a segment of WAL that isn't there has to fill 16 MB with zeroes: a
# third of what an UPDATE of wide rows takes. So there are some, which each
# checkpoint keeps.
make_segments() {
	sql -d postgres > /dev/null <<-SQL
		DO \$\$BEGIN
		    FOR i IN 1 .. 120 LOOP
		        PERFORM pg_logical_emit_message(false, '', ''), pg_switch_wal();
		    END LOOP;
		END\$\$;
		CHECKPOINT;
	SQL
}

start_server() { in_target pg_ctl -D "$data" -l "$scratch/log/server.log" -w start > /dev/null; }
stop_server() { in_target pg_ctl -D "$data" -m fast -w -t 300 stop > /dev/null; }

# Statements from standard input, or of -c; one line a row, columns apart by |.
sql() { in_target psql -XAtq -v ON_ERROR_STOP=1 -U postgres "$@"; } # PSQL-OPTION...

# A database for a question, without anything that another one left.
fresh_database() {
	sql -d postgres -c 'DROP DATABASE IF EXISTS bench WITH (FORCE)' 2> /dev/null
	sql -d postgres -c 'CREATE DATABASE bench'
	sql < "$DW_TOP/test/bench/peers.sql"
}

# A figure: of a technique, in a case, in a question.
measured() { printf '%s\t%s\t%s\t%s\t%s\n' "$@" >> "$results"; } # QUESTION CASE TECHNIQUE MEASURE VALUE

# What a statement costs its own backend: "CPU|WAL|SECONDS", microseconds and
# bytes.
own_costs() { # STATEMENT
	sql <<-SQL
		SELECT bench_cpu(pg_backend_pid()) AS cpu, pg_current_wal_insert_lsn() AS lsn, clock_timestamp() AS at \gset
		$1;
		SELECT bench_cpu(pg_backend_pid()) - :cpu, pg_current_wal_insert_lsn() - :'lsn',
		       extract(epoch FROM clock_timestamp() - :'at');
	SQL
}

progress() { [ ! -t 2 ] || printf '\r\e[K%s' "${*:+[$SECONDS s] $*}" >&2; }

# Run a file of statements, one a line, in a single-user server under callgrind,
# and print the instructions that executing each line took: no parsing, no
# planning, no commit. PortalRun is the executor's outermost function and a
# utility command's, too; callgrind writes what it has counted each time the
# function is left.
instructions() { # FILE
	local dir=$scratch/callgrind status=0
	rm -rf "$dir"
	in_target mkdir "$dir"
	in_target valgrind --tool=callgrind --toggle-collect=PortalRun --dump-after=PortalRun \
		--callgrind-out-file="$dir/out" "$pg_bin/postgres" --single -D "$data" bench \
		< "$1" > "$scratch/log/single.log" 2>&1 || status=$?
	if [ $status -ne 0 ] || grep -qE '(ERROR|FATAL|PANIC):' "$scratch/log/single.log"; then
		grep -E -A 3 '(ERROR|FATAL|PANIC):' "$scratch/log/single.log" | head -n 20 >&2
		die 'the single-user server failed'
	fi
	find "$dir" -name 'out.*' -printf '%f\n' | sort -t . -k 2n | sed "s:^:$dir/:" |
		xargs -d '\n' sed -n 's/^totals: //p'
}
