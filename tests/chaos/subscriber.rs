//! Subscribers with sessions that outlive their connections.

use std::{collections::HashSet, time::Instant};

use super::{
    Storm, check,
    message::{Id, Received},
    random::Random,
    receiver::Receiver,
};
use crate::harness::DEADLINE;

/// What a subscriber asked for, and what it got.
pub(super) struct Outcome {
    pub(super) name: String,
    pub(super) filter: String,
    pub(super) qos: u8,
    /// When its SUBACK had come.
    pub(super) since: Instant,
    pub(super) received: Vec<Received>,
}

pub(super) fn run(storm: &Storm<'_>, number: usize, mut random: Random) -> Outcome {
    let round = storm.round;
    let zone = random.pick(&super::message::ZONES);
    let filter = match number % 4 {
        0 => format!("+/{round}/#"),
        1 => format!("{zone}/{round}/+"),
        2 => format!("{zone}/#"),
        _ => format!("+/{round}/{}", random.below(super::PUBLISHERS)),
    };
    let qos = if (number / 4).is_multiple_of(2) { 1 } else { 2 };
    let mut receiver = Receiver::new(storm, format!("s{round}-{number}"), random);
    receiver.ensure_connected();
    while number % 3 == 2 && !storm.is_late() {
        receiver.step();
    }
    receiver.subscribe(&filter, qos);
    let since = Instant::now();
    // A second subscription to the same topics, which must change nothing.
    let mut extras =
        [format!("+/{round}/+"), format!("+/{round}/1"), "z0/#".into(), "z1/+/+".into()].to_vec();
    extras.retain(|extra| *extra != filter);
    let extra = &extras[receiver.random.below(extras.len())];
    let mut has_extra = false;
    while storm.goes_on() {
        receiver.ensure_connected();
        receiver.step();
        match receiver.random.below(400) {
            0..4 => receiver.disappear(),
            4 => receiver.subscribe(&filter, qos),
            5..10 if has_extra => {
                receiver.unsubscribe(extra);
                has_extra = false;
            }
            5..10 => {
                let lower = u8::try_from(receiver.random.below(usize::from(qos) + 1)).expect("at most 2");
                receiver.subscribe(extra, lower);
                has_extra = true;
            }
            _ => {}
        }
    }
    receiver.ensure_connected();
    if has_extra {
        receiver.unsubscribe(extra);
    }
    drain(&mut receiver, &filter, since);
    receiver.complete();
    // What the broker believes to be unfinished would come again now.
    receiver.disappear();
    receiver.ensure_connected();
    for _ in 0..3 {
        receiver.step();
    }
    receiver.complete();
    receiver.end_session();
    Outcome { name: receiver.name, filter, qos, since, received: receiver.received }
}

/// Takes messages until it has all that it is owed, or nothing more comes: then [`check`] says what is missing.
fn drain(receiver: &mut Receiver<'_>, filter: &str, since: Instant) {
    let mut missing: Option<HashSet<&Id>> = None;
    let mut seen = 0;
    let mut last_progress = Instant::now();
    let sendings = &receiver.storm.sendings;
    loop {
        if missing.is_none()
            && let Some(sendings) = sendings.get()
        {
            missing = Some(check::owed(sendings, filter, since).collect());
            seen = 0;
            last_progress = Instant::now();
        }
        if let Some(missing) = &mut missing {
            if seen < receiver.received.len() {
                last_progress = Instant::now();
            }
            for received in &receiver.received[seen..] {
                missing.remove(&received.id);
            }
            seen = receiver.received.len();
            if missing.is_empty() || last_progress.elapsed() > DEADLINE {
                return;
            }
        }
        assert!(!receiver.storm.is_lost(), "another actor has failed");
        receiver.step();
    }
}
