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

fn described(taken: &[(Arc<TopicFilter>, Arc<Message>)]) -> Vec<String> {
    taken.iter().map(|(filter, message)| format!("{} {}", filter.as_str(), message.topic)).collect()
}

#[test]
fn shared_messages_are_given_back_when_the_session_ends() {
    // [MQTT-4.8.2-5]
    let mut rig = with_window(V5, 4);
    let (g, h) = (filter("$share/g/+"), filter("$share/h/+"));
    share(&mut rig, "acknowledged", AtLeastOnce, &g);
    share(&mut rig, "sent", AtLeastOnce, &g);
    share(&mut rig, "sent2", ExactlyOnce, &g);
    rig.send("own", AtLeastOnce);
    share(&mut rig, "queued", AtLeastOnce, &h);
    share(&mut rig, "queued2", ExactlyOnce, &g);
    rig.send("own", AtLeastOnce);
    rig.take(Packet::PubAck(ack(1)));
    share(&mut rig, "queued3", AtLeastOnce, &g);
    assert_eq!((rig.session.inflight_len(), rig.session.queue_len()), (4, 3));
    rig.expect_sent(&[
        "publish1 'acknowledged' 1",
        "publish1 'sent' 2",
        "publish2 'sent2' 3",
        "publish1 'own' 4",
        "publish1 'queued' 5",
    ]);
    let taken = rig.session.end();
    let expected = ["$share/g/+ sent", "$share/h/+ queued", "$share/g/+ queued2", "$share/g/+ queued3"];
    assert_eq!(described(&taken), expected);
    assert!(Rig::new(V5).session.end().is_empty());
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
    assert_eq!(described(&rig.session.take_shared(&g)), ["$share/g/+ a", "$share/g/+ c"]);
    rig.take(Packet::PubAck(ack(1)));
    rig.expect_sent(&["publish1 'sent' 1", "publish1 'b' 2"]);
}

#[test]
fn shared_messages_leave_the_window_with_puback() {
    let mut rig = Rig::new(V311);
    share(&mut rig, "a", AtLeastOnce, &filter("$share/g/+"));
    rig.take(Packet::PubAck(ack(1)));
    assert!(rig.session.end().is_empty());
}
