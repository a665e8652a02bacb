//! The Raft groups of a node, and how a node becomes and remains a member of the cluster.
