#!/usr/bin/env bash
# Installs missing prerequisites for building and testing the extension, and nothing else.
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
# Not for a server that was built without ICU; but if its headers are missing, it is Debian's.
icu_headers() {
    if has_headers "$PG_CONFIG" && ! grep -q '^#define USE_ICU' "$("$PG_CONFIG" --includedir-server)/pg_config.h"; then
        return
    fi
    echo '#include <unicode/ucol.h>' | cc -E -
}

pgrx_version=$(sed -n 's/^pgrx = "=\(.*\)"/\1/p' Cargo.toml)
cargo_pgrx() { [[ $(cargo pgrx --version 2>/dev/null) == "cargo-pgrx $pgrx_version" ]]; }

# --- Which PostgreSQL ---

# Sets $major to what apt must install: headers for the newest server that is installed, or else
# the newest server.
choose_from_apt() {
    local i
    for ((i = ${#supported[@]} - 1; i >= 0; i--)); do
        major=${supported[i]}
        ! has_server "$(debian_pg_config "$major")" || ! apt_offers "postgresql-server-dev-$major" || return 0
    done
    for ((i = ${#supported[@]} - 1; i >= 0; i--)); do
        major=${supported[i]}
        ! apt_offers "postgresql-$major" || ! apt_offers "postgresql-server-dev-$major" || return 0
    done
    return 1
}

how_to_choose="PG_CONFIG=/path/to/pg_config makes it another, of $supported_range"
if [[ -n ${PG_CONFIG-} ]]; then
    choose_postgres
elif choose_postgres; then
    say "PostgreSQL $(major_version "$PG_CONFIG"), the newest that is installed with its headers; $how_to_choose"
elif command -v apt-get >/dev/null; then
    if ! choose_from_apt; then
        say "Updating apt's package lists, to see which PostgreSQL there is"
        can_be_root || ask_administrator postgresql-N postgresql-server-dev-N
        apt_update
        choose_from_apt || die "neither this machine nor apt has a PostgreSQL of $supported_range; PG_CONFIG=/path/to/pg_config names one that is elsewhere"
    fi
    PG_CONFIG=$(debian_pg_config "$major")
    if has_server "$PG_CONFIG"; then
        say "PostgreSQL $major, the newest that is installed, still without its headers; $how_to_choose"
    else
        say "PostgreSQL $major, the newest that apt offers; $how_to_choose"
    fi
else
    die "no PostgreSQL of $supported_range found; PG_CONFIG=/path/to/pg_config names it"
fi

if [[ -x $PG_CONFIG ]]; then
    major=$(major_version "$PG_CONFIG")
elif [[ $PG_CONFIG =~ ^/usr/lib/postgresql/([0-9]+)/bin/pg_config$ ]]; then
    major=${BASH_REMATCH[1]}
else
    die "PG_CONFIG=$PG_CONFIG: there is no such program"
fi
is_supported "$major" || die "PG_CONFIG=$PG_CONFIG is of PostgreSQL $major; supported are $supported_range"

# --- System packages ---

if [[ $PG_CONFIG == "$(debian_pg_config "$major")" ]]; then
    want "PostgreSQL $major" "postgresql-$major" has_server "$PG_CONFIG"
    headers=postgresql-server-dev-$major
    if has_server "$PG_CONFIG" && ! has_headers "$PG_CONFIG"; then
        say "Updating apt's package lists, to see whether there are headers of the server's own release"
        can_be_root || ask_administrator "$headers"
        apt_update
        release=$(dpkg-query --show --showformat '${Version}' "postgresql-$major" 2>/dev/null || true)
        if apt_offers "$headers=$release"; then
            headers+="=$release"
        elif grep -qsz "^${PG_CONFIG%pg_config}postgres" /proc/[0-9]*/cmdline; then
            die "a server of PostgreSQL $major runs here, and apt offers headers only with a newer release of it. This restarts the server:

    apt-get install postgresql-$major $headers

Building on another machine does not"
        else
            headers="postgresql-$major $headers" # both of the newest: one release
        fi
    fi
    want "PostgreSQL $major's headers" "$headers" has_headers "$PG_CONFIG"
elif ! has_server "$PG_CONFIG" || ! has_headers "$PG_CONFIG"; then
    die "PG_CONFIG=$PG_CONFIG: not a PostgreSQL with a server and server headers"
fi
want "a C compiler (cc) and libc's headers" "gcc libc6-dev" c_compiler
want "libclang" libclang-dev libclang
want "ICU's headers, which PostgreSQL's include" libicu-dev icu_headers
want "ps" procps has ps
want "Rust $rust_needed with rustfmt" "$(rust_packages) ca-certificates" find_rust
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
    say "Installing cargo-pgrx $pgrx_version into ${CARGO_HOME:-~/.cargo} (a few minutes)"
    cargo install --locked cargo-pgrx --version "=$pgrx_version"
fi
