//! What a node is told about the cluster, and where it keeps what it knows.

use std::{io, ops::Range, path::Path, sync::Arc, time::Duration};

use flotilla_kv::Kv;
use flotilla_state::Role;
use flotilla_wal::{DiskFiles, Files, Wal, WalError, WalOptions};

use crate::{
    group::{GroupError, GroupOptions},
    peers::{Discovery, DiscoveryError, Identity, IdentityError, Secret},
};

/// Settings of a node in a cluster.
#[derive(Debug, Clone)]
pub struct MetaOptions {
    /// The name of the node, unique in the cluster.
    pub name: String,
    /// The name of the cluster, visible ASCII.
    pub cluster_name: String,
    /// What the nodes must know to talk to each other.
    pub secret: Option<Secret>,
    /// What the node does.
    pub role: Role,
    /// Where the other nodes reach it: `host:port`.
    pub advertise: String,
    /// Where clients reach it.
    pub client_addresses: Vec<String>,
    /// The version of the program.
    pub version: String,
    /// Where to look for other nodes.
    pub discovery: Discovery,
    /// How many core nodes found the cluster, 1 to 7.
    pub bootstrap_expect: u8,
    /// A member that is silent for so long is declared down.
    pub node_down_after: Duration,
    /// An edge node that is down for so long is removed.
    pub edge_forget_after: Duration,
    /// How many shards the cluster gets, if this node creates it.
    pub shards: u16,
    /// How many nodes hold each shard, if this node creates the cluster.
    pub replicas: u8,
    /// The interval of the leader's heartbeats in the Raft group.
    pub heartbeat: Duration,
    /// A node stands for election after so much silence of the leader, and another `election.end`.
    pub election: Range<Duration>,
    /// A snapshot is made, and the log cut, when the log exceeds this.
    pub log_bytes_max: u64,
    /// Entries before the snapshot that are kept for nodes that are a little behind.
    pub log_entries_kept: u64,
    /// The pause between two looks for other nodes, and between two tries of the same thing.
    pub retry: Duration,
    /// Proposals of this node that may be under way at a time.
    pub proposals_max: usize,
}

impl MetaOptions {
    /// The defaults, for a node of this name that others reach at `advertise`.
    pub fn new(name: &str, advertise: &str) -> Self {
        Self {
            name: name.to_owned(),
            cluster_name: "flotilla".to_owned(),
            secret: None,
            role: Role::Core,
            advertise: advertise.to_owned(),
            client_addresses: Vec::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            discovery: Discovery::None,
            bootstrap_expect: 1,
            node_down_after: Duration::from_secs(5),
            edge_forget_after: Duration::from_secs(600),
            shards: 16,
            replicas: 3,
            heartbeat: Duration::from_millis(250),
            election: Duration::from_millis(750)..Duration::from_millis(1_250),
            log_bytes_max: GroupOptions::LOG_BYTES_MAX,
            log_entries_kept: GroupOptions::LOG_ENTRIES_KEPT,
            retry: Duration::from_millis(500),
            proposals_max: 256,
        }
    }

    pub(crate) fn check(&self) -> Result<(), MetaError> {
        let refuse = |what: String| Err(MetaError::Options(what));
        let is_name = |name: &str| !name.is_empty() && name.len() <= 255;
        if !is_name(&self.name) {
            return refuse("node.name must have 1 to 255 bytes".into());
        }
        if !is_name(&self.cluster_name) || !self.cluster_name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return refuse("cluster.name must be 1 to 255 visible ASCII characters".into());
        }
        let expect = usize::from(self.bootstrap_expect);
        if !(1..=super::voters::VOTERS_MAX).contains(&expect) {
            return refuse(format!("cluster.bootstrap_expect must be 1 to 7, not {expect}"));
        }
        let reachable = match &self.discovery {
            Discovery::None => 0,
            Discovery::Static(addresses) => addresses.len(),
            Discovery::Dns { .. } => usize::MAX - 1,
        };
        if self.role == Role::Core && expect > reachable + 1 {
            return refuse(format!(
                "cluster.bootstrap_expect = {expect} nodes cannot find each other: cluster.discovery names {reachable}"
            ));
        }
        if let Discovery::Static(addresses) = &self.discovery
            && self.role == Role::Core
            && expect * 2 <= addresses.len()
        {
            return refuse(format!(
                "cluster.bootstrap_expect = {expect} is not more than half of the {} nodes in cluster.discovery: two clusters \
                 could be founded; set it to the number of core nodes",
                addresses.len()
            ));
        }
        // The Raft library waits for `election.end` before it begins to wait for a time of `election`. Members must outlive that,
        // and one missed heartbeat, or each death of a leader would fence all of them.
        if self.election.end * 2 > self.node_down_after * 3 / 5 {
            return refuse("cluster.node_down_after is too short for the election of a new leader".into());
        }
        // The leader's promise counts only while a quorum confirms it at least twice within the margin of a lease.
        if self.heartbeat * 2 > self.node_down_after / 5 {
            return refuse("cluster.node_down_after must be ten times the Raft heartbeat or more".into());
        }
        Ok(())
    }
}

/// What a node keeps on its disk.
pub struct Storage {
    pub(crate) identity: Identity,
    pub(crate) wal: Wal,
    pub(crate) files: Arc<dyn Files>,
    pub(crate) dir: std::path::PathBuf,
}

impl Storage {
    /// The disk, or its twin of a test.
    #[must_use]
    pub fn files(&self) -> &Arc<dyn Files> {
        &self.files
    }

    /// Opens the data directory of the node `name`, alone: another process that has it is an error. Blocks on the disk.
    ///
    /// # Errors
    /// The directory is in use, belongs to another node or cluster, or is damaged.
    pub fn open(data_dir: &Path, name: &str, cluster_name: &str, wal: WalOptions) -> Result<Self, MetaError> {
        std::fs::create_dir_all(data_dir)?;
        let identity = Identity::open(data_dir, name, cluster_name)?;
        let files: Arc<dyn Files> = Arc::new(DiskFiles);
        let wal = Wal::open(&data_dir.join("wal"), wal, Arc::clone(&files))?;
        Ok(Self { identity, wal, files, dir: data_dir.to_owned() })
    }

    /// Opens what a node keeps in `kv` and in the folder `dir` of `files`: for simulations, whose disks are in memory.
    ///
    /// # Errors
    /// What is there belongs to another node or cluster, or is damaged.
    pub fn open_in(
        kv: Arc<dyn Kv>,
        files: Arc<dyn Files>,
        dir: &Path,
        name: &str,
        cluster_name: &str,
        wal: WalOptions,
    ) -> Result<Self, MetaError> {
        let identity = Identity::open_in(kv, name, cluster_name)?;
        let wal = Wal::open(&dir.join("wal"), wal, Arc::clone(&files))?;
        Ok(Self { identity, wal, files, dir: dir.to_owned() })
    }

    /// The write-ahead log, for other groups of the node.
    pub fn wal(&self) -> &Wal {
        &self.wal
    }

    /// What the node keeps of itself.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

/// Why a node does not take part in a cluster.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    /// The settings contradict each other.
    #[error("{0}")]
    Options(String),
    /// The data directory is not this node's.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The write-ahead log.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// The Raft group.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// Discovery cannot even begin.
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
    /// The node has voted or held entries, and its log is empty.
    #[error(
        "the Raft log of this node is gone, but its identity is there: it could vote twice; remove the whole data directory, so \
         that the node comes back as a new one"
    )]
    LogLost,
    /// There is a log, and the identity that it belongs to is gone.
    #[error(
        "the identity of this node is gone, but its Raft log is there: remove the whole data directory, so that the node comes \
         back as a new one"
    )]
    IdentityLost,
    /// The disk.
    #[error("cannot be used: {0}")]
    Io(#[from] io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut MetaOptions), expected: Option<&str>) {
        let mut options = MetaOptions::new("a", "a:5883");
        change(&mut options);
        let refused = options.check().err().map(|error| error.to_string());
        match (&refused, expected) {
            (Some(refused), Some(expected)) => assert!(refused.contains(expected), "{refused}"),
            _ => assert_eq!(refused.as_deref(), expected),
        }
    }

    #[test]
    fn settings_that_could_found_two_clusters_or_fence_all_are_refused() {
        let list = |n: usize| Discovery::Static((0..n).map(|it| format!("node-{it}:5883")).collect());
        let with = |discovery: Discovery, expect: u8| {
            move |options: &mut MetaOptions| {
                (options.discovery, options.bootstrap_expect) = (discovery, expect);
            }
        };
        check(|_| {}, None);
        check(with(list(3), 3), None);
        check(with(list(3), 2), None);
        check(with(list(3), 1), Some("two clusters"));
        check(with(list(4), 2), Some("two clusters"));
        check(with(list(1), 3), Some("cannot find each other"));
        check(with(Discovery::None, 3), Some("cannot find each other"));
        check(with(list(9), 8), Some("1 to 7"));
        check(with(list(9), 0), Some("1 to 7"));
        check(with(Discovery::Dns { name: "nodes".into(), port: None }, 3), None);
        check(|options| options.cluster_name = "a b".into(), Some("visible ASCII"));
        check(|options| options.node_down_after = Duration::from_secs(4), Some("election"));
        check(|options| options.heartbeat = Duration::from_millis(600), Some("ten times"));
    }
}
