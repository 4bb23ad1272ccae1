#!/usr/bin/env bash
# Puts files into a directory, each in one step: a reader finds either the old file or the new
# one, and a server that has the old one loaded keeps it:
#   scripts/place.sh DIRECTORY FILE...
set -euo pipefail

for file in "${@:2}"; do
    new=$1/.${file##*/}.new
    install -m 644 "$file" "$new"
    mv -f "$new" "$1/${file##*/}"
done
