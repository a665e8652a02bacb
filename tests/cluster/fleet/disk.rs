//! A disk that can be made to fail while a node runs.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
    process::{Command, Stdio},
};

use super::Cluster;

/// A part of the disk of one node. A library that is loaded before all others, that of the campaign, has it fail.
pub(crate) struct FaultyDisk {
    control: File,
}

impl FaultyDisk {
    /// Makes what a node that does not run yet keeps below this directory of its data able to fail; `None` where no C compiler is.
    #[track_caller]
    pub(crate) fn of(cluster: &mut Cluster, number: usize, below: impl AsRef<Path>) -> Option<Self> {
        let directory = cluster.directory().to_owned();
        let (library, source) = (directory.join("disk.so"), directory.join("disk.c"));
        fs::write(&source, include_str!("../../campaign/src/fault/disk.c")).expect("the directory is ours");
        let mut compiler = Command::new("cc");
        compiler
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(&library)
            .arg(&source)
            .args(["-ldl", "-pthread"]);
        let compiled = compiler.stdin(Stdio::null()).output().ok()?;
        let said = String::from_utf8_lossy(&compiled.stderr);
        assert!(compiled.status.success(), "the disk does not compile: {said}");
        let (notes, path) =
            (directory.join(format!("disk-notes-{number}")), directory.join(format!("disk-{number}")));
        fs::create_dir_all(&notes).expect("the directory is ours");
        fs::write(&path, 0i64.to_ne_bytes()).expect("the directory is ours");
        let control = File::options().write(true).open(&path).expect("it was just written");
        let node = cluster.node_mut(number);
        let root = node.data_dir().join(below);
        let variables = [
            ("LD_PRELOAD", &library),
            ("FAULTY_DISK_ROOT", &root),
            ("FAULTY_DISK_NOTES", &notes),
            ("FAULTY_DISK_CONTROL", &path),
        ];
        for (variable, path) in variables {
            node.set_environment(variable, &path.display().to_string());
        }
        Some(Self { control })
    }

    /// Every flush fails from now on.
    #[track_caller]
    pub(crate) fn refuse_flushes(&self) {
        self.set(3);
    }

    /// It is a good disk again.
    #[track_caller]
    pub(crate) fn mend(&self) {
        self.set(0);
    }

    fn set(&self, state: i64) {
        self.control.write_all_at(&state.to_ne_bytes(), 0).expect("the file is ours");
    }
}
