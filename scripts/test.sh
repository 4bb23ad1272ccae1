#!/usr/bin/env bash
# Runs every test on the PostgreSQL of PG_CONFIG; or, quickly, the unit tests and stories
# that have one of the arguments in their names: scripts/test.sh making_way standby
# The stories run on the release, but on a server with assertions on the debug build.
# What the machine could not run is listed at the end, and in the file LEFT_OUT, if that is set.
source "$(dirname "$0")/common.sh"
scripts/setup.sh
scripts/tools.sh
use_postgres

# Short, and not in TMPDIR: a Unix socket's path ends at 107 bytes.
dir=$(mktemp -d /tmp/count_relations.XXXXXX)
give_to_postgres "$dir"
# On ext4, each cluster in another group of blocks: where there is no journal, it takes long to
# find an inode in a group from which many files have just been removed.
chattr +T "$dir" 2>/dev/null || true

clean_up() {
    clean_up_in_peace
    end_job
    [[ -z ${LEFT_OUT-} || ! -e $dir/left_out ]] || cp "$dir/left_out" "$LEFT_OUT"
    # Only an interrupted test leaves its server behind, perhaps one that it had paused.
    find "$dir" -name postmaster.pid | while read -r file; do
        data=${file%/*} pid=$(head -n 1 "$file" 2>/dev/null)
        [[ $(readlink "/proc/$pid/cwd") == "$data" ]] || continue # a crashed one's pid
        kill -CONT "$pid"
        as_postgres "$pg_bin/pg_ctl" stop -s -m immediate -D "$data"
    done
    for tests_inside in "$dir/${pg_feature#pg}"-*; do
        rm -rf "/tmp/pgrx-test-sockets-${tests_inside##*/}"
    done
    rm -rf "$dir" || { sleep 1 && rm -rf "$dir"; } # as long as a process writes there
}
trap clean_up EXIT
exit_on_signals 130

# Messages that no test has declared with expect_in_log.
unexpected_lines() { # LOG
    awk '
        !sub(/^.*\]: TMSG: /, "") { next }
        sub(/^LOG:  expected: /, "") { expected[$0]; next }
        { lines++ }
        # When pgrx-tests stops the server, its own sessions may still be there, and our
        # worker be busy.
        /^LOG:  received fast shutdown request/ { stopping = 1 }
        stopping && /^FATAL:  terminating (connection|background worker)/ { next }
        /^(WARNING|ERROR|FATAL|PANIC):  / || /leak/ || /was terminated by signal/ {
            message = $0
            sub(/^[A-Z]+:  /, "", message)
            for (beginning in expected)
                if (index(message, beginning) == 1) next
            print
        }
        END { if (!lines) print "(there is no log)" }' "$1"
}

has_assertions() { [[ $("$PG_CONFIG" --configure) == *--enable-cassert* ]]; }

# The tests inside the server, which print its log (see pg_test in src/lib.rs).
test_inside() {
    local how=("${features[@]}" --pgdata "$dir") log=$dir/log unexpected
    say "Tests inside the server ($("$PG_CONFIG" --version))"
    export USER=${USER:-$(id -un)} # pgrx's tests connect as this role, and some shells lack it
    ! is_root || how+=(--runas postgres)
    # cargo-pgrx may copy over it in place, and a server that has it loaded would crash.
    rm -f "$pg_lib/count_relations.so"
    RUST_TEST_NOCAPTURE=1 cargo pgrx test "${how[@]}" "$pg_feature" tests::pg_ 2>&1 |
        sed -u 's/\x1b\[[0-9;]*m//g' | tee "$log" | sed -u '/: TMSG: /d' ||
        { grep ': TMSG: ' "$log" >&2; die "a test inside the server failed; its log is above"; }
    unexpected=$(unexpected_lines "$log")
    [[ -z $unexpected ]] ||
        die "unexpected lines in the log of the tests' server:"$'\n'"$unexpected"
}

# Runs on what scripts/build.sh has installed, with the same features as above, so that nothing
# is rebuilt. Stories mostly wait, so more of them than processors can run at a time.
stories() {
    say "Unit tests, and stories on servers of their own"
    export COUNT_RELATIONS_TEST_DIRECTORY=$dir TMPDIR=$dir
    export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((6 * $(nproc)))}
    local tests=(cargo test --no-default-features --features "$pg_feature pg_test"
        --lib --test stories -- --skip tests::pg_) listed name
    if (($#)); then
        listed=$("${tests[@]}" --list)
        for name; do # one that nothing has would pass
            grep -qF -- "$name" <<<"$listed" ||
                die "no unit test and no story has '$name' in its name; the tests in tests/in_server.rs run only with all others"
        done
    fi
    "${tests[@]}" "$@"
}

# The order matters: for the tests inside the server pgrx installs a test build, and the
# stories need the real one. `tests::pg_` is how pgrx names the former.
build=()
if (($#)); then
    build=(--debug)
else
    run_job test_inside
    # Where the server checks itself, the worker checks itself too: see Kept::check.
    ! has_assertions || build=(--debug)
fi
run_job scripts/build.sh "${build[@]}"
run_job stories "$@"

left_out=$(cat "$dir/left_out" 2>/dev/null || true)
if [[ -n $left_out ]]; then
    say "Tests passed on $("$PG_CONFIG" --version), but left out were:"
    printf '%s\n' "$left_out" >&2
else
    say "Tests passed on $("$PG_CONFIG" --version)"
fi
