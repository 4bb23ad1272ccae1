#!/usr/bin/env bash
# Removes what was built here, and this checkout's private installations.
source "$(dirname "$0")/common.sh"
cargo clean
rm -rf "$installations" .cargo/config.toml dist
