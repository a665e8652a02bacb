//! What stands above the table: without it, no figure means anything.

use std::time::{Duration, SystemTime};

use crate::{
    description::Description, disturbance::Tolerance, figure::grouped, machine, place::Place,
    scenario::CONNECTIONS,
};

/// How it was measured.
#[derive(Debug)]
pub(crate) struct Conditions<'a> {
    pub(crate) rounds: u32,
    pub(crate) time: Duration,
    pub(crate) tolerance: Tolerance,
    /// Idle connections that were asked for.
    pub(crate) connections: u64,
    pub(crate) place: &'a Place,
}

/// Machine, brokers and their settings.
pub(crate) fn render(brokers: &[Description], conditions: &Conditions<'_>) -> String {
    let date = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let date = date.split('T').next().unwrap_or_default().to_owned();
    let Conditions { rounds, time, tolerance, connections, place } = conditions;
    let reference = brokers.first().map_or("", |broker| broker.name.as_str());
    let rounds = if *rounds == 1 { "one round".to_owned() } else { format!("the median of {rounds} rounds") };
    let mut text = format!(
        "Measured by `scripts/compare` on {date}: {}. Brokers and load share it and talk over loopback{}. The load is \
         `flotilla bench` in one thread: MQTT 3.1.1, payloads of 256 bytes. Each figure is {rounds}, with {} s of measuring in \
         a run, a fresh broker for each, brokers in turn. In parentheses: how many times the figure of {reference}, or of the \
         first broker that takes part. Of messages, connects and subscribes per second more is better, of everything else less. \
         A run during which other work used more than {:.0} % of the machine is repeated, up to {} times, and noted if that \
         does not help. Names in braces are filled in for each run.\n",
        machine::describe(),
        if machine::is_network_own() { " in a network namespace of their own" } else { "" },
        time.as_secs_f64(),
        100.0 * tolerance.other_max,
        tolerance.repeats,
    );
    if *connections < CONNECTIONS {
        text += &format!(
            "\nThe limit of open files is {}: idle connections are fewer than {}.\n",
            grouped(place.files),
            grouped(CONNECTIONS),
        );
    }
    text += "\n";
    for broker in brokers {
        let version = place.version(broker);
        text += &format!(
            "- {}: {}; {}\n",
            broker.name,
            version.as_deref().unwrap_or("version unknown"),
            settings(broker, brokers)
        );
    }
    text
}

/// Its configuration, or what is different from that of the broker it is a variant of.
fn settings(broker: &Description, brokers: &[Description]) -> String {
    let base = broker.base.as_ref().and_then(|base| brokers.iter().find(|other| other.name == *base));
    let base = base.filter(|base| base.files == broker.files && broker.start.starts_with(&base.start));
    let nodes = if broker.nodes > 1 { format!("{} nodes; ", broker.nodes) } else { String::new() };
    if let Some(base) = base {
        let arguments = broker.start[base.start.len()..].join(" ");
        return format!("{nodes}as {} with `{arguments}`", base.name);
    }
    let mut parts: Vec<_> = broker.files.values().map(|text| one_line(text)).collect();
    parts.insert(0, broker.start.join(" "));
    let parts: Vec<_> = parts.iter().map(|part| format!("`{part}`")).collect();
    nodes + &parts.join(": ")
}

/// A configuration without its comments and line ends.
fn one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut joined = String::new();
    for line in lines {
        // A bracket separates already.
        let separator = if joined.is_empty() {
            ""
        } else if joined.ends_with('{') || line.starts_with('}') {
            " "
        } else {
            "; "
        };
        joined += separator;
        joined += line;
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::description::{choose, parse};

    #[test]
    fn a_configuration_fits_a_line() {
        assert_eq!(one_line("\n# no\na = 1\n\nlisten {\n  b\n  c\n}\n"), "a = 1; listen { b; c }");
    }

    #[test]
    fn a_variant_shows_its_difference() {
        let brokers = parse(crate::DESCRIPTIONS).unwrap();
        let variant = choose(&brokers, &["flotilla-interval".to_owned()]).unwrap();
        assert_eq!(settings(&variant[0], &brokers), "as flotilla with `--set durability.sync=interval`");
        assert!(settings(&variant[0], &variant).contains("node.data_dir"), "its base is not shown");
    }

    #[test]
    fn machine_settings_and_limits_are_said() {
        let brokers = parse("[[broker]]\nname='a'\nstart=['a', '-p', '{{port}}']\nfiles={b='x y'}").unwrap();
        let place = Place { flotilla: "f".into(), scratch: "s".into(), files: 1_024 };
        let (time, tolerance) = (Duration::from_secs(5), Tolerance { other_max: 0.1, repeats: 2 });
        let conditions = Conditions { rounds: 3, time, tolerance, connections: 24, place: &place };
        let text = render(&brokers, &conditions);
        for part in [
            "core",
            "the median of 3 rounds, with 5 s",
            "more than 10 % of the machine",
            "The limit of open files is 1,024: idle connections are fewer than 17,000.",
            "- a: version unknown; `a -p {{port}}`: `x y`\n",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }
}
