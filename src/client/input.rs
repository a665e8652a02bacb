//! Where the payloads of `flotilla pub` come from.

use std::{
    io::{self, BufRead, Read},
    os::unix::ffi::OsStringExt,
    thread,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::mpsc,
    time::{self, Instant},
};

use super::{
    args::PubArgs,
    error::ClientError,
    options::{read_bounded, read_file, without_line_end},
};

/// The payloads still to be published.
#[derive(Debug)]
pub(super) enum Payloads {
    /// One payload, several times.
    Repeated { payload: Bytes, left: u32, delay: Duration, due: Instant },
    /// The lines of standard input.
    Lines(mpsc::Receiver<Result<Vec<u8>, ClientError>>),
}

impl Payloads {
    /// Reads the payload, or begins to read lines.
    ///
    /// # Errors
    /// It cannot be read, or no packet is large enough for it.
    pub(super) fn open(args: &PubArgs) -> Result<Self, ClientError> {
        let payload = if let Some(message) = &args.message {
            message.clone().into_vec()
        } else if let Some(path) = &args.file {
            read_file(PAYLOAD, path, PAYLOAD_MAX)?
        } else if args.stdin_file {
            read_bounded(PAYLOAD, io::stdin().lock(), PAYLOAD_MAX).map_err(ClientError::ReadInput)??
        } else if args.stdin_line {
            let (sender, receiver) = mpsc::channel(LINES_AHEAD);
            // A thread of its own: it may sit in a read for ever, and the process exits without it.
            thread::spawn(move || read_lines(io::stdin().lock(), |line| sender.blocking_send(line).is_ok()));
            return Ok(Self::Lines(receiver));
        } else {
            Vec::new()
        };
        Ok(Self::Repeated {
            payload: payload.into(),
            left: args.repeat,
            delay: args.repeat_delay,
            due: Instant::now(),
        })
    }

    /// The next payload; `None` when that was all.
    ///
    /// # Errors
    /// Standard input cannot be read, or a line is too long.
    ///
    /// # Cancel safety
    /// No payload is lost.
    pub(super) async fn next(&mut self) -> Option<Result<Bytes, ClientError>> {
        match self {
            Self::Repeated { left: 0, .. } => None,
            Self::Repeated { payload, left, delay, due } => {
                if !delay.is_zero() {
                    time::sleep_until(*due).await;
                }
                *left -= 1;
                *due += *delay;
                Some(Ok(payload.clone()))
            }
            Self::Lines(lines) => lines.recv().await.map(|line| line.map(Bytes::from)),
        }
    }
}

/// Hands every line to `take`, without its line end, until that no longer wants any.
fn read_lines(mut input: impl BufRead, mut take: impl FnMut(Result<Vec<u8>, ClientError>) -> bool) {
    loop {
        let mut line = Vec::new();
        let read = input.by_ref().take(PAYLOAD_MAX + 1).read_until(b'\n', &mut line);
        let line = match read {
            Ok(0) => return,
            Ok(_) if line.len() as u64 > PAYLOAD_MAX => {
                Err(ClientError::TooLong { what: "a line", len: line.len() as u64, limit: PAYLOAD_MAX })
            }
            Ok(_) => Ok(without_line_end(line)),
            Err(error) => Err(ClientError::ReadInput(error)),
        };
        let is_last = line.is_err();
        if !take(line) || is_last {
            return;
        }
    }
}

const PAYLOAD: &str = "the payload";

/// What fits into a packet beside the shortest topic.
const PAYLOAD_MAX: u64 = 268_435_455 - 3;

/// Lines that are read before they can be sent.
const LINES_AHEAD: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(input: &[u8]) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        read_lines(input, |line| {
            lines.push(line.unwrap());
            true
        });
        lines
    }

    #[test]
    fn every_line_is_a_payload_without_its_end() {
        assert_eq!(lines(b""), Vec::<Vec<u8>>::new());
        assert_eq!(lines(b"one\ntwo\r\n\nlast"), [&b"one"[..], b"two", b"", b"last"]);
        assert_eq!(lines(b"\xff\r\r\n"), [b"\xff\r"]);
    }

    #[test]
    fn reading_ends_when_nobody_takes_lines() {
        let mut taken = 0;
        read_lines(&b"one\ntwo\nthree\n"[..], |_| {
            taken += 1;
            taken < 2
        });
        assert_eq!(taken, 2);
    }

    #[test]
    fn a_read_error_is_the_last_thing() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::Other.into())
            }
        }
        let mut results = Vec::new();
        read_lines(io::BufReader::new(Broken), |line| {
            results.push(line.is_err());
            true
        });
        assert_eq!(results, [true]);
    }

    #[tokio::test]
    async fn one_payload_is_repeated_as_often_as_wanted() {
        let (delay, due) = (Duration::from_millis(5), Instant::now());
        let mut payloads = Payloads::Repeated { payload: Bytes::from_static(b"x"), left: 3, delay, due };
        let mut count = 0;
        while let Some(payload) = payloads.next().await {
            assert_eq!(payload.unwrap(), "x");
            count += 1;
        }
        assert_eq!(count, 3);
        assert!(due.elapsed() >= 2 * delay);
    }
}
