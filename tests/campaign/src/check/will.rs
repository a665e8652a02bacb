//! Wills: once for each connection that ended without goodbye, when their delay is over.

use std::{collections::BTreeMap, time::Duration};

use crate::history::{
    At, Back, Check, Death, Delivered, MessageId, Mortal, Outcome, Subscription, Violation,
};

/// What is owed for one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Expected {
    least: usize,
    most: usize,
    /// Not before.
    earliest: At,
}

/// Holds the wills that the observers got, who subscribed at QoS 2 before the first of them, against the connections.
pub(crate) fn check(mortals: &[Mortal], observers: &[Subscription]) -> Vec<Violation> {
    let known: BTreeMap<MessageId, &Mortal> = mortals.iter().map(|mortal| (mortal.id, mortal)).collect();
    let mut violations = Vec::new();
    let mut seen: BTreeMap<MessageId, Vec<(&Subscription, Vec<&Delivered>)>> = BTreeMap::new();
    for observer in observers {
        let mut copies: BTreeMap<(MessageId, u32), Vec<&Delivered>> = BTreeMap::new();
        for delivered in &observer.delivered {
            copies.entry((delivered.id, delivered.life)).or_default().push(delivered);
        }
        for ((id, _), copies) in copies {
            seen.entry(id).or_default().push((observer, copies));
        }
    }
    for (id, copies) in &seen {
        if !known.contains_key(id) {
            let at = copies[0].1[0].at;
            let text = format!("{} got the will {id} at {at}, which nobody has left", copies[0].0.client);
            violations.push(Violation { check: Check::Wills, begin: at, end: at, count: 1, text });
        }
    }
    for mortal in mortals {
        let copies = seen.get(&mortal.id).map_or(&[][..], Vec::as_slice);
        violations.extend(wrong(mortal, copies).map(|(why, at)| Violation {
            check: Check::Wills,
            begin: mortal.alive,
            end: at.max(mortal.over.plus(mortal.delay.min(mortal.expiry) + SOON)),
            count: 1,
            text: format!("{why}: {}", tell(mortal)),
        }));
    }
    violations
}

/// What is wrong with the copies of one will, and when.
fn wrong(mortal: &Mortal, copies: &[(&Subscription, Vec<&Delivered>)]) -> Option<(String, At)> {
    let Expected { least, most, earliest } = expected(mortal);
    let Some((observer, most_seen)) = copies.iter().max_by_key(|(_, copies)| copies.len()) else {
        return (least > 0).then(|| ("no observer got the will".to_owned(), mortal.over));
    };
    let times: Vec<String> = most_seen.iter().map(|it| format!("{} from node-{}", it.at, it.node)).collect();
    let last = most_seen.iter().map(|it| it.at).max().unwrap_or_default();
    if most_seen.len() > most {
        let what = if most == 0 {
            "a will of who was refused, has said goodbye or is back"
        } else {
            "a will came again"
        };
        return Some((format!("{what}: {} got it at {}", observer.client, times.join(", ")), last));
    }
    let first = copies.iter().flat_map(|(_, copies)| copies.iter()).map(|it| it.at).min()?;
    (first < earliest).then(|| (format!("it came at {first}, and not before {earliest} is right"), first))
}

fn expected(mortal: &Mortal) -> Expected {
    let wait = mortal.delay.min(mortal.expiry);
    let after_delay = mortal.alive.plus(wait);
    match mortal.connect {
        Outcome::Ok => {}
        // The shard has not answered in time. It may have been told all the same, and if the node dies before it can take that back, it
        // takes the client for dead.
        Outcome::Failed(SERVER_UNAVAILABLE) => {
            return Expected { least: 0, most: 1, earliest: At::default() };
        }
        // A Will Message belongs to a connection that was accepted [MQTT-3.1.2-7].
        Outcome::Failed(_) => return Expected { least: 0, most: 0, earliest: At::default() },
        Outcome::Unknown => return Expected { least: 0, most: 1, earliest: At::default() },
    }
    let (least, most) = match mortal.death {
        Death::Goodbye { sure: true } => (0, 0),
        Death::Goodbye { sure: false } => (0, 1),
        Death::Abnormal | Death::WithWill => (1, 1),
    };
    let Some(back) = mortal.back.filter(|_| most > 0) else {
        return Expected { least, most, earliest: after_delay };
    };
    let Back { begin, end, clean, accepted } = back;
    if clean {
        // It ends the session, and with that the delay.
        return Expected { least, most, earliest: after_delay.min(begin) };
    }
    // A session that lasts as long as its connection may go on where that is taken over, and with it the delay; without a delay
    // the will is due either way.
    if mortal.delay.is_zero() || begin > mortal.over.plus(wait + MARGIN) {
        return Expected { least, most, earliest: after_delay };
    }
    // The goodbye alone may have been late enough to keep the will, too.
    let in_time = accepted && end < after_delay;
    Expected { least: 0, most: if in_time { 0 } else { most }, earliest: after_delay }
}

fn tell(mortal: &Mortal) -> String {
    let Mortal { id, client, node, connect, delay, expiry, alive, over, death, back } = mortal;
    let back = back.map_or("did not come back".to_owned(), |back| {
        let Back { begin, end, clean, accepted } = back;
        let accepted = if accepted { "accepted" } else { "perhaps" };
        format!("came back between {begin} and {end} (Clean Start {clean}, {accepted})")
    });
    let accepted = match connect {
        Outcome::Ok => String::new(),
        Outcome::Failed(reason) => format!(", its CONNECT refused with {reason:#04x},"),
        Outcome::Unknown => ", its CONNECT without answer,".to_owned(),
    };
    format!(
        "the will {id} of {client} at node-{node}{accepted} with delay {delay:?} and expiry {expiry:?}, answered last at {alive}, \
         over at {over} ({death:?}), {back}"
    )
}

const SERVER_UNAVAILABLE: u8 = 0x88;

/// How long a will takes when nothing is wrong: what is broken in this time may be why it does not come.
const SOON: Duration = Duration::from_secs(2);

/// How long it may take until the cluster has noticed that a client or its node is gone.
const MARGIN: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::reference::{at, delivered, id, kinds, subscription};

    fn mortal(death: Death) -> Mortal {
        Mortal {
            id: id(1, 0, 0),
            client: "w".to_owned(),
            node: 0,
            connect: Outcome::Ok,
            delay: Duration::ZERO,
            expiry: Duration::from_secs(60),
            alive: at(1_000),
            over: at(1_100),
            death,
            back: None,
        }
    }

    fn delayed(back: Option<(u64, bool)>) -> Mortal {
        let back = back.map(|(end, clean)| Back { begin: at(end - 10), end: at(end), clean, accepted: true });
        Mortal { delay: Duration::from_secs(3), back, ..mortal(Death::Abnormal) }
    }

    /// Whether this is found to be wrong, when the will came at these times.
    #[track_caller]
    fn is(mortal: &Mortal, times: &[u64], right: bool) {
        let came = times.iter().map(|time| delivered(id(1, 0, 0), 2, *time)).collect();
        let found = kinds(&check(std::slice::from_ref(mortal), &[subscription(2, 0, came)]));
        assert_eq!(found.is_empty(), right, "{mortal:?} {times:?}: {found:?}");
    }

    #[test]
    fn a_will_comes_once() {
        for death in [Death::Abnormal, Death::WithWill] {
            is(&mortal(death), &[1_200], true);
            is(&mortal(death), &[], false);
            is(&mortal(death), &[1_200, 1_300], false);
        }
        is(&mortal(Death::Abnormal), &[900], false);
    }

    #[test]
    fn who_says_goodbye_has_none() {
        is(&mortal(Death::Goodbye { sure: true }), &[], true);
        is(&mortal(Death::Goodbye { sure: true }), &[1_200], false);
        is(&mortal(Death::Goodbye { sure: false }), &[1_200], true);
        is(&mortal(Death::Goodbye { sure: false }), &[1_200, 1_300], false);
    }

    #[test]
    fn who_was_refused_has_none_and_without_an_answer_either_is_right() {
        let refused = Mortal { connect: Outcome::Failed(0x97), ..mortal(Death::Abnormal) };
        is(&refused, &[], true);
        is(&refused, &[1_200], false);
        let unanswered = Mortal { connect: Outcome::Unknown, ..mortal(Death::Abnormal) };
        is(&unanswered, &[], true);
        is(&unanswered, &[1_200], true);
        is(&unanswered, &[1_200, 1_300], false);
    }

    #[test]
    fn a_delay_is_kept() {
        is(&delayed(None), &[4_000], true);
        is(&delayed(None), &[3_900], false);
        is(&delayed(None), &[], false);
        // The session may end before.
        let short = Mortal { expiry: Duration::from_secs(1), ..delayed(None) };
        is(&short, &[2_000], true);
        is(&short, &[1_900], false);
    }

    #[test]
    fn who_is_back_in_time_has_none() {
        is(&delayed(Some((2_000, false))), &[], true);
        is(&delayed(Some((2_000, false))), &[4_000], false);
        // About as late as the delay: either way.
        is(&delayed(Some((4_500, false))), &[], true);
        is(&delayed(Some((4_500, false))), &[4_600], true);
        // Too late, or with a new session.
        is(&delayed(Some((60_000, false))), &[], false);
        is(&delayed(Some((2_000, true))), &[2_001], true);
        is(&delayed(Some((2_000, true))), &[], false);
    }

    #[test]
    fn who_takes_over_a_session_without_expiry_may_have_one() {
        let short = |delay| Mortal { expiry: Duration::ZERO, delay, ..delayed(Some((2_000, false))) };
        is(&short(Duration::from_secs(3)), &[], true);
        is(&short(Duration::from_secs(3)), &[2_000], true);
        is(&short(Duration::ZERO), &[], false);
    }

    #[test]
    fn a_will_that_nobody_left_is_found() {
        let observer = subscription(2, 0, vec![delivered(id(9, 0, 9), 2, 10)]);
        assert_eq!(kinds(&check(&[], &[observer])), [Check::Wills]);
    }

    #[test]
    fn one_observer_that_got_it_is_enough() {
        let one = subscription(2, 0, vec![delivered(id(1, 0, 0), 2, 1_200)]);
        assert_eq!(kinds(&check(&[mortal(Death::Abnormal)], &[one, subscription(2, 0, Vec::new())])), []);
    }
}
