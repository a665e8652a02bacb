//! A message that was forwarded comes once and in its order, as long as both members live.

use std::collections::BTreeMap;

use flotilla_lane::LaneId;
use flotilla_state::Member;
use parking_lot::Mutex;

use super::Violation;

/// What was sent in each lane, and how much of it has come and was acknowledged.
#[derive(Default)]
pub struct Forwarding(Mutex<BTreeMap<(Member, Member, LaneId), Lane>>);

#[derive(Default)]
struct Lane {
    sent: Vec<u64>,
    received: usize,
    taken: usize,
}

impl Forwarding {
    /// `from` has sent a message to `to`.
    pub fn sent(&self, from: Member, to: Member, lane: LaneId, message: u64) {
        self.0.lock().entry((from, to, lane)).or_default().sent.push(message);
    }

    /// It has come.
    pub fn received(&self, from: Member, to: Member, lane: LaneId, message: u64) -> Result<(), Violation> {
        let mut lanes = self.0.lock();
        let state = lanes.entry((from, to, lane)).or_default();
        let expected = state.sent.get(state.received).copied();
        state.received += 1;
        if expected == Some(message) {
            return Ok(());
        }
        Err(format!("from {from} to {to} in lane {lane}: message {message} came, and {expected:?} had to"))
    }

    /// The sender was told that it was taken.
    pub fn taken(&self, from: Member, to: Member, lane: LaneId, message: u64) -> Result<(), Violation> {
        let mut lanes = self.0.lock();
        let state = lanes.entry((from, to, lane)).or_default();
        let expected = state.sent.get(state.taken).copied();
        state.taken += 1;
        if expected == Some(message) && state.taken <= state.received {
            return Ok(());
        }
        Err(format!(
            "from {from} to {to} in lane {lane}: message {message} was acknowledged, and {expected:?} had to be; {} have come",
            state.received
        ))
    }

    /// When all is quiet: nothing is missing between members that live.
    pub fn lacks(&self, lives: impl Fn(Member) -> bool) -> Option<Violation> {
        let lanes = self.0.lock();
        lanes.iter().filter(|((from, to, _), _)| lives(*from) && lives(*to)).find_map(|((from, to, lane), state)| {
            let sent = state.sent.len();
            (state.taken < sent).then(|| {
                let Lane { received, taken, .. } = state;
                format!("from {from} to {to} in lane {lane}: {sent} were sent, {received} have come, {taken} were acknowledged")
            })
        })
    }

    /// How many were sent, and how many have come.
    pub fn counts(&self) -> (usize, usize) {
        let lanes = self.0.lock();
        lanes
            .values()
            .fold((0, 0), |(sent, received), lane| (sent + lane.sent.len(), received + lane.received))
    }
}
