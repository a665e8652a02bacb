//! What each command does, and what it refuses.

use bytes::Bytes;

use super::*;
use crate::{Fingerprint, ReplicaId, ShardChange, ShardEpoch};

#[test]
fn a_cluster_is_created_once() {
    let mut state = ClusterState::new();
    let early = Command::Remove { node: NodeId(1) };
    assert_eq!(state.apply(LogIndex(1), early).reply, Reply::NotCreated);
    assert_eq!(state.applied(), LogIndex(1));
    assert_eq!(state.cluster(), None);
    let effects = state.apply(LogIndex(3), create("c", 16, 3));
    assert_eq!(effects, Effects { reply: Reply::Done, events: vec![Event::Created] });
    assert_eq!(state.cluster().map(|cluster| (cluster.id, &*cluster.name)), Some((7, "c")));
    assert_eq!(state.placements(), vec![Placement::default(); 16]);
    assert_eq!(state.apply(LogIndex(4), create("d", 16, 3)).reply, Reply::AlreadyCreated);
}

#[test]
fn a_cluster_has_bounds() {
    let check = |name: &str, shards, replicas, invalid| {
        let mut state = ClusterState::new();
        let reply = state.apply(LogIndex(1), create(name, shards, replicas)).reply;
        assert_eq!(reply, Reply::Invalid(invalid));
        assert!(state.cluster().is_none());
    };
    check("", 16, 3, Invalid::Name);
    check(&"x".repeat(256), 16, 3, Invalid::Name);
    check("c", 0, 3, Invalid::Shards);
    check("c", limits::SHARDS_MAX + 1, 3, Invalid::Shards);
    check("c", 16, 0, Invalid::Replicas);
    check("c", 16, limits::REPLICAS_MAX + 1, Invalid::Replicas);
}

#[test]
#[should_panic(expected = "comes behind")]
fn an_entry_is_applied_once() {
    let mut state = ClusterState::new();
    state.apply(LogIndex(1), create("c", 16, 3));
    state.apply(LogIndex(1), Command::Remove { node: NodeId(1) });
}

#[test]
fn a_node_that_joins_again_begins_another_life() {
    let mut cluster = TestCluster::new();
    let (first, _) = cluster.up(1, "a");
    cluster.routes(first, &["x"]);
    let (second, events) = cluster.join(1, "a");
    assert_eq!(second.incarnation, Incarnation(cluster.index));
    let mut expected = vec![
        Event::MemberEnded(first, Why::Rejoined),
        Event::RoutesReset(first),
        Event::MemberJoined(second),
    ];
    expected.extend((0..16).map(|shard| Event::Placed(ShardId(shard))));
    assert_eq!(events, expected, "and no core node is up");
    assert!(!cluster.state.is_live(first) && cluster.state.is_live(second));
    assert!(cluster.state.has_ended(first) && !cluster.state.has_ended(second));
    let next = Member { incarnation: Incarnation(cluster.state.applied().0 + 1), ..second };
    assert!(!cluster.state.is_live(next) && !cluster.state.has_ended(next), "this state does not know yet");
    assert_eq!(cluster.state.node(NodeId(1)).map(|node| node.status), Some(Status::Joining));
    assert_eq!(cluster.matches("x"), []);
    for command in [
        Command::NodeDown { member: first },
        Command::Leave { member: first },
        Command::SetStatus { member: first, status: NewStatus::Up },
        Command::Routes { member: first, changes: Vec::new() },
    ] {
        assert_eq!(cluster.apply(command), Effects { reply: Reply::Stale, events: vec![] });
    }
}

#[test]
fn a_lost_disk_comes_back_under_the_old_name_when_the_old_node_is_down() {
    let mut cluster = TestCluster::new();
    let (old, _) = cluster.up(1, "a");
    assert_eq!(cluster.apply(join(2, "a")).reply, Reply::NameTaken);
    assert_eq!(cluster.apply(join(1, "b")).reply, Reply::OtherName);
    let effects = cluster.apply(Command::NodeDown { member: old });
    assert_eq!(effects.events[0], Event::MemberEnded(old, Why::Down));
    assert_eq!(cluster.state.node(NodeId(1)).map(|node| node.status), Some(Status::Down));
    assert_eq!(cluster.state.member(NodeId(1)), None);
    let (new, events) = cluster.join(2, "a");
    let events: Vec<_> = without_shards(events).collect();
    assert_eq!(events, [Event::NodeRemoved(NodeId(1)), Event::MemberJoined(new)]);
    assert_eq!(cluster.state.nodes().map(|node| node.id).collect::<Vec<_>>(), [NodeId(2)]);
}

#[test]
fn a_node_that_leaves_or_is_removed_is_forgotten() {
    let mut cluster = TestCluster::new();
    let (one, _) = cluster.up(1, "a");
    let (two, _) = cluster.up(2, "b");
    cluster.routes(two, &["x"]);
    let effects = cluster.apply(Command::Leave { member: two });
    assert_eq!(
        effects.events[..3],
        [Event::MemberEnded(two, Why::Left), Event::RoutesReset(two), Event::NodeRemoved(NodeId(2))]
    );
    assert!(cluster.state.node(NodeId(2)).is_none());
    assert!(cluster.state.placements().iter().all(|placement| placement.nodes == [NodeId(1)]));
    let effects = cluster.apply(Command::Remove { node: NodeId(1) });
    assert_eq!(effects.events[..2], [Event::MemberEnded(one, Why::Removed), Event::NodeRemoved(NodeId(1))]);
    assert!(cluster.state.placements().iter().all(|placement| placement.nodes.is_empty()));
    assert_eq!(cluster.apply(Command::Remove { node: NodeId(1) }).reply, Reply::UnknownNode);
    assert_eq!(cluster.state.nodes().count(), 0);
}

#[test]
fn nodes_have_bounds() {
    let mut cluster = TestCluster::new();
    let mut check = |change: fn(&mut Node), invalid| {
        let mut wanted = node(1, "a");
        change(&mut wanted);
        assert_eq!(
            cluster.apply(join_as(wanted)),
            Effects { reply: Reply::Invalid(invalid), events: vec![] }
        );
    };
    check(|node| node.name = "".into(), Invalid::Name);
    check(|node| node.name = "x".repeat(256).into(), Invalid::Name);
    check(|node| node.address = "".into(), Invalid::Address);
    check(|node| node.address = "x".repeat(513).into(), Invalid::Address);
    check(|node| node.client_addresses = vec!["".into()], Invalid::Address);
    check(|node| node.client_addresses = vec!["x".into(); 33], Invalid::ClientAddresses);
    check(|node| node.version = "x".repeat(129).into(), Invalid::Version);
}

#[test]
fn there_are_not_too_many_nodes() {
    let nodes = (0..limits::NODES_MAX as u64).map(|id| {
        let node = Node { status: Status::Down, ..node(id, &format!("node-{id}")) };
        (node.id, node)
    });
    let cluster = Cluster { id: 1, name: "c".into(), shards: 1, replicas: 1, hash_seed: 0 };
    let placements = vec![Placement::default()];
    let state = ClusterState::from_parts(
        LogIndex(9),
        Some(cluster),
        nodes.collect(),
        placements,
        Routes::new(0),
        Shards::new(1, 0),
        Settings::default(),
    );
    let mut cluster = TestCluster { state: state.unwrap(), index: 9 };
    assert_eq!(cluster.apply(join(9_999, "new")).reply, Reply::TooManyNodes);
    // These take the place of another node, or of themselves.
    cluster.join(9_999, "node-7");
    cluster.join(8, "node-8");
}

#[test]
fn only_core_nodes_that_are_up_hold_shards() {
    let mut cluster = TestCluster::new();
    let (one, events) = cluster.up(1, "a");
    assert_eq!(events[0], Event::StatusChanged(one, Status::Up));
    assert_eq!(without_shards(events).count(), 1 + 16);
    let since = ShardEpoch(cluster.index);
    assert!(cluster.state.placements().iter().all(|placement| placement.epoch == since));
    let (edge, _) = cluster.join_as(Node { role: Role::Edge, ..node(2, "edge") });
    assert_eq!(cluster.set(edge, NewStatus::Up), [Event::StatusChanged(edge, Status::Up)]);
    let (three, _) = cluster.join(3, "c");
    let expected = Placement { epoch: since, nodes: vec![NodeId(1)] };
    assert!(cluster.state.placements().iter().all(|placement| *placement == expected));
    cluster.set(three, NewStatus::Up);
    assert_eq!(cluster.registrars(), BTreeMap::from([(Some(NodeId(1)), 8), (Some(NodeId(3)), 8)]));
    assert_eq!(cluster.set(three, NewStatus::Up), [], "it is up already");
}

#[test]
fn a_draining_node_serves_until_another_one_does() {
    let mut cluster = TestCluster::new();
    let (one, _) = cluster.up(1, "a");
    let before = cluster.state.placements().to_vec();
    assert_eq!(cluster.set(one, NewStatus::Draining), [Event::StatusChanged(one, Status::Draining)]);
    assert_eq!(cluster.state.placements(), before);
    let (two, _) = cluster.up(2, "b");
    assert_eq!(cluster.registrars(), BTreeMap::from([(Some(NodeId(2)), 16)]));
    cluster.apply(Command::NodeDown { member: two });
    assert_eq!(cluster.registrars(), BTreeMap::from([(Some(NodeId(1)), 16)]));
    cluster.apply(Command::NodeDown { member: one });
    assert_eq!(cluster.registrars(), BTreeMap::from([(None, 16)]));
}

#[test]
fn a_registrar_in_another_life_has_another_epoch() {
    let mut cluster = TestCluster::new();
    cluster.up(1, "a");
    let before = cluster.state.placements()[0].epoch;
    let (again, _) = cluster.join(1, "a");
    cluster.set(again, NewStatus::Up);
    let placement = &cluster.state.placements()[0];
    assert_eq!(placement.nodes, [NodeId(1)]);
    assert!(placement.epoch > before && placement.epoch.0 == cluster.index);
}

#[test]
fn routes_are_sets() {
    let mut cluster = TestCluster::new();
    let (one, _) = cluster.up(1, "a");
    let (two, _) = cluster.up(2, "b");
    let [x, y] = ["x", "y"].map(|topic| cluster.state.routes().fingerprint(topic));
    let changed = |exact| Event::RoutesChanged { member: one, exact, wildcard: false, groups: false };
    assert_eq!(cluster.routes(one, &["x", "x"]), [changed(vec![x])]);
    assert_eq!(cluster.routes(one, &["x", "y"]), [changed(vec![y])]);
    assert_eq!(cluster.routes(one, &["x", "y"]), []);
    cluster.routes(two, &["x"]);
    assert_eq!(cluster.matches("x"), [NodeId(1), NodeId(2)]);
    // One change after the other.
    let changes = vec![RouteChange::RemoveExact(x), RouteChange::AddExact(x), RouteChange::RemoveExact(y)];
    let effects = cluster.apply(Command::Routes { member: one, changes });
    assert_eq!(effects.events, [changed(vec![x, x, y])]);
    assert_eq!(cluster.matches("x"), [NodeId(1), NodeId(2)]);
    assert_eq!(cluster.matches("y"), []);
}

#[test]
fn one_change_against_the_rules_refuses_the_whole_command() {
    let mut cluster = TestCluster::new();
    let (one, _) = cluster.up(1, "a");
    let mut check = |bad: RouteChange, invalid| {
        let changes = vec![RouteChange::AddExact(Fingerprint::new(5, "x")), bad];
        let effects = cluster.apply(Command::Routes { member: one, changes });
        assert_eq!(effects, Effects { reply: Reply::Invalid(invalid), events: vec![] });
        assert!(cluster.state.routes().is_empty());
    };
    for filter in ["", "a", "a+", "#/a", "$share/g/+", "a/\0/#", &"+/".repeat(32_768)] {
        check(RouteChange::AddWildcard(filter.into()), Invalid::Wildcard);
        check(RouteChange::RemoveWildcard(filter.into()), Invalid::Wildcard);
    }
    for filter in ["", "a", "#", "$share/g", "$share//a", "$queue/", "$share/g/a+"] {
        check(RouteChange::SetGroup { filter: filter.into(), online: 1, kept: 0 }, Invalid::Group);
        check(RouteChange::SetGroup { filter: filter.into(), online: 0, kept: 0 }, Invalid::Group);
    }
    let change = RouteChange::AddWildcard("#".into());
    let changes = vec![change; limits::CHANGES_MAX + 1];
    let reply = cluster.apply(Command::Routes { member: one, changes: changes.clone() }).reply;
    assert_eq!(reply, Reply::Invalid(Invalid::Changes));
    let changes = changes[1..].to_vec();
    assert_eq!(cluster.apply(Command::Routes { member: one, changes }).reply, Reply::Done);
}

#[test]
fn settings_are_told_when_they_change() {
    let mut state = ClusterState::new();
    let set = |value: &'static [u8]| Some(Bytes::from_static(value));
    let command = |value| Command::SetSetting { key: "a/b".into(), value };
    assert_eq!(state.apply(LogIndex(1), command(set(b"1"))).reply, Reply::NotCreated);
    let mut cluster = TestCluster::new();
    let changed = vec![Event::SettingChanged("a/b".into())];
    assert_eq!(cluster.done(command(set(b"1"))), changed);
    assert_eq!(cluster.done(command(set(b"1"))), []);
    assert_eq!(cluster.done(command(set(b"2"))), changed);
    assert_eq!(cluster.state.settings().value("a/b"), set(b"2").as_ref());
    assert_eq!(cluster.done(command(None)), changed);
    let effects = cluster.apply(command(None));
    assert_eq!(effects, Effects { reply: Reply::UnknownSetting, events: vec![] });
    let effects = cluster.apply(Command::SetSetting { key: "a//b".into(), value: None });
    assert_eq!(effects, Effects { reply: Reply::Invalid(Invalid::SettingKey), events: vec![] });
    // What a node has set is not its own: it outlives the node.
    let (member, _) = cluster.up(1, "a");
    cluster.done(command(set(b"1")));
    cluster.done(Command::Leave { member });
    assert!(!cluster.state.settings().is_empty());
}

struct TestCluster {
    state: ClusterState,
    index: u64,
}

impl TestCluster {
    fn new() -> Self {
        let mut state = ClusterState::new();
        state.apply(LogIndex(1), create("c", 16, 3));
        Self { state, index: 1 }
    }

    fn apply(&mut self, command: Command) -> Effects {
        self.index += 1;
        self.state.apply(LogIndex(self.index), command)
    }

    fn join(&mut self, id: u64, name: &str) -> (Member, Vec<Event>) {
        self.join_as(node(id, name))
    }

    fn join_as(&mut self, node: Node) -> (Member, Vec<Event>) {
        match self.apply(join_as(node)) {
            Effects { reply: Reply::Joined(member), events } => (member, events),
            effects => panic!("{effects:?}"),
        }
    }

    fn up(&mut self, id: u64, name: &str) -> (Member, Vec<Event>) {
        let (member, _) = self.join(id, name);
        (member, self.set(member, NewStatus::Up))
    }

    fn up_again(&mut self, member: Member) {
        self.set(member, NewStatus::Draining);
        self.set(member, NewStatus::Up);
    }

    fn set(&mut self, member: Member, status: NewStatus) -> Vec<Event> {
        self.done(Command::SetStatus { member, status })
    }

    fn routes(&mut self, member: Member, topics: &[&str]) -> Vec<Event> {
        let add = |topic: &&str| RouteChange::AddExact(self.state.routes().fingerprint(topic));
        let changes = topics.iter().map(add).collect();
        self.done(Command::Routes { member, changes })
    }

    fn done(&mut self, command: Command) -> Vec<Event> {
        let effects = self.apply(command);
        assert_eq!(effects.reply, Reply::Done);
        effects.events
    }

    fn matches(&self, topic: &str) -> Vec<NodeId> {
        let mut nodes = Vec::new();
        self.state.routes().matches(topic, |node| nodes.push(node), |_| ());
        nodes
    }

    /// How many shards each registrar has.
    fn registrars(&self) -> BTreeMap<Option<NodeId>, usize> {
        let mut registrars = BTreeMap::new();
        for placement in self.state.placements() {
            *registrars.entry(placement.registrar()).or_default() += 1;
        }
        registrars
    }
}

fn create(name: &str, shards: u16, replicas: u8) -> Command {
    Command::Create { cluster_id: 7, name: name.into(), shards, replicas, hash_seed: 5 }
}

fn join(id: u64, name: &str) -> Command {
    join_as(node(id, name))
}

/// Events that are not about where replicas shall be.
fn without_shards(events: Vec<Event>) -> impl Iterator<Item = Event> {
    events.into_iter().filter(|event| !matches!(event, Event::ShardChanged(_)))
}

fn join_as(node: Node) -> Command {
    let Node { id, name, role, address, client_addresses, version, .. } = node;
    Command::Join { id, name, role, address, client_addresses, version }
}

fn node(id: u64, name: &str) -> Node {
    Node {
        id: NodeId(id),
        name: name.into(),
        role: Role::Core,
        status: Status::Joining,
        incarnation: Incarnation(1),
        address: "127.0.0.1:7000".into(),
        client_addresses: Vec::new(),
        version: "0.1.0".into(),
        changed_at: LogIndex(1),
    }
}

#[test]
fn the_replicas_of_the_shards_stay_with_a_node_that_is_down_until_it_is_removed() {
    let mut cluster = TestCluster::new();
    let (one, _) = cluster.up(1, "a");
    cluster.up(2, "b");
    let (three, events) = cluster.up(3, "c");
    assert_eq!(events.iter().filter(|event| matches!(event, Event::ShardChanged(_))).count(), 16);
    let replicas = |cluster: &TestCluster| {
        let shards = cluster.state.shards().iter();
        shards.map(|(_, shard)| shard.replicas.nodes.clone()).collect::<Vec<_>>()
    };
    let placed = replicas(&cluster);
    let leaders = |node| placed.iter().filter(|nodes| nodes[0] == NodeId(node)).count();
    assert!(placed.iter().all(|nodes| nodes.len() == 3));
    assert!((1..=3).all(|node| (5..=6).contains(&leaders(node))));
    cluster.apply(Command::NodeDown { member: three });
    assert_eq!(replicas(&cluster), placed);
    // One that leaves for good gives them away first.
    let effects = cluster.apply(Command::Evacuate { member: one });
    assert!(effects.events.iter().all(|event| matches!(event, Event::ShardChanged(_))));
    assert!(replicas(&cluster).iter().all(|nodes| nodes.len() == 2 && !nodes.contains(&NodeId(1))));
    cluster.apply(Command::Remove { node: NodeId(3) });
    assert!(replicas(&cluster).iter().all(|nodes| *nodes == [NodeId(2)]));
    // An edge node never holds any.
    let edge = Node { role: Role::Edge, ..node(4, "d") };
    let Reply::Joined(edge) = cluster.apply(join_as(edge)).reply else { panic!("it may join") };
    cluster.apply(Command::SetStatus { member: edge, status: NewStatus::Up });
    assert!(!cluster.state.shards().is_holder(NodeId(4)));
    assert_eq!(cluster.apply(Command::Evacuate { member: three }).reply, Reply::Stale);
}

#[test]
fn a_shard_begins_once() {
    let mut cluster = TestCluster::new();
    assert_eq!(cluster.apply(Command::FoundShards), Effects { reply: Reply::Done, events: vec![] });
    cluster.up(1, "a");
    assert_eq!(cluster.apply(Command::FoundShards).events.len(), 16);
    cluster.up(2, "b");
    assert_eq!(cluster.apply(Command::FoundShards).events, []);
    assert!(cluster.state.shards().iter().all(|(_, shard)| shard.founders == [NodeId(1)]));
}

#[test]
fn a_replica_that_is_neither_wanted_nor_a_member_has_lost_its_identifier_for_good() {
    let mut cluster = TestCluster::new();
    let shard = ShardId(3);
    let tell = |term, change| Command::Shard { shard, term, change };
    let ids = |cluster: &TestCluster| {
        let shard = cluster.state.shards().shard(shard).expect("there are 16");
        shard.ids.iter().map(|(node, id)| (node.0, id.0)).collect::<Vec<_>>()
    };
    let [_, second, third] = [1, 2, 3].map(|id| cluster.up(id, &format!("node-{id}")).0);
    cluster.apply(Command::FoundShards);
    let [a, b, c] = ids(&cluster)[..] else { panic!("three replicas: {:?}", ids(&cluster)) };
    assert_eq!([a.0, b.0, c.0], [1, 2, 3]);
    // Founders keep theirs until there are members.
    cluster.apply(Command::Evacuate { member: third });
    assert_eq!(ids(&cluster), [a, b, c]);
    let told = cluster.apply(tell(7, members(1, &[a, b])));
    assert_eq!((told.reply, told.events), (Reply::Done, vec![Event::ShardChanged(shard)]));
    assert_eq!(ids(&cluster), [a, b]);
    assert_eq!(cluster.apply(tell(7, members(2, &[a, b, c]))).reply, Reply::Stale, "it is gone");
    // A member that is not wanted keeps its own, and has it still when it is wanted again.
    cluster.apply(Command::Evacuate { member: second });
    assert_eq!(ids(&cluster), [a, b]);
    cluster.up_again(second);
    assert_eq!(ids(&cluster), [a, b]);
    cluster.apply(Command::Evacuate { member: second });
    cluster.apply(tell(7, members(2, &[a])));
    assert_eq!(ids(&cluster), [a]);
    cluster.up_again(second);
    let [_, again] = ids(&cluster)[..] else { panic!("two replicas: {:?}", ids(&cluster)) };
    assert!(again.0 == b.0 && again.1 > b.1, "{again:?} after {b:?}");
    assert_eq!(cluster.apply(tell(7, members(3, &[a, b]))).reply, Reply::Stale);
    assert_eq!(cluster.apply(tell(7, members(3, &[a, again]))).reply, Reply::Done);
    // What is said late, or by a leader before, changes nothing.
    assert_eq!(cluster.apply(tell(7, members(2, &[a]))).reply, Reply::Done);
    assert_eq!(cluster.apply(tell(6, members(9, &[a]))).reply, Reply::Stale);
    assert_eq!(cluster.apply(tell(8, members(1, &[a, again]))).events, []);
    assert_eq!(cluster.apply(tell(7, members(4, &[a]))).reply, Reply::Stale);
    assert_eq!(cluster.state.shards().shard(shard).map(|shard| shard.members.len()), Some(2));
    let restored = ClusterState::restore(cluster.state.snapshot()).expect("it is a snapshot");
    assert_eq!(restored.shards().shard(shard), cluster.state.shards().shard(shard));
}

fn members(number: u64, members: &[(u64, u64)]) -> ShardChange {
    let members = members.iter().map(|(node, id)| (NodeId(*node), ReplicaId(*id))).collect();
    ShardChange::Members { number, members }
}

#[test]
fn the_leader_of_a_shard_tells_what_its_sessions_want() {
    let mut cluster = TestCluster::new();
    cluster.up(1, "a");
    let tell = |shard, term, change| Command::Shard { shard: ShardId(shard), term, change };
    let fingerprint = cluster.state.routes().fingerprint("x");
    let changes = |number, changes| ShardChange::Routes { number, changes };
    let routes =
        || changes(1, vec![RouteChange::AddExact(fingerprint), RouteChange::AddWildcard("a/+".into())]);
    let told = cluster.apply(tell(3, 8, routes()));
    let shard = ShardId(3);
    assert_eq!(told.events, [Event::ShardRoutesChanged { shard, exact: vec![fingerprint], wildcard: true }]);
    assert_eq!(cluster.apply(tell(3, 8, routes())).events, []);
    assert_eq!(cluster.apply(tell(3, 7, routes())).reply, Reply::Stale, "of a leader before");
    cluster.apply(tell(5, 1, routes()));
    let wanting = |cluster: &TestCluster, topic| {
        let mut shards = Vec::new();
        cluster.state.shards().matches(topic, |shard| shards.push(shard.0));
        shards
    };
    assert_eq!((wanting(&cluster, "x"), wanting(&cluster, "a/b")), (vec![3, 5], vec![3, 5]));
    let gone = || vec![RouteChange::RemoveExact(fingerprint)];
    let again = cluster.apply(tell(3, 8, changes(1, gone())));
    assert_eq!((again.reply, again.events), (Reply::Done, vec![]), "said already, and late");
    cluster.apply(tell(3, 9, changes(1, Vec::new())));
    assert_eq!(cluster.apply(tell(3, 8, changes(2, gone()))).reply, Reply::Stale, "somebody else leads");
    assert_eq!(wanting(&cluster, "x"), vec![3, 5]);
    cluster.apply(tell(3, 9, changes(2, gone())));
    assert_eq!((wanting(&cluster, "x"), wanting(&cluster, "a/b")), (vec![5], vec![3, 5]));
    let group = RouteChange::SetGroup { filter: "$share/g/a".into(), online: 1, kept: 0 };
    for (shard, change, invalid) in [
        (16, members(1, &[]), Invalid::Shards),
        (0, members(1, &[]), Invalid::Members),
        (0, members(1, &[(2, 1), (1, 1)]), Invalid::Members),
        (0, changes(1, vec![group]), Invalid::Group),
        (0, changes(1, vec![RouteChange::AddExact(fingerprint); 4097]), Invalid::Changes),
    ] {
        assert_eq!(cluster.apply(tell(shard, 1, change)).reply, Reply::Invalid(invalid));
    }
}

#[test]
fn the_one_node_that_is_left_goes_on_as_another_cluster() {
    let mut cluster = TestCluster::new();
    let lives: Vec<Member> = (1..4).map(|id| cluster.up(id, &format!("node-{id}")).0).collect();
    cluster.apply(Command::FoundShards);
    let before: Vec<_> = cluster.state.shards().iter().map(|(_, shard)| shard.ids.clone()).collect();
    for shard in 0..16 {
        let shard_state = cluster.state.shards().shard(ShardId(shard)).expect("there are 16");
        let ids: Vec<(u64, u64)> = shard_state.ids.iter().map(|(node, id)| (node.0, id.0)).collect();
        let change = members(1, &ids);
        cluster.apply(Command::Shard { shard: ShardId(shard), term: 7, change });
        let changes = vec![RouteChange::AddWildcard("a/+".into())];
        let routes = ShardChange::Routes { number: 1, changes };
        cluster.apply(Command::Shard { shard: ShardId(shard), term: 7, change: routes });
    }
    cluster.apply(Command::SetSetting { key: "ban/clientid/x".into(), value: Some(Bytes::new()) });
    let recover = |survivor| Command::Recover {
        cluster_id: 99,
        survivor: NodeId(survivor),
        shards: (0..15).map(ShardId).collect(),
    };
    assert_eq!(cluster.apply(recover(9)).reply, Reply::UnknownNode);
    let effects = cluster.apply(recover(2));
    assert_eq!(effects.reply, Reply::Done);
    for gone in [lives[0], lives[2]] {
        assert!(effects.events.contains(&Event::MemberEnded(gone, Why::Removed)));
    }
    assert!(effects.events.contains(&Event::Created));
    let silenced = Event::ShardRoutesChanged { shard: ShardId(15), exact: Vec::new(), wildcard: true };
    assert!(effects.events.contains(&silenced));
    let state = &cluster.state;
    assert_eq!(state.cluster().map(|cluster| (cluster.id, cluster.shards)), Some((99, 16)));
    assert_eq!(state.nodes().map(|node| node.id).collect::<Vec<_>>(), [NodeId(2)]);
    for ((id, shard), before) in state.shards().iter().zip(before) {
        assert_eq!((&shard.replicas.nodes, &shard.founders), (&vec![NodeId(2)], &vec![NodeId(2)]));
        let has_kept = shard.ids.get(&NodeId(2)) == before.get(&NodeId(2));
        assert!(shard.ids.len() == 1 && has_kept == (id.0 < 15), "{id:?}: {:?}, {before:?}", shard.ids);
        let members = if id.0 < 15 { vec![NodeId(2)] } else { Vec::new() };
        assert_eq!((&shard.members, shard.term), (&members, 0), "{id:?}: the node may know of lower terms");
    }
    let mut wanting = Vec::new();
    state.shards().matches("a/b", |shard| wanting.push(shard.0));
    assert_eq!(wanting, (0..15).collect::<Vec<_>>());
    assert!(state.settings().value("ban/clientid/x").is_some());
    let restored = ClusterState::restore(state.snapshot()).expect("it is a snapshot");
    assert_eq!(restored.cluster(), state.cluster());
    // Others join as they always have.
    cluster.up(4, "node-1");
    assert_eq!(cluster.state.shards().shard(ShardId(0)).map(|shard| shard.replicas.nodes.len()), Some(2));
}
