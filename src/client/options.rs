//! From command line arguments to packets, with the checks that clap cannot make.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use flotilla_mqtt::{
    ProtocolVersion,
    packet::{Connect, ConnectProperties, LastWill, WillProperties},
};

use super::{
    args::{ConnectionArgs, PublishPropertyArgs, SubscribePropertyArgs},
    error::{ClientError, version_name},
};

/// Who connects, and with what secret: the parts of a CONNECT that are not written on the command line.
#[derive(Debug)]
pub(super) struct Identity {
    client_id: String,
    password: Option<Vec<u8>>,
}

impl Identity {
    /// Checks the arguments and reads the password.
    ///
    /// # Errors
    /// The arguments contradict each other or the version, or the password cannot be read.
    pub(super) fn resolve(args: &ConnectionArgs) -> Result<Self, ClientError> {
        check_connection(args)?;
        let password = args.password.as_deref();
        let client_id = match (&args.id, args.protocol_version) {
            (Some(id), _) => id.clone(),
            // MQTT 3.1 has no empty Client Identifier, and no more than 23 characters.
            (None, ProtocolVersion::V31) => invented_client_id(),
            (None, ProtocolVersion::V311 | ProtocolVersion::V5) => String::new(),
        };
        Ok(Self {
            client_id,
            password: resolve_password(password, args.password_file.as_deref(), args.username.is_some())?,
        })
    }

    /// The CONNECT.
    pub(super) fn connect<'a>(&'a self, args: &'a ConnectionArgs, topic_alias_maximum: u16) -> Connect<'a> {
        let v5 = args.protocol_version.is_v5();
        Connect {
            version: args.protocol_version,
            clean_start: !args.no_clean_start,
            keep_alive: args.keepalive,
            client_id: &self.client_id,
            will: last_will(args),
            username: args.username.as_deref(),
            password: self.password.as_deref(),
            properties: ConnectProperties {
                session_expiry: args.session_expiry.unwrap_or(0),
                receive_maximum: args.receive_maximum.unwrap_or(std::num::NonZeroU16::MAX),
                maximum_packet_size: args.maximum_packet_size,
                topic_alias_maximum: if v5 { topic_alias_maximum } else { 0 },
                ..ConnectProperties::default()
            },
        }
    }
}

/// Checks that a topic can be published to.
///
/// # Errors
/// It is empty, too long, or has wildcards or a null character in it.
pub(crate) fn check_topic(option: &str, topic: &str) -> Result<(), ClientError> {
    check_string(option, topic)?;
    if topic.is_empty() {
        return Err(ClientError::Usage(format!("{option}: a topic has at least one character")));
    }
    // [MQTT-3.3.2-2]
    if topic.contains(['+', '#']) {
        return Err(ClientError::Usage(format!(
            "{option}: `{topic}` has a wildcard, which only a subscription can have"
        )));
    }
    Ok(())
}

/// Checks a topic filter as far as it can be sent; whether it is a valid one is for the broker to say.
///
/// # Errors
/// It is empty, too long or has a null character in it.
pub(super) fn check_filter(filter: &str) -> Result<(), ClientError> {
    check_string("--topic", filter)?;
    if filter.is_empty() {
        return Err(ClientError::Usage("--topic: a topic filter has at least one character".to_owned()));
    }
    Ok(())
}

/// Checks the properties of messages against the version.
///
/// # Errors
/// They need MQTT 5.0, or cannot be sent.
pub(super) fn check_publish_properties(
    version: ProtocolVersion,
    args: &PublishPropertyArgs,
) -> Result<(), ClientError> {
    let needs_v5 = [
        ("--user-property", !args.user_properties.is_empty()),
        ("--content-type", args.content_type.is_some()),
        ("--response-topic", args.response_topic.is_some()),
        ("--correlation-data", args.correlation_data.is_some()),
        ("--message-expiry", args.message_expiry.is_some()),
        ("--payload-format", args.payload_format.is_some()),
        ("--topic-alias", args.topic_alias.is_some()),
    ];
    check_version(version, &needs_v5)?;
    check_pairs(&args.user_properties)?;
    if let Some(topic) = &args.response_topic {
        check_topic("--response-topic", topic)?;
    }
    if let Some(data) = &args.correlation_data {
        check_len("--correlation-data", data.as_bytes())?;
    }
    args.content_type.as_deref().map_or(Ok(()), |text| check_string("--content-type", text))
}

/// Checks the options of subscriptions against the version.
///
/// # Errors
/// They need MQTT 5.0, or cannot be sent.
pub(super) fn check_subscribe_properties(
    version: ProtocolVersion,
    args: &SubscribePropertyArgs,
) -> Result<(), ClientError> {
    let needs_v5 = [
        ("--user-property", !args.user_properties.is_empty()),
        ("--subscription-id", args.subscription_id.is_some()),
        ("--no-local", args.no_local),
        ("--retain-as-published", args.retain_as_published),
        ("--retain-handling", args.retain_handling != flotilla_mqtt::packet::RetainHandling::Send),
    ];
    check_version(version, &needs_v5)?;
    check_pairs(&args.user_properties)
}

/// Everything that `reader` has.
///
/// # Errors
/// It cannot be read, or it is longer than an MQTT packet can be.
pub(super) fn read_bounded(
    what: &'static str,
    reader: impl Read,
    limit: u64,
) -> io::Result<Result<Vec<u8>, ClientError>> {
    let mut bytes = Vec::new();
    reader.take(limit + 1).read_to_end(&mut bytes)?;
    let len = bytes.len() as u64;
    Ok(if len > limit { Err(ClientError::TooLong { what, len, limit }) } else { Ok(bytes) })
}

/// The same for a file.
///
/// # Errors
/// As for [`read_bounded`].
pub(super) fn read_file(what: &'static str, path: &Path, limit: u64) -> Result<Vec<u8>, ClientError> {
    let read = File::open(path).and_then(|file| read_bounded(what, file, limit));
    read.map_err(|source| ClientError::ReadFile { path: path.to_owned(), source })?
}

fn check_connection(args: &ConnectionArgs) -> Result<(), ClientError> {
    let needs_v5 = [
        ("--session-expiry", args.session_expiry.is_some()),
        ("--receive-maximum", args.receive_maximum.is_some()),
        ("--maximum-packet-size", args.maximum_packet_size.is_some()),
        ("--will-delay", args.will.will_delay.is_some()),
    ];
    check_version(args.protocol_version, &needs_v5)?;
    check_string("--id", args.id.as_deref().unwrap_or_default())?;
    check_string("--username", args.username.as_deref().unwrap_or_default())?;
    if let Some(topic) = &args.will.will_topic {
        check_topic("--will-topic", topic)?;
    }
    if let Some(payload) = &args.will.will_payload {
        check_len("--will-payload", payload.as_bytes())?;
    }
    // (v3.1.1: MQTT-3.1.2-22); MQTT 5.0 has dropped the rule.
    let has_password = args.password.is_some() || args.password_file.is_some();
    if has_password && args.username.is_none() && !args.protocol_version.is_v5() {
        let version = version_name(args.protocol_version);
        return Err(ClientError::Usage(format!("a password needs --username in {version}")));
    }
    Ok(())
}

fn check_version(version: ProtocolVersion, options: &[(&str, bool)]) -> Result<(), ClientError> {
    match options.iter().find(|(_, given)| *given) {
        Some((option, _)) if !version.is_v5() => {
            let version = version_name(version);
            Err(ClientError::Usage(format!("{option} needs MQTT 5.0 (-V 5), not {version}")))
        }
        _ => Ok(()),
    }
}

fn check_pairs(pairs: &[(String, String)]) -> Result<(), ClientError> {
    let mut strings = pairs.iter().flat_map(|(name, value)| [name, value]);
    strings.try_for_each(|string| check_string("--user-property", string))
}

/// [MQTT-1.5.4-2], and the length that two bytes can say.
fn check_string(option: &str, text: &str) -> Result<(), ClientError> {
    if text.contains('\0') {
        return Err(ClientError::Usage(format!("{option}: MQTT has no null characters in text")));
    }
    check_len(option, text.as_bytes())
}

fn check_len(option: &str, bytes: &[u8]) -> Result<(), ClientError> {
    if bytes.len() > FIELD_MAX {
        let len = bytes.len();
        return Err(ClientError::Usage(format!(
            "{option}: {len} bytes, and no more than {FIELD_MAX} can be sent"
        )));
    }
    Ok(())
}

/// The password: as it is given, from a file, or, for somebody with a user name, from the environment.
///
/// # Errors
/// It cannot be read, or is too long.
pub(crate) fn resolve_password(
    given: Option<&OsStr>,
    file: Option<&Path>,
    has_username: bool,
) -> Result<Option<Vec<u8>>, ClientError> {
    let mut password = match (given, file) {
        (Some(password), _) => password.as_bytes().to_vec(),
        // One more than fits, for a line end.
        (None, Some(path)) => without_line_end(read_file("the password", path, FIELD_MAX as u64 + 2)?),
        (None, None) if has_username => match std::env::var_os("FLOTILLA_PASSWORD") {
            Some(password) => password.as_bytes().to_vec(),
            None => return Ok(None),
        },
        (None, None) => return Ok(None),
    };
    check_len("the password", &password)?;
    password.shrink_to_fit();
    Ok(Some(password))
}

/// `line` without the `\n` or `\r\n` at its end.
pub(super) fn without_line_end(mut line: Vec<u8>) -> Vec<u8> {
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    }
    line
}

fn last_will(args: &ConnectionArgs) -> Option<LastWill<'_>> {
    let will = &args.will;
    let topic = will.will_topic.as_deref()?;
    Some(LastWill {
        topic,
        payload: will.will_payload.as_deref().map_or(&[], OsStrExt::as_bytes),
        qos: will.will_qos.unwrap_or_default(),
        retain: will.will_retain,
        properties: WillProperties { delay: will.will_delay.unwrap_or(0), ..WillProperties::default() },
    })
}

/// At most 23 characters: `flotilla`, ten of the process, five of the time.
fn invented_client_id() -> String {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.subsec_nanos());
    format!("flotilla{}{:05x}", std::process::id(), time & 0xF_FFFF)
}

/// The longest string or binary field.
const FIELD_MAX: usize = 65_535;

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::client::args::{PubArgs, SubArgs};

    #[derive(Debug, Parser)]
    struct Cli<T: clap::Args> {
        #[command(flatten)]
        args: T,
    }

    fn publish(line: &str) -> PubArgs {
        Cli::<PubArgs>::parse_from(format!("pub -t a -n {line}").split(' ')).args
    }

    fn usage_error(line: &str) -> String {
        let args = publish(line);
        let version = args.connection.protocol_version;
        let result = check_publish_properties(version, &args.properties);
        match result.and_then(|()| Identity::resolve(&args.connection).map(drop)) {
            Err(ClientError::Usage(text)) => text,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn what_only_5_has_is_refused_before() {
        assert_eq!(
            usage_error("-V 311 --content-type t"),
            "--content-type needs MQTT 5.0 (-V 5), not MQTT 3.1.1"
        );
        assert_eq!(usage_error("-V 31 -x 5"), "--session-expiry needs MQTT 5.0 (-V 5), not MQTT 3.1");
        assert_eq!(usage_error("-V 311 -P x"), "a password needs --username in MQTT 3.1.1");
        let args =
            Cli::<SubArgs>::parse_from(["sub", "-t", "a", "-V", "311", "--retain-handling", "new"]).args;
        assert!(check_subscribe_properties(ProtocolVersion::V311, &args.options).is_err());
        assert!(check_subscribe_properties(ProtocolVersion::V5, &args.options).is_ok());
    }

    #[test]
    fn topics_to_publish_to_have_no_wildcards() {
        for topic in ["", "a/+", "#", "a\0"] {
            assert!(check_topic("--topic", topic).is_err(), "{topic:?}");
        }
        assert!(check_topic("--topic", &"a".repeat(65_536)).is_err());
        assert!(check_topic("--topic", &"a".repeat(65_535)).is_ok());
        assert!(usage_error("--response-topic a/#").starts_with("--response-topic: "));
        assert!(usage_error("--will-topic a/#").starts_with("--will-topic: "));
    }

    #[test]
    fn connect_says_what_the_arguments_say() {
        let args = publish(
            "-i me -u name -P pw --no-clean-start -k 7 -x 9 --receive-maximum 5 --maximum-packet-size 99 \
             --will-topic w --will-payload gone --will-qos 1 --will-retain --will-delay 3"
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
                .as_str(),
        );
        let identity = Identity::resolve(&args.connection).unwrap();
        let connect = identity.connect(&args.connection, 4);
        assert_eq!((connect.client_id, connect.clean_start, connect.keep_alive), ("me", false, 7));
        assert_eq!((connect.username, connect.password), (Some("name"), Some(&b"pw"[..])));
        assert_eq!(connect.properties.session_expiry, 9);
        assert_eq!(connect.properties.receive_maximum.get(), 5);
        assert_eq!(connect.properties.maximum_packet_size.map(std::num::NonZeroU32::get), Some(99));
        assert_eq!(connect.properties.topic_alias_maximum, 4);
        let will = connect.will.unwrap();
        assert_eq!(
            (will.topic, will.payload, will.retain, will.properties.delay),
            ("w", &b"gone"[..], true, 3)
        );
        assert_eq!(will.qos, flotilla_mqtt::QoS::AtLeastOnce);
    }

    #[test]
    fn before_5_a_connect_has_no_properties() {
        let args = publish("-V 31");
        let identity = Identity::resolve(&args.connection).unwrap();
        let connect = identity.connect(&args.connection, 4);
        assert_eq!(connect.properties, ConnectProperties::default());
        assert!((1..=23).contains(&connect.client_id.len()), "{}", connect.client_id);
        assert!(connect.clean_start);
    }

    #[test]
    fn a_password_file_is_read_without_its_line_end() {
        assert_eq!(without_line_end(b"secret\r\n".to_vec()), b"secret");
        assert_eq!(without_line_end(b"two\nlines\n".to_vec()), b"two\nlines");
        let missing = publish("-u me --password-file /nonexistent/password");
        assert!(matches!(Identity::resolve(&missing.connection), Err(ClientError::ReadFile { .. })));
    }

    #[test]
    fn reading_stops_at_the_limit() {
        assert_eq!(read_bounded("it", &b"four"[..], 4).unwrap().unwrap(), b"four");
        assert!(matches!(
            read_bounded("it", io::repeat(0), 4).unwrap(),
            Err(ClientError::TooLong { what: "it", len: 5, limit: 4 })
        ));
    }
}
