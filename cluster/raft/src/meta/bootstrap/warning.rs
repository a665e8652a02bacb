//! What the operator is told about the founding of a cluster.

use crate::peers::ClusterId;

/// What only an operator can put right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Warning {
    #[error(
        "discovery finds {found} addresses, of which bootstrap_expect = {expect} is not more than half: two clusters could be \
         founded; set bootstrap_expect to the number of core nodes"
    )]
    ExpectTooSmall { expect: usize, found: usize },
    #[error("another node is named {name:?} too; node names must differ")]
    SameName { name: String },
    #[error("two clusters of this name exist: {first} and {second}; stop the one that is not wanted")]
    TwoClusters { first: ClusterId, second: ClusterId },
    #[error(
        "this node took part in an attempt to found cluster {attempt}, which cannot succeed any more; stop the node, remove its \
         data directory and start it again"
    )]
    AttemptLost { attempt: ClusterId },
    #[error(
        "{initiator:?} asks to found a cluster of {theirs} nodes, but bootstrap_expect is {ours} here; make them equal"
    )]
    ExpectDiffers { initiator: String, theirs: usize, ours: usize },
}
