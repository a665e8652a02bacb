//! What keeps a node alive when more comes than it can hold.
//!
//! * **Memory.** One task looks at what the process has resident, several times a second, and tells the workers when that passes a
//!   mark: nothing is measured where messages pass. Above `overload.memory_high` a client is not read any more once it has
//!   published (`Worker::must_pause`), and a CONNECT is refused. Who only subscribes and acknowledges goes on: that is
//!   what frees memory. Above `overload.memory_critical` sockets are closed as soon as they come, QoS 0 does not wait for a
//!   client that does not read, and the connections with the most waiting for them are closed.
//! * **Connections.** The acceptors take them at a rate (`listeners.<name>.connect_rate_max`, [`TokenBucket`]), a few in a turn, and
//!   wait while too many have not been let in yet (`listeners.<name>.connecting_max`). The others wait in the system's backlog.
//!
//! What comes from the other nodes of a cluster is taken in all the same, for their messages share the lanes with the words that
//! keep the cluster together: it ends in the queues of sessions, which are bounded.

mod bucket;
mod gauge;

pub(crate) use bucket::TokenBucket;
pub(crate) use gauge::Level;

use std::{
    fs::File,
    future::pending,
    io,
    os::unix::fs::FileExt,
    rc::Rc,
    str,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use flotilla_mqtt::Timestamp;
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::{MissedTickBehavior, interval},
};

use self::gauge::{Gauge, Shedding};
use crate::{
    node::Node,
    worker::{Event, WorkerCell},
};

/// What was seen last, for those who ask.
#[derive(Debug, Default)]
pub(crate) struct Overload {
    resident: AtomicU64,
    level: AtomicU8,
}

/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How often freed memory is given back to the system while memory is short, and while it is nearly.
const TRIM_SHORT: Duration = Duration::from_secs(1);
const TRIM_NEAR: Duration = Duration::from_secs(10);

impl Overload {
    /// Resident memory of this process in bytes; 0: not known.
    pub(crate) fn resident(&self) -> u64 {
        self.resident.load(Ordering::Relaxed)
    }

    /// How short memory is.
    pub(crate) fn level(&self) -> Level {
        [Level::Normal, Level::High, Level::Critical][usize::from(self.level.load(Ordering::Relaxed))]
    }
}

/// Looks at the memory of this process for ever, and tells the workers how short it is.
pub(crate) async fn watch(cell: Rc<WorkerCell>) {
    let node = cell.with(|worker| Arc::clone(worker.node()));
    if let Err(error) = look_on(&cell, &node).await {
        let overload = &node.config.overload;
        if overload.memory_high.is_some() || overload.memory_critical.is_some() {
            tracing::warn!(%error, "the memory of this process cannot be read here: nothing is done when it becomes short");
        }
        change(&cell, &node, Level::Normal);
        pending::<()>().await;
    }
}

/// # Errors
/// The system does not tell.
async fn look_on(cell: &WorkerCell, node: &Node) -> io::Result<()> {
    let statm = File::open("/proc/self/statm")?;
    let mut gauge = Gauge::new(node.config.overload);
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut shedding = Shedding::default();
    let mut trimming: Option<(Timestamp, JoinHandle<()>)> = None;
    loop {
        ticks.tick().await;
        let resident = resident(&statm)?;
        node.overload.resident.store(resident, Ordering::Relaxed);
        let before = node.overload.level();
        let now = node.clock.now();
        let level = gauge.update(now, resident);
        if level != before {
            change(cell, node, level);
            tell(level, before, resident, gauge.mark(level.max(before)));
            shedding = Shedding::default();
        }
        let pause = if level == Level::Normal { TRIM_NEAR } else { TRIM_SHORT };
        let may_trim =
            trimming.as_ref().is_none_or(|(at, task)| task.is_finished() && now.since(*at) >= pause);
        if gauge.is_near(resident) && may_trim {
            // Beside the worker, which serves clients meanwhile. With much memory it takes longer than the pause.
            trimming = Some((now, spawn_blocking(flotilla_heap::trim)));
        }
        if level == Level::Critical && shedding.is_due(now, resident) {
            shed(node, resident.saturating_sub(gauge.mark(level).unwrap_or(u64::MAX)));
        }
    }
}

/// Resident memory in bytes.
fn resident(statm: &File) -> io::Result<u64> {
    let mut text = [0; 128];
    let len = statm.read_at(&mut text, 0)?;
    let pages = str::from_utf8(&text[..len]).ok().and_then(resident_pages);
    let pages = pages.ok_or_else(|| io::Error::other("statm has another form"))?;
    Ok(pages * rustix::param::page_size() as u64)
}

/// The second number of `statm`.
fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn change(cell: &WorkerCell, node: &Node, level: Level) {
    let before = node.overload.level();
    if level > before {
        cell.with(|worker| worker.count_level(level));
    }
    node.overload.level.store(level as u8, Ordering::Relaxed);
    for mailbox in &node.mailboxes {
        mailbox.send(Event::Memory(level));
    }
}

/// Each worker closes connections for which much waits: its share of so many bytes.
fn shed(node: &Node, excess: u64) {
    let share = usize::try_from(excess / node.mailboxes.len() as u64).unwrap_or(usize::MAX).max(1);
    for mailbox in &node.mailboxes {
        mailbox.send(Event::Shed(share));
    }
}

fn tell(level: Level, before: Level, resident: u64, mark: Option<u64>) {
    match level {
        Level::Normal => {
            tracing::info!(resident, "memory suffices again: publishers are read, and clients may connect");
        }
        Level::High if before == Level::Normal => tracing::warn!(
            resident,
            mark,
            "memory is above overload.memory_high: who publishes is not read any more and new connections are refused, until a tenth \
             less is used; let clients fetch what waits for them, give this node more memory, or spread its clients over more nodes"
        ),
        Level::High => {
            tracing::warn!(
                resident,
                mark,
                "memory is below overload.memory_critical again, and still above memory_high"
            );
        }
        Level::Critical => tracing::error!(
            resident,
            mark,
            "memory is above overload.memory_critical: connections are closed as they come, and so are those for which most waits; \
             give this node more memory, or spread its clients over more nodes"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_the_second_number() {
        assert_eq!(resident_pages("120519 5093 1234 10 0 9000 0\n"), Some(5_093));
        assert_eq!(resident_pages("120519"), None);
        assert_eq!(resident_pages("120519 x"), None);
    }

    #[test]
    fn this_process_has_some() {
        let Ok(statm) = File::open("/proc/self/statm") else { return };
        let before = resident(&statm).expect("it is Linux");
        let more = vec![1_u8; 64 << 20];
        let grown = resident(&statm).expect("it was read before").saturating_sub(before);
        assert!(grown > 32 << 20, "{grown} more for {}", more.len());
    }
}
