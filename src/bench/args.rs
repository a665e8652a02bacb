//! What can be said on the command line of `flotilla bench`.
//!
//! Letters are those of `flotilla pub` and `flotilla sub` wherever they have one for the same thing.

use std::{ffi::OsString, net::IpAddr, num::NonZeroU32, path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use flotilla_mqtt::{ProtocolVersion, QoS};

use super::{local::parse_addresses, stamp::Stamp};
use crate::client::{parse_qos, parse_seconds};

/// Put a load on a broker and measure what it does.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub struct BenchArgs {
    /// What the clients do.
    #[command(subcommand)]
    pub scenario: Scenario,
}

/// What the clients do. Each can spread over the nodes of a cluster: see `--publish-to` and `--subscribe-at`.
#[derive(Debug, Clone, Subcommand)]
pub enum Scenario {
    /// Open connections and keep them idle: connect rate, and what a connection costs the broker.
    #[command(after_help = EXIT_CODES)]
    Connections(ConnectionsArgs),
    /// Point to point: each publisher has a subscriber of its own.
    #[command(after_help = TRAFFIC_HELP)]
    Pairs(PairsArgs),
    /// Few publishers, whose messages go to all subscribers.
    #[command(after_help = TRAFFIC_HELP)]
    FanOut(FanOutArgs),
    /// Many publishers, whose messages all go to one subscriber.
    #[command(after_help = TRAFFIC_HELP)]
    FanIn(FanInArgs),
    /// Many publishers, whose messages the members of a shared subscription divide among them.
    #[command(after_help = TRAFFIC_HELP)]
    Shared(SharedArgs),
    /// Many filters with wildcards: subscribe rate and memory, then messages that match one filter each.
    #[command(after_help = TRAFFIC_HELP)]
    Wildcard(WildcardArgs),
    /// Set retained messages, then subscribe to all of them at once.
    #[command(after_help = EXIT_CODES)]
    Retained(RetainedArgs),
    /// Queue messages for sessions whose clients are away, then let them come back. Nothing may be missing.
    #[command(after_help = EXIT_CODES)]
    Offline(OfflineArgs),
}

/// `flotilla bench connections`.
#[derive(Debug, Clone, Args)]
pub struct ConnectionsArgs {
    /// How many connections.
    #[arg(short = 'n', long, value_name = "COUNT", default_value = "1000", value_parser = parse_count)]
    pub count: NonZeroU32,
    /// Subscribe each to a topic of its own.
    #[arg(long)]
    pub subscribe: bool,
    /// How long to keep them, once all are there.
    #[arg(short, long, value_name = "SECONDS", default_value = "5", value_parser = parse_seconds)]
    pub time: Duration,
    /// How to connect, and what to tell.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// `flotilla bench pairs`.
#[derive(Debug, Clone, Args)]
pub struct PairsArgs {
    /// How many pairs.
    #[arg(short = 'n', long, value_name = "COUNT", default_value = "50", value_parser = parse_count)]
    pub count: NonZeroU32,
    /// What is sent.
    #[command(flatten)]
    pub traffic: TrafficArgs,
    /// How to connect, and what to tell.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// `flotilla bench fan-out`.
#[derive(Debug, Clone, Args)]
pub struct FanOutArgs {
    /// How many publishers.
    #[arg(long, value_name = "COUNT", default_value = "1", value_parser = parse_count)]
    pub publishers: NonZeroU32,
    /// How many subscribers.
    #[arg(long, value_name = "COUNT", default_value = "1000", value_parser = parse_count)]
    pub subscribers: NonZeroU32,
    /// What is sent.
    #[command(flatten)]
    pub traffic: TrafficArgs,
    /// How to connect, and what to tell.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// `flotilla bench fan-in`.
#[derive(Debug, Clone, Args)]
pub struct FanInArgs {
    /// How many publishers.
    #[arg(long, value_name = "COUNT", default_value = "1000", value_parser = parse_count)]
    pub publishers: NonZeroU32,
    /// What is sent.
    #[command(flatten)]
    pub traffic: TrafficArgs,
    /// How to connect, and what to tell.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// `flotilla bench shared`.
#[derive(Debug, Clone, Args)]
pub struct SharedArgs {
    /// How many publishers.
    #[arg(long, value_name = "COUNT", default_value = "1000", value_parser = parse_count)]
    pub publishers: NonZeroU32,
    /// How many members the group has.
    #[arg(long, value_name = "COUNT", default_value = "8", value_parser = parse_count)]
    pub members: NonZeroU32,
    /// What is sent.
    #[command(flatten)]
    pub traffic: TrafficArgs,
    /// How to connect, and what to tell.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// `flotilla bench wildcard`.
#[derive(Debug, Clone, Args)]
pub struct WildcardArgs {
    /// How many filters.
    #[arg(long, value_name = "COUNT", default_value = "100000", value_parser = parse_count)]
    pub filters: NonZeroU32,
    /// How many connections hold them.
    #[arg(long, value_name = "COUNT", default_value = "100", value_parser = parse_count)]
    pub subscribers: NonZeroU32,
    /// How many publishers.
    #[arg(long, value_name = "COUNT", default_value = "10", value_parser = parse_count)]
    pub publishers: NonZeroU32,
    /// What is sent.
    #[command(flatten)]
    pub traffic: TrafficArgs,
    /// How to connect, and what to tell.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// `flotilla bench retained`.
#[derive(Debug, Clone, Args)]
pub struct RetainedArgs {
    /// How many messages, each on a topic of its own. They are removed at the end.
    #[arg(long, value_name = "COUNT", default_value = "10000", value_parser = parse_count)]
    pub messages: NonZeroU32,
    /// How many publishers set them.
    #[arg(long, value_name = "COUNT", default_value = "4", value_parser = parse_count)]
    pub publishers: NonZeroU32,
    /// How many subscribers get them, each all.
    #[arg(long, value_name = "COUNT", default_value = "10", value_parser = parse_count)]
    pub subscribers: NonZeroU32,
    /// How messages are acknowledged.
    #[command(flatten)]
    pub stored: StoredArgs,
    /// How to connect, and what to tell.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// `flotilla bench offline`.
#[derive(Debug, Clone, Args)]
pub struct OfflineArgs {
    /// How many sessions. They are removed at the end.
    #[arg(long, value_name = "COUNT", default_value = "1000", value_parser = parse_count)]
    pub sessions: NonZeroU32,
    /// How many messages are queued for each session.
    #[arg(long, value_name = "COUNT", default_value = "100", value_parser = parse_count)]
    pub messages: NonZeroU32,
    /// How many publishers.
    #[arg(long, value_name = "COUNT", default_value = "4", value_parser = parse_count)]
    pub publishers: NonZeroU32,
    /// How messages are acknowledged.
    #[command(flatten)]
    pub stored: StoredArgs,
    /// How to connect, and what to tell.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// What is sent where the broker stores it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Traffic")]
pub struct StoredArgs {
    /// Quality of Service of the messages and of the subscriptions: 1 or 2.
    #[arg(short, long, value_name = "1|2", default_value = "1", value_parser = parse_stored_qos)]
    pub qos: QoS,
    /// Bytes of each payload; the first 20 say when and by whom it was sent.
    #[arg(short = 's', long, value_name = "BYTES", default_value = "256", value_parser = parse_payload_size)]
    pub payload_size: u32,
    /// Messages that a publisher may have unacknowledged. An MQTT 5.0 broker's Receive Maximum may be lower, and wins.
    #[arg(short, long, value_name = "COUNT", default_value_t = 20)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    pub window: u16,
}

/// What is sent.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Traffic")]
pub struct TrafficArgs {
    /// Quality of Service of the messages: 0, 1 or 2.
    #[arg(short, long, value_name = "0|1|2", default_value = "0", value_parser = parse_qos)]
    pub qos: QoS,
    /// Quality of Service of the subscriptions; without it, that of the messages.
    #[arg(long, value_name = "0|1|2", value_parser = parse_qos)]
    pub subscribe_qos: Option<QoS>,
    /// Bytes of each payload; the first 20 say when and by whom it was sent.
    #[arg(short = 's', long, value_name = "BYTES", default_value = "256", value_parser = parse_payload_size)]
    pub payload_size: u32,
    /// Messages per second of all publishers together, at fixed times. Latency counts from the time at which a message was due,
    /// also when it could not be sent then. Without it, as many as --window lets through.
    #[arg(short, long, value_name = "PER_SECOND", value_parser = parse_rate)]
    pub rate: Option<f64>,
    /// Without --rate: messages that a publisher may have under way, sent and not yet with every subscriber; 0 sets no limit.
    #[arg(short, long, value_name = "COUNT", default_value_t = 64)]
    pub window: u32,
    /// Messages of QoS 1 and 2 that a publisher may have unacknowledged. An MQTT 5.0 broker's Receive Maximum may be lower, and
    /// wins. Without it, 1,000; in MQTT 3.1.1, where brokers cannot say what they take, 100.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    pub ack_window: Option<u16>,
    /// How long to measure.
    #[arg(short, long, value_name = "SECONDS", default_value = "5", value_parser = parse_seconds)]
    pub time: Duration,
    /// How long to send before that.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = parse_seconds)]
    pub warm_up: Duration,
}

/// How to connect, and what to tell.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connections")]
pub struct CommonArgs {
    /// The brokers; connections take them in turn.
    #[arg(
        short,
        long,
        value_name = "HOST[:PORT],...",
        value_delimiter = ',',
        default_value = "127.0.0.1:1883"
    )]
    pub broker: Vec<String>,
    /// Where publishers connect, when not at --broker. With --subscribe-at: traffic between nodes of a cluster.
    #[arg(long, value_name = "HOST[:PORT],...", value_delimiter = ',')]
    pub publish_to: Vec<String>,
    /// Where everybody else connects, when not at --broker.
    #[arg(long, value_name = "HOST[:PORT],...", value_delimiter = ',')]
    pub subscribe_at: Vec<String>,
    /// MQTT 3.1.1 or 5.0.
    #[arg(short = 'V', long, value_name = "311|5", default_value = "5", value_parser = parse_version)]
    pub protocol_version: ProtocolVersion,
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
    /// Keep Alive: the longest silence before a ping; 0 turns it off.
    #[arg(short, long, value_name = "SECONDS", default_value_t = 60)]
    pub keepalive: u16,
    /// Connections per second; without it, as fast as they succeed.
    #[arg(long, value_name = "PER_SECOND", value_parser = parse_rate)]
    pub connect_rate: Option<f64>,
    /// Connections that may be in progress at a time.
    #[arg(long, value_name = "COUNT", default_value = "64", value_parser = parse_count)]
    pub connecting_max: NonZeroU32,
    /// Give up a client whose connection or subscription has not been answered after this time.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = parse_seconds)]
    pub connect_timeout: Duration,
    /// What client identifiers begin with; without it, something that no other run has.
    #[arg(long, value_name = "TEXT")]
    pub client_id_prefix: Option<String>,
    /// What topics begin with; without it, something that no other run has.
    #[arg(long, value_name = "TEXT")]
    pub topic_prefix: Option<String>,
    /// Addresses of this machine to connect from, in turn, such as `10.0.0.7,10.0.1.1-10.0.1.50`: each has ports for some 28,000
    /// connections to a broker. Without it, the system chooses; on Linux, addresses of 127.0.0.0/8 are used in turn for brokers on
    /// 127.0.0.1.
    #[arg(long, value_name = "ADDRESS[-ADDRESS],...", value_parser = parse_addresses)]
    pub local_addresses: Option<std::sync::Arc<[IpAddr]>>,
    /// Threads to send and receive with.
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    #[arg(help_heading = "Measuring")]
    pub threads: u16,
    /// Processes of the brokers, on this machine: tells what CPU time and memory they use (Linux).
    #[arg(long, value_name = "PID,...", value_delimiter = ',', help_heading = "Measuring")]
    pub broker_pid: Vec<NonZeroU32>,
    /// Print one JSON document in place of the table.
    #[arg(long, help_heading = "Measuring")]
    pub json: bool,
    /// Draw latency by percentile into this SVG file.
    #[arg(long, value_name = "FILE", help_heading = "Measuring")]
    pub plot: Option<PathBuf>,
}

impl Scenario {
    /// The name on the command line.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Connections(_) => "connections",
            Self::Pairs(_) => "pairs",
            Self::FanOut(_) => "fan-out",
            Self::FanIn(_) => "fan-in",
            Self::Shared(_) => "shared",
            Self::Wildcard(_) => "wildcard",
            Self::Retained(_) => "retained",
            Self::Offline(_) => "offline",
        }
    }

    pub(super) const fn common(&self) -> &CommonArgs {
        match self {
            Self::Connections(args) => &args.common,
            Self::Pairs(args) => &args.common,
            Self::FanOut(args) => &args.common,
            Self::FanIn(args) => &args.common,
            Self::Shared(args) => &args.common,
            Self::Wildcard(args) => &args.common,
            Self::Retained(args) => &args.common,
            Self::Offline(args) => &args.common,
        }
    }
}

fn parse_version(text: &str) -> Result<ProtocolVersion, String> {
    match text {
        "311" | "3.1.1" => Ok(ProtocolVersion::V311),
        "5" | "5.0" => Ok(ProtocolVersion::V5),
        _ => Err("a version is 311 or 5".to_owned()),
    }
}

fn parse_stored_qos(text: &str) -> Result<QoS, String> {
    parse_qos(text)
        .ok()
        .filter(|qos| *qos != QoS::AtMostOnce)
        .ok_or_else(|| "a QoS that is acknowledged is 1 or 2".to_owned())
}

fn parse_count(text: &str) -> Result<NonZeroU32, String> {
    let count = text.parse().ok().filter(|count: &NonZeroU32| count.get() <= COUNT_MAX);
    count.ok_or_else(|| format!("a number from 1 to {COUNT_MAX}"))
}

fn parse_payload_size(text: &str) -> Result<u32, String> {
    let size = text.parse().ok().filter(|size| (PAYLOAD_MIN..=PAYLOAD_MAX).contains(size));
    size.ok_or_else(|| format!("a number of bytes from {PAYLOAD_MIN} to {PAYLOAD_MAX}"))
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (RATE_MIN..=RATE_MAX).contains(rate));
    rate.ok_or_else(|| format!("a number per second from {RATE_MIN} to {RATE_MAX}"))
}

/// More clients, filters or messages than one machine can serve.
const COUNT_MAX: u32 = 100_000_000;
const PAYLOAD_MIN: u32 = 20;
const _: () = assert!(PAYLOAD_MIN as usize == Stamp::LEN);
const PAYLOAD_MAX: u32 = 16 * 1024 * 1024;
const RATE_MIN: f64 = 0.001;
const RATE_MAX: f64 = 1e8;

const EXIT_CODES: &str = "\
Exit codes:
    0  done, and everything that was asked for happened
    1  something did not: standard error says what, and the figures are printed all the same
    2  the command line makes no sense

Ctrl-C ends the run early: the clients disconnect, and what was measured so far is printed.";

const TRAFFIC_HELP: &str = "\
What fails a run: a client that could not connect or subscribe, or was disconnected; a message that was refused; a --rate that was not
reached; at QoS 1 and 2 a message that was lost; at QoS 0 and 2 one that came twice; one that came after a later one of its publisher
(shared: is told, for groups have no order). At QoS 0 brokers may drop messages for subscribers that are slow: these are told, too, and
fail nothing. QoS here is the lower one of message and subscription.

Exit codes:
    0  done, and everything that was asked for happened
    1  something did not: standard error says what, and the figures are printed all the same
    2  the command line makes no sense

Ctrl-C ends the run early: the clients disconnect, and what was measured so far is printed.";
