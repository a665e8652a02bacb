//! What is brought to the leader of a shard.

use std::collections::VecDeque;

use bytes::Bytes;
use flotilla_raft::group::ProposeError;
use flotilla_shard::{Answer, EncodedPart, Op, PartAnswer, WillId};
use flotilla_state::{Member, ShardId};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    message::{Attach, NumberedPart, Query},
    post::Letters,
};

/// What is brought to the leader.
#[derive(Debug, Default)]
pub(super) struct Desk {
    pub(super) inbox: Mutex<Inbox>,
    pub(super) wake: Notify,
}

#[derive(Debug, Default)]
pub(super) struct Inbox {
    /// The term in which this node leads and takes what is brought; 0: it does not.
    pub(super) term: u64,
    pub(super) parts: VecDeque<(Member, Brought)>,
    pub(super) attached: Vec<(Member, Attach)>,
    pub(super) queries: VecDeque<(Member, Query)>,
    pub(super) ended: Vec<Member>,
    /// Members that are to be told who leads.
    pub(super) joined: Vec<Member>,
    pub(super) wills: Vec<WillId>,
    /// Letters that have come to where they were sent.
    pub(super) posted: Vec<u64>,
    /// Whether letters may have been lost on their way.
    pub(super) posts_again: bool,
    pub(super) applied: VecDeque<Applied>,
}

/// What is to be put into the log.
#[derive(Debug)]
pub(super) enum Brought {
    Part(NumberedPart),
    Letters(Letters),
}

/// An entry that was proposed, and what became of it.
#[derive(Debug)]
pub(super) struct Applied {
    pub(super) parts: Vec<Asked>,
    /// What the leader wanted itself.
    pub(super) own: Vec<Op>,
    pub(super) outcome: Result<Bytes, ProposeError>,
}

/// Who is to be answered for a part.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) source: Member,
    pub(super) what: AskedFor,
    pub(super) waits_for_routes: bool,
    pub(super) waits_for_letters: bool,
}

/// What is to be answered.
#[derive(Debug)]
pub(super) enum AskedFor {
    /// The part with this number.
    Part(u64),
    /// Letters of another shard.
    Letters(ShardId, Vec<u64>),
}

/// An answer on its way.
#[derive(Debug)]
pub(super) struct Answering {
    pub(super) to: Member,
    pub(super) what: Answered,
    /// The entry of the meta group's log with the routes that it waited for; 0: it waited for none.
    pub(super) routes_at: u64,
}

/// What is answered.
#[derive(Debug)]
pub(super) enum Answered {
    /// The part with this number.
    Part(u64, PartAnswer),
    /// Letters of another shard: they have come.
    Letters(ShardId, Vec<u64>),
}

impl Brought {
    pub(super) const fn part(&self) -> &EncodedPart {
        match self {
            Self::Part(part) => &part.part,
            Self::Letters(letters) => &letters.part,
        }
    }
}

impl Asked {
    pub(super) fn new(source: Member, brought: &Brought) -> Self {
        match brought {
            Brought::Part(NumberedPart { number, waits_for_routes, waits_for_letters, .. }) => Self {
                source,
                what: AskedFor::Part(*number),
                waits_for_routes: *waits_for_routes,
                waits_for_letters: *waits_for_letters,
            },
            // Letters wait for no letters: two shards would wait for each other.
            Brought::Letters(Letters { from, numbers, waits_for_routes, .. }) => Self {
                source,
                what: AskedFor::Letters(*from, numbers.clone()),
                waits_for_routes: *waits_for_routes,
                waits_for_letters: false,
            },
        }
    }

    /// `None`: there is nothing to say to it.
    pub(super) fn answered(self, answer: PartAnswer) -> Option<Answering> {
        let what = match self.what {
            AskedFor::Part(number) => Answered::Part(number, answer),
            AskedFor::Letters(..) if !is_done(&answer) => {
                // One that was sent before them has been lost, and so all that were not answered are sent again.
                tracing::debug!(from = %self.source, ?answer, "letters have come without those before them");
                return None;
            }
            AskedFor::Letters(from, numbers) => Answered::Letters(from, numbers),
        };
        Some(Answering { to: self.source, what, routes_at: 0 })
    }
}

/// Whether letters count as having come.
fn is_done(answer: &PartAnswer) -> bool {
    matches!(answer, PartAnswer::Applied(answers) if answers.iter().all(|answer| *answer == Answer::Done))
}

impl Desk {
    /// Takes a part in, if this node leads in that term.
    pub(super) fn put_part(&self, from: Member, term: u64, part: NumberedPart) {
        self.put(term, |inbox| inbox.parts.push_back((from, Brought::Part(part))));
    }

    /// Takes letters of another shard in, if this node leads in that term.
    pub(super) fn put_letters(&self, from: Member, term: u64, letters: Letters) {
        self.put(term, |inbox| inbox.parts.push_back((from, Brought::Letters(letters))));
    }

    /// Letters of this shard have come.
    pub(super) fn posted(&self, numbers: Vec<u64>) {
        self.put_any(|inbox| inbox.posted.extend(numbers));
    }

    /// Letters of this shard may have been lost on their way.
    pub(super) fn post_again(&self) {
        self.put_any(|inbox| inbox.posts_again = true);
    }

    /// A connection wants its messages.
    pub(super) fn attach(&self, from: Member, term: u64, attach: Attach) {
        self.put(term, |inbox| inbox.attached.push((from, attach)));
    }

    /// A node wants to know something.
    pub(super) fn query(&self, from: Member, term: u64, query: Query) {
        self.put(term, |inbox| inbox.queries.push_back((from, query)));
    }

    /// The life of a member has ended.
    pub(super) fn member_ended(&self, member: Member) {
        self.put_any(|inbox| {
            inbox.joined.retain(|joined| *joined != member);
            inbox.queries.retain(|(from, _)| *from != member);
            inbox.ended.push(member);
        });
    }

    /// A member has begun a life.
    pub(super) fn member_joined(&self, member: Member) {
        self.put_any(|inbox| inbox.joined.push(member));
    }

    /// A will has been published.
    pub(super) fn will_done(&self, will: WillId) {
        self.put_any(|inbox| inbox.wills.push(will));
    }

    pub(super) fn put(&self, term: u64, put: impl FnOnce(&mut Inbox)) {
        let mut inbox = self.inbox.lock();
        if inbox.term == term {
            put(&mut inbox);
            drop(inbox);
            self.wake.notify_one();
        }
    }

    fn put_any(&self, put: impl FnOnce(&mut Inbox)) {
        let mut inbox = self.inbox.lock();
        if inbox.term != 0 {
            put(&mut inbox);
            drop(inbox);
            self.wake.notify_one();
        }
    }

    /// Whether this node leads, and takes what is brought.
    pub(super) fn is_open(&self) -> bool {
        self.inbox.lock().term != 0
    }

    pub(super) fn begin(&self, term: u64) {
        *self.inbox.lock() = Inbox { term, ..Inbox::default() };
    }
}
