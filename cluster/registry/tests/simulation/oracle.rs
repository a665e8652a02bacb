//! What must have happened.

use std::collections::BTreeMap;

use flotilla_mqtt::session::ClientId;
use flotilla_state::Member;

/// How long after an event a node may die so that nobody can tell whether the others have heard of it.
const GRACE: u64 = 1_500;

/// Watches sessions and wills.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    sessions: BTreeMap<ClientId, Persistent>,
    wills: BTreeMap<u64, Will>,
    placed: Vec<u64>,
    withdrawn: Vec<(u64, ClientId, Member)>,
}

#[derive(Debug)]
struct Persistent {
    token: u64,
    owner: Member,
    /// Its owner has ended: it may be gone.
    may_be_lost: bool,
}

#[derive(Debug)]
struct Will {
    client: ClientId,
    owner: Member,
    delay: u64,
    /// Its connection or its delay goes on.
    is_active: bool,
    /// When its owner ended while it was active.
    orphaned_at: Option<u64>,
    /// The client has come back since.
    is_decided: bool,
    /// When it came back within the delay, and how often the will had been published by then.
    void_at: Option<(u64, u32)>,
    /// Since when it is due, or has been dropped.
    closed_at: Option<u64>,
    published: u32,
    min: u32,
    max: u32,
}

impl Oracle {
    pub(crate) fn session_begins(&mut self, client: &ClientId, token: u64, owner: Member) {
        self.sessions.insert(client.clone(), Persistent { token, owner, may_be_lost: false });
    }

    pub(crate) fn session_ends(&mut self, client: &ClientId, token: u64) {
        if self.sessions.get(client).is_some_and(|session| session.token == token) {
            self.sessions.remove(client);
        }
    }

    /// The client starts clean.
    pub(crate) fn session_discarded(&mut self, client: &ClientId) {
        self.sessions.remove(client);
    }

    /// Taken back. If the new owner had it for a moment before it ended, the registrar may have given the client away.
    pub(crate) fn session_returns(&mut self, client: &ClientId, token: u64, owner: Member) {
        let before = self.sessions.get(client);
        if before.is_some_and(|session| session.token != token && !session.may_be_lost) {
            // The client has begun a new one: this one will be discarded.
            return;
        }
        let before = before.is_none_or(|session| session.may_be_lost);
        self.session_moves(client, token, owner);
        if let Some(session) = self.sessions.get_mut(client) {
            session.may_be_lost = before;
        }
    }

    /// Imported.
    pub(crate) fn session_moves(&mut self, client: &ClientId, token: u64, owner: Member) {
        match self.sessions.get_mut(client) {
            Some(session) if session.token == token => {
                session.owner = owner;
                session.may_be_lost = false;
            }
            Some(session) => {
                // A copy of an older session came back. The newer one must have been lost with its owner.
                assert!(session.may_be_lost, "an old session of {client} came back over {session:?}");
                self.session_begins(client, token, owner);
            }
            None => self.session_begins(client, token, owner),
        }
    }

    /// A client begins anew although it did not ask to.
    pub(crate) fn session_missing(&mut self, client: &ClientId) {
        if let Some(session) = self.sessions.remove(client) {
            assert!(session.may_be_lost, "the session of {client} is lost: {session:?}");
        }
    }

    /// Registrars change.
    pub(crate) fn placed(&mut self, now: u64) {
        self.placed.push(now);
    }

    pub(crate) fn will_begins(&mut self, no: u64, client: &ClientId, owner: Member, delay: u64) {
        let will = Will {
            client: client.clone(),
            owner,
            delay,
            is_active: true,
            orphaned_at: None,
            is_decided: false,
            void_at: None,
            closed_at: None,
            published: 0,
            min: 0,
            max: 0,
        };
        self.wills.insert(no, will);
    }

    /// Its owner publishes it.
    pub(crate) fn will_published_by_owner(&mut self, now: u64, no: u64) {
        self.will_dropped(now, no);
        let will = self.wills.get_mut(&no).expect("it has begun");
        (will.min, will.max) = (1, 1);
        will.published += 1;
    }

    pub(crate) fn will_dropped(&mut self, now: u64, no: u64) {
        let will = self.wills.get_mut(&no).expect("it has begun");
        will.is_active = false;
        will.closed_at = Some(now);
    }

    /// A registrar publishes it. It may be the will of a CONNECT that its client does not know to be granted.
    pub(crate) fn will_published(&mut self, no: u64) {
        if let Some(will) = self.wills.get_mut(&no) {
            will.published += 1;
        }
    }

    pub(crate) fn member_ended(&mut self, now: u64, member: Member) {
        for session in self.sessions.values_mut() {
            session.may_be_lost |= session.owner == member;
        }
        for will in self.wills.values_mut().filter(|will| will.owner == member) {
            if will.is_active {
                will.is_active = false;
                will.orphaned_at = Some(now);
                let is_replaced = self.withdrawn.iter().any(|(at, client, owner)| {
                    at + GRACE > now && *client == will.client && *owner == will.owner
                });
                (will.min, will.max) = (u32::from(!is_replaced), 1);
            } else if will.closed_at.is_some_and(|at| at + GRACE > now) {
                will.max += 1;
            }
        }
    }

    /// A CONNECT with a will came to nothing: until its keepers hear of that, it is in the place of an older one.
    pub(crate) fn will_withdrawn(&mut self, now: u64, client: &ClientId, owner: Member) {
        self.withdrawn.push((now, client.clone(), owner));
    }

    pub(crate) fn claimed(&mut self, now: u64, client: &ClientId, clean: bool) {
        for will in self.wills.values_mut().filter(|will| will.client == *client) {
            if let Some(at) = will.orphaned_at
                && will.delay > 0
                && !will.is_decided
                && now < at + will.delay + GRACE * 3
            {
                will.is_decided = true;
                if clean {
                    // The session ends, and the will goes out.
                    continue;
                }
                will.min = 0;
                if now + GRACE < at + will.delay {
                    will.void_at = Some((now, will.published));
                }
            }
        }
    }

    /// All delays are over.
    pub(crate) fn check_wills(&self) {
        for (no, will) in &self.wills {
            if let Some((at, published)) = will.void_at {
                // A registrar that takes office just then may not learn of a client that comes and goes.
                let is_calm = self.placed.iter().all(|placed| placed.abs_diff(at) > GRACE);
                assert!(
                    will.published <= published || !is_calm,
                    "will {no} was published although its client was back: {will:?}"
                );
            }
            assert!(
                (will.min..=will.max).contains(&will.published),
                "will {no} was published {} times: {will:?}",
                will.published
            );
        }
    }
}
