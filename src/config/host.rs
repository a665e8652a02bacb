//! The name of this machine.

/// What the system calls this machine. Other machines may know it by that name, or not: `cluster.advertise` is there
/// for where they do not.
pub(super) fn name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    // A machine without a name has nobody to tell it to.
    if name.is_empty() { "localhost".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_machine_has_a_name() {
        assert!(!super::name().is_empty());
    }
}
