#!/usr/bin/env bash
# Makes the Debian package, installs it with apt, has it count, installs a newer build over the
# running server, and removes it again. Uses a private copy of this machine, because an
# installation for development has the very same paths: an overlay over /, seen only by this
# script, gone when it ends.
source "$(dirname "$0")/common.sh"

if [[ ${1-} != inside ]]; then
    package=$(scripts/package.sh)
    root=$(mktemp -d)
    trap 'rmdir "$root"' EXIT
    sudo_if_needed unshare --mount --pid --ipc --fork --kill-child \
        bash -euo pipefail -s "$root" "$PWD" "${PG_CONFIG-}" "$package" <<'EOF'
        root=$1 repository=$2
        mount -t tmpfs tmpfs "$root"
        mkdir "$root"/{changes,work,machine}
        mount -t overlay overlay "$root/machine" \
            -o "lowerdir=/,upperdir=$root/changes,workdir=$root/work"
        cd "$root/machine"
        mount -t proc proc proc
        mount --rbind /dev dev
        mkdir -p ".$repository"
        mount --rbind "$repository" ".$repository"
        exec chroot . env PG_CONFIG="$3" "$repository/scripts/test-package.sh" inside "$4" </dev/null
EOF
    exit
fi

choose_postgres
find_directories "$PG_CONFIG"
package=$2
name=$(dpkg-deb -f "$package" Package)
places=("$pg_lib" "$pg_share/extension" /usr/share/doc)
find_files() { find "${places[@]}" -name '*count[-_]relations*'; }
export DEBIAN_FRONTEND=noninteractive
find_files | xargs -r rm -r

say "Installing $package"
apt-get -qqy install "./$package"
find_files

say "Counting"
dir=$(mktemp -d /tmp/count_relations.XXXXXX)
give_to_postgres "$dir"
as_postgres "$pg_bin/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C --no-sync >/dev/null
as_postgres "$pg_bin/pg_ctl" start -s -w -D "$dir/data" -l "$dir/log" \
    -o "-k $dir -c listen_addresses= -c shared_preload_libraries=count_relations"
psql() { as_postgres "$pg_bin/psql" -X -v ON_ERROR_STOP=1 -h "$dir" -U postgres -c "$@"; }
psql 'CREATE EXTENSION count_relations'
wait_for() { # DESCRIPTION COMMAND...
    SECONDS=0
    until "${@:2}"; do
        ((SECONDS < 60)) || die "no $1: $(cat "$dir/log")"
        sleep 0.1
    done
}
is_right() {
    [[ $(psql 'SELECT relations = (SELECT count(*) FROM pg_class) FROM relation_counts' -At) == t ]]
}
wait_for 'count, or a wrong one' is_right
psql 'TABLE relation_counts' -x
grep Currently "$dir/log"

# A newer build: of another version, and its workers introduce themselves in other words.
old='count relations worker started' new='count relations worker STARTED'
dpkg-deb -R "$package" "$dir/newer"
sed -i 's/^Version: .*/&+newer/' "$dir/newer/DEBIAN/control"
LC_ALL=C sed -i "s/$old/$new/" "$dir/newer$pg_lib/count_relations.so"
(cd "$dir/newer" && find usr -type f -print0 | xargs -0 md5sum >DEBIAN/md5sums)
dpkg-deb --root-owner-group --build "$dir/newer" "$dir/newer.deb"

say "Installing $(dpkg-deb -f "$dir/newer.deb" Version) over the running server"
server=$(head -n 1 "$dir/data/postmaster.pid")
apt-get -qqy install "$dir/newer.deb"
grep -q "$pg_lib/count_relations.so.* (deleted)" "/proc/$server/maps" ||
    die "the server does not have the old library any more"
ticks() { psql 'SELECT coalesce(max(ticks), 0) FROM relation_counts' -At; }
goes_on() { (($(ticks) > before)); }
before=$(ticks)
wait_for 'ticks of the old worker' goes_on
psql "SELECT pg_terminate_backend(pid) FROM relation_counts"
again() { [[ $(grep -c "$old" "$dir/log") == 2 ]]; }
wait_for 'other worker, of the old build too' again
before=0
wait_for 'ticks of that one' goes_on
! grep -q "$new" "$dir/log" || die "a server of two builds: $(cat "$dir/log")"

say "Restarting it"
as_postgres "$pg_bin/pg_ctl" restart -s -w -m fast -D "$dir/data" -l "$dir/log"
wait_for 'worker of the newer build' grep -q "$new" "$dir/log"
wait_for 'ticks of that one' goes_on
as_postgres "$pg_bin/pg_ctl" stop -s -m fast -D "$dir/data"

say "Removing $name"
apt-get -qqy remove "$name"
left=$(find_files)
[[ -z $left ]] || die "left behind: $left"
! dpkg -s "$name" &>/dev/null || die "dpkg still knows $name"

say "The package installs, counts, and is removed"
