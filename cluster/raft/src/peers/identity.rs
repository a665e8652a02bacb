//! What a node keeps of itself, durably, in its data directory.

use std::{fmt, path::Path, sync::Arc};

use flotilla_kv::{Kv, KvError, SledKv};
use flotilla_state::NodeId;
use parking_lot::Mutex;
use prost::Message;

use super::ClusterId;
use crate::random::random;

/// The identity of a node: drawn at its first start on an empty data directory, and kept there. It holds the lock of the
/// directory as long as it lives.
pub struct Identity {
    kv: Arc<dyn Kv>,
    kept: Mutex<Kept>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Kept {
    /// Of this record.
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(fixed64, tag = "2")]
    node: u64,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(string, tag = "4")]
    cluster_name: String,
    /// Absent until the node belongs to a cluster.
    #[prost(bytes = "vec", optional, tag = "5")]
    cluster_id: Option<Vec<u8>>,
    /// The attempt to found a cluster that the node is bound to.
    #[prost(bytes = "vec", optional, tag = "6")]
    attempt: Option<Vec<u8>>,
    /// The Raft log of this node is not empty. If it is found empty nevertheless, it was lost.
    #[prost(bool, tag = "7")]
    has_log: bool,
}

/// Why a node does not start on a data directory.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Another process has the directory.
    #[error("the data directory is in use by another process")]
    InUse,
    /// The directory is that of a node with another name.
    #[error(
        "the data directory belongs to node {kept:?}, but node.name is {configured:?}: give the node its name back, or another \
         data directory"
    )]
    OtherName {
        /// The name in the directory.
        kept: String,
        /// The name in the configuration.
        configured: String,
    },
    /// The directory is that of a node of another cluster.
    #[error(
        "the data directory belongs to cluster {kept:?}, but cluster.name is {configured:?}: set the name back, or use another \
         data directory"
    )]
    OtherCluster {
        /// The name in the directory.
        kept: String,
        /// The name in the configuration.
        configured: String,
    },
    /// Written by a newer version.
    #[error("the identity of the node has format {0}, this flotilla reads up to {VERSION}")]
    Version(u32),
    /// What is kept is not what was written.
    #[error("the identity of the node does not decode: {0}")]
    Damaged(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] KvError),
}

impl Identity {
    /// Opens the identity in `data_dir`, or draws one when there is none.
    ///
    /// # Errors
    /// The directory is another node's, another cluster's or in use, or cannot be read.
    pub fn open(data_dir: &Path, name: &str, cluster_name: &str) -> Result<Self, IdentityError> {
        let kv = SledKv::open(&data_dir.join("identity")).map_err(|error| match error {
            KvError::Locked { .. } => IdentityError::InUse,
            error => error.into(),
        })?;
        Self::open_in(Arc::new(kv), name, cluster_name)
    }

    /// As [`Identity::open`], in a store that the caller has opened and that nobody else has.
    ///
    /// # Errors
    /// The store is another node's or another cluster's, or cannot be read.
    pub fn open_in(kv: Arc<dyn Kv>, name: &str, cluster_name: &str) -> Result<Self, IdentityError> {
        let damaged = |what: &dyn fmt::Display| IdentityError::Damaged(what.to_string());
        let Some(bytes) = kv.value(KEY)? else {
            let (name, cluster_name) = (name.to_owned(), cluster_name.to_owned());
            // Zero is nobody.
            let node = random::<u64>().max(1);
            let kept = Kept { version: VERSION, node, name, cluster_name, ..Kept::default() };
            kv.write(&[(KEY.to_vec(), Some(kept.encode_to_vec()))])?;
            return Ok(Self { kv, kept: Mutex::new(kept) });
        };
        let mut kept = Kept::decode(&*bytes).map_err(|error| damaged(&error))?;
        if kept.version == 0 || kept.version > VERSION {
            return Err(IdentityError::Version(kept.version));
        }
        if kept.node == 0 || kept.cluster_id.as_ref().is_some_and(|id| id.len() != 16) {
            return Err(damaged(&"an identifier is missing"));
        }
        if kept.name != name {
            return Err(IdentityError::OtherName { kept: kept.name, configured: name.to_owned() });
        }
        let is_bound = kept.cluster_id.is_some() || kept.attempt.is_some() || kept.has_log;
        if kept.cluster_name != cluster_name {
            if is_bound {
                let configured = cluster_name.to_owned();
                return Err(IdentityError::OtherCluster { kept: kept.cluster_name, configured });
            }
            cluster_name.clone_into(&mut kept.cluster_name);
        }
        Ok(Self { kv, kept: Mutex::new(kept) })
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        NodeId(self.kept.lock().node)
    }

    /// The cluster that it belongs to.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.kept.lock().cluster_id.as_deref().and_then(ClusterId::from_bytes)
    }

    /// The attempt to found a cluster that it is bound to, as it was given to [`Identity::keep_attempt`].
    pub fn attempt(&self) -> Option<Vec<u8>> {
        self.kept.lock().attempt.clone()
    }

    /// Whether its Raft log must not be empty.
    pub fn has_log(&self) -> bool {
        self.kept.lock().has_log
    }

    /// Keeps the cluster that the node belongs to. Blocks on the disk.
    ///
    /// # Errors
    /// It may or may not be kept.
    pub fn keep_cluster(&self, cluster_id: ClusterId) -> Result<(), KvError> {
        self.change(|kept| kept.cluster_id = Some(cluster_id.to_bytes().to_vec()))
    }

    /// Keeps the attempt that the node is bound to. Blocks on the disk.
    ///
    /// # Errors
    /// It may or may not be kept.
    pub fn keep_attempt(&self, attempt: Option<Vec<u8>>) -> Result<(), KvError> {
        self.change(|kept| kept.attempt = attempt)
    }

    /// Keeps that the Raft log is not empty any more. Blocks on the disk.
    ///
    /// # Errors
    /// It may or may not be kept.
    pub fn keep_has_log(&self) -> Result<(), KvError> {
        self.change(|kept| kept.has_log = true)
    }

    fn change(&self, change: impl FnOnce(&mut Kept)) -> Result<(), KvError> {
        let mut kept = self.kept.lock();
        let mut changed = kept.clone();
        change(&mut changed);
        if changed != *kept {
            self.kv.write(&[(KEY.to_vec(), Some(changed.encode_to_vec()))])?;
            *kept = changed;
        }
        Ok(())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Identity").field("kept", &*self.kept.lock()).finish_non_exhaustive()
    }
}

const KEY: &[u8] = b"identity";

/// The newest format of what is kept.
const VERSION: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_drawn_once_and_guards_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::open(dir.path(), "a", "blue").unwrap();
        let (node, cluster) = (first.node(), ClusterId(7));
        assert!(matches!(Identity::open(dir.path(), "a", "blue"), Err(IdentityError::InUse)));
        first.keep_attempt(Some(vec![1, 2])).unwrap();
        first.keep_cluster(cluster).unwrap();
        first.keep_has_log().unwrap();
        drop(first);

        let again = Identity::open(dir.path(), "a", "blue").unwrap();
        assert_eq!((again.node(), again.cluster_id()), (node, Some(cluster)));
        assert_eq!((again.attempt(), again.has_log()), (Some(vec![1, 2]), true));
        drop(again);
        assert!(matches!(Identity::open(dir.path(), "b", "blue"), Err(IdentityError::OtherName { .. })));
        assert!(matches!(Identity::open(dir.path(), "a", "red"), Err(IdentityError::OtherCluster { .. })));
    }

    #[test]
    fn bytes_of_a_newer_version_or_of_none_are_refused() {
        let kv = Arc::new(flotilla_kv::MemoryKv::new());
        let newer = Kept { version: VERSION + 1, node: 1, ..Kept::default() };
        kv.write(&[(KEY.to_vec(), Some(newer.encode_to_vec()))]).unwrap();
        assert!(matches!(Identity::open_in(kv.clone(), "a", "blue"), Err(IdentityError::Version(2))));
        kv.write(&[(KEY.to_vec(), Some(vec![0xff; 9]))]).unwrap();
        assert!(matches!(Identity::open_in(kv, "a", "blue"), Err(IdentityError::Damaged(_))));
    }
}
