//! What processes use, this one and the brokers', as Linux tells it below `/proc`.

use std::{fs, path::Path, time::Duration};

use super::{clock::Clock, error::BenchError};

/// The processes of the brokers.
#[derive(Debug, Clone)]
pub(super) struct Brokers(Vec<u32>);

/// What a process has used.
#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    cpu: Duration,
    /// Resident memory in bytes.
    memory: u64,
}

impl Brokers {
    /// # Errors
    /// One of them is not there, or nothing is told about it.
    pub(super) fn find(pids: &[std::num::NonZeroU32]) -> Result<Self, BenchError> {
        let brokers = Self(pids.iter().map(|pid| pid.get()).collect());
        match brokers.0.iter().find(|pid| usage(**pid).is_none()) {
            Some(pid) => Err(BenchError::NoProcess { pid: *pid }),
            None => Ok(brokers),
        }
    }

    pub(super) fn are_known(&self) -> bool {
        !self.0.is_empty()
    }

    /// Resident memory of all of them in bytes; `None`: none are known, or one is gone.
    pub(super) fn memory(&self) -> Option<u64> {
        self.usage().map(|usage| usage.memory)
    }

    fn usage(&self) -> Option<Usage> {
        if self.0.is_empty() {
            return None;
        }
        self.0.iter().try_fold(Usage::default(), |sum, pid| {
            let one = usage(*pid)?;
            Some(Usage { cpu: sum.cpu + one.cpu, memory: sum.memory + one.memory })
        })
    }
}

/// Measures from its making on.
#[derive(Debug)]
pub(super) struct Meter<'a> {
    brokers: &'a Brokers,
    clock: Clock,
    begun_at: u64,
    own: Option<Usage>,
    broker: Option<Usage>,
}

/// What a stretch of time took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Costs {
    pub(super) time: Duration,
    /// CPU time of this process; `None`: not known here.
    pub(super) own_cpu: Option<Duration>,
    /// CPU time of the brokers; `None`: not known, or one of them is gone.
    pub(super) broker_cpu: Option<Duration>,
    /// By how many bytes the brokers' resident memory is larger.
    pub(super) broker_growth: Option<i64>,
    /// Resident memory of the brokers at the end.
    pub(super) broker_memory: Option<u64>,
}

impl<'a> Meter<'a> {
    pub(super) fn start(brokers: &'a Brokers, clock: Clock) -> Self {
        let (own, broker) = (usage(std::process::id()), brokers.usage());
        Self { brokers, clock, begun_at: clock.now(), own, broker }
    }

    /// What it took until now.
    pub(super) fn read(&self) -> Costs {
        let time = Duration::from_nanos(self.clock.now() - self.begun_at);
        let (own, broker) = (usage(std::process::id()), self.brokers.usage());
        let spent =
            |before: Option<Usage>, after: Option<Usage>| Some(after?.cpu.saturating_sub(before?.cpu));
        let growth = |before: Option<Usage>, after: Option<Usage>| {
            i64::try_from(after?.memory).ok()?.checked_sub_unsigned(before?.memory)
        };
        Costs {
            time,
            own_cpu: spent(self.own, own),
            broker_cpu: spent(self.broker, broker),
            broker_growth: growth(self.broker, broker),
            broker_memory: broker.map(|usage| usage.memory),
        }
    }
}

/// What a process has used; `None`: there is none, or the system does not tell. What threads have used that have ended is not in it: those
/// of brokers, and of a run, do not.
fn usage(pid: u32) -> Option<Usage> {
    let directory = Path::new("/proc").join(pid.to_string());
    let mut cpu = Duration::ZERO;
    for thread in fs::read_dir(directory.join("task")).ok()? {
        // A thread that has just ended is no longer counted.
        let Ok(text) = fs::read_to_string(thread.ok()?.path().join("schedstat")) else { continue };
        cpu += cpu_time(&text)?;
    }
    let memory = resident(&fs::read_to_string(directory.join("status")).ok()?)?;
    Some(Usage { cpu, memory })
}

/// The first number of `schedstat`: nanoseconds.
fn cpu_time(schedstat: &str) -> Option<Duration> {
    schedstat.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// `VmRSS`, in bytes.
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_linux_says_is_understood() {
        assert_eq!(cpu_time("123456789 42 7\n"), Some(Duration::from_nanos(123_456_789)));
        assert_eq!(cpu_time(""), None);
        assert_eq!(resident("Name:\tflotilla\nVmRSS:\t    2048 kB\nThreads:\t3\n"), Some(2_097_152));
        assert_eq!(resident("Name:\tkthreadd\n"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_a_process_uses_is_told() {
        // Another one than that of the tests, whose threads come and go.
        let busy = std::process::Command::new("sh")
            .args(["-c", "i=0; while [ $i -lt 10000000 ]; do i=$((i+1)); done"])
            .spawn();
        let mut busy = busy.expect("there is a shell");
        let brokers = Brokers::find(&[busy.id().try_into().unwrap()]).unwrap();
        let clock = Clock::start();
        let meter = Meter::start(&brokers, clock);
        // It has run before it has its memory: until then, it is the program's loader that runs.
        let costs = loop {
            let costs = meter.read();
            if costs.broker_cpu.unwrap() > Duration::ZERO && costs.broker_memory.unwrap() > 100_000 {
                break costs;
            }
            assert!(clock.now() < 10_000_000_000, "it does not run");
            std::thread::yield_now();
        };
        assert!(costs.own_cpu.is_some() && costs.broker_growth.is_some());
        assert!(brokers.are_known() && brokers.memory().is_some());
        busy.kill().expect("it is ours");
        busy.wait().expect("it is ours");
    }

    #[test]
    fn a_process_that_is_not_there_is_told() {
        // Above the highest process identifier that Linux can have.
        let result = Brokers::find(&[0x7FFF_FFFF_u32.try_into().unwrap()]);
        assert!(matches!(result, Err(BenchError::NoProcess { pid: 0x7FFF_FFFF })));
    }
}
