//! The log of the process: `tracing`, to standard error.

use std::{
    any::Any,
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, IsTerminal},
    panic,
};

use tracing::error;
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Starts the log, and lets panics speak there, too. Does nothing where there is a log already.
pub fn init(log: &Log) {
    // A valid level is part of what a configuration promises; a caller that made up its own gets the default.
    let filter = EnvFilter::builder().parse(filter_of(&log.level)).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = match log.format {
        LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_span_list(false).try_init(),
    };
    if started.is_ok() {
        panic::set_hook(Box::new(log_panic));
    }
}

/// The directives in force. Some libraries tell of each step at the level at which we tell what an operator asks about, so
/// they are heard only when they are named, or something is wrong.
fn filter_of(level: &str) -> String {
    let mut directives = level.to_owned();
    for (library, heard) in [("openraft", "off"), ("fjall", "warn"), ("lsm_tree", "warn")] {
        if !level.contains(library) {
            directives.push_str(&format!(",{library}={heard}"));
        }
    }
    directives
}

/// A panic is somebody's bug: it ends one connection or worker, and its line must be found where all others are.
fn log_panic(info: &panic::PanicHookInfo<'_>) {
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    error!(place, reason = panic_message(info.payload()), backtrace, "panic");
}

fn panic_message(payload: &dyn Any) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_heard_when_they_are_named() {
        for (level, expected) in [
            ("info", "info,openraft=off,fjall=warn,lsm_tree=warn"),
            ("debug,openraft=info,fjall=info", "debug,openraft=info,fjall=info,lsm_tree=warn"),
        ] {
            assert_eq!(filter_of(level), expected);
            EnvFilter::builder().parse(filter_of(level)).expect("it parses");
        }
    }

    #[test]
    fn panics_with_and_without_a_message() {
        let check = |panics: fn(), expected: &str| {
            let payload = panic::catch_unwind(panics).unwrap_err();
            assert_eq!(panic_message(&*payload), expected);
        };
        check(|| panic!("plain"), "plain");
        check(|| panic!("number {}", 7), "number 7");
        check(|| panic::panic_any(7), "without a message");
    }
}
