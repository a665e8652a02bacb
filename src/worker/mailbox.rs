//! What workers hand to each other.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use flotilla_mqtt::{
    QoS, ReasonCode, Timestamp, Transit,
    session::{Accepted, DeliveryOptions},
};
use flotilla_registry::WillId;
use flotilla_rpc::admin::Client;
use flotilla_state::LogIndex;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::{Source, connection::Peer, transfer::Order};
use crate::{
    cluster::{Claimed, Completion, FlushRound},
    router::{MatchSet, Picked, SessionRef},
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
    Accepted(std::net::TcpStream, Peer),
    /// What sessions waited for is done; routes are those of this entry.
    Completed(Vec<Completion>, ReasonCode, LogIndex),
    /// A session comes or goes.
    Transfer(Order),
    /// Hand over to other workers and nodes what is ready, then take part in the round.
    Flush(Arc<FlushRound>),
    /// Publish the will of a client whose node has ended.
    Will(WillId, Arc<flotilla_mqtt::Message>),
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

/// Messages for the sessions of one worker: their bytes one after the other, so that a message costs one copy and no
/// allocation.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    items: Vec<Item>,
}

#[derive(Debug)]
struct Item {
    receivers: Receivers,
    source: Source,
    qos: QoS,
    retain: bool,
    expires_at: Option<Timestamp>,
    topic_len: u32,
    properties_len: u32,
    payload_len: u32,
    /// A large payload, shared instead of copied; `payload_len` is 0 then.
    shared_payload: Option<Bytes>,
}

/// Who gets a message.
#[derive(Debug)]
pub(crate) enum Receivers {
    /// Those of the worker's sessions that match.
    All(Arc<MatchSet>),
    /// The member of a group that was picked.
    One(Picked),
    /// The session that another node passes it on to: its client has come here from there.
    Moved(SessionRef, Box<DeliveryOptions>),
}

/// Above this many bytes in a mailbox its senders stop reading from publishers.
const CONGESTED: usize = 8 << 20;
/// Payloads from here on are shared instead of copied, where that costs no copy.
const SHARE_FROM: usize = 16 << 10;

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

    pub(crate) fn push(&mut self, message: &Transit<'_>, source: Source, receivers: Receivers) {
        let shared_payload =
            if message.payload.len() >= SHARE_FROM { Some(message.keep().payload.clone()) } else { None };
        let payload = if shared_payload.is_some() { &[][..] } else { message.payload };
        self.items.push(Item {
            receivers,
            source,
            qos: message.qos,
            retain: message.retain,
            expires_at: message.expires_at,
            topic_len: length(message.topic.len()),
            properties_len: length(message.properties.len()),
            payload_len: length(payload.len()),
            shared_payload,
        });
        self.bytes.extend_from_slice(message.topic.as_bytes());
        self.bytes.extend_from_slice(message.properties);
        self.bytes.extend_from_slice(payload);
    }

    /// Hands out the messages, oldest first.
    pub(super) fn for_each(&self, mut deliver: impl FnMut(&Transit<'_>, Source, &Receivers)) {
        let mut rest = &self.bytes[..];
        let mut take = |len: u32| {
            let (part, after) = rest.split_at(len as usize);
            rest = after;
            part
        };
        for item in &self.items {
            let topic = str::from_utf8(take(item.topic_len)).expect("a topic went in");
            let properties = take(item.properties_len);
            let copied = take(item.payload_len);
            let payload = item.shared_payload.as_deref().unwrap_or(copied);
            let Item { qos, retain, expires_at, .. } = *item;
            let backing = item.shared_payload.as_ref();
            let message = Transit::new(topic, properties, payload, qos, retain, expires_at, None, backing);
            deliver(&message, item.source, &item.receivers);
        }
    }

    /// Bytes that it can take without more memory.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Empties it for reuse.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.items.clear();
    }

    /// What it counts against the bound of a mailbox.
    fn cost(&self) -> usize {
        let shared: usize =
            self.items.iter().filter_map(|item| item.shared_payload.as_ref()).map(Bytes::len).sum();
        self.bytes.len() + shared + self.items.len() * size_of::<Item>()
    }
}

fn length(len: usize) -> u32 {
    u32::try_from(len).expect("a packet is shorter than 256 MiB")
}
