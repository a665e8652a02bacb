//! W6: connections with wills, and their ends.

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use crate::{
    connection::{Attempt, Connection, Event},
    harness::{Connect, Packet, Property, Version, Will, pingreq, property_id, random::Random},
    history::{At, Back, Death, MessageId, Mortal, Outcome, Wanted},
    message::payload,
    receiver::Receiver,
    shelf::Shelf,
    tally::Kind,
    world::{Phase, World, lock},
};

/// Who died, and who saw it.
#[derive(Debug, Default)]
pub(super) struct Wills {
    pub(super) mortals: Mutex<Vec<Mortal>>,
    pub(super) observers: Arc<Shelf>,
}

pub(super) fn start(world: &Arc<World>, wills: &Arc<Wills>, random: &mut Random, tasks: &mut JoinSet<()>) {
    let filter = format!("{}/#", world.name("w6"));
    for number in 0..world.doors().len() {
        let (shelf, client) = (&wills.observers, format!("w6-sub{number}"));
        let observer = Receiver::new(world, shelf, &client, &filter, Wanted::All, 2, random.fork());
        tasks.spawn(Arc::clone(world).track(client, observer.run()));
    }
    for number in 0..ACTORS {
        wills.observers.publishing.fetch_add(1, Ordering::Relaxed);
        let work = run(Arc::clone(world), Arc::clone(wills), number, random.fork());
        tasks.spawn(Arc::clone(world).track(format!("w6-{number}"), work));
    }
}

async fn run(world: Arc<World>, wills: Arc<Wills>, publisher: u16, mut random: Random) {
    world.until(Phase::Storm).await;
    let mut sequence = 0;
    while world.phase() == Phase::Storm {
        let id = MessageId { publisher, incarnation: 0, sequence };
        sequence += 1;
        if let Some(mortal) = live(&world, id, &mut random).await {
            lock(&wills.mortals).push(mortal);
        }
        let pause = u64::try_from(random.below(500)).expect("it is small");
        world.linger(Duration::from_millis(pause)).await;
    }
    // The observers wait until the last will is due.
    tokio::time::sleep(LAST_WILLS).await;
    wills.observers.publishing.fetch_sub(1, Ordering::Relaxed);
}

/// Connects with a will, lives for a while, and ends in some way. `None` when nobody was there.
async fn live(world: &World, id: MessageId, random: &mut Random) -> Option<Mortal> {
    let client = format!("{}-{id}", world.name("w6"));
    let delay = random.pick(&[0, 0, 1, 3]);
    let expiry = random.pick(&[0, 2, 60]);
    let way = random.below(7);
    let keep_alive = if way == 0 { 2 } else { KEEP_ALIVE };
    let topic = format!("{}/{}", world.name("w6"), id.publisher);
    let will = Will::new(&topic, payload(id)).qos(2).with(Property::four(property_id::WILL_DELAY, delay));
    let connect = Connect::new(Version::V5, &client)
        .keep_alive(keep_alive)
        .with(Property::four(property_id::SESSION_EXPIRY, expiry));
    let door = world.door(random);
    let begin = world.now();
    let mut mortal = Mortal {
        id,
        client: client.clone(),
        node: door.number,
        connect: Outcome::Unknown,
        delay: Duration::from_secs(delay.into()),
        expiry: Duration::from_secs(expiry.into()),
        alive: begin,
        over: begin,
        death: Death::Abnormal,
        back: None,
    };
    match world.attempt(door, &connect.clone().will(will)).await {
        Attempt::Accepted(connection, _) => {
            mortal.connect = Outcome::Ok;
            mortal.alive = world.now();
            spend(world, *connection, &mut mortal, way, random).await;
        }
        Attempt::Unanswered | Attempt::Broken(_) => {}
        Attempt::Refused(reason) => mortal.connect = Outcome::Failed(reason),
        Attempt::Unreachable => return None,
    }
    mortal.over = mortal.over.max(world.now());
    world.books.count(Kind::Will, mortal.connect, begin);
    if mortal.connect == Outcome::Ok && (way == 1 || random.once_in(6)) {
        let away = u64::try_from(random.below(4_000)).expect("it is small");
        world.linger(Duration::from_millis(away)).await;
        mortal.back = come_back(world, &connect, random).await;
    }
    Some(mortal)
}

/// The time between CONNACK and the end.
async fn spend(
    world: &World,
    mut connection: Connection,
    mortal: &mut Mortal,
    way: usize,
    random: &mut Random,
) {
    let lasts = Duration::from_millis(u64::try_from(random.below(3_000)).expect("it is small"));
    let until = Instant::now() + lasts;
    while Instant::now() < until && world.phase() == Phase::Storm {
        if connection.send(&pingreq()).await.is_err() {
            return;
        }
        match connection.event(ANSWERED_WITHIN).await {
            Some(Event::Packet(Packet::PingResp)) => mortal.alive = world.now(),
            // The broker has its reasons, or is no more.
            _ => return,
        }
        let pause = Duration::from_millis(u64::try_from(random.below(300)).expect("it is small"));
        world.linger(pause).await;
    }
    match way {
        // Silence: the broker has to notice.
        0 => while let Some(Event::Packet(_)) = connection.event(SILENCE).await {},
        1 | 2 => drop(connection),
        3 => connection.abort(),
        // A second CONNECT [MQTT-3.1.0-2].
        4 => {
            let second = Connect::new(Version::V5, &mortal.client).bytes();
            if connection.send(&second).await.is_ok() {
                while let Some(Event::Packet(_)) = connection.event(ANSWERED_WITHIN).await {}
            }
        }
        5 => {
            mortal.death = Death::WithWill;
            connection.goodbye(0x04, None).await;
        }
        _ => {
            let begin = world.now();
            let closed = connection.goodbye(0, None).await;
            mortal.death = Death::Goodbye { sure: closed && world.books.is_calm_since(begin) };
        }
    }
}

/// Connects again without a will, and leaves no session behind.
async fn come_back(world: &World, connect: &Connect, random: &mut Random) -> Option<Back> {
    let clean = random.once_in(3);
    let connect = if clean { connect.clone().clean() } else { connect.clone().resume() };
    let begin: At = world.now();
    let door = world.door(random);
    let accepted = match world.attempt(door, &connect).await {
        Attempt::Accepted(connection, _) => {
            let end = world.now();
            connection.goodbye(0, None).await;
            return Some(Back { begin, end, clean, accepted: true });
        }
        Attempt::Unanswered | Attempt::Broken(_) => false,
        Attempt::Refused(_) | Attempt::Unreachable => return None,
    };
    Some(Back { begin, end: world.now(), clean, accepted })
}

const ACTORS: u16 = 6;

/// In seconds.
const KEEP_ALIVE: u16 = 10;

const ANSWERED_WITHIN: Duration = Duration::from_secs(6);

/// Longer than one and a half times the shortest Keep Alive.
const SILENCE: Duration = Duration::from_secs(8);

/// Longer than the longest delay, and the broker has noticed all ends when everything is mended.
const LAST_WILLS: Duration = Duration::from_secs(8);
