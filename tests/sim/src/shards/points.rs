//! Places where the power of a node may fail, chosen by the seed: between two steps that must not come apart.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::replica::Replicated;
use crate::node::{Node, Process};

/// Where the power may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// A PUBLISH of QoS 2 has its number, and is not in any shard.
    Received,
    /// It is in all of them, and PUBREC was not sent.
    Stored,
    /// PUBREC was sent.
    RecSent,
    /// PUBREL came, and the shard does not know.
    RelCame,
    /// The identifier is free, and PUBCOMP was not sent.
    Freed,
    /// PUBCOMP was sent.
    CompSent,
    /// A PUBLISH of QoS 2 was sent to a subscriber.
    Delivered,
    /// Its PUBREC came, and the shard does not know.
    RecCame,
    /// The shard knows, and PUBREL was not sent.
    RelDue,
    /// PUBREL was sent.
    RelSent,
    /// PUBCOMP came, and the shard does not know.
    CompCame,
    /// A leader has given an entry to its group.
    Proposed,
    /// The entry is applied, and nobody was answered.
    Applied,
    /// A checkpoint is being made: with one of the next writes of the store.
    Checkpoint,
    /// The log was cut.
    Purged,
    /// A snapshot is about to be sent.
    SnapshotSent,
    /// A snapshot is being installed: with one of the next writes of the store.
    Install,
    /// A member without a vote was added.
    LearnerAdded,
    /// The voters are about to be changed.
    VotersChanging,
    /// They were changed.
    VotersChanged,
    /// A member was taken out.
    LearnerRemoved,
    /// The cluster is about to be told of the members.
    Telling,
    /// A replica is being taken away: with one of the next writes of the store.
    Removing,
    /// Its state is gone, and its log is not.
    Erased,
}

/// All of them.
const POINTS: [Point; 24] = [
    Point::Received,
    Point::Stored,
    Point::RecSent,
    Point::RelCame,
    Point::Freed,
    Point::CompSent,
    Point::Delivered,
    Point::RecCame,
    Point::RelDue,
    Point::RelSent,
    Point::CompCame,
    Point::Proposed,
    Point::Applied,
    Point::Checkpoint,
    Point::Purged,
    Point::SnapshotSent,
    Point::Install,
    Point::LearnerAdded,
    Point::VotersChanging,
    Point::VotersChanged,
    Point::LearnerRemoved,
    Point::Telling,
    Point::Removing,
    Point::Erased,
];

/// The power of the node has failed: whoever hears this does nothing any more.
#[derive(Debug, Clone, Copy)]
pub struct PowerFailed;

/// The points of a run.
pub struct Points(Mutex<State>);

struct State {
    random: StdRng,
    armed: Option<Armed>,
    /// The faults are over: the power does not fail any more.
    is_over: bool,
    /// The nodes whose power has failed since the last look, by their names.
    fired: Vec<(String, Point)>,
    counts: BTreeMap<Point, u64>,
}

#[derive(Debug, Clone, Copy)]
struct Armed {
    point: Point,
    /// So many times it is passed before.
    skip: u64,
}

impl Points {
    /// For a run that begins.
    pub fn new(seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed.wrapping_mul(7_919).wrapping_add(11));
        Self(Mutex::new(State {
            random,
            armed: None,
            is_over: false,
            fired: Vec::new(),
            counts: BTreeMap::new(),
        }))
    }

    /// Has the power fail at some point.
    pub fn arm(&self) -> Point {
        let State { random, armed, .. } = &mut *self.0.lock();
        let point = POINTS[random.random_range(0..POINTS.len())];
        *armed = Some(Armed { point, skip: random.random_range(0..3) });
        point
    }

    /// The faults are over.
    pub fn end(&self) {
        let mut state = self.0.lock();
        (state.armed, state.is_over) = (None, true);
    }

    /// The nodes whose power has failed since the last call, and where.
    pub fn take_fired(&self) -> Vec<(String, Point)> {
        std::mem::take(&mut self.0.lock().fired)
    }

    /// How often the power has failed at each point.
    pub fn counts(&self) -> BTreeMap<Point, u64> {
        self.0.lock().counts.clone()
    }

    /// Whether it is this one's turn; it is none any more then.
    fn is_due(&self, point: Point) -> bool {
        let mut state = self.0.lock();
        match &mut state.armed {
            Some(armed) if armed.point == point && armed.skip > 0 => armed.skip -= 1,
            Some(armed) if armed.point == point => {
                state.armed = None;
                return true;
            }
            _ => {}
        }
        false
    }

    fn cut_power(&self, node: &Node, point: Point) {
        let mut state = self.0.lock();
        let mut disk = node.disk.lock();
        if disk.is_failing() || state.is_over {
            return;
        }
        disk.cut_power(&mut state.random);
        drop(disk);
        state.fired.push((node.name.clone(), point));
        *state.counts.entry(point).or_default() += 1;
    }
}

impl Process {
    /// A point is passed, or the power fails there.
    pub fn pass(&self, point: Point) -> Result<(), PowerFailed> {
        if self.node.disk.lock().is_failing() {
            return Err(PowerFailed);
        }
        let points = &self.shared().points;
        if points.is_due(point) {
            self.note(format_args!("has no power any more at {point:?}"));
            points.cut_power(&self.node, point);
            return Err(PowerFailed);
        }
        Ok(())
    }
}

impl Replicated {
    /// A point is passed at which the store is about to be written to: the power may fail with one of the next writes.
    pub fn pass(&self, point: Point) {
        let points = &self.node.shared.points;
        if !points.is_due(point) {
            return;
        }
        let operations = points.0.lock().random.random_range(0..5);
        let node = Arc::clone(&self.node);
        self.store.cut_power_after(operations, move || {
            node.shared.trace.note(format_args!("{} has no power any more within {point:?}", node.name));
            node.shared.points.cut_power(&node, point);
        });
    }
}
