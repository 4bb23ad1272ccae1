#!/usr/bin/env bash
# Makes the archive for PGXN, from what is committed, in dist/. Its META.json names the
# maintainer, as PGXN requires.
source "$(dirname "$0")/common.sh"

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
in_meta=$(sed -n '/"meta-spec"/q; s/^ *"version": "\(.*\)".*/\1/p' META.json | sort -u)
[[ $in_meta == "$version" ]] || die "META.json is not of version $version: $in_meta"
[[ -z $(git status --porcelain) ]] || say "Left out: what is not committed"

maintainer=$(maintainer)
say "The maintainer is $maintainer (DEBFULLNAME and DEBEMAIL set another)"
meta=$(git show HEAD:META.json | maintainer=$maintainer awk '
    { print }
    /^    "name": / {
        gsub(/["\\]/, "\\\\&", ENVIRON["maintainer"])
        printf "    \"maintainer\": \"%s\",\n", ENVIRON["maintainer"]
    }')

mkdir -p dist
name=count_relations-$version archive=dist/count_relations-$version.zip
git archive --prefix="$name/" --add-virtual-file="$name/META.json:$meta" --output="$archive" \
    HEAD -- . ':(exclude)META.json'
say "Made $archive"
