//! What clients do, and how nodes end.

use super::*;

impl World {
    pub(crate) fn nodes_len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn serving(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|node| self.nodes[*node].me.is_some()).collect()
    }

    pub(crate) fn connect(&mut self, node: usize, client: &str) {
        if !self.nodes[node].is_running {
            return;
        }
        let client = ClientId::new(client).expect("not empty");
        self.requests += 1;
        let request = RequestId(self.requests);
        self.note(|| format!("n{node} CONNECT {client} {request:?}"));
        self.nodes[node].requests.insert(request, self.now);
        let now = self.timestamp();
        self.nodes[node].registry.claim(now, request, &client);
        self.drain(node);
    }

    /// Some client that waits goes away.
    pub(crate) fn cancel_one(&mut self, node: usize, client: &str) {
        let Some((&request, _)) = self.nodes[node].requests.last_key_value() else { return };
        let client = ClientId::new(client).expect("not empty");
        let before = self.nodes[node].registry.stats().pending;
        self.nodes[node].registry.cancel(&client, request);
        if self.nodes[node].registry.stats().pending < before {
            self.note(|| format!("n{node} cancelled {request:?}"));
            self.nodes[node].requests.remove(&request).expect("it waited");
        }
        self.drain(node);
    }

    /// The client of a connection goes.
    pub(crate) fn disconnect(&mut self, node: usize, client: &str) {
        let client = ClientId::new(client).expect("not empty");
        self.note(|| format!("n{node} disconnect {client}"));
        self.close(node, &client, |_| true);
        self.drain(node);
    }

    pub(crate) fn end(&mut self, node: usize, how: End, comes_back_after: u64, is_declared: bool) {
        let Some(member) = self.nodes[node].me.take() else { return };
        self.note(|| format!("n{node} ENDS {how:?} {member:?} declared {is_declared}"));
        let entry = &mut self.nodes[node];
        entry.life += 1;
        let connections = std::mem::take(&mut entry.connections);
        let arriving = std::mem::take(&mut entry.arriving);
        match how {
            End::Crash => {
                entry.registry = Registry::new(limits(), self.shards.clone());
                entry.requests.clear();
                entry.applied = 0;
                entry.is_running = false;
                // What it had not sent is gone.
                for ((from, _), link) in &mut self.links {
                    if *from == member {
                        let len = self.random.index(link.queue.len() + 1);
                        link.queue.truncate(len);
                    }
                }
            }
            End::Fence => {
                entry.registry.handle_fenced();
                self.drain(node);
                for (client, tenure) in connections {
                    self.release_late(node, client, tenure);
                }
                for (client, Arrival { tenure, later }) in arriving {
                    self.release_late(node, client, tenure);
                    for output in later {
                        if let Output::Granted { request, client, tenure } = output {
                            self.nodes[node].requests.remove(&request).expect("it waits");
                            self.release_late(node, client, tenure);
                        }
                    }
                }
                assert!(self.nodes[node].requests.is_empty(), "a fenced node refuses what waits");
            }
        }
        let life = self.nodes[node].life;
        if is_declared {
            let delay = self.random.within(100, 1_500);
            self.at(delay, Event::Commit(Change::Down { member }));
        }
        self.at(comes_back_after, Event::Commit(Change::Join { node, life }));
    }

    /// A connection has ended with the life of its node. Now and then the next life has begun when the registry hears of that.
    fn release_late(&mut self, node: usize, client: ClientId, tenure: Tenure) {
        let delay = if self.random.percent(80) { 0 } else { self.random.below(8_000) };
        self.at(delay, Event::Ended { node, client, tenure });
    }
}
