//! The other nodes: who they are, where they are, and how this node talks with them.
//!
//! [`Identity`] is what the node keeps of itself. [`Peers`] is the address book with a channel per node and [`Class`];
//! [`Discovery`] finds addresses before there is a book. [`Gate`] stands before every service of the cluster port, and
//! [`serve`] opens that port.
//!
//! # Invariants
//!
//! - Every request says which cluster it is meant for, who sends it and which node it is meant for, and carries the shared
//!   secret when there is one. [`Gate`] refuses the rest before a service sees it, and counts it.
//! - Raft, lanes and administration use connections of their own, so that bulk never holds up a heartbeat.
//! - Everything that comes in is bounded: connections, requests under way per connection, header and message sizes.
//! - A node is its [`NodeId`], never its address. What a node says of its address counts more than what was committed before.

mod book;
mod channel;
mod connect;
mod discovery;
mod gate;
mod identity;
mod local;
mod raft;
mod secret;
mod serve;

use std::fmt;

use flotilla_state::NodeId;

pub use book::{Class, Peers, PeersOptions};
pub use channel::PeerChannel;
pub use connect::{Connection, Connector, TcpConnector};
pub use discovery::{Discovery, DiscoveryError, Resolver};
pub use gate::{Caller, Gate, Gated, Refusal};
pub use identity::{Identity, IdentityError};
pub use local::Local;
pub use raft::{RaftService, RaftTransport};
pub use secret::Secret;
pub use serve::{ServeOptions, serve, serve_connections};

/// The version of what the nodes say to each other. Nodes of another one are refused.
pub const WIRE_VERSION: u32 = 1;

/// The greatest message of the cluster port.
pub const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A cluster: a random number that is drawn when it is founded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u128);

impl ClusterId {
    /// Reads what [`ClusterId::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(u128::from_be_bytes(bytes.try_into().ok()?)))
    }

    /// As it is kept and sent.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", self.0)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Reads a node identifier as [`NodeId`] shows itself.
pub fn parse_node_id(text: &str) -> Option<NodeId> {
    u64::from_str_radix(text, 16).ok().map(NodeId)
}
