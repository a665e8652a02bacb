//! The shards as this node takes part in them.
//!
//! A shard is a Raft group that keeps what must survive a node: the sessions that outlive their connections, and their messages.
//! [`flotilla_shard`] is its state machine. Here is what stands around it on each node:
//!
//! * `line`: the way from this node to the leader of each shard, for what its clients want done;
//! * `host`, `replica`: the replicas that this node holds;
//! * `space`: what happens where their disks are nearly full;
//! * `leader`: what this node does for the shards that it leads, with `desk`, `streams`, `routes` and `members`;
//! * `post`: what shards tell each other;
//! * `exchange`: what nodes say to each other, in the form of `message`;
//! * `presence`: who has a session;
//! * `retained`: looking up retained messages;
//! * `backup`: what a shard tells a backup, and takes from one.
//!
//! Nodes talk about shards in lanes, so that nothing is lost between two lives, and everything about a shard keeps its order. Who
//! leads says so to every member, when it begins to lead and when a member begins a life; whoever hears it sends what was not
//! answered to the new leader, and has its connections ask for their messages.

mod backup;
mod certain;
mod clock;
mod desk;
mod exchange;
mod host;
mod leader;
mod line;
mod losses;
mod members;
mod message;
mod post;
mod presence;
mod replica;
mod retained;
mod routes;
mod space;
mod streams;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use flotilla_lane::{Batch, LaneId, Origin, lane_of};
use flotilla_mqtt::{Message as MqttMessage, session::ClientId};
use flotilla_raft::meta::Meta;
use flotilla_rpc::admin::ShardReplica;
use flotilla_shard::{Answer, Connection, Op, Seq, SessionId, SessionInfo, WillId};
use flotilla_state::{ClusterState, Member, NodeId, ShardId, ShardRing};
use parking_lot::RwLock;
use tokio::sync::{Notify, oneshot};

use self::{
    clock::ShardClock,
    line::{Leader, Line, Waiting, Wish},
    message::{Attach, Message, What},
    replica::Replica,
    space::Space,
};
pub(crate) use self::{host::Ground, losses::Losses, retained::Page};
use crate::{
    cluster::{Carrier, Completion},
    node::Node,
    worker::Event,
};

/// The shards as this node takes part in them.
pub(crate) struct Shards {
    meta: Meta,
    state: Arc<RwLock<ClusterState>>,
    ground: Ground,
    carrier: Arc<dyn Carrier>,
    /// How many shards there are, and a line to each; known since the cluster is.
    lines: OnceLock<Lines>,
    replicas: RwLock<BTreeMap<ShardId, Arc<Replica>>>,
    node: OnceLock<Arc<Node>>,
    this: OnceLock<Weak<Self>>,
    /// Told when the state says something else about shards.
    changed: Notify,
    /// Whether the node stops.
    has_ended: AtomicBool,
    space: Space,
    /// Whether a replica on this node has failed.
    has_failed: AtomicBool,
}

/// What a node takes on its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct DiskUse {
    pub(crate) log_bytes: u64,
    pub(crate) store_bytes: u64,
    pub(crate) is_nearly_full: bool,
}

#[derive(Debug)]
struct Lines {
    ring: ShardRing,
    /// By shard.
    lines: Box<[Line]>,
}

impl Shards {
    pub(crate) fn new(meta: Meta, ground: Ground, carrier: Arc<dyn Carrier>) -> Self {
        Self {
            state: meta.state(),
            meta,
            ground,
            carrier,
            lines: OnceLock::new(),
            replicas: RwLock::default(),
            node: OnceLock::new(),
            this: OnceLock::new(),
            changed: Notify::new(),
            has_ended: AtomicBool::new(false),
            space: Space::default(),
            has_failed: AtomicBool::new(false),
        }
    }

    /// Begins to hold what shall be here.
    pub(crate) fn run(self: &Arc<Self>, node: Arc<Node>) {
        self.node.set(node).expect("it runs once");
        self.this.set(Arc::downgrade(self)).expect("it runs once");
        tokio::spawn(Arc::clone(self).host());
        tokio::spawn(Arc::clone(self).watch_space());
    }

    /// The shard that keeps the session of a client, or the retained message of a topic; `None` while there is no cluster.
    pub(crate) fn shard_of(&self, name: &[u8]) -> Option<ShardId> {
        Some(self.lines()?.ring.shard_of(name))
    }

    /// Wants something done for a session, which gets the answer.
    pub(crate) fn ask(&self, shard: ShardId, op: Op, bytes: usize, who: Option<Completion>) {
        let wish = Wish { op, bytes, waiting: who.map(Waiting::Session) };
        self.put(shard, wish);
    }

    /// Wants something done, and does not have to know when.
    pub(crate) fn tell(&self, shard: ShardId, op: Op) {
        self.ask(shard, op, REQUEST_BYTES, None);
    }

    /// Wants messages kept; the completions are answered when they are.
    pub(crate) fn store(&self, shard: ShardId, batch: Batch, completions: Vec<Completion>) {
        let bytes = batch.bytes().len();
        let waiting = (!completions.is_empty()).then_some(Waiting::Stored(completions));
        self.put(shard, Wish { op: Op::Publish { batch }, bytes, waiting });
    }

    /// Wants something done, and waits for the answer; an error if this node's life ends before.
    pub(crate) fn request(&self, shard: ShardId, op: Op) -> oneshot::Receiver<Answer> {
        let (sender, answer) = oneshot::channel();
        self.request_for(shard, op, sender);
        answer
    }

    /// As [`Shards::request`], for whoever waits already.
    pub(crate) fn request_for(&self, shard: ShardId, op: Op, who: oneshot::Sender<Answer>) {
        let open = if let Op::Open(open) = &op { Some(&**open) } else { None };
        let will = open.and_then(|open| open.will.as_ref()).map_or(0, |will| will.message.size());
        let client = open.map_or(0, |open| open.connection.client.as_str().len());
        let bytes = REQUEST_BYTES + will + client;
        self.put(shard, Wish { op, bytes, waiting: Some(Waiting::Task(who)) });
    }

    /// Asks the leader for the messages of a session.
    pub(crate) fn attach(&self, shard: ShardId, connection: Connection, from: Seq, maybe_sent_until: Seq) {
        let Some(Leader { member, term, .. }) = self.line(shard).and_then(Line::leader) else { return };
        let what = What::Attach(Attach { connection, from, maybe_sent_until });
        self.send(member, Message { shard, term, what });
    }

    /// The term of the leader that this node knows of; 0: of none.
    pub(crate) fn term(&self, shard: ShardId) -> u64 {
        self.line(shard).and_then(Line::leader).map_or(0, |leader| leader.term)
    }

    /// The leader that this node knows of, and its term.
    pub(crate) fn leader(&self, shard: ShardId) -> Option<(u64, u64)> {
        let Leader { member, term, .. } = self.line(shard)?.leader()?;
        Some((member.node.0, term))
    }

    /// The shards, in order; none while there is no cluster.
    pub(crate) fn ids(&self) -> Vec<ShardId> {
        (0..self.count()).filter_map(|number| u16::try_from(number).ok()).map(ShardId).collect()
    }

    /// How many shards there are; none while there is no cluster.
    pub(crate) fn count(&self) -> usize {
        self.lines().map_or(0, |lines| lines.lines.len())
    }

    /// The sessions of the clients behind `after`, in order and at most `count_max`, if this node leads the shard.
    pub(crate) fn sessions_led(
        &self,
        shard: ShardId,
        after: Option<&ClientId>,
        count_max: usize,
    ) -> Vec<SessionInfo> {
        let is_led = self.leader(shard).is_some_and(|(node, _)| node == self.node().0);
        match self.replica(shard).filter(|_| is_led) {
            Some(replica) => replica.state.shard.lock().sessions(after, count_max),
            None => Vec::new(),
        }
    }

    /// How the replica on this node is doing, if there is one. It may wait for the disk.
    pub(crate) fn replica_status(&self, shard: ShardId) -> Option<ShardReplica> {
        let replica = self.replica(shard)?;
        let status = replica.group.status();
        let stats = replica.state.shard.lock().stats();
        Some(ShardReplica {
            apply_lag: status.apply_lag(),
            commit_lag: status.commit_lag(),
            log_bytes: status.log_bytes,
            sessions: stats.sessions,
            attached: stats.attached,
            queued_messages: stats.queued_messages,
            queued_bytes: stats.queued_bytes,
            votes: status.voters.contains(&self.node().0)
                && !status.is_joint
                && status.membership_at <= status.committed,
            restoring: stats.restoring,
        })
    }

    /// How the shards are doing that this node leads. It may wait for the disk.
    pub(crate) fn led(&self) -> BTreeMap<u32, ShardReplica> {
        let is_led = |id: &ShardId| self.leader(*id).is_some_and(|(node, _)| node == self.node().0);
        let led = self.ids().into_iter().filter(is_led);
        led.filter_map(|id| Some((id.0.into(), self.replica_status(id)?))).collect()
    }

    /// Counts what a shard which this node leads has lost.
    fn count_losses(&self, losses: Losses) {
        if let Some(node) = self.node.get().filter(|_| losses != Losses::default()) {
            node.mailboxes[0].send(Event::Losses(losses));
        }
    }

    /// What the log and the state of this node take on its disk. It waits for the disk.
    pub(crate) fn disk_use(&self) -> DiskUse {
        DiskUse {
            log_bytes: self.ground.wal.status().bytes,
            store_bytes: self.ground.store.status().disk_bytes,
            is_nearly_full: *self.is_short_of_space().borrow(),
        }
    }

    /// Whether publishers should wait for a shard: so much waits already, or its disks are nearly full.
    pub(crate) fn is_congested(&self, shard: ShardId) -> bool {
        self.line(shard).is_some_and(Line::is_congested)
    }

    /// Whether so much waits for a shard that who connects should come again later.
    pub(crate) fn is_busy(&self, shard: ShardId) -> bool {
        self.line(shard).is_some_and(Line::is_busy)
    }

    /// Whether so much waits for a shard that publishers should be sent away.
    pub(crate) fn is_overrun(&self, shard: ShardId) -> bool {
        self.line(shard).is_some_and(Line::is_overrun)
    }

    /// Whether nothing of this node waits for a shard.
    pub(crate) fn is_idle(&self) -> bool {
        self.lines().is_none_or(|lines| lines.lines.iter().all(Line::is_idle))
    }

    /// A will that a shard has asked for is on its way to everybody, and kept.
    pub(crate) fn will_done(&self, shard: ShardId, will: WillId) {
        if let Some(replica) = self.replica(shard) {
            replica.desk.will_done(will);
        }
    }

    /// This node begins a life, or ends one. The caller holds no lock of the cluster's state.
    pub(crate) fn begin_life(&self, me: Option<Member>) {
        if let Some(shards) = self.state.read().cluster().map(|cluster| cluster.shards) {
            self.lines.get_or_init(|| Lines {
                ring: ShardRing::new(shards),
                lines: (0..shards).map(|shard| Line::new(ShardId(shard))).collect(),
            });
        }
        for line in self.lines().iter().flat_map(|lines| &lines.lines) {
            line.begin_life(me, |outgoing| self.send_all(outgoing));
        }
        if let Some(me) = me {
            // Whoever leads here says so to all, this node included.
            self.member_joined(me);
        }
        self.changed.notify_one();
    }

    /// A member begins a life.
    pub(crate) fn member_joined(&self, member: Member) {
        let is_me = member.node == self.node();
        for replica in self.replicas.read().values() {
            if is_me {
                self.for_each_member(|other| replica.desk.member_joined(other));
            }
            replica.desk.member_joined(member);
        }
    }

    /// The life of a member has ended.
    pub(crate) fn member_ended(&self, member: Member) {
        self.space.ended(member.node);
        for line in self.lines().iter().flat_map(|lines| &lines.lines) {
            line.handle_ended(member);
        }
        for replica in self.replicas.read().values() {
            replica.desk.member_ended(member);
        }
    }

    /// How many shards this node is still a member of, or has founded.
    pub(crate) fn memberships(&self) -> usize {
        let me = self.node();
        let is_member = |shard: &flotilla_state::Shard| match shard.members.is_empty() {
            true => shard.founders.contains(&me),
            false => shard.members.contains(&me),
        };
        self.state().read().shards().iter().filter(|(_, shard)| is_member(shard)).count()
    }

    /// Has others lead the shards that this node leads, where there is somebody who can: it is about to stop.
    pub(crate) async fn hand_over(&self) {
        let replicas: Vec<_> = self.replicas.read().values().cloned().collect();
        let handed_over = replicas.iter().map(|replica| members::hand_over(replica, self));
        futures_util::future::join_all(handed_over).await;
    }

    /// Stops the groups: the node is about to stop.
    pub(crate) async fn shutdown(&self) {
        self.has_ended.store(true, Ordering::SeqCst);
        let replicas: Vec<_> = self.replicas.read().values().cloned().collect();
        futures_util::future::join_all(replicas.iter().map(|replica| replica.group.shutdown())).await;
    }

    /// A replica has failed on this node, which takes no part in the cluster any more until it is started again: its disk may be lost
    /// to other replicas, too, and others serve its clients better. The replicas that are well go on to vote.
    async fn fail(&self, shard: ShardId, reason: &str) {
        if self.has_ended.load(Ordering::SeqCst) || self.has_failed.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::error!(
            shard = shard.0,
            reason,
            "a replica of a shard has failed: this node leaves service, and others serve its clients; look after its disk, then start it \
             again; if it fails again, start it with an empty data directory, and it gets its replicas from the others"
        );
        self.meta.withdraw(Instant::now() + WITHDRAWAL_TIMEOUT).await;
        tokio::join!(self.hand_over(), self.meta.hand_over_leadership());
    }

    /// Whether a replica on this node has failed, so that it serves nobody.
    pub(crate) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Acquire)
    }

    /// The state says something else about shards.
    pub(crate) fn note_changed(&self) {
        self.changed.notify_one();
    }

    fn put(&self, shard: ShardId, wish: Wish) {
        if let Some(line) = self.line(shard) {
            line.put(wish, |outgoing| self.send_all(outgoing));
        }
    }

    /// Hands messages of a shard out to the node where their clients are.
    fn deliver(&self, to: Member, shard: ShardId, batch: Batch) {
        self.carrier.deliver(to, lane(shard), batch);
    }

    fn for_each_member(&self, visit: impl FnMut(Member)) {
        let members: Vec<Member> =
            self.state.read().nodes().filter_map(flotilla_state::Node::member).collect();
        members.into_iter().for_each(visit);
    }

    /// A session that has published at QoS 2 has ended: no shard has to know its messages from repetitions any more.
    fn forget_publisher(&self, shard: ShardId, session: SessionId) {
        for other in self.ids() {
            self.tell(other, Op::ForgetPublisher { shard, session });
        }
    }

    /// Publishes wills; `floor` is the first one that is to be published, and `now` the time of the shard. Whoever leads next may do so
    /// again: shards know them from repetitions as they do messages of QoS 2, those of a session that no client has.
    fn publish_wills(
        &self,
        shard: ShardId,
        wills: Vec<(WillId, Arc<MqttMessage>)>,
        floor: Option<WillId>,
        now: u64,
    ) {
        for (will, message) in wills {
            let floor = floor.map_or(will.0, |floor| floor.0.min(will.0));
            let origin = Origin { shard, session: NO_SESSION, number: will.0, floor };
            self.publish_will(origin, &message, now);
        }
    }

    fn publish_will(&self, origin: Origin, message: &MqttMessage, now: u64) {
        let Some(node) = self.node.get() else { return };
        let expires_at = message.expires_at.map(|at| {
            let left = at.as_millis().saturating_sub(now);
            node.clock.now() + Duration::from_millis(left)
        });
        let message = Arc::new(MqttMessage { expires_at, ..message.clone() });
        node.mailboxes[0].send(Event::ShardWill(origin, message));
    }

    fn replica(&self, shard: ShardId) -> Option<Arc<Replica>> {
        self.replicas.read().get(&shard).cloned()
    }

    /// The time of a shard, for whoever begins to lead it here.
    fn clock(&self, replica: &Replica) -> ShardClock {
        replica.state.clock(self.line(replica.id).and_then(Line::clock))
    }

    fn line(&self, shard: ShardId) -> Option<&Line> {
        self.lines()?.lines.get(usize::from(shard.0))
    }

    fn lines(&self) -> Option<&Lines> {
        self.lines.get()
    }

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn state(&self) -> &RwLock<ClusterState> {
        &self.state
    }

    fn node(&self) -> NodeId {
        self.meta.node()
    }

    /// This node in its present life, or in none.
    fn me(&self) -> Member {
        let none = Member { node: self.node(), incarnation: flotilla_state::Incarnation(0) };
        self.meta.me().borrow().unwrap_or(none)
    }
}

/// Sessions of these shards whose clients are away.
pub(crate) fn away(shards: &BTreeMap<u32, ShardReplica>) -> u64 {
    shards.values().map(|replica| replica.sessions.saturating_sub(replica.attached)).sum()
}

/// How long the others are tried to be told that this node is gone.
const WITHDRAWAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Sessions have numbers from 1 on.
const NO_SESSION: u64 = 0;

/// What is larger is not kept for sessions, nor retained: it would not fit an entry of the log.
pub(crate) const MESSAGE_BYTES_MAX: usize = 3 << 19;

/// About what a request takes, beside a will and the name of its client.
const REQUEST_BYTES: usize = 256;

/// Everything about a shard goes through one lane, so that it keeps its order.
fn lane(shard: ShardId) -> LaneId {
    lane_of(&shard.0.to_le_bytes())
}

impl std::fmt::Debug for Shards {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shards").field("node", &self.node()).finish_non_exhaustive()
    }
}
