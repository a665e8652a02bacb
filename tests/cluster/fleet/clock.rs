//! A wall clock that can be set while a node runs.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    process::{Command, Stdio},
};

use super::Cluster;

/// The wall clock of one node of a cluster. A library that is loaded before all others puts it off.
pub(crate) struct WallClock {
    offset: File,
}

impl WallClock {
    /// Gives a node that does not run yet a clock of its own; `None` where no C compiler is. Whether it takes effect must be
    /// looked at: a program need not use the C library to read the clock.
    #[track_caller]
    pub(crate) fn of(cluster: &mut Cluster, number: usize) -> Option<Self> {
        let directory = cluster.directory().to_owned();
        let library = directory.join("clock.so");
        if !library.exists() {
            let source = directory.join("clock.c");
            fs::write(&source, include_str!("clock.c")).expect("the directory is ours");
            let mut compiler = Command::new("cc");
            compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).arg("-ldl");
            let compiled = compiler.stdin(Stdio::null()).output().ok()?;
            let said = String::from_utf8_lossy(&compiled.stderr);
            assert!(compiled.status.success(), "the clock does not compile: {said}");
        }
        let path = directory.join(format!("clock-offset-{number}"));
        fs::write(&path, 0i64.to_ne_bytes()).expect("the directory is ours");
        let offset = File::options().write(true).open(&path).expect("it was just written");
        let node = cluster.node_mut(number);
        node.set_environment("LD_PRELOAD", &library.display().to_string());
        node.set_environment("WALL_CLOCK_OFFSET", &path.display().to_string());
        Some(Self { offset })
    }

    /// The clock shows so many seconds more than that of the machine, from now on.
    #[track_caller]
    pub(crate) fn put_off(&self, seconds: i64) {
        self.offset.write_all_at(&seconds.to_ne_bytes(), 0).expect("the file is ours");
    }
}
