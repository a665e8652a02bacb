//! Clients of durable sessions. They outlive every crash, and keep what MQTT has them keep: what was not acknowledged to them, and the
//! identifiers of what they have received.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use flotilla_mqtt::{PacketId, QoS, session::ClientId};
use flotilla_state::{ConnectionEpoch, ShardEpoch};
use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::{Instant, sleep};

use super::{
    link::{Content, Link, Packet},
    seats::Event,
};
use crate::node::{Node, Shared};

/// The clients of a run.
pub struct Clients(Vec<Arc<Mutex<Progress>>>);

/// How far a client has come, for the world to look at.
#[derive(Debug, Default, Clone)]
struct Progress {
    is_connected: bool,
    is_subscribed: bool,
    unacknowledged: usize,
    unreleased: usize,
}

/// A client.
pub struct Client {
    number: usize,
    id: ClientId,
    /// What it subscribes to; `None`: it publishes.
    filter: Option<&'static str>,
    nodes: Vec<Arc<Node>>,
    shared: Arc<Shared>,
    random: StdRng,
    progress: Arc<Mutex<Progress>>,
    session: Session,
    link: Option<Connected>,
    connections: u64,
}

/// What a client keeps between its connections.
#[derive(Default)]
struct Session {
    /// A node has said that there is one.
    is_known: bool,
    is_subscribed: bool,
    /// What was published and is not done, in order.
    outgoing: VecDeque<Outgoing>,
    /// Messages of QoS 2 that wait for their PUBREL.
    incoming: BTreeMap<PacketId, Content>,
    last_packet_id: u16,
    /// It is to begin anew: until a node has said that it has, every connection says so.
    is_to_begin: bool,
    numbers: BTreeMap<(usize, QoS), u64>,
}

struct Outgoing {
    id: PacketId,
    content: Content,
    /// PUBREC has come.
    is_received: bool,
}

struct Connected {
    link: Arc<Link>,
    node: Arc<Node>,
    /// Which process of the node it is.
    start: u64,
    is_accepted: bool,
    is_subscribing: bool,
    clean_start: bool,
    /// When something was last heard that was waited for.
    heard: Instant,
}

impl Clients {
    /// The clients of a cluster, and what each of them does.
    pub fn new(nodes: &[Arc<Node>], shared: &Arc<Shared>, seed: u64) -> (Self, Vec<Client>) {
        let filters = [None, None, Some("t/#"), Some("t/0"), Some("t/+"), Some("t/1")];
        let clients = filters.into_iter().enumerate().map(|(number, filter)| {
            let name = format!("{}-{number}", if filter.is_some() { "sub" } else { "pub" });
            Client {
                number,
                id: ClientId::new(&name).expect("a name is not empty"),
                filter,
                nodes: nodes.to_vec(),
                shared: Arc::clone(shared),
                random: StdRng::seed_from_u64(seed.wrapping_mul(131).wrapping_add(number as u64)),
                progress: Arc::default(),
                session: Session::default(),
                link: None,
                connections: 0,
            }
        });
        let clients: Vec<Client> = clients.collect();
        (Self(clients.iter().map(|client| Arc::clone(&client.progress)).collect()), clients)
    }

    /// What is not done yet.
    pub fn lack(&self) -> Option<String> {
        self.0.iter().enumerate().find_map(|(number, progress)| {
            let progress = progress.lock();
            let Progress { is_connected, is_subscribed, unacknowledged, unreleased } = *progress;
            let is_done = is_connected && is_subscribed && unacknowledged == 0 && unreleased == 0;
            (!is_done).then(|| format!("client {number} is at {progress:?}"))
        })
    }
}

impl Client {
    /// Its name, which is that of its host.
    pub fn name(&self) -> String {
        self.id.to_string()
    }

    /// Lives on, whatever happens.
    pub async fn run(mut self) -> turmoil::Result {
        loop {
            sleep(Duration::from_millis(self.random.random_range(1..15))).await;
            self.act();
            *self.progress.lock() = Progress {
                is_connected: self.link.as_ref().is_some_and(|link| link.is_accepted),
                is_subscribed: self.filter.is_none() || self.session.is_subscribed,
                unacknowledged: self.session.outgoing.len(),
                unreleased: self.session.incoming.len(),
            };
        }
    }

    fn act(&mut self) {
        let Some(connected) = self.link.take() else {
            if !self.is_busy() || self.random.random_ratio(1, 20) {
                self.connect();
            }
            return;
        };
        if !connected.is_alive() {
            // What had come before may have been read or not.
            if self.random.random_ratio(1, 2) {
                self.link = Some(connected);
                self.read(usize::MAX);
            }
            return self.disconnect();
        }
        let is_waiting = !connected.is_accepted
            || connected.is_subscribing
            || !self.session.outgoing.is_empty()
            || !self.session.incoming.is_empty();
        let is_overdue = is_waiting && connected.heard.elapsed() > PATIENCE;
        let is_idle = !is_waiting;
        self.link = Some(connected);
        if is_idle && let Some(connected) = &mut self.link {
            connected.heard = Instant::now();
        }
        if is_overdue || self.is_busy() && self.random.random_ratio(1, 300) {
            return self.disconnect();
        }
        let count = self.random.random_range(0..4);
        self.read(count);
        self.subscribe();
        if self.is_busy() && self.filter.is_none() && self.random.random_ratio(1, 4) {
            self.publish();
        }
    }

    fn is_busy(&self) -> bool {
        self.shared.is_busy.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn connect(&mut self) {
        let node = Arc::clone(&self.nodes[self.random.random_range(0..self.nodes.len())]);
        let process = node.process.lock().clone();
        let Some(process) = process.filter(|process| process.is_serving_clients()) else { return };
        self.connections += 1;
        // One of them begins anew now and then; the others have something to lose.
        if self.filter == Some("t/1") && self.is_busy() && self.random.random_ratio(1, 6) {
            self.session = Session { is_to_begin: true, ..Session::default() };
            self.shared.delivery.ended(self.number);
        }
        let clean_start = self.session.is_to_begin;
        let link = Arc::new(Link::default());
        let epoch = ConnectionEpoch { shard: ShardEpoch(1), sequence: self.connections };
        link.send_to_node(Packet::Connect { client: self.id.clone(), epoch, clean_start });
        process.shards.seats.put(Event::Incoming(Arc::clone(&link)));
        let start = *node.starts.lock();
        self.note(format_args!("connects to {} ({})", node.name, self.connections));
        let (is_accepted, is_subscribing, heard) = (false, false, Instant::now());
        self.link = Some(Connected { link, node, start, is_accepted, is_subscribing, clean_start, heard });
    }

    fn disconnect(&mut self) {
        let Some(connected) = self.link.take() else { return };
        if self.random.random_ratio(1, 3) {
            connected.link.send_to_node(Packet::Disconnect);
        } else {
            connected.link.close();
        }
        self.note(format_args!("is away"));
    }

    fn read(&mut self, count: usize) {
        for _ in 0..count {
            let Some(packet) = self.link.as_ref().and_then(|connected| connected.link.next_from_node())
            else {
                return;
            };
            if let Some(connected) = &mut self.link {
                connected.heard = Instant::now();
            }
            if let Err(what) = self.handle(packet) {
                self.shared.check(Err(format!("{}: {what}", self.id)));
            }
        }
    }

    fn handle(&mut self, packet: Packet) -> Result<(), String> {
        match packet {
            Packet::ConnAck { present } => self.accepted(present)?,
            Packet::SubAck => {
                self.session.is_subscribed = true;
                if let Some(connected) = &mut self.link {
                    connected.is_subscribing = false;
                }
                self.shared.delivery.subscribed(self.number, self.filter.unwrap_or_default());
            }
            Packet::Publish { id, content, dup } => self.receive(id, content, dup)?,
            Packet::PubRel(id) => {
                self.session.incoming.remove(&id);
                self.send(Packet::PubComp(id));
            }
            Packet::PubAck(id) | Packet::PubComp(id) => {
                let position = self.session.outgoing.iter().position(|outgoing| outgoing.id == id);
                let Some(outgoing) = position.and_then(|position| self.session.outgoing.remove(position))
                else {
                    return Err(format!("{packet:?} is for nothing"));
                };
                if outgoing.is_received != matches!(packet, Packet::PubComp(_)) {
                    return Err(format!("{packet:?} is for {}", outgoing.content));
                }
                self.shared.delivery.acknowledged(outgoing.content);
            }
            Packet::PubRec(id) => {
                let outgoing = self.session.outgoing.iter_mut().find(|outgoing| outgoing.id == id);
                let outgoing = outgoing.ok_or_else(|| format!("{packet:?} is for nothing"))?;
                outgoing.is_received = true;
                self.shared.delivery.acknowledged(outgoing.content);
                self.send(Packet::PubRel(id));
            }
            Packet::Connect { .. } | Packet::Subscribe { .. } | Packet::Disconnect => {
                return Err(format!("an unexpected {packet:?}"));
            }
        }
        Ok(())
    }

    /// The session goes on: what was not acknowledged is sent again, in its order.
    fn accepted(&mut self, present: bool) -> Result<(), String> {
        let Some(connected) = &mut self.link else { return Ok(()) };
        connected.is_accepted = true;
        if connected.clean_start {
            if present {
                return Err("a session is present after Clean Start".to_owned());
            }
            self.session.is_to_begin = false;
        }
        if self.session.is_known && !present {
            return Err("its session is lost".to_owned());
        }
        self.session.is_known = true;
        let again = self.session.outgoing.iter().map(|outgoing| match outgoing.is_received {
            true => Packet::PubRel(outgoing.id),
            false => Packet::Publish { id: outgoing.id, dup: true, content: outgoing.content },
        });
        again.collect::<Vec<_>>().into_iter().for_each(|packet| self.send(packet));
        Ok(())
    }

    fn receive(&mut self, id: PacketId, content: Content, dup: bool) -> Result<(), String> {
        if content.qos == QoS::AtLeastOnce {
            self.shared.delivery.delivered(self.number, content)?;
            self.send(Packet::PubAck(id));
            return Ok(());
        }
        match self.session.incoming.get(&id) {
            Some(known) if *known != content => {
                return Err(format!("{id:?} is {content} before the PUBREL of {known}"));
            }
            Some(_) if !dup => return Err(format!("{content} comes again, and not as a duplicate")),
            Some(_) => {}
            None => {
                self.session.incoming.insert(id, content);
                self.shared.delivery.delivered(self.number, content)?;
            }
        }
        self.send(Packet::PubRec(id));
        Ok(())
    }

    fn subscribe(&mut self) {
        let Some(filter) = self.filter.filter(|_| !self.session.is_subscribed) else { return };
        let Some(connected) = &mut self.link else { return };
        if connected.is_accepted && !connected.is_subscribing {
            connected.is_subscribing = true;
            self.send(Packet::Subscribe { filter });
        }
    }

    fn publish(&mut self) {
        let is_accepted = self.link.as_ref().is_some_and(|connected| connected.is_accepted);
        if !is_accepted || self.session.outgoing.len() >= OUTGOING_MAX {
            return;
        }
        let topic = self.random.random_range(0..TOPICS);
        let qos = if self.random.random_ratio(1, 3) { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
        let number = self.session.numbers.entry((topic, qos)).or_default();
        *number += 1;
        let content = Content { publisher: self.number, topic, qos, number: *number };
        let id = self.next_packet_id();
        self.shared.delivery.published(content);
        self.session.outgoing.push_back(Outgoing { id, content, is_received: false });
        self.send(Packet::Publish { id, dup: false, content });
    }

    /// One that is free. There are few, so that they come again soon.
    fn next_packet_id(&mut self) -> PacketId {
        loop {
            self.session.last_packet_id = self.session.last_packet_id % PACKET_IDS + 1;
            let id = PacketId::new(self.session.last_packet_id).expect("it is not 0");
            if self.session.outgoing.iter().all(|outgoing| outgoing.id != id) {
                return id;
            }
        }
    }

    fn send(&self, packet: Packet) {
        if let Some(connected) = &self.link {
            connected.link.send_to_node(packet);
        }
    }

    fn note(&self, what: std::fmt::Arguments<'_>) {
        self.shared.trace.note(format_args!("{} {what}", self.id));
    }
}

impl Connected {
    /// Whether the process is there, and has not closed the connection.
    fn is_alive(&self) -> bool {
        let is_same = self.node.process.lock().is_some() && *self.node.starts.lock() == self.start;
        is_same && !self.link.is_broken()
    }
}

/// Messages of a publisher that are not acknowledged, at most.
const OUTGOING_MAX: usize = 6;
const PACKET_IDS: u16 = 9;
const TOPICS: usize = 3;
/// So long a client waits before it tries another node.
const PATIENCE: Duration = Duration::from_secs(3);
