//! Many clients that do little, in one thread: what `flotilla bench` has no load for.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    runtime::{Builder, Runtime},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::harness::{Connect, Packet, Property, Version, disconnect, parse::parse, property_id, subscribe};

/// Clients that were let in. They send and read nothing by themselves, so they connect without Keep Alive.
#[derive(Debug)]
pub(crate) struct Crowd {
    members: Vec<Member>,
    runtime: Runtime,
}

/// How they come.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    /// Where to; they take these in turn.
    pub(crate) doors: Vec<SocketAddr>,
    pub(crate) count: usize,
    /// How many may be on their way at a time.
    pub(crate) at_a_time: usize,
    /// A number that no other crowd has: where they connect from.
    pub(crate) number: usize,
    /// Whoever is not let in tries again, until then.
    pub(crate) within: Duration,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Arrived {
    /// From the first attempt to the last success.
    pub(crate) took: Duration,
    /// How many found a session.
    pub(crate) resumed: usize,
    /// Attempts that were refused, or failed.
    pub(crate) refused: usize,
    /// Who never came in.
    pub(crate) outside: usize,
}

/// One client.
#[derive(Debug)]
struct Member {
    stream: TcpStream,
    present: bool,
}

impl Crowd {
    /// Connects them all. `connect` makes the CONNECT of the client with this number, `filter` what it subscribes to, at QoS 1; empty:
    /// nothing.
    ///
    /// # Panics
    /// There is no runtime for them.
    pub(crate) fn arrive(
        arrival: &Arrival,
        connect: impl Fn(usize) -> Connect,
        filter: impl Fn(usize) -> String,
    ) -> (Self, Arrived) {
        let runtime = Builder::new_current_thread().enable_all().build().expect("there is room for it");
        let (mut members, mut arrived) = (Vec::new(), Arrived::default());
        let began = Instant::now();
        runtime.block_on(async {
            let places = Arc::new(Semaphore::new(arrival.at_a_time));
            let mut tasks = JoinSet::new();
            for number in 0..arrival.count {
                let (arrival, places) = (arrival.clone(), Arc::clone(&places));
                let (hello, filter) = (connect(number).bytes(), filter(number));
                tasks.spawn(async move { arrival.enter(number, &hello, &filter, began, &places).await });
            }
            while let Some(ended) = tasks.join_next().await {
                let (member, refused) = ended.expect("no client panics");
                arrived.refused += refused;
                match member {
                    Some(member) => {
                        arrived.resumed += usize::from(member.present);
                        arrived.took = began.elapsed();
                        members.push(member);
                    }
                    None => arrived.outside += 1,
                }
            }
        });
        (Self { members, runtime }, arrived)
    }

    /// All say goodbye, with a Session Expiry Interval that is made for each at that moment, and go.
    pub(crate) fn leave(self, expiry: impl Fn() -> u32) {
        let Self { members, runtime } = self;
        runtime.block_on(async {
            for member in members {
                let property = Property::four(property_id::SESSION_EXPIRY, expiry());
                let goodbye = disconnect(Version::V5, 0, &[property]);
                // A goodbye is few bytes on a connection where nothing else waits.
                let _ = member.stream.try_write(&goodbye);
            }
        });
    }
}

impl Arrival {
    /// One client; how often it was not let in.
    async fn enter(
        &self,
        number: usize,
        hello: &[u8],
        filter: &str,
        began: Instant,
        places: &Semaphore,
    ) -> (Option<Member>, usize) {
        let mut refused = 0;
        let source = source(self.number, number);
        loop {
            // Another door each time: behind this one may be nobody any more.
            let door = self.doors[(number + refused) % self.doors.len()];
            let attempt = {
                let _place = places.acquire().await.expect("nobody closes it");
                timeout(ATTEMPT, attempt(source, door, hello, filter)).await
            };
            match attempt {
                Ok(Ok((stream, present))) => {
                    return (Some(Member { stream, present }), refused);
                }
                Ok(Err(_)) | Err(_) => refused += 1,
            }
            if began.elapsed() >= self.within {
                return (None, refused);
            }
            sleep(RETRY).await;
        }
    }
}

/// Clients that come, subscribe, and say goodbye, again and again, each time with a new name and a session that is to live so many
/// seconds longer; how many there were. `look` is called now and then.
pub(crate) fn churn(
    door: SocketAddr,
    number: usize,
    expiry: u32,
    time: Duration,
    mut look: impl FnMut(Duration),
) -> usize {
    let runtime = Builder::new_current_thread().enable_all().build().expect("there is room for it");
    runtime.block_on(async {
        let (began, mut tasks, mut done) = (Instant::now(), JoinSet::new(), 0);
        for worker in 0..CHURNING {
            tasks.spawn(async move {
                let mut count = 0;
                while began.elapsed() < time {
                    let name = format!("churn-{worker}-{count}");
                    let hello = Connect::new(Version::V5, &name)
                        .keep_alive(0)
                        .with(Property::four(property_id::SESSION_EXPIRY, expiry))
                        .bytes();
                    let source = source(number, worker);
                    let filter = format!("{name}/#");
                    match timeout(ATTEMPT, attempt(source, door, &hello, &filter)).await {
                        Ok(Ok((mut stream, _))) => {
                            let goodbye = disconnect(Version::V5, 0, &[]);
                            count += usize::from(stream.write_all(&goodbye).await.is_ok());
                            // The broker closes first, so that the ports here are free at once.
                            let _ = timeout(ATTEMPT, stream.read(&mut [0; 16])).await;
                        }
                        Ok(Err(_)) | Err(_) => sleep(RETRY).await,
                    }
                }
                count
            });
        }
        while began.elapsed() < time {
            sleep(LOOK).await;
            look(began.elapsed());
        }
        while let Some(count) = tasks.join_next().await {
            done += count.expect("no client panics");
        }
        done
    })
}

/// Connects, and subscribes if there is a filter; whether there was a session.
async fn attempt(
    source: Ipv4Addr,
    door: SocketAddr,
    hello: &[u8],
    filter: &str,
) -> io::Result<(TcpStream, bool)> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((source, 0).into())?;
    let mut stream = socket.connect(door).await?;
    stream.set_nodelay(true)?;
    stream.write_all(hello).await?;
    let mut received = Vec::new();
    let present = match packet(&mut stream, &mut received).await? {
        Packet::ConnAck(connack) if connack.code == 0 => connack.session_present,
        other => return Err(io::Error::other(format!("{other:?}"))),
    };
    if !filter.is_empty() {
        stream.write_all(&subscribe(Version::V5, 1, &[], &[(filter, 1)])).await?;
        match packet(&mut stream, &mut received).await? {
            Packet::SubAck { reasons, .. } if reasons == [1] => {}
            other => return Err(io::Error::other(format!("{other:?}"))),
        }
    }
    Ok((stream, present))
}

async fn packet(stream: &mut TcpStream, received: &mut Vec<u8>) -> io::Result<Packet> {
    loop {
        if let Some((packet, len)) = (received.len() >= 2).then(|| parse(received, Version::V5)).flatten() {
            received.drain(..len);
            return Ok(packet);
        }
        if stream.read_buf(received).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// An address of this machine: so many that each has a port that is free, and others for each crowd.
fn source(crowd: usize, member: usize) -> Ipv4Addr {
    let octet = |number: usize| u8::try_from(number).expect("it is below 256");
    Ipv4Addr::new(127, octet(NETWORK_FIRST + crowd % NETWORKS), 2, octet(1 + member % ADDRESSES))
}

/// As loads have them (`flotilla_compare::source`), one octet further on.
const NETWORK_FIRST: usize = 16;
const NETWORKS: usize = 200;
const ADDRESSES: usize = 40;

/// Clients that come and go at a time.
const CHURNING: usize = 64;
/// How long one attempt may take, a subscription included.
const ATTEMPT: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crowds_connect_from_different_addresses() {
        assert_eq!(source(0, 0), Ipv4Addr::new(127, 16, 2, 1));
        assert_eq!(source(199, 79), Ipv4Addr::new(127, 215, 2, 40));
        assert_ne!(source(7, 0), source(8, 0));
    }
}
