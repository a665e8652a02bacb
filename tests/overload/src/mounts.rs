//! Mounts of our own, for disks that can be filled.

use std::{
    env,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

/// Runs this program again where it may mount what only it sees, if that is allowed. Returns where it is not, or when it is there.
pub(crate) fn enter() {
    if are_own() {
        return;
    }
    let Some(unshare) = UNSHARE.into_iter().find(|unshare| works(unshare)) else { return };
    let Ok(program) = env::current_exe() else { return };
    let mut command = Command::new("unshare");
    command.args(unshare).arg("--").arg(program).args(env::args_os().skip(1)).env(INSIDE, "1");
    // Returns only where it fails.
    let _ = command.exec();
}

/// Whether this process may mount.
pub(crate) fn are_own() -> bool {
    env::var_os(INSIDE).is_some()
}

fn works(unshare: &[&str]) -> bool {
    let mut command = Command::new("unshare");
    command.args(unshare).args(["--", "sh", "-c", "mount -t tmpfs none /tmp && umount /tmp"]);
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// As root, or as whoever may have a namespace of users in which it is root.
const UNSHARE: [&[&str]; 2] = [&["--mount"], &["--map-root-user", "--mount"]];

/// Set in the process that may mount.
const INSIDE: &str = "FLOTILLA_OVERLOAD_OWN_MOUNTS";
