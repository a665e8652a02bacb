//! What a node of no cluster does next.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Action, Attempt, Bootstrap, Founder, Seen, Warning};
use crate::peers::ClusterId;

impl Bootstrap {
    /// Puts out what is due at `now`.
    pub(super) fn decide(&mut self, now: Duration) {
        self.begin_round(now);
        if let Some((cluster_id, address)) = self.existing_cluster(now) {
            self.join(now, cluster_id, address);
        } else if !self.options.core || self.belongs.is_some() || self.several_clusters {
            // An edge node, or one that knows where it belongs, waits for its cluster.
        } else if !self.raft.pristine {
            self.complete(now);
        } else if self.own().is_some() {
            self.gather(now);
        } else if self.bound.is_none() {
            self.initiate(now);
        }
    }

    /// The attempt of our own, when that is what we are bound to.
    pub(super) fn own(&self) -> Option<&Attempt> {
        self.bound.as_ref().map(|(attempt, _)| attempt).filter(|attempt| attempt.initiator == self.me)
    }

    /// Drops the attempt of our own and tells the others. Not to be called after its initialisation.
    pub(super) fn drop_own(&mut self, now: Duration) {
        let Some(attempt) = self.own().cloned() else { return };
        debug_assert!(self.raft.pristine && !self.gathering.initializing, "it could still succeed");
        self.hold_off = now + self.draw_hold_off();
        self.bind(None);
        for (address, sighting) in &self.sightings {
            if attempt.members.contains(&sighting.seen.node) {
                self.actions.push_back(Action::Release {
                    address: address.clone(),
                    to: sighting.seen.node.id,
                    cluster_id: attempt.cluster_id,
                });
            }
        }
    }

    /// Unbinds this node when `seen` shows that the initiator has not got the attempt any more.
    pub(super) fn learn_of_initiator(&mut self, round: u64, seen: &Seen) {
        let Some((attempt, bound_in)) = &self.bound else { return };
        let asked_since = round > *bound_in;
        let has_it = seen.attempt.as_ref().is_some_and(|theirs| theirs.cluster_id == attempt.cluster_id);
        if asked_since
            && !has_it
            && self.raft.pristine
            && attempt.initiator != self.me
            && attempt.initiator.name == seen.node.name
        {
            self.bind(None);
        }
    }

    /// Drops the attempt of our own when a founding member turns out to have lost its disk.
    pub(super) fn learn_of_member(&mut self, now: Duration, seen: &Seen) {
        let lost = self.own().is_some_and(|attempt| {
            attempt.members.iter().any(|member| member.name == seen.node.name && member.id != seen.node.id)
        });
        if lost && self.raft.pristine && !self.gathering.initializing {
            self.drop_own(now);
        }
    }

    fn begin_round(&mut self, now: Duration) {
        if now < self.next_round || !self.discovered {
            return;
        }
        self.next_round = now + self.options.pause;
        // A slow address does not hold up a round for ever: what has not answered by the next one counts as failed.
        if !self.awaited.is_empty() {
            self.rounds_completed += 1;
        }
        self.round += 1;
        self.awaited = self.addresses.iter().cloned().collect();
        if self.awaited.is_empty() {
            self.rounds_completed += 1;
        }
        for address in &self.addresses {
            self.actions.push_back(Action::Hello { round: self.round, address: address.clone() });
        }
    }

    /// What was said lately, by address.
    fn fresh(&self, now: Duration) -> impl Iterator<Item = (&String, &Seen)> {
        let for_long = self.options.pause * FRESH_ROUNDS;
        self.sightings
            .iter()
            .filter(move |(_, sighting)| sighting.at + for_long > now)
            .map(|(address, sighting)| (address, &sighting.seen))
    }

    fn existing_cluster(&mut self, now: Duration) -> Option<(ClusterId, String)> {
        let mut found: Option<(ClusterId, String)> = None;
        let mut other = None;
        for (address, seen) in self.fresh(now) {
            match (seen.created, &found) {
                (Some(created), _) if self.belongs.is_some_and(|belongs| belongs != created) => {}
                (Some(created), None) => found = Some((created, address.clone())),
                (Some(created), Some((first, _))) if created != *first => other = Some((*first, created)),
                _ => {}
            }
        }
        self.several_clusters = other.is_some();
        if let Some((first, second)) = other {
            self.warn(Warning::TwoClusters { first, second });
            return None;
        }
        found
    }

    fn join(&mut self, now: Duration, cluster_id: ClusterId, address: String) {
        if !self.raft.pristine || self.gathering.initializing {
            let attempt = self.bound.as_ref().map(|(attempt, _)| attempt.cluster_id);
            if let Some(attempt) = attempt.filter(|attempt| *attempt != cluster_id) {
                self.warn(Warning::AttemptLost { attempt });
                return;
            }
        }
        if self.own().is_some_and(|own| own.cluster_id != cluster_id) {
            self.drop_own(now);
        }
        // Bound to another's attempt, this node may join all the same: that attempt is not created without it.
        if self.raft.pristine
            && self.bound.as_ref().is_some_and(|(attempt, _)| attempt.cluster_id != cluster_id)
        {
            self.bind(None);
        }
        self.belongs = Some(cluster_id);
        if now >= self.next_join {
            self.next_join = now + self.options.pause;
            self.actions.push_back(Action::Join { cluster_id, address });
        }
    }

    /// How many nodes the addresses may lead to: several addresses of one node, as with IPv4 and IPv6, count once.
    fn nodes_found(&self) -> usize {
        let nodes: BTreeSet<_> = self.sightings.values().map(|sighting| sighting.seen.node.id).collect();
        let unknown = self.addresses.len() - self.sightings.len() - self.own_addresses.len();
        unknown + nodes.len() + usize::from(!self.own_addresses.is_empty())
    }

    /// Founds a cluster when enough free nodes are in sight and this is the lowest of them.
    fn initiate(&mut self, now: Duration) {
        if self.rounds_completed == 0 || now < self.hold_off {
            return;
        }
        let (expect, found) = (self.options.expect, self.nodes_found());
        if expect * 2 <= found {
            self.warn(Warning::ExpectTooSmall { expect, found });
            return;
        }
        let mut free: BTreeMap<String, Founder> = BTreeMap::new();
        for (_, seen) in self.fresh(now) {
            if seen.core && seen.pristine && seen.attempt.is_none() && seen.node.name != self.me.name {
                free.insert(seen.node.name.clone(), seen.node.clone());
            }
        }
        if free.len() + 1 < expect || free.values().any(|node| *node < self.me) {
            return;
        }
        let others = free.into_values().take(expect - 1);
        let members: Vec<Founder> = std::iter::once(self.me.clone()).chain(others).collect();
        let attempt = Attempt { cluster_id: self.draw(), initiator: self.me.clone(), members };
        self.bind(Some(attempt));
        self.gathering.since = now;
        self.next_ask = now;
        self.gather(now);
    }

    /// Asks for the grants of our own attempt; with all of them the group is initialised.
    fn gather(&mut self, now: Duration) {
        let Some(attempt) = self.own().cloned() else { return };
        if self.gathering.initializing {
            return;
        }
        let lacks = |member: &&Founder| **member != self.me && !self.gathering.granted.contains(&member.id);
        let lacking: Vec<&Founder> = attempt.members.iter().filter(lacks).collect();
        if lacking.is_empty() {
            self.gathering.initializing = true;
            self.actions.push_back(Action::Initialize(attempt));
            return;
        }
        if self.gathering.since == Duration::ZERO {
            // Taken up again after a restart.
            self.gathering.since = now;
        }
        if now >= self.gathering.since + self.options.attempt_timeout {
            self.drop_own(now);
        } else if now >= self.next_ask {
            self.next_ask = now + self.options.pause;
            for (address, sighting) in &self.sightings {
                if lacking.contains(&&sighting.seen.node) {
                    self.actions.push_back(Action::Grant {
                        address: address.clone(),
                        to: sighting.seen.node.id,
                        attempt: attempt.clone(),
                    });
                }
            }
        }
    }

    /// The group is initialised: sees to it that every founding member is bound, and creates the cluster then.
    fn complete(&mut self, now: Duration) {
        let Some((attempt, _)) = self.bound.clone() else { return };
        if now >= self.next_ask {
            self.next_ask = now + self.options.pause;
            self.ask_the_unbound(&attempt);
        }
        let confirmed = |member: &Founder| {
            *member == self.me
                || self.raft.matched.contains(&member.id)
                || self.gathering.replaced.contains(&member.name)
        };
        if self.raft.leader && now >= self.next_create && attempt.members.iter().all(confirmed) {
            self.next_create = now + self.options.pause;
            self.actions.push_back(Action::Create(attempt.cluster_id));
        }
    }

    /// Asks founding members that are not bound any more, or never were because they come without their disk.
    fn ask_the_unbound(&mut self, attempt: &Attempt) {
        let mut replaced = 0;
        for (address, sighting) in &self.sightings {
            let seen = &sighting.seen;
            if !attempt.has_name(&seen.node.name) {
                continue;
            }
            replaced += usize::from(!attempt.members.contains(&seen.node));
            let has_it = seen.attempt.as_ref().is_some_and(|theirs| theirs.cluster_id == attempt.cluster_id);
            if !has_it || !attempt.members.contains(&seen.node) {
                self.actions.push_back(Action::Grant {
                    address: address.clone(),
                    to: seen.node.id,
                    attempt: attempt.clone(),
                });
            }
        }
        if (attempt.members.len() - replaced) * 2 <= attempt.members.len() {
            self.warn(Warning::AttemptLost { attempt: attempt.cluster_id });
        }
    }
}

/// An answer counts for so many rounds.
const FRESH_ROUNDS: u32 = 4;
