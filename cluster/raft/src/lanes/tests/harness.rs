//! Nodes on loopback, each behind a proxy that can cut its connections.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use flotilla_lane::{Batch, BatchWriter, CONTROL, Frame, LaneId};
use flotilla_rpc::lanes::{self as rpc, lane_up, lanes_client::LanesClient};
use flotilla_state::{Incarnation, Member, NodeId};
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Handle,
    task::JoinHandle,
};
use tonic::{
    Code,
    body::Body,
    client::GrpcService,
    codegen::{Body as HttpBody, Bytes, StdError},
    transport::{Endpoint, Server, server::TcpIncoming},
};

use crate::lanes::{
    CONNECTION_WINDOW_BYTES, Channels, LaneChannel, LaneEvents, LaneOptions, Lanes, Receipt,
    STREAM_WINDOW_BYTES, lane_channel,
};

/// A node with nothing but lanes.
pub(super) struct Node {
    pub(super) me: Member,
    pub(super) lanes: Lanes<Recorder>,
    pub(super) proxy: Proxy,
    recorder: Arc<Recorder>,
    server: JoinHandle<()>,
}

/// Notes what happens.
#[derive(Default)]
pub(super) struct Recorder {
    received: Mutex<HashMap<(Member, LaneId), Vec<u64>>>,
    pub(super) taken: Mutex<HashMap<(Member, LaneId), Vec<u64>>>,
    /// Whether receipts of the lanes of messages are kept.
    holds: AtomicBool,
    held: Mutex<Vec<Receipt>>,
    is_fenced: AtomicBool,
    /// How often it was asked in vain.
    withheld: AtomicUsize,
    decongested: AtomicUsize,
}

impl Recorder {
    pub(super) fn received_count(&self, from: Member, lane: LaneId) -> u64 {
        self.received.lock().get(&(from, lane)).map_or(0, |ids| ids.len() as u64)
    }

    /// Keeps the receipts of messages from now on, or drops those that it has and keeps none.
    pub(super) fn hold(&self, holds: bool) {
        self.holds.store(holds, Ordering::SeqCst);
        if !holds {
            drop(self.take_receipts());
        }
    }

    fn take_receipts(&self) -> Vec<Receipt> {
        std::mem::take(&mut *self.held.lock())
    }
}

impl LaneEvents for Recorder {
    type Done = u64;

    fn taken(&self, to: Member, lane: LaneId, done: Vec<u64>) {
        self.taken.lock().entry((to, lane)).or_default().extend(done);
    }

    fn received(&self, from: Member, lane: LaneId, batch: Batch, receipt: Receipt) {
        let mut received = self.received.lock();
        received.entry((from, lane)).or_default().extend(numbers_in(&batch));
        drop(received);
        if lane != CONTROL && self.holds.load(Ordering::SeqCst) {
            self.held.lock().push(receipt);
        }
    }

    fn decongested(&self, _: Member) {
        self.decongested.fetch_add(1, Ordering::SeqCst);
    }

    fn may_acknowledge(&self) -> bool {
        let may = !self.is_fenced.load(Ordering::SeqCst);
        self.withheld.fetch_add(usize::from(!may), Ordering::SeqCst);
        may
    }
}

/// Where the nodes are.
#[derive(Default)]
pub(super) struct Addresses(Mutex<HashMap<NodeId, LaneChannel>>);

impl Channels for Addresses {
    fn channel(&self, node: NodeId, _: LaneId) -> Option<LaneChannel> {
        self.0.lock().get(&node).cloned()
    }
}

impl Node {
    /// Two nodes that know each other.
    pub(super) async fn pair(options: LaneOptions) -> (Self, Self) {
        let options =
            LaneOptions { backoff: (Duration::from_millis(5), Duration::from_millis(50)), ..options };
        let addresses = Arc::new(Addresses::default());
        let a = Self::start(member(1), options.clone(), &addresses).await;
        let b = Self::start(member(2), options, &addresses).await;
        a.lanes.member_joined(b.me);
        b.lanes.member_joined(a.me);
        (a, b)
    }

    async fn start(me: Member, options: LaneOptions, addresses: &Arc<Addresses>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback is there");
        let address = listener.local_addr().expect("it is bound");
        let recorder = Arc::new(Recorder::default());
        let channels: Arc<dyn Channels> = Arc::<Addresses>::clone(addresses);
        let lanes = Lanes::new(options, channels, Arc::clone(&recorder), Handle::current());
        assert!(lanes.admitted(me).is_empty());
        let server = Server::builder()
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .add_service(lanes.service());
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let server = tokio::spawn(async move {
            server.serve_with_incoming(incoming).await.expect("it serves");
        });
        let proxy = Proxy::start(address).await;
        let endpoint = Endpoint::from_shared(format!("http://{}", proxy.address)).expect("it is an address");
        addresses.0.lock().insert(me.node, lane_channel(endpoint.connect_lazy()));
        Self { me, lanes, proxy, recorder, server }
    }

    /// Waits until exactly 1..=last have been received, in this order.
    pub(super) async fn received(&self, from: Member, lane: LaneId, last: u64) {
        until_all("received", &self.recorder.received, (from, lane), last).await;
    }

    /// Waits until it was told that exactly 1..=last were taken, in this order.
    pub(super) async fn taken(&self, to: Member, lane: LaneId, last: u64) {
        until_all("taken", &self.recorder.taken, (to, lane), last).await;
    }

    pub(super) fn received_count(&self, from: Member, lane: LaneId) -> u64 {
        self.recorder.received_count(from, lane)
    }

    pub(super) fn taken_count(&self, to: Member, lane: LaneId) -> u64 {
        self.recorder.taken.lock().get(&(to, lane)).map_or(0, |ids| ids.len() as u64)
    }

    pub(super) fn hold(&self, holds: bool) {
        self.recorder.hold(holds);
    }

    pub(super) fn take_receipts(&self) -> Vec<Receipt> {
        self.recorder.take_receipts()
    }

    pub(super) fn withheld(&self) -> usize {
        self.recorder.withheld.load(Ordering::SeqCst)
    }

    pub(super) fn may_acknowledge(&self, may: bool) {
        self.recorder.is_fenced.store(!may, Ordering::SeqCst);
    }

    pub(super) fn decongested(&self) -> usize {
        self.recorder.decongested.load(Ordering::SeqCst)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.server.abort();
        drop(self.lanes.fenced());
    }
}

/// Waits until exactly 1..=last are there, in this order.
pub(super) async fn until_all(
    what: &str,
    of: &Mutex<HashMap<(Member, LaneId), Vec<u64>>>,
    at: (Member, LaneId),
    last: u64,
) {
    until(what, || of.lock().get(&at).is_some_and(|ids| ids.len() as u64 >= last)).await;
    let of = of.lock();
    assert!(of[&at].iter().copied().eq(1..=last), "{what}: {:?}", of[&at]);
}

/// Waits for a condition.
pub(super) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(30), waiting).await.is_ok(), "in time: {what}");
}

/// Passes bytes on until it is told to cut.
pub(super) struct Proxy {
    address: SocketAddr,
    connections: Arc<Mutex<Vec<JoinHandle<()>>>>,
    accepting: JoinHandle<()>,
    /// Whether new connections are closed at once.
    is_blocked: Arc<AtomicBool>,
}

impl Proxy {
    async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback is there");
        let address = listener.local_addr().expect("it is bound");
        let connections = Arc::new(Mutex::new(Vec::new()));
        let accepted = Arc::clone(&connections);
        let is_blocked = Arc::new(AtomicBool::new(false));
        let blocked = Arc::clone(&is_blocked);
        let accepting = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                if blocked.load(Ordering::Relaxed) {
                    continue;
                }
                let connection = tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(target).await else { return };
                    for socket in [&near, &far] {
                        socket.set_nodelay(true).expect("it is connected");
                    }
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
                accepted.lock().push(connection);
            }
        });
        Self { address, connections, accepting, is_blocked }
    }

    /// Cuts all connections and lets no other pass, until it is told to.
    pub(super) fn block(&self, is_blocked: bool) {
        self.is_blocked.store(is_blocked, Ordering::Relaxed);
        self.cut();
    }

    /// Cuts all connections, wherever they are.
    pub(super) fn cut(&self) {
        for connection in self.connections.lock().drain(..) {
            connection.abort();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

pub(super) fn member(node: u64) -> Member {
    Member { node: NodeId(node), incarnation: Incarnation(10 * node) }
}

/// A batch with a number in it.
pub(super) fn batch(id: u64) -> Batch {
    batch_of_size(id, 0)
}

/// A batch with a number and some bytes in it.
pub(super) fn batch_of_size(id: u64, size: usize) -> Batch {
    let mut writer = BatchWriter::new();
    writer.push(&Frame::Control { kind: NUMBER, bytes: &id.to_le_bytes() });
    if size > 0 {
        writer.push(&Frame::Control { kind: OTHER, bytes: &vec![0; size] });
    }
    writer.take().expect("there is a frame")
}

/// The numbers of batches that were joined to one.
pub(super) fn numbers_in(batch: &Batch) -> Vec<u64> {
    let number = |frame| match frame {
        Frame::Control { kind: NUMBER, bytes } => bytes.try_into().map(u64::from_le_bytes).ok(),
        _ => None,
    };
    batch.frames().filter_map(number).collect()
}

// What is in a frame of a test.
const NUMBER: u8 = 1;
const OTHER: u8 = 2;

pub(super) fn raw_hello(from: Member, to: Member, lane: u32) -> rpc::Hello {
    let member = |it: Member| Some(rpc::Member { node: it.node.0, incarnation: it.incarnation.0 });
    rpc::Hello { from: member(from), to: member(to), lane }
}

/// Opens a lane by hand, sends batches and waits for the end of the stream.
pub(super) async fn raw_open(node: &Node, hello: rpc::Hello, batches: &[rpc::Batch]) -> Result<(), Code> {
    let endpoint = Endpoint::from_shared(format!("http://{}", node.proxy.address)).expect("it is an address");
    open_with(LanesClient::new(lane_channel(endpoint.connect_lazy())), hello, batches).await
}

/// As [`raw_open`], through any channel.
pub(super) async fn open_with<S>(
    mut client: LanesClient<S>,
    hello: rpc::Hello,
    batches: &[rpc::Batch],
) -> Result<(), Code>
where
    S: GrpcService<Body>,
    S::Error: Into<StdError>,
    S::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <S::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
{
    let mut messages = vec![rpc::LaneUp { kind: Some(lane_up::Kind::Hello(hello)) }];
    messages
        .extend(batches.iter().map(|batch| rpc::LaneUp { kind: Some(lane_up::Kind::Batch(batch.clone())) }));
    let answers = client.open(tokio_stream::iter(messages)).await;
    let mut answers = answers.map_err(|status| status.code())?.into_inner();
    while answers.message().await.map_err(|status| status.code())?.is_some() {}
    Ok(())
}
