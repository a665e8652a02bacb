//! A publisher whose session outlives its connections: what is not acknowledged is sent again, as MQTT has it.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use crate::{
    connection::{Connection, Event},
    harness::{Packet, Publish, Version, ack, random::Random},
    history::{At, Check, MessageId, Outcome, Published},
    message::payload,
    shelf::Shelf,
    tally::Kind,
    world::{Phase, World, lock},
};

/// One publisher.
#[derive(Debug)]
pub(crate) struct Publisher {
    world: Arc<World>,
    shelf: Arc<Shelf>,
    random: Random,
    client: String,
    topics: Vec<String>,
    id: MessageId,
    connection: Option<Connection>,
    in_flight: VecDeque<InFlight>,
    next_packet_id: u16,
}

/// A message whose exchange is not complete.
#[derive(Debug)]
struct InFlight {
    packet_id: u16,
    /// Where it is on the shelf.
    place: usize,
    publish: Publish,
    /// PUBREC has come, so that PUBREL is what is sent again.
    released: bool,
    sent: Instant,
}

impl Publisher {
    /// The publisher of this number of a workload, which publishes to these topics in turn: at QoS 1 to the first, at QoS 2 to
    /// the second, and so on.
    pub(crate) fn new(
        world: &Arc<World>,
        shelf: &Arc<Shelf>,
        workload: &str,
        number: u16,
        topics: Vec<String>,
        random: Random,
    ) -> Self {
        shelf.publishing.fetch_add(1, Ordering::Relaxed);
        world.expect_one();
        Self {
            world: Arc::clone(world),
            shelf: Arc::clone(shelf),
            random,
            client: world.name(&format!("{workload}-pub{number}")),
            topics,
            id: MessageId { publisher: number, incarnation: 0, sequence: 0 },
            connection: None,
            in_flight: VecDeque::new(),
            next_packet_id: 1,
        }
    }

    /// Publishes as long as the storm lasts, then completes what has begun.
    pub(crate) async fn run(mut self) {
        // Before anything breaks: a CONNECT with Clean Start that is answered late would end the session at any time.
        self.ensure_connected().await;
        self.world.ready();
        self.world.until(Phase::Storm).await;
        let pause = Duration::from_secs(1) / self.world.rate.max(1);
        let mut next = Instant::now();
        while self.world.phase() < Phase::Over {
            let is_storm = self.world.phase() == Phase::Storm;
            if !is_storm && self.in_flight.is_empty() {
                break;
            }
            self.ensure_connected().await;
            if is_storm && self.in_flight.len() < WINDOW && next <= Instant::now() {
                self.publish().await;
                // Who was held up does not catch up all at once.
                next = (next + pause).max(Instant::now().checked_sub(pause * 4).unwrap_or(next));
            }
            let left = next.saturating_duration_since(Instant::now());
            let is_full = self.in_flight.len() >= WINDOW || !is_storm;
            self.step(if is_full { TURN } else { left.min(TURN) }).await;
            if is_storm && self.random.once_in(MESSAGES_A_LIFE) {
                self.disappear().await;
            }
        }
        self.shelf.publishing.fetch_sub(1, Ordering::Relaxed);
        self.ensure_connected().await;
        if let Some(connection) = self.connection.take() {
            connection.goodbye(0, Some(0)).await;
        }
    }

    async fn ensure_connected(&mut self) {
        while self.connection.is_none() {
            let resumed = self.world.resume(&mut self.random, &self.client, &[]).await;
            let Some((connection, present)) = resumed else { return };
            self.connection = Some(connection);
            if present {
                self.send_again().await;
            } else {
                // The client has to forget its part of the session, too [MQTT-3.2.2-5]; what was not acknowledged stays unknown.
                self.in_flight.clear();
                self.id.incarnation += 1;
            }
        }
    }

    /// In the order in which it was sent first [MQTT-4.6.0-1].
    async fn send_again(&mut self) {
        let mut bytes = Vec::new();
        let node = self.connection.as_ref().map_or(0, |connection| connection.node);
        for message in &mut self.in_flight {
            message.sent = Instant::now();
            if message.released {
                bytes.extend(ack(PUBREL, message.packet_id));
            } else {
                message.publish.dup = true;
                bytes.extend(message.publish.bytes(Version::V5));
                lock(&self.shelf.published)[message.place].nodes.push(node);
            }
        }
        self.send(&bytes).await;
    }

    async fn publish(&mut self) {
        let Some(node) = self.connection.as_ref().map(|connection| connection.node) else { return };
        let topic = self.random.below(self.topics.len());
        let qos = if topic.is_multiple_of(2) { 1 } else { 2 };
        let topic = self.topics[topic].clone();
        let packet_id = self.free_packet_id();
        let publish = Publish::new(&topic, payload(self.id)).qos(qos, packet_id);
        let bytes = publish.bytes(Version::V5);
        let begin = self.world.now();
        let (id, nodes) = (self.id, vec![node]);
        let place = {
            let mut published = lock(&self.shelf.published);
            let outcome = Outcome::Unknown;
            published.push(Published { id, topic, qos, begin, end: At::NEVER, outcome, nodes });
            published.len() - 1
        };
        self.id.sequence += 1;
        self.in_flight.push_back(InFlight {
            packet_id,
            place,
            publish,
            released: false,
            sent: Instant::now(),
        });
        self.send(&bytes).await;
    }

    fn free_packet_id(&mut self) -> u16 {
        loop {
            let id = self.next_packet_id;
            self.next_packet_id = id.checked_add(1).unwrap_or(1);
            if self.in_flight.iter().all(|message| message.packet_id != id) {
                return id;
            }
        }
    }

    /// Takes what comes, if anything comes within this time.
    async fn step(&mut self, within: Duration) {
        let Some(connection) = &mut self.connection else { return };
        match connection.event(within).await {
            Some(Event::Packet(packet)) => self.take(packet).await,
            Some(Event::Closed | Event::Reset) => self.connection = None,
            Some(Event::Broken(why)) => self.fail(&why),
            None if !connection.is_alive().await => self.connection = None,
            None => {}
        }
        // A client may not send again on the same connection [MQTT-4.4.0-1], so it takes another one.
        if self.in_flight.front().is_some_and(|oldest| oldest.sent.elapsed() > ACKNOWLEDGED_WITHIN)
            && let Some(connection) = self.connection.take()
        {
            connection.abort();
        }
    }

    async fn take(&mut self, packet: Packet) {
        match packet {
            Packet::PubAck { id, reason } => self.acknowledged(id, 1, reason).await,
            Packet::PubRec { id, reason } => self.acknowledged(id, 2, reason).await,
            Packet::PubComp { id, .. } => self.in_flight.retain(|it| !(it.released && it.packet_id == id)),
            Packet::PingResp => {}
            Packet::Disconnect { .. } => self.connection = None,
            other => self.fail(&format!("a publisher gets {other:?}")),
        }
    }

    async fn acknowledged(&mut self, packet_id: u16, qos: u8, reason: u8) {
        let is_it = |message: &InFlight| message.packet_id == packet_id && message.publish.qos == qos;
        let Some(index) = self.in_flight.iter().position(is_it) else {
            return self.fail(&format!(
                "an acknowledgement at QoS {qos} for packet {packet_id}, which was not sent"
            ));
        };
        let message = &mut self.in_flight[index];
        if !message.released {
            let outcome = if reason < 0x80 { Outcome::Ok } else { Outcome::Failed(reason) };
            let begin = {
                let published = &mut lock(&self.shelf.published)[message.place];
                (published.end, published.outcome) = (self.world.now(), outcome);
                published.begin
            };
            let kind = if qos == 1 { Kind::PublishQos1 } else { Kind::PublishQos2 };
            self.world.books.count(kind, outcome, begin);
        }
        if qos == 1 || reason >= 0x80 {
            self.in_flight.remove(index);
            return;
        }
        (message.released, message.sent) = (true, Instant::now());
        self.send(&ack(PUBREL, packet_id)).await;
    }

    async fn send(&mut self, bytes: &[u8]) {
        if let Some(connection) = &mut self.connection
            && connection.send(bytes).await.is_err()
        {
            self.connection = None;
        }
    }

    /// The client itself fails, or moves.
    async fn disappear(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        match self.random.below(3) {
            0 => connection.abort(),
            1 => drop(connection),
            _ => {
                connection.goodbye(0, None).await;
            }
        }
    }

    fn fail(&mut self, why: &str) {
        self.world.books.report_now(Check::Protocol, format!("{}: {why}", self.client));
        self.connection = None;
    }
}

const PUBREL: u8 = 0x62;

/// Messages that wait for their acknowledgement at the same time.
const WINDOW: usize = 8;

/// How many turns a publisher keeps a connection, on average.
const MESSAGES_A_LIFE: usize = 400;

const TURN: Duration = Duration::from_millis(200);

/// Longer than the cluster may take to get over the loss of a node.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(12);
