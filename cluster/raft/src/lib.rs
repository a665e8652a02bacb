//! The Raft groups of a node, and how a node becomes and remains a member of the cluster.
//!
//! - [`group`] is one Raft group, whatever its state machine is. openraft stays behind it: none of its types leave this crate.
//! - [`peers`] is the other nodes: identity, addresses, channels, and the gate before the cluster port.
//! - [`meta`] is the group that spans the cluster: founding, admission, leases, voters.

pub mod group;
pub mod meta;
pub mod peers;
