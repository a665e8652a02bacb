//! The sending side: one peer with its lanes, and the task that keeps a lane connected.

use std::{
    collections::BTreeSet,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use flotilla_lane::{Batch, Change, Congestion, LANES, LaneId, ProtocolError, Sender, Sequence};
use flotilla_rpc::lanes as rpc;
use futures_util::{Stream, task::AtomicWaker};
use parking_lot::Mutex;
use rpc::{lane_down, lane_up, lanes_client::LanesClient};
use tokio::{sync::Notify, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{Counters, LaneEvents, LaneOptions, Sent, Shared, Untaken};
use crate::{clock, random::random};
use flotilla_state::Member;

/// Another member, as one that we send to.
pub(super) struct Peer<D> {
    from: Member,
    to: Member,
    lanes: [Lane<D>; LANES as usize],
    /// What waits in all lanes.
    congestion: Mutex<Congestion>,
    broken: Mutex<Broken>,
    ended: CancellationToken,
}

/// The lanes that have lost their connection, or got none, and are not connected again.
#[derive(Default)]
struct Broken {
    lanes: BTreeSet<LaneId>,
    /// Since when there are any.
    since: Option<Instant>,
}

struct Lane<D> {
    /// `None`: the peer's life has ended.
    state: Mutex<Option<State<D>>>,
    /// Whoever pulls batches for the present connection.
    waker: AtomicWaker,
    /// There is something to send.
    work: Notify,
}

struct State<D> {
    sender: Sender<D>,
    /// Which connection is the present one: an older one that still runs must not pull.
    connection: u64,
    has_task: bool,
}

/// Why a connection of a lane has ended.
#[derive(Debug, thiserror::Error)]
enum LaneError {
    #[error("the address of the node is not known")]
    Unknown,
    #[error("the peer did not answer in time")]
    Timeout,
    #[error("the peer refused or the connection broke: {}", .0.message())]
    Status(#[from] tonic::Status),
    #[error("the peer ended the stream")]
    Closed,
    #[error("the peer said something that has no place there")]
    Unexpected,
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
}

impl<D: Send + 'static> Peer<D> {
    pub(super) fn new(from: Member, to: Member, options: &LaneOptions) -> Self {
        let lanes = std::array::from_fn(|_| {
            let state = State { sender: Sender::new(options.window), connection: 0, has_task: false };
            Lane { state: Mutex::new(Some(state)), waker: AtomicWaker::new(), work: Notify::new() }
        });
        let congestion = Mutex::new(Congestion::new(options.queue_bytes_high));
        let broken = Mutex::default();
        Self { from, to, lanes, congestion, broken, ended: CancellationToken::new() }
    }

    pub(super) fn send<E: LaneEvents<Done = D>>(
        self: Arc<Self>,
        shared: &Arc<Shared<E>>,
        lane_id: LaneId,
        batch: Batch,
        done: Vec<D>,
    ) -> Result<Sent, Box<Untaken<D>>> {
        let lane = &self.lanes[lane_id.index()];
        let mut guard = lane.state.lock();
        let Some(state) = guard.as_mut() else {
            return Err(Box::new(Untaken { lane: lane_id, batch, done }));
        };
        let (was_idle, before) = (state.sender.is_idle(), state.sender.queued_bytes());
        state.sender.enqueue(batch, done);
        let is_congested = {
            let mut congestion = self.congestion.lock();
            congestion.add(state.sender.queued_bytes() - before);
            congestion.is_congested()
        };
        let is_new = !std::mem::replace(&mut state.has_task, true);
        drop(guard);
        lane.waker.wake();
        if was_idle {
            lane.work.notify_one();
        }
        if is_new {
            let shared_too = Arc::clone(shared);
            shared.runtime.spawn(async move {
                let ended = self.ended.clone();
                // Whatever it is doing, nothing is left to do when the peer's life has ended.
                ended.run_until_cancelled_owned(keep_connected(shared_too, self, lane_id)).await;
            });
        }
        Ok(if is_congested { Sent::Congested } else { Sent::Queued })
    }

    pub(super) fn is_congested(&self) -> bool {
        self.congestion.lock().is_congested()
    }

    pub(super) fn queued_bytes(&self) -> usize {
        self.congestion.lock().bytes()
    }

    /// Since when a lane has no connection that had one or should have.
    pub(super) fn broken_since(&self) -> Option<Instant> {
        self.broken.lock().since
    }

    /// An operator is told once, however many lanes there are and however often they are tried.
    fn note_broken(&self, lane: LaneId, error: &LaneError) {
        let mut broken = self.broken.lock();
        broken.lanes.insert(lane);
        if broken.since.is_none() {
            broken.since = Some(clock::now());
            tracing::info!(to = %self.to, %error, "the connection to another node is broken");
        }
    }

    fn note_connected(&self, lane: LaneId) {
        let mut broken = self.broken.lock();
        broken.lanes.remove(&lane);
        if broken.lanes.is_empty()
            && let Some(since) = broken.since.take()
        {
            tracing::info!(to = %self.to, broken_for = ?clock::since(since), "connected to another node again");
        }
    }

    /// Ends all lanes; what was not taken is the caller's.
    pub(super) fn end(&self) -> Vec<Untaken<D>> {
        self.ended.cancel();
        let mut untaken = Vec::new();
        for (lane_id, lane) in LaneId::all().zip(&self.lanes) {
            let Some(state) = lane.state.lock().take() else { continue };
            lane.waker.wake();
            let batches = state.sender.into_untaken();
            untaken.extend(batches.map(|(batch, done)| Untaken { lane: lane_id, batch, done }));
        }
        untaken
    }

    fn lane(&self, lane: LaneId) -> &Lane<D> {
        &self.lanes[lane.index()]
    }
}

/// Connects a lane as soon as there is something to send, and again whenever its connection breaks: so it is known whether the
/// peer can be reached, also while there is nothing to say.
async fn keep_connected<E: LaneEvents>(shared: Arc<Shared<E>>, peer: Arc<Peer<E::Done>>, lane: LaneId) {
    let mut backoff = Backoff::new(shared.options.backoff);
    peer.lane(lane).has_work().await;
    loop {
        let Err(error) = connection(&shared, &peer, lane, &mut backoff).await;
        peer.lane(lane).disconnect();
        Counters::add(&shared.counters.disconnected, 1);
        let pause = backoff.next();
        tracing::debug!(to = %peer.to, %lane, %error, ?pause, "lane disconnected");
        if !is_answer(&error) {
            peer.note_broken(lane, &error);
        }
        tokio::time::sleep(pause).await;
    }
}

/// The peer can be reached, but has not heard of us yet, or we have not heard of its end: ordinary, and soon over.
fn is_answer(error: &LaneError) -> bool {
    let answers = [tonic::Code::FailedPrecondition, tonic::Code::Aborted];
    matches!(error, LaneError::Status(status) if answers.contains(&status.code()))
}

/// Serves one connection of a lane until it ends.
async fn connection<E: LaneEvents>(
    shared: &Arc<Shared<E>>,
    peer: &Arc<Peer<E::Done>>,
    lane: LaneId,
    backoff: &mut Backoff,
) -> Result<std::convert::Infallible, LaneError> {
    let channel = shared.channels.channel(peer.to.node, lane).ok_or(LaneError::Unknown)?;
    let limit = shared.options.message_bytes_max();
    let mut client =
        LanesClient::new(channel).max_decoding_message_size(limit).max_encoding_message_size(limit);
    let outgoing = Outgoing::new(Arc::clone(shared), Arc::clone(peer), lane).ok_or(LaneError::Closed)?;
    let opened = async {
        let mut answers = client.open(outgoing).await?.into_inner();
        let first = answers.message().await?;
        Ok::<_, LaneError>((answers, first))
    };
    let opened = timeout(shared.options.open_timeout, opened).await;
    let (mut answers, first) = opened.map_err(|_| LaneError::Timeout)??;
    let Some(rpc::LaneDown { kind: Some(lane_down::Kind::Resume(resume)) }) = first else {
        return Err(LaneError::Unexpected);
    };
    peer.lane(lane).connect(Sequence(resume.after))?;
    peer.note_connected(lane);
    Counters::add(&shared.counters.connected, 1);
    tracing::debug!(to = %peer.to, %lane, resume.after, "lane connected");
    let mut done = Vec::new();
    loop {
        match answers.message().await?.ok_or(LaneError::Closed)?.kind {
            Some(lane_down::Kind::Ack(ack)) => {
                if handle_ack(shared, peer, lane, Sequence(ack.upto), &mut done)? {
                    // Only now: a lane that breaks before anything was taken may break again for the same reason.
                    backoff.reset();
                }
            }
            _ => return Err(LaneError::Unexpected),
        }
    }
}

/// Returns whether something was taken that had not been.
fn handle_ack<E: LaneEvents>(
    shared: &Shared<E>,
    peer: &Peer<E::Done>,
    lane_id: LaneId,
    upto: Sequence,
    done: &mut Vec<E::Done>,
) -> Result<bool, LaneError> {
    let lane = peer.lane(lane_id);
    let bytes = {
        let mut guard = lane.state.lock();
        let state = guard.as_mut().ok_or(LaneError::Closed)?;
        state.sender.handle_ack(upto, done)?
    };
    // The window may be open again.
    lane.waker.wake();
    let change = peer.congestion.lock().remove(bytes);
    if !done.is_empty() {
        shared.events.taken(peer.to, lane_id, std::mem::take(done));
    }
    if change == Change::Decongested {
        shared.events.decongested(peer.to);
    }
    Ok(bytes > 0)
}

impl<D> Lane<D> {
    /// Waits until something waits to be taken.
    async fn has_work(&self) {
        while self.state.lock().as_ref().is_some_and(|state| state.sender.is_idle()) {
            self.work.notified().await;
        }
    }

    /// Makes another connection the present one; `None`: the lane has ended.
    fn begin(&self) -> Option<u64> {
        let mut guard = self.state.lock();
        let state = guard.as_mut()?;
        state.connection += 1;
        state.sender.handle_disconnected();
        Some(state.connection)
    }

    fn connect(&self, resume_after: Sequence) -> Result<(), LaneError> {
        let mut guard = self.state.lock();
        guard.as_mut().ok_or(LaneError::Closed)?.sender.handle_connected(resume_after)?;
        drop(guard);
        self.waker.wake();
        Ok(())
    }

    fn disconnect(&self) {
        let _ = self.begin();
        // Whoever pulls for the connection that has ended notices.
        self.waker.wake();
    }
}

/// What goes up a stream: the greeting, then batches, pulled when the connection has room for them.
struct Outgoing<E: LaneEvents> {
    shared: Arc<Shared<E>>,
    peer: Arc<Peer<E::Done>>,
    lane: LaneId,
    connection: u64,
    greeting: Option<rpc::Hello>,
}

impl<E: LaneEvents> Outgoing<E> {
    fn new(shared: Arc<Shared<E>>, peer: Arc<Peer<E::Done>>, lane: LaneId) -> Option<Self> {
        let connection = peer.lane(lane).begin()?;
        let greeting = Some(rpc::Hello {
            from: Some(super::member_to_rpc(peer.from)),
            to: Some(super::member_to_rpc(peer.to)),
            lane: u32::from(lane.number()),
        });
        Some(Self { shared, peer, lane, connection, greeting })
    }
}

impl<E: LaneEvents> Stream for Outgoing<E> {
    type Item = rpc::LaneUp;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<rpc::LaneUp>> {
        let this = self.get_mut();
        if let Some(hello) = this.greeting.take() {
            return Poll::Ready(Some(rpc::LaneUp { kind: Some(lane_up::Kind::Hello(hello)) }));
        }
        let lane = this.peer.lane(this.lane);
        let mut guard = lane.state.lock();
        let Some(state) = guard.as_mut().filter(|state| state.connection == this.connection) else {
            return Poll::Ready(None);
        };
        let Some((sequence, frames)) = state.sender.poll_transmit() else {
            // Under the lock, so that a connection that is no longer the present one never takes its successor's place.
            lane.waker.register(context.waker());
            return Poll::Pending;
        };
        drop(guard);
        Counters::add(&this.shared.counters.batches_sent, 1);
        Counters::add(&this.shared.counters.bytes_sent, frames.len());
        let batch = rpc::Batch { sequence: sequence.0, frames };
        Poll::Ready(Some(rpc::LaneUp { kind: Some(lane_up::Kind::Batch(batch)) }))
    }
}

/// Pauses that grow with each failure, and are different everywhere, so that peers do not come back all at once.
struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    const fn new((min, max): (Duration, Duration)) -> Self {
        Self { min, max, next: min }
    }

    const fn reset(&mut self) {
        self.next = self.min;
    }

    fn next(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.max);
        pause.mul_f64(0.5 + random::<f64>() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_start_again() {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::new((min, max));
        let check = |backoff: &mut Backoff, longest: u64| {
            let longest = Duration::from_millis(longest);
            let pause = backoff.next();
            assert!(pause >= longest / 2 && pause <= longest, "{pause:?}");
        };
        for longest in [100, 200, 400, 800, 1_000, 1_000] {
            check(&mut backoff, longest);
        }
        backoff.reset();
        check(&mut backoff, 100);
    }
}
