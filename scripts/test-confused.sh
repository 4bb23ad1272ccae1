#!/usr/bin/env bash
# Checks that each of the servers, and the one that is tested by default, refuses the
# libraries that have been built for the others: scripts/test-confused.sh PG_CONFIG...
source "$(dirname "$0")/common.sh"
say "Libraries of other major versions"

dir=$(mktemp -d /tmp/count_relations.XXXXXX)
trap 'rm -rf "$dir"' EXIT
give_to_postgres "$dir"

PG_CONFIG=
! choose_postgres || set -- "$PG_CONFIG" "$@"
mapfile -t servers < <(printf '%s\n' "$@" | sort -u | xargs -n 1 scripts/private-installation.sh)
failed=0
checked=0
for server in "${servers[@]}"; do
    data=$(mktemp -d "$dir/data.XXXXXX")
    give_to_postgres "$data"
    as_postgres "$("$server" --bindir)/initdb" --no-sync -D "$data" >"$dir/initdb" 2>&1 || {
        cat "$dir/initdb" >&2
        die "initdb failed"
    }
    ours=$(major_version "$server")
    for other in "${servers[@]}"; do
        theirs=$(major_version "$other")
        library=$("$other" --pkglibdir)/count_relations.so
        [[ $theirs != "$ours" && -e $library ]] || continue
        checked=$((checked + 1))
        # It would run forever if it did not refuse.
        said=$(as_postgres timeout 60 "$("$server" --bindir)/postgres" -D "$data" -k "$dir" \
            -c listen_addresses= -c shared_preload_libraries="$library" 2>&1) || true
        # The first message if the linker finds all functions that the library calls, otherwise
        # the second.
        if [[ $said == *'FATAL:  incompatible library "'"$library"'": version mismatch'*"Server is version $ours, library is version $theirs"* ||
            $said == *'FATAL:  could not load library "'"$library"'": '*'undefined symbol'* ]]; then
            echo "$ours refuses the library for $theirs" >&2
        else
            printf '%s\n' "$said" "error: $ours does not refuse $library" >&2
            failed=1
        fi
    done
done
((checked)) || say "There are no two major versions here to confuse"
exit $failed
