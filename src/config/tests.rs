//! What a configuration is made of, from the outside.

use std::fs;

use toml::{Table, Value};

use super::{raw::RawConfig, *};

type Env = Vec<(String, String)>;

/// Loads a file of this text, or none, under these variables and arguments.
fn load(file: Option<&str>, env: &[(&str, &str)], set: &[&str]) -> Result<Config, ConfigErrors> {
    let env: Env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let set: Vec<String> = set.iter().map(|argument| (*argument).to_owned()).collect();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.toml");
    if let Some(text) = file {
        fs::write(&path, text).unwrap();
    }
    Config::load(file.map(|_| path.as_path()), env, &set)
}

/// The faults, one a line, with the path of the file cut to its name.
fn faults(file: Option<&str>, env: &[(&str, &str)], set: &[&str]) -> String {
    let text = load(file, env, set).expect_err("it is faulty").to_string();
    let directory = std::env::temp_dir().display().to_string();
    let cut = |line: &str| match (line.find(&directory), line.find("test.toml")) {
        (Some(start), Some(end)) => format!("{}{}", &line[..start], &line[end..]),
        _ => line.to_owned(),
    };
    text.lines().map(cut).collect::<Vec<_>>().join("\n")
}

/// The paths of all values, and the values.
fn leaves(table: &Table, prefix: &str) -> Vec<(String, Value)> {
    let below = |(key, value): (&String, &Value)| {
        let path = format!("{prefix}{key}");
        match value {
            Value::Table(table) => leaves(table, &format!("{path}.")),
            value => vec![(path, value.clone())],
        }
    };
    table.iter().flat_map(below).collect()
}

const SHIPPED: &str = include_str!("../../config/flotilla.toml");

#[test]
fn the_shipped_file_shows_every_key_at_its_default() {
    let written: Table = SHIPPED.parse().unwrap();
    let defaults: Table = RawConfig::default().to_toml().parse().unwrap();
    let paths = |table| leaves(table, "").into_iter().map(|(path, _)| path).collect::<BTreeSet<_>>();
    assert_eq!(paths(&written), paths(&defaults));
    assert_eq!(written.try_into::<RawConfig>().unwrap(), RawConfig::default());
    assert_eq!(load(Some(SHIPPED), &[], &[]).unwrap(), Config::default());
}

#[test]
fn every_key_of_the_shipped_file_is_explained() {
    for (number, line) in SHIPPED.lines().enumerate().skip(1) {
        let explained = SHIPPED.lines().nth(number - 1).unwrap().starts_with('#');
        assert!(explained || !line.contains(" = "), "line {}: {line}", number + 1);
    }
}

#[test]
fn nothing_given_is_the_default() {
    assert_eq!(load(None, &[], &[]).unwrap(), Config::default());
    assert_eq!(load(Some(""), &[], &[]).unwrap(), Config::default());
    let config = Config::default();
    assert_eq!(config.listeners["tcp"].bind.to_string(), "0.0.0.0:1883");
    assert_eq!(config.mqtt.max_packet_size.get(), 1 << 20);
    assert_eq!(config.session.expiry_v3, Some(Duration::from_secs(7_200)));
    assert_eq!(config.sys.interval, Some(Duration::from_secs(30)));
    assert!(config.retained.bytes_max.is_some_and(|bytes| bytes > 0));
    assert!(config.overload.memory_high < config.overload.memory_critical);
    assert!(config.overload.memory_high > config.retained.bytes_max);
    assert_eq!(config.listeners["tcp"].connect_rate_max, None);
    assert_eq!(config.listeners["tcp"].connecting_max, 5_000);
}

#[test]
fn every_key_can_be_overridden_alone() {
    let defaults: Table = RawConfig::default().to_toml().parse().unwrap();
    // A protocol has no other value yet, and the only listener must be enabled.
    let alone = |path: &str| !path.ends_with(".protocol") && !path.ends_with(".enabled");
    for (path, default) in leaves(&defaults, "").into_iter().filter(|(path, _)| alone(path)) {
        let needed: Vec<String> = needs(&path).iter().map(|argument| (*argument).to_owned()).collect();
        let other = other_value(&path);
        let argument = format!("{path}={other}");
        let variable = format!("FLOTILLA_{}", path.replace('.', "__").to_uppercase());
        let (section, key) = path.rsplit_once('.').unwrap();
        let quoted = if other.parse::<Value>().is_ok() { other.to_owned() } else { format!("{other:?}") };
        let file = format!("[{section}]\n{key} = {quoted}\n");

        let effective = |file: Option<&Path>, env: Env, set: &[String]| {
            let set: Vec<String> = needed.iter().chain(set).cloned().collect();
            let (config, text) = Config::load_with_text(file, env, &set).unwrap();
            (config, leaves(&text.parse().unwrap(), "").into_iter().collect::<BTreeMap<_, _>>())
        };
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("f"), file).unwrap();
        let (from_file, values) = effective(Some(&directory.path().join("f")), Vec::new(), &[]);
        let (from_env, env_values) = effective(None, vec![(variable, other.to_owned())], &[]);
        let (from_set, set_values) = effective(None, Vec::new(), &[argument]);
        assert_eq!(from_file, from_env);
        assert_eq!(from_file, from_set);
        assert_eq!(values, env_values);
        assert_eq!(values, set_values);
        let (without, others) = effective(None, Vec::new(), &[]);
        assert_ne!(values[&path], default, "{path}");
        assert_ne!(from_file, without, "{path} changes nothing");
        for (untouched, default) in others.into_iter().filter(|(other, _)| *other != path) {
            assert_eq!(values[&untouched], default, "{path} changed {untouched}");
        }
    }
}

/// What must be set, too, or the key contradicts a default.
fn needs(path: &str) -> &'static [&'static str] {
    match path {
        "node.role" => &["cluster.listen=127.0.0.1:5883", "cluster.discovery.dns=nodes:5883"],
        "cluster.bootstrap_expect" => &["cluster.listen=127.0.0.1:5883", "cluster.discovery.srv=_a._b.c"],
        "cluster.advertise" => &["cluster.listen=127.0.0.1:5883"],
        path if path.starts_with("cluster.discovery.") => &["cluster.listen=127.0.0.1:5883"],
        _ => &[],
    }
}

/// A valid value that is not the default.
fn other_value(path: &str) -> &'static str {
    match path {
        "node.name" => "node-7",
        "node.role" => "edge",
        "node.data_dir" => "/var/lib/flotilla",
        "node.workers" | "cluster.bootstrap_expect" => "3",
        "cluster.name" => "fleet",
        "cluster.secret" => "correct horse battery staple",
        "cluster.listen" => "127.0.0.1:5884",
        "cluster.advertise" | "cluster.discovery.dns" => "node-7:5883",
        "cluster.discovery.static" => "[\"127.0.0.2:5883\"]",
        "cluster.discovery.srv" => "_flotilla._tcp.example.org",
        "cluster.node_down_after" | "cluster.edge_forget_after" => "30s",
        "cluster.replicas" => "5",
        "node.shutdown_grace" => "1m",
        "listeners.tcp.bind" => "127.0.0.1:1884",
        "listeners.tcp.max_connections" => "10",
        "overload.memory_high" => "64MiB",
        "overload.memory_critical" => "90%",
        "mqtt.max_packet_size" | "mqtt.output_buffer_max" => "2MiB",
        "mqtt.keepalive_backoff" => "1",
        "mqtt.overlap" => "each",
        "durability.sync" => "interval",
        "mqtt.response_information" => "reply/",
        "session.queue_bytes_max" => "32MiB",
        "session.queue_full" => "drop_oldest",
        "session.expiry_max" | "session.expiry_v3" => "1h",
        "shared.strategy" => "least_inflight",
        "retained.bytes_max" => "64MiB",
        "sys.client_events" => "[\"subscribed\"]",
        "auth.refused_filters" => "[\"#\"]",
        "log.level" => "info,flotilla=debug",
        "log.format" => "json",
        "session.queue_qos0" => "true",
        "listeners.tcp.nodelay" | "listeners.tcp.reuse_port" | "auth.anonymous" => "false",
        path if path.ends_with("timeout") || path.ends_with("interval") || path.ends_with("keepalive") => {
            "7s"
        }
        _ => "77",
    }
}

#[test]
fn a_later_layer_wins() {
    let file = Some("[mqtt]\nmax_inflight = 1\nreceive_maximum = 1\ntopic_alias_max = 1\n");
    let env = [("FLOTILLA_MQTT__MAX_INFLIGHT", "2"), ("flotilla_mqtt__receive_maximum", "2")];
    let config = load(file, &env, &["mqtt.max_inflight=3", "mqtt.max_inflight=4"]).unwrap();
    assert_eq!(config.mqtt.max_inflight.get(), 4);
    assert_eq!(config.mqtt.receive_maximum.get(), 2);
    assert_eq!(config.mqtt.topic_alias_max, 1);
    assert_eq!(config.mqtt.max_topic_levels, 128);
}

#[test]
fn overrides_are_toml_or_a_text_without_quotes() {
    let bytes = |value: &str| {
        let argument = format!("mqtt.max_packet_size={value}");
        load(None, &[], &[&argument]).unwrap().mqtt.max_packet_size.get()
    };
    assert_eq!(bytes("2MiB"), 2 << 20);
    assert_eq!(bytes("\"2MiB\""), 2 << 20);
    assert_eq!(bytes("2097152"), 2 << 20);
    assert_eq!(load(None, &[("FLOTILLA_NODE__NAME", "7")], &[]).unwrap().node.name, "7");
    assert_eq!(load(None, &[], &["node.name=a=b"]).unwrap().node.name, "a=b");
    let table = load(None, &[], &["mqtt={max_inflight=5, topic_alias_max=6}"]).unwrap().mqtt;
    assert_eq!((table.max_inflight.get(), table.topic_alias_max), (5, 6));
    let events = load(None, &[("FLOTILLA_SYS__CLIENT_EVENTS", "[]")], &[]).unwrap().sys.client_events;
    assert!(events.is_empty());
}

#[test]
fn a_file_that_names_listeners_names_all() {
    let names =
        |file, env: &[_], set: &[_]| load(file, env, set).unwrap().listeners.into_keys().collect::<Vec<_>>();
    let lan = Some("[listeners.lan]\nbind = \"192.0.2.1:1883\"\n");
    assert_eq!(names(None, &[], &[]), ["tcp"]);
    assert_eq!(names(lan, &[], &[]), ["lan"]);
    assert_eq!(names(lan, &[("FLOTILLA_LISTENERS__TCP__ENABLED", "true")], &[]), ["lan", "tcp"]);
    assert_eq!(names(None, &[], &["listeners.lan.bind=127.0.0.1:1884"]), ["lan", "tcp"]);
    assert_eq!(names(Some("[listeners.lan]\n"), &[], &[]), ["lan"]);
    let off = load(lan, &[], &["listeners.tcp.enabled=false"]).unwrap();
    assert!(off.listeners["lan"].enabled && !off.listeners["tcp"].enabled);
}

#[test]
fn all_faults_are_told_together_with_their_origin() {
    let file = "[mqtt]\nmax_inflght = 1\nmax_packet_size = \"1XB\"\nconnect_timeout = 10\n\n[session]\nqueue_full = \"x\"\n";
    let env = [("FLOTILLA_MQTT__MAX_INFLIGHT", "0"), ("FLOTILLA_NODE__NAME", "a/b")];
    let expected = r##"log.format: must be "text" or "json", not "xml" (from --set log.format=xml)
mqtt.connect_timeout: must be a duration such as "30s" or "1m30s", from 10ms to 1h, not 10 (from test.toml, line 4)
mqtt.max_inflght: unknown key; did you mean "max_inflight"? (from test.toml, line 2)
mqtt.max_inflight: must be an integer from 1 to 65535, not 0 (from the environment FLOTILLA_MQTT__MAX_INFLIGHT)
mqtt.max_packet_size: must be a size such as "64KiB", from 16B to 268435460B, not "1XB" (from test.toml, line 3)
node.name: must be a text of 1 to 255 bytes without "/", "+", "#", spaces or control characters, or "none", not "a/b" (from the environment FLOTILLA_NODE__NAME)
session.queue_full: must be "drop_newest" or "drop_oldest", not "x" (from test.toml, line 7)"##;
    assert_eq!(faults(Some(file), &env, &["log.format=xml"]), expected);
}

#[test]
fn unknown_keys_are_faults_in_every_layer() {
    let check = |file, env: &[_], set: &[_], expected| assert_eq!(faults(file, env, set), expected);
    check(
        Some("[mqqt]\na = 1\nb = 2\n"),
        &[],
        &[],
        "mqqt: unknown key; did you mean \"mqtt\"? (from test.toml, line 2)",
    );
    check(Some("[mqtt]\nxyzzy = 1\n"), &[], &[], "mqtt.xyzzy: unknown key (from test.toml, line 2)");
    check(None, &[], &["a.b=1"], "a: unknown key (from --set a.b=1)");
    check(
        None,
        &[("FLOTILLA_LISTENERS__TCP__BND", "x")],
        &[],
        "listeners.tcp.bnd: unknown key; did you mean \"bind\"? (from the environment FLOTILLA_LISTENERS__TCP__BND)",
    );
}

#[test]
fn tables_and_values_are_not_mixed_up() {
    let check = |set: &str, expected: &str| {
        assert_eq!(faults(None, &[], &[set]), format!("{expected} (from --set {set})"));
    };
    check("mqtt=3", "mqtt: must be a table");
    check("listeners.tcp=[]", "listeners.tcp: must be a table");
    check("mqtt.max_inflight.x=3", "mqtt.max_inflight: takes a value, not a table");
    check("mqtt.max_inflight={}", "mqtt.max_inflight: must be an integer from 1 to 65535, not a table");
    check("mqtt..x=3", "mqtt..x: is not a key");
    check("=3", ": is not a key");
    check(
        "listeners.A.bind=x",
        "listeners.A: a listener's name has 1 to 64 lower case letters, digits, \"_\" or \"-\"",
    );
    let deep = vec!["a"; 100_000].join(".");
    assert!(faults(None, &[], &[&format!("{deep}=1")]).contains("is not a key"));
    assert_eq!(faults(None, &[], &["mqtt"]), "--set mqtt: must have the form key=value");
}

#[test]
fn values_of_the_wrong_type_name_their_path() {
    let check = |set: &str, expected: &str| {
        assert_eq!(faults(None, &[], &[set]), format!("{expected} (from --set {set})"));
    };
    check("session.queue_qos0=yes", "session.queue_qos0: invalid type: string \"yes\", expected a boolean");
    check(
        "sys.client_events=connected",
        "sys.client_events: invalid type: string \"connected\", expected a sequence",
    );
    check("mqtt.max_inflight=many", "mqtt.max_inflight: must be an integer from 1 to 65535, not \"many\"");
    check(
        "mqtt.server_keepalive=off",
        "mqtt.server_keepalive: must be a duration in whole seconds such as \"60s\", from 0s to 65535s, or \"none\", not \"off\"",
    );
}

#[test]
fn a_file_that_is_not_toml_is_told_with_its_line() {
    let text = faults(Some("[mqtt]\nmax_inflight = = 3\n"), &[], &["log.format=xml"]);
    assert!(text.starts_with("test.toml, line 2: "), "{text}");
    assert!(text.ends_with("(from --set log.format=xml)"), "{text}");
    let text = faults(Some("[mqtt]\nmax_inflight = 3\nmax_inflight = 4\n"), &[], &[]);
    assert!(text.starts_with("test.toml, line 3: duplicate key"), "{text}");
    let missing = Config::load(Some(Path::new("/nonexistent/f.toml")), Env::new(), &[]).unwrap_err();
    assert_eq!(missing.to_string(), "/nonexistent/f.toml: No such file or directory (os error 2)");
}

#[test]
fn only_our_variables_are_looked_at() {
    let kubernetes = [("FLOTILLA_PORT", "tcp://10.0.0.1:1883"), ("FLOTILLA_SERVICE_PORT_MQTT", "1883")];
    assert_eq!(load(None, &kubernetes, &[]).unwrap(), Config::default());
    assert_eq!(load(None, &[("OTHER__MQTT__X", "1"), ("PATH", "/bin")], &[]).unwrap(), Config::default());
    assert_eq!(
        faults(None, &[("FLOTILLA_MQTT_MAX_INFLIGHT", "3")], &[]),
        "the environment FLOTILLA_MQTT_MAX_INFLIGHT: the parts of a key are separated by two underscores: \
         FLOTILLA_MQTT__MAX_INFLIGHT"
    );
}

#[test]
fn values_that_contradict_each_other_are_faults() {
    let check = |set: &[&str], expected: &str| assert_eq!(faults(None, &[], set), expected);
    check(
        &["mqtt.server_keepalive=60s", "mqtt.max_keepalive=30s"],
        "mqtt.server_keepalive: 60s is not within mqtt.max_keepalive, which is 30s (from --set mqtt.server_keepalive=60s)",
    );
    check(
        &["mqtt.server_keepalive=0s", "mqtt.max_keepalive=30s"],
        "mqtt.server_keepalive: 0s is not within mqtt.max_keepalive, which is 30s (from --set mqtt.server_keepalive=0s)",
    );
    check(&["listeners.tcp.enabled=false"], "listeners: at least one must be enabled");
    check(
        &["listeners.b.bind=0.0.0.0:1883"],
        "listeners.tcp.bind: 0.0.0.0:1883 is already the address of listeners.b",
    );
    let both = ["listeners.b.bind=0.0.0.0:0", "listeners.tcp.bind=0.0.0.0:0"];
    assert_eq!(load(None, &[], &both).unwrap().listeners.len(), 2, "port 0 is another port each time");
    // Both addresses are faulty, not equal.
    assert_eq!(faults(None, &[], &["listeners.a.bind=x", "listeners.b.bind=y"]).lines().count(), 2);
}

#[test]
fn bounds_that_lean_on_each_other_are_lifted() {
    let config = load(None, &[], &["mqtt.max_packet_size=32MiB", "session.expiry_max=1h"]).unwrap();
    assert_eq!(config.mqtt.output_buffer_max, 32 << 20);
    assert_eq!(config.session.queue_bytes_max, 32 << 20);
    assert_eq!(config.session.expiry_v3, Some(Duration::from_secs(3_600)));
    let config = load(None, &[], &["session.expiry_v3=none"]).unwrap();
    assert_eq!(config.session.expiry_v3, None);
    let marks = |set: &[&str]| {
        let Overload { memory_high, memory_critical } = load(None, &[], set).unwrap().overload;
        (memory_high, memory_critical)
    };
    assert_eq!(
        marks(&["overload.memory_high=4MiB", "overload.memory_critical=1"]),
        (Some(4 << 20), Some(4 << 20))
    );
    assert_eq!(marks(&["overload.memory_high=none", "overload.memory_critical=1"]), (None, Some(1)));
    assert_eq!(marks(&["overload.memory_high=4MiB", "overload.memory_critical=none"]), (Some(4 << 20), None));
    let config = load(None, &[], &["session.expiry_v3=none", "session.expiry_max=1h"]).unwrap();
    assert_eq!(config.session.expiry_v3, Some(Duration::from_secs(3_600)));
}

#[test]
fn off_is_a_value() {
    let set = ["sys.interval=0s", "retained.bytes_max=none", "mqtt.server_keepalive=0s"];
    let config = load(None, &[], &set).unwrap();
    assert_eq!(config.sys.interval, None);
    assert_eq!(config.retained.bytes_max, None);
    assert_eq!(config.mqtt.server_keepalive, Some(0));
}

#[test]
fn the_effective_text_loads_as_the_same_configuration() {
    let set = ["mqtt.max_packet_size=2MiB".to_owned(), "listeners.b.bind=[::1]:0".to_owned()];
    let (config, text) = Config::load_with_text(None, Env::new(), &set).unwrap();
    assert_eq!(load(Some(&text), &[], &[]).unwrap(), config);
}

#[test]
fn limits_are_those_of_the_configuration() {
    let set = ["mqtt.max_inflight=7", "session.queue_full=drop_oldest", "mqtt.response_information=r/"];
    let limits = load(None, &[], &set).unwrap().limits();
    assert_eq!(limits.max_inflight.get(), 7);
    assert_eq!(limits.queue_full, QueueFull::DropOldest);
    assert_eq!(limits.response_information.as_deref(), Some("r/"));
    assert_eq!(limits.queue_messages_max, 1_000);
}

#[test]
fn both_ends_of_every_range_can_be_used() {
    let ends = [
        ("node.workers", "1", "256"),
        ("cluster.edge_forget_after", "5s", "365d"),
        ("cluster.shards", "0", "1024"),
        ("cluster.replicas", "1", "7"),
        ("durability.interval", "1ms", "10s"),
        ("listeners.tcp.max_connections", "1", "100000000"),
        ("listeners.tcp.backlog", "1", "65535"),
        ("listeners.tcp.connect_rate_max", "1", "1000000"),
        ("listeners.tcp.connecting_max", "1", "1000000"),
        ("mqtt.max_packet_size", "16", "268435460"),
        ("mqtt.receive_maximum", "1", "65535"),
        ("mqtt.max_inflight", "1", "65535"),
        ("mqtt.topic_alias_max", "0", "65535"),
        ("mqtt.max_topic_levels", "1", "65535"),
        ("mqtt.max_client_id_len", "23", "65535"),
        ("mqtt.server_keepalive", "0s", "65535s"),
        ("mqtt.max_keepalive", "1s", "65535s"),
        ("mqtt.output_buffer_max", "1KiB", "1GiB"),
        ("session.queue_messages_max", "1", "100000000"),
        ("session.queue_bytes_max", "1KiB", "1TiB"),
        ("session.expiry_max", "1s", "36525d"),
        ("session.awaiting_rel_max", "1", "65535"),
        ("session.subscriptions_max", "1", "100000000"),
        ("retained.messages_max", "1", "1000000000"),
        ("retained.bytes_max", "1", "1024TiB"),
        ("overload.memory_high", "1%", "100%"),
        ("overload.memory_critical", "1", "1024TiB"),
    ];
    for (path, low, high) in ends {
        load(None, &[], &[&format!("{path}={low}")]).unwrap();
        load(None, &[], &[&format!("{path}={high}")]).unwrap();
    }
}

#[test]
fn a_cluster_of_one_needs_nothing() {
    let Config { node, cluster, .. } = Config::default();
    assert_eq!((node.name.as_str(), node.role), ("flotilla@127.0.0.1", Role::Core));
    assert_eq!(node.data_dir, Path::new("./flotilla-data"));
    assert_eq!((cluster.name.as_str(), cluster.listen, cluster.advertise), ("flotilla", None, None));
    assert_eq!((cluster.bootstrap_expect, cluster.discovery), (1, Discovery::None));
    assert_eq!((cluster.node_down_after, cluster.replicas), (Duration::from_secs(5), 3));
    assert!((1..=16).contains(&cluster.shards));
}

#[test]
fn a_cluster_has_sixteen_shards_if_nobody_says_otherwise() {
    let shards = |set: &[&str]| load(None, &[], set).unwrap().cluster.shards;
    let listen = "cluster.listen=127.0.0.1:5883";
    assert_eq!(shards(&[listen]), 16);
    assert_eq!((shards(&[listen, "cluster.shards=3"]), shards(&["cluster.shards=3"])), (3, 3));
}

#[test]
fn a_node_is_named_after_where_others_find_it() {
    let check = |set: &[&str], advertise: &str, name: &str| {
        let config = load(None, &[], set).unwrap();
        assert_eq!(config.cluster.advertise.map(|address| address.to_string()).as_deref(), Some(advertise));
        assert_eq!(config.node.name, name);
    };
    check(&["cluster.listen=10.0.0.1:5883"], "10.0.0.1:5883", "flotilla@10.0.0.1");
    check(&["cluster.listen=[::1]:5883"], "[::1]:5883", "flotilla@::1");
    check(&["cluster.listen=0.0.0.0:7", "cluster.advertise=node-1:8"], "node-1:8", "flotilla@node-1");
    check(&["cluster.listen=10.0.0.1:7", "node.name=one"], "10.0.0.1:7", "one");
    let host = host::name();
    for all in ["0.0.0.0", "[::]"] {
        let listen = format!("cluster.listen={all}:5883");
        check(&[&listen], &format!("{host}:5883"), &format!("flotilla@{host}"));
    }
}

#[test]
fn each_way_of_discovery_can_be_set_in_each_layer() {
    let listen = "[cluster]\nlisten = \"10.0.0.1:5883\"\nbootstrap_expect = 2\n";
    let discovery = |file: &str, env: &[_], set: &[_]| {
        load(Some(&format!("{listen}{file}")), env, set).unwrap().cluster.discovery
    };
    let addresses = |discovery| match discovery {
        Discovery::Static(nodes) => nodes.iter().map(NodeAddress::to_string).collect::<Vec<_>>(),
        other => panic!("not a list: {other:?}"),
    };
    let env = [("FLOTILLA_CLUSTER__DISCOVERY__STATIC", "[\"a:1\", \"[::1]:2\"]")];
    assert_eq!(addresses(discovery("", &env, &[])), ["a:1", "[::1]:2"]);
    assert_eq!(addresses(discovery("discovery = { static = [\"a:1\"] }\n", &[], &[])), ["a:1"]);
    assert_eq!(addresses(discovery("[cluster.discovery]\nstatic = [\"a:1\"]\n", &[], &[])), ["a:1"]);
    let emptied = ["cluster.discovery.static=[]", "cluster.discovery.srv=_f._tcp.x"];
    assert_eq!(discovery("", &env, &emptied), Discovery::Srv("_f._tcp.x".to_owned()));
    let Discovery::Dns(dns) = discovery("", &[("FLOTILLA_CLUSTER__DISCOVERY__DNS", "nodes:5883")], &[])
    else {
        panic!("it is a name");
    };
    assert_eq!((dns.host(), dns.port()), ("nodes", 5883));
    assert_eq!(discovery("", &[], &["cluster.bootstrap_expect=1"]), Discovery::None);
}

#[test]
fn what_cannot_make_a_cluster_is_a_fault() {
    let check = |set: &[&str], expected: &str| {
        let found = faults(None, &[], set);
        let told = found.lines().map(|line| line.rsplit_once(" (from").map_or(line, |(told, _)| told));
        assert_eq!(told.collect::<Vec<_>>().join("\n"), expected, "{set:?}");
    };
    let listen = "cluster.listen=10.0.0.1:5883";
    check(&["node.role=edge"], "node.role: needs cluster.listen: an edge node is one of a cluster");
    check(
        &["node.role=edge", listen],
        "node.role: needs cluster.discovery: an edge node joins others, and never founds a cluster",
    );
    check(&["cluster.advertise=a:1"], "cluster.advertise: needs cluster.listen");
    check(&["cluster.discovery.dns=a:1"], "cluster.discovery.dns: needs cluster.listen");
    check(&["cluster.bootstrap_expect=3"], "cluster.bootstrap_expect: needs cluster.listen");
    check(
        &[listen, "cluster.bootstrap_expect=3"],
        "cluster.bootstrap_expect: 3 nodes cannot find each other without cluster.discovery",
    );
    check(
        &[listen, "cluster.discovery.dns=a:1", "cluster.discovery.srv=_a._b.c"],
        "cluster.discovery.srv: cluster.discovery.dns is set, too; only one may be",
    );
    check(
        &[listen, "cluster.advertise=0.0.0.0:5883"],
        "cluster.advertise: 0.0.0.0:5883 is no address that other nodes can reach",
    );
    check(
        &[listen, "cluster.bootstrap_expect=2", "cluster.discovery.static=['[::]:1', 'a:1', 'a:1']"],
        "cluster.discovery.static: [::]:1 is no address that can be reached\n\
         cluster.discovery.static: a:1 is named twice",
    );
    check(
        &[listen, "listeners.tcp.bind=10.0.0.1:5883"],
        "cluster.listen: 10.0.0.1:5883 is already the address of listeners.tcp",
    );
    check(
        &["cluster.edge_forget_after=6s", "cluster.node_down_after=7s"],
        "cluster.edge_forget_after: must not be shorter than cluster.node_down_after",
    );
    assert!(faults(None, &[], &["cluster.listen=10.0.0.1:0"]).contains("with a port that is not 0"));
}

#[test]
fn a_static_list_bounds_how_many_found_the_cluster() {
    let check = |expect: usize, listed: usize, fault: Option<&str>| {
        let nodes: Vec<String> = (0..listed).map(|node| format!("'node-{node}:5883'")).collect();
        let set = [
            "cluster.listen=10.0.0.1:5883".to_owned(),
            format!("cluster.bootstrap_expect={expect}"),
            format!("cluster.discovery.static=[{}]", nodes.join(", ")),
        ];
        let set: Vec<&str> = set.iter().map(String::as_str).collect();
        match fault {
            None => assert_eq!(usize::from(load(None, &[], &set).unwrap().cluster.bootstrap_expect), expect),
            Some(fault) => assert!(faults(None, &[], &set).contains(fault), "{expect} of {listed}"),
        }
    };
    check(1, 1, None);
    check(1, 2, Some("must be more than half of the 2 nodes of cluster.discovery.static, not 1"));
    check(2, 3, None);
    check(3, 3, None);
    check(3, 5, None);
    check(3, 2, None);
    check(2, 4, Some("must be more than half of the 4 nodes of cluster.discovery.static, not 2"));
    check(2, 5, Some("of the 5 nodes of cluster.discovery.static, not 2"));
    check(4, 2, Some("names only 2 nodes, so 4 are never found"));
}

#[test]
fn a_secret_is_never_shown() {
    let secret = "correct horse battery staple";
    let argument = format!("cluster.secret={secret}");
    let (config, text) = Config::load_with_text(None, Env::new(), &[argument]).unwrap();
    assert_eq!(config.cluster.secret.as_ref().map(Secret::reveal), Some(secret));
    assert!(text.contains("secret = \"<redacted>\""), "{text}");
    assert!(!text.contains(secret) && !format!("{config:?}").contains(secret));
    let printed = faults(Some(&text), &[], &[]);
    assert!(printed.starts_with("cluster.secret: must be a text of 16 to 1024 bytes"), "{printed}");
    for set in ["cluster.secret=correct horse", "cluster={secret='correct horse'}"] {
        let told = faults(None, &[], &[set]);
        assert!(told.starts_with("cluster.secret: must be") && !told.contains("correct"), "{told}");
    }
    let told = faults(None, &[("FLOTILLA_CLUSTER__SECRET", "correct horse")], &[]);
    assert!(!told.contains("correct"), "{told}");
}

#[test]
fn the_example_of_a_cluster_is_one() {
    let nodes = ["1", "2", "3"].map(|number| {
        let file = format!("{}/config/cluster/node-{number}.toml", env!("CARGO_MANIFEST_DIR"));
        Config::load(Some(Path::new(&file)), Env::new(), &[]).unwrap()
    });
    for node in &nodes {
        let Discovery::Static(listed) = &node.cluster.discovery else { panic!("they are named") };
        assert!(nodes.iter().all(|other| listed.contains(other.cluster.advertise.as_ref().unwrap())));
        assert_eq!(usize::from(node.cluster.bootstrap_expect), nodes.len());
    }
    let distinct = |of: fn(&Config) -> String| nodes.iter().map(of).collect::<BTreeSet<_>>().len();
    assert_eq!(distinct(|node| node.node.name.clone()), 3);
    assert_eq!(distinct(|node| node.node.data_dir.display().to_string()), 3);
    assert_eq!(distinct(|node| format!("{:?}", node.cluster.listen)), 3);
    assert_eq!(distinct(|node| node.listeners["tcp"].bind.to_string()), 3);
}
