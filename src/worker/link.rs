//! One network connection.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::BytesMut;
use flotilla_mqtt::{
    Timestamp,
    codec::{Decoder, SendBuffer},
    session::Cause,
};
use tokio::{
    io::{AsyncRead, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::timeout,
};

use super::{Peer, Slow, Worker, WorkerCell};

/// One network connection of a session. It owns no buffer while nothing is on the way.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) stream: TcpStream,
    pub(super) peer: Peer,
    pub(super) decoder: Decoder,
    /// What is to be written.
    pub(super) out: SendBuffer,
    /// A packet of which only a part has come.
    pub(super) partial: Option<Box<Partial>>,
    /// Bytes that were read and whose turn has not come.
    pub(super) backlog: Option<Box<[u8]>>,
    /// Since when the socket takes nothing.
    pub(super) blocked_since: Option<Timestamp>,
    /// Whether it is on the flusher's list.
    pub(super) is_dirty: bool,
    /// Whether it does not read for a reason of ours; how long the client takes is not counted then.
    pub(super) is_paused: bool,
    /// Whether it is on the list of those that wait for another worker or node, or for memory.
    pub(super) is_throttled: bool,
    /// Whether it has published since memory became short. While it is not, this means nothing.
    pub(super) has_published: bool,
    /// The node or shard that it waits for.
    pub(super) slow: Option<Slow>,
    /// Why it is over, once its client has gone: its session ends in its turn.
    pub(super) left: Option<Cause>,
    /// Wakes the connection's task.
    pub(super) waker: Option<Waker>,
}

/// The beginning of a packet.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) bytes: BytesMut,
    /// When its first byte came.
    pub(super) since: Timestamp,
}

/// A connection that is closed as soon as its last bytes are written.
#[derive(Debug)]
pub(super) struct Farewell {
    pub(super) stream: TcpStream,
    pub(super) out: SendBuffer,
    /// The listener that counts it.
    pub(super) listener: u16,
}

/// How long a closed connection may take to read what it is told.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections of a worker that are seen off at the same time; further ones are closed after one attempt to write.
const FAREWELLS_MAX: usize = 4_096;
/// Bytes that a client may still send after its connection is closed.
const DISCARD_MAX: usize = 256 << 10;

impl Link {
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<io::Result<usize>> {
        poll_read(&mut self.stream, cx, scratch)
    }

    /// Writes as much as the socket takes; returns the number of bytes.
    pub(super) fn write(&mut self) -> io::Result<usize> {
        write_some(&self.stream, &mut self.out)
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

/// Reads what there is; returns how many bytes, 0 at the end of the stream.
pub(super) fn poll_read(
    stream: &mut TcpStream,
    cx: &mut Context<'_>,
    scratch: &mut [u8],
) -> Poll<io::Result<usize>> {
    // Unlike `try_read`, this spares the system call that would only say "nothing more": tokio takes a short read for the end of
    // what there is.
    let mut buffer = ReadBuf::new(scratch);
    Pin::new(stream).poll_read(cx, &mut buffer).map_ok(|()| buffer.filled().len())
}

fn write_some(stream: &TcpStream, out: &mut SendBuffer) -> io::Result<usize> {
    let mut total = 0;
    while !out.is_empty() {
        let mut slices = [io::IoSlice::new(&[]); 16];
        let filled = out.slices(&mut slices);
        let written = match &slices[..filled] {
            [single] => stream.try_write(single),
            several => stream.try_write_vectored(several),
        };
        match written {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                out.advance(written);
                total += written;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(total)
}

impl Worker {
    /// Leaves a closed connection to [`see_off`].
    pub(super) fn say_farewell(&mut self, farewell: Farewell) {
        self.closing.push(farewell);
        if let Some(closer) = self.closer.take() {
            closer.wake();
        }
    }
}

/// Sees closed connections off, each in a task of its own: writes what is left, then waits for the client to close. A
/// socket that is closed while bytes of the client are unread resets the connection, and the client might never
/// see why.
pub(super) async fn see_off(cell: Rc<WorkerCell>) {
    loop {
        let farewells = poll_fn(|cx| {
            let mut worker = cell.worker.borrow_mut();
            if worker.closing.is_empty() {
                worker.closer = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(std::mem::take(&mut worker.closing))
        })
        .await;
        for farewell in farewells {
            let Farewell { stream, mut out, listener } = farewell;
            if cell.in_passing.get() >= FAREWELLS_MAX {
                // What the socket takes at once is nearly always all there is.
                let written = write_some(&stream, &mut out).unwrap_or(0);
                cell.with(|worker| {
                    worker.metrics().bytes_sent.add(written as u64);
                    worker.node.sockets[usize::from(listener)].leave();
                });
                continue;
            }
            cell.in_passing.set(cell.in_passing.get() + 1);
            let cell = Rc::clone(&cell);
            tokio::task::spawn_local(async move {
                let _ = timeout(FAREWELL_TIMEOUT, say_goodbye(&cell, stream, out)).await;
                cell.in_passing.set(cell.in_passing.get() - 1);
                cell.with(|worker| worker.node.sockets[usize::from(listener)].leave());
            });
        }
    }
}

/// Writes what is left and waits for the client's end, within bounds.
async fn say_goodbye(cell: &WorkerCell, mut stream: TcpStream, mut out: SendBuffer) -> io::Result<()> {
    while !out.is_empty() {
        stream.writable().await?;
        let written = write_some(&stream, &mut out)?;
        cell.with(|worker| worker.metrics().bytes_sent.add(written as u64));
    }
    stream.shutdown().await?;
    let mut discarded = 0;
    while discarded < DISCARD_MAX {
        stream.readable().await?;
        let read = stream.try_read(&mut cell.scratch.borrow_mut());
        match read {
            Ok(0) => break,
            Ok(read) => discarded += read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
