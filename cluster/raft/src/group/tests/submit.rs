//! Commands that are submitted without waiting for those before them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::harness::{Cluster, TestResult};
use crate::group::submit::OUTSTANDING_COMMANDS_MAX;
use crate::group::{COMMAND_BYTES_MAX, Group, ProposeError, Role};

type Told = Arc<Mutex<Vec<Result<(u64, Bytes), ProposeError>>>>;

/// Submits, and collects what is told.
fn submit(group: &Group, told: &Told, command: impl Into<Bytes>) {
    let told = Arc::clone(told);
    group.submit(command.into(), move |outcome| told.lock().push(outcome));
}

async fn wait_for(told: &Told, count: usize) -> TestResult {
    let all = async {
        while told.lock().len() < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.map_err(|_| "not all were told")?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(told.lock().len(), count, "told twice");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn commands_are_committed_in_the_order_of_their_submission() -> TestResult {
    let cluster = Cluster::of_three().await?;
    let leader = cluster.leader().await?;
    cluster.set("a", "begin").await?;
    let (told, group) = (Told::default(), cluster.group(leader));
    let applied = group.status().applied;
    for n in 0..5000 {
        submit(&group, &told, format!("a={n}"));
    }
    assert!(told.lock().is_empty() && group.status().applied == applied, "it waits for nothing");
    wait_for(&told, 5000).await?;
    let told = told.lock();
    let mut before = (0, Bytes::from_static(b"begin"));
    for (n, outcome) in told.iter().enumerate() {
        let (index, answer) = outcome.clone()?;
        assert!(index > before.0 && answer == before.1, "command {n}: {index} {answer:?}");
        before = (index, n.to_string().into());
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_taken_is_told_at_once() -> TestResult {
    let cluster = Cluster::of_three().await?;
    let leader = cluster.leader().await?;
    let (told, group) = (Told::default(), cluster.group(leader));
    submit(&group, &told, vec![0; COMMAND_BYTES_MAX + 1]);
    assert!(matches!(told.lock().pop(), Some(Err(ProposeError::TooLarge { .. }))));
    for _ in 0..=OUTSTANDING_COMMANDS_MAX {
        submit(&group, &told, "a=1");
    }
    assert!(matches!(told.lock().pop(), Some(Err(ProposeError::Full))));
    wait_for(&told, OUTSTANDING_COMMANDS_MAX).await?;
    assert!(told.lock().iter().all(Result::is_ok));
    // There is room again.
    submit(&group, &told, "a=1");
    wait_for(&told, OUTSTANDING_COMMANDS_MAX + 1).await?;
    assert!(told.lock().iter().all(Result::is_ok));

    let follower = (1..=3).find(|id| *id != leader).ok_or("no follower")?;
    let told = Told::default();
    submit(&cluster.group(follower), &told, "a=1");
    wait_for(&told, 1).await?;
    assert_eq!(told.lock()[0], Err(ProposeError::NotLeader { leader: Some(leader) }));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn everybody_is_told_when_the_group_ends() -> TestResult {
    // By a command that is not understood, on request, and with the last handle.
    for ending in 0..3 {
        let mut cluster = Cluster::of_three().await?;
        let leader = cluster.leader().await?;
        let told = Told::default();
        let group = cluster.group(leader);
        for n in 0..100 {
            submit(&group, &told, format!("a={n}"));
        }
        if ending == 0 {
            submit(&group, &told, "nonsense");
            cluster.wait(leader, "stopping", |status| status.role == Role::Stopped).await?;
            submit(&group, &told, "a=1");
            submit(&group, &told, "a=1");
            wait_for(&told, 103).await?;
            let told = told.lock();
            for outcome in &told[100..] {
                let Err(ProposeError::Stopped(why)) = outcome else { panic!("{outcome:?}") };
                assert!(why.contains("no = in it"), "{why}");
            }
        } else if ending == 1 {
            group.shutdown().await;
            submit(&group, &told, "a=1");
            wait_for(&told, 101).await?;
            assert!(matches!(told.lock()[100], Err(ProposeError::Stopped(_))));
        } else {
            cluster.network.groups.lock().clear();
            cluster.nodes.clear();
            drop(group);
            wait_for(&told, 100).await?;
            assert!(told.lock().iter().all(Result::is_err));
        }
    }
    Ok(())
}

/// What a caller knows of its commands.
#[derive(Default)]
struct Caller {
    submitted: u64,
    /// By number: how many were submitted when it heard that the command had failed.
    failed: BTreeMap<u64, u64>,
    answered: Vec<u64>,
}

/// A caller at each node submits all the time, while links are cut, nodes lose power and the leadership is handed over.
async fn check_order(faults: Vec<(u8, u8, u16)>) -> TestResult {
    let mut cluster = Cluster::of_three_with(Cluster::durable()).await?;
    let callers: BTreeMap<u64, Arc<Mutex<Caller>>> = (1..=3).map(|id| (id, Arc::default())).collect();
    for (fault, node, millis) in faults {
        let node = u64::from(node);
        match fault {
            0 => cluster.network.isolate(node),
            1 => cluster.network.heal(),
            2 => {
                let leader = cluster.group(node).status().leader.unwrap_or(node);
                let group = cluster.group(leader);
                tokio::spawn(async move { group.transfer_leadership(node).await });
            }
            3 => {
                cluster.cut_power(node).await?;
                cluster.start(node).await?;
            }
            _ => {}
        }
        for turn in 0..u64::from(millis) / 5 {
            // Bursts, and then silence, at different times on each node.
            for (id, caller) in &callers {
                if (turn + id) % 7 < 3 {
                    submit_as(*id, caller, &cluster.group(*id));
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    cluster.network.heal();
    cluster.set("last", "1").await?;
    cluster.settled().await?;
    check_callers(&cluster, &callers);
    Ok(())
}

fn submit_as(id: u64, caller: &Arc<Mutex<Caller>>, group: &Group) {
    let number = {
        let caller = &mut *caller.lock();
        caller.submitted += 1;
        caller.submitted
    };
    let told = Arc::clone(caller);
    group.submit(format!("{id}={number}").into(), move |outcome| {
        let caller = &mut *told.lock();
        match outcome {
            Ok(_) => caller.answered.push(number),
            Err(_) => assert_eq!(caller.failed.insert(number, caller.submitted), None, "told twice"),
        }
    });
}

fn check_callers(cluster: &Cluster, callers: &BTreeMap<u64, Arc<Mutex<Caller>>>) {
    for (id, caller) in callers {
        let caller = caller.lock();
        let key = format!("{id}=");
        let committed: Vec<u64> = cluster.nodes[&1]
            .disk
            .lock()
            .live
            .commands
            .iter()
            .filter_map(|(_, command)| command.strip_prefix(&key).map(|n| n.parse().expect("a number")))
            .collect();
        assert!(committed.is_sorted_by(|a, b| a < b), "{id}: {committed:?}");
        assert!(caller.answered.is_sorted_by(|a, b| a < b), "{id}: {:?}", caller.answered);
        assert!(caller.answered.iter().all(|number| committed.binary_search(number).is_ok()));
        for (lost, known_at) in &caller.failed {
            if committed.binary_search(lost).is_ok() {
                continue;
            }
            let later = committed.iter().find(|number| *number > lost && *number <= known_at);
            assert_eq!(later, None, "{id}: {lost} was not committed, which was known after {known_at}");
        }
    }
}

#[test]
fn no_command_overtakes_one_that_was_not_committed() {
    let config = Config { cases: 8, failure_persistence: None, ..Config::default() };
    let faults = prop::collection::vec((0..5_u8, 1..4_u8, 0..4000_u16), 1..6);
    let result = TestRunner::new(config).run(&faults, |faults| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        let runtime = runtime.expect("a runtime");
        runtime.block_on(check_order(faults)).map_err(|error| TestCaseError::fail(error.to_string()))
    });
    result.expect("no command overtakes another");
}
