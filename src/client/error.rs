//! What ends a client before it is done, in words, and as an exit code.

use std::{io, path::PathBuf, process::ExitCode, time::Duration};

use flotilla_mqtt::{
    ProtocolVersion, ReasonCode,
    codec::{DecodeError, EncodeError},
    packet::PacketType,
};

/// Why `flotilla pub` or `flotilla sub` could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("{0}")]
    Usage(String),
    #[error("cannot read {}: {source}", path.display())]
    ReadFile { path: PathBuf, source: io::Error },
    #[error("cannot read standard input: {0}")]
    ReadInput(io::Error),
    #[error("cannot write to standard output: {0}")]
    WriteOutput(io::Error),
    #[error("{what} is {len} bytes long, more than the {limit} that MQTT allows")]
    TooLong { what: &'static str, len: u64, limit: u64 },
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error("cannot start: {0}")]
    Runtime(io::Error),

    #[error("cannot find the host {host}: {source}: is the name spelled right?")]
    Resolve { host: String, source: io::Error },
    #[error("cannot connect to {address}: {source}{}", connect_hint(source))]
    Connect { address: String, source: io::Error },
    #[error(
        "cannot connect to {address}: no answer within {} s: is the address right, and does no firewall stand between?",
        waited.as_secs_f64()
    )]
    ConnectTimeout { address: String, waited: Duration },
    #[error(
        "cannot connect to {address}: {what}: is it an MQTT broker, and does it speak {}? -V chooses another version",
        version_name(*version)
    )]
    NoConnAck { address: String, what: &'static str, version: ProtocolVersion },

    #[error("the broker refused the connection: {}{}", describe(*reason, text.as_deref()), refusal_hint(*reason))]
    ConnectionRefused { reason: ReasonCode, text: Option<String> },
    #[error("the broker does not take {what}: {limit}")]
    Unavailable { what: &'static str, limit: String },
    #[error("the broker refused what was asked of it: see above")]
    Refused,

    #[error("the connection was lost: {0}")]
    Lost(io::Error),
    #[error("the broker closed the connection without giving a reason")]
    Closed,
    #[error("the broker closed the connection: {}", describe(*reason, text.as_deref()))]
    Disconnected { reason: ReasonCode, text: Option<String> },
    #[error("the broker has not answered a ping within {} s", waited.as_secs_f64())]
    PingTimeout { waited: Duration },
    #[error("the broker sent something that is not MQTT: {0}")]
    Decode(#[from] DecodeError),
    #[error("the broker sent {0:?}, which has no place here")]
    Unexpected(PacketType),
    #[error("the broker sent a message under the topic alias {0}, which it has not introduced")]
    UnknownAlias(u16),

    #[error("the time of --timeout is over")]
    TimedOut,
    #[error("interrupted")]
    Interrupted,
}

impl ClientError {
    /// The exit code that a script sees. The help text of both commands lists them.
    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::ReadFile { .. }
            | Self::ReadInput(_)
            | Self::WriteOutput(_)
            | Self::TooLong { .. }
            | Self::Encode(_)
            | Self::Runtime(_) => 1,
            Self::Usage(_) => 2,
            Self::Resolve { .. }
            | Self::Connect { .. }
            | Self::ConnectTimeout { .. }
            | Self::NoConnAck { .. } => 3,
            Self::ConnectionRefused { .. } | Self::Unavailable { .. } | Self::Refused => 4,
            Self::Lost(_)
            | Self::Closed
            | Self::Disconnected { .. }
            | Self::PingTimeout { .. }
            | Self::Decode(_)
            | Self::Unexpected(_)
            | Self::UnknownAlias(_) => 5,
            Self::TimedOut => 27,
            Self::Interrupted => 130,
        })
    }

    /// What the broker is told when this client hangs up because of it.
    pub(super) fn reason(&self) -> ReasonCode {
        match self {
            Self::Decode(error) => error.reason(),
            Self::Unexpected(_) => ReasonCode::ProtocolError,
            Self::UnknownAlias(_) => ReasonCode::TopicAliasInvalid,
            _ => ReasonCode::Success,
        }
    }
}

/// A reason in words, with its number and with what the broker says itself.
pub(crate) fn describe(reason: ReasonCode, text: Option<&str>) -> String {
    let code = reason as u8;
    match text {
        Some(text) => format!("{reason} (0x{code:02X}): {}", text.escape_debug()),
        None => format!("{reason} (0x{code:02X})"),
    }
}

/// The name of a version, as people write it.
pub(super) const fn version_name(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::V31 => "MQTT 3.1",
        ProtocolVersion::V311 => "MQTT 3.1.1",
        ProtocolVersion::V5 => "MQTT 5.0",
    }
}

fn connect_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ": is the broker running there?",
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => ": is the address right?",
        _ => "",
    }
}

fn refusal_hint(reason: ReasonCode) -> &'static str {
    match reason {
        ReasonCode::BadUserNameOrPassword => ": -u and --password-file say who you are",
        ReasonCode::NotAuthorized => ": does it ask for a user name? -u and --password-file say who you are",
        ReasonCode::UnsupportedProtocolVersion => ": -V chooses another version",
        ReasonCode::ClientIdentifierNotValid => ": -i gives another client identifier",
        _ => "",
    }
}
