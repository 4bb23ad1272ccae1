#!/usr/bin/env bash
# Makes the Debian package, installs it with apt, and runs debian/tests, as autopkgtest would. Uses
# a private copy of this machine, because an installation for development has the very same paths:
# an overlay over /, seen only by this script, gone when it ends.
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
export DEBIAN_FRONTEND=noninteractive
find "$pg_lib" "$pg_share/extension" -name 'count_relations*' -exec rm {} +

say "Installing $package"
apt-get -qqy install "./$package"

mapfile -t tests < <(sed -n 's/^Tests: //p' debian/tests/control | sed 's/, /\n/g')
((${#tests[@]}))
for test in "${tests[@]}"; do
    say "Testing it: $test"
    "debian/tests/$test"
done

say "The package has passed its tests: ${tests[*]}"
