#!/usr/bin/env bash
# Rewrites what tools can rewrite: format, and the lints that know their own remedy.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo clippy --workspace --all-targets --locked --fix --allow-dirty --allow-staged
cargo fmt --all
if [ -f tests/fuzz/Cargo.toml ]; then
    cargo fmt --manifest-path tests/fuzz/Cargo.toml
fi
if [ -f tests/sim/Cargo.toml ]; then
    cargo fmt --manifest-path tests/sim/Cargo.toml
fi
