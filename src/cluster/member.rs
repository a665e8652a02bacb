//! This node as a member of a cluster: the parts of `cluster` put together.
//!
//! A member lives on a runtime of its own, apart from the workers: Raft, the lanes, the registry.
//! [`Candidate::open`](super::Candidate::open) makes what a broker is started with,
//! [`Candidate::join`](super::Candidate::join) connects it to the broker and lets it find its cluster. From then on the
//! node's life is that of its lease. When it begins, everything that this node has is told to the cluster anew, and
//! only then may clients connect. When it is lost, they are disconnected at once: others serve them from here on.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use flotilla_lane::{Batch, LaneId};
use flotilla_mqtt::{ReasonCode, session::ClientId, topic::TopicFilter};
use flotilla_raft::meta::{Lease, Meta, Observer, ProposeError};
use flotilla_registry::{Limits, Registry, Tenure, View};
use flotilla_shard::Op;
use flotilla_state::{
    ClusterState, Command, ConnectionEpoch, Effects, Event as StateEvent, Fingerprint, LogIndex,
    Member as Life, NodeId, Reply, ShardRing, Status, Why,
};
use parking_lot::RwLock;

use super::{
    BoxFuture, Claim, Claimed, Cluster, Completion, Receipt,
    announcer::{Announcement, Announcer, Done, Wants},
    applied::Applied,
    bans,
    claims::{Claims, Input},
    links::{Control, Links},
    reports::{Report, Reports},
};
use crate::{
    node::Node,
    router::{Members, RouteChange},
    shards::{self, Shards},
    worker::Event,
};

/// This node as a member of a cluster.
#[derive(Debug)]
pub(crate) struct Member {
    pub(super) me: NodeId,
    /// Whether it is a cluster of one that no other node can join.
    pub(super) is_alone: bool,
    pub(super) state: Arc<RwLock<ClusterState>>,
    pub(super) lease: Lease,
    pub(super) meta: Meta,
    pub(super) links: Arc<Links>,
    pub(super) claims: Arc<Claims>,
    pub(super) applied: Applied,
    pub(super) announcer: Announcer,
    pub(super) reports: Arc<Reports>,
    pub(super) shards: Arc<Shards>,
    pub(super) node: OnceLock<Arc<Node>>,
    /// The incarnation of this node's present life; 0: it leads none.
    pub(super) life: AtomicU64,
    /// The incarnation in which everything that this node has is known to the cluster, so that it may serve. Apart from `life`,
    /// for a life may end in the moment in which that is known.
    pub(super) up_in: AtomicU64,
    /// Whether this node takes no new clients.
    pub(super) is_draining: AtomicBool,
    /// Whether this node stops or leaves, so that the end of its life is no news.
    pub(super) is_going: AtomicBool,
    /// Whether this node has left the cluster for good.
    pub(super) has_left: AtomicBool,
    /// Held while the node leaves: of several orders one is carried out at a time.
    pub(super) leaving: tokio::sync::Mutex<()>,
    /// Held while this node imports a backup.
    pub(super) importing: tokio::sync::Mutex<()>,
}

/// How long one try of a proposal may take; it is tried again as long as this node is a member.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a node tells the others what it counts.
const REPORT_INTERVAL: Duration = Duration::from_secs(2);
/// How often a node that has to wait for something without an event looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

impl Member {
    /// Lets the node find its cluster, and does what a member does besides answering, for ever.
    pub(super) async fn run(self: Arc<Self>) {
        self.meta.run();
        tokio::spawn(Arc::clone(&self).announce_changes());
        tokio::spawn(Arc::clone(&self).report());
        self.live().await;
    }

    async fn announce_changes(self: Arc<Self>) {
        let wants = NodeWants { member: &self };
        loop {
            let mut announcement = self.announcer.next(&wants).await;
            let committed = self.propose_routes(&announcement).await;
            let done = std::mem::take(&mut announcement.done);
            if let Some(index) = committed {
                self.complete(done);
                // The announcer looks at what this node has applied: until then the entry counts as on its way.
                self.applied.wait_for(index).await;
            }
            self.announcer.settled(&announcement);
        }
    }

    /// Proposes changes until they are committed; `None`: this node's life ended before.
    async fn propose_routes(&self, announcement: &Announcement) -> Option<LogIndex> {
        let me = (*self.meta.me().borrow())?;
        if announcement.changes.is_empty() {
            // Somebody waits for what is in the log already.
            return Some(self.state.read().applied());
        }
        let command = Command::Routes { member: me, changes: announcement.changes.clone() };
        loop {
            match self.meta.propose(command.clone(), Instant::now() + PROPOSE_TIMEOUT).await {
                Ok((index, Reply::Done)) => return Some(index),
                Ok((_, reply)) => {
                    tracing::debug!(?reply, "routes were not taken, this node's life has ended");
                    return None;
                }
                // To add a route twice changes nothing.
                Err(ProposeError::Refused(error)) => {
                    tracing::error!(%error, "routes cannot be proposed");
                    return None;
                }
                // It would say so again at once, for as long as this node is a member.
                Err(ProposeError::Stopped(error)) => {
                    tracing::error!(%error, "routes cannot be proposed");
                    return None;
                }
                Err(error) => tracing::debug!(%error, "routes are not committed yet"),
            }
            if *self.meta.me().borrow() != Some(me) {
                return None;
            }
        }
    }

    fn complete(&self, announced: Vec<Done>) {
        let Some(node) = self.node.get() else { return };
        let mut by_worker: Vec<Vec<Completion>> = vec![Vec::new(); node.mailboxes.len()];
        for done in announced {
            match done {
                Done::Session(completion) => {
                    by_worker[usize::from(completion.session.worker)].push(completion);
                }
                Done::Task(sender) => drop(sender.send(())),
            }
        }
        for (mailbox, completions) in node.mailboxes.iter().zip(by_worker) {
            if !completions.is_empty() {
                mailbox.send(Event::Completed(completions, ReasonCode::Success));
            }
        }
    }

    /// Lives each life of this node: tells the cluster what it has, then lets clients in.
    async fn live(self: Arc<Self>) {
        let mut lives = self.meta.me();
        let mut registry_runs = false;
        loop {
            let life = *lives.borrow_and_update();
            if let Some(me) = life {
                if !registry_runs {
                    registry_runs = self.run_registry();
                }
                tokio::select! {
                    () = self.begin(me) => {}
                    changed = lives.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        continue;
                    }
                }
            }
            if lives.changed().await.is_err() {
                return;
            }
        }
    }

    /// Starts the registry once it is known how many shards there are.
    fn run_registry(self: &Arc<Self>) -> bool {
        let Some(shards) = self.state.read().cluster().map(|cluster| cluster.shards) else { return false };
        let Some(node) = self.node.get().cloned() else { return false };
        let limits = Limits { claim_timeout: node.config.mqtt.connect_timeout, ..Limits::default() };
        let registry = Registry::new(limits, ShardRing::new(shards));
        let (claims, links) = (Arc::clone(&self.claims), Arc::clone(&self.links));
        tokio::spawn(async move { claims.run(registry, node, links).await });
        true
    }

    async fn begin(&self, me: Life) {
        let wants = NodeWants { member: self };
        if !self.is_alone && self.announcer.announce_all(&wants).await.is_err() {
            return;
        }
        while let Err(error) = self.meta.set_up(Instant::now() + PROPOSE_TIMEOUT).await {
            tracing::debug!(%error, "this node is not up yet");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        self.is_draining.store(false, Ordering::Release);
        self.up_in.store(me.incarnation.0, Ordering::Release);
        tracing::info!(member = %me, "this node is up, and serves clients");
    }

    /// What this node says of itself.
    pub(super) fn own_report(&self) -> Option<Report> {
        let totals = self.node.get()?.totals();
        let shards = self.shards.led();
        Some(Report {
            sessions: totals.sessions + shards::away(&shards),
            connections: totals.connections,
            is_short_of_space: *self.shards.is_short_of_space().borrow(),
            shards,
        })
    }

    /// Tells the others what this node says of itself.
    async fn report(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(REPORT_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut space = self.shards.is_short_of_space();
        let mut last = None;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                Ok(()) = space.changed() => {}
            }
            // What is said before the others take it is lost.
            let Some(report) = self.own_report().filter(|_| self.is_ready()) else {
                last = None;
                continue;
            };
            let members = self.links.members();
            // Nothing is said twice, so that an idle cluster is quiet.
            let bytes = report.to_bytes();
            let said = Some((*self.meta.me().borrow(), report, members.clone()));
            if said == last {
                continue;
            }
            for member in members {
                self.links.send_control(member, Control::Report, &bytes);
            }
            last = said;
        }
    }

    /// Whether this node has been told to take no new clients.
    pub(super) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Acquire)
    }

    /// Whether this node serves clients.
    pub(crate) fn is_ready(&self) -> bool {
        let life = self.life.load(Ordering::Acquire);
        life != 0 && self.up_in.load(Ordering::Acquire) == life && self.lease.is_valid(Instant::now())
    }

    /// Whether this node has left the cluster for good.
    pub(crate) fn has_left(&self) -> bool {
        self.has_left.load(Ordering::Acquire)
    }

    fn view(state: &ClusterState) -> View {
        let members = state.nodes().filter_map(flotilla_state::Node::member).collect();
        View { index: state.applied(), members, placements: state.placements().to_vec() }
    }

    fn handle_event(&self, event: &StateEvent, state: &ClusterState) {
        match event {
            StateEvent::MemberJoined(member) if member.node != self.me => {
                tracing::info!(%member, name = name_of(*member, state), "a node has joined");
                let _life = self.links.begin_life();
                self.links.joined(*member);
                self.shards.member_joined(*member);
            }
            StateEvent::MemberEnded(member, why) if member.node != self.me => {
                tracing::info!(%member, name = name_of(*member, state), "{}", ending(*why));
                self.links.ended(*member);
                self.reports.ended(*member);
                self.shards.member_ended(*member);
            }
            StateEvent::MemberEnded(member, _) => self.shards.member_ended(*member),
            StateEvent::ShardChanged(_) => self.shards.note_changed(),
            StateEvent::StatusChanged(member, status) => {
                let name = name_of(*member, state);
                match status {
                    Status::Draining if member.node == self.me => {
                        self.is_draining.store(true, Ordering::Release);
                        tracing::info!("this node takes no new clients");
                    }
                    // It says so itself when it is.
                    _ if member.node == self.me => {}
                    Status::Draining => tracing::info!(%member, name, "a node takes no new clients"),
                    _ => tracing::info!(%member, name, "a node is up"),
                }
            }
            _ => {}
        }
    }
}

/// As people call it, unless it is forgotten already.
fn name_of(member: Life, state: &ClusterState) -> Option<&str> {
    state.node(member.node).map(|node| &*node.name)
}

/// What an operator is told of the end of another node's life.
fn ending(why: Why) -> &'static str {
    match why {
        Why::Down => "a node is down",
        Why::Rejoined => "a node begins a new life",
        Why::Left => "a node has left the cluster",
        Why::Removed => "a node was removed from the cluster",
    }
}

/// The observer that the meta group calls; it holds the member once there is one.
#[derive(Debug, Default)]
pub(super) struct Watcher(pub(super) OnceLock<Arc<Member>>);

impl Watcher {
    /// Tells the member what was applied before it was there to be told.
    pub(super) fn catch_up(&self, member: &Member) {
        self.restored(&member.state.read());
    }
}

impl Observer for Watcher {
    fn applied(&self, index: LogIndex, effects: &Effects, state: &ClusterState) {
        let Some(member) = self.0.get() else { return };
        let Some(node) = member.node.get() else { return };
        node.router.remote().note_applied(effects);
        member.applied.note(index);
        let mut is_view_new = false;
        for event in &effects.events {
            member.handle_event(event, state);
            if let StateEvent::SettingChanged(key) = event {
                bans::note_setting(node, key, state);
                continue;
            }
            let is_of_routes = matches!(
                event,
                StateEvent::RoutesChanged { .. }
                    | StateEvent::RoutesReset(_)
                    | StateEvent::ShardRoutesChanged { .. }
                    | StateEvent::ShardChanged(_)
            );
            is_view_new |= !is_of_routes;
        }
        if is_view_new {
            member.claims.put(Input::View(Member::view(state)));
        }
        member.claims.note_read(index);
    }

    fn restored(&self, state: &ClusterState) {
        let Some(member) = self.0.get() else { return };
        let Some(node) = member.node.get() else { return };
        node.router.remote().note_restored();
        bans::note_restored(node, state);
        member.applied.note(state.applied());
        let others = state.nodes().filter_map(flotilla_state::Node::member);
        let others: Vec<Life> = others.filter(|other| other.node != member.me).collect();
        for gone in member.links.members().into_iter().filter(|known| !others.contains(known)) {
            member.reports.ended(gone);
            member.shards.member_ended(gone);
        }
        let life = member.links.begin_life();
        member.links.replace(others.clone());
        others.into_iter().for_each(|other| member.shards.member_joined(other));
        drop(life);
        member.claims.put(Input::View(Member::view(state)));
    }

    fn lease_lost(&self) {
        let Some(member) = self.0.get() else { return };
        if member.is_going.load(Ordering::Acquire) {
            tracing::debug!("this node's life has ended");
        } else {
            tracing::warn!(
                "this node has lost the cluster: its clients are disconnected, and none is served until it is back"
            );
        }
        member.life.store(0, Ordering::Release);
        if let Some(node) = member.node.get() {
            for mailbox in &node.mailboxes {
                // "Server unavailable" is for CONNACK only (section 3.14.2.1).
                mailbox.send(Event::Fence(ReasonCode::ServerBusy));
            }
        }
        member.links.fenced();
        member.announcer.clear();
        member.claims.put(Input::Fenced);
        member.shards.begin_life(None);
    }

    fn admitted(&self, me: Life) {
        let Some(member) = self.0.get() else { return };
        // Before the state: those who receive wait for that.
        let _life = member.links.begin_life();
        let state = member.state.read();
        member.life.store(me.incarnation.0, Ordering::Release);
        member.links.admitted(me);
        member.claims.put(Input::Admitted(me));
        member.claims.put(Input::View(Member::view(&state)));
        drop(state);
        member.shards.begin_life(Some(me));
    }
}

impl Cluster for Arc<Member> {
    fn is_serving(&self) -> bool {
        self.is_ready()
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<Claimed, ReasonCode>> {
        if !self.is_ready() {
            return Box::pin(std::future::ready(Err(ReasonCode::ServerUnavailable)));
        }
        if self.is_draining() {
            return Box::pin(std::future::ready(Err(ReasonCode::UseAnotherServer)));
        }
        self.connect(claim)
    }

    fn attached(&self, client_id: &ClientId, tenure: Tenure) {
        self.claims.put_now(Input::Attached(client_id.clone(), tenure));
    }

    fn abandon(&self, client_id: &ClientId, claimed: &Claimed) {
        if let Some(kept) = &claimed.kept {
            let op = Op::Abandon { connection: kept.connection.clone(), expiry: kept.expiry };
            self.shards.tell(kept.shard, op);
        }
        self.claims.put_now(Input::Abandoned(client_id.clone(), claimed.tenure));
    }

    fn release(&self, client_id: &ClientId, tenure: Tenure) {
        self.claims.put_now(Input::Release(client_id.clone(), tenure));
    }

    fn closed(&self, client_id: &ClientId, epoch: ConnectionEpoch) {
        self.claims.put_now(Input::Closed(client_id.clone(), epoch));
    }

    fn announce(&self, filter: &TopicFilter, change: RouteChange, done: Option<Completion>) -> Receipt {
        if self.is_alone {
            return Receipt::Done; // Nobody else publishes.
        }
        self.announcer.announce(&NodeWants { member: self }, filter, change, done)
    }

    fn forward(&self, to: NodeId, lane: LaneId, batch: Batch, completions: Vec<Completion>) {
        self.links.forward(to, lane, batch, completions);
    }

    fn is_congested(&self, to: NodeId) -> bool {
        self.links.is_congested(to)
    }

    fn shards(&self) -> Option<&Shards> {
        Some(&self.shards)
    }
}

/// What the announcer asks of this node.
struct NodeWants<'a> {
    member: &'a Member,
}

impl Wants for NodeWants<'_> {
    fn fingerprint(&self, filter: &str) -> Fingerprint {
        self.member.state.read().routes().fingerprint(filter)
    }

    fn is_committed(&self, fingerprint: Fingerprint) -> bool {
        self.member.state.read().routes().leads_to(fingerprint, self.member.me)
    }

    fn members(&self, filter: &str) -> Members {
        let group = self.member.node.get().and_then(|node| {
            let filter = TopicFilter::parse(filter, u16::MAX).ok()?;
            node.router.group(&filter)
        });
        group.map(|group| group.members()).unwrap_or_default()
    }

    fn for_each(&self, visit: &mut dyn FnMut(&TopicFilter, RouteChange)) {
        if let Some(node) = self.member.node.get() {
            node.router.for_each_want(visit);
        }
    }
}
