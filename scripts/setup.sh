#!/usr/bin/env bash
# Installs what is missing to build and test the extension, and nothing else.
source "$(dirname "$0")/common.sh"

packages=() missing=()

# want "what for a person to look for" "its Debian packages" test...
want() {
    local what=$1 debian=$2
    shift 2
    "$@" &>/dev/null && return
    missing+=("$what")
    # shellcheck disable=SC2206 # several words, several packages
    packages+=($debian)
}

has() { command -v "$1"; }
c_compiler() { has cc && echo '#include <stdlib.h>' | cc -E -; }
libclang() {
    [[ -n ${LIBCLANG_PATH-} ]] || compgen -G '/usr/lib/llvm-*/lib/libclang[.-][s1-9]*' ||
        compgen -G '/usr/lib*/libclang.so*' || compgen -G '/usr/lib/*-linux-gnu/libclang[.-][s1-9]*'
}
server() { [[ -x $("$PG_CONFIG" --bindir)/postgres ]]; }
headers() { [[ -f $("$PG_CONFIG" --includedir-server)/postgres.h ]]; }
server_and_headers() { server && headers; }

pgrx_version=$(sed -n 's/^pgrx = "=\(.*\)"/\1/p' Cargo.toml)
cargo_pgrx() { [[ $(cargo pgrx --version 2>/dev/null) == "cargo-pgrx $pgrx_version" ]]; }

# --- System packages ---

postgres_packages=''
if [[ $PG_CONFIG =~ ^/usr/lib/postgresql/([0-9]+)/bin/pg_config$ ]]; then
    # Both in one go, so that server and headers are of the same release.
    postgres_packages="postgresql-${BASH_REMATCH[1]} postgresql-server-dev-${BASH_REMATCH[1]}"
elif ! server_and_headers &>/dev/null; then
    die "PG_CONFIG=$PG_CONFIG: not a PostgreSQL with a server and server headers"
fi

want "a PostgreSQL server with its headers: $PG_CONFIG, or another that PG_CONFIG names" "$postgres_packages" server_and_headers
want "a C compiler (cc) and libc's headers" "gcc libc6-dev" c_compiler
want "libclang" libclang-dev libclang
want "ps" procps has ps
want "Rust $rust_needed with rustfmt" "cargo-web rustc-web rustfmt-web ca-certificates" find_rust
if ! cargo_pgrx; then # whose downloader links OpenSSL
    want "pkg-config" pkg-config has pkg-config
    want "OpenSSL's headers" libssl-dev pkg-config --exists openssl
fi
if is_root; then
    want "a user named postgres" postgresql-common id postgres
    want "sudo, with which pgrx's tests become postgres" sudo has sudo
fi

if ((${#missing[@]})); then
    if ! command -v apt-get >/dev/null; then
        printf >&2 '\nerror: no apt here to install what is missing:\n'
        printf >&2 '  - %s\n' "${missing[@]}"
        exit 1
    fi
    apt_install "${packages[@]}"
    find_rust || die "Rust $rust_needed or newer, with rustfmt, is needed; found: $(rustc --version 2>&1)"
fi

# --- pgrx ---

if ! cargo_pgrx; then
    say "Installing cargo-pgrx $pgrx_version"
    cargo install --locked cargo-pgrx --version "=$pgrx_version"
fi

use_postgres
if [[ $PG_CONFIG == "$default_pg_config" && ! -x $pgrx_known ]]; then
    say "Telling pgrx about $PG_CONFIG, so that plain cargo works too"
    # Adds to the versions that pgrx knows; --no-run: the tests make their own clusters.
    cargo pgrx init --no-run "--$pg_feature" "$PG_CONFIG"
fi
