//! W9: clients that mean no good. The others must not notice.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinSet;

use crate::{
    connection::{Connection, Event},
    harness::{Connect, Version, garbage, random::Random},
    history::Outcome,
    tally::Kind,
    world::{Phase, World},
};

pub(super) fn start(world: &Arc<World>, random: &mut Random, tasks: &mut JoinSet<()>) {
    for number in 0..CLIENTS {
        let work = run(Arc::clone(world), number, random.fork());
        tasks.spawn(Arc::clone(world).track(format!("w9-{number}"), work));
    }
}

/// Sends anything, most of the time behind a CONNECT, and reads what comes of it. That need not be the end: what was sent may
/// have been right by chance.
async fn run(world: Arc<World>, number: usize, mut random: Random) {
    world.until(Phase::Storm).await;
    while world.phase() == Phase::Storm {
        let door = world.door(&mut random);
        let begin = world.now();
        if let Ok(mut connection) = Connection::open(door.number, door.address).await {
            let mut bytes = Vec::new();
            if !random.once_in(5) {
                bytes.extend(Connect::new(Version::V5, &world.name(&format!("w9-{number}"))).bytes());
            }
            bytes.extend(garbage(Version::V5, &mut random));
            let sent = connection.send(&bytes).await;
            if sent.is_ok() {
                read(connection).await;
            }
            let outcome = if sent.is_ok() { Outcome::Ok } else { Outcome::Unknown };
            world.books.count(Kind::Hostile, outcome, begin);
        }
        world.linger(PAUSE).await;
    }
}

/// Until the broker closes, or has nothing more to say.
async fn read(mut connection: Connection) {
    while let Some(Event::Packet(_)) = connection.event(PATIENCE).await {}
}

const CLIENTS: usize = 2;
const PAUSE: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(1);
