//! Single calls, with one node or two.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use flotilla_mqtt::{
    Message, QoS, ReasonCode, Timestamp,
    session::{ClientId, SessionExpiry},
};
use flotilla_registry::{
    KeptWill, Limits, Output, Refusal, Registry, RequestId, Source, Stats, Tenure, View,
};
use flotilla_state::{Incarnation, LogIndex, Member, NodeId, Placement, ShardEpoch, ShardRing};

const NOW: Timestamp = Timestamp::from_millis(1_000);

fn member(node: u64) -> Member {
    Member { node: NodeId(node), incarnation: Incarnation(node) }
}

fn client(text: &str) -> ClientId {
    ClientId::new(text).expect("not empty")
}

fn will() -> KeptWill {
    let message = Message {
        topic: "gone".into(),
        properties: Bytes::new(),
        payload: Bytes::new(),
        qos: QoS::AtMostOnce,
        retain: false,
        expires_at: None,
        publisher: None,
    };
    let delay = Duration::ZERO;
    KeptWill { message: Arc::new(message), delay, expiry: None, session_expiry: SessionExpiry::Never }
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
            registry.handle_admitted(NOW, me);
            registry.handle_view(NOW, view.clone());
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
                registry.handle_message(NOW, from, &bytes).expect("it decodes");
            }
            other => outputs.push((from.node.0, other)),
        }
    }
    outputs
}

fn granted(outputs: &[(u64, Output)]) -> (Tenure, &Source) {
    match outputs {
        [(_, Output::Granted { tenure, source, .. })] => (*tenure, source),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_node_alone_asks_nobody() {
    let mut nodes = start(1, &Limits::default());
    nodes[0].1.claim(NOW, RequestId(1), &client("a"), false, Some(will()));
    let outputs = exchange(&mut nodes, &[]);
    let (tenure, source) = granted(&outputs);
    assert_eq!(*source, Source::Nowhere);
    nodes[0].1.claim(NOW, RequestId(2), &client("a"), false, None);
    let outputs = exchange(&mut nodes, &[]);
    let (again, source) = granted(&outputs);
    assert_eq!(*source, Source::Here);
    assert!(again > tenure);
    // The end of a session that another one has replaced is no news.
    nodes[0].1.release(NOW, &client("a"), tenure);
    assert_eq!(nodes[0].1.stats().owned, 1);
    nodes[0].1.release(NOW, &client("a"), again);
    assert_eq!(nodes[0].1.stats(), Stats::default());
}

#[test]
fn a_will_is_kept_before_its_client_is_served() {
    let mut nodes = start(3, &Limits::default());
    // The registrar's own client: the second node keeps its will, and says so.
    nodes[0].1.claim(NOW, RequestId(1), &client("a"), false, Some(will()));
    assert_eq!(exchange(&mut nodes, &[member(2)]), []);
    nodes[0].1.handle_deadline(NOW + Duration::from_secs(10));
    let refused = Output::Refused { request: RequestId(1), refusal: Refusal::Unavailable };
    assert_eq!(exchange(&mut nodes, &[]), [(1, refused)]);
    nodes[0].1.claim(NOW, RequestId(2), &client("a"), false, Some(will()));
    granted(&exchange(&mut nodes, &[]));
    assert_eq!((nodes[1].1.stats().wills, nodes[2].1.stats().wills), (1, 1));
}

#[test]
fn an_owner_that_does_not_answer_keeps_its_client() {
    let mut nodes = start(2, &Limits::default());
    nodes[1].1.claim(NOW, RequestId(1), &client("a"), false, None);
    let (tenure, _) = granted(&exchange(&mut nodes, &[])).to_owned();
    nodes[0].1.claim(NOW, RequestId(2), &client("a"), false, None);
    assert_eq!(exchange(&mut nodes, &[member(2)]), []);
    let deadline = nodes[0].1.next_deadline().expect("it waits");
    assert_eq!(deadline, NOW + Limits::default().claim_timeout);
    nodes[0].1.handle_deadline(deadline);
    let refused = Output::Refused { request: RequestId(2), refusal: Refusal::Unavailable };
    assert_eq!(exchange(&mut nodes, &[]), [(1, refused)]);
    assert_eq!(nodes[0].1.stats().records, 1);
    nodes[1].1.release(NOW, &client("a"), tenure);
    assert_eq!(exchange(&mut nodes, &[]), []);
    assert_eq!(nodes[0].1.stats(), Stats::default());
}

#[test]
fn claims_that_wait_are_bounded() {
    let limits = Limits { claims_pending_max: 1, ..Limits::default() };
    let mut nodes = start(2, &limits);
    nodes[1].1.claim(NOW, RequestId(1), &client("a"), false, None);
    nodes[1].1.claim(NOW, RequestId(2), &client("b"), false, None);
    nodes[1].1.claim(NOW, RequestId(3), &client("a"), false, None);
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
    nodes[1].1.claim(NOW, RequestId(1), &client("a"), false, None);
    nodes[1].1.handle_fenced();
    nodes[1].1.claim(NOW, RequestId(2), &client("b"), false, None);
    let refused =
        |request| (2, Output::Refused { request: RequestId(request), refusal: Refusal::Unavailable });
    assert_eq!(exchange(&mut nodes, &[]), [refused(1), refused(2)]);
}
