//! What a process uses, as Linux tells it below `/proc`, and what it keeps on its disk.

use std::{fs, path::Path, time::Duration};

/// Resident memory in bytes.
#[track_caller]
pub(crate) fn memory(pid: u32) -> u64 {
    status(pid, "VmRSS:")
}

/// The most that it was since [`forget_peak`].
#[track_caller]
pub(crate) fn peak_memory(pid: u32) -> u64 {
    status(pid, "VmHWM:")
}

/// The peak begins anew with what there is now.
#[track_caller]
pub(crate) fn forget_peak(pid: u32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("the process is ours");
}

/// The time that its threads have had on a processor.
#[track_caller]
pub(crate) fn cpu(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the process is there");
    // A thread that has just ended is no longer counted.
    threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok()).fold(
        Duration::ZERO,
        |sum, text| {
            let nanos = text.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
            sum + Duration::from_nanos(nanos.unwrap_or_default())
        },
    )
}

/// Bytes that are allocated to the files of a directory and those below it. Files that go meanwhile count nothing.
pub(crate) fn on_disk(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let (mut sum, mut directories) = (0, vec![directory.to_owned()]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => directories.push(entry.path()),
                Ok(metadata) => sum += metadata.blocks() * BLOCK,
                Err(_) => {}
            }
        }
    }
    sum
}

pub(crate) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[track_caller]
fn status(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    kibibytes(&status, field).expect("Linux tells it") * 1024
}

fn kibibytes(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

/// What Linux counts blocks in, whatever those of the file system are.
const BLOCK: u64 = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_linux_says_is_understood() {
        let status = "Name:\tf\nVmHWM:\t    4096 kB\nVmRSS:\t    2048 kB\n";
        assert_eq!(kibibytes(status, "VmRSS:"), Some(2_048));
        assert_eq!(kibibytes(status, "VmHWM:"), Some(4_096));
        assert_eq!(kibibytes("Name:\tkthreadd\n", "VmRSS:"), None);
    }

    #[test]
    fn a_process_uses_something() {
        let pid = std::process::id();
        let before = cpu(pid);
        while cpu(pid) == before {
            std::hint::spin_loop();
        }
        forget_peak(pid);
        assert!(memory(pid) > 100_000 && peak_memory(pid) > 100_000);
    }
}
