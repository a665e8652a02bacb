//! The Raft groups of a node, and how a node becomes and remains a member of the cluster.
//!
//! [`lanes`] carries everything between members that is neither Raft nor administration.

pub mod lanes;
