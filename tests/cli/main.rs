//! `flotilla pub` and `flotilla sub` as a script sees them: arguments in, output and exit codes out.
//!
//! `with_broker` runs them against `flotilla start`; `with_script` against a listener that plays back bytes, for what
//! a broker does not do on request. `program` is about the commands that run the broker, `dev` about the one that runs many, `ctl`
//! about the one that asks them, `bench` about the one that puts a load on them.

mod bench;
mod ctl;
mod dev;
mod harness;
mod program;
mod with_broker;
mod with_script;
