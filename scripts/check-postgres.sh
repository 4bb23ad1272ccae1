#!/usr/bin/env bash
# Runs PostgreSQL's own test suites with us in every server that they start:
#   scripts/check-postgres.sh [--quick] [MAJOR...] [SUITE...]
# A MAJOR is a version whose sources versions.sh knows; 18 if none is named. A SUITE is a
# directory of those sources, like src/test/recovery. --quick means the regression and the
# isolation suite; without either, all that are listed here are run.
source "$(dirname "$0")/common.sh"

suites=(
    src/test/regress
    src/test/isolation
    contrib/pg_stat_statements
    src/bin/pg_basebackup
    src/bin/pg_dump
    src/bin/pg_rewind
    src/bin/pg_upgrade
    src/test/subscription
    src/test/recovery
)

# The only differences that are put up with: in which suite; whether always or sometimes;
# in which test; and how to tell them from any other, a pattern for all that the test
# complains of. Whatever always differs must not pass: its entry has to go.
expected=()
expect() { # SUITE WHEN TEST PATTERN REASON
    expected+=("$(IFS=$'\t' && echo "$*")")
}
expect src/test/recovery always t/029_stats_restart.pl 'not ok - [a-z_ ]+: db stats do not exist' \
    'It wants a database without statistics, and any worker that connects makes some; worker_spi fails it, too.'
expect src/test/recovery sometimes t/037_invalid_database.pl \
    'Tests were run but no plan.*|Looks like your test exited with [0-9]+ just after 9\.' \
    'It cancels DROP DATABASE once anybody waits for pg_tablespace, be it our worker, connecting, and then hangs.'

majors=() chosen=()
for argument; do
    case $argument in
        --quick) chosen+=(src/test/regress src/test/isolation) ;;
        */*) chosen+=("${argument%/}") ;;
        *) majors+=("$argument") ;;
    esac
done
((${#majors[@]})) || majors=(18)
((${#chosen[@]})) || chosen=("${suites[@]}")

dir=$(mktemp -d /tmp/count_relations.XXXXXX)
trap 'rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM HUP
chmod a+rx "$dir"

cat >"$dir/conf" <<'EOF2'
shared_preload_libraries = 'count_relations'
count_relations.databases = '*'
count_relations.naptime = 10ms
count_relations.log_counts = changes
log_line_prefix = '%m %b[%p] %q%a '
EOF2

in_tree() { # COMMAND: what runs the suites writes into the tree, too
    as_postgres env -u MAKELEVEL -u MAKEFLAGS -u MFLAGS \
        TEMP_CONFIG="$dir/conf" PG_REGRESS_DIFF_OPTS=-u "$@"
}

quietly() {
    "$@" &>"$dir/log" || { tail -n 30 "$dir/log" >&2; die "failed: $*"; }
}

# --- What to make of a suite's output ---

# passed, skipped or failed, and the name of each test, from what pg_regress and prove
# print. What prove calls neither ok nor skipped has failed.
results() {
    sed -nE -e 's/^ok [0-9]+ +[-+] ([^ ]+) .*/passed \1/p' \
        -e 's/^not ok [0-9]+ +[-+] ([^ ]+) .*/failed \1/p' \
        -e 's/^(t\/[^ ]+) \.+ ok$/passed \1/p; t' \
        -e 's/^(t\/[^ ]+) \.+ (skipped: .*)$/skipped \1 \2/p; t' \
        -e 's/^(t\/[^ ]+) \.+.*/failed \1/p' "$dir/out"
}

planned() { # SUITE: how many tests there are
    local files=("$tree/$1"/t/*.pl)
    [[ -e ${files[0]} ]] || files=()
    sed -nE 's/^1\.\.([0-9]+)$/\1/p' "$dir/out" | awk -v tap="${#files[@]}" '{ n += $1 } END { print n + tap }'
}

diff_of() { # SUITE TEST
    find "$tree/$1" -maxdepth 2 -name regression.diffs -exec \
        awk -v results="/results/$2.out" '/^diff / { on = index($0, results) } on' {} +
}

log_of() { echo "$tree/$1/tmp_check/log/regress_log_$(basename "$2" .pl)"; } # SUITE TEST

# A TAP test's checks that failed, and whether it died; or what is different in the
# output of another test.
complaints() { # SUITE TEST
    if [[ $2 == t/* ]]; then
        sed -nE -e 's/^\[[0-9:.]+\]\([0-9.]+s\) +not ok [0-9]+ - /not ok - /p' \
            -e 's/^\[.*# (Looks like your test exited with|Tests were run but no plan)/\1/p' "$(log_of "$1" "$2")"
    else
        diff_of "$1" "$2" | grep '^[-+]' | grep -vE '^(---|\+\+\+) '
    fi
}

# Whether a test failed as expected, and only so; remembers what of.
is_expected() { # SUITE TEST
    local entry suite test pattern reason said
    said=$(complaints "$1" "$2") || return
    for entry in "${expected[@]}"; do
        IFS=$'\t' read -r suite _ test pattern reason <<<"$entry"
        if [[ $suite == "$1" ]] && grep -qxE "$test" <<<"$2" && [[ -n $said ]] &&
            ! grep -qvxE "$pattern" <<<"$said"; then
            say "$2 differs as expected. $reason"
            seen[$entry]=1
            return
        fi
    done
    return 1
}

show() { # SUITE TEST
    say "$2 failed"
    if [[ $2 == t/* ]]; then
        complaints "$1" "$2"
        echo "See $(log_of "$1" "$2")"
        find "$tree/$1/tmp_check" -name regression.diffs -exec cat {} +
    else
        diff_of "$1" "$2"
    fi >&2
}

# Trouble that our processes had, whether or not a test noticed. They may be told to end;
# their database may be gone, or going, when they connect; a visit waits two seconds for a lock;
# some tests leave few slots.
misdeeds() { # LOG...
    grep -hE -e '^TRAP: ' -e ' count relations( launcher)?\[[0-9]+\] (WARNING|ERROR|FATAL|PANIC): ' \
        -e '"count relations[^"]*" \(PID [0-9]+\) (was terminated by|exited with exit code ([2-9]|[0-9]{2}))' \
        /dev/null "$@" |
        grep -vE -e ' FATAL:  terminating background worker "count relations.*" due to administrator command$' \
            -e ' FATAL:  terminating connection due to conflict with recovery$' \
            -e ' FATAL:  cannot connect to invalid database ".*"$' \
            -e ' FATAL:  (database ".*" does not exist|".*" is not a valid data directory)$' \
            -e ' ERROR:  canceling statement due to lock timeout$' \
            -e ' WARNING:  out of background worker slots: '
}

# --- Running them ---

run_suite() { # SUITE
    # Tests that load a library themselves load us beside it.
    find "$tree/$1" \( -name '*.pl' -o -name '*.conf' \) -exec grep -q shared_preload_libraries {} \; \
        -exec sed -i -E "/count_relations/! s/(shared_preload_libraries *= *')([^']+)'/\1\2, count_relations'/" {} +
    quietly in_tree make -sC "$tree/$1" checkprep DESTDIR="$tree/tmp_install"
    # -i: on to the TAP tests, whatever came of the others. They mostly wait, so more of
    # them than processors; those that hang are ended.
    in_tree make -isC "$tree/$1" check NO_TEMP_INSTALL=1 \
        PROVE_FLAGS="-j $((2 * $(nproc))) --exec 'timeout --foreground -k 60 900 perl -I$tree/src/test/perl -I.'" \
        >"$dir/out" 2>"$dir/err" || true
}

check_suite() { # SUITE
    local what test passed=0 skipped=0 differing=0 wrong=() ran all entry logs with_us result
    local -A seen=()
    SECONDS=0
    say "PostgreSQL $major: $1"
    rm -rf "$tree/$1"/{log,results,output_iso,tmp_check,tmp_check_iso,regression.*}
    run_suite "$1"

    while read -r what test; do
        if [[ $what == passed ]]; then
            passed=$((passed + 1))
        elif [[ $what == skipped ]]; then
            skipped=$((skipped + 1))
            echo "$test" >&2
        elif is_expected "$1" "$test"; then
            differing=$((differing + 1))
        else
            wrong+=("$test")
            show "$1" "$test"
        fi
    done < <(results)
    ran=$((passed + skipped + differing + ${#wrong[@]}))
    all=$(planned "$1")
    ((ran == all && all > 0)) || wrong+=("$ran of $all tests were run")
    if ((passed + skipped == ran)) && grep -q 'Error [0-9]* (ignored)' "$dir/err"; then
        wrong+=("make failed")
    fi
    ((!${#wrong[@]})) || tail -n 40 "$dir/err" >&2

    for entry in "${expected[@]}"; do
        [[ $entry != "$1"$'\t'always$'\t'* || -n ${seen[$entry]-} ]] ||
            wrong+=("this is expected no more: ${entry//$'\t'/ }")
    done

    mapfile -t logs < <(grep -rl --include='*.log' 'database system is ready to accept' "$tree/$1")
    mapfile -t with_us < <(grep -l 'count relations launcher started' "${logs[@]}" /dev/null)
    # Not each: one that is stopped at once may not have come to start us.
    ((${#with_us[@]})) || wrong+=("no server had us in it")
    ! misdeeds "${logs[@]}" >&2 || wrong+=("one of our processes came to a bad end")

    result="$passed of $all tests passed, $skipped were skipped, $differing differ as expected; ${#with_us[@]} of ${#logs[@]} servers had us in them; $SECONDS s"
    if ((${#wrong[@]})); then
        summary+=("FAILED $major $1: $result" "${wrong[@]/#/  - }")
        failed=1
    else
        summary+=("passed $major $1: $result")
    fi
}

summary=() failed=0
for major in "${majors[@]}"; do
    PG_CONFIG=$(scripts/versions.sh "$major-suites")
    scripts/setup.sh
    use_postgres
    # Their servers are installed beneath the tree, not in a private copy.
    PG_CONFIG=$original_pg_config
    find_directories "$PG_CONFIG"
    tree=${PG_CONFIG%/bin/pg_config}/src
    exec {lock}>"$tree/../lock"
    flock -n "$lock" || die "these suites are already being run"
    say "Building for PostgreSQL $major with its suites"
    cargo pgrx package --pg-config "$PG_CONFIG" "${features[@]}" --out-dir "$dir/package" >&2
    quietly in_tree make -sC "$tree" temp-install
    install -m 644 "$dir/package$pg_lib/count_relations.so" "$tree/tmp_install$pg_lib"
    for suite in "${chosen[@]}"; do
        check_suite "$suite"
    done
done
say "Results"
printf '%s\n' "${summary[@]}"
exit $failed
