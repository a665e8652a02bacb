//! The table of routes against the model: how many routes every node has, and to how many nodes a message goes.

use flotilla_state::{
    ClusterState, Command, Incarnation, LogIndex, Member, NodeId, Reply, Role, RouteChange,
    limits::CHANGES_MAX,
};

use super::model::{self, Cluster, NODES, WORKLOADS};

/// The meta group, without Raft.
struct Table {
    state: ClusterState,
    members: Vec<Member>,
    index: u64,
}

impl Table {
    fn of(nodes: u32) -> Self {
        let mut table = Self { state: ClusterState::new(), members: Vec::new(), index: 0 };
        table.apply(Command::Create {
            cluster_id: 1,
            name: "c".into(),
            shards: 16,
            replicas: 3,
            hash_seed: 5,
        });
        for node in 1..=nodes {
            let join = Command::Join {
                id: NodeId(node.into()),
                name: format!("node-{node}").into(),
                role: Role::Core,
                address: "127.0.0.1:1".into(),
                client_addresses: Vec::new(),
                version: "1".into(),
            };
            let Reply::Joined(member) = table.apply(join) else { panic!("it is let in") };
            assert_eq!(member.incarnation, Incarnation(table.index));
            table.members.push(member);
        }
        table
    }

    fn apply(&mut self, command: Command) -> Reply {
        self.index += 1;
        self.state.apply(LogIndex(self.index), command).reply
    }

    /// Announces that node `of(number)` has a subscriber of topic `number`, for each number; returns how many entries that were.
    fn announce(&mut self, topics: u64, of: impl Fn(u64) -> usize) -> u64 {
        let before = self.index;
        for node in 0..self.members.len() {
            let mine = (0..topics).filter(|number| of(*number) == node);
            let add = |number| RouteChange::AddExact(self.state.routes().fingerprint(&topic(number)));
            let changes: Vec<RouteChange> = mine.map(add).collect();
            for changes in changes.chunks(CHANGES_MAX) {
                let command = Command::Routes { member: self.members[node], changes: changes.to_vec() };
                assert_eq!(self.apply(command), Reply::Done);
            }
        }
        self.index - before
    }

    /// How many other nodes get what is published to a topic on the node with this number.
    fn forwards(&self, topic: &str, from: usize) -> u32 {
        let (me, mut others) = (self.members[from].node, 0);
        self.state.routes().matches(topic, |node| others += u32::from(node != me), |_| ());
        others
    }
}

fn topic(number: u64) -> String {
    format!("devices/{number:09}/commands")
}

#[test]
fn every_node_has_a_route_for_each_topic_of_each_client() {
    const CLIENTS: u64 = 100_000;
    for nodes in NODES.into_iter().filter(|nodes| *nodes > 1) {
        let mut table = Table::of(nodes);
        let entries =
            table.announce(CLIENTS, |number| usize::try_from(number % u64::from(nodes)).expect("few"));
        let cluster = Cluster::new(&WORKLOADS[0], CLIENTS as f64, nodes);
        assert_eq!(table.state.routes().len().exact as f64, cluster.exact_routes());
        // A storm of subscriptions costs no more than this.
        let each = CLIENTS.div_ceil(u64::from(nodes)).div_ceil(CHANGES_MAX as u64);
        assert!(entries <= u64::from(nodes) * each && entries < 40, "{entries} of {nodes} nodes");
    }
}

#[test]
fn a_message_goes_once_to_each_node_that_has_a_subscriber() {
    const TOPICS: u64 = 20_000;
    for nodes in NODES {
        for subscribers in [1, 2, 10] {
            let mut table = Table::of(nodes);
            for subscriber in 0..subscribers {
                table.announce(TOPICS, |topic| choose(topic * 64 + subscriber, nodes));
            }
            let from = |number: u64| choose(number * 64 + 63, nodes);
            let forwards: u32 = (0..TOPICS).map(|number| table.forwards(&topic(number), from(number))).sum();
            let (counted, said) =
                (f64::from(forwards) / TOPICS as f64, model::forwards(f64::from(nodes), subscribers as f64));
            assert!((counted - said).abs() <= 0.03 * said, "{counted} for {said}: {nodes}, {subscribers}");
        }
    }
}

/// A node, as good as by chance and the same for the same number.
fn choose(number: u64, nodes: u32) -> usize {
    let mixed = mix(number);
    usize::try_from((u128::from(mixed) * u128::from(nodes)) >> 64).expect("it is below the number of nodes")
}

/// The finalizer of SplitMix64.
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ mixed >> 31
}
