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

/// The directives in force. openraft tells of each step at the level at which we tell what an operator asks about, so it is
/// heard only when it is named.
fn filter_of(level: &str) -> String {
    if level.contains("openraft") { level.to_owned() } else { format!("{level},openraft=off") }
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
    fn openraft_is_heard_when_it_is_named() {
        for (level, expected) in
            [("info", "info,openraft=off"), ("debug,openraft=info", "debug,openraft=info")]
        {
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
