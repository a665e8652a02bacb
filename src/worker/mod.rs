//! One thread with its connections and sessions.
//!
//! A worker is a single-threaded runtime that owns everything it touches for a message: the sessions, their sockets and
//! their send buffers. A publish is written straight into the send buffers of the subscribers on the same worker; for
//! those on another one it goes into a [`Batch`], which is handed over once per turn of the loop. Sockets are
//! written once per turn too, by the flusher, which runs after all connections that had something to read, or a millisecond late.
//! What thousands may want at once, to begin or to end, is done a few at a time (`turns`).
//!
//! All of it is synchronous: a task borrows the [`Worker`], does what there is to do, and returns. Nothing awaits
//! while it holds the borrow.

mod bans;
mod connection;
mod delivery;
mod events;
mod flush;
mod forward;
mod guard;
mod kept;
mod lifecycle;
mod link;
mod list;
mod mailbox;
mod memory;
mod opening;
mod orders;
mod publish;
mod replay;
mod sessions;
mod subscribe;
mod timers;
mod turns;
mod wills;

pub(crate) use connection::Peer;
pub(crate) use delivery::TRIES_MAX;
pub(crate) use kept::KeptDelivery;
pub(crate) use mailbox::{Batch, ClientsPage, ClientsQuery, Event, Mailbox, Receivers};
pub(crate) use opening::spawn as serve;
pub(crate) use orders::Order;

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    io,
    rc::Rc,
    sync::Arc,
    task::Waker,
};

use flotilla_mqtt::{PacketId, ReasonCode, Timestamp};
use flotilla_state::{NodeId, ShardId};
use tokio::{
    runtime::Runtime,
    task::{JoinSet, LocalSet},
};

use self::{
    connection::LinkRef,
    forward::{Outgoing, Storing},
    sessions::Sessions,
    timers::Wheel,
};
use crate::{
    cluster::Completion,
    listener::Acceptor,
    metrics::Metrics,
    node::Node,
    overload::{self, Level},
    router::{MatchCache, SessionRef},
    sys,
};

/// A worker as its tasks hold it.
#[derive(Debug)]
pub(crate) struct WorkerCell {
    worker: RefCell<Worker>,
    /// What sockets are read into.
    scratch: RefCell<Box<[u8]>>,
    /// Connections that are being seen off.
    in_passing: Cell<usize>,
}

/// One thread's share of the broker.
#[derive(Debug)]
pub(crate) struct Worker {
    id: u16,
    node: Arc<Node>,
    /// The time at which the current task began.
    now: Timestamp,
    sessions: Sessions,
    timers: Wheel,
    cache: MatchCache,
    /// What other threads want, taken from the mailbox and not handled yet.
    events: VecDeque<Event>,
    /// Deliveries that the current turn of a connection has caused, here or on other workers.
    deliveries: usize,
    /// Messages for the other workers, by worker.
    outbound: Box<[Batch]>,
    /// Messages for other nodes.
    outgoing: Vec<Outgoing>,
    /// What has to be done by more than one other node before it is complete, and by how many.
    outstanding: HashMap<Completion, u32>,
    /// Connections that begin and sessions that end, a few at a time.
    turns: turns::Turns,
    /// Wills of shards that are on their way.
    wills: wills::Wills,
    /// Sessions whose send buffer has something new.
    dirty: Vec<u32>,
    /// Sessions that wait for their turn to get more retained messages.
    replaying: VecDeque<SessionRef>,
    /// Sessions that wait until their shards take more retained messages for them.
    held_up: Vec<SessionRef>,
    /// How many of these may be on their way for one of them.
    direct_limits: replay::DirectLimits,
    /// SUBACKs that wait for look-ups, and for how long.
    impatient: VecDeque<(Timestamp, SessionRef, PacketId)>,
    /// Wakes the task that gives it to them.
    replayer: Option<Waker>,
    /// Wakes the flusher; `None`: it has been woken.
    flusher: Option<Waker>,
    /// When it was woken, or what it has to do was last done for it.
    flush_due: Timestamp,
    /// Messages for shards.
    storing: Vec<Storing>,
    /// Kept sessions whose clients have said something in this turn.
    kept_dirty: Vec<u32>,
    /// Who the current turn of a connection has sent to, and that does not keep up.
    slow: Option<Slow>,
    /// How short memory is.
    memory: Level,
    /// Connections that do not read because another worker or node is congested, or memory is short.
    throttled: Vec<LinkRef>,
    /// Storage for send buffers.
    spare: flush::SparePool,
    /// Where forwarded properties are put together.
    properties: Vec<u8>,
    random: Random,
    /// The bans that all connections have been held against, see [`crate::bans::Bans::generation`].
    bans_enforced: u64,
    /// Why the worker is stopping.
    stopping: Option<ReasonCode>,
    /// Closed connections whose last bytes have still to be written.
    closing: Vec<link::Farewell>,
    /// Wakes the task that sees closed connections off.
    closer: Option<Waker>,
}

/// Somebody who does not keep up with what is sent to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slow {
    Node(NodeId),
    Shard(ShardId),
}

/// Bytes that one read takes at most.
const READ_SIZE: usize = 128 << 10;

/// The runtime of a worker.
///
/// # Errors
/// The system is out of file descriptors.
pub(crate) fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Runs a worker until it is told to stop and its clients have been told.
pub(crate) fn run(runtime: &Runtime, node: Arc<Node>, id: u16, acceptors: Vec<Acceptor>) -> io::Result<()> {
    let tells_of_cluster = id == 0 && node.config.cluster.listen.is_some();
    let watches_memory = id == 0;
    let publishes_values = id == 0 && node.config.sys.interval.is_some();
    let cell = Rc::new(WorkerCell {
        worker: RefCell::new(Worker::new(node, id)),
        scratch: RefCell::new(vec![0; READ_SIZE].into()),
        in_passing: Cell::new(0),
    });
    LocalSet::new().block_on(runtime, async move {
        let mut services = JoinSet::new();
        for acceptor in acceptors {
            services.spawn_local(acceptor.run(Rc::clone(&cell)));
        }
        services.spawn_local(flush::flush_each_turn(Rc::clone(&cell)));
        services.spawn_local(link::see_off(Rc::clone(&cell)));
        services.spawn_local(turns::take_turns(Rc::clone(&cell)));
        services.spawn_local(replay::replay_in_turns(Rc::clone(&cell)));
        services.spawn_local(lifecycle::watch_deadlines(Rc::clone(&cell)));
        if watches_memory {
            services.spawn_local(overload::watch(Rc::clone(&cell)));
        }
        if publishes_values {
            services.spawn_local(sys::publish_regularly(Rc::clone(&cell)));
        }
        if tells_of_cluster {
            services.spawn_local(sys::publish_changes(Rc::clone(&cell)));
        }
        tokio::select! {
            () = lifecycle::handle_events(&cell) => Ok(()),
            () = flush::flush_what_is_late(Rc::clone(&cell)) => Err(unending()),
            Some(_) = services.join_next() => Err(unending()),
        }
    })
}

fn unending() -> io::Error {
    io::Error::other("a task that must not end has ended")
}

impl Worker {
    fn new(node: Arc<Node>, id: u16) -> Self {
        let now = node.clock.now();
        let workers = node.mailboxes.len();
        Self {
            id,
            now,
            sessions: Sessions::default(),
            timers: Wheel::new(now),
            cache: MatchCache::default(),
            events: VecDeque::new(),
            deliveries: 0,
            outbound: (0..workers).map(|_| Batch::default()).collect(),
            outgoing: Vec::new(),
            outstanding: HashMap::new(),
            turns: turns::Turns::default(),
            wills: wills::Wills::default(),
            dirty: Vec::new(),
            replaying: VecDeque::new(),
            held_up: Vec::new(),
            direct_limits: replay::DirectLimits::of_queue(&node.limits),
            impatient: VecDeque::new(),
            replayer: None,
            flusher: None,
            flush_due: now,
            storing: Vec::new(),
            kept_dirty: Vec::new(),
            slow: None,
            memory: Level::Normal,
            throttled: Vec::new(),
            spare: flush::SparePool::default(),
            properties: Vec::new(),
            random: Random::new(),
            bans_enforced: 0,
            stopping: None,
            closing: Vec::new(),
            closer: None,
            node,
        }
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    fn metrics(&self) -> &Metrics {
        &self.node.metrics[usize::from(self.id)]
    }

    /// Reads the clock: at the start of each task.
    fn tick(&mut self) {
        self.now = self.node.clock.now();
    }
}

impl WorkerCell {
    /// Borrows the worker for one synchronous piece of work.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Worker) -> T) -> T {
        let mut worker = self.worker.borrow_mut();
        worker.tick();
        work(&mut worker)
    }

    /// Borrows the worker for one step of some work after the other, until no more is left, or it has worked long enough for others
    /// to get their turn first: to the clock's next millisecond.
    fn with_turn(&self, mut step: impl FnMut(&mut Worker) -> bool) {
        self.with(|worker| {
            let began = worker.now;
            while step(worker) {
                worker.tick();
                if worker.now > began {
                    break;
                }
            }
        });
    }
}

/// Random numbers that a client cannot guess: a keyed hash of a counter.
#[derive(Debug)]
struct Random {
    state: RandomState,
    counter: u64,
}

impl Random {
    fn new() -> Self {
        Self { state: RandomState::new(), counter: 0 }
    }

    fn next(&mut self) -> u64 {
        self.counter = self.counter.wrapping_add(1);
        self.state.hash_one(self.counter)
    }

    fn next_wide(&mut self) -> u128 {
        (u128::from(self.next()) << 64) | u128::from(self.next())
    }
}
