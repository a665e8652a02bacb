//! Sessions: all at once back, coming and going, and ending together.

use std::time::{Duration, Instant};

use flotilla_compare::figure::grouped;

use super::slow_members::sys_value;
use crate::{
    crowd::{Arrival, Crowd, churn as come_and_go},
    finding::{Finding, Outcome},
    fleet::{Cluster, Node, poll},
    harness::{Connect, Property, Version, property_id},
    stage::Stage,
    usage::{mebibytes, memory, on_disk},
};

/// O04.
pub(super) fn everybody_returns(stage: &Stage) -> Outcome {
    let count = stage.clients(3_000) as usize;
    let cluster = stage.cluster(3, &[("sys.interval", "0s")]);
    let door = |number: &usize| cluster.node(*number).mqtt();
    let arrival = |nodes: &[usize], at_a_time| Arrival {
        doors: nodes.iter().map(door).collect(),
        count,
        at_a_time,
        number: stage.next_number(),
        within: Duration::from_secs(120),
    };
    let connect = |number: usize| {
        Connect::new(Version::V5, &format!("returns-{number}"))
            .keep_alive(0)
            .resume()
            .with(Property::four(property_id::SESSION_EXPIRY, 3_600))
    };
    let (crowd, first) =
        Crowd::arrive(&arrival(&[0, 1, 2], 64), connect, |number| format!("returns/{number}"));
    assert_eq!(first.outside, 0, "{first:?}");
    // The load balancer ends all connections, and one node is gone.
    let entries = log_bytes(&cluster, &[0, 1]);
    let killed = Instant::now();
    cluster.node(2).kill();
    drop(crowd);
    let (crowd, storm) = Crowd::arrive(&arrival(&[0, 1], count), connect, |_| String::new());
    let took = killed.elapsed();
    let entries = log_bytes(&cluster, &[0, 1]) - entries;
    drop(crowd);
    // What two nodes can do when nobody is in a hurry.
    let (crowd, rated) = Crowd::arrive(&arrival(&[0, 1], 64), connect, |_| String::new());
    drop(crowd);
    let rate = count as f64 / rated.took.as_secs_f64();
    let mut finding = Finding::of(format!(
        "{} sessions on 3 nodes; one node is killed, all come back to the other two at once",
        grouped(count as u64)
    ));
    finding.state("rated", rate, "connects/s");
    // Clients of a dead node are let in elsewhere when it counts as dead, and new leaders are elected meanwhile.
    let limit = NODE_DOWN_AFTER + ELECTION + 1.2 * count as f64 / rate;
    finding.at_most("all back after", took.as_secs_f64(), "s", limit);
    finding.exactly("with their session", storm.resumed as f64, "", count as f64);
    finding.state("attempts refused meanwhile", storm.refused as f64, "");
    finding.at_most("log bytes for each return, on both nodes", entries / count as f64, "", LOG_BYTES_MAX);
    Outcome::Found(finding)
}

/// Bytes that these nodes have on their disks in logs.
fn log_bytes(cluster: &Cluster, nodes: &[usize]) -> f64 {
    let bytes = |number: &usize| {
        let shards = cluster.node(*number).shards();
        shards.iter().filter_map(|shard| shard["replica"]["log_bytes"].as_f64()).sum::<f64>()
    };
    nodes.iter().map(bytes).sum()
}

/// O18.
pub(super) fn churn(stage: &Stage) -> Outcome {
    let cluster = stage.broker(&[("sys.interval", "1s")]);
    let node = cluster.node(0);
    let time = 5 * stage.time;
    // In fifths of the time: the first one is to warm up.
    let (mut looks, mut next) = (Vec::new(), time / 5);
    let count = come_and_go(node.mqtt(), stage.next_number(), 1, time, |since| {
        if since >= next {
            next += time / 5;
            looks.push(Look {
                memory: memory(node.pid()),
                disk: on_disk(&node.data_dir()),
                sessions: sessions(node),
            });
        }
    });
    let ended = poll(Duration::from_secs(20), || (sessions(node) == 0.0).then_some(()));
    let rate = count as f64 / time.as_secs_f64();
    let mut finding = Finding::of(format!(
        "{} connects with a subscription and a session of 1 s, for {:.0} s instead of an hour",
        grouped(count as u64),
        time.as_secs_f64()
    ));
    finding.state("connects and disconnects", rate, "/s");
    let (warm, last) = (&looks[0], &looks[looks.len() - 1]);
    finding.state("memory after a fifth", mebibytes(warm.memory), "MiB");
    finding.at_most("at the end", mebibytes(last.memory), "MiB", 1.25 * mebibytes(warm.memory) + 16.0);
    finding.state("disk after a fifth", mebibytes(warm.disk), "MiB");
    finding.at_most("at the end", mebibytes(last.disk), "MiB", mebibytes(warm.disk) + DISK_GROWTH_MAX);
    let most = looks.iter().map(|look| look.sessions).fold(0.0, f64::max);
    finding.at_most("sessions at a time", most, "", SECONDS_OF_SESSIONS * rate);
    finding.holds("all ended after it", ended.is_some());
    Outcome::Found(finding)
}

/// What there is at a moment.
struct Look {
    memory: u64,
    disk: u64,
    sessions: f64,
}

/// Sessions that are kept, by the word of the leaders of their shards.
fn sessions(node: &Node) -> f64 {
    let shards = node.shards();
    assert!(!shards.is_empty(), "the node tells of its shards");
    shards.iter().filter_map(|shard| shard["replica"]["sessions"].as_f64()).sum()
}

/// O19.
pub(super) fn expire_together(stage: &Stage) -> Outcome {
    let count = stage.clients(15_000) as usize;
    let cluster = stage.broker(&[("sys.interval", "1s")]);
    let node = cluster.node(0);
    let connect = |number: usize| {
        Connect::new(Version::V5, &format!("herd-{number}"))
            .keep_alive(0)
            .with(Property::four(property_id::SESSION_EXPIRY, 3_600))
    };
    let arrival = Arrival {
        doors: vec![node.mqtt()],
        count,
        at_a_time: 64,
        number: stage.next_number(),
        within: Duration::from_secs(120),
    };
    let (members, arrived) = Crowd::arrive(&arrival, connect, |number| format!("herd/{number}/+"));
    assert_eq!(arrived.outside, 0, "{arrived:?}");
    // By then all have said goodbye, and somebody has been watching for a while.
    let deadline = Instant::now() + stage.time + HERD_IN;
    members.leave(|| {
        let left = deadline.saturating_duration_since(Instant::now());
        // Whole seconds: all of them end within one.
        u32::try_from(left.as_secs()).unwrap_or(u32::MAX).max(1)
    });
    let there = sessions(node);
    let before = pause(stage, node, stage.time);
    let early = there - sessions(node);
    // Until a good while after all have ended.
    let window = deadline.saturating_duration_since(Instant::now()) + HERD_WINDOW;
    let during = pause(stage, node, window);
    let ended = poll(Duration::from_secs(30), || (sessions(node) == 0.0).then(Instant::now));
    let mut finding = Finding::of(format!(
        "{} sessions with a subscription each end in the same second",
        grouped(count as u64)
    ));
    finding.exactly("sessions there before", there, "", count as f64);
    finding.exactly("of them gone too early", early, "", 0.0);
    finding.state("longest wait of a steady client before", before, "ms");
    finding.at_most("when they end", during, "ms", (2.0 * before).max(100.0));
    let late = ended.map_or(f64::NAN, |ended| ended.saturating_duration_since(deadline).as_secs_f64());
    finding.at_most("all gone", late, "s after that", HERD_WINDOW.as_secs_f64() + 5.0);
    finding.at_most("subscriptions left", sys_value(node, "stats/subscriptions/count"), "", 1.0);
    Outcome::Found(finding)
}

/// The longest time, in milliseconds, from when a message of a steady client was due until it was there.
fn pause(stage: &Stage, node: &Node, time: Duration) -> f64 {
    let steady = format!("pairs -n 10 -q 1 -r 500 --warm-up 0.5 -t {:.1}", time.as_secs_f64());
    stage.run(node, &steady).delivery("max")
}

/// In seconds: `cluster.node_down_after`, and what an election takes at most when a leader was lost.
const NODE_DOWN_AFTER: f64 = 5.0;
const ELECTION: f64 = 6.0;
/// An entry for the session that is attached, and one for its end, with what goes around them; on each of two nodes.
const LOG_BYTES_MAX: f64 = 1_024.0;

/// In MiB: segments of 8 MiB that are full before they are given back, and the tables of the store before they are merged.
const DISK_GROWTH_MAX: f64 = 64.0;
/// A session lives for its second and until the next look at what has expired.
const SECONDS_OF_SESSIONS: f64 = 4.0;

/// Beside the time of measuring.
const HERD_IN: Duration = Duration::from_secs(12);
const HERD_WINDOW: Duration = Duration::from_secs(6);
