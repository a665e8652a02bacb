//! What ends everything early: SIGINT or SIGTERM.

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

/// Knows whether it is to end.
#[derive(Debug)]
pub(crate) struct Stop {
    signals: Receiver<()>,
    is_set: bool,
}

impl Stop {
    /// From here on SIGINT and SIGTERM no longer kill the process, which would leave a broker behind.
    ///
    /// # Errors
    /// The signals cannot be caught.
    pub(crate) fn watch() -> io::Result<Self> {
        let (sender, signals) = mpsc::sync_channel(1);
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let (mut interrupt, mut terminate) = {
            let _guard = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            });
            // Nobody may be there any more to hear it: everything is done then.
            let _ = sender.send(());
        })?;
        Ok(Self { signals, is_set: false })
    }

    pub(crate) const fn is_set(&self) -> bool {
        self.is_set
    }

    /// Waits so long, or until it is to end; whether it is. Returns at once when that was known before.
    pub(crate) fn wait(&mut self, time: Duration) -> bool {
        if !self.is_set {
            match self.signals.recv_timeout(time) {
                Ok(()) | Err(RecvTimeoutError::Disconnected) => self.is_set = true,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        self.is_set
    }
}
