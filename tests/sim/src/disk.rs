//! The disk of a node, which outlives its process.

use std::{path::Path, sync::Arc};

use flotilla_kv::MemoryKv;
use flotilla_raft::meta::{MetaError, Storage};
use flotilla_wal::{Flushing, MemoryFiles, WalOptions};

/// A disk in memory. What was not flushed is lost when the power fails.
#[derive(Default)]
pub struct Disk {
    files: MemoryFiles,
    kv: MemoryKv,
    is_failing: bool,
}

impl Disk {
    /// Opens the disk for a process. Its log is flushed by whoever calls `Wal::flush`.
    pub fn open(&self, name: &str) -> Result<Storage, MetaError> {
        let wal =
            WalOptions { segment_bytes: SEGMENT_BYTES, flushing: Flushing::OnCall, ..WalOptions::default() };
        let (kv, files) = (Arc::new(self.kv.clone()), Arc::new(self.files.clone()));
        Storage::open_in(kv, files, Path::new("/"), name, crate::node::CLUSTER_NAME, wal)
    }

    /// The power fails: of each write that was not flushed, the part that `survives` is kept.
    pub fn lose_power(&mut self, survives: impl FnMut(usize) -> std::ops::Range<usize>) {
        self.files = self.files.crash(survives);
        self.kv.reopen();
        self.is_failing = false;
    }

    /// From the `n`-th operation from now on, all fail.
    pub fn fail_at(&mut self, n: u64) {
        self.files.stop_at_operation(n);
        self.is_failing = true;
    }

    /// Whether it does.
    pub fn is_failing(&self) -> bool {
        self.is_failing
    }
}

const SEGMENT_BYTES: u32 = 64 * 1024;
