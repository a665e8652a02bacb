//! How exactly one cluster is founded, whatever the order in which its nodes boot.
//!
//! [`Bootstrap`] is pure: answers, requests and the time go in, [`Action`]s come out, to be carried out in their order.
//!
//! Nodes of no cluster tell each other of themselves (`Hello`). When enough of them are in sight, the lowest one draws a
//! cluster id, picks the founding members and asks each for a grant. With all grants it initialises its Raft group with them
//! as voters, and the group's leader creates the cluster once every founding member is confirmed.
//!
//! # Invariants
//!
//! - A node is bound to one [`Attempt`] at a time, and that is durable before anybody hears of it ([`Action::Keep`] comes
//!   before the answer). It is bound to an attempt of its own like to one of another node.
//! - A node is unbound only while it is pristine (its Raft state is empty), and only when the initiator has dropped the
//!   attempt itself, or when the initiator's name has another node id: its disk is lost, and the attempt with it. Both are
//!   believed only when they are said in answer to a question that was asked after the node was bound.
//! - An initiator never goes on with an attempt that it has dropped, and never drops one that it has initialised.
//! - A cluster is created only when every founding member holds the group's first entries, or comes under the same name with
//!   another id and is bound to the attempt. So a disk lost between the grant and the first entry does not make two
//!   clusters: two attempts share a name, and the node of that name is bound to one of them.
//! - Sets of founding members share a name as long as `expect` is more than half of the nodes that discovery knows, and the
//!   same on all of them. Both are checked. Nothing can be checked about a node whose disk is lost *after* the cluster was
//!   created with fewer nodes than discovery knows, while no member can be reached; so `expect` should be all core nodes.

mod decide;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
mod warning;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use flotilla_state::NodeId;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

pub(crate) use self::warning::Warning;
use crate::peers::ClusterId;

/// A node as it takes part in the founding. The order is by name, then by identifier.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Founder {
    pub(crate) name: String,
    pub(crate) id: NodeId,
}

/// An attempt to found a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// Drawn for this attempt alone, so it also names the attempt.
    pub(crate) cluster_id: ClusterId,
    pub(crate) initiator: Founder,
    /// The first voters, the initiator among them, in order.
    pub(crate) members: Vec<Founder>,
}

impl Attempt {
    fn has_name(&self, name: &str) -> bool {
        self.members.iter().any(|member| member.name == name)
    }
}

/// What a node has said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) node: Founder,
    pub(crate) core: bool,
    /// It knows of a cluster that has been created, and belongs to it.
    pub(crate) created: Option<ClusterId>,
    pub(crate) pristine: bool,
    pub(crate) attempt: Option<Attempt>,
}

/// Settings of the founding.
#[derive(Debug, Clone)]
pub(crate) struct BootstrapOptions {
    /// How many core nodes found the cluster.
    pub(crate) expect: usize,
    /// Edge nodes join and found nothing.
    pub(crate) core: bool,
    /// The pause between two rounds of `Hello`, and between two times of asking for the same grant.
    pub(crate) pause: Duration,
    /// How long an initiator waits for its grants before it drops the attempt.
    pub(crate) attempt_timeout: Duration,
}

/// What must be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Keeps the attempt that the node is bound to, durably, before anything after it is done.
    Keep(Option<Attempt>),
    Hello {
        round: u64,
        address: String,
    },
    Grant {
        address: String,
        to: NodeId,
        attempt: Attempt,
    },
    Release {
        address: String,
        to: NodeId,
        cluster_id: ClusterId,
    },
    /// Initialises the Raft group with the members as voters, and reports through [`Bootstrap::handle_raft`].
    Initialize(Attempt),
    /// Proposes the creation of the cluster.
    Create(ClusterId),
    /// Asks for admission to a cluster that exists. That the node belongs to it is kept before it is asked.
    Join {
        cluster_id: ClusterId,
        address: String,
    },
    /// Tells the operator.
    Warn(Warning),
}

/// The answer to a request for a grant. The [`Action::Keep`] that was put out with it comes first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GrantAnswer {
    pub(crate) granted: bool,
    /// What the node is bound to instead.
    pub(crate) bound_to: Option<Attempt>,
}

/// The founding as one node sees it.
#[derive(Debug)]
pub(crate) struct Bootstrap {
    options: BootstrapOptions,
    me: Founder,
    random: StdRng,
    /// The attempt that this node is bound to, and the round of `Hello` in which it was bound.
    bound: Option<(Attempt, u64)>,
    /// What the attempt of our own has reached.
    gathering: Gathering,
    raft: RaftView,
    created: Option<ClusterId>,
    /// The existing cluster that this node has decided to join. It founds no other one.
    belongs: Option<ClusterId>,
    addresses: Vec<String>,
    discovered: bool,
    round: u64,
    /// The addresses of the current round that have not answered or failed yet.
    awaited: BTreeSet<String>,
    rounds_completed: u64,
    next_round: Duration,
    /// Where this node itself has answered.
    own_addresses: BTreeSet<String>,
    /// The last answer from each address.
    sightings: BTreeMap<String, Sighting>,
    next_ask: Duration,
    next_create: Duration,
    next_join: Duration,
    /// No attempt of our own before this time.
    hold_off: Duration,
    /// More than one cluster was in sight: nothing is founded or joined until an operator has decided.
    several_clusters: bool,
    warned: Vec<Warning>,
    actions: VecDeque<Action>,
}

#[derive(Debug)]
struct Sighting {
    at: Duration,
    seen: Seen,
}

#[derive(Debug, Default)]
struct Gathering {
    since: Duration,
    granted: BTreeSet<NodeId>,
    /// The group is being initialised: the attempt cannot be dropped any more.
    initializing: bool,
    /// Names of founding members that came under another id and are bound to the attempt.
    replaced: BTreeSet<String>,
}

#[derive(Debug)]
struct RaftView {
    pristine: bool,
    leader: bool,
    matched: BTreeSet<NodeId>,
}

impl Bootstrap {
    /// Begins where `kept`, the attempt that the node was bound to, was left; `belongs` is the cluster that it had decided
    /// to join.
    pub(crate) fn new(
        options: BootstrapOptions,
        me: Founder,
        kept: Option<Attempt>,
        belongs: Option<ClusterId>,
        pristine: bool,
        seed: [u8; 32],
    ) -> Self {
        Self {
            options,
            me,
            random: StdRng::from_seed(seed),
            bound: kept.map(|attempt| (attempt, 0)),
            gathering: Gathering::default(),
            raft: RaftView { pristine, leader: false, matched: BTreeSet::new() },
            created: None,
            belongs,
            addresses: Vec::new(),
            discovered: false,
            round: 0,
            awaited: BTreeSet::new(),
            rounds_completed: 0,
            next_round: Duration::ZERO,
            own_addresses: BTreeSet::new(),
            sightings: BTreeMap::new(),
            next_ask: Duration::ZERO,
            next_create: Duration::ZERO,
            next_join: Duration::ZERO,
            hold_off: Duration::ZERO,
            several_clusters: false,
            warned: Vec::new(),
            actions: VecDeque::new(),
        }
    }

    /// The addresses that discovery finds; empty when none is configured.
    pub(crate) fn handle_discovered(&mut self, addresses: Vec<String>) {
        self.sightings.retain(|address, _| addresses.contains(address));
        self.own_addresses.retain(|address| addresses.contains(address));
        self.awaited.retain(|address| addresses.contains(address));
        self.addresses = addresses;
        self.discovered = true;
    }

    /// The cluster exists, and this node has that from its own state.
    pub(crate) fn handle_created(&mut self, cluster_id: ClusterId) {
        self.created = Some(cluster_id);
        self.actions.clear();
    }

    /// The state of the Raft group: whether it is empty, whether this node leads it, and which nodes are known to hold its
    /// first entries.
    pub(crate) fn handle_raft(&mut self, pristine: bool, leader: bool, matched: BTreeSet<NodeId>) {
        self.raft.leader = leader;
        self.raft.pristine &= pristine;
        self.raft.matched.extend(matched);
    }

    /// An answer to [`Action::Hello`].
    pub(crate) fn handle_hello(&mut self, now: Duration, round: u64, address: &str, seen: Seen) {
        self.answered(round, address);
        if seen.node.id == self.me.id {
            self.sightings.remove(address);
            self.own_addresses.insert(address.to_owned());
            return;
        }
        self.own_addresses.remove(address);
        if seen.node.name == self.me.name && seen.core {
            self.warn(Warning::SameName { name: seen.node.name.clone() });
            return;
        }
        self.learn_of_initiator(round, &seen);
        self.learn_of_member(now, &seen);
        if self.addresses.iter().any(|known| known == address) {
            self.sightings.insert(address.to_owned(), Sighting { at: now, seen });
        }
    }

    /// An address did not answer [`Action::Hello`].
    pub(crate) fn handle_hello_failed(&mut self, round: u64, address: &str) {
        self.answered(round, address);
    }

    /// Another node asks this one to be bound to its attempt.
    pub(crate) fn handle_grant_request(&mut self, now: Duration, attempt: Attempt) -> GrantAnswer {
        if let Some((bound, _)) = &self.bound
            && bound.cluster_id == attempt.cluster_id
        {
            return GrantAnswer { granted: true, bound_to: None };
        }
        let refused = |bound: &Option<(Attempt, u64)>| GrantAnswer {
            granted: false,
            bound_to: bound.as_ref().map(|(attempt, _)| attempt.clone()),
        };
        let settled = self.created.is_some() || self.belongs.is_some() || self.gathering.initializing;
        if settled || !self.raft.pristine || !self.options.core {
            return refused(&self.bound);
        }
        if attempt.members.len() != self.options.expect {
            self.warn(Warning::ExpectDiffers {
                initiator: attempt.initiator.name,
                theirs: attempt.members.len(),
                ours: self.options.expect,
            });
            return refused(&None);
        }
        if !attempt.has_name(&self.me.name) || attempt.initiator.name == self.me.name && self.own().is_some()
        {
            return refused(&self.bound);
        }
        match &self.bound {
            // Of two initiators the lower one goes on, so that they do not block each other for long.
            Some((bound, _)) if bound.initiator == self.me && attempt.initiator < self.me => {
                self.drop_own(now);
            }
            Some(_) => return refused(&self.bound),
            None => {}
        }
        self.bind(Some(attempt));
        GrantAnswer { granted: true, bound_to: None }
    }

    /// The answer to [`Action::Grant`].
    pub(crate) fn handle_grant_answer(
        &mut self,
        now: Duration,
        from: NodeId,
        cluster_id: ClusterId,
        answer: &GrantAnswer,
    ) {
        let Some((attempt, _)) = &self.bound else { return };
        if attempt.cluster_id != cluster_id {
            return;
        }
        if answer.granted {
            if attempt.members.iter().any(|member| member.id == from) {
                self.gathering.granted.insert(from);
            } else if let Some(sighting) =
                self.sightings.values().find(|sighting| sighting.seen.node.id == from)
                && attempt.has_name(&sighting.seen.node.name)
            {
                self.gathering.replaced.insert(sighting.seen.node.name.clone());
            }
        } else if self.own().is_some()
            && answer.bound_to.as_ref().is_some_and(|other| other.initiator < self.me)
        {
            self.drop_own(now);
        }
    }

    /// The initiator says that it has dropped the attempt.
    pub(crate) fn handle_release(&mut self, cluster_id: ClusterId) {
        if let Some((attempt, _)) = &self.bound
            && attempt.cluster_id == cluster_id
            && attempt.initiator != self.me
            && self.raft.pristine
        {
            self.bind(None);
        }
    }

    /// What is to be done next.
    pub(crate) fn poll(&mut self, now: Duration) -> Option<Action> {
        if self.actions.is_empty() && self.created.is_none() {
            self.decide(now);
        }
        self.actions.pop_front()
    }

    fn bind(&mut self, attempt: Option<Attempt>) {
        self.actions.push_back(Action::Keep(attempt.clone()));
        self.gathering = Gathering::default();
        self.bound = attempt.map(|attempt| (attempt, self.round));
    }

    fn answered(&mut self, round: u64, address: &str) {
        if round == self.round && self.awaited.remove(address) && self.awaited.is_empty() {
            self.rounds_completed += 1;
        }
    }

    fn warn(&mut self, warning: Warning) {
        if !self.warned.contains(&warning) && self.warned.len() < WARNINGS_MAX {
            self.warned.push(warning.clone());
            self.actions.push_back(Action::Warn(warning));
        }
    }

    fn draw(&mut self) -> ClusterId {
        ClusterId(self.random.random())
    }

    /// Between one and two times as long as an attempt may last.
    fn draw_hold_off(&mut self) -> Duration {
        self.options.attempt_timeout.mul_f64(1.0 + self.random.random::<f64>())
    }
}

/// Each warning is said once; more different ones than this are not said.
const WARNINGS_MAX: usize = 64;
