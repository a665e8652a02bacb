//! What can be said on the command line of `flotilla pub` and `flotilla sub`.
//!
//! The letters are those of `mosquitto_pub` and `mosquitto_sub` wherever they have one for the same thing; the
//! exception is `-c`, which counts messages here.

use std::{ffi::OsString, num::NonZeroU16, num::NonZeroU32, path::PathBuf, time::Duration};

use clap::{ArgAction, ArgGroup, Args};
use flotilla_mqtt::{ProtocolVersion, QoS, packet::RetainHandling};

/// Publish messages, and say in the exit code whether the broker took them.
#[derive(Debug, Clone, Args)]
#[command(disable_help_flag = true, disable_version_flag = true, after_help = EXIT_CODES)]
#[command(group(ArgGroup::new("source").required(true).args(["message", "file", "stdin_file", "stdin_line", "null"])))]
pub struct PubArgs {
    /// The topic to publish to.
    #[arg(short, long, value_name = "TOPIC")]
    pub topic: String,
    /// The payload.
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub message: Option<OsString>,
    /// Take the payload from a file.
    #[arg(short, long, value_name = "PATH")]
    pub file: Option<PathBuf>,
    /// Take one payload from all of standard input.
    #[arg(short = 's', long)]
    pub stdin_file: bool,
    /// Publish each line of standard input as a message.
    #[arg(short = 'l', long)]
    pub stdin_line: bool,
    /// Publish an empty payload; with --retain it removes the retained message.
    #[arg(short, long = "null-message")]
    pub null: bool,
    /// Quality of Service: 0, 1 or 2.
    #[arg(short, long, value_name = "0|1|2", default_value = "0", value_parser = parse_qos)]
    pub qos: QoS,
    /// Ask the broker to keep the message for later subscribers.
    #[arg(short, long)]
    pub retain: bool,
    /// Publish the message this often.
    #[arg(long, value_name = "COUNT", default_value_t = 1, conflicts_with = "stdin_line")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: u32,
    /// Wait between repetitions.
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = parse_seconds)]
    pub repeat_delay: Duration,
    /// Say so when a message had no subscriber (MQTT 5.0, QoS 1 and 2).
    #[arg(short, long)]
    pub verbose: bool,
    /// Properties of the message.
    #[command(flatten)]
    pub properties: PublishPropertyArgs,
    /// How to connect.
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

/// Properties of the messages that `flotilla pub` publishes.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Properties of the message (MQTT 5.0)")]
pub struct PublishPropertyArgs {
    /// A User Property; may be repeated.
    #[arg(long = "user-property", value_name = "NAME=VALUE", value_parser = parse_pair)]
    pub user_properties: Vec<(String, String)>,
    /// Content Type, such as `application/json`.
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<String>,
    /// Response Topic: where an answer is expected.
    #[arg(long, value_name = "TOPIC")]
    pub response_topic: Option<String>,
    /// Correlation Data: comes back with the answer.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub correlation_data: Option<OsString>,
    /// Message Expiry Interval: the broker drops the message after this time.
    #[arg(long, value_name = "SECONDS")]
    pub message_expiry: Option<u32>,
    /// Payload Format Indicator: declare the payload to be text.
    #[arg(long, value_name = "bytes|utf8", value_parser = ["bytes", "utf8"])]
    pub payload_format: Option<String>,
    /// Topic Alias: send the topic once, and this number instead of it from then on.
    #[arg(long, value_name = "NUMBER")]
    pub topic_alias: Option<NonZeroU16>,
}

/// Subscribe to topics and print the messages that arrive.
#[derive(Debug, Clone, Args)]
#[command(disable_help_flag = true, disable_version_flag = true, after_help = EXIT_CODES)]
pub struct SubArgs {
    /// A topic filter to subscribe to; may be repeated.
    #[arg(short, long = "topic", value_name = "FILTER", required = true)]
    pub topics: Vec<String>,
    /// The highest Quality of Service to receive at: 0, 1 or 2.
    #[arg(short, long, value_name = "0|1|2", default_value = "0", value_parser = parse_qos)]
    pub qos: QoS,
    /// Exit after this many messages; without it, run until interrupted.
    #[arg(short, long, visible_short_alias = 'C', value_name = "COUNT")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Exit as soon as the broker has taken the subscriptions.
    #[arg(short = 'E', long)]
    pub exit_after_subscribe: bool,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
    /// Options of the subscriptions.
    #[command(flatten)]
    pub options: SubscribePropertyArgs,
    /// How to connect.
    #[command(flatten)]
    pub connection: ConnectionArgs,
}

/// How `flotilla sub` prints messages.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// Print the topic before each payload.
    #[arg(short, long, conflicts_with = "json")]
    pub verbose: bool,
    /// Print each message as one line of JSON. A payload that is not text is in `payload_base64` in place of `payload`.
    #[arg(long)]
    pub json: bool,
    /// Print every payload in base64.
    #[arg(long)]
    pub base64: bool,
    /// Neither print nor count retained messages.
    #[arg(short = 'R', long)]
    pub skip_retained: bool,
    /// Print no line end after a message.
    #[arg(short = 'N', long)]
    pub no_newline: bool,
}

/// Options and properties of the subscriptions that `flotilla sub` makes.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Options of the subscription (MQTT 5.0)")]
pub struct SubscribePropertyArgs {
    /// A User Property of the SUBSCRIBE; may be repeated.
    #[arg(long = "user-property", value_name = "NAME=VALUE", value_parser = parse_pair)]
    pub user_properties: Vec<(String, String)>,
    /// Subscription Identifier: comes with each message.
    #[arg(long, value_name = "NUMBER", value_parser = parse_subscription_id)]
    pub subscription_id: Option<NonZeroU32>,
    /// Do not receive what this client publishes.
    #[arg(long)]
    pub no_local: bool,
    /// Keep the retain flag as it was published.
    #[arg(long)]
    pub retain_as_published: bool,
    /// Retained messages at subscription: always, only to a new subscription, or never.
    #[arg(long, value_name = "always|new|never", default_value = "always", value_parser = parse_retain_handling)]
    pub retain_handling: RetainHandling,
}

/// How to connect, and as whom.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connection")]
pub struct ConnectionArgs {
    /// The broker's name or address.
    #[arg(short, long, default_value = "127.0.0.1")]
    pub host: String,
    /// The broker's TCP port.
    #[arg(short, long, default_value_t = 1883)]
    pub port: u16,
    /// Client Identifier; without it, the broker chooses one.
    #[arg(short, long, value_name = "CLIENT_ID")]
    pub id: Option<String>,
    /// User name.
    #[arg(short, long, value_name = "NAME")]
    pub username: Option<String>,
    /// Password. Others see it in the list of processes: --password-file or the environment variable
    /// FLOTILLA_PASSWORD (read when --username is given) keep it to yourself.
    #[arg(short = 'P', long, value_name = "PASSWORD", allow_hyphen_values = true)]
    pub password: Option<OsString>,
    /// Read the password from a file; a line end after it is left out.
    #[arg(long, value_name = "PATH", conflicts_with = "password")]
    pub password_file: Option<PathBuf>,
    /// MQTT 3.1, 3.1.1 or 5.0.
    #[arg(short = 'V', long, value_name = "31|311|5", default_value = "5", value_parser = parse_version)]
    pub protocol_version: ProtocolVersion,
    /// Keep Alive: the longest silence before a ping; 0 turns it off.
    #[arg(short, long, value_name = "SECONDS", default_value_t = 60)]
    pub keepalive: u16,
    /// Give up when the broker has not answered the connection after this time.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = parse_seconds)]
    pub connect_timeout: Duration,
    /// Give up after this time, whatever is still to do.
    #[arg(short = 'W', long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub timeout: Option<Duration>,
    /// Throw away what the broker keeps for this client identifier: the default.
    #[arg(long, overrides_with = "no_clean_start")]
    pub clean_start: bool,
    /// Go on with the session that the broker keeps for this client identifier.
    #[arg(long, requires = "id", overrides_with = "clean_start")]
    pub no_clean_start: bool,
    /// Session Expiry Interval: how long the broker keeps the session afterwards, or `never` (MQTT 5.0).
    #[arg(short = 'x', long, value_name = "SECONDS|never", value_parser = parse_session_expiry)]
    pub session_expiry: Option<u32>,
    /// Receive Maximum: how many unacknowledged messages the broker may send (MQTT 5.0).
    #[arg(long, value_name = "COUNT")]
    pub receive_maximum: Option<NonZeroU16>,
    /// Maximum Packet Size that the broker may send (MQTT 5.0).
    #[arg(long, value_name = "BYTES")]
    pub maximum_packet_size: Option<NonZeroU32>,
    /// The will.
    #[command(flatten)]
    pub will: WillArgs,
    /// Tell on standard error what happens on the connection.
    #[arg(short, long, help_heading = "Other")]
    pub debug: bool,
    /// Print this help. `-h` is the host.
    #[arg(long, action = ArgAction::HelpLong, help_heading = "Other")]
    pub help: Option<bool>,
}

/// What the broker publishes when the client is gone without saying so.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Will")]
pub struct WillArgs {
    /// The topic of the will.
    #[arg(long, value_name = "TOPIC")]
    pub will_topic: Option<String>,
    /// The payload of the will; empty when not given.
    #[arg(long, value_name = "TEXT", requires = "will_topic", allow_hyphen_values = true)]
    pub will_payload: Option<OsString>,
    /// The QoS of the will.
    #[arg(long, value_name = "0|1|2", value_parser = parse_qos, requires = "will_topic")]
    pub will_qos: Option<QoS>,
    /// Retain the will.
    #[arg(long, requires = "will_topic")]
    pub will_retain: bool,
    /// Will Delay Interval: publish only if the client stays away for this time (MQTT 5.0).
    #[arg(long, value_name = "SECONDS", requires = "will_topic")]
    pub will_delay: Option<u32>,
}

pub(crate) fn parse_qos(text: &str) -> Result<QoS, String> {
    text.parse().ok().and_then(QoS::from_u8).ok_or_else(|| "a QoS is 0, 1 or 2".to_owned())
}

fn parse_version(text: &str) -> Result<ProtocolVersion, String> {
    match text {
        "31" | "3.1" | "mqttv31" => Ok(ProtocolVersion::V31),
        "311" | "3.1.1" | "mqttv311" => Ok(ProtocolVersion::V311),
        "5" | "5.0" | "mqttv5" => Ok(ProtocolVersion::V5),
        _ => Err("a version is 31, 311 or 5".to_owned()),
    }
}

fn parse_retain_handling(text: &str) -> Result<RetainHandling, String> {
    match text {
        "always" | "0" => Ok(RetainHandling::Send),
        "new" | "1" => Ok(RetainHandling::SendIfNew),
        "never" | "2" => Ok(RetainHandling::DoNotSend),
        _ => Err("always, new or never".to_owned()),
    }
}

fn parse_session_expiry(text: &str) -> Result<u32, String> {
    match text {
        "never" => Ok(u32::MAX),
        _ => text.parse().map_err(|_| "a number of seconds up to 4294967294, or `never`".to_owned()),
    }
}

fn parse_subscription_id(text: &str) -> Result<NonZeroU32, String> {
    let id = text.parse().ok().filter(|id: &NonZeroU32| id.get() <= SUBSCRIPTION_ID_MAX);
    id.ok_or_else(|| format!("a number from 1 to {SUBSCRIPTION_ID_MAX}"))
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a name, `=` and a value")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(crate) fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds
        .filter(|time| *time <= SECONDS_MAX)
        .ok_or_else(|| "a number of seconds, such as 10 or 0.5".to_owned())
}

/// The largest variable byte integer (section 1.5.5).
const SUBSCRIPTION_ID_MAX: u32 = 268_435_455;

/// Ten years: far enough for a command, and near enough to be added to any clock.
const SECONDS_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);

const EXIT_CODES: &str = "\
Exit codes:
    0  done
    1  something on this side failed: a file, standard input or standard output
    2  the command line makes no sense
    3  no connection: nobody listens there, or what listens does not speak MQTT
    4  the broker refused the connection, a subscription or a message; standard error says why
    5  the connection was lost, or the broker closed it
   27  the time of --timeout is over
  130  interrupted before it was done (sub without --count is done when it is interrupted: 0)";

#[cfg(test)]
mod tests;
