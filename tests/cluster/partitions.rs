//! Broken networks and stopped processes: P7, and the rows F09, F18 to F25, F27, F28, F30 and F31.
//!
//! Whatever is broken: who is cut off from a majority acknowledges nothing and lets its clients go, the others serve, and when
//! the network is whole again, so is the cluster, without a restart and without an operator.

use std::time::Duration;

use crate::{
    fleet::{Cluster, Ear, Traffic, fence, in_own_network, number, numbers, receive},
    harness::{Client, Connect, Event, Packet, Publish, Version, client::NotConnected},
};

#[test]
fn a_follower_that_is_cut_off_lets_its_clients_go_and_comes_back() {
    // F19 and P7.
    in_own_network(|| {
        let cluster = Cluster::start(3);
        let lost = cluster.follower();
        check_minority(&cluster, &[lost], &others(3, &[lost]));
    });
}

#[test]
fn a_leader_that_is_cut_off_lets_its_clients_go_and_another_leads() {
    // F18 and P7.
    in_own_network(|| {
        let cluster = Cluster::start(3);
        let lost = cluster.leader();
        check_minority(&cluster, &[lost], &others(3, &[lost]));
    });
}

#[test]
fn three_of_five_serve_and_two_do_not() {
    // F20, with the leader on the smaller side. A shard goes on where most of its replicas are: with three, the two may have
    // taken one away.
    in_own_network(|| {
        let cluster = Cluster::with(5, &[("cluster.replicas", "5")]);
        let minority = [cluster.leader(), cluster.follower()];
        check_minority(&cluster, &minority, &others(5, &minority));
    });
}

#[test]
fn nobody_serves_when_everybody_is_alone() {
    // F21.
    in_own_network(|| {
        let cluster = Cluster::start(3);
        let mut clients: Vec<Client> =
            (0..3).map(|node| cluster.node(node).client(&format!("c{node}"))).collect();
        (0..3).for_each(|number| cluster.isolate(number));
        for (node, client) in clients.iter_mut().enumerate() {
            client.expect_disconnect(0x89);
            await_refusal(&cluster, node);
            assert!(!cluster.node(node).is_ready());
        }
        cluster.heal();
        cluster.await_formed();
        assert_serves(&cluster, &[0, 1, 2]);
    });
}

#[test]
fn a_ring_in_which_everybody_sees_another_majority_stays_safe() {
    // F22: each of five sees its two neighbours only.
    in_own_network(|| {
        let cluster = Cluster::start(5);
        for number in 0..5 {
            cluster.cut(number, (number + 2) % 5);
        }
        let term = || (0..5).filter_map(|node| cluster.node(node).status()).map(|status| status.term).max();
        let before = term();
        // Progress or refusal: nobody may be in doubt about who leads a term.
        // For some elections, and longer than a lease.
        cluster.stays(Duration::from_secs(8), "at most one leads a term", || {
            let said = (0..5).filter_map(|node| cluster.node(node).status());
            let leaders: Vec<(u64, String)> =
                said.filter_map(|status| Some((status.term, status.leader?))).collect();
            leaders.iter().all(|(term, leader)| leaders.iter().all(|(t, l)| t != term || l == leader))
        });
        cluster.heal();
        cluster.await_formed();
        let grown = term().unwrap_or_default().saturating_sub(before.unwrap_or_default());
        assert!(grown < 12, "{grown} elections in 8 seconds");
        assert_serves(&cluster, &[0, 1, 2, 3, 4]);
    });
}

#[test]
fn a_leader_whom_nobody_hears_is_replaced() {
    // F23, from the leader to all.
    in_own_network(|| check_one_way(|cluster, leader, other| cluster.cut_one_way(leader, other)));
}

#[test]
fn a_leader_who_hears_nobody_is_replaced() {
    // F23, from all to the leader.
    in_own_network(|| check_one_way(|cluster, leader, other| cluster.cut_one_way(other, leader)));
}

#[test]
fn two_nodes_that_reach_each_other_only_through_a_third_lose_nothing_silently() {
    // F24: one link is cut, neither of its ends leads.
    in_own_network(|| {
        let cluster = Cluster::start(3);
        let bridge = cluster.leader();
        let ends = others(3, &[bridge]);
        let mut subscriber = cluster.node(ends[0]).client("subscriber");
        assert_eq!(subscriber.subscribe("bridge", 1), 1);
        let mut publisher = cluster.node(ends[1]).client("publisher");
        fence(&mut subscriber, &mut publisher);
        cluster.cut(ends[0], ends[1]);
        // It does not get there, so that it is not acknowledged; and its sender does not wait for ever.
        let publish = Publish::new("bridge", "7").qos(1, 700);
        publisher.send(&publish.bytes(Version::V5));
        let answer = publisher.next_event(crate::fleet::PATIENCE);
        let refused = matches!(answer, Some(Event::Packet(Packet::Disconnect { reason: 0x89, .. })));
        assert!(refused, "{answer:?}");
        let suspected =
            |node: &usize| cluster.node(*node).status().is_some_and(|status| status.partition_suspected);
        cluster.until("an operator can see what is wrong", || ends.iter().any(suspected).then_some(()));
        let leaders: Vec<_> = ends
            .iter()
            .filter_map(|node| cluster.node(*node).status())
            .filter_map(|status| status.leader)
            .collect();
        assert!(leaders.windows(2).all(|pair| pair[0] == pair[1]), "one leads: {leaders:?}");
        cluster.heal();
        // It was not acknowledged and not lost either: the link goes on where it was cut.
        assert_eq!(numbers(&receive(&mut subscriber, 1)), [7]);
        cluster.await_formed();
        cluster.until("nothing is wrong any more", || (!ends.iter().any(suspected)).then_some(()));
        assert_serves(&cluster, &[0, 1, 2]);
    });
}

#[test]
fn a_link_that_comes_and_goes_loses_nothing_between_members_that_stay() {
    // F25, shortened: off for less than a lease, so that nobody is declared dead.
    in_own_network(|| {
        let cluster = Cluster::start(3);
        let leader = cluster.leader();
        let ends = others(3, &[leader]);
        let mut subscriber = cluster.node(ends[0]).client("subscriber");
        assert_eq!(subscriber.subscribe("flap", 1), 1);
        fence(&mut subscriber, &mut cluster.node(ends[1]).client("probe"));
        let files = cluster.node(ends[1]).open_files();
        let ear = Ear::start(subscriber);
        let traffic = Traffic::start(cluster.node(ends[1]), "flap");
        for _ in 0..5 {
            cluster.cut(ends[0], ends[1]);
            let before = ear.count();
            cluster.stays(Duration::from_millis(1_500), "both are members", || {
                cluster.node(ends[0]).is_running()
            });
            cluster.mend(ends[0], ends[1]);
            cluster.until("messages flow again", || (ear.count() > before).then_some(()));
        }
        let sent = traffic.stop();
        assert_eq!(ear.hear(sent).1, (0..sent).collect::<Vec<_>>(), "each once, in order");
        let grown = cluster.node(ends[1]).open_files().saturating_sub(files);
        assert!(grown < 20, "{grown} files more than before");
    });
}

#[test]
fn lost_packets_delay_messages_and_kill_nobody() {
    // F27.
    in_own_network(|| {
        let cluster = Cluster::start(3);
        let mut subscriber = cluster.node(0).client("subscriber");
        assert_eq!(subscriber.subscribe("lossy", 1), 1);
        fence(&mut subscriber, &mut cluster.node(1).client("probe"));
        let incarnations = || {
            let nodes = cluster.node(2).status().map(|status| status.nodes).unwrap_or_default();
            nodes.into_iter().map(|node| node.incarnation).collect::<Vec<_>>()
        };
        let before = incarnations();
        for (a, b) in [(0, 1), (1, 2), (0, 2)] {
            cluster.lose(5, a, b);
        }
        let ear = Ear::start(subscriber);
        let traffic = Traffic::start(cluster.node(1), "lossy");
        // Longer than the silence after which a node is declared down.
        cluster.stays(Duration::from_secs(8), "everybody is up", || {
            cluster.node(2).status().is_none_or(|status| status.nodes.iter().all(|node| node.status == "up"))
        });
        let sent = traffic.stop();
        assert!(sent > 0);
        assert_eq!(ear.hear(sent).1, (0..sent).collect::<Vec<_>>());
        cluster.heal();
        assert_eq!(incarnations(), before, "nobody was declared dead");
    });
}

#[test]
fn nodes_that_are_clogged_one_by_one_and_freed_in_another_order_come_together() {
    // F28.
    in_own_network(|| {
        let cluster = Cluster::start(5);
        for number in [0, 3, 1, 4, 2] {
            cluster.isolate(number);
            cluster.node(number).assert_alive();
        }
        (0..5).for_each(|node| await_refusal(&cluster, node));
        let mut free = Vec::new();
        for number in [2, 0, 4, 1, 3] {
            // It reaches those that are free already, and only these.
            free.iter().for_each(|other| cluster.mend(number, *other));
            free.push(number);
            cluster.node(number).assert_alive();
        }
        cluster.await_formed();
        assert_serves(&cluster, &[0, 1, 2, 3, 4]);
    });
}

#[test]
fn a_slow_link_holds_up_neither_heartbeats_nor_the_other_nodes() {
    // F31: a megabit a second from one node to another, and far more to send.
    in_own_network(|| {
        let cluster = Cluster::start(3);
        let leader = cluster.leader();
        let slow = others(3, &[leader])[0];
        let other = others(3, &[leader, slow])[0];
        let mut at_slow = cluster.node(slow).client("at-slow");
        let mut at_other = cluster.node(other).client("at-other");
        assert_eq!(at_slow.subscribe("bulk", 0), 0);
        assert_eq!(at_other.subscribe("bulk", 0), 0);
        let mut publisher = cluster.node(leader).client("publisher");
        fence(&mut at_slow, &mut publisher);
        fence(&mut at_other, &mut publisher);
        cluster.slow_down(125, leader, slow);
        let payload = vec![b'x'; 64 << 10];
        for _ in 0..200 {
            publisher.publish("bulk", &payload, 0);
            at_other.expect_publish("bulk", &payload);
        }
        // Longer than the silence after which a node is declared down.
        cluster.stays(Duration::from_secs(8), "the slow node stays a member", || {
            cluster.node(leader).status().is_none_or(|status| status.has(&cluster.node(slow).name(), "up"))
        });
        cluster.heal();
        cluster.await_formed();
    });
}

#[test]
fn a_leader_that_is_paused_steps_down_before_it_serves_again() {
    // F09.
    let cluster = Cluster::start(3);
    let paused = cluster.leader();
    let others = others(3, &[paused]);
    let mut client = cluster.node(paused).client("client");
    let mut subscriber = cluster.node(others[0]).client("subscriber");
    assert_eq!(subscriber.subscribe("woken", 1), 1);
    fence(&mut subscriber, &mut client);
    cluster.node(paused).pause();
    cluster.await_formed_of(&others);
    cluster.await_seen(others[0], paused, "down");
    // It reads this as soon as it wakes, and must not say that it is kept.
    client.send(&Publish::new("woken", "1").qos(1, 500).bytes(Version::V5));
    cluster.node(paused).resume();
    let answer = client.next_event(Duration::from_secs(10));
    let ended = matches!(answer, Some(Event::Closed | Event::Packet(Packet::Disconnect { .. })));
    assert!(ended, "a node that is not a member any more acknowledges nothing: {answer:?}");
    cluster.await_formed();
    assert_serves(&cluster, &[0, 1, 2]);
}

#[test]
fn a_follower_that_is_paused_does_not_hold_up_acknowledgements_for_ever() {
    // F10, for publishers of other nodes.
    let cluster = Cluster::start(3);
    let paused = cluster.follower();
    let others = others(3, &[paused]);
    let mut stuck = cluster.node(paused).client("stuck");
    assert_eq!(stuck.subscribe("held", 1), 1);
    let mut publisher = cluster.node(others[0]).client("publisher");
    fence(&mut stuck, &mut publisher);
    cluster.node(paused).pause();
    publisher.send(&Publish::new("held", "1").qos(1, 600).bytes(Version::V5));
    // The lease of a paused node lapses after five seconds, and what it has not taken is void.
    let answer = publisher.next_event(crate::fleet::PATIENCE);
    assert!(matches!(answer, Some(Event::Packet(Packet::PubAck { id: 600, .. }))), "{answer:?}");
    cluster.node(paused).resume();
    cluster.await_formed();
}

#[test]
fn one_client_on_both_sides_of_a_partition_is_one_client_after_it() {
    // F62 with a partition.
    in_own_network(|| {
        let cluster = Cluster::start(3);
        let lost = cluster.follower();
        let majority = others(3, &[lost]);
        let connect = Connect::new(Version::V5, "twin").persistent();
        let mut old = cluster.node(lost).connect(&connect);
        cluster.isolate(lost);
        // The majority may give the identifier away only when the old connection is surely gone.
        let mut new = cluster.node(majority[0]).connect_soon(&connect);
        old.expect_disconnect(0x89);
        new.ping();
        cluster.heal();
        cluster.await_formed();
        new.ping();
        let mut back = cluster.node(lost).connect(&connect);
        back.assert_resumed();
        new.expect_disconnect(0x8E);
        back.ping();
    });
}

/// Cuts `minority` off, and checks what both sides promise, until everything is whole again.
#[track_caller]
fn check_minority(cluster: &Cluster, minority: &[usize], majority: &[usize]) {
    let mut subscriber = cluster.node(majority[0]).client("subscriber");
    assert_eq!(subscriber.subscribe("p7", 1), 1);
    let mut lost: Vec<Client> =
        minority.iter().map(|node| cluster.node(*node).client(&format!("lost-{node}"))).collect();
    let mut stays = cluster.node(majority[1]).client("stays");
    for publisher in lost.iter_mut().chain([&mut stays]) {
        fence(&mut subscriber, publisher);
    }
    cluster.split(minority, majority);
    for publisher in &mut lost {
        // It reaches nobody, so that it must not be acknowledged, with whatever code: that would end it at its sender.
        publisher.send(&Publish::new("p7", "1").qos(1, 900).bytes(Version::V5));
        publisher.expect_disconnect(0x89);
    }
    for node in minority {
        await_refusal(cluster, *node);
        assert!(!cluster.node(*node).is_ready());
    }
    // The majority does not stop, apart from an election.
    cluster.await_formed_of(majority);
    minority.iter().for_each(|node| cluster.await_seen(majority[0], *node, "down"));
    stays.publish("p7", "2", 1);
    let got = numbers(&receive(&mut subscriber, 1));
    // What was on its way when the link was cut may have got through; it was not acknowledged, so it may come again.
    assert!(got == [1] || got == [2], "{got:?}");
    if got == [1] {
        assert!(fence(&mut subscriber, &mut stays).iter().any(|publish| number(publish) == 2));
    }
    assert_eq!(subscriber.subscribe("p7/new", 1), 1);
    // Whoever was let go finds another node.
    let mut moved =
        cluster.node(majority[0]).connect_soon(&Connect::new(Version::V5, &format!("lost-{}", minority[0])));
    moved.ping();
    cluster.heal();
    cluster.await_formed();
    moved.ping();
    subscriber.ping();
    let all: Vec<usize> = minority.iter().chain(majority).copied().collect();
    assert_serves(cluster, &all);
}

/// Breaks the links between the leader and the others one way: as bad as if they were broken both ways.
#[track_caller]
fn check_one_way(cut: impl Fn(&Cluster, usize, usize)) {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let others = others(3, &[leader]);
    others.iter().for_each(|other| cut(&cluster, leader, *other));
    cluster.await_formed_of(&others);
    await_refusal(&cluster, leader);
    let term = cluster.node(others[0]).status().expect("it answers").term;
    // For two elections' time.
    cluster.stays(Duration::from_secs(5), "the term does not grow without end", || {
        cluster.node(others[0]).status().is_none_or(|status| status.term <= term + 1)
    });
    cluster.heal();
    cluster.await_formed();
    assert_serves(&cluster, &[0, 1, 2]);
}

/// Waits until this node lets nobody in, and says why.
#[track_caller]
fn await_refusal(cluster: &Cluster, node: usize) {
    cluster.until("new clients are refused", || {
        let refusal =
            cluster.node(node).attempt(&Connect::new(Version::V5, &crate::harness::unique("new"))).err()?;
        match refusal {
            NotConnected::Refused(Packet::ConnAck(connack)) => {
                assert!(matches!(connack.code, 0x88 | 0x89), "{connack:?}");
                Some(())
            }
            // It does not listen any more, or says nothing to a stranger: as good.
            _ => Some(()),
        }
    });
}

/// Each of these nodes brings messages to each other.
#[track_caller]
fn assert_serves(cluster: &Cluster, nodes: &[usize]) {
    for (from, to) in nodes.iter().zip(nodes.iter().cycle().skip(1)) {
        let mut subscriber =
            cluster.node(*to).connect_soon(&Connect::new(Version::V5, &crate::harness::unique("s")));
        let mut publisher =
            cluster.node(*from).connect_soon(&Connect::new(Version::V5, &crate::harness::unique("p")));
        assert!(fence(&mut subscriber, &mut publisher).is_empty());
    }
}

/// The numbers below `count` that are not among `without`.
fn others(count: usize, without: &[usize]) -> Vec<usize> {
    (0..count).filter(|number| !without.contains(number)).collect()
}
