//! What the leader of a shard does beside leading its Raft group: it puts what the nodes want into the log, answers them when that is
//! applied, hands messages out, and sees to the members of the group.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use flotilla_raft::group::{ProposeError, Role};
use flotilla_shard::{Answers, Changes, Connection, EncodedPart, Entry, Op, Part, Seq};
use flotilla_state::{Incarnation, Member};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::sleep};

use super::{
    Message, PowerFailed, What, members::follow_placement, points::Point, replica::Replica, streams::Streams,
};
use crate::node::Process;

/// What is brought to the leader.
#[derive(Default)]
pub struct Desk {
    inbox: Mutex<Inbox>,
    wake: Notify,
}

#[derive(Default)]
struct Inbox {
    /// The term in which this node leads and takes what is brought; 0: it does not.
    term: u64,
    parts: VecDeque<(Asked, EncodedPart)>,
    attached: Vec<(Member, Connection, Seq)>,
    ended: Vec<Member>,
    joined: Vec<Member>,
    applied: VecDeque<Applied>,
}

/// An entry that was proposed, and what became of it.
struct Applied {
    parts: Vec<Asked>,
    own: Vec<Op>,
    outcome: Result<Bytes, ProposeError>,
}

/// Who is to be answered for a part.
#[derive(Debug, Clone, Copy)]
struct Asked {
    source: Member,
    number: u64,
}

impl Desk {
    /// Takes a part in, if this node leads in that term.
    pub fn put_part(&self, term: u64, source: Member, number: u64, part: EncodedPart) {
        self.put(term, |inbox| inbox.parts.push_back((Asked { source, number }, part)));
    }

    /// A connection wants its messages.
    pub fn attach(&self, term: u64, from: Member, connection: Connection, next: Seq) {
        self.put(term, |inbox| inbox.attached.push((from, connection, next)));
    }

    /// The life of a member has ended.
    pub fn member_ended(&self, member: Member) {
        self.put_any(|inbox| {
            inbox.joined.retain(|joined| *joined != member);
            inbox.ended.push(member);
        });
    }

    /// A member has begun a life.
    pub fn member_joined(&self, member: Member) {
        self.put_any(|inbox| inbox.joined.push(member));
    }

    fn put(&self, term: u64, put: impl FnOnce(&mut Inbox)) {
        let mut inbox = self.inbox.lock();
        if inbox.term == term {
            put(&mut inbox);
            self.wake.notify_one();
        }
    }

    fn put_any(&self, put: impl FnOnce(&mut Inbox)) {
        let mut inbox = self.inbox.lock();
        if inbox.term != 0 {
            put(&mut inbox);
            self.wake.notify_one();
        }
    }

    fn begin(&self, term: u64) {
        *self.inbox.lock() = Inbox { term, ..Inbox::default() };
    }
}

/// Leads whenever the group says that this node does, until the group stops.
pub async fn run(replica: Arc<Replica>, process: Arc<Process>) {
    let mut status = replica.group.watch();
    loop {
        let (role, term) = {
            let status = status.borrow_and_update();
            (status.role, status.term)
        };
        match role {
            Role::Leader => {
                let led = tokio::select! {
                    led = lead(&replica, &process, term) => led,
                    _ = status.wait_for(|status| status.role != Role::Leader || status.term != term) => Ok(()),
                };
                if led.is_err() {
                    // The process is about to end.
                    return;
                }
                replica.desk.begin(0);
                replica.state.shard.lock().watch(false);
            }
            // Whether that was to be is for the world to see.
            Role::Stopped => return,
            Role::Learner | Role::Follower | Role::Candidate => {
                if status.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Sees when the log is cut.
pub async fn watch_log(replica: Arc<Replica>, process: Arc<Process>) {
    let mut status = replica.group.watch();
    let mut purged = status.borrow_and_update().purged;
    while status.changed().await.is_ok() {
        let now = status.borrow_and_update().purged;
        if now > purged && process.pass(Point::Purged).is_err() {
            return;
        }
        purged = now;
    }
}

/// Leads in a term, until it is dropped or the power fails.
async fn lead(replica: &Arc<Replica>, process: &Arc<Process>, term: u64) -> Result<(), PowerFailed> {
    replica.state.shard.lock().watch(true);
    // When an entry of this term is applied, everything before it is.
    while replica.group.propose(tick(process)).await.is_err() {
        sleep(PAUSE).await;
    }
    replica.desk.begin(term);
    let mut leader = Leader::begin(replica, process, term);
    leader.tell_all();
    let members = follow_placement(replica, process, term);
    tokio::pin!(members);
    loop {
        leader.work()?;
        if leader.has_lost {
            sleep(PAUSE).await;
            leader.ask_again();
        }
        tokio::select! {
            () = tokio::task::yield_now(), if leader.has_more() => {}
            () = replica.desk.wake.notified() => {}
            () = replica.state.applied.notified() => {}
            failed = &mut members => return Err(failed),
            // What a snapshot says is no event.
            () = sleep(PAUSE), if !leader.unknown.is_empty() => {}
        }
    }
}

/// An entry that only lets time pass.
fn tick(process: &Process) -> Bytes {
    let source = me(process);
    let part = Part { source, number: 0, ops: vec![Op::Tick] };
    Entry { stamp: now(process), retained_full: false, parts: vec![part] }.encode()
}

/// The wall clock of a node: they differ a little.
fn now(process: &Process) -> u64 {
    EPOCH_MILLIS + process.shared().trace.now() + process.node.seed % 50
}

fn me(process: &Process) -> Member {
    process.life().unwrap_or(Member { node: process.meta.node(), incarnation: Incarnation(0) })
}

/// What the leader of a shard knows in a term.
struct Leader<'a> {
    replica: &'a Arc<Replica>,
    process: &'a Arc<Process>,
    term: u64,
    streams: Streams,
    /// What it wants done itself.
    ops: Vec<Op>,
    /// Owners of which this node knows neither that they live nor that they have ended.
    unknown: Vec<Member>,
    entries: usize,
    has_lost: bool,
    round: u64,
}

impl<'a> Leader<'a> {
    fn begin(replica: &'a Arc<Replica>, process: &'a Arc<Process>, term: u64) -> Self {
        let mut shard = replica.state.shard.lock();
        drop(shard.take_changes());
        let owners: BTreeSet<Member> = shard.owners().collect();
        drop(shard);
        let live = process.members();
        let unknown = owners.into_iter().filter(|owner| !live.contains(owner)).collect();
        let (streams, ops) = (Streams::default(), Vec::new());
        Self { replica, process, term, streams, ops, unknown, entries: 0, has_lost: false, round: 0 }
    }

    /// Looks whether lives of owners have ended that this node did not hear of.
    fn end_lives(&mut self) {
        if self.unknown.is_empty() {
            return;
        }
        let state = self.process.meta.state();
        let state = state.read();
        let ops = &mut self.ops;
        self.unknown.retain(|owner| {
            let has_ended = state.has_ended(*owner);
            ops.extend(has_ended.then_some(Op::MemberEnded { member: *owner }));
            !has_ended && !state.is_live(*owner)
        });
    }

    fn work(&mut self) -> Result<(), PowerFailed> {
        self.end_lives();
        let (parts, applied) = self.take_inbox();
        self.handle_changes();
        for applied in applied {
            self.answer(applied)?;
        }
        self.propose(parts)
    }

    fn take_inbox(&mut self) -> (Vec<(Asked, EncodedPart)>, VecDeque<Applied>) {
        let mut inbox = self.replica.desk.inbox.lock();
        let applied = std::mem::take(&mut inbox.applied);
        self.entries -= applied.len();
        let room = if self.entries < ENTRIES_MAX { PARTS_MAX } else { 0 };
        let count = inbox.parts.len().min(room);
        let parts = inbox.parts.drain(..count).collect();
        self.ops.extend(inbox.ended.drain(..).map(|member| Op::MemberEnded { member }));
        let (attached, joined) = (std::mem::take(&mut inbox.attached), std::mem::take(&mut inbox.joined));
        drop(inbox);
        for member in joined {
            self.process.send_shard(member, self.lead());
        }
        for (from, connection, next) in attached {
            self.streams.attach(&self.replica.state.shard.lock(), from, connection, next);
        }
        (parts, applied)
    }

    fn has_more(&self) -> bool {
        let is_waiting = || !self.ops.is_empty() || !self.replica.desk.inbox.lock().parts.is_empty();
        self.streams.has_more() || self.entries < ENTRIES_MAX && is_waiting()
    }

    fn handle_changes(&mut self) {
        let mut shard = self.replica.state.shard.lock();
        let Changes { fed, ended, .. } = shard.take_changes();
        ended.into_iter().for_each(|session| self.streams.end(session));
        let outgoing = self.streams.pump(&shard, fed, self.term);
        drop(shard);
        match outgoing {
            Ok(outgoing) => {
                for (owner, batch) in outgoing {
                    self.process.deliver_shard(owner, self.replica.id, batch);
                }
            }
            // Without power nobody reads anything.
            Err(_) if self.process.node.disk.lock().is_failing() => {}
            Err(error) => {
                let (name, shard) = (&self.process.node.name, self.replica.id.0);
                let what = format!("{name} cannot read messages of shard {shard}: {error}");
                self.process.shared().check(Err(what));
            }
        }
    }

    fn answer(&mut self, applied: Applied) -> Result<(), PowerFailed> {
        let bytes = match applied.outcome {
            Ok(bytes) => bytes,
            // Who leads next is asked again, be it this node.
            Err(_) => {
                self.has_lost = true;
                self.ops.extend(applied.own);
                return Ok(());
            }
        };
        self.process.pass(Point::Applied)?;
        match Answers::decode(&bytes) {
            Ok(answers) => {
                // The leader's own part has no number, and is the last.
                for (Asked { source, number }, answer) in applied.parts.into_iter().zip(answers.parts) {
                    let what = What::Answer { number, answer };
                    let (shard, term) = (self.replica.id, self.term);
                    self.process.send_shard(source, Message { shard, term, what });
                }
            }
            Err(error) => self.process.shared().check(Err(format!("answers do not decode: {error}"))),
        }
        Ok(())
    }

    /// Asks the nodes for everything that was not answered.
    fn ask_again(&mut self) {
        self.has_lost = false;
        self.round += 1;
        self.replica.desk.inbox.lock().parts.clear();
        self.tell_all();
    }

    fn tell_all(&self) {
        self.process.members().into_iter().for_each(|member| self.process.send_shard(member, self.lead()));
    }

    fn lead(&self) -> Message {
        Message { shard: self.replica.id, term: self.term, what: What::Lead { round: self.round } }
    }

    /// Puts parts, and what this node wants itself, into the log.
    fn propose(&mut self, parts: Vec<(Asked, EncodedPart)>) -> Result<(), PowerFailed> {
        if parts.is_empty() && self.ops.is_empty() {
            return Ok(());
        }
        let own_ops = std::mem::take(&mut self.ops);
        let source = me(self.process);
        let own = (!own_ops.is_empty()).then(|| Part { source, number: 0, ops: own_ops.clone() }.encode());
        let encoded = parts.iter().map(|(_, part)| part).chain(&own);
        let command = Entry::encode_parts(now(self.process), false, encoded);
        let asked = parts.iter().map(|(asked, _)| *asked).collect();
        self.entries += 1;
        let (replica, term) = (Arc::clone(self.replica), self.term);
        self.replica.group.submit(command, move |outcome| {
            let outcome = outcome.map(|(_, answers)| answers);
            let applied = Applied { parts: asked, own: own_ops, outcome };
            replica.desk.put(term, |inbox| inbox.applied.push_back(applied));
        });
        self.process.pass(Point::Proposed)
    }
}

/// Entries that are on their way at a time.
const ENTRIES_MAX: usize = 4;
/// Parts that go into one.
const PARTS_MAX: usize = 3;
const PAUSE: Duration = Duration::from_millis(100);
/// It has to be some time: 0 is none.
const EPOCH_MILLIS: u64 = 1_000_000;
