//! What has happened in a run, as one hash: two runs of a seed must have the same.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use xxhash_rust::xxh3::Xxh3;

/// The log of a run. Clones are the same log.
#[derive(Clone)]
pub struct Trace(Arc<Inner>);

struct Inner {
    is_printed: bool,
    now_millis: AtomicU64,
    lines: Mutex<Lines>,
}

struct Lines {
    hash: Xxh3,
    count: u64,
    recent: VecDeque<String>,
}

impl Trace {
    /// An empty log, which prints what it is told or only keeps the last of it.
    pub fn new(is_printed: bool) -> Self {
        let lines = Lines { hash: Xxh3::new(), count: 0, recent: VecDeque::new() };
        Self(Arc::new(Inner { is_printed, now_millis: AtomicU64::new(0), lines: Mutex::new(lines) }))
    }

    /// Sets the virtual time of what is noted from here on.
    pub fn set_now(&self, millis: u64) {
        self.0.now_millis.store(millis, Ordering::Relaxed);
    }

    /// The virtual time, in milliseconds.
    pub fn now(&self) -> u64 {
        self.0.now_millis.load(Ordering::Relaxed)
    }

    /// Notes what has happened.
    pub fn note(&self, what: fmt::Arguments<'_>) {
        let line = format!("{:>6} {what}", self.now());
        if self.0.is_printed {
            println!("{line}");
        }
        let mut lines = self.0.lines.lock();
        lines.hash.update(line.as_bytes());
        lines.count += 1;
        if lines.recent.len() == RECENT_MAX {
            lines.recent.pop_front();
        }
        lines.recent.push_back(line);
    }

    /// The hash of everything that was noted, and how much it was.
    pub fn digest(&self) -> (u64, u64) {
        let lines = self.0.lines.lock();
        (lines.hash.digest(), lines.count)
    }

    /// What was noted last, for who has to find out what went wrong.
    pub fn recent(&self) -> Vec<String> {
        self.0.lines.lock().recent.iter().cloned().collect()
    }
}

const RECENT_MAX: usize = 60;
