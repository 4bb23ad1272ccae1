#!/usr/bin/env bash
# Builds the release, or with --debug a quick build, and installs it into the private
# installation.
source "$(dirname "$0")/common.sh"
scripts/setup.sh
use_postgres

profile=(--release)
[[ ${1-} != --debug ]] || profile=()

say "Building for $("$PG_CONFIG" --version), into $pg_lib"
# cargo-pgrx may copy over a library in place, and a server that has it loaded would crash.
rm -f "$pg_lib/count_relations.so" "$pg_share"/extension/count_relations*
cargo pgrx install "${profile[@]}" --pg-config "$PG_CONFIG" "${features[@]}"
