//! The retained messages of a node: its replica at work.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use flotilla_lane::{CONTROL, Frame};
use flotilla_mqtt::{Message, QoS, session::ClientId};
use flotilla_retained::{Limits, Replica};
use flotilla_state::{ClusterState, Member, ShardId, ShardRing, limits::SHARDS_MAX};
use parking_lot::Mutex;

use crate::{
    claims::now,
    node::{Control, Process},
};

/// The node's copy of the retained messages.
pub struct Retained {
    replica: Mutex<Replica>,
    /// How topics are divided; known since the cluster is.
    ring: Arc<OnceLock<ShardRing>>,
}

impl Retained {
    /// An empty copy.
    pub fn new() -> Self {
        let ring = Arc::new(OnceLock::<ShardRing>::new());
        let of = Arc::clone(&ring);
        let shard_of = move |topic: &str| of.get().map_or(ShardId(0), |ring| ring.shard_of(topic.as_bytes()));
        let limits = Limits { messages_max: 1_000, bytes_max: 1 << 20 };
        Self { replica: Mutex::new(Replica::new(SHARDS_MAX, Arc::new(shard_of), limits)), ring }
    }

    /// A life begins; `state` is the one that has admitted it.
    pub fn admitted(&self, process: &Process, me: Member, state: &ClusterState) {
        if let Some(cluster) = state.cluster() {
            self.ring.get_or_init(|| ShardRing::new(cluster.shards));
        }
        self.change(process, |replica| {
            replica.admit(me);
            let others =
                state.nodes().filter_map(flotilla_state::Node::member).filter(|member| *member != me);
            others.for_each(|member| replica.member_joined(member));
            place_all(replica, state);
        });
    }

    /// It is over.
    pub fn fenced(&self, process: &Process) {
        self.change(process, Replica::fence);
    }

    /// Another member's life begins.
    pub fn joined(&self, process: &Process, member: Member) {
        self.change(process, |replica| replica.member_joined(member));
    }

    /// It is over.
    pub fn ended(&self, process: &Process, member: Member) {
        self.change(process, |replica| replica.member_ended(member, now()));
    }

    /// A shard was placed.
    pub fn placed(&self, process: &Process, shard: ShardId, state: &ClusterState) {
        self.change(process, |replica| place(replica, shard, state));
    }

    /// All of them were placed, for all that is known.
    pub fn placed_all(&self, process: &Process, state: &ClusterState) {
        self.change(process, |replica| place_all(replica, state));
    }

    /// Another node's replica says something.
    pub fn handle_message(&self, process: &Process, from: Member, bytes: &[u8]) {
        let handled = self.change(process, |replica| replica.handle(from, bytes, now()));
        let name = &process.node.name;
        process
            .shared()
            .check(handled.map_err(|error| format!("{name} does not understand {from}: {error}")));
    }

    /// A client sets a retained message, or deletes it with an empty text.
    pub fn set(&self, process: &Process, publisher: &ClientId, topic: &str, text: String) {
        let message = Message {
            topic: topic.into(),
            properties: bytes::Bytes::new(),
            payload: text.into(),
            qos: QoS::AtLeastOnce,
            retain: true,
            expires_at: None,
            publisher: Some(publisher.clone()),
        };
        // Who is refused is no part of what must hold.
        let _ = self.change(process, |replica| replica.set(&Arc::new(message), now()));
    }

    /// Whether this copy has every change that was answered.
    pub fn is_synced(&self) -> bool {
        self.replica.lock().is_synced()
    }

    /// How many changes this node waits for.
    pub fn pending(&self) -> usize {
        self.replica.lock().pending_len()
    }

    /// What is kept, by topic.
    pub fn content(&self) -> BTreeMap<String, Vec<u8>> {
        let (replica, mut content) = (self.replica.lock(), BTreeMap::new());
        let mut after = None;
        loop {
            let now = flotilla_mqtt::Timestamp::from_millis(0);
            after = replica.page("#", after.as_deref(), 100, now, &mut |message| {
                content.insert(message.topic.to_string(), message.payload.to_vec());
            });
            if after.is_none() {
                return content;
            }
        }
    }

    fn change<T>(&self, process: &Process, change: impl FnOnce(&mut Replica) -> T) -> T {
        let mut replica = self.replica.lock();
        let changed = change(&mut replica);
        // Under the lock, so that it goes out in its order.
        while let Some((to, bytes)) = replica.poll_transmit(now()) {
            process.send(to, CONTROL, &Frame::Control { kind: Control::Retained as u8, bytes: &bytes }, None);
        }
        while replica.poll_answer().is_some() {}
        changed
    }
}

fn place_all(replica: &mut Replica, state: &ClusterState) {
    let shards = state.cluster().map_or(0, |cluster| cluster.shards);
    (0..shards).for_each(|shard| place(replica, ShardId(shard), state));
}

fn place(replica: &mut Replica, shard: ShardId, state: &ClusterState) {
    if let Some(placement) = state.placement(shard) {
        let registrar = placement.registrar().and_then(|node| state.member(node));
        replica.place(shard, placement.epoch, registrar, now());
    }
}
