# A table of contents; what each target does is in scripts/.
#
# PG_CONFIG picks the PostgreSQL, for every target:
#   PG_CONFIG=/path/to/pg_config make test

.DEFAULT_GOAL := help
.PHONY: help setup all run test test-all check-postgres install uninstall package package-test dist bench soak picture lint deny clean

help: ## print this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 24

setup: ## install what is missing: PostgreSQL and its headers, Rust, libclang, cargo-pgrx
	@scripts/setup.sh

all: setup # what PGXN's client asks for first; `install` builds

run: ## watch it count: build, and follow the log of a throwaway server
	@scripts/run.sh

test: ## run every test on one PostgreSQL (or, quickly, the stories of ONLY='making_way standby')
	@scripts/test.sh $(ONLY)

test-all: ## the same on 15 to 19, and on servers with assertions (or on VERSIONS='15 18-cassert')
	@scripts/test-all.sh $(VERSIONS)

check-postgres: ## run PostgreSQL's own test suites with us in the server, on 18 (or on VERSIONS='17 18')
	@scripts/check-postgres.sh $(VERSIONS)

install: ## build the release, then install it into that PostgreSQL
	@scripts/install.sh

uninstall: ## remove it from that PostgreSQL, unless a running server preloads it
	@scripts/uninstall.sh

package: ## make a Debian package for that PostgreSQL, in dist/
	@scripts/package.sh

package-test: ## install that package, have it count, upgrade and remove it, on a private copy of this machine
	@scripts/test-package.sh

dist: ## make the archive for PGXN, in dist/
	@scripts/dist.sh

bench: ## measure what counting costs
	@scripts/bench.sh

soak: ## run everything at random on one server for half an hour (or for MINUTES=n), and watch memory
	@scripts/soak.sh

picture: ## draw docs/storm.svg: a real server in trouble, as Prometheus sees it
	@scripts/picture.sh

lint: ## check format, clippy, documentation and scripts
	@scripts/lint.sh

deny: ## check licences, duplicates and sources of the dependencies
	@scripts/deny.sh

clean: ## remove what was built here
	@scripts/clean.sh
