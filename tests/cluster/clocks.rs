//! The wall clock of one node jumps while it runs: F53.

use std::{
    io::Write,
    time::{Duration, Instant, SystemTime},
};

use crate::{
    fleet::{Cluster, Ear, Node, Traffic, WallClock, fence, numbers, receive},
    harness::{Client, Connect, Property, Publish, Version, Will, property_id},
    retained::retained,
};

#[test]
fn nothing_ends_early_or_late_when_the_wall_clock_of_the_leader_jumps() {
    // F53.
    check_jumps("the leader", Cluster::leader);
}

#[test]
fn nothing_ends_early_or_late_when_the_wall_clock_of_a_follower_jumps() {
    // F53.
    check_jumps("a follower", Cluster::follower);
}

/// Sets the clock of one node, and looks after each time that what was to end has ended in time, and nothing else.
#[track_caller]
fn check_jumps(what: &str, which: impl Fn(&Cluster) -> usize) {
    // An hour is still longer than a node may be silent; a busy machine is not.
    let mut cluster = Cluster::prepare(3, &[("sys.interval", "1s"), ("cluster.node_down_after", "30s")]);
    let clocks: Option<Vec<WallClock>> = (0..3).map(|number| WallClock::of(&mut cluster, number)).collect();
    let Some(clocks) = clocks else { return skip(what, "no C compiler (cc) is here") };
    cluster.nodes().iter().for_each(Node::start);
    cluster.await_formed();
    let number = which(&cluster);
    let jumper = Jumper { cluster: &cluster, number, other: (number + 1) % 3, clock: &clocks[number] };
    if !jumper.can_be_set() {
        return skip(what, "the clock of the node cannot be set, for it does not ask the C library");
    }

    let before = jumper.lives();
    let mut observer = cluster.node(jumper.other).client("observer");
    assert_eq!(observer.subscribe("will/+", 1), 1);
    fence(&mut observer, &mut cluster.node(number).client("probe"));
    // An hour is more than it may be silent for, and the test takes less.
    let mut idle = cluster.node(number).connect(&Connect::new(Version::V5, "idle").keep_alive(600));
    let mut listener = cluster.node(jumper.other).client("listener");
    assert_eq!(listener.subscribe("flow", 1), 1);
    fence(&mut listener, &mut cluster.node(number).client("probe"));
    let (ear, traffic) = (Ear::start(listener), Traffic::start(cluster.node(number), "flow"));
    jumper.leave_behind("long", LONG, &mut observer);
    for (round, seconds) in [HOUR, -HOUR, TEN_YEARS, -TEN_YEARS].into_iter().enumerate() {
        jumper.check_short(round, seconds, &mut observer);
        assert_eq!(jumper.lives(), before, "no node has died, and nobody was elected");
        assert_eq!(idle.next_event(Duration::from_millis(1)), None, "whoever is silent is not given up");
    }
    let mut back = jumper.come_back("long");
    back.assert_resumed();
    assert_eq!(numbers(&receive(&mut back, 2)), [0, 1]);
    for topic in ["kept/long/here", "kept/long/there"] {
        (0..3).for_each(|node| assert!(retained(&cluster, node, topic).is_some(), "{topic} on node-{node}"));
    }
    assert!(fence(&mut observer, &mut back).is_empty(), "its will was not sent");
    let sent = traffic.stop();
    assert_eq!(ear.hear(sent).1, (0..sent).collect::<Vec<_>>(), "each once, in order");
    idle.ping();
}

#[test]
fn nothing_ends_early_when_nodes_whose_wall_clocks_have_jumped_lead_the_shards() {
    // F53: the only node whose clock is right dies.
    let mut cluster = Cluster::prepare(3, &[("sys.interval", "1s")]);
    let clocks: Option<Vec<WallClock>> = (0..3).map(|number| WallClock::of(&mut cluster, number)).collect();
    let Some(clocks) = clocks else { return skip("two nodes", "no C compiler (cc) is here") };
    cluster.nodes().iter().for_each(Node::start);
    cluster.await_formed();
    cluster.until("node-0 leads a shard", || {
        leaders(&cluster, 1).iter().any(|leader| leader == "node-0").then_some(())
    });
    let jumper = Jumper { cluster: &cluster, number: 2, other: 1, clock: &clocks[2] };
    if !jumper.can_be_set() {
        return skip("two nodes", "the clock of the node cannot be set, for it does not ask the C library");
    }
    let mut observer = cluster.node(1).client("observer");
    assert_eq!(observer.subscribe("will/+", 1), 1);
    // Some of them in each shard.
    let names: Vec<String> = (0..8).map(|number| format!("long-{number}")).collect();
    names.iter().for_each(|name| jumper.leave_behind(name, LONG, &mut observer));

    clocks[1..].iter().for_each(|clock| clock.put_off(TEN_YEARS));
    assert!(jumper.shows(TEN_YEARS));
    cluster.node(0).kill();
    cluster.until("the others lead all shards", || {
        let leaders = leaders(&cluster, 1);
        leaders.iter().all(|leader| leader == "node-1" || leader == "node-2").then_some(())
    });
    for name in &names {
        let mut back = jumper.come_back(name);
        back.assert_resumed();
        assert_eq!(numbers(&receive(&mut back, 2)), [0, 1], "{name}");
    }
    let mut probe = cluster.node(2).client("probe");
    assert!(fence(&mut observer, &mut probe).is_empty(), "no will was sent");
}

/// Who leads each shard, as a node knows it.
fn leaders(cluster: &Cluster, number: usize) -> Vec<String> {
    let shards = cluster.node(number).shards();
    shards.iter().map(|shard| shard["leader"].as_str().unwrap_or_default().to_owned()).collect()
}

/// The node whose clock jumps, and another one.
struct Jumper<'a> {
    cluster: &'a Cluster,
    number: usize,
    other: usize,
    clock: &'a WallClock,
}

impl Jumper<'_> {
    fn node(&self) -> &Node {
        self.cluster.node(self.number)
    }

    /// Whether the node goes by the clock that is set here.
    fn can_be_set(&self) -> bool {
        self.clock.put_off(TEN_YEARS);
        let is_set = self.shows(TEN_YEARS);
        self.clock.put_off(0);
        is_set && self.shows(0)
    }

    /// Whether the node shows a time that is so far from that of this machine, soon.
    #[track_caller]
    fn shows(&self, seconds: i64) -> bool {
        let mut client = self.node().client("clock");
        assert_eq!(client.subscribe(&format!("$SYS/brokers/{}/datetime", self.node().name()), 0), 0);
        let deadline = Instant::now() + Duration::from_secs(8);
        while Instant::now() < deadline {
            let shown = String::from_utf8(client.expect_any_publish().payload).expect("it is text");
            let shown = humantime::parse_rfc3339(&shown).expect("it is a time");
            if (since_1970(shown) - since_1970(SystemTime::now()) - seconds).abs() < 60 {
                return true;
            }
        }
        false
    }

    /// A client that has gone without a word, with a will that waits for `life` seconds; a queued message that expires after
    /// so long and one that does not expire soon; retained messages that expire after so long.
    fn leave_behind(&self, name: &str, life: u32, observer: &mut Client) {
        let expiring =
            |publish: Publish, seconds| publish.with(Property::four(property_id::MESSAGE_EXPIRY, seconds));
        let mut client = self.node().connect(&Connect::new(Version::V5, &sleeper(name)).persistent());
        assert_eq!(client.subscribe(&format!("queue/{name}"), 1), 1);
        fence(&mut client, observer);
        client.vanish();
        for (number, seconds) in [(0, life), (1, LONG)] {
            let publish = Publish::new(&format!("queue/{name}"), number.to_string()).qos(1, 1_000 + number);
            assert_eq!(observer.publish_packet(&expiring(publish, seconds)), 0);
        }
        for (node, place) in [(self.number, "here"), (self.other, "there")] {
            let topic = format!("kept/{name}/{place}");
            let mut publisher = self.cluster.node(node).client("publisher");
            publisher.publish_packet(&expiring(Publish::new(&topic, "kept").qos(1, 1).retain(), life));
            publisher.disconnect();
        }
        let will = Will::new(&format!("will/{name}"), "0").qos(1);
        let will = will.with(Property::four(property_id::WILL_DELAY, life));
        let connect = Connect::new(Version::V5, &mortal(name)).will(will);
        self.node().connect(&connect.with(Property::four(property_id::SESSION_EXPIRY, LONG))).vanish();
    }

    fn come_back(&self, name: &str) -> Client {
        self.node().connect_soon(&Connect::new(Version::V5, &sleeper(name)).persistent())
    }

    /// What is to end after two seconds ends then, although the clock jumps meanwhile.
    #[track_caller]
    fn check_short(&self, round: usize, seconds: i64, observer: &mut Client) {
        let name = format!("short-{round}");
        let brief = Connect::new(Version::V5, &format!("brief-{round}")).resume();
        let brief = brief.with(Property::four(property_id::SESSION_EXPIRY, SHORT));
        self.node().connect(&brief).vanish();
        let began = Instant::now();
        self.leave_behind(&name, SHORT, observer);
        self.clock.put_off(seconds);

        let will = receive(observer, 1).remove(0);
        let waited = began.elapsed();
        assert_eq!(will.topic, format!("will/{name}"));
        assert!(waited >= Duration::from_secs(SHORT.into()), "the will came after {waited:?}");
        assert!(self.shows(seconds), "the clock has jumped");
        // All of the others began before the will did.
        let late = self.node().connect(&brief);
        assert!(!late.connack().session_present, "its session has expired");
        late.disconnect();
        let mut back = self.come_back(&name);
        back.assert_resumed();
        assert_eq!(numbers(&receive(&mut back, 1)), [1], "the other message has expired");
        back.ping();
        back.disconnect();
        for topic in [format!("kept/{name}/here"), format!("kept/{name}/there")] {
            (0..3).for_each(|node| assert_eq!(retained(self.cluster, node, &topic), None, "on node-{node}"));
        }
    }

    /// The lives of all nodes and the term, as the other node knows them.
    #[track_caller]
    fn lives(&self) -> (u64, Vec<(String, u64)>) {
        let status = self.cluster.node(self.other).status().expect("it answers");
        (status.term, status.nodes.into_iter().map(|node| (node.status, node.incarnation)).collect())
    }
}

fn sleeper(name: &str) -> String {
    format!("sleeper-{name}")
}

fn mortal(name: &str) -> String {
    format!("mortal-{name}")
}

fn since_1970(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).expect("it is later");
    i64::try_from(since.as_secs()).expect("it is not that late")
}

/// Past the capture of the test runner, for a test that did not run must not look like one that did.
fn skip(what: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: the wall clock of {what} jumps: {why}");
}

const HOUR: i64 = 3_600;
const TEN_YEARS: i64 = 10 * 365 * 24 * HOUR;

/// Seconds that are over soon, and seconds that are not over while a test runs.
const SHORT: u32 = 2;
const LONG: u32 = 600;
