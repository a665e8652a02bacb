//! The receiving end of a lane.

use crate::sender::Sequence;

/// What a batch is to its receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// The next one: handle it.
    Fresh,
    /// It was there before: drop it.
    Repeat,
    /// Others before it are missing: the connection is of no use, for there the order is given.
    Gap {
        /// The one that had to come.
        expected: Sequence,
    },
}

/// The receiving end of a lane: what has arrived, and what of it has been taken.
///
/// Batches arrive in order, and may be taken in any: the sender is told how far all have been.
#[derive(Debug, Default)]
pub struct Receiver {
    received: Sequence,
    /// Everything up to this one has been taken.
    taken: Sequence,
    /// What the sender has been told on the present connection.
    acked: Sequence,
    /// Bit n: `taken + 1 + n` has been taken, though one before it has not.
    ahead: u64,
}

/// How many batches can have been received and not taken.
pub(crate) const UNTAKEN_MAX: u64 = u64::BITS as u64;

impl Receiver {
    /// A lane in which nothing has arrived.
    #[must_use]
    pub const fn new() -> Self {
        Self { received: Sequence(0), taken: Sequence(0), acked: Sequence(0), ahead: 0 }
    }

    /// There is a new connection; returns after which batch the sender has to go on.
    ///
    /// It is the last that was received: what is still being handled need not come again.
    pub fn resume_point(&mut self) -> Sequence {
        self.acked = Sequence(0);
        self.received
    }

    /// A batch has arrived. Ask [`Receiver::is_ready`] before reading it.
    pub fn handle_batch(&mut self, sequence: Sequence) -> Arrival {
        if sequence <= self.received {
            return Arrival::Repeat;
        }
        let expected = self.received.next();
        if sequence != expected {
            return Arrival::Gap { expected };
        }
        self.received = expected;
        self.check();
        Arrival::Fresh
    }

    /// Whether another batch may be read: fewer than `untaken_max` wait to be taken. At most 64 can.
    #[must_use]
    pub fn is_ready(&self, untaken_max: u64) -> bool {
        self.received.0 - self.taken.0 < untaken_max.clamp(1, UNTAKEN_MAX)
    }

    /// A batch has been taken.
    ///
    /// # Panics
    /// It has not been received, or was taken before.
    pub fn taken(&mut self, sequence: Sequence) {
        let offset = sequence.0.checked_sub(self.taken.0 + 1).expect("a batch is taken once");
        assert!(sequence <= self.received && offset < UNTAKEN_MAX, "a batch is taken after it was received");
        let bit = 1 << offset;
        assert!(self.ahead & bit == 0, "a batch is taken once");
        self.ahead |= bit;
        let run = self.ahead.trailing_ones();
        self.taken.0 += u64::from(run);
        self.ahead = self.ahead.checked_shr(run).unwrap_or(0);
        self.check();
    }

    /// What the sender has to be told: everything up to this has been taken.
    #[must_use]
    pub fn ack_due(&self) -> Option<Sequence> {
        (self.taken > self.acked).then_some(self.taken)
    }

    /// The sender is being told.
    pub fn handle_acked(&mut self, upto: Sequence) {
        self.acked = self.acked.max(upto);
        self.check();
    }

    /// Holds the fields against each other.
    ///
    /// # Panics
    /// They do not agree.
    pub fn check_invariants(&self) {
        assert!(self.taken <= self.received && self.acked <= self.taken);
        assert!(self.ahead & 1 == 0, "what comes next has not been taken");
        let untaken = self.received.0 - self.taken.0;
        assert!(untaken <= UNTAKEN_MAX && u64::from(u64::BITS - self.ahead.leading_zeros()) <= untaken);
    }

    fn check(&self) {
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
    }
}
