//! What a leader and an operator may ask.

use std::sync::Arc;

use flotilla_mqtt::{Message, Timestamp, session::ClientId};
use flotilla_state::ShardId;

use super::Shard;
use crate::{Changes, Owner, Seq, SessionId, SessionInfo, Stats, WillId, sessions::Session};

impl Shard {
    /// Whether changes are collected for [`Shard::take_changes`]; not at first. A new leader watches, and then asks for
    /// [`Shard::for_each_filter`], [`Shard::firing_wills`] and [`Shard::sessions`] to know what was before.
    pub fn watch(&mut self, is_watched: bool) {
        self.state.is_watched = is_watched;
        let Changes { fed, .. } = std::mem::take(&mut self.state.changes);
        self.set_fed(&fed);
    }

    /// What has changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        let changes = std::mem::take(&mut self.state.changes);
        self.set_fed(&changes.fed);
        changes
    }

    /// The leader has been told that these got messages.
    fn set_fed(&mut self, fed: &[SessionId]) {
        for id in fed {
            if let Some(slot) = self.state.sessions.of_id(*id) {
                self.state.sessions.at_mut(slot).is_fed = false;
            }
        }
    }

    /// Visits each filter that nodes need a route for, as in [`Changes::filters`], in no particular order.
    pub fn for_each_filter(&self, visit: impl FnMut(&str)) {
        self.state.index.for_each_routed(visit);
    }

    /// Wills that are to be published and are not known to be, with the time at which they expire in milliseconds since the
    /// epoch.
    #[must_use]
    pub fn firing_wills(&self) -> Vec<(WillId, Arc<Message>)> {
        self.state.firing.iter().map(|(id, message)| (*id, Arc::clone(message))).collect()
    }

    /// The first will that is to be published: none before it comes again.
    #[must_use]
    pub fn first_firing_will(&self) -> Option<WillId> {
        self.state.firing.keys().next().copied()
    }

    /// When the next [`Op::Tick`](crate::Op::Tick) has something to do, in milliseconds since the epoch; `None`: never.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        let retained = self.state.retained.next_deadline();
        let of_sessions = self.state.deadlines.first().map(|(at, _)| *at);
        of_sessions.into_iter().chain(retained).min().map(Timestamp::as_millis)
    }

    /// The stamp of the last entry, in milliseconds since the epoch; 0: there was none.
    #[must_use]
    pub const fn stamp(&self) -> u64 {
        self.state.stamp.as_millis()
    }

    /// Where the client of a session is connected; `None`: nowhere, or there is no such session.
    #[must_use]
    pub fn owner(&self, session: SessionId) -> Option<Owner> {
        self.state.sessions.at(self.state.sessions.of_id(session)?).owner()
    }

    /// The session of a client.
    #[must_use]
    pub fn session_of(&self, client: &ClientId) -> Option<SessionId> {
        Some(self.client_session(client)?.id)
    }

    /// No group.
    fn client_session(&self, client: &ClientId) -> Option<&Session> {
        let session = self.state.sessions.at(self.state.sessions.of_client(client)?);
        (!session.is_group).then_some(session)
    }

    /// The connection that was the last to open the session of a client, also when it has ended: what
    /// [`Op::End`](crate::Op::End) must name.
    #[must_use]
    pub fn last_connection(&self, client: &ClientId) -> Option<crate::Connection> {
        let session = self.client_session(client)?;
        let (epoch, turn) = session.rank();
        Some(crate::Connection { client: session.client.clone(), epoch, turn })
    }

    /// The first place of an inbox that is not done, and the place of the next message.
    #[must_use]
    pub fn bounds(&self, session: SessionId) -> Option<(Seq, Seq)> {
        let session = self.state.sessions.at(self.state.sessions.of_id(session)?);
        Some((Seq(session.head()), Seq(session.next_seq)))
    }

    /// What an operator may know of a session.
    #[must_use]
    pub fn session(&self, session: SessionId) -> Option<SessionInfo> {
        let session = self.state.sessions.at(self.state.sessions.of_id(session)?);
        (!session.is_group).then(|| session.info())
    }

    /// The sessions of the clients behind `after`, in order; at most `count_max`.
    #[must_use]
    pub fn sessions(&self, after: Option<&ClientId>, count_max: usize) -> Vec<SessionInfo> {
        self.state.sessions.after_client(after).take(count_max).map(|session| session.info()).collect()
    }

    /// The publishers behind `after` whose messages of QoS 2 are told from repetitions, in order; at most `count_max`.
    #[must_use]
    pub fn publishers(
        &self,
        after: Option<(ShardId, SessionId)>,
        count_max: usize,
    ) -> Vec<(ShardId, SessionId)> {
        self.state.publishers.after(after).take(count_max).collect()
    }

    /// Figures; it takes no time to ask for them.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.state.stats()
    }
}
