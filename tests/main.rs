//! Black-box tests: a real `flotilla` process, real sockets, and clients that share no code with it.
//!
//! `conformance` holds one test or more for each kind of bad input (rows B01 to B71 of the bad-input table, named
//! after their row) and for each promise of the specification that a client can see (`behaviour_*`). `clients` runs
//! clients that others wrote. `chaos` runs many clients at once. Everything goes through `harness`.
//!
//! The conformance tests can also be run against a broker that is already there:
//! `FLOTILLA_TEST_ADDR=127.0.0.1:1883 cargo test --test main`. Tests that need settings of their own then say
//! SKIPPED and pass. Where the specification leaves a choice, a broker that chose otherwise fails.

mod chaos;
mod clients;
mod conformance;
mod harness;
