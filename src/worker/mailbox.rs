//! What workers hand to each other.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use flotilla_lane::Origin;
use flotilla_mqtt::{QoS, ReasonCode, Timestamp, Transit, codec::SHARED_PAYLOAD_MIN, session::Accepted};
use flotilla_rpc::admin::Client;
use flotilla_shard::Answer;
use flotilla_state::ShardId;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::{connection::Peer, kept::KeptDelivery, orders::Order};
use crate::{
    cluster::{Claimed, Completion},
    node::Connecting,
    overload::Level,
    router::{MatchSet, Picked, SessionRef},
    shards::{Losses, Page},
};

/// What other threads want of a worker. Bounded by those who put in: see [`Mailbox::is_congested`].
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    events: Mutex<VecDeque<Event>>,
    bytes: AtomicUsize,
    notify: Notify,
}

/// One thing that another thread wants.
#[derive(Debug)]
pub(crate) enum Event {
    /// Deliver messages.
    Batch(Batch),
    /// Serve this connection, whose session is here.
    Adopt(Box<Adoption>),
    /// A socket that another worker accepted.
    Accepted(std::net::TcpStream, Peer, Connecting),
    /// What sessions waited for is done.
    Completed(Vec<Completion>, ReasonCode),
    /// Somebody else wants a connection to end.
    Order(Order),
    /// Shards have answered what sessions asked.
    Answered(Vec<(Completion, Answer)>),
    /// A shard has answered a look-up of retained messages.
    LookedUp(SessionRef, ShardId, Page),
    /// A shard that this node leads has lost something.
    Losses(Losses),
    /// A shard has another leader.
    ShardLed(ShardId),
    /// Publish a will that a shard has; the number of its origin is its name there.
    ShardWill(Origin, Arc<flotilla_mqtt::Message>),
    /// Give a message of a shared subscription, which another node did not take, to another member.
    Redispatch(Box<str>, Arc<flotilla_mqtt::Message>),
    /// Tell of clients, for an operator.
    Clients(ClientsQuery),
    /// More clients are banned than before: close the connections of those.
    Banned,
    /// This node has lost its place in the cluster: close every connection with this reason.
    Fence(ReasonCode),
    /// A worker that was congested is no longer: read from publishers again.
    Decongested,
    /// Memory is as short as that.
    Memory(Level),
    /// Close connections for which much waits, until so many bytes are free.
    Shed(usize),
    /// Close every connection with this reason and end.
    Stop(ReasonCode),
}

/// A page of the clients of a worker, from a slot on.
#[derive(Debug)]
pub(crate) struct ClientsQuery {
    /// Only client identifiers that begin so.
    pub(crate) prefix: Arc<str>,
    pub(crate) from_slot: u32,
    pub(crate) answer: oneshot::Sender<ClientsPage>,
}

/// The answer to a [`ClientsQuery`].
#[derive(Debug)]
pub(crate) struct ClientsPage {
    pub(crate) clients: Vec<Client>,
    /// Where the next page begins.
    pub(crate) next_slot: Option<u32>,
}

/// A connection on its way to the worker that has its session.
#[derive(Debug)]
pub(crate) struct Adoption {
    pub(crate) stream: std::net::TcpStream,
    pub(crate) peer: Peer,
    pub(crate) accepted: Accepted,
    pub(crate) claimed: Claimed,
    /// Bytes that were read after the CONNECT.
    pub(crate) rest: Vec<u8>,
    /// How often it was handed on.
    pub(crate) hops: u8,
}

/// Messages for the sessions of one worker: their bytes lie one after the other, so that a message costs one copy and no
/// allocation; those of another node stay where they came, and cost none.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    storage: Storage,
    items: Vec<Item>,
    /// The item whose match set the last one has, by itself or [again](Receivers::Again).
    run: Option<usize>,
}

/// Where the bytes of a batch lie.
#[derive(Debug)]
enum Storage {
    Own(Vec<u8>),
    Shared(Bytes),
}

#[derive(Debug)]
struct Item {
    receivers: Receivers,
    /// The session on this node that published it, if one did.
    publisher: Option<SessionRef>,
    qos: QoS,
    retain: bool,
    expires_at: Option<Timestamp>,
    topic: Part,
    properties: Part,
    payload: Payload,
}

/// A part of the storage: its start and its length.
#[derive(Debug, Clone, Copy)]
struct Part(usize, u32);

#[derive(Debug)]
enum Payload {
    Stored(Part),
    /// It may keep the storage alive.
    Backed(Part),
    /// A large one, shared instead of copied.
    Shared(Bytes),
}

/// Who gets a message.
#[derive(Debug)]
pub(crate) enum Receivers {
    /// Those of the worker's sessions that match.
    All(Arc<MatchSet>),
    /// Those that the message before it goes to: in a burst on one topic the set is shared once, not for each message.
    Again,
    /// The member of a group that was picked.
    One(Picked),
    /// The session that a shard keeps it for.
    Kept(SessionRef, Box<KeptDelivery>),
}

/// Above this many bytes in a mailbox its senders stop reading from publishers.
const CONGESTED: usize = 8 << 20;

impl Mailbox {
    pub(crate) fn send(&self, event: Event) {
        if let Event::Batch(batch) = &event {
            self.bytes.fetch_add(batch.cost(), Ordering::Relaxed);
        }
        self.events.lock().push_back(event);
        self.notify.notify_one();
    }

    /// Whether publishers must wait until it has been worked off.
    pub(crate) fn is_congested(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > CONGESTED
    }

    /// Waits until something may have come. One task waits.
    ///
    /// # Cancel safety
    /// Nothing is taken.
    pub(super) async fn wait(&self) {
        self.notify.notified().await;
    }

    /// Appends everything that has come to `events`, oldest first.
    pub(super) fn take(&self, events: &mut VecDeque<Event>) {
        events.append(&mut self.events.lock());
    }

    /// Notes that a batch has been delivered; returns whether that ended a congestion.
    pub(super) fn delivered(&self, batch: &Batch) -> bool {
        let before = self.bytes.fetch_sub(batch.cost(), Ordering::Relaxed);
        before > CONGESTED && before - batch.cost() <= CONGESTED
    }
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Empties it, for messages that lie in `bytes`: where the work on other ones has broken off, some may be left.
    pub(crate) fn lie_in(&mut self, bytes: &Bytes) {
        self.clear();
        self.storage = Storage::Shared(bytes.clone());
    }

    /// Takes out what is in it; what comes next lies in the same bytes. There is room for as many messages again.
    pub(crate) fn take(&mut self) -> Self {
        let mut next = Self { items: Vec::with_capacity(self.items.len()), ..Self::default() };
        if let Storage::Shared(bytes) = &self.storage {
            next.lie_in(bytes);
        }
        std::mem::replace(self, next)
    }

    /// A message for those of the worker's sessions that match.
    pub(crate) fn push_matched(
        &mut self,
        message: &Transit<'_>,
        publisher: Option<SessionRef>,
        matches: &Arc<MatchSet>,
    ) {
        let run = self.run.filter(|first| {
            matches!(&self.items[*first].receivers, Receivers::All(before) if Arc::ptr_eq(before, matches))
        });
        let receivers = if run.is_some() { Receivers::Again } else { Receivers::All(Arc::clone(matches)) };
        self.put(message, publisher, receivers);
        self.run = run.or(Some(self.items.len() - 1));
    }

    /// A message for one session.
    pub(crate) fn push(&mut self, message: &Transit<'_>, receivers: Receivers) {
        self.put(message, None, receivers);
    }

    fn put(&mut self, message: &Transit<'_>, publisher: Option<SessionRef>, receivers: Receivers) {
        self.run = None;
        let Transit { topic, properties, payload, qos, retain, expires_at, .. } = *message;
        let (topic, properties, payload) = match &mut self.storage {
            Storage::Own(bytes) => {
                let mut copy = |part: &[u8]| {
                    let start = bytes.len();
                    bytes.extend_from_slice(part);
                    Part(start, length(part.len()))
                };
                let (topic, properties) = (copy(topic.as_bytes()), copy(properties));
                let payload = if payload.len() >= SHARED_PAYLOAD_MIN {
                    Payload::Shared(message.keep().payload.clone())
                } else {
                    Payload::Stored(copy(payload))
                };
                (topic, properties, payload)
            }
            Storage::Shared(bytes) => {
                let part = |part: &[u8]| Part::within(bytes, part);
                let stored = if message.is_backed() { Payload::Backed } else { Payload::Stored };
                let payload = stored(part(payload));
                (part(topic.as_bytes()), part(properties), payload)
            }
        };
        self.items.push(Item { receivers, publisher, qos, retain, expires_at, topic, properties, payload });
    }

    /// Hands out the messages, oldest first.
    pub(super) fn for_each(&self, mut deliver: impl FnMut(&Transit<'_>, Option<SessionRef>, &Receivers)) {
        let (bytes, shared) = match &self.storage {
            Storage::Own(bytes) => (&bytes[..], None),
            Storage::Shared(bytes) => (&bytes[..], Some(bytes)),
        };
        let mut before = &Receivers::Again;
        for item in &self.items {
            if !matches!(item.receivers, Receivers::Again) {
                before = &item.receivers;
            }
            let topic = str::from_utf8(item.topic.of(bytes)).expect("a topic went in");
            let properties = item.properties.of(bytes);
            let (payload, backing) = match &item.payload {
                Payload::Stored(part) => (part.of(bytes), None),
                Payload::Backed(part) => (part.of(bytes), shared),
                Payload::Shared(payload) => (&payload[..], Some(payload)),
            };
            let Item { qos, retain, expires_at, .. } = *item;
            let message = Transit::new(topic, properties, payload, qos, retain, expires_at, None, backing);
            deliver(&message, item.publisher, before);
        }
    }

    /// Bytes that it can take without more memory.
    pub(super) fn capacity(&self) -> usize {
        match &self.storage {
            Storage::Own(bytes) => bytes.capacity(),
            Storage::Shared(_) => 0,
        }
    }

    /// Empties it for reuse.
    pub(super) fn clear(&mut self) {
        self.items.clear();
        self.run = None;
        match &mut self.storage {
            Storage::Own(bytes) => bytes.clear(),
            Storage::Shared(_) => self.storage = Storage::default(),
        }
    }

    /// What it counts against the bound of a mailbox: all that it keeps alive, though others may keep it alive too.
    fn cost(&self) -> usize {
        let stored = match &self.storage {
            Storage::Own(bytes) => bytes.len(),
            Storage::Shared(bytes) => bytes.len(),
        };
        let shared: usize = self
            .items
            .iter()
            .map(|item| if let Payload::Shared(payload) = &item.payload { payload.len() } else { 0 })
            .sum();
        stored + shared + self.items.len() * size_of::<Item>()
    }
}

impl Default for Storage {
    fn default() -> Self {
        Self::Own(Vec::new())
    }
}

impl Part {
    /// Where `part`, which lies in `bytes`, is.
    fn within(bytes: &[u8], part: &[u8]) -> Self {
        if part.is_empty() {
            return Self(0, 0);
        }
        let start = part.as_ptr().addr().wrapping_sub(bytes.as_ptr().addr());
        assert!(start.checked_add(part.len()).is_some_and(|end| end <= bytes.len()), "it lies within");
        Self(start, length(part.len()))
    }

    fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.0..][..self.1 as usize]
    }
}

fn length(len: usize) -> u32 {
    u32::try_from(len).expect("a packet is shorter than 256 MiB")
}

#[cfg(test)]
mod tests {
    use flotilla_lane::{Batch as LaneBatch, BatchWriter, Forwarded, Frame};

    use super::*;
    use crate::{
        config::{Overlap, SharedStrategy},
        router::Router,
    };

    const PUBLISHER: Option<SessionRef> = Some(SessionRef { worker: 1, slot: 2, epoch: 3 });

    fn transit<'a>(topic: &'a str, payload: &'a [u8]) -> Transit<'a> {
        Transit::new(topic, b"\x01\x01", payload, QoS::AtLeastOnce, true, None, None, None)
    }

    fn lane_batch(messages: &[(&str, &[u8])]) -> LaneBatch {
        let mut writer = BatchWriter::new();
        for (topic, payload) in messages {
            let message = Forwarded::new(&transit(topic, payload), Timestamp::ORIGIN);
            writer.push(&Frame::Publish { message });
        }
        writer.take().expect("there are frames")
    }

    /// Pushes what is in a batch of a lane, each topic with a match set of its own.
    fn push_all(batch: &mut Batch, lane_batch: &LaneBatch) {
        let router = Router::new(1, Overlap::Merge, SharedStrategy::RoundRobin);
        let mut last: Option<(String, Arc<MatchSet>)> = None;
        for frame in lane_batch.frames() {
            let Frame::Publish { message } = frame else { panic!("{frame:?}") };
            let known = last.take().filter(|(topic, _)| topic == message.topic);
            let (topic, set) =
                known.unwrap_or_else(|| (message.topic.to_owned(), Arc::new(router.matches(message.topic))));
            batch.push_matched(&message.transit(Timestamp::ORIGIN, None), PUBLISHER, &set);
            last = Some((topic, set));
        }
    }

    fn check(batch: &Batch, expected: &[(&str, &[u8])], sets: usize) {
        let mut seen = Vec::new();
        let mut owners: Vec<*const MatchSet> = Vec::new();
        batch.for_each(|message, publisher, receivers| {
            assert_eq!((publisher, message.qos, message.retain), (PUBLISHER, QoS::AtLeastOnce, true));
            assert_eq!(message.properties, b"\x01\x01");
            let Receivers::All(set) = receivers else { panic!("{receivers:?}") };
            owners.push(Arc::as_ptr(set));
            seen.push((message.topic.to_owned(), message.payload.to_vec()));
        });
        let expected: Vec<_> =
            expected.iter().map(|(topic, payload)| ((*topic).to_owned(), payload.to_vec())).collect();
        assert_eq!(seen, expected);
        owners.dedup();
        assert_eq!(owners.len(), sets);
    }

    #[test]
    fn messages_come_out_of_the_bytes_of_another_batch_as_they_went_in() {
        let large = vec![7; SHARED_PAYLOAD_MIN];
        let messages: [(&str, &[u8]); 5] =
            [("a", b"1"), ("a", b""), ("b", &large), ("a", b"22"), ("a", b"3")];
        let lane_batch = lane_batch(&messages);
        let mut shared = Batch::default();
        shared.lie_in(lane_batch.bytes());
        push_all(&mut shared, &lane_batch);
        let taken = shared.take();
        check(&taken, &messages, 3);
        assert!(shared.is_empty());
        // The same without, for which they are copied.
        let mut own = Batch::default();
        push_all(&mut own, &lane_batch);
        check(&own, &messages, 3);
        assert!(own.capacity() < large.len(), "a large payload is shared");
    }

    #[test]
    fn what_was_left_of_other_messages_does_not_come_out_of_the_wrong_bytes() {
        let (first, second) = (lane_batch(&[("topic/one", b"first")]), lane_batch(&[("t", b"2")]));
        let mut batch = Batch::default();
        batch.lie_in(first.bytes());
        push_all(&mut batch, &first);
        batch.lie_in(second.bytes());
        push_all(&mut batch, &second);
        check(&batch, &[("t", b"2")], 1);
        // A batch that is emptied holds nothing of what it lay in.
        batch.clear();
        assert_eq!((batch.capacity(), batch.cost()), (0, 0));
    }
}
