//! Sessions against a model: whether there is one, which subscriptions it has, who owns it.
//!
//! The model believes what follows from what was acknowledged. After something of unknown outcome it believes less, until the
//! next answer tells.

use std::{collections::BTreeMap, time::Duration};

use crate::history::{At, Check, Outcome, SessionEvent, SessionKind, Violation};

/// Holds what one client identifier saw, in order, against the model.
pub(crate) fn check(client: &str, events: &[SessionEvent]) -> Vec<Violation> {
    let mut model = Model::default();
    let mut violations = Vec::new();
    for (index, event) in events.iter().enumerate() {
        if let Some(why) = model.apply(event) {
            let before: Vec<String> =
                events[index.saturating_sub(EVENTS_SHOWN)..index].iter().map(tell).collect();
            violations.push(Violation {
                check: Check::Session,
                // What is wrong may have become so since the client was last seen.
                begin: index.checked_sub(1).map_or(event.begin, |before| events[before].begin),
                end: event.end,
                count: 1,
                text: format!("{client}: {why}: {}; before that: {}", tell(event), before.join("; ")),
            });
        }
    }
    violations
}

/// What is known of the session.
#[derive(Debug, Default)]
struct Model {
    existence: Existence,
    subscriptions: BTreeMap<String, Belief>,
    connected: bool,
    /// The Session Expiry Interval is one of these, or between them.
    expiry: (u32, u32),
    /// When the connection was surely there, and when it was over for the client.
    ended: (At, At),
    /// Until then a CONNECT without answer, which a node may have got and not read, can still end the session.
    unsettled: At,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Existence {
    #[default]
    Absent,
    Exists,
    Unsure,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Belief {
    Yes,
    No,
    Unsure,
}

impl Model {
    /// Takes an event; what is wrong with it.
    fn apply(&mut self, event: &SessionEvent) -> Option<String> {
        match &event.kind {
            SessionKind::Connect { clean, expiry, present: Some(present) } => {
                let wrong = self.presence(event, *clean).filter(|expected| expected != present);
                self.connected(event, *clean, *expiry, *present, wrong.is_some());
                wrong.map(|expected| {
                    let there = if expected { "there is a session" } else { "there is no session" };
                    format!("{there}, and the CONNACK says otherwise")
                })
            }
            SessionKind::Connect { clean, expiry, present: None } => {
                self.perhaps_connected(event, *clean, *expiry);
                None
            }
            SessionKind::Unserved { clean, expiry } => {
                self.unserved(event, *clean, *expiry);
                None
            }
            SessionKind::Lost => {
                self.connected = false;
                self.ended = (event.begin, event.end);
                None
            }
            SessionKind::Goodbye { expiry, sure } => {
                self.goodbye(event, *expiry, *sure);
                None
            }
            SessionKind::Subscribe { filter, wanted, outcome } => {
                let new = if *wanted { Belief::Yes } else { Belief::No };
                let old = self.subscriptions.get(filter).copied().unwrap_or(Belief::No);
                let belief = match outcome {
                    Outcome::Ok if *wanted && event.begin < self.unsettled => Belief::Unsure,
                    Outcome::Ok => new,
                    Outcome::Failed(_) => old,
                    Outcome::Unknown if old == new => old,
                    Outcome::Unknown => Belief::Unsure,
                };
                self.subscriptions.insert(filter.clone(), belief);
                None
            }
            SessionKind::Probe { topic, came } => {
                match (self.subscriptions.get(topic).copied().unwrap_or(Belief::No), came) {
                    (Belief::Yes, false) => Some("it is subscribed, and nothing comes".to_owned()),
                    (Belief::No, true) => Some("it is not subscribed, and something comes".to_owned()),
                    _ => None,
                }
            }
            SessionKind::TwoOwners => Some("two connections are served at the same time".to_owned()),
        }
    }

    /// What Session Present must be, where that is known.
    fn presence(&self, event: &SessionEvent, clean: bool) -> Option<bool> {
        match self.existence {
            _ if clean => Some(false),
            Existence::Absent => Some(false),
            Existence::Unsure => None,
            // Whether it ends with the connection that is taken over, or goes on, is the broker's choice.
            Existence::Exists if self.connected && self.expiry.0 == 0 => None,
            Existence::Exists if self.connected => Some(true),
            Existence::Exists => {
                let (alive, over) = self.ended;
                let (least, most) = self.expiry;
                if event.end < alive.plus(Duration::from_secs(least.into())) {
                    Some(true)
                } else if event.begin > over.plus(Duration::from_secs(most.into()) + MARGIN) {
                    Some(false)
                } else {
                    None
                }
            }
        }
    }

    fn connected(&mut self, event: &SessionEvent, clean: bool, expiry: u32, present: bool, is_wrong: bool) {
        if clean || !present {
            self.subscriptions.clear();
        } else if is_wrong {
            self.subscriptions.values_mut().for_each(|belief| *belief = Belief::Unsure);
        }
        self.existence = if event.begin < self.unsettled { Existence::Unsure } else { Existence::Exists };
        self.connected = true;
        self.expiry = (expiry, expiry);
    }

    fn perhaps_connected(&mut self, event: &SessionEvent, clean: bool, expiry: u32) {
        if self.connected {
            self.ended = (event.begin, event.end);
        }
        let (least, most) = self.expiry;
        let lasts = event.end < self.ended.0.plus(Duration::from_secs(least.into()));
        let ends = clean || expiry < most;
        self.expiry = if self.existence == Existence::Absent {
            (expiry, expiry)
        } else {
            (least.min(expiry), most.max(expiry))
        };
        if ends {
            self.unsettled = event.end.plus(LATE);
        }
        // Where it may be gone or new, so may its subscriptions. One that was resumed, or not, is the same.
        if self.existence != Existence::Exists || !lasts || ends {
            self.existence = Existence::Unsure;
            self.subscriptions.values_mut().for_each(|belief| *belief = Belief::Unsure);
        }
        self.connected = false;
        self.ended.1 = event.end;
    }

    fn unserved(&mut self, event: &SessionEvent, clean: bool, expiry: u32) {
        let (least, most) = self.expiry;
        self.expiry = (least.min(expiry), most.max(expiry));
        if clean || expiry < most {
            self.unsettled = event.end.plus(LATE);
            if self.existence == Existence::Exists {
                self.existence = Existence::Unsure;
                self.subscriptions.values_mut().for_each(|belief| *belief = Belief::Unsure);
            }
        }
    }

    fn goodbye(&mut self, event: &SessionEvent, expiry: Option<u32>, sure: bool) {
        let (least, most) = self.expiry;
        if let Some(new) = expiry {
            self.expiry = if sure { (new, new) } else { (least.min(new), most.max(new)) };
        }
        self.connected = false;
        self.ended = (event.begin, event.end);
        if sure && self.expiry == (0, 0) {
            self.existence = if event.begin < self.unsettled { Existence::Unsure } else { Existence::Absent };
        }
    }
}

fn tell(event: &SessionEvent) -> String {
    let SessionEvent { begin, end, node, kind } = event;
    let what = match kind {
        SessionKind::Connect { clean, expiry, present } => {
            let answer =
                present.map_or("no CONNACK".to_owned(), |present| format!("Session Present {present}"));
            format!("CONNECT with Clean Start {clean} and expiry {expiry} s, {answer}")
        }
        SessionKind::Unserved { clean, expiry } => {
            format!("CONNECT with Clean Start {clean} and expiry {expiry} s, refused")
        }
        SessionKind::Lost => "the connection was lost".to_owned(),
        SessionKind::Goodbye { expiry, sure } => {
            let sure = if *sure { "" } else { ", perhaps not read" };
            expiry.map_or(format!("DISCONNECT{sure}"), |expiry| {
                format!("DISCONNECT with expiry {expiry} s{sure}")
            })
        }
        SessionKind::Subscribe { filter, wanted, outcome } => {
            let what = if *wanted { "SUBSCRIBE" } else { "UNSUBSCRIBE" };
            format!("{what} {filter}: {outcome:?}")
        }
        SessionKind::Probe { topic, came } => {
            format!("published to {topic}, {}", if *came { "came back" } else { "did not come back" })
        }
        SessionKind::TwoOwners => "the older of two connections answered".to_owned(),
    };
    format!("{what} at node-{node} between {begin} and {end}")
}

/// How much longer than its expiry a session may live: until the node has noticed that its client is gone, or the cluster that
/// its node is.
const MARGIN: Duration = Duration::from_secs(30);

/// How long a node may be stopped or cut off with a CONNECT that it has not read.
const LATE: Duration = Duration::from_secs(30);

const EVENTS_SHOWN: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::reference::at;

    fn event(second: u64, kind: SessionKind) -> SessionEvent {
        SessionEvent { begin: at(second * 1_000), end: at(second * 1_000 + 10), node: 0, kind }
    }

    fn connect(clean: bool, expiry: u32, present: Option<bool>) -> SessionKind {
        SessionKind::Connect { clean, expiry, present }
    }

    fn subscribe(wanted: bool, outcome: Outcome) -> SessionKind {
        SessionKind::Subscribe { filter: "t".to_owned(), wanted, outcome }
    }

    fn probe(came: bool) -> SessionKind {
        SessionKind::Probe { topic: "t".to_owned(), came }
    }

    /// The numbers of the events that are wrong.
    #[track_caller]
    fn finds(kinds: &[(u64, SessionKind)], expected: &[u64]) {
        let events: Vec<SessionEvent> = kinds.iter().map(|(at, kind)| event(*at, kind.clone())).collect();
        let found: Vec<u64> = check("c", &events).iter().map(|it| it.end.0.as_secs()).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_session_outlives_its_connection() {
        let first = [(1, connect(true, 100, Some(false))), (2, SessionKind::Lost)];
        finds(&[first.as_slice(), &[(3, connect(false, 100, Some(true)))]].concat(), &[]);
        finds(&[first.as_slice(), &[(3, connect(false, 100, Some(false)))]].concat(), &[3]);
        finds(&[first.as_slice(), &[(3, connect(true, 100, Some(false)))]].concat(), &[]);
        finds(&[first.as_slice(), &[(3, connect(true, 100, Some(true)))]].concat(), &[3]);
    }

    #[test]
    fn nobody_has_a_session_at_first_or_after_its_end() {
        finds(&[(1, connect(false, 100, Some(true)))], &[1]);
        let ended = SessionKind::Goodbye { expiry: Some(0), sure: true };
        let end = [(1, connect(false, 100, Some(false))), (2, ended)];
        finds(&[end.as_slice(), &[(3, connect(false, 0, Some(true)))]].concat(), &[3]);
        finds(&[end.as_slice(), &[(3, connect(false, 0, Some(false)))]].concat(), &[]);
        let perhaps = SessionKind::Goodbye { expiry: Some(0), sure: false };
        for present in [true, false] {
            let again = connect(false, 0, Some(present));
            finds(&[(1, connect(false, 100, Some(false))), (2, perhaps.clone()), (3, again)], &[]);
        }
    }

    #[test]
    fn a_session_expires_and_not_before() {
        let short = [(1, connect(true, 5, Some(false))), (2, SessionKind::Lost)];
        finds(&[short.as_slice(), &[(4, connect(false, 5, Some(false)))]].concat(), &[4]);
        for present in [true, false] {
            finds(&[short.as_slice(), &[(9, connect(false, 5, Some(present)))]].concat(), &[]);
        }
        finds(&[short.as_slice(), &[(60, connect(false, 5, Some(true)))]].concat(), &[60]);
    }

    #[test]
    fn a_takeover_finds_the_session_unless_it_lasts_as_long_as_its_connection() {
        for (expiry, found) in [(100, vec![2]), (0, Vec::new())] {
            let events = [(1, connect(true, expiry, Some(false))), (2, connect(false, expiry, Some(false)))];
            finds(&events, &found);
        }
    }

    #[test]
    fn a_connect_without_answer_may_have_been_done() {
        let unknown = [(1, connect(true, 100, None))];
        for present in [true, false] {
            finds(&[unknown.as_slice(), &[(3, connect(false, 100, Some(present)))]].concat(), &[]);
        }
        // One that resumes changes nothing.
        let resumed =
            [(1, connect(true, 100, Some(false))), (2, SessionKind::Lost), (3, connect(false, 100, None))];
        finds(&[resumed.as_slice(), &[(4, connect(false, 100, Some(false)))]].concat(), &[4]);
    }

    #[test]
    fn a_connect_that_nobody_could_serve_begins_no_session_and_may_end_one() {
        let unserved = |clean, expiry| (3, SessionKind::Unserved { clean, expiry });
        let absent =
            [(1, connect(true, 0, Some(false))), (2, SessionKind::Goodbye { expiry: None, sure: true })];
        let exists = [(1, connect(true, 100, Some(false))), (2, SessionKind::Lost)];
        for (clean, expiry) in [(false, 100), (true, 100), (false, 1), (true, 0)] {
            let begun = [(40, connect(false, 100, Some(true)))];
            finds(&[&absent[..], &[unserved(clean, expiry)], &begun].concat(), &[40]);
            let ended = [(4, connect(false, 100, Some(false)))];
            let wrong = if clean || expiry < 100 { &[][..] } else { &[4] };
            finds(&[&exists[..], &[unserved(clean, expiry)], &ended].concat(), wrong);
            let there = [(4, connect(false, 100, Some(true)))];
            finds(&[&exists[..], &[unserved(clean, expiry)], &there].concat(), &[]);
        }
    }

    #[test]
    fn a_connect_without_answer_may_be_read_late() {
        // A node that was stopped reads the second CONNECT behind the third, and ends the session.
        let begin =
            [(1, connect(true, 100, Some(false))), (2, SessionKind::Lost), (3, connect(true, 100, None))];
        let again =
            [(4, connect(false, 100, Some(true))), (5, subscribe(true, Outcome::Ok)), (6, probe(false))];
        finds(&[&begin[..], &again[..]].concat(), &[]);
        let later =
            [(40, connect(false, 100, Some(true))), (41, subscribe(true, Outcome::Ok)), (42, probe(false))];
        finds(&[&begin[..], &later[..]].concat(), &[42]);
    }

    #[test]
    fn subscriptions_live_as_long_as_their_session() {
        let subscribed = [(1, connect(true, 100, Some(false))), (2, subscribe(true, Outcome::Ok))];
        let resumed = [(3, SessionKind::Lost), (4, connect(false, 100, Some(true)))];
        let renewed = [(3, SessionKind::Lost), (4, connect(true, 100, Some(false)))];
        finds(&[&subscribed[..], &[(3, probe(false))]].concat(), &[3]);
        finds(&[&subscribed[..], &resumed, &[(5, probe(false))]].concat(), &[5]);
        finds(&[&subscribed[..], &resumed, &[(5, probe(true))]].concat(), &[]);
        finds(&[&subscribed[..], &renewed, &[(5, probe(true))]].concat(), &[5]);
        finds(&[&subscribed[..], &[(3, subscribe(false, Outcome::Ok)), (4, probe(true))]].concat(), &[4]);
        for came in [true, false] {
            let unsure = [(3, subscribe(false, Outcome::Unknown)), (4, probe(came))];
            finds(&[&subscribed[..], &unsure].concat(), &[]);
        }
    }

    #[test]
    fn two_owners_are_found() {
        finds(&[(1, connect(true, 100, Some(false))), (2, SessionKind::TwoOwners)], &[2]);
    }
}
