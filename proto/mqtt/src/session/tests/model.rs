//! A session against a model of its client.
//!
//! The client keeps the specification's rules, in any order that they allow. Both sides speak through the real codec.
//! Checked on the way: no PUBLISH beyond Receive Maximum, order, order of acknowledgements, nothing twice. At the end
//! everything is settled, and then: nothing is lost that was not counted, no identifier is held, nothing is left in
//! flight or queued.

use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::{codec::encode, packet::PacketType};

/// What happens next. Numbers choose among what is there.
#[derive(Debug, Clone)]
enum Op {
    /// A message for the client.
    Deliver { qos: QoS, payload_len: usize, expiry: Option<u64> },
    /// The client reads some packets.
    ClientReads(usize),
    /// The client sends one of the acknowledgements that it owes.
    ClientAcks { which: usize, error: bool },
    /// The client publishes, if its quota allows.
    ClientPublishes { qos: QoS },
    /// The server reads some packets.
    ServerReads(usize),
    /// A ticket comes back.
    Store { which: usize, error: bool },
    /// The send buffer has drained.
    Pump,
    /// Time passes.
    Wait(u64),
}

fn qos() -> impl Strategy<Value = QoS> {
    prop_oneof![1 => Just(QoS::AtMostOnce), 4 => Just(QoS::AtLeastOnce), 4 => Just(QoS::ExactlyOnce)]
}

fn op() -> impl Strategy<Value = Op> {
    let payload_len = prop_oneof![3 => Just(0), 1 => 0..150_usize];
    prop_oneof![
        8 => (qos(), payload_len, prop::option::weighted(0.2, 0..20_u64))
            .prop_map(|(qos, payload_len, expiry)| Op::Deliver { qos, payload_len, expiry }),
        6 => (1..6_usize).prop_map(Op::ClientReads),
        10 => (0..8_usize, prop::bool::weighted(0.1)).prop_map(|(which, error)| Op::ClientAcks { which, error }),
        5 => qos().prop_map(|qos| Op::ClientPublishes { qos }),
        8 => (1..6_usize).prop_map(Op::ServerReads),
        5 => (0..8_usize, prop::bool::weighted(0.1)).prop_map(|(which, error)| Op::Store { which, error }),
        2 => Just(Op::Pump),
        1 => (0..10_u64).prop_map(Op::Wait),
    ]
}

/// A message that the client publishes, until it has its last acknowledgement.
#[derive(Debug)]
struct Publishing {
    id: PacketId,
    number: u32,
    exactly_once: bool,
    released: bool,
}

/// An acknowledgement that the client owes.
#[derive(Debug)]
struct Owed {
    packet_type: PacketType,
    id: PacketId,
}

#[derive(Debug)]
struct World {
    rig: Rig,
    version: ProtocolVersion,
    /// Bytes from the client that the server has not read, one packet each.
    to_server: VecDeque<Vec<u8>>,
    /// Bytes from the server that the client has not read.
    to_client: Vec<u8>,
    next_number: u32,

    // The client as a receiver.
    receive_maximum: u16,
    /// QoS 1 and 2 publishes whose last acknowledgement it has not sent.
    open: BTreeSet<PacketId>,
    owed: VecDeque<Owed>,
    /// QoS 2 identifiers until PUBREL.
    received: BTreeSet<PacketId>,
    /// Messages that arrived.
    arrived: BTreeSet<u32>,
    last_qos0: Option<u32>,
    last_qos12: Option<u32>,

    // The client as a sender.
    publishing: VecDeque<Publishing>,
    next_id: u16,
    /// Identifiers whose PUBACK or PUBREC is to come, in order.
    unanswered: VecDeque<PacketId>,
    /// QoS 1 and 2 messages whose delivery the client completed with success.
    completed: Vec<u32>,

    // The server's side.
    tickets: Vec<(Ticket, u32)>,
    /// The last message that was routed.
    routed: Option<u32>,
    stored: BTreeSet<u32>,
    /// QoS 1 and 2 messages that `deliver` has taken, and those of all that were dropped later.
    taken: u64,
    displaced: u64,
    report: QueueReport,
}

impl std::fmt::Debug for Rig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.session.fmt(f)
    }
}

/// What the client may have in flight, and the server takes.
const CLIENT_WINDOW: u16 = 5;

impl World {
    fn new(
        version: ProtocolVersion,
        queue_full: QueueFull,
        receive_maximum: u16,
        maximum_packet_size: Option<u32>,
    ) -> Self {
        let limits = Limits {
            max_inflight: NonZeroU16::new(4).expect("not 0"),
            receive_maximum: NonZeroU16::new(CLIENT_WINDOW).expect("not 0"),
            awaiting_rel_max: CLIENT_WINDOW,
            topic_alias_max: 2,
            output_buffer_max: 60,
            queue_messages_max: 6,
            queue_bytes_max: 200,
            queue_full,
            ..limits()
        };
        let mut connect = connect(version);
        let is_v5 = version.is_v5();
        if is_v5 {
            connect.properties.receive_maximum = NonZeroU16::new(receive_maximum).expect("not 0");
            connect.properties.maximum_packet_size = maximum_packet_size.and_then(NonZeroU32::new);
            connect.properties.topic_alias_maximum = receive_maximum;
        }
        Self {
            rig: Rig::with(limits, &connect),
            version,
            to_server: VecDeque::new(),
            to_client: Vec::new(),
            next_number: 0,
            receive_maximum: if is_v5 { receive_maximum.min(4) } else { 4 },
            open: BTreeSet::new(),
            owed: VecDeque::new(),
            received: BTreeSet::new(),
            arrived: BTreeSet::new(),
            last_qos0: None,
            last_qos12: None,
            publishing: VecDeque::new(),
            next_id: 0,
            unanswered: VecDeque::new(),
            completed: Vec::new(),
            tickets: Vec::new(),
            routed: None,
            stored: BTreeSet::new(),
            taken: 0,
            displaced: 0,
            report: QueueReport::default(),
        }
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Deliver { qos, payload_len, expiry } => self.deliver(qos, payload_len, expiry),
            Op::ClientReads(packets) => self.client_reads(packets),
            Op::ClientAcks { which, error } => self.client_acks(which, error && self.version.is_v5()),
            Op::ClientPublishes { qos } => self.client_publishes(qos),
            Op::ServerReads(packets) => self.server_reads(packets),
            Op::Store { which, error } => self.store(which, error),
            Op::Pump => self.rig.pump(),
            Op::Wait(secs) => self.rig.wait(Duration::from_secs(secs)),
        }
        let report = self.rig.session.take_report();
        self.report.expired += report.expired;
        self.report.too_large += report.too_large;
        assert_eq!(report.unknown_acks, 0);
        assert!(self.rig.session.queue_len() <= 6);
    }

    fn number(&mut self) -> u32 {
        self.next_number += 1;
        self.next_number
    }

    fn deliver(&mut self, qos: QoS, payload_len: usize, expiry: Option<u64>) {
        let number = self.number();
        let mut payload = number.to_be_bytes().to_vec();
        payload.resize(4 + payload_len, 0);
        let message = Message {
            payload: payload.into(),
            expires_at: expiry.map(|secs| self.rig.now + Duration::from_secs(secs)),
            ..message(["a", "b", "c"][number as usize % 3], qos)
        };
        let delivered = self.rig.deliver(&message, &at(QoS::ExactlyOnce));
        match delivered {
            Delivered::Dropped(_) => return,
            Delivered::Queued { displaced } => self.displaced += u64::from(displaced),
            Delivered::Sent => {}
        }
        self.taken += u64::from(qos != QoS::AtMostOnce);
    }

    fn client_reads(&mut self, packets: usize) {
        self.to_client.extend(drain(&mut self.rig.out));
        let decoder = Decoder::client(self.version, u32::MAX);
        let bytes = std::mem::take(&mut self.to_client);
        let mut rest = &bytes[..];
        for _ in 0..packets {
            let Some((packet, len)) = decoder.decode(rest).expect("valid") else { break };
            rest = &rest[len..];
            self.client_handles(&packet);
        }
        self.to_client = rest.to_vec();
    }

    fn client_handles(&mut self, packet: &Packet<'_>) {
        match packet {
            Packet::Publish(publish) => self.client_takes(publish),
            Packet::PubRel(ack) => {
                assert_eq!(ack.reason, ReasonCode::Success);
                self.received.remove(&ack.id);
                self.owed.push_back(Owed { packet_type: PacketType::PubComp, id: ack.id });
            }
            Packet::PubAck(ack) => self.client_is_answered(ack, false),
            Packet::PubRec(ack) => self.client_is_answered(ack, true),
            Packet::PubComp(ack) => {
                let index = self.publishing.iter().position(|publishing| publishing.id == ack.id);
                let done = self.publishing.remove(index.expect("known")).expect("known");
                assert!(done.released);
                assert_eq!(ack.reason, ReasonCode::Success);
                self.completed.push(done.number);
            }
            other => panic!("{other:?}"),
        }
    }

    /// A PUBLISH reaches the client.
    fn client_takes(&mut self, publish: &Publish<'_>) {
        let number = u32::from_be_bytes(publish.payload[..4].try_into().expect("four bytes"));
        let (id, dup, exactly_once) = match publish.delivery {
            Delivery::AtMostOnce => {
                assert!(self.last_qos0 < Some(number), "QoS 0 in order and once");
                self.last_qos0 = Some(number);
                return;
            }
            Delivery::AtLeastOnce { id, dup } => (id, dup, false),
            Delivery::ExactlyOnce { id, dup } => (id, dup, true),
        };
        assert!(!dup, "message {number} is new [MQTT-3.3.1-1]");
        assert!(self.open.insert(id), "{id} is free");
        assert!(self.open.len() <= usize::from(self.receive_maximum), "Receive Maximum [MQTT-3.3.4-9]");
        assert!(self.last_qos12 < Some(number), "in order and once");
        self.last_qos12 = Some(number);
        self.arrived.insert(number);
        let packet_type = if exactly_once { PacketType::PubRec } else { PacketType::PubAck };
        assert!(!exactly_once || self.received.insert(id), "{id} is held until PUBREL");
        self.owed.push_back(Owed { packet_type, id });
    }

    fn client_acks(&mut self, which: usize, error: bool) {
        if self.owed.is_empty() {
            return;
        }
        let Owed { packet_type, id } = self.owed.remove(which % self.owed.len()).expect("in range");
        let reason = match packet_type {
            PacketType::PubComp => ReasonCode::Success,
            _ if error => ReasonCode::UnspecifiedError,
            _ => ReasonCode::Success,
        };
        let ack = Ack::new(id, reason);
        match packet_type {
            PacketType::PubAck => {
                self.open.remove(&id);
                self.client_sends(&Packet::PubAck(ack));
            }
            PacketType::PubRec => {
                if error {
                    self.open.remove(&id);
                    assert!(self.received.remove(&id), "{id} is held");
                }
                self.client_sends(&Packet::PubRec(ack));
            }
            _ => {
                self.open.remove(&id);
                self.client_sends(&Packet::PubComp(ack));
            }
        }
    }

    fn client_sends(&mut self, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        encode(packet, self.version, &mut bytes).expect("fits");
        self.to_server.push_back(bytes);
    }

    fn client_publishes(&mut self, qos: QoS) {
        let number = self.number();
        if qos == QoS::AtMostOnce {
            self.client_sends_publish(number, Delivery::AtMostOnce);
            return;
        }
        if self.publishing.len() >= usize::from(CLIENT_WINDOW) {
            return;
        }
        // Few identifiers, so that each is used again soon.
        let id = loop {
            self.next_id = self.next_id % 7 + 1;
            if !self.publishing.iter().any(|publishing| publishing.id.value() == self.next_id) {
                break id(self.next_id);
            }
        };
        let exactly_once = qos == QoS::ExactlyOnce;
        self.publishing.push_back(Publishing { id, number, exactly_once, released: false });
        self.unanswered.push_back(id);
        self.client_sends_publish(number, connection::delivery(qos, id, false));
    }

    fn client_sends_publish(&mut self, number: u32, delivery: Delivery) {
        let payload = number.to_be_bytes();
        let publish = Publish { payload: &payload, ..publish("up", delivery) };
        self.client_sends(&Packet::Publish(publish));
    }

    /// PUBACK or PUBREC reaches the client.
    fn client_is_answered(&mut self, ack: &Ack<'_>, exactly_once: bool) {
        assert_eq!(self.unanswered.pop_front(), Some(ack.id), "in the order of the publishes");
        let index = self.publishing.iter().position(|publishing| publishing.id == ack.id).expect("known");
        let publishing = &mut self.publishing[index];
        assert_eq!(publishing.exactly_once, exactly_once);
        if exactly_once && !ack.reason.is_error() {
            publishing.released = true;
            self.client_sends(&Packet::PubRel(Ack::new(ack.id, ReasonCode::Success)));
            return;
        }
        let done = self.publishing.remove(index).expect("in range");
        if !ack.reason.is_error() {
            self.completed.push(done.number);
        }
    }

    fn server_reads(&mut self, packets: usize) {
        for _ in 0..packets {
            let Some(bytes) = self.to_server.pop_front() else { return };
            let mut decoder = Decoder::server(u32::MAX);
            decoder.set_version(self.version);
            let (packet, _) = decoder.decode(&bytes).expect("valid").expect("whole");
            match self.rig.handle(packet).expect("the client keeps the rules") {
                Request::Nothing => {}
                Request::Publish(incoming, ticket) => {
                    let payload = incoming.publish.payload;
                    let number = u32::from_be_bytes(payload.try_into().expect("four bytes"));
                    self.tickets.extend(ticket.map(|ticket| (ticket, number)));
                    assert!(
                        self.routed < Some(number),
                        "once, and in the order of the publishes [MQTT-4.6.0-5]"
                    );
                    self.routed = Some(number);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn store(&mut self, which: usize, error: bool) {
        if self.tickets.is_empty() {
            return;
        }
        let (ticket, number) = self.tickets.remove(which % self.tickets.len());
        let reason = if error { ReasonCode::QuotaExceeded } else { ReasonCode::Success };
        self.rig.stored(ticket, reason);
        if !error {
            self.stored.insert(number);
        }
    }

    /// Lets everything come to rest, then checks what is left.
    fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..10_000 {
            let before = (self.report, self.arrived.len(), self.completed.len());
            self.run(&Op::ClientReads(100));
            self.run(&Op::ClientAcks { which: 0, error: false });
            self.run(&Op::ServerReads(100));
            self.run(&Op::Store { which: 0, error: false });
            self.run(&Op::Pump);
            let at_rest = self.owed.is_empty() && self.to_server.is_empty() && self.rig.out.is_empty();
            let after = (self.report, self.arrived.len(), self.completed.len());
            quiet = if at_rest && self.tickets.is_empty() && before == after { quiet + 1 } else { 0 };
            if quiet == 3 {
                break;
            }
        }
        assert_eq!(quiet, 3, "it comes to rest");
        let session = &self.rig.session;
        assert_eq!((session.inflight_len(), session.queue_len()), (0, 0));
        assert!(self.open.is_empty() && self.received.is_empty() && self.publishing.is_empty());
        let inbound_is_idle = session.inbound.as_ref().is_none_or(|inbound| inbound.is_idle());
        assert!(inbound_is_idle, "no identifier is held");
        for number in &self.completed {
            // What failed in the store looks like success to a 3.1.1 client.
            assert!(!self.version.is_v5() || self.stored.contains(number), "message {number} is lost");
        }
        let dropped = self.displaced + u64::from(self.report.expired) + u64::from(self.report.too_large);
        assert_eq!(self.arrived.len() as u64 + dropped, self.taken, "every message is accounted for");
    }
}

proptest! {
    #[test]
    fn session_agrees_with_the_model(
        is_v5: bool,
        drops_oldest: bool,
        receive_maximum in 1..6_u16,
        maximum_packet_size in prop::option::weighted(0.3, 60..120_u32),
        ops in prop::collection::vec(op(), 1..250),
    ) {
        let version = if is_v5 { V5 } else { V311 };
        let queue_full = if drops_oldest { QueueFull::DropOldest } else { QueueFull::DropNewest };
        let mut world = World::new(version, queue_full, receive_maximum, maximum_packet_size);
        for op in &ops {
            world.run(op);
        }
        world.settle();
    }
}
