//! A client that takes messages as the specification asks of it, over many connections.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use super::{
    Storm,
    message::{Id, Received, identify},
    random::Random,
};
use crate::harness::{
    Client, Connect, DEADLINE, Event, Packet, Property, Publish, Version, ack, disconnect, property_id,
    subscribe, unsubscribe,
};

/// A persistent session and the connection that it has at the moment.
pub(super) struct Receiver<'s> {
    pub(super) storm: &'s Storm<'s>,
    pub(super) name: String,
    pub(super) random: Random,
    pub(super) received: Vec<Received>,
    version: Version,
    client: Option<Client>,
    has_session: bool,
    /// QoS 2 messages by packet identifier, from PUBLISH to PUBREL. They outlive connections.
    awaiting_rel: HashMap<u16, Id>,
    /// Exchanges on this connection that are not complete, which the Receive Maximum bounds.
    open: HashSet<u16>,
    receive_maximum: usize,
    /// Acknowledgements that are due, in order.
    due: Vec<Due>,
    /// The codes of the SUBACK or UNSUBACK with this identifier.
    answered: Option<(u16, Vec<u8>)>,
}

struct Due {
    first_byte: u8,
    id: u16,
    /// What the client has consumed with it.
    entry: Option<usize>,
}

/// How long acknowledgements are held back when nothing comes.
const PATIENCE: Duration = Duration::from_millis(2);
/// What the broker allows when a client says nothing (`mqtt.max_inflight`).
const INFLIGHT_MAX: usize = 32;

impl<'s> Receiver<'s> {
    pub(super) fn new(storm: &'s Storm<'s>, name: String, mut random: Random) -> Self {
        Self {
            storm,
            name,
            version: random.pick(&[Version::V311, Version::V5]),
            random,
            received: Vec::new(),
            client: None,
            has_session: false,
            awaiting_rel: HashMap::new(),
            open: HashSet::new(),
            receive_maximum: INFLIGHT_MAX,
            due: Vec::new(),
            answered: None,
        }
    }

    /// Connects, on whatever worker, and with another Receive Maximum.
    pub(super) fn ensure_connected(&mut self) {
        if self.client.is_some() {
            return;
        }
        let mut connect = Connect::new(self.version, &self.name).persistent();
        self.receive_maximum = INFLIGHT_MAX;
        if self.version == Version::V5 {
            self.receive_maximum = 1 + self.random.below(20);
            let value = u16::try_from(self.receive_maximum).expect("at most 20");
            connect = connect.with(Property::two(property_id::RECEIVE_MAXIMUM, value));
        }
        let client = self.storm.broker.connect(&connect);
        assert_eq!(client.connack().session_present, self.has_session, "the session of {}", self.name);
        self.has_session = true;
        self.client = Some(client);
    }

    /// Takes what comes next, if anything comes soon, and acknowledges when it feels like it.
    pub(super) fn step(&mut self) {
        let packet = match self.client.as_mut().expect("connected").next_event(PATIENCE) {
            Some(Event::Packet(packet)) => packet,
            Some(Event::Closed) => panic!("{}: the broker closed the connection", self.name),
            None => return self.acknowledge(),
        };
        match packet {
            Packet::Publish(publish) => self.take(&publish),
            Packet::PubRel { id, reason } => {
                assert!(reason == 0 || reason == 0x92, "PUBREL with {reason:#04x}");
                self.awaiting_rel.remove(&id);
                self.due.push(Due { first_byte: 0x70, id, entry: None });
            }
            Packet::SubAck { id, reasons } | Packet::UnsubAck { id, reasons } => {
                self.answered = Some((id, reasons));
            }
            other => panic!("{} got {other:?}", self.name),
        }
        if !self.storm.goes_on() || self.random.once_in(3) {
            self.acknowledge();
        }
    }

    fn take(&mut self, publish: &Publish) {
        let id = identify(publish);
        let Publish { qos, dup, .. } = *publish;
        let mut repeated = false;
        if qos == 2 {
            if let Some(known) = self.awaiting_rel.get(&publish.id) {
                assert!(dup, "{}: packet identifier {} is taken: {id:?}", self.name, publish.id);
                assert_eq!(
                    *known, id,
                    "{}: another message under packet identifier {}",
                    self.name, publish.id
                );
                repeated = true;
            }
            self.awaiting_rel.insert(publish.id, id.clone());
        }
        if qos > 0 {
            let fresh = self.open.insert(publish.id);
            assert!(fresh, "{}: packet identifier {} is in use [MQTT-2.2.1-4]", self.name, publish.id);
            let (open, max) = (self.open.len(), self.receive_maximum);
            assert!(open <= max, "{}: {open} messages, the Receive Maximum is {max}", self.name);
        }
        let entry = (!repeated).then(|| {
            let consumed = qos == 0;
            self.received.push(Received { id, topic: publish.topic.clone(), qos, dup, consumed });
            self.received.len() - 1
        });
        match qos {
            0 => {}
            1 => self.due.push(Due { first_byte: 0x40, id: publish.id, entry }),
            _ => self.due.push(Due { first_byte: 0x50, id: publish.id, entry }),
        }
    }

    /// Sends the acknowledgements that are due; returns the messages that are consumed by that.
    pub(super) fn acknowledge(&mut self) {
        let mut bytes = Vec::new();
        for Due { first_byte, id, entry } in self.due.drain(..) {
            bytes.extend(ack(first_byte, id));
            if first_byte != 0x50 {
                self.open.remove(&id);
            }
            if let Some(entry) = entry {
                self.received[entry].consumed = true;
                self.storm.note_consumed(&self.name, &self.received[entry].id);
            }
        }
        self.client.as_mut().expect("connected").send(&bytes);
    }

    /// Subscribes, while messages come.
    pub(super) fn subscribe(&mut self, filter: &str, qos: u8) {
        let id = self.client.as_mut().expect("connected").next_id();
        let bytes = subscribe(self.version, id, &[], &[(filter, qos)]);
        let codes = self.request(id, &bytes);
        assert_eq!(codes, [qos], "{} subscribes to {filter}", self.name);
    }

    pub(super) fn unsubscribe(&mut self, filter: &str) {
        let id = self.client.as_mut().expect("connected").next_id();
        let codes = self.request(id, &unsubscribe(self.version, id, &[filter]));
        let expected: &[u8] = if self.version == Version::V5 { &[0] } else { &[] };
        assert_eq!(codes, expected, "{} unsubscribes from {filter}", self.name);
    }

    fn request(&mut self, id: u16, bytes: &[u8]) -> Vec<u8> {
        self.client.as_mut().expect("connected").send(bytes);
        let deadline = Instant::now() + DEADLINE;
        loop {
            self.step();
            match self.answered.take() {
                Some((answered, codes)) if answered == id => return codes,
                Some((answered, _)) => panic!("{}: {answered} answered, not {id}", self.name),
                None => assert!(Instant::now() < deadline, "{}: request {id} is not answered", self.name),
            }
        }
    }

    /// Goes, in whatever state its messages are; the session stays.
    pub(super) fn disappear(&mut self) {
        if self.random.once_in(2) {
            self.acknowledge();
        }
        let Some(mut client) = self.client.take() else { return };
        if self.random.once_in(2) {
            client.send(&disconnect(self.version, 0, &[]));
        }
        self.forget_connection();
    }

    /// Ends the session, in whatever state its messages are.
    pub(super) fn end_session(&mut self) {
        drop(self.client.take());
        self.storm.broker.client(self.version, &self.name).disconnect();
        self.forget_connection();
        self.awaiting_rel.clear();
        self.has_session = false;
    }

    /// Completes all exchanges that have begun.
    pub(super) fn complete(&mut self) {
        let deadline = Instant::now() + DEADLINE;
        self.acknowledge();
        while !self.open.is_empty() || !self.awaiting_rel.is_empty() {
            self.step();
            assert!(Instant::now() < deadline, "{}: {:?} has no PUBREL", self.name, self.awaiting_rel);
        }
        self.acknowledge();
    }

    fn forget_connection(&mut self) {
        self.due.clear();
        self.open.clear();
        self.answered = None;
    }
}
