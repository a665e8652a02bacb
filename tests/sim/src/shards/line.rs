//! The way from a node to the leader of a shard: numbered parts, sent again to whoever leads next until they are answered.

use std::collections::VecDeque;

use flotilla_shard::{Answer, EncodedPart, Op, Part, PartAnswer};
use flotilla_state::{Member, ShardId};
use parking_lot::Mutex;

use super::{
    Message, What,
    seats::{Awaited, SeatId},
};

/// The way to the leader of one shard.
pub struct Line {
    shard: ShardId,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    me: Option<Member>,
    leader: Option<Leader>,
    last_number: u64,
    gathering: Vec<Wish>,
    /// What was not answered, in the order of its numbers.
    sent: VecDeque<Sent>,
}

/// Who leads, as it has said itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leader {
    /// The member.
    pub member: Member,
    /// Its term.
    pub term: u64,
    /// How often it has asked for everything again.
    pub round: u64,
}

/// Something to be done, and who waits for the answer.
#[derive(Debug)]
pub struct Wish {
    /// What.
    pub op: Op,
    /// Who waits, for what.
    pub waiting: Option<(SeatId, Awaited)>,
}

struct Sent {
    number: u64,
    part: EncodedPart,
    waiting: Vec<Option<(SeatId, Awaited)>>,
}

/// What is to be sent.
pub type Outgoing = Vec<(Member, Message)>;

/// Those who waited, with what they are answered.
pub type Answered = Vec<(SeatId, Awaited, Answer)>;

impl Line {
    /// The way to this shard.
    pub fn new(shard: ShardId) -> Self {
        Self { shard, state: Mutex::default() }
    }

    /// Who leads.
    pub fn leader(&self) -> Option<Leader> {
        self.state.lock().leader
    }

    /// Whether nothing waits for an answer.
    pub fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.sent.is_empty() && state.gathering.is_empty()
    }

    /// Wants something done; `send` is called with what is to be sent, in order.
    pub fn put(&self, wish: Wish, send: impl FnOnce(Outgoing)) {
        let mut state = self.state.lock();
        if state.me.is_some() {
            state.gathering.push(wish);
            send(self.advance(&mut state));
        }
    }

    /// The node begins a life, or ends one: whoever waited waits for nothing any more.
    pub fn begin_life(&self, me: Option<Member>) {
        let mut state = self.state.lock();
        *state = State { me, leader: state.leader, ..State::default() };
    }

    /// A member says that it leads; whether that is news.
    pub fn handle_lead(&self, leader: Leader, send: impl FnOnce(Outgoing)) -> bool {
        let mut state = self.state.lock();
        let order = |leader: Leader| (leader.term, leader.member, leader.round);
        if state.leader.is_some_and(|known| order(known) >= order(leader)) {
            return false;
        }
        state.leader = Some(leader);
        send(self.all(&state));
        true
    }

    /// The life of a member has ended: if it led, somebody else will.
    pub fn handle_ended(&self, member: Member) {
        let mut state = self.state.lock();
        if state.leader.is_some_and(|leader| leader.member == member) {
            state.leader = None;
        }
    }

    /// The leader has answered a part.
    pub fn handle_answer(&self, number: u64, answer: PartAnswer, send: impl FnOnce(Outgoing)) -> Answered {
        let mut state = self.state.lock();
        let Some(position) = state.sent.iter().position(|sent| sent.number == number) else {
            return Vec::new();
        };
        let answers = match answer {
            PartAnswer::Applied(answers) => answers,
            PartAnswer::Gap { .. } => {
                send(self.all(&state));
                return Vec::new();
            }
            // This life has ended, and the node will hear of that.
            PartAnswer::Ended => return Vec::new(),
        };
        let Some(sent) = state.sent.remove(position) else { return Vec::new() };
        send(self.advance(&mut state));
        let answers = answers.into_iter().chain(std::iter::repeat(Answer::Done));
        let told = sent.waiting.into_iter().zip(answers);
        told.filter_map(|(waiting, answer)| waiting.map(|(seat, what)| (seat, what, answer))).collect()
    }

    /// Everything that was not answered.
    fn all(&self, state: &State) -> Outgoing {
        let Some(leader) = state.leader else { return Vec::new() };
        state.sent.iter().map(|sent| self.message(leader, sent.number, &sent.part)).collect()
    }

    fn advance(&self, state: &mut State) -> Outgoing {
        let mut outgoing = Vec::new();
        let Some(source) = state.me else { return outgoing };
        while state.sent.len() < PARTS_MAX && !state.gathering.is_empty() {
            let count = state.gathering.len().min(OPS_MAX);
            let (ops, waiting) = state.gathering.drain(..count).map(|wish| (wish.op, wish.waiting)).unzip();
            state.last_number += 1;
            let number = state.last_number;
            let part = Part { source, number, ops }.encode();
            outgoing.extend(state.leader.map(|leader| self.message(leader, number, &part)));
            state.sent.push_back(Sent { number, part, waiting });
        }
        outgoing
    }

    fn message(&self, leader: Leader, number: u64, part: &EncodedPart) -> (Member, Message) {
        let what = What::Part { number, part: part.clone() };
        (leader.member, Message { shard: self.shard, term: leader.term, what })
    }
}

/// Few and small, so that several are always on their way.
const PARTS_MAX: usize = 3;
const OPS_MAX: usize = 6;
