#!/usr/bin/env bash
# Runs the simulation of a cluster: scripts/sim.sh [new seeds] | scripts/sim.sh --seed SEED [--shards]
#
# First a fixed set of seeds, so that what once worked still does, then some new ones (5, if nothing else is said), both with and
# without shards: a failure names its seed. `--seed` runs one with everything that happens; RUST_LOG=flotilla_raft=debug adds what the code says of itself.
set -euo pipefail
cd "$(dirname "$0")/../tests/sim"

cargo build --locked
program=${CARGO_TARGET_DIR:-target}/debug/flotilla-sim
if [ "${1:-}" = --seed ]; then
    exec "$program" "${2:?scripts/sim.sh --seed SEED [--shards]}" --trace "${@:3}"
fi

cargo test --locked --quiet
"$program" run 1..21
# Each of those with shards is another run than the one without.
"$program" run 1..41 --shards
new=${1:-5}
first=$((($(date +%s) << 16) + $$))
"$program" run "$first..$((first + new))"
"$program" run "$first..$((first + new))" --shards
echo "sim.sh: ok"
