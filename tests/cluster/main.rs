//! Black-box tests of clusters: several real `flotilla` processes on this machine, each on an address of its own.
//!
//! [`fleet`] starts, kills, stops, moves and wipes nodes, and breaks the network between them. The tests that break the
//! network run in a network namespace of their own; where that is not allowed, they say SKIPPED and pass. Each test names the
//! promise (P1 to P9) or the row of the fault table (F01 to F66) that it is about.

#[path = "../harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the tests of one node use the rest of it")]
mod harness;

#[allow(dead_code, unused_imports, reason = "the tests below use the rest of it")]
mod fleet;
#[path = "fleet/tests.rs"]
mod fleet_tests;

mod backup;
mod bad_input;
mod bans;
mod changes;
mod clocks;
mod disk;
mod durable;
mod groups;
mod isolation;
mod membership;
mod names;
mod partitions;
mod retained;
mod routing;
mod shared;
mod takeover;
mod wills;
