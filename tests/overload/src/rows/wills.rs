//! Clients with wills that die together.

use std::{
    env,
    io::{self, BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use flotilla_compare::figure::grouped;

use crate::{
    crowd::{Arrival, Crowd},
    finding::{Finding, Outcome},
    fleet::Node,
    harness::{Client, Connect, Event, Packet, Version, Will},
    others::{Others, steady},
    stage::Stage,
};

/// O20.
pub(super) fn storm(stage: &Stage) -> Outcome {
    let count = stage.clients(15_000) as usize;
    let settings = [("sys.interval", "0s"), ("session.queue_messages_max", "100000")];
    let (cluster, beside) = (stage.broker(&settings), stage.broker(&settings));
    let node = cluster.node(0);
    let mut holders = [Some(Holder::start(beside.node(0), count)), Some(Holder::start(node, count))];
    let mut witness = node.client("witness");
    assert_eq!(witness.subscribe("wills/+", 1), 1);
    let quiet = steady(stage, node).delivery("p99");
    // They die while others are measured, which begins with a warm-up.
    let dies = |holder: Option<Holder>, seen: &mut dyn FnMut() -> f64| {
        let mut holder = holder.expect("each dies once");
        thread::scope(|scope| {
            let death = scope.spawn(move || {
                thread::sleep(Duration::from_secs(1));
                holder.kill();
                Instant::now()
            });
            let p99 = seen();
            (p99, death.join().expect("it dies"))
        })
    };
    let (beside_p99, _) = dies(holders[0].take(), &mut || steady(stage, node).delivery("p99"));
    let (seen, wills) = thread::scope(|scope| {
        let witness = &mut witness;
        let watch = scope.spawn(move || Wills::watch(witness, count));
        let seen = dies(holders[1].take(), &mut || steady(stage, node).delivery("p99"));
        (seen, watch.join().expect("the witness sees them"))
    });
    let (during, died) = seen;
    let others = Others { quiet, beside: beside_p99, during };
    let mut finding = Finding::of(format!(
        "{} clients with wills at QoS 1, whose process is killed (kill -9)",
        grouped(count as u64)
    ));
    others.tell(&mut finding);
    finding.exactly("wills", wills.seen.iter().filter(|seen| **seen > 0).count() as f64, "", count as f64);
    finding.exactly("twice", wills.seen.iter().filter(|seen| **seen > 1).count() as f64, "", 0.0);
    let took = wills.last.map_or(f64::NAN, |last| last.saturating_duration_since(died).as_secs_f64());
    finding.at_most("all within", took, "s", WILLS_WITHIN.as_secs_f64());
    Outcome::Found(finding)
}

/// The process whose clients die.
struct Holder {
    child: Child,
}

impl Holder {
    /// Starts it, and waits until all its clients are there.
    #[track_caller]
    fn start(node: &Node, count: usize) -> Self {
        let mut command = Command::new(env::current_exe().expect("this is a program"));
        command.args(["--hold-wills", &node.mqtt().to_string(), &count.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it runs");
        let mut line = String::new();
        let said = child.stdout.take().expect("it is piped");
        let read = BufReader::new(said).read_line(&mut line);
        assert!(read.is_ok() && line == READY, "not all clients with wills are there: {line:?}");
        Self { child }
    }

    fn kill(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What such a process does: it connects its clients, says so, and stays until it is killed, or until nobody listens any more.
pub(crate) fn hold(address: SocketAddr, count: usize) {
    let arrival = Arrival {
        doors: vec![address],
        count,
        at_a_time: 64,
        number: usize::try_from(std::process::id()).unwrap_or_default(),
        within: Duration::from_secs(60),
    };
    let connect = |number: usize| {
        let will = Will::new(&format!("wills/{number}"), number.to_string()).qos(1);
        Connect::new(Version::V5, &format!("mortal-{number}")).keep_alive(0).will(will)
    };
    let (crowd, arrived) = Crowd::arrive(&arrival, connect, |_| String::new());
    let line = if arrived.outside == 0 { READY.to_owned() } else { format!("{arrived:?}\n") };
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush());
    let _ = io::stdin().lock().read_line(&mut String::new());
    drop(crowd);
}

/// Which wills came, by the number of their client.
struct Wills {
    seen: Vec<u32>,
    last: Option<Instant>,
}

impl Wills {
    /// Until all are there, or none has come for a while; then a moment longer, for those that come twice.
    fn watch(witness: &mut Client, count: usize) -> Self {
        let mut wills = Self { seen: vec![0; count], last: None };
        let mut left = count;
        loop {
            let patience = if left == 0 { Duration::from_secs(1) } else { WILLS_WITHIN };
            match witness.next_event(patience) {
                Some(Event::Packet(Packet::Publish(publish))) => {
                    witness.acknowledge(&publish);
                    let number: usize = publish.topic["wills/".len()..].parse().expect("it is one of ours");
                    wills.seen[number] += 1;
                    left -= usize::from(wills.seen[number] == 1);
                    wills.last = Some(Instant::now());
                }
                Some(Event::Packet(_)) => {}
                Some(Event::Closed) | None => return wills,
            }
        }
    }
}

const READY: &str = "ready\n";
const WILLS_WITHIN: Duration = Duration::from_secs(30);
