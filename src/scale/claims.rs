//! The registry against the model: what nodes say to each other for a client that connects and goes.

use flotilla_mqtt::{Timestamp, session::ClientId};
use flotilla_registry::{Limits, Output, Registry, RequestId, View};
use flotilla_state::{Incarnation, LogIndex, Member, NodeId, Placement, ShardEpoch, ShardRing};

use super::model::{self, NODES};

const NOW: Timestamp = Timestamp::from_millis(1_000);
const SHARDS: u16 = 63;

/// The registries of a cluster, whose shards are divided among the nodes.
struct Registries {
    nodes: Vec<(Member, Registry)>,
    /// Messages from one node to another.
    sent: u32,
}

impl Registries {
    fn of(nodes: u32) -> Self {
        let member = |node: u64| Member { node: NodeId(node), incarnation: Incarnation(node) };
        let members: Vec<Member> = (1..=u64::from(nodes)).map(member).collect();
        let placement = |shard: usize| Placement {
            epoch: ShardEpoch(20),
            nodes: vec![members[shard % members.len()].node],
        };
        let placements = (0..usize::from(SHARDS)).map(placement).collect();
        let view = View { index: LogIndex(20), members: members.clone(), placements };
        let start = |me: &Member| {
            let mut registry = Registry::new(Limits::default(), ShardRing::new(SHARDS));
            registry.handle_admitted(*me);
            registry.handle_view(view.clone());
            (*me, registry)
        };
        let mut registries = Self { nodes: members.iter().map(start).collect(), sent: 0 };
        registries.exchange();
        registries.sent = 0;
        registries
    }

    /// Delivers what there is to deliver; returns what the shells must do.
    fn exchange(&mut self) -> Vec<Output> {
        let mut outputs = Vec::new();
        while let Some((from, output)) =
            self.nodes.iter_mut().find_map(|(me, registry)| Some((*me, registry.poll_output()?)))
        {
            let Output::Send { to, bytes } = output else {
                outputs.push(output);
                continue;
            };
            self.sent += 1;
            let (_, registry) = self.nodes.iter_mut().find(|(me, _)| *me == to).expect("it is a member");
            registry.handle_message(from, &bytes).expect("it decodes");
        }
        outputs
    }
}

#[test]
fn a_client_is_claimed_in_three_messages_and_released_in_one() {
    const CLIENTS: u32 = 2_000;
    for nodes in NODES {
        let mut registries = Registries::of(nodes);
        for number in 0..CLIENTS {
            let client = ClientId::new(&format!("device-{number}")).expect("it is not empty");
            let node = (number % nodes) as usize;
            registries.nodes[node].1.claim(NOW, RequestId(number.into()), &client);
            let granted = registries.exchange();
            let [Output::Granted { tenure, .. }] = granted[..] else { panic!("{granted:?}") };
            registries.nodes[node].1.release(&client, tenure);
            assert_eq!(registries.exchange(), []);
        }
        let (sent, said) = (f64::from(registries.sent) / f64::from(CLIENTS), model::claims(nodes.into()));
        assert!((sent - said).abs() <= 0.1 * said, "{sent} messages for {said}, {nodes} nodes");
    }
}
