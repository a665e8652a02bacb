//! `flotilla ctl` against nodes that the test makes up.

use std::{
    net::SocketAddr,
    process::Command,
    sync::{Arc, Mutex, mpsc},
    thread,
};

use flotilla::admin::{self, AdminError, AdminSource, BoxFuture, BoxStream, Chunks};
use flotilla_rpc::admin::{
    Ban, Client, ClusterStatusReply, ImportProgress, Node, Route, RouteTarget, Shard, ShardReplica,
};
use flotilla_state::{Banned, ShardId};
use futures_util::stream;
use tokio::{net::TcpListener, runtime::Builder};
use tonic::{
    Request, Status,
    service::interceptor::InterceptedService,
    transport::{Server, server::TcpIncoming},
};

#[test]
fn the_cluster_is_shown_to_people_and_to_machines() {
    let fleet = Fleet::start();
    let (code, text, _) = fleet.ctl("cluster status");
    assert_eq!(code, Some(0));
    for line in ["cluster  fake (00ff)", "leader   node-1, term 3", "quorum   yes", "node     node-1, ready"]
    {
        assert!(text.contains(line), "{text}");
    }
    assert!(text.contains("NODE    ROLE  STATUS  ADDRESS"), "{text}");
    assert!(!text.contains("WARNING"), "{text}");
    let json = fleet.json("cluster status");
    assert_eq!(
        (&json["name"], &json["leader"], &json["quorum"]),
        (&"fake".into(), &"node-1".into(), &true.into())
    );
    assert_eq!(json["not_ready_because"], serde_json::Value::Null);
    assert_eq!(json["nodes"][1]["id"], "00000000000000bb");
    assert_eq!(json["nodes"][1]["sessions"], serde_json::Value::Null, "a node counts only its own");
}

#[test]
fn every_node_is_asked_for_what_only_it_knows() {
    let fleet = Fleet::start();
    let nodes = fleet.json("nodes list");
    let sessions: Vec<_> =
        nodes.as_array().expect("it is a list").iter().map(|node| &node["sessions"]).collect();
    assert_eq!(sessions, [&serde_json::json!(2), &serde_json::json!(2), &serde_json::Value::Null]);
    let clients = fleet.json("clients list");
    let ids = clients.as_array().expect("it is a list").iter().map(|client| {
        let text = |key: &str| client[key].as_str().expect("it is a text").to_owned();
        (text("client_id"), text("node"))
    });
    let expected = [("a-1", "node-1"), ("a-2", "node-2"), ("b\x1b-1", "node-1"), ("b\x1b-2", "node-2")];
    assert_eq!(ids.collect::<Vec<_>>(), expected.map(|(id, node)| (id.to_owned(), node.to_owned())));
    let (code, text, _) = fleet.ctl("clients list --prefix b --limit 1");
    assert_eq!((code, text.lines().count()), (Some(0), 2), "{text}");
    assert!(text.contains("b\\u{1b}-1  node-1"), "{text}");
    let (code, text, _) = fleet.ctl("clients show a-2");
    assert_eq!((code, text.lines().count()), (Some(0), 2), "{text}");
    let (code, _, error) = fleet.ctl("clients show a");
    assert_eq!((code, error.as_str()), (Some(1), "error: there is no client \"a\"\n"));
}

#[test]
fn routes_and_shards_are_shown_with_the_names_of_nodes() {
    let fleet = Fleet::start();
    let (code, text, _) = fleet.ctl("routes list");
    assert_eq!(
        (code, text.as_str()),
        (Some(0), "FILTER      NODES\n$share/g/#  node-1 (2 online, 1 of them kept), node-2\n")
    );
    let (_, text, _) = fleet.ctl("routes list --topic a/b");
    assert!(text.starts_with("FILTER  NODES\na/b     node-1"), "{text}");
    let (code, text, _) = fleet.ctl("shards list");
    let expected = "SHARD  LEADER  TERM  MEMBERS                   VOTES  SESSIONS  QUEUED  LAG  REGISTRAR\n0      node-1  9     node-1, 00000000000000dd  yes    5         8       2    node-2\n1      -       0     -                         -      -         -       -    -\n";
    assert_eq!((code, text.as_str()), (Some(0), expected));
    let shards = fleet.json("shards list");
    assert_eq!(shards[1]["registrar"], serde_json::Value::Null);
    assert_eq!(
        (&shards[0]["followers"][0], &shards[0]["replica"]["queued_messages"]),
        (&"node-1".into(), &7.into())
    );
    assert_eq!(shards[0]["at_leader"]["queued_messages"], 8);
}

#[test]
fn orders_reach_the_node_that_they_are_for() {
    let fleet = Fleet::start();
    assert_eq!(fleet.ctl("clients kick a-2").0, Some(0));
    assert_eq!(fleet.ctl("nodes drain node-2").0, Some(0));
    assert_eq!(fleet.ctl("nodes leave 00000000000000bb").0, Some(0));
    assert_eq!(fleet.ctl("nodes drain").0, Some(0));
    assert_eq!(fleet.ctl("nodes remove node-3").0, Some(0));
    assert_eq!(
        fleet.orders(),
        ["node-2 kicks a-2", "node-2 drains", "node-2 leaves", "node-1 drains", "node-1 removes node-3"]
    );
    let (code, _, error) = fleet.ctl("clients kick a-3");
    assert_eq!((code, error.as_str()), (Some(1), "error: there is no connected client \"a-3\"\n"));
    let (code, _, error) = fleet.ctl("nodes remove node-1");
    assert!(code == Some(1) && error.contains("node-1 is up"), "{error}");
    let (code, _, error) = fleet.ctl("nodes drain node-9");
    assert_eq!((code, error.as_str()), (Some(1), "error: there is no node \"node-9\"\n"));
}

#[test]
fn any_node_bans_and_knows_who_is_banned() {
    let fleet = Fleet::start();
    let (code, text, _) = fleet.ctl("bans add clientid a/1 --reason noisy");
    assert_eq!((code, text.as_str()), (Some(0), "clientid \"a/1\" is banned\n"));
    assert_eq!(fleet.ctl("bans add peerhost ::ffff:192.0.2.7").0, Some(0));
    assert_eq!(fleet.ctl("bans remove peerhost 192.0.2.7").0, Some(0));
    let orders = [
        "node-1 bans clientid a/1 (noisy) for ctl",
        "node-1 bans peerhost 192.0.2.7 () for ctl",
        "node-1 lifts the ban of 192.0.2.7",
    ];
    assert_eq!(fleet.orders(), orders);
    let (code, _, error) = fleet.ctl("bans remove username u");
    assert!(code == Some(1) && error.ends_with(" answers: there is no such ban\n"), "{error}");
    let (code, _, error) = fleet.ctl("bans add peerhost localhost");
    assert!(code == Some(1) && error.contains("not an IP address"), "{error}");
    assert_eq!(fleet.ctl("bans add clientid_re a").0, Some(2));
    let (code, text, _) = fleet.ctl("bans list");
    let expected = "AS        WHO        REASON  BY   AT\n\
        clientid  a\\u{1b}    noisy   ctl  2023-11-14T22:13:20Z\n\
        peerhost  192.0.2.7  -       ctl  -\n";
    assert_eq!((code, text.as_str()), (Some(0), expected));
    let json = fleet.json("bans list");
    let expected = serde_json::json!([
        { "as": "clientid", "who": "a\u{1b}", "reason": "noisy", "by": "ctl", "at": "2023-11-14T22:13:20Z" },
        { "as": "peerhost", "who": "192.0.2.7", "reason": null, "by": "ctl", "at": null },
    ]);
    assert_eq!(json, expected);
}

#[test]
fn a_list_that_is_not_whole_is_shown_and_fails() {
    let fleet = Fleet::start();
    fleet.lose_second_node();
    let (code, text, error) = fleet.ctl("clients list");
    assert_eq!(code, Some(1));
    assert!(text.contains("a-1") && !text.contains("a-2"), "{text}");
    assert!(error.starts_with("warning: no node answers at ") && error.contains("not every node"), "{error}");
}

#[test]
fn without_the_secret_nothing_is_told() {
    let fleet = Fleet::start();
    let mut command = Command::new(PROGRAM);
    let output = command.args(["ctl", "cluster", "status", "--addr", &fleet.addr]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("answers: who are you?"), "{error}");
}

#[test]
fn a_node_that_is_not_there_is_told_about() {
    let output = |arguments: &str| {
        let mut command = Command::new(PROGRAM);
        let output = command.args(arguments.split(' ')).output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, error) = output("ctl cluster status --addr 127.0.0.1:1");
    assert_eq!(code, Some(1));
    assert!(error.starts_with("error: no node answers at 127.0.0.1:1: Connection refused"), "{error}");
    // Which is what a node without a cluster is: it opens no port for orders.
    let (code, error) = output("ctl bans add clientid c --addr 127.0.0.1:1");
    assert!(code == Some(1) && error.contains("one without it is alone and takes no orders"), "{error}");
    let (code, error) = output("ctl --addr nowhere cluster status");
    assert_eq!((code, error.as_str()), (Some(1), "error: \"nowhere\" is not host:port\n"));
    assert_eq!(output("ctl cluster").0, Some(2));
    assert_eq!(output("ctl cluster status --set cluster.secret=short").0, Some(1));
}

#[test]
fn a_node_that_is_silent_is_not_waited_for() {
    // Connections are taken by the system, and never answered.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let addr = silent.local_addr().expect("it is bound").to_string();
    let mut command = Command::new(PROGRAM);
    command.args(["ctl", "cluster", "status", "--timeout", "100ms", "--addr", &addr]);
    let output = command.output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "error: no answer within 100ms\n");
}

#[test]
fn a_backup_is_written_once_and_checked_before_it_is_sent() {
    let fleet = Fleet::start();
    let directory = tempfile::tempdir().expect("there is room");
    let file = directory.path().join("backup").display().to_string();
    // The cluster has no shards.
    let exported = fleet.json(&format!("export {file}"));
    assert_eq!((&exported["sessions"], &exported["shards"]), (&0.into(), &0.into()));
    let files = std::fs::read_dir(directory.path()).expect("it is there").count();
    assert_eq!(files, 1, "nothing is left beside it");
    let (code, _, error) = fleet.ctl(&format!("export {file}"));
    assert_eq!(code, Some(1));
    assert!(error.contains("is there already"), "{error}");

    let (code, _, error) = fleet.ctl(&format!("import {file}"));
    assert_eq!(code, Some(1));
    assert!(error.contains("the cluster has 5 sessions"), "{error}");
    let whole = std::fs::read(&file).expect("it was written");
    std::fs::write(&file, &whole[..whole.len() - 1]).expect("it is ours");
    let (code, _, error) = fleet.ctl(&format!("import --merge {file}"));
    assert_eq!(code, Some(1));
    assert!(error.contains("it is cut off"), "{error}");
    assert_eq!(fleet.orders(), [] as [&str; 0]);
    std::fs::write(&file, whole).expect("it is ours");
    let (code, _, error) = fleet.ctl(&format!("import --merge {file}"));
    assert_eq!(
        (code, fleet.orders()),
        (Some(1), vec!["node-1 imports".to_owned()]),
        "it does not say that it was all: {error}"
    );
    assert_eq!(fleet.ctl("import /nowhere/backup").0, Some(1));
}

/// Two nodes that serve, and a third that is down.
struct Fleet {
    addr: String,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// The addresses of the nodes.
    addresses: Vec<SocketAddr>,
    orders: Vec<String>,
}

impl Fleet {
    fn start() -> Self {
        let shared = Arc::new(Mutex::new(Shared::default()));
        for number in [1, 2] {
            let source = Fake { number, shared: Arc::clone(&shared) };
            let address = serve(source);
            shared.lock().expect("nobody panics with it").addresses.push(address);
        }
        let addr = shared.lock().expect("nobody panics with it").addresses[0].to_string();
        Self { addr, shared }
    }

    /// The exit code and what is printed.
    fn ctl(&self, arguments: &str) -> (Option<i32>, String, String) {
        let mut command = Command::new(PROGRAM);
        command.arg("ctl").args(arguments.split(' ')).args(["--addr", &self.addr]);
        let output = command.env("FLOTILLA_CLUSTER__SECRET", SECRET).output().expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }

    fn json(&self, arguments: &str) -> serde_json::Value {
        let (code, text, error) = self.ctl(&format!("{arguments} --json"));
        assert_eq!((code, error.as_str()), (Some(0), ""));
        serde_json::from_str(&text).expect("it is JSON")
    }

    fn orders(&self) -> Vec<String> {
        self.shared.lock().expect("nobody panics with it").orders.clone()
    }

    /// Its address leads nowhere.
    fn lose_second_node(&self) {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        let address = free.local_addr().expect("it is bound");
        self.shared.lock().expect("nobody panics with it").addresses[1] = address;
    }
}

fn serve(source: Fake) -> SocketAddr {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let runtime =
            Builder::new_current_thread().enable_all().build().expect("there is room for a runtime");
        runtime.block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
            sender.send(listener.local_addr().expect("it is bound")).expect("it is waited for");
            let service = InterceptedService::new(admin::server(Arc::new(source)), check_secret);
            let router = Server::builder().add_service(service);
            router.serve_with_incoming(TcpIncoming::from(listener)).await.expect("it serves until the end");
        });
    });
    receiver.recv().expect("the server starts")
}

/// What stands before every service of a node.
fn check_secret(request: Request<()>) -> Result<Request<()>, Status> {
    let told = |key| request.metadata().get(key).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let hex: String = SECRET.bytes().map(|byte| format!("{byte:02x}")).collect();
    let expected = ["1", "0000000000000000", "flotilla", &hex];
    if ["flotilla-wire", "flotilla-from", "flotilla-cluster", "flotilla-secret"].map(told) == expected {
        return Ok(request);
    }
    Err(Status::unauthenticated("who are you?"))
}

/// A node that has two clients and does what it is told.
#[derive(Debug)]
struct Fake {
    number: u64,
    shared: Arc<Mutex<Shared>>,
}

impl Fake {
    fn id(&self) -> u64 {
        IDS[if self.number == 1 { 0 } else { 1 }]
    }

    fn order(&self, what: &str) {
        let order = format!("node-{} {what}", self.number);
        self.shared.lock().expect("nobody panics with it").orders.push(order);
    }
}

impl AdminSource for Fake {
    fn status(&self) -> ClusterStatusReply {
        let addresses = self.shared.lock().expect("nobody panics with it").addresses.clone();
        let node = |number: usize| Node {
            id: IDS[number],
            name: format!("node-{}", number + 1),
            role: "core".to_owned(),
            status: if number < 2 { "up" } else { "down" }.to_owned(),
            address: addresses.get(number).map_or_else(|| "127.0.0.1:1".to_owned(), SocketAddr::to_string),
            sessions: (IDS[number] == self.id()).then_some(2),
            ..Node::default()
        };
        ClusterStatusReply {
            cluster_name: "fake".to_owned(),
            cluster_id: "00ff".to_owned(),
            this_node: self.id(),
            leader: IDS[0],
            term: 3,
            quorum: true,
            ready: true,
            nodes: (0..IDS.len()).map(node).collect(),
            ..ClusterStatusReply::default()
        }
    }

    fn shards(&self) -> Vec<Shard> {
        let replica = ShardReplica {
            sessions: 5,
            queued_messages: 7,
            apply_lag: 2,
            votes: true,
            ..ShardReplica::default()
        };
        let placed = Shard {
            shard: 0,
            epoch: 12,
            nodes: vec![IDS[1], IDS[0], 0xDD],
            replicas: vec![IDS[0]],
            members: vec![IDS[0], 0xDD],
            leader: IDS[0],
            term: 9,
            replica: Some(replica),
            at_leader: Some(ShardReplica { queued_messages: 8, ..replica }),
        };
        vec![placed, Shard { shard: 1, epoch: 13, ..Shard::default() }]
    }

    fn clients(&self, prefix: String) -> BoxStream<Client> {
        let ids = ["b\x1b-", "a-"].map(|id| format!("{id}{}", self.number));
        let node = self.id();
        let client = move |client_id| Client { client_id, node, connected: true, ..Client::default() };
        Box::pin(stream::iter(ids.into_iter().filter(move |id| id.starts_with(&prefix)).map(client)))
    }

    fn kick(&self, client_id: String) -> BoxFuture<'_, Result<bool, AdminError>> {
        let ours = client_id == format!("a-{}", self.number);
        if ours {
            self.order(&format!("kicks {client_id}"));
        }
        Box::pin(std::future::ready(Ok(ours)))
    }

    fn routes(&self, topic: Option<String>) -> BoxStream<Route> {
        let filter = if topic.is_some() { String::new() } else { "$share/g/#".to_owned() };
        let targets = vec![
            RouteTarget { node: IDS[0], online: 2, kept: 1 },
            RouteTarget { node: IDS[1], ..RouteTarget::default() },
        ];
        Box::pin(stream::iter([Route { filter, targets }]))
    }

    fn drain(&self) -> BoxFuture<'_, Result<(), AdminError>> {
        self.order("drains");
        Box::pin(std::future::ready(Ok(())))
    }

    fn leave(&self) -> BoxFuture<'_, Result<(), AdminError>> {
        self.order("leaves");
        Box::pin(std::future::ready(Ok(())))
    }

    fn remove(&self, node: String) -> BoxFuture<'_, Result<(), AdminError>> {
        let up = node != "node-3";
        if !up {
            self.order(&format!("removes {node}"));
        }
        let refused = Err(AdminError::Refused(format!("{node} is up")));
        Box::pin(std::future::ready(if up { refused } else { Ok(()) }))
    }

    fn bans(&self) -> BoxStream<Ban> {
        let ban = |r#as: &str, who: &str, reason: &str, at| Ban {
            r#as: r#as.to_owned(),
            who: who.to_owned(),
            reason: reason.to_owned(),
            by: "ctl".to_owned(),
            at,
        };
        let bans =
            [ban("clientid", "a\x1b", "noisy", 1_700_000_000_000), ban("peerhost", "192.0.2.7", "", 0)];
        Box::pin(stream::iter(bans))
    }

    fn ban(&self, banned: Banned, reason: String, by: String) -> BoxFuture<'_, Result<(), AdminError>> {
        self.order(&format!("bans {} {} ({reason}) for {by}", banned.kind(), banned.who()));
        Box::pin(std::future::ready(Ok(())))
    }

    fn lift_ban(&self, banned: Banned) -> BoxFuture<'_, Result<(), AdminError>> {
        let known = banned.who() == "192.0.2.7";
        if known {
            self.order(&format!("lifts the ban of {}", banned.who()));
        }
        let unknown = Err(AdminError::NotFound("such ban".to_owned()));
        Box::pin(std::future::ready(if known { Ok(()) } else { unknown }))
    }

    fn export_shard(&self, _: ShardId) -> BoxFuture<'_, Result<Chunks, AdminError>> {
        Box::pin(std::future::ready(Err(AdminError::Unavailable("it is led elsewhere".to_owned()))))
    }

    fn import(&self, _: Chunks) -> BoxStream<Result<ImportProgress, AdminError>> {
        self.order("imports");
        Box::pin(stream::empty())
    }
}

const IDS: [u64; 3] = [0xAA, 0xBB, 0xCC];
const SECRET: &str = "correct horse battery staple";
const PROGRAM: &str = env!("CARGO_BIN_EXE_flotilla");
