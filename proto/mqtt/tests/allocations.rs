//! What must not allocate for each message, does not: the path from a PUBLISH to its subscribers.

use std::{
    alloc::System,
    num::{NonZeroU16, NonZeroU32},
    sync::Arc,
    time::Duration,
};

use flotilla_mqtt::{
    PacketId, ProtocolVersion, QoS, ReasonCode, Timestamp, Transit,
    codec::{Decoder, SendBuffer, encode},
    packet::{Ack, Connect, ConnectProperties, Delivery, Packet, Publish, PublishProperties},
    session::{
        AuthStep, Authenticator, Delivered, DeliveryOptions, Handshake, HandshakeStep, Limits, QueueFull,
        Request, Session,
    },
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const NOW: Timestamp = Timestamp::from_millis(1_000);
const TOPIC: &str = "plant/hall-7/machine-12/temperature";

#[test] // One test, for allocations are counted in the whole process.
fn messages_do_not_allocate() {
    for version in [ProtocolVersion::V311, ProtocolVersion::V5] {
        check_receiving(&mut Rig::new(version));
        check_sending(&mut Rig::new(version));
    }
}

/// PUBLISH from the client at each QoS, stored at once.
fn check_receiving(rig: &mut Rig) {
    let mut decoder = Decoder::server(1 << 20);
    decoder.set_version(rig.version);
    let id = PacketId::MIN;
    for delivery in [
        Delivery::AtMostOnce,
        Delivery::AtLeastOnce { id, dup: false },
        Delivery::ExactlyOnce { id, dup: false },
    ] {
        let mut bytes = Vec::new();
        let properties = PublishProperties::default();
        let publish = Publish { delivery, retain: false, topic: TOPIC, properties, payload: &[7; 64] };
        encode(&Packet::Publish(publish), rig.version, &mut bytes).expect("fits");
        rig.expect_no_allocation(&format!("{delivery:?} from the client"), |rig| {
            let (packet, _) = decoder.decode(&bytes).expect("valid").expect("whole");
            let request = rig.session.handle_packet(NOW, packet, &mut rig.out).expect("no error");
            let Request::Publish(_, ticket) = request else { panic!("{request:?}") };
            if let Some(ticket) = ticket {
                rig.session.handle_stored(ticket, ReasonCode::Success, &mut rig.out);
            }
            if delivery.qos() == QoS::ExactlyOnce {
                rig.take(Packet::PubRel(Ack::new(id, ReasonCode::Success)));
            }
        });
    }
}

/// A message to the client at each QoS; at QoS 1 and 2 it is kept already, as for its first receiver.
fn check_sending(rig: &mut Rig) {
    let transit = Transit::new(TOPIC, &[], &[7; 64], QoS::ExactlyOnce, false, None, None, None);
    let message = transit.keep();
    let transit = Transit::from_message(&message);
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let options = DeliveryOptions { qos, ..DeliveryOptions::default() };
        rig.expect_no_allocation(&format!("QoS {} to the client", qos as u8), |rig| {
            assert_eq!(rig.session.deliver(NOW, &transit, &options, &mut rig.out), Delivered::Sent);
            if qos == QoS::AtMostOnce {
                return;
            }
            let ack = Ack::new(rig.next_id, ReasonCode::Success);
            rig.next_id = rig.next_id.next();
            if qos == QoS::AtLeastOnce {
                return rig.take(Packet::PubAck(ack));
            }
            rig.take(Packet::PubRec(ack.clone()));
            rig.take(Packet::PubComp(ack));
        });
    }
}

struct Rig {
    session: Session,
    out: SendBuffer,
    version: ProtocolVersion,
    /// The identifier of the next message to the client.
    next_id: PacketId,
}

impl Rig {
    fn new(version: ProtocolVersion) -> Self {
        let limits = Arc::new(limits());
        let connect = Connect {
            version,
            clean_start: true,
            keep_alive: 60,
            client_id: "client",
            will: None,
            username: None,
            password: None,
            properties: ConnectProperties { topic_alias_maximum: 9, ..ConnectProperties::default() },
        };
        let session = match Handshake::start(&connect, &limits, 0, &mut Open).expect("accepted").1 {
            HandshakeStep::Accept(accepted) => Session::new(NOW, *accepted, limits),
            HandshakeStep::Continue(_) => panic!("nobody asked for more"),
        };
        Self { session, out: SendBuffer::new(), version, next_id: PacketId::MIN }
    }

    fn take(&mut self, packet: Packet<'_>) {
        self.session.handle_packet(NOW, packet, &mut self.out).expect("no error");
    }

    /// Runs `step` until everything has been allocated that it needs once, then looks.
    fn expect_no_allocation(&mut self, what: &str, mut step: impl FnMut(&mut Self)) {
        let mut run = |rig: &mut Self| {
            for _ in 0..100 {
                step(rig);
                rig.out.advance(rig.out.len());
            }
        };
        run(self);
        let mut count = || {
            let region = Region::new(ALLOCATOR);
            run(self);
            let change = region.change();
            change.allocations + change.reallocations
        };
        // The thread that waits for the test may allocate in between: the least of several runs counts.
        let least = (0..10).map(|_| count()).min();
        assert_eq!(least, Some(0), "{what}, {:?}", self.version);
    }
}

/// Lets everybody in.
struct Open;

impl Authenticator for Open {
    fn check_password(&mut self, _: &str, _: Option<&str>, _: Option<&[u8]>) -> Result<(), ReasonCode> {
        Ok(())
    }

    fn step(&mut self, _: &str, _: Option<&[u8]>) -> Result<AuthStep, ReasonCode> {
        Err(ReasonCode::BadAuthenticationMethod)
    }
}

fn limits() -> Limits {
    Limits {
        max_packet_size: NonZeroU32::new(1 << 20).expect("not 0"),
        max_inflight: NonZeroU16::new(32).expect("not 0"),
        receive_maximum: NonZeroU16::new(100).expect("not 0"),
        topic_alias_max: 32,
        max_topic_levels: 128,
        max_client_id_len: 100,
        keepalive_backoff: 0.75,
        server_keepalive: None,
        max_keepalive: None,
        output_buffer_max: 1 << 20,
        response_information: None,
        queue_messages_max: 1000,
        queue_bytes_max: 1 << 20,
        queue_full: QueueFull::DropNewest,
        expiry_max: None,
        expiry_v3: Some(Duration::from_secs(7200)),
        awaiting_rel_max: 100,
        subscriptions_max: 100,
        answer_timeout: None,
    }
}
