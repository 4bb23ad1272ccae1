#!/usr/bin/env bash
# Makes the archive for PGXN, of what is committed, in dist/.
source "$(dirname "$0")/common.sh"

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
in_meta=$(sed -n '/"meta-spec"/q; s/^ *"version": "\(.*\)".*/\1/p' META.json | sort -u)
[[ $in_meta == "$version" ]] || die "META.json is not of version $version: $in_meta"
[[ -z $(git status --porcelain) ]] || say "Left out: what is not committed"

mkdir -p dist
archive=dist/count_relations-$version.zip
git archive --prefix="count_relations-$version/" --output="$archive" HEAD
say "Made $archive"
