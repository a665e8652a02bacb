//! Shared subscriptions: a group of sessions, one of which gets each message.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use flotilla_mqtt::topic::TopicFilter;
use parking_lot::RwLock;

use super::{PickHint, SessionRef, Subscriber};
use crate::config::SharedStrategy;

/// The sessions that share one subscription, `$share/<group>/<filter>`.
#[derive(Debug)]
pub(crate) struct Group {
    filter: Arc<TopicFilter>,
    strategy: SharedStrategy,
    members: RwLock<Vec<Member>>,
    /// Counts picks, for `round_robin`; names the favourite, for `sticky`.
    cursor: AtomicU64,
}

#[derive(Debug)]
struct Member {
    subscriber: Subscriber,
    load: Arc<Load>,
}

/// How busy a session is; shared by the worker that owns it and the groups that it is a member of.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// Messages in flight and queued; [`Load::AWAY`] while the client is not connected.
    pending: AtomicU32,
}

impl Load {
    const AWAY: u32 = u32::MAX;

    /// A connected client with this many messages in flight and queued.
    pub(crate) fn set_pending(&self, pending: usize) {
        let pending = u32::try_from(pending).map_or(Self::AWAY - 1, |pending| pending.min(Self::AWAY - 1));
        self.pending.store(pending, Ordering::Relaxed);
    }

    /// The client is away.
    pub(crate) fn set_away(&self) {
        self.pending.store(Self::AWAY, Ordering::Relaxed);
    }

    fn is_away(&self) -> bool {
        self.pending.load(Ordering::Relaxed) == Self::AWAY
    }
}

/// The member that a message goes to.
#[derive(Debug, Clone)]
pub(crate) struct Picked {
    pub(crate) subscriber: Subscriber,
    pub(crate) filter: Arc<TopicFilter>,
    /// Members that have been tried before this one, on whatever worker.
    pub(crate) tried: u8,
}

/// How many members a group has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Members {
    /// Those whose client is connected.
    pub(crate) online: u32,
    /// Those whose session waits for its client.
    pub(crate) away: u32,
}

impl Group {
    pub(super) fn new(filter: Arc<TopicFilter>, strategy: SharedStrategy) -> Self {
        Self { filter, strategy, members: RwLock::default(), cursor: AtomicU64::new(0) }
    }

    pub(crate) fn filter(&self) -> &TopicFilter {
        &self.filter
    }

    pub(super) fn join(&self, subscriber: Subscriber, load: &Arc<Load>) {
        let mut members = self.members.write();
        let member = Member { subscriber, load: Arc::clone(load) };
        match members.iter_mut().find(|old| old.subscriber.session == subscriber.session) {
            Some(old) => *old = member,
            None => members.push(member),
        }
    }

    /// Returns whether nobody is left.
    pub(super) fn leave(&self, session: SessionRef) -> bool {
        let mut members = self.members.write();
        // The order stays, so that round robin goes on fairly.
        members.retain(|member| member.subscriber.session != session);
        members.is_empty()
    }

    /// Picks the member for one message: one that is connected, or else one whose session keeps it for later.
    pub(crate) fn pick(&self, hint: &PickHint<'_>) -> Option<Picked> {
        let members = self.members.read();
        let connected = |member: &&Member| !member.load.is_away();
        let allowed = |member: &&Member| Some(member.subscriber.session) != hint.exclude;
        let present = || members.iter().filter(connected).filter(allowed);
        let chosen =
            self.choose(hint, present).or_else(|| self.choose(hint, || members.iter().filter(allowed)))?;
        Some(Picked { subscriber: chosen.subscriber, filter: Arc::clone(&self.filter), tried: 0 })
    }

    /// How many members there are.
    pub(crate) fn members(&self) -> Members {
        let members = self.members.read();
        let away = members.iter().filter(|member| member.load.is_away()).count();
        let count = |members: usize| u32::try_from(members).unwrap_or(u32::MAX);
        Members { online: count(members.len() - away), away: count(away) }
    }

    fn choose<'m, I: Iterator<Item = &'m Member>>(
        &self,
        hint: &PickHint<'_>,
        candidates: impl Fn() -> I,
    ) -> Option<&'m Member> {
        let count = candidates().count();
        if count == 0 {
            return None;
        }
        let nth = |number: u64| {
            let position = usize::try_from(number % count as u64).expect("less than count");
            // A client may go while this looks: then there are fewer than were counted.
            candidates().nth(position).or_else(|| candidates().next())
        };
        match self.strategy {
            SharedStrategy::RoundRobin => nth(self.cursor.fetch_add(1, Ordering::Relaxed)),
            SharedStrategy::Random => nth(hint.random),
            SharedStrategy::HashClientid => nth(stable_hash(&hint.publisher)),
            SharedStrategy::HashTopic => nth(stable_hash(&hint.topic)),
            SharedStrategy::LeastInflight => candidates().min_by_key(|member| {
                (
                    member.load.pending.load(Ordering::Relaxed),
                    stable_hash(&(hint.random, member.subscriber.session)),
                )
            }),
            SharedStrategy::Sticky => {
                let favourite = self.cursor.load(Ordering::Relaxed);
                let key = |member: &Member| stable_hash(&member.subscriber.session);
                let chosen =
                    candidates().find(|member| key(member) == favourite).or_else(|| nth(hint.random))?;
                self.cursor.store(key(chosen), Ordering::Relaxed);
                Some(chosen)
            }
        }
    }
}

/// The same on every node and in every run.
pub(super) fn stable_hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
