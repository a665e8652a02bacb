//! What goes wrong, and when it is over.

use std::{fmt, time::Duration};

use rand::{RngExt as _, rngs::StdRng};
use turmoil::Sim;

use crate::node::Node;

/// A fault. Nodes are numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The power of a node fails; it starts again when the fault is over.
    Crash(usize),
    /// First its disk refuses to write, then the power fails.
    BadDisk(usize),
    /// Its disk is lost, too.
    Wipe(usize),
    /// Nothing comes through between two nodes.
    Cut(usize, usize),
    /// Nothing comes through from one to the other.
    CutOneWay(usize, usize),
    /// Nothing comes through to or from a node.
    Isolate(usize),
    /// What is sent between two nodes comes when the fault is over.
    Hold(usize, usize),
    /// What is sent between two nodes takes long.
    Slow(usize, usize),
}

impl Fault {
    /// Some fault in a cluster of so many nodes.
    pub fn draw(random: &mut StdRng, nodes: usize, may_wipe: bool) -> Self {
        let node = random.random_range(0..nodes);
        let other = (node + random.random_range(1..nodes)) % nodes;
        match random.random_range(0..100) {
            0..25 => Self::Crash(node),
            25..30 => Self::BadDisk(node),
            30..35 if may_wipe => Self::Wipe(node),
            30..45 => Self::Cut(node, other),
            45..60 => Self::CutOneWay(node, other),
            60..78 => Self::Isolate(node),
            78..88 => Self::Hold(node, other),
            _ => Self::Slow(node, other),
        }
    }

    /// How long it lasts.
    pub fn duration(self, random: &mut StdRng) -> Duration {
        Duration::from_millis(match random.random_range(0..4) {
            0 => random.random_range(50..500),
            1 | 2 => random.random_range(500..4_000),
            _ => random.random_range(4_000..9_000),
        })
    }

    /// The node whose process ends.
    pub fn victim(self) -> Option<usize> {
        match self {
            Self::Crash(node) | Self::BadDisk(node) | Self::Wipe(node) => Some(node),
            _ => None,
        }
    }

    /// Begins or ends it on the network.
    pub fn apply_to_network(self, sim: &Sim<'_>, nodes: &[std::sync::Arc<Node>], begins: bool) {
        let name = |node: usize| nodes[node].name.as_str();
        let cut = |a: usize, b: usize| {
            if begins { sim.partition(name(a), name(b)) } else { sim.repair(name(a), name(b)) }
        };
        match self {
            Self::Crash(_) | Self::BadDisk(_) | Self::Wipe(_) => {}
            Self::Cut(a, b) => cut(a, b),
            Self::CutOneWay(from, to) if begins => sim.partition_oneway(name(from), name(to)),
            Self::CutOneWay(from, to) => sim.repair_oneway(name(from), name(to)),
            Self::Isolate(node) => {
                (0..nodes.len()).filter(|other| *other != node).for_each(|other| cut(node, other))
            }
            Self::Hold(a, b) if begins => sim.hold(name(a), name(b)),
            Self::Hold(a, b) => sim.release(name(a), name(b)),
            Self::Slow(a, b) => {
                let latency = if begins { SLOW } else { crate::world::LATENCY_MAX };
                sim.set_link_max_message_latency(name(a), name(b), latency);
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, formatter)
    }
}

const SLOW: Duration = Duration::from_millis(400);
