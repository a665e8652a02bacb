//! What has to hold.

use super::*;

impl World {
    /// A client has one live connection at most.
    pub(super) fn check_connections(&self) {
        let mut connected = BTreeMap::new();
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.me.is_some()) {
            for client in node.connections.keys() {
                if let Some(other) = connected.insert(client, index) {
                    panic!("{client} is connected to {other} and {index}");
                }
            }
        }
    }

    /// Later grants of a client have higher tenures, in the whole cluster.
    pub(super) fn check_order(&mut self, client: &ClientId, tenure: Tenure) {
        let before = self.tenures.insert(client.clone(), tenure);
        assert!(
            before.is_none_or(|before| before < tenure),
            "{client} is granted {tenure:?} after {before:?}"
        );
    }

    pub(crate) fn connections(&self, client: &str) -> usize {
        let is_connected = |node: &&Node| node.me.is_some() && node.connections.contains_key(client);
        self.nodes.iter().filter(is_connected).count()
    }

    /// Every claim has been answered, and the registries know of each connection.
    pub(crate) fn check_calm(&self) {
        for (index, node) in self.nodes.iter().enumerate() {
            assert!(node.requests.is_empty(), "{:?} wait on {index}", node.requests);
            assert!(node.arriving.is_empty(), "{:?} arrive on {index}", node.arriving);
            let Stats { owned, pending, shards_collecting, held_bytes, .. } = node.registry.stats();
            assert_eq!((owned, pending), (node.connections.len(), 0), "on {index}");
            assert_eq!((shards_collecting, held_bytes), (0, 0), "on {index}");
        }
        let connections: usize = self.nodes.iter().map(|node| node.connections.len()).sum();
        let records: usize = self.nodes.iter().map(|node| node.registry.stats().records).sum();
        assert_eq!(records, connections, "the registrars know of each");
    }

    /// Everybody leaves.
    pub(crate) fn end_all_connections(&mut self) {
        for node in 0..self.nodes.len() {
            let clients: Vec<ClientId> = self.nodes[node].connections.keys().cloned().collect();
            for client in clients {
                self.disconnect(node, client.as_str());
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
