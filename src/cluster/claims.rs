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

use super::{Claim, Claimed, Origin, barriers::Barriers, links::Links};
use crate::{
    node::Node,
    router::SessionRef,
    worker::{Event, Export, Order},
};

/// What the registry is to be told. Bounded by what it is about: connections, sessions and the lanes.
#[derive(Debug, Default)]
pub(super) struct Claims {
    inputs: Mutex<Inputs>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Inputs {
    queue: VecDeque<Input>,
    /// Whether what was taken last has not been worked off.
    is_busy: bool,
}

#[derive(Debug)]
pub(super) enum Input {
    Claim(Claim, oneshot::Sender<Result<Claimed, ReasonCode>>),
    Attached(ClientId, Tenure),
    WillDelayed(ClientId, Tenure),
    WillDropped(ClientId, Tenure),
    WillPublished(WillId),
    /// A grant has not become a session; whether the client's session was here before.
    Abandoned(ClientId, Tenure, bool),
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
    /// Where its session comes from, if that is another node, which keeps a copy until it is here.
    import: Option<Source>,
    later: VecDeque<Output>,
}

impl Claims {
    pub(super) fn put(&self, input: Input) {
        self.inputs.lock().queue.push_back(input);
        self.wake.notify_one();
    }

    /// Whether everything that was put in has been done, and what it makes others hear has been sent.
    pub(super) fn is_idle(&self) -> bool {
        let inputs = self.inputs.lock();
        inputs.queue.is_empty() && !inputs.is_busy
    }

    fn take(&self) -> VecDeque<Input> {
        let mut inputs = self.inputs.lock();
        inputs.is_busy = !inputs.queue.is_empty();
        std::mem::take(&mut inputs.queue)
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
            for input in self.take() {
                driver.handle(input);
            }
            let now = driver.node.clock.now();
            if driver.registry.next_deadline().is_some_and(|at| at <= now) {
                driver.registry.handle_deadline(now);
            }
            driver.carry_out_all();
            self.inputs.lock().is_busy = false;
            self.wait(&driver).await;
        }
    }

    async fn wait(&self, driver: &Driver) {
        if !self.inputs.lock().queue.is_empty() {
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
                let is_import = self.unattached.get(&client).is_some_and(|grant| grant.import.is_some());
                if is_import {
                    self.registry.handle_imported(now, &client, tenure);
                }
                self.go_on(&client, tenure);
            }
            Input::Abandoned(client, tenure, was_here) => {
                self.pass_import_on(&client, tenure);
                self.abandon(&client, tenure, was_here);
                self.go_on(&client, tenure);
            }
            Input::Release(client, tenure) => self.registry.release(now, &client, tenure),
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
                    // The other node would wait for ever for what this one did not take.
                    tracing::error!(%from, %error, "cannot handle what another node says about clients");
                    self.links.give_up_life();
                }
            }
            Input::View(view) => self.registry.handle_view(now, view),
            Input::Admitted(me) => self.registry.handle_admitted(now, me),
            Input::Fenced => self.fence(),
        }
    }

    fn fence(&mut self) {
        self.registry.handle_fenced();
        self.carry_out_all();
        self.waiting.clear();
        for grant in self.unattached.values_mut() {
            // Whoever wanted the session was told that this node has ended.
            grant.later.retain(|output| !matches!(output, Output::Export { .. }));
        }
        // Behind all that the workers were ordered before, so that nothing begins to leave after it.
        for mailbox in &self.node.mailboxes {
            mailbox.send(Event::Transfer(Order::ForgetTransfers));
        }
    }

    /// A grant comes to nothing. A session that was here before the claim still is, and this node goes on to have the
    /// client; anything else is given back.
    fn abandon(&mut self, client: &ClientId, tenure: Tenure, was_here: bool) {
        let session = if was_here { self.node.registry.find(client) } else { None };
        if !self.order(session, Order::Forsake { client_id: client.clone(), tenure }) {
            self.registry.release(self.node.clock.now(), client, tenure);
        }
    }

    /// The session that came with a grant which comes to nothing goes to the next connection of the client on this node, if
    /// that has been granted already: the registry takes it for here.
    fn pass_import_on(&mut self, client: &ClientId, tenure: Tenure) {
        let Some(grant) = self.unattached.get_mut(client).filter(|grant| grant.tenure == tenure) else {
            return;
        };
        let Some(import) = grant.import.take() else { return };
        let next = grant.later.iter_mut().find_map(|output| match output {
            Output::Granted { tenure: next, source, .. } if next.epoch == tenure.epoch => Some(source),
            _ => None,
        });
        if let Some(source @ Source::Here) = next {
            *source = import;
        }
    }

    fn carry_out_all(&mut self) {
        while let Some(output) = self.registry.poll_output() {
            self.carry_out(output);
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
            Output::Granted { client, .. }
            | Output::Export { client, .. }
            | Output::Discard { client, .. }
            | Output::StubVoid { client, .. } => Some(client),
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
                if let Some(stub) = stub {
                    // At once: the client may be granted to this node next, and its connection on whatever worker must find
                    // the session, and not begin another one.
                    self.node.registry.find_or_insert(&client, stub);
                }
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
            Output::Discard { client, tenure } => {
                let session = self.node.registry.find(&client);
                self.order(session, Order::Discard { client_id: client, tenure });
            }
            Output::PublishWill { id, message, .. } => self.node.mailboxes[0].send(Event::Will(id, message)),
        }
    }

    fn grant(&mut self, request: RequestId, client: ClientId, tenure: Tenure, source: Source) {
        let origin = match &source {
            Source::Here => Origin::Here,
            Source::Nowhere => Origin::Nowhere,
            Source::Elsewhere { session, .. } => Origin::Elsewhere(session.clone()),
        };
        let was_here = source == Source::Here;
        let import = matches!(source, Source::Elsewhere { .. }).then_some(source);
        let answer = self.waiting.remove(&request);
        if answer.is_some_and(|answer| answer.send(Ok(Claimed { tenure, origin, kept: None })).is_ok()) {
            self.unattached.insert(client, Unattached { tenure, import, later: VecDeque::new() });
        } else {
            // The client has gone while it waited.
            self.abandon(&client, tenure, was_here);
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
