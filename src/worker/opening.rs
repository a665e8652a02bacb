//! A connection from the accept to the CONNACK.

use std::{
    future::poll_fn,
    io,
    rc::Rc,
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use flotilla_mqtt::{
    ReasonCode,
    codec::{DecodeError, Decoder, SendBuffer, refusal_version},
    packet::{Packet, PacketType},
    session::{Accepted, Handshake, HandshakeStep, Refusal},
};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{
    Peer, Worker, WorkerCell,
    connection::{ConnectionTask, LinkRef},
    lifecycle::Arrival,
    link::{Farewell, poll_read},
    turns::await_turn,
};
use crate::{
    auth::Anonymous,
    cluster::Claim,
    node::{Connecting, SocketCount},
    overload::Level,
};

/// Why a connection did not open.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("the client closed before its CONNECT was complete")]
    Closed,
    #[error("no CONNECT in time")]
    Late,
    #[error("no CONNECT while others wait to be accepted")]
    GivesWay,
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("CONNECT refused: {}", .0.reason)]
    Refused(Refusal),
    #[error("the client is banned")]
    Banned(Refusal),
    #[error("memory is short")]
    NoMemory(Refusal),
    #[error("the client cannot be served here now: {}", .0.reason)]
    NotClaimed(Refusal),
    #[error("sent a packet that is not AUTH during authentication")]
    NotAuth(Refusal),
}

/// Bytes of the client that are not handled yet.
struct Incoming {
    stream: TcpStream,
    bytes: Vec<u8>,
    /// The client's Maximum Packet Size.
    answer_max: usize,
}

/// How long a connection may be without its whole CONNECT while others wait to be accepted.
const PATIENCE: Duration = Duration::from_secs(2);

/// Serves a new socket.
pub(crate) fn spawn(cell: &Rc<WorkerCell>, stream: TcpStream, peer: Peer, connecting: Connecting) {
    cell.with(|worker| worker.metrics().sockets_accepted.increment());
    let opening = Box::pin(open(Rc::clone(cell), stream, peer, connecting));
    tokio::task::spawn_local(ConnectionTask::Opening(Rc::clone(cell), opening));
}

/// Reads the CONNECT and asks who is there within `mqtt.connect_timeout`; claims the client identifier and finds the session
/// within as much again, or says that it cannot: the shard of the client may have no leader.
async fn open(
    cell: Rc<WorkerCell>,
    stream: TcpStream,
    mut peer: Peer,
    _connecting: Connecting,
) -> Option<LinkRef> {
    let node = cell.with(|worker| Arc::clone(worker.node()));
    let mut incoming = Incoming { stream, bytes: Vec::new(), answer_max: usize::MAX };
    let limit = node.config.mqtt.connect_timeout;
    let connect = async {
        let sockets = &node.sockets[usize::from(peer.listener)];
        let accepted = tokio::select! {
            biased;
            accepted = timeout(limit, handshake(&cell, &mut incoming, &mut peer)) => {
                accepted.unwrap_or(Err(OpenError::Late))?
            }
            () = give_way(sockets) => return Err(OpenError::GivesWay),
        };
        let claim = timeout(limit, node.cluster.claim(Claim::of(&accepted, &node.config))).await;
        match claim.unwrap_or(Err(ReasonCode::ServerUnavailable)) {
            Ok(claimed) => Ok((accepted, claimed)),
            Err(reason) => Err(OpenError::NotClaimed(Refusal { version: accepted.version, reason })),
        }
    };
    let outcome = connect.await;
    let Incoming { stream, bytes, answer_max } = incoming;
    match outcome {
        Ok((accepted, claimed)) => {
            let (accepted, rest) = (*accepted, bytes);
            let arrival = Arrival { stream, peer, accepted, claimed, rest, hops: 0 };
            cell.with(|worker| worker.attach(arrival))
        }
        Err(error @ (OpenError::Late | OpenError::GivesWay)) => {
            tracing::debug!(peer = %peer.addr, %error, "closing connection");
            node.sockets[usize::from(peer.listener)].leave();
            None
        }
        Err(error) => {
            cell.with(|worker| worker.turn_away(stream, &peer, &error, &bytes, answer_max));
            None
        }
    }
}

/// Waits until a connection that is silent must not be waited for any longer: it has had its time, and others want its place.
async fn give_way(sockets: &SocketCount) {
    sleep(PATIENCE).await;
    sockets.crowded().await;
}

/// CONNECT, and the AUTH packets that may follow it.
async fn handshake(
    cell: &WorkerCell,
    incoming: &mut Incoming,
    peer: &mut Peer,
) -> Result<Box<Accepted>, OpenError> {
    let (node, random) = cell.with(|worker| (Arc::clone(worker.node()), worker.random.next_wide()));
    let mut authenticator = Anonymous { allowed: node.config.auth.anonymous };
    let mut decoder = Decoder::server(node.limits.max_packet_size.get());
    let len = incoming.read_packet(cell, &decoder).await?;
    await_turn(cell).await;
    let (mut handshake, mut step) = {
        let Some((Packet::Connect(connect), _)) = decoder.decode(&incoming.bytes)? else {
            unreachable!("a decoder without a version takes nothing but CONNECT");
        };
        decoder.set_version(connect.version);
        cell.with(|worker| worker.metrics().packet_received(PacketType::Connect));
        peer.username = connect.username.map(Into::into);
        if let Some(maximum) = connect.properties.maximum_packet_size {
            incoming.answer_max = usize::try_from(maximum.get()).unwrap_or(usize::MAX);
        }
        // First of all: whoever is banned is asked nothing, and costs nothing more.
        if node.bans.cover(connect.client_id, connect.username, peer.addr.ip()) {
            let refusal = Refusal { version: connect.version, reason: ReasonCode::Banned };
            return Err(OpenError::Banned(refusal));
        }
        if cell.with(|worker| worker.memory >= Level::High) {
            let refusal = Refusal { version: connect.version, reason: ReasonCode::QuotaExceeded };
            return Err(OpenError::NoMemory(refusal));
        }
        Handshake::start(&connect, &node.limits, random, &mut authenticator).map_err(OpenError::Refused)?
    };
    incoming.bytes.drain(..len);
    loop {
        match step {
            HandshakeStep::Accept(accepted) => return Ok(accepted),
            HandshakeStep::Continue(bytes) => incoming.write_all(&bytes).await?,
        }
        let len = incoming.read_packet(cell, &decoder).await?;
        let Some((packet, _)) = decoder.decode(&incoming.bytes)? else { return Err(OpenError::Closed) };
        cell.with(|worker| worker.metrics().packet_received(packet.packet_type()));
        let Packet::Auth(auth) = packet else {
            // [MQTT-3.1.2-30]
            let reason = ReasonCode::ProtocolError;
            return Err(OpenError::NotAuth(Refusal { version: flotilla_mqtt::ProtocolVersion::V5, reason }));
        };
        step = handshake.handle_auth(&auth, &mut authenticator).map_err(OpenError::Refused)?;
        incoming.bytes.drain(..len);
    }
}

impl Incoming {
    /// Reads until there is a whole packet; returns its length.
    async fn read_packet(&mut self, cell: &WorkerCell, decoder: &Decoder) -> Result<usize, OpenError> {
        loop {
            if let Some(header) = decoder.header(&self.bytes)?
                && header.packet_len() <= self.bytes.len()
            {
                return Ok(header.packet_len());
            }
            let read = poll_fn(|cx| {
                let mut scratch = cell.scratch.borrow_mut();
                let read = ready!(poll_read(&mut self.stream, cx, &mut scratch))?;
                self.bytes.extend_from_slice(&scratch[..read]);
                Poll::Ready(io::Result::Ok(read))
            });
            match read.await? {
                0 => return Err(OpenError::Closed),
                read => cell.with(|worker| worker.metrics().bytes_received.add(read as u64)),
            }
        }
    }

    async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        tokio::io::AsyncWriteExt::write_all(&mut self.stream, bytes).await
    }
}

impl Worker {
    /// Tells a client why it is refused, where the protocol and the size of what it takes let us, and closes. `bytes` is
    /// what it sent.
    fn turn_away(
        &mut self,
        stream: TcpStream,
        peer: &Peer,
        error: &OpenError,
        bytes: &[u8],
        answer_max: usize,
    ) {
        match error {
            // Health checks of load balancers do this all the time, and clients of a node that has lost its cluster.
            OpenError::Io(_)
            | OpenError::Closed
            | OpenError::Late
            | OpenError::GivesWay
            | OpenError::NotClaimed(_) => {
                tracing::debug!(peer = %peer.addr, %error, "connection did not open");
            }
            // It may come again and again.
            OpenError::Banned(_) => {
                tracing::debug!(peer = %peer.addr, %error, "connection refused");
                self.metrics().client_banned.increment();
            }
            OpenError::NoMemory(_) => {
                tracing::debug!(peer = %peer.addr, %error, "connection refused");
                self.metrics().client_refused_memory.increment();
            }
            OpenError::Decode(_) | OpenError::Refused(_) | OpenError::NotAuth(_) => {
                tracing::info!(peer = %peer.addr, %error, "connection refused");
                self.metrics().client_errors.increment();
            }
        }
        let refusal = match error {
            OpenError::Refused(refusal)
            | OpenError::Banned(refusal)
            | OpenError::NoMemory(refusal)
            | OpenError::NotClaimed(refusal)
            | OpenError::NotAuth(refusal) => Some(refusal.clone()),
            OpenError::Decode(error) => {
                refusal_version(bytes).map(|version| Refusal { version, reason: error.reason() })
            }
            OpenError::Io(_) | OpenError::Closed | OpenError::Late | OpenError::GivesWay => None,
        };
        let mut out = SendBuffer::new();
        // 3.1 and 3.1.1 have six return codes, none of them for a malformed CONNECT.
        let has_words = |refusal: &Refusal| {
            refusal.version.is_v5()
                || !matches!(error, OpenError::Decode(_))
                || refusal.reason == ReasonCode::UnsupportedProtocolVersion
        };
        if let Some(refusal) = refusal.filter(has_words) {
            refusal.write_connack(out.tail());
            if out.len() <= answer_max {
                self.metrics().packets_sent(PacketType::ConnAck, 1);
            } else {
                // Not even this fits into what the client takes [MQTT-3.1.2-24].
                out = SendBuffer::new();
            }
        }
        self.say_farewell(Farewell { stream, out, listener: peer.listener });
    }
}
