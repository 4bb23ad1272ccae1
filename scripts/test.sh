#!/usr/bin/env bash
# Runs every test on the PostgreSQL of PG_CONFIG.
source "$(dirname "$0")/common.sh"
scripts/setup.sh
scripts/tools.sh
use_postgres

dir=$(mktemp -d /tmp/count_relations.XXXXXX)
give_to_postgres "$dir"

clean_up() {
    # Only an interrupted test leaves its server behind.
    for pidfile in "$dir"/*/postmaster.pid; do
        [[ ! -e $pidfile ]] ||
            as_postgres "$pg_bin/pg_ctl" stop -s -m immediate -D "${pidfile%/*}" || true
    done
    rm -rf "$dir"
}
trap clean_up EXIT
trap 'exit 130' INT TERM HUP

# The tests inside the server, which print its log (see pg_test in src/lib.rs).
test_inside() {
    local log=$dir/log unexpected
    RUST_TEST_NOCAPTURE=1 cargo pgrx test "${how[@]}" "$pg_feature" tests::pg_ 2>&1 |
        sed -u 's/\x1b\[[0-9;]*m//g' | tee "$log" | sed -u '/: TMSG: /d' ||
        { grep ': TMSG: ' "$log" >&2; die "a test inside the server failed; its log is above"; }
    unexpected=$(unexpected_lines "$log")
    [[ -z $unexpected ]] ||
        die "unexpected lines in the log of the tests' server:"$'\n'"$unexpected"
}

# Those that no test has named beforehand, with expect_in_log.
unexpected_lines() { # LOG
    awk '
        !sub(/^.*\]: TMSG: /, "") { next }
        sub(/^LOG:  expected: /, "") { expected[$0]; next }
        { lines++ }
        /^(WARNING|ERROR|FATAL|PANIC):  / || /leak/ || /was terminated by signal/ {
            message = $0
            sub(/^[A-Z]+:  /, "", message)
            for (beginning in expected)
                if (index(message, beginning) == 1) next
            print
        }
        END { if (!lines) print "(there is no log)" }' "$1"
}

# The order matters: for the tests inside the server pgrx installs a test build,
# and the stories need the real one. `tests::pg_` is how pgrx names the former.
say "Tests inside the server ($("$PG_CONFIG" --version))"
export USER=${USER:-$(id -un)} # pgrx's tests connect as this role, and some shells lack it
how=("${features[@]}" --pgdata "$dir")
if is_root; then
    how+=(--runas postgres)
elif ! can_install; then
    how+=(--runas "$USER") # makes pgrx use sudo to install
fi
unlink_installed
test_inside

# With assertions comes debug_discard_caches, too: whoever relies on something that
# is only in a cache falls.
if [[ $("$PG_CONFIG" --configure) == *--enable-cassert* ]]; then
    say "The same with caches that forget at once"
    DISCARD_CACHES=1 test_inside
fi

scripts/install.sh

say "Unit tests, and stories on servers of their own"
# The same features as above, so that nothing is built again. Stories mostly
# wait, so there can be more of them at a time than processors.
RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((4 * $(nproc)))} \
    cargo test --no-default-features --features "$pg_feature pg_test" \
    --lib --test stories -- --skip tests::pg_

say "All tests passed on $("$PG_CONFIG" --version)"
