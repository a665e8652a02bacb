//! Shared subscriptions of sessions that outlive their connections: the group has one backlog, in its shard.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use crate::{
    fleet::{Cluster, Node, PATIENCE, fence, next_publish, number, poll},
    harness::{Client, Connect, Packet, Property, Version, ack, property_id},
};

#[test]
fn what_comes_while_all_members_are_away_waits_for_them() {
    // F01, F06: also when the leaders of the shards die, one after the other, and then all nodes at once.
    let cluster = Cluster::start(3);
    let mut publisher = cluster.node(1).connect_soon(&persistent("publisher"));
    let mut members = join(&cluster, "$share/g/jobs/+", 1, &[0, 2], &mut publisher);
    for number in 0..20 {
        publisher.publish(&format!("jobs/{}", number % 3), number.to_string(), 1);
    }
    assert_eq!(collect(&mut members, 20), each_once(0..20));
    members.into_iter().for_each(Client::disconnect);
    let mut sent = 20;
    for victim in 0..3 {
        let mut publisher = cluster.node((victim + 1) % 3).connect_soon(&persistent("publisher"));
        publish_all(&mut publisher, "jobs/0", sent..sent + 10, 1);
        cluster.node(victim).kill();
        let mut publisher = cluster.node((victim + 1) % 3).connect_soon(&persistent("publisher"));
        publish_all(&mut publisher, "jobs/0", sent + 10..sent + 20, 1);
        sent += 20;
        cluster.node(victim).start();
        cluster.await_formed();
    }
    cluster.nodes().iter().for_each(Node::kill);
    cluster.nodes().iter().for_each(Node::start);
    cluster.await_formed();
    let mut back = [come_back(&cluster, 1, "member-0")];
    assert_eq!(collect(&mut back, sent - 20), each_once(20..sent));
    let mut publisher = cluster.node(0).connect_soon(&persistent("publisher"));
    publisher.publish("jobs/0", "0", 1);
    assert_eq!(collect(&mut back, 1), each_once(0..1), "it is a member as before");
}

#[test]
fn what_a_member_has_not_acknowledged_goes_to_another() {
    // F64: its connection ends, by a DISCONNECT, by itself, or with its node; its session stays.
    let cluster = Cluster::start(3);
    let victim = cluster.follower();
    let stays = (victim + 1) % 3;
    let mut publisher = cluster.node(stays).connect_soon(&persistent("publisher"));
    for end in [End::Disconnect, End::Vanish, End::Kill] {
        let mut gone = join(&cluster, "$share/g/jobs", 1, &[victim], &mut publisher).remove(0);
        publish_all(&mut publisher, "jobs", 0..20, 1);
        assert_eq!(gone.expect_any_publish().qos, 1);
        let mut heir = cluster.node(stays).connect_soon(&persistent("heir"));
        assert_eq!(heir.subscribe("$share/g/jobs", 1), 1);
        assert_eq!(next_publish(&mut heir, Duration::from_millis(200)), None, "they are lent");
        // It still has others to tell.
        drain(&mut gone);
        match end {
            End::Disconnect => gone.disconnect(),
            End::Vanish => gone.vanish(),
            End::Kill => cluster.node(victim).kill(),
        }
        assert_eq!(collect(std::slice::from_mut(&mut heir), 20), each_once(0..20));
        heir.unsubscribe(&["$share/g/jobs"]);
        heir.disconnect();
    }
}

#[test]
fn a_message_of_qos_2_belongs_to_the_member_that_began_with_it() {
    // MQTT-4.8.2-5, F03: also when its node dies.
    let cluster = Cluster::start(3);
    let victim = cluster.follower();
    let stays = (victim + 1) % 3;
    let mut publisher = cluster.node(stays).connect_soon(&persistent("publisher"));
    let mut first = join(&cluster, "$share/g/jobs", 2, &[victim], &mut publisher).remove(0);
    publisher.publish("jobs", "0", 2);
    let half = first.expect_publish("jobs", "0");
    first.send(&ack(0x50, half.id));
    assert!(matches!(first.receive(), Packet::PubRel { id, reason: 0 } if id == half.id));
    publisher.publish("jobs", "1", 2);
    first.expect_publish("jobs", "1");
    cluster.node(victim).kill();
    cluster.await_seen(stays, victim, "down");

    let mut second = cluster.node(stays).connect_soon(&persistent("second"));
    assert_eq!(second.subscribe("$share/g/jobs", 2), 2);
    fence(&mut second, &mut publisher);
    publish_all(&mut publisher, "jobs", 2..12, 2);
    assert_eq!(collect(std::slice::from_mut(&mut second), 10), each_once(2..12));
    let mut first = come_back(&cluster, stays, "member-0");
    assert!(matches!(first.receive(), Packet::PubRel { id, reason: 0 } if id == half.id));
    first.send(&ack(0x70, half.id));
    assert_eq!(collect(std::slice::from_mut(&mut first), 1), each_once(1..2));
    cluster.until("nothing is left", || (queued(&cluster)? == 0).then_some(()));
    assert!(collect(&mut [first, second], 0).is_empty(), "and nothing came twice");
}

#[test]
fn a_member_lends_no_more_than_it_may_have_in_flight() {
    let cluster = Cluster::start(3);
    let mut publisher = cluster.node(1).connect_soon(&persistent("publisher"));
    let narrow = persistent("narrow").with(Property::two(property_id::RECEIVE_MAXIMUM, 2));
    let mut narrow = cluster.node(0).connect_soon(&narrow);
    assert_eq!(narrow.subscribe("$share/g/jobs", 1), 1);
    let mut wide = join(&cluster, "$share/g/jobs", 1, &[2], &mut publisher);
    publish_all(&mut publisher, "jobs", 0..40, 1);
    let held = [narrow.expect_any_publish(), narrow.expect_any_publish()];
    let others = collect(&mut wide, 38);
    assert_eq!(others.len(), 38, "all but two");
    assert!(held.iter().all(|publish| !others.contains_key(&number(publish))));
    held.iter().for_each(|publish| narrow.acknowledge(publish));
    cluster.until("nothing is left", || (queued(&cluster)? == 0).then_some(()));
    assert!(collect(&mut [narrow], 0).is_empty());
}

#[test]
fn members_without_a_session_of_their_own_take_their_share() {
    let cluster = Cluster::start(3);
    let mut publisher = cluster.node(1).connect_soon(&persistent("publisher"));
    let mut members = join(&cluster, "$share/g/jobs", 1, &[0], &mut publisher);
    let mut transient = cluster.node(2).client("transient");
    assert_eq!(transient.subscribe("$share/g/jobs", 1), 1);
    fence(&mut transient, &mut publisher);
    publish_all(&mut publisher, "jobs", 0..60, 1);
    members.push(transient);
    let received: Vec<BTreeMap<u32, usize>> = collect_each(&mut members, 60);
    assert!(received.iter().all(|of_one| !of_one.is_empty()), "both get some: {received:?}");
    let all: usize = received.iter().map(BTreeMap::len).sum();
    assert_eq!(all, 60, "and nothing comes twice");
    // QoS 0 goes to who is there.
    members.remove(0).disconnect();
    cluster.until("the one that is away is passed over", || {
        publisher.publish("jobs", "0", 0);
        let came = next_publish(&mut members[0], Duration::from_millis(200));
        came.is_some_and(|publish| publish.qos == 0).then_some(())
    });
}

#[test]
fn the_last_member_takes_the_backlog_along() {
    let cluster = Cluster::start(3);
    let mut publisher = cluster.node(1).connect_soon(&persistent("publisher"));
    let mut members = join(&cluster, "$share/g/jobs", 1, &[0, 2], &mut publisher);
    members[0].unsubscribe(&["$share/g/jobs"]);
    let gone = members.pop().expect("there are two");
    gone.disconnect();
    publish_all(&mut publisher, "jobs", 0..5, 1);
    cluster.until("they wait", || (queued(&cluster)? == 5).then_some(()));
    // It begins anew, and so its session ends, and its subscriptions with it [MQTT-3.1.2-4].
    let again = cluster.node(1).connect_soon(&persistent("member-1").clean());
    cluster.until("nothing is left", || (queued(&cluster)? == 0).then_some(()));
    cluster.until("nobody wants it", || (publisher.publish("jobs", "5", 1) == 0x10).then_some(()));
    drop(again);
}

/// How a connection ends.
#[derive(Clone, Copy)]
enum End {
    Disconnect,
    Vanish,
    Kill,
}

/// A client whose session outlives its connection.
fn persistent(client_id: &str) -> Connect {
    Connect::new(Version::V5, client_id).persistent()
}

/// `member-0`... on these nodes; the group keeps what this publisher sends from now on.
#[track_caller]
fn join(cluster: &Cluster, filter: &str, qos: u8, nodes: &[usize], publisher: &mut Client) -> Vec<Client> {
    let join = |(number, node): (usize, &usize)| {
        let mut member = cluster.node(*node).connect_soon(&persistent(&format!("member-{number}")));
        assert_eq!(member.subscribe(filter, qos), qos);
        fence(&mut member, publisher);
        member
    };
    nodes.iter().enumerate().map(join).collect()
}

#[track_caller]
fn come_back(cluster: &Cluster, node: usize, client_id: &str) -> Client {
    let client = cluster.node(node).connect_soon(&persistent(client_id));
    client.assert_resumed();
    client
}

/// These numbers, one after the other.
#[track_caller]
fn publish_all(publisher: &mut Client, topic: &str, numbers: Range<u32>, qos: u8) {
    for number in numbers {
        let reason = publisher.publish(topic, number.to_string(), qos);
        assert!(reason < 0x80, "{number}: {reason:#04x}");
    }
}

/// Takes what has come, and says nothing.
fn drain(member: &mut Client) {
    while member.next_event(Duration::from_millis(50)).is_some() {}
}

/// How often each number has come, once so many different ones have come in all.
#[track_caller]
fn collect(members: &mut [Client], count: u32) -> BTreeMap<u32, usize> {
    let mut all = BTreeMap::new();
    for (number, times) in collect_each(members, count).into_iter().flatten() {
        *all.entry(number).or_default() += times;
    }
    all
}

/// The same for each of them.
#[track_caller]
fn collect_each(members: &mut [Client], count: u32) -> Vec<BTreeMap<u32, usize>> {
    let wanted = usize::try_from(count).expect("it is small");
    let mut received = vec![BTreeMap::new(); members.len()];
    let _ = poll(PATIENCE, || {
        for (member, received) in members.iter_mut().zip(&mut received) {
            while let Some(publish) = next_publish(member, Duration::from_millis(20)) {
                *received.entry(number(&publish)).or_insert(0) += 1;
            }
        }
        (received.iter().map(BTreeMap::len).sum::<usize>() >= wanted).then_some(())
    });
    received
}

fn each_once(numbers: Range<u32>) -> BTreeMap<u32, usize> {
    numbers.map(|number| (number, 1)).collect()
}

/// Messages in all inboxes and backlogs.
fn queued(cluster: &Cluster) -> Option<u64> {
    let shards = cluster.node(1).ctl(&["shards", "list", "--json"]);
    let shards: Vec<serde_json::Value> = serde_json::from_slice(&shards.stdout).ok()?;
    shards.iter().map(|shard| shard["replica"]["queued_messages"].as_u64()).sum()
}
