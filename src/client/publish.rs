//! What `flotilla pub` does.

use std::os::unix::ffi::OsStrExt;

use bytes::Bytes;
use flotilla_mqtt::{
    ReasonCode,
    packet::{PublishProperties, UserProperties},
};

use super::{
    args::{PubArgs, PublishPropertyArgs},
    connection::Connection,
    error::{ClientError, describe},
    input::Payloads,
    options::{self, Identity},
    print::tell,
    protocol::Event,
    stop::Stop,
};

/// Connects, publishes everything, waits until the broker is done with it, and disconnects.
///
/// # Errors
/// Something was not published, or it is not known to be.
pub(super) async fn publish(args: PubArgs) -> Result<(), ClientError> {
    options::check_topic("--topic", &args.topic)?;
    options::check_publish_properties(args.connection.protocol_version, &args.properties)?;
    let identity = Identity::resolve(&args.connection)?;
    let payloads = Payloads::open(&args)?;
    let mut stop = Stop::new(args.connection.timeout)?;
    let connection = tokio::select! {
        connection = Connection::open(&args.connection, &identity, 0) => connection?,
        reason = stop.wait() => return Err(reason),
    };
    let user_properties = args.properties.user_property_pairs();
    let properties = args.properties.of_message(&user_properties);
    let mut publisher = Publisher {
        args: &args,
        properties,
        connection,
        payloads,
        is_introduced: false,
        report: Report::default(),
    };
    let result = publisher.run(&mut stop).await;
    let Publisher { connection, report, .. } = publisher;
    let goodbye = result.as_ref().map_or_else(ClientError::reason, |()| ReasonCode::Success);
    let closed = connection.close(goodbye).await;
    result.and(closed)?;
    if report.is_refused { Err(ClientError::Refused) } else { Ok(()) }
}

struct Publisher<'a> {
    args: &'a PubArgs,
    properties: PublishProperties<'a>,
    connection: Connection,
    payloads: Payloads,
    /// Whether the broker knows the topic by its alias.
    is_introduced: bool,
    report: Report,
}

/// What became of the messages.
#[derive(Debug, Default)]
struct Report {
    is_refused: bool,
}

impl Publisher<'_> {
    /// Returns when every message is sent and, at QoS 1 and 2, acknowledged.
    async fn run(&mut self, stop: &mut Stop) -> Result<(), ClientError> {
        let alias = self.args.properties.topic_alias;
        self.connection.protocol.limits().check_publish(self.args.qos, self.args.retain, alias)?;
        let mut is_more = true;
        loop {
            while let Some(event) = self.connection.next_event()? {
                self.handle_event(event);
            }
            let protocol = &self.connection.protocol;
            if !is_more && protocol.in_flight() == 0 && protocol.output.is_empty() {
                return Ok(());
            }
            // Payloads first: as many as fit are written at once.
            tokio::select! {
                biased;
                reason = stop.wait() => return Err(reason),
                payload = self.payloads.next(), if is_more && protocol.can_publish() => match payload {
                    Some(payload) => self.send(&payload?)?,
                    None => is_more = false,
                },
                pumped = self.connection.pump() => pumped?,
            }
        }
    }

    fn send(&mut self, payload: &Bytes) -> Result<(), ClientError> {
        let topic = if self.is_introduced { "" } else { &self.args.topic };
        let properties = self.properties.clone();
        let protocol = &mut self.connection.protocol;
        match protocol.publish(self.args.qos, self.args.retain, topic, properties, payload) {
            Ok(()) => {
                self.is_introduced = self.properties.topic_alias.is_some();
                Ok(())
            }
            // One message too large does not keep the others back.
            Err(error @ ClientError::Unavailable { .. }) => {
                tell(format_args!("message not sent: {error}"));
                self.report.is_refused = true;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn handle_event(&mut self, event: Event) {
        // Nothing is subscribed; messages of a resumed session stay unacknowledged, and with the broker.
        let Event::Published { reason, text } = event else { return };
        let (topic, reason_text) = (&self.args.topic, describe(reason, text.as_deref()));
        if reason.is_error() {
            tell(format_args!("the broker refused the message for {topic}: {reason_text}"));
            self.report.is_refused = true;
        } else if reason == ReasonCode::NoMatchingSubscribers && self.args.verbose {
            tell(format_args!("{topic}: nobody is subscribed"));
        } else if self.args.connection.debug {
            tell(format_args!("published to {topic}: {reason_text}"));
        }
    }
}

impl PublishPropertyArgs {
    fn user_property_pairs(&self) -> Vec<(&str, &str)> {
        self.user_properties.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    fn of_message<'a>(&'a self, user_properties: &'a [(&'a str, &'a str)]) -> PublishProperties<'a> {
        PublishProperties {
            payload_is_utf8: self.payload_format.as_deref().map(|format| format == "utf8"),
            message_expiry: self.message_expiry,
            topic_alias: self.topic_alias,
            response_topic: self.response_topic.as_deref(),
            correlation_data: self.correlation_data.as_deref().map(OsStrExt::as_bytes),
            user_properties: UserProperties::from(user_properties),
            content_type: self.content_type.as_deref(),
            ..PublishProperties::default()
        }
    }
}
