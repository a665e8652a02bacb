//! What `flotilla ctl cluster status --json` prints.

use serde::Deserialize;

/// The cluster as one node knows it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Status {
    pub(crate) id: Option<String>,
    pub(crate) leader: Option<String>,
    pub(crate) term: u64,
    pub(crate) quorum: bool,
    pub(crate) partition_suspected: bool,
    pub(crate) ready: bool,
    pub(crate) nodes: Vec<NodeStatus>,
}

/// A node as another one knows it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct NodeStatus {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) role: String,
    pub(crate) status: String,
    pub(crate) incarnation: u64,
    pub(crate) address: String,
    pub(crate) voter: bool,
}

impl Status {
    /// A node by its name.
    pub(crate) fn node(&self, name: &str) -> Option<&NodeStatus> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// There is a node of this name with this status.
    pub(crate) fn has(&self, name: &str, status: &str) -> bool {
        self.node(name).is_some_and(|node| node.status == status)
    }

    /// How many nodes vote.
    pub(crate) fn voters(&self) -> usize {
        self.nodes.iter().filter(|node| node.voter).count()
    }
}
