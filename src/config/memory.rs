//! How much memory this process may use.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Bytes: the least of the machine's memory and the limits of the control groups that this process is in. Where
/// neither can be read, which is everywhere but on Linux, 1 GiB is assumed.
pub(super) fn available() -> u64 {
    under(Path::new("/")).unwrap_or(1 << 30)
}

/// As [`available`], with `/proc` and `/sys` looked for under `root`.
fn under(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().flat_map(|line| limit_files(root, line)).filter_map(|file| read_limit(&file));
    limits.chain(machine(root)).min()
}

/// The machine's memory.
fn machine(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The files with the limits of one group and of those around it. `line` is `<id>:<controllers>:<path>`, where
/// version 2 has the id 0 and names no controllers.
fn limit_files(root: &Path, line: &str) -> Vec<PathBuf> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { return Vec::new() };
    let (mount, file) = if controllers.is_empty() {
        ("sys/fs/cgroup", "memory.max")
    } else if controllers.split(',').any(|controller| controller == "memory") {
        ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
    } else {
        return Vec::new();
    };
    // In a container the path may be the host's, which does not exist inside: the mount itself is then the group.
    let groups = Path::new(group.trim_start_matches('/')).ancestors();
    groups.map(|group| root.join(mount).join(group).join(file)).collect()
}

/// A limit; "max" is none.
fn read_limit(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file tree that is removed at the end of its test.
    fn check(files: &[(&str, &str)], expected: Option<u64>) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        assert_eq!(under(root.path()), expected);
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:       16384 kB\nMemFree:        1 kB\n");

    #[test]
    fn without_groups_it_is_the_machine() {
        check(&[], None);
        check(&[MEMINFO], Some(16 << 20));
        check(&[MEMINFO, ("proc/self/cgroup", "0::/\n")], Some(16 << 20));
    }

    #[test]
    fn version_2_takes_the_least_limit_on_the_way_up() {
        let group = ("proc/self/cgroup", "0::/system.slice/flotilla.service\n");
        let own = ("sys/fs/cgroup/system.slice/flotilla.service/memory.max", "max\n");
        let above = ("sys/fs/cgroup/system.slice/memory.max", "4194304\n");
        check(&[MEMINFO, group, own, above], Some(4 << 20));
        check(
            &[MEMINFO, ("proc/self/cgroup", "0::/"), ("sys/fs/cgroup/memory.max", "2097152\n")],
            Some(2 << 20),
        );
        check(&[MEMINFO, group, own], Some(16 << 20));
    }

    #[test]
    fn version_1_has_its_own_tree() {
        let group = ("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:hugetlb,memory:/docker/abc\n");
        let inside = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "3145728\n");
        check(&[MEMINFO, group, inside], Some(3 << 20));
        let unlimited = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        check(&[MEMINFO, group, unlimited], Some(16 << 20));
    }
}
