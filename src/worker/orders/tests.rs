use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::TcpStream,
    sync::mpsc::{Receiver, Sender, channel},
    time::Duration,
};

use flotilla_lane::{Batch, LaneId};
use flotilla_mqtt::topic::TopicFilter;
use flotilla_state::{NodeId, ShardEpoch};
use parking_lot::Mutex;

use super::*;
use crate::{
    Broker, BrokerHandle,
    cluster::{BoxFuture, Claim, Claimed, Cluster, Completion, Receipt, tests::seat_beside},
    config::Config,
    router::RouteChange,
};

/// What the workers say to the cluster.
#[derive(Debug, PartialEq)]
enum Said {
    Abandoned(Tenure),
    Released(Tenure),
    Closed(ConnectionEpoch),
}

/// A cluster that grants what the test wants.
#[derive(Debug)]
struct Scripted {
    grants: Arc<Mutex<VecDeque<Tenure>>>,
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
        let tenure = self.grants.lock().pop_front().expect("the test has granted it");
        Box::pin(std::future::ready(Ok(Claimed { tenure, kept: None })))
    }

    fn attached(&self, _: &ClientId, _: Tenure) {}

    fn abandon(&self, _: &ClientId, claimed: &Claimed) {
        self.say(Said::Abandoned(claimed.tenure));
    }

    fn release(&self, _: &ClientId, tenure: Tenure) {
        self.say(Said::Released(tenure));
    }

    fn closed(&self, _: &ClientId, epoch: ConnectionEpoch) {
        self.say(Said::Closed(epoch));
    }

    fn announce(&self, _: &TopicFilter, _: RouteChange, _: Option<Completion>) -> Receipt {
        Receipt::Done
    }

    fn forward(&self, _: NodeId, _: LaneId, _: Batch, _: Vec<Completion>) {}

    fn is_congested(&self, _: NodeId) -> bool {
        false
    }
}

struct Stage {
    broker: BrokerHandle,
    grants: Arc<Mutex<VecDeque<Tenure>>>,
    said: Receiver<Said>,
}

impl Stage {
    fn set() -> Self {
        let set = ["listeners.tcp.bind=127.0.0.1:0", "sys.interval=0s", "node.workers=1"].map(str::to_owned);
        let config = Config::load(None, [], &set).expect("it is valid");
        let (sender, said) = channel();
        let grants = Arc::<Mutex<VecDeque<Tenure>>>::default();
        let cluster = Scripted { grants: Arc::clone(&grants), said: Mutex::new(sender) };
        let seat = seat_beside("elsewhere/#", Box::new(cluster));
        Self { broker: Broker::start_in(config, seat).expect("it starts"), grants, said }
    }

    /// Connects the client `c` under a grant; returns the return code of CONNACK.
    fn connect(&self, number: u64) -> (TcpStream, u8) {
        self.grants.lock().push_back(tenure(number));
        let mut client = TcpStream::connect(self.broker.listeners()[0].1).expect("it listens");
        client.set_read_timeout(Some(Duration::from_secs(10))).expect("not zero");
        client.write_all(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01c").expect("it reads");
        let mut connack = [0; 4];
        client.read_exact(&mut connack).expect("it answers");
        assert_eq!(connack[..3], [0x20, 2, 0]);
        (client, connack[3])
    }

    fn order(&self, order: Order) {
        self.broker.node().mailboxes[0].send(Event::Order(order));
    }

    fn hear(&self) -> Said {
        self.said.recv_timeout(Duration::from_secs(10)).expect("it is said in time")
    }

    fn stop(self) {
        self.broker.stop(Duration::from_secs(10));
    }
}

fn client_id() -> ClientId {
    ClientId::new("c").expect("not empty")
}

fn epoch(number: u64) -> ConnectionEpoch {
    ConnectionEpoch { shard: ShardEpoch(1), sequence: number }
}

fn tenure(number: u64) -> Tenure {
    Tenure { epoch: epoch(number), turn: 0 }
}

fn expect_alive(client: &mut TcpStream) {
    client.write_all(b"\xc0\x00").expect("it reads");
    client.read_exact(&mut [0; 2]).expect("it answers");
}

fn expect_closed(mut client: TcpStream) {
    assert_eq!(client.read(&mut [0]).expect("closed in order"), 0);
}

#[test]
fn a_client_that_goes_to_another_node_is_closed_before_that_is_said() {
    let stage = Stage::set();
    let (client, _) = stage.connect(1);
    stage.order(Order::Close { client_id: client_id(), epoch: epoch(2) });
    assert_eq!((stage.hear(), stage.hear()), (Said::Released(tenure(1)), Said::Closed(epoch(2))));
    expect_closed(client);
    assert_eq!(stage.broker.node().totals().session_takenover, 1);
    // Where nothing is, there is nothing to close; and a later connection has nothing to do with it.
    stage.order(Order::Close { client_id: client_id(), epoch: epoch(3) });
    assert_eq!(stage.hear(), Said::Closed(epoch(3)));
    let (mut client, _) = stage.connect(5);
    stage.order(Order::Close { client_id: client_id(), epoch: epoch(4) });
    assert_eq!(stage.hear(), Said::Closed(epoch(4)));
    expect_alive(&mut client);
    stage.stop();
}

#[test]
fn a_connection_that_is_void_is_closed_and_a_later_one_is_not() {
    let stage = Stage::set();
    let (mut client, _) = stage.connect(2);
    stage.order(Order::Discard { client_id: client_id(), tenure: tenure(1) });
    expect_alive(&mut client);
    stage.order(Order::Discard { client_id: client_id(), tenure: tenure(2) });
    expect_closed(client);
    stage.stop();
}

#[test]
fn a_grant_that_comes_to_nothing_takes_the_connection_before_it_along() {
    let stage = Stage::set();
    let (client, _) = stage.connect(1);
    stage.order(Order::Forsake { client_id: client_id(), tenure: tenure(2) });
    assert_eq!((stage.hear(), stage.hear()), (Said::Released(tenure(1)), Said::Released(tenure(2))));
    expect_closed(client);
    stage.order(Order::Forsake { client_id: client_id(), tenure: tenure(3) });
    assert_eq!(stage.hear(), Said::Released(tenure(3)));
    stage.stop();
}

#[test]
fn a_connection_that_comes_after_a_later_one_is_refused() {
    let stage = Stage::set();
    let (mut client, _) = stage.connect(2);
    let (refused, code) = stage.connect(1);
    assert_eq!((code, stage.hear()), (3, Said::Abandoned(tenure(1))));
    expect_closed(refused);
    expect_alive(&mut client);
    stage.stop();
}
