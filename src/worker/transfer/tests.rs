use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::mpsc::{Receiver, Sender, channel},
    time::{Duration, Instant},
};

use flotilla_lane::{Batch, LaneId};
use flotilla_mqtt::topic::TopicFilter;
use flotilla_registry::WillId;
use parking_lot::Mutex;

use super::*;
use crate::{
    Broker, BrokerHandle,
    cluster::{BoxFuture, Claim, Claimed, Cluster, Origin, tests::seat_beside},
    config::Config,
    router::RouteChange,
    worker::Event,
};

/// What the workers say to the cluster.
#[derive(Debug, PartialEq)]
enum Said {
    Abandoned(Tenure),
    Released(Tenure),
    Exported(ConnectionEpoch, Option<Bytes>),
    Settled(ConnectionEpoch),
    WillDropped(Tenure),
}

/// A cluster that grants what the test wants, and commits no route of a session that has come.
#[derive(Debug)]
struct Scripted {
    grants: Arc<Mutex<VecDeque<Claimed>>>,
    said: Mutex<Sender<Said>>,
}

impl Scripted {
    fn say(&self, said: Said) {
        let _ = self.said.lock().send(said);
    }
}

impl Cluster for Scripted {
    fn is_serving(&self) -> bool {
        true
    }

    fn claim(&self, _: Claim) -> BoxFuture<'_, Result<Claimed, ReasonCode>> {
        let granted = self.grants.lock().pop_front().unwrap_or_default();
        Box::pin(std::future::ready(Ok(granted)))
    }

    fn attached(&self, _: &ClientId, _: Tenure) {}

    fn will_delayed(&self, _: &ClientId, _: Tenure) {}

    fn will_dropped(&self, _: &ClientId, tenure: Tenure) {
        self.say(Said::WillDropped(tenure));
    }

    fn will_published(&self, _: WillId) {}

    fn abandon(&self, _: &ClientId, claimed: &Claimed) {
        self.say(Said::Abandoned(claimed.tenure));
    }

    fn release(&self, _: &ClientId, tenure: Tenure) {
        self.say(Said::Released(tenure));
    }

    fn exported(&self, _: &ClientId, epoch: ConnectionEpoch, session: Option<Bytes>) {
        self.say(Said::Exported(epoch, session));
    }

    fn early(&self, _: &ClientId) -> Vec<Early> {
        Vec::new()
    }

    fn settle(&self, _: &ClientId, epoch: ConnectionEpoch, _: LogIndex) {
        self.say(Said::Settled(epoch));
    }

    fn stub_ended(&self, _: &ClientId, _: ConnectionEpoch) {}

    fn announce(&self, _: &TopicFilter, _: RouteChange, done: Option<Completion>) -> Receipt {
        match done {
            Some(Completion { what: Awaited::Adoption, .. }) => Receipt::Later,
            _ => Receipt::Done,
        }
    }

    fn forward(&self, _: NodeId, _: LaneId, _: Batch, _: Vec<Completion>) {}

    fn is_congested(&self, _: NodeId) -> bool {
        false
    }
}

struct Stage {
    broker: BrokerHandle,
    grants: Arc<Mutex<VecDeque<Claimed>>>,
    said: Receiver<Said>,
}

impl Stage {
    fn set() -> Self {
        let set = ["listeners.tcp.bind=127.0.0.1:0", "sys.interval=0s", "node.workers=1"].map(str::to_owned);
        let config = Config::load(None, [], &set).expect("it is valid");
        let (sender, said) = channel();
        let grants = Arc::<Mutex<VecDeque<Claimed>>>::default();
        let cluster = Scripted { grants: Arc::clone(&grants), said: Mutex::new(sender) };
        let seat = seat_beside("elsewhere/#", Box::new(cluster));
        Self { broker: Broker::start_in(config, seat).expect("it starts"), grants, said }
    }

    /// Connects, with what the cluster grants; returns what CONNACK says.
    fn connect(&self, connect: &[u8], number: u64, origin: Origin) -> (TcpStream, [u8; 2]) {
        self.grants.lock().push_back(Claimed { tenure: tenure(number), origin, kept: None });
        let mut client = TcpStream::connect(self.broker.listeners()[0].1).expect("it listens");
        client.set_read_timeout(Some(Duration::from_secs(10))).expect("not zero");
        client.write_all(connect).expect("it reads");
        let mut connack = [0; 4];
        client.read_exact(&mut connack).expect("it answers");
        (client, [connack[2], connack[3]])
    }

    /// A persistent session of the client `c` with a subscription to `t`, whose client is away.
    fn leave_session(&self, number: u64) {
        let (mut client, _) = self.connect(CONNECT, number, Origin::Here);
        client.write_all(b"\x82\x06\x00\x01\x00\x01t\x01\xe0\x00").expect("it reads");
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).expect("it is closed");
        assert_eq!(rest, [0x90, 3, 0, 1, 1]);
    }

    fn order(&self, order: Order) {
        self.broker.node().mailboxes[0].send(Event::Transfer(order));
    }

    fn export(&self, number: u64) -> Bytes {
        let export = Export { client_id: client_id(), epoch: epoch(number), to: NodeId(2), discard: false };
        self.order(Order::Export(export));
        match self.hear(|said| matches!(said, Said::Exported(..))) {
            Said::Exported(of, Some(session)) if of == epoch(number) => session,
            other => panic!("{other:?}"),
        }
    }

    /// The next thing of interest that the workers say.
    fn hear(&self, is_it: impl Fn(&Said) -> bool) -> Said {
        loop {
            let said = self.said.recv_timeout(Duration::from_secs(10)).expect("it is said in time");
            if is_it(&said) {
                return said;
            }
        }
    }

    fn publish(&self, payload: u8) {
        let mut publisher = self.connect(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01p", 0, Origin::Here).0;
        publisher.write_all(&[0x32, 6, 0, 1, b't', 0, 1, payload]).expect("it reads");
        let mut ack = [0; 4];
        publisher.read_exact(&mut ack).expect("it answers");
    }

    fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is_so(self) {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

const CONNECT: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x00\x00\x00\x00\x01c";
/// The same in 5.0, with a session that outlives its connection by a second.
const CONNECT_SHORT: &[u8] = b"\x10\x13\x00\x04MQTT\x05\x00\x00\x00\x05\x11\x00\x00\x00\x01\x00\x01c";

fn client_id() -> ClientId {
    ClientId::new("c").expect("not empty")
}

fn epoch(number: u64) -> ConnectionEpoch {
    ConnectionEpoch { shard: flotilla_state::ShardEpoch(1), sequence: number }
}

fn tenure(number: u64) -> Tenure {
    Tenure { epoch: epoch(number), turn: 0 }
}

#[test]
fn nothing_is_left_of_a_session_that_has_gone_when_the_nodes_life_ends() {
    let stage = Stage::set();
    stage.leave_session(1);
    let _session = stage.export(2);
    let node = stage.broker.node();
    assert!(node.stubs.find(&client_id(), epoch(2)).is_some());
    stage.order(Order::ForgetTransfers);
    // Else its subscriptions would be announced again in the next life, and everything would come twice.
    stage.until("the stub is forgotten", |stage| stage.broker.node().router.len() == 0);
    assert!(node.stubs.find(&client_id(), epoch(2)).is_none());
    stage.broker.stop(Duration::from_secs(10));
}

#[test]
fn a_session_that_has_come_gets_what_it_held_back_when_the_nodes_life_ends() {
    let stage = Stage::set();
    stage.leave_session(1);
    let session = stage.export(2);
    stage.order(Order::ForgetTransfers);
    let (mut client, connack) = stage.connect(CONNECT, 3, Origin::Elsewhere(session));
    assert_eq!(connack, [1, 0]);
    stage.publish(b'x');
    stage.order(Order::ForgetTransfers);
    let mut publish = [0; 8];
    client.read_exact(&mut publish).expect("it comes");
    assert_eq!((publish[0], publish[7]), (0x32, b'x'));
    stage.broker.stop(Duration::from_secs(10));
}

#[test]
fn a_session_that_is_taken_back_is_found_before_its_worker_knows() {
    let stage = Stage::set();
    stage.leave_session(1);
    let _session = stage.export(2);
    let node = stage.broker.node();
    let stub = node.stubs.find(&client_id(), epoch(2)).expect("it is kept");
    node.registry.find_or_insert(&client_id(), stub);
    let (client, connack) = stage.connect(CONNECT, 3, Origin::Here);
    assert_eq!(connack, [1, 0]);
    // The order comes late, and does no harm.
    stage.order(Order::TakeBack { client_id: client_id(), epoch: epoch(2) });
    drop(client);
    stage.until("it is away", |stage| stage.broker.node().totals().connections == 0);
    assert_eq!(stage.connect(CONNECT, 4, Origin::Here).1, [1, 0]);
    assert_eq!(node.totals().sessions, 1);
    stage.broker.stop(Duration::from_secs(10));
}

#[test]
fn a_session_that_others_have_taken_over_since_is_not_resumed() {
    let stage = Stage::set();
    stage.leave_session(1);
    let (mut client, connack) = stage.connect(CONNECT, 2, Origin::Nowhere);
    assert_eq!(connack, [0, 0]);
    // The order to discard it comes late, and is not about the connection that came after it.
    stage.order(Order::Discard { client_id: client_id(), tenure: tenure(1) });
    client.write_all(b"\xc0\x00").expect("it reads");
    let mut pong = [0; 2];
    client.read_exact(&mut pong).expect("it lives");
    stage.order(Order::Discard { client_id: client_id(), tenure: tenure(2) });
    assert_eq!(client.read(&mut [0]).expect("closed in order"), 0);
    stage.broker.stop(Duration::from_secs(10));
}

#[test]
fn a_session_that_cannot_be_read_stays_where_it_was() {
    let stage = Stage::set();
    let (_client, connack) = stage.connect(CONNECT, 1, Origin::Elsewhere(Bytes::from_static(b"\xff")));
    assert!(connack[0] == 0 && connack[1] != 0, "refused: {connack:?}");
    assert_eq!(stage.hear(|_| true), Said::Abandoned(tenure(1)));
    assert_eq!(stage.connect(CONNECT, 2, Origin::Here).1, [0, 0]);
    stage.broker.stop(Duration::from_secs(10));
}

#[test]
fn a_session_outlives_a_grant_that_comes_to_nothing() {
    let stage = Stage::set();
    let (mut client, _) = stage.connect(CONNECT, 1, Origin::Here);
    stage.order(Order::Forsake { client_id: client_id(), tenure: tenure(2) });
    assert_eq!(client.read(&mut [0]).expect("closed in order"), 0);
    // The session is the cluster's under the later grant, and is there for the next connection.
    assert_eq!(stage.hear(|_| true), Said::WillDropped(tenure(2)));
    assert_eq!(stage.connect(CONNECT, 3, Origin::Here).1, [1, 0]);
    // Where there is none, the client is given up.
    let nobody = ClientId::new("nobody").expect("not empty");
    stage.order(Order::Forsake { client_id: nobody, tenure: tenure(4) });
    stage.hear(|said| *said == Said::Released(tenure(4)));
    stage.broker.stop(Duration::from_secs(10));
}

#[test]
fn a_session_that_expires_while_another_node_waits_for_it_is_said_to_be_gone() {
    let stage = Stage::set();
    stage.leave_session(1);
    let session = stage.export(2);
    stage.order(Order::ForgetTransfers);
    let (client, connack) = stage.connect(CONNECT, 3, Origin::Elsewhere(session));
    assert_eq!(connack, [1, 0]);
    drop(client);
    stage.until("it is away", |stage| stage.broker.node().totals().connections == 0);
    let mut client = TcpStream::connect(stage.broker.listeners()[0].1).expect("it listens");
    stage.grants.lock().push_back(Claimed { tenure: tenure(3), origin: Origin::Here, kept: None });
    client.write_all(CONNECT_SHORT).expect("it reads");
    stage.until("it is back", |stage| stage.broker.node().totals().connections == 1);
    let export = Export { client_id: client_id(), epoch: epoch(4), to: NodeId(2), discard: false };
    stage.order(Order::Export(export));
    // It gathers and cannot go yet; after a second it has ended.
    assert_eq!(stage.hear(|said| matches!(said, Said::Exported(..))), Said::Exported(epoch(4), None));
    // And the node that it came from may stop to pass on.
    stage.hear(|said| *said == Said::Settled(epoch(3)));
    stage.broker.stop(Duration::from_secs(10));
}

#[test]
fn what_waits_for_a_client_that_is_elsewhere_is_not_the_stubs_to_end() {
    let stage = Stage::set();
    let mut client = TcpStream::connect(stage.broker.listeners()[0].1).expect("it listens");
    client.write_all(CONNECT_SHORT).expect("it reads");
    stage.until("it is there", |stage| stage.broker.node().totals().connections == 1);
    let _session = stage.export(2);
    // Another one that expires as fast, and begins later, says when the time is over.
    stage.grants.lock().push_back(Claimed { tenure: tenure(9), origin: Origin::Here, kept: None });
    let mut other = TcpStream::connect(stage.broker.listeners()[0].1).expect("it listens");
    other.write_all(&[&CONNECT_SHORT[..CONNECT_SHORT.len() - 1], b"d"].concat()).expect("it reads");
    other.write_all(b"\xe0\x00").expect("it reads");
    stage.hear(|said| *said == Said::Released(tenure(9)));
    assert!(stage.broker.node().stubs.find(&client_id(), epoch(2)).is_some());
    stage.order(Order::EndStub { client_id: client_id(), epoch: epoch(2) });
    stage.until("the stub ends", |stage| stage.broker.node().stubs.latest(&client_id()).is_none());
    stage.broker.stop(Duration::from_secs(10));
}
