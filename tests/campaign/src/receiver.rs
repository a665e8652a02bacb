//! A subscriber whose session outlives its connections, with the client's part of QoS 2.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    check::delivery::owed,
    connection::{Connection, Event},
    harness::{Packet, Property, Publish, Version, ack, property_id, random::Random, subscribe},
    history::{At, Check, Delivered, MessageId, Outcome, Stay, Subscription, Violation, Wanted},
    message::identify,
    shelf::Shelf,
    tally::Kind,
    world::{Phase, World, lock},
};

/// One subscriber.
#[derive(Debug)]
pub(crate) struct Receiver {
    world: Arc<World>,
    shelf: Arc<Shelf>,
    pub(crate) random: Random,
    filter: String,
    /// Of a shared subscription.
    is_member: bool,
    properties: Vec<Property>,
    subscription: Subscription,
    connection: Option<Connection>,
    life: u32,
    was_connected: bool,
    is_subscribed: bool,
    /// QoS 2 messages whose PUBREL has not come.
    unreleased: BTreeMap<u16, MessageId>,
    /// QoS 1 messages that were not acknowledged, on purpose.
    unacknowledged: BTreeMap<u16, MessageId>,
}

/// What a step brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Message,
    Nothing,
}

impl Receiver {
    /// A subscriber of a filter, of which `wanted` are its topics.
    pub(crate) fn new(
        world: &Arc<World>,
        shelf: &Arc<Shelf>,
        client: &str,
        filter: &str,
        wanted: Wanted,
        qos: u8,
        mut random: Random,
    ) -> Self {
        world.expect_one();
        let window = random.pick(&[1, 5, 20, 65_535]);
        Self {
            world: Arc::clone(world),
            shelf: Arc::clone(shelf),
            random,
            filter: filter.to_owned(),
            is_member: filter.starts_with("$share/"),
            properties: vec![Property::two(property_id::RECEIVE_MAXIMUM, window)],
            subscription: Subscription {
                client: world.name(client),
                wanted,
                qos,
                since: At::NEVER,
                stays: Vec::new(),
                delivered: Vec::new(),
            },
            connection: None,
            life: 0,
            was_connected: false,
            is_subscribed: false,
            unreleased: BTreeMap::new(),
            unacknowledged: BTreeMap::new(),
        }
    }

    /// Subscribes, takes what comes and is now and then away, until it has all that it is owed.
    pub(crate) async fn run(mut self) {
        self.ensure_connected().await;
        self.world.ready();
        while self.world.phase() < Phase::Drain {
            self.ensure_connected().await;
            self.step(TURN).await;
            if self.random.once_in(STEPS_A_LIFE) {
                self.disappear().await;
                let away =
                    Duration::from_millis(u64::try_from(self.random.below(2_000)).expect("it is small"));
                self.world.linger(away).await;
            }
        }
        self.drain().await;
        self.finish().await;
    }

    /// Subscribes and goes, is back once or not at all before the storm is over, and then gets what it is owed.
    pub(crate) async fn run_away(mut self) {
        self.ensure_connected().await;
        self.leave().await;
        self.world.ready();
        self.world.until(Phase::Storm).await;
        if self.random.once_in(4) {
            let away = Duration::from_millis(u64::try_from(self.random.below(60_000)).expect("it is small"));
            self.world.linger(away).await;
            self.ensure_connected().await;
            for _ in 0..self.random.below(10) {
                self.step(TURN).await;
            }
            self.leave().await;
        }
        self.world.until(Phase::Drain).await;
        self.drain().await;
        self.finish().await;
    }

    /// Is connected and subscribed, unless the round is over.
    pub(crate) async fn ensure_connected(&mut self) {
        while (self.connection.is_none() || !self.is_subscribed) && self.world.phase() < Phase::Over {
            if self.connection.is_none() {
                let client = &self.subscription.client;
                let resumed = self.world.resume(&mut self.random, client, &self.properties).await;
                let Some((connection, present)) = resumed else { return };
                let (node, begin) = (connection.node, self.world.now());
                self.subscription.stays.push(Stay { node, begin, end: At::NEVER, how: "" });
                self.connection = Some(connection);
                if !present {
                    self.begin_session();
                }
            }
            if !self.is_subscribed {
                self.subscribe().await;
            }
        }
    }

    fn begin_session(&mut self) {
        self.life += u32::from(self.was_connected);
        self.was_connected = true;
        self.is_subscribed = false;
        self.unreleased.clear();
        self.unacknowledged.clear();
    }

    async fn subscribe(&mut self) {
        let begin = self.world.now();
        let bytes = subscribe(Version::V5, 1, &[], &[(&self.filter, self.subscription.qos)]);
        self.send(&bytes).await;
        let deadline = Instant::now() + SUBACK_WITHIN;
        while Instant::now() < deadline && !self.is_subscribed && self.connection.is_some() {
            self.step(TURN).await;
        }
        let outcome = if self.is_subscribed { Outcome::Ok } else { Outcome::Unknown };
        self.world.books.count(Kind::Subscribe, outcome, begin);
        if self.is_subscribed {
            self.subscription.since = self.subscription.since.min(self.world.now());
        } else if let Some(connection) = self.lost("no SUBACK") {
            connection.abort();
        }
    }

    /// Takes what comes, if anything comes within this time.
    pub(crate) async fn step(&mut self, within: Duration) -> Step {
        let Some(connection) = &mut self.connection else { return Step::Nothing };
        match connection.event(within).await {
            Some(Event::Packet(Packet::Publish(publish))) => {
                self.publish(&publish).await;
                return Step::Message;
            }
            Some(Event::Packet(packet)) => self.take(packet).await,
            Some(Event::Closed | Event::Reset) => drop(self.lost("the broker closed")),
            Some(Event::Broken(why)) => self.fail(&why),
            None if !connection.is_alive().await => drop(self.lost("the broker was silent")),
            None => {}
        }
        Step::Nothing
    }

    async fn take(&mut self, packet: Packet) {
        match packet {
            Packet::PubRel { id, .. } => {
                self.unreleased.remove(&id);
                self.send(&ack(PUBCOMP, id)).await;
            }
            Packet::SubAck { id: 1, reasons } if reasons == [self.subscription.qos] => {
                self.is_subscribed = true;
            }
            Packet::PingResp => {}
            Packet::Disconnect { .. } => drop(self.lost("DISCONNECT of the broker")),
            other => self.fail(&format!("a subscriber gets {other:?}")),
        }
    }

    async fn publish(&mut self, publish: &Publish) {
        let id = match identify(&publish.payload) {
            Ok(id) => id,
            Err(why) => {
                let text = format!("{} got {why} on {}", self.subscription.client, publish.topic);
                self.world.books.report_now(Check::Unexpected, text);
                return self.acknowledge(publish).await;
            }
        };
        let pending = if publish.qos == 2 { &self.unreleased } else { &self.unacknowledged };
        match pending.get(&publish.id).copied() {
            Some(before) if publish.qos > 0 => {
                self.expect_repetition(publish, id, before);
                if publish.qos == 2 {
                    return self.send(&ack(PUBREC, publish.id)).await;
                }
            }
            _ => {}
        }
        self.deliver(publish, id);
        if publish.qos == 2 {
            self.unreleased.insert(publish.id, id);
        } else if publish.qos == 1 && self.world.phase() == Phase::Storm && self.random.once_in(ACKS_LOST) {
            // As if the client died with the message taken and the acknowledgement not sent.
            self.unacknowledged.insert(publish.id, id);
            self.disappear_at_once();
            return;
        }
        self.unacknowledged.remove(&publish.id);
        self.acknowledge(publish).await;
    }

    async fn acknowledge(&mut self, publish: &Publish) {
        match publish.qos {
            0 => {}
            1 => self.send(&ack(PUBACK, publish.id)).await,
            _ => self.send(&ack(PUBREC, publish.id)).await,
        }
    }

    fn expect_repetition(&self, publish: &Publish, id: MessageId, before: MessageId) {
        let why = if before != id {
            format!("packet {} is {id}, and was {before}, which is not complete", publish.id)
        } else if !publish.dup {
            format!("{id} comes again as packet {} without DUP", publish.id)
        } else {
            return;
        };
        let text = format!("{}: {why}, in session {}", self.subscription.client, self.life);
        self.world.books.report_now(Check::Dup, text);
    }

    fn deliver(&mut self, publish: &Publish, id: MessageId) {
        let node = self.connection.as_ref().map_or(0, |connection| connection.node);
        let at = self.world.now();
        self.world.books.tally().count(Kind::Delivery, Outcome::Ok, Duration::ZERO);
        if self.is_member {
            lock(&self.shelf.taken).insert(id);
        }
        let (topic, qos, dup) = (publish.topic.clone(), publish.qos, publish.dup);
        self.subscription.delivered.push(Delivered { at, life: self.life, node, id, topic, qos, dup });
    }

    async fn send(&mut self, bytes: &[u8]) {
        if let Some(connection) = &mut self.connection
            && connection.send(bytes).await.is_err()
        {
            self.lost("nothing could be sent");
        }
    }

    /// The connection is over; it is returned, where it is not yet.
    fn lost(&mut self, how: &'static str) -> Option<Connection> {
        let connection = self.connection.take()?;
        if let Some(stay) = self.subscription.stays.last_mut() {
            (stay.end, stay.how) = (self.world.now(), how);
        }
        Some(connection)
    }

    /// The client itself fails, or moves.
    async fn disappear(&mut self) {
        if self.random.once_in(3) {
            self.leave().await;
        } else {
            self.disappear_at_once();
        }
    }

    fn disappear_at_once(&mut self) {
        if self.random.once_in(2) {
            if let Some(connection) = self.lost("the client reset it") {
                connection.abort();
            }
        } else {
            self.lost("the client closed it");
        }
    }

    /// Says goodbye, and keeps the session.
    async fn leave(&mut self) {
        if let Some(connection) = self.lost("DISCONNECT of the client") {
            connection.goodbye(0, None).await;
        }
    }

    /// Takes what comes until it has all that it is owed, or nothing more comes.
    async fn drain(&mut self) {
        let mut missing: Option<HashSet<MessageId>> = None;
        let (mut seen, mut progress) = (0, Instant::now());
        while self.world.phase() < Phase::Over {
            self.ensure_connected().await;
            if self.step(TURN).await == Step::Message {
                progress = Instant::now();
            }
            if missing.is_none() && self.shelf.is_complete() {
                let published = lock(&self.shelf.published);
                missing = Some(owed(published.iter(), &self.subscription).map(|it| it.id).collect());
                progress = Instant::now();
            }
            let Some(missing) = &mut missing else { continue };
            if self.is_member {
                let taken = lock(&self.shelf.taken);
                missing.retain(|id| !taken.contains(id));
            }
            for delivered in &self.subscription.delivered[seen..] {
                missing.remove(&delivered.id);
            }
            seen = self.subscription.delivered.len();
            let patience = if missing.is_empty() { QUIET } else { PATIENCE };
            if progress.elapsed() > patience {
                return;
            }
        }
    }

    /// Ends the session, and puts what it got on the shelf.
    async fn finish(mut self) {
        if let Some(connection) = self.connection.take() {
            connection.goodbye(0, Some(0)).await;
        }
        if self.subscription.since == At::NEVER {
            let now = self.world.now();
            self.world.books.report(Violation {
                check: Check::Healing,
                begin: now,
                end: now,
                count: 1,
                text: format!("{} could not subscribe at all", self.subscription.client),
            });
        }
        lock(&self.shelf.subscriptions).push(self.subscription);
    }

    fn fail(&mut self, why: &str) {
        let text = format!("{}: {why}", self.subscription.client);
        self.world.books.report_now(Check::Protocol, text);
        self.lost("it broke the protocol");
    }
}

const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBCOMP: u8 = 0x70;

const TURN: Duration = Duration::from_millis(200);

const SUBACK_WITHIN: Duration = Duration::from_secs(8);

/// How many steps a subscriber keeps a connection, on average.
const STEPS_A_LIFE: usize = 500;

/// One in so many acknowledgements of QoS 1 is not sent.
const ACKS_LOST: usize = 400;

/// How long somebody who has everything waits for what must not come.
const QUIET: Duration = Duration::from_millis(1_500);

/// How long somebody who misses something waits for it.
const PATIENCE: Duration = Duration::from_secs(15);
