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
use flotilla_registry::{Output, Refusal, Registry, RequestId, Tenure, View};
use flotilla_state::{ConnectionEpoch, LogIndex, Member};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::{Claimed, links::Links};
use crate::{
    node::Node,
    worker::{Event, Order},
};

/// What the registry is to be told. Bounded by what it is about: connections and the lanes.
#[derive(Debug, Default)]
pub(super) struct Claims {
    inputs: Mutex<Inputs>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Inputs {
    queue: VecDeque<Input>,
    /// How far the log was read, with all views up to there put in before.
    read: LogIndex,
    /// Whether the registry waits until more of it is.
    is_behind: bool,
    /// Whether what was taken last has not been worked off.
    is_busy: bool,
}

#[derive(Debug)]
pub(super) enum Input {
    Claim(ClientId, oneshot::Sender<Result<Claimed, ReasonCode>>),
    Attached(ClientId, Tenure),
    /// A grant has not become a session.
    Abandoned(ClientId, Tenure),
    Release(ClientId, Tenure),
    Closed(ClientId, ConnectionEpoch),
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
    next_request: u64,
    waiting: HashMap<RequestId, oneshot::Sender<Result<Claimed, ReasonCode>>>,
    /// Clients whose grant has not become a session yet, with what waits for that.
    unattached: HashMap<ClientId, Unattached>,
}

#[derive(Debug)]
struct Unattached {
    tenure: Tenure,
    later: VecDeque<Output>,
}

impl Claims {
    pub(super) fn put(&self, input: Input) {
        self.inputs.lock().queue.push_back(input);
        self.wake.notify_one();
    }

    /// The log has been read up to `index`, and every view up to there was put in.
    pub(super) fn note_read(&self, index: LogIndex) {
        let mut inputs = self.inputs.lock();
        inputs.read = inputs.read.max(index);
        if inputs.is_behind {
            self.wake.notify_one();
        }
    }

    /// Whether everything that was put in has been done, and what it makes others hear has been sent.
    pub(super) fn is_idle(&self) -> bool {
        let inputs = self.inputs.lock();
        inputs.queue.is_empty() && !inputs.is_busy
    }

    fn take(&self) -> (VecDeque<Input>, LogIndex) {
        let mut inputs = self.inputs.lock();
        inputs.is_busy = !inputs.queue.is_empty();
        (std::mem::take(&mut inputs.queue), inputs.read)
    }

    /// What was taken is done. Returns whether there is more at once: `read` was not the last that the registry waits for.
    fn finish(&self, read: LogIndex, is_behind: bool) -> bool {
        let mut inputs = self.inputs.lock();
        (inputs.is_busy, inputs.is_behind) = (false, is_behind);
        !inputs.queue.is_empty() || is_behind && inputs.read > read
    }

    /// Runs the registry, for ever.
    pub(super) async fn run(&self, registry: Registry, node: Arc<Node>, links: Arc<Links>) {
        let mut driver = Driver {
            registry,
            node,
            links,
            next_request: 0,
            waiting: HashMap::new(),
            unattached: HashMap::new(),
        };
        loop {
            let (inputs, read) = self.take();
            // The views up to there are among the inputs.
            inputs.into_iter().for_each(|input| driver.handle(input));
            driver.registry.handle_read(read);
            let now = driver.node.clock.now();
            if driver.registry.next_deadline().is_some_and(|at| at <= now) {
                driver.registry.handle_deadline(now);
            }
            driver.carry_out_all();
            if !self.finish(read, driver.registry.is_behind()) {
                self.wait(&driver).await;
            }
        }
    }

    async fn wait(&self, driver: &Driver) {
        let Some(at) = driver.registry.next_deadline() else { return self.wake.notified().await };
        let _ = tokio::time::timeout(at.since(driver.node.clock.now()), self.wake.notified()).await;
    }
}

impl Driver {
    fn handle(&mut self, input: Input) {
        match input {
            Input::Claim(client, answer) => {
                self.next_request += 1;
                let request = RequestId(self.next_request);
                self.waiting.insert(request, answer);
                self.registry.claim(self.node.clock.now(), request, &client);
            }
            Input::Attached(client, tenure) => self.go_on(&client, tenure),
            Input::Abandoned(client, tenure) => {
                self.abandon(&client, tenure);
                self.go_on(&client, tenure);
            }
            Input::Release(client, tenure) => self.registry.release(&client, tenure),
            Input::Closed(client, epoch) => self.registry.handle_closed(&client, epoch),
            Input::Message(from, bytes) => {
                if let Err(error) = self.registry.handle_message(from, &bytes) {
                    // The other node would wait for ever for what this one did not take.
                    tracing::error!(%from, %error, "cannot handle what another node says about clients");
                    self.links.give_up_life();
                }
            }
            Input::View(view) => self.registry.handle_view(view),
            Input::Admitted(me) => self.registry.handle_admitted(me),
            Input::Fenced => self.fence(),
        }
    }

    fn fence(&mut self) {
        self.registry.handle_fenced();
        self.carry_out_all();
        self.waiting.clear();
    }

    /// A grant comes to nothing, and with it the connection that it would have taken the place of.
    fn abandon(&mut self, client: &ClientId, tenure: Tenure) {
        if !self.order(client, Order::Forsake { client_id: client.clone(), tenure }) {
            self.registry.release(client, tenure);
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
            | Output::Close { client, .. }
            | Output::Discard { client, .. } => Some(client),
            _ => None,
        };
        if let Some(grant) = client.and_then(|client| self.unattached.get_mut(client)) {
            return grant.later.push_back(output);
        }
        match output {
            Output::Send { to, bytes } => self.links.send_registry(to, &bytes),
            Output::Granted { request, client, tenure } => self.grant(request, client, tenure),
            Output::Refused { request, refusal } => self.refuse(request, refusal),
            Output::Close { client, epoch } => {
                if !self.order(&client, Order::Close { client_id: client.clone(), epoch }) {
                    self.registry.handle_closed(&client, epoch);
                }
            }
            Output::Discard { client, tenure } => {
                self.order(&client, Order::Discard { client_id: client.clone(), tenure });
            }
        }
    }

    fn grant(&mut self, request: RequestId, client: ClientId, tenure: Tenure) {
        let answer = self.waiting.remove(&request);
        if answer.is_some_and(|answer| answer.send(Ok(Claimed { tenure, kept: None })).is_ok()) {
            self.unattached.insert(client, Unattached { tenure, later: VecDeque::new() });
        } else {
            // The client has gone while it waited.
            self.abandon(&client, tenure);
        }
    }

    fn refuse(&mut self, request: RequestId, refusal: Refusal) {
        if let Some(answer) = self.waiting.remove(&request) {
            let _ = answer.send(Err(refusal.reason()));
        }
    }

    /// Gives an order to the worker that has the session of a client; whether there is one.
    fn order(&self, client: &ClientId, order: Order) -> bool {
        let Some(session) = self.node.registry.find(client) else { return false };
        self.node.mailboxes[usize::from(session.worker)].send(Event::Order(order));
        true
    }
}
