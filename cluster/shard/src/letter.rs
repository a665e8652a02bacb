//! What one shard tells another.

use std::sync::Arc;

use flotilla_state::ShardId;

use crate::{QueueLimits, SessionId, StoredMessage};

/// One thing that a shard tells another, exactly once: it is state of the shard that tells it until that knows that the other
/// one has it ([`Op::Posted`](crate::Op::Posted)), and has a number, so that it counts once however often it comes. Those from
/// one shard to another must come in the order of their numbers.
#[derive(Debug, Clone, PartialEq)]
pub enum Letter {
    /// A session shares a subscription, or what was said of it has changed.
    Member(GroupMember),
    /// It does not any more.
    Leave {
        /// The whole text of the shared subscription.
        group: Arc<str>,
        /// The session, of the shard that tells it.
        session: SessionId,
    },
    /// A member of a group is to deliver a message. The number of the letter names the loan.
    Lend {
        /// The member.
        session: SessionId,
        /// The whole text of the shared subscription.
        group: Arc<str>,
        /// The message, with its QoS and its RETAIN flag as published.
        message: StoredMessage,
    },
    /// A loan is over.
    Return {
        /// The number of the [`Letter::Lend`].
        loan: u64,
        /// What became of the message.
        fate: LoanFate,
    },
}

/// A member of a group, as its shard knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMember {
    /// The whole text of the shared subscription.
    pub group: Arc<str>,
    /// The session, of the shard that tells it.
    pub session: SessionId,
    /// How many messages it may have borrowed.
    pub window: u16,
    /// What the queue of the group may hold, as this member sees it; the last word counts.
    pub queue: QueueLimits,
    /// Who gets the next message, as this member sees it; the same.
    pub strategy: GroupStrategy,
    /// Whether its client is connected.
    pub is_online: bool,
}

/// What became of a message that was lent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoanFate {
    /// It needs no delivery any more.
    Done,
    /// It was not delivered: another member may get it.
    Back,
}

/// Which member of a group gets a message. One without room is passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GroupStrategy {
    /// In turn.
    #[default]
    RoundRobin,
    /// Any: the same on all replicas.
    Random,
    /// The same for all messages of a publisher.
    HashClientid,
    /// The same for all messages of a topic.
    HashTopic,
    /// The same until its client goes.
    Sticky,
    /// The one that has borrowed the fewest.
    LeastInflight,
}

/// Whom a letter is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum To {
    /// The shard of this group: the one that the whole text of the shared subscription belongs to.
    Group(Arc<str>),
    /// A shard.
    Shard(ShardId),
}

/// A letter on its way.
#[derive(Debug, Clone, PartialEq)]
pub struct Outbound {
    /// Its number; never that of another letter of the shard.
    pub number: u64,
    /// Whom it is for.
    pub to: To,
    /// What it says.
    pub letter: Letter,
}

/// A group of a shared subscription, as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupInfo {
    /// The whole text of the shared subscription.
    pub group: Arc<str>,
    /// Members whose clients are connected.
    pub online: usize,
    /// Members whose clients are away.
    pub away: usize,
    /// Messages that no member has acknowledged, lent or not.
    pub messages: u64,
    /// Their topics, properties and payloads together, in bytes.
    pub bytes: u64,
    /// How many of them are lent.
    pub loans: usize,
}
