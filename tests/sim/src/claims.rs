//! Who serves which client: the registry of a node at work.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla_lane::{CONTROL, Frame};
use flotilla_mqtt::{Timestamp, session::ClientId};
use flotilla_registry::{Limits, Output, Registry, RequestId, Tenure, View};
use flotilla_state::{ConnectionEpoch, LogIndex, Member, ShardRing};
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use crate::node::{Control, Process};

/// What the registry is to be told, in order.
#[derive(Default)]
pub struct Mailbox {
    inputs: Mutex<VecDeque<Input>>,
    wake: Notify,
}

/// One thing that the registry is to be told.
pub enum Input {
    /// A client connects.
    Claim(ClientId),
    /// A connection has ended.
    Release(ClientId, Tenure),
    /// There is no connection any more that is older than a claim of another node.
    Closed(ClientId, ConnectionEpoch),
    /// Another node's registry says something.
    Message(Member, Bytes),
    /// The cluster has changed.
    View(View),
    /// So much of the log was read.
    Read(LogIndex),
    /// A life begins.
    Admitted(Member),
    /// It is over.
    Fenced,
}

impl Mailbox {
    /// Puts something in.
    pub fn put(&self, input: Input) {
        self.inputs.lock().push_back(input);
        self.wake.notify_one();
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.inputs.lock().is_empty()
    }
}

/// Runs the registry of a process.
pub async fn run(process: Arc<Process>) {
    let mut requests = 0;
    let Some(shards) = wait_for_shards(&process).await else { return };
    let limits = Limits { claim_timeout: Duration::from_secs(5), ..Limits::default() };
    *process.registry.lock() = Some(Registry::new(limits, ShardRing::new(shards)));
    loop {
        let deadline = process.registry.lock().as_ref().and_then(Registry::next_deadline);
        let now = now();
        let pause = deadline.map_or(Duration::from_secs(1), |at| at.since(now));
        if process.claims.inputs.lock().is_empty() {
            let _ = timeout(pause, process.claims.wake.notified()).await;
        }
        let inputs = std::mem::take(&mut *process.claims.inputs.lock());
        let mut guard = process.registry.lock();
        let Some(registry) = guard.as_mut() else { return };
        let mut driver = Driver { process: &process, registry, requests: &mut requests };
        inputs.into_iter().for_each(|input| driver.handle(input));
        let now = self::now();
        if driver.registry.next_deadline().is_some_and(|at| at <= now) {
            driver.registry.handle_deadline(now);
        }
        while let Some(output) = driver.registry.poll_output() {
            driver.carry_out(output);
        }
    }
}

async fn wait_for_shards(process: &Process) -> Option<u16> {
    loop {
        if let Some(cluster) = process.meta.state().read().cluster() {
            return Some(cluster.shards);
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// The time of this node.
pub fn now() -> Timestamp {
    Timestamp::from_millis(u64::try_from(turmoil::elapsed().as_millis()).unwrap_or(u64::MAX))
}

struct Driver<'a> {
    process: &'a Arc<Process>,
    registry: &'a mut Registry,
    requests: &'a mut u64,
}

impl Driver<'_> {
    fn handle(&mut self, input: Input) {
        match input {
            Input::Claim(client) => {
                *self.requests += 1;
                let id = RequestId(*self.requests);
                self.registry.claim(now(), id, &client);
                self.process.requests.lock().insert(id, client);
            }
            Input::Release(client, tenure) => self.registry.release(&client, tenure),
            Input::Closed(client, epoch) => self.registry.handle_closed(&client, epoch),
            Input::Message(from, bytes) => {
                if let Err(error) = self.registry.handle_message(from, &bytes) {
                    self.wrong(&format_args!("a message of {from} is not understood: {error}"));
                }
            }
            Input::View(view) => self.registry.handle_view(view),
            Input::Read(index) => self.registry.handle_read(index),
            Input::Admitted(me) => self.registry.handle_admitted(me),
            Input::Fenced => self.registry.handle_fenced(),
        }
    }

    fn carry_out(&mut self, output: Output) {
        let process = self.process;
        match output {
            Output::Send { to, bytes } => {
                process.send(
                    to,
                    CONTROL,
                    &Frame::Control { kind: Control::Registry as u8, bytes: &bytes },
                    None,
                );
            }
            Output::Granted { request, client, tenure } => self.grant(request, client, tenure),
            Output::Refused { request, refusal } => {
                process.requests.lock().remove(&request);
                process.note(format_args!("refuses {request:?}: {refusal:?}"));
            }
            Output::Close { client, epoch } => {
                process.note(format_args!("gives {client} up"));
                let mut desk = process.desk.lock();
                let tenure = desk.tenure(&client).filter(|tenure| tenure.epoch <= epoch);
                if let Some(tenure) = tenure {
                    desk.remove(&client);
                    process.wake.notify_one();
                    process.claims.put(Input::Release(client.clone(), tenure));
                }
                process.claims.put(Input::Closed(client, epoch));
            }
            Output::Discard { client, tenure } => {
                let mut desk = process.desk.lock();
                if desk.tenure(&client).is_some_and(|own| own <= tenure) {
                    process.note(format_args!("discards {client}"));
                    desk.remove(&client);
                    process.wake.notify_one();
                }
            }
        }
    }

    fn grant(&mut self, id: RequestId, client: ClientId, tenure: Tenure) {
        let process = self.process;
        if process.requests.lock().remove(&id).is_none() {
            return self.wrong(&format_args!("{id:?} is granted, and does not wait"));
        }
        process.note(format_args!("serves {client} as {:?}.{}", tenure.epoch, tenure.turn));
        // Whatever connection it had here ends with that.
        process.desk.lock().insert(client, tenure);
        process.wake.notify_one();
    }

    fn wrong(&self, what: &dyn std::fmt::Display) {
        self.process.shared().check(Err(format!("{}: {what}", self.process.node.name)));
    }
}
