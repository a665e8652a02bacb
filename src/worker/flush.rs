//! Writing to the sockets, and handing over to the other workers, once per turn of the loop.

use std::{future::poll_fn, rc::Rc, task::Poll};

use flotilla_mqtt::{codec::Storage, session::Cause};

use super::{Event, Worker, WorkerCell, mailbox::Batch, sessions::Entry};

/// Storage of send buffers and batches that have been written, for the next ones; a few MiB at most.
#[derive(Debug, Default)]
pub(super) struct SparePool {
    buffers: Vec<Storage>,
    /// The capacity of all of them.
    buffer_bytes: usize,
    batches: Vec<Batch>,
}

impl SparePool {
    /// Larger storage is given back to the allocator.
    const BUFFER_MAX: usize = 32 << 10;
    const BUFFER_BYTES: usize = 4 << 20;
    const BUFFERS: usize = 4_096;
    const BATCH_MAX: usize = 256 << 10;
    const BATCHES: usize = 16;

    pub(super) fn take(&mut self) -> Storage {
        let buffer = self.buffers.pop().unwrap_or_default();
        self.buffer_bytes -= buffer.capacity();
        buffer
    }

    pub(super) fn give(&mut self, buffer: Storage) {
        let capacity = buffer.capacity();
        let has_room =
            self.buffers.len() < Self::BUFFERS && self.buffer_bytes + capacity <= Self::BUFFER_BYTES;
        if capacity <= Self::BUFFER_MAX && has_room {
            self.buffer_bytes += capacity;
            self.buffers.push(buffer);
        }
    }

    pub(super) fn give_batch(&mut self, mut batch: Batch) {
        batch.clear();
        if self.batches.len() < Self::BATCHES && (1..=Self::BATCH_MAX).contains(&batch.capacity()) {
            self.batches.push(batch);
        }
    }
}

/// The flusher. It is woken by the first message of a turn and so runs after every connection that was ready before.
pub(super) async fn flush_each_turn(cell: Rc<WorkerCell>) {
    poll_fn(|cx| {
        let mut worker = cell.worker.borrow_mut();
        worker.tick();
        worker.flush_all();
        if worker.dirty.is_empty()
            && worker.outbound.iter().all(Batch::is_empty)
            && worker.outgoing_is_empty()
        {
            worker.flusher = Some(cx.waker().clone());
        } else {
            // Queues moved on, or a will was published, while buffers were written: let others read in between.
            cx.waker().wake_by_ref();
        }
        Poll::<()>::Pending
    })
    .await;
}

/// Writes what the flusher has not come to. It runs behind all who are ready, and when thousands are, that takes long: a message would
/// wait for them at each step of its way. To be polled more often than tasks are, and woken by nobody.
pub(super) async fn flush_what_is_late(cell: Rc<WorkerCell>) {
    poll_fn(|_| {
        let mut worker = cell.worker.borrow_mut();
        if worker.flusher.is_none() {
            worker.tick();
            if worker.now > worker.flush_due {
                worker.flush_due = worker.now;
                worker.flush_all();
            }
        }
        Poll::<()>::Pending
    })
    .await;
}

impl Worker {
    /// Puts a session on the flusher's list.
    pub(super) fn mark_dirty(&mut self, slot: u32) {
        let Some(Entry { link, .. }) = self.sessions.entry(slot) else { return };
        if !link.is_dirty {
            link.is_dirty = true;
            self.dirty.push(slot);
            self.wake_flusher();
        }
    }

    pub(super) fn wake_flusher(&mut self) {
        if let Some(flusher) = self.flusher.take() {
            self.flush_due = self.now;
            flusher.wake();
        }
    }

    fn flush_all(&mut self) {
        // First to others: who sees an acknowledgement may rely on it that they have the message.
        self.hand_over();
        let mut dirty = std::mem::take(&mut self.dirty);
        for slot in dirty.drain(..) {
            self.guard(slot, |worker| worker.flush(slot));
        }
        if self.dirty.is_empty() {
            self.dirty = dirty; // keeps its storage
        }
    }

    /// Hands shards, other nodes and the other workers the messages for them. Shards first: who has got a message on this node may rely on
    /// it that a look-up finds it retained, unless their disks are short of space.
    pub(super) fn hand_over(&mut self) {
        self.hand_over_to_nodes();
        for worker in 0..self.outbound.len() {
            if !self.outbound[worker].is_empty() {
                let fresh = self.spare.batches.pop().unwrap_or_default();
                let batch = std::mem::replace(&mut self.outbound[worker], fresh);
                self.node.mailboxes[worker].send(Event::Batch(batch));
            }
        }
    }

    /// Writes what a session's connection has; ends the connection if that fails.
    pub(super) fn flush(&mut self, slot: u32) {
        let now = self.now;
        let output_max = self.node.limits.output_buffer_max;
        let Some(Entry { link, .. }) = self.sessions.entry(slot) else { return };
        link.is_dirty = false;
        let tally = link.out.take_tally();
        let was_blocked = link.blocked_since.is_some();
        let was_full = link.out.len() >= output_max;
        let written = match link.write() {
            Ok(written) => written,
            Err(error) => {
                tracing::debug!(peer = %link.peer.addr, %error, "write failed");
                self.end_link(slot, Cause::ConnectionLost);
                return;
            }
        };
        if was_full && link.out.len() < output_max {
            // It may have stopped reading because its client did not.
            link.wake();
        }
        if link.out.is_empty() {
            link.blocked_since = None;
            if let Some(storage) = link.out.take_storage() {
                self.spare.give(storage);
            }
        } else {
            if written > 0 || !was_blocked {
                link.blocked_since = Some(now);
            }
            if !was_blocked {
                // The task must wait for the socket to take more.
                link.wake();
                self.remind(slot);
            }
        }
        let metrics = self.metrics();
        metrics.bytes_sent.add(written as u64);
        metrics.tally(&tally);
        if written > 0 {
            self.go_on_sending(slot);
        }
    }

    /// Takes back the storage that was lent to a connection which had nothing to write into it.
    pub(super) fn take_back_storage(&mut self, slot: u32) {
        let Some(Entry { link, .. }) = self.sessions.entry(slot) else { return };
        if link.out.is_empty()
            && let Some(storage) = link.out.take_storage()
        {
            self.spare.give(storage);
        }
    }

    /// Sends from the queue, and further retained messages, when the send buffer has room again.
    pub(super) fn go_on_sending(&mut self, slot: u32) {
        let now = self.now;
        let Some(entry) = self.sessions.entry(slot) else { return };
        let link = &mut entry.link;
        if entry.session.queue_len() + entry.session.kept_waiting_len() > 0 {
            if !link.out.has_storage() && link.out.is_empty() {
                link.out.lend_storage(self.spare.take());
            }
            entry.session.pump(now, &mut link.out);
            self.note_progress(slot);
        }
        self.replay(slot);
    }
}

#[cfg(test)]
mod tests {
    use flotilla_mqtt::{QoS, Transit};

    use super::*;
    use crate::{
        config::{Overlap, SharedStrategy},
        router::Router,
    };

    /// A batch with this many messages of 1,000 bytes.
    fn batch(messages: usize) -> Batch {
        let router = Router::new(1, Overlap::Merge, SharedStrategy::RoundRobin);
        let matches = std::sync::Arc::new(router.matches("t"));
        let message = Transit::new("t", &[], &[0; 1_000], QoS::AtMostOnce, false, None, None, None);
        let mut batch = Batch::default();
        for _ in 0..messages {
            batch.push_matched(&message, None, &matches);
        }
        batch
    }

    #[test]
    fn the_storage_of_a_burst_is_not_kept() {
        let mut pool = SparePool::default();
        pool.give_batch(batch(10));
        pool.give_batch(batch(1_000));
        assert_eq!(pool.batches.len(), 1);
        assert!(pool.batches[0].is_empty());
        assert!(pool.batches[0].capacity() < SparePool::BATCH_MAX);
    }
}
