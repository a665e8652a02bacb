//! The shell of a node: it does what the registry asks for, and tells what came of it.

use super::*;

impl World {
    pub(super) fn do_job(&mut self, node: usize, job: Job) {
        match job {
            Job::Attach { client, tenure } => self.attach(node, client, tenure),
            Job::Close { client, epoch } => {
                self.close(node, &client, |tenure| tenure.epoch <= epoch);
                let delay = self.random.below(100);
                self.later(node, delay, Job::Closed { client, epoch });
            }
            Job::Closed { client, epoch } => self.nodes[node].registry.handle_closed(&client, epoch),
            Job::Deadline => {
                let now = self.timestamp();
                if self.nodes[node].registry.next_deadline().is_some_and(|at| at <= now) {
                    self.nodes[node].registry.handle_deadline(now);
                }
            }
        }
    }

    /// Ends the connection of a client, if there is one that is meant.
    pub(super) fn close(&mut self, node: usize, client: &ClientId, is_meant: impl Fn(&Tenure) -> bool) {
        let entry = &mut self.nodes[node];
        if let Some(tenure) = entry.connections.get(client).copied().filter(is_meant) {
            entry.connections.remove(client);
            entry.registry.release(client, tenure);
        }
    }

    pub(super) fn drain(&mut self, node: usize) {
        while let Some(output) = self.nodes[node].registry.poll_output() {
            self.obey(node, output);
        }
        if let Some(at) = self.nodes[node].registry.next_deadline() {
            let delay = at.as_millis().saturating_sub(self.now);
            self.later(node, delay, Job::Deadline);
        }
    }

    fn obey(&mut self, node: usize, output: Output) {
        if !matches!(output, Output::Send { .. }) {
            self.note(|| format!("n{node} {output:?}"));
        }
        if let Output::Granted { client, .. } | Output::Close { client, .. } | Output::Discard { client, .. } =
            &output
            && let Some(arrival) = self.nodes[node].arriving.get_mut(client)
        {
            return arrival.later.push_back(output);
        }
        match output {
            Output::Send { to, bytes } => {
                let Some(from) = self.nodes[node].me else { return };
                let slow = self.is_slow && self.random.percent(5);
                let delay = if slow { self.random.within(50, 600) } else { self.random.within(1, 20) };
                let link = self.links.entry((from, to)).or_default();
                link.queue.push_back(bytes);
                link.last_at = link.last_at.max(self.now + delay);
                let delay = link.last_at - self.now;
                self.at(delay, Event::Deliver { from, to });
            }
            Output::Granted { request, client, tenure } => {
                self.answer(node, request);
                self.check_order(&client, tenure);
                self.granted += 1;
                self.nodes[node].arriving.insert(client.clone(), Arrival { tenure, later: VecDeque::new() });
                let delay = self.random.below(15);
                self.later(node, delay, Job::Attach { client, tenure });
            }
            Output::Refused { request, refusal } => {
                self.answer(node, request);
                if refusal == Refusal::Unavailable && self.nodes[node].me.is_some() {
                    self.refused += 1;
                }
            }
            Output::Close { client, epoch } => {
                let delay = self.random.below(30);
                self.later(node, delay, Job::Close { client, epoch });
            }
            Output::Discard { client, tenure } => {
                let found = self.nodes[node].connections.get(&client);
                assert!(
                    found.is_none_or(|found| *found > tenure),
                    "a connection of {client} is void on {node}"
                );
            }
        }
    }

    fn answer(&mut self, node: usize, request: RequestId) {
        let since = self.nodes[node].requests.remove(&request).expect("it waits");
        assert!(self.now - since <= CLAIM_TIMEOUT, "answered too late");
    }

    /// The connection of a grant begins, or comes to nothing; in any case the one before it ends.
    fn attach(&mut self, node: usize, client: ClientId, tenure: Tenure) {
        let later = self.nodes[node].arriving.remove(&client).expect("it arrives").later;
        self.close(node, &client, |_| true);
        if !self.are_clients_patient && self.random.percent(5) {
            self.nodes[node].registry.release(&client, tenure);
        } else {
            self.nodes[node].connections.insert(client, tenure);
        }
        later.into_iter().for_each(|output| self.obey(node, output));
    }
}
