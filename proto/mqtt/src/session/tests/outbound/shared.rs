//! Messages of shared subscriptions, which go to somebody else when the session ends.

use super::*;

/// Delivers through the shared subscription `filter`.
fn share(rig: &mut Rig, topic: &str, qos: QoS, filter: &Arc<TopicFilter>) {
    let options = DeliveryOptions { shared: Some(Arc::clone(filter)), ..at(qos) };
    rig.deliver(&message(topic, qos), &options);
}

fn filter(text: &str) -> Arc<TopicFilter> {
    Arc::new(TopicFilter::parse(text, 128).expect("valid"))
}

fn taken(rig: &mut Rig, filter: Option<&TopicFilter>) -> Vec<String> {
    let taken = rig.session.take_shared(filter);
    taken.iter().map(|(filter, message)| format!("{} {}", filter.as_str(), message.topic)).collect()
}

#[test]
fn shared_messages_are_given_back_when_the_session_ends() {
    // [MQTT-4.8.2-5]
    let max_inflight = NonZeroU16::new(4).expect("not 0");
    for connect in [connect(V5), transient(V5)] {
        let mut rig = Rig::with(Limits { max_inflight, ..limits() }, &connect);
        let (g, h) = (filter("$share/g/+"), filter("$share/h/+"));
        share(&mut rig, "acknowledged", AtLeastOnce, &g);
        share(&mut rig, "sent", AtLeastOnce, &g);
        share(&mut rig, "sent2", ExactlyOnce, &g);
        rig.send("own", AtLeastOnce);
        share(&mut rig, "queued", AtLeastOnce, &h);
        share(&mut rig, "queued2", ExactlyOnce, &g);
        rig.send("own", AtLeastOnce);
        rig.take(Packet::PubAck(ack(1)));
        assert_eq!((rig.session.inflight_len(), rig.session.queue_len()), (4, 2));
        rig.lose();
        rig.session.end(rig.now);
        assert_eq!(taken(&mut rig, None), ["$share/g/+ sent", "$share/h/+ queued", "$share/g/+ queued2"]);
        assert_eq!(taken(&mut rig, None), [""; 0]);
    }
}

#[test]
fn queued_shared_messages_are_given_back_when_the_client_unsubscribes() {
    // [MQTT-3.10.4-3]
    let mut rig = with_window(V5, 1);
    let (g, h) = (filter("$share/g/+"), filter("$share/h/+"));
    share(&mut rig, "sent", AtLeastOnce, &g);
    share(&mut rig, "a", AtLeastOnce, &g);
    share(&mut rig, "b", AtLeastOnce, &h);
    share(&mut rig, "c", ExactlyOnce, &g);
    assert_eq!(taken(&mut rig, Some(&g)), ["$share/g/+ a", "$share/g/+ c"]);
    rig.take(Packet::PubAck(ack(1)));
    rig.expect_sent(&["publish1 'sent' 1", "publish1 'b' 2"]);
}

#[test]
fn shared_messages_of_a_transient_session_leave_the_window_with_puback() {
    let mut rig = Rig::with(limits(), &transient(V311));
    let g = filter("$share/g/+");
    share(&mut rig, "a", AtLeastOnce, &g);
    rig.take(Packet::PubAck(ack(1)));
    rig.lose();
    assert_eq!(taken(&mut rig, None), [""; 0]);
}
