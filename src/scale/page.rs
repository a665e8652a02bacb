//! The tables of the page, as the model has them.

use std::{fmt::Write as _, fs, path::Path};

use super::{
    constants::{ALL, Constant},
    model::{self, CLIENTS, CORES, Cluster, NODES, Storm, WORKLOADS, Workload},
};
use crate::router::PARTS;

/// The page, with every table as the model has it.
#[test]
fn the_page_says_what_the_model_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/scale/README.md");
    let page = fs::read_to_string(&path).expect("the page is there");
    let mut expected = page.clone();
    for (name, table) in tables() {
        expected = with_table(&expected, &name, &table);
    }
    if std::env::var_os("UPDATE_SCALE").is_some() {
        fs::write(&path, expected).expect("the page can be written");
        return;
    }
    for (number, (line, expected)) in page.lines().zip(expected.lines()).enumerate() {
        assert_eq!(line, expected, "line {}; UPDATE_SCALE=1 writes the page anew", number + 1);
    }
    assert_eq!(page.len(), expected.len(), "UPDATE_SCALE=1 writes the page anew");
}

/// Puts a table between its markers.
fn with_table(page: &str, name: &str, table: &str) -> String {
    let (begin, end) = (format!("<!-- {name}:begin -->\n"), format!("<!-- {name}:end -->"));
    let place = |marker: &str| page.find(marker).unwrap_or_else(|| panic!("the page has no {marker}"));
    let (from, to) = (place(&begin) + begin.len(), place(&end));
    format!("{}\n{table}\n{}", &page[..from], &page[to..])
}

fn tables() -> Vec<(String, String)> {
    let mut tables = vec![
        ("constants".to_owned(), constants()),
        ("storm".to_owned(), storm()),
        ("bends".to_owned(), bends()),
        ("ops".to_owned(), ops()),
    ];
    for workload in &WORKLOADS {
        tables.push((format!("{}-holds", workload.name), holds(workload)));
        tables.push((format!("{}-does", workload.name), does(workload)));
    }
    tables
}

fn constants() -> String {
    let mut table = Table::new(&["what", "", "measured by", "held by the test"]);
    for Constant { what, value, unit, from, held_by } in ALL {
        let value = format!("{} {unit}", figure(*value));
        let held_by = if held_by.is_empty() { String::new() } else { format!("`{held_by}`") };
        table.row(&[(*what).to_owned(), value.trim_end().to_owned(), (*from).to_owned(), held_by]);
    }
    table.text
}

fn holds(workload: &Workload) -> String {
    let mut table =
        Table::new(&["clients", "nodes", "connections", "for them", "routes", "sessions", "together"]);
    each(workload, |cluster, [clients, nodes]| {
        let bytes = [
            cluster.connection_bytes(),
            cluster.route_bytes(),
            cluster.session_bytes(),
            cluster.node_bytes(),
        ];
        let [connections, routes, sessions, together] = bytes.map(gibibytes);
        table.row(&[clients, nodes, figure(cluster.connections()), connections, routes, sessions, together]);
    });
    table.text
}

fn does(workload: &Workload) -> String {
    let mut table = Table::new(&[
        "clients",
        "nodes",
        "connects/s",
        "changes of routes/s",
        "meta entries/s",
        "ops of shards/s",
        "log of a node",
        "messages/s",
        "forwards of one",
        "cores of a node",
    ]);
    each(workload, |cluster, [clients, nodes]| {
        table.row(&[
            clients,
            nodes,
            figure(cluster.connects()),
            figure(cluster.route_changes()),
            figure(cluster.meta_entries()),
            figure(cluster.ops()),
            format!("{} MB/s", figure(cluster.log_bytes() / 1e6)),
            figure(cluster.messages()),
            figure(cluster.forwards()),
            cluster.cores().map_or_else(|| "–".to_owned(), figure),
        ]);
    });
    table.text
}

fn storm() -> String {
    let mut table = Table::new(&[
        "clients",
        "nodes",
        "come back",
        "forgetting",
        "accepting",
        "ops of shards",
        "entries",
        "announcing",
        "applying",
        "snapshots",
    ]);
    each(&WORKLOADS[0], |cluster, [clients, nodes]| {
        if cluster.nodes < 3.0 {
            return;
        }
        let storm = Storm(cluster);
        let (snapshots, writing) = storm.snapshots();
        table.row(&[
            clients,
            nodes,
            figure(storm.clients()),
            seconds(storm.forgetting()),
            seconds(storm.accepting()),
            seconds(storm.opening()),
            figure(storm.entries()),
            seconds(storm.announcing()),
            seconds(storm.applying()),
            format!("{}, {}", figure(snapshots), seconds(writing)),
        ]);
    });
    format!("{}\nEach node has {CORES} cores.\n", table.text)
}

fn ops() -> String {
    let mut table = Table::new(&["what", "entry of", "adds"]);
    let mut row = |what: &str, of: &str, bytes: f64| {
        table.row(&[what.to_owned(), of.to_owned(), format!("{} B", figure(bytes))]);
    };
    row("a route comes or goes", "meta group", model::change_bytes());
    row("Open", "shard", model::op_bytes(model::open()));
    row("Close", "shard", model::op_bytes(model::close()));
    row("Publish, 256 B of payload", "shard", model::op_bytes(model::publish()));
    row("Acknowledge", "shard", model::op_bytes(model::acknowledge()));
    table.text
}

fn bends() -> String {
    let mut table = Table::new(&["what", "bends at"]);
    let mut row = |what: &str, at: String| table.row(&[what.to_owned(), at]);
    let routes = |count: f64| format!("{} million routes", count / 1e6);
    for count in CLIENTS {
        let bytes = model::snapshot_bytes(count);
        row(
            &format!(
                "a snapshot of {}, {}, is due when the one before it is written",
                routes(count),
                mega(bytes)
            ),
            format!("{} changes/s", figure(model::changes_until_snapshots_never_end(count))),
        );
    }
    row(
        "a dead node is forgotten for longer than a second, and nothing is matched",
        format!("{} million routes", figure(model::forgotten_per_second() / 1e6)),
    );
    row(
        "one entry of 4,096 changes holds all matching up for longer than a second, while a snapshot is being written",
        format!("{} million routes", figure(model::copied_per_second() / 1e6)),
    );
    row(
        "announcements of one node wait for each other, 4,096 changes an entry",
        format!("{} changes/s", figure(model::announced_max())),
    );
    row(
        "one thread of every node does nothing but apply changes of routes",
        format!("{} changes/s", figure(1e9 / super::constants::APPLY_ROUTE.value)),
    );
    row(
        "each topic in the match cache is matched anew within a second",
        format!("{} changes of routes/s, or one of a wildcard or group", figure(PARTS as f64)),
    );
    row(
        "the table of routes takes a node as much as its clients, each with a topic of its own",
        format!("{} nodes", figure(model::nodes_until_routes_are_half())),
    );
    row(
        "there are more nodes than shards to lead",
        format!("{} nodes", figure(model::shards_led(1.0).0 + 1.0)),
    );
    for nodes in NODES.into_iter().filter(|nodes| *nodes > 1) {
        let nodes = f64::from(nodes);
        let (most, even) = model::shards_led(nodes);
        row(
            &format!(
                "{} nodes: entries of the meta group that announce routes, each but for many of them small",
                figure(nodes)
            ),
            format!("{}/s, and no more", figure(model::entries_max(nodes))),
        );
        row(
            &format!("{} nodes: messages from client to client, of what one node takes", figure(nodes)),
            format!("{} times", figure(model::speed_up(nodes))),
        );
        row(
            &format!("{} nodes: the node that leads most shards, of its part", figure(nodes)),
            format!("{most} of {}, {} times", figure(even), figure(most / even)),
        );
        row(
            &format!(
                "{} nodes: streams of lanes of each, and what it may keep for others that do not take it",
                figure(nodes)
            ),
            format!("{}, {}", figure(model::lane_streams(nodes)), mega(model::lane_bytes(nodes))),
        );
    }
    table.text
}

/// Calls `visit` with each size of the cluster, as the model has it and as the table says it.
fn each(workload: &Workload, mut visit: impl FnMut(Cluster<'_>, [String; 2])) {
    for clients in CLIENTS {
        for nodes in NODES {
            let said = [format!("{} million", figure(clients / 1e6)), nodes.to_string()];
            visit(Cluster::new(workload, clients, nodes), said);
        }
    }
}

/// A table of Markdown.
struct Table {
    text: String,
}

impl Table {
    fn new(heads: &[&str]) -> Self {
        let mut table = Self { text: String::new() };
        table.row(&heads.iter().map(|head| (*head).to_owned()).collect::<Vec<_>>());
        table.row(&vec!["---".to_owned(); heads.len()]);
        table
    }

    fn row(&mut self, cells: &[String]) {
        writeln!(self.text, "| {} |", cells.join(" | ")).expect("it is a string");
    }
}

fn gibibytes(bytes: f64) -> String {
    match bytes {
        0.0 => "0".to_owned(),
        ..1_048_576.0 => format!("{} KiB", figure(bytes / 1_024.0)),
        _ => format!("{} GiB", figure(bytes / f64::from(1 << 30))),
    }
}

fn mega(bytes: f64) -> String {
    format!("{} MB", figure(bytes / 1e6))
}

fn seconds(seconds: f64) -> String {
    format!("{} s", figure(seconds))
}

/// Three digits, with commas.
#[expect(clippy::cast_possible_truncation, reason = "logarithms are small")]
fn figure(value: f64) -> String {
    if value >= 1e6 {
        return format!("{} million", figure(value / 1e6));
    }
    let digits = if value == 0.0 { 0 } else { value.abs().log10().floor() as i32 };
    if value >= 1_000.0 {
        let scale = 10_f64.powi(digits - 2);
        let rounded = format!("{:.0}", (value / scale).round() * scale);
        let (thousands, rest) = rounded.split_at(rounded.len() - 3);
        return format!("{thousands},{rest}");
    }
    let places = usize::try_from(2 - digits).unwrap_or(0).min(4);
    let text = format!("{value:.places$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[test]
fn figures_have_three_digits() {
    let check = |value: f64, text: &str| assert_eq!(figure(value), text);
    check(0.0, "0");
    check(0.333_333, "0.333");
    check(2.0, "2");
    check(5.25, "5.25");
    check(999.6, "1000");
    check(1_740.0, "1,740");
    check(16_666.7, "16,700");
    check(3_333_333.3, "3.33 million");
    check(100e6, "100 million");
}
