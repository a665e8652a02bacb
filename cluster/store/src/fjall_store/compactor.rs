//! When a store is compacted.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::Engine;
use crate::StoreError;

/// The thread that compacts after many removals; where nothing else is to be done, after fewer.
pub(super) struct Compactor {
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Compactor {
    pub(super) fn start(engine: Arc<Engine>) -> io::Result<Self> {
        let (wake, woken) = sync_channel(1);
        let thread = thread::Builder::new().name("store-compactor".to_owned()).spawn(move || {
            let mut seen = 0;
            loop {
                let part = match woken.recv_timeout(LOOK) {
                    Ok(()) => PART_REMOVED,
                    Err(RecvTimeoutError::Timeout) => {
                        let sequence = *engine.sequence.lock();
                        if sequence > std::mem::replace(&mut seen, sequence) + BATCHES_AT_REST {
                            continue;
                        }
                        PART_REMOVED_AT_REST
                    }
                    Err(RecvTimeoutError::Disconnected) => return,
                };
                // Another may have been due and done since.
                if !engine.compaction_is_due(part) {
                    continue;
                }
                match engine.compact() {
                    Ok(()) => {}
                    // There may be room after the next removals.
                    Err(error @ StoreError::Full { .. }) => {
                        tracing::warn!(%error, dir = %engine.dir.display(), "the store is not compacted");
                    }
                    Err(error) => tracing::error!(%error, dir = %engine.dir.display(), "a compaction failed"),
                }
            }
        })?;
        Ok(Self { wake: Some(wake), thread: Some(thread) })
    }

    pub(super) fn wake(&self) {
        // Where it is full, the thread has yet to begin.
        let _ = self.wake.as_ref().map(|wake| wake.try_send(()));
    }
}

impl Drop for Compactor {
    fn drop(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            // Where it panicked, there is nothing to wait for.
            let _ = thread.join();
        }
    }
}

/// A compaction is due when one row of so many was removed, and when the store is at rest.
pub(super) const PART_REMOVED: u64 = 3;
pub(super) const PART_REMOVED_AT_REST: u64 = 16;

/// A store at rest gets no more batches between two looks.
const LOOK: Duration = Duration::from_secs(30);
const BATCHES_AT_REST: u64 = 64;
