//! The sessions of one worker.

use std::sync::Arc;

use flotilla_mqtt::{PacketId, ReasonCode, session::Session, topic::TopicFilter};
use flotilla_registry::Tenure;

use super::{
    kept::KeptEntry,
    link::Link,
    replay::{Replay, Replays},
    timers::NextReminder,
};
use crate::router::Load;

/// One client that is connected: its session and its connection, which begin and end together.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) session: Session,
    pub(super) link: Link,
    /// How busy it is, for the groups that it is a member of.
    pub(super) load: Option<Arc<Load>>,
    /// What is left to do for its SUBSCRIBEs, if anything is.
    pub(super) unfinished: Option<Box<Unfinished>>,
    pub(super) next_reminder: NextReminder,
    /// The claim with which its client connected.
    pub(super) claim: Tenure,
    /// Set if a shard keeps the session or the will.
    pub(super) kept: Option<Box<KeptEntry>>,
}

/// What is left to do for SUBSCRIBEs.
#[derive(Debug, Default)]
pub(super) struct Unfinished {
    /// Those that are not answered yet.
    pub(super) subscribing: Vec<Subscribing>,
    /// UNSUBSCRIBEs that are not answered yet.
    pub(super) unsubscribing: Vec<(PacketId, Vec<ReasonCode>)>,
    /// Retained messages that are still to be sent.
    pub(super) replays: Replays,
}

/// A SUBSCRIBE that is not answered yet.
#[derive(Debug)]
pub(super) struct Subscribing {
    pub(super) id: PacketId,
    pub(super) reasons: Vec<ReasonCode>,
    pub(super) replays: Vec<Replay>,
    /// Groups to be joined when the shard of the session has answered: those who publish count on it that each member whose
    /// session is kept has a group that keeps messages.
    pub(super) joining: Vec<Arc<TopicFilter>>,
    /// Routes that are still to be confirmed.
    pub(super) outstanding: usize,
    /// How many replays it waits for, once that is so.
    pub(super) look_ups: usize,
}

/// Bytes in the send buffer from which on retained messages wait.
const REPLAY_BUFFER: usize = 64 << 10;
/// Messages in flight to the client of a kept session from which on they wait: a shard hands out a few more at most.
const REPLAY_INFLIGHT: usize = 128;
/// Unanswered SUBSCRIBEs of a client from which on it is not read.
const SUBSCRIBING_MAX: usize = 64;

impl Unfinished {
    pub(super) fn is_done(&self) -> bool {
        self.replays.is_empty() && self.subscribing.is_empty() && self.unsubscribing.is_empty()
    }
}

impl Entry {
    pub(super) fn new(
        session: Session,
        link: Link,
        claim: Tenure,
        kept: Option<Box<KeptEntry>>,
    ) -> Box<Self> {
        Box::new(Self {
            session,
            link,
            load: None,
            unfinished: None,
            next_reminder: NextReminder::NONE,
            claim,
            kept,
        })
    }

    /// Whether so many SUBSCRIBEs wait for their answers that the client is not read until some have got them: each of them
    /// takes memory here and in what is told to the other nodes.
    pub(super) fn is_subscribing_much(&self) -> bool {
        self.unfinished.as_ref().is_some_and(|unfinished| unfinished.subscribing.len() >= SUBSCRIBING_MAX)
    }

    /// Whether a SUBSCRIBE waits for the first retained messages: what the client says behind it is handled after them.
    pub(super) fn is_looking(&self) -> bool {
        let Some(unfinished) = &self.unfinished else { return false };
        let waits = unfinished.subscribing.iter().any(|subscribing| subscribing.look_ups > 0);
        // What has been found may have to wait for what the client says, such as PUBACK.
        let is_for_client = unfinished.replays.has_found() && !self.keeps_up();
        waits && !is_for_client
    }

    /// Whether the client takes what it gets, so that it may get more retained messages.
    pub(super) fn keeps_up(&self) -> bool {
        let waiting = self.session.queue_len() + self.session.kept_waiting_len();
        // What waits in the shard behind that many is not known here.
        let is_behind = self.session.is_kept() && self.session.inflight_len() >= REPLAY_INFLIGHT;
        self.link.out.len() < REPLAY_BUFFER && waiting == 0 && !is_behind
    }

    /// Its retained messages that are still to be sent.
    pub(super) fn replays(&mut self) -> Option<&mut Replays> {
        self.unfinished.as_mut().map(|unfinished| &mut unfinished.replays)
    }

    /// Tells the groups how busy the session is.
    pub(super) fn update_load(&self) {
        if let Some(load) = &self.load {
            load.set_pending(self.session.inflight_len() + self.session.queue_len());
        }
    }

    /// What a group that the session joins must know of it.
    pub(super) fn share_load(&mut self) -> Arc<Load> {
        let is_kept = self.session.is_kept();
        Arc::clone(self.load.get_or_insert_with(|| Arc::new(Load::new(is_kept))))
    }
}

/// Sessions by slot. The epoch of a slot changes whenever a session leaves it.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

#[derive(Debug, Default)]
struct Slot {
    epoch: u32,
    entry: Option<Box<Entry>>,
}

impl Sessions {
    /// The slot and epoch that the next [`Sessions::insert`] will use.
    pub(super) fn vacancy(&mut self) -> (u32, u32) {
        if self.free.is_empty() {
            let slot = u32::try_from(self.slots.len()).expect("fewer than 2^32 sessions");
            self.slots.push(Slot::default());
            self.free.push(slot);
        }
        let slot = *self.free.last().expect("there is one now");
        (slot, self.slots[slot as usize].epoch)
    }

    /// Puts a session into the vacancy; returns its slot.
    pub(super) fn insert(&mut self, entry: Box<Entry>) -> u32 {
        let (slot, _) = self.vacancy();
        self.free.pop();
        self.slots[slot as usize].entry = Some(entry);
        slot
    }

    /// Takes a session out; returns it with its epoch.
    pub(super) fn remove(&mut self, slot: u32) -> Option<(u32, Box<Entry>)> {
        let place = self.slots.get_mut(slot as usize)?;
        let entry = place.entry.take()?;
        let epoch = place.epoch;
        place.epoch = epoch.wrapping_add(1);
        self.free.push(slot);
        Some((epoch, entry))
    }

    pub(super) fn entry(&mut self, slot: u32) -> Option<&mut Entry> {
        self.slots.get_mut(slot as usize)?.entry.as_deref_mut()
    }

    /// The session in `slot`, unless it is another one by now.
    pub(super) fn entry_of(&mut self, slot: u32, epoch: u32) -> Option<&mut Entry> {
        self.slots.get_mut(slot as usize).filter(|place| place.epoch == epoch)?.entry.as_deref_mut()
    }

    pub(super) fn epoch(&self, slot: u32) -> u32 {
        self.slots[slot as usize].epoch
    }

    /// How many slots there are, taken or not.
    pub(super) fn slots(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
    }

    /// The slots that are taken.
    pub(super) fn occupied(&self) -> impl Iterator<Item = u32> + '_ {
        (0u32..).zip(&self.slots).filter(|(_, place)| place.entry.is_some()).map(|(slot, _)| slot)
    }
}
