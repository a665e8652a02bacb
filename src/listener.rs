//! Sockets that clients connect to.

use std::{io, net::SocketAddr, rc::Rc, time::Duration};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::TcpListener, task::yield_now, time::sleep};

use crate::{
    config::Listener,
    node::{Connecting, Node, SocketCount},
    overload::TokenBucket,
    worker::{Event, Peer, WorkerCell, serve},
};

/// One listening socket of one worker.
#[derive(Debug)]
pub(crate) struct Acceptor {
    socket: std::net::TcpListener,
    /// The number of the listener.
    listener: u16,
    nodelay: bool,
    /// Whether each worker has a socket of its own; if not, this one serves them all in turn.
    is_shared: bool,
    /// Connections accepted in a second, on all workers.
    rate_max: Option<u32>,
}

/// How long accepting rests after an error: without file descriptors it would fail again at once.
const REST: Duration = Duration::from_millis(100);
/// Connections accepted before others get their turn.
const ACCEPTS_PER_TURN: u32 = 16;
/// How soon it is looked again whether there is room for connections that are not let in yet.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Opens the sockets of a listener, one for each worker if the system lets them share the port; returns the address.
///
/// # Errors
/// The address cannot be had.
pub(crate) fn bind(
    number: u16,
    config: &Listener,
    workers: usize,
    acceptors: &mut [Vec<Acceptor>],
) -> io::Result<SocketAddr> {
    let mut addr = config.bind.resolve()?;
    let is_shared = config.reuse_port && workers > 1;
    let sockets = if is_shared { workers } else { 1 };
    if is_shared {
        // Another broker that shares its port would otherwise share it with us, and each get some of the clients.
        bound_socket(addr, false)?;
    }
    for acceptors in acceptors.iter_mut().take(sockets) {
        let socket = bound_socket(addr, is_shared)?;
        socket.set_nonblocking(true)?;
        socket.listen(config.backlog.into())?;
        let socket = std::net::TcpListener::from(socket);
        // Port 0 becomes a real one with the first socket; the others share it.
        addr = socket.local_addr()?;
        let (nodelay, rate_max) = (config.nodelay, config.connect_rate_max);
        acceptors.push(Acceptor { socket, listener: number, nodelay, is_shared, rate_max });
    }
    Ok(addr)
}

fn bound_socket(addr: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for connections of the last run to be forgotten by the system.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

impl Acceptor {
    /// Accepts for ever.
    pub(crate) async fn run(self, cell: Rc<WorkerCell>) {
        let node = cell.with(|worker| worker.node().clone());
        let socket = match TcpListener::from_std(self.socket) {
            Ok(socket) => socket,
            Err(error) => return tracing::error!(%error, "listener cannot be used"),
        };
        let sharers = if self.is_shared { node.mailboxes.len() } else { 1 };
        let mut bucket = self.rate_max.map(|rate| TokenBucket::new(rate, sharers, node.clock.now()));
        let sockets = &node.sockets[usize::from(self.listener)];
        let (mut turn, mut accepted) = (0, 0_u32);
        loop {
            if accepted % ACCEPTS_PER_TURN == 0 {
                yield_now().await;
            }
            wait_for_room(&cell, &node, sockets, bucket.as_mut()).await;
            let (stream, addr) = match socket.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(REST).await;
                    continue;
                }
            };
            accepted = accepted.wrapping_add(1);
            if let Some(bucket) = &mut bucket {
                bucket.take(node.clock.now());
            }
            if cell.with(|worker| worker.refuses_sockets()) {
                continue;
            }
            if !sockets.enter() {
                tracing::debug!(peer = %addr, "listener is full, closing connection");
                continue;
            }
            if self.nodelay
                && let Err(error) = stream.set_nodelay(true)
            {
                tracing::debug!(peer = %addr, %error, "cannot set TCP_NODELAY");
            }
            let peer = Peer { addr, listener: self.listener, username: None };
            let connecting = sockets.begin_connecting();
            let workers = node.mailboxes.len();
            turn = (turn + 1) % workers;
            if self.is_shared || turn == 0 {
                serve(&cell, stream, peer, connecting);
            } else {
                hand_over(&node, turn, stream, peer, connecting);
            }
        }
    }
}

/// Waits until one more connection may be accepted.
async fn wait_for_room(
    cell: &WorkerCell,
    node: &Node,
    sockets: &SocketCount,
    mut bucket: Option<&mut TokenBucket>,
) {
    let mut is_late = false;
    loop {
        let rate = bucket.as_mut().map_or(Duration::ZERO, |bucket| bucket.wait(node.clock.now()));
        let wait = if sockets.is_crowded() { rate.max(LOOK_AGAIN) } else { rate };
        if wait.is_zero() {
            return;
        }
        if !is_late {
            cell.with(|worker| worker.note_delayed_accept());
            is_late = true;
        }
        sleep(wait).await;
    }
}

/// Gives a socket to another worker.
fn hand_over(node: &Node, worker: usize, stream: tokio::net::TcpStream, peer: Peer, connecting: Connecting) {
    let listener = usize::from(peer.listener);
    match stream.into_std() {
        Ok(stream) => node.mailboxes[worker].send(Event::Accepted(stream, peer, connecting)),
        Err(_) => node.sockets[listener].leave(),
    }
}
