//! Lanes between the members of a cluster, over gRPC.
//!
//! [`Lanes`] is the handle. The state machines of `flotilla-lane` decide what is sent, sent again and dropped; here are the
//! connections around them. Invariants: batches of a lane are handed over in order, each once, as long as both members live;
//! a lane of a member whose life has ended, ours or the other's, neither sends, nor receives, nor acknowledges; what waits
//! for a peer is bounded as long as those who send stop when they are told that it is congested.
//!
//! Each lane has an HTTP/2 stream of its own, which its sender opens. Flow control is per stream, so a lane whose receiver
//! does not read on holds up nobody else; with one stream for several lanes it would hold up all of them, and a node that
//! waits for a control frame before it takes messages would wait for ever. For the same reason the connection's window must
//! have room for all of its streams: servers and channels are built with [`STREAM_WINDOW_BYTES`] and
//! [`CONNECTION_WINDOW_BYTES`]. A dead connection is found by the channel's HTTP/2 keep-alive, or with the end of the
//! member; nothing here takes a silent peer for a dead one, because it may only be slow.
//!
//! Locks: the table of members, then a lane, then its peer's congestion. No lock but a lane's own order of delivery is held
//! while [`LaneEvents`] is called.

mod channel;
mod counters;
mod incoming;
mod outgoing;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use flotilla_lane::{Batch, LaneId, Window};
use flotilla_rpc::lanes::lanes_server::LanesServer;
use flotilla_state::{Incarnation, Member, NodeId};
use parking_lot::RwLock;
use tokio::runtime::Handle;

pub use channel::{Channels, LaneChannel, lane_channel};
pub use counters::LaneCounters;
pub use incoming::{LaneService, Receipt};

use counters::Counters;
use incoming::Incoming;
use outgoing::Peer;

/// The lanes of this node. A clone is another handle to the same lanes.
pub struct Lanes<E: LaneEvents>(Arc<Shared<E>>);

/// What the owner of the lanes hears. Calls come from the threads that serve the lanes and must not block; they may call
/// [`Lanes`] in turn.
///
/// A call may still be under way when [`Lanes::member_ended`] or [`Lanes::fenced`] returns, for these wait for nothing that
/// the call could wait for. Where the order matters, the owner asks again, under its own lock, whether the member lives.
pub trait LaneEvents: Send + Sync + 'static {
    /// What the owner wants back when a batch was taken: a publisher to acknowledge, for one.
    type Done: Send + 'static;

    /// The member has taken what these came with. In the order of the lane.
    fn taken(&self, to: Member, lane: LaneId, done: Vec<Self::Done>);

    /// A batch has come. In the order of the lane, each once; the next one comes when this call has returned, unless
    /// [`LaneOptions::untaken_max`] batches wait to be taken. A batch is taken when its receipt is dropped.
    fn received(&self, from: Member, lane: LaneId, batch: Batch, receipt: Receipt);

    /// The member is no longer congested: read from publishers again.
    fn decongested(&self, to: Member);

    /// Whether this node may answer for anything now. While its lease has lapsed it acknowledges nothing.
    fn may_acknowledge(&self) -> bool;
}

/// How lanes behave. `Default` has the values to use.
#[derive(Debug, Clone)]
pub struct LaneOptions {
    /// The longest MQTT packet that any node of the cluster may take from a client. Whatever goes into one frame is not
    /// longer. By default the longest that there is, so that nodes with different limits for their clients work together.
    pub packet_bytes_max: usize,
    /// What may be on its way in one lane.
    pub window: Window,
    /// More than this waiting for one peer, in all lanes, is congestion.
    pub queue_bytes_high: usize,
    /// How many batches of a lane may have been received and not taken; at most 64.
    pub untaken_max: u64,
    /// How long a peer has for the first answer on a stream.
    pub open_timeout: Duration,
    /// The shortest and the longest pause before a lane is connected again.
    pub backoff: (Duration, Duration),
}

/// What became of a batch that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "who goes on sending to a congested peer fills the memory"]
pub enum Sent {
    /// It waits for its turn, or is on its way.
    Queued,
    /// So it is, but too much waits: stop reading from publishers until [`LaneEvents::decongested`].
    Congested,
}

/// A batch that no member takes any more.
#[derive(Debug)]
pub struct Untaken<D> {
    /// The lane that it was in or should have gone to.
    pub lane: LaneId,
    /// The batch. The member may have taken it all the same, without our having heard of it.
    pub batch: Batch,
    /// What came with it.
    pub done: Vec<D>,
}

/// The HTTP/2 window of a stream: what a lane may have under way that its receiver has not read.
pub const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// The HTTP/2 window of a connection, with room for every lane's stream and for others.
pub const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// The longest HTTP/2 DATA frame that a node takes: a batch goes in one piece, and costs one system call.
pub const FRAME_BYTES_MAX: u32 = 256 << 10;
const _: () = assert!(FRAME_BYTES_MAX as usize > flotilla_lane::BATCH_BYTES_SOFT);
const _: () = assert!(CONNECTION_WINDOW_BYTES > flotilla_lane::LANES as u32 * STREAM_WINDOW_BYTES);

/// What a frame may have beside the packet: texts of 64 KiB each, and numbers.
const FRAME_BYTES_SLACK: usize = 256 << 10;

struct Shared<E: LaneEvents> {
    options: LaneOptions,
    events: Arc<E>,
    channels: Arc<dyn Channels>,
    runtime: Handle,
    counters: Counters,
    table: RwLock<Table<E::Done>>,
}

/// Who is there, and what there is between us.
struct Table<D> {
    /// This node in its present life.
    me: Option<Member>,
    /// Every member that lives, but this one.
    live: BTreeSet<Member>,
    /// Only of live members.
    peers: BTreeMap<Member, Arc<Peer<D>>>,
    /// Only of live members.
    incoming: BTreeMap<(Member, LaneId), Arc<Incoming>>,
}

impl<E: LaneEvents> Lanes<E> {
    /// The lanes of a node that is no member yet. Connections are served on `runtime`.
    #[must_use]
    pub fn new(options: LaneOptions, channels: Arc<dyn Channels>, events: Arc<E>, runtime: Handle) -> Self {
        let table =
            Table { me: None, live: BTreeSet::new(), peers: BTreeMap::new(), incoming: BTreeMap::new() };
        let (counters, table) = (Counters::default(), RwLock::new(table));
        Self(Arc::new(Shared { options, events, channels, runtime, counters, table }))
    }

    /// The service for the node's gRPC server.
    #[must_use]
    pub fn service(&self) -> LanesServer<LaneService<E>> {
        let limit = self.0.options.message_bytes_max();
        LanesServer::new(LaneService::new(Arc::clone(&self.0)))
            .max_decoding_message_size(limit)
            .max_encoding_message_size(limit)
    }

    /// This node lives as `me` from now on. Ends a life before it: see [`Lanes::fenced`].
    ///
    /// A life that was ended is never given again: what came in it is forgotten, and its lanes could not go on.
    pub fn admitted(&self, me: Member) -> Vec<Untaken<E::Done>> {
        if self.0.table.read().me == Some(me) {
            return Vec::new();
        }
        let untaken = self.fenced();
        let mut table = self.0.table.write();
        table.me = Some(me);
        table.live.remove(&me);
        untaken
    }

    /// This node's life is over. All lanes end; returns what was not taken.
    pub fn fenced(&self) -> Vec<Untaken<E::Done>> {
        let (peers, incoming) = {
            let mut table = self.0.table.write();
            table.me = None;
            (std::mem::take(&mut table.peers), std::mem::take(&mut table.incoming))
        };
        for incoming in incoming.values() {
            incoming.end();
        }
        peers.values().flat_map(|peer| peer.end()).collect()
    }

    /// The member lives: batches can be sent to it, and it may send us some.
    ///
    /// Another life of the same node must have been ended before.
    pub fn member_joined(&self, member: Member) {
        let mut table = self.0.table.write();
        if table.me != Some(member) {
            table.live.insert(member);
        }
    }

    /// The member's life is over. Its lanes end; returns what it had not taken, oldest first in each lane.
    pub fn member_ended(&self, member: Member) -> Vec<Untaken<E::Done>> {
        let (peer, incoming) = {
            let mut table = self.0.table.write();
            table.live.remove(&member);
            let incoming: Vec<_> =
                LaneId::all().filter_map(|lane| table.incoming.remove(&(member, lane))).collect();
            (table.peers.remove(&member), incoming)
        };
        for incoming in incoming {
            incoming.end();
        }
        peer.map(|peer| peer.end()).unwrap_or_default()
    }

    /// Exactly these members live: after a snapshot, when what has happened is not known step by step. Returns what those
    /// who ended had not taken.
    pub fn set_members(&self, live: impl IntoIterator<Item = Member>) -> Vec<(Member, Untaken<E::Done>)> {
        let live: BTreeSet<_> = live.into_iter().collect();
        let ended: Vec<_> = self.0.table.read().live.difference(&live).copied().collect();
        let untaken = ended
            .into_iter()
            .flat_map(|member| self.member_ended(member).into_iter().map(move |untaken| (member, untaken)))
            .collect();
        for member in live {
            self.member_joined(member);
        }
        untaken
    }

    /// Sends a batch to a member; `done` comes back with [`LaneEvents::taken`], or with the end of the lane.
    ///
    /// Any thread may call it; it does not block. The batches of a lane arrive in the order of the calls; several may arrive
    /// as one.
    ///
    /// # Errors
    /// The member does not live, or this node does not, or the batch is larger than one full batch and
    /// [`LaneOptions::packet_bytes_max`] allow, so that no peer would take it and the lane could never go on: the batch
    /// comes back.
    pub fn send(
        &self,
        to: Member,
        lane: LaneId,
        batch: Batch,
        done: Vec<E::Done>,
    ) -> Result<Sent, Box<Untaken<E::Done>>> {
        let fits = batch.size() <= self.0.options.batch_bytes_max();
        if !fits {
            tracing::error!(%to, bytes = batch.size(), "a message is longer than nodes may send to each other");
        }
        match self.peer(to).filter(|_| fits) {
            Some(peer) => peer.send(&self.0, lane, batch, done),
            None => Err(Box::new(Untaken { lane, batch, done })),
        }
    }

    /// Whether too much waits for the member.
    #[must_use]
    pub fn is_congested(&self, to: Member) -> bool {
        self.0.table.read().peers.get(&to).is_some_and(|peer| peer.is_congested())
    }

    /// The bytes that each member has not taken, by member.
    #[must_use]
    pub fn queued_bytes(&self) -> Vec<(Member, usize)> {
        let mut queued: Vec<_> =
            self.0.table.read().peers.iter().map(|(member, peer)| (*member, peer.queued_bytes())).collect();
        queued.sort_unstable();
        queued
    }

    /// The members that cannot be reached, and since when: a lane to them has lost its connection, or got none.
    #[must_use]
    pub fn broken_since(&self) -> Vec<(Member, Instant)> {
        let table = self.0.table.read();
        let broken = |(member, peer): (&Member, &Arc<Peer<_>>)| Some((*member, peer.broken_since()?));
        let mut broken: Vec<_> = table.peers.iter().filter_map(broken).collect();
        broken.sort_unstable();
        broken
    }

    /// What has happened so far.
    #[must_use]
    pub fn counters(&self) -> LaneCounters {
        self.0.counters.read()
    }

    /// The owner.
    #[must_use]
    pub fn events(&self) -> &Arc<E> {
        &self.0.events
    }

    fn peer(&self, to: Member) -> Option<Arc<Peer<E::Done>>> {
        if let Some(peer) = self.0.table.read().peers.get(&to) {
            return Some(Arc::clone(peer));
        }
        let mut table = self.0.table.write();
        let me = table.me.filter(|_| table.live.contains(&to))?;
        let peer = table.peers.entry(to).or_insert_with(|| Arc::new(Peer::new(me, to, &self.0.options)));
        Some(Arc::clone(peer))
    }
}

impl<E: LaneEvents> Clone for Lanes<E> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<E: LaneEvents> fmt::Debug for Lanes<E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Lanes").field("counters", &self.counters()).finish_non_exhaustive()
    }
}

impl LaneOptions {
    /// A full batch, and one frame more.
    const fn batch_bytes_max(&self) -> usize {
        flotilla_lane::BATCH_BYTES_SOFT + self.packet_bytes_max + FRAME_BYTES_SLACK
    }

    /// The limit for gRPC messages: a batch with its number.
    const fn message_bytes_max(&self) -> usize {
        self.batch_bytes_max() + 64
    }
}

impl Default for LaneOptions {
    fn default() -> Self {
        Self {
            packet_bytes_max: flotilla_mqtt::codec::MAX_PACKET_LEN,
            window: Window::default(),
            queue_bytes_high: 64 << 20,
            untaken_max: 8,
            open_timeout: Duration::from_secs(5),
            backoff: (Duration::from_millis(50), Duration::from_secs(2)),
        }
    }
}

const fn member_to_rpc(member: Member) -> flotilla_rpc::lanes::Member {
    flotilla_rpc::lanes::Member { node: member.node.0, incarnation: member.incarnation.0 }
}

const fn member_from_rpc(member: flotilla_rpc::lanes::Member) -> Member {
    let flotilla_rpc::lanes::Member { node, incarnation } = member;
    Member { node: NodeId(node), incarnation: Incarnation(incarnation) }
}
