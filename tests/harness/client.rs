//! A client that does what a test says and nothing by itself.

use std::{
    collections::VecDeque,
    fmt,
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use super::{
    ConnAck, Connect, DEADLINE, Packet, Property, Publish, Version, ack, disconnect, parse::parse, pingreq,
    subscribe, unique, unsubscribe,
};

/// A TCP connection that speaks MQTT as far as it is told to.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    version: Version,
    received: Vec<u8>,
    /// Packets that came while another was waited for.
    set_aside: VecDeque<Packet>,
    next_id: u16,
    connack: ConnAck,
    longest_packet: usize,
}

/// What can happen on a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Packet(Packet),
    /// The broker closed the connection, in an orderly way or with a reset.
    Closed,
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum NotConnected {
    /// There is nobody.
    Unreachable(io::Error),
    /// Another answer than CONNACK with code 0.
    Refused(Packet),
    /// No answer, but the end.
    Closed,
    /// No answer in time.
    Silent,
}

impl fmt::Display for NotConnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(error) => write!(f, "{error}"),
            Self::Refused(packet) => write!(f, "{packet:?}"),
            Self::Closed => f.write_str("the connection was closed instead of an answer"),
            Self::Silent => f.write_str("no answer in time"),
        }
    }
}

/// Connecting.
impl Client {
    /// A TCP connection on which nothing has been sent.
    pub(crate) fn open(address: SocketAddr, version: Version) -> Self {
        let stream = TcpStream::connect_timeout(&address, DEADLINE).expect("the broker listens");
        Self::over(stream, version)
    }

    /// Over a TCP connection that somebody has made for it; nothing has been sent.
    pub(crate) fn over(stream: TcpStream, version: Version) -> Self {
        stream.set_nodelay(true).expect("a new socket takes options");
        stream.set_write_timeout(Some(DEADLINE)).expect("a new socket takes options");
        Self {
            stream,
            version,
            received: Vec::new(),
            set_aside: VecDeque::new(),
            next_id: 1,
            connack: ConnAck::default(),
            longest_packet: 0,
        }
    }

    /// A client that was accepted.
    #[track_caller]
    pub(crate) fn connect(address: SocketAddr, connect: &Connect) -> Self {
        Self::attempt(address, connect, DEADLINE).unwrap_or_else(|error| panic!("not accepted: {error}"))
    }

    /// A client that was accepted within this time, or why it was not.
    pub(crate) fn attempt(
        address: SocketAddr,
        connect: &Connect,
        within: Duration,
    ) -> Result<Self, NotConnected> {
        let stream = TcpStream::connect_timeout(&address, within).map_err(NotConnected::Unreachable)?;
        let mut client = Self::over(stream, connect.version);
        client.try_send(&connect.bytes()).map_err(NotConnected::Unreachable)?;
        match client.next_event(within) {
            Some(Event::Packet(Packet::ConnAck(connack))) if connack.code == 0 => {
                client.connack = connack;
                Ok(client)
            }
            Some(Event::Packet(packet)) => Err(NotConnected::Refused(packet)),
            Some(Event::Closed) => Err(NotConnected::Closed),
            None => Err(NotConnected::Silent),
        }
    }

    /// The answer to CONNECT.
    pub(crate) fn connack(&self) -> &ConnAck {
        &self.connack
    }

    /// The broker had a session for it. 3.1 has no Session Present, only an unused byte, so nothing is known there.
    #[track_caller]
    pub(crate) fn assert_resumed(&self) {
        assert!(self.version == Version::V31 || self.connack.session_present, "Session Present is 0");
    }

    /// The length of the longest packet that came.
    pub(crate) fn longest_packet(&self) -> usize {
        self.longest_packet
    }

    /// The socket, for tests that look below the packets.
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Says goodbye, and expects the broker to close.
    #[track_caller]
    pub(crate) fn disconnect(mut self) {
        self.send(&disconnect(self.version, 0, &[]));
        self.expect_closed();
    }

    /// Goes without a DISCONNECT, and waits until the broker has closed its side too.
    #[track_caller]
    pub(crate) fn vanish(mut self) {
        self.stream.shutdown(Shutdown::Write).expect("the connection is open");
        while self.next_event(DEADLINE).expect("the broker closes when the client has") != Event::Closed {}
    }
}

/// Bytes and packets.
impl Client {
    /// Sends bytes whatever they are.
    #[track_caller]
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("the broker reads");
    }

    /// The same when the broker may close before it has read everything.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// What happens next; `None`: nothing within this time.
    #[track_caller]
    pub(crate) fn next_event(&mut self, within: Duration) -> Option<Event> {
        if let Some(packet) = self.set_aside.pop_front() {
            return Some(Event::Packet(packet));
        }
        let deadline = Instant::now() + within;
        loop {
            if let Some((packet, len)) = parse(&self.received, self.version) {
                self.received.drain(..len);
                self.longest_packet = self.longest_packet.max(len);
                return Some(Event::Packet(packet));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            self.stream.set_read_timeout(Some(left)).expect("not zero");
            let mut chunk = [0; 16_384];
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    assert!(self.received.is_empty(), "closed inside a packet: {:02x?}", self.received);
                    return Some(Event::Closed);
                }
                Ok(len) => self.received.extend_from_slice(&chunk[..len]),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {}
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => return Some(Event::Closed),
                    _ => panic!("reading failed: {error}"),
                },
            }
        }
    }

    /// The next packet.
    #[track_caller]
    pub(crate) fn receive(&mut self) -> Packet {
        match self.next_event(DEADLINE) {
            Some(Event::Packet(packet)) => packet,
            Some(Event::Closed) => panic!("the broker closed the connection instead of answering"),
            None => panic!("the broker did not answer within {DEADLINE:?}"),
        }
    }

    /// The next packet for which `wanted` has an answer; others are kept for later.
    #[track_caller]
    fn receive_where<T>(&mut self, mut wanted: impl FnMut(&Packet) -> Option<T>) -> T {
        let mut others = VecDeque::new();
        loop {
            let packet = self.receive();
            if let Some(answer) = wanted(&packet) {
                others.append(&mut self.set_aside);
                self.set_aside = others;
                return answer;
            }
            assert!(matches!(packet, Packet::Publish(_) | Packet::PubRel { .. }), "unexpected: {packet:?}");
            others.push_back(packet);
        }
    }

    pub(crate) fn next_id(&mut self) -> u16 {
        let id = self.next_id;
        self.next_id = id.checked_add(1).unwrap_or(1);
        id
    }
}

/// Requests with their answers.
impl Client {
    /// Subscribes to one filter; returns its code.
    #[track_caller]
    pub(crate) fn subscribe(&mut self, filter: &str, qos: u8) -> u8 {
        self.subscribe_with(&[], &[(filter, qos)])[0]
    }

    /// Subscribes; returns the codes of the SUBACK.
    #[track_caller]
    pub(crate) fn subscribe_with(&mut self, properties: &[Property], filters: &[(&str, u8)]) -> Vec<u8> {
        let id = self.next_id();
        self.send(&subscribe(self.version, id, properties, filters));
        let codes = self.receive_where(|packet| match packet {
            Packet::SubAck { id: answered, reasons } if *answered == id => Some(reasons.clone()),
            _ => None,
        });
        assert_eq!(codes.len(), filters.len(), "one code for each filter [MQTT-3.8.4-6]");
        codes
    }

    /// Unsubscribes; returns the codes of the UNSUBACK, of which 3.1 and 3.1.1 have none.
    #[track_caller]
    pub(crate) fn unsubscribe(&mut self, filters: &[&str]) -> Vec<u8> {
        let id = self.next_id();
        self.send(&unsubscribe(self.version, id, filters));
        self.receive_where(|packet| match packet {
            Packet::UnsubAck { id: answered, reasons } if *answered == id => Some(reasons.clone()),
            _ => None,
        })
    }

    /// Publishes at a QoS and completes the exchange; returns the reason of PUBACK or PUBREC.
    #[track_caller]
    pub(crate) fn publish(&mut self, topic: &str, payload: impl AsRef<[u8]>, qos: u8) -> u8 {
        let id = if qos > 0 { self.next_id() } else { 0 };
        self.publish_packet(&Publish::new(topic, payload).qos(qos, id))
    }

    /// Publishes and completes the exchange; returns the reason of PUBACK or PUBREC.
    #[track_caller]
    pub(crate) fn publish_packet(&mut self, publish: &Publish) -> u8 {
        self.send(&publish.bytes(self.version));
        let expected = publish.id;
        match publish.qos {
            0 => 0,
            1 => self.receive_where(|packet| match packet {
                Packet::PubAck { id, reason } if *id == expected => Some(*reason),
                _ => None,
            }),
            _ => {
                let reason = self.receive_where(|packet| match packet {
                    Packet::PubRec { id, reason } if *id == expected => Some(*reason),
                    _ => None,
                });
                if reason < 0x80 {
                    self.send(&ack(0x62, expected));
                    self.receive_where(|packet| match packet {
                        Packet::PubComp { id, reason: 0 } if *id == expected => Some(()),
                        _ => None,
                    });
                }
                reason
            }
        }
    }

    /// Completes the exchange of a message that was received.
    #[track_caller]
    pub(crate) fn acknowledge(&mut self, publish: &Publish) {
        match publish.qos {
            0 => {}
            1 => self.send(&ack(0x40, publish.id)),
            _ => {
                let expected = publish.id;
                self.send(&ack(0x50, expected));
                self.receive_where(|packet| match packet {
                    Packet::PubRel { id, reason: 0 } if *id == expected => Some(()),
                    _ => None,
                });
                self.send(&ack(0x70, expected));
            }
        }
    }

    /// PINGREQ; the PINGRESP must be the next packet, so nothing else was on its way.
    #[track_caller]
    pub(crate) fn ping(&mut self) {
        self.send(&pingreq());
        self.expect(&Packet::PingResp);
    }
}

/// Expectations.
impl Client {
    #[track_caller]
    pub(crate) fn expect(&mut self, expected: &Packet) {
        assert_eq!(&self.receive(), expected);
    }

    #[track_caller]
    pub(crate) fn expect_connack(&mut self, code: u8) -> ConnAck {
        match self.receive() {
            Packet::ConnAck(connack) if connack.code == code => connack,
            other => panic!("expected CONNACK {code:#04x}, got {other:?}"),
        }
    }

    /// The next packet is this message; returns it whole. It is not acknowledged.
    #[track_caller]
    pub(crate) fn expect_publish(&mut self, topic: &str, payload: impl AsRef<[u8]>) -> Publish {
        let publish = self.expect_any_publish();
        assert_eq!(
            (publish.topic.as_str(), publish.payload.as_slice()),
            (topic, payload.as_ref()),
            "{publish:?}"
        );
        publish
    }

    /// The next packet is a message. It is not acknowledged.
    #[track_caller]
    pub(crate) fn expect_any_publish(&mut self) -> Publish {
        match self.receive() {
            Packet::Publish(publish) => publish,
            other => panic!("expected a PUBLISH, got {other:?}"),
        }
    }

    /// Everything that `publisher` sent before was handled, and nothing of it came here.
    #[track_caller]
    pub(crate) fn expect_nothing_from(&mut self, publisher: &mut Self) {
        self.ping();
        let publishes = self.publishes_from(publisher);
        assert!(publishes.is_empty(), "not expected: {publishes:?}");
    }

    /// What came here of all that `publisher` sent before. It is not acknowledged.
    ///
    /// A message that is sent behind the others and waited for is the proof that this is all, so that no time has to
    /// pass.
    #[track_caller]
    pub(crate) fn publishes_from(&mut self, publisher: &mut Self) -> Vec<Publish> {
        let fence = unique("fence");
        assert_eq!(self.subscribe(&fence, 0), 0);
        publisher.publish(&fence, "", 1);
        let mut publishes = Vec::new();
        loop {
            let publish = self.expect_any_publish();
            if publish.topic == fence {
                break;
            }
            publishes.push(publish);
        }
        self.unsubscribe(&[&fence]);
        publishes
    }

    /// 5.0: DISCONNECT with this reason, then the end. 3.1 and 3.1.1, where a server has no DISCONNECT: the end.
    #[track_caller]
    pub(crate) fn expect_disconnect(&mut self, reason: u8) {
        if self.version == Version::V5 {
            match self.receive() {
                Packet::Disconnect { reason: seen, .. } if seen == reason => {}
                other => panic!("expected DISCONNECT {reason:#04x}, got {other:02x?}"),
            }
        }
        self.expect_closed();
    }

    /// The broker closes, and says nothing before it.
    #[track_caller]
    pub(crate) fn expect_closed(&mut self) {
        match self.next_event(DEADLINE) {
            Some(Event::Closed) => {}
            Some(Event::Packet(packet)) => panic!("expected the end of the connection, got {packet:02x?}"),
            None => panic!("the broker did not close within {DEADLINE:?}"),
        }
    }
}
