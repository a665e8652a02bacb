//! What a run has found: numbers with their units in their names. As JSON it is what it is; `table` is for people.

mod table;

pub(super) use table::span;

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Serialize, Serializer};

use super::{process::Costs, settings::Settings, tally::Tally};

/// Everything about a run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) flotilla_version: &'static str,
    pub(super) scenario: &'static str,
    pub(super) settings: SettingsReport,
    /// Of all parts of the run.
    pub(super) connections: Connections,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) subscriptions: Option<Subscriptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) idle: Option<Idle>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) traffic: Option<TrafficReport>,
    /// `retained`: messages are set, then sent to new subscribers. `offline`: they are queued, then sent to those who come back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) store: Option<Stretch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fetch: Option<Stretch>,
    /// What became of all messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) messages: Option<Messages>,
    pub(super) interrupted: bool,
    /// What did not happen although it was asked for; empty: all is well.
    pub(super) faults: Vec<String>,
    /// What is worth knowing and fails nothing.
    pub(super) remarks: Vec<String>,
}

/// What was asked for.
#[derive(Debug, Serialize)]
pub(super) struct SettingsReport {
    pub(super) mqtt_version: &'static str,
    pub(super) publish_to: Vec<String>,
    pub(super) subscribe_at: Vec<String>,
    pub(super) threads: usize,
    pub(super) keepalive_seconds: u16,
    pub(super) qos: u8,
    pub(super) subscribe_qos: u8,
    pub(super) payload_bytes: usize,
    pub(super) rate_per_second: Option<f64>,
    pub(super) window: Option<u32>,
    pub(super) ack_window: u16,
    pub(super) time_seconds: f64,
    pub(super) warm_up_seconds: f64,
    /// Of the scenario: how many of what.
    #[serde(serialize_with = "as_map")]
    pub(super) counts: Vec<(&'static str, u64)>,
}

/// Connecting.
#[derive(Debug, Default, Serialize)]
pub(super) struct Connections {
    pub(super) asked: u64,
    pub(super) connected: u64,
    pub(super) failed: u64,
    pub(super) disconnected: u64,
    /// Those of the first part of the run, which the rest of this is about.
    pub(super) measured: u64,
    pub(super) seconds: f64,
    pub(super) connects_per_second: f64,
    pub(super) latency: Percentiles,
    pub(super) broker_cpu_us_per_connect: Option<f64>,
}

/// Subscribing.
#[derive(Debug, Serialize)]
pub(super) struct Subscriptions {
    pub(super) subscribed: u64,
    pub(super) refused: u64,
    pub(super) seconds: f64,
    pub(super) subscribes_per_second: f64,
    pub(super) broker_cpu_us_per_subscribe: Option<f64>,
    pub(super) broker_memory_bytes_per_subscription: Option<f64>,
}

/// Connections that nobody uses.
#[derive(Debug, Serialize)]
pub(super) struct Idle {
    pub(super) seconds: f64,
    pub(super) broker_cores: Option<f64>,
    pub(super) broker_memory_bytes: Option<u64>,
    /// What the brokers' memory has grown by since before the first connection, and that for each of them.
    pub(super) broker_memory_growth_bytes: Option<i64>,
    pub(super) broker_memory_bytes_per_connection: Option<f64>,
    pub(super) own_cores: Option<f64>,
}

/// Messages under way, over the measured time.
#[derive(Debug, Serialize)]
pub(super) struct TrafficReport {
    pub(super) seconds: f64,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) sent_per_second: f64,
    pub(super) received_per_second: f64,
    pub(super) acknowledged_per_second: f64,
    /// At a fixed rate: messages that were due and could not be sent.
    pub(super) unsent: u64,
    pub(super) delivery_latency: Percentiles,
    pub(super) acknowledgement_latency: Percentiles,
    #[serde(flatten)]
    pub(super) costs: CostsReport,
}

/// A number of messages that are sent, or received, as fast as it goes.
#[derive(Debug, Serialize)]
pub(super) struct Stretch {
    pub(super) messages: u64,
    pub(super) seconds: f64,
    pub(super) messages_per_second: f64,
    /// Storing: until a message is acknowledged. Fetching: from the SUBSCRIBE, or from the connect, until a message arrives.
    pub(super) latency: Percentiles,
    #[serde(flatten)]
    pub(super) costs: CostsReport,
}

/// CPU time and memory.
#[derive(Debug, Serialize)]
pub(super) struct CostsReport {
    pub(super) broker_cpu_us_per_message: Option<f64>,
    pub(super) broker_cores: Option<f64>,
    pub(super) broker_memory_bytes: Option<u64>,
    pub(super) broker_memory_growth_bytes: Option<i64>,
    pub(super) own_cpu_us_per_message: Option<f64>,
    pub(super) own_cores: Option<f64>,
}

/// What became of all messages, also of those that were not measured.
#[derive(Debug, Serialize)]
pub(super) struct Messages {
    pub(super) sent: u64,
    /// Acknowledged for good by the broker, refusals left out; nothing at QoS 0.
    pub(super) acknowledged: u64,
    pub(super) refused: u64,
    /// Sent and neither acknowledged nor refused; nothing at QoS 0.
    pub(super) unacknowledged: u64,
    /// How often messages should have arrived: those that were not refused, at each subscriber.
    pub(super) expected: u64,
    pub(super) received: u64,
    pub(super) lost: u64,
    pub(super) duplicates: u64,
    pub(super) reordered: u64,
    /// Messages that this run has not sent.
    pub(super) foreign: u64,
    /// Messages that a publisher's window stopped waiting for.
    pub(super) written_off: u64,
}

/// A distribution of time spans, in microseconds; all zero when there are none.
#[derive(Debug, Default, Serialize)]
pub(super) struct Percentiles {
    pub(super) count: u64,
    pub(super) mean_us: f64,
    pub(super) p50_us: f64,
    pub(super) p90_us: f64,
    pub(super) p99_us: f64,
    #[serde(rename = "p99.9_us")]
    pub(super) p99_9_us: f64,
    #[serde(rename = "p99.99_us")]
    pub(super) p99_99_us: f64,
    pub(super) max_us: f64,
}

impl SettingsReport {
    pub(super) fn of(settings: &Settings, counts: Vec<(&'static str, u64)>) -> Self {
        let traffic = &settings.traffic;
        let names = |brokers: &[std::net::SocketAddr]| brokers.iter().map(ToString::to_string).collect();
        Self {
            mqtt_version: if settings.version.is_v5() { "5.0" } else { "3.1.1" },
            publish_to: names(&settings.brokers.publishers),
            subscribe_at: names(&settings.brokers.subscribers),
            threads: settings.threads,
            keepalive_seconds: settings.keep_alive,
            qos: traffic.qos as u8,
            subscribe_qos: traffic.subscribe_qos as u8,
            payload_bytes: traffic.payload_len,
            rate_per_second: traffic.rate,
            window: traffic.window.filter(|_| traffic.rate.is_none()),
            ack_window: traffic.ack_window,
            time_seconds: traffic.time.as_secs_f64(),
            warm_up_seconds: traffic.warm_up.as_secs_f64(),
            counts,
        }
    }
}

impl Messages {
    /// `fan`: how often each message should have arrived.
    pub(super) fn of(sent: &Tally, received: &Tally, fan: u64, is_acknowledged: bool) -> Self {
        let (progress, refused) = (&sent.progress, sent.messages_refused);
        let expected = progress.sent.saturating_sub(refused) * fan;
        let done = progress.acknowledged;
        Self {
            sent: progress.sent,
            acknowledged: done.saturating_sub(refused),
            refused,
            unacknowledged: if is_acknowledged { progress.sent.saturating_sub(done) } else { 0 },
            expected,
            received: received.progress.received,
            lost: expected.saturating_sub(received.progress.received),
            duplicates: received.repeated,
            reordered: received.reordered,
            foreign: received.foreign,
            written_off: sent.written_off,
        }
    }
}

impl CostsReport {
    pub(super) fn of(costs: &Costs, messages: u64) -> Self {
        Self {
            broker_cpu_us_per_message: costs.broker_cpu.and_then(|cpu| micros_each(cpu, messages)),
            broker_cores: costs.broker_cpu.map(|cpu| cores(cpu, costs.time)),
            broker_memory_bytes: costs.broker_memory,
            broker_memory_growth_bytes: costs.broker_growth,
            own_cpu_us_per_message: costs.own_cpu.and_then(|cpu| micros_each(cpu, messages)),
            own_cores: costs.own_cpu.map(|cpu| cores(cpu, costs.time)),
        }
    }
}

impl Stretch {
    pub(super) fn of(messages: u64, time: Duration, latency: &Histogram<u64>, costs: &Costs) -> Self {
        Self {
            messages,
            seconds: seconds(time),
            messages_per_second: per_second(messages, time),
            latency: Percentiles::of(latency),
            costs: CostsReport::of(costs, messages),
        }
    }
}

impl Percentiles {
    pub(super) fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |quantile| round(nanos_to_micros(histogram.value_at_quantile(quantile)), 1);
        Self {
            count: histogram.len(),
            mean_us: round(histogram.mean() / 1e3, 1),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p99_9_us: at(0.999),
            p99_99_us: at(0.9999),
            max_us: round(nanos_to_micros(histogram.max()), 1),
        }
    }
}

fn as_map<S: Serializer>(counts: &[(&'static str, u64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(counts.iter().copied())
}

/// With as many decimals as mean something.
pub(super) fn seconds(time: Duration) -> f64 {
    round(time.as_secs_f64(), 3)
}

/// How many per second; none in no time.
#[expect(clippy::cast_precision_loss, reason = "a figure to read")]
pub(super) fn per_second(count: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { round(count as f64 / time.as_secs_f64(), 1) }
}

/// CPU microseconds for each of `count`.
#[expect(clippy::cast_precision_loss, reason = "a figure to read")]
pub(super) fn micros_each(cpu: Duration, count: u64) -> Option<f64> {
    (count > 0).then(|| round(cpu.as_secs_f64() * 1e6 / count as f64, 3))
}

/// How many cores were busy.
pub(super) fn cores(cpu: Duration, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { round(cpu.as_secs_f64() / time.as_secs_f64(), 3) }
}

/// Bytes for each of `count`.
#[expect(clippy::cast_precision_loss, reason = "a figure to read")]
pub(super) fn bytes_each(bytes: i64, count: u64) -> Option<f64> {
    (count > 0).then(|| round(bytes as f64 / count as f64, 1))
}

#[expect(clippy::cast_precision_loss, reason = "a figure to read")]
fn nanos_to_micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

fn round(value: f64, decimals: i32) -> f64 {
    let scale = 10_f64.powi(decimals);
    (value * scale).round() / scale
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A report with something in all its parts.
    pub(in crate::bench) fn report() -> Report {
        let mut histogram = Histogram::new_with_bounds(1_000, 3_600_000_000_000, 3).unwrap();
        (1..=10_000_u64).for_each(|latency| histogram.saturating_record(latency * 1_000));
        let costs = Costs {
            time: Duration::from_secs(2),
            own_cpu: Some(Duration::from_secs(1)),
            broker_cpu: Some(Duration::from_secs(3)),
            broker_growth: Some(-4_096),
            broker_memory: Some(50_000_000),
        };
        let (mut sent, mut received) = (Tally::new(), Tally::new());
        (sent.progress.sent, sent.progress.acknowledged, sent.messages_refused) = (1_000, 990, 10);
        (received.progress.received, received.repeated) = (1_979, 3);
        Report {
            flotilla_version: "0.0.0",
            scenario: "pairs",
            settings: SettingsReport::of(&crate::bench::settings::tests::settings(), vec![("pairs", 5)]),
            connections: Connections {
                asked: 10,
                connected: 10,
                latency: Percentiles::of(&histogram),
                ..Connections::default()
            },
            subscriptions: None,
            idle: None,
            traffic: Some(TrafficReport {
                seconds: 2.0,
                sent: 1_000,
                received: 1_979,
                sent_per_second: per_second(1_000, Duration::from_secs(2)),
                received_per_second: per_second(1_979, Duration::from_secs(2)),
                acknowledged_per_second: 490.0,
                unsent: 0,
                delivery_latency: Percentiles::of(&histogram),
                acknowledgement_latency: Percentiles::default(),
                costs: CostsReport::of(&costs, 1_979),
            }),
            store: None,
            fetch: Some(Stretch::of(1_000, Duration::from_millis(500), &histogram, &costs)),
            messages: Some(Messages::of(&sent, &received, 2, true)),
            interrupted: false,
            faults: vec!["something".to_owned()],
            remarks: Vec::new(),
        }
    }

    #[test]
    fn json_has_figures_with_their_units() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["settings"]["counts"]["pairs"], 5);
        assert_eq!(json["settings"]["mqtt_version"], "5.0");
        let traffic = &json["traffic"];
        assert_eq!(traffic["sent_per_second"], 500.0);
        assert_eq!((&traffic["own_cores"], &traffic["broker_cores"]), (&0.5.into(), &1.5.into()));
        assert_eq!(traffic["broker_cpu_us_per_message"], 1_515.917);
        assert_eq!(traffic["broker_memory_growth_bytes"], -4_096);
        assert_eq!(json["fetch"]["messages_per_second"], 2_000.0);
        assert!(json.get("store").is_none() && json.get("idle").is_none());
    }

    #[test]
    fn percentiles_are_those_of_the_histogram() {
        let json = serde_json::to_value(report()).unwrap();
        for (name, expected) in [
            ("p50_us", 5e3),
            ("p90_us", 9e3),
            ("p99_us", 9.9e3),
            ("p99.9_us", 9_990.0),
            ("p99.99_us", 9_999.0),
            ("max_us", 1e4),
        ] {
            let value = json["traffic"]["delivery_latency"][name].as_f64().unwrap();
            assert!((value / expected - 1.0).abs() < 2e-3, "{name}: {value}");
        }
        assert_eq!(json["traffic"]["acknowledgement_latency"]["count"], 0);
    }

    #[test]
    fn every_message_is_accounted_for() {
        let messages = report().messages.unwrap();
        assert_eq!((messages.acknowledged, messages.refused, messages.unacknowledged), (980, 10, 10));
        assert_eq!((messages.expected, messages.lost, messages.duplicates), (1_980, 1, 3));
    }
}
