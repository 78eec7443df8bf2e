# shellcheck shell=bash
# What test/check, test/matrix and others need to test on throw-away servers:
# packages, a chroot with another PostgreSQL major, a scratch directory, and a
# private copy of a server to install the extension into.
#
# Two words: the *target* is where commands run, this machine or a chroot on
# it; the *scratch directory* is where everything is that a run makes, owned by
# user postgres and removed at its end. PostgreSQL installations can be moved,
# so a run copies the server into its scratch directory and installs there:
# nothing is written into the system's directories, and runs side by side don't
# see each other's builds.
#
# To be sourced by bash with `set -euo pipefail`.

DW_TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
DW_HOST_PG=15                 # the major that Debian 12 has

export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

target_root=                  # the target's root directory; empty: this machine
target_pg=$DW_HOST_PG         # the target's PostgreSQL major
scratch=                      # the scratch directory as the target sees it
pg_bin=                       # the private server's programs, likewise
target_env=()                 # environment of the target's commands

say() { printf '%s\n' "$*"; }
die() { printf '%s\n' "${0##*/}: $*" >&2; exit 2; }

# Run the calling script again as root unless it is root already.
become_root() { # ARGUMENT...
	[ "$(id -u)" -ne 0 ] || return 0
	command -v sudo >/dev/null || die 'must be root (or have sudo)'
	exec sudo -- bash "$0" "$@"
}

# Mirrors have bad moments.
retry() { # COMMAND...
	local pause
	for pause in 5 20 60; do
		"$@" && return 0
		say "trying again in $pause s: $*" >&2
		sleep "$pause"
	done
	"$@"
}

# Quiet unless it fails. As in any condition, `set -e` doesn't hold inside: a
# function given to these two must itself return what went wrong.
quietly() { # COMMAND...
	local out
	if ! out=$("$@" 2>&1); then
		printf '%s\n' "$out" | tail -n 60 >&2
		return 1
	fi
}

# --- packages of this machine ------------------------------------------------

missing_packages() { # PACKAGE...
	local package
	for package; do
		[ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
			printf '%s ' "$package"
	done
}

# Install with apt what is missing. Debian's PostgreSQL packages would make and
# start a cluster, others start a service; nobody asked for one.
need_packages() { # PACKAGE...
	local missing conf=/etc/postgresql-common/createcluster.conf made_conf=
	local policy=/usr/sbin/policy-rc.d made_policy='' status=0
	missing=$(missing_packages "$@")
	[ -n "$missing" ] || return 0
	say "installing with apt: $missing"
	if [ ! -e "$conf" ] && [[ " $missing" == *" postgresql-"* ]]; then
		made_conf=1
		mkdir -p "${conf%/*}"
		say 'create_main_cluster = false' > "$conf"
	fi
	retry quietly apt-get -q update
	if [ ! -e "$policy" ]; then
		made_policy=1
		printf '#!/bin/sh\nexit 101\n' > "$policy"
		chmod +x "$policy"
	fi
	# shellcheck disable=SC2086
	retry quietly apt-get -qy -o Acquire::Retries=5 install --no-install-recommends $missing || status=$?
	[ -z "$made_policy" ] || rm -f "$policy"
	[ "$status" -eq 0 ] || return "$status"
	if [ -n "$made_conf" ]; then      # from now on the packages' own settings hold
		rm -f "$conf"
		[ ! -e "$conf.ucf-dist" ] || mv "$conf.ucf-dist" "$conf"
	fi
}

# --- a chroot with another PostgreSQL major ----------------------------------

pg_root_dir() { echo "/var/tmp/pg_dualwrite-root-$1"; } # MAJOR

debian_suite() { # MAJOR
	case $1 in
	13) echo bullseye ;;
	15) echo bookworm ;;
	17) echo trixie ;;
	18 | 19) echo forky ;;
	*) die "no Debian suite is known to have PostgreSQL $1" ;;
	esac
}

# The mirror this machine uses, so that no address has to be written down.
debian_mirror() {
	# shellcheck disable=SC2016
	apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1
}

# Installing needs /proc; the mount lives in a private namespace and goes with it.
in_new_root() { # DIR COMMAND...
	# shellcheck disable=SC2016
	unshare -m sh -c 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"' "$@"
}

bootstrap() { # SUITE DIR MIRROR
	local script=/usr/share/debootstrap/scripts/$1
	[ -e "$script" ] || script=/usr/share/debootstrap/scripts/sid   # newer than debootstrap
	rm -rf --one-file-system "$2"
	debootstrap --variant=minbase "$1" "$2" "$3" "$script"
}

configure_root() { # MAJOR DIR MIRROR
	local dir=$2
	# Suites that aren't released may stand still on a mirror for weeks.
	cat > "$dir/etc/apt/apt.conf.d/99test" <<-'CONF'
	Acquire::Check-Valid-Until "false";
	Acquire::Check-Date "false";
	Acquire::Languages "none";
	Acquire::Retries "5";
	APT::Install-Recommends "false";
	DPkg::Options { "--force-unsafe-io"; };
	CONF
	mkdir -p "$dir/etc/postgresql-common"
	say 'create_main_cluster = false' > "$dir/etc/postgresql-common/createcluster.conf"
	printf '#!/bin/sh\nexit 101\n' > "$dir/usr/sbin/policy-rc.d"
	chmod +x "$dir/usr/sbin/policy-rc.d"
	if [ "$1" = 19 ]; then          # that one source package only
		say "deb $3 experimental main" >> "$dir/etc/apt/sources.list"
		printf 'Package: src:postgresql-19\nPin: release a=experimental\nPin-Priority: 990\n' \
			> "$dir/etc/apt/preferences.d/postgresql"
	fi
}

# The -dev package is only unpacked: it depends on clang and llvm, 100 MB that
# a build with with_llvm=no does without.
unpack_server_dev() { # MAJOR DIR
	# shellcheck disable=SC2016
	in_new_root "$2" sh -ec '
		cd /tmp
		apt-get download -q "postgresql-server-dev-$0"
		dpkg-deb -x postgresql-server-dev-*.deb /
		rm postgresql-server-dev-*.deb' "$1"
}

build_pg_root() { # MAJOR DIR
	local pg=$1 dir=$2 suite mirror
	suite=$(debian_suite "$pg")
	need_packages debootstrap
	mirror=$(debian_mirror)
	if [ -z "$mirror" ]; then
		retry quietly apt-get -q update
		mirror=$(debian_mirror)
	fi
	retry quietly bootstrap "$suite" "$dir" "$mirror"
	configure_root "$pg" "$dir" "$mirror"
	retry quietly in_new_root "$dir" apt-get -q update
	retry quietly in_new_root "$dir" apt-get -qy install \
		"postgresql-$pg" libpq-dev make gcc libc6-dev libipc-run-perl
	retry quietly unpack_server_dev "$pg" "$dir"
	quietly in_new_root "$dir" apt-get clean
	chmod 1777 "$dir/dev/shm"
	touch "$dir/.ready"
}

# Make the chroot for a major, or find it made already.
need_pg_root() { # MAJOR
	local dir
	dir=$(pg_root_dir "$1")
	[ ! -e "$dir/.ready" ] || return 0
	say "making a chroot with PostgreSQL $1 in $dir"
	(
		flock 9
		[ -e "$dir/.ready" ] || build_pg_root "$1" "$dir"
	) 9> "/run/lock/${dir##*/}"
}

# --- the target --------------------------------------------------------------

# PostgreSQL refuses to run as root, so everything in a target runs as user
# postgres, in a clean environment, in the root directory.
in_target() { # COMMAND...
	chroot --userspec=postgres:postgres "${target_root:-/}" \
		env -i HOME="$scratch" TMPDIR="$scratch/tmp" LC_ALL=C.UTF-8 \
		PATH="$pg_bin:/usr/bin:/bin" "${target_env[@]}" "$@"
}

make_scratch() {
	local dir
	dir=$(mktemp -d "$target_root/var/tmp/pg_dualwrite.XXXXXX")
	scratch=${dir#"$target_root"}
	mkdir "$dir/tmp" "$dir/log"
	give_to_postgres
}

# Numeric ids: the target's user postgres need not be this machine's.
give_to_postgres() {
	chroot "${target_root:-/}" chown -R postgres:postgres "$scratch"
	chmod 755 "$target_root$scratch"
}

# Everything that runs in the target has the scratch directory for its HOME.
# Servers overwrite what /proc shows of theirs; they are known by their files.
signal_clients() { # SIGNAL
	local file
	for file in /proc/[0-9]*/environ; do
		if grep -qzxF "HOME=$scratch" "$file" 2>/dev/null; then
			file=${file%/environ}
			kill "-$1" "${file#/proc/}" 2>/dev/null || true
		fi
	done
}

# End every server of the scratch directory, by the process id it left there.
stop_servers() {
	local file pid
	while IFS= read -r file; do
		pid=$(head -n 1 "$file" 2>/dev/null) || continue
		[[ $pid =~ ^[0-9]+$ ]] || continue
		kill -QUIT "$pid" 2>/dev/null || continue
		for _ in {1..100}; do
			# The file goes before the process does, the process before its
			# parent has taken note of it.
			{ [ -e "$file" ] && kill -0 "$pid" 2>/dev/null; } || continue 2
			sleep 0.1
		done
		kill -KILL "$pid" 2>/dev/null || true
	done < <(find "$target_root$scratch" -name postmaster.pid 2>/dev/null)
}

stop_everything() {
	signal_clients TERM
	stop_servers
	signal_clients KILL
}

remove_scratch() {
	[ -n "$scratch" ] || return 0
	stop_everything
	for _ in {1..10}; do      # a process that is just ending may still write a file
		rm -rf --one-file-system "${target_root}${scratch:?}" 2>/dev/null && return 0
		sleep 0.5
	done
	rm -rf --one-file-system "${target_root}${scratch:?}"
}

# The working tree, without what a build or a test left in it.
copy_source() {
	mkdir -p "$target_root$scratch/tree"
	tar -C "$DW_TOP" -c --exclude-from=- . <<-'NOT' | tar -C "$target_root$scratch/tree" -x --no-same-owner
	./.git
	*.o
	*.bc
	*.so
	*.gcda
	*.gcno
	*.gcov
	./results
	./output_iso
	./tmp_check*
	./log
	./regression.*
	NOT
}

# Debian spreads a server over /usr/lib and /usr/share; its programs find each
# other by relative paths, so the copy keeps the layout.
copy_debian_server() {
	local server=$target_root$scratch/server/usr from=$target_root/usr
	mkdir -p "$server/lib/postgresql" "$server/share/postgresql"
	cp -a "$from/lib/postgresql/$target_pg" "$server/lib/postgresql/"
	cp -a "$from/share/postgresql/$target_pg" "$server/share/postgresql/"
	ln -s /usr/include "$server/include"
	pg_bin=$scratch/server/usr/lib/postgresql/$target_pg/bin
}

copy_prefix_server() { # DIR   the prefix of an installation that was built by hand
	cp -a "$1" "$scratch/server"
	pg_bin=$scratch/server/bin
}

# Build the extension and install it into the private server.
install_extension() { # MAKE-VARIABLE...
	in_target make -s -j"$(nproc)" -C "$scratch/tree" install with_llvm=no \
		PG_CONFIG="$pg_bin/pg_config" "$@"
}

# --- results -----------------------------------------------------------------

# A test program's closing line is 'N passed, N failed'; "PASSED FAILED" from a
# file that ends with one, else "0 1": whatever happened, it isn't a success.
closing_counts() { # FILE
	local line
	line=$(tail -n 1 "$1")
	if [[ $line =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed$ ]]; then
		echo "${BASH_REMATCH[1]} ${BASH_REMATCH[2]}"
	else
		echo '0 1'
	fi
}

# The closing line of any test program, and its exit status.
close_with() { # PASSED FAILED
	say "$1 passed, $2 failed"
	[ "$2" -eq 0 ] && [ "$1" -gt 0 ]
}
