//! What clients do, and how nodes end.

use super::*;

impl World {
    pub(crate) fn nodes_len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn serving(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|node| self.nodes[*node].me.is_some()).collect()
    }

    pub(crate) fn connect(&mut self, node: usize, client: &str, connect: Connect) {
        if !self.nodes[node].is_running {
            return;
        }
        let client = ClientId::new(client).expect("not empty");
        self.requests += 1;
        let request = RequestId(self.requests);
        let will = connect.will.map(|delay| {
            self.wills += 1;
            (self.wills, delay)
        });
        self.note(|| format!("n{node} CONNECT {client} {request:?} {connect:?} will {will:?}"));
        let no = will.map_or(0, |(no, _)| no);
        self.nodes[node]
            .requests
            .insert(request, Waiting { at: self.now, client: client.clone(), connect, will: no });
        let kept = will.map(|(no, delay)| kept_will(no, delay, connect.persistent));
        let now = self.timestamp();
        self.nodes[node].registry.claim(now, request, &client, connect.clean, kept);
        self.drain(node);
    }

    /// Some client that waits goes away.
    pub(crate) fn cancel_one(&mut self, node: usize, client: &str) {
        let Some((&request, _)) = self.nodes[node].requests.last_key_value() else { return };
        let client = ClientId::new(client).expect("not empty");
        let now = self.timestamp();
        let before = self.nodes[node].registry.stats().pending;
        self.nodes[node].registry.cancel(now, &client, request);
        if self.nodes[node].registry.stats().pending < before {
            self.note(|| format!("n{node} cancelled {request:?}"));
            let waited = self.nodes[node].requests.remove(&request).expect("it waited");
            if let Some(me) = self.nodes[node].me {
                note_withdrawn(&mut self.oracle, self.now, &waited, me);
            }
        }
        self.drain(node);
    }

    /// The client of a session goes, with or without a DISCONNECT.
    pub(crate) fn disconnect(&mut self, node: usize, client: &str, is_normal: bool) {
        let client = ClientId::new(client).expect("not empty");
        let Some(session) = self.nodes[node].sessions.get(&client).cloned() else { return };
        if !session.is_connected {
            return;
        }
        self.note(|| format!("n{node} disconnect {client} normal {is_normal}"));
        let now = self.timestamp();
        if let Some(will) = session.will {
            if is_normal {
                self.oracle.will_dropped(self.now, will.no);
            } else if will.delay == 0 || !session.is_persistent {
                self.oracle.will_published_by_owner(self.now, will.no);
            } else {
                self.nodes[node].registry.delay_will(now, &client, session.tenure);
                self.later(node, will.delay, Job::WillDue { client: client.clone(), will: will.no });
            }
        }
        let registry = &mut self.nodes[node].registry;
        let delayed = session.will.filter(|will| !is_normal && will.delay > 0 && session.is_persistent);
        if session.will.is_some() && delayed.is_none() {
            registry.keep_will(now, &client, session.tenure, None);
        }
        let entry = self.nodes[node].sessions.get_mut(&client).expect("it is there");
        entry.is_connected = false;
        entry.will = delayed.map(|will| SessionWill { is_delayed: true, ..will });
        if !session.is_persistent {
            self.end_session(node, &client);
        }
        self.drain(node);
    }

    /// A session that is away expires.
    pub(crate) fn expire(&mut self, node: usize, client: &str) {
        let client = ClientId::new(client).expect("not empty");
        if self.nodes[node].sessions.get(&client).is_some_and(|session| !session.is_connected) {
            self.note(|| format!("n{node} expire {client}"));
            self.end_session(node, &client);
            self.drain(node);
        }
    }

    fn end_session(&mut self, node: usize, client: &ClientId) {
        let session = self.nodes[node].sessions.remove(client).expect("it is there");
        let now = self.timestamp();
        if let Some(will) = session.will {
            self.oracle.will_published_by_owner(self.now, will.no);
            self.nodes[node].registry.keep_will(now, client, session.tenure, None);
        }
        self.oracle.session_ends(client, session.token);
        self.nodes[node].registry.release(now, client, session.tenure);
    }

    pub(crate) fn end(&mut self, node: usize, how: End, comes_back_after: u64, is_declared: bool) {
        let Some(member) = self.nodes[node].me.take() else { return };
        self.note(|| format!("n{node} ENDS {how:?} {member:?} declared {is_declared}"));
        for request in self.nodes[node].requests.values() {
            note_withdrawn(&mut self.oracle, self.now, request, member);
        }
        self.oracle.member_ended(self.now, member);
        let now = self.timestamp();
        let entry = &mut self.nodes[node];
        entry.life += 1;
        entry.stubs.clear();
        match how {
            End::Crash => {
                entry.registry = Registry::new(limits(), self.shards.clone());
                entry.sessions.clear();
                entry.copies.clear();
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
                let clients: Vec<ClientId> = entry.sessions.keys().cloned().collect();
                for client in clients {
                    let session = entry.sessions.get_mut(&client).expect("it is there");
                    session.will = None;
                    session.is_connected = false;
                    if !session.is_persistent {
                        let (tenure, token) = (session.tenure, session.token);
                        entry.sessions.remove(&client);
                        self.oracle.session_ends(&client, token);
                        entry.registry.release(now, &client, tenure);
                    }
                }
                self.drain(node);
                assert!(self.nodes[node].requests.is_empty(), "a fenced node refuses what waits");
                self.nodes[node].copies.clear();
            }
        }
        let life = self.nodes[node].life;
        if is_declared {
            let delay = self.random.within(100, 1_500);
            self.at(delay, Event::Commit(Change::Down { member }));
        }
        self.at(comes_back_after, Event::Commit(Change::Join { node, life }));
    }
}

fn kept_will(no: u64, delay: u64, is_persistent: bool) -> KeptWill {
    let message = Message {
        topic: "will".into(),
        properties: Bytes::new(),
        payload: Bytes::copy_from_slice(&no.to_be_bytes()),
        qos: QoS::AtLeastOnce,
        retain: false,
        expires_at: None,
        publisher: None,
    };
    let session_expiry = if is_persistent { SessionExpiry::Never } else { SessionExpiry::AtDisconnect };
    KeptWill { message: Arc::new(message), delay: Duration::from_millis(delay), expiry: None, session_expiry }
}
