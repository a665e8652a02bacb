//! Who serves which client: the node's registry at work.
//!
//! [`Claims`] is what workers and lanes put into a mailbox; whoever has the [`Driver`] feeds what has gathered to the
//! [`Registry`] and does what comes out. A worker takes it itself, unless somebody is at it: most CONNECTs are granted within
//! this node, and two wake-ups for each would cost more than all the rest of it. The others leave it to a task
//! ([`Claims::run`]), which also looks at the deadlines. A grant is not yet a session: until the worker says that the
//! connection has its session, whatever the registry wants of that client waits.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use flotilla_mqtt::{ReasonCode, Timestamp, session::ClientId};
use flotilla_registry::{Output, Refusal, Registry, RequestId, Tenure, View};
use flotilla_state::{ConnectionEpoch, LogIndex, Member};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot},
    time::timeout,
};

use super::{Claimed, links::Links};
use crate::{
    node::Node,
    worker::{Event, Order},
};

/// What the registry is to be told. Bounded by what it is about: connections and the lanes.
#[derive(Debug, Default)]
pub(super) struct Claims {
    inputs: Mutex<Inputs>,
    /// There is none until it is known how many shards there are.
    driver: Mutex<Option<Driver>>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Inputs {
    queue: VecDeque<Input>,
    /// How far the log was read, with all views up to there put in before.
    read: LogIndex,
    /// Whether the registry waits until more of it is.
    is_behind: bool,
    /// How far the registry knows it to be read.
    read_by_registry: LogIndex,
    /// Whether what was taken last has not been worked off.
    is_busy: bool,
    /// When the task looks at the registry by itself.
    alarm: Option<Timestamp>,
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

/// The registry, and what its outputs are for.
#[derive(Debug)]
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

/// How often a worker that is at it looks for what others have put in meanwhile.
const STEPS_MAX: usize = 16;

impl Claims {
    /// Puts something in, and leaves it to the task: the caller may hold locks.
    pub(super) fn put(&self, input: Input) {
        self.inputs.lock().queue.push_back(input);
        self.wake.notify_one();
    }

    /// Puts something in, and does it at once unless somebody else is at it, who does it then. The caller holds no locks.
    pub(super) fn put_now(&self, input: Input) {
        self.inputs.lock().queue.push_back(input);
        for _ in 0..STEPS_MAX {
            let is_late = match self.driver.try_lock() {
                Some(mut driver) => driver.as_mut().is_none_or(|driver| self.step(driver)),
                None => return,
            };
            if is_late {
                break;
            }
            if !self.has_more() {
                return;
            }
        }
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

    /// Whether there is something to do. To be asked by whoever has just given the driver back: an input that was put in meanwhile
    /// may have been left to it.
    fn has_more(&self) -> bool {
        let inputs = self.inputs.lock();
        !inputs.queue.is_empty() || inputs.is_behind && inputs.read > inputs.read_by_registry
    }

    /// Does what has been put in. Returns whether the task would look at the next deadline too late.
    fn step(&self, driver: &mut Driver) -> bool {
        let (queue, read) = self.take();
        driver.step(queue, read);
        let deadline = driver.registry.next_deadline();
        let mut inputs = self.inputs.lock();
        inputs.is_busy = false;
        inputs.is_behind = driver.registry.is_behind();
        inputs.read_by_registry = read;
        deadline.is_some_and(|at| inputs.alarm.is_none_or(|alarm| at < alarm))
    }

    /// Runs the registry, for ever.
    pub(super) async fn run(&self, registry: Registry, node: Arc<Node>, links: Arc<Links>) {
        let clock = node.clock;
        *self.driver.lock() = Some(Driver::new(registry, node, links));
        loop {
            let alarm = self.work();
            if self.has_more() {
                continue;
            }
            match alarm {
                None => self.wake.notified().await,
                Some(at) => _ = timeout(at.since(clock.now()), self.wake.notified()).await,
            }
        }
    }

    /// The task's part; returns when it should be done again if nothing happens.
    fn work(&self) -> Option<Timestamp> {
        let mut driver = self.driver.lock();
        let driver = driver.as_mut()?;
        self.step(driver);
        let alarm = driver.registry.next_deadline();
        self.inputs.lock().alarm = alarm;
        alarm
    }
}

impl Driver {
    fn new(registry: Registry, node: Arc<Node>, links: Arc<Links>) -> Self {
        Self { registry, node, links, next_request: 0, waiting: HashMap::new(), unattached: HashMap::new() }
    }

    /// Takes what was put in, `read` being how far the log was read then: the views up to there are in `queue`, or came before.
    fn step(&mut self, queue: VecDeque<Input>, read: LogIndex) {
        queue.into_iter().for_each(|input| self.handle(input));
        self.registry.handle_read(read);
        let now = self.node.clock.now();
        if self.registry.next_deadline().is_some_and(|at| at <= now) {
            self.registry.handle_deadline(now);
        }
        self.carry_out_all();
    }

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
