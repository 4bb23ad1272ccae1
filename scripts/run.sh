#!/usr/bin/env bash
# Shows the extension at work in a throwaway server, until Ctrl-C.
# DATABASES='postgres, template1' sets count_relations.databases. --debug uses a quick build.
source "$(dirname "$0")/common.sh"
scripts/build.sh "$@"
use_postgres

# Short, and not in TMPDIR: a Unix socket's path ends at 107 bytes.
dir=$(mktemp -d /tmp/count_relations.XXXXXX)
data=$dir/data log=$dir/log
give_to_postgres "$dir"

clean_up() {
    clean_up_in_peace
    end_job
    # It may not have written its pid yet.
    while [[ ! -s $data/postmaster.pid ]] && kill -0 "${server_pid-}" 2>/dev/null; do
        sleep 0.1
    done
    if [[ -e $data/postmaster.pid ]]; then
        say "Stopping the server"
        as_postgres "$pg_bin/pg_ctl" stop -s -m fast -D "$data" ||
            as_postgres "$pg_bin/pg_ctl" stop -s -m immediate -D "$data"
    fi
    rm -rf "$dir"
    say "Removed $dir"
}
trap clean_up EXIT
exit_on_signals 0

say "Creating a cluster in $dir, with one line added to its postgresql.conf"
as_postgres "$pg_bin/initdb" -D "$data" -U postgres -A trust -E UTF8 --locale=C --no-sync >/dev/null
as_postgres tee -a "$data/postgresql.conf" <<<"shared_preload_libraries = 'count_relations'" >&2

say "Starting the server"
options=(-k "$dir" -c listen_addresses=)
[[ -z ${DATABASES+set} ]] || options+=(-c "count_relations.databases=$DATABASES")
# In a session of its own: Ctrl-C is for this script, which then stops the server.
as_postgres env -u RUST_BACKTRACE setsid "$pg_bin/postgres" -D "$data" "${options[@]}" &>"$log" &
server_pid=$!

# Waits until the first count, but not forever: with the wrong DATABASES there is none, and the
# log says why.
for ((i = 0; i < 100; i++)); do
    ! grep -q 'Currently [0-9]* relations' "$log" || break
    kill -0 $server_pid 2>/dev/null || { cat "$log" >&2; die "the server did not start"; }
    sleep 0.1
done

say "The worker, as ps shows it"
# shellcheck disable=SC2009 # pgrep shows no columns
ps -o user,pid,args --ppid "$(head -n 1 "$data/postmaster.pid")" | grep -E 'PID|bgworker: count relations' >&2

say "What SQL sees: CREATE EXTENSION count_relations; SELECT … FROM relation_counts, and so on"
as_postgres "$pg_bin/psql" -qX -P pager=off -h "$dir" -U postgres -c 'CREATE EXTENSION count_relations' \
    -c 'SELECT datname, relations, counted_at::time(0), min_relations, max_relations FROM relation_counts' \
    -c 'SELECT relkind, relpersistence, relations FROM relation_counts_by_kind ORDER BY 3 DESC LIMIT 3' \
    -c 'SELECT nspname, schemas, relations FROM relation_counts_by_schema ORDER BY 3 DESC LIMIT 3' \
    -c 'SELECT relname, live_rows, dead_rows, total_bytes FROM relation_catalogs ORDER BY 4 DESC LIMIT 3' >&2

say "Connect with: ${original_pg_config%/*}/psql -h $dir -U postgres"
say "The server's log (Ctrl-C stops the server and removes the cluster)"
if run_job tail -n +1 -f --pid=$server_pid "$log"; then
    die "the server stopped by itself"
fi
