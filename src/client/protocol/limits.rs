//! What a broker takes, as it says in CONNACK.

use std::num::{NonZeroU16, NonZeroU32};

use flotilla_mqtt::{QoS, packet::ConnAckProperties};

use crate::client::error::ClientError;

/// What the broker takes (section 3.2.2.3).
#[derive(Debug)]
pub(in crate::client) struct ServerLimits {
    pub(super) in_flight: u16,
    pub(super) packet_size: Option<NonZeroU32>,
    qos: QoS,
    retain: bool,
    topic_alias: u16,
}

impl ServerLimits {
    /// Checks that the broker takes messages of this kind.
    ///
    /// # Errors
    /// It said in CONNACK that it does not.
    pub(in crate::client) fn check_publish(
        &self,
        qos: QoS,
        retain: bool,
        topic_alias: Option<NonZeroU16>,
    ) -> Result<(), ClientError> {
        let unavailable = |what, limit| Err(ClientError::Unavailable { what, limit });
        if qos > self.qos {
            // [MQTT-3.2.2-11]
            return unavailable("messages of this QoS", format!("its highest is {}", self.qos as u8));
        }
        if retain && !self.retain {
            // [MQTT-3.2.2-14]
            return unavailable("retained messages", "it keeps none".to_owned());
        }
        if topic_alias.is_some_and(|alias| alias.get() > self.topic_alias) {
            // [MQTT-3.3.2-9]
            let limit = match self.topic_alias {
                0 => "it takes none".to_owned(),
                highest => format!("its highest is {highest}"),
            };
            return unavailable("this topic alias", limit);
        }
        Ok(())
    }

    /// What a CONNACK says; what it does not say is at the specification's default.
    pub(super) fn announced(properties: &ConnAckProperties<'_>) -> Self {
        Self {
            in_flight: properties
                .receive_maximum
                .map_or(IN_FLIGHT_MAX, |maximum| maximum.get().min(IN_FLIGHT_MAX)),
            packet_size: properties.maximum_packet_size,
            qos: properties.maximum_qos.unwrap_or(QoS::ExactlyOnce),
            retain: properties.retain_available.unwrap_or(true),
            topic_alias: properties.topic_alias_maximum.unwrap_or(0),
        }
    }
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self::announced(&ConnAckProperties::default())
    }
}

/// Messages of ours that are on their way at once, unless the broker wants fewer.
const IN_FLIGHT_MAX: u16 = 100;

const _: () = assert!(IN_FLIGHT_MAX < u16::MAX, "an unused packet identifier must be found");
