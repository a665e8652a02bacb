//! Opening a connection to another node.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpSocket, TcpStream, lookup_host},
    sync::watch,
    time::{Instant, timeout_at},
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
/// found; where there is no answer soon, the last one serves.
#[derive(Debug, Clone, Default)]
pub struct TcpConnector {
    source: Option<IpAddr>,
    look_ups: Arc<LookUps>,
}

impl TcpConnector {
    /// Connections come from this address. None leaves it to the system.
    pub fn new(source: Option<IpAddr>) -> Self {
        Self { source, look_ups: Arc::default() }
    }
}

impl Connector for TcpConnector {
    fn connect(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn Connection>>> {
        let Self { source, look_ups } = self.clone();
        Box::pin(async move {
            let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{address} has no address"));
            for target in look_ups.targets(&address).await? {
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

/// The names that the system is being asked for, and what it said last.
///
/// Each question holds a thread until it is answered, also when nobody waits for the answer any more. While DNS is silent that
/// takes ten seconds or more, and there are several attempts to connect in each: so whoever needs a name that is being asked
/// for waits for that answer. Nor may a cluster that has lost its leader wait for DNS: where there is no answer, a node is
/// looked for where it was last.
#[derive(Debug, Default)]
struct LookUps(Mutex<BTreeMap<String, LookUp>>);

#[derive(Debug, Default)]
struct LookUp {
    asked: Option<Question>,
    /// Where the name has led last.
    last: Option<Vec<SocketAddr>>,
}

/// A question that is under way.
#[derive(Debug, Clone)]
struct Question {
    began: Instant,
    answer: watch::Receiver<Option<Answer>>,
}

/// An error that several can have.
type Answer = Result<Vec<SocketAddr>, (io::ErrorKind, String)>;

impl LookUps {
    async fn targets(self: Arc<Self>, address: &str) -> io::Result<Vec<SocketAddr>> {
        if let Ok(target) = address.parse() {
            return Ok(vec![target]);
        }
        let (question, last) = self.ask(address);
        let answer = match last {
            None => question.answer().await,
            Some(last) => match timeout_at(question.began + PATIENCE, question.answer()).await {
                Ok(Ok(found)) => Ok(found),
                Ok(Err(_)) | Err(_) => Ok(last),
            },
        };
        answer.map_err(|(kind, reason)| io::Error::new(kind, reason))
    }

    /// The question for this name that is under way, and what came of the one before.
    fn ask(self: Arc<Self>, address: &str) -> (Question, Option<Vec<SocketAddr>>) {
        let mut names = self.0.lock();
        if names.len() >= NAMES_MAX && !names.contains_key(address) {
            names.clear();
        }
        let name = names.entry(address.to_owned()).or_default();
        if let Some(question) = &name.asked {
            return (question.clone(), name.last.clone());
        }
        let (tell, answer) = watch::channel(None);
        let question = Question { began: Instant::now(), answer };
        name.asked = Some(question.clone());
        let last = name.last.clone();
        drop(names);
        let address = address.to_owned();
        tokio::spawn(async move {
            let found = lookup_host(&*address).await.map(Iterator::collect::<Vec<_>>);
            if let Some(name) = self.0.lock().get_mut(&address) {
                name.asked = None;
                name.last = found.as_ref().ok().cloned().or(name.last.take());
            }
            // Whoever asked may have given up.
            let _ = tell.send(Some(found.map_err(|error| (error.kind(), error.to_string()))));
        });
        (question, last)
    }
}

impl Question {
    async fn answer(&self) -> Answer {
        let mut answer = self.answer.clone();
        let answer = answer.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone());
        answer.unwrap_or_else(|| Err((io::ErrorKind::Other, "the look-up broke off".to_owned())))
    }
}

/// How long a node that was found before is waited for.
const PATIENCE: Duration = Duration::from_millis(200);

const NAMES_MAX: usize = 1_024;
