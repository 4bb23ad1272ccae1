#!/usr/bin/env bash
# Removes what install.sh has put into the PostgreSQL of PG_CONFIG, unless a running server
# preloads it: without the library, that server would not start again.
source "$(dirname "$0")/common.sh"

choose_postgres || die "no PostgreSQL of $supported_range is installed; PG_CONFIG=/path/to/pg_config names it"
[[ -x $PG_CONFIG ]] || die "PG_CONFIG=$PG_CONFIG: there is no such program"
find_directories "$PG_CONFIG"
library=$pg_lib/count_relations.so

mapfile -t files < <(compgen -G "$library"; compgen -G "$pg_share/extension/count_relations[.-]*")
if ((!${#files[@]})); then
    say "Nothing of count_relations is installed in $("$PG_CONFIG" --version), $pg_lib"
    exit
fi
package=$(dpkg-query --search "${files[@]}" 2>/dev/null | cut -d : -f 1 | sort -u) || true
[[ -z $package ]] || die "these files belong to a package: apt remove $package"

if [[ ! -w $pg_lib || ! -w $pg_share/extension ]] && ! is_root; then
    say "Removing files from $pg_lib and $pg_share/extension takes root: by sudo, which may ask for your password"
    can_be_root || die "you may not; somebody who may can run 'make uninstall' here"
    exec sudo env PG_CONFIG="$PG_CONFIG" scripts/uninstall.sh
fi

# The data directories of the servers whose postmaster has loaded the library, or a previous one
# in its place. (A server in a container may have another at the same path.)
preloading() {
    local process data
    for process in /proc/[0-9]*; do
        data=$(readlink "$process/cwd" 2>/dev/null) &&
            [[ $(head -n 1 "$process/cwd/postmaster.pid" 2>/dev/null) == "${process#/proc/}" ]] &&
            grep -qsF "$(realpath "$library")" "$process/maps" &&
            [[ "$process/root$library" -ef $library ]] && echo "$data"
    done
    return 0
}
mapfile -t servers < <(preloading)
((!${#servers[@]})) || die "a running server preloads count_relations, and would not start again without it:
$(printf '    %s\n' "${servers[@]}")
Take count_relations out of its shared_preload_libraries, restart it, and run this again."

say "Removing count_relations from $("$PG_CONFIG" --version)"
rm -v "${files[@]}" >&2
