#!/usr/bin/env bash
# Makes a copy of the installation that a pg_config belongs to, for this checkout alone, or
# updates it, and prints the pg_config of the copy. What is built and tested here is installed
# there: no server of this machine loads it.
#
# PostgreSQL finds its directories from where its programs really are (make_relative_path()
# in src/port/path.c). So the programs are copied, beneath the same path as before; all
# the rest may be links.
source "$(dirname "$0")/common.sh"

original=$1
if [[ $original == "$installations"/* ]]; then
    echo "$original"
    exit
fi
find_directories "$original"
include=$("$original" --pkgincludedir)
[[ -x $pg_bin/pg_config ]] || die "$original: there is no $pg_bin/pg_config"

# Not everything: the directory may be /usr/bin.
find_programs() {
    find -L "$pg_bin" -maxdepth 1 -type f -regextype posix-extended -regex \
        '.*/(postgres|psql|pgbench|initdb|pg_.*|(create|drop)(db|user)|(cluster|reindex|vacuum)db)' "$@"
}

# Except our own installed files.
find_files() { # IN
    find -L "$1" -mindepth 1 -maxdepth 1 ! -name 'count[-_]relations*' "${@:2}"
}

contents=$(
    about=(-type f -printf '%p %s %T@\n')
    find_programs "${about[@]}"
    for directory in "$pg_lib" "$pg_share" "$pg_share/extension"; do
        find_files "$directory" "${about[@]}"
    done
)
id=$(cksum <<<"$original" | cut -d ' ' -f 1)
# Another release has other headers, and pgrx rebuilds when the path changes.
copy=$installations/$("$original" --version | cut -d ' ' -f 2)-$id

if [[ $(cat "$copy/contents" 2>/dev/null) != "$contents" ]]; then
    mkdir -p "$installations"
    new=$(mktemp -d "$installations/new.XXXXXX")
    trap 'rm -rf "$new"' EXIT
    exit_on_signals 130
    chmod a+rx "$new"
    mkdir -p "$new"{"$pg_bin","$pg_lib","$pg_share/extension","${include%/*}"}
    find_programs -exec cp -L --preserve=mode,timestamps --reflink=auto -t "$new$pg_bin" {} +
    for directory in "$pg_lib" "$pg_share" "$pg_share/extension"; do
        find_files "$directory" ! -path "$pg_share/extension" -exec ln -st "$new$directory" {} +
    done
    ln -s "$include" "$new$include"
    # Libraries that a program looks for where it is ($ORIGIN), as those of a wheel do.
    { find_programs -exec ldd {} + 2>/dev/null || true; } |
        awk -v "bin=$(realpath "$pg_bin")/" 'index($3, bin) == 1 { print $3 }' | sort -u |
        while read -r library; do
            library=$(realpath -s "$library")
            mkdir -p "$new${library%/*}"
            [[ -e $new$library ]] || ln -s "$library" "$new$library"
        done
    printf '%s\n' "$contents" >"$new/contents"
    rm -rf "$installations"/*-"$id"
    mv "$new" "$copy" # in one step: what is there is whole
fi
echo "$copy$pg_bin/pg_config"
