//! W4: sessions that begin, end, expire and are taken over, each in the hands of one actor.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use crate::{
    connection::{Attempt, Connection, Event},
    harness::{
        Connect, Packet, Property, Publish, Version, ack, pingreq, property_id, random::Random, subscribe,
        unsubscribe,
    },
    history::{At, Outcome, SessionEvent, SessionKind},
    tally::Kind,
    world::{Phase, World, lock},
};

/// What each client identifier saw.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    pub(super) events: Mutex<BTreeMap<String, Vec<SessionEvent>>>,
}

pub(super) fn start(
    world: &Arc<World>,
    sessions: &Arc<Sessions>,
    random: &mut Random,
    tasks: &mut JoinSet<()>,
) {
    for number in 0..ACTORS {
        let actor = Actor {
            world: Arc::clone(world),
            random: random.fork(),
            client: world.name(&format!("w4-{number}")),
            connection: None,
            expiry: 0,
            alive: At::default(),
            events: Vec::new(),
            next: 0,
            seen: 0,
            subscribed: BTreeSet::new(),
            answers: Answers::default(),
        };
        tasks.spawn(Arc::clone(world).track(format!("w4-{number}"), actor.run(Arc::clone(sessions))));
    }
}

struct Actor {
    world: Arc<World>,
    random: Random,
    client: String,
    connection: Option<Connection>,
    expiry: u32,
    /// When the broker answered last.
    alive: At,
    events: Vec<SessionEvent>,
    /// The number of the next probe.
    next: u32,
    /// The number of the last probe that came back.
    seen: u32,
    /// Topics whose messages are worth waiting for; what is right the model knows.
    subscribed: BTreeSet<String>,
    answers: Answers,
}

/// What came since it was asked for.
#[derive(Default)]
struct Answers {
    suback: Option<u8>,
    puback: Option<u8>,
    pings: usize,
}

impl Actor {
    async fn run(mut self, sessions: Arc<Sessions>) {
        self.world.until(Phase::Storm).await;
        while self.world.phase() == Phase::Storm {
            if self.connection.is_none() {
                self.connect().await;
                continue;
            }
            match self.random.below(12) {
                0..2 => self.subscribe(true).await,
                2 => self.subscribe(false).await,
                3..6 => self.probe().await,
                6 => self.rival().await,
                7 => self.leave().await,
                8 => self.vanish().await,
                _ => self.idle().await,
            }
        }
        self.end().await;
        lock(&sessions.events).insert(self.client, self.events);
    }

    fn record(&mut self, begin: At, node: usize, kind: SessionKind) {
        self.events.push(SessionEvent { begin, end: self.world.now(), node, kind });
    }

    async fn connect(&mut self) {
        let clean = self.random.once_in(5);
        let expiry = self.random.pick(&[0, 1, LONG, LONG, LONG, LONG]);
        let door = self.world.door(&mut self.random);
        let begin = self.world.now();
        match self.world.attempt(door, &connect(&self.client, clean, expiry)).await {
            Attempt::Accepted(connection, connack) => {
                let present = Some(connack.session_present);
                if clean || !connack.session_present {
                    self.subscribed.clear();
                }
                self.record(begin, door.number, SessionKind::Connect { clean, expiry, present });
                (self.connection, self.expiry, self.alive) = (Some(*connection), expiry, self.world.now());
            }
            Attempt::Unanswered | Attempt::Broken(_) => {
                self.record(begin, door.number, SessionKind::Connect { clean, expiry, present: None });
            }
            Attempt::Refused(UNAVAILABLE) => {
                self.record(begin, door.number, SessionKind::Unserved { clean, expiry });
            }
            Attempt::Refused(_) | Attempt::Unreachable => {}
        }
        if self.connection.is_none() {
            self.world.linger(Duration::from_millis(200)).await;
        }
    }

    /// The connection is over.
    fn lost(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.record(self.alive, connection.node, SessionKind::Lost);
        }
    }

    async fn send(&mut self, bytes: &[u8]) {
        if let Some(connection) = &mut self.connection
            && connection.send(bytes).await.is_err()
        {
            self.lost();
        }
    }

    /// Takes what comes until `done`, or the time is over, or the connection.
    async fn take_until(&mut self, within: Duration, mut done: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + within;
        while !done(self) && Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(connection) = &mut self.connection else { return };
            let event = connection.event(left).await;
            match event {
                Some(Event::Packet(Packet::Publish(publish))) => {
                    self.alive = self.world.now();
                    let number = str::from_utf8(&publish.payload).ok().and_then(|text| text.parse().ok());
                    self.seen = self.seen.max(number.unwrap_or(0));
                    if publish.qos == 1 {
                        self.send(&ack(0x40, publish.id)).await;
                    }
                }
                Some(
                    Event::Packet(Packet::Disconnect { .. })
                    | Event::Closed
                    | Event::Reset
                    | Event::Broken(_),
                ) => {
                    self.lost();
                }
                Some(Event::Packet(packet)) => {
                    self.alive = self.world.now();
                    match packet {
                        Packet::SubAck { reasons, .. } | Packet::UnsubAck { reasons, .. } => {
                            self.answers.suback = reasons.first().copied();
                        }
                        Packet::PubAck { reason, .. } => self.answers.puback = Some(reason),
                        Packet::PingResp => self.answers.pings += 1,
                        _ => {}
                    }
                }
                None => return,
            }
        }
    }

    fn topic(&mut self) -> String {
        format!("{}/{}", self.client, self.random.below(2))
    }

    async fn subscribe(&mut self, wanted: bool) {
        let filter = self.topic();
        let node = self.node();
        let begin = self.world.now();
        self.answers = Answers::default();
        let bytes = if wanted {
            subscribe(Version::V5, 1, &[], &[(&filter, 1)])
        } else {
            unsubscribe(Version::V5, 1, &[&filter])
        };
        // It is sent even where it shows only later that nobody reads: so it is recorded before the loss.
        let place = self.events.len();
        self.send(&bytes).await;
        self.take_until(ANSWERED_WITHIN, |actor| actor.answers.suback.is_some()).await;
        let outcome = match self.answers.suback {
            None => Outcome::Unknown,
            Some(reason) if reason < 0x80 => Outcome::Ok,
            Some(reason) => Outcome::Failed(reason),
        };
        self.world.books.count(Kind::Subscribe, outcome, begin);
        if outcome == Outcome::Ok && wanted {
            self.subscribed.insert(filter.clone());
        } else {
            self.subscribed.remove(&filter);
        }
        let kind = SessionKind::Subscribe { filter, wanted, outcome };
        self.events.insert(place, SessionEvent { begin, end: self.world.now(), node, kind });
        if outcome == Outcome::Unknown {
            self.vanish().await;
        }
    }

    /// Publishes to a topic of its own, and looks whether it comes back.
    async fn probe(&mut self) {
        let topic = self.topic();
        let node = self.node();
        let begin = self.world.now();
        self.next += 1;
        let number = self.next;
        self.answers = Answers::default();
        self.send(&Publish::new(&topic, number.to_string()).qos(1, 2).bytes(Version::V5)).await;
        self.take_until(ANSWERED_WITHIN, |actor| actor.answers.puback.is_some()).await;
        let acknowledged = self.answers.puback.is_some_and(|reason| reason < 0x80);
        if acknowledged {
            let patience = if self.subscribed.contains(&topic) { COMES_WITHIN } else { SOON };
            self.take_until(patience, |actor| actor.seen >= number).await;
            if self.seen < number {
                // The node may have been stopped just then: it has to answer once more.
                self.send(&pingreq()).await;
                self.take_until(ANSWERED_WITHIN, |actor| actor.answers.pings > 0).await;
                self.take_until(SOON, |actor| actor.seen >= number).await;
            }
        }
        let came = self.seen >= number;
        let is_known = acknowledged && self.connection.is_some() && (came || self.answers.pings > 0);
        let outcome = if is_known { Outcome::Ok } else { Outcome::Unknown };
        self.world.books.count(Kind::Probe, outcome, begin);
        if is_known {
            self.record(begin, node, SessionKind::Probe { topic, came });
        } else {
            self.vanish().await;
        }
    }

    /// A second connection of the same client, elsewhere: the first one must not be served any more.
    async fn rival(&mut self) {
        let door = self.world.door(&mut self.random);
        let expiry = self.expiry;
        let begin = self.world.now();
        let attempt = self.world.attempt(door, &connect(&self.client, false, expiry)).await;
        let (rival, present) = match attempt {
            Attempt::Accepted(rival, connack) => (*rival, connack.session_present),
            Attempt::Unanswered | Attempt::Broken(_) => {
                let kind = SessionKind::Connect { clean: false, expiry, present: None };
                self.record(begin, door.number, kind);
                // Which of the two has it is not known.
                return self.vanish().await;
            }
            Attempt::Refused(UNAVAILABLE) => {
                return self.record(begin, door.number, SessionKind::Unserved { clean: false, expiry });
            }
            Attempt::Refused(_) | Attempt::Unreachable => return,
        };
        let kind = SessionKind::Connect { clean: false, expiry, present: Some(present) };
        self.record(begin, door.number, kind);
        if !present {
            self.subscribed.clear();
        }
        let Some(mut old) = self.connection.replace(rival) else { return };
        self.alive = self.world.now();
        let begin = self.world.now();
        let is_served = old.send(&pingreq()).await.is_ok() && answers(&mut old).await;
        if is_served {
            self.record(begin, old.node, SessionKind::TwoOwners);
        }
        let outcome = if is_served { Outcome::Failed(0) } else { Outcome::Ok };
        self.world.books.count(Kind::Takeover, outcome, begin);
    }

    async fn leave(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        // Who began with none may not ask for one at the end [MQTT-3.1.2-23].
        let expiry = if self.expiry == 0 { None } else { self.random.pick(&[None, Some(0), Some(LONG)]) };
        let (node, begin) = (connection.node, self.world.now());
        let closed = connection.goodbye(0, expiry).await;
        let sure = closed && self.world.books.is_calm_since(begin);
        self.events.push(SessionEvent {
            begin: self.alive,
            end: self.world.now(),
            node,
            kind: SessionKind::Goodbye { expiry, sure },
        });
        self.pause().await;
    }

    async fn vanish(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        let node = connection.node;
        if self.random.once_in(2) {
            connection.abort();
        } else {
            drop(connection);
        }
        self.record(self.alive, node, SessionKind::Lost);
        self.pause().await;
    }

    /// Mostly short, now and then long enough for a session to expire.
    async fn pause(&mut self) {
        let most = if self.random.once_in(6) { 40_000 } else { 1_500 };
        let pause = u64::try_from(self.random.below(most)).expect("it is small");
        self.world.linger(Duration::from_millis(pause)).await;
    }

    async fn idle(&mut self) {
        self.answers = Answers::default();
        self.send(&pingreq()).await;
        self.take_until(ANSWERED_WITHIN, |actor| actor.answers.pings > 0).await;
        if self.answers.pings == 0 {
            return self.vanish().await;
        }
        let pause = u64::try_from(self.random.below(1_000)).expect("it is small");
        self.take_until(Duration::from_millis(pause), |_| false).await;
    }

    /// Leaves no session behind.
    async fn end(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.record(self.alive, connection.node, SessionKind::Lost);
        }
        let connect = connect(&self.client, true, 0);
        if let Some((connection, _)) = self.world.connect(&mut self.random, &connect).await {
            connection.goodbye(0, None).await;
        }
    }

    fn node(&self) -> usize {
        self.connection.as_ref().map_or(0, |connection| connection.node)
    }
}

/// Whether a PINGREQ is answered.
async fn answers(connection: &mut Connection) -> bool {
    let deadline = Instant::now() + STILL_SERVED;
    while Instant::now() < deadline {
        match connection.event(STILL_SERVED).await {
            Some(Event::Packet(Packet::PingResp)) => return true,
            // Without an acknowledgement, the message is the other connection's.
            Some(Event::Packet(Packet::Publish(_))) => {}
            _ => return false,
        }
    }
    false
}

fn connect(client: &str, clean: bool, expiry: u32) -> Connect {
    let connect = Connect::new(Version::V5, client)
        .keep_alive(KEEP_ALIVE)
        .with(Property::four(property_id::SESSION_EXPIRY, expiry));
    if clean { connect.clean() } else { connect.resume() }
}

const ACTORS: usize = 12;

/// CONNACK: nobody can serve the client now.
const UNAVAILABLE: u8 = 0x88;

/// In seconds.
const LONG: u32 = 7_200;

/// In seconds. The model knows how long a client may be gone before the broker knows.
const KEEP_ALIVE: u16 = 10;

/// How long a message that must not come back is waited for, twice.
const SOON: Duration = Duration::from_millis(400);

const ANSWERED_WITHIN: Duration = Duration::from_secs(8);

/// How long a message may take to come back, when the session has just moved and the network loses packets.
const COMES_WITHIN: Duration = Duration::from_secs(15);

/// How long a connection that was taken over is listened to.
const STILL_SERVED: Duration = Duration::from_millis(1_500);
