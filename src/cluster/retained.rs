//! Retained messages in a cluster: the node's replica at work.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use flotilla_mqtt::{Message, ReasonCode, Timestamp};
use flotilla_retained::{Full, Limits, Outcome, Replica, RequestId, SetError};
use flotilla_state::{ClusterState, LogIndex, Member, ShardId, ShardRing, limits::SHARDS_MAX};
use parking_lot::RwLock;

use super::{
    Completion, Receipt,
    links::{Control, Links},
};
use crate::{clock::Clock, config, node::Node, retained::Retained, worker::Event};

/// The node's copy of the retained messages.
#[derive(Debug)]
pub(crate) struct Replicated {
    inner: RwLock<Inner>,
    /// How topics are divided; known since the cluster is.
    ring: Arc<OnceLock<ShardRing>>,
    links: Arc<Links>,
    clock: Clock,
    node: OnceLock<Arc<Node>>,
}

#[derive(Debug)]
struct Inner {
    replica: Replica,
    /// Who waits for which change.
    waiting: HashMap<RequestId, Completion>,
}

impl Replicated {
    pub(super) fn new(limits: &config::Retained, links: Arc<Links>, clock: Clock) -> Self {
        let ring = Arc::new(OnceLock::<ShardRing>::new());
        let bytes_max = limits.bytes_max.and_then(|bytes| usize::try_from(bytes).ok());
        let limits = Limits {
            messages_max: limits.messages_max.unwrap_or(usize::MAX),
            bytes_max: bytes_max.unwrap_or(usize::MAX),
        };
        let of = Arc::clone(&ring);
        // Nobody asks for a shard before the first admission, which knows how many there are.
        let shard_of = move |topic: &str| of.get().map_or(ShardId(0), |ring| ring.shard_of(topic.as_bytes()));
        let replica = Replica::new(SHARDS_MAX, Arc::new(shard_of), limits);
        let inner = RwLock::new(Inner { replica, waiting: HashMap::new() });
        Self { inner, ring, links, clock, node: OnceLock::new() }
    }

    pub(super) fn connect(&self, node: Arc<Node>) {
        self.node.set(node).expect("it is connected once");
    }

    /// This node is a member in a new life; `state` is the one that has admitted it.
    pub(super) fn admitted(&self, me: Member, state: &ClusterState) {
        if let Some(cluster) = state.cluster() {
            self.ring.get_or_init(|| ShardRing::new(cluster.shards));
        }
        self.change(|replica, now| {
            replica.admit(me);
            let others =
                state.nodes().filter_map(flotilla_state::Node::member).filter(|member| *member != me);
            others.for_each(|member| replica.member_joined(member));
            place_all(replica, state, now);
        });
    }

    pub(super) fn fenced(&self) {
        self.change(|replica, _| replica.fence());
    }

    pub(super) fn joined(&self, member: Member) {
        self.change(|replica, _| replica.member_joined(member));
    }

    pub(super) fn ended(&self, member: Member) {
        self.change(|replica, now| replica.member_ended(member, now));
    }

    pub(super) fn placed(&self, shard: ShardId, state: &ClusterState) {
        self.change(|replica, now| place(replica, shard, state, now));
    }

    /// A message of another node's replica.
    pub(super) fn handle_message(&self, from: Member, bytes: &[u8]) {
        self.change(|replica, now| {
            if let Err(error) = replica.handle(from, bytes, now) {
                // The copies may differ from here on: a new life makes them equal.
                tracing::error!(%from, %error, "cannot handle what another node says about retained messages");
                self.links.give_up_life();
            }
        });
    }

    /// Whether this node has every retained message that any client was told is kept.
    pub(super) fn is_synced(&self) -> bool {
        self.inner.read().replica.is_synced()
    }

    /// Changes the replica, then sends and answers what follows from it.
    fn change<T>(&self, change: impl FnOnce(&mut Replica, Timestamp) -> T) -> T {
        let now = self.clock.now();
        let mut inner = self.inner.write();
        let changed = change(&mut inner.replica, now);
        inner.go_on(self, now);
        changed
    }

    fn complete(&self, completion: Completion, reason: ReasonCode) {
        if let Some(node) = self.node.get() {
            let event = Event::Completed(vec![completion], reason, LogIndex::default());
            node.mailboxes[usize::from(completion.session.worker)].send(event);
        }
    }
}

impl Inner {
    /// Sends what is to be sent; under the lock, so that it goes out in its order.
    fn go_on(&mut self, of: &Replicated, now: Timestamp) {
        while let Some((to, bytes)) = self.replica.poll_transmit(now) {
            of.links.send_control(to, Control::Retained, &bytes);
        }
        while let Some(answer) = self.replica.poll_answer() {
            let Some(completion) = self.waiting.remove(&answer.request) else { continue };
            match answer.outcome {
                // The message has reached those who are there, and only is not retained: as for a client that cannot be
                // told. Nothing else can be taken back by now.
                Outcome::Done | Outcome::Refused => of.complete(completion, ReasonCode::Success),
                Outcome::Unknown => {}
            }
        }
    }
}

fn place_all(replica: &mut Replica, state: &ClusterState, now: Timestamp) {
    let shards = state.cluster().map_or(0, |cluster| cluster.shards);
    (0..shards).for_each(|shard| place(replica, ShardId(shard), state, now));
}

fn place(replica: &mut Replica, shard: ShardId, state: &ClusterState, now: Timestamp) {
    if let Some(placement) = state.placement(shard) {
        let registrar = placement.registrar().and_then(|node| state.member(node));
        replica.place(shard, placement.epoch, registrar, now);
    }
}

impl Retained for Arc<Replicated> {
    fn set(&self, message: &Arc<Message>, now: Timestamp, done: Option<Completion>) -> Result<Receipt, Full> {
        let mut inner = self.inner.write();
        let receipt = match inner.replica.set(message, now) {
            Ok(Some(request)) => {
                if let Some(done) = done {
                    inner.waiting.insert(request, done);
                }
                // What nobody waits for is done as far as the caller is concerned.
                if done.is_some() { Ok(Receipt::Later) } else { Ok(Receipt::Done) }
            }
            Ok(None) => Ok(Receipt::Done),
            // Its publisher gets no answer: the connection ends with this node's place in the cluster.
            Err(SetError::NotAMember) if done.is_some() => Ok(Receipt::Later),
            Err(SetError::NotAMember | SetError::Busy) => Err(Full),
        };
        inner.go_on(self, now);
        receipt
    }

    fn page(
        &self,
        filter: &str,
        after: Option<&str>,
        count: usize,
        now: Timestamp,
        visit: &mut dyn FnMut(&Arc<Message>),
    ) -> Option<String> {
        self.inner.read().replica.page(filter, after, count, now, visit)
    }

    fn expire(&self, now: Timestamp) -> usize {
        self.inner.write().replica.expire(now)
    }

    fn len(&self) -> usize {
        self.inner.read().replica.len()
    }
}
