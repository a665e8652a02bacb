//! How many messages a lane carries, and what each costs: `cargo run --release -p flotilla-raft --example lane_rate`.
//!
//! Both ends are in this process, over loopback. The sender writes each message into a batch, the receiver checks the batch
//! and reads each message again, as the router of a node does.

use std::{
    hint::black_box,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use flotilla_lane::{Batch, BatchWriter, Forwarded, Frame, LaneId, LastPublisher, lane_of};
use flotilla_mqtt::{QoS, Timestamp, Transit, session::ClientId};
use flotilla_raft::lanes::{
    CONNECTION_WINDOW_BYTES, Channels, LaneChannel, LaneEvents, LaneOptions, Lanes, Receipt,
    STREAM_WINDOW_BYTES, Sent, lane_channel,
};
use flotilla_state::{Incarnation, Member, NodeId};
use tokio::{net::TcpListener, runtime::Handle};
use tonic::transport::{Endpoint, Server, server::TcpIncoming};

/// Counts.
#[derive(Default)]
struct Router {
    received: AtomicU64,
    taken: AtomicU64,
}

impl LaneEvents for Router {
    type Done = u64;

    fn taken(&self, _: Member, _: LaneId, messages: Vec<u64>) {
        self.taken.fetch_add(messages.iter().sum(), Ordering::Relaxed);
    }

    fn received(&self, _: Member, _: LaneId, batch: Batch, _: Receipt) {
        let mut last = LastPublisher::default();
        for frame in batch.frames() {
            if let Frame::Publish { message } = frame {
                let publisher = last.of(message.publisher);
                black_box(message.transit(Timestamp::ORIGIN, publisher).size());
            }
        }
        self.received.fetch_add(batch.len() as u64, Ordering::Relaxed);
    }

    fn decongested(&self, _: Member) {}

    fn may_acknowledge(&self) -> bool {
        true
    }
}

struct One(LaneChannel);

impl Channels for One {
    fn channel(&self, _: NodeId, _: LaneId) -> Option<LaneChannel> {
        Some(self.0.clone())
    }
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (from, to) = (member(1), member(2));
    let receiver = node(address, to, from)?;
    let server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .add_service(receiver.service());
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true))));
    let sender = node(address, from, to)?;
    println!("messages a batch | messages/s | CPU us a message");
    for (each, total) in [(512, 6_000_000), (64, 6_000_000), (8, 1_000_000), (1, 200_000)] {
        let lanes = sender.clone();
        let (elapsed, cpu) = tokio::task::spawn_blocking(move || run(&lanes, to, each, total)).await?;
        let rate = total as f64 / elapsed.as_secs_f64();
        println!("{each:16} | {rate:10.0} | {:.2}", cpu.as_secs_f64() * 1e6 / total as f64);
    }
    Ok(())
}

/// Sends `total` messages, `each` in a batch, and waits until all are taken.
fn run(lanes: &Lanes<Router>, to: Member, each: u64, total: u64) -> (Duration, Duration) {
    let publisher = ClientId::new("publisher-1").expect("it is not empty");
    let payload = [7; 256];
    let (before, cpu_before, start) = (lanes.events().taken.load(Ordering::Relaxed), cpu(), Instant::now());
    let mut writer = BatchWriter::new();
    for _ in 0..total / each {
        for _ in 0..each {
            let message = Transit::new(
                "building-7/floor-3/room-12/temperature",
                &[],
                &payload,
                QoS::AtLeastOnce,
                false,
                None,
                Some(&publisher),
                None,
            );
            let message = Forwarded::new(&message, Timestamp::ORIGIN);
            writer.push(&Frame::Publish { message });
        }
        let batch = writer.take().expect("there are frames");
        let sent = lanes.send(to, lane_of(b"publisher-1"), batch, vec![each]).expect("it lives");
        while sent == Sent::Congested && lanes.is_congested(to) {
            thread::sleep(Duration::from_micros(100));
        }
    }
    while lanes.events().taken.load(Ordering::Relaxed) < before + total / each * each {
        thread::sleep(Duration::from_micros(100));
    }
    (start.elapsed(), cpu() - cpu_before)
}

fn node(address: SocketAddr, me: Member, other: Member) -> Result<Lanes<Router>> {
    let channel = lane_channel(Endpoint::from_shared(format!("http://{address}"))?.connect_lazy());
    let options = LaneOptions { queue_bytes_high: 4 << 20, ..LaneOptions::default() };
    let lanes = Lanes::new(options, Arc::new(One(channel)), Arc::default(), Handle::current());
    drop(lanes.admitted(me));
    lanes.member_joined(other);
    Ok(lanes)
}

fn member(node: u64) -> Member {
    Member { node: NodeId(node), incarnation: Incarnation(1) }
}

/// The processor time of this process so far; zero where the system does not say.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}
