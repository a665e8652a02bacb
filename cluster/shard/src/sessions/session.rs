//! One session.

use std::sync::Arc;

use flotilla_mqtt::{
    Timestamp,
    session::{ClientId, QueueFull, SessionExpiry},
    topic::TopicFilter,
};
use flotilla_state::{ConnectionEpoch, Member};

use super::{Moment, Received, Subscriptions};
use crate::{
    GroupInfo, GroupMember, GroupStrategy, Open, OpenedSession, Overlap, Owner, QueueLimits, Seq, SessionId,
    SessionInfo, Will,
    groups::Group,
    inbox::{Inbox, Window},
};

/// A session; what most do not need is behind a pointer.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) client: ClientId,
    /// Of the last Open.
    pub(crate) epoch: ConnectionEpoch,
    /// The same.
    pub(crate) turn: u32,
    /// Where the client is connected.
    pub(crate) owner: Option<Arc<Member>>,
    pub(crate) expiry: SessionExpiry,
    /// When it ends, in milliseconds since the epoch; `None`: not while nothing happens.
    pub(crate) ends_at: Option<Moment>,
    /// Under which time it is among the deadlines.
    pub(crate) deadline: Option<Moment>,
    pub(crate) will: Option<Box<ArmedWill>>,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) received: Option<Box<Received>>,
    pub(crate) inbox: Option<Box<Inbox>>,
    /// The place of the next message.
    pub(crate) next_seq: u64,
    pub(crate) maybe_sent_until: u64,
    /// What is before it may be in flight, however small the window is.
    pub(crate) kept_until: u64,
    /// The number of the next PUBLISH of QoS 2 from the client.
    pub(crate) next_number: u64,
    pub(crate) limits: Arc<Limits>,
    /// Names the row of the next subscription.
    pub(crate) next_subscription: u32,
    /// What the last Open was answered.
    pub(crate) present: bool,
    /// Whether what comes may be in flight at once; not since a connection has said what it had sent.
    pub(crate) has_window: bool,
    /// Whether it is a group of a shared subscription, which no client has.
    pub(crate) is_group: bool,
    /// Whether it is in the list of those that a flush looks at.
    pub(crate) is_listed: bool,
    /// Whether its row must be written.
    pub(crate) is_dirty: bool,
    /// Whether the store has its row.
    pub(crate) is_stored: bool,
    /// Whether the leader has not been told yet that it got messages.
    pub(crate) is_fed: bool,
}

/// What the last Open allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) bytes_max: u64,
    pub(crate) messages_max: u32,
    pub(crate) window: u16,
    pub(crate) awaiting_rel_max: u16,
    pub(crate) full: QueueFull,
    pub(crate) overlap: Overlap,
    pub(crate) queue_qos0: bool,
    pub(crate) group_strategy: GroupStrategy,
}

/// A will that has not been published.
#[derive(Debug)]
pub(crate) struct ArmedWill {
    pub(crate) will: Will,
    /// When its delay is over; `None` while the client is connected.
    pub(crate) due: Option<Moment>,
}

impl Limits {
    pub(crate) fn of(open: &Open) -> Self {
        let QueueLimits { messages_max, bytes_max, full } = open.queue;
        Self {
            bytes_max,
            messages_max,
            window: open.window,
            awaiting_rel_max: open.awaiting_rel_max,
            full,
            overlap: open.overlap,
            queue_qos0: open.queue_qos0,
            group_strategy: open.group_strategy,
        }
    }

    /// Those of a group. Nothing of it is in flight but what is lent.
    pub(crate) fn of_group(member: &GroupMember) -> Self {
        let QueueLimits { messages_max, bytes_max, full } = member.queue;
        Self {
            bytes_max,
            messages_max,
            window: 0,
            awaiting_rel_max: 0,
            full,
            overlap: Overlap::Merge,
            queue_qos0: false,
            group_strategy: member.strategy,
        }
    }

    /// Whether a queue without anything has room for a message of this size.
    pub(crate) const fn may_hold(&self, size: u64) -> bool {
        self.messages_max > 0 && size <= self.bytes_max
    }
}

impl Session {
    /// A session without anything, whose client is away.
    pub(crate) fn new(id: SessionId, client: ClientId, limits: Limits) -> Self {
        Self {
            is_group: client.as_str().starts_with(GROUP),
            id,
            client,
            epoch: ConnectionEpoch::default(),
            turn: 0,
            owner: None,
            expiry: SessionExpiry::Never,
            ends_at: None,
            deadline: None,
            will: None,
            subscriptions: Subscriptions::default(),
            received: None,
            inbox: None,
            next_seq: 1,
            maybe_sent_until: 1,
            kept_until: 1,
            next_number: 1,
            limits: Arc::new(limits),
            next_subscription: 0,
            present: false,
            has_window: true,
            is_listed: false,
            is_dirty: false,
            is_stored: false,
            is_fed: false,
        }
    }

    pub(crate) fn owner(&self) -> Option<Owner> {
        let member = **self.owner.as_ref()?;
        Some(Owner { member, epoch: self.epoch, turn: self.turn })
    }

    /// That of the connection that was the last to open it.
    pub(crate) const fn rank(&self) -> (ConnectionEpoch, u32) {
        (self.epoch, self.turn)
    }

    /// The first place that is not done, or that of the next message.
    pub(crate) fn head(&self) -> u64 {
        self.inbox.as_ref().and_then(|inbox| inbox.head()).unwrap_or(self.next_seq)
    }

    /// Whether messages of QoS 0 are kept now.
    pub(crate) fn keeps_qos0(&self) -> bool {
        self.owner.is_none() && self.limits.queue_qos0
    }

    /// Which places may be in flight.
    pub(crate) fn window(&self) -> Window {
        let places = if self.has_window { self.limits.window } else { 0 };
        Window { places, kept_until: self.kept_until }
    }

    /// The inbox must know of another window.
    pub(crate) fn set_inbox_window(&mut self) {
        let window = self.window();
        if let Some(inbox) = &mut self.inbox {
            inbox.set_window(window);
        }
    }

    /// The first place that is not in the window.
    pub(crate) fn window_end(&self) -> u64 {
        self.inbox.as_ref().and_then(|inbox| inbox.window_end()).unwrap_or(self.next_seq)
    }

    /// The lowest number of a PUBLISH of QoS 2 that is not released.
    pub(crate) fn floor(&self) -> u64 {
        self.received.as_ref().and_then(|received| received.floor()).unwrap_or(self.next_number)
    }

    /// When something is due if nothing happens before.
    pub(crate) fn next_deadline(&self) -> Option<Moment> {
        let due = self.will.as_ref().and_then(|will| will.due);
        match (due, self.ends_at) {
            (Some(due), Some(ends_at)) => Some(due.min(ends_at)),
            (due, ends_at) => due.or(ends_at),
        }
    }

    pub(crate) fn opened(&self) -> OpenedSession {
        OpenedSession {
            id: self.id,
            subscriptions: self.subscriptions.iter().map(|kept| kept.to_subscription()).collect(),
            received: self.received.as_ref().map_or_else(Vec::new, |received| received.list().to_vec()),
            next_number: self.next_number,
            floor: self.floor(),
            head: Seq(self.head()),
            maybe_sent_until: Seq(self.maybe_sent_until),
        }
    }

    /// The whole text of the shared subscription, if it is a group.
    pub(crate) fn group(&self) -> Option<&str> {
        self.client.as_str().strip_prefix(GROUP)
    }

    pub(crate) fn info(&self) -> SessionInfo {
        SessionInfo {
            id: self.id,
            client: self.client.clone(),
            owner: self.owner(),
            expiry: self.expiry,
            ends_at: self.ends_at.map(|at| Timestamp::from(at).as_millis()),
            messages: self.inbox.as_ref().map_or(0, |inbox| inbox.live()),
            bytes: self.inbox.as_ref().map_or(0, |inbox| inbox.bytes()),
            subscriptions: self.subscriptions.len(),
            has_will: self.will.is_some(),
        }
    }

    pub(crate) fn group_info(&self, group: &Group) -> Option<GroupInfo> {
        let (online, away) = group.presence();
        Some(GroupInfo {
            group: self.group()?.into(),
            online,
            away,
            messages: self.inbox.as_ref().map_or(0, |inbox| inbox.live()),
            bytes: self.inbox.as_ref().map_or(0, |inbox| inbox.bytes()),
            loans: group.lent().len(),
        })
    }

    pub(crate) fn check_invariants(&self) {
        assert_eq!(self.deadline, self.next_deadline());
        assert!(self.owner.is_none() || self.deadline.is_none(), "who is connected does not end by itself");
        assert!(self.owner.is_some() || self.expiry != SessionExpiry::AtDisconnect);
        assert!(self.is_listed || !self.is_dirty);
        assert!(self.maybe_sent_until <= self.next_seq && self.kept_until <= self.next_seq);
        assert!(self.has_window || self.owner.is_none(), "who is connected has a window");
        assert_eq!(self.is_group, self.group().is_some());
        assert!(
            !self.is_group
                || self.owner.is_none() && self.window().places == 0 && self.subscriptions.len() == 0
        );
        if let Some(inbox) = &self.inbox {
            inbox.check_invariants();
            assert_eq!(inbox.window(), self.window());
            assert!(inbox.end() <= self.next_seq);
        }
        if let Some(received) = &self.received {
            assert!(received.len() > 0);
            assert!(received.list().iter().all(|taken| taken.number < self.next_number));
            assert!(received.list().is_sorted_by(|left, right| left.number < right.number));
            assert!(received.list().iter().all(|taken| received.number(taken.id) == Some(taken.number)));
        }
    }
}

/// The client identifier under which the messages of a group are kept; `None`: it is not the text of a shared subscription.
pub(crate) fn group_client(text: &str) -> Option<ClientId> {
    let is_group = TopicFilter::parse(text, u16::MAX).is_ok_and(|filter| filter.is_shared());
    is_group.then(|| ClientId::new(&[GROUP, text].concat())).flatten()
}

/// What the identifiers of groups begin with. No client has U+0000 in its own [MQTT-1.5.4-2].
pub(crate) const GROUP: &str = "\0";
