#!/usr/bin/env bash
# Runs the tests on every supported PostgreSQL that is available, or on those named:
#   scripts/test-all.sh 15 18-cassert
source "$(dirname "$0")/common.sh"

pg_configs=$(scripts/versions.sh "$@")
results=()
failed=0
trap 'exit 130' INT TERM HUP # not on to the next version
LEFT_OUT=$(mktemp)
export LEFT_OUT
trap 'rm -f "$LEFT_OUT"' EXIT

for PG_CONFIG in $pg_configs; do
    SECONDS=0
    : >"$LEFT_OUT"
    if scripts/test.sh; then
        result=passed
    else
        result=FAILED failed=1
    fi
    results+=("$result after $SECONDS s: $("$PG_CONFIG" --version), $PG_CONFIG")
    mapfile -t left_out < <(sed 's/^/    left out: /' "$LEFT_OUT")
    results+=("${left_out[@]}")
done

# The libraries of all versions are installed by now; a server must refuse those that were built
# for another.
# shellcheck disable=SC2086 # several words
scripts/test-confused.sh $pg_configs || failed=1

if ! (($#)); then
    for major in "${supported[@]}"; do
        [[ ${results[*]} == *": PostgreSQL $major"* ]] ||
            results+=("NOT TESTED, as it could not be had: PostgreSQL $major")
    done
fi
say "Results"
printf '%s\n' "${results[@]}"
exit $failed
