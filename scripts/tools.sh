#!/usr/bin/env bash
# Provides what stories need besides PostgreSQL, in target/tools: exporters for Prometheus,
# Prometheus with promtool, and check_postgres, unless they are on PATH, and libfaketime.
# Extracted from Debian's packages and not installed, because those would also start services
# and add users.
source "$(dirname "$0")/common.sh"

tools=target/tools
mkdir -p $tools

provide() { # PACKAGE PATTERN OF A FILE'S PATH...
    local package=$1 pattern missing=
    shift
    for pattern; do
        [[ -e $tools/${pattern##*/} ]] || missing=$pattern
    done
    [[ $missing ]] || return 0
    command -v apt-get >/dev/null || die "no apt here to fetch ${missing##*/}; put it into $tools"
    say "Fetching $package"
    work=$(mktemp -d target/tools.XXXXXX)
    trap 'rm -rf "$work"' EXIT
    download() { (cd "$work" && apt-get -qq -o APT::Sandbox::User=root download "$package") >&2; }
    # An old package list names files that are gone from the mirrors.
    download || { sudo_if_needed apt-get -q update </dev/null >&2 && download; }
    dpkg-deb -x "$work"/"$package"_*.deb "$work/root"
    for pattern; do
        # shellcheck disable=SC2086 # a pattern
        mv "$work"/root/$pattern $tools # in one step: what is there is whole
    done
    rm -rf "$work"
}

provide_programs() { # PACKAGE PROGRAM...
    local package=$1 program
    shift
    for program; do
        if ! command -v "$program" >/dev/null; then
            provide "$package" "${@/#/usr/bin/}"
            return
        fi
    done
}

provide_programs prometheus-postgres-exporter prometheus-postgres-exporter
provide_programs prometheus-sql-exporter prometheus-sql-exporter
if apt_offers promtool; then
    provide_programs prometheus prometheus
    provide_programs promtool promtool
else # until Debian 12
    provide_programs prometheus prometheus promtool
fi
provide_programs check-postgres check_postgres
provide libfaketime 'usr/lib/*/faketime/libfaketime.so.1'
