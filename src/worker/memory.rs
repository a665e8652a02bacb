//! What a worker does when memory is short.

use flotilla_mqtt::session::Cause;

use super::{Worker, sessions::Entry};
use crate::overload::Level;

/// Whoever has less waiting is not closed for it: that frees too little.
const SHED_FROM: usize = 64 << 10;

impl Worker {
    /// Memory is as short as that from now on.
    pub(super) fn set_memory(&mut self, level: Level) {
        self.memory = level;
        if level < Level::High {
            self.end_congestion();
        }
    }

    /// Counts how often memory came above a mark.
    pub(crate) fn count_level(&self, level: Level) {
        match level {
            Level::Normal => {}
            Level::High => self.metrics().memory_high.increment(),
            Level::Critical => self.metrics().memory_critical.increment(),
        }
    }

    /// Whether sockets are closed as they come; counts one that is.
    pub(crate) fn refuses_sockets(&self) -> bool {
        let refuses = self.memory == Level::Critical;
        if refuses {
            self.metrics().sockets_refused_memory.increment();
        }
        refuses
    }

    /// Accepting waits for the limits of a listener.
    pub(crate) fn note_delayed_accept(&self) {
        self.metrics().sockets_delayed.increment();
    }

    /// Closes the connections for which most waits, until so many bytes are free or none has much.
    pub(super) fn shed(&mut self, bytes: usize) {
        let occupied: Vec<u32> = self.sessions.occupied().collect();
        let mut large: Vec<(usize, u32)> = occupied
            .into_iter()
            .filter_map(|slot| Some((waiting(self.sessions.entry(slot)?), slot)))
            .collect();
        large.retain(|(waiting, _)| *waiting >= SHED_FROM);
        large.sort_unstable_by(|one, other| other.cmp(one));
        let (mut freed, mut closed) = (0, 0_u32);
        for (waiting, slot) in large {
            if freed >= bytes {
                break;
            }
            freed += waiting;
            closed += 1;
            // Not one word more: it would wait behind the rest.
            self.guard(slot, |worker| worker.end_link(slot, Cause::ConnectionLost));
        }
        if closed > 0 {
            self.metrics().client_closed_memory.add(closed.into());
            tracing::warn!(
                closed,
                bytes = freed,
                "memory is short, closed the connections for which most waited"
            );
        }
    }
}

/// Bytes that wait for a client here.
fn waiting(entry: &Entry) -> usize {
    entry.link.out.len() + entry.session.queue_bytes()
}
