//! The sessions of a shard.

mod compact;
mod former;
mod received;
mod row;
mod session;
mod subscriptions;

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Included, Unbounded},
    sync::Arc,
};

use flotilla_mqtt::session::ClientId;
use flotilla_state::Member;

pub(crate) use compact::{Moment, Shared};
pub(crate) use former::Former;
pub(crate) use received::Received;
pub(crate) use session::{ArmedWill, GROUP, Limits, Session, group_client};
pub(crate) use subscriptions::{Kept, Subscriptions};

use crate::SessionId;

/// Where a session lies in memory, while it is there. It differs from replica to replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot(u32);

/// All sessions.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    slots: Vec<Option<Box<Session>>>,
    /// Slots without a session.
    free: Vec<Slot>,
    by_client: BTreeMap<ClientId, Slot>,
    by_id: BTreeMap<SessionId, Slot>,
    members: Shared<Member>,
    limits: Shared<Limits>,
}

impl Sessions {
    /// Adds a session; its client and its name are new. `None`: there is one with the same.
    pub(crate) fn insert(&mut self, mut session: Session) -> Option<Slot> {
        if self.by_client.contains_key(&session.client) || self.by_id.contains_key(&session.id) {
            return None;
        }
        session.limits = self.limits.of(*session.limits);
        session.owner = session.owner.map(|owner| self.members.of(*owner));
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            Slot(
                u32::try_from(self.slots.len() - 1)
                    .expect("four thousand million sessions do not fit into memory"),
            )
        });
        self.by_client.insert(session.client.clone(), slot);
        self.by_id.insert(session.id, slot);
        self.slots[slot.0 as usize] = Some(Box::new(session));
        Some(slot)
    }

    /// A member, shared with all that have it.
    pub(crate) fn member(&mut self, member: Member) -> Arc<Member> {
        self.members.of(member)
    }

    /// Limits, shared with all that have them.
    pub(crate) fn limits(&mut self, limits: Limits) -> Arc<Limits> {
        self.limits.of(limits)
    }

    /// Takes a session out.
    pub(crate) fn remove(&mut self, slot: Slot) -> Option<Session> {
        let session = *self.slots[slot.0 as usize].take()?;
        self.by_client.remove(&session.client);
        self.by_id.remove(&session.id);
        self.free.push(slot);
        Some(session)
    }

    /// # Panics
    /// There is no session in the slot.
    pub(crate) fn at(&self, slot: Slot) -> &Session {
        self.slots[slot.0 as usize].as_deref().expect("slots are kept no longer than their sessions")
    }

    /// # Panics
    /// There is no session in the slot.
    pub(crate) fn at_mut(&mut self, slot: Slot) -> &mut Session {
        self.slots[slot.0 as usize].as_deref_mut().expect("slots are kept no longer than their sessions")
    }

    pub(crate) fn of_client(&self, client: &ClientId) -> Option<Slot> {
        self.by_client.get(client).copied()
    }

    pub(crate) fn of_id(&self, id: SessionId) -> Option<Slot> {
        self.by_id.get(&id).copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// In the order of their names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Slot, &Session)> {
        self.by_id.values().map(|&slot| (slot, self.at(slot)))
    }

    /// In the order of their clients, behind `after`; no groups.
    pub(crate) fn after_client(&self, after: Option<&ClientId>) -> impl Iterator<Item = &Session> {
        let after = after.map(ClientId::as_str).filter(|after| *after >= BEHIND_GROUPS);
        let from = after.map_or(Included(BEHIND_GROUPS), Excluded);
        self.by_client.range::<str, _>((from, Unbounded)).map(|(_, &slot)| self.at(slot))
    }

    /// The groups behind `after`, in the order of their texts.
    pub(crate) fn after_group(&self, after: Option<&str>) -> impl Iterator<Item = &Session> {
        let after = [GROUP, after.unwrap_or_default()].concat();
        let groups = self.by_client.range::<str, _>((Excluded(after.as_str()), Excluded(BEHIND_GROUPS)));
        groups.map(|(_, &slot)| self.at(slot))
    }
}

/// The first text that is not behind that of a client; those of groups are before it.
const BEHIND_GROUPS: &str = "\u{1}";
