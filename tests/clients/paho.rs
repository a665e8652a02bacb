//! Eclipse Paho for Python, driven by `tests/python/paho_suite.py`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::harness::Broker;

/// The release that is tested.
const PAHO: &str = "paho-mqtt==2.1.0";

#[test]
fn paho_for_python() {
    let Some(python) = python_with_paho() else { return };
    let broker = Broker::shared();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/paho_suite.py");
    let mut command = Command::new(python);
    command.arg(script).arg(broker.address().ip().to_string()).arg(broker.address().port().to_string());
    let output = command.output().expect("the interpreter was just made");
    assert!(output.status.success(), "{}", text(&output));
    broker.assert_healthy();
}

/// An interpreter that has Paho, made once below `target`; `None`, said aloud, when this machine cannot make one.
fn python_with_paho() -> Option<PathBuf> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("paho");
    let python = directory.join("bin/python");
    let ready = directory.join("ready");
    if fs::read_to_string(&ready).is_ok_and(|installed| installed == PAHO) {
        return Some(python);
    }
    let venv = ["-m", "venv", "--clear", directory.to_str()?];
    let pip =
        ["-m", "pip", "install", "--disable-pip-version-check", "--retries", "1", "--timeout", "20", PAHO];
    run(Command::new("python3").args(venv))?;
    run(Command::new(&python).args(pip))?;
    fs::write(&ready, PAHO).expect("the new directory is writable");
    Some(python)
}

fn run(command: &mut Command) -> Option<()> {
    let why = match command.output() {
        Ok(output) if output.status.success() => return Some(()),
        Ok(output) => text(&output),
        Err(error) => error.to_string(),
    };
    eprintln!("SKIPPED: the tests with {PAHO}, because {command:?} failed:\n{why}");
    None
}

fn text(output: &Output) -> String {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{stdout}\n{stderr}")
}
