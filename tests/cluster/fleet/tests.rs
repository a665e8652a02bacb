//! The tools of these tests, as far as they can be tested without a cluster.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use crate::{
    fleet::{Cluster, Ear, Node, Traffic, fence, in_own_network, next_publish, numbers, receive},
    harness::{Connect, Version},
};

/// Nodes that know of no others: each is a cluster of its own.
fn alone(nodes: usize) -> Cluster {
    Cluster::prepare(
        nodes,
        &[("cluster.bootstrap_expect", "1"), ("cluster.discovery.static", "[]"), ("sys.interval", "0s")],
    )
}

#[test]
fn nodes_are_started_killed_and_started_again() {
    let cluster = alone(2);
    cluster.nodes().iter().for_each(Node::start);
    cluster.nodes().iter().for_each(Node::await_ready);
    assert_ne!(cluster.node(0).address(), cluster.node(1).address());
    let mut client = cluster.node(0).client("c");
    cluster.node(0).kill();
    client.expect_closed();
    assert!(!cluster.node(0).is_running() && cluster.node(1).is_running());
    assert!(cluster.node(0).attempt(&Connect::new(Version::V5, "c")).is_err());
    cluster.node(0).start();
    cluster.node(0).connect_soon(&Connect::new(Version::V5, "c")).ping();
    cluster.node(1).restart();
    cluster.node(1).await_ready();
    assert_eq!(cluster.node(1).log().matches("---- it is started").count(), 2);
}

#[test]
fn a_node_that_is_paused_answers_when_it_is_resumed() {
    let cluster = alone(1);
    cluster.node(0).start();
    cluster.node(0).await_ready();
    let mut client = cluster.node(0).client("c");
    cluster.node(0).pause();
    client.send(&crate::harness::pingreq());
    assert_eq!(client.next_event(Duration::from_millis(300)), None);
    assert!(cluster.node(0).is_running());
    cluster.node(0).resume();
    client.expect(&crate::harness::Packet::PingResp);
}

#[test]
fn a_node_that_is_terminated_says_goodbye() {
    let cluster = alone(1);
    cluster.node(0).start();
    cluster.node(0).await_ready();
    let mut client = cluster.node(0).client("c");
    let ending = thread::scope(|scope| {
        let ending = scope.spawn(|| cluster.node(0).terminate());
        client.expect_disconnect(0x8B);
        drop(client);
        ending.join().expect("it ends")
    });
    assert_eq!(ending.code(), Some(0));
    assert!(!cluster.node(0).is_running());
}

#[test]
fn a_node_can_be_moved_and_wiped() {
    let mut cluster = alone(1);
    let before = cluster.node(0).address();
    cluster.node(0).start();
    cluster.node(0).await_ready();
    cluster.move_node(0);
    assert_ne!(cluster.node(0).address(), before);
    cluster.node(0).await_ready();
    cluster.node(0).kill();
    fs::create_dir_all(cluster.node(0).data_dir()).expect("the directory is ours");
    fs::write(cluster.node(0).data_dir().join("kept"), "").expect("the directory is ours");
    cluster.node(0).wipe();
    assert!(!cluster.node(0).data_dir().exists());
    let number = cluster.add_core();
    cluster.node(number).await_ready();
    assert_eq!(cluster.node(number).name(), "node-1");
}

#[test]
fn a_fence_stands_behind_all_that_was_sent() {
    let cluster = alone(1);
    cluster.node(0).start();
    cluster.node(0).await_ready();
    let (mut subscriber, mut publisher) = (cluster.node(0).client("s"), cluster.node(0).client("p"));
    assert_eq!(subscriber.subscribe("t/+", 2), 2);
    for message in 0..100u32 {
        publisher.publish("t/x", message.to_string(), u8::try_from(message % 3).expect("it is small"));
    }
    // QoS 0 does not wait for acknowledgements, so the three may overtake each other.
    let mut came = numbers(&fence(&mut subscriber, &mut publisher));
    came.sort_unstable();
    assert_eq!(came, (0..100).collect::<Vec<_>>());
    assert!(fence(&mut subscriber, &mut publisher).is_empty());
    publisher.publish("t/x", "100", 0);
    assert_eq!(numbers(&receive(&mut subscriber, 1)), [100]);
    assert_eq!(next_publish(&mut subscriber, Duration::from_millis(100)), None, "nothing of a fence is left");
}

#[test]
fn an_ear_hears_all_of_the_traffic() {
    let cluster = alone(1);
    cluster.node(0).start();
    cluster.node(0).await_ready();
    let mut subscriber = cluster.node(0).client("s");
    assert_eq!(subscriber.subscribe("flow", 1), 1);
    let ear = Ear::start(subscriber);
    let traffic = Traffic::start(cluster.node(0), "flow");
    cluster.until("there is some", || (ear.count() > 100).then_some(()));
    let sent = traffic.stop();
    let (mut subscriber, heard) = ear.hear(sent);
    assert_eq!(heard, (0..sent).collect::<Vec<_>>());
    subscriber.ping();
}

#[test]
fn clusters_do_not_share_addresses() {
    let (one, other) = (alone(3), alone(3));
    assert!(
        one.nodes().iter().all(|node| other.nodes().iter().all(|theirs| node.address() != theirs.address()))
    );
    let directories = [one.directory().to_owned(), other.directory().to_owned()];
    assert_ne!(directories[0], directories[1]);
    drop((one, other));
    assert!(directories.iter().all(|directory| !directory.exists()), "nothing is left behind");
}

#[test]
fn a_rule_cuts_a_connection_and_the_network_heals() {
    in_own_network(|| {
        let cluster = alone(2);
        let (a, b) = (cluster.node(0).address(), cluster.node(1).address());
        let (mut there, mut here) = connection(a, b);
        assert!(passes(&mut there, &mut here) && passes(&mut here, &mut there));
        cluster.cut_one_way(0, 1);
        assert!(!passes(&mut there, &mut here));
        cluster.heal();
        // What was sent meanwhile is sent again by the system.
        assert!(arrives(&mut here, Duration::from_secs(10)));
        cluster.cut(0, 1);
        assert!(!passes(&mut here, &mut there));
        // Clients come from elsewhere.
        let (mut client, mut node) = connection(Ipv4Addr::LOCALHOST, b);
        assert!(passes(&mut client, &mut node) && passes(&mut node, &mut client));
        cluster.mend(0, 1);
        assert!(arrives(&mut there, Duration::from_secs(10)));
    });
}

#[test]
fn an_isolated_node_serves_its_clients() {
    in_own_network(|| {
        let cluster = alone(3);
        cluster.nodes().iter().for_each(Node::start);
        cluster.nodes().iter().for_each(Node::await_ready);
        cluster.isolate(1);
        let (from, to) = (cluster.node(1).address(), cluster.node(2).mqtt());
        assert!(dial(from, to, Duration::from_millis(300)).is_none());
        assert!(dial(cluster.node(0).address(), to, Duration::from_secs(10)).is_some());
        cluster.node(1).client("c").ping();
        cluster.heal();
        assert!(dial(from, to, Duration::from_secs(10)).is_some());
        // The other kinds of trouble are rules that the system takes, too.
        cluster.lose(50, 0, 1);
        cluster.slow_down(125, 0, 2);
        cluster.split(&[0], &[1, 2]);
        cluster.heal();
    });
}

#[test]
fn the_network_of_others_is_not_broken() {
    if std::env::var_os("FLOTILLA_TEST_OWN_NETWORK").is_some() {
        return;
    }
    let cluster = alone(2);
    let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cluster.cut(0, 1)));
    assert!(refused.is_err(), "this is everybody's network");
}

/// A connection from one address to another, at both ends.
fn connection(from: Ipv4Addr, to: Ipv4Addr) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((to, 0)).expect("there is a free port");
    let there = dial(from, listener.local_addr().expect("it is bound"), Duration::from_secs(10));
    let (here, _) = listener.accept().expect("it is dialled");
    (there.expect("nothing is broken"), here)
}

/// Dials from an address; `None` when nobody answers in time.
fn dial(from: Ipv4Addr, to: SocketAddr, within: Duration) -> Option<TcpStream> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("there is room");
    runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().expect("there is room for a socket");
        socket.bind((from, 0).into()).expect("it is an address of this machine");
        let stream = tokio::time::timeout(within, socket.connect(to)).await.ok()?.ok()?;
        let stream = stream.into_std().expect("it is open");
        stream.set_nonblocking(false).expect("it is open");
        Some(stream)
    })
}

/// Whether a byte gets from one end to the other, soon.
fn passes(from: &mut TcpStream, to: &mut TcpStream) -> bool {
    from.write_all(b"x").expect("the system takes it");
    arrives(to, Duration::from_millis(300))
}

fn arrives(at: &mut TcpStream, within: Duration) -> bool {
    at.set_read_timeout(Some(within)).expect("it is not zero");
    at.read_exact(&mut [0]).is_ok()
}
