//! What has to hold.

use super::*;

impl World {
    /// A client has one live connection at most.
    pub(super) fn check_connections(&self) {
        let mut connected = BTreeMap::new();
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.me.is_some()) {
            for (client, _) in node.sessions.iter().filter(|(_, session)| session.is_connected) {
                if let Some(other) = connected.insert(client, index) {
                    panic!("{client} is connected to {other} and {index}");
                }
            }
        }
    }

    pub(crate) fn connections(&self, client: &str) -> usize {
        let is_connected = |node: &&Node| {
            node.me.is_some() && node.sessions.get(client).is_some_and(|session| session.is_connected)
        };
        self.nodes.iter().filter(is_connected).count()
    }

    /// All sessions are in one place.
    pub(crate) fn check_sessions(&self) {
        let mut places = BTreeMap::new();
        for (index, node) in self.nodes.iter().enumerate() {
            assert!(node.requests.is_empty(), "{:?} wait on {index}", node.requests);
            assert!(node.copies.is_empty(), "{index} still has copies: {:?}", node.copies);
            assert!(node.stubs.is_empty(), "{index} still has stubs: {:?}", node.stubs);
            for client in node.sessions.keys() {
                if let Some(other) = places.insert(client, index) {
                    panic!("{client} has sessions on {other} and {index}");
                }
            }
        }
    }

    /// Everybody leaves.
    pub(crate) fn end_all_sessions(&mut self) {
        for node in 0..self.nodes.len() {
            let clients: Vec<ClientId> = self.nodes[node].sessions.keys().cloned().collect();
            for client in clients {
                self.disconnect(node, client.as_str(), true);
                self.expire(node, client.as_str());
            }
        }
    }

    /// Nothing is left of them.
    pub(crate) fn check_empty(&self) {
        for (index, node) in self.nodes.iter().enumerate() {
            if self.trace && node.registry.stats() != Stats::default() {
                println!("{:?}", node.registry);
            }
            assert_eq!(node.registry.stats(), Stats::default(), "on {index}");
        }
    }
}
