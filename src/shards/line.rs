//! The way from this node to the leader of a shard.
//!
//! What the node wants done goes out in numbered parts. The leader answers each when it is committed; what it has not answered is
//! sent again, in order, to whoever leads next. The shard knows the numbers, so what was done already is not done twice.
//! A few parts are on their way at a time; meanwhile the next one gathers, so the busier the node, the larger its parts. Queries
//! go the same way (`retained`, `presence`).
//!
//! While the disks of the shard are short of space, messages that it shall keep are held back here, and everything else goes on: what
//! clients have acknowledged makes room.
//!
//! A line is bound by those who fill it: [`Line::is_congested`] tells them to wait, [`Line::is_overrun`] to go.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use flotilla_mqtt::{ReasonCode, session::ClientId};
use flotilla_shard::{Answer, OPS_MAX, Op, Part, PartAnswer};
use flotilla_state::{Member, ShardId};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    clock::ShardClock,
    message::{Message, NumberedPart, Query, What},
    presence::{Inquiries, Presence},
    retained::{LookUps, Page},
};
use crate::{cluster::Completion, node::Node, router::SessionRef, worker::Event};

/// The way to the leader of one shard.
#[derive(Debug)]
pub(super) struct Line {
    shard: ShardId,
    state: Mutex<State>,
    /// Bytes of what was not answered, about; without what is held back.
    bytes: AtomicUsize,
    /// Bytes of what is held back.
    held_back_bytes: AtomicUsize,
    /// Whether the disks of the shard are short of space.
    is_short: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// This node, while it is a member.
    me: Option<Member>,
    leader: Option<Leader>,
    /// The time of the shard, since a leader has told it.
    clock: Option<ShardClock>,
    last_number: u64,
    /// How many ops have been wanted.
    ops: u64,
    gathering: Gathered,
    /// Messages that wait for space.
    held_back: Vec<Wish>,
    /// What was not answered, in the order of its numbers.
    sent: VecDeque<Sent>,
    /// Connections that have come to nothing in a life of this node that is over, which the shard may not know: it may have taken
    /// them, or take them yet.
    abandoned: VecDeque<Wish>,
    look_ups: LookUps,
    inquiries: Inquiries,
    /// A leader that has not answered an inquiry.
    mute: Option<Leader>,
}

/// Who leads, as it has said itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leader {
    pub(super) member: Member,
    pub(super) term: u64,
    pub(super) round: u64,
}

/// What goes into the next part.
#[derive(Debug, Default)]
struct Gathered {
    ops: Vec<Op>,
    /// About how many bytes each of them has.
    sizes: Vec<usize>,
    /// Who waits for which op, in their order.
    waiting: Vec<(usize, Waiting)>,
    bytes: usize,
}

#[derive(Debug)]
struct Sent {
    /// How many ops were wanted before it.
    ops_before: u64,
    part: NumberedPart,
    waiting: Vec<(usize, Waiting)>,
    bytes: usize,
    /// Those of its ops that are told again in the next life.
    abandoned: Vec<Op>,
}

/// Who waits for an op.
#[derive(Debug)]
pub(super) enum Waiting {
    /// Publishes, each of which it completes.
    Stored(Vec<Completion>),
    /// A session, which wants to know the answer.
    Session(Completion),
    /// A task.
    Task(oneshot::Sender<Answer>),
}

/// Something to do, with what it takes in memory, about, and who waits for it.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) op: Op,
    pub(super) bytes: usize,
    pub(super) waiting: Option<Waiting>,
}

/// Parts on their way at a time. More would only be smaller, and each has its cost.
const PARTS_MAX: usize = 2;
/// A part with so many bytes takes no more.
const PART_BYTES: usize = 256 << 10;
/// Above this many bytes publishers wait.
const CONGESTED: usize = 8 << 20;
/// Above this many bytes a line takes no more from publishers: each that waits has sent a little, and those that were sent away come
/// again.
const OVERRUN: usize = 64 << 20;

/// About what such an op takes.
const ABANDON_BYTES: usize = 128;
/// Connections that have come to nothing and are told again in the next life, at most; of more, some may leave a session behind.
const ABANDONED_MAX: usize = 10_000;

/// What is to be sent, to whom.
pub(super) type Outgoing = Vec<(Member, Message)>;

impl Line {
    pub(super) fn new(shard: ShardId) -> Self {
        Self {
            shard,
            state: Mutex::default(),
            bytes: AtomicUsize::new(0),
            held_back_bytes: AtomicUsize::new(0),
            is_short: AtomicBool::new(false),
        }
    }

    /// Whether publishers should wait: so much waits already, or there is no space for what they send.
    pub(super) fn is_congested(&self) -> bool {
        self.is_busy() || self.is_short()
    }

    /// Whether so much waits, beside what is held back, that who connects should come again later.
    pub(super) fn is_busy(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > CONGESTED
    }

    /// Whether no more is to be taken from publishers, so much waits.
    pub(super) fn is_overrun(&self) -> bool {
        let bytes = self.bytes.load(Ordering::Relaxed) + self.held_back_bytes.load(Ordering::Relaxed);
        bytes > OVERRUN
    }

    /// Whether the disks of the shard are short of space.
    pub(super) fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Relaxed)
    }

    /// The disks of the shard are short of space, or no longer; returns whether that is news.
    pub(super) fn set_short(&self, is_short: bool, send: impl FnOnce(Outgoing)) -> bool {
        let mut state = self.state.lock();
        if self.is_short.swap(is_short, Ordering::Relaxed) == is_short {
            return false;
        }
        if !is_short {
            let held_back = std::mem::take(&mut state.held_back);
            let bytes = self.held_back_bytes.swap(0, Ordering::Relaxed);
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
            state.gather(held_back);
            send(self.advance(&mut state));
        }
        true
    }

    /// Who leads.
    pub(super) fn leader(&self) -> Option<Leader> {
        self.state.lock().leader
    }

    /// The time of the shard, if any leader has told it since this program started.
    pub(super) fn clock(&self) -> Option<ShardClock> {
        self.state.lock().clock
    }

    /// Whether nothing waits for an answer.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.sent.is_empty() && state.gathering.ops.is_empty() && state.held_back.is_empty()
    }

    /// Wants something done; `send` is called with what is to be sent, in order.
    pub(super) fn put(&self, wish: Wish, send: impl FnOnce(Outgoing)) {
        let mut state = self.state.lock();
        if state.me.is_none() {
            // Nobody is served: see `begin_life`.
            return state.note_abandoned([wish.op]);
        }
        if self.is_short() && matches!(wish.op, Op::Publish { .. } | Op::Restore(_)) {
            self.held_back_bytes.fetch_add(wish.bytes, Ordering::Relaxed);
            state.held_back.push(wish);
            return;
        }
        self.bytes.fetch_add(wish.bytes, Ordering::Relaxed);
        state.gather([wish]);
        send(self.advance(&mut state));
    }

    /// This node begins a life, or ends one: whoever waited waits for nothing any more.
    pub(super) fn begin_life(&self, me: Option<Member>, send: impl FnOnce(Outgoing)) {
        let mut state = self.state.lock();
        let mut look_ups = std::mem::take(&mut state.look_ups);
        look_ups.clear();
        let mut inquiries = std::mem::take(&mut state.inquiries);
        inquiries.clear();
        let ended = std::mem::take(&mut *state);
        *state =
            State { me, leader: ended.leader, clock: ended.clock, look_ups, inquiries, ..State::default() };
        state.abandoned = ended.abandoned;
        state.note_abandoned(ended.sent.into_iter().flat_map(|sent| sent.abandoned));
        state.note_abandoned(ended.gathering.ops);
        self.bytes.store(0, Ordering::Relaxed);
        self.held_back_bytes.store(0, Ordering::Relaxed);
        if me.is_some() {
            let abandoned = std::mem::take(&mut state.abandoned);
            self.bytes.store(abandoned.iter().map(|wish| wish.bytes).sum(), Ordering::Relaxed);
            state.gather(abandoned);
            send(self.advance(&mut state));
        }
    }

    /// A member says that it leads, and what time it is. Returns whether that is news.
    pub(super) fn handle_lead(&self, leader: Leader, clock: ShardClock, send: impl FnOnce(Outgoing)) -> bool {
        let mut state = self.state.lock();
        let is_news = state.leader.is_none_or(|known| {
            let order = |leader: Leader| (leader.term, leader.member, leader.round);
            known.term <= leader.term && order(known) < order(leader)
        });
        if !is_news {
            return false;
        }
        state.leader = Some(leader);
        state.clock = Some(state.clock.map_or(clock, |known| known.later(clock)));
        let parts = state.sent.iter().map(|sent| What::Part(sent.part.clone()));
        let look_ups = state.look_ups.asked().map(|look_up| Query::Retained(look_up.clone()));
        let inquiry = state.inquiries.asked().map(|inquiry| Query::Presence(inquiry.clone()));
        let queries = look_ups.chain(inquiry).map(What::Query);
        send(parts.chain(queries).map(|what| self.message(leader, what)).collect());
        true
    }

    /// The life of a member has ended: if it led, somebody else will.
    pub(super) fn handle_ended(&self, member: Member) {
        let mut state = self.state.lock();
        if state.leader.is_some_and(|leader| leader.member == member) {
            state.leader = None;
        }
    }

    /// The leader has answered a part.
    pub(super) fn handle_answer(
        &self,
        node: &Node,
        number: u64,
        answer: PartAnswer,
        send: impl FnOnce(Outgoing),
    ) {
        let mut state = self.state.lock();
        let Some(position) = state.sent.iter().position(|sent| sent.part.number == number) else { return };
        let answers = match answer {
            PartAnswer::Applied(answers) => answers,
            PartAnswer::Gap { expected } => {
                // What it lacks was sent before, unless the leader has dropped it.
                tracing::debug!(shard = self.shard.0, number, expected, "a part is missing at the leader");
                if let Some(leader) = state.leader {
                    let again = state.sent.iter().map(|sent| What::Part(sent.part.clone()));
                    send(again.map(|what| self.message(leader, what)).collect());
                }
                return;
            }
            // This node's life has ended, and it will hear of that.
            PartAnswer::Ended => return,
        };
        let Some(sent) = state.sent.remove(position) else { return };
        let before = self.bytes.fetch_sub(sent.bytes, Ordering::Relaxed);
        send(self.advance(&mut state));
        drop(state);
        tell(node, sent.waiting, answers);
        if before > CONGESTED && before - sent.bytes <= CONGESTED {
            node.note_decongested();
        }
    }

    /// Wants retained messages looked up; `send` is called with what is to be sent.
    pub(super) fn look_up(
        &self,
        filter: Arc<str>,
        after: Option<String>,
        who: SessionRef,
        send: impl FnOnce(Outgoing),
    ) -> Option<u64> {
        let mut state = self.state.lock();
        state.me?;
        let ops = state.ops;
        let id = state.look_ups.put(ops, filter, after, who);
        send(self.advance(&mut state));
        Some(id)
    }

    /// Nobody waits for a look-up any more: others get their turn.
    pub(super) fn forget_look_up(&self, id: u64, send: impl FnOnce(Outgoing)) {
        let mut state = self.state.lock();
        state.look_ups.forget(id);
        send(self.advance(&mut state));
    }

    /// The leader has answered a look-up.
    pub(super) fn handle_page(&self, node: &Node, page: Page, send: impl FnOnce(Outgoing)) {
        let mut state = self.state.lock();
        let Some(who) = state.look_ups.answered(page.id) else { return };
        send(self.advance(&mut state));
        drop(state);
        let Some(who) = who else { return };
        node.mailboxes[usize::from(who.worker)].send(Event::LookedUp(who, self.shard, page));
    }

    /// Wants to know whether a client has a session; `who` hears it, unless this node's life ends before, or the leader is mute.
    pub(super) fn inquire(&self, client: ClientId, who: oneshot::Sender<bool>, send: impl FnOnce(Outgoing)) {
        let mut state = self.state.lock();
        if state.me.is_some() && (state.mute.is_none() || state.mute != state.leader) {
            state.inquiries.put(client, who);
            send(self.advance(&mut state));
        }
    }

    /// The leader, if there is one, has not answered an inquiry in time.
    pub(super) fn note_mute(&self) {
        let mut state = self.state.lock();
        state.mute = state.leader;
    }

    /// The leader has said who has a session.
    pub(super) fn handle_presence(&self, presence: Presence, send: impl FnOnce(Outgoing)) {
        let mut state = self.state.lock();
        state.mute = None;
        state.inquiries.answered(presence);
        send(self.advance(&mut state));
    }

    /// Makes parts of what has gathered, as many as may be on their way, and asks what may be asked.
    fn advance(&self, state: &mut State) -> Outgoing {
        let mut outgoing = Vec::new();
        let Some(source) = state.me else { return outgoing };
        while state.sent.len() < PARTS_MAX && !state.gathering.ops.is_empty() {
            let ops_before = state.ops - state.gathering.ops.len() as u64;
            let Gathered { ops, waiting, bytes, .. } = state.gathering.take();
            state.last_number += 1;
            let number = state.last_number;
            let waits_for_routes = ops.iter().any(waits_for_routes);
            let waits_for_letters = waits_for_routes && ops.iter().any(joins_groups);
            let abandoned = ops.iter().filter(|op| is_abandon(op)).cloned().collect();
            let part = Part { source, number, ops }.encode();
            let part = NumberedPart { number, waits_for_routes, waits_for_letters, part };
            let what = What::Part(part.clone());
            outgoing.extend(state.leader.map(|leader| self.message(leader, what)));
            state.sent.push_back(Sent { ops_before, part, waiting, bytes, abandoned });
        }
        let ops_done = state.ops_done();
        let look_ups = std::iter::from_fn(|| state.look_ups.next(ops_done)).map(Query::Retained);
        let queries = look_ups.chain(state.inquiries.next().map(Query::Presence));
        for query in queries {
            outgoing.extend(state.leader.map(|leader| self.message(leader, What::Query(query))));
        }
        outgoing
    }

    fn message(&self, leader: Leader, what: What) -> (Member, Message) {
        (leader.member, Message { shard: self.shard, term: leader.term, what })
    }
}

impl State {
    /// Keeps those that are to be told in the next life.
    fn note_abandoned(&mut self, ops: impl IntoIterator<Item = Op>) {
        let abandoned = ops.into_iter().filter(is_abandon);
        let wishes = abandoned.map(|op| Wish { op, bytes: ABANDON_BYTES, waiting: None });
        self.abandoned.extend(wishes.take(ABANDONED_MAX - self.abandoned.len()));
    }

    fn gather(&mut self, wishes: impl IntoIterator<Item = Wish>) {
        let before = self.gathering.ops.len();
        self.gathering.extend(wishes);
        self.ops += (self.gathering.ops.len() - before) as u64;
    }

    /// How many of the ops that have been wanted are done, from the first one on.
    fn ops_done(&self) -> u64 {
        let gathered = self.ops - self.gathering.ops.len() as u64;
        self.sent.front().map_or(gathered, |sent| sent.ops_before)
    }
}

impl Gathered {
    fn extend(&mut self, wishes: impl IntoIterator<Item = Wish>) {
        for Wish { op, bytes, waiting } in wishes {
            self.bytes += bytes;
            self.sizes.push(bytes);
            self.waiting.extend(waiting.map(|waiting| (self.ops.len(), waiting)));
            self.ops.push(op);
        }
    }

    /// Takes what goes into one part.
    fn take(&mut self) -> Self {
        if self.ops.len() <= OPS_MAX && self.bytes <= PART_BYTES {
            return std::mem::take(self);
        }
        let (mut count, mut bytes) = (0, 0);
        for size in self.sizes.iter().take(OPS_MAX) {
            if count > 0 && bytes + size > PART_BYTES {
                break;
            }
            (count, bytes) = (count + 1, bytes + size);
        }
        let (ops, sizes) = (self.ops.split_off(count), self.sizes.split_off(count));
        let split = self.waiting.partition_point(|(op, _)| *op < count);
        let later = self.waiting.split_off(split).into_iter().map(|(op, waiting)| (op - count, waiting));
        let rest = Self { bytes: self.bytes - bytes, waiting: later.collect(), ops, sizes };
        Self { bytes, ..std::mem::replace(self, rest) }
    }
}

/// Whether its answer says that the subscriptions of a session are known: SUBACK does, and CONNACK of what another node has subscribed.
fn waits_for_routes(op: &Op) -> bool {
    matches!(op, Op::Open(_) | Op::Subscribe { .. } | Op::Restored)
}

fn is_abandon(op: &Op) -> bool {
    matches!(op, Op::Abandon { .. })
}

/// Whether sessions may be members of groups because of it.
fn joins_groups(op: &Op) -> bool {
    match op {
        Op::Subscribe { subscriptions, .. } => {
            subscriptions.iter().any(|subscription| subscription.filter.is_shared())
        }
        Op::Restored => true,
        _ => false,
    }
}

/// Tells those who waited for the ops of a part.
fn tell(node: &Node, waiting: Vec<(usize, Waiting)>, answers: Vec<Answer>) {
    let workers = node.mailboxes.len();
    let mut stored: Vec<Vec<Completion>> = vec![Vec::new(); workers];
    let mut answered: Vec<Vec<(Completion, Answer)>> = vec![Vec::new(); workers];
    let mut answers = answers.into_iter().map(Some).collect::<Vec<_>>();
    for (op, waiting) in waiting {
        let answer = answers.get_mut(op).and_then(Option::take).unwrap_or(Answer::Done);
        match waiting {
            Waiting::Stored(completions) => {
                for completion in completions {
                    stored[usize::from(completion.session.worker)].push(completion);
                }
            }
            Waiting::Session(completion) => {
                answered[usize::from(completion.session.worker)].push((completion, answer));
            }
            Waiting::Task(task) => drop(task.send(answer)),
        }
    }
    for (mailbox, (stored, answered)) in node.mailboxes.iter().zip(stored.into_iter().zip(answered)) {
        if !stored.is_empty() {
            mailbox.send(Event::Completed(stored, ReasonCode::Success));
        }
        if !answered.is_empty() {
            mailbox.send(Event::Answered(answered));
        }
    }
}

#[cfg(test)]
mod tests;
