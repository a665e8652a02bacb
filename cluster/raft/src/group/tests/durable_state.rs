//! A durable state in memory, with a disk that loses what was not checkpointed.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::harness::{Machine, State};
use crate::group::{Checkpoint, Corrupt, DurableState, Refused, SnapshotChunks};

/// What the state is on, across the runs of its node.
#[derive(Default)]
pub(super) struct Disk {
    /// What a power cut leaves.
    pub(super) durable: Image,
    /// What the running node sees.
    pub(super) live: Image,
    /// The indices of the commands that were applied since the last start, in order.
    pub(super) applied: Vec<u64>,
    /// Calls with commands since the last start.
    pub(super) batches: usize,
    pub(super) restores: usize,
    /// Checkpoints bring only what the one before was asked for.
    pub(super) lags: bool,
    /// It takes nothing; a restore is refused once.
    pub(super) is_full: bool,
    /// How often it has taken nothing.
    pub(super) refusals: usize,
    /// The chunk that cannot be read when a snapshot is sent.
    pub(super) unreadable: Option<usize>,
    /// The power fails in the middle of the next restore: before the new state counts, or right after.
    pub(super) crash_in_restore: Option<CrashAt>,
    /// Done before the next restore reads its chunks.
    pub(super) before_restore: Option<Box<dyn FnOnce() + Send>>,
    asked: Image,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CrashAt {
    Before,
    After,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) position: Option<Bytes>,
    pub(super) entries: State,
    /// Every command, with its index.
    pub(super) commands: Vec<(u64, String)>,
}

impl Disk {
    pub(super) fn restart(&mut self) {
        self.live = self.durable.clone();
        self.asked = self.durable.clone();
        (self.applied, self.batches) = (Vec::new(), 0);
    }
}

impl Image {
    /// The index of the position.
    pub(super) fn index(&self) -> Option<u64> {
        let position = crate::group::wire::load_position(self.position.clone()?).expect("a position");
        position.last_log_id.map(|id| id.index())
    }
}

/// The state of one run.
pub(super) struct OnDisk(pub(super) Arc<Mutex<Disk>>);

impl DurableState for OnDisk {
    fn position(&self) -> Option<Bytes> {
        self.0.lock().live.position.clone()
    }

    fn apply(&mut self, commands: &[(u64, Bytes)], position: Bytes) -> Result<Vec<Bytes>, Refused> {
        let disk = &mut *self.0.lock();
        if disk.is_full {
            disk.refusals += 1;
            return Err(Refused::Full);
        }
        disk.batches += usize::from(!commands.is_empty());
        let mut answers = Vec::new();
        for (index, command) in commands {
            let (key, value) = Machine::parse(command)?;
            disk.live.commands.push((*index, format!("{key}={value}")));
            answers.push(disk.live.entries.insert(key, value).unwrap_or_default().into());
            disk.applied.push(*index);
        }
        disk.live.position = Some(position);
        Ok(answers)
    }

    /// Some are, so that both ways are gone.
    fn is_quick(&self, bytes: usize) -> bool {
        bytes % 2 == 1
    }

    fn checkpoint(&mut self) -> Checkpoint {
        let (disk, image) = (Arc::clone(&self.0), self.0.lock().live.clone());
        Box::new(move || {
            let disk = &mut *disk.lock();
            let before = std::mem::replace(&mut disk.asked, image.clone());
            disk.durable = if disk.lags { before } else { image };
            Ok(disk.durable.position.clone())
        })
    }

    fn snapshot(&mut self) -> io::Result<(Bytes, SnapshotChunks)> {
        let disk = self.0.lock();
        let reads = Arc::clone(&self.0);
        let chunks = disk.live.entries.clone().into_iter().enumerate().map(move |(number, (key, value))| {
            if reads.lock().unreadable == Some(number) {
                return Err(io::Error::other("a block of the store is damaged"));
            }
            Ok(format!("{key}={value}").into())
        });
        let position = disk.live.position.clone().ok_or_else(|| io::Error::other("nothing was applied"))?;
        Ok((position, Box::new(chunks)))
    }

    fn restore(
        &mut self,
        position: Bytes,
        chunks: &mut dyn Iterator<Item = io::Result<Bytes>>,
    ) -> Result<(), Refused> {
        if std::mem::take(&mut self.0.lock().is_full) {
            return Err(Refused::Full);
        }
        let (before, crash) = {
            let disk = &mut *self.0.lock();
            (disk.before_restore.take(), disk.crash_in_restore.take())
        };
        if let Some(before) = before {
            before();
        }
        let mut entries = BTreeMap::new();
        for chunk in chunks {
            entries.extend([Machine::parse(&chunk.map_err(|error| Corrupt(error.to_string()))?)?]);
            if crash == Some(CrashAt::Before) {
                return Err(Corrupt("the power has failed".to_owned()).into());
            }
        }
        let disk = &mut *self.0.lock();
        disk.live = Image { position: Some(position), entries, commands: Vec::new() };
        disk.durable = disk.live.clone();
        disk.restores += 1;
        match crash {
            Some(_) => Err(Corrupt("the power has failed".to_owned()).into()),
            None => Ok(()),
        }
    }
}
