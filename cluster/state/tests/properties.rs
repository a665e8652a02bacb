//! The state against a naive model, and replicas against each other.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use flotilla_mqtt::topic::{TopicFilter, matches};
use flotilla_state::{
    ClusterState, Command, Effects, Event, GroupMembers, GroupRoute, Incarnation, Invalid, LogIndex, Member,
    NewStatus, NodeId, Reply, Role, RouteChange, RouteCount, ShardChange, ShardId, Status,
};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Op {
    Join { node: u64, name: u64, role: Role },
    SetStatus { node: u64, life: Life, status: NewStatus },
    NodeDown { node: u64, life: Life },
    Leave { node: u64, life: Life },
    Remove { node: u64 },
    Routes { node: u64, life: Life, changes: Vec<Change> },
    SetSetting { key: &'static str, value: Option<u8> },
    FoundShards,
    Evacuate { node: u64, life: Life },
    ShardRoutes { shard: u16, term: u64, number: u64, changes: Vec<Change> },
}

/// Which life of a node is meant.
#[derive(Debug, Clone, Copy)]
enum Life {
    Last,
    Wrong,
}

#[derive(Debug, Clone)]
enum Change {
    AddExact(&'static str),
    RemoveExact(&'static str),
    AddWildcard(&'static str),
    RemoveWildcard(&'static str),
    SetGroup(&'static str, u32, u32),
}

const TOPICS: [&str; 7] = ["a", "a/b", "a/c", "b/c", "$SYS/a", "/", "a/b/c"];
const WILDCARDS: [&str; 7] = ["#", "a/+", "a/#", "+/c", "$SYS/#", "+", "+/+/c"];
const GROUPS: [&str; 7] =
    ["$share/g/a/b", "$share/h/a/b", "$share/g/a/#", "$queue/#", "$queue/a", "$share/h/+/c", "$share/g/#"];
const KEYS: [&str; 5] = ["a", "a/b", "a/c", "b", "no key"];
const HASH_SEED: u64 = 77;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn state_agrees_with_a_naive_model(ops in prop::collection::vec(op(), 0..60)) {
        let (mut state, mut model, mut caches) = (created(), Model::default(), Caches::default());
        for (index, op) in (2..).map(LogIndex).zip(ops) {
            let (command, reply) = model.run(index, op);
            let effects = state.apply(index, command);
            prop_assert_eq!(effects.reply, reply);
            if !matches!(reply, Reply::Done | Reply::Joined(_)) {
                prop_assert_eq!(&effects.events, &[]);
            }
            model.check(&state);
            caches.check(&effects, &state);
        }
    }

    #[test]
    fn replicas_are_equal(ops in prop::collection::vec(op(), 0..60), cut in 0..60_usize) {
        let (mut state, mut replica, mut model) = (created(), created(), Model::default());
        for (number, op) in ops.into_iter().enumerate() {
            let index = LogIndex(2 + number as u64);
            if number == cut {
                replica = ClusterState::restore(replica.snapshot()).unwrap();
                prop_assert_eq!(replica.applied(), state.applied());
            }
            let (command, _) = model.run(index, op);
            let bytes = command.encode();
            let effects = state.apply(index, command);
            prop_assert_eq!(replica.apply(index, Command::decode(&bytes).unwrap()), effects);
        }
        model.check(&replica);
        prop_assert_eq!(state.placements(), replica.placements());
        let bytes: Vec<Bytes> = state.snapshot().collect();
        prop_assert_eq!(&replica.snapshot().collect::<Vec<_>>(), &bytes);
        let restored = ClusterState::restore(bytes.iter().cloned()).unwrap();
        prop_assert_eq!(restored.cluster(), state.cluster());
        prop_assert!(restored.nodes().eq(state.nodes()));
        prop_assert_eq!(restored.placements(), state.placements());
        prop_assert_eq!(restored.routes().len(), state.routes().len());
        model.check(&restored);
        prop_assert_eq!(restored.snapshot().collect::<Vec<_>>(), bytes);
    }

    #[test]
    fn a_snapshot_is_of_the_moment_when_it_was_taken(
        before in prop::collection::vec(op(), 0..40),
        after in prop::collection::vec(op(), 0..40),
    ) {
        let (mut state, mut model) = (created(), Model::default());
        let mut indexes = (2..).map(LogIndex);
        for op in before {
            let index = indexes.next().unwrap();
            state.apply(index, model.run(index, op).0);
        }
        let expected: Vec<Bytes> = state.snapshot().collect();
        let mut snapshot = state.snapshot();
        let mut chunks: Vec<Bytes> = snapshot.next().into_iter().collect();
        for op in after {
            let index = indexes.next().unwrap();
            state.apply(index, model.run(index, op).0);
        }
        chunks.extend(snapshot);
        prop_assert_eq!(chunks, expected);
        model.check(&state);
    }

    #[test]
    fn bytes_that_are_not_a_snapshot_are_refused(
        ops in prop::collection::vec(op(), 0..20),
        at in any::<prop::sample::Index>(),
        bit in 0..8_u32,
    ) {
        let (mut state, mut model) = (created(), Model::default());
        for (index, op) in (2..).map(LogIndex).zip(ops) {
            state.apply(index, model.run(index, op).0);
        }
        let chunks: Vec<Bytes> = state.snapshot().collect();
        let number = at.index(chunks.len());
        let mut changed = chunks[number].to_vec();
        let position = at.index(changed.len());
        changed[position] ^= 1 << bit;
        let mut other = chunks.clone();
        other[number] = changed.into();
        // Protobuf has more than one way to say the same; then the state must be the same.
        if let Ok(restored) = ClusterState::restore(other) {
            prop_assert_eq!(restored.snapshot().collect::<Vec<_>>(), chunks);
        }
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Command::decode(&bytes);
        let _ = Reply::decode(&bytes);
        prop_assert!(ClusterState::restore([Bytes::from(bytes)]).is_err());
    }
}

/// What is expected, put down in the plainest way.
#[derive(Default)]
struct Model {
    nodes: BTreeMap<u64, ModelNode>,
    exact: BTreeSet<(String, u64)>,
    wildcard: BTreeSet<(String, u64)>,
    groups: BTreeMap<(String, u64), (u32, u32)>,
    settings: BTreeMap<&'static str, u8>,
    shard_exact: BTreeSet<(String, u64)>,
    shard_wildcard: BTreeSet<(String, u64)>,
    /// The last term of each shard, and the last number in it.
    told: BTreeMap<u16, (u64, u64)>,
}

#[derive(Clone, Copy)]
struct ModelNode {
    name: u64,
    status: Status,
    incarnation: Incarnation,
}

impl Model {
    /// Makes an operation a command, and says what the reply must be.
    fn run(&mut self, index: LogIndex, op: Op) -> (Command, Reply) {
        match op {
            Op::Join { node, name, role } => {
                let command = Command::Join {
                    id: NodeId(node),
                    name: format!("node-{name}").into(),
                    role,
                    address: "127.0.0.1:7000".into(),
                    client_addresses: vec!["127.0.0.1:1883".into()],
                    version: "0.1.0".into(),
                };
                (command, self.join(index, node, name))
            }
            Op::SetStatus { node, life, status } => {
                let member = self.member(node, life);
                let reply = self.with_live(member, |model| {
                    let wanted = match status {
                        NewStatus::Up => Status::Up,
                        NewStatus::Draining => Status::Draining,
                    };
                    model.nodes.get_mut(&node).expect("it is live").status = wanted;
                });
                (Command::SetStatus { member, status }, reply)
            }
            Op::NodeDown { node, life } => {
                let member = self.member(node, life);
                let reply = self.with_live(member, |model| {
                    model.forget_routes(node);
                    model.nodes.get_mut(&node).expect("it is live").status = Status::Down;
                });
                (Command::NodeDown { member }, reply)
            }
            Op::Leave { node, life } => {
                let member = self.member(node, life);
                let reply = self.with_live(member, |model| {
                    model.forget_routes(node);
                    model.nodes.remove(&node);
                });
                (Command::Leave { member }, reply)
            }
            Op::Remove { node } => {
                self.forget_routes(node);
                let reply = if self.nodes.remove(&node).is_some() { Reply::Done } else { Reply::UnknownNode };
                (Command::Remove { node: NodeId(node) }, reply)
            }
            Op::Routes { node, life, changes } => {
                let member = self.member(node, life);
                let reply = self
                    .with_live(member, |model| changes.iter().for_each(|change| model.change(node, change)));
                let changes = changes.iter().map(route_change).collect();
                (Command::Routes { member, changes }, reply)
            }
            Op::FoundShards => (Command::FoundShards, Reply::Done),
            Op::Evacuate { node, life } => {
                let member = self.member(node, life);
                (Command::Evacuate { member }, self.with_live(member, |_| {}))
            }
            Op::ShardRoutes { shard, term, number, changes } => {
                let reply = self.shard_routes(shard, (term, number), &changes);
                let changes = changes.iter().map(route_change).collect();
                let change = ShardChange::Routes { number, changes };
                (Command::Shard { shard: ShardId(shard), term, change }, reply)
            }
            Op::SetSetting { key, value } => {
                let command =
                    Command::SetSetting { key: key.into(), value: value.map(|value| vec![value].into()) };
                (command, self.set_setting(key, value))
            }
        }
    }

    fn join(&mut self, index: LogIndex, node: u64, name: u64) -> Reply {
        match self.nodes.get(&node) {
            Some(known) if known.name != name => return Reply::OtherName,
            Some(_) => {}
            None => match self.nodes.iter().find(|(_, other)| other.name == name) {
                Some((_, other)) if other.status != Status::Down => return Reply::NameTaken,
                Some((&other, _)) => {
                    self.nodes.remove(&other);
                }
                None => {}
            },
        }
        self.forget_routes(node);
        let incarnation = Incarnation(index.0);
        self.nodes.insert(node, ModelNode { name, status: Status::Joining, incarnation });
        Reply::Joined(Member { node: NodeId(node), incarnation })
    }

    fn set_setting(&mut self, key: &'static str, value: Option<u8>) -> Reply {
        if key.contains(' ') {
            return Reply::Invalid(Invalid::SettingKey);
        }
        match value {
            Some(value) => drop(self.settings.insert(key, value)),
            None if self.settings.remove(key).is_none() => return Reply::UnknownSetting,
            None => {}
        }
        Reply::Done
    }

    fn shard_routes(&mut self, shard: u16, told: (u64, u64), changes: &[Change]) -> Reply {
        let last = self.told.get(&shard).copied().unwrap_or_default();
        if told.0 < last.0 {
            return Reply::Stale;
        }
        if changes.iter().any(|change| matches!(change, Change::SetGroup(..))) {
            return Reply::Invalid(Invalid::Group);
        }
        if told <= last {
            return Reply::Done;
        }
        self.told.insert(shard, told);
        for change in changes {
            change_sets(&mut self.shard_exact, &mut self.shard_wildcard, u64::from(shard), change);
        }
        Reply::Done
    }

    fn member(&self, node: u64, life: Life) -> Member {
        let last = self.nodes.get(&node).map_or(Incarnation(0), |node| node.incarnation);
        let incarnation = match life {
            Life::Last => last,
            Life::Wrong => Incarnation(last.0 + 1),
        };
        Member { node: NodeId(node), incarnation }
    }

    fn with_live(&mut self, member: Member, change: impl FnOnce(&mut Self)) -> Reply {
        match self.nodes.get(&member.node.0) {
            Some(node) if node.incarnation == member.incarnation && node.status != Status::Down => {
                change(self);
                Reply::Done
            }
            _ => Reply::Stale,
        }
    }

    fn forget_routes(&mut self, node: u64) {
        self.exact.retain(|(_, other)| *other != node);
        self.wildcard.retain(|(_, other)| *other != node);
        self.groups.retain(|(_, other), _| *other != node);
    }

    fn change(&mut self, node: u64, change: &Change) {
        match *change {
            Change::SetGroup(filter, 0, 0) => {
                self.groups.remove(&(filter.into(), node));
            }
            Change::SetGroup(filter, online, kept) => {
                self.groups.insert((filter.into(), node), (online, kept));
            }
            _ => change_sets(&mut self.exact, &mut self.wildcard, node, change),
        }
    }

    fn check(&self, state: &ClusterState) {
        assert_eq!(state.nodes().count(), self.nodes.len());
        for (&id, expected) in &self.nodes {
            let node = state.node(NodeId(id)).expect("it is known");
            let name = format!("node-{}", expected.name);
            assert_eq!(
                (&*node.name, node.status, node.incarnation),
                (&*name, expected.status, expected.incarnation)
            );
            let member = self.member(id, Life::Last);
            assert_eq!(state.is_live(member), expected.status != Status::Down);
            assert_eq!(state.member(NodeId(id)), state.is_live(member).then_some(member));
            let count = RouteCount {
                exact: self.exact.iter().filter(|(_, node)| *node == id).count(),
                wildcard: self.wildcard.iter().filter(|(_, node)| *node == id).count(),
                groups: self.groups.keys().filter(|(_, node)| *node == id).count(),
            };
            assert_eq!(state.routes().count(NodeId(id)), count);
        }
        let settings = state.settings().iter().map(|(key, value)| (key, value[0]));
        assert!(settings.eq(self.settings.iter().map(|(key, value)| (*key, *value))));
        for topic in TOPICS {
            assert_eq!(answers(state, topic), (self.nodes_of(topic), self.groups_of(topic)), "{topic}");
            let wanting = nodes_of(self.shard_exact.iter().chain(&self.shard_wildcard), topic);
            assert_eq!(shards(state, topic), wanting, "{topic}");
        }
        for filter in GROUPS {
            let group = state.routes().group(filter).map(|group| (**group).clone());
            assert_eq!(group, self.group(filter));
        }
    }

    fn nodes_of(&self, topic: &str) -> Vec<NodeId> {
        nodes_of(self.exact.iter().chain(&self.wildcard), topic)
    }

    fn groups_of(&self, topic: &str) -> Vec<GroupRoute> {
        let filters: BTreeSet<_> = self.groups.keys().map(|(filter, _)| filter).collect();
        let matching = filters
            .into_iter()
            .filter(|filter| TopicFilter::parse(filter, 9).expect("it is valid").matches(topic));
        matching.map(|filter| self.group(filter).expect("it is there")).collect()
    }

    fn group(&self, filter: &str) -> Option<GroupRoute> {
        let routes = self.groups.iter().filter(|((other, _), _)| other == filter);
        let members = routes.map(|((_, node), (online, kept))| GroupMembers {
            node: NodeId(*node),
            online: *online,
            kept: *kept,
        });
        let members: Vec<_> = members.collect();
        (!members.is_empty()).then(|| GroupRoute { filter: filter.into(), members })
    }
}

fn nodes_of<'a>(routes: impl Iterator<Item = &'a (String, u64)>, topic: &str) -> Vec<NodeId> {
    let nodes: BTreeSet<_> =
        routes.filter(|(filter, _)| matches(filter, topic)).map(|(_, node)| *node).collect();
    nodes.into_iter().map(NodeId).collect()
}

fn change_sets(
    exact: &mut BTreeSet<(String, u64)>,
    wildcard: &mut BTreeSet<(String, u64)>,
    node: u64,
    change: &Change,
) {
    match *change {
        Change::AddExact(topic) => _ = exact.insert((topic.into(), node)),
        Change::RemoveExact(topic) => _ = exact.remove(&(topic.into(), node)),
        Change::AddWildcard(filter) => _ = wildcard.insert((filter.into(), node)),
        Change::RemoveWildcard(filter) => _ = wildcard.remove(&(filter.into(), node)),
        Change::SetGroup(..) => unreachable!("it is no set"),
    }
}

/// What a node keeps and changes by the events alone: what it has matched, who lives, and what is set.
#[derive(Default)]
struct Caches {
    wanting: BTreeMap<&'static str, Vec<NodeId>>,
    replicas: BTreeMap<u16, Vec<NodeId>>,
    matched: BTreeMap<&'static str, (Vec<NodeId>, Vec<GroupRoute>)>,
    live: BTreeSet<Member>,
    known: BTreeSet<NodeId>,
    settings: BTreeMap<String, Bytes>,
}

impl Caches {
    fn check(&mut self, effects: &Effects, state: &ClusterState) {
        for event in &effects.events {
            self.handle(event, state);
        }
        for topic in TOPICS {
            let matched = self.matched.entry(topic).or_insert_with(|| answers(state, topic));
            assert_eq!(*matched, answers(state, topic), "{topic} after {:?}", effects.events);
        }
        for topic in TOPICS {
            let wanting = self.wanting.entry(topic).or_insert_with(|| shards(state, topic));
            assert_eq!(*wanting, shards(state, topic), "{topic} after {:?}", effects.events);
        }
        for (ShardId(id), shard) in state.shards().iter() {
            let known = self.replicas.entry(id).or_default();
            assert_eq!(*known, shard.replicas.nodes, "after {:?}", effects.events);
        }
        assert!(self.live.iter().copied().eq(state.nodes().filter_map(|node| state.member(node.id))));
        assert!(self.known.iter().copied().eq(state.nodes().map(|node| node.id)));
        assert!(state.settings().iter().eq(self.settings.iter().map(|(key, value)| (&**key, value))));
    }

    fn handle(&mut self, event: &Event, state: &ClusterState) {
        match event {
            Event::RoutesChanged { exact, wildcard, groups, .. } => {
                assert!(!exact.is_empty() || *wildcard || *groups);
                if *wildcard || *groups {
                    self.matched.clear();
                }
                self.matched.retain(|topic, _| !exact.contains(&state.routes().fingerprint(topic)));
            }
            Event::RoutesReset(_) => self.matched.clear(),
            Event::MemberJoined(member) => {
                assert!(self.live.insert(*member));
                self.known.insert(member.node);
            }
            Event::MemberEnded(member, _) => assert!(self.live.remove(member)),
            Event::NodeRemoved(node) => {
                assert!(self.known.remove(node));
                assert!(self.live.iter().all(|member| member.node != *node));
            }
            Event::StatusChanged(member, status) => {
                assert_eq!(state.node(member.node).map(|node| node.status), Some(*status));
            }
            Event::Placed(shard) => assert!(state.placement(*shard).is_some()),
            Event::SettingChanged(key) => {
                let before = match state.settings().value(key) {
                    Some(value) => self.settings.insert(key.to_string(), value.clone()),
                    None => self.settings.remove(&**key),
                };
                assert_ne!(before.as_ref(), state.settings().value(key), "it has changed");
            }
            Event::ShardChanged(shard) => {
                let replicas = &state.shards().shard(*shard).expect("there is one").replicas;
                self.replicas.insert(shard.0, replicas.nodes.clone());
            }
            Event::ShardRoutesChanged { exact, wildcard, .. } => {
                assert!(!exact.is_empty() || *wildcard);
                if *wildcard {
                    self.wanting.clear();
                }
                self.wanting.retain(|topic, _| !exact.contains(&state.routes().fingerprint(topic)));
            }
            Event::Created => unreachable!("it is created already"),
        }
    }
}

fn answers(state: &ClusterState, topic: &str) -> (Vec<NodeId>, Vec<GroupRoute>) {
    let (mut nodes, mut groups) = (Vec::new(), Vec::new());
    state.routes().matches(
        topic,
        |node| nodes.push(node),
        |group: &Arc<GroupRoute>| groups.push((**group).clone()),
    );
    groups.sort_by(|left: &GroupRoute, right| left.filter.cmp(&right.filter));
    (nodes, groups)
}

/// The shards that want a topic, as nodes.
fn shards(state: &ClusterState, topic: &str) -> Vec<NodeId> {
    let mut shards = Vec::new();
    state.shards().matches(topic, |shard| shards.push(NodeId(shard.0.into())));
    shards
}

fn created() -> ClusterState {
    let mut state = ClusterState::new();
    let create =
        Command::Create { cluster_id: 9, name: "test".into(), shards: 8, replicas: 3, hash_seed: HASH_SEED };
    assert_eq!(state.apply(LogIndex(1), create).reply, Reply::Done);
    state
}

fn route_change(change: &Change) -> RouteChange {
    let fingerprint = |topic| flotilla_state::Fingerprint::new(HASH_SEED, topic);
    match *change {
        Change::AddExact(topic) => RouteChange::AddExact(fingerprint(topic)),
        Change::RemoveExact(topic) => RouteChange::RemoveExact(fingerprint(topic)),
        Change::AddWildcard(filter) => RouteChange::AddWildcard(filter.into()),
        Change::RemoveWildcard(filter) => RouteChange::RemoveWildcard(filter.into()),
        Change::SetGroup(filter, online, kept) => {
            RouteChange::SetGroup { filter: filter.into(), online, kept }
        }
    }
}

fn op() -> impl Strategy<Value = Op> {
    let node = 0..5_u64;
    let life = prop_oneof![9 => Just(Life::Last), 1 => Just(Life::Wrong)];
    let role = prop_oneof![3 => Just(Role::Core), 1 => Just(Role::Edge)];
    // Mostly its own name; a foreign one sometimes, so that disks are lost and names are taken.
    let name = prop_oneof![6 => Just(None), 1 => node.clone().prop_map(Some)];
    let join = (node.clone(), name, role).prop_map(|(node, name, role)| Op::Join {
        node,
        name: name.unwrap_or(node),
        role,
    });
    let status = prop_oneof![3 => Just(NewStatus::Up), 1 => Just(NewStatus::Draining)];
    let set_status = (node.clone(), life.clone(), status);
    let routes = (node.clone(), life.clone(), prop::collection::vec(change(), 0..12));
    let setting = (prop::sample::select(&KEYS[..]), prop::option::of(0..3_u8));
    prop_oneof![
        4 => join,
        4 => set_status.prop_map(|(node, life, status)| Op::SetStatus { node, life, status }),
        2 => (node.clone(), life.clone()).prop_map(|(node, life)| Op::NodeDown { node, life }),
        1 => (node.clone(), life).prop_map(|(node, life)| Op::Leave { node, life }),
        1 => node.prop_map(|node| Op::Remove { node }),
        8 => routes.prop_map(|(node, life, changes)| Op::Routes { node, life, changes }),
        1 => Just(Op::FoundShards),
        1 => (0..5_u64, prop_oneof![Just(Life::Last), Just(Life::Wrong)])
            .prop_map(|(node, life)| Op::Evacuate { node, life }),
        4 => (0..8_u16, 0..4_u64, 1..5_u64, prop::collection::vec(change(), 0..6))
            .prop_map(|(shard, term, number, changes)| Op::ShardRoutes { shard, term, number, changes }),
        4 => setting.prop_map(|(key, value)| Op::SetSetting { key, value }),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    let (topic, wildcard) = (prop::sample::select(&TOPICS[..]), prop::sample::select(&WILDCARDS[..]));
    let group = (prop::sample::select(&GROUPS[..]), 0..3_u32, 0..2_u32);
    prop_oneof![
        3 => topic.clone().prop_map(Change::AddExact),
        2 => topic.prop_map(Change::RemoveExact),
        3 => wildcard.clone().prop_map(Change::AddWildcard),
        2 => wildcard.prop_map(Change::RemoveWildcard),
        3 => group.prop_map(|(filter, online, kept)| Change::SetGroup(filter, online, kept)),
    ]
}
