//! The sending end of a lane.

use std::{collections::VecDeque, fmt};

use bytes::Bytes;

use crate::batch::{Batch, Growing};

/// The number of a batch in its lane. The first is 1; 0 stands for "none yet".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sequence(pub u64);

/// How much may be on its way without having been taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// In batches; at least one.
    pub batches: usize,
    /// In bytes, as [`Batch::cost`] counts them. A single batch may be larger.
    pub bytes: usize,
}

/// The sending end of a lane: keeps each batch until it has been taken, and sends it again where a connection broke.
///
/// While a batch waits for its turn, others that come join it until it is full: the busier the lane, the larger its batches.
///
/// `T` is what the owner wants back for what was taken: whom to tell.
#[derive(Debug)]
pub struct Sender<T> {
    /// What has not been taken, oldest first. The first `sent` of them are on their way.
    batches: VecDeque<(Growing, Vec<T>)>,
    /// The last batch that was taken.
    taken: Sequence,
    /// The last batch that was ever sent. Up to it, nothing can be changed any more: the peer may have it.
    fixed: Sequence,
    sent: usize,
    /// The sum of [`Batch::cost`] of those on their way, and of all.
    sent_bytes: usize,
    queued_bytes: usize,
    window: Window,
    is_connected: bool,
}

/// The peer says something that cannot be: it has forgotten or invented something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// It wants to go on before what it had taken.
    #[error("the peer wants to resume after batch {0} and had taken batch {1}")]
    Forgotten(Sequence, Sequence),
    /// It has what was not sent.
    #[error("the peer speaks of batch {0}, and {1} is the last that was sent")]
    Invented(Sequence, Sequence),
}

impl Sequence {
    /// The number of the next batch.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl Default for Window {
    fn default() -> Self {
        Self { batches: 64, bytes: 1 << 20 }
    }
}

impl<T> Sender<T> {
    /// A lane that nothing was sent in; not connected.
    #[must_use]
    pub const fn new(window: Window) -> Self {
        Self {
            batches: VecDeque::new(),
            taken: Sequence(0),
            fixed: Sequence(0),
            sent: 0,
            sent_bytes: 0,
            queued_bytes: 0,
            window,
            is_connected: false,
        }
    }

    /// Appends a batch; returns its number, which is that of the batch before it if it has joined that one. `done` comes back
    /// when the batch was taken.
    pub fn enqueue(&mut self, batch: Batch, done: impl IntoIterator<Item = T>) -> Sequence {
        let is_fixed = self.last() == self.fixed;
        let joined = self.batches.back_mut().filter(|(last, _)| !is_fixed && last.has_room_for(&batch));
        if let Some((last, last_done)) = joined {
            let before = last.cost();
            last.append(&batch);
            last_done.extend(done);
            self.queued_bytes += last.cost() - before;
        } else {
            self.queued_bytes += batch.cost();
            self.batches.push_back((batch.into(), done.into_iter().collect()));
        }
        self.check();
        self.last()
    }

    /// There is a connection, and the peer has received everything up to `resume_after`, if not taken it.
    ///
    /// # Errors
    /// That cannot be; the lane is not connected.
    pub fn handle_connected(&mut self, resume_after: Sequence) -> Result<(), ProtocolError> {
        self.handle_disconnected();
        if resume_after > self.fixed {
            return Err(ProtocolError::Invented(resume_after, self.fixed));
        }
        let received = self.position(resume_after)?;
        self.sent = received;
        self.sent_bytes = self.batches.iter().take(received).map(|(batch, _)| batch.cost()).sum();
        self.is_connected = true;
        self.check();
        Ok(())
    }

    /// The connection is gone.
    pub fn handle_disconnected(&mut self) {
        self.is_connected = false;
        (self.sent, self.sent_bytes) = (0, 0);
        self.check();
    }

    /// The next batch to send now, if the window has room for it.
    pub fn poll_transmit(&mut self) -> Option<(Sequence, Bytes)> {
        let is_open =
            self.sent < self.window.batches.max(1) && (self.sent_bytes < self.window.bytes || self.sent == 0);
        if !self.is_connected || !is_open {
            return None;
        }
        let (batch, _) = self.batches.get_mut(self.sent)?;
        let bytes = batch.fix().bytes().clone();
        self.sent += 1;
        self.sent_bytes += batch.cost();
        let sequence = Sequence(self.taken.0 + self.sent as u64);
        self.fixed = self.fixed.max(sequence);
        self.check();
        Some((sequence, bytes))
    }

    /// The peer has taken everything up to `upto`; appends what belongs to the batches for which that is news to `done`,
    /// oldest first, and returns what they cost.
    ///
    /// # Errors
    /// It was not sent on this connection.
    pub fn handle_ack(&mut self, upto: Sequence, done: &mut impl Extend<T>) -> Result<usize, ProtocolError> {
        if upto <= self.taken {
            return Ok(0);
        }
        let count = self.position(upto)?;
        if count > self.sent {
            return Err(ProtocolError::Invented(upto, Sequence(self.taken.0 + self.sent as u64)));
        }
        let bytes = self.batches.iter().take(count).map(|(batch, _)| batch.cost()).sum();
        done.extend(self.batches.drain(..count).flat_map(|(_, done)| done));
        self.taken = upto;
        self.sent -= count;
        self.sent_bytes -= bytes;
        self.queued_bytes -= bytes;
        self.check();
        Ok(bytes)
    }

    /// The number of the last batch that was enqueued.
    #[must_use]
    pub fn last(&self) -> Sequence {
        Sequence(self.taken.0 + self.batches.len() as u64)
    }

    /// What all batches that were not taken cost.
    #[must_use]
    pub const fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Whether everything was taken.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.batches.is_empty()
    }

    /// The end of the lane: what was not taken, oldest first. The peer may have taken some of it all the same.
    pub fn into_untaken(self) -> impl Iterator<Item = (Batch, Vec<T>)> {
        self.batches.into_iter().map(|(batch, done)| (batch.into_batch(), done))
    }

    /// Holds the fields against each other.
    ///
    /// # Panics
    /// They do not agree.
    pub fn check_invariants(&self) {
        assert!(self.sent <= self.batches.len());
        let sent = Sequence(self.taken.0 + self.sent as u64);
        assert!(self.taken <= self.fixed && sent <= self.fixed && self.fixed <= self.last());
        assert!(self.is_connected || self.sent == 0);
        let bytes =
            |count: usize| self.batches.iter().take(count).map(|(batch, _)| batch.cost()).sum::<usize>();
        assert_eq!(self.sent_bytes, bytes(self.sent), "bytes on their way");
        assert_eq!(self.queued_bytes, bytes(usize::MAX), "bytes in the queue");
    }

    /// How many of the batches have numbers up to `sequence`.
    fn position(&self, sequence: Sequence) -> Result<usize, ProtocolError> {
        let count = sequence.0.checked_sub(self.taken.0);
        let count = count.ok_or(ProtocolError::Forgotten(sequence, self.taken))?;
        usize::try_from(count)
            .ok()
            .filter(|count| *count <= self.batches.len())
            .ok_or(ProtocolError::Invented(sequence, self.last()))
    }

    fn check(&self) {
        if cfg!(debug_assertions) && self.batches.len() <= COUNTED_MAX {
            self.check_invariants();
        }
    }
}

/// Longer queues are not counted through after each change: a debug build would do little else.
const COUNTED_MAX: usize = 64;
