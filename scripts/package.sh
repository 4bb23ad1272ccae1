#!/usr/bin/env bash
# Makes a Debian package for the PostgreSQL of PG_CONFIG, in dist/; prints its path.
source "$(dirname "$0")/common.sh"
scripts/setup.sh
use_postgres

major=$(major_version "$PG_CONFIG")
[[ $original_pg_config == "$(debian_pg_config "$major")" ]] ||
    die "PG_CONFIG=$original_pg_config: Debian packages are made for Debian's PostgreSQL only"

packages=()
command -v dh >/dev/null || packages+=(debhelper)
command -v pg_buildext >/dev/null || packages+=(postgresql-common-dev)
command -v lintian >/dev/null || packages+=(lintian)
((!${#packages[@]})) || apt_install "${packages[@]}"

export PG_SUPPORTED_VERSIONS=$major # for pg_buildext
export PACKAGE_DIRECTORY=dist       # for debian/rules

# Not dh_clean, which also removes what looks like backup files anywhere in the checkout.
clean_up() {
    rm -rf debian/{changelog,control,copyright,files,.debhelper,debhelper-build-stamp} \
        debian/*.{postrm,substvars,debhelper.log} debian/postgresql-*-count-relations
}
trap clean_up EXIT
clean_up

debian/generate
name=$(dh_listpackages)
version=$(dpkg-parsechangelog --show-field Version)
results=dist/${name}_${version}_$(dpkg --print-architecture)
say "Building $name $version; the maintainer is $(maintainer) (DEBFULLNAME and DEBEMAIL set another)"
mkdir -p dist
# What is needed, setup.sh has seen to; it need not be a package of Debian's.
dpkg-buildpackage --build=any --no-sign --no-pre-clean --no-check-builddeps \
    --buildinfo-option=-udist --buildinfo-file="$results.buildinfo" \
    --changes-option=-udist --changes-file="$results.changes" >&2

say "Checking it with lintian"
# Only an upload to Debian's archive closes bugs.
lintian --allow-root --suppress-tags initial-upload-closes-no-bugs --fail-on error,warning "$results.deb" >&2

echo "$results.deb"
