//! The state, and what commands do to it.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::{
    Cluster, Command, DecodeError, Effects, Event, Incarnation, Invalid, LogIndex, Member, NewStatus, Node,
    NodeId, Placement, Reply, Role, RouteChange, Routes, Settings, ShardId, ShardRing, Shards, Status, Why,
    limits, placement, shards::Told,
};

/// What all nodes of a cluster agree on: its nodes, which of them hold which shard, who wants what, and what operators
/// have set.
///
/// Equal logs give equal states, equal effects and equal snapshots.
#[derive(Debug)]
pub struct ClusterState {
    pub(crate) applied: LogIndex,
    pub(crate) cluster: Option<Cluster>,
    ring: ShardRing,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    /// By shard.
    pub(crate) placements: Vec<Placement>,
    /// The nodes that hold the shards, in their order: those that the placements were made for.
    holders: Vec<NodeId>,
    pub(crate) routes: Routes,
    pub(crate) shards: Shards,
    pub(crate) settings: Settings,
}

impl ClusterState {
    /// The state before the first command.
    pub fn new() -> Self {
        Self {
            applied: LogIndex::default(),
            cluster: None,
            ring: ShardRing::new(1),
            nodes: BTreeMap::new(),
            placements: Vec::new(),
            holders: Vec::new(),
            routes: Routes::new(0),
            shards: Shards::new(0, 0),
            settings: Settings::default(),
        }
    }

    /// Applies a committed entry of the log.
    ///
    /// # Panics
    /// An entry with this index, or a later one, has been applied: the caller has lost its place in the log.
    pub fn apply(&mut self, index: LogIndex, command: Command) -> Effects {
        assert!(index > self.applied, "entry {index:?} comes behind entry {:?}", self.applied);
        self.applied = index;
        let mut events = Vec::new();
        let reply = match self.execute(index, command, &mut events) {
            Ok(reply) => reply,
            Err(refusal) => {
                debug_assert!(events.is_empty(), "what is refused changes nothing");
                refusal
            }
        };
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
        Effects { reply, events }
    }

    /// The index of the last entry that was applied.
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// The cluster; `None` before it is created.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// A node, whatever its status.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(&id)
    }

    /// All nodes, whatever their status, in the order of their identifiers.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// A node in its present life; `None` when it is down, or unknown.
    pub fn member(&self, id: NodeId) -> Option<Member> {
        self.nodes.get(&id).and_then(Node::member)
    }

    /// Whether this life has begun and has not ended.
    pub fn is_live(&self, member: Member) -> bool {
        self.member(member.node) == Some(member)
    }

    /// Whether this life is over. A state that is behind knows nothing of a life that has begun since, and does not say so of it.
    pub fn has_ended(&self, member: Member) -> bool {
        !self.is_live(member) && member.incarnation.0 <= self.applied.0
    }

    /// Who holds each shard, by shard; empty before the cluster is created.
    pub fn placements(&self) -> &[Placement] {
        &self.placements
    }

    /// Who holds a shard; `None` when there is no such shard.
    pub fn placement(&self, shard: ShardId) -> Option<&Placement> {
        self.placements.get(usize::from(shard.0))
    }

    /// The shard of a client identifier or of a topic; shard 0 before the cluster is created.
    pub fn shard_of(&self, key: &[u8]) -> ShardId {
        self.ring.shard_of(key)
    }

    /// Who wants what.
    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    /// The replicas of the shards, and what their sessions want.
    pub fn shards(&self) -> &Shards {
        &self.shards
    }

    /// What operators have set.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Checks what must hold between commands. The routes are checked a part at a time: the cost has a bound that does not
    /// depend on their number.
    ///
    /// # Panics
    /// Something does not hold.
    pub fn check_invariants(&self) {
        let Some(cluster) = &self.cluster else {
            assert!(self.nodes.is_empty() && self.placements.is_empty());
            assert!(self.routes.is_empty() && self.shards.is_empty() && self.settings.is_empty());
            return;
        };
        assert!(self.nodes.len() <= limits::NODES_MAX);
        let mut names: Vec<_> = self.nodes.values().map(|node| &node.name).collect();
        names.sort_unstable();
        assert!(names.is_sorted_by(|left, right| left < right), "two nodes have the same name");
        for (id, node) in &self.nodes {
            assert_eq!(*id, node.id);
            assert!(node.incarnation.0 <= node.changed_at.0 && node.changed_at <= self.applied);
        }
        assert_eq!(self.placements.len(), usize::from(cluster.shards));
        assert_eq!(self.holders, self.eligible_holders());
        assert!(self.placements.iter().all(|placement| placement.epoch.0 <= self.applied.0));
        placement::check_invariants(&self.placements, &self.holders, cluster.replicas);
        self.routes.check_invariants(self.applied.0, |node| self.member(node).is_some());
        self.shards.check_invariants(cluster.replicas, self.applied.0);
        assert!(self.shards.holders.iter().all(|node| self.nodes.contains_key(node)));
        self.settings.check_invariants();
    }

    /// Puts a state together from what a snapshot holds.
    ///
    /// # Errors
    /// It does not fit together.
    pub(crate) fn from_parts(
        applied: LogIndex,
        cluster: Option<Cluster>,
        nodes: BTreeMap<NodeId, Node>,
        placements: Vec<Placement>,
        routes: Routes,
        shards: Shards,
        settings: Settings,
    ) -> Result<Self, DecodeError> {
        let count = match &cluster {
            Some(cluster) => {
                check_cluster(cluster).map_err(|_| DecodeError::Field("cluster"))?;
                cluster.shards
            }
            None if nodes.is_empty() && routes.is_empty() && shards.is_empty() && settings.is_empty() => 0,
            None => return Err(DecodeError::Field("cluster")),
        };
        if placements.len() != usize::from(count) || shards.shards.len() != usize::from(count) {
            return Err(DecodeError::Field("placements"));
        }
        shards.check()?;
        if !shards.holders.iter().all(|node| nodes.contains_key(node)) {
            return Err(DecodeError::Field("shards"));
        }
        let is_valid = |node: &Node| check_node(node).is_ok() && node.changed_at <= applied;
        if nodes.len() > limits::NODES_MAX || !nodes.values().all(is_valid) {
            return Err(DecodeError::Field("node"));
        }
        let ring = ShardRing::new(count);
        let holders = Vec::new();
        let mut state = Self { applied, cluster, ring, nodes, placements, holders, routes, shards, settings };
        state.holders = state.eligible_holders();
        let is_holder = |node| state.holders.binary_search(node).is_ok();
        if !state.placements.iter().flat_map(|placement| &placement.nodes).all(is_holder) {
            return Err(DecodeError::Field("placements"));
        }
        if !state.routes.nodes().all(|node| state.member(node).is_some()) {
            return Err(DecodeError::Field("routes"));
        }
        if cfg!(debug_assertions) {
            state.check_invariants();
        }
        Ok(state)
    }

    fn execute(
        &mut self,
        index: LogIndex,
        command: Command,
        events: &mut Vec<Event>,
    ) -> Result<Reply, Reply> {
        if let Command::Create { cluster_id, name, shards, replicas, hash_seed } = command {
            let cluster = Cluster { id: cluster_id, name, shards, replicas, hash_seed };
            return self.create(cluster, events);
        }
        if self.cluster.is_none() {
            return Err(Reply::NotCreated);
        }
        match command {
            Command::Create { .. } => unreachable!("it is handled above"),
            Command::Join { id, name, role, address, client_addresses, version } => {
                let node = Node {
                    id,
                    name,
                    role,
                    status: Status::Joining,
                    incarnation: Incarnation(index.0),
                    address,
                    client_addresses,
                    version,
                    changed_at: index,
                };
                self.join(node, events)
            }
            Command::SetStatus { member, status } => self.set_status(index, member, status, events),
            Command::NodeDown { member } => {
                self.live_node(member)?;
                self.end(member, Why::Down, events);
                let node = self.live_node(member)?;
                node.status = Status::Down;
                node.changed_at = index;
                self.place(events);
                Ok(Reply::Done)
            }
            Command::Leave { member } => {
                self.live_node(member)?;
                self.remove(member.node, Why::Left, events);
                self.place(events);
                Ok(Reply::Done)
            }
            Command::Remove { node } => {
                self.nodes.get(&node).ok_or(Reply::UnknownNode)?;
                self.remove(node, Why::Removed, events);
                self.place(events);
                Ok(Reply::Done)
            }
            Command::Routes { member, changes } => self.change_routes(member, changes, events),
            Command::FoundShards => {
                events.extend(self.shards.found().into_iter().map(Event::ShardChanged));
                Ok(Reply::Done)
            }
            Command::Shard { shard, term, change } => {
                events.extend(self.shards.change(shard, term, change, index)?.map(|told| match told {
                    Told::Members => Event::ShardChanged(shard),
                    Told::Routes(changed) => {
                        Event::ShardRoutesChanged { shard, exact: changed.exact, wildcard: changed.wildcard }
                    }
                }));
                Ok(Reply::Done)
            }
            Command::Evacuate { member } => {
                self.live_node(member)?;
                self.remove_holder(member.node, events);
                Ok(Reply::Done)
            }
            Command::Recover { cluster_id, survivor, shards } => {
                self.recover(cluster_id, survivor, &shards, events)
            }
            Command::SetSetting { key, value } => {
                if self.settings.set(&key, value)? {
                    events.push(Event::SettingChanged(key));
                }
                Ok(Reply::Done)
            }
        }
    }

    fn create(&mut self, cluster: Cluster, events: &mut Vec<Event>) -> Result<Reply, Reply> {
        if self.cluster.is_some() {
            return Err(Reply::AlreadyCreated);
        }
        check_cluster(&cluster).map_err(Reply::Invalid)?;
        self.ring = ShardRing::new(cluster.shards);
        self.placements = vec![Placement::default(); usize::from(cluster.shards)];
        self.routes = Routes::new(cluster.hash_seed);
        self.shards = Shards::new(cluster.shards, cluster.hash_seed);
        self.cluster = Some(cluster);
        events.push(Event::Created);
        Ok(Reply::Done)
    }

    fn recover(
        &mut self,
        cluster_id: u128,
        survivor: NodeId,
        shards: &[ShardId],
        events: &mut Vec<Event>,
    ) -> Result<Reply, Reply> {
        let node = self.nodes.get(&survivor).ok_or(Reply::UnknownNode)?;
        check(node.role == Role::Core, Invalid::Members).map_err(Reply::Invalid)?;
        let others: Vec<NodeId> = self.nodes.keys().copied().filter(|node| *node != survivor).collect();
        for other in others {
            self.remove(other, Why::Removed, events);
        }
        self.place(events);
        // It may have been about to leave.
        self.shards.add_holder(survivor, self.replicas(), self.applied);
        let silenced = self.shards.recover(survivor, shards, self.applied).into_iter();
        events.extend(silenced.map(|shard| Event::ShardRoutesChanged {
            shard,
            exact: Vec::new(),
            wildcard: true,
        }));
        events.extend(self.shards.iter().map(|(shard, _)| Event::ShardChanged(shard)));
        if let Some(cluster) = &mut self.cluster {
            cluster.id = cluster_id;
        }
        events.push(Event::Created);
        Ok(Reply::Done)
    }

    fn join(&mut self, node: Node, events: &mut Vec<Event>) -> Result<Reply, Reply> {
        check_node(&node).map_err(Reply::Invalid)?;
        let mut replaced = None;
        match self.nodes.get(&node.id) {
            Some(known) if known.name != node.name => return Err(Reply::OtherName),
            Some(_) => {}
            None => {
                replaced = self.nodes.values().find(|other| other.name == node.name);
                if replaced.is_some_and(|replaced| replaced.status.is_live()) {
                    return Err(Reply::NameTaken);
                }
                if replaced.is_none() && self.nodes.len() >= limits::NODES_MAX {
                    return Err(Reply::TooManyNodes);
                }
            }
        }
        if let Some(replaced) = replaced.map(|replaced| replaced.id) {
            self.remove(replaced, Why::Removed, events);
        }
        if let Some(before) = self.member(node.id) {
            self.end(before, Why::Rejoined, events);
        }
        let member = node.last_member();
        self.nodes.insert(node.id, node);
        events.push(Event::MemberJoined(member));
        self.place(events);
        Ok(Reply::Joined(member))
    }

    fn set_status(
        &mut self,
        index: LogIndex,
        member: Member,
        status: NewStatus,
        events: &mut Vec<Event>,
    ) -> Result<Reply, Reply> {
        let status = match status {
            NewStatus::Up => Status::Up,
            NewStatus::Draining => Status::Draining,
        };
        let node = self.live_node(member)?;
        if node.status != status {
            node.status = status;
            node.changed_at = index;
            let is_core = node.role == Role::Core;
            events.push(Event::StatusChanged(member, status));
            self.place(events);
            if is_core && status == Status::Up {
                let moved = self.shards.add_holder(member.node, self.replicas(), index);
                events.extend(moved.into_iter().map(Event::ShardChanged));
            }
        }
        Ok(Reply::Done)
    }

    fn change_routes(
        &mut self,
        member: Member,
        changes: Vec<RouteChange>,
        events: &mut Vec<Event>,
    ) -> Result<Reply, Reply> {
        self.live_node(member)?;
        if changes.len() > limits::CHANGES_MAX {
            return Err(Reply::Invalid(Invalid::Changes));
        }
        changes.iter().try_for_each(Routes::check).map_err(Reply::Invalid)?;
        let changed = self.routes.apply(member.node, changes);
        if !changed.exact.is_empty() || changed.wildcard || changed.groups {
            events.push(Event::RoutesChanged {
                member,
                exact: changed.exact,
                wildcard: changed.wildcard,
                groups: changed.groups,
            });
        }
        Ok(Reply::Done)
    }

    /// The node of a life that has not ended.
    fn live_node(&mut self, member: Member) -> Result<&mut Node, Reply> {
        let node = self.nodes.get_mut(&member.node);
        node.filter(|node| node.member() == Some(member)).ok_or(Reply::Stale)
    }

    /// Ends a life. The caller gives the node another status, or another life, or removes it.
    fn end(&mut self, member: Member, why: Why, events: &mut Vec<Event>) {
        events.push(Event::MemberEnded(member, why));
        if self.routes.remove_node(member.node) {
            events.push(Event::RoutesReset(member));
        }
    }

    fn remove(&mut self, node: NodeId, why: Why, events: &mut Vec<Event>) {
        if let Some(member) = self.member(node) {
            self.end(member, why, events);
        }
        self.nodes.remove(&node);
        events.push(Event::NodeRemoved(node));
        self.remove_holder(node, events);
    }

    /// A node shall hold no replicas of shards any more.
    fn remove_holder(&mut self, node: NodeId, events: &mut Vec<Event>) {
        let moved = self.shards.remove_holder(node, self.replicas(), self.applied);
        events.extend(moved.into_iter().map(Event::ShardChanged));
    }

    fn replicas(&self) -> u8 {
        self.cluster.as_ref().map_or(0, |cluster| cluster.replicas)
    }

    /// Gives the shards to nodes anew when other ones may hold them now.
    fn place(&mut self, events: &mut Vec<Event>) {
        let Some(cluster) = &self.cluster else { return };
        let holders = self.eligible_holders();
        if holders != self.holders {
            let changed = placement::place(&mut self.placements, &holders, cluster.replicas, self.applied);
            self.holders = holders;
            events.extend(changed.into_iter().map(Event::Placed));
        }
    }

    /// The core nodes that are up; when there is none, those that are draining: they serve until another one does.
    fn eligible_holders(&self) -> Vec<NodeId> {
        let with_status = |status| {
            let nodes = self.nodes.values();
            nodes
                .filter(|node| node.role == Role::Core && node.status == status)
                .map(|node| node.id)
                .collect()
        };
        let up: Vec<NodeId> = with_status(Status::Up);
        if up.is_empty() { with_status(Status::Draining) } else { up }
    }
}

impl Default for ClusterState {
    fn default() -> Self {
        Self::new()
    }
}

fn check_cluster(cluster: &Cluster) -> Result<(), Invalid> {
    check(is_name(&cluster.name), Invalid::Name)?;
    check((1..=limits::SHARDS_MAX).contains(&cluster.shards), Invalid::Shards)?;
    check((1..=limits::REPLICAS_MAX).contains(&cluster.replicas), Invalid::Replicas)
}

fn check_node(node: &Node) -> Result<(), Invalid> {
    let is_address = |address: &str| (1..=limits::ADDRESS_BYTES_MAX).contains(&address.len());
    check(is_name(&node.name), Invalid::Name)?;
    check(is_address(&node.address), Invalid::Address)?;
    check(node.client_addresses.len() <= limits::CLIENT_ADDRESSES_MAX, Invalid::ClientAddresses)?;
    check(node.client_addresses.iter().all(|address| is_address(address)), Invalid::Address)?;
    check(node.version.len() <= limits::VERSION_BYTES_MAX, Invalid::Version)
}

fn is_name(name: &str) -> bool {
    (1..=limits::NAME_BYTES_MAX).contains(&name.len())
}

fn check(holds: bool, invalid: Invalid) -> Result<(), Invalid> {
    if holds { Ok(()) } else { Err(invalid) }
}
