#!/usr/bin/env bash
# Measures what counting costs, and writes it to benches/RESULTS.md.
# BENCH_LARGE=1 adds a catalog of a million relations.
source "$(dirname "$0")/common.sh"
scripts/setup.sh
use_postgres

dir=$(mktemp -d /tmp/count_relations.XXXXXX)
trap 'rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM HUP
chmod a+rx "$dir" # the server reads the libraries here, and nothing is installed

say "Building the release"
cargo pgrx package --pg-config "$PG_CONFIG" "${features[@]}" --out-dir "$dir/package"
mv "$dir/package$pg_lib/count_relations.so" "$dir"

say "Building the workers to compare it with"
for worker in empty_worker plain_worker; do
    # With flags of our own: pg_config's may be for another compiler than ours.
    make -s -C "$dir" -f "$PWD/benches/$worker/Makefile" VPATH="$PWD/benches/$worker" \
        PG_CONFIG="$PG_CONFIG" CFLAGS='-O2 -Wall -fno-strict-aliasing -fwrapv' with_llvm=no
done

say "Measuring on $("$PG_CONFIG" --version)"
# This measures the server, not this program, which the tests have mostly built already.
BENCH_LIBRARIES=$dir cargo bench --profile dev "${features[@]}" --bench cost
