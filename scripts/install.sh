#!/usr/bin/env bash
# Builds the release and installs it into the PostgreSQL of PG_CONFIG.
source "$(dirname "$0")/common.sh"
scripts/setup.sh
use_postgres

say "Building and installing into $("$PG_CONFIG" --version), $pg_lib"
how=(--release --pg-config "$PG_CONFIG" "${features[@]}")
can_install || how+=(--sudo)
unlink_installed
cargo pgrx install "${how[@]}"
