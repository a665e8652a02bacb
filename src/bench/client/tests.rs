//! A client against packets that a broker would send.

use flotilla_mqtt::{
    PacketId, QoS,
    packet::{Ack, ConnAckProperties, Delivery, Publish, PublishProperties, ReasonCodes, SubAck, Subscribe},
};

use super::*;
use crate::bench::{
    plan::{Plan, PublisherPlan, Topics},
    schedule::Schedule,
    settings::tests::settings,
    stamp::Stamp,
};

/// A client, and what is around it.
struct Bench {
    client: Client,
    settings: Settings,
    tally: Tally,
    deliveries: Vec<(u32, u32)>,
    now: u64,
    period: Period,
}

impl Bench {
    /// The client of a plan that has this number, after its CONNACK and SUBACK.
    fn ready(settings: Settings, plan: impl FnOnce(&Settings) -> Plan, number: usize) -> Self {
        let mut bench = Self::new(settings, plan, number);
        bench.greet(ConnAckProperties::default(), false);
        bench.act(Client::subscribe).unwrap();
        if let [Packet::Subscribe(Subscribe { id, filters, .. })] = bench.written().packets().as_slice() {
            let reasons = vec![ReasonCode::Success; filters.len()];
            let id = *id;
            bench.suback(id, &reasons).unwrap();
        }
        assert!(bench.client.is_ready());
        bench
    }

    fn new(settings: Settings, plan: impl FnOnce(&Settings) -> Plan, number: usize) -> Self {
        let plan = plan(&settings).clients.swap_remove(number);
        let client = Client::new(plan, &settings).unwrap();
        let (tally, deliveries) = (Tally::new(), Vec::new());
        Self { client, settings, tally, deliveries, now: 0, period: Period::ALWAYS }
    }

    fn act<R>(
        &mut self,
        act: impl FnOnce(&mut Client, &mut Context<'_>) -> Result<R, Ending>,
    ) -> Result<R, Ending> {
        let mut context = Context {
            settings: &self.settings,
            decoder: Decoder::client(self.settings.version, 100_000),
            now: self.now,
            period: self.period,
            tally: &mut self.tally,
            deliveries: &mut self.deliveries,
        };
        act(&mut self.client, &mut context)
    }

    fn greet(&mut self, properties: ConnAckProperties<'_>, session_present: bool) {
        self.client.handle_begun(self.now);
        self.act(|client, cx| client.handle_open(cx)).unwrap();
        self.written();
        let reason = ReasonCode::Success;
        self.receive(&[Packet::ConnAck(Box::new(ConnAck { session_present, reason, properties }))]).unwrap();
    }

    fn suback(&mut self, id: PacketId, reasons: &[ReasonCode]) -> Result<usize, Ending> {
        let user_properties = flotilla_mqtt::packet::UserProperties::default();
        let reasons = ReasonCodes::from(reasons);
        self.receive(&[Packet::SubAck(SubAck { id, reason_string: None, user_properties, reasons })])
    }

    /// Packets from the broker.
    fn receive(&mut self, packets: &[Packet<'_>]) -> Result<usize, Ending> {
        let mut bytes = Vec::new();
        for packet in packets {
            codec::encode(packet, self.settings.version, &mut bytes).unwrap();
        }
        let taken = self.act(|client, cx| client.handle_input(&bytes, cx))?;
        assert_eq!(taken, bytes.len());
        Ok(taken)
    }

    fn send(&mut self, pace: &Pace) {
        self.act(|client, cx| client.send(pace, cx)).unwrap();
    }

    /// What the client has written since the last time.
    fn written(&mut self) -> Written {
        let written = Written { bytes: self.client.output().to_vec(), version: self.settings.version };
        let len = written.bytes.len();
        if len > 0 {
            self.client.handle_written(len, self.now);
        }
        written
    }
}

struct Written {
    bytes: Vec<u8>,
    version: ProtocolVersion,
}

impl Written {
    fn packets(&self) -> Vec<Packet<'_>> {
        let mut decoder = Decoder::server(100_000);
        let (mut packets, mut rest) = (Vec::new(), &self.bytes[..]);
        if rest.first().is_some_and(|byte| byte >> 4 != 1) {
            decoder.set_version(self.version);
        }
        while let Some((packet, len)) = decoder.decode(rest).unwrap() {
            packets.push(packet);
            rest = &rest[len..];
        }
        packets
    }

    /// The stamps and Packet Identifiers of the messages.
    fn messages(&self) -> Vec<(Stamp, Option<PacketId>)> {
        let publish = |packet: Packet<'_>| match packet {
            Packet::Publish(publish) => {
                Some((Stamp::read(publish.payload).unwrap(), publish.delivery.packet_id()))
            }
            _ => None,
        };
        self.packets().into_iter().filter_map(publish).collect()
    }
}

fn with_qos(qos: QoS) -> Settings {
    let mut settings = settings();
    (settings.traffic.qos, settings.traffic.subscribe_qos, settings.traffic.ack_window) = (qos, qos, 3);
    settings
}

fn one_pair(settings: &Settings) -> Plan {
    Plan::pairs(settings, 1)
}

const SUBSCRIBER: usize = 0;
const PUBLISHER: usize = 1;

fn message(stamp: (u64, u64, u32), payload: &mut Vec<u8>, delivery: Delivery) -> Packet<'_> {
    let (time, sequence, flow) = stamp;
    payload.clear();
    payload.extend_from_slice(crate::bench::stamp::Payload::new(30).stamped(Stamp { time, sequence, flow }));
    let properties = PublishProperties::default();
    Packet::Publish(Publish { delivery, retain: false, topic: "t", properties, payload })
}

#[test]
fn a_connect_says_what_was_asked_for() {
    let mut settings = settings();
    (settings.username, settings.password) = (Some("me".to_owned()), Some(b"pw".to_vec()));
    let mut bench = Bench::new(settings, |settings| Plan::connections(settings, 3, false), 2);
    bench.act(|client, cx| client.handle_open(cx)).unwrap();
    let written = bench.written();
    let packets = written.packets();
    let [Packet::Connect(connect)] = packets.as_slice() else { panic!("{packets:?}") };
    assert_eq!((connect.client_id, connect.clean_start, connect.keep_alive), ("c-s2", true, 60));
    assert_eq!((connect.username, connect.password), (Some("me"), Some(&b"pw"[..])));
    assert_eq!(connect.properties.session_expiry, 0);
}

#[test]
fn sessions_that_stay_are_asked_for_in_both_versions() {
    for (version, session, expected) in [
        (ProtocolVersion::V5, SessionPlan::Begins, (true, SESSION_SECONDS)),
        (ProtocolVersion::V5, SessionPlan::Resumes, (false, SESSION_SECONDS)),
        (ProtocolVersion::V311, SessionPlan::Begins, (false, 0)),
        (ProtocolVersion::V311, SessionPlan::Transient, (true, 0)),
    ] {
        let settings = Settings { version, ..settings() };
        let plan = |settings: &Settings| Plan::offline_subscribers(settings, 1, session);
        let mut bench = Bench::new(settings, plan, 0);
        bench.act(|client, cx| client.handle_open(cx)).unwrap();
        let written = bench.written();
        let packets = written.packets();
        let [Packet::Connect(connect)] = packets.as_slice() else { panic!("{packets:?}") };
        assert_eq!(
            (connect.clean_start, connect.properties.session_expiry),
            expected,
            "{version:?} {session:?}"
        );
    }
}

#[test]
fn a_session_that_is_gone_is_told() {
    let plan = |settings: &Settings| Plan::offline_subscribers(settings, 1, SessionPlan::Resumes);
    let mut bench = Bench::new(settings(), plan, 0);
    bench.act(|client, cx| client.handle_open(cx)).unwrap();
    let (reason, properties) = (ReasonCode::Success, ConnAckProperties::default());
    let connack = ConnAck { session_present: false, reason, properties };
    assert!(matches!(bench.receive(&[Packet::ConnAck(Box::new(connack))]), Err(Ending::SessionGone)));
}

#[test]
fn filters_are_asked_for_in_portions() {
    let plan = |settings: &Settings| Plan::wildcard(settings, 1_050, 1, 1);
    let mut bench = Bench::new(settings(), plan, 0);
    bench.greet(ConnAckProperties::default(), false);
    bench.act(Client::subscribe).unwrap();
    let mut asked = 0;
    for answered in 0.. {
        let written = bench.written();
        let mut last = None;
        for packet in written.packets() {
            let Packet::Subscribe(subscribe) = packet else { panic!("{packet:?}") };
            asked += subscribe.filters.len();
            last = Some((subscribe.id, subscribe.filters.len()));
        }
        // Four are under way, while there are filters left.
        assert_eq!(asked, 1_050.min((answered + 4) * 100));
        let (id, count) = last.unwrap_or((PacketId::MIN, if answered == 10 { 50 } else { 100 }));
        bench.suback(id, &vec![ReasonCode::Success; count]).unwrap();
        if bench.client.is_ready() {
            assert_eq!(answered, 10);
            break;
        }
    }
    assert_eq!(bench.tally.progress.ready, 1);
}

#[test]
fn a_refused_subscription_ends_the_client() {
    let mut bench = Bench::new(settings(), one_pair, SUBSCRIBER);
    bench.greet(ConnAckProperties::default(), false);
    bench.act(Client::subscribe).unwrap();
    let ending = bench.suback(PacketId::MIN, &[ReasonCode::NotAuthorized]);
    assert!(matches!(ending, Err(Ending::SubscriptionRefused { reason: ReasonCode::NotAuthorized })));
    assert_eq!((bench.tally.subscriptions_refused, bench.tally.progress.subscribed), (1, 0));
}

#[test]
fn a_window_is_filled_again_as_messages_arrive() {
    let mut bench = Bench::ready(with_qos(QoS::AtMostOnce), one_pair, PUBLISHER);
    let pace = |delivered| Pace::Window { size: 2, delivered, fan: 3 };
    bench.now = 500;
    bench.send(&pace(0));
    let stamp = |sequence, time| (Stamp { time, sequence, flow: 0 }, None);
    assert_eq!(bench.written().messages(), [stamp(1, 500), stamp(2, 500)]);
    bench.send(&pace(2));
    assert!(bench.written().messages().is_empty(), "no message is with all three subscribers");
    bench.now = 600;
    bench.send(&pace(5));
    assert_eq!(bench.written().messages(), [stamp(3, 600)]);
    assert_eq!((bench.tally.progress.sent, bench.tally.measured.sent), (3, 3));
}

#[test]
fn what_never_arrives_is_not_waited_for_long() {
    let mut bench = Bench::ready(with_qos(QoS::AtMostOnce), one_pair, PUBLISHER);
    let pace = Pace::Window { size: 2, delivered: 0, fan: 1 };
    bench.send(&pace);
    for _ in 0..2 {
        assert_eq!(bench.tally.written_off, 0);
        bench.act(|client, cx| client.tick(&pace, cx)).unwrap();
    }
    assert_eq!(bench.tally.written_off, 2);
    bench.written();
    bench.send(&pace);
    assert_eq!(bench.written().messages().len(), 2);
}

#[test]
fn a_schedule_is_kept_and_time_counts_from_it() {
    let mut bench = Bench::ready(with_qos(QoS::AtLeastOnce), one_pair, PUBLISHER);
    bench.period = Period { from: 2_000_000, until: 6_000_000 };
    let schedule = Schedule::new(0, 1_000.0, 1, 0.0);
    let pace = Pace::Schedule { schedule, publisher: 0 };
    // The broker stops: three are in flight, and those of 3, 4 and 5 ms come late.
    bench.now = 9_000_000;
    bench.send(&pace);
    let messages = bench.written().messages();
    let times: Vec<_> = messages.iter().map(|(stamp, _)| stamp.time).collect();
    assert_eq!(times, [0, 1_000_000, 2_000_000]);
    let acks: Vec<_> =
        messages.iter().map(|(_, id)| Packet::PubAck(Ack::new(id.unwrap(), ReasonCode::Success))).collect();
    bench.receive(&acks).unwrap();
    bench.now = 10_000_000;
    bench.send(&pace);
    let times: Vec<_> = bench.written().messages().iter().map(|(stamp, _)| stamp.time).collect();
    assert_eq!(times, [3_000_000, 4_000_000, 5_000_000], "6 ms is not measured any more");
    assert_eq!(bench.tally.measured.sent, 4);
    // Of the acknowledged ones only that of 2 ms was meant for the measured time, and it took 7 ms.
    assert_eq!(bench.tally.acknowledgement.len(), 1);
    assert!(bench.tally.acknowledgement.max().abs_diff(7_000_000) < 10_000);
}

#[test]
fn exactly_once_goes_through_all_its_steps() {
    let mut bench = Bench::ready(with_qos(QoS::ExactlyOnce), one_pair, PUBLISHER);
    bench.send(&Pace::Unlimited);
    let ids: Vec<_> = bench.written().messages().iter().map(|(_, id)| id.unwrap()).collect();
    assert_eq!(ids.len(), 3);
    bench
        .receive(&[
            Packet::PubRec(Ack::new(ids[0], ReasonCode::Success)),
            Packet::PubRec(Ack::new(ids[1], ReasonCode::QuotaExceeded)),
        ])
        .unwrap();
    let written = bench.written();
    assert_eq!(written.packets(), [Packet::PubRel(Ack::new(ids[0], ReasonCode::Success))]);
    bench.receive(&[Packet::PubComp(Ack::new(ids[0], ReasonCode::Success))]).unwrap();
    assert_eq!((bench.tally.progress.acknowledged, bench.tally.messages_refused), (2, 1));
    bench.send(&Pace::Unlimited);
    assert_eq!(bench.written().messages().len(), 2, "two identifiers are free again");
}

#[test]
fn a_broker_that_takes_less_is_obeyed() {
    let mut bench = Bench::new(with_qos(QoS::AtLeastOnce), one_pair, PUBLISHER);
    let properties =
        ConnAckProperties { receive_maximum: NonZeroU16::new(2), ..ConnAckProperties::default() };
    bench.greet(properties, false);
    bench.act(Client::subscribe).unwrap();
    bench.send(&Pace::Unlimited);
    assert_eq!(bench.written().messages().len(), 2);

    let mut bench = Bench::new(with_qos(QoS::ExactlyOnce), one_pair, PUBLISHER);
    bench.act(|client, cx| client.handle_open(cx)).unwrap();
    let properties =
        ConnAckProperties { maximum_qos: Some(QoS::AtLeastOnce), ..ConnAckProperties::default() };
    let connack = ConnAck { session_present: false, reason: ReasonCode::Success, properties };
    let ending = bench.receive(&[Packet::ConnAck(Box::new(connack))]);
    assert!(matches!(ending, Err(Ending::Unavailable(_))), "{ending:?}");
}

#[test]
fn messages_are_acknowledged_and_counted() {
    let mut bench = Bench::ready(with_qos(QoS::ExactlyOnce), one_pair, SUBSCRIBER);
    bench.written();
    bench.now = 1_000_000;
    let [first, second] = [1, 2].map(|id| PacketId::new(id).unwrap());
    let (mut a, mut b, mut c, mut d) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    bench
        .receive(&[
            message((400_000, 2, 0), &mut a, Delivery::AtLeastOnce { id: first, dup: false }),
            message((300_000, 1, 0), &mut b, Delivery::ExactlyOnce { id: second, dup: false }),
            message((300_000, 1, 0), &mut c, Delivery::AtMostOnce),
            message((300_000, 1, 9), &mut d, Delivery::AtMostOnce),
            Packet::PubRel(Ack::new(second, ReasonCode::Success)),
        ])
        .unwrap();
    let expected = [
        Packet::PubAck(Ack::new(first, ReasonCode::Success)),
        Packet::PubRec(Ack::new(second, ReasonCode::Success)),
        Packet::PubComp(Ack::new(second, ReasonCode::Success)),
    ];
    assert_eq!(bench.written().packets(), expected);
    let tally = &bench.tally;
    assert_eq!((tally.progress.received, tally.reordered, tally.repeated, tally.foreign), (2, 1, 1, 1));
    assert_eq!(bench.deliveries, [(0, 2)]);
    assert!(tally.delivery.max().abs_diff(700_000) < 1_000 && tally.delivery.len() == 2);
}

#[test]
fn a_packet_that_is_not_all_there_is_left() {
    let mut bench = Bench::ready(settings(), one_pair, SUBSCRIBER);
    let mut bytes = Vec::new();
    codec::encode(&Packet::PingResp, ProtocolVersion::V5, &mut bytes).unwrap();
    codec::encode(
        &message((1, 1, 0), &mut Vec::new(), Delivery::AtMostOnce),
        ProtocolVersion::V5,
        &mut bytes,
    )
    .unwrap();
    for len in 2..bytes.len() {
        assert_eq!(bench.act(|client, cx| client.handle_input(&bytes[..len], cx)).unwrap(), 2);
    }
    assert_eq!(bench.act(|client, cx| client.handle_input(&bytes, cx)).unwrap(), bytes.len());
    assert_eq!(bench.tally.progress.received, 1);
}

#[test]
fn silence_is_broken_by_a_ping_and_then_taken_for_an_end() {
    let mut bench = Bench::ready(settings(), one_pair, SUBSCRIBER);
    let tick = |bench: &mut Bench, seconds: u64| {
        bench.now = seconds * 1_000_000_000;
        bench.act(|client, cx| client.tick(&Pace::Unlimited, cx))
    };
    tick(&mut bench, 44).unwrap();
    assert!(bench.written().packets().is_empty());
    tick(&mut bench, 45).unwrap();
    assert_eq!(bench.written().packets(), [Packet::PingReq]);
    bench.receive(&[Packet::PingResp]).unwrap();
    tick(&mut bench, 90).unwrap();
    assert_eq!(bench.written().packets(), [Packet::PingReq]);
    assert!(matches!(tick(&mut bench, 135), Err(Ending::Silent)));
}

#[test]
fn whoever_gets_no_answer_gives_up() {
    let mut bench = Bench::new(settings(), one_pair, SUBSCRIBER);
    bench.client.handle_begun(0);
    bench.act(|client, cx| client.handle_open(cx)).unwrap();
    bench.now = 9_999_999_999;
    bench.act(|client, cx| client.tick(&Pace::Unlimited, cx)).unwrap();
    bench.now += 1;
    let ending = bench.act(|client, cx| client.tick(&Pace::Unlimited, cx));
    assert!(matches!(ending, Err(Ending::Timeout { is_connected: false })));
}

#[test]
fn topics_take_turns_and_each_has_its_own_numbers() {
    let mut settings = with_qos(QoS::AtMostOnce);
    settings.traffic.ack_window = 100;
    let topics = Topics::Numbered { stem: "offline", first: 1, step: 2, count: 3 };
    let plan = PublisherPlan { topics, retain: false, is_empty: false, limit: Some(6) };
    let mut publisher = Publisher::new(&plan, &settings).unwrap();
    let (mut tally, mut deliveries) = (Tally::new(), Vec::new());
    let mut context = Context {
        settings: &settings,
        decoder: Decoder::client(settings.version, 1_000),
        now: 7,
        period: Period::ALWAYS,
        tally: &mut tally,
        deliveries: &mut deliveries,
    };
    let mut bytes = Vec::new();
    publisher.send(&Pace::Unlimited, &mut bytes, &mut context).unwrap();
    let written = Written { bytes, version: settings.version };
    let topics: Vec<_> = written
        .packets()
        .iter()
        .map(|packet| match packet {
            Packet::Publish(publish) => publish.topic.to_owned(),
            _ => panic!("{packet:?}"),
        })
        .collect();
    let expected = ["t/offline/1", "t/offline/3", "t/offline/5"];
    assert_eq!(topics, [expected, expected].concat());
    let numbers: Vec<_> = written.messages().iter().map(|(stamp, _)| (stamp.flow, stamp.sequence)).collect();
    assert_eq!(numbers, [(1, 1), (3, 1), (5, 1), (1, 2), (3, 2), (5, 2)]);
}
