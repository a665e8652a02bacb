//! One process of a node: the crates under test, put together as a broker does it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use flotilla_lane::{Batch, BatchWriter, CONTROL, Frame, LaneId, lane_of};
use flotilla_mqtt::session::ClientId;
use flotilla_raft::{
    lanes::{Channels, LaneChannel, LaneEvents, LaneOptions, Lanes, Receipt, lane_channel},
    meta::{Meta, MetaOptions, Observer, ProposeError},
    peers::{self, Class, Discovery, Peers, RaftTransport, ServeOptions},
};
use flotilla_registry::{Registry, RequestId, View};
use flotilla_state::{ClusterState, Command, Effects, Event, LogIndex, Member, NodeId, Reply};
use openraft_rt::deterministic_rng::DeterministicRng;
use openraft_rt_tokio::TokioRuntime;
use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{Instant, sleep},
};

use crate::{
    claims::{self, Input},
    clients,
    desk::Desk,
    disk::Disk,
    invariants::{Delivery, Forwarding, Founding, Replicas, States, Violation},
    network::{SimConnector, address, listen},
    shards::{Ground, Parcels, Points, Shards},
    trace::Trace,
};

/// The name of the cluster.
pub const CLUSTER_NAME: &str = "sim";

/// What all nodes of a run share.
pub struct Shared {
    /// Whether there are shards, and clients of durable sessions.
    pub has_shards: bool,
    /// What has happened.
    pub trace: Trace,
    /// Whether clients do anything.
    pub is_busy: AtomicBool,
    /// See [`Founding`].
    pub founding: Founding,
    /// See [`States`].
    pub states: States,
    /// See [`Forwarding`].
    pub forwarding: Forwarding,
    /// See [`Replicas`].
    pub replicas: Replicas,
    /// See [`Delivery`].
    pub delivery: Delivery,
    /// Where the power fails.
    pub points: Points,
    /// What nodes say to each other about shards.
    pub parcels: Parcels,
    /// Whether nodes may be taken out of service for a while.
    pub is_moving: AtomicBool,
    /// Snapshots of shards that were installed.
    pub installed: AtomicU64,
    violation: Mutex<Option<Violation>>,
}

impl Shared {
    /// For a run that begins.
    pub fn new(trace: Trace, seed: u64, has_shards: bool) -> Self {
        Self {
            has_shards,
            trace,
            is_busy: AtomicBool::new(true),
            founding: Founding::default(),
            states: States::default(),
            forwarding: Forwarding::default(),
            replicas: Replicas::default(),
            delivery: Delivery::default(),
            points: Points::new(seed),
            parcels: Parcels::default(),
            is_moving: AtomicBool::new(true),
            installed: AtomicU64::new(0),
            violation: Mutex::new(None),
        }
    }

    /// Keeps the first thing that is wrong; the run ends after this step.
    pub fn check(&self, outcome: Result<(), Violation>) {
        if let Err(violation) = outcome {
            self.violation.lock().get_or_insert(violation);
        }
    }

    /// Whether nodes may be taken out of service for a while.
    pub fn is_moving(&self) -> bool {
        self.is_moving.load(Ordering::Relaxed)
    }

    /// What is wrong, if anything.
    pub fn violation(&self) -> Option<Violation> {
        self.violation.lock().clone()
    }
}

/// A node, whether it runs or not.
pub struct Node {
    /// The name of the node and of its host.
    pub name: String,
    /// All nodes, by name.
    pub names: Vec<String>,
    /// How many found the cluster.
    pub expect: u8,
    /// The seed of the run, and the number of the node.
    pub seed: u64,
    /// What it keeps.
    pub disk: Mutex<Disk>,
    /// The process, if one runs.
    pub process: Mutex<Option<Arc<Process>>>,
    /// How many processes there were.
    pub starts: Mutex<u64>,
    /// How long the next process waits before it starts.
    pub start_delay: Mutex<Duration>,
    /// What all nodes share.
    pub shared: Arc<Shared>,
}

impl Node {
    /// A process of the node, until it is crashed.
    pub async fn run(self: Arc<Self>) -> turmoil::Result {
        let delay = std::mem::take(&mut *self.start_delay.lock());
        sleep(delay).await;
        let start = {
            let mut starts = self.starts.lock();
            *starts += 1;
            *starts
        };
        let random = StdRng::seed_from_u64(self.seed.wrapping_mul(1_000_003).wrapping_add(start));
        self.shared.trace.note(format_args!("{} starts", self.name));
        let election_seed = self.seed.wrapping_mul(31).wrapping_add(start);
        let served = Arc::clone(&self).serve(random);
        let ended = DeterministicRng::<TokioRuntime>::scope(election_seed, served).await;
        if ended.is_err() && self.disk.lock().is_failing() {
            // The power fails soon.
            std::future::pending::<()>().await;
        }
        ended
    }

    fn options(&self) -> MetaOptions {
        MetaOptions {
            cluster_name: CLUSTER_NAME.to_owned(),
            discovery: Discovery::Static(self.names.iter().map(|name| address(name)).collect()),
            bootstrap_expect: self.expect,
            heartbeat: Duration::from_millis(100),
            election: Duration::from_millis(300)..Duration::from_millis(600),
            node_down_after: NODE_DOWN_AFTER,
            retry: Duration::from_millis(200),
            shards: if self.shared.has_shards { SHARDS } else { SHARDS_UNUSED },
            // Small, so that snapshots are made, sent and restored all the time.
            log_bytes_max: 8 * 1024,
            log_entries_kept: 16,
            ..MetaOptions::new(&self.name, &address(&self.name))
        }
    }

    async fn serve(self: Arc<Self>, mut random: StdRng) -> turmoil::Result {
        let (storage, store) = {
            let disk = self.disk.lock();
            (disk.open(&self.name)?, disk.store())
        };
        let (wal, files) = (storage.wal().clone(), Arc::clone(storage.files()));
        let log = wal.clone();
        let mut flushing = StdRng::seed_from_u64(random.random());
        tokio::spawn(async move {
            loop {
                sleep(Duration::from_micros(flushing.random_range(500..FLUSH_MICROS_MAX))).await;
                wal.flush();
            }
        });
        let watcher = Arc::new(Watcher { node: Arc::clone(&self), process: OnceLock::new() });
        let observer: Arc<dyn Observer> = Arc::<Watcher>::clone(&watcher);
        let (meta, services) = Meta::open(self.options(), storage, Arc::new(SimConnector), observer).await?;
        let process = Arc::new(Process::new(Arc::clone(&self), meta.clone()));
        let events = Arc::new(Inbox {
            process: Arc::clone(&process),
            random: Mutex::new(StdRng::seed_from_u64(random.random())),
        });
        let channels = Arc::new(PeerChannels(meta.peers().clone()));
        let lanes = Lanes::new(LaneOptions::default(), channels, events, Handle::current());
        let routes = services.routes().add_service(lanes.service());
        process.lanes.get_or_init(|| lanes);
        watcher.process.get_or_init(|| Arc::clone(&process));
        watcher.restored(&meta.state().read());

        *self.process.lock() = Some(Arc::clone(&process));
        meta.run();
        if self.shared.has_shards {
            let (raft, transport) =
                (services.raft.clone(), Arc::new(RaftTransport::new(meta.peers().clone())));
            process.run_shards(Ground { store, wal: log, files, raft, transport }, random.random());
        }
        tokio::spawn(Arc::clone(&process).announce());
        tokio::spawn(claims::run(Arc::clone(&process)));
        tokio::spawn(clients::run(Arc::clone(&process), StdRng::seed_from_u64(random.random())));
        tokio::spawn(Arc::clone(&process).look());
        let incoming = listen().await?;
        let forever = std::future::pending();
        peers::serve_connections(incoming, routes, services.gate, &ServeOptions::default(), forever).await?;
        Ok(())
    }
}

/// What a process has in its memory.
pub struct Process {
    /// The node.
    pub node: Arc<Node>,
    /// The meta group.
    pub meta: Meta,
    /// The lanes, once they are there.
    pub lanes: OnceLock<Lanes<Inbox>>,
    /// Connections and routes.
    pub desk: Mutex<Desk>,
    /// There may be something to announce.
    pub wake: Notify,
    /// What the registry is to be told.
    pub claims: claims::Mailbox,
    /// The registry, once it is known how many shards there are.
    pub registry: Mutex<Option<Registry>>,
    /// The CONNECTs that wait.
    pub requests: Mutex<BTreeMap<RequestId, ClientId>>,
    /// The shards.
    pub shards: Shards,
    /// Whether everything that this node has is known to the cluster.
    pub is_up: AtomicBool,
    /// Whether its lease was valid when it was last looked at.
    pub is_member: AtomicBool,
    /// Whether an announcement is on its way.
    pub is_announcing: AtomicBool,
    /// The life that the lanes live.
    life: Mutex<Option<Member>>,
    /// The other members.
    others: Mutex<BTreeMap<NodeId, Member>>,
}

impl Process {
    fn new(node: Arc<Node>, meta: Meta) -> Self {
        Self {
            node,
            meta,
            lanes: OnceLock::new(),
            desk: Mutex::default(),
            wake: Notify::new(),
            claims: claims::Mailbox::default(),
            registry: Mutex::new(None),
            requests: Mutex::default(),
            shards: Shards::default(),
            is_up: AtomicBool::new(false),
            is_member: AtomicBool::new(false),
            is_announcing: AtomicBool::new(false),
            life: Mutex::new(None),
            others: Mutex::default(),
        }
    }

    /// What all nodes share.
    pub fn shared(&self) -> &Shared {
        &self.node.shared
    }

    /// Notes what has happened on this node.
    pub fn note(&self, what: std::fmt::Arguments<'_>) {
        self.shared().trace.note(format_args!("{} {what}", self.node.name));
    }

    /// The life that the node leads.
    pub fn life(&self) -> Option<Member> {
        *self.life.lock()
    }

    /// Whether clients are served.
    pub fn is_serving(&self) -> bool {
        self.is_up.load(Ordering::Relaxed) && self.has_lease()
    }

    /// The same, for whoever is not on this node and has another clock.
    pub fn is_serving_clients(&self) -> bool {
        self.is_up.load(Ordering::Relaxed) && self.is_member.load(Ordering::Relaxed)
    }

    /// Forwards a message of a client to who wants it.
    pub fn publish(&self, client: &str, topic: &str, message: u64) {
        let mut wanting = Vec::new();
        self.meta.state().read().routes().matches(topic, |node| wanting.push(node), |_| {});
        let lane = lane_of(client.as_bytes());
        for node in wanting {
            let Some(to) = self.others.lock().get(&node).copied() else { continue };
            let Some(from) = self.life() else { continue };
            let frame = Frame::Control { kind: Control::Message as u8, bytes: &message.to_le_bytes() };
            if self.send(to, lane, &frame, Some(message)) {
                self.shared().forwarding.sent(from, to, lane, message);
            }
        }
    }

    /// Sends a frame; whether the other member lives.
    pub fn send(&self, to: Member, lane: LaneId, frame: &Frame<'_>, done: Option<u64>) -> bool {
        let mut writer = BatchWriter::new();
        writer.push(frame);
        let (Some(batch), Some(lanes)) = (writer.take(), self.lanes.get()) else { return false };
        lanes.send(to, lane, batch, done.into_iter().collect()).is_ok()
    }

    fn has_lease(&self) -> bool {
        self.meta.lease().is_valid(Instant::now().into_std())
    }

    /// Keeps [`Process::is_member`]: the clock of this node can only be read from within.
    async fn look(self: Arc<Self>) {
        loop {
            self.is_member.store(self.has_lease(), Ordering::Relaxed);
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Tells the cluster what this node wants.
    async fn announce(self: Arc<Self>) {
        loop {
            let state = self.meta.state();
            let next = self.desk.lock().next_announcement(|filter| state.read().routes().fingerprint(filter));
            let Some(announcement) = next else {
                self.wake.notified().await;
                sleep(Duration::from_millis(2)).await;
                continue;
            };
            self.is_announcing.store(true, Ordering::Relaxed);
            if self.propose_routes(announcement.changes).await && announcement.is_whole {
                tokio::spawn(Arc::clone(&self).begin());
            }
            self.is_announcing.store(false, Ordering::Relaxed);
        }
    }

    /// Proposes changes until they are committed; false: this node's life ended before.
    async fn propose_routes(&self, changes: Vec<flotilla_state::RouteChange>) -> bool {
        let Some(me) = *self.meta.me().borrow() else { return false };
        if changes.is_empty() {
            return true;
        }
        let command = Command::Routes { member: me, changes };
        loop {
            let deadline = (Instant::now() + PROPOSE_TIMEOUT).into_std();
            match self.meta.propose(command.clone(), deadline).await {
                Ok((_, Reply::Done)) => return true,
                Ok((_, Reply::Stale)) => return false,
                Ok((_, reply)) => {
                    self.shared().check(Err(format!("{} got {reply:?} for routes", self.node.name)));
                    return false;
                }
                Err(ProposeError::Refused(error)) => {
                    self.shared().check(Err(format!("routes of {} are refused: {error}", self.node.name)));
                    return false;
                }
                // The node is about to end.
                Err(ProposeError::Stopped(_)) => return false,
                Err(_) => {}
            }
            if *self.meta.me().borrow() != Some(me) {
                return false;
            }
        }
    }

    /// The cluster knows what this node has: clients may come.
    async fn begin(self: Arc<Self>) {
        let Some(me) = self.life() else { return };
        while self.life() == Some(me) {
            match self.meta.set_up((Instant::now() + PROPOSE_TIMEOUT).into_std()).await {
                Ok(Reply::Done) if self.life() == Some(me) => {
                    self.note(format_args!("is up"));
                    return self.is_up.store(true, Ordering::Relaxed);
                }
                _ => sleep(Duration::from_millis(20)).await,
            }
        }
    }

    fn joined(&self, member: Member) {
        self.others.lock().insert(member.node, member);
        if let Some(lanes) = self.lanes.get() {
            lanes.member_joined(member);
        }
        self.shard_member_joined(member);
    }

    fn ended(&self, member: Member) {
        self.others.lock().retain(|_, other| *other != member);
        if let Some(lanes) = self.lanes.get() {
            drop(lanes.member_ended(member));
        }
        self.shard_member_ended(member);
    }
}

/// What a control frame is for.
#[derive(Debug, Clone, Copy)]
pub enum Control {
    /// The registry.
    Registry = 1,
    /// The shards.
    Shard = 2,
    /// A message of a client: its number.
    Message = 3,
}

/// What the meta group calls; it knows the process once there is one.
struct Watcher {
    node: Arc<Node>,
    process: OnceLock<Arc<Process>>,
}

impl Watcher {
    fn check(&self, state: &ClusterState) {
        let shared = &self.node.shared;
        if let Some(cluster) = state.cluster() {
            shared.check(shared.founding.check(cluster.id));
        }
        shared.check(shared.states.check(&self.node.name, state));
    }
}

fn view(state: &ClusterState) -> View {
    let members = state.nodes().filter_map(flotilla_state::Node::member).collect();
    View { index: state.applied(), members, placements: state.placements().to_vec() }
}

impl Observer for Watcher {
    fn applied(&self, index: LogIndex, effects: &Effects, state: &ClusterState) {
        self.check(state);
        let Some(process) = self.process.get() else { return };
        let mut is_view_new = false;
        for event in &effects.events {
            match event {
                Event::MemberJoined(member) if member.node != process.meta.node() => process.joined(*member),
                Event::MemberEnded(member, why) => {
                    process.note(format_args!("applies the end of {member} at {}: {why:?}", index.0));
                    if member.node != process.meta.node() {
                        process.ended(*member);
                    }
                }
                _ => {}
            }
            let is_view = !matches!(
                event,
                Event::RoutesChanged { .. }
                    | Event::RoutesReset(_)
                    | Event::ShardChanged(_)
                    | Event::ShardRoutesChanged { .. }
                    | Event::SettingChanged(_)
            );
            is_view_new |= is_view;
        }
        if effects.events.iter().any(|event| matches!(event, Event::ShardChanged(_))) {
            process.shards.note_changed();
        }
        if is_view_new {
            process.claims.put(Input::View(view(state)));
        }
        process.claims.put(Input::Read(index));
    }

    fn restored(&self, state: &ClusterState) {
        if state.cluster().is_some() {
            self.check(state);
        }
        let Some(process) = self.process.get() else { return };
        let others = state.nodes().filter_map(flotilla_state::Node::member);
        let others: Vec<Member> = others.filter(|member| member.node != process.meta.node()).collect();
        let known = others.iter().map(|member| (member.node, *member)).collect();
        let before = std::mem::replace(&mut *process.others.lock(), known);
        if let Some(lanes) = process.lanes.get() {
            drop(lanes.set_members(others.clone()));
        }
        let ended = before.values().filter(|member| !others.contains(member));
        ended.for_each(|member| process.shard_member_ended(*member));
        let joined = others.iter().filter(|member| before.get(&member.node) != Some(member));
        joined.for_each(|member| process.shard_member_joined(*member));
        process.shards.note_changed();
        process.claims.put(Input::View(view(state)));
    }

    fn lease_lost(&self) {
        let Some(process) = self.process.get() else { return };
        process.note(format_args!("is fenced"));
        process.is_up.store(false, Ordering::Relaxed);
        *process.life.lock() = None;
        if let Some(lanes) = process.lanes.get() {
            drop(lanes.fenced());
        }
        process.begin_shard_life(None);
        process.claims.put(Input::Fenced);
        let ended = process.desk.lock().fence();
        for (client, tenure) in ended {
            process.claims.put(Input::Release(client, tenure));
        }
    }

    fn admitted(&self, me: Member) {
        let Some(process) = self.process.get() else { return };
        process.note(format_args!("is admitted as {me}"));
        if let Some(lanes) = process.lanes.get() {
            drop(lanes.admitted(me));
        }
        *process.life.lock() = Some(me);
        process.begin_shard_life(Some(me));
        let state = process.meta.state();
        let state = state.read();
        process.claims.put(Input::Admitted(me));
        process.claims.put(Input::View(view(&state)));
        process.desk.lock().announce_all();
        process.wake.notify_one();
    }
}

struct PeerChannels(Peers);

impl Channels for PeerChannels {
    fn channel(&self, node: NodeId, _: LaneId) -> Option<LaneChannel> {
        self.0.channel(node, Class::Lanes).map(lane_channel)
    }
}

/// Takes what the lanes bring.
pub struct Inbox {
    process: Arc<Process>,
    random: Mutex<StdRng>,
}

impl LaneEvents for Inbox {
    type Done = u64;

    fn taken(&self, to: Member, lane: LaneId, done: Vec<u64>) {
        let Some(from) = self.process.life() else { return };
        for message in done {
            self.process.shared().check(self.process.shared().forwarding.taken(from, to, lane, message));
        }
    }

    fn received(&self, from: Member, lane: LaneId, batch: Batch, receipt: Receipt) {
        // A batch may still come when this life has ended.
        let Some(me) = self.process.life() else { return };
        for frame in batch.frames() {
            match frame {
                Frame::Control { kind, bytes } if kind == Control::Message as u8 => {
                    let shared = self.process.shared();
                    let message = bytes.try_into().map(u64::from_le_bytes);
                    let message = message.map_err(|_| format!("no number: {bytes:?}"));
                    shared.check(
                        message.and_then(|message| shared.forwarding.received(from, me, lane, message)),
                    );
                }
                Frame::Control { kind, bytes } if lane == CONTROL && kind == Control::Registry as u8 => {
                    self.process.claims.put(Input::Message(from, bytes.to_vec().into()));
                }
                Frame::Control { kind, bytes } if kind == Control::Shard as u8 => {
                    self.process.handle_shard_bytes(from, bytes);
                }
                _ if self.process.handle_kept(&frame) => {}
                _ => self.process.shared().check(Err(format!("an unexpected {frame:?}"))),
            }
        }
        let mut random = self.random.lock();
        if random.random_ratio(1, 4) {
            let pause = Duration::from_millis(random.random_range(1..50));
            tokio::spawn(async move {
                sleep(pause).await;
                drop(receipt);
            });
        }
    }

    fn decongested(&self, _: Member) {}

    fn may_acknowledge(&self) -> bool {
        self.process.has_lease()
    }
}

/// A member that is silent for so long is declared down.
pub const NODE_DOWN_AFTER: Duration = Duration::from_secs(2);

const PROPOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Few, so that there is something to do for each.
const SHARDS: u16 = 2;
/// So many are named when none is founded.
const SHARDS_UNUSED: u16 = 4;

const FLUSH_MICROS_MAX: u64 = 5_000;
