//! Opening a connection to another node.

use std::{io, net::IpAddr};

use futures_util::future::BoxFuture;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpSocket, TcpStream, lookup_host},
};

/// A connection to another node, whatever carries it.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Opens connections. A simulation has its own.
pub trait Connector: Send + Sync + 'static {
    /// Connects to `address`, which is `host:port`.
    fn connect(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn Connection>>>;
}

/// Connects by TCP, with TCP_NODELAY. Names are resolved each time, so that a node behind the same name and another address is
/// found.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpConnector {
    /// The source address. None leaves it to the system.
    pub source: Option<IpAddr>,
}

impl Connector for TcpConnector {
    fn connect(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn Connection>>> {
        let source = self.source;
        Box::pin(async move {
            let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{address} has no address"));
            for target in lookup_host(&*address).await? {
                match connect(source, target).await {
                    Ok(stream) => return Ok(Box::new(stream) as Box<dyn Connection>),
                    Err(error) => last = error,
                }
            }
            Err(last)
        })
    }
}

async fn connect(source: Option<IpAddr>, target: std::net::SocketAddr) -> io::Result<TcpStream> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = source.filter(|source| source.is_ipv4() == target.is_ipv4()) {
        // Only with SO_REUSEADDR may several connections to different nodes share a local port.
        socket.set_reuseaddr(true)?;
        socket.bind((source, 0).into())?;
    }
    let stream = socket.connect(target).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
