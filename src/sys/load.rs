//! Moving averages, as Mosquitto has them.

use std::time::Duration;

use flotilla_mqtt::packet::PacketType;

use crate::metrics::Totals;

/// Averages per minute over the last one, five and fifteen minutes.
#[derive(Debug, Default)]
pub(super) struct Load {
    last: Option<(Duration, Totals)>,
    averages: [[f64; 3]; RATES.len()],
}

/// Picks one counter.
type CounterOf = fn(&Totals) -> u64;

/// The counters that are averaged, by their name below `$SYS/broker/load`.
const RATES: [(&str, CounterOf); 9] = [
    ("messages/received", |totals| totals.received.iter().sum()),
    ("messages/sent", |totals| totals.sent.iter().sum()),
    ("publish/dropped", super::tree::publish_dropped),
    ("publish/received", |totals| totals.received[PacketType::Publish as usize]),
    ("publish/sent", |totals| totals.sent[PacketType::Publish as usize]),
    ("bytes/received", |totals| totals.bytes_received),
    ("bytes/sent", |totals| totals.bytes_sent),
    ("sockets", |totals| totals.sockets_accepted),
    ("connections", |totals| totals.received[PacketType::Connect as usize]),
];

const PERIODS: [(&str, f64); 3] = [("1min", 60.0), ("5min", 300.0), ("15min", 900.0)];

impl Load {
    /// Takes the counters as they are after `uptime`.
    pub(super) fn update(&mut self, totals: &Totals, uptime: Duration) {
        let (last_uptime, last) = self.last.take().unwrap_or_default();
        let seconds = (uptime - last_uptime).as_secs_f64().max(0.001);
        for ((_, counter), averages) in RATES.iter().zip(&mut self.averages) {
            let per_minute = counter(totals).saturating_sub(counter(&last)) as f64 * 60.0 / seconds;
            for ((_, period), average) in PERIODS.iter().zip(averages) {
                let weight = (-seconds / period).exp();
                *average = *average * weight + per_minute * (1.0 - weight);
            }
        }
        self.last = Some((uptime, totals.clone()));
    }

    /// Topics below `$SYS/broker/load` and their values.
    pub(super) fn values(&self) -> impl Iterator<Item = (String, String)> + '_ {
        RATES.iter().zip(&self.averages).flat_map(|((name, _), averages)| {
            PERIODS
                .iter()
                .zip(averages)
                .map(move |((period, _), average)| (format!("{name}/{period}"), format!("{average:.2}")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publishes(count: u64) -> Totals {
        let mut totals = Totals::default();
        totals.received[PacketType::Publish as usize] = count;
        totals
    }

    fn value(load: &Load, name: &str) -> f64 {
        load.values().find(|(topic, _)| topic == name).expect("it is published").1.parse().expect("a number")
    }

    #[test]
    fn a_steady_rate_is_approached_from_below() {
        let mut load = Load::default();
        for minute in 1..=60 {
            load.update(&publishes(minute * 120), Duration::from_secs(minute * 60));
        }
        assert!((value(&load, "publish/received/1min") - 120.0).abs() < 0.01);
        let slow = value(&load, "publish/received/15min");
        assert!((110.0..120.0).contains(&slow), "{slow}");
    }

    #[test]
    fn silence_lets_it_fall() {
        let mut load = Load::default();
        load.update(&publishes(600), Duration::from_secs(60));
        let before = value(&load, "publish/received/1min");
        load.update(&publishes(600), Duration::from_secs(120));
        let after = value(&load, "publish/received/1min");
        assert!(before > 300.0 && after < before / 2.0, "{before} {after}");
    }
}
