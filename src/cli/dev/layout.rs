//! Which node listens where, and keeps its files where.

use std::{
    env, fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process,
};

use super::{super::complain, DevArgs};

/// The nodes with their directories, each of which has a configuration file.
#[derive(Debug)]
pub(super) struct Layout {
    root: PathBuf,
    nodes: Vec<NodeLayout>,
    /// Whether everything is removed in the end.
    scratch: bool,
}

/// One node.
#[derive(Debug)]
pub(super) struct NodeLayout {
    pub(super) name: String,
    pub(super) mqtt_port: u16,
    pub(super) cluster_port: u16,
    directory: PathBuf,
}

impl Layout {
    /// Makes the directories and writes the configuration files.
    pub(super) fn create(args: &DevArgs) -> io::Result<Self> {
        let root = match &args.dir {
            Some(dir) => {
                fs::create_dir_all(dir)?;
                dir.canonicalize()?
            }
            None => scratch_directory()?,
        };
        let scratch = args.dir.is_none() && !args.keep;
        // From here on, a failure removes what was made.
        let mut layout = Self { root, nodes: Vec::new(), scratch };
        for (offset, number) in (0..u16::from(args.nodes)).zip(1..) {
            let name = format!("node-{number}");
            let directory = layout.root.join(&name);
            let mqtt_port = args.base_port + offset;
            layout.nodes.push(NodeLayout {
                name,
                mqtt_port,
                cluster_port: mqtt_port + CLUSTER_OFFSET,
                directory,
            });
        }
        for node in &layout.nodes {
            fs::create_dir_all(&node.directory)?;
            fs::write(node.config_file(), node.config(&layout.nodes))?;
        }
        Ok(layout)
    }

    pub(super) fn nodes(&self) -> &[NodeLayout] {
        &self.nodes
    }

    /// The directory of everything, to be shown.
    pub(super) fn root(&self) -> impl std::fmt::Display + '_ {
        self.root.display()
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        if self.scratch
            && let Err(error) = fs::remove_dir_all(&self.root)
        {
            complain(format_args!("warning: cannot remove {}: {error}", self.root.display()));
        }
    }
}

impl NodeLayout {
    pub(super) fn config_file(&self) -> PathBuf {
        self.directory.join("flotilla.toml")
    }

    /// Where the process runs.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    fn config(&self, all: &[Self]) -> String {
        let Self { name, mqtt_port, cluster_port, directory } = self;
        let peers: Vec<String> =
            all.iter().map(|node| format!("\"127.0.0.1:{}\"", node.cluster_port)).collect();
        // A literal text may hold anything but its quote, which TOML's other form can.
        let data_dir = toml::Value::from(directory.join("data").to_string_lossy().into_owned());
        format!(
            "# Written by `flotilla dev`, and written anew each time.\n\
             [node]\nname = \"{name}\"\ndata_dir = {data_dir}\n\n\
             [listeners.tcp]\nbind = \"127.0.0.1:{mqtt_port}\"\n\n\
             [cluster]\nlisten = \"127.0.0.1:{cluster_port}\"\nbootstrap_expect = {}\n\
             discovery.static = [{}]\n",
            all.len(),
            peers.join(", ")
        )
    }
}

/// The variables of the environment that hold for all nodes: not those that would give them one name or one port.
pub(super) fn environment() -> impl Iterator<Item = (String, String)> {
    let text = |value: std::ffi::OsString| value.to_string_lossy().into_owned();
    env::vars_os().map(move |(name, value)| (text(name), text(value))).filter(|(name, _)| !is_own(name))
}

/// Whether a variable belongs to one node alone.
pub(super) fn is_own(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    ["FLOTILLA_NODE__", "FLOTILLA_LISTENERS__", "FLOTILLA_CLUSTER__"].iter().any(|own| name.starts_with(own))
}

/// A new directory that only we may look into.
fn scratch_directory() -> io::Result<PathBuf> {
    let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
    for attempt in 0..SCRATCH_ATTEMPTS {
        let path = env::temp_dir().join(format!("flotilla-dev-{}-{attempt}", process::id()));
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return path.canonicalize(),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// From a node's port for clients to its port for nodes: 1883 and 5883 are the usual ones.
const CLUSTER_OFFSET: u16 = 4_000;

/// Names that an earlier process of the same number may have left behind.
const SCRATCH_ATTEMPTS: u32 = 16;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use flotilla::config::{Config, Discovery};

    use super::*;

    fn args(dir: &Path, nodes: u8) -> DevArgs {
        DevArgs { nodes, dir: Some(dir.to_owned()), base_port: 1883, keep: false, set: Vec::new() }
    }

    #[test]
    fn the_nodes_share_nothing_and_know_each_other() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::create(&args(&directory.path().join("it's new"), 3)).unwrap();
        let load = |node: &NodeLayout| Config::load(Some(&node.config_file()), [], &[]).unwrap();
        let configs: Vec<Config> = layout.nodes().iter().map(load).collect();
        let names: BTreeSet<_> = configs.iter().map(|config| config.node.name.as_str()).collect();
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["node-1", "node-2", "node-3"]);
        let data: BTreeSet<_> = configs.iter().map(|config| &config.node.data_dir).collect();
        assert_eq!(data.len(), 3);
        for (config, node) in configs.iter().zip(layout.nodes()) {
            assert_eq!(config.cluster.bootstrap_expect, 3);
            assert_eq!(config.listeners["tcp"].bind.port(), node.mqtt_port);
            assert_eq!(config.cluster.listen.as_ref().unwrap().port(), node.mqtt_port + 4_000);
            let Discovery::Static(peers) = &config.cluster.discovery else { panic!("it is a list") };
            assert_eq!(peers.iter().map(|peer| peer.port()).collect::<Vec<_>>(), [5883, 5884, 5885]);
        }
    }

    #[test]
    fn only_a_scratch_directory_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let given = directory.path().join("given");
        drop(Layout::create(&args(&given, 1)).unwrap());
        assert!(given.join("node-1/flotilla.toml").exists());
        for keep in [false, true] {
            let scratch = DevArgs { dir: None, keep, ..args(&given, 1) };
            let layout = Layout::create(&scratch).unwrap();
            let root = layout.root.clone();
            assert!(root.join("node-1/flotilla.toml").exists());
            drop(layout);
            assert_eq!(root.exists(), keep);
            let _ = fs::remove_dir_all(root);
        }
    }

    #[test]
    fn what_one_node_alone_can_have_is_not_taken_from_the_environment() {
        assert!(is_own("FLOTILLA_NODE__NAME"));
        assert!(is_own("flotilla_listeners__tcp__bind"));
        assert!(!is_own("FLOTILLA_MQTT__MAX_INFLIGHT"));
        assert!(!is_own("PATH"));
    }
}
