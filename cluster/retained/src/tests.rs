//! Replicas one call at a time.

use std::sync::Arc;

use bytes::Bytes;
use flotilla_mqtt::{Message, QoS, Timestamp, session::ClientId};
use flotilla_state::{Incarnation, Member, NodeId, ShardEpoch, ShardId};
use proptest::prelude::*;

use crate::{Answer, HandleError, Limits, Outcome, Replica, RequestId, SetError};

const NOW: Timestamp = Timestamp::from_millis(1_000);
const SHARD: ShardId = ShardId(0);

fn member(node: u64) -> Member {
    Member { node: NodeId(node), incarnation: Incarnation(node) }
}

fn replica(messages_max: usize) -> Replica {
    Replica::new(1, Arc::new(|_| SHARD), Limits { messages_max, bytes_max: usize::MAX })
}

fn message(topic: &str, payload: &str) -> Arc<Message> {
    Arc::new(Message {
        topic: topic.into(),
        properties: Bytes::new(),
        payload: payload.to_owned().into(),
        qos: QoS::AtLeastOnce,
        retain: true,
        expires_at: None,
        publisher: ClientId::new("publisher"),
    })
}

/// Members 1.., of which the first is the registrar, with nothing on its way.
struct Cluster(Vec<Replica>);

impl Cluster {
    fn new(nodes: u64, messages_max: usize) -> Self {
        let mut cluster = Self((0..nodes).map(|_| replica(messages_max)).collect());
        for (replica, me) in cluster.0.iter_mut().zip(1..) {
            replica.admit(member(me));
            for other in 1..=nodes {
                replica.member_joined(member(other));
            }
            replica.place(SHARD, ShardEpoch(100), Some(member(1)), NOW);
        }
        cluster.deliver(NOW);
        cluster
    }

    fn node(&mut self, node: usize) -> &mut Replica {
        &mut self.0[node - 1]
    }

    fn deliver(&mut self, now: Timestamp) {
        loop {
            let mut is_quiet = true;
            for index in 0..self.0.len() {
                let from = member(index as u64 + 1);
                while let Some((to, bytes)) = self.0[index].poll_transmit(now) {
                    is_quiet = false;
                    let to = usize::try_from(to.node.0).expect("small");
                    self.node(to).handle(from, &bytes, now).expect("understood");
                }
            }
            if is_quiet {
                return;
            }
        }
    }

    #[track_caller]
    fn expect_everywhere(&self, now: Timestamp, expected: &[&str]) {
        for replica in &self.0 {
            assert_eq!(found(replica, now), expected);
        }
    }
}

/// `topic=payload` of everything, also of what is `$SYS`.
fn found(replica: &Replica, now: Timestamp) -> Vec<String> {
    let mut found = Vec::new();
    for filter in ["#", "$SYS/#"] {
        let mut visit = |message: &Arc<Message>| {
            found.push(format!("{}={}", message.topic, String::from_utf8_lossy(&message.payload)));
        };
        replica.page(filter, None, usize::MAX, now, &mut visit);
    }
    found
}

fn set(replica: &mut Replica, message: &Arc<Message>) -> RequestId {
    replica.set(message, NOW).expect("a member").expect("not its own")
}

#[test]
fn a_cluster_of_one_answers_at_once() {
    let mut alone = Cluster::new(1, 10);
    assert!(alone.node(1).is_synced());
    let request = set(alone.node(1), &message("a", "1"));
    assert_eq!(alone.node(1).poll_answer(), Some(Answer { request, outcome: Outcome::Done }));
    alone.expect_everywhere(NOW, &["a=1"]);
}

#[test]
fn a_change_is_answered_when_every_member_has_made_it_or_ended() {
    let mut cluster = Cluster::new(3, 10);
    let request = set(cluster.node(2), &message("a", "1"));
    let (to, bytes) = cluster.node(2).poll_transmit(NOW).expect("it asks");
    assert_eq!(to, member(1));
    cluster.node(1).handle(member(2), &bytes, NOW).expect("understood");
    while let Some((to, bytes)) = cluster.node(1).poll_transmit(NOW) {
        if to == member(2) {
            cluster.node(2).handle(member(1), &bytes, NOW).expect("understood");
        }
    }
    cluster.deliver(NOW);
    assert_eq!(cluster.node(2).poll_answer(), None, "the third has not made it");
    cluster.node(1).member_ended(member(3), NOW);
    cluster.deliver(NOW);
    assert_eq!(cluster.node(2).poll_answer(), Some(Answer { request, outcome: Outcome::Done }));
}

#[test]
fn an_empty_payload_deletes_everywhere() {
    // [MQTT-3.3.1-6]
    let mut cluster = Cluster::new(3, 10);
    set(cluster.node(3), &message("a", "1"));
    set(cluster.node(3), &message("b", "1"));
    cluster.deliver(NOW);
    cluster.expect_everywhere(NOW, &["a=1", "b=1"]);
    set(cluster.node(2), &message("a", ""));
    cluster.deliver(NOW);
    cluster.expect_everywhere(NOW, &["b=1"]);
}

#[test]
fn the_registrar_refuses_what_has_no_room() {
    let mut cluster = Cluster::new(2, 1);
    set(cluster.node(2), &message("a", "1"));
    let refused = set(cluster.node(2), &message("b", "1"));
    set(cluster.node(2), &message("a", "2"));
    cluster.deliver(NOW);
    cluster.expect_everywhere(NOW, &["a=2"]);
    let answers: Vec<_> = std::iter::from_fn(|| cluster.node(2).poll_answer()).collect();
    assert_eq!(answers.len(), 3);
    assert!(answers.contains(&Answer { request: refused, outcome: Outcome::Refused }));
}

#[test]
fn the_brokers_own_messages_stay_on_their_node() {
    let mut cluster = Cluster::new(2, 10);
    let own = Arc::new(Message { publisher: None, ..(*message("$SYS/uptime", "1")).clone() });
    assert_eq!(cluster.node(2).set(&own, NOW), Ok(None));
    assert_eq!(cluster.node(2).poll_transmit(NOW), None);
    assert_eq!((found(cluster.node(1), NOW), found(cluster.node(2), NOW).len()), (vec![], 1));
}

#[test]
fn messages_expire_everywhere() {
    let mut cluster = Cluster::new(3, 10);
    let later = Timestamp::from_millis(3_000);
    let expiring = Message { expires_at: Some(later), ..(*message("a", "1")).clone() };
    set(cluster.node(2), &Arc::new(expiring.clone()));
    cluster.deliver(NOW);
    cluster.expect_everywhere(NOW, &["a=1"]);
    cluster.expect_everywhere(later, &[]);
    for node in 1..=3 {
        assert_eq!((cluster.node(node).expire(later), cluster.node(node).len()), (1, 0));
    }
    // It comes when its time is over: then it leaves nothing behind, as if it had come before.
    set(cluster.node(1), &message("a", "2"));
    cluster.node(2).set(&Arc::new(expiring), later).expect("a member");
    cluster.deliver(later);
    cluster.expect_everywhere(later, &[]);
    assert_eq!(cluster.node(1).len(), 0);
}

#[test]
fn who_comes_back_gets_what_changed_and_loses_what_was_deleted() {
    let mut cluster = Cluster::new(2, 100);
    for number in 0..20 {
        set(cluster.node(1), &message(&number.to_string(), "old"));
    }
    cluster.deliver(NOW);
    cluster.node(1).member_ended(member(2), NOW);
    set(cluster.node(1), &message("7", ""));
    set(cluster.node(1), &message("8", "new"));
    set(cluster.node(1), &message("more", "new"));
    let back = Member { node: NodeId(2), incarnation: Incarnation(200) };
    cluster.node(1).member_joined(back);
    cluster.node(2).admit(back);
    cluster.node(2).member_joined(member(1));
    cluster.node(2).place(SHARD, ShardEpoch(100), Some(member(1)), NOW);
    assert!(!cluster.node(2).is_synced());
    for _ in 0..100 {
        while let Some((_, bytes)) = cluster.node(2).poll_transmit(NOW) {
            cluster.node(1).handle(back, &bytes, NOW).expect("understood");
        }
        while let Some((_, bytes)) = cluster.node(1).poll_transmit(NOW) {
            cluster.node(2).handle(member(1), &bytes, NOW).expect("understood");
        }
    }
    assert!(cluster.node(2).is_synced());
    let expected = found(cluster.node(1), NOW);
    assert_eq!((expected.len(), found(cluster.node(2), NOW)), (20, expected));
}

#[test]
fn who_is_not_a_member_changes_nothing_and_says_what_is_unknown() {
    let mut cluster = Cluster::new(2, 10);
    let request = set(cluster.node(2), &message("a", "1"));
    cluster.node(2).fence();
    assert_eq!(cluster.node(2).poll_answer(), Some(Answer { request, outcome: Outcome::Unknown }));
    assert_eq!(cluster.node(2).poll_transmit(NOW), None);
    assert_eq!(cluster.node(2).set(&message("a", "1"), NOW), Err(SetError::NotAMember));
    assert!(!cluster.node(2).is_synced());
}

#[test]
fn what_waits_for_the_registrar_is_bounded() {
    let mut cluster = Cluster::new(2, 10);
    let large = message("a", &"x".repeat(40 << 20));
    set(cluster.node(2), &large);
    assert_eq!(cluster.node(2).set(&large, NOW), Err(SetError::Busy));
    cluster.deliver(NOW);
    set(cluster.node(2), &large);
}

#[test]
fn what_no_registrar_sends_is_refused() {
    let mut cluster = Cluster::new(2, 10);
    set(cluster.node(1), &message("a", "1"));
    let (_, update) = cluster.node(1).poll_transmit(NOW).expect("an update");
    cluster.node(2).handle(member(1), &update, NOW).expect("understood");
    let again = cluster.node(2).handle(member(1), &update, NOW);
    assert!(matches!(again, Err(HandleError::OutOfOrder)), "{again:?}");
    let other_way = cluster.node(1).handle(member(2), &update, NOW);
    assert!(matches!(other_way, Err(HandleError::Invalid("receiver"))), "{other_way:?}");
    let unknown = cluster.node(1).handle(member(2), &[0x08, 0x02], NOW);
    assert!(matches!(unknown, Err(HandleError::UnknownFormat(2))), "{unknown:?}");
    cluster.node(2).handle(member(9), &[0x08, 0x02], NOW).expect("passed over: it is no member");
}

proptest! {
    #[test]
    fn bytes_that_are_damaged_do_no_harm(
        frame: prop::sample::Index,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        bytes: Vec<u8>,
    ) {
        // Every kind of frame between two nodes, the second of which has other messages than the first.
        let mut cluster = Cluster::new(2, 10);
        for number in 0..4 {
            set(cluster.node(1), &message(&number.to_string(), "1"));
        }
        cluster.deliver(NOW);
        cluster.node(1).member_ended(member(2), NOW);
        set(cluster.node(1), &message("2", ""));
        cluster.node(1).member_joined(member(2));
        cluster.node(2).place(SHARD, ShardEpoch(101), Some(member(1)), NOW);
        set(cluster.node(2), &message("5", "1"));
        cluster.node(1).place(SHARD, ShardEpoch(101), Some(member(1)), NOW);
        let damaged = frame.index(40);
        for count in 0..40 {
            for (from, to) in [(1, 2), (2, 1)] {
                let Some((_, sent)) = cluster.node(from).poll_transmit(NOW) else { continue };
                let mut sent = sent.to_vec();
                if count == damaged {
                    for (index, byte) in &damage {
                        let index = index.index(sent.len());
                        sent[index] = *byte;
                    }
                }
                let _ = cluster.node(to).handle(member(from as u64), &sent, NOW);
                let _ = cluster.node(to).handle(member(from as u64), &bytes, NOW);
            }
        }
    }
}
