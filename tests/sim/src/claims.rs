//! Who serves which client: the registry of a node at work.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use flotilla_lane::{CONTROL, Frame, lane_of};
use flotilla_mqtt::{Timestamp, session::ClientId};
use flotilla_registry::{Limits, Output, Registry, RequestId, Source, Tenure, View};
use flotilla_state::{ConnectionEpoch, LogIndex, Member, ShardRing};
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use crate::{
    desk::{Session, filters_of},
    node::{Control, Process},
};

/// What the registry is to be told, in order.
#[derive(Default)]
pub struct Mailbox {
    inputs: Mutex<VecDeque<Input>>,
    wake: Notify,
}

/// How a client connects.
#[derive(Debug, Clone)]
pub struct Request {
    /// The client.
    pub client: ClientId,
    /// Clean Start.
    pub clean: bool,
    /// Whether its session outlives the connection.
    pub persistent: bool,
}

/// One thing that the registry is to be told.
pub enum Input {
    /// A client connects.
    Claim(Request),
    /// A session has ended.
    Release(ClientId, Tenure),
    /// A session was exported, or was none.
    Exported(ClientId, ConnectionEpoch, Option<Bytes>),
    /// The routes of an imported session are in force.
    Settle(ClientId, ConnectionEpoch, LogIndex),
    /// The last message of a stub has come, or was sent.
    StubEnded(ClientId, ConnectionEpoch),
    /// Another node's registry says something.
    Message(Member, Bytes),
    /// The cluster has changed.
    View(View),
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
        let now = now();
        match input {
            Input::Claim(request) => {
                *self.requests += 1;
                let id = RequestId(*self.requests);
                self.registry.claim(now, id, &request.client, request.clean, None);
                self.process.requests.lock().insert(id, request);
            }
            Input::Release(client, tenure) => self.registry.release(now, &client, tenure),
            Input::Exported(client, epoch, session) => {
                self.registry.handle_exported(now, &client, epoch, session);
            }
            Input::Settle(client, epoch, index) => self.registry.settle(now, &client, epoch, index),
            Input::StubEnded(client, epoch) => self.registry.handle_stub_ended(&client, epoch),
            Input::Message(from, bytes) => {
                if let Err(error) = self.registry.handle_message(now, from, &bytes) {
                    self.wrong(&format_args!("a message of {from} is not understood: {error}"));
                }
            }
            Input::View(view) => self.registry.handle_view(now, view),
            Input::Admitted(me) => self.registry.handle_admitted(now, me),
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
            Output::Granted { request, client, tenure, source } => {
                self.grant(request, client, tenure, source)
            }
            Output::Refused { request, refusal } => {
                process.requests.lock().remove(&request);
                process.note(format_args!("refuses {request:?}: {refusal:?}"));
            }
            Output::Export { client, epoch, discard, .. } => self.export(&client, epoch, discard),
            Output::TakeBack { client, epoch } => {
                process.note(format_args!("takes {client} back"));
                if let Err(what) = process.desk.lock().take_back(client.clone(), epoch) {
                    self.wrong(&format_args!("{client} is to be taken back, and {what}"));
                }
            }
            Output::Taken { client, epoch } => process.desk.lock().taken(client, epoch),
            Output::Settle { client, epoch, to, .. } => {
                let process = Arc::clone(process);
                tokio::spawn(async move { end_stub(&process, client, epoch, to).await });
            }
            Output::StubVoid { client, epoch } => {
                process.desk.lock().end_stub(client, epoch);
                process.wake.notify_one();
            }
            Output::Discard { client, tenure } => {
                let mut desk = process.desk.lock();
                if desk.session(&client).is_some_and(|session| session.tenure <= tenure) {
                    process.note(format_args!("discards {client}"));
                    desk.remove(&client);
                    process.wake.notify_one();
                }
            }
            // No client has a will.
            Output::PublishWill { .. } => self.wrong(&"a will is to be published"),
        }
    }

    fn export(&mut self, client: &ClientId, epoch: ConnectionEpoch, discard: bool) {
        let exported = self.process.desk.lock().export(client, epoch, discard);
        self.process.note(format_args!("hands {client} over"));
        let bytes = match exported {
            None => None,
            Some((session, None)) => {
                self.process.claims.put(Input::Release(client.clone(), session.tenure));
                None
            }
            Some((_, bytes)) => bytes,
        };
        self.process.wake.notify_one();
        self.process.claims.put(Input::Exported(client.clone(), epoch, bytes));
    }

    fn grant(&mut self, id: RequestId, client: ClientId, tenure: Tenure, source: Source) {
        let process = self.process;
        let Some(request) = process.requests.lock().remove(&id) else {
            return self.wrong(&format_args!("{id:?} is granted, and does not wait"));
        };
        let mut desk = process.desk.lock();
        let before = desk.session(&client).cloned();
        let is_elsewhere = !matches!(source, Source::Here);
        let filters = match source {
            Source::Nowhere => BTreeSet::new(),
            Source::Here => {
                let ends = |before: &Session| request.clean || before.is_connected && !before.is_persistent;
                if let Some(ended) = before.as_ref().filter(|before| ends(before)) {
                    desk.remove(&client);
                    process.claims.put(Input::Release(client.clone(), ended.tenure));
                    BTreeSet::new()
                } else {
                    before.as_ref().map(|before| before.filters.clone()).unwrap_or_default()
                }
            }
            Source::Elsewhere { session, .. } => {
                desk.insert(
                    client.clone(),
                    Session {
                        tenure,
                        is_connected: true,
                        is_persistent: true,
                        filters: filters_of(&session),
                    },
                );
                desk.settle(client.clone(), tenure.epoch);
                let now = now();
                self.registry.handle_imported(now, &client, tenure);
                filters_of(&session)
            }
        };
        let session = Session { tenure, is_connected: true, is_persistent: request.persistent, filters };
        desk.insert(client.clone(), session);
        drop(desk);
        process.wake.notify_one();
        process.note(format_args!("serves {client} as {:?}.{}", tenure.epoch, tenure.turn));
        if is_elsewhere && before.is_some() {
            self.wrong(&format_args!("{client} comes from elsewhere, and its session is here"));
        }
    }

    fn wrong(&self, what: &dyn std::fmt::Display) {
        self.process.shared().check(Err(format!("{}: {what}", self.process.node.name)));
    }
}

/// Ends a stub, a little later than the routes of the new owner are in force: a broker asks all nodes whether they know.
async fn end_stub(process: &Process, client: ClientId, epoch: ConnectionEpoch, to: Member) {
    sleep(Duration::from_millis(50)).await;
    process.desk.lock().end_stub(client.clone(), epoch);
    process.wake.notify_one();
    process.send(
        to,
        lane_of(client.as_str().as_bytes()),
        &Frame::EndOfStub { client_id: client.as_str(), epoch },
        None,
    );
    process.claims.put(Input::StubEnded(client, epoch));
}
