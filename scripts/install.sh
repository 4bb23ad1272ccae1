#!/usr/bin/env bash
# Builds the release and installs it into the PostgreSQL of PG_CONFIG. A running server keeps
# the library that it has loaded until it is restarted. With DESTDIR, the files go beneath that
# directory, as packages want it.
source "$(dirname "$0")/common.sh"

# Finds where the files go, and once, who may put them there.
find_places() { # PG_CONFIG
    find_directories "$1"
    if [[ -n ${DESTDIR-} ]]; then
        pg_lib=$DESTDIR$pg_lib pg_share=$DESTDIR$pg_share
        mkdir -p "$pg_lib" "$pg_share/extension"
    fi
    [[ ! -v place_as ]] || return 0
    place_as=()
    if [[ ! -w $pg_lib || ! -w $pg_share/extension ]]; then
        say "Installing into $pg_lib and $pg_share/extension takes root: by sudo, which may ask for your password"
        can_be_root || die "you may not; somebody who may can run 'make install' here, or install what 'make package' makes"
        place_as=(sudo_if_needed)
    fi
}

# Before anything is built; setup.sh may build cargo-pgrx. Unless it installs PostgreSQL first.
! chosen=$(choose_postgres && original_of "$PG_CONFIG") || ! has_server "$chosen" || find_places "$chosen"

scripts/setup.sh
use_postgres
built=("$pg_lib/count_relations.so" "$pg_share/extension")
find_places "$original_pg_config"
scripts/build.sh

say "Installing into $("$original_pg_config" --version), $pg_lib"
"${place_as[@]}" scripts/place.sh "$pg_share/extension" "${built[1]}"/count_relations*
"${place_as[@]}" scripts/place.sh "$pg_lib" "${built[0]}"
