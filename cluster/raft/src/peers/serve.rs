//! Opening the cluster port.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep},
};
use tonic::{
    service::Routes,
    transport::{Server, server::Connected},
};
use tracing::warn;

use super::Gate;
use crate::lanes::{CONNECTION_WINDOW_BYTES, FRAME_BYTES_MAX, STREAM_WINDOW_BYTES};

/// Bounds of the cluster port.
#[derive(Debug, Clone, Copy)]
pub struct ServeOptions {
    /// Connections at a time. Another one is closed at once.
    pub connections_max: usize,
    /// Requests under way per connection.
    pub requests_per_connection_max: u32,
    /// A connection has so long to say that it speaks HTTP/2. From there on it is probed.
    pub preface_timeout: Duration,
    /// A connection on which nothing was heard for so long is probed, and given up after as long again.
    pub keep_alive: Duration,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            connections_max: 1_024,
            requests_per_connection_max: 1_024,
            preface_timeout: Duration::from_secs(10),
            keep_alive: Duration::from_secs(10),
        }
    }
}

/// Serves `routes` behind `gate` until `shutdown` is ready, and then lets what is under way end.
///
/// # Errors
/// The server failed.
pub async fn serve(
    listener: TcpListener,
    routes: Routes,
    gate: Gate,
    options: ServeOptions,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), tonic::transport::Error> {
    let connections = incoming(listener, options);
    serve_connections(connections, routes, gate, &options, shutdown).await
}

/// As [`serve`], on connections that come from elsewhere: those of a simulation. Of `options`, the bounds of a single connection
/// apply.
///
/// # Errors
/// The server failed.
pub async fn serve_connections<C>(
    connections: impl Stream<Item = io::Result<C>>,
    routes: Routes,
    gate: Gate,
    options: &ServeOptions,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), tonic::transport::Error>
where
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    Server::builder()
        .concurrency_limit_per_connection(options.requests_per_connection_max as usize)
        .max_concurrent_streams(options.requests_per_connection_max)
        .http2_keepalive_interval(Some(options.keep_alive))
        .http2_keepalive_timeout(Some(options.keep_alive))
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        // With room for all lanes of a connection: one that is not read must not hold up the others.
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .layer(gate)
        .add_routes(routes)
        .serve_with_incoming_shutdown(connections, shutdown)
        .await
}

fn incoming(listener: TcpListener, options: ServeOptions) -> impl Stream<Item = io::Result<Incoming>> {
    let free = Arc::new(Semaphore::new(options.connections_max));
    let refused = AtomicU64::new(0);
    stream::unfold((listener, free, refused), move |(listener, free, refused)| async move {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of files, most likely: the others keep their connections, and this one is tried again.
                    warn!(%error, "accepting a connection on the cluster port failed");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&free).try_acquire_owned() else {
                let count = refused.fetch_add(1, Ordering::Relaxed) + 1;
                if count.is_power_of_two() {
                    warn!(refused = count, "refused a connection on the cluster port: there are too many");
                }
                continue;
            };
            // tonic leaves this to whoever accepts. Without it a batch waits for the acknowledgement of the one before.
            if stream.set_nodelay(true).is_err() {
                continue;
            }
            let preface =
                Preface { missing: PREFACE_BYTES, timeout: Box::pin(sleep(options.preface_timeout)) };
            let incoming = Incoming { stream, preface: Some(preface), _permit: permit };
            return Some((Ok(incoming), (listener, free, refused)));
        }
    })
}

/// An accepted connection. It is closed when it does not say in time what every HTTP/2 connection begins with: before that
/// the server neither probes it nor bounds its silence.
struct Incoming {
    stream: TcpStream,
    /// What is still to come of the beginning; none when all of it has come.
    preface: Option<Preface>,
    _permit: OwnedSemaphorePermit,
}

struct Preface {
    missing: usize,
    timeout: Pin<Box<Sleep>>,
}

impl Connected for Incoming {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Incoming {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let this = &mut *self;
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        let Some(preface) = &mut this.preface else { return read };
        if let Poll::Ready(outcome) = read {
            preface.missing = preface.missing.saturating_sub(buffer.filled().len() - before);
            if preface.missing == 0 {
                this.preface = None;
            }
            return Poll::Ready(outcome);
        }
        preface.timeout.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for Incoming {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The client connection preface and the head of the SETTINGS frame that must follow it (RFC 9113, section 3.4).
const PREFACE_BYTES: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len() + 9;

const HEADER_BYTES_MAX: u32 = 16 * 1024;

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
