//! How a broker is started: `brokers.toml`, read and checked.

use std::{
    collections::BTreeMap,
    path::{Component, Path},
};

use serde::Deserialize;

use crate::{
    error::SetupError,
    glob::{any_fits, fits},
    scenario::Scenario,
};

/// One broker, ready to be filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Description {
    pub(crate) name: String,
    /// The broker of which this is a variant.
    pub(crate) base: Option<String>,
    /// Program and arguments.
    pub(crate) start: Vec<String>,
    pub(crate) files: BTreeMap<String, String>,
    pub(crate) environment: BTreeMap<String, String>,
    /// Program and arguments; empty: it cannot be asked.
    pub(crate) version: Vec<String>,
    pub(crate) nodes: usize,
    only: Vec<String>,
    skip: Vec<String>,
}

impl Description {
    /// A broker of which nothing is known but its command.
    pub(crate) fn of_command(name: String, start: Vec<String>) -> Result<Self, SetupError> {
        let raw = RawDescription { name, start: Some(start), ..RawDescription::default() };
        raw.resolve(&[]).map_err(SetupError::Descriptions)
    }

    /// Whether it runs a scenario. One about several nodes is for clusters among `chosen`, and for what they are compared with.
    pub(crate) fn takes_part(&self, scenario: &Scenario, chosen: &[Self]) -> bool {
        let is_wanted = self.only.is_empty() || any_fits(&self.only, scenario.name);
        let is_base_of_cluster =
            || chosen.iter().any(|other| other.nodes > 1 && other.base.as_ref() == Some(&self.name));
        let suits = !scenario.is_clustered || self.nodes > 1 || is_base_of_cluster();
        is_wanted && suits && !any_fits(&self.skip, scenario.name)
    }
}

/// Reads descriptions, in their order.
///
/// # Errors
/// They make no sense; what, is said.
pub(crate) fn parse(text: &str) -> Result<Vec<Description>, SetupError> {
    let raw: RawDescriptions =
        toml::from_str(text).map_err(|error| SetupError::Descriptions(error.to_string()))?;
    let mut known = Vec::new();
    for raw in raw.broker {
        let description = raw.resolve(&known).map_err(SetupError::Descriptions)?;
        known.push(description);
    }
    Ok(known)
}

/// Those whose names fit, in the order of the patterns, each once.
///
/// # Errors
/// A pattern fits none.
pub(crate) fn choose(known: &[Description], patterns: &[String]) -> Result<Vec<Description>, SetupError> {
    let mut chosen: Vec<Description> = Vec::new();
    for pattern in patterns {
        let mut found = known.iter().filter(|broker| fits(pattern, &broker.name)).peekable();
        if found.peek().is_none() {
            return Err(SetupError::Unknown { kind: "broker", pattern: pattern.clone() });
        }
        for broker in found {
            if !chosen.contains(broker) {
                chosen.push(broker.clone());
            }
        }
    }
    Ok(chosen)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDescriptions {
    #[serde(default)]
    broker: Vec<RawDescription>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDescription {
    name: String,
    base: Option<String>,
    start: Option<Vec<String>>,
    #[serde(default)]
    arguments: Vec<String>,
    files: Option<BTreeMap<String, String>>,
    environment: Option<BTreeMap<String, String>>,
    version: Option<Vec<String>>,
    nodes: Option<usize>,
    /// Not taken from the base: a variant is there for what its base does not show.
    #[serde(default)]
    only: Vec<String>,
    skip: Option<Vec<String>>,
}

impl RawDescription {
    /// `known`: those before it, of which one may be its base, so that bases have an end.
    fn resolve(self, known: &[Description]) -> Result<Description, String> {
        let name = self.name;
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if name.is_empty() || !name.chars().all(is_name) {
            return Err(format!("a name has letters, digits, \".\", \"-\" and \"_\", not {name:?}"));
        }
        if known.iter().any(|other| other.name == name) {
            return Err(format!("there are two brokers {name}"));
        }
        let base = match &self.base {
            Some(base) => {
                let found = known.iter().find(|other| other.name == *base);
                Some(found.ok_or_else(|| format!("{name}: no broker {base} is before it"))?.clone())
            }
            None => None,
        };
        let base = base.as_ref();
        let mut start = self.start.or_else(|| base.map(|base| base.start.clone())).unwrap_or_default();
        if start.is_empty() {
            return Err(format!("{name}: `start` is missing"));
        }
        start.extend(self.arguments);
        let files = self.files.or_else(|| base.map(|base| base.files.clone())).unwrap_or_default();
        if let Some(file) = files.keys().find(|file| !is_file_name(file)) {
            return Err(format!("{name}: {file:?} is no name of a file in its directory"));
        }
        let nodes = self.nodes.or(base.map(|base| base.nodes)).unwrap_or(1);
        if !(1..=NODES_MAX).contains(&nodes) {
            return Err(format!("{name}: nodes are 1 to {NODES_MAX}, not {nodes}"));
        }
        Ok(Description {
            name,
            base: self.base,
            start,
            files,
            environment: self
                .environment
                .or_else(|| base.map(|base| base.environment.clone()))
                .unwrap_or_default(),
            version: self.version.or_else(|| base.map(|base| base.version.clone())).unwrap_or_default(),
            nodes,
            only: self.only,
            skip: self.skip.or_else(|| base.map(|base| base.skip.clone())).unwrap_or_default(),
        })
    }
}

fn is_file_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
}

const NODES_MAX: usize = 9;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::SCENARIOS;

    fn shipped() -> Vec<Description> {
        parse(crate::DESCRIPTIONS).unwrap()
    }

    fn scenario(name: &str) -> &'static Scenario {
        SCENARIOS.iter().find(|scenario| scenario.name == name).unwrap()
    }

    #[test]
    fn variants_are_their_base_with_a_difference() {
        let brokers = shipped();
        let find = |name: &str| brokers.iter().find(|broker| broker.name == name).unwrap();
        let (base, variant) = (find("flotilla"), find("flotilla-interval"));
        assert_eq!(variant.files, base.files);
        assert!(variant.start.starts_with(&base.start));
        assert_eq!(variant.start[base.start.len()..], ["--set", "durability.sync=interval"]);
        assert_eq!((base.nodes, find("flotilla-3").nodes), (1, 3));
    }

    #[test]
    fn who_takes_part_in_what() {
        let brokers = shipped();
        let names = |scenario_name| -> Vec<&str> {
            let takes_part = |broker: &&Description| broker.takes_part(scenario(scenario_name), &brokers);
            brokers.iter().filter(takes_part).map(|broker| broker.name.as_str()).collect()
        };
        assert_eq!(names("pairs-w64-q0"), ["mosquitto", "flashmq", "flotilla"]);
        assert_eq!(names("offline-q1"), ["mosquitto", "flashmq", "flotilla", "flotilla-interval"]);
        assert_eq!(names("cross-node-q1"), ["flotilla", "flotilla-3"]);
        let alone = choose(&brokers, &["flotilla".to_owned()]).unwrap();
        assert!(!alone[0].takes_part(scenario("cross-node-q1"), &alone));
        let picky = parse("[[broker]]\nname='a'\nstart=['a']\nskip=['pairs-*']").unwrap();
        assert!(
            !picky[0].takes_part(scenario("pairs-w1-q0"), &[]) && picky[0].takes_part(scenario("idle"), &[])
        );
    }

    #[test]
    fn brokers_are_chosen_in_the_order_of_their_patterns() {
        let choose = |patterns: &[&str]| {
            let patterns: Vec<_> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
            let chosen = choose(&shipped(), &patterns);
            chosen.map(|chosen| chosen.into_iter().map(|broker| broker.name).collect::<Vec<_>>())
        };
        assert_eq!(
            choose(&["flotilla*", "m*"]).unwrap(),
            ["flotilla", "flotilla-interval", "flotilla-3", "mosquitto"]
        );
        assert_eq!(choose(&["flashmq", "f*q"]).unwrap(), ["flashmq"]);
        assert!(matches!(choose(&["emq"]), Err(SetupError::Unknown { kind: "broker", .. })));
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        let check = |text, expected: &str| {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check("[[broker]]\nname='a'", "a: `start` is missing");
        check("[[broker]]\nname='a/b'\nstart=['a']", "a name has letters");
        check("[[broker]]\nname='a'\nstart=['a']\n[[broker]]\nname='a'\nstart=['a']", "two brokers a");
        check("[[broker]]\nname='a'\nbase='b'", "no broker b is before it");
        check("[[broker]]\nname='a'\nstart=['a']\nnodes=10", "nodes are 1 to 9, not 10");
        check("[[broker]]\nname='a'\nstart=['a']\nfiles={'../x'=''}", "no name of a file");
        check("[[broker]]\nname='a'\nstat=['a']", "unknown field `stat`");
    }
}
