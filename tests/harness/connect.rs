//! CONNECT.

use super::{Body, Property, Version, packet};

/// CONNECT, in the making; clean and with a Keep Alive of a minute unless said otherwise.
#[derive(Debug, Clone)]
pub(crate) struct Connect {
    pub(crate) version: Version,
    pub(crate) client_id: String,
    clean: bool,
    keep_alive: u16,
    properties: Vec<Property>,
    will: Option<Will>,
    username: Option<String>,
    password: Option<Vec<u8>>,
}

/// A Will Message.
#[derive(Debug, Clone)]
pub(crate) struct Will {
    topic: String,
    payload: Vec<u8>,
    qos: u8,
    retain: bool,
    properties: Vec<Property>,
}

impl Connect {
    pub(crate) fn new(version: Version, client_id: &str) -> Self {
        Self {
            version,
            client_id: client_id.to_owned(),
            clean: true,
            keep_alive: 60,
            properties: Vec::new(),
            will: None,
            username: None,
            password: None,
        }
    }

    /// Clean Start (Clean Session) 0.
    pub(crate) fn resume(mut self) -> Self {
        self.clean = false;
        self
    }

    pub(crate) fn clean(mut self) -> Self {
        self.clean = true;
        self
    }

    /// A session that outlives its connection: Clean Session 0, which in 5.0 takes a Session Expiry Interval.
    pub(crate) fn persistent(self) -> Self {
        let connect = self.resume();
        if connect.version != Version::V5 {
            return connect;
        }
        connect.with(Property::four(super::property_id::SESSION_EXPIRY, 300))
    }

    pub(crate) fn keep_alive(mut self, seconds: u16) -> Self {
        self.keep_alive = seconds;
        self
    }

    pub(crate) fn with(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }

    pub(crate) fn will(mut self, will: Will) -> Self {
        self.will = Some(will);
        self
    }

    pub(crate) fn username(mut self, username: &str) -> Self {
        self.username = Some(username.to_owned());
        self
    }

    pub(crate) fn password(mut self, password: &[u8]) -> Self {
        self.password = Some(password.to_vec());
        self
    }

    /// The Connect Flags (section 3.1.2.3).
    pub(crate) fn flags(&self) -> u8 {
        let will = self.will.as_ref().map_or(0, |will| 0x04 | will.qos << 3 | u8::from(will.retain) << 5);
        let password = u8::from(self.password.is_some()) << 6;
        let username = u8::from(self.username.is_some()) << 7;
        username | password | will | u8::from(self.clean) << 1
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.bytes_with_flags(self.flags())
    }

    /// With these flags instead of those that belong to it.
    pub(crate) fn bytes_with_flags(&self, flags: u8) -> Vec<u8> {
        packet(0x10, self.header(flags).raw(&self.payload().into_bytes()))
    }

    /// The variable header.
    pub(crate) fn header(&self, flags: u8) -> Body {
        let name = if self.version == Version::V31 { "MQIsdp" } else { "MQTT" };
        let body = Body::new().text(name).u8(self.version as u8).u8(flags).u16(self.keep_alive);
        body.properties_for(self.version, &self.properties)
    }

    /// The payload.
    pub(crate) fn payload(&self) -> Body {
        let mut body = Body::new().text(&self.client_id);
        if let Some(will) = &self.will {
            body =
                body.properties_for(self.version, &will.properties).text(&will.topic).binary(&will.payload);
        }
        if let Some(username) = &self.username {
            body = body.text(username);
        }
        if let Some(password) = &self.password {
            body = body.binary(password);
        }
        body
    }
}

impl Will {
    /// At QoS 0, not retained.
    pub(crate) fn new(topic: &str, payload: impl AsRef<[u8]>) -> Self {
        Self {
            topic: topic.to_owned(),
            payload: payload.as_ref().to_vec(),
            qos: 0,
            retain: false,
            properties: Vec::new(),
        }
    }

    pub(crate) fn qos(mut self, qos: u8) -> Self {
        self.qos = qos;
        self
    }

    pub(crate) fn retain(mut self) -> Self {
        self.retain = true;
        self
    }

    pub(crate) fn with(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }
}
