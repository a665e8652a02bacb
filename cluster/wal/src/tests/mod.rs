//! The log as its callers see it, over both kinds of files and through crashes.

mod damage;
mod failure;
mod files;
mod forget;
mod full;
mod interval;
mod log;
mod random;
mod segments;

use std::{
    collections::BTreeMap,
    fmt, io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use proptest::{collection::vec, prelude::*};

use crate::{
    DirectoryLock, DiskFiles, File, Files, Flushing, GroupState, MemoryFiles, Record, Sync, Wal, WalError,
    WalOptions,
};

const EVERYTHING: Range<u64> = 0..u64::MAX;

fn options(segment_bytes: u32) -> WalOptions {
    WalOptions { segment_bytes, flushing: Flushing::InSubmit, ..WalOptions::default() }
}

fn dir() -> PathBuf {
    PathBuf::from("wal")
}

fn open(files: &MemoryFiles, options: &WalOptions) -> Wal {
    Wal::open(&dir(), options.clone(), Arc::new(files.clone())).unwrap()
}

fn entry(group: u64, index: u64, bytes: impl Into<Bytes>) -> Record {
    Record::Entry { group, index, bytes: bytes.into() }
}

fn vote(group: u64, bytes: &'static [u8]) -> Record {
    Record::Vote { group, bytes: Bytes::from_static(bytes) }
}

fn purged(group: u64, index: u64) -> Record {
    Record::Purged { group, index, bytes: Bytes::from(format!("id {index}")) }
}

/// Submits, and waits for what `done` is told.
fn submit(wal: &Wal, records: Vec<Record>) -> io::Result<()> {
    let (sender, receiver) = mpsc::channel();
    wal.submit(records, move |result| sender.send(result).unwrap());
    receiver.recv_timeout(Duration::from_secs(20)).expect("done is called")
}

fn indexes(wal: &Wal, group: u64) -> Vec<u64> {
    wal.entries(group, EVERYTHING, usize::MAX).unwrap().into_iter().map(|entry| entry.0).collect()
}

/// What a log has to have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Model(BTreeMap<u64, (GroupState, BTreeMap<u64, Bytes>)>);

impl Model {
    fn apply(&mut self, record: &Record) {
        if let Record::Forgotten { group } = record {
            self.0.remove(group);
            return;
        }
        let (state, entries) = self.0.entry(record.group()).or_default();
        match record {
            Record::Vote { bytes, .. } => state.vote = Some(bytes.clone()),
            Record::Meta { key, bytes, .. } => {
                state.meta.insert(*key, bytes.clone());
            }
            Record::Entry { index, bytes, .. } => {
                entries.insert(*index, bytes.clone());
            }
            Record::TruncateFrom { index, .. } => {
                entries.split_off(index);
            }
            Record::Forgotten { .. } => {}
            Record::Purged { index, bytes, .. } => {
                if state.purged.as_ref().is_none_or(|purged| purged.0 < *index) {
                    *entries = entries.split_off(&(index + 1));
                    state.purged = Some((*index, bytes.clone()));
                }
            }
        }
        state.first_index = entries.first_key_value().map(|first| *first.0);
        state.last = entries.last_key_value().map(|last| (*last.0, last.1.clone()));
    }

    fn of(wal: &Wal) -> Self {
        let group = |group| {
            let entries = wal.entries(group, EVERYTHING, usize::MAX).unwrap().into_iter().collect();
            (group, (wal.group(group), entries))
        };
        Self(wal.groups().into_iter().map(group).collect())
    }

    /// Without groups that have nothing.
    fn normal(mut self) -> Self {
        self.0.retain(|_, group| *group != Default::default());
        self
    }

    fn next_index(&self, group: u64) -> u64 {
        let Some((state, _)) = self.0.get(&group) else { return 0 };
        state.last.as_ref().or(state.purged.as_ref()).map_or(0, |end| end.0 + 1)
    }
}
