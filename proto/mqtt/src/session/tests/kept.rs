//! Sessions that others keep.

use super::*;
use QoS::{AtLeastOnce, ExactlyOnce};

/// A kept session, with these identifiers of messages from the client.
fn kept(limits: Limits, received: &[(u16, bool)]) -> Rig {
    kept_with(limits, &connect(V5), received)
}

fn kept_with(limits: Limits, connect: &Connect<'_>, received: &[(u16, bool)]) -> Rig {
    let accepted = accept(connect, &limits).expect("accepted");
    let received = received.iter().map(|(number, is_stored)| (id(*number), *is_stored));
    let mut rig = Rig::with(limits.clone(), connect);
    rig.session = Session::kept(rig.now, accepted, Arc::new(limits), [], received);
    rig
}

fn sequence(number: u64) -> Sequence {
    Sequence::new(number).expect("not 0")
}

impl Rig {
    fn deliver_kept(&mut self, number: u64, topic: &str, qos: QoS, dup: bool) {
        self.deliver_kept_message(number, &message(topic, qos), dup);
    }

    fn deliver_kept_message(&mut self, number: u64, message: &Message, dup: bool) {
        let message = Arc::new(message.clone());
        let (message, options) = (&Transit::from_message(&message), &at(message.qos));
        let kept = KeptMessage { sequence: sequence(number), options, message, dup };
        self.session.deliver_kept(self.now, &kept, &mut self.out);
    }

    #[track_caller]
    fn expect_report(&mut self, released: &[u64], done: &[u64]) {
        let report = self.session.take_kept_report();
        let numbers = |list: Vec<Sequence>| list.into_iter().map(Sequence::get).collect::<Vec<_>>();
        assert_eq!((numbers(report.released), numbers(report.done)), (released.to_vec(), done.to_vec()));
    }
}

#[test]
fn identifiers_follow_from_the_numbers() {
    for (number, expected) in [(1, 2), (49_150, 49_151), (49_151, 1), (u64::MAX, 1 + (u64::MAX % 49_151))] {
        assert_eq!(u64::from(sequence(number).packet_id().value()), expected);
    }
}

#[test]
fn what_the_client_is_done_with_is_reported() {
    let mut rig = kept(limits(), &[]);
    rig.deliver_kept(1, "a", AtLeastOnce, false);
    rig.deliver_kept(5, "b", AtLeastOnce, true);
    rig.deliver_kept(6, "c", ExactlyOnce, false);
    rig.expect_sent(&["publish1 'a' 2", "publish1 'b' 6 dup", "publish2 'c' 7"]);
    rig.take(Packet::PubAck(ack(6)));
    rig.take(Packet::PubAck(nack(2)));
    rig.take(Packet::PubRec(nack(7)));
    rig.expect_report(&[], &[5, 1, 6]);
    assert_eq!(rig.session.inflight_len(), 0);
}

#[test]
fn pubrel_waits_until_pubrec_is_noted() {
    let mut rig = kept(limits(), &[]);
    rig.deliver_kept(1, "a", ExactlyOnce, false);
    rig.take(Packet::PubRec(ack(2)));
    rig.take(Packet::PubRec(ack(2)));
    rig.expect_sent(&["publish2 'a' 2"]);
    rig.expect_report(&[1], &[]);
    rig.session.handle_kept_released(sequence(1), &mut rig.out);
    rig.session.handle_kept_released(sequence(1), &mut rig.out);
    rig.expect_sent(&["pubrel 2"]);
    rig.take(Packet::PubRec(ack(2)));
    rig.expect_sent(&["pubrel 2"]);
    rig.take(Packet::PubComp(ack(2)));
    rig.expect_report(&[], &[1]);
}

#[test]
fn pubcomp_before_pubrel_breaks_the_protocol() {
    let mut rig = kept(limits(), &[]);
    rig.deliver_kept(1, "a", ExactlyOnce, false);
    rig.take(Packet::PubRec(ack(2)));
    assert!(matches!(
        rig.handle(Packet::PubComp(ack(2))),
        Err(SessionError::UnexpectedAck { packet: PacketType::PubComp, .. })
    ));
}

#[test]
fn what_was_released_on_an_earlier_connection_goes_on_in_its_order() {
    let mut rig = kept(Limits { max_inflight: NonZeroU16::MIN, ..limits() }, &[]);
    rig.session.resume_kept_release(rig.now, sequence(1), &mut rig.out);
    rig.deliver_kept(2, "b", AtLeastOnce, true);
    rig.expect_sent(&["pubrel 2"]);
    rig.take(Packet::PubComp(ack(2)));
    rig.expect_sent(&["publish1 'b' 3 dup"]);
    rig.expect_report(&[], &[1]);
}

#[test]
fn more_than_the_window_waits_and_keeps_its_order() {
    let mut rig = kept(Limits { max_inflight: NonZeroU16::new(2).expect("not 0"), ..limits() }, &[]);
    for number in 1..=4 {
        rig.deliver_kept(number, "a", AtLeastOnce, false);
    }
    rig.expect_sent(&["publish1 'a' 2", "publish1 'a' 3"]);
    assert_eq!(rig.session.kept_waiting_len(), 2);
    rig.take(Packet::PubAck(ack(3)));
    rig.expect_sent(&["publish1 'a' 4"]);
}

#[test]
fn an_identifier_is_not_used_while_an_old_message_has_it() {
    let mut rig = kept(limits(), &[]);
    rig.deliver_kept(1, "a", AtLeastOnce, false);
    rig.deliver_kept(2, "b", AtLeastOnce, false);
    rig.deliver_kept(1 + u64::from(Sequence::IDS), "c", AtLeastOnce, false);
    rig.expect_sent(&["publish1 'a' 2", "publish1 'b' 3"]);
    rig.take(Packet::PubAck(ack(2)));
    rig.expect_sent(&["publish1 'c' 2"]);
}

#[test]
fn what_is_passed_over_is_done_and_has_no_identifier() {
    let mut rig = kept(limits(), &[]);
    rig.deliver_kept(1, "a", AtLeastOnce, false);
    rig.session.pass_over_kept(sequence(2));
    rig.deliver_kept(3, "b", AtLeastOnce, false);
    rig.expect_sent(&["publish1 'a' 2", "publish1 'b' 4"]);
    rig.expect_report(&[], &[2]);
    // It changes nothing for those that wait.
    let mut rig = kept(Limits { max_inflight: NonZeroU16::MIN, ..limits() }, &[]);
    rig.deliver_kept(1, "a", AtLeastOnce, false);
    rig.deliver_kept(2, "b", AtLeastOnce, false);
    rig.session.pass_over_kept(sequence(3));
    rig.expect_report(&[], &[3]);
    rig.take(Packet::PubAck(ack(2)));
    rig.expect_sent(&["publish1 'a' 2", "publish1 'b' 3"]);
}

#[test]
fn qos_0_goes_the_short_way() {
    let mut rig = kept(limits(), &[]);
    rig.deliver_kept(1, "a", AtLeastOnce, false);
    rig.send("x", QoS::AtMostOnce);
    rig.expect_sent(&["publish1 'a' 2", "publish0 'x'"]);
}

#[test]
#[should_panic(expected = "others give the message its identifier")]
fn what_others_keep_does_not_go_the_short_way() {
    kept(limits(), &[]).send("x", AtLeastOnce);
}

#[test]
fn expired_and_too_large_messages_are_done() {
    let mut rig = kept(limits(), &[]);
    let expired = Message { expires_at: Some(rig.now), ..message("a", AtLeastOnce) };
    rig.deliver_kept_message(1, &expired, false);
    // Its delivery may have begun [MQTT-4.3.3-7].
    rig.deliver_kept_message(2, &expired, true);
    rig.expect_sent(&["publish1 'a' 3 dup expiry=0"]);
    rig.expect_report(&[], &[1]);

    let mut narrow = connect(V5);
    narrow.properties.maximum_packet_size = NonZeroU32::new(20);
    let mut rig = kept_with(limits(), &narrow, &[]);
    let long = "a topic that is too long for the client";
    rig.deliver_kept(3, long, AtLeastOnce, true);
    rig.deliver_kept(4, long, ExactlyOnce, false);
    rig.expect_report(&[], &[3, 4]);
    // The client may hold its identifier.
    rig.deliver_kept(5, long, ExactlyOnce, true);
    rig.expect_report(&[5], &[]);
    rig.session.handle_kept_released(sequence(5), &mut rig.out);
    rig.expect_sent(&["pubrel 6"]);
}

#[test]
fn qos_0_that_was_kept_is_sent_at_most_once() {
    let mut rig = kept(Limits { max_inflight: NonZeroU16::MIN, ..limits() }, &[]);
    rig.deliver_kept(1, "a", QoS::AtMostOnce, true);
    rig.deliver_kept(2, "b", QoS::AtMostOnce, false);
    rig.deliver_kept(3, "c", AtLeastOnce, false);
    rig.deliver_kept(4, "d", AtLeastOnce, false);
    rig.deliver_kept(5, "e", QoS::AtMostOnce, false);
    rig.expect_sent(&["publish0 'b'", "publish1 'c' 4"]);
    rig.take(Packet::PubAck(ack(4)));
    rig.take(Packet::PubAck(ack(5)));
    rig.expect_sent(&["publish1 'd' 5", "publish0 'e'"]);
    rig.expect_report(&[], &[1, 2, 3, 5, 4]);
}

#[test]
fn pubcomp_waits_until_the_identifier_is_forgotten() {
    let mut rig = kept(limits(), &[]);
    let ticket = rig.publish(publish("a", qos2(7)));
    assert_eq!(rig.session.packet_id_of(ticket), Some(id(7)));
    // PUBREC has not been sent: it is none that could be released.
    rig.take(Packet::PubRel(ack(7)));
    rig.expect_sent(&["pubcomp 7 PacketIdentifierNotFound"]);
    rig.stored(ticket, ReasonCode::Success);
    rig.expect_sent(&["pubrec 7"]);
    assert!(
        matches!(rig.handle(Packet::PubRel(ack(7))), Ok(Request::Release(released)) if released == id(7))
    );
    rig.take(Packet::PubRel(ack(7)));
    rig.expect_sent(&[]);
    rig.session.handle_release_kept(id(7), &mut rig.out);
    rig.session.handle_release_kept(id(7), &mut rig.out);
    rig.expect_sent(&["pubcomp 7"]);
    rig.publish_and_store(publish("a", qos2(7)));
    rig.expect_sent(&["pubrec 7"]);
}

#[test]
fn what_is_sent_again_after_a_crash_is_stored_again() {
    // Whoever has it already knows the number of the message, which is kept with the identifier.
    let mut rig = kept(limits(), &[(7, false), (8, false), (9, true)]);
    let ticket = rig.publish(publish("a", qos2(7)));
    rig.take(Packet::Publish(publish("a", qos2(7))));
    rig.stored(ticket, ReasonCode::Success);
    rig.expect_sent(&["pubrec 7"]);
    // The client had the PUBREC of the other one.
    assert!(matches!(rig.handle(Packet::PubRel(ack(8))), Ok(Request::Release(_))));
    rig.session.handle_release_kept(id(8), &mut rig.out);
    rig.expect_sent(&["pubcomp 8"]);
    // Of this one it is known.
    rig.take(Packet::Publish(publish("a", qos2(9))));
    rig.expect_sent(&["pubrec 9"]);
    assert_eq!(rig.session.stored_ids(), [id(9), id(7)]);
}

#[test]
fn identifiers_of_earlier_connections_do_not_count_against_receive_maximum() {
    let limits = Limits { receive_maximum: NonZeroU16::new(2).expect("not 0"), ..limits() };
    let mut rig = kept(limits, &[(1, true), (2, true)]);
    rig.publish_and_store(publish("a", qos2(3)));
    assert!(matches!(rig.handle(Packet::PubRel(ack(1))), Ok(Request::Release(_))));
    rig.session.handle_release_kept(id(1), &mut rig.out);
    rig.publish_and_store(publish("a", qos2(4)));
    rig.handle(Packet::Publish(publish("a", qos2(5)))).expect_err("too many");
}
