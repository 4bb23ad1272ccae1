#!/usr/bin/env bash
# Checks licences, duplicates and sources of the dependencies, by deny.toml; needs no
# network once cargo-deny is there. `cargo deny check advisories`, which fetches a
# database, is for doing by hand.
source "$(dirname "$0")/common.sh"
scripts/setup.sh
use_postgres

version=0.20.2
if [[ $(cargo deny --version 2>/dev/null) != "cargo-deny $version" ]]; then
    say "Installing cargo-deny $version"
    cargo install --locked cargo-deny --version "=$version"
fi

say "Checking the dependencies"
cargo deny --locked "${features[@]}" check --hide-inclusion-graph licenses bans sources
