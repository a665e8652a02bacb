//! What is wrong although each value for itself is right.

use std::collections::BTreeMap;

use super::{
    Role,
    raw::{RawCluster, RawConfig},
    value::OrNone,
};

impl RawConfig {
    /// Pairs of a path and a reason.
    pub(super) fn contradictions(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        self.check_listeners(&mut found);
        self.check_keep_alive(&mut found);
        self.check_membership(&mut found);
        self.cluster.check_addresses(&mut found);
        self.cluster.check_discovery(&mut found);
        if self.node.role == Role::Core && self.cluster.listen != OrNone::None {
            self.cluster.check_bootstrap(&mut found);
        }
        self.cluster.check_times(&mut found);
        found
    }

    fn check_listeners(&self, found: &mut Vec<(String, String)>) {
        let enabled = || self.listeners.iter().filter(|(_, listener)| listener.enabled);
        if enabled().next().is_none() {
            found.push(("listeners".to_owned(), "at least one must be enabled".to_owned()));
        }
        let mut taken = BTreeMap::new();
        for (name, listener) in enabled().filter(|(_, listener)| listener.bind.port() != 0) {
            // With SO_REUSEPORT the system would not object, and deal clients to the two at random.
            if let Some(other) = taken.insert(&listener.bind, name) {
                let reason = format!("{} is already the address of listeners.{other}", listener.bind);
                found.push((format!("listeners.{name}.bind"), reason));
            }
        }
        let OrNone::Is(listen) = &self.cluster.listen else { return };
        if let Some((_, name)) = taken.iter().find(|(bind, _)| bind.to_string() == listen.to_string()) {
            found.push((LISTEN.to_owned(), format!("{listen} is already the address of listeners.{name}")));
        }
    }

    fn check_keep_alive(&self, found: &mut Vec<(String, String)>) {
        let server: Option<u16> = self.mqtt.server_keepalive.into_option().map(|seconds| seconds.narrow());
        let max: Option<u16> = self.mqtt.max_keepalive.into_option().map(|seconds| seconds.narrow());
        if let (Some(server), Some(max)) = (server, max)
            && (server == 0 || server > max)
        {
            let reason = format!("{server}s is not within mqtt.max_keepalive, which is {max}s");
            found.push(("mqtt.server_keepalive".to_owned(), reason));
        }
    }

    /// A node without `cluster.listen` is a cluster of one, whatever else the file hopes for.
    fn check_membership(&self, found: &mut Vec<(String, String)>) {
        let edge = self.node.role == Role::Edge;
        let mut need = |path: &str, what: &str| found.push((path.to_owned(), format!("needs {what}")));
        if self.cluster.listen != OrNone::None {
            if edge && self.cluster.discovery_keys().is_empty() {
                need("node.role", "cluster.discovery: an edge node joins others, and never founds a cluster");
            }
            return;
        }
        if edge {
            need("node.role", "cluster.listen: an edge node is one of a cluster");
        }
        if self.cluster.advertise != OrNone::None {
            need("cluster.advertise", LISTEN);
        }
        for key in self.cluster.discovery_keys() {
            need(key, LISTEN);
        }
        if self.cluster.expect() > 1 {
            need(EXPECT, LISTEN);
        }
    }
}

impl RawCluster {
    fn check_addresses(&self, found: &mut Vec<(String, String)>) {
        if let OrNone::Is(advertise) = &self.advertise
            && advertise.is_unspecified()
        {
            let reason = format!("{advertise} is no address that other nodes can reach");
            found.push(("cluster.advertise".to_owned(), reason));
        }
        for address in self.discovery.r#static.iter().filter(|address| address.is_unspecified()) {
            let reason = format!("{address} is no address that can be reached");
            found.push((STATIC.to_owned(), reason));
        }
        for (place, address) in self.discovery.r#static.iter().enumerate() {
            if self.discovery.r#static[..place].contains(address) {
                found.push((STATIC.to_owned(), format!("{address} is named twice")));
            }
        }
    }

    fn check_discovery(&self, found: &mut Vec<(String, String)>) {
        if let [first, others @ ..] = self.discovery_keys().as_slice() {
            found.extend(
                others.iter().map(|key| ((*key).to_owned(), format!("{first} is set, too; only one may be"))),
            );
        }
    }

    /// What would keep core nodes from founding a cluster, or let them found two.
    fn check_bootstrap(&self, found: &mut Vec<(String, String)>) {
        let expect = self.expect();
        if expect > 1 && self.discovery_keys().is_empty() {
            let reason = format!("{expect} nodes cannot find each other without cluster.discovery");
            found.push((EXPECT.to_owned(), reason));
        }
        let listed = self.discovery.r#static.len();
        if listed > 0 && expect * 2 <= listed {
            // They could come together on either side of a broken network, or one by one.
            let reason = format!(
                "must be more than half of the {listed} nodes of {STATIC}, not {expect}, or several clusters could be founded"
            );
            found.push((EXPECT.to_owned(), reason));
        }
        // The list may leave out the node that reads it.
        if listed > 0 && expect > listed + 1 {
            let reason = format!("{STATIC} names only {listed} nodes, so {expect} are never found");
            found.push((EXPECT.to_owned(), reason));
        }
    }

    fn check_times(&self, found: &mut Vec<(String, String)>) {
        if self.edge_forget_after.duration() < self.node_down_after.duration() {
            let reason = "must not be shorter than cluster.node_down_after".to_owned();
            found.push(("cluster.edge_forget_after".to_owned(), reason));
        }
    }

    fn expect(&self) -> usize {
        self.bootstrap_expect.narrow()
    }

    /// Those keys of the discovery that are set.
    fn discovery_keys(&self) -> Vec<&'static str> {
        let keys = [
            (STATIC, !self.discovery.r#static.is_empty()),
            ("cluster.discovery.dns", self.discovery.dns != OrNone::None),
            ("cluster.discovery.srv", self.discovery.srv != OrNone::None),
        ];
        keys.into_iter().filter(|(_, set)| *set).map(|(key, _)| key).collect()
    }
}

const LISTEN: &str = "cluster.listen";
const EXPECT: &str = "cluster.bootstrap_expect";
const STATIC: &str = "cluster.discovery.static";
