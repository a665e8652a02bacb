//! What ends a client from outside: a signal, or `--timeout`.

use std::time::Duration;

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{self, Instant},
};

use super::error::ClientError;

/// Waits for the end.
#[derive(Debug)]
pub(super) struct Stop {
    interrupt: Signal,
    terminate: Signal,
    deadline: Option<Instant>,
}

impl Stop {
    /// From here on SIGINT and SIGTERM no longer kill the process, and the time runs.
    ///
    /// # Errors
    /// The signals cannot be caught.
    pub(super) fn new(timeout: Option<Duration>) -> Result<Self, ClientError> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(ClientError::Runtime)?,
            terminate: signal(SignalKind::terminate()).map_err(ClientError::Runtime)?,
            deadline: timeout.map(|timeout| Instant::now() + timeout),
        })
    }

    /// Returns when it is time to stop: [`ClientError::Interrupted`] or [`ClientError::TimedOut`].
    ///
    /// # Cancel safety
    /// Loses no signal when it is cancelled.
    pub(super) async fn wait(&mut self) -> ClientError {
        let deadline = self.deadline;
        let timeout = async {
            match deadline {
                Some(deadline) => time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => ClientError::Interrupted,
            _ = self.terminate.recv() => ClientError::Interrupted,
            () = timeout => ClientError::TimedOut,
        }
    }
}
