//! What the clients of a node have there: their sessions, and the filters that these want.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use flotilla_mqtt::session::ClientId;
use flotilla_registry::Tenure;
use flotilla_state::{ConnectionEpoch, Fingerprint, RouteChange};

/// A session.
#[derive(Debug, Clone)]
pub struct Session {
    /// Names the connection, or the last one.
    pub tenure: Tenure,
    /// Whether it has a connection.
    pub is_connected: bool,
    /// Whether it outlives its connection.
    pub is_persistent: bool,
    /// What it is subscribed to.
    pub filters: BTreeSet<String>,
}

/// A session that has moved, or is about to: what it wants still comes here for a while.
#[derive(Debug)]
pub struct Stub {
    /// The session, until the new owner has it.
    pub copy: Option<Session>,
    filters: BTreeSet<String>,
}

/// The sessions of a node, and what the cluster has yet to be told.
#[derive(Debug, Default)]
pub struct Desk {
    sessions: BTreeMap<ClientId, Session>,
    stubs: BTreeMap<(ClientId, ConnectionEpoch), Stub>,
    /// How many sessions and stubs want each filter.
    wants: BTreeMap<String, usize>,
    changes: VecDeque<Change>,
}

#[derive(Debug)]
enum Change {
    Add(String),
    Remove(String),
    Settle(ClientId, ConnectionEpoch),
    Up,
}

/// What goes into one entry, and what follows when it is committed.
#[derive(Debug, Default)]
pub struct Announcement {
    /// The changes.
    pub changes: Vec<RouteChange>,
    /// Sessions that were imported, whose routes are in force then.
    pub settled: Vec<(ClientId, ConnectionEpoch)>,
    /// Everything of this life has been told then.
    pub is_whole: bool,
}

/// Whether a filter is one with wildcards.
pub fn has_wildcard(filter: &str) -> bool {
    filter.contains(['+', '#'])
}

impl Desk {
    /// The session of a client.
    pub fn session(&self, client: &ClientId) -> Option<&Session> {
        self.sessions.get(client)
    }

    /// The clients that are connected.
    pub fn connected(&self) -> Vec<ClientId> {
        self.sessions
            .iter()
            .filter(|(_, session)| session.is_connected)
            .map(|(client, _)| client.clone())
            .collect()
    }

    /// The clients that have a session and no connection.
    pub fn away(&self) -> Vec<ClientId> {
        self.sessions
            .iter()
            .filter(|(_, session)| !session.is_connected)
            .map(|(client, _)| client.clone())
            .collect()
    }

    /// The filters that somebody here wants.
    pub fn wanted(&self) -> BTreeSet<String> {
        self.wants.keys().cloned().collect()
    }

    /// Whether everything was told, and no session is on its way.
    pub fn is_quiet(&self) -> bool {
        self.changes.is_empty() && self.stubs.is_empty()
    }

    /// A client has a session here now.
    pub fn insert(&mut self, client: ClientId, session: Session) {
        session.filters.iter().for_each(|filter| self.want(filter));
        if let Some(before) = self.sessions.insert(client, session) {
            before.filters.iter().for_each(|filter| self.drop_want(filter));
        }
    }

    /// The session of a client ends here.
    pub fn remove(&mut self, client: &ClientId) -> Option<Session> {
        let session = self.sessions.remove(client)?;
        session.filters.iter().for_each(|filter| self.drop_want(filter));
        Some(session)
    }

    /// The connection of a client ends, and its session stays.
    pub fn disconnect(&mut self, client: &ClientId) {
        if let Some(session) = self.sessions.get_mut(client) {
            session.is_connected = false;
        }
    }

    /// A client subscribes, or unsubscribes if it is subscribed.
    pub fn toggle(&mut self, client: &ClientId, filter: &str) {
        let Some(session) = self.sessions.get_mut(client) else { return };
        if session.filters.remove(filter) {
            self.drop_want(filter);
        } else {
            session.filters.insert(filter.to_owned());
            self.want(filter);
        }
    }

    /// The session moves elsewhere under `epoch`, unless it is discarded or ends with its connection. Returns its bytes.
    pub fn export(
        &mut self,
        client: &ClientId,
        epoch: ConnectionEpoch,
        discard: bool,
    ) -> Option<(Session, Option<Bytes>)> {
        let session = self.sessions.remove(client)?;
        if discard || !session.is_persistent {
            session.filters.iter().for_each(|filter| self.drop_want(filter));
            return Some((session, None));
        }
        let copy = Session { is_connected: false, ..session.clone() };
        let bytes = session.filters.iter().cloned().collect::<Vec<_>>().join("\n");
        let stub = Stub { copy: Some(copy), filters: session.filters.clone() };
        self.stubs.insert((client.clone(), epoch), stub);
        Some((session, Some(bytes.into())))
    }

    /// The session that was exported under `epoch` is here again. What it wants is what the stub wanted.
    pub fn take_back(&mut self, client: ClientId, epoch: ConnectionEpoch) -> Result<(), &'static str> {
        let stub = self.stubs.remove(&(client.clone(), epoch)).ok_or("there is no stub")?;
        let copy = stub.copy.ok_or("the copy is gone")?;
        if self.sessions.insert(client, copy).is_some() {
            return Err("there is another session");
        }
        Ok(())
    }

    /// The new owner has the session.
    pub fn taken(&mut self, client: ClientId, epoch: ConnectionEpoch) {
        if let Some(stub) = self.stubs.get_mut(&(client, epoch)) {
            stub.copy = None;
        }
    }

    /// Nothing comes here for that session any more.
    pub fn end_stub(&mut self, client: ClientId, epoch: ConnectionEpoch) {
        if let Some(stub) = self.stubs.remove(&(client, epoch)) {
            stub.filters.iter().for_each(|filter| self.drop_want(filter));
        }
    }

    /// The node is no member any more: connections end, with the sessions that end with them, and stubs. Returns those.
    pub fn fence(&mut self) -> Vec<(ClientId, Session)> {
        self.changes.clear();
        let stubs: Vec<_> = self.stubs.keys().cloned().collect();
        stubs.into_iter().for_each(|(client, epoch)| self.end_stub(client, epoch));
        self.sessions.values_mut().for_each(|session| session.is_connected = false);
        let ending = self.sessions.iter().filter(|(_, session)| !session.is_persistent);
        let ending: Vec<ClientId> = ending.map(|(client, _)| client.clone()).collect();
        let ended = ending.into_iter().filter_map(|client| {
            let session = self.remove(&client)?;
            Some((client, session))
        });
        let ended = ended.collect();
        self.changes.clear();
        ended
    }

    /// A new life begins, of which the cluster knows nothing yet.
    pub fn announce_all(&mut self) {
        self.changes = self.wants.keys().cloned().map(Change::Add).collect();
        self.changes.push_back(Change::Up);
    }

    /// The routes of an imported session are in force when what has been queued so far is committed.
    pub fn settle(&mut self, client: ClientId, epoch: ConnectionEpoch) {
        self.changes.push_back(Change::Settle(client, epoch));
    }

    /// Takes what the cluster is to be told next.
    pub fn next_announcement(&mut self, fingerprint: impl Fn(&str) -> Fingerprint) -> Option<Announcement> {
        let mut announcement = Announcement::default();
        let count = self.changes.len().min(CHANGES_MAX);
        for change in self.changes.drain(..count) {
            match change {
                Change::Add(filter) if has_wildcard(&filter) => {
                    announcement.changes.push(RouteChange::AddWildcard(filter.into()));
                }
                Change::Add(filter) => announcement.changes.push(RouteChange::AddExact(fingerprint(&filter))),
                Change::Remove(filter) if has_wildcard(&filter) => {
                    announcement.changes.push(RouteChange::RemoveWildcard(filter.into()));
                }
                Change::Remove(filter) => {
                    announcement.changes.push(RouteChange::RemoveExact(fingerprint(&filter)));
                }
                Change::Settle(client, epoch) => announcement.settled.push((client, epoch)),
                Change::Up => announcement.is_whole = true,
            }
        }
        (count > 0).then_some(announcement)
    }

    fn want(&mut self, filter: &str) {
        let count = self.wants.entry(filter.to_owned()).or_default();
        *count += 1;
        if *count == 1 {
            self.changes.push_back(Change::Add(filter.to_owned()));
        }
    }

    fn drop_want(&mut self, filter: &str) {
        let Some(count) = self.wants.get_mut(filter) else { return };
        *count -= 1;
        if *count == 0 {
            self.wants.remove(filter);
            self.changes.push_back(Change::Remove(filter.to_owned()));
        }
    }
}

/// Reads the filters of an exported session.
pub fn filters_of(session: &Bytes) -> BTreeSet<String> {
    let text = String::from_utf8_lossy(session);
    text.split('\n').filter(|filter| !filter.is_empty()).map(str::to_owned).collect()
}

/// Few, so that several announcements follow on each other.
const CHANGES_MAX: usize = 8;
