#!/usr/bin/env bash
# All tests, then the simulation, two minutes of the campaign, and a short run of each fuzz target. Arguments go to `cargo test`; with any, that is all.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo test --workspace --locked --no-fail-fast "$@"
if [ $# -eq 0 ] && [ -x scripts/sim.sh ]; then
    scripts/sim.sh
fi
if [ $# -eq 0 ] && [ -x scripts/campaign.sh ]; then
    scripts/campaign.sh --time 2m
fi
if [ $# -eq 0 ] && [ -x scripts/fuzz.sh ]; then
    for target in tests/fuzz/targets/*.rs; do
        scripts/fuzz.sh "$(basename "$target" .rs)"
    done
fi
echo "test.sh: ok"
