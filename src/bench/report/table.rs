//! A report for people.

use std::fmt;

use super::{CostsReport, Messages, Percentiles, Report, Stretch};

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_head(self, f)?;
        write_setup(self, f)?;
        write_traffic(self, f)?;
        for (title, stretch) in [("store", &self.store), ("fetch", &self.fetch)] {
            if let Some(stretch) = stretch {
                write_stretch(f, title, self.scenario, stretch)?;
            }
        }
        if let Some(messages) = &self.messages {
            write_messages(f, messages)?;
        }
        if self.interrupted {
            row(f, "", "interrupted: what was measured until then")?;
        }
        Ok(())
    }
}

fn write_head(report: &Report, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let settings = &report.settings;
    let counts: Vec<_> = settings
        .counts
        .iter()
        .map(|(name, count)| format!("{} {}", name.replace('_', " "), grouped(to_float(*count))))
        .collect();
    row(f, report.scenario, &format!("{}; MQTT {}", counts.join(", "), settings.mqtt_version))?;
    if report.traffic.is_none() {
        return Ok(());
    }
    let pace = match (settings.rate_per_second, settings.window) {
        (Some(rate), _) => format!("{}/s", grouped(rate)),
        (None, Some(window)) => format!("window {}", grouped(window.into())),
        (None, None) => "no window".to_owned(),
    };
    let qos = match (settings.qos, settings.subscribe_qos) {
        (qos, same) if qos == same => format!("QoS {qos}"),
        (qos, subscribe) => format!("QoS {qos} to {subscribe}"),
    };
    row(f, "", &format!("{qos}, {} B, {pace}", settings.payload_bytes))
}

fn write_setup(report: &Report, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let connections = &report.connections;
    let [rate, connected] = [connections.connects_per_second, to_float(connections.measured)].map(grouped);
    let cpu = each(connections.broker_cpu_us_per_connect, "connect");
    row(f, "connections", &format!("{connected} in {:.2} s, {rate}/s{cpu}", connections.seconds))?;
    write_latency(f, "connect latency", &connections.latency)?;
    if let Some(subscriptions) = &report.subscriptions {
        let [rate, count] =
            [subscriptions.subscribes_per_second, to_float(subscriptions.subscribed)].map(grouped);
        let cpu = each(subscriptions.broker_cpu_us_per_subscribe, "subscribe");
        row(f, "subscriptions", &format!("{count} in {:.2} s, {rate}/s{cpu}", subscriptions.seconds))?;
        if let Some(bytes) = subscriptions.broker_memory_bytes_per_subscription {
            row(f, "broker memory", &format!("{} B/subscription", grouped(bytes)))?;
        }
    }
    let Some(idle) = &report.idle else { return Ok(()) };
    if let (Some(bytes), Some(all)) = (idle.broker_memory_bytes_per_connection, idle.broker_memory_bytes) {
        row(f, "broker memory", &format!("{} B/connection, {} in all", grouped(bytes), size(to_float(all))))?;
    }
    let cores = idle.broker_cores.map_or_else(String::new, |cores| format!(", broker {cores:.3} cores"));
    row(f, "idle", &format!("{:.1} s{cores}", idle.seconds))
}

fn write_traffic(report: &Report, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Some(traffic) = &report.traffic else { return Ok(()) };
    let [received, sent] = [traffic.received_per_second, traffic.sent_per_second].map(grouped);
    row(f, "messages", &format!("{received}/s received, {sent}/s sent, over {:.2} s", traffic.seconds))?;
    write_latency(f, "latency", &traffic.delivery_latency)?;
    write_latency(f, "acknowledged after", &traffic.acknowledgement_latency)?;
    write_costs(f, &traffic.costs)
}

fn write_stretch(f: &mut fmt::Formatter<'_>, title: &str, scenario: &str, stretch: &Stretch) -> fmt::Result {
    let title = match (scenario, title) {
        ("offline", "store") => "queued",
        ("offline", _) => "drained",
        (_, "store") => "retained",
        _ => "sent to subscribers",
    };
    let [messages, rate] = [to_float(stretch.messages), stretch.messages_per_second].map(grouped);
    row(f, title, &format!("{messages} in {:.2} s, {rate}/s", stretch.seconds))?;
    write_latency(f, "  latency", &stretch.latency)?;
    write_costs(f, &stretch.costs)
}

fn write_costs(f: &mut fmt::Formatter<'_>, costs: &CostsReport) -> fmt::Result {
    let cpu = |micros: Option<f64>, cores: Option<f64>| {
        let micros = micros.map_or_else(|| "-".to_owned(), |micros| format!("{micros:.2}"));
        Some(format!("{micros} µs CPU/message, {:.2} cores", cores?))
    };
    if let Some(text) = cpu(costs.broker_cpu_us_per_message, costs.broker_cores) {
        let memory = costs.broker_memory_bytes.map_or_else(String::new, |all| {
            let growth = costs.broker_memory_growth_bytes.unwrap_or_default();
            format!(
                ", {} memory ({}{})",
                size(to_float(all)),
                sign(growth),
                size(to_float(growth.unsigned_abs()))
            )
        });
        row(f, "  broker", &format!("{text}{memory}"))?;
    }
    cpu(costs.own_cpu_us_per_message, costs.own_cores).map_or(Ok(()), |text| row(f, "  bench itself", &text))
}

fn write_messages(f: &mut fmt::Formatter<'_>, messages: &Messages) -> fmt::Result {
    let [lost, expected, duplicates, reordered] =
        [messages.lost, messages.expected, messages.duplicates, messages.reordered]
            .map(to_float)
            .map(grouped);
    row(f, "checked", &format!("{lost} of {expected} lost, {duplicates} duplicated, {reordered} reordered"))?;
    for (count, what) in [
        (messages.refused, "refused by the broker"),
        (messages.unacknowledged, "not acknowledged"),
        (messages.foreign, "received that this run has not sent"),
        (messages.written_off, "no longer waited for"),
    ] {
        if count > 0 {
            row(f, "", &format!("{} {what}", grouped(to_float(count))))?;
        }
    }
    Ok(())
}

fn write_latency(f: &mut fmt::Formatter<'_>, title: &str, latency: &Percentiles) -> fmt::Result {
    if latency.count == 0 {
        return Ok(());
    }
    let points = [
        ("p50", latency.p50_us),
        ("p90", latency.p90_us),
        ("p99", latency.p99_us),
        ("p99.9", latency.p99_9_us),
        ("p99.99", latency.p99_99_us),
        ("max", latency.max_us),
    ];
    let points = points.map(|(name, micros)| format!("{name} {}", span(micros)));
    row(f, title, &points.join("  "))
}

fn row(f: &mut fmt::Formatter<'_>, title: &str, text: &str) -> fmt::Result {
    writeln!(f, "{title:<TITLE_WIDTH$}{text}")
}

fn each(micros: Option<f64>, what: &str) -> String {
    micros.map_or_else(String::new, |micros| format!(", {micros:.1} µs broker CPU/{what}"))
}

/// A number, with its thousands set apart.
fn grouped(number: f64) -> String {
    let digits = if number.abs() < 10.0 && number.fract() != 0.0 {
        format!("{number:.1}")
    } else {
        format!("{number:.0}")
    };
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits.as_str()), |digits| ("-", digits));
    let whole = digits.find('.').unwrap_or(digits.len());
    let mut text = sign.to_owned();
    for (index, digit) in digits.char_indices() {
        if index > 0 && index < whole && (whole - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time span, in the unit that suits it.
pub(in crate::bench) fn span(micros: f64) -> String {
    match micros {
        _ if micros < 1_000.0 => format!("{micros:.0} µs"),
        _ if micros < 10_000.0 => format!("{:.2} ms", micros / 1e3),
        _ if micros < 1_000_000.0 => format!("{:.1} ms", micros / 1e3),
        _ => format!("{:.2} s", micros / 1e6),
    }
}

fn size(bytes: f64) -> String {
    match bytes {
        _ if bytes < 1e6 => format!("{:.0} kB", bytes / 1e3),
        _ if bytes < 1e9 => format!("{:.1} MB", bytes / 1e6),
        _ => format!("{:.2} GB", bytes / 1e9),
    }
}

const fn sign(growth: i64) -> &'static str {
    if growth < 0 { "-" } else { "+" }
}

#[expect(clippy::cast_precision_loss, reason = "a figure to read")]
fn to_float(number: u64) -> f64 {
    number as f64
}

const TITLE_WIDTH: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        let check = |number, expected| assert_eq!(grouped(number), expected);
        check(0.0, "0");
        check(7.25, "7.2");
        check(999.0, "999");
        check(1_000.0, "1,000");
        check(-1_234_567.4, "-1,234,567");
        assert_eq!([1.0, 1_500.0, 15_000.0, 2e6].map(span), ["1 µs", "1.50 ms", "15.0 ms", "2.00 s"]);
    }

    #[test]
    fn a_report_is_a_table() {
        let text = super::super::tests::report().to_string();
        for line in [
            "pairs               pairs 5; MQTT 5.0",
            "messages            990/s received, 500/s sent, over 2.00 s",
            "  broker            1515.92 µs CPU/message, 1.50 cores, 50.0 MB memory (-4 kB)",
            "checked             1 of 1,980 lost, 3 duplicated, 0 reordered",
            "                    10 refused by the broker",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
