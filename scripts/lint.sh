#!/usr/bin/env bash
# Checks format, clippy, documentation and scripts, all of Rust with the one toolchain that
# builds.
source "$(dirname "$0")/common.sh"
scripts/setup.sh
use_postgres

# Cargo takes the first cargo-clippy on PATH, even another toolchain's.
if [[ $(command -v cargo) == /usr/bin/cargo && ! -e /usr/bin/cargo-clippy ]]; then
    if dpkg-query --show cargo-web &>/dev/null; then
        apt_install rust-web-clippy
    else
        apt_install rust-clippy
    fi
fi
release_of() { "$@" --version | sed -E 's/^[a-z]+ (0[.])?([0-9]+[.][0-9]+).*/\2/'; }
rust=$(release_of rustc)
for tool in rustdoc 'cargo clippy'; do
    # shellcheck disable=SC2086 # two words
    found=$(release_of $tool) || die "there is no $tool"
    [[ $found == "$rust" ]] || die "$tool is of release $found, and rustc of $rust"
done
command -v shellcheck >/dev/null || apt_install shellcheck

example=(--manifest-path examples/first_worker/Cargo.toml)

say "Format"
cargo fmt --check
cargo fmt --check "${example[@]}"

say "Clippy"
cargo clippy --all-targets --test soak --test picture "${features[@]}" -- -D warnings
# In the same directory, where its dependencies are checked already.
cargo clippy --locked "${example[@]}" --target-dir "${CARGO_TARGET_DIR:-target}" "${features[@]}" -- -D warnings

say "Documentation"
RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --document-private-items "${features[@]}"

say "Scripts"
# Functions that traps and jobs call look unreachable.
mapfile -t scripts < <(git grep --untracked -lIE '^#!.*[/ ](ba)?sh( |$)|^# shellcheck shell=')
shellcheck --external-sources --source-path=SCRIPTDIR --exclude=SC2317 "${scripts[@]}"
