//! Operators, while there is much to do.

use std::time::{Duration, Instant};

use flotilla_compare::figure::grouped;

use crate::{
    finding::{Finding, Outcome},
    fleet::Node,
    stage::Stage,
};

/// O22.
pub(super) fn under_load(stage: &Stage) -> Outcome {
    let clients = stage.clients(16_000);
    let cluster = stage.broker(&[("sys.interval", "1s")]);
    let node = cluster.node(0);
    let idle = format!("connections -n {clients} --subscribe -t 600 --client-id-prefix idle-");
    let load = "pairs -n 50 -w 64 -q 1 -t 600";
    let ((questions, report), _) =
        stage.under(node, &idle, clients as usize, || stage.under(node, load, 100, || ask(stage, node)));
    let mut finding = Finding::of(format!(
        "{} clients, and 50 pairs at QoS 1 that send as fast as it goes; each question asked again and again for {} s",
        grouped(clients.into()),
        stage.seconds()
    ));
    finding.state("load", report.number("/traffic/received_per_second"), "messages/s");
    for Question { what, longest, answered } in questions {
        finding.at_most(format!("{what}: longest"), longest.as_secs_f64() * 1e3, "ms", 1_000.0);
        finding.at_least("answered", answered, "", 1.0);
    }
    Outcome::Found(finding)
}

/// How long answers took.
struct Question {
    what: &'static str,
    longest: Duration,
    answered: f64,
}

fn ask(stage: &Stage, node: &Node) -> Vec<Question> {
    let ctl = |arguments: &'static [&'static str]| {
        move || {
            let output = node.ctl(arguments);
            output.status.success() && !output.stdout.is_empty()
        }
    };
    let part = stage.time / 4;
    vec![
        repeat("ctl cluster status", part, ctl(&["--json", "cluster", "status"])),
        repeat("ctl clients list (1,000)", part, ctl(&["--json", "clients", "list"])),
        repeat("ctl clients list --prefix", part, ctl(&["--json", "clients", "list", "--prefix", "idle-77"])),
        repeat("ctl clients list --limit 0", part, ctl(&["--json", "clients", "list", "--limit", "0"])),
        repeat("$SYS", part, || {
            let mut client = node.client("operator");
            client.subscribe("$SYS/brokers/+/stats/connections/count", 0);
            !client.expect_any_publish().payload.is_empty()
        }),
    ]
}

/// Asks until the time is over; the programs that ask are counted, too.
fn repeat(what: &'static str, time: Duration, mut ask: impl FnMut() -> bool) -> Question {
    let began = Instant::now();
    let mut question = Question { what, longest: Duration::ZERO, answered: 0.0 };
    while began.elapsed() < time {
        let asked = Instant::now();
        assert!(ask(), "no answer: {what}");
        question.longest = question.longest.max(asked.elapsed());
        question.answered += 1.0;
    }
    question
}
