//! Retained messages that are the same on every node. Pure.
//!
//! Every node has a [`Replica`]: a copy of all retained messages, to look them up in without asking anybody. Topics are
//! divided into shards, and each shard has a registrar, the first node of its placement, which puts all changes of the
//! shard in one order:
//!
//! 1. The node whose client publishes asks the registrar of the topic ([`Replica::set`]).
//! 2. The registrar checks the limits, gives the change the next version, makes it and sends it to all other members.
//! 3. When all of them have made it, the registrar tells the node that asked ([`Replica::poll_answer`]): from now on the
//!    change survives whatever member ends. A member that ends is not waited for.
//!
//! A new registrar is a member that was up, so that its copy has every change that was answered: it is the authority.
//! Before it makes any change, every member makes its copy of the shard equal: digests of 256 buckets are compared, and
//! what differs is replaced page by page, which also removes what was deleted meanwhile. A member that joins does the
//! same, and is up only when [`Replica::is_synced`]. Requests without an answer are asked again of each new registrar;
//! copies know which requests are in them, so that none is made twice, or after a later one.
//!
//! Invariants: what has been answered is in the copy of every member that is up; changes of a shard have unique versions;
//! a copy that is synced with its registrar differs from it only by changes that are on their way, in their order.
//!
//! [`Store`] is the part of a replica that a cluster of one needs too. Messages of the broker itself (`$SYS`) are each
//! node's own.
//!
//! Links between members must be reliable, FIFO and without repetitions for as long as both members live. Absent on
//! purpose: links, clocks, disks (a cluster whose nodes all end at once forgets its retained messages), and who may
//! publish what.

mod applied;
mod content;
mod follower;
mod registrar;
mod replica;
#[cfg(test)]
mod simulation;
mod store;
#[cfg(test)]
mod tests;
mod wire;

pub use content::ShardOf;
pub use replica::{Answer, Outcome, Replica, RequestId, SetError};
pub use store::{Full, Limits, Store};
pub use wire::HandleError;
