//! Whole nodes: membership over real sockets.

mod harness;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use flotilla_rpc::membership::change_reply::Outcome;
use flotilla_state::{Command, Reply, Role, RouteChange, Status};

use self::harness::{Cluster, Life, NODE_DOWN_AFTER, TestResult};
use super::{ChangeError, MetaError, ProposeError, shared::Departure};
use crate::peers::Refusal;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_node_is_a_cluster_of_one() -> TestResult {
    let mut cluster = Cluster::new(1, 1).await?;
    cluster.start(0).await?;
    cluster.all_admitted().await?;
    let meta = cluster.meta(0);
    assert_eq!(meta.set_up(soon()).await?, Reply::Done);
    assert!(meta.status().quorum && !meta.status().partition_suspected);
    assert!(matches!(meta.leave(soon()).await, Err(ChangeError::Refused(_))));
    // The lease of an idle leader does not lapse.
    tokio::time::sleep(NODE_DOWN_AFTER * 2).await;
    assert!(cluster.is_admitted(0));
    assert_eq!(cluster.lives(0).len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_forms_in_any_order_and_with_one_late() -> TestResult {
    let mut cluster = Cluster::new(3, 3).await?;
    cluster.start(2).await?;
    cluster.start(0).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(cluster.running_nodes().into_iter().all(|node| cluster.meta(node).group().is_pristine()));
    cluster.start(1).await?;
    cluster.all_admitted().await?;
    cluster.all_vote().await
}

#[tokio::test(flavor = "multi_thread")]
async fn late_core_nodes_join_as_learners_and_get_votes() -> TestResult {
    let mut cluster = Cluster::new(5, 3).await?;
    for node in [0, 2, 4] {
        cluster.start(node).await?;
    }
    cluster.all_admitted().await?;
    for node in [1, 3] {
        cluster.start(node).await?;
    }
    cluster.all_admitted().await?;
    cluster.all_vote().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_declared_down_and_comes_back_at_another_address() -> TestResult {
    let mut cluster = Cluster::running(3).await?;
    let leader = cluster.leader().ok_or("no leader")?;
    let (node, before) = (cluster.meta(leader).node(), cluster.lives(leader));
    cluster.stop(leader).await;
    let others = cluster.running_nodes();
    let is_down = || {
        others.iter().all(|other| {
            let state = cluster.meta(*other).state();
            let state = state.read();
            state.node(node).is_some_and(|node| node.status == Status::Down)
        })
    };
    cluster.wait("the leader is down", is_down).await?;
    assert!(others.iter().all(|other| cluster.is_admitted(*other) && cluster.lives(*other).len() == 1));

    cluster.relocate(leader).await?;
    cluster.start(leader).await?;
    cluster.all_admitted().await?;
    assert_eq!(cluster.meta(leader).node(), node);
    assert_ne!(cluster.lives(leader), before, "a new incarnation");
    let address = cluster.nodes[leader].address.to_string();
    let known =
        || others.iter().all(|other| cluster.meta(*other).peers().address(node) == Some(address.clone()));
    cluster.wait("the others know the new address", known).await?;
    cluster.all_vote().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_comes_back_with_all_its_addresses_changed() -> TestResult {
    let mut cluster = Cluster::running(3).await?;
    for node in 0..3 {
        cluster.stop(node).await;
        cluster.relocate(node).await?;
    }
    for node in 0..3 {
        cluster.start(node).await?;
    }
    cluster.all_admitted().await?;
    cluster.all_vote().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_its_disk_is_replaced() -> TestResult {
    let mut cluster = Cluster::running(3).await?;
    let lost = cluster.meta(1).node();
    cluster.stop(1).await;
    cluster.wipe(1)?;
    cluster.start(1).await?;
    cluster.all_admitted().await?;
    assert_ne!(cluster.meta(1).node(), lost);
    cluster.all_vote().await?;
    let forgotten =
        || cluster.running_nodes().iter().all(|node| cluster.meta(*node).state().read().node(lost).is_none());
    cluster.wait("the lost node is forgotten", forgotten).await
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused_and_counted() -> TestResult {
    let mut cluster = Cluster::running(3).await?;
    let (red, thief) = (cluster.add("red").await?, cluster.add("thief").await?);
    cluster.nodes[red].cluster_name = "red".to_owned();
    cluster.nodes[thief].secret = "guessed".to_owned();
    cluster.expect = 5;
    cluster.start(red).await?;
    cluster.start(thief).await?;
    let refused = || cluster.refused(0, Refusal::ClusterName) > 0 && cluster.refused(0, Refusal::Secret) > 0;
    cluster.wait("strangers are refused", refused).await?;
    assert!(!cluster.is_admitted(red) && !cluster.is_admitted(thief));
    assert_eq!(cluster.meta(0).state().read().nodes().count(), 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_serves_one_node_of_one_cluster() -> TestResult {
    let mut cluster = Cluster::running(1).await?;
    assert!(matches!(cluster.nodes[0].open_storage(), Err(MetaError::Identity(_))), "in use");
    cluster.stop(0).await;
    cluster.nodes[0].cluster_name = "red".to_owned();
    let refused = cluster.start(0).await.expect_err("another cluster's data");
    assert!(refused.to_string().contains("belongs to cluster \"blue\""), "{refused}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_leaves() -> TestResult {
    let mut cluster = Cluster::running(3).await?;
    let leader = cluster.leader().ok_or("no leader")?;
    let node = cluster.meta(leader).node();
    cluster.meta(leader).leave(soon()).await?;
    assert!(!cluster.is_admitted(leader));
    assert!(matches!(cluster.lives(leader)[..], [Life::Admitted(_), Life::Lost(_)]));
    cluster.stop(leader).await;
    cluster.all_vote().await?;
    let others = cluster.running_nodes();
    assert!(others.iter().all(|other| cluster.lives(*other).len() == 1), "the others serve all the time");
    // They may vote before they have applied it.
    let is_gone = || others.iter().all(|other| cluster.meta(*other).state().read().node(node).is_none());
    cluster.wait("the others know that it has left", is_gone).await?;
    // It may come back.
    cluster.start(leader).await?;
    cluster.all_admitted().await?;
    cluster.all_vote().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_leaves_does_not_come_back_before_it_is_told() -> TestResult {
    let cluster = Cluster::running(3).await?;
    let leader = cluster.leader().ok_or("no leader")?;
    let leaver = (leader + 1) % 3;
    let member = cluster.meta(leaver).me().borrow().ok_or("not admitted")?;
    let command = Command::Leave { member };
    // The answer is on its way for long.
    cluster.meta(leaver).0.departure.send_replace(Departure::Asked);
    let outcome = Arc::clone(&cluster.meta(leader).0).dismiss(member.node, command.clone()).await;
    assert!(matches!(outcome, Outcome::Changed(_)), "{outcome:?}");
    cluster.wait("it has seen that it is gone", || !cluster.is_admitted(leaver)).await?;
    tokio::time::sleep(NODE_DOWN_AFTER).await;
    let state = cluster.meta(leader).state();
    assert!(state.read().node(member.node).is_none(), "it has not asked for admission");
    // An attempt whose answer was lost is repeated.
    let outcome = Arc::clone(&cluster.meta(leader).0).dismiss(member.node, command).await;
    assert!(matches!(outcome, Outcome::Changed(_)), "{outcome:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_is_removed() -> TestResult {
    let mut cluster = Cluster::running(3).await?;
    let dead = cluster.meta(2).node();
    cluster.stop(2).await;
    cluster.meta(0).remove(dead, soon()).await?;
    cluster.all_vote().await?;
    assert!(matches!(cluster.meta(1).remove(dead, soon()).await, Err(ChangeError::Refused(_))));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minority_fences_itself_and_comes_back_in_a_new_life() -> TestResult {
    let cluster = Cluster::running(3).await?;
    let leader = cluster.leader().ok_or("no leader")?;
    let others: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
    let member = *cluster.meta(leader).me().borrow();
    let member = member.ok_or("not admitted")?;
    cluster.cut(&[leader], &others, true);

    let is_down = || others.iter().all(|node| !cluster.meta(*node).state().read().is_live(member));
    cluster.wait("the old leader is down", is_down).await?;
    assert!(!cluster.is_admitted(leader), "it was fenced before");
    let Life::Lost(fenced) = *cluster.lives(leader).last().ok_or("no life")? else {
        return Err("not fenced".into());
    };
    assert!(fenced < Instant::now());
    assert!(others.iter().all(|node| cluster.is_admitted(*node) && cluster.lives(*node).len() == 1));
    let status = cluster.meta(leader).status();
    assert!(!status.quorum && status.partition_suspected);
    // Nothing is proposed on the wrong side.
    let command = Command::NodeDown { member };
    let deadline = Instant::now() + Duration::from_millis(300);
    let refused = cluster.meta(leader).propose(command.clone(), deadline).await;
    assert!(matches!(refused, Err(ProposeError::NoLeader | ProposeError::Unknown(_))), "{refused:?}");

    cluster.cut(&[leader], &others, false);
    cluster.all_admitted().await?;
    let lives = cluster.lives(leader);
    let [Life::Admitted(first), Life::Lost(_), Life::Admitted(second)] = lives[..] else {
        return Err(format!("{lives:?}").into());
    };
    assert!(first.node == second.node && first.incarnation < second.incarnation);
    let (_, reply) = cluster.meta(leader).propose(command, soon()).await?;
    assert_eq!(reply, Reply::Stale, "the old life is void");
    cluster.all_vote().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_node_learns_and_is_forgotten() -> TestResult {
    let mut cluster = Cluster::running(1).await?;
    let edge = cluster.add("edge").await?;
    cluster.expect = 2;
    cluster.nodes[edge].role = Role::Edge;
    cluster.start(edge).await?;
    cluster.all_admitted().await?;
    let node = cluster.meta(edge).node();
    assert_eq!(cluster.meta(edge).set_up(soon()).await?, Reply::Done);
    assert_eq!(cluster.voters(0).len(), 1);
    cluster.stop(edge).await;
    let forgotten = || {
        let status = cluster.meta(0).status();
        cluster.meta(0).state().read().node(node).is_none() && !status.group.learners.contains(&node.0)
    };
    cluster.wait("the edge node is forgotten", forgotten).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leadership_is_handed_over() -> TestResult {
    let cluster = Cluster::running(3).await?;
    let leader = cluster.leader().ok_or("no leader")?;
    assert!(cluster.meta(leader).hand_over_leadership().await);
    let handed = || cluster.leader().is_some_and(|new| new != leader);
    cluster.wait("another node leads", handed).await?;
    assert!((0..3).all(|node| cluster.lives(node).len() == 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn three_of_five_go_on_and_two_are_silent() -> TestResult {
    let cluster = Cluster::running(5).await?;
    let leader = cluster.leader().ok_or("no leader")?;
    let follower = (0..5).find(|node| *node != leader).ok_or("no follower")?;
    let minority = [leader, follower];
    let majority: Vec<usize> = (0..5).filter(|node| !minority.contains(node)).collect();
    cluster.cut(&minority, &majority, true);
    let lost: Vec<_> = minority.iter().map(|node| cluster.meta(*node).node()).collect();
    let are_down = || {
        majority.iter().all(|node| {
            let state = cluster.meta(*node).state();
            let state = state.read();
            lost.iter().all(|lost| state.member(*lost).is_none())
        })
    };
    cluster.wait("two nodes are down", are_down).await?;
    assert!(minority.iter().all(|node| !cluster.is_admitted(*node)));
    assert!(majority.iter().all(|node| cluster.lives(*node).len() == 1));
    assert_eq!(cluster.voters(majority[0]).len(), 5, "the quorum does not shrink by itself");
    cluster.cut(&minority, &majority, false);
    cluster.all_admitted().await?;
    cluster.all_vote().await
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_acts_in_a_cluster_of_splinters_and_it_heals() -> TestResult {
    let cluster = Cluster::running(3).await?;
    let terms = || (0..3).map(|node| cluster.meta(node).status().group.term).max();
    let before = terms();
    cluster.cut(&[0], &[1, 2], true);
    cluster.cut(&[1], &[2], true);
    let silent = || (0..3).all(|node| cluster.meta(node).me().borrow().is_none());
    cluster.wait("nobody is a member", silent).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(terms(), before, "no term grows without a majority");
    cluster.cut(&[0], &[1, 2], false);
    cluster.cut(&[1], &[2], false);
    cluster.all_admitted().await
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_cluster_port_changes_nothing() -> TestResult {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let cluster = Cluster::running(3).await?;
    let before = cluster.meta(0).state().read().applied();
    for node in &cluster.nodes {
        for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x10\x0c\x00\x04MQTT\x05", &[0xff; 70_000]] {
            let mut stream = tokio::net::TcpStream::connect(node.address).await?;
            // It may be closed before all of it is written.
            let _ = stream.write_all(bytes).await;
            let mut answer = Vec::new();
            let closed = stream.read_to_end(&mut answer);
            let _ = tokio::time::timeout(Duration::from_secs(1), closed).await;
        }
    }
    assert_eq!(cluster.meta(0).state().read().applied(), before);
    assert!((0..3).all(|node| cluster.is_admitted(node) && cluster.lives(node).len() == 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_proposes_through_the_leader() -> TestResult {
    let cluster = Cluster::running(3).await?;
    for node in 0..3 {
        assert_eq!(cluster.meta(node).set_up(soon()).await?, Reply::Done);
    }
    let up =
        || (0..3).all(|node| cluster.meta(node).state().read().nodes().all(|node| node.status == Status::Up));
    cluster.wait("all are up", up).await?;
    let meta = cluster.meta(0);
    assert_eq!(meta.drain(soon()).await?, Reply::Done);
    let nobody = Command::Remove { node: flotilla_state::NodeId(1) };
    let (_, reply) = meta.propose(nobody, soon()).await?;
    assert_eq!(reply, Reply::UnknownNode);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_group_has_stopped_refuses_nothing() -> TestResult {
    let cluster = Cluster::running(3).await?;
    let leader = cluster.leader().ok_or("nobody leads")?;
    let follower = (0..3).find(|node| *node != leader).ok_or("there is one")?;
    let member = (*cluster.meta(follower).me().borrow()).ok_or("it is admitted")?;
    // As after a failure of its disk: the node answers, and its group does not go on.
    cluster.meta(leader).group().shutdown().await;
    let command = Command::Routes { member, changes: vec![RouteChange::AddWildcard("a/#".into())] };
    loop {
        match cluster.meta(follower).propose(command.clone(), soon()).await {
            Ok((_, reply)) => {
                assert_eq!(reply, Reply::Done);
                return Ok(());
            }
            Err(ProposeError::Refused(reason)) => return Err(reason.into()),
            // Until the others have elected somebody.
            Err(_) => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_joins_late_gets_a_snapshot() -> TestResult {
    let mut cluster = Cluster::running(1).await?;
    let nobody = Command::Remove { node: flotilla_state::NodeId(1) };
    for _ in 0..300 {
        cluster.meta(0).propose(nobody.clone(), soon()).await?;
    }
    let group = cluster.meta(0).group().clone();
    group.make_snapshot().await?;
    cluster.wait("the log is cut", || group.status().purged.is_some()).await?;
    let late = cluster.add("late").await?;
    cluster.expect = 2;
    cluster.start(late).await?;
    cluster.all_admitted().await?;
    assert!(cluster.meta(late).status().group.snapshot.is_some());
    cluster.all_vote().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_flaps_is_outlived() -> TestResult {
    let cluster = Cluster::running(3).await?;
    for _ in 0..6 {
        cluster.cut(&[0], &[1, 2], true);
        tokio::time::sleep(Duration::from_millis(700)).await;
        cluster.cut(&[0], &[1, 2], false);
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    cluster.all_admitted().await?;
    cluster.all_vote().await?;
    for node in 0..3 {
        cluster.meta(node).set_up(soon()).await?;
    }
    Ok(())
}
