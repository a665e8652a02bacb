//! The receiving side: the service that peers open their lanes at.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use flotilla_lane::{Arrival, Batch, LaneId, Receiver, Sequence};
use flotilla_rpc::lanes as rpc;
use flotilla_state::Member;
use futures_util::{Stream, task::AtomicWaker};
use parking_lot::Mutex;
use rpc::{lane_down, lane_up};
use tokio::time::{Sleep, sleep, timeout};
use tonic::{Request, Response, Status, Streaming};

use super::{Counters, LaneEvents, Shared};
use crate::peers::Caller;

/// The gRPC service: see [`Lanes::service`](super::Lanes::service).
pub struct LaneService<E: LaneEvents>(Arc<Shared<E>>);

/// Stands for a batch that was received: when it is dropped the batch counts as taken, and its sender is told.
///
/// It may be kept, and dropped on any thread; several that share the work on a batch share its receipt in an `Arc`. Dropped
/// by a panic, it leaves the batch untaken, for nobody can answer for it.
#[must_use = "the batch is taken when this is dropped"]
pub struct Receipt {
    incoming: Arc<Incoming>,
    sequence: Sequence,
}

/// One lane from another member, across its connections.
pub(super) struct Incoming {
    /// Which connection is the present one; held while a batch is handed over, so that batches of the next connection come
    /// after it.
    present: Mutex<u64>,
    receiver: Mutex<Receiver>,
    /// Whoever serves the present connection.
    waker: AtomicWaker,
    has_ended: AtomicBool,
}

/// One connection of a lane from another member: takes batches in while it gives acknowledgements out.
pub struct Answers<E: LaneEvents> {
    shared: Arc<Shared<E>>,
    incoming: Arc<Incoming>,
    from: Member,
    lane: LaneId,
    batches: Streaming<rpc::LaneUp>,
    connection: u64,
    resume: Option<Sequence>,
    /// Batches and bytes since the last acknowledgement.
    unacknowledged: (usize, usize),
    /// Runs while something may not be acknowledged yet.
    withheld: Option<Pin<Box<Sleep>>>,
}

impl<E: LaneEvents> LaneService<E> {
    pub(super) const fn new(shared: Arc<Shared<E>>) -> Self {
        Self(shared)
    }

    /// The lane that the peer wants to connect, if both live.
    fn admit(
        &self,
        hello: Option<&rpc::LaneUp>,
        caller: Option<Caller>,
    ) -> Result<(Member, LaneId, Arc<Incoming>), Status> {
        let malformed = || {
            Counters::add(&self.0.counters.refused_malformed, 1);
            Status::invalid_argument("the first message is a hello with a lane and two members")
        };
        let Some(rpc::LaneUp { kind: Some(lane_up::Kind::Hello(hello)) }) = hello else {
            return Err(malformed());
        };
        let lane = u8::try_from(hello.lane).ok().and_then(LaneId::new);
        let (Some(lane), Some(from), Some(to)) = (lane, hello.from, hello.to) else {
            return Err(malformed());
        };
        let (from, to) = (super::member_from_rpc(from), super::member_from_rpc(to));
        if caller.is_some_and(|caller| caller.node != from.node) {
            Counters::add(&self.0.counters.refused_malformed, 1);
            return Err(Status::permission_denied("a node opens only lanes from itself"));
        }
        let mut table = self.0.table.write();
        if table.me != Some(to) || !table.live.contains(&from) {
            drop(table);
            Counters::add(&self.0.counters.refused_stale, 1);
            tracing::debug!(%from, %to, %lane, "lane of another life refused");
            return Err(Status::failed_precondition("one of the two is not, or not yet, known in this life"));
        }
        let incoming = table.incoming.entry((from, lane)).or_insert_with(|| Arc::new(Incoming::new()));
        Ok((from, lane, Arc::clone(incoming)))
    }
}

#[tonic::async_trait]
impl<E: LaneEvents> rpc::lanes_server::Lanes for LaneService<E> {
    type OpenStream = Answers<E>;

    async fn open(&self, request: Request<Streaming<rpc::LaneUp>>) -> Result<Response<Answers<E>>, Status> {
        // There is none in a server without a gate, as in tests.
        let caller = request.extensions().get::<Caller>().copied();
        let mut batches = request.into_inner();
        let hello = timeout(self.0.options.open_timeout, batches.message()).await;
        let hello = hello.map_err(|_| Status::deadline_exceeded("there was no hello"))??;
        let (from, lane, incoming) = self.admit(hello.as_ref(), caller)?;
        let (connection, resume_after) = incoming.begin();
        Ok(Response::new(Answers {
            shared: Arc::clone(&self.0),
            incoming,
            from,
            lane,
            batches,
            connection,
            resume: Some(resume_after),
            unacknowledged: (0, 0),
            withheld: None,
        }))
    }
}

impl Incoming {
    fn new() -> Self {
        let (present, receiver) = (Mutex::new(0), Mutex::new(Receiver::new()));
        Self { present, receiver, waker: AtomicWaker::new(), has_ended: AtomicBool::new(false) }
    }

    /// Makes another connection the present one; returns where its sender has to go on.
    fn begin(&self) -> (u64, Sequence) {
        let mut present = self.present.lock();
        *present += 1;
        let begun = (*present, self.receiver.lock().resume_point());
        drop(present);
        // The connection before it notices.
        self.waker.wake();
        begun
    }

    /// The lane has ended. Does not wait for a batch that is being handed over: whoever takes it may wait for something
    /// that the caller holds.
    pub(super) fn end(&self) {
        self.has_ended.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Whether `connection`, which is the `present` one or is not, still serves this lane.
    fn is_served_by(&self, connection: u64, present: u64) -> bool {
        connection == present && !self.has_ended.load(Ordering::Acquire)
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.incoming.receiver.lock().taken(self.sequence);
            self.incoming.waker.wake();
        }
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Receipt").field(&self.sequence.0).finish()
    }
}

impl<E: LaneEvents> Stream for Answers<E> {
    type Item = Result<rpc::LaneDown, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if !this.register(context) {
            return Poll::Ready(Some(Err(Status::aborted("the lane has ended or has another connection"))));
        }
        if let Some(after) = this.resume.take() {
            let resume = lane_down::Kind::Resume(rpc::Resume { after: after.0 });
            return Poll::Ready(Some(Ok(rpc::LaneDown { kind: Some(resume) })));
        }
        // Acknowledgements wait while batches come in, but not for long: the sender's window must move.
        while this.reads_on() {
            match Pin::new(&mut this.batches).poll_next(context) {
                Poll::Ready(Some(Ok(message))) => {
                    if let Err(status) = this.handle(message) {
                        return Poll::Ready(Some(Err(status)));
                    }
                }
                Poll::Ready(Some(Err(status))) => return Poll::Ready(Some(Err(status))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => break,
            }
        }
        this.poll_ack(context)
    }
}

impl<E: LaneEvents> Answers<E> {
    /// Asks to be woken when something is taken; `false`: this is not the present connection any more.
    fn register(&self, context: &Context<'_>) -> bool {
        // Under the lock, so that it never takes the place of its successor.
        let present = self.incoming.present.lock();
        if *present == self.connection {
            self.incoming.waker.register(context.waker());
        }
        // Asked after that, so that an end in between is not missed.
        self.incoming.is_served_by(self.connection, *present)
    }

    /// Whether to read another batch now.
    fn reads_on(&self) -> bool {
        let receiver = self.incoming.receiver.lock();
        let waits_long = self.unacknowledged.0 >= ACK_BATCHES || self.unacknowledged.1 >= ACK_BYTES;
        let must_acknowledge = waits_long && receiver.ack_due().is_some();
        receiver.is_ready(self.shared.options.untaken_max) && !must_acknowledge
    }

    /// Takes a batch in.
    fn handle(&mut self, message: rpc::LaneUp) -> Result<(), Status> {
        let Some(lane_up::Kind::Batch(batch)) = message.kind else {
            return Err(self.refuse(&"a message has no batch"));
        };
        let sequence = Sequence(batch.sequence);
        // Before anything changes: the lane stays where it is when the bytes are no batch.
        let batch = Batch::decode(batch.frames).map_err(|error| self.refuse(&error))?;
        let present = self.incoming.present.lock();
        if !self.incoming.is_served_by(self.connection, *present) {
            return Err(Status::aborted("the lane has ended or has another connection"));
        }
        let arrival = self.incoming.receiver.lock().handle_batch(sequence);
        let counters = &self.shared.counters;
        match arrival {
            Arrival::Fresh => {
                self.unacknowledged.0 += 1;
                self.unacknowledged.1 += batch.size();
                Counters::add(&counters.batches_received, 1);
                Counters::add(&counters.bytes_received, batch.size());
                let receipt = Receipt { incoming: Arc::clone(&self.incoming), sequence };
                self.shared.events.received(self.from, self.lane, batch, receipt);
                Ok(())
            }
            Arrival::Repeat => {
                Counters::add(&counters.batches_repeated, 1);
                Ok(())
            }
            Arrival::Gap { expected } => {
                drop(present);
                Err(self.refuse(&format_args!("batch {sequence} came, and batch {expected} had to")))
            }
        }
    }

    /// The next acknowledgement, if one is due and may be given.
    fn poll_ack(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<rpc::LaneDown, Status>>> {
        loop {
            if self.incoming.receiver.lock().ack_due().is_none() {
                self.withheld = None;
                return Poll::Pending;
            }
            if self.shared.events.may_acknowledge() {
                break;
            }
            // The lease may be renewed, and nobody says so.
            let withheld = self.withheld.get_or_insert_with(|| Box::pin(sleep(WITHHELD_RETRY)));
            if withheld.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.withheld = None;
        }
        let mut receiver = self.incoming.receiver.lock();
        let Some(upto) = receiver.ack_due() else { return Poll::Pending };
        receiver.handle_acked(upto);
        drop(receiver);
        (self.unacknowledged, self.withheld) = ((0, 0), None);
        let ack = lane_down::Kind::Ack(rpc::Ack { upto: upto.0 });
        Poll::Ready(Some(Ok(rpc::LaneDown { kind: Some(ack) })))
    }

    fn refuse(&self, error: &dyn fmt::Display) -> Status {
        Counters::add(&self.shared.counters.refused_malformed, 1);
        tracing::warn!(from = %self.from, lane = %self.lane, %error, "batch refused");
        Status::invalid_argument(error.to_string())
    }
}

/// After so many batches the sender is told what was taken, though more could be read.
const ACK_BATCHES: usize = 16;
/// And after so many bytes: a part of the window.
const ACK_BYTES: usize = 256 << 10;
/// How long an acknowledgement that may not be given waits before it is tried again.
const WITHHELD_RETRY: Duration = Duration::from_millis(100);
