#!/usr/bin/env bash
# Runs the campaign against a broker built from this tree: scripts/campaign.sh [arguments of flotilla-campaign]
#
# Without arguments: two minutes of everything. tests/campaign/README.md says how to read what it prints.
set -euo pipefail
cd "$(dirname "$0")/.."

# The tests build both without optimisation anyway; FLOTILLA_CAMPAIGN_PROFILE=release for long runs.
profile=${FLOTILLA_CAMPAIGN_PROFILE:-dev}
cargo build --locked --profile "$profile" --package flotilla --package flotilla-campaign
if [ "$profile" = dev ]; then
    profile=debug
fi
exec "${CARGO_TARGET_DIR:-target}/$profile/flotilla-campaign" "$@"
