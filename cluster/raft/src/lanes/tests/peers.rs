//! Lanes behind the gate of the cluster port, through the channels of the address book.

use std::{sync::Arc, time::Duration};

use flotilla_lane::{CONTROL, LaneId};
use flotilla_rpc::lanes::lanes_client::LanesClient;
use flotilla_state::Member;
use tokio::{net::TcpListener, runtime::Handle, task::JoinHandle};
use tonic::{Code, service::Routes};

use super::harness::{Recorder, batch, batch_of_size, member, open_with, raw_hello, until, until_all};
use crate::{
    lanes::{LaneOptions, Lanes, Sent},
    peers::{Class, ClusterId, Gate, Local, Peers, PeersOptions, ServeOptions, TcpConnector, serve},
};

struct Node {
    me: Member,
    address: String,
    peers: Peers,
    lanes: Lanes<Recorder>,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Node {
    async fn start(number: u64) -> Self {
        let me = member(number);
        let local = Local::new(me.node, "blue", None);
        local.update(|bound| {
            bound.cluster = Some(ClusterId(7));
            bound.incarnation = Some(me.incarnation);
        });
        let timeout = Duration::from_secs(5);
        let options = PeersOptions { connect_timeout: timeout, keep_alive: timeout };
        let peers = Peers::new(local.clone(), options, Arc::new(TcpConnector::default()));
        let recorder = Arc::new(Recorder::default());
        let options = LaneOptions { queue_bytes_high: 12 << 20, ..LaneOptions::default() };
        let lanes = Lanes::new(options, Arc::new(peers.clone()), recorder, Handle::current());
        assert!(lanes.admitted(me).is_empty());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback is there");
        let address = listener.local_addr().expect("it is bound").to_string();
        let routes = Routes::new(lanes.service());
        let forever = std::future::pending();
        let server =
            tokio::spawn(serve(listener, routes, Gate::new(local), ServeOptions::default(), forever));
        Self { me, address, peers, lanes, server }
    }

    fn meet(&self, other: &Self) {
        self.peers.committed(other.me.node, &other.address);
        self.lanes.member_joined(other.me);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.lanes.fenced());
        self.server.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_pass_the_gate() {
    let (a, b) = (Node::start(1).await, Node::start(2).await);
    a.meet(&b);
    b.meet(&a);
    for (from, to) in [(&a, &b), (&b, &a)] {
        for lane in LaneId::all() {
            for id in 1..=10 {
                let batch = batch_of_size(id, 10_000);
                assert_eq!(from.lanes.send(to.me, lane, batch, vec![id]).expect("it lives"), Sent::Queued);
            }
        }
        for lane in LaneId::all() {
            until_all("taken", &from.lanes.events().taken, (to.me, lane), 10).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_opens_only_lanes_from_itself() {
    let (a, b, c) = (Node::start(1).await, Node::start(2).await, Node::start(3).await);
    for other in [&a, &c] {
        b.meet(other);
    }
    c.meet(&b);
    let client = LanesClient::new(c.peers.channel(b.me.node, Class::Lanes).expect("it has met it"));
    assert_eq!(open_with(client, raw_hello(a.me, b.me, 0), &[]).await, Err(Code::PermissionDenied));
    let client = LanesClient::new(c.peers.channel(b.me.node, Class::Lanes).expect("it has met it"));
    assert_eq!(open_with(client, raw_hello(c.me, b.me, 0), &[]).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_stay_apart_on_one_connection() {
    let (a, b) = (Node::start(1).await, Node::start(2).await);
    a.meet(&b);
    b.meet(&a);
    b.lanes.events().hold(true);
    let mut sent = 0;
    'full: loop {
        sent += 1;
        for lane in LaneId::all().skip(1) {
            let batch = batch_of_size(sent, 100_000);
            if a.lanes.send(b.me, lane, batch, vec![sent]).expect("it lives") == Sent::Congested {
                break 'full;
            }
        }
    }
    until("all lanes of messages stand still", || {
        LaneId::all().skip(1).all(|lane| b.lanes.events().received_count(a.me, lane) == 8)
    })
    .await;
    assert_eq!(a.lanes.send(b.me, CONTROL, batch(1), vec![1]).expect("it lives"), Sent::Congested);
    until_all("taken", &a.lanes.events().taken, (b.me, CONTROL), 1).await;
    b.lanes.events().hold(false);
    until("the rest is taken", || a.lanes.queued_bytes() == [(b.me, 0)]).await;
}
