//! The connections of a node, and what they want of the shards: what the workers of a broker do for durable sessions.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use flotilla_lane::{Batch, BatchWriter, Forwarded, Frame, KeptFor, Origin, Texts};
use flotilla_mqtt::{
    PacketId, QoS, Timestamp, Transit,
    packet::SubscriptionOptions,
    session::{ClientId, QueueFull, SessionExpiry, Subscription},
    topic::TopicFilter,
};
use flotilla_shard::{
    Answer, Connection, GroupStrategy, Op, Open, OpenedSession, Overlap, QueueLimits, Seq, SessionId,
    WillFate,
};
use flotilla_state::ShardId;
use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{sync::Notify, time::timeout};

use super::{
    Message, PowerFailed, What,
    line::Wish,
    link::{Content, Link, Packet},
    points::Point,
};
use crate::node::Process;

/// A connection, as whoever waits for an answer is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SeatId(u64);

/// What a connection waits for.
#[derive(Debug, Clone, PartialEq)]
pub enum Awaited {
    /// Its session.
    Opened,
    /// A subscription.
    Subscribed,
    /// The number of a PUBLISH of QoS 2.
    Received(PacketId),
    /// A message in one of the shards.
    Stored(u64),
    /// An identifier that is free again.
    Freed(PacketId),
    /// The shard knows of these PUBREC.
    Released(Vec<PacketId>),
}

/// What is brought to the connections.
pub enum Event {
    /// The node begins a life, or ends one.
    Life,
    /// A shard has another leader.
    Led(ShardId),
    /// A shard has answered.
    Answered(SeatId, Awaited, Answer),
    /// A message of a session, or the PUBREL of one.
    Kept(Delivery),
    /// A client connects.
    Incoming(Arc<Link>),
}

/// A message of a session, or the PUBREL of one.
pub struct Delivery {
    term: u64,
    client: ClientId,
    epoch: flotilla_state::ConnectionEpoch,
    turn: u32,
    seq: Seq,
    content: Option<(Content, QoS)>,
}

/// The mailbox of the connections.
#[derive(Default)]
pub struct Seats {
    events: Mutex<VecDeque<Event>>,
    wake: Notify,
}

struct Seat {
    link: Arc<Link>,
    connection: Connection,
    shard: ShardId,
    session: Option<Session>,
    next_ticket: u64,
}

/// A session while it is served.
struct Session {
    id: SessionId,
    /// The next message that is to come from the shard.
    next: Seq,
    maybe_sent_until: Seq,
    /// The term of the leader that was asked for messages.
    term: u64,
    /// PUBLISH that wait for their numbers, and those that must not overtake them.
    receiving: VecDeque<Receiving>,
    /// PUBLISH that wait for the shards, in the order in which they are acknowledged.
    storing: VecDeque<Storing>,
    /// QoS 2 identifiers that wait for PUBREL, and whose messages every shard has.
    stored: BTreeSet<PacketId>,
    in_flight: BTreeMap<PacketId, Seq>,
    released: Vec<Seq>,
    done: Vec<Seq>,
}

struct Receiving {
    id: PacketId,
    content: Content,
    /// `None`: its number is awaited.
    origin: Option<Option<Origin>>,
}

struct Storing {
    ticket: u64,
    id: PacketId,
    qos: QoS,
    shards_left: usize,
}

impl Seats {
    /// Puts something in.
    pub fn put(&self, event: Event) {
        self.events.lock().push_back(event);
        self.wake.notify_one();
    }

    /// Puts in what a shard sends to clients.
    pub fn put_batch(&self, batch: &Batch) {
        batch.frames().filter_map(|frame| Delivery::of(&frame)).for_each(|kept| self.put(Event::Kept(kept)));
    }

    /// Whether nothing waits.
    pub fn is_idle(&self) -> bool {
        self.events.lock().is_empty()
    }
}

impl Delivery {
    /// What a frame brings, if it is one of those.
    pub fn of(frame: &Frame<'_>) -> Option<Self> {
        let (to, content) = match frame {
            Frame::Kept { to, options, message } => {
                let content = std::str::from_utf8(message.payload).ok()?.parse().ok()?;
                (to, Some((content, options.qos)))
            }
            Frame::KeptRelease { to } => (to, None),
            _ => return None,
        };
        let KeptFor { term, client_id, epoch, turn, sequence } = *to;
        Some(Self { term, client: ClientId::new(client_id)?, epoch, turn, seq: Seq(sequence), content })
    }
}

/// Serves clients as long as the process lives.
pub async fn run(process: Arc<Process>, seed: u64) {
    let random = StdRng::seed_from_u64(seed ^ 0x5ea7);
    let mut desk = Desk { process, random, seats: BTreeMap::new(), last: 0 };
    while desk.turn().await.is_ok() {}
    // The power has failed, and the process is about to end.
    std::future::pending::<()>().await;
}

struct Desk {
    process: Arc<Process>,
    random: StdRng,
    seats: BTreeMap<SeatId, Seat>,
    last: u64,
}

impl Desk {
    async fn turn(&mut self) -> Result<(), PowerFailed> {
        let pause = Duration::from_micros(self.random.random_range(500..3_000));
        let _ = timeout(pause, self.process.shards.seats.wake.notified()).await;
        let events = std::mem::take(&mut *self.process.shards.seats.events.lock());
        for event in events {
            self.handle(event)?;
        }
        if !self.process.is_serving() {
            self.close_all();
        }
        let ids: Vec<SeatId> = self.seats.keys().copied().collect();
        for id in ids {
            self.read(id)?;
            self.acknowledge(id);
        }
        Ok(())
    }

    fn close_all(&mut self) {
        std::mem::take(&mut self.seats).values().for_each(|seat| seat.link.close());
    }

    fn handle(&mut self, event: Event) -> Result<(), PowerFailed> {
        match event {
            Event::Life => self.close_all(),
            Event::Incoming(link) => self.seat(link),
            Event::Led(shard) => {
                let ids = self.seats.iter().filter(|(_, seat)| seat.shard == shard).map(|(id, _)| *id);
                ids.collect::<Vec<_>>().into_iter().for_each(|id| self.attach(id));
            }
            Event::Kept(delivery) => self.deliver(&delivery)?,
            Event::Answered(id, what, answer) => self.answered(id, what, answer)?,
        }
        Ok(())
    }

    /// A client connects: its first packet says who it is.
    fn seat(&mut self, link: Arc<Link>) {
        let Some(Packet::Connect { client, epoch, clean_start }) = link.next_from_client() else {
            return link.close();
        };
        let Some(lines) = self.process.shards.lines.get() else { return link.close() };
        let shard = lines.ring.shard_of(client.as_str().as_bytes());
        let before = self.seats.iter().find(|(_, seat)| seat.connection.client == client).map(|(id, _)| *id);
        before.into_iter().for_each(|id| self.close(id));
        let connection = Connection { client, epoch, turn: 0 };
        let open = Op::Open(Box::new(open(connection.clone(), clean_start)));
        self.last += 1;
        let id = SeatId(self.last);
        self.seats.insert(id, Seat { link, connection, shard, session: None, next_ticket: 0 });
        self.ask(shard, id, open, Awaited::Opened);
    }

    fn ask(&self, shard: ShardId, id: SeatId, op: Op, what: Awaited) {
        self.process.put_wish(shard, Wish { op, waiting: Some((id, what)) });
    }

    /// The connection has ended.
    fn close(&mut self, id: SeatId) {
        let Some(Seat { link, connection, shard, session, .. }) = self.seats.remove(&id) else { return };
        link.close();
        let (sent_until, stored) = session
            .map_or((Seq(1), Vec::new()), |session| (session.next, session.stored.into_iter().collect()));
        let (expiry, will) = (SessionExpiry::Never, WillFate::Drop);
        let op = Op::Close { connection, expiry, will, sent_until, stored };
        self.process.put_wish(shard, Wish { op, waiting: None });
    }

    /// Asks the leader of the shard for the messages of a session.
    fn attach(&mut self, id: SeatId) {
        let Some(seat) = self.seats.get_mut(&id) else { return };
        let leader = self.process.shards.line(seat.shard).and_then(|line| line.leader());
        let (Some(leader), Some(session)) = (leader, &mut seat.session) else { return };
        session.term = leader.term;
        let what = What::Attach { connection: seat.connection.clone(), from: session.next };
        self.process.send_shard(leader.member, Message { shard: seat.shard, term: leader.term, what });
    }

    fn deliver(&mut self, delivery: &Delivery) -> Result<(), PowerFailed> {
        let seat = self.seats.values_mut().find(|seat| seat.connection.client == delivery.client);
        let Some(Seat { link, connection, session: Some(session), .. }) = seat else { return Ok(()) };
        let is_meant = (connection.epoch, connection.turn) == (delivery.epoch, delivery.turn);
        if !is_meant || session.term != delivery.term || delivery.seq < session.next {
            return Ok(());
        }
        session.next = Seq(delivery.seq.0 + 1);
        let id = delivery.seq.packet_id();
        session.in_flight.insert(id, delivery.seq);
        match delivery.content {
            None => {
                link.send_to_client(Packet::PubRel(id));
                self.process.pass(Point::RelSent)
            }
            Some((content, qos)) => {
                if qos != content.qos {
                    let what = format!("{content} comes at {qos:?} to {}", delivery.client);
                    self.process.shared().check(Err(what));
                }
                let dup = delivery.seq < session.maybe_sent_until;
                link.send_to_client(Packet::Publish { id, dup, content });
                if qos == QoS::ExactlyOnce { self.process.pass(Point::Delivered) } else { Ok(()) }
            }
        }
    }

    fn answered(&mut self, id: SeatId, what: Awaited, answer: Answer) -> Result<(), PowerFailed> {
        let Some(seat) = self.seats.get_mut(&id) else { return Ok(()) };
        if answer == Answer::Fenced {
            // A later connection has the session.
            self.close(id);
            return Ok(());
        }
        let link = Arc::clone(&seat.link);
        match (what, seat.session.as_mut()) {
            (Awaited::Opened, _) => self.opened(id, answer),
            (Awaited::Subscribed, _) => link.send_to_client(Packet::SubAck),
            (Awaited::Received(packet_id), Some(session)) => {
                let Answer::Received { number, floor } = answer else {
                    self.close(id);
                    return Ok(());
                };
                self.process.pass(Point::Received)?;
                let origin = Origin { shard: seat.shard, session: session.id.0, number, floor };
                let waiting = session.receiving.iter_mut().find(|receiving| receiving.id == packet_id);
                if let Some(receiving) = waiting {
                    receiving.origin = Some(Some(origin));
                }
                self.store_received(id);
            }
            (Awaited::Stored(ticket), Some(session)) => {
                let storing = session.storing.iter_mut().find(|storing| storing.ticket == ticket);
                storing.into_iter().for_each(|storing| storing.shards_left -= 1);
                while let Some(done) = session.storing.pop_front_if(|storing| storing.shards_left == 0) {
                    if done.qos == QoS::ExactlyOnce {
                        self.process.pass(Point::Stored)?;
                        session.stored.insert(done.id);
                        link.send_to_client(Packet::PubRec(done.id));
                        self.process.pass(Point::RecSent)?;
                    } else {
                        link.send_to_client(Packet::PubAck(done.id));
                    }
                }
            }
            (Awaited::Freed(packet_id), Some(session)) => {
                self.process.pass(Point::Freed)?;
                session.stored.remove(&packet_id);
                link.send_to_client(Packet::PubComp(packet_id));
                self.process.pass(Point::CompSent)?;
            }
            (Awaited::Released(ids), Some(_)) => {
                self.process.pass(Point::RelDue)?;
                ids.into_iter().for_each(|id| link.send_to_client(Packet::PubRel(id)));
                self.process.pass(Point::RelSent)?;
            }
            (_, None) => {}
        }
        Ok(())
    }

    fn opened(&mut self, id: SeatId, answer: Answer) {
        let Some(seat) = self.seats.get_mut(&id) else { return };
        let Answer::Opened(opened) = answer else { return self.close(id) };
        let present = opened.present;
        let Some(session) = opened.session else { return self.close(id) };
        seat.session = Some(Session::new(&session));
        seat.link.send_to_client(Packet::ConnAck { present });
        self.attach(id);
    }

    /// Has the shards store what has its number, in the order in which it came.
    fn store_received(&mut self, id: SeatId) {
        loop {
            let session = self.seats.get_mut(&id).and_then(|seat| seat.session.as_mut());
            let is_known = |receiving: &mut Receiving| receiving.origin.is_some();
            let next = session.and_then(|session| session.receiving.pop_front_if(is_known));
            let Some(Receiving { id: packet_id, content, origin: Some(origin) }) = next else { return };
            self.store(id, packet_id, content, origin);
        }
    }

    fn store(&mut self, id: SeatId, packet_id: PacketId, content: Content, origin: Option<Origin>) {
        let shards = self.process.shards.all().count();
        let Some(seat) = self.seats.get_mut(&id) else { return };
        let Some(session) = seat.session.as_mut() else { return };
        seat.next_ticket += 1;
        let ticket = seat.next_ticket;
        session.storing.push_back(Storing { ticket, id: packet_id, qos: content.qos, shards_left: shards });
        let batch = batch(&seat.connection.client, content, origin);
        for shard in (0..shards).filter_map(|shard| u16::try_from(shard).ok()) {
            self.ask(ShardId(shard), id, Op::Publish { batch: batch.clone() }, Awaited::Stored(ticket));
        }
    }

    /// Reads what a client has sent.
    fn read(&mut self, id: SeatId) -> Result<(), PowerFailed> {
        while let Some(seat) = self.seats.get(&id) {
            match seat.link.next_from_client() {
                Some(Packet::Disconnect) => self.close(id),
                Some(packet) => self.handle_packet(id, packet)?,
                None if seat.link.is_broken() => self.close(id),
                None => break,
            }
        }
        Ok(())
    }

    fn handle_packet(&mut self, id: SeatId, packet: Packet) -> Result<(), PowerFailed> {
        let Some(seat) = self.seats.get_mut(&id) else { return Ok(()) };
        let (shard, connection) = (seat.shard, seat.connection.clone());
        let Some(session) = seat.session.as_mut() else { return Ok(()) };
        match packet {
            Packet::Subscribe { filter } => {
                let op = Op::Subscribe { connection, subscriptions: vec![subscription(filter)] };
                self.ask(shard, id, op, Awaited::Subscribed);
            }
            Packet::Publish { id: packet_id, content, .. } if content.qos == QoS::ExactlyOnce => {
                if session.stored.contains(&packet_id) {
                    seat.link.send_to_client(Packet::PubRec(packet_id));
                    return Ok(());
                }
                session.receiving.push_back(Receiving { id: packet_id, content, origin: None });
                self.ask(shard, id, Op::Receive { connection, packet_id }, Awaited::Received(packet_id));
            }
            Packet::Publish { id: packet_id, content, .. } if session.receiving.is_empty() => {
                self.store(id, packet_id, content, None);
            }
            Packet::Publish { id: packet_id, content, .. } => {
                session.receiving.push_back(Receiving { id: packet_id, content, origin: Some(None) });
            }
            Packet::PubRel(packet_id) => {
                self.process.pass(Point::RelCame)?;
                self.ask(shard, id, Op::Release { connection, packet_id }, Awaited::Freed(packet_id));
            }
            Packet::PubAck(packet_id) => session.done.extend(session.in_flight.remove(&packet_id)),
            Packet::PubRec(packet_id) => {
                self.process.pass(Point::RecCame)?;
                session.released.extend(session.in_flight.get(&packet_id));
            }
            Packet::PubComp(packet_id) => {
                self.process.pass(Point::CompCame)?;
                session.done.extend(session.in_flight.remove(&packet_id));
            }
            Packet::Connect { .. } | Packet::ConnAck { .. } | Packet::SubAck | Packet::Disconnect => {
                self.process.shared().check(Err(format!("an unexpected {packet:?}")));
            }
        }
        Ok(())
    }

    /// Tells the shard what the client has said in this turn.
    fn acknowledge(&mut self, id: SeatId) {
        let Some(seat) = self.seats.get_mut(&id) else { return };
        let Some(session) = seat.session.as_mut() else { return };
        let (released, done) = (std::mem::take(&mut session.released), std::mem::take(&mut session.done));
        if released.is_empty() && done.is_empty() {
            return;
        }
        let ids: Vec<PacketId> = released.iter().map(|seq| seq.packet_id()).collect();
        let waiting = (!ids.is_empty()).then_some((id, Awaited::Released(ids)));
        let op = Op::Acknowledge { connection: seat.connection.clone(), released, done };
        self.process.put_wish(seat.shard, Wish { op, waiting });
    }
}

impl Session {
    fn new(opened: &OpenedSession) -> Self {
        let stored = opened.received.iter().filter(|received| received.is_stored);
        Self {
            id: opened.id,
            next: opened.head,
            maybe_sent_until: opened.maybe_sent_until,
            term: 0,
            receiving: VecDeque::new(),
            storing: VecDeque::new(),
            stored: stored.map(|received| received.id).collect(),
            in_flight: BTreeMap::new(),
            released: Vec::new(),
            done: Vec::new(),
        }
    }
}

fn open(connection: Connection, clean_start: bool) -> Open {
    let queue = QueueLimits { messages_max: 1 << 20, bytes_max: 1 << 30, full: QueueFull::DropNewest };
    Open {
        connection,
        clean_start,
        only_present: false,
        expiry: SessionExpiry::Never,
        window: 16,
        queue,
        awaiting_rel_max: 64,
        queue_qos0: false,
        group_strategy: GroupStrategy::RoundRobin,
        overlap: Overlap::Merge,
        will: None,
    }
}

fn subscription(filter: &str) -> Subscription {
    let options = SubscriptionOptions { qos: QoS::ExactlyOnce, ..SubscriptionOptions::default() };
    let filter = TopicFilter::parse(filter, u16::MAX).expect("filters of the simulation are valid");
    Subscription { filter: Arc::new(filter), options, id: None }
}

fn batch(publisher: &ClientId, content: Content, origin: Option<Origin>) -> Batch {
    let (topic, payload) = (content.topic_name(), content.to_string());
    let message =
        Transit::new(&topic, b"", payload.as_bytes(), content.qos, false, None, Some(publisher), None);
    let mut writer = BatchWriter::new();
    let message = Forwarded::new(&message, Timestamp::ORIGIN);
    writer.push(&Frame::Store { origin, retains: false, without: Texts::default(), message });
    writer.take().expect("a frame was pushed")
}
