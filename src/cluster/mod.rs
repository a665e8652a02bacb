//! The rest of the cluster, as the workers see it.
//!
//! A worker never waits for other nodes: what may take time is answered at once or later, through the [`Completion`] that
//! went with it. `member` is a node in its cluster; a node alone is a cluster of one.

mod admin;
mod announcer;
mod applied;
mod backup;
mod bans;
mod claims;
mod connecting;
mod inbox;
mod links;
mod member;
mod recover;
mod reports;
mod seat;

use std::{future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;
use flotilla_lane::{Batch, LaneId};
use flotilla_mqtt::{
    ReasonCode,
    session::{Accepted, ClientId, SessionExpiry, Ticket},
    topic::TopicFilter,
};
use flotilla_registry::Tenure;
use flotilla_shard::{Connection, GroupStrategy, OpenedSession, Overlap, QueueLimits, Will};
use flotilla_state::{ConnectionEpoch, Member, NodeId, ShardId};

#[cfg(test)]
pub(crate) use announcer::GATHER;
pub use recover::{RecoverError, recover};
pub use seat::ClusterError;
pub(crate) use seat::{Candidate, Seated};

use crate::{
    config::{self, Config},
    router::{RouteChange, SessionRef},
    shards::Shards,
};

/// What a worker needs of the rest of the cluster.
pub(crate) trait Cluster: Send + Sync + std::fmt::Debug {
    /// Whether this node may act for the cluster: acknowledge, publish wills, serve clients.
    fn is_serving(&self) -> bool;

    /// Makes this node the only one that serves a client: whoever else does has closed its connection when the future is
    /// ready, and what a shard keeps of the client is in the answer.
    ///
    /// Whoever gets an answer calls [`Cluster::attached`] or [`Cluster::abandon`] with its tenure.
    ///
    /// # Errors
    /// The reason code of the CONNACK.
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<Claimed, ReasonCode>>;

    /// The connection of a claim has its session.
    fn attached(&self, client_id: &ClientId, tenure: Tenure);

    /// The claim has come to nothing: its connection gets no session. The one before it on this node, if it is still there, is
    /// taken over all the same [MQTT-3.1.4-3].
    fn abandon(&self, client_id: &ClientId, claimed: &Claimed);

    /// The connection of a claim is over.
    fn release(&self, client_id: &ClientId, tenure: Tenure);

    /// This node has no connection any more of a client that another one has claimed with `epoch`, and all that the client has
    /// said here is on its way.
    fn closed(&self, client_id: &ClientId, epoch: ConnectionEpoch);

    /// This node's interest in `filter` has changed; a SUBACK waits for the answer (P6). For [`RouteChange::None`] too:
    /// somebody else's announcement may still be on its way.
    fn announce(&self, filter: &TopicFilter, change: RouteChange, done: Option<Completion>) -> Receipt;

    /// Sends a batch to another node, after all that were sent before on this lane. The completions are answered when the
    /// node has it, or has ended.
    fn forward(&self, to: NodeId, lane: LaneId, batch: Batch, completions: Vec<Completion>);

    /// Whether so much waits for a node that its publishers should wait too.
    fn is_congested(&self, to: NodeId) -> bool;

    /// The shards, which keep what must survive this node; `None`: nobody keeps anything.
    fn shards(&self) -> Option<&Shards> {
        None
    }
}

/// Carries what nodes say to each other about shards.
pub(crate) trait Carrier: Send + Sync {
    /// Says something to another node.
    fn say(&self, to: Member, lane: LaneId, bytes: &Bytes);

    /// Hands messages for sessions out to the node where their clients are, which may be this one.
    fn deliver(&self, to: Member, lane: LaneId, batch: Batch);
}

/// A future of a rare operation.
pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A CONNECT that wants its client identifier.
#[derive(Debug, Clone)]
pub(crate) struct Claim {
    pub(crate) client_id: ClientId,
    /// Whether the session of old ends instead of going on.
    pub(crate) clean_start: bool,
    /// What the shard of the client is to be told; `None`: nobody else can have this client identifier.
    pub(crate) open: Option<Box<Opening>>,
}

/// A CONNECT, as the shard of the client is told of it.
#[derive(Debug, Clone)]
pub(crate) struct Opening {
    pub(crate) expiry: SessionExpiry,
    pub(crate) window: u16,
    pub(crate) queue: QueueLimits,
    pub(crate) awaiting_rel_max: u16,
    pub(crate) queue_qos0: bool,
    pub(crate) overlap: Overlap,
    pub(crate) group_strategy: GroupStrategy,
    pub(crate) will: Option<Will>,
}

impl Claim {
    pub(crate) fn of(accepted: &Accepted, config: &Config) -> Self {
        let Accepted { client_id, clean_start, .. } = accepted;
        let open = Opening::of(accepted, config).map(Box::new);
        Self { client_id: client_id.clone(), clean_start: *clean_start, open }
    }
}

impl Opening {
    /// `None`: the client identifier was made for this connection, and nothing of it outlives it.
    fn of(accepted: &Accepted, config: &Config) -> Option<Self> {
        let Accepted { will, expiry, receive_maximum, .. } = accepted;
        if accepted.client_id_assigned && *expiry == SessionExpiry::AtDisconnect && will.is_none() {
            return None;
        }
        let session = &config.session;
        let will = will.as_ref().map(|will| Will {
            message: Arc::clone(&will.message),
            delay: will.delay,
            expiry: will.expiry,
        });
        Some(Self {
            expiry: *expiry,
            window: receive_maximum.get(),
            queue: QueueLimits {
                messages_max: u32::try_from(session.queue_messages_max).unwrap_or(u32::MAX),
                bytes_max: session.queue_bytes_max as u64,
                full: session.queue_full,
            },
            awaiting_rel_max: session.awaiting_rel_max,
            queue_qos0: session.queue_qos0,
            overlap: match config.mqtt.overlap {
                config::Overlap::Merge => Overlap::Merge,
                config::Overlap::Each => Overlap::Each,
            },
            group_strategy: match config.shared.strategy {
                config::SharedStrategy::RoundRobin => GroupStrategy::RoundRobin,
                config::SharedStrategy::Random => GroupStrategy::Random,
                config::SharedStrategy::Sticky => GroupStrategy::Sticky,
                config::SharedStrategy::HashClientid => GroupStrategy::HashClientid,
                config::SharedStrategy::HashTopic => GroupStrategy::HashTopic,
                config::SharedStrategy::LeastInflight => GroupStrategy::LeastInflight,
            },
            will,
        })
    }
}

/// A claim that was granted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Claimed {
    /// Later claims of the same client have a higher one.
    pub(crate) tenure: Tenure,
    /// What the shard of the client has of it.
    pub(crate) kept: Option<Box<Kept>>,
}

/// What the shard of a client has of it.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) shard: ShardId,
    pub(crate) connection: Connection,
    /// Session Present.
    pub(crate) present: bool,
    /// How long the session stays after the connection.
    pub(crate) expiry: SessionExpiry,
    /// `None`: it has the will alone.
    pub(crate) session: Option<OpenedSession>,
}

/// Whom to tell when something has been kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Completion {
    pub(crate) session: SessionRef,
    pub(crate) what: Awaited,
}

impl Completion {
    /// The same, where nobody subscribes to the message.
    pub(crate) fn for_nobody(self) -> Self {
        let what = match self.what {
            Awaited::Publish(ticket) => Awaited::Retained(ticket),
            what => what,
        };
        Self { what, ..self }
    }
}

/// What a session waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Awaited {
    /// A PUBLISH.
    Publish(Ticket),
    /// A PUBLISH that nobody subscribes to, and that is retained.
    Retained(Ticket),
    /// The routes of a SUBSCRIBE.
    Routes(flotilla_mqtt::PacketId),
    /// A shard has noted PUBRECs.
    Released,
    /// A QoS 2 PUBLISH gets its number from a shard.
    Received(Ticket),
    /// A shard has forgotten the identifier of a QoS 2 message from the client.
    Forgotten(flotilla_mqtt::PacketId),
    /// A shard has forgotten the subscriptions of an UNSUBSCRIBE.
    Unsubscribed(flotilla_mqtt::PacketId),
    /// A shard has been asked to keep a retained message for a session: the one with this number.
    Direct(u64),
    /// The will that a shard has asked for is kept by all who keep it.
    Will { shard: ShardId, id: flotilla_shard::WillId, attempt: u32 },
}

/// Whether something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receipt {
    /// It is done.
    Done,
    /// The completion tells when.
    Later,
}

/// A node that nobody else has to be asked for, for tests.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Alone;

#[cfg(test)]
impl Cluster for Alone {
    fn is_serving(&self) -> bool {
        true
    }

    fn claim(&self, _: Claim) -> BoxFuture<'_, Result<Claimed, ReasonCode>> {
        Box::pin(std::future::ready(Ok(Claimed::default())))
    }

    fn attached(&self, _: &ClientId, _: Tenure) {}

    fn abandon(&self, _: &ClientId, _: &Claimed) {}

    fn release(&self, _: &ClientId, _: Tenure) {}

    fn closed(&self, _: &ClientId, _: ConnectionEpoch) {}

    fn announce(&self, _: &TopicFilter, _: RouteChange, _: Option<Completion>) -> Receipt {
        Receipt::Done
    }

    fn forward(&self, _: NodeId, _: LaneId, _: Batch, _: Vec<Completion>) {}

    fn is_congested(&self, _: NodeId) -> bool {
        false
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{
        io::{Read, Write},
        net::TcpStream,
        sync::mpsc::{Receiver, Sender, channel},
        time::Duration,
    };

    use flotilla_state::{
        BanKind, Banned, ClusterState, Command, Incarnation, LogIndex, Member, NewStatus, Role,
        RouteChange as Change,
    };
    use parking_lot::{Mutex, RwLock};
    use tokio::sync::oneshot;

    use super::*;
    use crate::{
        Broker, BrokerHandle, broker::Seat, clock::Clock, config::Config, router::RemoteRoutes, worker::Event,
    };

    /// A cluster that never answers at once: the test says when something is done.
    #[derive(Debug)]
    struct Slow {
        asked: Mutex<Sender<Completion>>,
        refuses: bool,
        /// The first claim is told about, and answered when the test says so.
        held: Mutex<Option<(Sender<()>, oneshot::Receiver<()>)>>,
    }

    impl Cluster for Slow {
        fn is_serving(&self) -> bool {
            true
        }

        fn claim(&self, _: Claim) -> BoxFuture<'_, Result<Claimed, ReasonCode>> {
            let answer =
                if self.refuses { Err(ReasonCode::ServerUnavailable) } else { Ok(Claimed::default()) };
            let held = self.held.lock().take();
            Box::pin(async move {
                tokio::task::yield_now().await;
                if let Some((reached, go)) = held {
                    reached.send(()).expect("the test waits for it");
                    go.await.expect("the test says so");
                }
                answer
            })
        }

        fn attached(&self, _: &ClientId, _: Tenure) {}

        fn abandon(&self, _: &ClientId, _: &Claimed) {}

        fn release(&self, _: &ClientId, _: Tenure) {}

        fn closed(&self, _: &ClientId, _: ConnectionEpoch) {}

        fn announce(&self, _: &TopicFilter, _: RouteChange, done: Option<Completion>) -> Receipt {
            let Some(done) = done else { return Receipt::Done };
            self.asked.lock().send(done).expect("the test waits for it");
            Receipt::Later
        }

        fn forward(&self, _: NodeId, _: LaneId, batch: Batch, completions: Vec<Completion>) {
            assert!(batch.len() >= completions.len());
            for done in completions {
                self.asked.lock().send(done).expect("the test waits for it");
            }
        }

        fn is_congested(&self, _: NodeId) -> bool {
            false
        }
    }

    /// A seat next to another node that wants messages of `filter`.
    pub(crate) fn seat_beside(filter: &str, cluster: Box<dyn Cluster>) -> Seat {
        let mut state = ClusterState::new();
        let other = Member { node: NodeId(2), incarnation: Incarnation(2) };
        let commands = [
            Command::Create { cluster_id: 1, name: "c".into(), shards: 1, replicas: 1, hash_seed: 1 },
            Command::Join {
                id: other.node,
                name: "other".into(),
                role: Role::Core,
                address: "127.0.0.1:1".into(),
                client_addresses: Vec::new(),
                version: "1".into(),
            },
            Command::SetStatus { member: other, status: NewStatus::Up },
            Command::Routes { member: other, changes: vec![Change::AddWildcard(filter.into())] },
        ];
        for (index, command) in (1..).zip(commands) {
            state.apply(LogIndex(index), command);
        }
        let routes = RemoteRoutes::of(Arc::new(RwLock::new(state)), NodeId(1));
        Seat { clock: Clock::start(), cluster, routes }
    }

    fn start(refuses: bool) -> (BrokerHandle, Receiver<Completion>, TcpStream) {
        start_with(refuses, None)
    }

    fn start_with(
        refuses: bool,
        held: Option<(Sender<()>, oneshot::Receiver<()>)>,
    ) -> (BrokerHandle, Receiver<Completion>, TcpStream) {
        let set = ["listeners.tcp.bind=127.0.0.1:0", "sys.interval=0s"].map(str::to_owned);
        let config = Config::load(None, [], &set).expect("it is valid");
        let (asked, asks) = channel();
        let seat =
            seat_beside("x/#", Box::new(Slow { asked: Mutex::new(asked), refuses, held: Mutex::new(held) }));
        let broker = Broker::start_in(config, seat).expect("it starts");
        let client = TcpStream::connect(broker.listeners()[0].1).expect("it listens");
        client.set_read_timeout(Some(Duration::from_secs(10))).expect("not zero");
        (broker, asks, client)
    }

    fn exchange<const N: usize>(client: &mut TcpStream, send: &[u8]) -> [u8; N] {
        client.write_all(send).expect("it reads");
        let mut answer = [0; N];
        client.read_exact(&mut answer).expect("it answers");
        answer
    }

    fn complete(broker: &BrokerHandle, asked: Completion) {
        let worker = usize::from(asked.session.worker);
        let event = Event::Completed(vec![asked], ReasonCode::Success);
        broker.node().mailboxes[worker].send(event);
    }

    const CONNECT: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01c";
    const PING: &[u8] = b"\xc0\x00";

    #[test]
    fn suback_waits_for_the_routes_and_puback_for_the_message() {
        let (broker, asks, mut client) = start(false);
        assert_eq!(exchange(&mut client, CONNECT), [0x20, 2, 0, 0]);
        // SUBSCRIBE to "t" and "u", then a ping: the answer to the ping comes first.
        client.write_all(b"\x82\x0a\x00\x07\x00\x01t\x01\x00\x01u\x01").expect("it reads");
        assert_eq!(exchange(&mut client, PING), [0xd0, 0]);
        let routes = [asks.recv().expect("it asked"), asks.recv().expect("it asked twice")];
        complete(&broker, routes[0]);
        assert_eq!(exchange(&mut client, PING), [0xd0, 0]);
        complete(&broker, routes[1]);
        assert_eq!(exchange(&mut client, b""), [0x90, 4, 0, 7, 1, 1]);
        // Two publishes, completed in the wrong order, are acknowledged in the right one.
        let publishes = b"\x32\x05\x00\x01x\x00\x01\x32\x05\x00\x01x\x00\x02";
        client.write_all(publishes).expect("it reads");
        let (first, second) = (asks.recv().expect("it asked"), asks.recv().expect("it asked twice"));
        complete(&broker, second);
        assert_eq!(exchange(&mut client, PING), [0xd0, 0]);
        complete(&broker, first);
        assert_eq!(exchange(&mut client, b""), [0x40, 2, 0, 1, 0x40, 2, 0, 2]);
        broker.stop(Duration::from_secs(10));
    }

    #[test]
    fn a_client_is_not_read_while_many_of_its_subscribes_wait() {
        let (broker, asks, mut client) = start(false);
        assert_eq!(exchange(&mut client, CONNECT), [0x20, 2, 0, 0]);
        let subscribe = |id: u8| [0x82, 6, 0, id, 0, 1, b't', 1];
        client.write_all(&(1..=64).flat_map(subscribe).collect::<Vec<_>>()).expect("it reads");
        let first: Vec<Completion> = (0..64).map(|_| asks.recv().expect("it asked")).collect();
        client.write_all(&subscribe(65)).expect("there is room");
        assert!(asks.recv_timeout(Duration::from_millis(100)).is_err(), "it waits for its turn");
        complete(&broker, first[0]);
        assert_eq!(exchange(&mut client, b""), [0x90, 3, 0, 1, 1]);
        asks.recv().expect("the next one is read");
        broker.stop(Duration::from_secs(10));
    }

    #[test]
    fn a_client_whose_claim_is_refused_is_told() {
        let (broker, _asks, mut client) = start(true);
        assert_eq!(exchange(&mut client, CONNECT), [0x20, 2, 0, 3]);
        broker.stop(Duration::from_secs(10));
    }

    #[test]
    fn a_client_that_is_banned_while_it_connects_is_disconnected() {
        let ((reached, claim), (go, held)) = (channel(), oneshot::channel());
        let (broker, _asks, mut client) = start_with(false, Some((reached, held)));
        // What it publishes behind its CONNECT goes nowhere.
        client.write_all(&[CONNECT, b"\x30\x03\x00\x01t"].concat()).expect("it reads");
        claim.recv().expect("it asked");
        let banned = Banned::new(BanKind::ClientId, "c").expect("it can be banned");
        broker.node().bans.add(&banned);
        go.send(()).expect("it waits");
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).expect("it closes");
        // What a shard keeps of it has come with the claim; so it was accepted.
        assert_eq!(answer, [0x20, 2, 0, 0]);
        let totals = broker.node().totals();
        assert_eq!((totals.client_connected, totals.messages_published, totals.connections), (1, 0, 0));
        broker.stop(Duration::from_secs(10));
    }
}
