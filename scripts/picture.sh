#!/usr/bin/env bash
# Draws docs/storm.svg: what Prometheus sees of a server of the PostgreSQL of PG_CONFIG, in
# two minutes of trouble.
source "$(dirname "$0")/common.sh"
scripts/setup.sh
scripts/tools.sh
use_postgres
scripts/build.sh --debug

say "Two minutes on $("$PG_CONFIG" --version)"
# The same features as for `make test`, so that nothing is built again.
cargo test --no-default-features --features "$pg_feature pg_test" --test picture
say "Drawn: docs/storm.svg"
