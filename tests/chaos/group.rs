//! Members of a shared subscription. The first one stays, so that there is always somebody.

use std::{collections::HashSet, sync::PoisonError, time::Instant};

use super::{Storm, check, random::Random, receiver::Receiver};
use crate::harness::DEADLINE;

const PREFIX: &str = "member";

pub(super) fn is_member(client: &str) -> bool {
    client.starts_with(PREFIX)
}

pub(super) fn filter(round: usize) -> String {
    format!("+/{round}/#")
}

pub(super) fn run(storm: &Storm<'_>, number: usize, random: Random) {
    let shared = format!("$share/group/{}", filter(storm.round));
    let mut member = Receiver::new(storm, format!("{PREFIX}{}-{number}", storm.round), random);
    let mut joined = false;
    while storm.goes_on() {
        member.ensure_connected();
        if !joined {
            member.subscribe(&shared, 1);
            joined = true;
            if number == 0 {
                storm.group_since.get_or_init(Instant::now);
            }
        }
        member.step();
        match member.random.below(300) {
            0 if number > 0 => {
                member.unsubscribe(&shared);
                joined = false;
            }
            1 if number > 0 => {
                member.end_session();
                joined = false;
            }
            2..5 => member.disappear(),
            _ => {}
        }
    }
    member.ensure_connected();
    drain(&mut member);
    member.end_session();
}

/// Takes messages until the group has had all that it is owed, or nothing more comes: then [`check`] says what is missing.
fn drain(member: &mut Receiver<'_>) {
    let storm = member.storm;
    let since = *storm.group_since.get().unwrap_or(&storm.begins);
    let mut last_progress = Instant::now();
    let mut missing: Option<HashSet<_>> = None;
    let mut before = usize::MAX;
    loop {
        assert!(!storm.is_lost(), "another actor has failed");
        member.step();
        if missing.is_none()
            && let Some(sendings) = storm.sendings.get()
        {
            missing = Some(check::owed(sendings, &filter(storm.round), since).collect());
        }
        let Some(missing) = &mut missing else { continue };
        let consumed = storm.consumed.lock().unwrap_or_else(PoisonError::into_inner);
        missing.retain(|id| !consumed.contains(*id));
        drop(consumed);
        if missing.len() < before {
            before = missing.len();
            last_progress = Instant::now();
        }
        if missing.is_empty() || last_progress.elapsed() > DEADLINE {
            return;
        }
    }
}
