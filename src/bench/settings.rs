//! What all clients of a run have in common, checked.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    time::Duration,
};

use flotilla_mqtt::{ProtocolVersion, QoS};

use super::{
    args::{CommonArgs, Scenario, StoredArgs, TrafficArgs},
    error::BenchError,
    local::LocalAddresses,
};
use crate::client::{check_topic, resolve_password};

/// How clients connect, and what they send.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) brokers: Brokers,
    pub(super) version: ProtocolVersion,
    pub(super) username: Option<String>,
    pub(super) password: Option<Vec<u8>>,
    pub(super) keep_alive: u16,
    pub(super) threads: usize,
    /// Per second, of all threads.
    pub(super) connect_rate: Option<f64>,
    /// At a time, of all threads.
    pub(super) connecting_max: u32,
    pub(super) connect_timeout: Duration,
    pub(super) client_id_prefix: String,
    pub(super) topic_prefix: String,
    pub(super) local_addresses: LocalAddresses,
    pub(super) traffic: Traffic,
}

/// What is sent.
#[derive(Debug, Clone)]
pub(super) struct Traffic {
    pub(super) qos: QoS,
    pub(super) subscribe_qos: QoS,
    pub(super) payload_len: usize,
    /// Per second, of all publishers.
    pub(super) rate: Option<f64>,
    /// Without a rate: messages that a publisher may have under way; `None`: any number.
    pub(super) window: Option<u32>,
    /// Messages that a publisher may have unacknowledged.
    pub(super) ack_window: u16,
    pub(super) time: Duration,
    pub(super) warm_up: Duration,
}

/// Where who connects.
#[derive(Debug, Clone)]
pub(super) struct Brokers {
    pub(super) publishers: Vec<SocketAddr>,
    pub(super) subscribers: Vec<SocketAddr>,
}

impl Settings {
    /// Checks what clap cannot, finds the brokers and reads the password.
    ///
    /// # Errors
    /// The arguments make no sense, a broker has no address, or the password cannot be read.
    pub(super) fn resolve(scenario: &Scenario) -> Result<Self, BenchError> {
        let common = scenario.common();
        let unique = format!("bench-{}", std::process::id());
        let topic_prefix = common.topic_prefix.clone().unwrap_or_else(|| unique.clone());
        check_topic("--topic-prefix", &topic_prefix)?;
        let client_id_prefix = common.client_id_prefix.clone().unwrap_or(unique);
        check_client_id_prefix(&client_id_prefix)?;
        if common.password.is_some() && common.username.is_none() && !common.protocol_version.is_v5() {
            return Err(BenchError::Usage("a password needs --username in MQTT 3.1.1".to_owned()));
        }
        let password = common.password.as_deref();
        let password =
            resolve_password(password, common.password_file.as_deref(), common.username.is_some())?;
        Ok(Self {
            brokers: Brokers::resolve(common)?,
            version: common.protocol_version,
            username: common.username.clone(),
            password,
            keep_alive: common.keepalive,
            threads: common.threads.into(),
            connect_rate: common.connect_rate,
            connecting_max: common.connecting_max.get(),
            connect_timeout: common.connect_timeout,
            client_id_prefix,
            topic_prefix,
            local_addresses: LocalAddresses::new(common.local_addresses.clone(), std::process::id()),
            traffic: Traffic::of(scenario),
        })
    }
}

impl Traffic {
    fn of(scenario: &Scenario) -> Self {
        let version = scenario.common().protocol_version;
        match scenario {
            Scenario::Connections(args) => Self { time: args.time, ..Self::stored(&StoredArgs::NONE) },
            Scenario::Pairs(args) => Self::flowing(&args.traffic, version),
            Scenario::FanOut(args) => Self::flowing(&args.traffic, version),
            Scenario::FanIn(args) => Self::flowing(&args.traffic, version),
            Scenario::Shared(args) => Self::flowing(&args.traffic, version),
            Scenario::Wildcard(args) => Self::flowing(&args.traffic, version),
            Scenario::Retained(args) => Self::stored(&args.stored),
            Scenario::Offline(args) => Self::stored(&args.stored),
        }
    }

    fn flowing(args: &TrafficArgs, version: ProtocolVersion) -> Self {
        Self {
            qos: args.qos,
            subscribe_qos: args.subscribe_qos.unwrap_or(args.qos),
            payload_len: args.payload_size as usize,
            rate: args.rate,
            window: (args.window > 0).then_some(args.window),
            ack_window: args.ack_window.unwrap_or(if version.is_v5() { 1_000 } else { 100 }),
            time: args.time,
            warm_up: args.warm_up,
        }
    }

    fn stored(args: &StoredArgs) -> Self {
        Self {
            qos: args.qos,
            subscribe_qos: args.qos,
            payload_len: args.payload_size as usize,
            rate: None,
            window: None,
            ack_window: args.window,
            time: Duration::ZERO,
            warm_up: Duration::ZERO,
        }
    }

    /// At which QoS messages arrive.
    pub(super) fn effective_qos(&self) -> QoS {
        self.qos.min(self.subscribe_qos)
    }
}

impl StoredArgs {
    /// Of clients that send nothing.
    const NONE: Self = Self { qos: QoS::AtMostOnce, payload_size: 20, window: 1 };
}

impl Brokers {
    fn resolve(args: &CommonArgs) -> Result<Self, BenchError> {
        let own = |own: &[String]| addresses(if own.is_empty() { &args.broker } else { own });
        Ok(Self { publishers: own(&args.publish_to)?, subscribers: own(&args.subscribe_at)? })
    }
}

fn addresses(names: &[String]) -> Result<Vec<SocketAddr>, BenchError> {
    names.iter().map(|name| address(name)).collect()
}

fn address(name: &str) -> Result<SocketAddr, BenchError> {
    let is_bare_v6 = name.parse::<std::net::Ipv6Addr>().is_ok();
    let found = if is_bare_v6 || !has_port(name) {
        let host = name.trim_start_matches('[').trim_end_matches(']');
        (host, DEFAULT_PORT).to_socket_addrs()
    } else {
        name.to_socket_addrs()
    };
    let first = found.map(|mut addresses| addresses.next());
    match first {
        Ok(Some(address)) => Ok(address),
        Ok(None) => Err(BenchError::Usage(format!("the host of {name} has no address"))),
        Err(error) => {
            Err(BenchError::Usage(format!("{name} is no broker's address: {error}: is it spelled right?")))
        }
    }
}

fn has_port(name: &str) -> bool {
    name.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'))
}

fn check_client_id_prefix(prefix: &str) -> Result<(), BenchError> {
    // Some room for what tells the clients apart.
    if prefix.contains('\0') || prefix.len() > CLIENT_ID_PREFIX_MAX {
        return Err(BenchError::Usage(format!(
            "--client-id-prefix: no null characters, and at most {CLIENT_ID_PREFIX_MAX} bytes"
        )));
    }
    Ok(())
}

const DEFAULT_PORT: u16 = 1883;
const CLIENT_ID_PREFIX_MAX: usize = 65_000;

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Settings with topics below `t`.
    pub(in crate::bench) fn settings() -> Settings {
        let broker = vec![SocketAddr::from(([127, 0, 0, 1], DEFAULT_PORT))];
        Settings {
            brokers: Brokers { publishers: broker.clone(), subscribers: broker },
            version: ProtocolVersion::V5,
            username: None,
            password: None,
            keep_alive: 60,
            threads: 1,
            connect_rate: None,
            connecting_max: 64,
            connect_timeout: Duration::from_secs(10),
            client_id_prefix: "c".to_owned(),
            topic_prefix: "t".to_owned(),
            local_addresses: LocalAddresses::new(None, 0),
            traffic: Traffic { window: Some(4), ..Traffic::stored(&StoredArgs::NONE) },
        }
    }

    fn check(name: &str, expected: Option<&str>) {
        assert_eq!(address(name).ok().map(|address| address.to_string()).as_deref(), expected, "{name}");
    }

    #[test]
    fn a_port_may_be_left_out() {
        check("127.0.0.1", Some("127.0.0.1:1883"));
        check("127.0.0.1:99", Some("127.0.0.1:99"));
        check("::1", Some("[::1]:1883"));
        check("[::1]", Some("[::1]:1883"));
        check("[::1]:99", Some("[::1]:99"));
        check("127.0.0.1:65536", None);
        check("", None);
    }
}
