//! Clusters to test: real processes, and what can happen to them.
//!
//! ```ignore
//! let cluster = Cluster::start(3);
//! let mut subscriber = cluster.node(0).client("sensor-7");
//! cluster.node(1).kill();
//! cluster.until("node-2 is down", || cluster.node(0).sees(1, "down").then_some(()));
//! ```
//!
//! Nothing waits by sleeping: every wait is for a condition, under a deadline. When a test fails, the logs of all nodes are
//! shown.

mod address;
mod clients;
mod clock;
mod disk;
mod name_server;
mod network;
mod node;
mod status;

use std::{
    env, fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use crate::harness::{place, unique};

pub(crate) use clients::{Ear, Traffic, fence, next_publish, number, numbers, receive};
pub(crate) use clock::WallClock;
pub(crate) use disk::FaultyDisk;
pub(crate) use name_server::NameServer;
pub(crate) use network::{
    in_own_network, in_own_network_and_mounts, in_own_network_and_names, is_own_network, with_own_network,
};
pub(crate) use node::Node;
pub(crate) use status::Status;

use address::Addresses;
use network::Network;

/// Nodes of one cluster. They are killed when it is dropped, and what they kept is removed.
pub(crate) struct Cluster {
    name: String,
    nodes: Vec<Node>,
    /// How many of the nodes found the cluster: the first ones.
    founders: usize,
    settings: Vec<(String, String)>,
    addresses: Addresses,
    directory: PathBuf,
    network: Network,
    keeps: bool,
}

impl Cluster {
    /// A cluster of so many core nodes, formed: it has a leader, and every node is ready.
    #[track_caller]
    pub(crate) fn start(nodes: usize) -> Self {
        Self::with(nodes, &[])
    }

    /// The same with settings that all nodes have.
    #[track_caller]
    pub(crate) fn with(nodes: usize, settings: &[(&str, &str)]) -> Self {
        let cluster = Self::prepare(nodes, settings);
        cluster.nodes.iter().for_each(Node::start);
        cluster.await_formed();
        cluster
    }

    /// Nodes that have not been started yet.
    #[track_caller]
    pub(crate) fn prepare(nodes: usize, settings: &[(&str, &str)]) -> Self {
        let directory = place().scratch.join(unique("cluster"));
        fs::create_dir_all(&directory).expect("a directory for the nodes can be made");
        let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let mut cluster = Self {
            name: unique("cluster"),
            nodes: Vec::new(),
            founders: nodes,
            settings: settings.collect(),
            addresses: Addresses::new(),
            directory,
            network: Network::default(),
            keeps: false,
        };
        let addresses: Vec<_> = (0..nodes).map(|_| cluster.addresses.next()).collect();
        for address in &addresses {
            let number = cluster.nodes.len();
            let node =
                Node::new(number, *address, &addresses, &cluster.settings_of("core"), &cluster.directory);
            cluster.nodes.push(node);
        }
        cluster
    }

    /// The settings of a node with this role; what belongs to one node alone, it adds itself.
    fn settings_of(&self, role: &str) -> Vec<(String, String)> {
        let own = [
            ("node.role", role.to_owned()),
            ("cluster.name", self.name.clone()),
            ("cluster.secret", SECRET.to_owned()),
            ("cluster.bootstrap_expect", self.founders.to_string()),
            // A subscriber that is slow on a busy machine is not what these tests are about.
            ("session.queue_messages_max", "1000000".to_owned()),
            ("session.queue_bytes_max", "1GiB".to_owned()),
        ];
        let own = own.into_iter().map(|(key, value)| (key.to_owned(), value));
        // A test may override any of them.
        own.chain(self.settings.clone()).collect()
    }

    /// A core node more, which finds the first ones. It is started, and its number returned.
    #[track_caller]
    pub(crate) fn add_core(&mut self) -> usize {
        self.add("core", &[])
    }

    /// An edge node more. It is started, and its number returned.
    #[track_caller]
    pub(crate) fn add_edge(&mut self) -> usize {
        self.add("edge", &[])
    }

    /// A core node more that has settings of its own. It is started, and its number returned.
    #[track_caller]
    pub(crate) fn add_with(&mut self, settings: &[(&str, &str)]) -> usize {
        self.add("core", settings)
    }

    fn add(&mut self, role: &str, settings: &[(&str, &str)]) -> usize {
        let number = self.nodes.len();
        let address = self.addresses.next();
        let founders: Vec<_> = self.nodes[..self.founders].iter().map(Node::address).collect();
        let mut all = self.settings_of(role);
        all.extend(settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let node = Node::new(number, address, &founders, &all, &self.directory);
        node.start();
        self.nodes.push(node);
        number
    }

    /// A node by its number, from 0 on. Its name is `node-` and the number.
    pub(crate) fn node(&self, number: usize) -> &Node {
        &self.nodes[number]
    }

    /// The same, to give it settings of its own.
    pub(crate) fn node_mut(&mut self, number: usize) -> &mut Node {
        &mut self.nodes[number]
    }

    /// All of them, also those that do not run.
    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Where the files of the nodes are, and those of the test may be.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// What the nodes have kept and said stays when it is dropped.
    pub(crate) fn keep(&mut self) {
        self.keeps = true;
    }

    /// The cluster's name, and its secret as it goes along with requests.
    pub(crate) fn credentials(&self) -> (String, String) {
        (self.name.clone(), SECRET.bytes().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Kills a node and gives it an address that nobody has had.
    #[track_caller]
    pub(crate) fn move_node(&mut self, number: usize) {
        self.nodes[number].kill();
        let address = self.addresses.next();
        self.nodes[number].set_address(address);
        self.nodes[number].start();
    }
}

/// Waiting.
impl Cluster {
    /// Waits for an answer, which must come within [`PATIENCE`].
    #[track_caller]
    pub(crate) fn until<T>(&self, what: &str, ask: impl FnMut() -> Option<T>) -> T {
        self.within(PATIENCE, what, ask)
    }

    /// The same with a deadline of its own.
    #[track_caller]
    pub(crate) fn within<T>(&self, time: Duration, what: &str, ask: impl FnMut() -> Option<T>) -> T {
        poll(time, ask).unwrap_or_else(|| panic!("not within {time:?}: {what}"))
    }

    /// Looks again and again whether it stays so for this time. The only way to see that something does not happen.
    #[track_caller]
    pub(crate) fn stays(&self, time: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
        let changed = poll(time, || (!is_so()).then_some(()));
        assert!(changed.is_none(), "it does not stay so: {what}");
    }

    /// Waits until every node that runs is ready, all know one leader, and each sees all others up.
    #[track_caller]
    pub(crate) fn await_formed(&self) {
        let running: Vec<usize> =
            (0..self.nodes.len()).filter(|number| self.nodes[*number].is_running()).collect();
        self.await_formed_of(&running);
    }

    /// Waits until these nodes are a cluster that serves: they are ready, know one leader among them, and see each other up.
    #[track_caller]
    pub(crate) fn await_formed_of(&self, numbers: &[usize]) {
        self.until("the nodes agree on a leader among them, and see each other up", || {
            numbers.iter().for_each(|number| self.nodes[*number].assert_alive());
            self.is_formed_of(numbers).then_some(())
        });
    }

    /// Whether these nodes are a cluster that serves.
    pub(crate) fn is_formed_of(&self, numbers: &[usize]) -> bool {
        let mut leader = None;
        for number in numbers {
            let Some(status) = self.nodes[*number].status() else { return false };
            let up = numbers.iter().all(|other| status.has(&self.nodes[*other].name(), "up"));
            if !(up && status.ready && status.quorum)
                || *leader.get_or_insert(status.leader.clone()) != status.leader
            {
                return false;
            }
        }
        // A leader that has just been lost is known as such until its followers stand for election.
        leader
            .flatten()
            .is_some_and(|leader| numbers.iter().any(|number| self.nodes[*number].name() == leader))
    }

    /// The number of the leader, as soon as one of these nodes knows one among them.
    #[track_caller]
    pub(crate) fn leader_of(&self, numbers: &[usize]) -> usize {
        self.until("there is a leader", || {
            let known = |number: &usize| self.nodes[*number].status().filter(|status| status.quorum)?.leader;
            let names: Vec<String> = numbers.iter().filter_map(known).collect();
            numbers.iter().copied().find(|number| names.contains(&self.nodes[*number].name()))
        })
    }

    /// The number of the leader.
    #[track_caller]
    pub(crate) fn leader(&self) -> usize {
        let running: Vec<usize> =
            (0..self.nodes.len()).filter(|number| self.nodes[*number].is_running()).collect();
        self.leader_of(&running)
    }

    /// A node that runs and does not lead.
    #[track_caller]
    pub(crate) fn follower(&self) -> usize {
        let leader = self.leader();
        let others =
            (0..self.nodes.len()).filter(|number| *number != leader && self.nodes[*number].is_running());
        others.last().expect("the leader is not alone")
    }

    /// Waits until a node sees another with this status.
    #[track_caller]
    pub(crate) fn await_seen(&self, observer: usize, number: usize, status: &str) {
        let name = self.nodes[number].name();
        let what = format!("{} sees {name} {status}", self.nodes[observer].name());
        self.until(&what, || self.nodes[observer].status()?.has(&name, status).then_some(()));
    }

    /// Waits until no node that runs knows this one any more.
    #[track_caller]
    pub(crate) fn await_forgotten(&self, number: usize) {
        let name = self.nodes[number].name();
        for observer in self.nodes.iter().filter(|node| node.is_running() && node.name() != name) {
            let what = format!("{} has forgotten {name}", observer.name());
            self.until(&what, || observer.status()?.node(&name).is_none().then_some(()));
        }
    }
}

/// Breaking the network. Only within [`in_own_network`].
impl Cluster {
    /// Nothing gets from one to the other, either way.
    #[track_caller]
    pub(crate) fn cut(&self, a: usize, b: usize) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }

    /// Nothing gets from `from` to `to`.
    #[track_caller]
    pub(crate) fn cut_one_way(&self, from: usize, to: usize) {
        self.network.cut(self.nodes[from].address(), self.nodes[to].address());
    }

    /// What [`Self::cut`] did is undone.
    #[track_caller]
    pub(crate) fn mend(&self, a: usize, b: usize) {
        let (a, b) = (self.nodes[a].address(), self.nodes[b].address());
        self.network.mend(a, b);
        self.network.mend(b, a);
    }

    /// Cuts a node off from all others. Its clients still reach it.
    #[track_caller]
    pub(crate) fn isolate(&self, number: usize) {
        (0..self.nodes.len()).filter(|other| *other != number).for_each(|other| self.cut(number, other));
    }

    /// Cuts every node of one side off from every node of the other.
    #[track_caller]
    pub(crate) fn split(&self, side: &[usize], other_side: &[usize]) {
        side.iter().for_each(|a| other_side.iter().for_each(|b| self.cut(*a, *b)));
    }

    /// So many in a hundred packets between two nodes are lost.
    #[track_caller]
    pub(crate) fn lose(&self, percent: u8, a: usize, b: usize) {
        let (a, b) = (self.nodes[a].address(), self.nodes[b].address());
        self.network.lose(percent, a, b);
        self.network.lose(percent, b, a);
    }

    /// No more than so many kibibytes a second get from one node to another; what is more is lost.
    #[track_caller]
    pub(crate) fn slow_down(&self, kibibytes_per_second: u32, from: usize, to: usize) {
        self.network.slow_down(kibibytes_per_second, self.nodes[from].address(), self.nodes[to].address());
    }

    /// The network is whole again.
    #[track_caller]
    pub(crate) fn heal(&self) {
        self.network.heal();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let failed = thread::panicking();
        if failed {
            for node in self.nodes.iter().filter(|node| node.is_running()) {
                let shards = node.ctl(&["shards", "list"]).stdout;
                eprintln!(
                    "==== the shards as {} sees them\n{}",
                    node.name(),
                    String::from_utf8_lossy(&shards)
                );
            }
        }
        self.nodes.iter().for_each(Node::kill);
        if failed {
            for node in &self.nodes {
                eprintln!(
                    "==== the end of the log of {} at {}\n{}",
                    node.name(),
                    node.address(),
                    node.log_end()
                );
            }
            eprintln!("==== the files of the nodes are in {}", self.directory.display());
            return;
        }
        if self.keeps {
            return;
        }
        self.nodes.iter().for_each(Node::assert_no_panic);
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Asks again and again until there is an answer, or the time is over.
pub(crate) fn poll<T>(time: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + time;
    loop {
        match ask() {
            None if Instant::now() < deadline => thread::park_timeout(POLL),
            answer => return answer,
        }
    }
}

/// How long a cluster may take to form, or to get over the loss of a node, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

const POLL: Duration = Duration::from_millis(20);

/// What the nodes of all clusters under test share.
const SECRET: &str = "the secret of the clusters under test";
