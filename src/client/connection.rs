//! A TCP connection to a broker: the thin shell around [`Protocol`].

use std::{
    io::{self, IoSlice},
    time::Duration,
};

use flotilla_mqtt::{ReasonCode, codec::SendBuffer, packet::PacketType};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::TcpStream,
    time::{self, Instant},
};

use super::{
    args::ConnectionArgs,
    error::{ClientError, describe, version_name},
    options::Identity,
    print::tell,
    protocol::{Event, Greeting, Protocol},
};

/// An MQTT connection that the broker has accepted.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    pub(super) protocol: Protocol,
    keep_alive: KeepAlive,
}

impl Connection {
    /// Connects and waits for the broker's answer, for at most `--connect-timeout`.
    ///
    /// # Errors
    /// Nobody is there, or the broker refuses.
    pub(super) async fn open(
        args: &ConnectionArgs,
        identity: &Identity,
        topic_alias_maximum: u16,
    ) -> Result<Self, ClientError> {
        let address = address(args);
        match time::timeout(args.connect_timeout, Self::handshake(args, identity, topic_alias_maximum)).await
        {
            Ok(connection) => connection,
            Err(_) => Err(ClientError::ConnectTimeout { address, waited: args.connect_timeout }),
        }
    }

    /// What the bytes read so far have to say; `None`: nothing more before the next [`Connection::pump`].
    ///
    /// # Errors
    /// The broker broke the protocol or took its leave.
    pub(super) fn next_event(&mut self) -> Result<Option<Event>, ClientError> {
        let event = self.protocol.next_event()?;
        if event == Some(Event::Pong) {
            self.keep_alive.handle_pong();
        }
        Ok(event)
    }

    /// Waits until bytes could be read or written, and moves them; sends a ping when it is time.
    ///
    /// # Errors
    /// The connection is gone.
    ///
    /// # Cancel safety
    /// Bytes are moved only after the last point where this can be cancelled.
    pub(super) async fn pump(&mut self) -> Result<(), ClientError> {
        let waiting = !self.protocol.output.is_empty();
        let interest = if waiting { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        tokio::select! {
            ready = self.stream.ready(interest) => {
                let ready = ready.map_err(ClientError::Lost)?;
                if ready.is_writable() && waiting {
                    self.write_some()?;
                }
                if ready.is_readable() {
                    self.read_some()?;
                }
                Ok(())
            }
            () = self.keep_alive.wait() => {
                self.keep_alive.check()?;
                self.protocol.ping()
            }
        }
    }

    /// Says goodbye and waits shortly until the broker has taken everything: what was written would be lost if the
    /// socket were closed while the broker still sends.
    ///
    /// # Errors
    /// Something could not be written, or the broker had a complaint.
    pub(super) async fn close(mut self, reason: ReasonCode) -> Result<(), ClientError> {
        self.protocol.disconnect(reason)?;
        let written = match time::timeout(CLOSE_TIMEOUT, self.write_all()).await {
            Ok(written) => written,
            Err(_) => Err(ClientError::Lost(io::ErrorKind::TimedOut.into())),
        };
        match time::timeout(CLOSE_TIMEOUT, self.last_words()).await {
            Ok(Some(complaint)) => Err(complaint),
            Ok(None) | Err(_) => written,
        }
    }

    async fn handshake(
        args: &ConnectionArgs,
        identity: &Identity,
        topic_alias_maximum: u16,
    ) -> Result<Self, ClientError> {
        let stream = dial(args).await?;
        let protocol = Protocol::start(identity.connect(args, topic_alias_maximum))?;
        let keep_alive = KeepAlive::new(args.keepalive);
        let mut connection = Self { stream, protocol, keep_alive };
        let greeting = connection.greeting().await.map_err(|error| match error {
            ClientError::Closed | ClientError::Lost(_) => {
                no_connack(args, "it closed the connection without an answer")
            }
            ClientError::Decode(_) | ClientError::Unexpected(_) => {
                no_connack(args, "its answer is not a CONNACK")
            }
            error => error,
        })?;
        connection.handle_greeting(args, greeting)?;
        Ok(connection)
    }

    async fn greeting(&mut self) -> Result<Greeting, ClientError> {
        loop {
            match self.next_event()? {
                Some(Event::Greeted(greeting)) => return Ok(greeting),
                Some(_) => return Err(ClientError::Unexpected(PacketType::Publish)),
                None => self.pump().await?,
            }
        }
    }

    fn handle_greeting(&mut self, args: &ConnectionArgs, greeting: Greeting) -> Result<(), ClientError> {
        if greeting.reason.is_error() {
            return Err(ClientError::ConnectionRefused { reason: greeting.reason, text: greeting.text });
        }
        if let Some(seconds) = greeting.server_keep_alive {
            // [MQTT-3.2.2-21]
            self.keep_alive = KeepAlive::new(seconds);
        }
        if args.debug {
            let id = greeting.assigned_client_id.as_deref().or(args.id.as_deref()).unwrap_or("(not known)");
            let id = id.escape_debug();
            let session = if greeting.session_present { "resumed session" } else { "new session" };
            let reason = describe(greeting.reason, greeting.text.as_deref());
            let version = version_name(args.protocol_version);
            tell(format_args!("connected to {} with {version} as {id}: {session}: {reason}", address(args)));
        }
        Ok(())
    }

    fn write_some(&mut self) -> Result<(), ClientError> {
        let mut slices = [IoSlice::new(&[]); 16];
        let filled = self.protocol.output.slices(&mut slices);
        match self.stream.try_write_vectored(&slices[..filled]) {
            Ok(written) => {
                self.protocol.output.advance(written);
                self.keep_alive.handle_sent();
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            // The broker may have said why before it closed: reading comes next, and finds out.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.protocol.output = SendBuffer::new();
                Ok(())
            }
            Err(error) => Err(ClientError::Lost(error)),
        }
    }

    async fn write_all(&mut self) -> Result<(), ClientError> {
        while !self.protocol.output.is_empty() {
            self.stream.writable().await.map_err(ClientError::Lost)?;
            self.write_some()?;
        }
        self.stream.shutdown().await.map_err(ClientError::Lost)
    }

    fn read_some(&mut self) -> Result<(), ClientError> {
        self.protocol.input.reserve(READ_SIZE);
        match self.stream.try_read_buf(&mut self.protocol.input) {
            Ok(0) => Err(ClientError::Closed),
            Ok(_) => {
                self.keep_alive.handle_received();
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(ClientError::Lost(error)),
        }
    }

    /// Reads until the broker has closed the connection: only a DISCONNECT matters now.
    async fn last_words(&mut self) -> Option<ClientError> {
        loop {
            loop {
                match self.protocol.next_event() {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(complaint @ ClientError::Disconnected { .. }) => return Some(complaint),
                    Err(_) => return None,
                }
            }
            self.protocol.input.reserve(READ_SIZE);
            match self.stream.read_buf(&mut self.protocol.input).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }
}

/// When to ping, and when to give up waiting for the answer (section 3.1.2.10).
#[derive(Debug)]
struct KeepAlive {
    /// `None`: turned off.
    interval: Option<Duration>,
    sent_at: Instant,
    /// Set while a ping is unanswered; moves on with everything that arrives, for a large packet may be in its way.
    unanswered_since: Option<Instant>,
}

impl KeepAlive {
    fn new(seconds: u16) -> Self {
        let interval = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
        Self { interval, sent_at: Instant::now(), unanswered_since: None }
    }

    fn handle_sent(&mut self) {
        self.sent_at = Instant::now();
    }

    fn handle_received(&mut self) {
        if let Some(since) = &mut self.unanswered_since {
            *since = Instant::now();
        }
    }

    fn handle_pong(&mut self) {
        self.unanswered_since = None;
    }

    /// Until a ping is due, or the answer to the last one overdue.
    async fn wait(&self) {
        let deadline = match (self.interval, self.unanswered_since) {
            (None, _) => return std::future::pending().await,
            (Some(interval), Some(since)) => since + answer_within(interval),
            // Early, so that the packet is there before the interval is over [MQTT-3.1.2-20].
            (Some(interval), None) => self.sent_at + interval * 3 / 4,
        };
        time::sleep_until(deadline).await;
    }

    /// The deadline has come.
    fn check(&mut self) -> Result<(), ClientError> {
        match (self.interval, self.unanswered_since) {
            (Some(interval), Some(_)) => Err(ClientError::PingTimeout { waited: answer_within(interval) }),
            _ => {
                self.unanswered_since = Some(Instant::now());
                Ok(())
            }
        }
    }
}

fn answer_within(interval: Duration) -> Duration {
    interval.max(PING_TIMEOUT_MIN)
}

async fn dial(args: &ConnectionArgs) -> Result<TcpStream, ClientError> {
    let host = args.host.trim_start_matches('[').trim_end_matches(']');
    let candidates = tokio::net::lookup_host((host, args.port)).await;
    let candidates = candidates
        .map_err(|source| ClientError::Resolve { host: args.host.clone(), source: plain(source) })?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for candidate in candidates {
        match TcpStream::connect(candidate).await {
            Ok(stream) => {
                // A failure costs some milliseconds, not the connection.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(ClientError::Connect { address: address(args), source: plain(last) })
}

/// The same error in the words of its kind, without the operating system's number.
fn plain(error: io::Error) -> io::Error {
    match error.kind() {
        kind @ (io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::TimedOut) => kind.into(),
        _ => error,
    }
}

fn no_connack(args: &ConnectionArgs, what: &'static str) -> ClientError {
    ClientError::NoConnAck { address: address(args), what, version: args.protocol_version }
}

/// As people write it: an IPv6 address in brackets.
fn address(args: &ConnectionArgs) -> String {
    let (host, port) = (&args.host, args.port);
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// How much is read at once.
const READ_SIZE: usize = 64 * 1024;

/// How long a goodbye may take, and how long the broker has to take it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A broker is not lost before this, however short the Keep Alive is.
const PING_TIMEOUT_MIN: Duration = Duration::from_secs(5);
