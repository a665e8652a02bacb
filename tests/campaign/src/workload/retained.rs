//! W3: retained topics, set and deleted by several clients, and read on all nodes.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use crate::{
    check::register,
    connection::{Attempt, Connection, Event},
    harness::{Connect, Packet, Publish, Version, ack, pingreq, random::Random, subscribe},
    history::{At, Check, Outcome, RegisterKind, RegisterOperation, Violation},
    tally::Kind,
    world::{Door, Phase, World, lock},
};

/// What was done to the topics of a round.
#[derive(Debug, Default)]
pub(super) struct Registers {
    topics: Vec<String>,
    next_value: AtomicU32,
    operations: Mutex<BTreeMap<String, Vec<RegisterOperation>>>,
    last: Mutex<BTreeMap<String, Vec<RegisterOperation>>>,
}

impl Registers {
    pub(super) fn new(world: &World) -> Arc<Self> {
        let root = world.name("w3");
        let topics = (0..TOPICS).map(|number| format!("{root}/{number}")).collect();
        Arc::new(Self { topics, ..Self::default() })
    }

    fn record(&self, topic: &str, operation: RegisterOperation) {
        lock(&self.operations).entry(topic.to_owned()).or_default().push(operation);
    }

    /// Reads every topic that was used on every node, and deletes it.
    pub(super) async fn read_last(&self, world: &Arc<World>, random: &mut Random) {
        let used: Vec<String> = lock(&self.operations).keys().cloned().collect();
        if used.is_empty() {
            return;
        }
        let mut reads = JoinSet::new();
        for door in world.doors() {
            for topic in used.clone() {
                let world = Arc::clone(world);
                reads.spawn(async move { (door, read_at(&world, door, &topic).await, topic) });
            }
        }
        while let Some(read) = reads.join_next().await {
            match read.expect("no client of the campaign panics") {
                (_, Some(read), topic) => lock(&self.last).entry(topic).or_default().push(read),
                (door, None, topic) => {
                    let text = format!("{topic} cannot be read at node-{} when all is whole", door.number);
                    world.books.report_now(Check::Healing, text);
                }
            }
        }
        let connect = Connect::new(Version::V5, &world.name("w3-broom"));
        if let Some((mut broom, _)) = world.connect(random, &connect).await {
            for topic in &used {
                // Nobody reads them again: it does not matter which is the last round's.
                let _ = broom.send(&Publish::new(topic, "").retain().bytes(Version::V5)).await;
            }
            broom.goodbye(0, None).await;
        }
    }

    pub(super) fn check(&self, world: &World) -> Vec<Violation> {
        let last = lock(&self.last);
        let mut violations = Vec::new();
        for (topic, operations) in lock(&self.operations).iter() {
            let last = last.get(topic).map_or(&[][..], Vec::as_slice);
            violations.extend(register::check(topic, operations, last));
            if register::search(operations) == register::Answer::Undecided {
                world.books.tally().undecided += 1;
            }
        }
        violations
    }
}

pub(super) fn start(
    world: &Arc<World>,
    registers: &Arc<Registers>,
    random: &mut Random,
    tasks: &mut JoinSet<()>,
) {
    for number in 0..WRITERS {
        let work = write(Arc::clone(world), Arc::clone(registers), number, random.fork());
        tasks.spawn(Arc::clone(world).track(format!("w3-writer{number}"), work));
    }
    for number in 0..READERS {
        let work = read(Arc::clone(world), Arc::clone(registers), number, random.fork());
        tasks.spawn(Arc::clone(world).track(format!("w3-reader{number}"), work));
    }
}

async fn write(world: Arc<World>, registers: Arc<Registers>, number: usize, mut random: Random) {
    let client = world.name(&format!("w3-writer{number}"));
    let connect = Connect::new(Version::V5, &client);
    let mut connection: Option<Connection> = None;
    world.until(Phase::Storm).await;
    let mut packet_id = 0;
    while world.phase() == Phase::Storm {
        if connection.is_none() {
            let Some((accepted, _)) = world.connect(&mut random, &connect).await else { return };
            connection = Some(accepted);
            continue;
        }
        let Some(open) = &mut connection else { continue };
        let topic = &registers.topics[random.below(registers.topics.len())];
        let value = (!random.once_in(5)).then(|| registers.next_value.fetch_add(1, Ordering::Relaxed));
        let text = value.map_or_else(String::new, |value| value.to_string());
        packet_id = packet_id % 1_000 + 1;
        let begin = world.now();
        let publish = Publish::new(topic, text).qos(1, packet_id).retain();
        let outcome = acknowledged(open, &publish).await;
        world.books.count(Kind::Retain, outcome, begin);
        // What was refused may have been done in part of the cluster.
        let end = if outcome == Outcome::Ok { world.now() } else { At::NEVER };
        let (client, node, kind) = (client.clone(), open.node, RegisterKind::Write(value));
        registers.record(topic, RegisterOperation { client, node, begin, end, kind });
        if outcome == Outcome::Unknown || random.once_in(50) {
            connection = None;
        }
        let pause = u64::try_from(random.below(500)).expect("a small number");
        world.linger(Duration::from_millis(pause)).await;
    }
}

/// Publishes, and waits for PUBACK.
async fn acknowledged(connection: &mut Connection, publish: &Publish) -> Outcome {
    if connection.send(&publish.bytes(Version::V5)).await.is_err() {
        return Outcome::Unknown;
    }
    loop {
        match connection.event(ANSWERED_WITHIN).await {
            Some(Event::Packet(Packet::PubAck { id, reason })) if id == publish.id => {
                return if reason < 0x80 { Outcome::Ok } else { Outcome::Failed(reason) };
            }
            Some(Event::Packet(Packet::PingResp)) => {}
            _ => return Outcome::Unknown,
        }
    }
}

async fn read(world: Arc<World>, registers: Arc<Registers>, number: usize, mut random: Random) {
    let client = world.name(&format!("w3-reader{number}"));
    let connect = Connect::new(Version::V5, &client);
    world.until(Phase::Storm).await;
    while world.phase() == Phase::Storm {
        let Some((mut connection, _)) = world.connect(&mut random, &connect).await else { return };
        for number in 1..=READS_A_LIFE {
            let topic = &registers.topics[random.below(registers.topics.len())];
            let Some(read) = ask(&world, &mut connection, &client, topic, number).await else { break };
            let is_nothing = read.kind == RegisterKind::Read(None);
            registers.record(topic, read);
            let pause = u64::try_from(random.below(500)).expect("a small number");
            world.linger(Duration::from_millis(pause)).await;
            // What comes late would be taken for the next answer.
            if is_nothing || world.phase() > Phase::Storm {
                break;
            }
        }
    }
}

/// Reads a topic at one node, whose cluster is whole.
async fn read_at(world: &World, door: Door, topic: &str) -> Option<RegisterOperation> {
    let client = format!("{topic}-last{}", door.number);
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if let Attempt::Accepted(mut connection, _) =
            world.attempt(door, &Connect::new(Version::V5, &client)).await
        {
            if let Some(read) = ask(world, &mut connection, &client, topic, 1).await {
                connection.goodbye(0, None).await;
                return Some(read);
            }
        } else {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    None
}

/// Subscribes, and takes the retained message. That there is none is believed when the node has answered twice behind the
/// SUBACK, a while after it, and nothing came; `None` when that is not known. Who gets a message that is published meanwhile gets no
/// older one behind it, and so may get no retained one.
async fn ask(
    world: &World,
    connection: &mut Connection,
    client: &str,
    topic: &str,
    packet_id: u16,
) -> Option<RegisterOperation> {
    let begin = world.now();
    let mut answers = 0;
    let (mut value, mut is_conclusive, mut is_overtaken) = (None, false, false);
    let mut asked = Instant::now();
    let mut sent = connection.send(&subscribe(Version::V5, packet_id, &[], &[(topic, 1)])).await;
    let deadline = Instant::now() + ANSWERED_WITHIN + 2 * NOTHING_AFTER;
    while sent.is_ok() && answers < 3 && value.is_none() && Instant::now() < deadline {
        // Live messages may come all the time, so that it is never quiet.
        if answers > 0 && asked.elapsed() >= NOTHING_AFTER {
            asked = Instant::now();
            sent = connection.send(&pingreq()).await;
        }
        let silence = match answers {
            0 => deadline.saturating_duration_since(Instant::now()),
            _ => NOTHING_AFTER.saturating_sub(asked.elapsed()),
        };
        match connection.event(silence).await {
            Some(Event::Packet(Packet::SubAck { id, .. })) if id == packet_id => {
                is_conclusive = asked.elapsed() < LOOK_UP_PATIENCE;
                (answers, asked) = (1, Instant::now());
            }
            Some(Event::Packet(Packet::PingResp)) => answers += 1,
            Some(Event::Packet(Packet::Publish(publish))) => {
                if publish.qos == 1 {
                    sent = connection.send(&ack(0x40, publish.id)).await;
                }
                // What is published meanwhile comes without RETAIN.
                if publish.retain && publish.topic == topic {
                    value = Some(number(world, client, &publish)?);
                }
                is_overtaken |= !publish.retain && publish.topic == topic;
            }
            Some(Event::Packet(Packet::SubAck { .. })) => {}
            None => {}
            Some(_) => break,
        }
    }
    let is_known = value.is_some() || answers == 3 && is_conclusive && !is_overtaken;
    let outcome = if is_known { Outcome::Ok } else { Outcome::Unknown };
    world.books.count(Kind::Read, outcome, begin);
    let (client, node, kind) = (client.to_owned(), connection.node, RegisterKind::Read(value));
    (outcome == Outcome::Ok).then(|| RegisterOperation { client, node, begin, end: world.now(), kind })
}

fn number(world: &World, client: &str, publish: &Publish) -> Option<u32> {
    let number = str::from_utf8(&publish.payload).ok().and_then(|text| text.parse().ok());
    if number.is_none() {
        let text =
            format!("{client} got {:?} on {}", String::from_utf8_lossy(&publish.payload), publish.topic);
        world.books.report_now(Check::Unexpected, text);
    }
    number
}

const TOPICS: usize = 6;
const WRITERS: usize = 3;
const READERS: usize = 4;
const READS_A_LIFE: u16 = 10;

const ANSWERED_WITHIN: Duration = Duration::from_secs(8);

/// A SUBACK does not wait longer than this for retained messages, where their shard has nobody to lead it: they come later.
const LOOK_UP_PATIENCE: Duration = Duration::from_secs(1);

/// Half of how long nothing must come until there is nothing.
const NOTHING_AFTER: Duration = Duration::from_millis(700);
