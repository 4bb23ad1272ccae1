# What the other scripts share; they source it.
# shellcheck shell=bash disable=SC2034 # they use these variables, which shellcheck cannot see
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The postgres user must be able to read what root builds and installs.
umask 022

# The PostgreSQL to use, also for scripts that this one runs; if it is not set, choose_postgres
# sets it.
export PG_CONFIG=${PG_CONFIG-}

# --- Saying things; on stderr, because a script's stdout may be its result ---

say() { printf '\n==> %s\n' "$*" >&2; }
die() { printf '\nerror: %s\n' "$*" >&2; exit 1; }

# --- Users ---

is_root() { [[ $EUID == 0 ]]; }

# PostgreSQL refuses to run as root, so root runs it as `postgres`, in a clean environment and
# directory: root's are of no use to that user.
as_postgres() {
    if is_root; then
        (cd / && exec setpriv --reuid=postgres --regid=postgres --init-groups --reset-env "$@")
    else
        "$@"
    fi
}

give_to_postgres() { ! is_root || chown postgres: "$@"; }

sudo_if_needed() {
    if is_root; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "this needs root, and there is no sudo: $*"
    fi
}

can_be_root() { is_root || { command -v sudo >/dev/null && sudo true; }; }

# --- Jobs ---

# Runs a command, or a function, that may take long. While Bash waits for a command it runs no
# trap; while it waits for a job it does.
run_job() {
    local status=0
    set -m # in a process group of its own
    "$@" </dev/null &
    job=$!
    set +m
    wait $job || status=$?
    job=
    return $status
}

end_job() {
    [[ -n ${job-} ]] || return 0
    kill -TERM -- "-$job" 2>/dev/null || true
    wait "$job" 2>/dev/null || true
}

# Makes the script exit, and so clean up, whatever ends it except SIGKILL.
exit_on_signals() { # STATUS
    # shellcheck disable=SC2064 # the status is known now
    trap "exit $1" HUP INT QUIT PIPE ALRM TERM USR1 USR2
}

# Cleaning up must not be interrupted, nor fail because its output is not read.
clean_up_in_peace() {
    trap '' HUP INT QUIT PIPE ALRM TERM USR1 USR2
    set +e
}

# What outlives a checkout; for root, where the postgres user can read it.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/count_relations
! is_root || cache=/var/cache/count_relations
# What private-installation.sh makes for this checkout.
installations=${COUNT_RELATIONS_INSTALLATIONS:-$cache/installations/$(cksum <<<"$PWD" | cut -d ' ' -f 1)}

# The maintainer of what is built here, as "NAME <ADDRESS>": DEBFULLNAME and DEBEMAIL, which
# Debian's tools read too, or else the author of the commit that is built.
maintainer() {
    local name email
    name=${DEBFULLNAME:-$(git log -1 --format=%an 2>/dev/null || true)}
    email=${DEBEMAIL:-$(git log -1 --format=%ae 2>/dev/null || true)}
    [[ -n $name && -n $email ]] ||
        die "set DEBFULLNAME and DEBEMAIL to the maintainer's name and address"
    echo "$name <$email>"
}

# --- Packages of the system ---

# apt-cache also succeeds for a version that does not exist.
apt_offers() { [[ -n $(apt-cache show --no-all-versions "$1" 2>/dev/null) ]]; }

# What installing them would involve, for people to read.
apt_simulate() { # PACKAGE...
    local plan new upgraded
    plan=$(LC_ALL=C apt-get -s install --no-install-recommends "$@" 2>/dev/null) || return
    new=$(sed -nE 's/^Inst ([^ ]+) \(.*/\1/p' <<<"$plan")
    upgraded=$(sed -nE 's/^Inst ([^ ]+) \[.*/\1/p' <<<"$plan")
    # shellcheck disable=SC2086 # several packages
    apt-cache show --no-all-versions $new $upgraded 2>/dev/null | awk '
        /^Installed-Size: / { disk += $2 / 1024 }
        /^Size: / { network += $2 / 1024 / 1024 }
        /^Package: / { packages++ }
        END { printf "%d packages, %d MB to download, %d MB on disk", packages, network, disk }'
    [[ -z $upgraded ]] || printf '; upgrades %s' "${upgraded//$'\n'/ }"
}

apt_update() { sudo_if_needed apt-get -q update </dev/null >&2; }

# Building an extension needs no cluster, and installing packages should create none.
# shellcheck disable=SC2016 # for another shell
apt_script='
    directory=/etc/postgresql-common/createcluster.d made=
    [[ -d $directory ]] || made=$directory
    trap "rm -f $directory/count_relations.conf
        [[ -z \"$made\" ]] || rmdir -p --ignore-fail-on-non-empty $directory" EXIT
    mkdir -p "$directory"
    echo "create_main_cluster = false" >"$directory/count_relations.conf"
    # An old package list names files that are gone from the mirrors.
    apt-get -q update
    DEBIAN_FRONTEND=noninteractive apt-get -qy install --no-install-recommends "$@"'

apt_install() { # PACKAGE...
    local plan
    plan=$(apt_simulate "$@") || plan="apt's package lists are missing or old, and are updated first"
    say "Installing with apt: $*"
    printf '    %s\n' "$plan" >&2
    [[ " $*" != *' postgresql-'[0-9]* ]] ||
        printf '    no cluster is created; pg_createcluster makes one\n' >&2
    is_root || printf '    this takes root: by sudo, which may ask for your password\n' >&2
    can_be_root || ask_administrator "$@"
    sudo_if_needed bash -euc "$apt_script" apt_install "$@" </dev/null >&2 || ask_administrator "$@"
}

ask_administrator() { # PACKAGE...
    die "could not install what is missing. Somebody who may has to run:

    apt-get update && apt-get install --no-install-recommends $*
"
}

# --- Rust: the toolchain on PATH if it will do, else Debian's ---

rust_needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

rust_will_do() { # DIRECTORY/ (or nothing: look on PATH)
    local found
    "${1-}cargo" --version &>/dev/null &&
        "${1-}rustfmt" --version &>/dev/null && # pgrx formats its bindings with it
        found=$("${1-}rustc" --version 2>/dev/null | cut -d ' ' -f 2) &&
        printf '%s\n' "$rust_needed" "$found" | sort -VC
}

find_rust() {
    rust_will_do && return
    rust_will_do /usr/bin/ && PATH=/usr/bin:$PATH
}

# Debian's packages: a release's own, or those that it keeps new enough for web browsers.
rust_packages() {
    local offered
    offered=$(apt-cache show --no-all-versions rustc 2>/dev/null | sed -n 's/^Version: //p' || true)
    if [[ -n $offered ]] && printf '%s\n' "$rust_needed" "$offered" | sort -VC; then
        echo cargo rustc rustfmt
    else
        echo cargo-web rustc-web rustfmt-web
    fi
}

export PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
find_rust || true # setup.sh sees to it

# --- PostgreSQL ---

# The major versions that we support, oldest first.
mapfile -t supported < <(sed -nE 's/^pg([0-9]+) = .*/\1/p' Cargo.toml)
supported_range="${supported[0]} to ${supported[-1]}"

is_supported() { # MAJOR VERSION
    [[ " ${supported[*]} " == *" $1 "* ]]
}

major_version() { # PG_CONFIG
    "$1" --version | sed -E 's/[^0-9]*([0-9]+).*/\1/'
}

debian_pg_config() { echo "/usr/lib/postgresql/$1/bin/pg_config"; } # MAJOR VERSION

has_server() { [[ -x $1 && -x $("$1" --bindir)/postgres ]]; }                  # PG_CONFIG
has_headers() { [[ -x $1 && -f $("$1" --includedir-server)/postgres.h ]]; } # PG_CONFIG

# Sets PG_CONFIG, if it is not set, to the newest that is installed with its headers. Never to
# the first pg_config on PATH: it may not belong to the intended server.
choose_postgres() {
    local i found
    if [[ -n $PG_CONFIG ]]; then
        [[ $PG_CONFIG == */* ]] || PG_CONFIG=$(command -v "$PG_CONFIG" || echo "$PG_CONFIG")
        return
    fi
    for ((i = ${#supported[@]} - 1; i >= 0; i--)); do
        found=$(debian_pg_config "${supported[i]}")
        if has_server "$found" && has_headers "$found"; then
            PG_CONFIG=$found
            return
        fi
    done
    return 1
}

find_directories() { # PG_CONFIG
    pg_bin=$("$1" --bindir)
    pg_lib=$("$1" --pkglibdir)
    pg_share=$("$1" --sharedir)
}

# That of the installation, for that of a private copy of it.
original_of() { # PG_CONFIG
    # shellcheck disable=SC2295 # a pattern
    [[ $1 != "$installations"/* ]] || set -- "/${1#$installations/*/}"
    echo "$1"
}

# Sets what a script needs to know, after setup.sh has run. From then on, PG_CONFIG is that of a
# private installation, for pgrx too.
use_postgres() {
    find_rust || die "no Rust $rust_needed or newer, with rustfmt, is installed"
    choose_postgres || die "no PostgreSQL of $supported_range is installed with its headers"
    original_pg_config=$(original_of "$PG_CONFIG")
    PG_CONFIG=$(scripts/private-installation.sh "$PG_CONFIG")
    export PGRX_PG_CONFIG_PATH=$PG_CONFIG
    find_directories "$PG_CONFIG"
    pg_feature=pg$(major_version "$PG_CONFIG")
    features=(--no-default-features --features "$pg_feature")
    tell_cargo
}

# Makes plain cargo, even in an editor, build for the same PostgreSQL, without rebuilding
# anything.
tell_cargo() {
    local configuration
    configuration=$(printf '[env]\nPG_CONFIG = "%s"\nPGRX_PG_CONFIG_PATH = "%s"' "$PG_CONFIG" "$PG_CONFIG")
    if [[ $(cat .cargo/config.toml 2>/dev/null) != "$configuration" ]]; then
        mkdir -p .cargo
        printf '%s\n' "$configuration" >.cargo/config.toml
    fi
}
