#!/usr/bin/env bash
# Provides what stories need besides PostgreSQL, in target/tools: the Prometheus
# exporter for PostgreSQL, unless it is on PATH, and libfaketime. Taken out of
# Debian's packages and not installed, because the exporter's would also start a
# service and add a user.
source "$(dirname "$0")/common.sh"

tools=target/tools
mkdir -p $tools

provide() { # PACKAGE PATTERN OF THE FILE'S PATH
    local package=$1 pattern=$2
    [[ ! -e $tools/${pattern##*/} ]] || return 0
    command -v apt-get >/dev/null || die "no apt here to fetch ${pattern##*/}; put it into $tools"
    say "Fetching $package"
    work=$(mktemp -d target/tools.XXXXXX)
    trap 'rm -rf "$work"' EXIT
    download() { (cd "$work" && apt-get -qq -o APT::Sandbox::User=root download "$package") >&2; }
    # An old package list names files that are gone from the mirrors.
    download || { sudo_if_needed apt-get -q update </dev/null >&2 && download; }
    dpkg-deb -x "$work"/"$package"_*.deb "$work/root"
    # shellcheck disable=SC2086 # a pattern
    mv "$work"/root/$pattern $tools # in one step: what is there is whole
    rm -rf "$work"
}

exporter=prometheus-postgres-exporter
command -v $exporter >/dev/null || provide $exporter usr/bin/$exporter
provide libfaketime 'usr/lib/*/faketime/libfaketime.so.1'
