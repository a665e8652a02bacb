#!/usr/bin/env bash
# Everything that can be said about the code without running it. Reads only; `scripts/fix.sh` repairs what it can.
# Runs all checks also when one of them fails, and fails when any did.
set -uo pipefail
cd "$(dirname "$0")/.."

failed=()
check() {
    local name=$1
    shift
    echo "== $name: $*"
    "$@" || failed+=("$name")
}

check format cargo fmt --all --check
if [ -f tests/fuzz/Cargo.toml ]; then
    check format-fuzz cargo fmt --manifest-path tests/fuzz/Cargo.toml --check
fi
if [ -f tests/sim/Cargo.toml ]; then
    check format-sim cargo fmt --manifest-path tests/sim/Cargo.toml --check
    # In its folder, for cargo looks for the flags it needs where it is called.
    check clippy-sim env -C tests/sim cargo clippy --all-targets --locked -- -D warnings
fi
check clippy cargo clippy --workspace --all-targets --locked -- -D warnings
check doc env RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --locked

if ! command -v cargo-deny >/dev/null; then
    echo "== deny: SKIPPED, cargo-deny is not installed (cargo install cargo-deny --locked)"
elif cargo deny fetch db >/dev/null 2>&1; then
    check deny cargo deny --locked check --hide-inclusion-graph
else
    echo "== deny: advisories SKIPPED, their database cannot be had; what .deny.toml names is checked"
    check deny cargo deny --locked check --hide-inclusion-graph bans licenses sources
fi

if [ ${#failed[@]} -gt 0 ]; then
    echo "check.sh: FAILED: ${failed[*]}"
    exit 1
fi
echo "check.sh: ok"
