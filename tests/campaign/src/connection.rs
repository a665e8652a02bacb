//! One MQTT 5.0 connection: bytes out, packets in, and nothing by itself.

use std::{
    cell::RefCell,
    io,
    net::SocketAddr,
    panic::{self, AssertUnwindSafe},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::harness::{
    ConnAck, Connect, Packet, Property, Version, disconnect, parse::parse, pingreq, property_id,
};

/// A connection that was accepted.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
    /// The node that it leads to.
    pub(crate) node: usize,
    heard: Instant,
    asked: Option<Instant>,
}

/// What can happen on a connection.
#[derive(Debug)]
pub(crate) enum Event {
    Packet(Packet),
    /// The broker has closed in an orderly way.
    Closed,
    /// It was reset.
    Reset,
    /// What came is no MQTT: why.
    Broken(String),
}

/// How an attempt to connect ended.
#[derive(Debug)]
pub(crate) enum Attempt {
    Accepted(Box<Connection>, ConnAck),
    /// CONNACK with this reason code.
    Refused(u8),
    /// The node was not there, so that nothing was sent.
    Unreachable,
    /// CONNECT was sent, and there was no answer.
    Unanswered,
    Broken(String),
}

impl Connection {
    /// Sends CONNECT to a node.
    pub(crate) async fn attempt(node: usize, address: SocketAddr, connect: &Connect) -> Attempt {
        let Ok(mut connection) = Self::open(node, address).await else { return Attempt::Unreachable };
        if connection.send(&connect.bytes()).await.is_err() {
            return Attempt::Unanswered;
        }
        match connection.event(CONNACK_WITHIN).await {
            Some(Event::Packet(Packet::ConnAck(connack))) if connack.code == 0 => {
                Attempt::Accepted(Box::new(connection), connack)
            }
            Some(Event::Packet(Packet::ConnAck(connack))) => Attempt::Refused(connack.code),
            Some(Event::Packet(other)) => Attempt::Broken(format!("CONNECT is answered by {other:?}")),
            Some(Event::Broken(why)) => Attempt::Broken(why),
            Some(Event::Closed | Event::Reset) | None => Attempt::Unanswered,
        }
    }

    /// A TCP connection on which nothing has been sent.
    ///
    /// # Errors
    /// Nobody is there, or nobody answers in time.
    pub(crate) async fn open(node: usize, address: SocketAddr) -> io::Result<Self> {
        let stream = timeout(OPEN_WITHIN, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        Ok(Self { stream, received: Vec::new(), node, heard: Instant::now(), asked: None })
    }

    /// Sends bytes, whatever they are.
    ///
    /// # Errors
    /// They may have been sent in part: the connection is of no more use.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        timeout(SENT_WITHIN, self.stream.write_all(bytes)).await?
    }

    /// What happens next; `None`: nothing within this time.
    ///
    /// # Cancel safety
    /// What has come in part stays until the next call.
    pub(crate) async fn event(&mut self, within: Duration) -> Option<Event> {
        let deadline = tokio::time::Instant::now() + within;
        loop {
            match strictly(&self.received) {
                Ok(Some((packet, len))) => {
                    self.received.drain(..len);
                    return Some(Event::Packet(packet));
                }
                Ok(None) => {}
                Err(why) => return Some(Event::Broken(why)),
            }
            let read = tokio::time::timeout_at(deadline, self.stream.read_buf(&mut self.received)).await;
            match read {
                Err(_) => return None,
                Ok(Ok(0)) if self.received.is_empty() => return Some(Event::Closed),
                // Cut off in the middle of a packet, as a process is that is killed.
                Ok(Ok(0) | Err(_)) => return Some(Event::Reset),
                Ok(Ok(_)) => (self.heard, self.asked) = (Instant::now(), None),
            }
        }
    }

    /// Asks for a sign of life when there was none for a while; `false` when that was asked for too long ago.
    pub(crate) async fn is_alive(&mut self) -> bool {
        match self.asked {
            Some(asked) => asked.elapsed() < PINGRESP_WITHIN,
            None if self.heard.elapsed() < QUIET => true,
            None => {
                self.asked = Some(Instant::now());
                self.send(&pingreq()).await.is_ok()
            }
        }
    }

    /// DISCONNECT; whether the broker closed in an orderly way behind it.
    pub(crate) async fn goodbye(mut self, reason: u8, expiry: Option<u32>) -> bool {
        let properties: Vec<Property> =
            expiry.map(|seconds| Property::four(property_id::SESSION_EXPIRY, seconds)).into_iter().collect();
        if self.send(&disconnect(Version::V5, reason, &properties)).await.is_err() {
            return false;
        }
        loop {
            match self.event(CLOSED_WITHIN).await {
                Some(Event::Packet(_)) => {}
                Some(Event::Closed) => return true,
                Some(Event::Reset | Event::Broken(_)) | None => return false,
            }
        }
    }

    /// Ends it with a reset, as the end of a client's machine does. Nothing that is under way is delivered.
    pub(crate) fn abort(self) {
        // Without the time to linger, which the system refuses for no socket, it is closed in an orderly way.
        let _ = self.stream.set_zero_linger();
    }
}

/// The harness' parser is for tests, which a wrong byte ends; here it ends the connection.
fn strictly(bytes: &[u8]) -> Result<Option<(Packet, usize)>, String> {
    if bytes.len() < 2 {
        return Ok(None);
    }
    WHY.with_borrow_mut(|why| *why = Some(String::new()));
    let parsed = panic::catch_unwind(AssertUnwindSafe(|| parse(bytes, Version::V5)));
    let why = WHY.with_borrow_mut(Option::take);
    parsed.map_err(|_| why.unwrap_or_default())
}

/// Keeps what the parser says of wrong bytes for [`Event::Broken`], instead of printing it.
pub(crate) fn install_panic_hook() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        let text = panic.payload().downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.payload().downcast_ref::<&str>().copied()).unwrap_or("no reason");
        let is_parsing = WHY.with_borrow_mut(|why| why.as_mut().map(|why| text.clone_into(why)).is_some());
        if !is_parsing {
            before(panic);
        }
    }));
}

thread_local! {
    /// There while bytes are parsed.
    static WHY: RefCell<Option<String>> = const { RefCell::new(None) };
}

const OPEN_WITHIN: Duration = Duration::from_secs(2);
/// Longer than a claim of a client identifier may wait for a node that counts as dead after five seconds.
const CONNACK_WITHIN: Duration = Duration::from_secs(8);
const SENT_WITHIN: Duration = Duration::from_secs(5);
const CLOSED_WITHIN: Duration = Duration::from_secs(3);
const PINGRESP_WITHIN: Duration = Duration::from_secs(4);
/// How long a connection may be silent before its client asks.
const QUIET: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::{Publish, ack};

    #[test]
    fn wrong_bytes_are_told_and_end_nothing() {
        install_panic_hook();
        let publish = Publish::new("t", "text").qos(1, 7);
        let bytes = publish.bytes(Version::V5);
        let whole = strictly(&bytes).expect("it is right");
        assert_eq!(whole, Some((Packet::Publish(publish), bytes.len())));
        assert_eq!(strictly(&bytes[..bytes.len() - 1]), Ok(None));
        let why = strictly(&ack(0x41, 7)).expect_err("its flags are wrong");
        assert!(why.contains("reserved flags"), "{why}");
    }
}
