//! The `flotilla` program.

mod cli;

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// What is freed must go back to the system, and soon: a node that is short of memory judges by what the process has resident, and
/// reads its publishers again when that is less. The system's allocator keeps most of a queue that has been worked off.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    cli::run()
}
