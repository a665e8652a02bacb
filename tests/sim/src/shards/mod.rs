//! The shards as a simulated node takes part in them. The groups and their state are the real ones; what stands around them in the
//! broker (`src/shards`, and the part of its workers that serves durable sessions) is here in small, and named alike.

mod client;
mod host;
mod leader;
mod line;
mod link;
mod members;
mod points;
mod replica;
mod seats;
mod streams;

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use flotilla_lane::{Batch, Frame, LaneId, lane_of};
use flotilla_raft::peers::{RaftService, RaftTransport};
use flotilla_shard::{Connection, EncodedPart, PartAnswer, Seq};
use flotilla_state::{Member, ShardId, ShardRing};
use flotilla_wal::{Files, Wal};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

pub use self::{
    client::Clients,
    link::Content,
    points::{Points, PowerFailed},
    replica::Replica,
};
use self::{
    line::{Leader, Line, Wish},
    seats::{Delivery, Event, Seats},
};
use crate::{
    disk::SimStore,
    node::{Control, Process},
};

/// The shards as one process takes part in them.
#[derive(Default)]
pub struct Shards {
    lines: OnceLock<Lines>,
    replicas: RwLock<BTreeMap<ShardId, Arc<Replica>>>,
    /// The connections of this node.
    pub seats: Seats,
    ground: OnceLock<Ground>,
    changed: Notify,
}

struct Lines {
    ring: ShardRing,
    lines: Vec<Line>,
}

/// What the groups of the shards need.
pub struct Ground {
    /// Where their states are.
    pub store: SimStore,
    /// Where their logs are.
    pub wal: Wal,
    /// Where snapshots are that are on their way.
    pub files: Arc<dyn Files>,
    /// Takes what other nodes send to the groups.
    pub raft: RaftService,
    /// The way to them.
    pub transport: Arc<RaftTransport>,
}

/// Something that a node says about a shard.
#[derive(Debug, Clone)]
pub struct Message {
    shard: ShardId,
    /// The term of the leader who says it, or to whom it is said.
    term: u64,
    what: What,
}

#[derive(Debug, Clone)]
enum What {
    /// The sender leads.
    Lead { round: u64 },
    /// To the leader: put this into the log.
    Part { number: u64, part: EncodedPart },
    /// From the leader: what became of it.
    Answer { number: u64, answer: PartAnswer },
    /// To the leader: a connection wants the messages of its session.
    Attach { connection: Connection, from: Seq },
}

/// What is on its way between nodes. Only its number travels in the lane: the format of these messages is the broker's, and tested
/// there.
#[derive(Default)]
pub struct Parcels(Mutex<(u64, BTreeMap<u64, Message>)>);

impl Parcels {
    fn put(&self, message: Message) -> u64 {
        let (last, parcels) = &mut *self.0.lock();
        *last += 1;
        parcels.insert(*last, message);
        *last
    }

    fn take(&self, bytes: &[u8]) -> Option<Message> {
        let number = u64::from_le_bytes(bytes.try_into().ok()?);
        self.0.lock().1.remove(&number)
    }
}

impl Shards {
    /// The replicas that are here.
    pub fn replicas(&self) -> Vec<Arc<Replica>> {
        self.replicas.read().values().cloned().collect()
    }

    /// Whether nothing of this node waits for a shard.
    pub fn is_idle(&self) -> bool {
        self.lines.get().is_none_or(|lines| lines.lines.iter().all(Line::is_idle)) && self.seats.is_idle()
    }

    fn replica(&self, shard: ShardId) -> Option<Arc<Replica>> {
        self.replicas.read().get(&shard).cloned()
    }

    fn line(&self, shard: ShardId) -> Option<&Line> {
        self.lines.get()?.lines.get(usize::from(shard.0))
    }

    fn all(&self) -> impl Iterator<Item = &Line> {
        self.lines.get().into_iter().flat_map(|lines| &lines.lines)
    }

    /// The state says something else about shards.
    pub fn note_changed(&self) {
        self.changed.notify_one();
    }
}

impl Process {
    /// Begins to hold what shall be here, and to serve clients.
    pub fn run_shards(self: &Arc<Self>, ground: Ground, seed: u64) {
        self.shards.ground.get_or_init(|| ground);
        tokio::spawn(host::run(Arc::clone(self), seed));
        tokio::spawn(seats::run(Arc::clone(self), seed));
        tokio::spawn(host::wander(Arc::clone(self), seed));
    }

    /// This node begins a life, or ends one.
    pub fn begin_shard_life(&self, me: Option<Member>) {
        if !self.shared().has_shards {
            return;
        }
        if let Some(shards) = self.meta.state().read().cluster().map(|cluster| cluster.shards) {
            self.shards.lines.get_or_init(|| Lines {
                ring: ShardRing::new(shards),
                lines: (0..shards).map(|shard| Line::new(ShardId(shard))).collect(),
            });
        }
        self.shards.seats.put(Event::Life);
        self.shards.all().for_each(|line| line.begin_life(me));
        if let Some(me) = me {
            for replica in self.shards.replicas() {
                self.members().into_iter().for_each(|member| replica.desk.member_joined(member));
                replica.desk.member_joined(me);
            }
        }
        self.shards.note_changed();
    }

    /// A member begins a life.
    pub fn shard_member_joined(&self, member: Member) {
        self.shards.replicas().iter().for_each(|replica| replica.desk.member_joined(member));
    }

    /// The life of a member has ended.
    pub fn shard_member_ended(&self, member: Member) {
        self.shards.all().for_each(|line| line.handle_ended(member));
        self.shards.replicas().iter().for_each(|replica| replica.desk.member_ended(member));
    }

    /// Another node says something about a shard.
    pub fn handle_shard_bytes(&self, from: Member, bytes: &[u8]) {
        match self.shared().parcels.take(bytes) {
            Some(message) => self.handle_shard(from, message),
            None => self.shared().check(Err(format!("{from} says something about a shard that is unknown"))),
        }
    }

    fn handle_shard(&self, from: Member, Message { shard, term, what }: Message) {
        let Some(line) = self.shards.line(shard) else { return };
        match what {
            What::Lead { round } => {
                let leader = Leader { member: from, term, round };
                if line.handle_lead(leader, |outgoing| self.send_shards(outgoing)) {
                    self.shards.seats.put(Event::Led(shard));
                }
            }
            What::Answer { number, answer } => {
                let told = line.handle_answer(number, answer, |outgoing| self.send_shards(outgoing));
                for (seat, what, answer) in told {
                    self.shards.seats.put(Event::Answered(seat, what, answer));
                }
            }
            What::Part { number, part } => {
                // What comes from elsewhere is checked before it goes into the log.
                let Ok(part) = EncodedPart::check(Bytes::copy_from_slice(part.bytes())) else {
                    return self.shared().check(Err(format!("a part of {from} does not decode")));
                };
                if let Some(replica) = self.shards.replica(shard) {
                    replica.desk.put_part(term, from, number, part);
                }
            }
            What::Attach { connection, from: next } => {
                if let Some(replica) = self.shards.replica(shard) {
                    replica.desk.attach(term, from, connection, next);
                }
            }
        }
    }

    fn put_wish(&self, shard: ShardId, wish: Wish) {
        if let Some(line) = self.shards.line(shard) {
            line.put(wish, |outgoing| self.send_shards(outgoing));
        }
    }

    fn send_shards(&self, outgoing: line::Outgoing) {
        outgoing.into_iter().for_each(|(to, message)| self.send_shard(to, message));
    }

    fn send_shard(&self, to: Member, message: Message) {
        if to.node == self.meta.node() {
            // What is said to an earlier life is nobody's any more.
            if self.life() == Some(to) {
                self.handle_shard(to, message);
            }
            return;
        }
        let lane = lane(message.shard);
        let number = self.shared().parcels.put(message).to_le_bytes();
        self.send(to, lane, &Frame::Control { kind: Control::Shard as u8, bytes: &number }, None);
    }

    /// A frame has come that a shard has sent to a client; whether it is one.
    pub fn handle_kept(&self, frame: &Frame<'_>) -> bool {
        let delivery = Delivery::of(frame);
        let is_one = delivery.is_some();
        delivery.into_iter().for_each(|kept| self.shards.seats.put(Event::Kept(kept)));
        is_one
    }

    /// Hands messages of a shard out to where their clients are.
    fn deliver_shard(&self, to: Member, shard: ShardId, batch: Batch) {
        if to.node == self.meta.node() {
            return self.shards.seats.put_batch(&batch);
        }
        if let Some(lanes) = self.lanes.get() {
            // Whoever does not live any more has no connections.
            drop(lanes.send(to, lane(shard), batch, Vec::new()));
        }
    }

    /// All members that live, this one included.
    fn members(&self) -> Vec<Member> {
        self.meta.state().read().nodes().filter_map(flotilla_state::Node::member).collect()
    }
}

/// Everything about a shard goes through one lane, so that it keeps its order.
fn lane(shard: ShardId) -> LaneId {
    lane_of(&shard.0.to_le_bytes())
}
