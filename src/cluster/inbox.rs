//! What comes from the other nodes.
//!
//! Each lane is worked off in order, by one thread at a time: messages are matched against this node's subscriptions and
//! go to its workers in one batch each, control frames to whom they are for. A batch counts as taken when the workers have
//! it in their mailboxes; while one of these is congested the receipt is kept, which in the end stops the sender.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use flotilla_lane::{Batch as LaneBatch, CONTROL, Forwarded, Frame, KeptFor, LANES, LaneId, LastPublisher};
use flotilla_mqtt::{
    QoS, Timestamp, Transit,
    session::{ClientId, DeliveryOptions, Sequence},
    topic::TopicFilter,
};
use flotilla_raft::{
    lanes::{LaneEvents, Receipt},
    meta::Lease,
};
use flotilla_state::Member;
use parking_lot::Mutex;

use super::{
    Carrier, Completion,
    claims::{Claims, Input},
    links::{Control, Links},
    reports::{Report, Reports},
};
use crate::{
    node::Node,
    router::{MatchCache, NodeChoice, PickHint, Picked, SessionRef},
    shards::Shards,
    worker::{Batch, Event, KeptDelivery, Receivers, TRIES_MAX},
};

/// Takes what the lanes bring.
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) node: OnceLock<Arc<Node>>,
    pub(super) links: Arc<Links>,
    pub(super) claims: Arc<Claims>,
    pub(super) reports: Arc<Reports>,
    pub(super) shards: OnceLock<Arc<Shards>>,
    pub(super) lease: Lease,
    pub(super) desks: [Mutex<Desk>; LANES as usize],
}

/// The inbox as the lanes call it.
#[derive(Debug)]
pub(super) struct Events(pub(super) Arc<Inbox>);

/// Where one lane is worked off.
#[derive(Debug, Default)]
pub(super) struct Desk {
    cache: MatchCache,
    batches: Vec<Batch>,
    publisher: LastPublisher,
    picks: u64,
}

impl Inbox {
    fn handle(&self, node: &Arc<Node>, from: Member, lane: LaneId, batch: &LaneBatch) {
        let mut desk = self.desks[lane.index()].lock();
        desk.batches.resize_with(node.mailboxes.len(), Batch::default);
        desk.lie_in(batch.bytes());
        let now = node.clock.now();
        for frame in batch.frames() {
            match frame {
                Frame::Publish { message } => desk.publish(node, now, &message),
                Frame::Group { filter, tried, message } => {
                    desk.group(node, &self.links, now, filter, tried, &message);
                }
                Frame::Control { kind, bytes } if lane == CONTROL => self.control(from, kind, bytes),
                Frame::Control { kind, bytes } if Control::from_u8(kind) == Some(Control::Shard) => {
                    desk.hand_over(node);
                    self.shards().handle_bytes(from, bytes.to_vec().into());
                }
                Frame::Control { kind, .. } => {
                    tracing::warn!(%from, kind, "control frame outside of the control lane ignored");
                }
                Frame::Kept { to, options, message } => {
                    let publisher = desk.publisher.of(message.publisher).cloned();
                    desk.kept(node, &to, Some(options), &message.transit(now, publisher.as_ref()));
                }
                Frame::KeptRelease { to } => desk.kept(node, &to, None, &nothing()),
                Frame::Store { .. } => {
                    tracing::warn!(%from, "frame of a shard's log in a lane ignored");
                }
            }
        }
        desk.hand_over(node);
        desk.lie_in(&Bytes::new());
    }

    fn shards(&self) -> &Shards {
        self.shards.get().expect("they are there before anything is received")
    }

    fn control(&self, from: Member, kind: u8, bytes: &[u8]) {
        match Control::from_u8(kind) {
            Some(Control::Registry) => self.claims.put(Input::Message(from, bytes.to_vec().into())),
            Some(Control::Report) => match Report::from_bytes(bytes) {
                Ok(report) => {
                    self.shards().note_space(from.node, report.is_short_of_space);
                    self.reports.put(from, report);
                }
                Err(error) => tracing::warn!(%from, %error, "report of a node does not decode"),
            },
            Some(Control::Shard) => tracing::warn!(%from, "frame about a shard in the control lane ignored"),
            // Of a later version: a node may be asked for what it does not know only when all have it.
            None => tracing::warn!(%from, kind, "unknown control frame ignored"),
        }
    }
}

/// A message that is none: only its place counts.
fn nothing() -> Transit<'static> {
    Transit::new("", &[], &[], QoS::AtLeastOnce, false, None, None, None)
}

impl Carrier for Inbox {
    fn say(&self, to: Member, lane: LaneId, bytes: &Bytes) {
        self.links.send_frame(to, lane, &Frame::Control { kind: Control::Shard as u8, bytes });
    }

    fn deliver(&self, to: Member, lane: LaneId, batch: LaneBatch) {
        let Some(node) = self.node.get() else { return };
        if to.node == node.router.remote().me() {
            self.handle(node, to, lane, &batch);
        } else {
            self.links.send(to, lane, batch, Vec::new());
        }
    }
}

impl Desk {
    /// A message of a shard for one session, or the PUBREL of one.
    fn kept(
        &mut self,
        node: &Node,
        to: &KeptFor<'_>,
        options: Option<DeliveryOptions>,
        message: &Transit<'_>,
    ) {
        let Some(client_id) = ClientId::new(to.client_id) else { return };
        // Where it is not, its connection has ended, and the shard will hear of that.
        let Some(session) = node.registry.find(&client_id) else { return };
        let Some(sequence) = Sequence::new(to.sequence) else { return };
        let delivery = KeptDelivery { term: to.term, epoch: to.epoch, turn: to.turn, sequence, options };
        let receivers = Receivers::Kept(session, Box::new(delivery));
        self.batches[usize::from(session.worker)].push(message, receivers);
    }

    fn publish(&mut self, node: &Node, now: Timestamp, message: &Forwarded<'_>) {
        let matches = self.cache.matches(message.topic, &node.router);
        let transit = message.transit(now, self.publisher.of(message.publisher));
        for (worker, batch) in self.batches.iter_mut().enumerate() {
            if !matches.of_worker(worker).is_empty() {
                batch.push_matched(&transit, None, matches);
            }
        }
    }

    fn group(
        &mut self,
        node: &Node,
        links: &Links,
        now: Timestamp,
        filter: &str,
        tried: u8,
        message: &Forwarded<'_>,
    ) {
        let Ok(filter) = TopicFilter::parse(filter, u16::MAX) else { return };
        self.picks = self.picks.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let random = self.picks;
        let transit = message.transit(now, self.publisher.of(message.publisher));
        let hint = PickHint::of(&transit, random);
        if let Some(picked) = node.router.group(&filter).and_then(|group| group.pick(&hint)) {
            let SessionRef { worker, .. } = picked.subscriber.session;
            let picked = Picked { tried, ..picked };
            return self.batches[usize::from(worker)].push(&transit, Receivers::One(picked));
        }
        // The last member here that may have it has gone since the sender looked.
        let me = node.router.remote().me();
        let choice = node.group_target(&filter).choose_member(node.router.strategy(), &hint, Some(me));
        match choice {
            Some(NodeChoice::Node(to)) if tried < TRIES_MAX => {
                let Some(member) = links.member_of(to) else { return };
                let lane = flotilla_lane::lane_of(message.publisher.unwrap_or(message.topic).as_bytes());
                let frame = Frame::Group { filter: filter.as_str(), tried: tried + 1, message: *message };
                links.send_frame(member, lane, &frame);
            }
            // No node has a member that may have it: the shard of the group may.
            None if message.qos > QoS::AtMostOnce => {
                node.mailboxes[0].send(Event::Redispatch(filter.as_str().into(), transit.keep()));
            }
            Some(_) | None => {}
        }
    }

    fn lie_in(&mut self, bytes: &Bytes) {
        self.batches.iter_mut().for_each(|batch| batch.lie_in(bytes));
    }

    fn hand_over(&mut self, node: &Node) {
        for (batch, mailbox) in self.batches.iter_mut().zip(&node.mailboxes) {
            if !batch.is_empty() {
                mailbox.send(Event::Batch(batch.take()));
            }
        }
    }
}

impl LaneEvents for Events {
    type Done = Completion;

    fn taken(&self, _: Member, _: LaneId, done: Vec<Completion>) {
        self.0.links.complete(done);
    }

    fn received(&self, from: Member, lane: LaneId, batch: LaneBatch, receipt: Receipt) {
        let Some(node) = self.0.node.get() else { return };
        let received = self.0.links.receive();
        self.0.handle(node, from, lane, &batch);
        drop(received);
        if node.mailboxes.iter().any(crate::worker::Mailbox::is_congested) {
            let node = Arc::clone(node);
            tokio::spawn(async move {
                loop {
                    let decongested = node.decongested.notified();
                    if !node.mailboxes.iter().any(crate::worker::Mailbox::is_congested) {
                        break;
                    }
                    decongested.await;
                }
                drop(receipt);
            });
        }
    }

    fn decongested(&self, _: Member) {
        self.0.links.note_decongested();
        if let Some(node) = self.0.node.get() {
            node.note_decongested();
        }
    }

    fn may_acknowledge(&self) -> bool {
        self.0.lease.is_valid(std::time::Instant::now())
    }
}
