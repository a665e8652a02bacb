//! The `flotilla` program.

mod cli;

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// A broker has very many small, long-lived allocations between short bursts, freed by other threads than those that
/// made them; jemalloc is built for that. When it gives memory back is set in `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    cli::run()
}
