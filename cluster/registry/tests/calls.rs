//! Single calls, with one node or two.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use flotilla_mqtt::{ReasonCode, Timestamp, session::ClientId};
use flotilla_registry::{Limits, Output, Refusal, Registry, RequestId, Stats, Tenure, View};
use flotilla_state::{Incarnation, LogIndex, Member, NodeId, Placement, ShardEpoch, ShardRing};

const NOW: Timestamp = Timestamp::from_millis(1_000);

fn member(node: u64) -> Member {
    Member { node: NodeId(node), incarnation: Incarnation(node) }
}

fn client(text: &str) -> ClientId {
    ClientId::new(text).expect("not empty")
}

/// Nodes `1..=nodes`, all of which are members; the first is the registrar.
fn start(nodes: u64, limits: &Limits) -> Vec<(Member, Registry)> {
    let members: Vec<Member> = (1..=nodes).map(member).collect();
    let placement =
        Placement { epoch: ShardEpoch(8), nodes: members.iter().map(|member| member.node).collect() };
    let view = View { index: LogIndex(9), members: members.clone(), placements: vec![placement] };
    let mut started: Vec<(Member, Registry)> = members
        .into_iter()
        .map(|me| {
            let mut registry = Registry::new(limits.clone(), ShardRing::new(1));
            registry.handle_admitted(me);
            registry.handle_view(view.clone());
            (me, registry)
        })
        .collect();
    assert_eq!(exchange(&mut started, &[]), []);
    started
}

/// Delivers what goes to members that are not deaf; returns what the shells must do.
fn exchange(nodes: &mut [(Member, Registry)], deaf: &[Member]) -> Vec<(u64, Output)> {
    let mut outputs = Vec::new();
    while let Some((from, output)) =
        nodes.iter_mut().find_map(|(me, registry)| Some((*me, registry.poll_output()?)))
    {
        match output {
            Output::Send { to, .. } if deaf.contains(&to) => {}
            Output::Send { to, bytes } => {
                let (_, registry) = nodes.iter_mut().find(|(me, _)| *me == to).expect("it is a member");
                registry.handle_message(from, &bytes).expect("it decodes");
            }
            other => outputs.push((from.node.0, other)),
        }
    }
    outputs
}

fn granted(outputs: &[(u64, Output)]) -> Tenure {
    match outputs {
        [(_, Output::Granted { tenure, .. })] => *tenure,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_node_alone_asks_nobody() {
    let mut nodes = start(1, &Limits::default());
    nodes[0].1.claim(NOW, RequestId(1), &client("a"));
    let tenure = granted(&exchange(&mut nodes, &[]));
    nodes[0].1.claim(NOW, RequestId(2), &client("a"));
    let again = granted(&exchange(&mut nodes, &[]));
    assert!(again > tenure);
    // The end of a connection that another one has replaced is no news.
    nodes[0].1.release(&client("a"), tenure);
    assert_eq!(nodes[0].1.stats().owned, 1);
    nodes[0].1.release(&client("a"), again);
    assert_eq!(nodes[0].1.stats(), Stats::default());
}

#[test]
fn a_view_of_a_snapshot_makes_nobody_wait_for_the_next_change() {
    let mut nodes = start(2, &Limits::default());
    // Node 2 has restored a snapshot of entry 20; nothing that makes a view has changed since 9.
    let members = vec![member(1), member(2)];
    let nodes_of = members.iter().map(|member| member.node).collect();
    let placements = vec![Placement { epoch: ShardEpoch(8), nodes: nodes_of }];
    nodes[1].1.handle_view(View { index: LogIndex(20), members, placements });
    nodes[1].1.claim(NOW, RequestId(1), &client("a"));
    assert_eq!(exchange(&mut nodes, &[]), []);
    nodes[0].1.handle_read(LogIndex(19));
    assert!(nodes[0].1.is_behind() && exchange(&mut nodes, &[]).is_empty());
    nodes[0].1.handle_read(LogIndex(20));
    granted(&exchange(&mut nodes, &[]));
    assert!(!nodes[0].1.is_behind());
}

#[test]
fn a_client_is_served_when_its_connection_elsewhere_has_ended() {
    let (mut nodes, a) = (start(3, &Limits::default()), client("a"));
    nodes[1].1.claim(NOW, RequestId(1), &a);
    let first = granted(&exchange(&mut nodes, &[]));
    nodes[2].1.claim(NOW, RequestId(2), &a);
    let outputs = exchange(&mut nodes, &[]);
    let [(2, Output::Close { epoch, .. })] = &outputs[..] else { panic!("{outputs:?}") };
    assert!(*epoch > first.epoch);
    // It is closed, but what its client has said is still on its way.
    nodes[1].1.release(&a, first);
    assert_eq!(exchange(&mut nodes, &[]), []);
    nodes[1].1.handle_closed(&a, *epoch);
    let second = granted(&exchange(&mut nodes, &[]));
    assert_eq!(second, Tenure { epoch: *epoch, turn: 0 });
    assert_eq!((nodes[1].1.stats(), nodes[2].1.stats().owned), (Stats::default(), 1));
}

#[test]
fn an_owner_that_does_not_answer_keeps_its_client() {
    let mut nodes = start(2, &Limits::default());
    nodes[1].1.claim(NOW, RequestId(1), &client("a"));
    let tenure = granted(&exchange(&mut nodes, &[]));
    nodes[0].1.claim(NOW, RequestId(2), &client("a"));
    assert_eq!(exchange(&mut nodes, &[member(2)]), []);
    let deadline = nodes[0].1.next_deadline().expect("it waits");
    assert_eq!(deadline, NOW + Limits::default().claim_timeout);
    nodes[0].1.handle_deadline(deadline);
    let refused = Output::Refused { request: RequestId(2), refusal: Refusal::Unavailable };
    assert_eq!(exchange(&mut nodes, &[]), [(1, refused)]);
    assert_eq!(nodes[0].1.stats().records, 1);
    nodes[1].1.release(&client("a"), tenure);
    assert_eq!(exchange(&mut nodes, &[]), []);
    assert_eq!(nodes[0].1.stats(), Stats::default());
}

#[test]
fn claims_that_wait_are_bounded() {
    let limits = Limits { claims_pending_max: 1, ..Limits::default() };
    let mut nodes = start(2, &limits);
    nodes[1].1.claim(NOW, RequestId(1), &client("a"));
    nodes[1].1.claim(NOW, RequestId(2), &client("b"));
    nodes[1].1.claim(NOW, RequestId(3), &client("a"));
    let outputs = exchange(&mut nodes, &[]);
    let refused = |request, refusal| (2, Output::Refused { request: RequestId(request), refusal });
    assert_eq!(outputs[..2], [refused(2, Refusal::Busy), refused(1, Refusal::Superseded)]);
    granted(&outputs[2..]);
    assert_eq!(Refusal::Busy.reason(), ReasonCode::ServerBusy);
    assert_eq!(Refusal::Unavailable.reason(), ReasonCode::ServerUnavailable);
}

#[test]
fn a_fenced_node_serves_nobody() {
    let mut nodes = start(2, &Limits::default());
    nodes[1].1.claim(NOW, RequestId(1), &client("a"));
    nodes[1].1.handle_fenced();
    nodes[1].1.claim(NOW, RequestId(2), &client("b"));
    let refused =
        |request| (2, Output::Refused { request: RequestId(request), refusal: Refusal::Unavailable });
    assert_eq!(exchange(&mut nodes, &[]), [refused(1), refused(2)]);
}

#[test]
fn a_demand_that_comes_late_takes_nothing_from_a_later_claim() {
    let c = client("c");
    let mut net = Held { nodes: start(4, &Limits::default()), links: BTreeMap::new(), outputs: Vec::new() };
    // Node 2 has the client; nodes 3 and 4 claim it, and then a CONNECT comes to node 2.
    net.claim(2, 1, &c);
    [(2, 1), (1, 2), (2, 1)].into_iter().for_each(|(from, to)| net.deliver(from, to));
    net.claim(3, 2, &c);
    net.deliver(3, 1);
    net.claim(4, 3, &c);
    net.deliver(4, 1);
    net.deliver(1, 3);
    net.deliver(3, 2);
    let outputs = net.take();
    let closed = outputs.into_iter().find_map(|(node, output)| match output {
        Output::Close { epoch, .. } => Some((node, epoch)),
        _ => None,
    });
    let Some((2, epoch)) = closed else { panic!("node 2 closes its connection: {closed:?}") };
    net.claim(2, 4, &c);
    // Node 3 gives up, and node 4 is granted the client; its demand is long on its way.
    net.cancel(3, 2, &c);
    [(3, 1), (1, 4), (4, 1), (3, 2)].into_iter().for_each(|(from, to)| net.deliver(from, to));
    net.node(2).handle_closed(&c, epoch);
    net.deliver(2, 1);
    // Node 4 gives up too, and node 2 is granted the client, before the demand comes.
    net.cancel(4, 3, &c);
    [(4, 1), (1, 2)].into_iter().for_each(|(from, to)| net.deliver(from, to));
    let outputs = net.take();
    let [(2, Output::Granted { request: RequestId(4), .. })] = &outputs[..] else { panic!("{outputs:?}") };
    net.deliver(4, 2);
    assert_eq!(net.take(), [], "nothing is closed");
    assert_eq!(net.node(2).stats().owned, 1);
}

/// Nodes whose links deliver only when they are told to.
struct Held {
    nodes: Vec<(Member, Registry)>,
    links: BTreeMap<(u64, u64), VecDeque<Bytes>>,
    outputs: Vec<(u64, Output)>,
}

impl Held {
    fn node(&mut self, node: u64) -> &mut Registry {
        &mut self.nodes.iter_mut().find(|(me, _)| me.node.0 == node).expect("there is such a node").1
    }

    fn claim(&mut self, node: u64, request: u64, client: &ClientId) {
        self.node(node).claim(NOW, RequestId(request), client);
    }

    fn cancel(&mut self, node: u64, request: u64, client: &ClientId) {
        self.node(node).cancel(client, RequestId(request));
    }

    /// Delivers all that is on a link now.
    fn deliver(&mut self, from: u64, to: u64) {
        self.drain();
        for bytes in self.links.remove(&(from, to)).unwrap_or_default() {
            self.node(to).handle_message(member(from), &bytes).expect("it was sent by a node");
        }
    }

    /// What the shells have been told since this was asked last.
    fn take(&mut self) -> Vec<(u64, Output)> {
        self.drain();
        std::mem::take(&mut self.outputs)
    }

    fn drain(&mut self) {
        for (me, registry) in &mut self.nodes {
            while let Some(output) = registry.poll_output() {
                match output {
                    Output::Send { to, bytes } => {
                        self.links.entry((me.node.0, to.node.0)).or_default().push_back(bytes);
                    }
                    other => self.outputs.push((me.node.0, other)),
                }
            }
        }
    }
}
