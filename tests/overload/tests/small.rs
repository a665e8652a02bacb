//! The whole of it, small: one row against the broker of this tree, and what is said of rows that there are not.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

const OVERLOAD: &str = env!("CARGO_BIN_EXE_flotilla-overload");

/// Runs it to its end, in a directory of its own.
fn overload(name: &str, arguments: &str) -> (Output, PathBuf) {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("overload-{name}"));
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).expect("there is room");
    build_broker();
    let mut command = Command::new(OVERLOAD);
    command.current_dir(&directory).stdin(Stdio::null());
    // Tests run beside this one, so there is no quiet to wait for.
    command.args(["--quiet-within", "0", "--directory", "data", "--out", "rows.jsonl"]);
    let output = command.args(arguments.split_whitespace()).output().expect("it runs");
    (output, directory)
}

/// With `cargo test --workspace` it is there already; with this package alone it may not be.
fn build_broker() {
    if !Path::new(OVERLOAD).with_file_name("flotilla").exists() {
        let target = Path::new(OVERLOAD).ancestors().nth(2).expect("it is in a directory of a profile");
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--locked", "--package", "flotilla", "--bin", "flotilla", "--target-dir"]);
        let status = build.arg(target).status().expect("cargo runs");
        assert!(status.success(), "the broker is built");
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_row_is_run_and_written_down() {
    // The one of which no figure depends on how fast the machine is.
    let (output, directory) = overload("row", "--rows O02,O06 --time 1");
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{stdout}{stderr}");
    assert!(stdout.contains("| O02 | ") && stdout.contains(" | not run here"), "{stdout}");
    assert!(stdout.contains("session still there: yes"), "{stdout}");
    let lines = fs::read_to_string(directory.join("rows.jsonl")).expect("there is a file of rows");
    let rows: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect();
    let verdicts: Vec<_> = rows.iter().map(|row| (row["row"].as_str(), row["verdict"].as_str())).collect();
    assert_eq!(verdicts, [(Some("O02"), Some("not run here")), (Some("O06"), Some("met"))]);
    let left: Vec<_> = fs::read_dir(directory.join("data")).expect("it was made").flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_there_is_is_listed_and_what_there_is_not_is_said() {
    let (output, _) = overload("list", "--list");
    let list = text(&output.stdout);
    assert_eq!((output.status.code(), list.lines().count()), (Some(0), 22), "{list}");
    for (arguments, expected) in [
        ("--rows O99", "error: there is no row O99"),
        ("--rows O02", "error: none of these rows is for this machine"),
        ("--rows O06 --flotilla nothing", "error: nothing: "),
    ] {
        let (output, _) = overload("wrong", arguments);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {stderr}");
        assert!(stderr.contains(expected), "{arguments}: {stderr}");
    }
}
