//! Packets of every kind, with every property, that can be written down in a given version.
//!
//! Packets borrow, so what is generated for them is leaked: a few megabytes for a whole run.

use std::num::{NonZeroU16, NonZeroU32};

use flotilla_mqtt::{
    PacketId,
    ProtocolVersion::{self, V5, V311},
    QoS, ReasonCode,
    packet::{
        Ack, Auth, AuthProperties, ConnAck, ConnAckProperties, Connect, ConnectProperties, Delivery,
        Disconnect, DisconnectProperties, LastWill, Packet, PacketType, Publish, PublishProperties,
        RawProperties, RetainHandling, SubAck, Subscribe, SubscriptionOptions, UnsubAck, Unsubscribe,
        UserProperties, WillProperties,
    },
};
use proptest::{collection::vec, option, prelude::*, sample::select};

/// Any packet that a client sends, except CONNECT.
pub(crate) fn client_packet(version: ProtocolVersion) -> BoxedStrategy<Packet<'static>> {
    let both = prop_oneof![
        publish(version, false).prop_map(Packet::Publish),
        any_ack(version),
        subscribe(version),
        unsubscribe(version),
        Just(Packet::PingReq),
        disconnect(version, true),
    ];
    if version == V5 { prop_oneof![6 => both, 1 => auth(true)].boxed() } else { both.boxed() }
}

/// Any packet that a server sends.
pub(crate) fn server_packet(version: ProtocolVersion) -> BoxedStrategy<Packet<'static>> {
    let both = prop_oneof![
        connack(version),
        publish(version, true).prop_map(Packet::Publish),
        any_ack(version),
        suback(version),
        unsuback(version),
        Just(Packet::PingResp),
    ];
    if version == V5 {
        prop_oneof![6 => both, 1 => auth(false), 1 => disconnect(version, false)].boxed()
    } else {
        both.boxed()
    }
}

pub(crate) fn connect(version: ProtocolVersion) -> impl Strategy<Value = Packet<'static>> {
    let credentials = (option::of(text()), option::of(binary()));
    (any::<(bool, u16)>(), text(), option::of(will(version)), credentials, connect_properties()).prop_map(
        move |((clean_start, keep_alive), client_id, will, (username, password), properties)| {
            let properties = if version == V5 { properties } else { ConnectProperties::default() };
            let password = password.filter(|_| version == V5 || username.is_some());
            let connect =
                Connect { version, clean_start, keep_alive, client_id, will, username, password, properties };
            Packet::Connect(Box::new(connect))
        },
    )
}

fn connect_properties() -> impl Strategy<Value = ConnectProperties<'static>> {
    (
        prop_oneof![Just(0), any::<u32>()],
        any::<NonZeroU16>(),
        any::<Option<NonZeroU32>>(),
        prop_oneof![Just(0), any::<u16>()],
        any::<(bool, bool)>(),
        user_properties(),
        authentication(),
    )
        .prop_map(
            |(session_expiry, receive_maximum, maximum_packet_size, alias, request, user, auth)| {
                ConnectProperties {
                    session_expiry,
                    receive_maximum,
                    maximum_packet_size,
                    topic_alias_maximum: alias,
                    request_response_information: request.0,
                    request_problem_information: request.1,
                    user_properties: user,
                    authentication_method: auth.0,
                    authentication_data: auth.1,
                }
            },
        )
}

fn will(version: ProtocolVersion) -> impl Strategy<Value = LastWill<'static>> {
    let properties = (
        prop_oneof![Just(0), any::<u32>()],
        any::<Option<bool>>(),
        any::<Option<u32>>(),
        option::of(text()),
        option::of(topic()),
        option::of(binary()),
        user_properties(),
    )
        .prop_map(
            |(delay, payload_is_utf8, message_expiry, content_type, response_topic, data, user)| {
                WillProperties {
                    delay,
                    payload_is_utf8,
                    message_expiry,
                    content_type,
                    response_topic,
                    correlation_data: data,
                    user_properties: user,
                }
            },
        );
    (text(), binary(), qos(), any::<bool>(), properties).prop_map(
        move |(topic, payload, qos, retain, properties)| {
            let properties = if version == V5 { properties } else { WillProperties::default() };
            LastWill { topic, payload, qos, retain, properties }
        },
    )
}

fn connack(version: ProtocolVersion) -> impl Strategy<Value = Packet<'static>> {
    let numbers = any::<(Option<u32>, Option<NonZeroU16>, Option<NonZeroU32>, Option<u16>, Option<u16>)>();
    let flags = any::<(Option<bool>, Option<bool>, Option<bool>, Option<bool>)>();
    let maximum_qos = option::of(select(&[QoS::AtMostOnce, QoS::AtLeastOnce][..]));
    let texts = (option::of(text()), option::of(text()), option::of(text()), option::of(text()));
    let properties = (numbers, flags, maximum_qos, texts, user_properties(), authentication()).prop_map(
        |(numbers, flags, maximum_qos, texts, user_properties, authentication)| ConnAckProperties {
            session_expiry: numbers.0,
            receive_maximum: numbers.1,
            maximum_qos,
            retain_available: flags.0,
            maximum_packet_size: numbers.2,
            assigned_client_id: texts.0,
            topic_alias_maximum: numbers.3,
            reason_string: texts.1,
            user_properties,
            wildcard_subscription_available: flags.1,
            subscription_identifiers_available: flags.2,
            shared_subscription_available: flags.3,
            server_keep_alive: numbers.4,
            response_information: texts.2,
            server_reference: texts.3,
            authentication_method: authentication.0,
            authentication_data: authentication.1,
        },
    );
    let reason = reason(move |reason| {
        reason.is_allowed_in(PacketType::ConnAck)
            && (version == V5 || ReasonCode::from_connack_v3(reason.connack_v3()) == Some(reason))
    });
    (any::<bool>(), reason, properties).prop_map(move |(session_present, reason, properties)| {
        let session_present = session_present && reason == ReasonCode::Success && version >= V311;
        let properties = if version == V5 { properties } else { ConnAckProperties::default() };
        Packet::ConnAck(Box::new(ConnAck { session_present, reason, properties }))
    })
}

/// Subscription Identifiers come from servers only.
pub(crate) fn publish(version: ProtocolVersion, is_server: bool) -> impl Strategy<Value = Publish<'static>> {
    (topic(), delivery(), any::<bool>(), publish_properties(), binary()).prop_map(
        move |(topic, delivery, retain, mut properties, payload)| {
            if version != V5 {
                properties = PublishProperties::default();
            } else if !is_server {
                properties.subscription_ids = (&[]).into();
            }
            // Every second alias stands alone.
            let is_alias_alone = properties.topic_alias.is_some_and(|alias| alias.get() % 2 == 0);
            let topic = if is_alias_alone { "" } else { topic };
            Publish { delivery, retain, topic, properties, payload }
        },
    )
}

pub(crate) fn publish_properties() -> impl Strategy<Value = PublishProperties<'static>> {
    let ids = vec(subscription_id(), 0..4);
    (
        any::<(Option<bool>, Option<u32>, Option<NonZeroU16>)>(),
        option::of(topic()),
        option::of(binary()),
        user_properties(),
        ids,
        option::of(text()),
    )
        .prop_map(|(numbers, response_topic, correlation_data, user_properties, ids, content_type)| {
            PublishProperties {
                payload_is_utf8: numbers.0,
                message_expiry: numbers.1,
                topic_alias: numbers.2,
                response_topic,
                correlation_data,
                user_properties,
                subscription_ids: leak(ids).into(),
                content_type,
                raw: RawProperties::default(),
            }
        })
}

fn any_ack(version: ProtocolVersion) -> BoxedStrategy<Packet<'static>> {
    prop_oneof![
        ack(version, PacketType::PubAck).prop_map(Packet::PubAck),
        ack(version, PacketType::PubRec).prop_map(Packet::PubRec),
        ack(version, PacketType::PubRel).prop_map(Packet::PubRel),
        ack(version, PacketType::PubComp).prop_map(Packet::PubComp),
    ]
    .boxed()
}

fn ack(version: ProtocolVersion, packet: PacketType) -> impl Strategy<Value = Ack<'static>> {
    let reason = reason(move |reason| reason.is_allowed_in(packet));
    (packet_id(), reason, option::of(text()), user_properties()).prop_map(
        move |(id, reason, reason_string, user_properties)| {
            let ack = Ack { id, reason, reason_string, user_properties };
            if version == V5 { ack } else { Ack::new(id, ReasonCode::Success) }
        },
    )
}

fn subscribe(version: ProtocolVersion) -> impl Strategy<Value = Packet<'static>> {
    let id = option::of(subscription_id());
    let filters = vec((filter(), options(version)), 1..5);
    (packet_id(), id, user_properties(), filters).prop_map(
        move |(id, subscription_id, user_properties, mut filters)| {
            for (filter, options) in &mut filters {
                options.no_local &= !filter.starts_with('$');
            }
            let (subscription_id, user_properties) =
                if version == V5 { (subscription_id, user_properties) } else { Default::default() };
            Packet::Subscribe(Subscribe {
                id,
                subscription_id,
                user_properties,
                filters: leak(filters).into(),
            })
        },
    )
}

fn options(version: ProtocolVersion) -> impl Strategy<Value = SubscriptionOptions> {
    let retain_handling =
        select(&[RetainHandling::Send, RetainHandling::SendIfNew, RetainHandling::DoNotSend][..]);
    (qos(), any::<bool>(), any::<bool>(), retain_handling).prop_map(
        move |(qos, no_local, retain_as_published, retain_handling)| {
            if version == V5 {
                SubscriptionOptions { qos, no_local, retain_as_published, retain_handling }
            } else {
                SubscriptionOptions { qos, ..SubscriptionOptions::default() }
            }
        },
    )
}

fn unsubscribe(version: ProtocolVersion) -> impl Strategy<Value = Packet<'static>> {
    (packet_id(), user_properties(), vec(filter(), 1..5)).prop_map(move |(id, user_properties, filters)| {
        let user_properties = if version == V5 { user_properties } else { UserProperties::default() };
        Packet::Unsubscribe(Unsubscribe { id, user_properties, filters: leak(filters).into() })
    })
}

fn suback(version: ProtocolVersion) -> impl Strategy<Value = Packet<'static>> {
    let reason = reason(move |reason| {
        reason.is_allowed_in(PacketType::SubAck) && (version == V5 || reason.suback_v3() == reason.value())
    });
    (packet_id(), option::of(text()), user_properties(), vec(reason, 1..5)).prop_map(
        move |(id, reason_string, user_properties, reasons)| {
            let (reason_string, user_properties) =
                if version == V5 { (reason_string, user_properties) } else { Default::default() };
            Packet::SubAck(SubAck { id, reason_string, user_properties, reasons: leak(reasons).into() })
        },
    )
}

fn unsuback(version: ProtocolVersion) -> impl Strategy<Value = Packet<'static>> {
    let reason = reason(|reason| reason.is_allowed_in(PacketType::UnsubAck));
    (packet_id(), option::of(text()), user_properties(), vec(reason, 1..5)).prop_map(
        move |(id, reason_string, user_properties, reasons)| {
            let (reason_string, user_properties, reasons) = if version == V5 {
                (reason_string, user_properties, leak(reasons).into())
            } else {
                Default::default()
            };
            Packet::UnsubAck(UnsubAck { id, reason_string, user_properties, reasons })
        },
    )
}

fn disconnect(version: ProtocolVersion, from_client: bool) -> impl Strategy<Value = Packet<'static>> {
    let reason = reason(move |reason| match from_client {
        true => reason.is_allowed_from_client(PacketType::Disconnect),
        false => reason.is_allowed_from_server(PacketType::Disconnect),
    });
    (reason, any::<Option<u32>>(), option::of(text()), user_properties(), option::of(text())).prop_map(
        move |(reason, session_expiry, reason_string, user_properties, server_reference)| {
            let properties = DisconnectProperties {
                session_expiry: session_expiry.filter(|_| from_client),
                reason_string,
                user_properties,
                server_reference: server_reference.filter(|_| !from_client),
            };
            Packet::Disconnect(if version == V5 {
                Disconnect { reason, properties }
            } else {
                Disconnect { reason: ReasonCode::Success, properties: DisconnectProperties::default() }
            })
        },
    )
}

fn auth(from_client: bool) -> impl Strategy<Value = Packet<'static>> {
    let reason = reason(move |reason| match from_client {
        true => reason.is_allowed_from_client(PacketType::Auth),
        false => reason.is_allowed_from_server(PacketType::Auth),
    });
    (reason, text(), option::of(binary()), option::of(text()), user_properties()).prop_map(
        |(reason, method, authentication_data, reason_string, user_properties)| {
            let authentication_method = Some(method);
            let properties =
                AuthProperties { authentication_method, authentication_data, reason_string, user_properties };
            Packet::Auth(Auth { reason, properties })
        },
    )
}

fn authentication() -> impl Strategy<Value = (Option<&'static str>, Option<&'static [u8]>)> {
    option::of((text(), option::of(binary())))
        .prop_map(|both| both.map_or((None, None), |(m, d)| (Some(m), d)))
}

fn reason(is_wanted: impl Fn(ReasonCode) -> bool) -> impl Strategy<Value = ReasonCode> {
    select(ReasonCode::ALL.iter().copied().filter(|reason| is_wanted(*reason)).collect::<Vec<_>>())
}

fn user_properties() -> impl Strategy<Value = UserProperties<'static>> {
    vec((text(), text()), 0..4).prop_map(|pairs| leak(pairs).into())
}

fn qos() -> impl Strategy<Value = QoS> {
    select(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][..])
}

pub(crate) fn delivery() -> impl Strategy<Value = Delivery> {
    (qos(), packet_id(), any::<bool>()).prop_map(|(qos, id, dup)| match qos {
        QoS::AtMostOnce => Delivery::AtMostOnce,
        QoS::AtLeastOnce => Delivery::AtLeastOnce { id, dup },
        QoS::ExactlyOnce => Delivery::ExactlyOnce { id, dup },
    })
}

fn packet_id() -> impl Strategy<Value = PacketId> {
    any::<NonZeroU16>().prop_map(|id| PacketId::new(id.get()).expect("it is not zero"))
}

fn subscription_id() -> impl Strategy<Value = NonZeroU32> {
    (1..=268_435_455_u32).prop_map(|id| NonZeroU32::new(id).expect("it is not zero"))
}

pub(crate) fn topic() -> impl Strategy<Value = &'static str> {
    text().prop_map(|text| {
        let topic = text.replace(['+', '#'], "-");
        if topic.is_empty() { "/" } else { &*topic.leak() }
    })
}

fn filter() -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => text(), 1 => select(&["#", "+/a", "$share/g/a/+", "$queue/a", "$SYS/#"][..])]
}

/// Text of few characters of any kind, or of so many that lengths take more than one byte.
fn text() -> impl Strategy<Value = &'static str> {
    let character = prop_oneof![4 => prop::char::range('!', '~'), 1 => any::<char>()];
    let character = character.prop_filter("NUL is not allowed", |character| *character != '\0');
    let short = vec(character, 0..12).prop_map(String::from_iter);
    let long = (100_usize..400).prop_map(|len| "long".repeat(len));
    prop_oneof![12 => short, 1 => long].prop_map(|text| &*text.leak())
}

fn binary() -> impl Strategy<Value = &'static [u8]> {
    prop_oneof![12 => vec(any::<u8>(), 0..40), 1 => vec(any::<u8>(), 100..400)].prop_map(leak)
}

fn leak<T>(list: Vec<T>) -> &'static [T] {
    list.leak()
}
