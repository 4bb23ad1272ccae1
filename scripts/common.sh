# What the other scripts share; they source it.
# shellcheck shell=bash disable=SC2034 # they use these variables, which shellcheck cannot see
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The postgres user has to read what root builds and installs.
umask 022

# Never the first pg_config on PATH: it may belong to another version than the
# server that one has in mind.
default_pg_config=/usr/lib/postgresql/15/bin/pg_config
PG_CONFIG=${PG_CONFIG:-$default_pg_config}
[[ $PG_CONFIG == */* ]] || PG_CONFIG=$(command -v "$PG_CONFIG" || echo "$PG_CONFIG")
export PG_CONFIG

# --- Saying things; on stderr, because a script's stdout may be its result ---

say() { printf '\n==> %s\n' "$*" >&2; }
die() { printf '\nerror: %s\n' "$*" >&2; exit 1; }

# --- Users ---

is_root() { [[ $EUID == 0 ]]; }

# PostgreSQL refuses to run as root, so root runs it as `postgres`. A clean
# environment and directory: root's are of no use to that user.
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

# What outlives a checkout; for root where the postgres user can read it.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/count_relations
! is_root || cache=/var/cache/count_relations

apt_install() {
    say "Installing $*"
    # An old package list names files that are gone from the mirrors.
    sudo_if_needed apt-get -q update </dev/null >&2
    sudo_if_needed env DEBIAN_FRONTEND=noninteractive \
        apt-get -qy install --no-install-recommends "$@" </dev/null >&2
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

export PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
find_rust || true # setup.sh sees to it

# --- PostgreSQL: what follows from PG_CONFIG ---

use_postgres() {
    pg_bin=$("$PG_CONFIG" --bindir)
    pg_lib=$("$PG_CONFIG" --pkglibdir)
    pg_share=$("$PG_CONFIG" --sharedir)
    pg_feature=$("$PG_CONFIG" --version | sed 's/^PostgreSQL \([0-9]*\).*/pg\1/')
    features=(--no-default-features --features "$pg_feature")

    # pgrx builds for the PostgreSQL that its configuration names. For any other,
    # say so here and leave that file alone: when it changes, everything is built
    # again, for every version.
    pgrx_known=$(sed -n "s/^$pg_feature = \"\(.*\)\"/\1/p" \
        "${PGRX_HOME:-$HOME/.pgrx}/config.toml" 2>/dev/null || true)
    if [[ $pgrx_known != "$PG_CONFIG" ]]; then
        export PGRX_PG_CONFIG_PATH=$PG_CONFIG
    fi
}

can_install() { [[ -w $pg_lib && -w $pg_share/extension ]]; }

# pgrx copies over an installed library in place when it uses sudo, and a
# server that has the library loaded would crash. Unlinked, the old file lives
# on for that server.
unlink_installed() {
    local library=$pg_lib/count_relations.so
    if [[ ! -e $library ]]; then
        return
    elif can_install; then
        rm -f "$library"
    else
        sudo_if_needed rm -f "$library"
    fi
}
