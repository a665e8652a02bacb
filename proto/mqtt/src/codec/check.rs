//! Rules about single values that hold in both directions.

use super::DecodeError;
use crate::{
    ReasonCode,
    packet::{Auth, SubscriptionOptions},
};

/// A string MUST NOT include U+0000 [MQTT-1.5.4-2].
#[inline]
pub(crate) fn no_nul(string: &str) -> Result<(), DecodeError> {
    // Branch-free over the whole string, for the compiler makes vector instructions of it; a NUL is the rare case.
    let found = string.bytes().fold(false, |found, byte| found | (byte == 0));
    if found { Err(DecodeError::NulCharacter) } else { Ok(()) }
}

/// A Topic Name MUST NOT contain wildcards [MQTT-3.3.2-2], nor, as any string, U+0000.
#[inline]
pub(crate) fn topic_name(topic: &str) -> Result<(), DecodeError> {
    // One branch-free pass for what nearly all topics are; a second one to say what is wrong.
    let is_wrong = |byte| (byte == 0) | (byte == b'+') | (byte == b'#');
    let found = topic.bytes().fold(false, |found, byte| found | is_wrong(byte));
    if !found {
        return Ok(());
    }
    no_nul(topic).and(Err(DecodeError::TopicNameWildcard))
}

/// A Response Topic is a Topic Name [MQTT-3.3.2-14] of at least one character [MQTT-4.7.3-1].
pub(crate) fn response_topic(topic: &str) -> Result<(), DecodeError> {
    if topic.is_empty() || has_wildcard(topic) { Err(DecodeError::InvalidResponseTopic) } else { Ok(()) }
}

/// No Local MUST NOT be set on a Shared Subscription [MQTT-3.8.3-4], under either prefix that makes one.
pub(crate) fn no_local(filter: &str, options: SubscriptionOptions) -> Result<(), DecodeError> {
    let is_shared = filter.starts_with("$share/") || filter.starts_with("$queue/");
    if options.no_local && is_shared { Err(DecodeError::NoLocalOnSharedSubscription) } else { Ok(()) }
}

/// Authentication Data belongs to a method (section 3.1.2.11.10).
pub(crate) fn auth_data(method: Option<&str>, data: Option<&[u8]>) -> Result<(), DecodeError> {
    if data.is_some() && method.is_none() { Err(DecodeError::AuthDataWithoutMethod) } else { Ok(()) }
}

/// AUTH names its method (section 3.15.2.2.2); only the short form, Success and nothing else, cannot.
pub(crate) fn auth(auth: &Auth<'_>) -> Result<(), DecodeError> {
    let properties = &auth.properties;
    auth_data(properties.authentication_method, properties.authentication_data)?;
    let may_be_short = auth.reason == ReasonCode::Success
        && properties.reason_string.is_none()
        && properties.user_properties.is_empty();
    let is_named = properties.authentication_method.is_some() || may_be_short;
    if is_named { Ok(()) } else { Err(DecodeError::AuthWithoutMethod) }
}

/// A server that refuses a connection does not claim to have its session [MQTT-3.2.2-6].
pub(crate) fn session_present(session_present: bool, reason: ReasonCode) -> Result<(), DecodeError> {
    let is_wrong = session_present && reason != ReasonCode::Success;
    if is_wrong { Err(DecodeError::SessionPresentWithRefusal) } else { Ok(()) }
}

fn has_wildcard(topic: &str) -> bool {
    topic.contains(['+', '#'])
}
