//! Messages to subscribers.

use std::sync::Arc;

use flotilla_lane::{Origin, TextsWriter};
use flotilla_mqtt::{
    Message, QoS, ReasonCode, Transit,
    codec::SHARED_PAYLOAD_MIN,
    packet::PacketType,
    session::{Delivered, DeliveryOptions, DropReason},
    topic::TopicFilter,
};
use flotilla_state::ShardId;

use super::{
    Worker,
    mailbox::{Batch, Receivers},
};
use crate::{
    cluster::Completion,
    overload::Level,
    retained::is_of_this_node,
    router::{
        Grant, Group, GroupTarget, MatchSet, NodeChoice, OwnMessage, PickHint, Picked, SessionRef, Target,
    },
    shards::Losses,
};

/// Members of a group that are tried for one message, on all nodes together.
pub(crate) const TRIES_MAX: u8 = 8;

/// Where a message went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Routed {
    /// Whether anybody subscribes to its topic, here or on another node.
    pub(super) anybody: bool,
    /// How many other nodes and shards will say that they have it.
    pub(super) awaited: u32,
    /// Why a shard that should keep it does not even get it.
    pub(super) refused: Option<ReasonCode>,
}

/// How far a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// To the subscribers of this node.
    Node,
    /// To all subscribers.
    Cluster,
}

impl Worker {
    /// Gives a message to everybody who subscribes to its topic, and to the shard that `retains` it. `done` is what other nodes and
    /// shards complete when they have it.
    pub(super) fn route(
        &mut self,
        message: &Transit<'_>,
        publisher: Option<SessionRef>,
        reach: Reach,
        done: Option<Completion>,
        (retains, origin): (Option<ShardId>, Option<Origin>),
    ) -> Routed {
        let matches = Arc::clone(self.cache.matches(message.topic, &self.node.router));
        let (mut awaited, mut refused, mut served) = (0, None, Vec::new());
        if origin.is_none_or(|origin| self.node.repetitions.admit(origin)) {
            awaited += self.route_unkept(message, &matches, publisher, reach, done);
            let (count, groups) = self.route_to_groups(message, &matches, reach, done, retains);
            (awaited, served) = (awaited + count, groups);
        }
        let is_kept =
            reach == Reach::Cluster && (message.qos > QoS::AtMostOnce || self.node.config.session.queue_qos0);
        let shards = if is_kept { &*matches.shards } else { &[] };
        let anybody = !matches.is_empty();
        let mut keep = |shard, retains, done| {
            let mut without = TextsWriter::default();
            served.iter().filter(|(of, _)| *of == shard).for_each(|(_, group)| without.push(group));
            match self.store(shard, message, origin, retains, without.texts(), done) {
                Ok(count) => awaited += count,
                Err(reason) => refused = Some(reason),
            }
        };
        for &shard in shards {
            keep(shard, retains == Some(shard), done);
        }
        if let Some(shard) = retains.filter(|shard| !shards.contains(shard)) {
            keep(shard, true, if anybody { done } else { done.map(Completion::for_nobody) });
        }
        Routed { anybody, awaited, refused }
    }

    /// Gives a message to those who do not get it from a shard, but for groups; returns how many will say that they have it.
    fn route_unkept(
        &mut self,
        message: &Transit<'_>,
        matches: &Arc<MatchSet>,
        publisher: Option<SessionRef>,
        reach: Reach,
        done: Option<Completion>,
    ) -> u32 {
        if message.payload.len() >= SHARED_PAYLOAD_MIN && matches.deliveries() > 1 {
            // One copy, which the send buffers of all of them share.
            drop(message.keep());
        }
        for target in matches.of_worker(usize::from(self.id)) {
            self.deliver_to_target(target, message, publisher);
        }
        self.deliveries += matches.deliveries();
        for worker in 0..self.outbound.len() {
            if worker != usize::from(self.id) && !matches.of_worker(worker).is_empty() {
                self.outbound[worker].push_matched(message, publisher, matches);
                self.wake_flusher();
            }
        }
        let mut awaited = 0;
        if reach == Reach::Cluster {
            for &node in &matches.nodes {
                awaited += self.forward(node, message, done);
            }
        }
        awaited
    }

    /// Gives a message to one member of each group; returns how many nodes will say that they have it. Those groups are returned,
    /// too, whose shards get the message and must not give it to a second member.
    fn route_to_groups<'m>(
        &mut self,
        message: &Transit<'_>,
        matches: &'m MatchSet,
        reach: Reach,
        done: Option<Completion>,
        retains: Option<ShardId>,
    ) -> (u32, Vec<(ShardId, &'m str)>) {
        let (mut awaited, mut served) = (0, Vec::new());
        let strategy = self.node.router.strategy();
        let is_kept = reach == Reach::Cluster && message.qos > QoS::AtMostOnce;
        for group in &matches.groups {
            let hint = PickHint::of(message, self.random.next());
            let shards = self.node.cluster.shards().filter(|_| is_kept);
            let shard = shards.and_then(|shards| group.shard(|name| shards.shard_of(name)));
            let keeps = shard.is_some_and(|shard| matches.shards.contains(&shard));
            let choice = match reach {
                Reach::Node => Some(NodeChoice::Here),
                Reach::Cluster if keeps => group.choose(strategy, &hint),
                Reach::Cluster => group.choose_member(strategy, &hint, None),
            };
            if let Some(count) = self.deliver_to_chosen(group, choice, message, &hint, done) {
                awaited += count;
                let shard = shard.filter(|shard| keeps || retains == Some(*shard));
                served.extend(shard.map(|shard| (shard, group.filter())));
            }
        }
        (awaited, served)
    }

    fn is_kept_at(&mut self, session: SessionRef) -> bool {
        self.sessions.entry_of(session.slot, session.epoch).is_some_and(|entry| entry.session.is_kept())
    }

    /// Delivers what another worker handed over.
    pub(super) fn deliver_batch(&mut self, batch: Batch) {
        batch.for_each(|message, publisher, receivers| {
            // Whoever it is that cannot take the message: the next one is for others.
            self.catch(|worker| worker.deliver_to_receivers(message, publisher, receivers));
        });
        if self.node.mailboxes[usize::from(self.id)].delivered(&batch) {
            self.node.note_decongested();
        }
        self.spare.give_batch(batch);
    }

    fn deliver_to_receivers(
        &mut self,
        message: &Transit<'_>,
        publisher: Option<SessionRef>,
        receivers: &Receivers,
    ) {
        match receivers {
            Receivers::All(matches) => {
                for target in matches.of_worker(usize::from(self.id)) {
                    self.deliver_to_target(target, message, publisher);
                }
            }
            Receivers::Again => debug_assert!(false, "a batch says who that is"),
            Receivers::One(picked) => self.deliver_to_picked(picked, message),
            Receivers::Kept(session, delivery) => self.deliver_kept(*session, delivery, message),
        }
    }

    fn deliver_to_target(&mut self, target: &Target, message: &Transit<'_>, publisher: Option<SessionRef>) {
        let here = SessionRef { worker: self.id, slot: target.slot, epoch: target.epoch };
        let grant = if publisher == Some(here) {
            match &target.own {
                OwnMessage::Same => &target.grant,
                OwnMessage::Less(grant) => grant,
                OwnMessage::Nothing => return self.metrics().delivery_dropped_no_local.increment(),
            }
        } else {
            &target.grant
        };
        let options = options(grant, message, None);
        if message.qos.min(options.qos) > QoS::AtMostOnce && self.is_kept_at(here) {
            // It comes from the shard that keeps it for the session; what this node alone knows goes there from here.
            if is_of_this_node(message.topic) {
                self.keep_own(target.slot, message, options);
            }
            return;
        }
        self.pass(here, message);
        self.deliver(here, message, &options);
    }

    /// Gives a message to a member of a group where it was chosen to go; returns how many nodes will say that they have it. `None`:
    /// nobody gets it from here.
    fn deliver_to_chosen(
        &mut self,
        target: &GroupTarget,
        choice: Option<NodeChoice>,
        message: &Transit<'_>,
        hint: &PickHint<'_>,
        done: Option<Completion>,
    ) -> Option<u32> {
        match choice? {
            NodeChoice::Here => {
                self.deliver_to_local_group(target.local.as_ref()?, message, hint).then_some(0)
            }
            NodeChoice::Node(node) => Some(self.forward_to_group(node, target.filter(), message, 0, done)),
            NodeChoice::Shard => None,
        }
    }

    /// Gives a message to one member of a group on this node, to another one if that cannot take it; returns whether there is one.
    fn deliver_to_local_group(
        &mut self,
        group: &Arc<Group>,
        message: &Transit<'_>,
        hint: &PickHint<'_>,
    ) -> bool {
        let Some(picked) = group.pick(hint) else { return false };
        let worker = picked.subscriber.session.worker;
        if worker == self.id {
            self.deliver_to_picked(&picked, message);
        } else {
            self.push_picked(picked, message);
        }
        true
    }

    fn push_picked(&mut self, picked: Picked, message: &Transit<'_>) {
        let worker = usize::from(picked.subscriber.session.worker);
        self.outbound[worker].push(message, Receivers::One(picked));
        self.wake_flusher();
    }

    /// Gives a message to the member that was picked; while that cannot take it, to another, up to a bound.
    fn deliver_to_picked(&mut self, picked: &Picked, message: &Transit<'_>) {
        let mut picked = picked.clone();
        let mut dropped = None;
        loop {
            let session = picked.subscriber.session;
            if session.worker != self.id {
                return self.push_picked(picked, message);
            }
            let grant = Grant::of(&picked.subscriber);
            let options = options(&grant, message, Some(Arc::clone(&picked.filter)));
            match self.try_deliver(session, message, &options) {
                Some(Delivered::Sent | Delivered::Queued { .. }) => return,
                Some(Delivered::Dropped(DropReason::Expired)) => {
                    return self.count_drop(DropReason::Expired, 1);
                }
                Some(Delivered::Dropped(reason)) => dropped = Some(reason),
                None => {}
            }
            let tried = picked.tried + 1;
            let hint = PickHint { exclude: Some(session), ..PickHint::of(message, self.random.next()) };
            let next = self.node.router.group(&picked.filter).and_then(|group| group.pick(&hint));
            match next {
                Some(next) if tried < TRIES_MAX => picked = Picked { tried, ..next },
                _ if tried < TRIES_MAX && self.forward_to_other_node(&picked.filter, message, tried) => {
                    return;
                }
                _ if self.store_for_group(&picked.filter, message) => return,
                _ => {
                    // Lost once, however many could not take it.
                    if let Some(reason) = dropped {
                        self.count_drop(reason, 1);
                    }
                    return;
                }
            }
        }
    }

    /// Gives messages of shared subscriptions that a session did not finish to other members.
    pub(super) fn redispatch(&mut self, from: SessionRef, messages: Vec<(Arc<TopicFilter>, Arc<Message>)>) {
        for (filter, message) in messages {
            self.deliver_to_other(&filter, &message, Some(from));
        }
    }

    /// Gives a message of a shared subscription to somebody, which a node that has ended may have lost.
    pub(super) fn redispatch_lost(&mut self, filter: &str, message: &Arc<Message>) {
        let Ok(filter) = TopicFilter::parse(filter, self.node.limits.max_topic_levels) else { return };
        self.deliver_to_other(&filter, message, None);
    }

    /// Gives a message that no shard keeps for the group to a member, if there is one that may have it, or else to the shard of the
    /// group.
    fn deliver_to_other(
        &mut self,
        filter: &TopicFilter,
        message: &Arc<Message>,
        exclude: Option<SessionRef>,
    ) {
        let target = self.node.group_target(filter);
        let message = Transit::from_message(message);
        let hint = PickHint { exclude, ..PickHint::of(&message, self.random.next()) };
        let choice = target.choose_member(self.node.router.strategy(), &hint, None);
        if self.deliver_to_chosen(&target, choice, &message, &hint, None).is_none() {
            self.store_for_group(filter, &message);
        }
    }

    /// Gives a message to one session of this worker, if it is still there.
    pub(super) fn deliver(&mut self, to: SessionRef, message: &Transit<'_>, options: &DeliveryOptions) {
        if let Some(Delivered::Dropped(reason)) = self.try_deliver(to, message, options) {
            self.count_drop(reason, 1);
        }
    }

    /// Gives a message to one session of this worker; `None` if it is gone. The caller counts it if it is dropped.
    fn try_deliver(
        &mut self,
        to: SessionRef,
        message: &Transit<'_>,
        options: &DeliveryOptions,
    ) -> Option<Delivered> {
        let now = self.now;
        let entry = self.sessions.entry_of(to.slot, to.epoch)?;
        if self.memory == Level::Critical
            && entry.link.blocked_since.is_some()
            && message.qos.min(options.qos) == QoS::AtMostOnce
        {
            return Some(Delivered::Dropped(DropReason::QueueFull));
        }
        let out = &mut entry.link.out;
        if out.is_empty() && !out.has_storage() {
            out.lend_storage(self.spare.take());
        }
        let delivered = entry.session.deliver(now, message, options, out);
        entry.update_load();
        match delivered {
            Delivered::Sent => {
                self.mark_dirty(to.slot);
                self.metrics().publish_sent(message.qos.min(options.qos), message.payload.len());
            }
            Delivered::Queued { displaced } => {
                self.take_back_storage(to.slot);
                self.metrics().delivery_dropped_queue_full.add(displaced.into());
            }
            Delivered::Dropped(_) => self.take_back_storage(to.slot),
        }
        Some(delivered)
    }

    pub(super) fn count_drop(&self, reason: DropReason, count: u64) {
        let metrics = self.metrics();
        match reason {
            DropReason::QueueFull => metrics.delivery_dropped_queue_full.add(count),
            DropReason::TooLarge => metrics.delivery_dropped_too_large.add(count),
            DropReason::Expired => metrics.delivery_dropped_expired.add(count),
        }
    }

    /// Counts what a shard has lost that this node leads.
    pub(super) fn count_losses(&self, losses: Losses) {
        let metrics = self.metrics();
        metrics.dropped_retained_full.add(losses.not_retained);
        metrics.delivery_dropped_queue_full.add(losses.queue_full);
        metrics.delivery_dropped_expired.add(losses.expired);
        metrics.session_expired.add(losses.sessions);
        metrics.session_discarded.add(losses.discarded);
    }

    /// Counts what a session did on its own since it was last asked, and what it wrote.
    pub(super) fn note_progress(&mut self, slot: u32) {
        let Some(entry) = self.sessions.entry(slot) else { return };
        let report = entry.session.take_report();
        entry.update_load();
        let has_output = !entry.link.out.is_empty();
        let metrics = self.metrics();
        for (qos, &sent) in
            [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce].into_iter().zip(&report.sent)
        {
            metrics.qos_sent[qos as usize].add(sent.into());
            metrics.packets_sent(PacketType::Publish, sent.into());
        }
        metrics.messages_acked.add(report.acked.into());
        self.count_drop(DropReason::Expired, report.expired.into());
        self.count_drop(DropReason::TooLarge, report.too_large.into());
        if has_output {
            self.mark_dirty(slot);
        }
    }
}

pub(crate) fn options(
    grant: &Grant,
    message: &Transit<'_>,
    shared: Option<Arc<TopicFilter>>,
) -> DeliveryOptions {
    DeliveryOptions {
        qos: grant.qos,
        retain: message.retain && grant.retain_as_published,
        subscription_ids: grant.subscription_ids.clone(),
        shared,
    }
}
