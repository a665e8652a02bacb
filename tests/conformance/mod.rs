//! The specification, as a client sees it.
//!
//! `connect`, `header`, `publish`, `acks`, `subscribe` and `disconnect` hold the bad-input table: each test is named
//! after its row. What 5.0 answers with a reason code, 3.1 and 3.1.1 answer with a closed connection, unless the test
//! says otherwise. The `behaviour_*` modules hold what a good client may rely on, `overload` what becomes of it when more comes
//! than the broker can hold.

mod acks;
mod behaviour_exactly_once;
mod behaviour_flow;
mod behaviour_qos;
mod behaviour_retain;
mod behaviour_retain_kept;
mod behaviour_session;
mod behaviour_shared;
mod behaviour_stream;
mod behaviour_subscribe;
mod behaviour_sys;
mod behaviour_will;
mod clauses;
mod connect;
mod connect_properties;
mod disconnect;
mod header;
mod overload;
mod publish;
mod subscribe;

use std::sync::Arc;

use crate::harness::{Broker, Client, Connect, Event, Version, unique};

/// A broker, and two clients on it that must not notice anything.
struct Scene {
    broker: Arc<Broker>,
    publisher: Client,
    subscriber: Client,
    topic: String,
}

/// Runs `attack` on the shared broker, then checks that the broker lives and that other clients are served.
#[track_caller]
fn hostile(attack: impl FnOnce(&mut Scene)) {
    hostile_on(Broker::shared(), attack);
}

/// The same on a broker with settings of its own.
#[track_caller]
fn hostile_on(broker: Arc<Broker>, attack: impl FnOnce(&mut Scene)) {
    let mut scene = Scene::new(broker);
    attack(&mut scene);
    scene.assert_unharmed();
}

impl Scene {
    fn new(broker: Arc<Broker>) -> Self {
        let topic = unique("bystander");
        let mut subscriber = broker.client(Version::V5, &unique("by-s"));
        assert_eq!(subscriber.subscribe(&topic, 1), 1);
        let publisher = broker.client(Version::V311, &unique("by-p"));
        Self { broker, publisher, subscriber, topic }
    }

    #[track_caller]
    fn assert_unharmed(&mut self) {
        self.broker.assert_healthy();
        self.publisher.publish(&self.topic, "still here", 1);
        let publish = self.subscriber.expect_publish(&self.topic, "still here");
        self.subscriber.acknowledge(&publish);
        self.publisher.ping();
        self.subscriber.ping();
    }

    /// A fresh client.
    #[track_caller]
    fn client(&self, version: Version) -> Client {
        self.broker.client(version, &unique("hostile"))
    }

    /// A 5.0 client that sends `input` gets DISCONNECT with `reason` and is closed.
    #[track_caller]
    fn refuses(&self, input: &[u8], reason: u8) {
        let mut client = self.client(Version::V5);
        client.send(input);
        client.expect_disconnect(reason);
    }

    /// A client that sends `input` is closed without a word.
    #[track_caller]
    fn closes(&self, version: Version, input: &[u8]) {
        let mut client = self.client(version);
        client.send(input);
        client.expect_closed();
    }

    /// A connection that begins with `input`, which is meant to be of this version, is closed without a word.
    #[track_caller]
    fn closes_at_once(&self, version: Version, input: &[u8]) {
        let mut client = self.broker.open(version);
        client.send(input);
        client.expect_closed();
    }

    /// A CONNECT is answered with this code in the form of `version`, then the connection is closed.
    #[track_caller]
    fn refuses_connect(&self, version: Version, connect: &[u8], code: u8) {
        let mut client = self.broker.open(version);
        client.send(connect);
        client.expect_connack(code);
        client.expect_closed();
    }

    /// A 3.1 or 3.1.1 CONNECT that no return code fits: any refusal will do, or none, but the connection is closed.
    #[track_caller]
    fn turns_away(&self, connect: &Connect) {
        let mut client = self.broker.open(connect.version);
        client.send(&connect.bytes());
        match client.next_event(crate::harness::DEADLINE) {
            Some(Event::Closed) => {}
            Some(_) => client.expect_closed(),
            None => panic!("neither an answer nor the end: {connect:?}"),
        }
    }
}
