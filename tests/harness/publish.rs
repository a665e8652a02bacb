//! PUBLISH, the one packet that tests both write and read.

use super::{Body, Properties, Property, Version, packet};

/// PUBLISH. `id` is 0 at QoS 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Publish {
    pub(crate) dup: bool,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) topic: String,
    pub(crate) id: u16,
    pub(crate) properties: Properties,
    pub(crate) payload: Vec<u8>,
}

impl Publish {
    /// At QoS 0.
    pub(crate) fn new(topic: &str, payload: impl AsRef<[u8]>) -> Self {
        Self { topic: topic.to_owned(), payload: payload.as_ref().to_vec(), ..Self::default() }
    }

    pub(crate) fn qos(mut self, qos: u8, id: u16) -> Self {
        (self.qos, self.id) = (qos, id);
        self
    }

    pub(crate) fn retain(mut self) -> Self {
        self.retain = true;
        self
    }

    pub(crate) fn dup(mut self) -> Self {
        self.dup = true;
        self
    }

    pub(crate) fn with(mut self, property: Property) -> Self {
        self.properties.0.push(property);
        self
    }

    pub(crate) fn bytes(&self, version: Version) -> Vec<u8> {
        let flags = u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain);
        let body = Body::new().text(&self.topic);
        let body = if self.qos > 0 { body.u16(self.id) } else { body };
        packet(0x30 | flags, body.properties_for(version, &self.properties.0).raw(&self.payload))
    }
}
