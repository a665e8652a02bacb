//! The shell of a node: it does what the registry asks for, and tells what came of it.

use super::*;

impl World {
    pub(super) fn do_job(&mut self, node: usize, job: Job) {
        let now = self.timestamp();
        match job {
            Job::Export { client, epoch, discard } => self.export(node, &client, epoch, discard),
            Job::Imported { client, tenure } => {
                self.nodes[node].registry.handle_imported(now, &client, tenure);
                let delay = self.random.below(200);
                self.later(node, delay, Job::Settle { client, epoch: tenure.epoch });
            }
            Job::Settle { client, epoch } => {
                let index = LogIndex(self.nodes[node].applied as u64);
                self.nodes[node].registry.settle(now, &client, epoch, index);
            }
            Job::StubEnds { client, epoch } => {
                self.nodes[node].stubs.remove(&(client.clone(), epoch));
                self.nodes[node].registry.handle_stub_ended(&client, epoch);
            }
            Job::WillDue { client, will } => {
                let Some(session) = self.nodes[node].sessions.get_mut(&client) else { return };
                if session.will.is_some_and(|own| own.no == will && own.is_delayed) {
                    session.will = None;
                    let tenure = session.tenure;
                    self.oracle.will_published_by_owner(self.now, will);
                    self.nodes[node].registry.keep_will(now, &client, tenure, None);
                }
            }
            Job::Published { id } => self.nodes[node].registry.handle_published(now, id),
            Job::Deadline => {
                if self.nodes[node].registry.next_deadline().is_some_and(|at| at <= now) {
                    self.nodes[node].registry.handle_deadline(now);
                }
            }
        }
    }

    fn export(&mut self, node: usize, client: &ClientId, epoch: ConnectionEpoch, discard: bool) {
        let now = self.timestamp();
        let Some(mut session) = self.nodes[node].sessions.remove(client) else {
            return self.nodes[node].registry.handle_exported(now, client, epoch, None);
        };
        self.close_will(&session, discard);
        session.will = None;
        session.is_connected = false;
        let exported = if discard || !session.is_persistent {
            self.oracle.session_ends(client, session.token);
            self.nodes[node].registry.release(now, client, session.tenure);
            None
        } else {
            self.nodes[node].stubs.insert((client.clone(), epoch));
            self.nodes[node].copies.insert((client.clone(), epoch), session.clone());
            Some(session_bytes(session.token))
        };
        self.nodes[node].registry.handle_exported(now, client, epoch, exported);
    }

    /// The client is connected elsewhere or anew.
    fn close_will(&mut self, session: &Session, session_ends: bool) {
        let Some(will) = session.will else { return };
        if will.delay == 0 || session_ends || !session.is_persistent {
            self.oracle.will_published_by_owner(self.now, will.no);
        } else {
            self.oracle.will_dropped(self.now, will.no);
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
            self.note(|| format!("n{node} {output:?}").chars().take(300).collect());
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
            Output::Granted { request, client, tenure, source } => {
                self.grant(node, request, client, tenure, source);
            }
            Output::Refused { request, refusal } => self.refuse(node, request, refusal),
            Output::Export { client, epoch, discard, .. } => {
                let delay = self.random.below(30);
                self.later(node, delay, Job::Export { client, epoch, discard });
            }
            Output::TakeBack { client, epoch } => {
                let key = (client.clone(), epoch);
                let session = self.nodes[node].copies.remove(&key).expect("it was exported");
                self.nodes[node].stubs.remove(&key);
                let me = self.nodes[node].me.expect("it is a member");
                self.oracle.session_returns(&client, session.token, me);
                let before = self.nodes[node].sessions.insert(client, session);
                assert!(before.is_none(), "a session is taken back over another one");
            }
            Output::Taken { client, epoch } => {
                self.nodes[node].copies.remove(&(client, epoch)).expect("it was exported");
            }
            Output::Settle { client, epoch, to, .. } => {
                let delay = self.random.below(100);
                self.later(node, delay, Job::StubEnds { client: client.clone(), epoch });
                if let Some(other) = self.nodes.iter().position(|node| node.me == Some(to)) {
                    let delay = self.random.within(100, 200);
                    self.later(other, delay, Job::StubEnds { client, epoch });
                }
            }
            Output::StubVoid { client, epoch } => {
                self.nodes[node].stubs.remove(&(client, epoch));
            }
            Output::Discard { client, .. } => {
                self.nodes[node].copies.retain(|(of, _), _| *of != client);
                if let Some(session) = self.nodes[node].sessions.remove(&client) {
                    assert!(
                        !session.is_connected || self.nodes[node].me.is_none(),
                        "a connection of {client} is void on {node}"
                    );
                    self.close_will(&session, true);
                }
            }
            Output::PublishWill { id, message, .. } => {
                let no = u64::from_be_bytes(message.payload[..8].try_into().expect("a number"));
                self.oracle.will_published(no);
                let delay = self.random.below(50);
                self.later(node, delay, Job::Published { id });
            }
        }
    }

    fn refuse(&mut self, node: usize, request: RequestId, refusal: Refusal) {
        let waited = self.nodes[node].requests.remove(&request).expect("it waits");
        assert!(self.now - waited.at <= CLAIM_TIMEOUT, "answered too late");
        if let Some(me) = self.nodes[node].me {
            note_withdrawn(&mut self.oracle, self.now, &waited, me);
        }
        if refusal == Refusal::Unavailable && self.nodes[node].me.is_some() {
            self.refused += 1;
        }
    }

    fn grant(&mut self, node: usize, request: RequestId, client: ClientId, tenure: Tenure, source: Source) {
        self.granted += 1;
        let now = self.timestamp();
        let Waiting { at, connect, will, .. } = self.nodes[node].requests.remove(&request).expect("it waits");
        assert!(self.now - at <= CLAIM_TIMEOUT, "answered too late");
        let me = self.nodes[node].me.expect("it is a member");
        let before = self.nodes[node].sessions.remove(&client);
        if connect.clean {
            self.oracle.session_discarded(&client);
        }
        let token = match source {
            Source::Nowhere => {
                assert!(before.is_none(), "the registry did not know of {before:?}");
                if !connect.clean {
                    self.oracle.session_missing(&client);
                }
                None
            }
            Source::Here => {
                if before.is_none() && !connect.clean {
                    self.oracle.session_missing(&client);
                }
                before.and_then(|before| {
                    let ends = connect.clean || (before.is_connected && !before.is_persistent);
                    self.close_will(&before, ends);
                    self.nodes[node].registry.keep_will(now, &client, before.tenure, None);
                    if ends {
                        self.oracle.session_ends(&client, before.token);
                        self.nodes[node].registry.release(now, &client, before.tenure);
                    }
                    (!ends).then_some(before.token)
                })
            }
            Source::Elsewhere { session, .. } => {
                assert!(before.is_none(), "the registry did not know of {before:?}");
                if self.random.percent(5) {
                    // It does not decode: the client is refused, the session goes back.
                    return self.nodes[node].registry.release(now, &client, tenure);
                }
                let token = u64::from_be_bytes(session[..8].try_into().expect("a number"));
                assert_eq!(session.len(), session_bytes(token).len());
                self.oracle.session_moves(&client, token, me);
                let delay = self.random.below(10);
                self.later(node, delay, Job::Imported { client: client.clone(), tenure });
                Some(token)
            }
        };
        self.oracle.claimed(self.now, &client, connect.clean);
        let token = token.unwrap_or_else(|| {
            self.tokens += 1;
            if connect.persistent {
                self.oracle.session_begins(&client, self.tokens, me);
            }
            self.tokens
        });
        if !connect.persistent {
            // It ends with its connection, whatever it was before.
            self.oracle.session_ends(&client, token);
        }
        let own_will = connect.will.map(|delay| SessionWill { no: will, delay, is_delayed: false });
        if let Some(own) = own_will {
            let delay = if connect.persistent { own.delay } else { 0 };
            self.oracle.will_begins(own.no, &client, me, delay);
        }
        let session =
            Session { token, tenure, is_connected: true, is_persistent: connect.persistent, will: own_will };
        self.nodes[node].sessions.insert(client, session);
    }
}

/// Now and then a large one, which goes in parts.
fn session_bytes(token: u64) -> Bytes {
    let len = if token.is_multiple_of(97) { 700_000 } else { 8 };
    let mut bytes = token.to_be_bytes().to_vec();
    bytes.resize(len, 7);
    bytes.into()
}
