//! MQTT 5.0 properties (section 2.2.2), to be written and to be read.

use super::wire::Body;

/// Property identifiers.
pub(crate) mod id {
    pub(crate) const PAYLOAD_FORMAT: u8 = 0x01;
    pub(crate) const MESSAGE_EXPIRY: u8 = 0x02;
    pub(crate) const CONTENT_TYPE: u8 = 0x03;
    pub(crate) const RESPONSE_TOPIC: u8 = 0x08;
    pub(crate) const CORRELATION_DATA: u8 = 0x09;
    pub(crate) const SUBSCRIPTION_ID: u8 = 0x0B;
    pub(crate) const SESSION_EXPIRY: u8 = 0x11;
    pub(crate) const ASSIGNED_CLIENT_ID: u8 = 0x12;
    pub(crate) const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub(crate) const AUTHENTICATION_METHOD: u8 = 0x15;
    pub(crate) const AUTHENTICATION_DATA: u8 = 0x16;
    pub(crate) const REQUEST_PROBLEM_INFORMATION: u8 = 0x17;
    pub(crate) const WILL_DELAY: u8 = 0x18;
    pub(crate) const REQUEST_RESPONSE_INFORMATION: u8 = 0x19;
    pub(crate) const RESPONSE_INFORMATION: u8 = 0x1A;
    pub(crate) const SERVER_REFERENCE: u8 = 0x1C;
    pub(crate) const REASON_STRING: u8 = 0x1F;
    pub(crate) const RECEIVE_MAXIMUM: u8 = 0x21;
    pub(crate) const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    pub(crate) const TOPIC_ALIAS: u8 = 0x23;
    pub(crate) const MAXIMUM_QOS: u8 = 0x24;
    pub(crate) const RETAIN_AVAILABLE: u8 = 0x25;
    pub(crate) const USER_PROPERTY: u8 = 0x26;
    pub(crate) const MAXIMUM_PACKET_SIZE: u8 = 0x27;
    pub(crate) const WILDCARD_AVAILABLE: u8 = 0x28;
    pub(crate) const SUBSCRIPTION_IDS_AVAILABLE: u8 = 0x29;
    pub(crate) const SHARED_AVAILABLE: u8 = 0x2A;
}

/// One property. Nothing keeps it from being wrong for its packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Property {
    pub(crate) id: u8,
    pub(crate) value: Value,
}

/// The value of a property; the type on the wire follows from the variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Byte(u8),
    Two(u16),
    Four(u32),
    Variable(u32),
    Text(String),
    Binary(Vec<u8>),
    Pair(String, String),
}

impl Property {
    pub(crate) fn byte(id: u8, value: u8) -> Self {
        Self { id, value: Value::Byte(value) }
    }

    pub(crate) fn two(id: u8, value: u16) -> Self {
        Self { id, value: Value::Two(value) }
    }

    pub(crate) fn four(id: u8, value: u32) -> Self {
        Self { id, value: Value::Four(value) }
    }

    pub(crate) fn text(id: u8, value: &str) -> Self {
        Self { id, value: Value::Text(value.to_owned()) }
    }

    pub(crate) fn binary(id: u8, value: &[u8]) -> Self {
        Self { id, value: Value::Binary(value.to_vec()) }
    }

    /// A User Property.
    pub(crate) fn user(name: &str, value: &str) -> Self {
        Self { id: id::USER_PROPERTY, value: Value::Pair(name.to_owned(), value.to_owned()) }
    }

    /// A Subscription Identifier.
    pub(crate) fn subscription_id(value: u32) -> Self {
        Self { id: id::SUBSCRIPTION_ID, value: Value::Variable(value) }
    }

    fn write(&self, body: Body) -> Body {
        let body = body.u8(self.id);
        match &self.value {
            Value::Byte(value) => body.u8(*value),
            Value::Two(value) => body.u16(*value),
            Value::Four(value) => body.u32(*value),
            Value::Variable(value) => body.varint(*value),
            Value::Text(value) => body.text(value),
            Value::Binary(value) => body.binary(value),
            Value::Pair(name, value) => body.text(name).text(value),
        }
    }
}

/// Properties in the order in which they are written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Properties(pub(crate) Vec<Property>);

impl Properties {
    /// The properties without the length in front of them.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.iter().fold(Body::new(), |body, property| property.write(body)).into_bytes()
    }

    /// The only value with this identifier.
    pub(crate) fn value(&self, id: u8) -> Option<&Value> {
        self.0.iter().find(|property| property.id == id).map(|property| &property.value)
    }

    /// A Byte, Two or Four Byte Integer, or Variable Byte Integer.
    pub(crate) fn number(&self, id: u8) -> Option<u32> {
        self.value(id).map(|value| match value {
            Value::Byte(value) => u32::from(*value),
            Value::Two(value) => u32::from(*value),
            Value::Four(value) | Value::Variable(value) => *value,
            other => panic!("property {id:#04x} is not a number: {other:?}"),
        })
    }

    /// A UTF-8 Encoded String.
    pub(crate) fn string(&self, id: u8) -> Option<&str> {
        self.value(id).map(|value| match value {
            Value::Text(text) => text.as_str(),
            other => panic!("property {id:#04x} is not a string: {other:?}"),
        })
    }

    /// Subscription Identifiers, sorted: their order means nothing [MQTT-3.3.4-4].
    pub(crate) fn subscription_ids(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self
            .0
            .iter()
            .filter(|property| property.id == id::SUBSCRIPTION_ID)
            .map(|property| match property.value {
                Value::Variable(value) => value,
                ref other => panic!("a Subscription Identifier is not a number: {other:?}"),
            })
            .collect();
        ids.sort_unstable();
        ids
    }

    /// User Properties, in order.
    pub(crate) fn user(&self) -> Vec<(&str, &str)> {
        let pairs = self.0.iter().filter_map(|property| match &property.value {
            Value::Pair(name, value) => Some((name.as_str(), value.as_str())),
            _ => None,
        });
        pairs.collect()
    }
}
