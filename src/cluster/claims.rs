//! Who serves which client: the node's registry at work.
//!
//! [`Claims`] is what workers and lanes put into a mailbox; one task ([`Claims::run`]) owns the [`Registry`], feeds it what
//! has gathered and does what comes out. A grant is not yet a session: until the worker says that the connection has its
//! session, whatever the registry wants of that client waits.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use flotilla_mqtt::{ReasonCode, session::ClientId};
use flotilla_registry::{Output, Refusal, Registry, RequestId, Source, Tenure, View, WillId};
use flotilla_state::{ConnectionEpoch, LogIndex, Member};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::{Claim, Claimed, barriers::Barriers, links::Links};
use crate::{
    node::Node,
    router::SessionRef,
    worker::{Event, Export, Order},
};

/// What the registry is to be told. Bounded by what it is about: connections, sessions and the lanes.
#[derive(Debug, Default)]
pub(super) struct Claims {
    inputs: Mutex<VecDeque<Input>>,
    wake: Notify,
}

#[derive(Debug)]
pub(super) enum Input {
    Claim(Claim, oneshot::Sender<Result<Claimed, ReasonCode>>),
    Attached(ClientId, Tenure),
    WillDelayed(ClientId, Tenure),
    WillDropped(ClientId, Tenure),
    WillPublished(WillId),
    Release(ClientId, Tenure),
    Exported(ClientId, ConnectionEpoch, Option<Bytes>),
    Settle(ClientId, ConnectionEpoch, LogIndex),
    StubEnded(ClientId, ConnectionEpoch),
    Message(Member, Bytes),
    View(View),
    Admitted(Member),
    Fenced,
}

/// The task's own.
struct Driver {
    registry: Registry,
    node: Arc<Node>,
    links: Arc<Links>,
    barriers: Arc<Barriers>,
    next_request: u64,
    waiting: HashMap<RequestId, oneshot::Sender<Result<Claimed, ReasonCode>>>,
    /// Clients whose grant has not become a session yet, with what waits for that.
    unattached: HashMap<ClientId, Unattached>,
}

#[derive(Debug)]
struct Unattached {
    tenure: Tenure,
    is_import: bool,
    later: VecDeque<Output>,
}

impl Claims {
    pub(super) fn put(&self, input: Input) {
        self.inputs.lock().push_back(input);
        self.wake.notify_one();
    }

    /// Runs the registry, for ever.
    pub(super) async fn run(
        &self,
        registry: Registry,
        node: Arc<Node>,
        links: Arc<Links>,
        barriers: Arc<Barriers>,
    ) {
        let mut driver = Driver {
            registry,
            node,
            links,
            barriers,
            next_request: 0,
            waiting: HashMap::new(),
            unattached: HashMap::new(),
        };
        loop {
            self.wait(&driver).await;
            let inputs = std::mem::take(&mut *self.inputs.lock());
            for input in inputs {
                driver.handle(input);
            }
            let now = driver.node.clock.now();
            if driver.registry.next_deadline().is_some_and(|at| at <= now) {
                driver.registry.handle_deadline(now);
            }
            while let Some(output) = driver.registry.poll_output() {
                driver.carry_out(output);
            }
        }
    }

    async fn wait(&self, driver: &Driver) {
        if !self.inputs.lock().is_empty() {
            return;
        }
        let Some(at) = driver.registry.next_deadline() else { return self.wake.notified().await };
        let _ = tokio::time::timeout(at.since(driver.node.clock.now()), self.wake.notified()).await;
    }
}

impl Driver {
    fn handle(&mut self, input: Input) {
        let now = self.node.clock.now();
        match input {
            Input::Claim(claim, answer) => {
                self.next_request += 1;
                let request = RequestId(self.next_request);
                self.waiting.insert(request, answer);
                self.registry.claim(now, request, &claim.client_id, claim.clean_start, claim.will);
            }
            Input::Attached(client, tenure) => {
                let is_import = self.unattached.get(&client).is_some_and(|grant| grant.is_import);
                if is_import {
                    self.registry.handle_imported(now, &client, tenure);
                }
                self.go_on(&client, tenure);
            }
            Input::Release(client, tenure) => {
                self.registry.release(now, &client, tenure);
                self.go_on(&client, tenure);
            }
            Input::WillDelayed(client, tenure) => self.registry.delay_will(now, &client, tenure),
            Input::WillDropped(client, tenure) => self.registry.keep_will(now, &client, tenure, None),
            Input::WillPublished(will) => self.registry.handle_published(now, will),
            Input::Exported(client, epoch, session) => {
                self.registry.handle_exported(now, &client, epoch, session);
            }
            Input::Settle(client, epoch, index) => self.registry.settle(now, &client, epoch, index),
            Input::StubEnded(client, epoch) => self.registry.handle_stub_ended(&client, epoch),
            Input::Message(from, bytes) => {
                if let Err(error) = self.registry.handle_message(now, from, &bytes) {
                    // The other node would wait for what this one did not understand: better that neither goes on.
                    tracing::error!(%from, %error, "cannot handle what another node says about clients");
                }
            }
            Input::View(view) => self.registry.handle_view(now, view),
            Input::Admitted(me) => self.registry.handle_admitted(now, me),
            Input::Fenced => {
                self.registry.handle_fenced();
                self.waiting.clear();
            }
        }
    }

    /// The grant of a client has become a session, or nothing: does what waited for that.
    fn go_on(&mut self, client: &ClientId, tenure: Tenure) {
        if self.unattached.get(client).is_none_or(|grant| grant.tenure != tenure) {
            return;
        }
        let Some(grant) = self.unattached.remove(client) else { return };
        for output in grant.later {
            self.carry_out(output);
        }
    }

    fn carry_out(&mut self, output: Output) {
        let client = match &output {
            Output::Granted { client, .. } | Output::Export { client, .. } | Output::Discard { client } => {
                Some(client)
            }
            _ => None,
        };
        if let Some(grant) = client.and_then(|client| self.unattached.get_mut(client)) {
            return grant.later.push_back(output);
        }
        match output {
            Output::Send { to, bytes } => self.links.send_registry(to, &bytes),
            Output::Granted { request, client, tenure, source } => {
                self.grant(request, client, tenure, source);
            }
            Output::Refused { request, refusal } => self.refuse(request, refusal),
            Output::Export { client, epoch, to, discard } => {
                let export = Export { client_id: client.clone(), epoch, to: to.node, discard };
                if !self.order(self.node.registry.find(&client), Order::Export(export)) {
                    self.registry.handle_exported(self.node.clock.now(), &client, epoch, None);
                }
            }
            Output::TakeBack { client, epoch } => {
                let stub = self.node.stubs.find(&client, epoch);
                self.order(stub, Order::TakeBack { client_id: client, epoch });
            }
            Output::Taken { .. } => {}
            Output::Settle { client, epoch, index, .. } => self.barriers.settle(client, epoch, index),
            Output::StubVoid { client, epoch } => {
                let stub = self.node.stubs.find(&client, epoch);
                let order = Order::EndStub { client_id: client.clone(), epoch };
                if !self.order(stub, order) {
                    let session = self.node.registry.find(&client);
                    self.order(session, Order::EndGathering { client_id: client, epoch });
                }
            }
            Output::Discard { client } => {
                let session = self.node.registry.find(&client);
                self.order(session, Order::Discard { client_id: client });
            }
            Output::PublishWill { id, message, .. } => self.node.mailboxes[0].send(Event::Will(id, message)),
        }
    }

    fn grant(&mut self, request: RequestId, client: ClientId, tenure: Tenure, source: Source) {
        let session = match source {
            Source::Nowhere | Source::Here => None,
            Source::Elsewhere { session, .. } => Some(session),
        };
        let is_import = session.is_some();
        let claimed = Claimed { tenure, session };
        let told = self.waiting.remove(&request).is_some_and(|answer| answer.send(Ok(claimed)).is_ok());
        if told {
            self.unattached.insert(client, Unattached { tenure, is_import, later: VecDeque::new() });
        } else {
            // The client has gone while it waited.
            self.registry.release(self.node.clock.now(), &client, tenure);
        }
    }

    fn refuse(&mut self, request: RequestId, refusal: Refusal) {
        if let Some(answer) = self.waiting.remove(&request) {
            let _ = answer.send(Err(refusal.reason()));
        }
    }

    /// Gives an order to the worker that has a session; whether there is one.
    fn order(&self, session: Option<SessionRef>, order: Order) -> bool {
        let Some(session) = session else { return false };
        self.node.mailboxes[usize::from(session.worker)].send(Event::Transfer(order));
        true
    }
}
