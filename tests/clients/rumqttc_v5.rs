//! rumqttc with MQTT 5.0.

use std::collections::VecDeque;

use rumqttc::{
    Outgoing,
    v5::{
        Client, Connection, Event, MqttOptions,
        mqttbytes::{
            QoS,
            v5::{LastWill, LastWillProperties, Packet, Publish, PublishProperties, SubscribeReasonCode},
        },
    },
};

use crate::harness::{Broker, DEADLINE, unique};

const EVERY_QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

/// rumqttc, driven step by step.
struct Peer {
    client: Client,
    connection: Connection,
    messages: VecDeque<Publish>,
    session_present: bool,
}

impl Peer {
    fn connect(broker: &Broker, client_id: &str, set: impl FnOnce(&mut MqttOptions)) -> Self {
        let address = broker.address();
        let mut options = MqttOptions::new(client_id, address.ip().to_string(), address.port());
        set(&mut options);
        let (client, connection) = Client::new(options, 100);
        let mut peer = Self { client, connection, messages: VecDeque::new(), session_present: false };
        peer.session_present = peer.wait_for(|event| match event {
            Event::Incoming(Packet::ConnAck(connack)) => Some(connack.session_present),
            _ => None,
        });
        peer
    }

    fn clean(broker: &Broker) -> Self {
        Self::connect(broker, &unique("rumqttc"), |_| ())
    }

    /// Goes on until something happens that `wanted` has an answer for; messages are kept.
    #[track_caller]
    fn wait_for<T>(&mut self, wanted: impl Fn(&Event) -> Option<T>) -> T {
        loop {
            let event = self.connection.recv_timeout(DEADLINE).expect("something happens in time");
            let event = event.expect("the connection holds");
            if let Event::Incoming(Packet::Publish(publish)) = &event {
                self.messages.push_back(publish.clone());
            }
            if let Some(answer) = wanted(&event) {
                return answer;
            }
        }
    }

    #[track_caller]
    fn subscribe(&mut self, filter: &str, qos: QoS) {
        self.client.subscribe(filter, qos).expect("the request is taken");
        let granted = self.wait_for(|event| match event {
            Event::Incoming(Packet::SubAck(suback)) => Some(suback.return_codes.clone()),
            _ => None,
        });
        assert_eq!(granted, [SubscribeReasonCode::Success(qos)]);
    }

    #[track_caller]
    fn publish(&mut self, topic: &str, qos: QoS, retain: bool, payload: &str, properties: PublishProperties) {
        let payload = payload.to_owned();
        self.client
            .publish_with_properties(topic, qos, retain, payload, properties)
            .expect("the request is taken");
        self.wait_for(|event| match (qos, event) {
            (QoS::AtMostOnce, Event::Outgoing(Outgoing::Publish(_)))
            | (QoS::AtLeastOnce, Event::Incoming(Packet::PubAck(_)))
            | (QoS::ExactlyOnce, Event::Incoming(Packet::PubComp(_))) => Some(()),
            _ => None,
        });
    }

    #[track_caller]
    fn receive(&mut self) -> Publish {
        while self.messages.is_empty() {
            self.wait_for(|event| matches!(event, Event::Incoming(Packet::Publish(_))).then_some(()));
        }
        self.messages.pop_front().expect("one was just kept")
    }

    #[track_caller]
    fn expect(&mut self, topic: &str, payload: &str) -> Publish {
        let publish = self.receive();
        assert_eq!((&publish.topic[..], &publish.payload[..]), (topic.as_bytes(), payload.as_bytes()));
        publish
    }

    fn disconnect(mut self) {
        self.client.disconnect().expect("the request is taken");
        self.wait_for(|event| matches!(event, Event::Outgoing(Outgoing::Disconnect)).then_some(()));
    }
}

/// No properties.
fn plain() -> PublishProperties {
    PublishProperties::default()
}

#[test]
fn every_qos_with_properties() {
    let broker = Broker::shared();
    let topic = unique("rumqttc");
    let properties = PublishProperties {
        payload_format_indicator: Some(1),
        response_topic: Some("answers".to_owned()),
        correlation_data: Some(b"\0\xFF".as_slice().into()),
        user_properties: vec![("b".to_owned(), "1".to_owned()), ("a".to_owned(), "2".to_owned())],
        content_type: Some("text/plain".to_owned()),
        ..plain()
    };
    let (mut subscriber, mut publisher) = (Peer::clean(&broker), Peer::clean(&broker));
    for granted in EVERY_QOS {
        subscriber.subscribe(&topic, granted);
        for qos in EVERY_QOS {
            publisher.publish(&topic, qos, false, "x", properties.clone());
            let seen = subscriber.expect(&topic, "x");
            assert_eq!(seen.qos as u8, (qos as u8).min(granted as u8));
            assert_eq!(seen.properties.as_ref(), Some(&properties));
        }
    }
    subscriber.disconnect();
    broker.assert_healthy();
}

#[test]
fn retained() {
    let broker = Broker::shared();
    let topic = unique("rumqttc");
    let mut publisher = Peer::clean(&broker);
    for qos in EVERY_QOS {
        publisher.publish(&topic, qos, true, "kept", plain());
        publisher.publish(&topic, QoS::AtLeastOnce, false, "passing by", plain());
        let mut late = Peer::clean(&broker);
        late.subscribe(&topic, QoS::ExactlyOnce);
        let seen = late.expect(&topic, "kept");
        assert!(seen.retain && seen.qos == qos);
    }
    publisher.publish(&topic, QoS::AtLeastOnce, true, "", plain());
    let mut late = Peer::clean(&broker);
    late.subscribe(&topic, QoS::ExactlyOnce);
    publisher.publish(&topic, QoS::AtLeastOnce, false, "first", plain());
    late.expect(&topic, "first");
}

#[test]
fn will() {
    let broker = Broker::shared();
    let topic = unique("rumqttc");
    let mut observer = Peer::clean(&broker);
    observer.subscribe(&topic, QoS::ExactlyOnce);
    for qos in EVERY_QOS {
        let properties = LastWillProperties {
            delay_interval: Some(0),
            payload_format_indicator: Some(1),
            message_expiry_interval: None,
            content_type: Some("text/plain".to_owned()),
            response_topic: None,
            correlation_data: None,
            user_properties: vec![("a".to_owned(), "b".to_owned())],
        };
        let will = LastWill::new(&topic, "gone", qos, false, Some(properties));
        let set = |options: &mut MqttOptions| _ = options.set_last_will(will.clone());
        drop(Peer::connect(&broker, &unique("rumqttc"), set));
        let seen = observer.expect(&topic, "gone");
        assert_eq!(seen.qos, qos);
        let properties = seen.properties.expect("the will had some");
        assert_eq!(properties.content_type.as_deref(), Some("text/plain"));
        assert_eq!(properties.user_properties, [("a".to_owned(), "b".to_owned())]);
        Peer::connect(&broker, &unique("rumqttc"), set).disconnect();
        observer.publish(&topic, QoS::AtLeastOnce, false, "nothing before", plain());
        observer.expect(&topic, "nothing before");
    }
}

#[test]
fn session_is_resumed() {
    let broker = Broker::shared();
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let (topic, client_id) = (unique("rumqttc"), unique("rumqttc"));
        let persistent = |options: &mut MqttOptions| {
            options
                .set_clean_start(false)
                .set_session_expiry_interval(Some(300))
                .set_receive_maximum(Some(5));
        };
        let mut subscriber = Peer::connect(&broker, &client_id, persistent);
        assert!(!subscriber.session_present);
        subscriber.subscribe(&topic, qos);
        subscriber.disconnect();
        let mut publisher = Peer::clean(&broker);
        for number in 0..50 {
            publisher.publish(&topic, qos, false, &number.to_string(), plain());
        }
        let mut subscriber = Peer::connect(&broker, &client_id, persistent);
        assert!(subscriber.session_present);
        for number in 0..50 {
            subscriber.expect(&topic, &number.to_string());
        }
        subscriber.disconnect();
    }
    broker.assert_healthy();
}

#[test]
fn shared_subscription() {
    let broker = Broker::shared();
    let topic = unique("rumqttc");
    let mut members = [0, 1].map(|_| {
        let mut member = Peer::clean(&broker);
        member.subscribe(&format!("$share/group/{topic}"), QoS::AtLeastOnce);
        member
    });
    let mut publisher = Peer::clean(&broker);
    let numbers: Vec<String> = (10..30).map(|number| number.to_string()).collect();
    for number in &numbers {
        publisher.publish(&topic, QoS::AtLeastOnce, false, number, plain());
    }
    let mut got = Vec::new();
    for member in &mut members {
        let fence = unique("fence");
        member.subscribe(&fence, QoS::AtLeastOnce);
        publisher.publish(&fence, QoS::AtLeastOnce, false, "", plain());
        let before = got.len();
        loop {
            let seen = member.receive();
            if seen.topic == fence {
                break;
            }
            got.push(String::from_utf8(seen.payload.to_vec()).expect("it is text"));
        }
        assert!(got.len() > before, "a share for each");
    }
    got.sort();
    assert_eq!(got, numbers);
}
