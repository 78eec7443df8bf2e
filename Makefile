# pg_dualwrite, built the PGXS way:
#
#     make && make install && make installcheck
#
# PG_CONFIG chooses the server, WERROR=1 turns compiler warnings into errors.
# `make installcheck` tests the server that PGHOST and PGPORT name; test/check
# builds and tests on a throw-away server of its own.

EXTENSION = pg_dualwrite
MODULE_big = pg_dualwrite
PGFILEDESC = "pg_dualwrite - change a table's shape while both versions of its application write"

# Wildcards are taken where the sources are, which in a VPATH build is not the
# current directory; pgxs.mk wants the names relative to it.
dw_top := $(patsubst %/,%,$(dir $(firstword $(MAKEFILE_LIST))))
dw_wildcard = $(patsubst $(dw_top)/%,%,$(wildcard $(dw_top)/$(1)))

OBJS = $(patsubst %.c,%.o,$(call dw_wildcard,src/*.c))
DATA = $(call dw_wildcard,sql/pg_dualwrite--*.sql)

# pg_regress tests, sql/NAME.sql and expected/NAME.out, in the order they run.
# The first creates the extension; the others rely on it.
REGRESS = \
	install \
	begin \
	errors \
	mirror_insert \
	mirror_update \
	mirror_conflict \
	mirror_errors \
	mirror_triggers \
	mirror_defaults \
	domains \
	big_values \
	mapping \
	oneway \
	lossy \
	unfilled \
	commands \
	verify \
	gates \
	options \
	throttle \
	finalize \
	names \
	views \
	rules \
	ddl \
	tamper \
	faults \
	sample \
	proof \
	random

# The quick start of README.md, word for word; test/t/090_readme.pl compares them.
REGRESS += quickstart

# What one session's tests print must not depend on the server's locale.
REGRESS_OPTS = --no-locale --encoding=UTF8

# Isolation tests, test/specs/NAME.spec and test/expected/NAME.out; each
# stands alone, so that the order doesn't matter.
ISOLATION = $(patsubst test/specs/%.spec,%,$(call dw_wildcard,test/specs/*.spec))
ISOLATION_OPTS = --inputdir=$(srcdir)/test --no-locale --encoding=UTF8

# TAP tests make their own servers.
PROVE_TESTS = $(call dw_wildcard,test/t/*.pl)
ifneq ($(PROVE_TESTS),)
TAP_TESTS = 1
endif

PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers
ifdef WERROR
PG_CFLAGS += -Werror
endif

PG_CONFIG ?= pg_config

# PostgreSQL's headers are not ours to warn about (array.h does, with -Wextra).
PG_CPPFLAGS = -isystem $(shell $(PG_CONFIG) --includedir-server)

PGXS := $(shell $(PG_CONFIG) --pgxs)
ifeq ($(wildcard $(PGXS)),)
$(error $(PG_CONFIG) finds no server to build for: install its headers (Debian: postgresql-server-dev-15, or your major's), or name another pg_config with make PG_CONFIG=/path/to/pg_config)
endif
include $(PGXS)

# Servers are rarely configured with --enable-depend: a changed header
# rebuilds everything.
$(OBJS): $(call dw_wildcard,src/*.h)

ifdef VPATH
$(shell mkdir -p src)
endif
