//! Operation lists into the session.
//!
//! The input is a list of operations: what a client may send, in any order and with identifiers that collide, what the
//! broker does with the session, connections that end and begin anew, and time. The session checks its own invariants
//! after each. Checked here: what it sends can be read, is no longer than the client takes, and is never more than its
//! Receive Maximum; no QoS 2 message is routed again while its identifier is held; queues keep their bounds; what was
//! due is done.

#![no_main]

use std::{
    collections::BTreeSet,
    io::IoSlice,
    num::{NonZeroU16, NonZeroU32},
    sync::Arc,
    time::Duration,
};

use flotilla_mqtt::{
    PacketId, ProtocolVersion, QoS, ReasonCode, SubscriptionIds, Timestamp, Transit,
    codec::{Decoder, SendBuffer},
    packet::{
        Ack, Auth, AuthProperties, Connect, ConnectProperties, Delivery, Disconnect, DisconnectProperties,
        LastWill, Packet, Publish, PublishProperties, SubscriptionOptions, WillProperties,
    },
    session::{
        AuthStep, Authenticator, Delivered, DeliveryOptions, Handshake, HandshakeStep, Limits, QueueFull,
        Request, Session, Ticket,
    },
    topic::TopicFilter,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut input = Input(input);
    let options = input.byte();
    let mut now = Timestamp::from_millis(1_000);
    while !input.0.is_empty() {
        if let Some(world) = World::connect(options, now, &mut input) {
            now = world.run_all(&mut input);
        }
    }
});

/// Numbers from the input; zeros after its end.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn below(&mut self, bound: u8) -> u8 {
        self.byte() % bound
    }

    fn flag(&mut self) -> bool {
        self.below(2) == 1
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::from(self.byte()) % all.len()]
    }

    fn id(&mut self) -> PacketId {
        PacketId::new(u16::from(self.below(8)) + 1).expect("not 0")
    }

    fn qos(&mut self) -> QoS {
        QoS::from_u8(self.below(3)).expect("below 3")
    }

    fn reason(&mut self) -> ReasonCode {
        if self.below(4) == 0 { ReasonCode::QuotaExceeded } else { ReasonCode::Success }
    }
}

const TOPICS: [&str; 7] = ["a", "b", "long/topic/with/levels", "$SYS/x", "$share/g/a", "a/b/c/d/e/f/g", "c"];
const FILTERS: [&str; 5] = ["a", "b", "c", "d", "$share/g/+"];

/// One connection.
struct World {
    session: Session,
    /// Whether the connection has not ended.
    is_open: bool,
    limits: Arc<Limits>,
    version: ProtocolVersion,
    out: SendBuffer,
    now: Timestamp,
    /// The client's Receive Maximum or ours, and its Maximum Packet Size.
    receive_maximum: usize,
    packet_len_max: usize,
    /// QoS 1 and 2 publishes to the client, without their last acknowledgement.
    open: BTreeSet<PacketId>,
    /// Aliases that the client was told.
    aliases: BTreeSet<NonZeroU16>,
    /// QoS 2 identifiers of messages that were routed and not released (5.0; 3.1.1 does not say which are released).
    held: BTreeSet<PacketId>,
    tickets: Vec<(Ticket, Option<PacketId>)>,
    shared: Arc<TopicFilter>,
}

/// Lets everybody in.
struct Open;

impl Authenticator for Open {
    fn check_password(&mut self, _: &str, _: Option<&str>, _: Option<&[u8]>) -> Result<(), ReasonCode> {
        Ok(())
    }

    fn step(&mut self, _: &str, _: Option<&[u8]>) -> Result<AuthStep, ReasonCode> {
        Ok(AuthStep::Done(Vec::new()))
    }
}

/// Small, so that every bound is met.
fn limits(options: u8) -> Limits {
    Limits {
        max_packet_size: NonZeroU32::MAX,
        max_inflight: nonzero(3),
        receive_maximum: nonzero(3),
        topic_alias_max: 2,
        max_topic_levels: 6,
        max_client_id_len: 100,
        keepalive_backoff: 0.75,
        server_keepalive: None,
        max_keepalive: None,
        output_buffer_max: 100,
        response_information: None,
        queue_messages_max: 4,
        queue_bytes_max: 64,
        queue_full: if options & 1 == 0 { QueueFull::DropNewest } else { QueueFull::DropOldest },
        expiry_max: (options & 4 == 4).then_some(Duration::from_secs(5)),
        expiry_v3: Some(Duration::from_secs(5)),
        awaiting_rel_max: 4,
        subscriptions_max: 3,
        answer_timeout: None,
    }
}

fn nonzero(value: u8) -> NonZeroU16 {
    NonZeroU16::new(u16::from(value)).expect("not 0")
}

impl World {
    /// `None`: the CONNECT is refused.
    fn connect(options: u8, now: Timestamp, input: &mut Input<'_>) -> Option<Self> {
        let limits = Arc::new(limits(options));
        let version = if options & 8 == 8 { ProtocolVersion::V311 } else { ProtocolVersion::V5 };
        let options = input.byte();
        let mut properties = ConnectProperties::default();
        if version.is_v5() {
            properties.session_expiry = u32::from(input.below(4)) * 3;
            properties.receive_maximum = nonzero(input.below(5) + 1);
            properties.maximum_packet_size =
                NonZeroU32::new(u32::from(input.byte())).filter(|_| options & 1 == 1);
            properties.topic_alias_maximum = u16::from(input.below(4));
            properties.authentication_method = (options & 2 == 2).then_some("m");
        }
        let will = (options & 4 == 4).then(|| LastWill {
            topic: input.one_of(&TOPICS),
            payload: b"gone",
            qos: input.qos(),
            retain: input.flag(),
            properties: WillProperties { delay: u32::from(input.below(8)), ..WillProperties::default() },
        });
        let connect = Connect {
            version,
            clean_start: options & 8 == 8,
            keep_alive: u16::from(input.below(4)),
            client_id: "client",
            will,
            username: None,
            password: None,
            properties,
        };
        let step = Handshake::start(&connect, &limits, 0, &mut Open).ok()?.1;
        let HandshakeStep::Accept(accepted) = step else { return None };
        let packet_len_max =
            accepted.maximum_packet_size.map(|max| usize::try_from(max.get()).expect("32 bits"));
        let receive_maximum = usize::from(accepted.receive_maximum.get());
        let mut out = SendBuffer::new();
        accepted.write_connack(&limits, false, out.tail());
        Some(Self {
            session: Session::new(now, *accepted, Arc::clone(&limits)),
            is_open: true,
            limits,
            version,
            out,
            now,
            receive_maximum,
            packet_len_max: packet_len_max.unwrap_or(usize::MAX),
            open: BTreeSet::new(),
            aliases: BTreeSet::new(),
            held: BTreeSet::new(),
            tickets: Vec::new(),
            shared: Arc::new(TopicFilter::parse("$share/g/+", 6).expect("valid")),
        })
    }

    /// Runs operations until the connection ends; returns when that is.
    fn run_all(mut self, input: &mut Input<'_>) -> Timestamp {
        while self.is_open && !input.0.is_empty() {
            let operation = input.byte();
            self.run(operation, input);
            self.check();
        }
        self.read();
        let queued = self.session.queue_len() + self.session.inflight_len();
        assert!(self.session.end().len() <= queued);
        self.now
    }

    fn run(&mut self, operation: u8, input: &mut Input<'_>) {
        match operation % 16 {
            0..=2 => self.publish(input),
            3..=5 => self.acknowledge(input),
            6 | 7 => self.deliver(input),
            8 | 9 => self.store(input),
            10 => self.read(),
            11 => self.session.pump(self.now, &mut self.out),
            12 => self.now = self.now + Duration::from_millis(u64::from(input.byte()) * 100),
            13 => self.deadline(),
            14 => self.leave(input),
            _ => self.other(input),
        }
    }

    fn check(&mut self) {
        assert!(self.session.queue_len() <= 4 && self.session.inflight_len() <= 3);
        assert!(self.session.subscriptions().len() <= 3);
        self.session.take_report();
    }

    /// Hands a packet of the client in, as the broker does it.
    fn handle(&mut self, packet: Packet<'_>) {
        match self.session.handle_packet(self.now, packet, &mut self.out) {
            Ok(Request::Publish(incoming, ticket)) => {
                assert!(!incoming.topic.as_str().is_empty());
                let Some(ticket) = ticket else { return };
                let id = match incoming.publish.delivery {
                    Delivery::ExactlyOnce { id, .. } if self.version.is_v5() => Some(id),
                    _ => None,
                };
                if let Some(id) = id {
                    assert!(self.held.insert(id), "message {id} is routed twice");
                }
                self.tickets.push((ticket, id));
            }
            Ok(Request::Release(_)) => panic!("only a kept session asks for it"),
            Ok(Request::Disconnect(_)) => self.is_open = false,
            Ok(Request::Authenticate(_)) => {
                self.session.handle_authenticated(&AuthStep::Continue(Vec::new()), &mut self.out);
            }
            Ok(_) => {}
            Err(error) => {
                assert!(error.reason().is_error() && !error.to_string().is_empty());
                self.session.write_disconnect(error.reason(), &mut self.out);
                self.is_open = false;
            }
        }
    }

    fn publish(&mut self, input: &mut Input<'_>) {
        let (id, dup) = (input.id(), input.flag());
        let delivery = match input.qos() {
            QoS::AtMostOnce => Delivery::AtMostOnce,
            QoS::AtLeastOnce => Delivery::AtLeastOnce { id, dup },
            QoS::ExactlyOnce => Delivery::ExactlyOnce { id, dup },
        };
        let topic_alias = NonZeroU16::new(u16::from(input.below(5))).filter(|_| self.version.is_v5());
        let topic = if topic_alias.is_some() && input.flag() { "" } else { input.one_of(&TOPICS) };
        let properties = PublishProperties { topic_alias, ..PublishProperties::default() };
        self.read();
        self.handle(Packet::Publish(Publish {
            delivery,
            retain: false,
            topic,
            properties,
            payload: b"payload",
        }));
    }

    fn acknowledge(&mut self, input: &mut Input<'_>) {
        self.read();
        let (id, reason) = (input.id(), input.reason());
        match input.below(4) {
            0 => {
                self.open.remove(&id);
                self.handle(Packet::PubAck(Ack::new(id, reason)));
            }
            1 => {
                if reason.is_error() {
                    self.open.remove(&id);
                }
                self.handle(Packet::PubRec(Ack::new(id, reason)));
            }
            2 => {
                self.open.remove(&id);
                self.handle(Packet::PubComp(Ack::new(id, ReasonCode::Success)));
            }
            _ => self.handle(Packet::PubRel(Ack::new(id, ReasonCode::Success))),
        }
    }

    fn deliver(&mut self, input: &mut Input<'_>) {
        let payload = [7; 80];
        let payload = &payload[..usize::from(input.below(80))];
        let expires_at = input.flag().then(|| self.now + Duration::from_secs(u64::from(input.below(4))));
        let transit =
            Transit::new(input.one_of(&TOPICS), &[], payload, input.qos(), false, expires_at, None, None);
        let subscription_ids = match NonZeroU32::new(u32::from(input.below(3))) {
            Some(id) => SubscriptionIds::One(id),
            None => SubscriptionIds::None,
        };
        let shared = input.flag().then(|| Arc::clone(&self.shared));
        let options = DeliveryOptions { qos: input.qos(), retain: input.flag(), subscription_ids, shared };
        let len_before = self.out.len();
        let delivered = self.session.deliver(self.now, &transit, &options, &mut self.out);
        assert_eq!(self.out.len() > len_before, delivered == Delivered::Sent);
        assert!(len_before < self.limits.output_buffer_max || delivered != Delivered::Sent);
    }

    fn store(&mut self, input: &mut Input<'_>) {
        if self.tickets.is_empty() {
            return;
        }
        let index = usize::from(input.byte()) % self.tickets.len();
        let (ticket, id) = self.tickets.remove(index);
        let reason = input.reason();
        if let Some(id) = id.filter(|_| reason.is_error()) {
            self.held.remove(&id);
        }
        self.session.handle_stored(ticket, reason, &mut self.out);
    }

    /// The client reads all there is.
    fn read(&mut self) {
        let mut bytes = Vec::new();
        while !self.out.is_empty() {
            let mut slices = [IoSlice::new(&[]); 4];
            let filled = self.out.slices(&mut slices);
            let before = bytes.len();
            for slice in &slices[..filled] {
                bytes.extend_from_slice(slice);
            }
            let taken = bytes.len() - before;
            self.out.advance(taken);
        }
        let decoder = Decoder::client(self.version, u32::MAX);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (packet, len) = decoder.decode(rest).expect("valid").expect("whole");
            assert!(len <= self.packet_len_max, "{len} bytes are above the client's maximum");
            rest = &rest[len..];
            match &packet {
                Packet::Publish(publish) => self.read_publish(publish),
                Packet::PubComp(ack) if ack.reason == ReasonCode::Success => {
                    self.held.remove(&ack.id);
                }
                _ => {}
            }
        }
    }

    fn read_publish(&mut self, publish: &Publish<'_>) {
        if let Some(id) = publish.delivery.packet_id() {
            assert!(self.open.insert(id), "{id} is in use");
            assert!(self.open.len() <= self.receive_maximum, "more than Receive Maximum");
        }
        if let Some(alias) = publish.properties.topic_alias {
            let introduced = !publish.topic.is_empty();
            assert_eq!(
                self.aliases.insert(alias),
                introduced,
                "alias {alias} is told once and before it is used"
            );
        }
    }

    fn deadline(&mut self) {
        self.is_open = !self.session.is_silent(self.now);
        let is_due = self.session.next_deadline().is_some_and(|at| at <= self.now);
        assert_eq!(self.is_open, !is_due, "nothing else is due");
    }

    /// The connection ends, in one of the ways in which it may.
    fn leave(&mut self, input: &mut Input<'_>) {
        match input.below(3) {
            0 => {
                let session_expiry = Some(u32::from(input.below(3))).filter(|_| self.version.is_v5());
                let properties = DisconnectProperties { session_expiry, ..DisconnectProperties::default() };
                self.handle(Packet::Disconnect(Disconnect { reason: ReasonCode::Success, properties }));
            }
            1 => self.is_open = false,
            _ => {
                self.session.write_disconnect(ReasonCode::SessionTakenOver, &mut self.out);
                self.is_open = false;
            }
        }
    }

    fn other(&mut self, input: &mut Input<'_>) {
        match input.below(6) {
            0 => self.handle(Packet::PingReq),
            1 => self.handle(Packet::PingResp),
            2 => {
                let reason = input.one_of(&[ReasonCode::Reauthenticate, ReasonCode::ContinueAuthentication]);
                let properties =
                    AuthProperties { authentication_method: Some("m"), ..AuthProperties::default() };
                self.handle(Packet::Auth(Auth { reason, properties }));
            }
            3 => {
                let filter = Arc::new(TopicFilter::parse(input.one_of(&FILTERS), 6).expect("valid"));
                let id = NonZeroU32::new(u32::from(input.below(3)));
                let _ = self.session.subscribe(&filter, SubscriptionOptions::default(), id);
            }
            4 => {
                self.session.unsubscribe(input.one_of(&FILTERS));
            }
            _ => {
                self.session.take_shared(&self.shared);
            }
        }
    }
}
