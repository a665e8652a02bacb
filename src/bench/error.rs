//! What keeps a run from happening, and what ends a connection, in words.

use std::{io, net::SocketAddr, path::PathBuf, process::ExitCode};

use flotilla_mqtt::{
    ReasonCode,
    codec::{DecodeError, EncodeError},
    packet::PacketType,
};

use crate::client::{ClientError, describe};

/// Why there is nothing to report.
#[derive(Debug, thiserror::Error)]
pub(super) enum BenchError {
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("cannot start: {0}")]
    Start(io::Error),
    #[error("a thread that sends and receives has failed: {0}")]
    Worker(String),
    #[error("there is no process {pid} to measure, or it is not ours to look at: is --broker-pid right?")]
    NoProcess { pid: u32 },
    #[error("cannot write the plot to {}: {source}", path.display())]
    Plot { path: PathBuf, source: io::Error },
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
}

impl BenchError {
    pub(super) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) | Self::Client(ClientError::Usage(_)) => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }
}

/// Why a client is no longer connected. Many clients end for one reason, so the text has nothing in it that only one client has.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ending {
    #[error("cannot connect to {broker}: {error}{}", connect_hint(error))]
    Connect { broker: SocketAddr, error: io::Error },
    #[error("no answer within the time of --connect-timeout{}", slow_hint(*is_connected))]
    Timeout { is_connected: bool },
    #[error("the broker refused the connection: {}{}", describe(*reason, text.as_deref()), refusal_hint(*reason))]
    Refused { reason: ReasonCode, text: Option<String> },
    #[error("the broker refused a subscription: {}", describe(*reason, None))]
    SubscriptionRefused { reason: ReasonCode },
    #[error("the session that was left with the broker is gone")]
    SessionGone,
    #[error("the broker closed the connection: {}", describe(*reason, text.as_deref()))]
    Disconnected { reason: ReasonCode, text: Option<String> },
    #[error("the broker closed the connection without giving a reason: does its log have one?")]
    Closed,
    #[error("the connection was lost: {0}")]
    Lost(io::Error),
    #[error("the broker has not answered a ping")]
    Silent,
    #[error("the broker sent something that is not MQTT, or not of this version: {0}")]
    Decode(#[from] DecodeError),
    #[error("the broker sent {0}, which has no place here")]
    Unexpected(PacketType),
    #[error("it cannot be sent: {0}")]
    Encode(#[from] EncodeError),
    #[error("the broker does not take messages as they were asked for: {0}")]
    Unavailable(&'static str),
}

fn connect_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ": is the broker running there?",
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => ": is the address right?",
        io::ErrorKind::AddrNotAvailable => {
            ": are all ports in use, or is the address not of this machine? --local-addresses gives others"
        }
        io::ErrorKind::AddrInUse => ": all ports are in use: --local-addresses gives others",
        // EMFILE has no kind of its own.
        _ if error.raw_os_error() == Some(EMFILE) => ": raise the limit of open files (`ulimit -Hn`)",
        _ => "",
    }
}

const fn slow_hint(is_connected: bool) -> &'static str {
    if is_connected { "" } else { ": is the address right, and is an MQTT broker there?" }
}

fn refusal_hint(reason: ReasonCode) -> &'static str {
    match reason {
        ReasonCode::BadUserNameOrPassword => ": -u and --password-file say who you are",
        ReasonCode::NotAuthorized => ": does it ask for a user name? -u and --password-file say who you are",
        ReasonCode::UnsupportedProtocolVersion => ": -V chooses another version",
        _ => "",
    }
}

/// The same on all systems that this runs on.
const EMFILE: i32 = 24;
