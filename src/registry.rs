//! Where each client's session lives on this node.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
};

use flotilla_mqtt::session::ClientId;
use parking_lot::Mutex;

use crate::router::SessionRef;

/// Client identifier to session. A session stays on the worker that made it: when its client connects elsewhere meanwhile,
/// the new connection moves to that worker, so two CONNECTs with one identifier always meet on one thread and need no lock.
#[derive(Debug)]
pub(crate) struct Registry {
    parts: Box<[Mutex<HashMap<ClientId, SessionRef>>]>,
    hasher: RandomState,
}

/// Where a connection must go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Home {
    /// To this session, which exists.
    Existing(SessionRef),
    /// To the session that was offered, which the registry knows from now on.
    Offered,
}

const PARTS: usize = 64;

impl Registry {
    pub(crate) fn new() -> Self {
        Self { parts: (0..PARTS).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }

    /// The session of `client_id`, or `offer` if it has none.
    pub(crate) fn find_or_insert(&self, client_id: &ClientId, offer: SessionRef) -> Home {
        let mut part = self.part(client_id).lock();
        match part.get(client_id) {
            Some(&session) => Home::Existing(session),
            None => {
                part.insert(client_id.clone(), offer);
                Home::Offered
            }
        }
    }

    /// The session of `client_id`.
    pub(crate) fn find(&self, client_id: &ClientId) -> Option<SessionRef> {
        self.part(client_id).lock().get(client_id).copied()
    }

    /// Forgets a session; one that has taken its place stays.
    pub(crate) fn remove(&self, client_id: &ClientId, session: SessionRef) {
        let mut part = self.part(client_id).lock();
        if part.get(client_id) == Some(&session) {
            part.remove(client_id);
        }
    }

    fn part(&self, client_id: &ClientId) -> &Mutex<HashMap<ClientId, SessionRef>> {
        let index = self.hasher.hash_one(client_id) % PARTS as u64;
        &self.parts[usize::try_from(index).expect("less than 64")]
    }
}
