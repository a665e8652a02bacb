//! Bad input on the port for nodes: refused, counted, bounded, and nothing changes. F36.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use flotilla_rpc::{
    admin::{ClusterStatusRequest, admin_client::AdminClient},
    membership::{HelloRequest, NodeInfo, membership_client::MembershipClient},
    raft::{RaftRequest, raft_client::RaftClient},
};
use tonic::{
    Code, Extensions, Request, Status as Refusal,
    metadata::MetadataMap,
    transport::{Channel, Endpoint},
};

use crate::fleet::{Cluster, Node, Status, fence};

#[test]
fn bytes_that_are_no_http2_end_their_connection_and_nothing_else() {
    let cluster = calm_cluster();
    let before = members(&cluster);
    let garbage: [Vec<u8>; 8] = [
        b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c".to_vec(),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        // The first bytes of TLS.
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        vec![0; 100_000],
        vec![0xFF; 100_000],
        // The preface, and a frame of 16 MiB.
        [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &[0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0, 1]].concat(),
        // The preface, and a frame of a kind that there is not, then of a stream that cannot be.
        [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &[0, 0, 0, 0xEE, 0, 0xFF, 0xFF, 0xFF, 0xFF]].concat(),
        // A header block that does not decode.
        [
            &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
            &[0, 0, 0, 4, 0, 0, 0, 0, 0],
            &[0, 0, 4, 1, 5, 0, 0, 0, 1, 0xFF, 0xFF, 0xFF, 0xFF],
        ]
        .concat(),
    ];
    for bytes in &garbage {
        for node in cluster.nodes() {
            let mut stream = dial(node);
            // It may be closed before everything is sent.
            let _ = stream.write_all(bytes);
            let _ = stream.shutdown(Shutdown::Write);
            assert_ends(&mut stream, bytes);
        }
    }
    assert_untouched(&cluster, &before);
}

#[test]
fn a_peer_that_says_nothing_or_stops_reading_is_given_up() {
    let cluster = calm_cluster();
    let before = members(&cluster);
    let mut silent = dial(cluster.node(0));
    let mut half = dial(cluster.node(0));
    half.write_all(b"PRI * HTTP/2.0\r\n").expect("it is open");
    assert_ends(&mut silent, b"");
    assert_ends(&mut half, b"half a preface");
    assert_untouched(&cluster, &before);
}

#[test]
fn many_connections_of_strangers_do_not_shut_the_members_out() {
    let cluster = Cluster::start(3);
    let before = members(&cluster);
    // More than the port takes; those above are closed at once.
    let strangers: Vec<TcpStream> =
        (0..2_000).filter_map(|_| TcpStream::connect(cluster.node(0).cluster()).ok()).collect();
    assert!(strangers.len() > 1_000, "{} connections", strangers.len());
    assert!(cluster.node(0).open_files() < 1_500, "the number of connections is bounded");
    // Longer than the silence after which a node is declared down.
    cluster.stays(Duration::from_secs(7), "the node stays a member", || {
        cluster.node(1).status().is_none_or(|status| status.has(&cluster.node(0).name(), "up"))
    });
    drop(strangers);
    assert_untouched(&cluster, &before);
}

#[test]
fn strangers_are_told_that_they_are_strangers_and_learn_nothing() {
    let cluster = calm_cluster();
    let before = members(&cluster);
    let (name, secret) = cluster.credentials();
    let good = [
        ("flotilla-wire", "1"),
        ("flotilla-from", FROM),
        ("flotilla-cluster", &name),
        ("flotilla-secret", &secret),
    ];
    let check = |headers: &[(&'static str, &str)], expected: &[Code]| {
        let admin = call(cluster.node(0), headers, async |channel, stamp| {
            AdminClient::new(channel).cluster_status(stamp.on(ClusterStatusRequest {})).await.map(drop)
        });
        let hello = call(cluster.node(0), headers, async |channel, stamp| {
            let hello = HelloRequest {
                node: Some(NodeInfo { id: 7, name: "stranger".to_owned(), ..NodeInfo::default() }),
            };
            MembershipClient::new(channel).hello(stamp.on(hello)).await.map(drop)
        });
        let append = call(cluster.node(0), headers, async |channel, stamp| {
            let append = RaftRequest { group: 0, to: 1, body: vec![0xFF; 100].into() };
            RaftClient::new(channel).append(stamp.on(append)).await.map(drop)
        });
        for refusal in [admin, hello, append] {
            let code = refusal.expect_err("it is refused").code();
            assert!(expected.contains(&code), "{code:?} for {headers:?}");
        }
    };
    check(&[], &[Code::Unauthenticated]);
    for missing in 0..good.len() {
        let headers: Vec<_> =
            good.iter().enumerate().filter(|(place, _)| *place != missing).map(|(_, h)| *h).collect();
        check(&headers, &[Code::Unauthenticated, Code::PermissionDenied, Code::FailedPrecondition]);
    }
    let wrong = [
        ("flotilla-wire", "999"),
        ("flotilla-from", "x"),
        ("flotilla-cluster", "other"),
        ("flotilla-secret", "00"),
    ];
    for (place, value) in wrong.into_iter().enumerate() {
        let mut headers = good;
        headers[place] = value;
        check(&headers, &[Code::Unauthenticated, Code::PermissionDenied, Code::FailedPrecondition]);
    }
    assert_untouched(&cluster, &before);
}

#[test]
fn whoever_knows_the_secret_and_sends_nonsense_changes_nothing() {
    let cluster = calm_cluster();
    let before = members(&cluster);
    let (name, secret) = cluster.credentials();
    let id = before.id.clone().expect("it is founded");
    let headers = [
        ("flotilla-wire", "1"),
        ("flotilla-from", FROM),
        ("flotilla-cluster", name.as_str()),
        ("flotilla-secret", secret.as_str()),
        ("flotilla-cluster-id", id.as_str()),
    ];
    // The sizes are: nothing, some bytes that do not decode, and more than the port takes.
    for len in [0, 100, 16 << 20] {
        for kind in 0..3 {
            let answer = call(cluster.node(0), &headers, async |channel, stamp| {
                let body = RaftRequest { group: 0, to: 1, body: vec![0xFF; len].into() };
                let mut raft = RaftClient::new(channel);
                match kind {
                    0 => raft.append(stamp.on(body)).await.map(drop),
                    1 => raft.vote(stamp.on(body)).await.map(drop),
                    _ => raft.pre_vote(stamp.on(body)).await.map(drop),
                }
            });
            assert!(answer.is_err(), "{len} bytes");
        }
    }
    assert_untouched(&cluster, &before);
}

#[test]
fn no_client_reaches_the_services_through_an_mqtt_listener() {
    let cluster = Cluster::start(1);
    let mut stream = TcpStream::connect(cluster.node(0).mqtt()).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("it is not zero");
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("it reads");
    assert_ends(&mut stream, b"a preface");
}

/// Calls a service of a node with these headers.
fn call<T>(
    node: &Node,
    headers: &[(&'static str, &str)],
    ask: impl AsyncFnOnce(Channel, Stamp) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    let mut metadata = MetadataMap::new();
    for (key, value) in headers {
        metadata.insert(*key, value.parse().expect("it is ASCII"));
    }
    let endpoint = Endpoint::from_shared(format!("http://{}", node.cluster())).expect("it is an address");
    let endpoint = endpoint.connect_timeout(PATIENCE).timeout(PATIENCE);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("there is room");
    runtime.block_on(async { ask(endpoint.connect().await.expect("it listens"), Stamp(metadata)).await })
}

/// What a request says of its sender.
struct Stamp(MetadataMap);

impl Stamp {
    fn on<T>(&self, message: T) -> Request<T> {
        Request::from_parts(self.0.clone(), Extensions::default(), message)
    }
}

/// A connection to the port for nodes on which nothing has been said.
fn dial(node: &Node) -> TcpStream {
    let stream = TcpStream::connect(node.cluster()).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("it is not zero");
    stream
}

/// The other side closes; what it says before that is bounded.
#[track_caller]
fn assert_ends(stream: &mut TcpStream, sent: &[u8]) {
    let (mut said, mut chunk) = (0, [0; 4_096]);
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return,
            Ok(length) => said += length,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
            Err(error) => panic!("it is not closed: {error}, after {:02x?}", &sent[..sent.len().min(32)]),
        }
        assert!(said < 1 << 20, "it talks without end");
    }
}

/// A cluster in which nobody counts as dead only because the machine is busy: what changes here has another reason.
#[track_caller]
fn calm_cluster() -> Cluster {
    Cluster::with(3, &[("cluster.node_down_after", "30s")])
}

/// What must not change.
fn members(cluster: &Cluster) -> Status {
    cluster.node(0).status().expect("it answers")
}

/// The cluster is what it was, and serves.
#[track_caller]
fn assert_untouched(cluster: &Cluster, before: &Status) {
    cluster.nodes().iter().for_each(Node::assert_alive);
    let after = members(cluster);
    assert_eq!((&after.leader, after.term, &after.nodes), (&before.leader, before.term, &before.nodes));
    let (mut subscriber, mut publisher) = (cluster.node(0).client("s"), cluster.node(2).client("p"));
    assert!(fence(&mut subscriber, &mut publisher).is_empty());
}

/// A node that there is not.
const FROM: &str = "00000000000000ff";

/// How long a bad connection may stay.
const PATIENCE: Duration = Duration::from_secs(30);
