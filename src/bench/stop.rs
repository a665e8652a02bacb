//! What ends a run early: SIGINT or SIGTERM.

use std::{
    io,
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::Duration,
};

use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
};

/// Knows whether the run is to end.
#[derive(Debug)]
pub(super) struct Stop {
    signals: Receiver<()>,
    is_set: bool,
}

impl Stop {
    /// From here on the first SIGINT or SIGTERM no longer kills the process. A second one does.
    ///
    /// # Errors
    /// The signals cannot be caught.
    pub(super) fn watch() -> io::Result<Self> {
        let (sender, signals) = mpsc::sync_channel(1);
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let (mut interrupt, mut terminate) = {
            let _guard = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        let mut wait = move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            });
        };
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            wait();
            // Nobody may be there any more to hear it: the run is over then.
            let _ = sender.send(());
            wait();
            std::process::exit(INTERRUPTED);
        })?;
        Ok(Self { signals, is_set: false })
    }

    /// Whether the run is to end.
    pub(super) const fn is_set(&self) -> bool {
        self.is_set
    }

    /// Waits so long, or until the run is to end. Returns at once when that was known before.
    pub(super) fn wait(&mut self, time: Duration) {
        if !self.is_set {
            match self.signals.recv_timeout(time) {
                Ok(()) | Err(RecvTimeoutError::Disconnected) => self.is_set = true,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

/// As a shell says it.
const INTERRUPTED: i32 = 130;
