//! Shared subscriptions: a group of sessions, one of which gets each message.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use flotilla_mqtt::{QoS, topic::TopicFilter};
use parking_lot::RwLock;

use super::{PickHint, SessionRef, Subscriber};
use crate::config::SharedStrategy;

/// The sessions that share one subscription, `$share/<group>/<filter>`, and are connected.
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
    /// As [`Load::is_kept`].
    is_kept: bool,
    load: Arc<Load>,
}

/// What the groups that a session is a member of must know of it; shared by them and the worker that owns it.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// Whether a shard keeps the session.
    is_kept: bool,
    /// Messages in flight and queued.
    pending: AtomicU32,
}

impl Load {
    /// That of a session that has nothing yet.
    pub(crate) fn new(is_kept: bool) -> Self {
        Self { is_kept, pending: AtomicU32::new(0) }
    }

    /// So many messages are in flight and queued.
    pub(crate) fn set_pending(&self, pending: usize) {
        self.pending.store(u32::try_from(pending).unwrap_or(u32::MAX), Ordering::Relaxed);
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

/// How many connected members a group has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Members {
    /// Those whose session ends with the connection.
    pub(crate) online: u32,
    /// Those whose session is kept by a shard.
    pub(crate) kept: u32,
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
        let member = Member { subscriber, is_kept: load.is_kept, load: Arc::clone(load) };
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

    /// Picks the member for one message: of QoS 0 any, else one whose session ends with the connection, for the others get it
    /// from the group's shard.
    pub(crate) fn pick(&self, hint: &PickHint<'_>) -> Option<Picked> {
        let members = self.members.read();
        let may_have = |member: &&Member| {
            Some(member.subscriber.session) != hint.exclude
                && (hint.qos == QoS::AtMostOnce || !member.is_kept)
        };
        let chosen = self.choose(hint, || members.iter().filter(may_have))?;
        Some(Picked { subscriber: chosen.subscriber, filter: Arc::clone(&self.filter), tried: 0 })
    }

    /// How many members there are.
    pub(crate) fn members(&self) -> Members {
        let members = self.members.read();
        let kept = members.iter().filter(|member| member.is_kept).count();
        let count = |members: usize| u32::try_from(members).unwrap_or(u32::MAX);
        Members { online: count(members.len() - kept), kept: count(kept) }
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
        let nth =
            |number: u64| candidates().nth(usize::try_from(number % count as u64).expect("less than count"));
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
