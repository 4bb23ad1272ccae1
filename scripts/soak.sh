#!/usr/bin/env bash
# Runs everything at random on a server of the PostgreSQL of PG_CONFIG, for MINUTES, and prints
# the results.
source "$(dirname "$0")/common.sh"
scripts/setup.sh
use_postgres
scripts/build.sh

say "A soak of ${MINUTES:=30} minutes on $("$PG_CONFIG" --version)"
# The same features as for `make test`, so that nothing is built again.
COUNT_RELATIONS_SOAK_MINUTES=$MINUTES \
    cargo test --no-default-features --features "$pg_feature pg_test" --test soak
