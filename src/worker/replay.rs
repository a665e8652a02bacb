//! Retained messages for new subscriptions.
//!
//! They are looked up in the shards, page by page and one page of a session at a time, and sent bit by bit: the next ones only
//! when the client has taken the last. Those of the broker itself (`$SYS`) are on this node.
//!
//! A SUBACK waits for the first of them for a moment, and so does what its client has sent behind the SUBSCRIBE. What is published
//! meanwhile may be newer than what a look-up finds, and is not followed by that: it is looked up again, for a while.
//!
//! What goes to a kept session at QoS 1 or 2 must survive this node and the connection [MQTT-4.4.0-1]: its shard is asked to keep it
//! ([`Op::Direct`]), and delivers it as what is published ([`super::kept`]). It comes with the RETAIN flag, but without the mark of a
//! message that is to be retained, for nobody publishes it now. SUBACK waits, no longer than for the look-up, until the first of
//! these are committed. The queue of a session has bounds, and is for what is published: few are on their way at a time, and no
//! more are asked for before these have come and the client has taken them. Meanwhile something newer may have come from the
//! shard; then what was found is old, and is reported as done without being sent.
//!
//! What the shard was not asked for when the connection ends is not sent later: the client gets what is retained when it
//! subscribes again. Nor does the next connection know what has passed on this one.

mod replays;
#[cfg(test)]
mod tests;

use std::{future::poll_fn, mem, rc::Rc, sync::Arc, task::Poll, time::Duration};

use flotilla_mqtt::{
    Message, PacketId, QoS, SubscriptionIds, Transit,
    session::{DeliveryOptions, DropReason, Subscription},
};
use flotilla_shard::{Op, Seq};
use flotilla_state::ShardId;
use tokio::task::yield_now;

use self::replays::Place;
pub(super) use self::replays::{DirectLimits, Replay, Replays};
use super::{Worker, WorkerCell};
use crate::{
    cluster::{Awaited, Completion},
    node::Node,
    router::SessionRef,
    shards::{Page, Shards},
};

/// What keeps what was found from going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Obstacle {
    /// The client has to take what it has got.
    Client,
    /// The shard of the session has to do what it was asked.
    Shard,
}

/// Messages of the broker itself that are looked up at a time.
const PAGE: usize = 64;
/// Steps that are done before others get their turn, for all sessions together.
const STEPS_PER_TURN: usize = 16;
/// How long a SUBACK waits for look-ups: longer than they take but where a shard has nobody to lead it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Goes on with replays, a few steps at a time.
pub(super) async fn replay_in_turns(cell: Rc<WorkerCell>) {
    loop {
        poll_fn(|cx| {
            let mut worker = cell.worker.borrow_mut();
            if worker.replaying.is_empty() {
                worker.replayer = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
        cell.with(Worker::replay_some);
        // A task that only wakes itself is run many times before the runtime looks at the sockets again.
        yield_now().await;
    }
}

impl Worker {
    /// The routes of a SUBSCRIBE are known: its replays begin, and its SUBACK waits for the first that finds something.
    pub(super) fn begin_replays(&mut self, slot: u32, subscribe: PacketId) {
        let session = self.session_ref(slot);
        let Some(unfinished) = self.sessions.entry(slot).and_then(|entry| entry.unfinished.as_mut()) else {
            return;
        };
        let Some(subscribing) = unfinished.subscribing.iter_mut().find(|one| one.id == subscribe) else {
            return;
        };
        subscribing.look_ups = unfinished.replays.extend(mem::take(&mut subscribing.replays));
        if subscribing.look_ups == 0 {
            return self.answer_subscribe(slot, subscribe);
        }
        self.impatient.push_back((self.now + PATIENCE, session, subscribe));
        self.replay_step(slot);
        self.replay(slot);
    }

    /// SUBACKs that have waited for look-ups for too long wait no more.
    pub(super) fn end_patience(&mut self) {
        while let Some((until, SessionRef { slot, epoch, .. }, subscribe)) = self.impatient.front().copied()
            && until <= self.now
        {
            self.impatient.pop_front();
            if self.sessions.entry_of(slot, epoch).is_some() {
                self.guard(slot, |worker| worker.answer_subscribe(slot, subscribe));
            }
        }
    }

    /// A session gets a message that somebody publishes now: it is not followed by an older one.
    pub(super) fn pass(&mut self, to: SessionRef, message: &Transit<'_>) {
        if !message.retain {
            return;
        }
        if let Some(entry) = self.sessions.entry_of(to.slot, to.epoch)
            && let Some(unfinished) = entry.unfinished.as_mut()
            && !(unfinished.replays.is_empty() && unfinished.subscribing.is_empty())
        {
            unfinished.replays.pass(message);
        }
    }

    /// Sees to it that a session gets more retained messages, if any are still to be sent. This is called with every
    /// acknowledgement, so it does nothing itself.
    pub(super) fn replay(&mut self, slot: u32) {
        let session = self.session_ref(slot);
        let Some(entry) = self.sessions.entry(slot) else { return };
        let keeps_up = entry.keeps_up();
        let Some(unfinished) = entry.unfinished.as_mut() else { return };
        let replays = &mut unfinished.replays;
        let waits = match replays.page.front() {
            None => replays.asked.is_some(),
            Some(next) => !keeps_up || !replays.has_room(self.direct_limits, next.size()),
        };
        if !replays.is_listed && !replays.replays.is_empty() && !waits {
            replays.is_listed = true;
            self.replaying.push_back(session);
            if let Some(replayer) = self.replayer.take() {
                replayer.wake();
            }
        }
    }

    /// Goes on with the retained messages of those whose turn it is.
    fn replay_some(&mut self) {
        for _ in 0..STEPS_PER_TURN {
            let Some(SessionRef { slot, epoch, .. }) = self.replaying.pop_front() else { return };
            let Some(entry) = self.sessions.entry_of(slot, epoch) else { continue };
            let Some(unfinished) = entry.unfinished.as_mut() else { continue };
            unfinished.replays.is_listed = false;
            self.guard(slot, |worker| {
                if worker.replay_step(slot) {
                    worker.replay(slot);
                }
            });
        }
    }

    /// A look-up is answered.
    pub(super) fn looked_up(&mut self, who: SessionRef, shard: ShardId, page: &Page) {
        let (now, shards) = (self.now, self.node.cluster.shards().map_or(0, Shards::count));
        let Some(entry) = self.sessions.entry_of(who.slot, who.epoch) else { return };
        let Some(unfinished) = entry.unfinished.as_mut() else { return };
        if unfinished.replays.take_page(shard, page, shards, now) {
            self.guard(who.slot, |worker| {
                worker.replay_step(who.slot);
                worker.replay(who.slot);
            });
        }
    }

    /// Sends what was looked up, as long as the client keeps up, and looks up more; returns whether it can go on at once.
    fn replay_step(&mut self, slot: u32) -> bool {
        if !self.send_page(slot) {
            return false;
        }
        let Some(replays) = self.sessions.entry(slot).and_then(|entry| entry.replays()) else { return false };
        let Some(front) = replays.replays.front().filter(|_| replays.asked.is_none()) else { return false };
        if let Some(Place::Shard(_, None)) = front.place {
            self.skip_empty(slot);
        }
        let Some(replays) = self.sessions.entry(slot).and_then(|entry| entry.replays()) else { return false };
        let Some(front) = replays.replays.front_mut() else { return false };
        let filter = front.subscription.filter.filter();
        match front.place.clone() {
            None => self.end_replay(slot),
            Some(Place::Own(after)) => {
                let next = self.node.own_retained.page(filter, after.as_deref(), PAGE, &mut replays.page);
                front.turn_page(next, 0);
            }
            Some(Place::Shard(shard, after)) => {
                let filter = filter.into();
                self.look_up(slot, shard, filter, after);
                return false;
            }
        }
        true
    }

    /// Passes over shards that surely retain nothing for the first replay of a session: most subscriptions come where there is little.
    fn skip_empty(&mut self, slot: u32) {
        // What was published here before is found.
        self.hand_over_all_stored();
        let node = Arc::clone(&self.node);
        let Some(shards) = node.cluster.shards() else { return };
        let replays = self.sessions.entry(slot).and_then(|entry| entry.replays());
        let Some(front) = replays.and_then(|replays| replays.replays.front_mut()) else { return };
        while let Some(Place::Shard(shard, None)) = front.place
            && shards.retains_nothing(shard)
        {
            front.turn_page(None, shards.count());
        }
    }

    /// The first replay of a session is over.
    fn end_replay(&mut self, slot: u32) {
        let Some(entry) = self.sessions.entry(slot) else { return };
        let Some(unfinished) = entry.unfinished.as_mut() else { return };
        let Some(replay) = unfinished.replays.replays.pop_front() else { return };
        let mut looking = unfinished.subscribing.iter_mut().filter(|one| one.look_ups > 0);
        if let Some(subscribing) = looking.find(|one| one.id == replay.subscribe) {
            subscribing.look_ups -= 1;
            if subscribing.look_ups == 0 {
                self.answer_found(slot, replay.subscribe);
            }
        }
        self.end_unfinished(slot);
    }

    /// Forgets what nobody needs any more when replays have ended.
    fn end_unfinished(&mut self, slot: u32) {
        let Some(entry) = self.sessions.entry(slot) else { return };
        let Some(unfinished) = entry.unfinished.as_mut() else { return };
        if unfinished.replays.is_empty() && unfinished.subscribing.is_empty() {
            unfinished.replays.forget_passed();
        }
        if unfinished.is_done() {
            entry.unfinished = None;
        }
    }

    /// Answers a SUBSCRIBE for which something has been found, or nothing anywhere, unless its shard is still to keep some of that.
    fn answer_found(&mut self, slot: u32, subscribe: PacketId) {
        let Some(entry) = self.sessions.entry(slot) else { return };
        let Some(unfinished) = &entry.unfinished else { return };
        if !unfinished.replays.awaits_answer(subscribe) {
            self.answer_subscribe(slot, subscribe);
        }
    }

    /// The SUBSCRIBE that something has been found for.
    fn found_for(&mut self, slot: u32) -> Option<PacketId> {
        let replays = &self.sessions.entry(slot)?.unfinished.as_ref()?.replays;
        replays.replays.front().filter(|_| !replays.page.is_empty()).map(|front| front.subscribe)
    }

    fn look_up(&mut self, slot: u32, shard: ShardId, filter: Arc<str>, after: Option<String>) {
        // What was published here before is found.
        self.hand_over_all_stored();
        let session = self.session_ref(slot);
        let Some(shards) = self.node.cluster.shards() else { return };
        let asked = shards.look_up(shard, filter, after, session);
        if let Some(unfinished) = self.sessions.entry(slot).and_then(|entry| entry.unfinished.as_mut()) {
            unfinished.replays.asked = asked;
        }
    }

    /// Sends what was looked up, or has it kept for the session; returns whether that is all of it.
    fn send_page(&mut self, slot: u32) -> bool {
        let Some(subscribe) = self.found_for(slot) else { return true };
        let obstacle = self.send_found(slot);
        if obstacle != Some(Obstacle::Shard) {
            // The client may have to say something first.
            self.answer_found(slot, subscribe);
        }
        if obstacle == Some(Obstacle::Client)
            && let Some(entry) = self.sessions.entry(slot)
            && entry.link.is_paused
        {
            // It may not have been read for the sake of this.
            entry.link.wake();
        }
        obstacle.is_none()
    }

    /// Sends what was looked up, as far as that goes.
    fn send_found(&mut self, slot: u32) -> Option<Obstacle> {
        let own = self.sessions.entry(slot)?.session.client_id().clone();
        loop {
            let entry = self.sessions.entry(slot)?;
            let keeps_up = entry.keeps_up();
            let replays = &mut entry.unfinished.as_mut()?.replays;
            let front = replays.replays.front()?;
            let next = replays.page.front()?;
            if !keeps_up {
                return Some(Obstacle::Client);
            }
            let Subscription { options, id, .. } = &front.subscription;
            // The RETAIN flag says that it is an old message, whatever Retain As Published says [MQTT-3.3.1-8].
            let delivery = DeliveryOptions {
                qos: options.qos.min(next.qos),
                retain: true,
                subscription_ids: id.map_or(SubscriptionIds::None, SubscriptionIds::One),
                shared: None,
            };
            let (no_local, subscribe) = (options.no_local, front.subscribe);
            let has_room = replays.has_room(self.direct_limits, next.size());
            let is_direct = entry.session.is_kept() && delivery.qos > QoS::AtMostOnce;
            if is_direct && !(has_room && self.may_ask(slot)) {
                return Some(Obstacle::Shard);
            }
            let message = self.take_found(slot)?;
            if no_local && message.publisher.as_ref() == Some(&own) {
                continue;
            }
            if is_direct {
                self.ask_direct(slot, &message, delivery);
            } else {
                self.answer_subscribe(slot, subscribe);
                self.deliver(self.session_ref(slot), &Transit::from_message(&message), &delivery);
            }
        }
    }

    fn take_found(&mut self, slot: u32) -> Option<Arc<Message>> {
        self.sessions.entry(slot)?.unfinished.as_mut()?.replays.page.pop_front()
    }

    /// Whether the shard of a kept session takes more. If not, the session waits for that: what waits in the line to it has bounds,
    /// and what is put there while nobody can keep it would have none.
    fn may_ask(&mut self, slot: u32) -> bool {
        let session = self.session_ref(slot);
        let Some(entry) = self.sessions.entry(slot) else { return false };
        let (Some(kept), Some(unfinished)) = (&entry.kept, &mut entry.unfinished) else { return false };
        if !self.node.cluster.shards().is_some_and(|shards| shards.is_congested(kept.shard)) {
            return true;
        }
        if !unfinished.replays.is_listed {
            unfinished.replays.is_listed = true;
            self.held_up.push(session);
        }
        false
    }

    /// Shards may take more: those who waited for that go on.
    pub(super) fn end_hold_up(&mut self) {
        self.replaying.extend(self.held_up.drain(..));
        if let Some(replayer) = self.replayer.take() {
            replayer.wake();
        }
    }

    /// Asks the shard of a session to keep a retained message for it.
    fn ask_direct(&mut self, slot: u32, message: &Arc<Message>, options: DeliveryOptions) {
        let (session, now) = (self.session_ref(slot), self.now);
        if message.is_expired(now) {
            return self.count_drop(DropReason::Expired, 1); // [MQTT-3.3.2-5]
        }
        // What the client is done with takes no room there.
        self.tell_kept(slot);
        let Some(entry) = self.sessions.entry(slot) else { return };
        let Some(unfinished) = &mut entry.unfinished else { return };
        let expires_in = message.expires_at.map(|at| at.since(now));
        let Some(number) = unfinished.replays.ask(message, expires_in) else { return };
        let who = Completion { session, what: Awaited::Direct(number) };
        // It is not to be retained: nobody publishes it now.
        let message = Arc::new(Message { retain: false, expires_at: None, ..(**message).clone() });
        self.tell_shard(slot, message.size(), who, |connection| Op::Direct {
            connection,
            options,
            message,
            expires_in,
        });
    }

    /// The shard of a session has been asked to keep a retained message, and says where that is. `None`: it does not come, or nobody
    /// knows when.
    pub(super) fn direct_answered(&mut self, slot: u32, number: u64, place: Option<Seq>) {
        let now = self.now;
        let Some(entry) = self.sessions.entry(slot) else { return };
        let next = entry.kept.as_ref().and_then(|kept| kept.next());
        let (Some(next), Some(unfinished)) = (next, &mut entry.unfinished) else { return };
        let Some(subscribe) = unfinished.replays.answered(number, place, next, now) else { return };
        let may_expire = unfinished.replays.next_deadline().is_some();
        self.answer_found(slot, subscribe);
        self.end_unfinished(slot);
        if may_expire {
            self.remind(slot);
        }
        self.replay(slot);
    }

    /// A retained message comes from the shard of a session; returns whether the client has something newer. SUBACK goes before it.
    pub(super) fn meet_direct(&mut self, slot: u32, seq: Seq, message: &Transit<'_>) -> bool {
        let unfinished = self.sessions.entry(slot).and_then(|entry| entry.unfinished.as_ref());
        let met = unfinished.and_then(|unfinished| unfinished.replays.meet(seq, message));
        met.is_some_and(|(subscribe, is_old)| {
            self.answer_subscribe(slot, subscribe);
            is_old
        })
    }

    /// Something has come from the shard of a session, or has expired there: there may be room for more.
    pub(super) fn directs_come(&mut self, slot: u32) {
        let now = self.now;
        let Some(entry) = self.sessions.entry(slot) else { return };
        let next = entry.kept.as_ref().and_then(|kept| kept.next());
        let (Some(next), Some(unfinished)) = (next, &mut entry.unfinished) else { return };
        if unfinished.replays.come(next, now) {
            self.end_unfinished(slot);
            self.replay(slot);
        }
    }
}

/// Nobody waits for a look-up any more.
pub(super) fn forget_look_up(node: &Node, asked: Option<(ShardId, u64)>) {
    if let (Some((shard, id)), Some(shards)) = (asked, node.cluster.shards()) {
        shards.forget_look_up(shard, id);
    }
}
