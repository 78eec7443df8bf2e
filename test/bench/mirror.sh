# shellcheck shell=bash
# What a row costs its writer: six techniques that fill a column from another
# one, by statement and by shape of the row.
# To be sourced by test/bench/run.
# shellcheck disable=SC2154,SC2034   # what it shares with test/bench/run

mirror_techniques=(none gen noop plpgsql pair dw)

# --- cases -------------------------------------------------------------------

# A case is a table and its mapping: definitions of its columns, what gives the
# i-th row, old and new columns, expressions (a leading @ names a column of the
# row), what an UPDATE sets to write the old side or another column, and how
# often it is measured. The new columns come last, as ALTER TABLE adds them.
case_row() { # the row of an order, about 88 on a page: total becomes total_cents
	columns='id bigint PRIMARY KEY, total numeric(12,2), customer int, note text'
	values="i, (1000 + i % 9000) + 0.25, i % 5000, 'an order of the shop, paid by invoice'"
	old=(total); backward=('@total_cents / 100.0')
	new=(total_cents); types=(bigint); forward=('(@total * 100)::bigint')
	set_old='total = total + 1'; set_other='customer = customer + 1'
	rows_on_page=88
	[ -n "$quick" ] || rounds=3
}

case_int() { # a key that grows: int4 becomes int8
	columns='id bigint PRIMARY KEY, ref int, customer int, note text'
	values="i, i, i % 5000, 'an order of the shop, paid by invoice'"
	old=(ref); backward=('@ref_big::int')
	new=(ref_big); types=(bigint); forward=('@ref::bigint')
	set_old='ref = ref + 1'; set_other='customer = customer + 1'
	rows_on_page=88
}

case_text() { # a value by reference
	columns='id bigint PRIMARY KEY, total numeric(12,2), customer int, note text'
	values="i, (1000 + i % 9000) + 0.25, i % 5000, 'paid by invoice'"
	old=(note); backward=('@remark')
	new=(remark); types=(text); forward=('@note')
	set_old="note = 'paid by voucher'"; set_other='customer = customer + 1'
	rows_on_page=88
}

case_split() { # one column becomes two
	columns='id bigint PRIMARY KEY, name text, customer int, note text'
	values="i, 'Ada Lovelace', i % 5000, 'paid by invoice'"
	old=(name); backward=("@first_name || ' ' || @last_name")
	new=(first_name last_name); types=(text text)
	forward=("split_part(@name, ' ', 1)" "substr(@name, length(split_part(@name, ' ', 1)) + 2)")
	set_old="name = 'Alan Turing'"; set_other='customer = customer + 1'
	rows_on_page=88
}

# 30 columns, integers and texts by turns, none of which the mapping reads but
# total, at place $1.
wide() { # PLACE
	local n column value id=1
	[ "$1" -ne 1 ] || id=2
	columns=
	values=
	for n in {1..30}; do
		if [ "$n" -eq "$1" ]; then
			column='total numeric(12,2)' value='(1000 + i % 9000) + 0.25'
		elif [ "$n" -eq "$id" ]; then
			column='id bigint PRIMARY KEY' value=i
		elif [ $((n % 2)) -eq 0 ]; then
			column="c$n int" value="i + $n"
		else
			column="c$n text" value="'text $n'"
		fi
		columns+="${columns:+, }$column"
		values+="${values:+, }$value"
	done
	old=(total); backward=('@total_cents / 100.0')
	new=(total_cents); types=(bigint); forward=('(@total * 100)::bigint')
	set_old='total = total + 1'; set_other='c8 = c8 + 1'
	rows_on_page=34
}

case_wide_first() { wide 1; }
case_wide_middle() { wide 15; }
case_wide_last() { wide 30; }

mirror_statements() { # CASE
	case $1 in
	row) echo insert copy update_old update_other update_one ;;
	*) echo insert update_old update_other ;;
	esac
}

wanted_statements() { # CASE
	local statement
	for statement in $(mirror_statements "$1"); do
		if wanted_case "$1/$statement"; then echo "$statement"; fi
	done
}

# --- tables ------------------------------------------------------------------

# shellcheck disable=SC2016
sql_array() { local list; list=$(printf '$x$%s$x$,' "$@"); echo "ARRAY[${list%,}]"; } # VALUE...

column_names() { sed -E 's/\([^)]*\)//g' <<< "$columns" | tr , '\n' | awk '{ print $1 }' | paste -sd,; }

bare() { printf '%s\n' "${@//@/}"; }

# One table a technique, filled with the same rows, and one to take rows from.
make_mirror_tables() { # CASE ROWS
	local technique table i
	sql <<-SQL
		CREATE TABLE $1_source ($columns);
		INSERT INTO $1_source SELECT $values FROM generate_series(1, $2) i;
	SQL
	for technique in "${mirror_techniques[@]}"; do
		table=$1_$technique
		sql -c "CREATE TABLE $table ($columns)"
		for i in "${!new[@]}"; do
			case $technique in
			dw) ;;
			gen) sql -c "ALTER TABLE $table ADD ${new[i]} ${types[i]} GENERATED ALWAYS AS (${forward[i]//@/}) STORED" ;;
			*) sql -c "ALTER TABLE $table ADD ${new[i]} ${types[i]}" ;;
			esac
		done
		"fill_$technique" "$1" "$table" > /dev/null
		sql -c "VACUUM (FREEZE, ANALYZE) $table"
	done
	sql -c "VACUUM (FREEZE, ANALYZE) $1_source"
}

copy_rows() { sql -c "INSERT INTO $2 ($names) SELECT $names FROM $1_source"; }

fill_none() {
	local list
	list=$(IFS=,; echo "${new[*]}")
	sql -c "INSERT INTO $2 ($names, $list) SELECT $names, $(bare "${forward[@]}" | paste -sd,) FROM $1_source"
}
fill_gen() { copy_rows "$@"; }
fill_noop() { fill_none "$@"; sql -c "SELECT bench_set_noop('$2')"; }
fill_plpgsql() {
	sql -c "SELECT bench_set_plpgsql('$2', $(sql_array "${new[@]}"), $(sql_array "${forward[@]}"))"
	copy_rows "$@"
}
fill_pair() {
	sql -c "SELECT bench_set_pair('$2', $(sql_array "${new[@]}"), $(sql_array "${forward[@]}"),
		$(sql_array "${old[@]}"), $(sql_array "${backward[@]}"))"
	copy_rows "$@"
}
# A table without rows is ready at once.
fill_dw() {
	local said
	said=$(sql -c "SELECT dw_begin_mapping('$1', '$2', $(sql_array "${old[@]}"),
		jsonb_object($(sql_array "${new[@]}"), $(sql_array "${forward[@]//@/}")),
		jsonb_object($(sql_array "${old[@]}"), $(sql_array "${backward[@]//@/}")),
		jsonb_object($(sql_array "${new[@]}"), $(sql_array "${types[@]}")))")
	[[ $said == *'is ready' ]] || die "dw_begin_mapping: $said"
	copy_rows "$@"
}

# The techniques must have come to the same rows, or they didn't do the same work.
check_mirror_tables() { # CASE WHEN
	local technique list reference='' sum
	list=$(IFS=,; echo "$names,${new[*]}")
	for technique in gen plpgsql pair dw; do
		sum=$(sql -c "SELECT count(*) || ' ' || sum(hashtext(row($list)::text)) FROM $1_$technique")
		[ "${reference:=$sum}" = "$sum" ] || die "$1, $2: $technique has other rows than gen"
	done
}

# --- instruction counts ------------------------------------------------------

# The statements go to a file, one a line; what each is goes to another one,
# "CASE STATEMENT TECHNIQUE ROWS KIND".
plan() { # CASE STATEMENT TECHNIQUE ROWS KIND SQL
	printf '%s\t%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4" "$5" >> "$scratch/mirror.plan"
	printf '%s\n' "$6" >> "$scratch/mirror.sql"
}

range() { echo "ctid >= '($1,0)' AND ctid < '($(($1 + $2)),0)'"; } # FIRST-PAGE PAGES

# The same pages have the same rows in all tables, see check_mirror_tables; the
# rows on them are counted once.
rows_in() { sql -c "SELECT count(*) FROM $1 WHERE $(range "$2" "$3")"; } # TABLE FIRST-PAGE PAGES

# An INSERT or COPY of the rows on some pages of the source, with ids that are new.
plan_write() { # CASE STATEMENT PAGES KIND
	local technique rows select
	select="SELECT ${names/id/id + $offset} FROM $1_source WHERE $(range 0 "$3")"
	local file=$scratch/tmp/$1.$offset.copy
	rows=$(rows_in "$1_source" 0 "$3")
	[ "$2" = insert ] || sql -c "COPY ($select) TO '$file'"
	for technique in "${mirror_techniques[@]}"; do
		if [ "$2" = insert ]; then
			plan "$1" "$2" "$technique" "$rows" "$4" "INSERT INTO $1_$technique ($names) $select"
		else
			plan "$1" "$2" "$technique" "$rows" "$4" "COPY $1_$technique ($names) FROM '$file'"
		fi
	done
	offset=$((offset + 1000000))
}

plan_update() { # CASE STATEMENT PAGES KIND
	local technique rows set=$set_old
	[ "$2" = update_old ] || set=$set_other
	rows=$(rows_in "$1_none" "$page" "$3")
	for technique in "${mirror_techniques[@]}"; do
		plan "$1" "$2" "$technique" "$rows" "$4" "UPDATE $1_$technique SET $set WHERE $(range "$page" "$3")"
	done
	page=$((page + $3))
}

# Single rows, each on a page where nothing has happened yet.
plan_update_one() { # CASE STATEMENT ROUND
	local technique n id kind=warm
	for n in {0..5}; do
		[ "$n" -eq 0 ] || kind=one$3
		id=$(sql -c "SELECT id FROM $1_none WHERE $(range "$page" 1) ORDER BY id LIMIT 1")
		for technique in "${mirror_techniques[@]}"; do
			plan "$1" "$2" "$technique" 1 "$kind" "UPDATE $1_$technique SET $set_old WHERE id = $id"
		done
		page=$((page + 1))
	done
}

# First some rows that warm up caches, then a few and many rows in turns.
plan_statement() { # CASE STATEMENT ROUND
	local verb=plan_update base=300
	case $2 in
	insert | copy) verb=plan_write ;;
	update_one) plan_update_one "$1" "$2" "$3"; return ;;
	esac
	[ "$3" -gt 1 ] || "$verb" "$1" "$2" 2 warm
	# COPY makes a slot for each of its first 1000 rows, and those are costly.
	[ "$2" != copy ] || base=1000
	"$verb" "$1" "$2" $((base / rows_on_page + 1)) "small$3"
	"$verb" "$1" "$2" $(((base + mirror_rows) / rows_on_page + 1)) "big$3"
}

prepare_mirror_case() { # CASE
	local statement pages names page=0 offset=1000000000 round rounds=1
	"case_$1"
	names=$(column_names)
	pages=$((2 * (2 + rounds * ((600 + mirror_rows) / rows_on_page + 2)) + 6 * rounds + 5))
	make_mirror_tables "$1" $((pages * (rows_on_page + 12)))
	check_mirror_tables "$1" 'filled'
	[ "$(sql -c "SELECT pg_relation_size('$1_none') / 8192")" -ge $pages ] || die "table $1_none is too small"
	for ((round = 1; round <= rounds; round++)); do
		for statement in $(wanted_statements "$1"); do
			plan_statement "$1" "$statement" "$round"
		done
	done
}

# The difference of many and few rows is what a row costs once all is warm.
marginal_costs() { # COUNTS
	paste "$scratch/mirror.plan" "$1" | awk -F '\t' -v OFS='\t' '
		{
			kind = $5
			round = kind
			gsub(/[a-z]/, "", round)
			sub(/[0-9]+/, "", kind)
			key = "mirror" OFS $1 "/" $2 OFS $3
			if (kind == "small") { few[key, round] = $6; few_rows[key, round] = $4 }
			if (kind == "big")
				print key, "instructions", ($6 - few[key, round]) / ($4 - few_rows[key, round])
			if (kind == "one" && round > 0) { sum[key OFS "instructions", round] += $6; n[key OFS "instructions", round]++ }
		}
		END {
			for (k in sum) { split(k, part, SUBSEP); print part[1], sum[k] / n[k] }
		}' >> "$results"
}

# The same by CPU time, in the ordinary server, with more rows: what there is
# without valgrind, and a check that instructions are what takes the time.
measure_cpu() { # CASE STATEMENT TECHNIQUE SQL
	local cpu wal seconds
	IFS='|' read -r cpu wal seconds < <(own_costs "$4")
	[ -n "$seconds" ] || die "mirror, $1/$2: $3 has failed"
	measured mirror "$1/$2" "$3" cpu "$(awk "BEGIN { print $cpu / $mirror_cpu_rows }")"
}

measure_cpu_round() { # CASE ROUND
	local statement technique file=$scratch/tmp/$1.cpu.copy
	local base=$((2000000000 + $2 * 2 * mirror_cpu_rows))
	local next=$((base + mirror_cpu_rows))
	local rows="(SELECT $values FROM generate_series(1, $mirror_cpu_rows) i) AS r ($names)"
	local select="SELECT ${names/id/$base + id} FROM $rows"
	local inserted="id > $base AND id <= $next"
	sql -c "COPY (SELECT ${names/id/$next + id} FROM $rows) TO '$file'"
	for statement in $(wanted_statements "$1"); do
		sql -c CHECKPOINT
		for technique in "${mirror_techniques[@]}"; do
			case $statement in
			insert) measure_cpu "$1" insert "$technique" "INSERT INTO $1_$technique ($names) $select" ;;
			copy) measure_cpu "$1" copy "$technique" "COPY $1_$technique ($names) FROM '$file'" ;;
			update_old) measure_cpu "$1" update_old "$technique" "UPDATE $1_$technique SET $set_old WHERE $inserted" ;;
			update_other) measure_cpu "$1" update_other "$technique" "UPDATE $1_$technique SET $set_other WHERE $inserted" ;;
			esac
		done
	done
	rm -f "$file"
}

count_instructions() {
	sql -c CHECKPOINT
	stop_server
	progress "mirror: $(wc -l < "$scratch/mirror.sql") statements under callgrind"
	instructions "$scratch/mirror.sql" > "$scratch/mirror.counts"
	[ "$(wc -l < "$scratch/mirror.counts")" -eq "$(wc -l < "$scratch/mirror.plan")" ] ||
		die 'callgrind has not counted every statement'
	marginal_costs "$scratch/mirror.counts"
	start_server
}

run_mirror() {
	local name names round
	local columns values old new types forward backward set_old set_other rows_on_page rounds
	fresh_database
	: > "$scratch/mirror.plan"
	: > "$scratch/mirror.sql"
	for name in "${mirror_cases[@]}"; do
		[ -n "$(wanted_statements "$name")" ] || continue
		progress "mirror: tables of case $name"
		prepare_mirror_case "$name"
	done
	[ -z "$valgrind" ] || count_instructions
	for name in "${mirror_cases[@]}"; do
		[ -n "$(wanted_statements "$name")" ] || continue
		"case_$name"
		names=$(column_names)
		[ -z "$valgrind" ] || check_mirror_tables "$name" 'after the counts'
		[ -z "$valgrind" ] || [ "$name" = row ] || continue
		for ((round = 1; round <= mirror_cpu_rounds; round++)); do
			progress "mirror: CPU time of case $name"
			measure_cpu_round "$name" "$round"
		done
		check_mirror_tables "$name" 'at the end'
	done
}
