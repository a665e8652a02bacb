//! The Raft groups of a node, and how a node becomes and remains a member of the cluster.
//!
//! [`group`] is one Raft group, whatever its state machine is. openraft stays behind it: none of its types leave this crate.

pub mod group;
pub mod meta;
pub mod peers;
