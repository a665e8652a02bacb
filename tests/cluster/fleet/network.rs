//! A network that can be broken.
//!
//! All nodes of a test are on the loopback interface of a network namespace of its own, each on its own address, and dial
//! each other from it. A rule drops what gets from one address to another; clients come from 127.0.0.1, and are spared.

use std::{
    any, env,
    io::{self, Write},
    net::Ipv4Addr,
    path::Path,
    process::{Command, Stdio},
    sync::OnceLock,
};

/// Runs a test in a network of its own: this process runs itself again, with this test alone, in a new namespace. Where that
/// is not allowed, or a tool is missing, it says SKIPPED.
///
/// `test` is a closure of the test function, whose name it takes from there.
#[track_caller]
pub(crate) fn in_own_network<F: FnOnce()>(test: F) {
    run_in_own_network(test, &[], "true");
}

/// The same, and all names are looked up at 127.0.0.1, where a [`NameServer`](super::NameServer) may be.
#[track_caller]
pub(crate) fn in_own_network_and_names<F: FnOnce()>(test: F) {
    run_in_own_network(test, &["--mount"], OWN_NAMES);
}

/// The same, and file systems can be mounted: [`Node::limit_disk`](super::Node::limit_disk).
#[track_caller]
pub(crate) fn in_own_network_and_mounts<F: FnOnce()>(test: F) {
    run_in_own_network(test, &["--mount"], "mount -t tmpfs none /tmp && umount /tmp");
}

/// The command that runs a program in a network of its own, which then [`is_own_network`]; `None` where that is not allowed, or
/// a tool is missing.
pub(crate) fn with_own_network(program: &Path) -> Option<Command> {
    let unshare = NAMESPACES.into_iter().find(|unshare| works(unshare, "true"))?;
    let mut command = in_namespace(unshare, "exec \"$0\" \"$@\"");
    command.arg(program).env(INSIDE, "1");
    Some(command)
}

/// Whether this process may break its network.
pub(crate) fn is_own_network() -> bool {
    env::var_os(INSIDE).is_some()
}

#[track_caller]
fn run_in_own_network<F: FnOnce()>(test: F, more: &[&str], prepare: &str) {
    if is_own_network() {
        return test();
    }
    let name = test_name::<F>();
    let namespaces = NAMESPACES.map(|unshare| [unshare, more].concat());
    let Some(unshare) = namespaces.iter().find(|unshare| works(unshare, prepare)) else {
        // Past the capture of the test runner, for a test that did not run must not look like one that did.
        let _ = writeln!(
            io::stderr(),
            "SKIPPED: {name} needs namespaces (unshare {}, ip and nft, and the right to)",
            namespaces[0].join(" ")
        );
        return;
    };
    let program = env::current_exe().expect("a test has a program");
    let mut command = in_namespace(unshare, &format!("{prepare} && exec \"$0\" \"$@\""));
    command.arg(program).args(["--exact", &name, "--nocapture", "--test-threads=1"]).env(INSIDE, "1");
    let output = command.stdin(Stdio::null()).output().expect("it has just worked");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (said, told) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "it failed in its own network:\n{said}\n{told}");
    assert!(said.contains("1 passed"), "{name} is not the name of a test:\n{said}\n{told}");
}

/// `cluster::partitions::a_test::{{closure}}` is the closure of the test `partitions::a_test`.
fn test_name<F>() -> String {
    let name = any::type_name::<F>();
    let name = name.split_once("::").map_or(name, |(_, name)| name);
    name.trim_end_matches("::{{closure}}").to_owned()
}

/// Whether a namespace can be made so, and its network be broken.
fn works(unshare: &[&str], prepare: &str) -> bool {
    let mut command = in_namespace(unshare, &format!("{prepare} && nft list ruleset"));
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// A command of the shell in a new namespace, whose loopback interface is up.
fn in_namespace(unshare: &[&str], script: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(unshare).args(["--", "sh", "-c", &format!("{PATHS}; ip link set lo up && {script}")]);
    command
}

/// The rules of this process' network.
#[derive(Debug, Default)]
pub(super) struct Network {
    prepared: OnceLock<()>,
}

impl Network {
    /// Drops what gets from one address to the other.
    #[track_caller]
    pub(super) fn cut(&self, from: Ipv4Addr, to: Ipv4Addr) {
        self.change(&format!("add element inet faults cut {{ {from} . {to} }}"));
    }

    /// Undoes [`Self::cut`].
    #[track_caller]
    pub(super) fn mend(&self, from: Ipv4Addr, to: Ipv4Addr) {
        self.change(&format!("delete element inet faults cut {{ {from} . {to} }}"));
    }

    /// Drops so many in a hundred packets.
    #[track_caller]
    pub(super) fn lose(&self, percent: u8, from: Ipv4Addr, to: Ipv4Addr) {
        let between = format!("ip saddr {from} ip daddr {to}");
        self.change(&format!("add rule inet faults other {between} numgen random mod 100 < {percent} drop"));
    }

    /// Drops what is more than so much a second.
    #[track_caller]
    pub(super) fn slow_down(&self, kibibytes: u32, from: Ipv4Addr, to: Ipv4Addr) {
        let between = format!("ip saddr {from} ip daddr {to}");
        let rate = format!("limit rate over {kibibytes} kbytes/second burst 64 kbytes");
        self.change(&format!("add rule inet faults other {between} {rate} drop"));
    }

    /// Drops nothing any more.
    #[track_caller]
    pub(super) fn heal(&self) {
        self.change("flush set inet faults cut; flush chain inet faults other");
    }

    #[track_caller]
    fn change(&self, rules: &str) {
        assert!(is_own_network(), "only a network of our own may be broken: see in_own_network");
        self.prepared.get_or_init(|| nft(TABLE));
        nft(rules);
    }
}

#[track_caller]
fn nft(rules: &str) {
    let script = format!("{PATHS}; exec nft \"$0\"");
    let output = Command::new("sh").args(["-c", &script, rules]).output().expect("there is a shell");
    assert!(output.status.success(), "nft {rules}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Set in the process that runs in its own network.
const INSIDE: &str = "FLOTILLA_TEST_OWN_NETWORK";

/// As root, or as whoever may have a namespace of users in which it is root.
const NAMESPACES: [&[&str]; 2] = [&["--net"], &["--map-root-user", "--net"]];

/// The settings of the resolver, which only who is in this namespace of mounts sees.
const OWN_NAMES: &str = "names=$(mktemp) && echo nameserver 127.0.0.1 > \"$names\" \\
    && mount --bind \"$names\" /etc/resolv.conf && rm \"$names\"";

/// Where the tools of an administrator are, which not everybody has in the path.
const PATHS: &str = "PATH=\"$PATH:/usr/sbin:/sbin\"";

/// Loopback packets pass the input hook once, at their destination.
const TABLE: &str = "table inet faults {
    set cut { type ipv4_addr . ipv4_addr; }
    chain other { }
    chain input { type filter hook input priority 0; ip saddr . ip daddr @cut drop; jump other; }
}";
