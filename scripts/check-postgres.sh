#!/usr/bin/env bash
# Runs PostgreSQL's own test suites with us in every server that they start:
#   scripts/check-postgres.sh [--quick] [MAJOR VERSION...] [SUITE...]
# Major versions are those of `release` in scripts/versions.sh; 18 if none is named. A
# suite is a directory of PostgreSQL's sources (src/test/recovery); --quick stands for the
# regression and isolation suites, and without either all below are run.
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

# The only differences that we put up with. Each says where, when (always, or sometimes:
# then it may pass, too), in which test, which of its checks fail (a regular expression
# that the name of each has to match, or each line of the difference), and why.
expected=()
expect() { expected+=("$1"$'\t'"$2"$'\t'"$3"$'\t'"$4"); } # SUITE WHEN TEST CHECKS; the reason is beside it

majors=() chosen=()
for argument; do
    case $argument in
        --quick) chosen+=(src/test/regress src/test/isolation) ;;
        */*) chosen+=("$argument") ;;
        *) majors+=("$argument") ;;
    esac
done
((${#majors[@]})) || majors=(18)
((${#chosen[@]})) || chosen=("${suites[@]}")

dir=$(mktemp -d /tmp/count_relations.XXXXXX)
trap 'rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM HUP
chmod a+rx "$dir"

cat >"$dir/us.conf" <<'EOF2'
shared_preload_libraries = 'count_relations'
count_relations.databases = '*'
count_relations.naptime = 10ms
count_relations.log_counts = changes
EOF2

make_in_tree() {
    as_postgres env -u MAKELEVEL -u MAKEFLAGS -u MFLAGS TEMP_CONFIG="$dir/us.conf" PG_REGRESS_DIFF_OPTS=-u \
        make -C "$tree" "$@"
}

# What came of each test: passed or failed, and its name. From what pg_regress and prove
# print; what prove does not call ok or skipped has failed.
results() { # OUTPUT
    sed -nE -e 's/^ok [0-9]+ +[-+] ([^ ]+) .*/passed \1/p' \
        -e 's/^not ok [0-9]+ +[-+] ([^ ]+) .*/failed \1/p' \
        -e 's/^(t\/[^ ]+) \.+ (ok|skipped: .*)$/passed \1/p; t' \
        -e 's/^(t\/[^ ]+) \.+.*/failed \1/p' "$1"
}

run_suite() { # SUITE
    local suite=$1
    SECONDS=0
    say "PostgreSQL $major: $suite"
    make_in_tree "-sC$suite" checkprep DESTDIR="$tree/tmp_install" &>"$dir/log" || { tail -n 30 "$dir/log" >&2; die "no EXTRA_INSTALL for $suite"; }
    make_in_tree "-iC$suite" check NO_TEMP_INSTALL=1 PROVE_FLAGS="-j $(nproc)" >"$dir/out" 2>"$dir/err" || true
    results "$dir/out"
    cp "$dir/out" /tmp/suites-out.${suite//\//_}; cp "$dir/err" /tmp/suites-err.${suite//\//_}
    echo "$suite: $SECONDS s"
}

for major in "${majors[@]}"; do
    PG_CONFIG=$(scripts/versions.sh "$major-suites")
    use_postgres
    tree=${PG_CONFIG%/bin/pg_config}/src
    #cargo pgrx package --pg-config "$PG_CONFIG" "${features[@]}" --out-dir "$dir/package" >&2
    #make_in_tree -s temp-install >&2
    install -m 644 "/tmp/suites-package$pg_lib/count_relations.so" "$tree/tmp_install$pg_lib"
    for suite in "${chosen[@]}"; do
        run_suite "$suite"
    done
done
