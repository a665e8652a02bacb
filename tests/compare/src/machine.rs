//! What Linux tells about the machine and its processes below `/proc`.

use std::{
    fs, io,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use crate::disturbance::{Tolerance, other_share};

/// What all processors together have done since the machine started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticks {
    /// Working for somebody, here or, if this is a virtual machine, beside it; interrupts left out.
    pub busy: u64,
    /// All of the time.
    pub total: u64,
}

impl Ticks {
    /// Until now.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn now() -> io::Result<Self> {
        ticks(&fs::read_to_string("/proc/stat")?).ok_or_else(|| io::Error::other("/proc/stat makes no sense"))
    }
}

/// What these processes have used, and this one with all its children that have ended, in the same unit. What is gone counts nothing.
pub fn used(pids: &[u32]) -> u64 {
    let stat = |name: &str| fs::read_to_string(Path::new("/proc").join(name).join("stat")).ok();
    let own = stat("self").and_then(|stat| process_ticks(&stat, true)).unwrap_or_default();
    let others = pids.iter().filter_map(|pid| process_ticks(&stat(&pid.to_string())?, false));
    own + others.sum::<u64>()
}

/// Waits until other work is little, or for as long as that is worth it; no child of this process may run meanwhile. `pause` waits for
/// a time, and says whether to give up.
///
/// # Errors
/// The system does not tell what the machine does.
pub fn await_quiet(
    tolerance: &Tolerance,
    within: Duration,
    mut pause: impl FnMut(Duration) -> bool,
) -> io::Result<()> {
    let deadline = Instant::now() + within;
    while Instant::now() < deadline {
        let (ticks, own) = (Ticks::now()?, used(&[]));
        if pause(QUIET_INTERVAL) {
            break;
        }
        let other = other_share(ticks, Ticks::now()?, used(&[]).saturating_sub(own));
        if !tolerance.is_disturbed(other) {
            break;
        }
    }
    Ok(())
}

/// Whether this process has a network of its own, in which there is nothing but loopback.
pub fn is_network_own() -> bool {
    fs::read_to_string("/proc/self/net/dev").is_ok_and(|devices| has_only_loopback(&devices))
}

/// Two lines of headings, then a line for each device.
fn has_only_loopback(devices: &str) -> bool {
    let mut names =
        devices.lines().skip(2).filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim());
    names.next() == Some("lo") && names.next().is_none()
}

/// The machine in a line.
pub fn describe() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let cores = if cores == 1 { "1 core".to_owned() } else { format!("{cores} cores") };
    let model =
        field(&read("/proc/cpuinfo"), "model name").map_or_else(String::new, |name| format!(" ({name})"));
    let memory = field(&read("/proc/meminfo"), "MemTotal").and_then(|text| gibibytes(&text));
    let memory = memory.unwrap_or_else(|| "unknown memory".to_owned());
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{cores}{model}, {memory}, Linux {}", kernel.trim())
}

/// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal, and guests, who are in user and nice already.
fn ticks(stat: &str) -> Option<Ticks> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let numbers: Option<Vec<u64>> = line.split_whitespace().map(|number| number.parse().ok()).collect();
    let numbers: [u64; 8] = numbers?.get(..8)?.try_into().ok()?;
    let [user, nice, system, .., steal] = numbers;
    Some(Ticks { busy: user + nice + system + steal, total: numbers.iter().sum() })
}

/// `/proc/PID/stat`: time in itself and in the system, and on request that of its children. The name before may have anything in it.
fn process_ticks(stat: &str, with_children: bool) -> Option<u64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let fields = behind_name.split_whitespace().skip(11).take(if with_children { 4 } else { 2 });
    fields.map(|field| field.parse::<u64>().ok()).sum()
}

/// The text behind a name and a colon.
fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn gibibytes(text: &str) -> Option<String> {
    let kibibytes: u64 = text.strip_suffix("kB")?.trim().parse().ok()?;
    Some(format!("{} GiB", (kibibytes + KIBIBYTES_PER_GIBIBYTE / 2) / KIBIBYTES_PER_GIBIBYTE))
}

/// Long enough for the ticks of the system to mean something.
const QUIET_INTERVAL: Duration = Duration::from_millis(300);
const KIBIBYTES_PER_GIBIBYTE: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_its_own_has_nothing_but_loopback() {
        let headings = "Inter-|   Receive\n face |bytes    packets\n";
        let devices = |names: &[&str]| {
            let lines = names.iter().map(|name| format!("{name:>6}: 0 0 0\n"));
            headings.to_owned() + &lines.collect::<String>()
        };
        assert!(has_only_loopback(&devices(&["lo"])));
        assert!(!has_only_loopback(&devices(&["lo", "eth0"])));
        assert!(!has_only_loopback(&devices(&[])));
    }

    #[test]
    fn processor_times_are_understood() {
        let stat = "cpu  100 20 30 1000 5 1 2 7 90 9\ncpu0 1 2 3\n";
        assert_eq!(ticks(stat), Some(Ticks { busy: 157, total: 1_165 }));
        assert_eq!(ticks("cpu  1 2 3\n"), None);
        assert_eq!(ticks(""), None);
        let stat = "12 (a b) c) S 1 12 12 0 -1 4194304 100 0 0 0 7 5 30 40 20 0 1 0 100\n";
        assert_eq!(process_ticks(stat, false), Some(12));
        assert_eq!(process_ticks(stat, true), Some(82));
        assert_eq!(process_ticks("12", false), None);
    }

    #[test]
    fn the_machine_is_described() {
        assert_eq!(field("a\t: b: c\nd: e\n", "a").as_deref(), Some("b: c"));
        assert_eq!(gibibytes("25000000 kB").as_deref(), Some("24 GiB"));
        assert_eq!(gibibytes("25000000"), None);
        assert!(describe().contains("core"));
    }
}
