//! The command line clients: `flotilla pub` and `flotilla sub`.
//!
//! [`run_pub`] and [`run_sub`] do everything from checked arguments to the exit code. Beneath them, from the outside
//! in: `publish` and `subscribe` are what the two commands do; `connection` is a TCP connection with its keep-alive;
//! `protocol` is the client's side of MQTT without a socket; `print` is what a message looks like on standard output.
//!
//! One connection is one run: nothing is reconnected. A client that has lost its connection says so and exits, and
//! whoever started it decides what then. TLS and WebSocket are absent until the broker has them.

mod args;
mod connection;
mod error;
mod input;
mod options;
mod print;
mod protocol;
mod publish;
mod stop;
mod subscribe;

pub use args::{
    ConnectionArgs, OutputArgs, PubArgs, PublishPropertyArgs, SubArgs, SubscribePropertyArgs, WillArgs,
};

use std::{future::Future, process::ExitCode};

pub(crate) use args::{parse_qos, parse_seconds};
pub(crate) use error::{ClientError, describe};
pub(crate) use options::{check_topic, resolve_password};
pub(crate) use print::tell;

/// Runs `flotilla pub`: publishes, reports on standard error, and returns what a script should know.
#[must_use]
pub fn run_pub(args: PubArgs) -> ExitCode {
    run(publish::publish(args))
}

/// Runs `flotilla sub`: prints messages to standard output, the rest as for [`run_pub`].
#[must_use]
pub fn run_sub(args: SubArgs) -> ExitCode {
    run(subscribe::subscribe(args))
}

fn run(client: impl Future<Output = Result<(), ClientError>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.map_err(ClientError::Runtime).and_then(|runtime| {
        let result = runtime.block_on(client);
        // A name that is still being looked up must not hold up the exit.
        runtime.shutdown_background();
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(format_args!("error: {error}"));
            error.exit_code()
        }
    }
}
