#!/bin/sh
# Runs a fuzz target for a bounded time: scripts/fuzz.sh [target] [seconds]
#
# Stable Rust, no cargo-fuzz: libFuzzer comes with libfuzzer-sys, coverage from the compiler's sanitizer-coverage pass.
# Exits non-zero on a crash, a hang or too much memory; the input is then in tests/fuzz/artifacts. New inputs that reach
# new code stay in tests/fuzz/corpus on this machine; tests/fuzz/seeds/<target> is what every run starts from.
set -eu
cd "$(dirname "$0")/../tests/fuzz"

target=${1:-decode}
seconds=${2:-20}

if ! command -v "${CXX:-c++}" >/dev/null 2>&1; then
    echo "fuzz.sh: SKIPPED: no C++ compiler (${CXX:-c++}), which libFuzzer is built with" >&2
    exit 0
fi

export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
# A target triple keeps these flags away from build scripts and macros, which have no libFuzzer to call.
host=$(rustc -vV | sed -n 's/^host: //p')
cargo build --release --locked --target "$host" --bin "$target"

mkdir -p "corpus/$target" "seeds/$target" artifacts
log="artifacts/$target.log"
if ! "${CARGO_TARGET_DIR:-target}/$host/release/$target" "corpus/$target" "seeds/$target" \
    -verbosity=0 -max_total_time="$seconds" -timeout=5 -rss_limit_mb=512 -max_len=4096 \
    -artifact_prefix=artifacts/ -print_final_stats=1 >"$log" 2>&1; then
    cat "$log" >&2
    echo "fuzz.sh: $target FAILED; the input is in tests/fuzz/artifacts" >&2
    exit 1
fi
echo "fuzz.sh: $target ran for $seconds s"
grep '^stat::' "$log"
