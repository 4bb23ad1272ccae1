#!/usr/bin/env bash
# Makes a Debian package for the PostgreSQL of PG_CONFIG, in dist/; prints its path.
# DEBFULLNAME and DEBEMAIL name its maintainer, as they do for Debian's own tools.
source "$(dirname "$0")/common.sh"
scripts/setup.sh
use_postgres

major=$(major_version "$PG_CONFIG")
[[ $original_pg_config == "$(debian_pg_config "$major")" ]] ||
    die "PG_CONFIG=$original_pg_config: Debian packages are made for Debian's PostgreSQL only"
server=postgresql-$major
if ! { command -v dpkg-shlibdeps && command -v lintian; } &>/dev/null; then
    apt_install dpkg-dev lintian
fi

name=$server-count-relations
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)-1
maintainer="${DEBFULLNAME:-count_relations authors} <${DEBEMAIL:-nobody@example.invalid}>"
# The same sources make the same package.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || stat -c %Y Cargo.toml)
export SOURCE_DATE_EPOCH

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root doc=$work/root/usr/share/doc/$name

say "Building $name $version"
scripts/build.sh >&2
built=("$pg_lib/count_relations.so" "$pg_share/extension")
find_directories "$original_pg_config"
library=$root$pg_lib/count_relations.so
install -Dm 644 -t "$root$pg_lib" "${built[0]}" # Debian's libraries are not executable
install -Dm 644 -t "$root$pg_share/extension" "${built[1]}"/count_relations*
# Everything that the server itself does not provide.
mkdir "$work/debian" && touch "$work/debian/control"
needed=$(cd "$work" && dpkg-shlibdeps -O "$library" 2>"$work/log") || die "$(cat "$work/log")"

mkdir -p "$doc"
cp -r README.md docs monitoring "$doc"
gzip -9n <CHANGELOG.md >"$doc/changelog.gz"
gzip -9n >"$doc/changelog.Debian.gz" <<EOF
count-relations ($version) unstable; urgency=low

  * Packaged for $server; changelog.gz has what is new.

 -- $maintainer  $(date -uRd "@$SOURCE_DATE_EPOCH")
EOF
{
    cat LICENSE
    printf '\nThe library contains these crates, under licenses of their own:\n\n'
    cargo tree --locked "${features[@]}" --edges normal,no-proc-macro --prefix none \
        --format '  {p}: {l}' | sed 's/ (\*)$//; /^  count_relations /d' | sort -u
    printf '\nThe text of Apache-2.0 is in /usr/share/common-licenses/Apache-2.0.\n'
} >"$doc/copyright"

mkdir "$root/DEBIAN"
cat >"$root/DEBIAN/control" <<EOF
Package: $name
Source: count-relations
Version: $version
Architecture: $(dpkg --print-architecture)
Maintainer: $maintainer
Installed-Size: $(du -k --apparent-size -s "$root" | cut -f 1)
Depends: $server, ${needed#*=}
Section: database
Priority: optional
Description: PostgreSQL background worker that counts relations
 A background worker, loaded through shared_preload_libraries, keeps counting
 the relations of one, some or all databases of a PostgreSQL server. It shows
 the counts in the server's log and in a view, where a growing catalog is seen
 before it makes planning, autovacuum, dumps and upgrades slow.
EOF
(cd "$root" && find usr -type f -print0 | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
chmod -R u=rwX,go=rX "$root"

mkdir -p dist
package=dist/${name}_${version}_$(dpkg --print-architecture).deb
dpkg-deb --root-owner-group --build "$root" "$package" >&2

say "Checking it with lintian"
# Only an upload to Debian's archive closes bugs.
lintian --allow-root --suppress-tags initial-upload-closes-no-bugs --fail-on error,warning "$package" >&2

echo "$package"
