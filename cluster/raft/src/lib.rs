//! The Raft groups of a node, and how a node becomes and remains a member of the cluster.
//!
//! [`group`] is one Raft group, whatever its state machine is. openraft stays behind it: none of its types leave this crate.
//! [`lanes`] carries everything between members that is neither Raft nor administration.

mod clock;
pub mod group;
pub mod lanes;
pub mod meta;
pub mod peers;
mod random;
mod replica;

#[cfg(feature = "simulation")]
pub use random::seed;
