//! What the clients of a node have there: the filters that they want.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use flotilla_mqtt::session::ClientId;
use flotilla_registry::Tenure;
use flotilla_state::{Fingerprint, RouteChange};

/// A client that is connected.
#[derive(Debug)]
struct Connection {
    tenure: Tenure,
    /// What it is subscribed to.
    filters: BTreeSet<String>,
}

/// The connections of a node, and what the cluster has yet to be told.
#[derive(Debug, Default)]
pub struct Desk {
    connections: BTreeMap<ClientId, Connection>,
    /// How many of them want each filter.
    wants: BTreeMap<String, usize>,
    changes: VecDeque<Change>,
}

#[derive(Debug)]
enum Change {
    Add(String),
    Remove(String),
    Up,
}

/// What goes into one entry, and what follows when it is committed.
#[derive(Debug, Default)]
pub struct Announcement {
    /// The changes.
    pub changes: Vec<RouteChange>,
    /// Everything of this life has been told then.
    pub is_whole: bool,
}

/// Whether a filter is one with wildcards.
pub fn has_wildcard(filter: &str) -> bool {
    filter.contains(['+', '#'])
}

impl Desk {
    /// Names the connection of a client.
    pub fn tenure(&self, client: &ClientId) -> Option<Tenure> {
        self.connections.get(client).map(|connection| connection.tenure)
    }

    /// The clients that are connected.
    pub fn connected(&self) -> Vec<ClientId> {
        self.connections.keys().cloned().collect()
    }

    /// The filters that somebody here wants.
    pub fn wanted(&self) -> BTreeSet<String> {
        self.wants.keys().cloned().collect()
    }

    /// Whether everything was told.
    pub fn is_quiet(&self) -> bool {
        self.changes.is_empty()
    }

    /// A client is connected here now, instead of the connection that it may have had.
    pub fn insert(&mut self, client: ClientId, tenure: Tenure) {
        self.remove(&client);
        self.connections.insert(client, Connection { tenure, filters: BTreeSet::new() });
    }

    /// The connection of a client ends; returns what named it.
    pub fn remove(&mut self, client: &ClientId) -> Option<Tenure> {
        let connection = self.connections.remove(client)?;
        connection.filters.iter().for_each(|filter| self.drop_want(filter));
        Some(connection.tenure)
    }

    /// A client subscribes, or unsubscribes if it is subscribed.
    pub fn toggle(&mut self, client: &ClientId, filter: &str) {
        let Some(connection) = self.connections.get_mut(client) else { return };
        if connection.filters.remove(filter) {
            self.drop_want(filter);
        } else {
            connection.filters.insert(filter.to_owned());
            self.want(filter);
        }
    }

    /// The node is no member any more: connections end. Returns those.
    pub fn fence(&mut self) -> Vec<(ClientId, Tenure)> {
        self.wants.clear();
        self.changes.clear();
        let ended = std::mem::take(&mut self.connections).into_iter();
        ended.map(|(client, connection)| (client, connection.tenure)).collect()
    }

    /// A new life begins, of which the cluster knows nothing yet.
    pub fn announce_all(&mut self) {
        self.changes = self.wants.keys().cloned().map(Change::Add).collect();
        self.changes.push_back(Change::Up);
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

/// Few, so that several announcements follow on each other.
const CHANGES_MAX: usize = 8;
