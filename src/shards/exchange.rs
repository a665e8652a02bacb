//! What nodes say to each other about shards: who it is for here, and how it goes out.

use std::sync::Weak;

use bytes::Bytes;
use flotilla_shard::PartAnswer;
use flotilla_state::{Member, ShardId};

use super::{
    Shards,
    clock::ShardClock,
    lane,
    line::{Leader, Outgoing},
    message::{Message, What},
};
use crate::worker::Event;

impl Shards {
    /// Another node says something about a shard.
    pub(crate) fn handle_bytes(&self, from: Member, bytes: Bytes) {
        match Message::decode(bytes) {
            Ok(message) => self.handle(from, message),
            Err(error) => {
                tracing::error!(%from, %error, "what another node says about shards is not understood");
            }
        }
    }

    fn handle(&self, from: Member, Message { shard, term, what }: Message) {
        let Some(line) = self.line(shard) else { return };
        match what {
            What::Lead { round, now } => {
                let leader = Leader { member: from, term, round };
                if line.handle_lead(leader, ShardClock::at(now), |outgoing| self.send_all(outgoing)) {
                    self.have_sessions_attach(shard);
                    self.have_letters_sent();
                }
            }
            What::Answer { number, answer, routes_at } => {
                self.when_routed(routes_at, move |shards| shards.answered(shard, number, answer));
            }
            What::Part(part) => {
                if let Some(replica) = self.replica(shard) {
                    replica.desk.put_part(from, term, part);
                }
            }
            What::Attach(attach) => {
                if let Some(replica) = self.replica(shard) {
                    replica.desk.attach(from, term, attach);
                }
            }
            What::Query(query) => {
                if let Some(replica) = self.replica(shard) {
                    replica.desk.query(from, term, query);
                }
            }
            What::Presence(presence) => {
                line.handle_presence(presence, |outgoing| self.send_all(outgoing));
            }
            What::Page(page) => {
                if let Some(node) = self.node.get() {
                    line.handle_page(node, page, |outgoing| self.send_all(outgoing));
                }
            }
            What::Letters(letters) => {
                if let Some(replica) = self.replica(shard) {
                    replica.desk.put_letters(from, term, letters);
                }
            }
            What::Posted { numbers, routes_at } => self.when_routed(routes_at, move |shards| {
                if let Some(replica) = shards.replica(shard) {
                    replica.desk.posted(numbers);
                }
            }),
        }
    }

    fn answered(&self, shard: ShardId, number: u64, answer: PartAnswer) {
        if let (Some(line), Some(node)) = (self.line(shard), self.node.get()) {
            line.handle_answer(node, number, answer, |outgoing| self.send_all(outgoing));
        }
    }

    /// The last entry of the meta group's log whose routes this node knows.
    pub(super) fn routes_at(&self) -> u64 {
        self.meta.group().status().applied.unwrap_or(0)
    }

    /// Does something when this node knows the routes of an entry of the meta group's log, too: who has subscribed here, and publishes here,
    /// gets it. Those who wait are answers, of which there is a bounded number.
    fn when_routed(&self, at: u64, act: impl FnOnce(&Self) + Send + 'static) {
        if at <= self.routes_at() {
            return act(self);
        }
        let Some(shards) = self.this.get().and_then(Weak::upgrade) else { return };
        let me = self.me();
        let mut meta = self.meta.group().watch();
        tokio::spawn(async move {
            // When the group has stopped, so has the life of this node. In another life other parts have the same numbers.
            if meta.wait_for(|status| status.applied >= Some(at)).await.is_ok() && shards.me() == me {
                act(&shards);
            }
        });
    }

    /// A shard has another leader: it may lack letters that were sent to the one before.
    fn have_letters_sent(&self) {
        for replica in self.replicas.read().values() {
            replica.desk.post_again();
        }
    }

    fn have_sessions_attach(&self, shard: ShardId) {
        for mailbox in self.node.get().iter().flat_map(|node| &node.mailboxes) {
            mailbox.send(Event::ShardLed(shard));
        }
    }

    pub(super) fn send_all(&self, outgoing: Outgoing) {
        for (to, message) in outgoing {
            self.send(to, message);
        }
    }

    pub(super) fn send(&self, to: Member, message: Message) {
        if to.node == self.node() {
            // What is said to an earlier life of this node is nobody's any more: others have what is said to them in lanes, which end with a life.
            if to == self.me() {
                self.handle(to, message);
            }
            return;
        }
        self.carrier.say(to, lane(message.shard), &message.encode());
    }
}
