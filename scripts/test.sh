#!/usr/bin/env bash
# All tests, then the simulation, two minutes of the campaign, and a short run of each fuzz target, also when something before them has
# failed. Arguments go to `cargo test`; with any, that is all.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

failed=()
run() {
    "$@" || failed+=("$*")
}

run cargo test --workspace --locked --no-fail-fast "$@"
if [ $# -eq 0 ]; then
    run scripts/sim.sh
    run scripts/campaign.sh --time 2m
    for target in tests/fuzz/targets/*.rs; do
        run scripts/fuzz.sh "$(basename "$target" .rs)"
    done
fi

if [ ${#failed[@]} -gt 0 ]; then
    printf 'test.sh: FAILED: %s\n' "${failed[@]}"
    exit 1
fi
echo "test.sh: ok"
