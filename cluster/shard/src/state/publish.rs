//! Messages that come.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use flotilla_lane::{Batch, Forwarded, Frame, Texts};
use flotilla_mqtt::{
    Message, QoS, SubscriptionIds,
    session::{DeliveryOptions, QueueFull},
};

use super::{FreshMessage, State};
use crate::{
    Answer, LoanFate, Overlap, Seq,
    groups::key,
    ids::MessageId,
    inbox::{Inbox, NewBody, NewEntry},
    index::Subscriber,
    message::Parts,
    sessions::{Session, Slot, group_client},
};

/// How one copy goes to a session.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) slot: Slot,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) subscription_ids: SubscriptionIds,
}

impl State {
    pub(super) fn publish(&mut self, batch: &Batch) -> Answer {
        for frame in batch.frames() {
            match frame {
                Frame::Store { origin: Some(origin), .. } if !self.publishers.admit(origin) => {
                    self.stats.duplicates += 1;
                }
                Frame::Store { retains, without, message, .. } => {
                    let parts = Parts::of_forwarded(&message, self.stamp.as_millis());
                    if retains {
                        self.retain(&parts);
                    }
                    self.store(&parts, without);
                }
                Frame::Group { filter, message, .. } => self.store_for_group(filter, &message),
                // Decoding the entry has seen to it that there are no others.
                _ => {}
            }
        }
        Answer::Done
    }

    /// Appends a message to the backlog of a group alone, if it is there: a member elsewhere should have had it, and could not.
    fn store_for_group(&mut self, group: &str, message: &Forwarded<'_>) {
        let slot = group_client(group).and_then(|client| self.sessions.of_client(&client));
        let Some(slot) = slot.filter(|slot| !self.is_restoring(*slot)) else { return };
        if message.qos == QoS::AtMostOnce {
            return;
        }
        let parts = Parts::of_forwarded(message, self.stamp.as_millis());
        let copy =
            Copy { slot, qos: parts.qos, retain: parts.retain, subscription_ids: SubscriptionIds::None };
        self.append(&copy, &parts, NewBody::Inline(&parts));
    }

    /// Appends a message to the inboxes of all sessions that match, but for those of some groups.
    fn store(&mut self, parts: &Parts<'_>, without: Texts<'_>) {
        let mut matching = std::mem::take(&mut self.matching);
        self.index.collect(parts.topic, &mut matching);
        if !without.is_empty() {
            let group = |subscriber: &Subscriber| self.sessions.at(subscriber.slot).group();
            matching.retain(|subscriber| {
                group(subscriber).is_none_or(|group| without.iter().all(|text| text != group))
            });
        }
        if let [one] = matching.as_slice() {
            if let Some(copy) = self.copy(std::slice::from_ref(one), parts) {
                self.append(&copy, parts, NewBody::Inline(parts));
            }
        } else if !matching.is_empty() {
            self.store_for_many(&matching, parts);
        }
        if matching.capacity() > MATCHING_KEPT {
            matching = Vec::new();
        }
        self.matching = matching;
    }

    fn store_for_many(&mut self, matching: &[Subscriber], parts: &Parts<'_>) {
        let mut copies = Vec::new();
        for of_session in matching.chunk_by(|a, b| a.session == b.session) {
            match self.sessions.at(of_session[0].slot).limits.overlap {
                Overlap::Merge => copies.extend(self.copy(of_session, parts)),
                Overlap::Each => {
                    copies.extend(of_session.chunks(1).filter_map(|one| self.copy(one, parts)));
                }
            }
        }
        if let [copy] = copies.as_slice() {
            self.append(copy, parts, NewBody::Inline(parts));
        } else if !copies.is_empty() {
            self.store_shared(&copies, parts);
        }
    }

    /// Keeps one message that all copies refer to.
    fn store_shared(&mut self, copies: &[Copy], parts: &Parts<'_>) {
        // One reference is this function's: one copy may displace another one.
        let id = self.share(parts);
        for copy in copies {
            // Before the copy is there: it may be done at once, for a group gives up what has expired.
            self.messages.entry(id).and_modify(|message| message.references += 1);
            if self.append(copy, parts, NewBody::Reference(id)).is_none() {
                self.drop_reference(id);
            }
        }
        self.drop_reference(id);
    }

    /// Keeps a message for several entries; one reference is the caller's.
    pub(super) fn share(&mut self, parts: &Parts<'_>) -> MessageId {
        let id = MessageId(self.next.message);
        self.next.message += 1;
        let mut bytes = Vec::with_capacity(parts.stored_len());
        parts.write(&mut bytes);
        self.dirty.message_bytes += bytes.len();
        self.messages.insert(id, FreshMessage { bytes: bytes.into(), references: 1 });
        id
    }

    /// What matching subscriptions of one session add up to; `None`: nothing that is kept.
    fn copy(&self, matching: &[Subscriber], parts: &Parts<'_>) -> Option<Copy> {
        let slot = matching.first()?.slot;
        // No Local: not what this client published itself [MQTT-3.8.3-3].
        let is_own = matching.iter().any(|subscriber| subscriber.no_local)
            && parts.publisher == Some(self.sessions.at(slot).client.as_str());
        let wanted = matching.iter().filter(|subscriber| !is_own || !subscriber.no_local);
        // The highest QoS [MQTT-3.3.4-2] and every identifier [MQTT-3.3.4-4].
        let granted = wanted.clone().map(|subscriber| subscriber.qos).max()?;
        let qos = granted.min(parts.qos);
        if qos == QoS::AtMostOnce && !self.sessions.at(slot).keeps_qos0() {
            return None;
        }
        let retain_as_published = wanted.clone().any(|subscriber| subscriber.retain_as_published);
        Some(Copy {
            slot,
            qos,
            retain: parts.retain && retain_as_published,
            subscription_ids: subscription_ids(wanted.filter_map(|subscriber| subscriber.id)),
        })
    }

    /// A message for one session: it counts as any other.
    pub(super) fn direct(
        &mut self,
        slot: Slot,
        options: &DeliveryOptions,
        message: &Message,
        expires_in: Option<Duration>,
    ) -> Answer {
        let qos = options.qos.min(message.qos);
        if qos == QoS::AtMostOnce && !self.sessions.at(slot).keeps_qos0() {
            return Answer::Queued(None);
        }
        let expires_at = expires_in.map(|left| (self.stamp + left).as_millis());
        let parts = Parts::of_message(message, expires_at);
        let subscription_ids = options.subscription_ids.clone();
        let copy = Copy { slot, qos, retain: options.retain, subscription_ids };
        Answer::Queued(self.append(&copy, &parts, NewBody::Inline(&parts)))
    }

    /// Appends a copy to an inbox; returns its place, if there was room for it.
    fn append(&mut self, copy: &Copy, parts: &Parts<'_>, body: NewBody<'_>) -> Option<Seq> {
        if !self.make_room(copy.slot, parts.size() as u64) {
            self.stats.dropped_newest += 1;
            return None;
        }
        Some(Seq(self.push(copy, parts, body)))
    }

    /// Appends a copy to an inbox, whatever there is; returns its place.
    pub(super) fn push(&mut self, copy: &Copy, parts: &Parts<'_>, body: NewBody<'_>) -> u64 {
        let size = parts.size();
        let session = self.sessions.at_mut(copy.slot);
        let (seq, is_group) = (session.next_seq, session.is_group);
        session.next_seq += 1;
        let window = session.window();
        let inbox = session.inbox.get_or_insert_with(|| Box::new(Inbox::new(window)));
        let entry = NewEntry {
            qos: copy.qos,
            retain: copy.retain,
            subscription_ids: &copy.subscription_ids,
            body,
            size,
            expires_at: parts.expires_at,
            key: if is_group { key(session.limits.group_strategy, parts) } else { 0 },
        };
        self.dirty.message_bytes += inbox.push(seq, &entry, &mut self.next.chunk);
        self.stats.queued_messages += 1;
        self.stats.queued_bytes += size as u64;
        self.stats.appended += 1;
        self.feed(copy.slot);
        let session = self.sessions.at_mut(copy.slot);
        if !session.is_listed {
            self.list(copy.slot);
        }
        if is_group {
            self.lend(copy.slot);
        }
        seq
    }

    /// There may be something to deliver to a session.
    pub(super) fn feed(&mut self, slot: Slot) {
        let is_watched = self.is_watched;
        let session = self.sessions.at_mut(slot);
        if !session.is_fed && session.owner.is_some() && is_watched {
            session.is_fed = true;
            self.changes.fed.push(session.id);
        }
    }

    /// Makes room in the queue of a session. What has expired goes first; what may be in flight never.
    fn make_room(&mut self, slot: Slot, size: u64) -> bool {
        loop {
            let session = self.sessions.at(slot);
            let Session { id, limits, inbox, .. } = session;
            if session.is_group && self.groups.has_room(*id) {
                return true; // It is lent at once.
            }
            let Some(inbox) = inbox else { return session.window().places > 0 || limits.may_hold(size) };
            if inbox.window_has_room() {
                return true;
            }
            if !limits.may_hold(size) {
                return false;
            }
            let (messages, bytes) = inbox.queued();
            if messages < limits.messages_max.into() && bytes <= limits.bytes_max - size {
                return true;
            }
            let Some((oldest, expires_at)) = inbox.oldest_queued() else { return false };
            let (id, full) = (*id, limits.full);
            match full {
                _ if expires_at.is_some_and(|at| at <= self.stamp.as_millis()) => self.stats.expired += 1,
                QueueFull::DropNewest => return false,
                // What is borrowed is not lost: its group has it still.
                QueueFull::DropOldest if self.pay_back(id, oldest, LoanFate::Back) => {}
                QueueFull::DropOldest => self.stats.dropped_oldest += 1,
            }
            self.finish(slot, oldest);
        }
    }
}

pub(super) fn subscription_ids(mut ids: impl Iterator<Item = NonZeroU32>) -> SubscriptionIds {
    match (ids.next(), ids.next()) {
        (None, _) => SubscriptionIds::None,
        (Some(id), None) => SubscriptionIds::One(id),
        (Some(first), Some(second)) => {
            let all: Arc<[NonZeroU32]> = [first, second].into_iter().chain(ids).collect();
            SubscriptionIds::Many(all)
        }
    }
}

/// How much memory is kept for the next match, in subscriptions.
const MATCHING_KEPT: usize = 4_096;
