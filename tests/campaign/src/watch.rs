//! What must never be seen of a node, whatever is done to it.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    sync::Arc,
};

use crate::{fleet::Cluster, history::Check, world::Books};

/// Reads the logs once, and remembers who led in which term.
pub(crate) struct Watch {
    books: Arc<Books>,
    leaders: BTreeMap<u64, String>,
    /// How far each log was read.
    read: BTreeMap<usize, u64>,
}

impl Watch {
    pub(crate) fn new(books: Arc<Books>) -> Self {
        Self { books, leaders: BTreeMap::new(), read: BTreeMap::new() }
    }

    /// Asks every node whether it leads.
    pub(crate) fn look_at_leaders(&mut self, cluster: &Cluster, nodes: usize) {
        for number in 0..nodes {
            let node = cluster.node(number);
            let Some(status) = node.status() else { continue };
            // What it says of others is hearsay.
            if status.leader.as_ref() != Some(&node.name()) || !status.quorum {
                continue;
            }
            let before = self.leaders.entry(status.term).or_insert_with(|| node.name());
            if *before != node.name() {
                let text = format!("{before} and {} both led term {}", node.name(), status.term);
                self.books.report_now(Check::Leaders, text);
            }
        }
        // Terms only grow.
        while self.leaders.len() > TERMS_KEPT {
            self.leaders.pop_first();
        }
    }

    /// Reads what the nodes have logged since.
    pub(crate) fn read_logs(&mut self, cluster: &Cluster) {
        for (number, node) in cluster.nodes().iter().enumerate() {
            let from = self.read.entry(number).or_default();
            let mut text = Vec::new();
            let read = File::open(node.log_file()).and_then(|mut log| {
                log.seek(SeekFrom::Start(*from))?;
                log.read_to_end(&mut text)
            });
            if read.is_err() {
                continue;
            }
            *from += u64::try_from(text.len()).expect("a log fits");
            let text = String::from_utf8_lossy(&text);
            let bad = text.lines().filter(|line| ALARMS.iter().any(|alarm| line.contains(alarm)));
            for line in bad.take(LINES_SHOWN) {
                self.books.report_now(Check::Process, format!("{}: {line}", node.name()));
            }
        }
    }
}

/// What a right program never says.
const ALARMS: [&str; 4] = [" panicked at ", "telemetry: panic ", "assertion `", "PoisonError"];

const LINES_SHOWN: usize = 5;

const TERMS_KEPT: usize = 1_000;
