//! What a group is started with, and what openraft makes of it.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use flotilla_wal::{Files, Wal};
use openraft::{Config, SnapshotPolicy};

use super::error::GroupError;
use super::ports::{GroupId, State, Transport};

/// What a group is started with.
pub struct GroupOptions {
    /// Names the group within the node.
    pub id: GroupId,
    /// This node.
    pub me: u64,
    /// The interval of heartbeats of the leader.
    pub heartbeat: Duration,
    /// A follower that hears nothing from the leader stands for election after a time drawn from this range.
    pub election: Range<Duration>,
    /// When the log exceeds this, a snapshot is made, or a durable state brought to the disk, and the log is cut. See
    /// [`GroupOptions::LOG_BYTES_MAX`].
    pub log_bytes_max: u64,
    /// Entries before the snapshot that are kept for followers that are a little behind, until the group has been at rest.
    pub log_entries_kept: u64,
    /// How long sending and installing a snapshot may take.
    pub snapshot_timeout: Duration,
    /// The folder of the snapshots of this group, of nothing else: the latest where the state is in memory, and those that are on
    /// their way. It is made where it is missing.
    pub snapshot_dir: PathBuf,
    /// Where that folder is: the disk, or its twin of a test.
    pub files: Arc<dyn Files>,
    /// The write-ahead log of the node.
    pub wal: Wal,
    /// What is replicated.
    pub state: State,
    /// The way to the other nodes.
    pub transport: Arc<dyn Transport>,
}

impl GroupOptions {
    /// The default of `heartbeat`.
    pub const HEARTBEAT: Duration = Duration::from_millis(300);
    /// The default of `election`.
    pub const ELECTION: Range<Duration> = Duration::from_millis(1_500)..Duration::from_millis(3_000);
    /// The default of `log_bytes_max`.
    pub const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;
    /// The default of `log_entries_kept`.
    pub const LOG_ENTRIES_KEPT: u64 = 256;
    /// The default of `snapshot_timeout`.
    pub const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(300);
}

impl GroupOptions {
    /// The settings of openraft.
    pub(super) fn config(&self) -> Result<Config, GroupError> {
        let millis = |duration: Duration| {
            u64::try_from(duration.as_millis()).map_err(|_| GroupError::Options("a time is too long".into()))
        };
        let config = Config {
            cluster_name: format!("group {}", self.id),
            heartbeat_interval: millis(self.heartbeat)?,
            election_timeout_min: millis(self.election.start)?,
            election_timeout_max: millis(self.election.end)?,
            install_snapshot_timeout: millis(self.snapshot_timeout)?,
            // By the bytes of the log: see `monitor`.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: self.log_entries_kept,
            // A member that comes back after a partition or with an old log must not depose a leader that the others hear.
            enable_pre_vote: Some(true),
            // A leader that resumes its term after a power cut would give the ids of lost entries, which followers may hold, to others.
            enable_leader_restore: Some(false),
            // A member that lost its disk comes back under another number.
            allow_log_reversion: Some(false),
            ..Config::default()
        };
        config.validate().map_err(|error| GroupError::Options(error.to_string()))
    }
}
