//! Clusters within this process, whose entries of logs can be counted.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process,
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::{Duration, Instant},
};

use flotilla_rpc::admin::{ClusterStatusReply, Shard};

use crate::{Broker, BrokerHandle, config::Config, shards::Shards};

/// Nodes of a cluster that is formed, with as many shards as nodes: each leads one. They stop when it is dropped.
pub(super) struct Fleet {
    nodes: Vec<BrokerHandle>,
    _directory: tempfile::TempDir,
}

/// What the logs of a cluster have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Logged {
    pub(super) meta: u64,
    pub(super) shards: u64,
    /// Of all groups together. More of them: there was an election, which has entries of its own.
    pub(super) terms: u64,
}

/// How long anything may take that must happen, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);
/// Logs that say nothing new for so long say nothing any more: nobody waits longer for a commit, or for others to gather.
const QUIET: Duration = Duration::from_millis(400);
/// Leaders of shards tell what they have, and look after the members of their groups, for somewhat longer.
const FORMED: Duration = Duration::from_secs(3);
const VOTERS_MAX: usize = 7;

impl Fleet {
    pub(super) fn start(count: usize) -> Self {
        let directory = tempfile::tempdir().expect("a directory for the nodes can be made");
        let addresses = addresses(count);
        let others = addresses.iter().map(|address| format!("\"{address}\"")).collect::<Vec<_>>().join(", ");
        let nodes = addresses.iter().enumerate().map(|(number, address)| {
            let data = directory.path().join(number.to_string());
            let mut set = vec![
                format!("node.name=node-{number}"),
                format!("node.data_dir={}", data.display()),
                "node.workers=1".to_owned(),
                "listeners.tcp.bind=127.0.0.1:0".to_owned(),
                "sys.interval=0s".to_owned(),
                format!("cluster.shards={count}"),
            ];
            if count > 1 {
                set.push(format!("cluster.name=scale-{}", addresses[0].ip()));
                set.push(format!("cluster.listen={address}"));
                // A busy machine is no dead node.
                set.push("cluster.node_down_after=60s".to_owned());
                set.push(format!("cluster.discovery.static=[{others}]"));
                set.push(format!("cluster.bootstrap_expect={}", count.min(VOTERS_MAX)));
            }
            let config = Config::load(None, [], &set).unwrap_or_else(|errors| panic!("{errors}"));
            Broker::start(config).expect("it starts")
        });
        let fleet = Self { nodes: nodes.collect(), _directory: directory };
        until("the cluster is formed", || fleet.is_formed());
        fleet.quiet_for(FORMED);
        fleet
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Where a node takes clients.
    pub(super) fn mqtt(&self, node: usize) -> SocketAddr {
        self.nodes[node].listeners()[0].1
    }

    /// Waits until so many entries are committed at least.
    pub(super) fn await_logged(&self, meta: u64, shards: u64) {
        until("the logs have what is expected", || {
            let logged = self.logged();
            logged.meta >= meta && logged.shards >= shards
        });
    }

    /// The entries that are committed, once nothing more comes.
    pub(super) fn settled(&self) -> Logged {
        self.quiet_for(QUIET)
    }

    fn quiet_for(&self, time: Duration) -> Logged {
        let (mut last, mut since) = (self.logged(), Instant::now());
        until("the logs are quiet", || {
            let logged = self.logged();
            if logged != last {
                (last, since) = (logged, Instant::now());
            }
            since.elapsed() > time
        });
        last
    }

    /// Messages that nodes have sent to other nodes.
    pub(super) fn forwarded(&self) -> u64 {
        self.nodes.iter().map(|node| node.node().totals().messages_forwarded).sum()
    }

    /// The fewest and the most routes without wildcards that a node knows of.
    pub(super) fn exact_routes(&self) -> (u64, u64) {
        let of = |node| self.status(node).nodes.iter().map(|node| node.exact_routes).sum::<u64>();
        let all: Vec<u64> = (0..self.len()).map(of).collect();
        (all.iter().copied().min().unwrap_or(0), all.iter().copied().max().unwrap_or(0))
    }

    fn logged(&self) -> Logged {
        let nodes = 0..self.len();
        let meta = nodes.clone().map(|node| self.status(node).committed).max().unwrap_or(0);
        let of_shard =
            |shard| nodes.clone().map(|node| self.shards(node).committed(shard)).max().unwrap_or(0);
        let ids = self.shards(0).ids();
        let term_of = |shard| nodes.clone().map(|node| self.shards(node).term(shard)).max().unwrap_or(0);
        let meta_term = nodes.clone().map(|node| self.status(node).term).max().unwrap_or(0);
        let terms = meta_term + ids.iter().copied().map(term_of).sum::<u64>();
        Logged { meta, shards: ids.into_iter().map(of_shard).sum(), terms }
    }

    fn is_formed(&self) -> bool {
        let is_up = |status: &ClusterStatusReply| {
            let up = status.nodes.iter().filter(|node| node.status == "up").count();
            status.ready && up == self.len()
        };
        let is_led = |shard: &Shard| {
            let copies = self.len().min(3);
            shard.members.len() == copies
                && shard.replicas.len() == copies
                && shard.leader == shard.replicas[0]
        };
        (0..self.len()).all(|node| {
            let shards = self.nodes[node].node().admin.get().map(|admin| admin.shards()).unwrap_or_default();
            is_up(&self.status(node)) && shards.len() == self.len() && shards.iter().all(is_led)
        })
    }

    fn status(&self, node: usize) -> ClusterStatusReply {
        self.nodes[node].node().admin.get().map(|admin| admin.status()).unwrap_or_default()
    }

    fn shards(&self, node: usize) -> &Shards {
        self.nodes[node].node().cluster.shards().expect("a member has them")
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // At the same time, for each waits until it has handed its shards over.
        thread::scope(|scope| {
            for node in self.nodes.drain(..) {
                scope.spawn(move || node.stop(PATIENCE));
            }
        });
    }
}

/// Waits until it is so.
pub(super) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        thread::park_timeout(POLL);
    }
}

/// Addresses for other nodes that nobody else listens at, most likely.
fn addresses(count: usize) -> Vec<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes that run at the same time have numbers that are close to each other, and few clusters each.
    let first = u16::try_from(process::id() % 1_024).expect("it is below 1,024") * 61 + 31;
    let [x, y] = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)).to_be_bytes();
    let free = |last| {
        let address = SocketAddr::from((Ipv4Addr::new(127, x.max(1), y, last), PORT));
        TcpListener::bind(address).is_ok().then_some(address)
    };
    let addresses: Vec<_> = (1..=u8::MAX).rev().filter_map(free).take(count).collect();
    assert_eq!(addresses.len(), count, "there are free addresses");
    addresses
}

const PORT: u16 = 5_884;

/// A client that speaks 3.1.1.
pub(super) struct Client {
    socket: TcpStream,
    id: u16,
}

impl Client {
    /// One that was accepted.
    pub(super) fn connect(address: SocketAddr, client_id: &str, clean: bool) -> Self {
        let socket = TcpStream::connect(address).expect("it listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("it is not zero");
        socket.set_nodelay(true).expect("it is open");
        let mut client = Self { socket, id: 0 };
        let mut body = b"\0\x04MQTT\x04".to_vec();
        body.extend([u8::from(clean) << 1, 0, 0]);
        body.extend(text(client_id));
        client.send(0x10, &body);
        let (kind, body) = client.receive();
        assert_eq!((kind, body[1]), (0x20, 0), "it is accepted");
        client
    }

    /// Until SUBACK.
    pub(super) fn subscribe(&mut self, filter: &str) {
        self.ask_to_subscribe(filter);
        let (kind, body) = self.receive();
        assert_eq!((kind, body[2]), (0x90, 1), "QoS 1 is granted");
    }

    /// Without waiting for SUBACK.
    pub(super) fn ask_to_subscribe(&mut self, filter: &str) {
        let body = [self.next_id(), text(filter), vec![1]].concat();
        self.send(0x82, &body);
    }

    /// Until PUBACK.
    pub(super) fn publish(&mut self, topic: &str) {
        let body = [text(topic), self.next_id(), b"x".to_vec()].concat();
        self.send(0x32, &body);
        assert_eq!(self.receive().0, 0x40, "it is acknowledged");
    }

    /// A PUBLISH of QoS 1, which it acknowledges.
    pub(super) fn take(&mut self) {
        let (kind, body) = self.receive();
        assert_eq!(kind, 0x32, "it is of QoS 1");
        let id = 2 + usize::from(body[1]);
        self.send(0x40, &body[id..id + 2]);
    }

    pub(super) fn disconnect(mut self) {
        self.send(0xE0, &[]);
        assert_eq!(self.socket.read(&mut [0]).ok(), Some(0), "the broker closes the connection");
    }

    /// The first byte and the body of a packet.
    pub(super) fn receive(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 2];
        self.socket.read_exact(&mut head).expect("a packet comes");
        assert!(head[1] < 0x80, "what is sent here is short");
        let mut body = vec![0; usize::from(head[1])];
        self.socket.read_exact(&mut body).expect("it is whole");
        (head[0], body)
    }

    fn send(&mut self, kind: u8, body: &[u8]) {
        let length = u8::try_from(body.len()).ok().filter(|length| *length < 0x80).expect("it is short");
        self.socket.write_all(&[&[kind, length], body].concat()).expect("it reads");
    }

    fn next_id(&mut self) -> Vec<u8> {
        self.id += 1;
        self.id.to_be_bytes().to_vec()
    }
}

fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("it is short");
    [&length.to_be_bytes(), text.as_bytes()].concat()
}
