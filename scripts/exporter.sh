#!/usr/bin/env bash
# Provides the Prometheus exporter for PostgreSQL, which a story starts: the one on
# PATH, or Debian's in target/exporter. Unpacked there and not installed, because
# the package would also start a service and add a user.
source "$(dirname "$0")/common.sh"

package=prometheus-postgres-exporter
home=target/exporter
! command -v $package >/dev/null || exit 0
[[ ! -x $home/usr/bin/$package ]] || exit 0
command -v apt-get >/dev/null ||
    die "no apt here to fetch the Prometheus exporter for PostgreSQL; put it on PATH as $package"

say "Fetching $package"
mkdir -p target
work=$(mktemp -d target/exporter.XXXXXX)
trap 'rm -rf "$work"' EXIT
download() { (cd "$work" && apt-get -qq -o APT::Sandbox::User=root download $package) >&2; }
# An old package list names files that are gone from the mirrors.
download || { sudo_if_needed apt-get -q update </dev/null >&2 && download; }
dpkg-deb -x "$work"/"$package"_*.deb "$work/root"
mv -T "$work/root" $home # in one step: what is there is whole
