//! What the threads and whoever started them know of each other.

use std::{
    sync::atomic::{
        AtomicU8, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
    time::Duration,
};

use mio::Waker;

use crate::bench::{
    clock::{Clock, nanoseconds},
    plan::Owner,
    tally::{Period, Progress},
};

/// What everybody is to do. Comes in this order, and parts may be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(in crate::bench) enum Phase {
    Connect,
    Subscribe,
    Send,
    Leave,
}

/// Orders for the threads, and how far they are.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) clock: Clock,
    phase: AtomicU8,
    /// When sending begins.
    pub(super) start: AtomicU64,
    from: AtomicU64,
    until: AtomicU64,
    progress: [AtomicU64; Progress::FIELDS],
    /// Arrivals of each flow.
    pub(super) delivered: Vec<AtomicU64>,
    pub(super) owners: Vec<Option<Owner>>,
    /// How often a message should arrive.
    pub(super) fan: u64,
    /// Of each thread.
    pub(super) wakers: Vec<Waker>,
}

impl Shared {
    pub(super) fn new(clock: Clock, owners: Vec<Option<Owner>>, fan: u64, wakers: Vec<Waker>) -> Self {
        Self {
            clock,
            phase: AtomicU8::new(Phase::Connect as u8),
            start: AtomicU64::new(0),
            from: AtomicU64::new(0),
            until: AtomicU64::new(u64::MAX),
            progress: std::array::from_fn(|_| AtomicU64::new(0)),
            delivered: owners.iter().map(|_| AtomicU64::new(0)).collect(),
            owners,
            fan,
            wakers,
        }
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Acquire) {
            0 => Phase::Connect,
            1 => Phase::Subscribe,
            2 => Phase::Send,
            _ => Phase::Leave,
        }
    }

    /// Tells all threads. What they need for it was stored before.
    pub(super) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Release);
        // A thread that cannot be woken looks within a second.
        self.wakers.iter().for_each(|waker| drop(waker.wake()));
    }

    pub(super) fn period(&self) -> Period {
        Period { from: self.from.load(Relaxed), until: self.until.load(Relaxed) }
    }

    /// Sending begins now, and what is meant for the time after `warm_up` is measured.
    pub(super) fn begin_period(&self, warm_up: Duration, time: Option<Duration>) -> Period {
        let start = self.clock.now();
        let from = start.saturating_add(nanoseconds(warm_up));
        let until = time.map_or(u64::MAX, |time| from.saturating_add(nanoseconds(time)));
        self.start.store(start, Relaxed);
        self.from.store(from, Relaxed);
        self.until.store(until, Relaxed);
        Period { from, until }
    }

    /// The period ends now, unless it has.
    pub(super) fn end_period(&self) {
        self.until.fetch_min(self.clock.now(), Relaxed);
    }

    pub(super) fn progress(&self) -> Progress {
        Progress::from_array(std::array::from_fn(|index| self.progress[index].load(Relaxed)))
    }

    /// Adds what a thread has done since it last said so.
    pub(super) fn report(&self, before: &Progress, now: &Progress) {
        let fields = before.to_array().into_iter().zip(now.to_array()).zip(&self.progress);
        for ((before, now), total) in fields.filter(|((before, now), _)| before != now) {
            total.fetch_add(now - before, Relaxed);
        }
    }
}
