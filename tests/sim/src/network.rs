//! The simulated network, as the crates under test want it: connections out, and connections in.

use std::{
    io,
    net::Ipv4Addr,
    pin::Pin,
    task::{Context, Poll},
};

use flotilla_raft::peers::{Connection, Connector};
use futures_util::{FutureExt as _, Stream, future::BoxFuture, stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;
use turmoil::net::{TcpListener, TcpStream};

/// The cluster port of every node.
pub const PORT: u16 = 7_000;

/// Where a node is reached. Its host has the node's name.
pub fn address(name: &str) -> String {
    format!("{name}:{PORT}")
}

/// Opens simulated connections.
pub struct SimConnector;

impl Connector for SimConnector {
    fn connect(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn Connection>>> {
        async move { Ok(Box::new(TcpStream::connect(address).await?) as Box<dyn Connection>) }.boxed()
    }
}

/// The connections that come in, from now until the host crashes.
pub async fn listen() -> io::Result<impl Stream<Item = io::Result<Incoming>>> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?;
    Ok(stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.map(|(stream, _)| Incoming(stream));
        Some((accepted, listener))
    }))
}

/// A connection that has come in.
pub struct Incoming(TcpStream);

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
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Incoming {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
