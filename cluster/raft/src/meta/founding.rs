//! Carries out what [`Bootstrap`] decides: looks for other nodes, founds a cluster with them, or finds the one that exists.
//!
//! Once there is a cluster, it goes on greeting the other nodes while this one is not admitted: after a restart, nodes may have
//! other addresses, and nobody could elect a leader before they know them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use flotilla_kv::KvError;
use flotilla_rpc::membership as rpc;
use flotilla_state::{Command, NodeId, Role};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tonic::{Code, Status};
use tracing::{debug, error, info, warn};

use super::{
    META,
    bootstrap::{Action, Attempt, Bootstrap, BootstrapOptions, Founder, GrantAnswer, Seen},
    shared::{Shared, client},
    wire,
};
use crate::{
    clock,
    group::{Role as RaftRole, blocking},
    peers::{ClusterId, DiscoveryError},
    random::random,
};

/// What the task hears of.
pub(crate) enum Input {
    Discovered(Result<Vec<String>, DiscoveryError>),
    Hello { round: u64, address: String, seen: Option<Seen> },
    Grant { attempt: Attempt, answer: oneshot::Sender<GrantAnswer> },
    GrantAnswer { from: NodeId, cluster_id: ClusterId, answer: GrantAnswer },
    Release(ClusterId),
}

/// Runs until the node stops, or cannot keep what it has to keep.
pub(crate) async fn run(shared: Arc<Shared>, inputs: mpsc::Receiver<Input>) {
    let stop = shared.stop.clone();
    let outcome = stop.run_until_cancelled(Founding::new(shared).run(inputs)).await;
    if let Some(Err(failed)) = outcome {
        error!(error = %failed, "this node takes no part in founding or finding a cluster any more");
    }
}

struct Founding {
    shared: Arc<Shared>,
    began: Instant,
    bootstrap: Bootstrap,
    found: Vec<String>,
    next_discovery: Instant,
    discovering: bool,
    discovery_failures: u32,
    next_greeting: Instant,
    waiting: Waiting,
}

/// What the log has said about a node that waits for others.
struct Waiting {
    /// The names of the nodes that answer, by address.
    answering: BTreeMap<String, String>,
    /// Those that were told of last.
    told: Option<Vec<String>>,
    next: Instant,
}

impl Founding {
    fn new(shared: Arc<Shared>) -> Self {
        let options = BootstrapOptions {
            expect: shared.options.bootstrap_expect.into(),
            core: shared.options.role == Role::Core,
            pause: shared.options.retry,
            attempt_timeout: shared.options.retry * 10,
        };
        let me = Founder { name: shared.options.name.clone(), id: shared.local.node() };
        let (kept, belongs) = (shared.attempt.read().clone(), shared.identity.cluster_id());
        let bootstrap = Bootstrap::new(options, me, kept, belongs, shared.group.is_pristine(), random());
        let now = clock::now();
        Self {
            shared,
            began: now,
            bootstrap,
            found: Vec::new(),
            next_discovery: now,
            discovering: false,
            discovery_failures: 0,
            next_greeting: now,
            waiting: Waiting { answering: BTreeMap::new(), told: None, next: now + WAITING_FIRST },
        }
    }

    async fn run(mut self, mut inputs: mpsc::Receiver<Input>) -> Result<(), KvError> {
        loop {
            let settled = self.shared.me.borrow().is_some();
            let step = if settled { self.shared.options.retry * 2 } else { self.shared.options.retry / 4 };
            self.learn().await?;
            self.discover();
            self.carry_out_all().await?;
            self.tell_of_waiting();
            if let Ok(Some(input)) = timeout(step, inputs.recv()).await {
                self.handle(input).await?;
            }
        }
    }

    fn now(&self) -> Duration {
        clock::since(self.began)
    }

    /// A node that has no cluster yet says whom it waits for: when that changes, and now and then.
    fn tell_of_waiting(&mut self) {
        let now = clock::now();
        if self.shared.identity.cluster_id().is_some() || now < self.waiting.next {
            return;
        }
        let mut answering: Vec<String> = self.waiting.answering.values().cloned().collect();
        answering.sort_unstable();
        answering.dedup();
        if self.waiting.told.as_ref() == Some(&answering) && now < self.waiting.next + WAITING_AGAIN {
            return;
        }
        let found = answering.join(", ");
        if self.shared.options.role == Role::Core {
            let expect = self.shared.options.bootstrap_expect;
            info!(
                found,
                bootstrap_expect = expect,
                "no cluster yet: waiting for nodes to found one with, or for one to join"
            );
        } else {
            info!(found, "no cluster yet: waiting for one to join");
        }
        self.waiting.told = Some(answering);
        self.waiting.next = now + WAITING_FIRST;
    }

    /// What this node's own group has reached.
    async fn learn(&mut self) -> Result<(), KvError> {
        let shared = &self.shared;
        let pristine = shared.group.is_pristine();
        // Only what is on the disk can be lost.
        if !pristine && !shared.identity.has_log() && shared.group.is_on_disk().await {
            let identity = Arc::clone(&shared.identity);
            blocking(move || identity.keep_has_log()).await?;
        }
        if let Some(created) = shared.created() {
            if shared.identity.cluster_id() != Some(created) {
                let identity = Arc::clone(&shared.identity);
                blocking(move || identity.keep_cluster(created)).await?;
                info!(cluster = %created, "this node belongs to a cluster");
            }
            self.bootstrap.handle_created(created);
            self.greet();
        } else {
            let status = shared.group.status();
            let matched: BTreeSet<NodeId> = status
                .replication
                .iter()
                .filter(|(_, matched)| matched.is_some())
                .map(|(node, _)| NodeId(*node))
                .collect();
            self.bootstrap.handle_raft(pristine, status.role == RaftRole::Leader, matched);
        }
        Ok(())
    }

    /// Says hello to everybody while the node is not admitted or knows no leader, so that all know each other's addresses.
    fn greet(&mut self) {
        let shared = &self.shared;
        let now = clock::now();
        let settled = shared.me.borrow().is_some() && shared.group.status().leader.is_some();
        if settled || now < self.next_greeting {
            return;
        }
        self.next_greeting = now + shared.options.retry;
        let mut addresses: BTreeSet<String> = self.found.iter().cloned().collect();
        for node in shared.state.read().nodes().filter(|node| node.id != shared.local.node()) {
            addresses.extend(shared.peers.address(node.id));
        }
        for address in addresses {
            tokio::spawn(say_hello(Arc::clone(shared), 0, address));
        }
    }

    /// Begins a look-up when one is due. Once the node is a member and all is well, none is.
    fn discover(&mut self) {
        let shared = Arc::clone(&self.shared);
        let now = clock::now();
        if self.discovering || now < self.next_discovery || shared.me.borrow().is_some() {
            return;
        }
        self.discovering = true;
        tokio::spawn(async move {
            let found = shared.resolver.find().await;
            let _ = shared.founding.send(Input::Discovered(found)).await;
        });
    }

    fn handle_discovered(&mut self, found: Result<Vec<String>, DiscoveryError>) {
        self.discovering = false;
        let pause = self.shared.options.retry * 2;
        match found {
            Ok(found) => {
                self.discovery_failures = 0;
                self.next_discovery = clock::now() + pause;
                self.found.clone_from(&found);
                self.bootstrap.handle_discovered(found);
            }
            Err(failed) => {
                // The addresses that were found before remain: what runs goes on.
                self.discovery_failures += 1;
                let wait = pause * 2_u32.pow(self.discovery_failures.min(5));
                self.next_discovery = clock::now() + wait;
                warn!(error = %failed, ?wait, "discovery found no addresses; trying again");
            }
        }
    }

    async fn handle(&mut self, input: Input) -> Result<(), KvError> {
        let now = self.now();
        match input {
            Input::Discovered(found) => self.handle_discovered(found),
            Input::Hello { round, address, seen: Some(seen) } => {
                self.waiting.answering.insert(address.clone(), seen.node.name.clone());
                self.bootstrap.handle_hello(now, round, &address, seen);
            }
            Input::Hello { round, address, seen: None } => {
                self.waiting.answering.remove(&address);
                self.bootstrap.handle_hello_failed(round, &address);
            }
            Input::Grant { attempt, answer } => {
                // A vote or an entry may have come since the last look.
                self.learn().await?;
                let decision = self.bootstrap.handle_grant_request(now, attempt);
                self.carry_out_all().await?;
                // Who asked may have given up.
                let _ = answer.send(decision);
            }
            Input::GrantAnswer { from, cluster_id, answer } => {
                self.bootstrap.handle_grant_answer(now, from, cluster_id, &answer);
            }
            Input::Release(cluster_id) => {
                self.learn().await?;
                self.bootstrap.handle_release(cluster_id);
            }
        }
        Ok(())
    }

    async fn carry_out_all(&mut self) -> Result<(), KvError> {
        while let Some(action) = self.bootstrap.poll(self.now()) {
            self.carry_out(action).await?;
        }
        Ok(())
    }

    async fn carry_out(&mut self, action: Action) -> Result<(), KvError> {
        let shared = Arc::clone(&self.shared);
        match action {
            Action::Keep(attempt) => keep(&shared, attempt).await?,
            Action::Hello { round, address } => {
                tokio::spawn(say_hello(shared, round, address));
            }
            Action::Grant { address, to, attempt } => {
                tokio::spawn(ask_for_grant(shared, address, to, attempt));
            }
            Action::Release { address, cluster_id, .. } => {
                tokio::spawn(async move {
                    let cluster_id = cluster_id.to_bytes().to_vec().into();
                    let request = rpc::ReleaseRequest { cluster_id };
                    let mut client = client(shared.peers.channel_to(&address));
                    // If it is lost, the other node asks this one, and learns that the attempt is gone.
                    let _ = timeout(shared.options.retry * 2, client.release(request)).await;
                });
            }
            Action::Initialize(attempt) => {
                info!(cluster = %attempt.cluster_id, members = attempt.members.len(), "founding a cluster");
                let voters = attempt.members.iter().map(|member| (member.id.0, META)).collect();
                if let Err(failed) = shared.group.initialize(voters).await {
                    // Only when it is initialised already: by entries of the same attempt.
                    warn!(error = %failed, "the Raft group was not initialised");
                }
                let pristine = shared.group.is_pristine();
                self.bootstrap.handle_raft(pristine, false, BTreeSet::new());
            }
            Action::Create(cluster_id) => {
                tokio::spawn(create(shared, cluster_id));
            }
            Action::Join { cluster_id, address } => {
                if shared.identity.cluster_id() != Some(cluster_id) {
                    let identity = Arc::clone(&shared.identity);
                    blocking(move || identity.keep_cluster(cluster_id)).await?;
                    info!(cluster = %cluster_id, %address, "found the cluster to join");
                }
                shared.local.update(|bound| bound.cluster = Some(cluster_id));
                *shared.hint.lock() = Some(address);
            }
            Action::Warn(warning) => warn!("{warning}"),
        }
        Ok(())
    }
}

/// Durable when it returns, and only then seen by others.
async fn keep(shared: &Arc<Shared>, attempt: Option<Attempt>) -> Result<(), KvError> {
    let bytes = attempt.as_ref().map(wire::attempt_to_bytes);
    let identity = Arc::clone(&shared.identity);
    if attempt.is_none() {
        // No Raft message of the attempt gets in from here on.
        shared.local.update(|bound| bound.attempt = None);
    }
    blocking(move || identity.keep_attempt(bytes)).await?;
    shared.local.update(|bound| bound.attempt = attempt.as_ref().map(|attempt| attempt.cluster_id));
    *shared.attempt.write() = attempt;
    Ok(())
}

async fn create(shared: Arc<Shared>, cluster_id: ClusterId) {
    let command = Command::Create {
        cluster_id: cluster_id.0,
        name: shared.options.cluster_name.as_str().into(),
        shards: shared.options.shards,
        replicas: shared.options.replicas,
        hash_seed: random(),
    };
    match timeout(shared.options.retry * 4, shared.group.propose(command.encode())).await {
        Ok(Ok((index, _))) => info!(cluster = %cluster_id, index, "created the cluster"),
        // It is proposed again if it is still not there; a second one changes nothing.
        Ok(Err(failed)) => debug!(error = %failed, "the creation of the cluster was not accepted"),
        Err(_) => debug!("the creation of the cluster is not committed yet"),
    }
}

/// How long a node looks for others before it says that it waits for them, and how soon it repeats that.
const WAITING_FIRST: Duration = Duration::from_secs(2);
const WAITING_AGAIN: Duration = Duration::from_secs(30);

impl Shared {
    /// Whether the log has to say that this node is refused somewhere, which happens with each try: not the same within a
    /// minute.
    pub(super) fn is_news(&self, address: &str, reason: &str) -> bool {
        let mut refusals = self.refusals.lock();
        let now = clock::now();
        refusals.retain(|_, (_, told)| now.duration_since(*told) < REFUSAL_AGAIN);
        if refusals.get(address).is_some_and(|(last, _)| last == reason) {
            return false;
        }
        refusals.insert(address.to_owned(), (reason.to_owned(), now));
        true
    }
}

/// How soon the same refusal is told again.
const REFUSAL_AGAIN: Duration = Duration::from_secs(60);

async fn say_hello(shared: Arc<Shared>, round: u64, address: String) {
    let mut client = client(shared.peers.channel_to(&address));
    let request = rpc::HelloRequest { node: Some(shared.node_info().encode()) };
    let limit = shared.options.retry.max(Duration::from_millis(500)) * 2;
    let seen = match timeout(limit, client.hello(request)).await {
        Ok(Ok(reply)) => understand(&shared, reply.into_inner()),
        Ok(Err(status)) => Err(status),
        Err(_) => Err(Status::deadline_exceeded("no answer in time")),
    };
    let seen = match seen {
        Ok(seen) => Some(seen),
        Err(status) => {
            if matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated) {
                if shared.is_news(&address, status.message()) {
                    warn!(%address, reason = status.message(), "a node refuses this one; trying again");
                }
            } else {
                debug!(%address, reason = status.message(), "no answer to hello");
                shared.peers.reopen_to(&address);
            }
            None
        }
    };
    // Rounds begin at 1; other greetings are no part of the founding.
    if round > 0 {
        let _ = shared.founding.send(Input::Hello { round, address, seen }).await;
    }
}

fn understand(shared: &Shared, reply: rpc::HelloReply) -> Result<Seen, Status> {
    if reply.cluster_name != shared.options.cluster_name {
        return Err(Status::permission_denied("a node of another cluster"));
    }
    let node = wire::NodeInfo::decode(reply.node)?;
    let cluster_id = wire::decode_optional_cluster_id(&reply.cluster_id)?;
    if node.id != shared.local.node() {
        shared.peers.told(node.id, &node.address);
        if reply.leader != 0
            && NodeId(reply.leader) != shared.local.node()
            && !reply.leader_address.is_empty()
        {
            *shared.hint.lock() = Some(reply.leader_address);
        }
    }
    Ok(Seen {
        core: node.role == Role::Core,
        node: Founder { name: node.name, id: node.id },
        created: cluster_id.filter(|_| reply.created),
        pristine: reply.pristine,
        attempt: reply.attempt.map(wire::decode_attempt).transpose()?,
    })
}

async fn ask_for_grant(shared: Arc<Shared>, address: String, to: NodeId, attempt: Attempt) {
    let mut client = client(shared.peers.channel_to(&address));
    let request = rpc::GrantRequest { to: to.0, attempt: Some(wire::encode_attempt(&attempt)) };
    let Ok(Ok(reply)) = timeout(shared.options.retry * 2, client.grant(request)).await else { return };
    let rpc::GrantReply { granted, bound_to } = reply.into_inner();
    let Ok(bound_to) = bound_to.map(wire::decode_attempt).transpose() else { return };
    let answer = GrantAnswer { granted, bound_to };
    let input = Input::GrantAnswer { from: to, cluster_id: attempt.cluster_id, answer };
    let _ = shared.founding.send(input).await;
}
