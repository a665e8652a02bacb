//! The whole of it, small: a few runs against the broker of this tree, which is the load generator, too.

use std::{
    env, fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

const COMPARE: &str = env!("CARGO_BIN_EXE_flotilla-compare");

/// Runs it to its end, in a directory of its own.
fn compare(name: &str, arguments: &str) -> (Output, PathBuf) {
    let (mut command, directory) = command(name, arguments);
    (command.output().expect("it runs"), directory)
}

fn command(name: &str, arguments: &str) -> (Command, PathBuf) {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("compare-{name}"));
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).expect("there is room");
    let readme = "# R\n<!-- compare:begin -->\nold\n<!-- compare:end -->\nend\n";
    fs::write(directory.join("README.md"), readme).expect("there is room");
    build_broker();
    let mut command = Command::new(COMPARE);
    command.current_dir(&directory).stdin(Stdio::null());
    // Tests run beside this one: what they use is no reason to repeat anything.
    command.args(["--other-max", "100", "--directory", "data", "--out", "runs.jsonl"]);
    command.args(arguments.split_whitespace());
    (command, directory)
}

/// With `cargo test --workspace` it is there already; with this package alone it may not be.
fn build_broker() {
    if !Path::new(COMPARE).with_file_name("flotilla").exists() {
        let target = Path::new(COMPARE).ancestors().nth(2).expect("it is in a directory of a profile");
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--locked", "--package", "flotilla", "--bin", "flotilla", "--target-dir"]);
        let status = build.arg(target).status().expect("cargo runs");
        assert!(status.success(), "the broker is built");
    }
}

fn runs(directory: &Path) -> Vec<Value> {
    let text = fs::read_to_string(directory.join("runs.jsonl")).expect("there is a file of runs");
    text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether nothing of a broker is left: neither its directory nor, as the ports of its reports say, itself.
fn assert_nothing_left(directory: &Path, runs: &[Value]) {
    let left: Vec<_> = fs::read_dir(directory.join("data")).expect("it was made").flatten().collect();
    assert!(left.is_empty(), "{left:?}");
    for run in runs {
        let address = run["report"]["settings"]["publish_to"][0].as_str().expect("somebody was there");
        assert!(TcpStream::connect(address).is_err(), "{address} still listens");
    }
}

#[test]
fn two_loads_are_measured_and_written_down() {
    let (output, directory) = compare(
        "good",
        "--brokers flotilla --scenarios pairs-w64-q1,pairs-w1-q0 --rounds 2 --time 0.2 --readme",
    );
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let runs = runs(&directory);
    let names: Vec<_> = runs.iter().map(|run| (&run["scenario"], &run["round"])).collect();
    let expected = [("pairs-w64-q1", 0), ("pairs-w1-q0", 0), ("pairs-w64-q1", 1), ("pairs-w1-q0", 1)];
    for (name, expected) in names.iter().zip(expected) {
        assert_eq!((name.0, name.1), (&expected.0.into(), &expected.1.into()));
    }
    assert_eq!(names.len(), expected.len(), "{names:?}");
    for run in &runs {
        assert_eq!((&run["broker"], &run["failure"]), (&"flotilla".into(), &Value::Null), "{run:#}");
        let traffic = &run["report"]["traffic"];
        assert!(traffic["received_per_second"].as_f64().is_some_and(|rate| rate > 0.0), "{run:#}");
        assert!(traffic["broker_cpu_us_per_message"].as_f64().is_some_and(|cpu| cpu > 0.0), "{run:#}");
    }
    assert_nothing_left(&directory, &runs);
    let table = text(&output.stdout);
    for part in [
        "- flotilla: flotilla ",
        "| load | figure | flotilla |",
        "| 50 pairs, window 64, QoS 1 | messages/s |",
    ] {
        assert!(table.contains(part), "{part}\n{table}");
    }
    assert!(stderr.contains("[4/4] round 2, pairs-w1-q0, flotilla: "), "{stderr}");
    let readme = fs::read_to_string(directory.join("README.md")).expect("it is there");
    let expected = format!("# R\n<!-- compare:begin -->\n\n{}\n\n<!-- compare:end -->\nend\n", table.trim());
    assert_eq!(readme, expected);
}

#[test]
fn a_broker_that_does_not_start_fails_with_words() {
    let (output, directory) =
        compare("bad", "--brokers bad --add bad=false --scenarios pairs-w1-q0 --rounds 1");
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let expected =
        "error: pairs-w1-q0, bad: 1 of 1 runs failed: the broker has ended by itself (exit status: 1)";
    assert!(stderr.contains(expected), "{stderr}");
    assert!(text(&output.stdout).contains("| failed [1] |"));
    assert_eq!(runs(&directory).len(), 1);
    assert_nothing_left(&directory, &[]);
}

#[test]
fn who_is_told_to_end_leaves_no_broker() {
    let arguments = "--brokers flotilla --scenarios pairs-w1-q0 --time 120 --readme";
    let (mut command, directory) = command("ended", arguments);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let data = directory.join("data");
    let deadline = Instant::now() + Duration::from_secs(60);
    let port = loop {
        assert!(Instant::now() < deadline, "no load begins");
        let running = fs::read_dir(&data).into_iter().flatten().flatten().map(|entry| entry.path());
        // The load generator's own files come last.
        if let Some(run) = running.filter(|path| path.join("bench.json").exists()).last() {
            let settings = fs::read_to_string(run.join("node-1/flotilla.toml")).expect("it is written");
            let port = settings.split_once("127.0.0.1:").and_then(|(_, rest)| rest.split_once('"'));
            break port.expect("the port is in it").0.to_owned();
        }
        thread::sleep(Duration::from_millis(10));
    };
    let status = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
    assert!(status.expect("kill runs").success());
    let output = child.wait_with_output().expect("it ends");
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.ends_with("error: interrupted before it was done\n"), "{stderr}");
    assert!(TcpStream::connect(format!("127.0.0.1:{port}")).is_err(), "the broker still listens");
    assert_nothing_left(&directory, &runs(&directory));
    let readme = fs::read_to_string(directory.join("README.md")).expect("it is there");
    assert!(readme.contains("old"), "half a comparison is not written down");
}

#[test]
fn what_there_is_is_listed_and_what_there_is_not_is_said() {
    let (output, _) = compare("list", "--list --add other=no-such-broker");
    let list = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    for part in ["  wildcard-100k ", "  flotilla          flotilla ", "no program no-such-broker"] {
        assert!(list.contains(part), "{part}\n{list}");
    }
    for (arguments, expected) in [
        ("--brokers nobody", "error: no broker is called \"nobody\""),
        ("--scenarios nothing", "error: no scenario is called \"nothing\""),
        ("--brokers x --add x=no-such-broker", "error: x is not here: there is no program no-such-broker"),
        ("--brokers flotilla-3 --scenarios idle", "error: none of these brokers takes part"),
        ("--brokers flotilla --readme=../no-such-file", "error: ../no-such-file: "),
    ] {
        let (output, _) = compare("wrong", arguments);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {stderr}");
        assert!(stderr.contains(expected), "{arguments}: {stderr}");
    }
}
