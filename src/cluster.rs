//! Where the other nodes attach.

use std::{future::Future, pin::Pin, sync::Arc};

use flotilla_mqtt::{
    Message, ReasonCode, Transit,
    session::{ClientId, Ticket},
    topic::TopicFilter,
};

use crate::router::{RouteChange, SessionRef};

/// What a worker needs of the rest of the cluster. A node alone is [`Alone`].
///
/// Everything that may have to wait for other nodes answers in one of two ways: at once, or later through the
/// [`Completion`] that it was given. The client is told only then.
pub(crate) trait Cluster: Send + Sync + std::fmt::Debug {
    /// Makes this node the only one that serves `client_id`: whoever else does has closed its connection when the
    /// future is ready.
    ///
    /// # Errors
    /// The reason code of the CONNACK.
    fn claim<'a>(&'a self, client_id: &'a ClientId) -> BoxFuture<'a, Result<(), ReasonCode>>;

    /// The session of `client_id` on this node is over.
    fn release(&self, client_id: &ClientId);

    /// This node's interest in `filter` has begun or ended; a SUBACK waits for the answer (P6). For
    /// [`RouteChange::None`] too: somebody else's announcement may still be on its way.
    fn announce(&self, filter: &TopicFilter, change: RouteChange, done: Option<Completion>) -> Receipt;

    /// Forwards a message to the nodes and shards that want it; its PUBACK or PUBREC waits for the answer (P2).
    fn publish(&self, message: &Transit<'_>, done: Option<Completion>) -> Receipt;

    /// The will of a connected client, to be published if this node dies (P5); `None` when it has none any more.
    fn keep_will(&self, client_id: &ClientId, will: Option<&Arc<Message>>);
}

/// A future of a rare operation.
pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Whom to tell when something has been kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Completion {
    pub(crate) session: SessionRef,
    pub(crate) what: Awaited,
}

/// What a session waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// A PUBLISH.
    Publish(Ticket),
    /// The routes of a SUBSCRIBE.
    Routes(flotilla_mqtt::PacketId),
}

/// Whether something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receipt {
    /// It is done.
    Done,
    /// The completion tells when.
    Later,
}

/// A cluster of one: nobody else has to be asked.
#[derive(Debug)]
pub(crate) struct Alone;

impl Cluster for Alone {
    fn claim<'a>(&'a self, _: &'a ClientId) -> BoxFuture<'a, Result<(), ReasonCode>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn release(&self, _: &ClientId) {}

    fn announce(&self, _: &TopicFilter, _: RouteChange, _: Option<Completion>) -> Receipt {
        Receipt::Done
    }

    fn publish(&self, _: &Transit<'_>, _: Option<Completion>) -> Receipt {
        Receipt::Done
    }

    fn keep_will(&self, _: &ClientId, _: Option<&Arc<Message>>) {}
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpStream,
        sync::mpsc::{Receiver, Sender, channel},
        time::Duration,
    };

    use parking_lot::Mutex;

    use super::*;
    use crate::{Broker, BrokerHandle, config::Config, worker::Event};

    /// A cluster that never answers at once: the test says when something is done.
    #[derive(Debug)]
    struct Slow {
        asked: Mutex<Sender<Completion>>,
        refuses: bool,
    }

    impl Cluster for Slow {
        fn claim<'a>(&'a self, _: &'a ClientId) -> BoxFuture<'a, Result<(), ReasonCode>> {
            let answer = if self.refuses { Err(ReasonCode::ServerUnavailable) } else { Ok(()) };
            Box::pin(async move {
                tokio::task::yield_now().await;
                answer
            })
        }

        fn release(&self, _: &ClientId) {}

        fn announce(&self, _: &TopicFilter, _: RouteChange, done: Option<Completion>) -> Receipt {
            self.later(done)
        }

        fn publish(&self, _: &Transit<'_>, done: Option<Completion>) -> Receipt {
            self.later(done)
        }

        fn keep_will(&self, _: &ClientId, _: Option<&Arc<Message>>) {}
    }

    impl Slow {
        fn later(&self, done: Option<Completion>) -> Receipt {
            let Some(done) = done else { return Receipt::Done };
            self.asked.lock().send(done).expect("the test waits for it");
            Receipt::Later
        }
    }

    fn start(refuses: bool) -> (BrokerHandle, Receiver<Completion>, TcpStream) {
        let set = ["listeners.tcp.bind=127.0.0.1:0", "sys.interval=0s"].map(str::to_owned);
        let config = Config::load(None, [], &set).expect("it is valid");
        let (asked, asks) = channel();
        let broker = Broker::start_in(config, Box::new(Slow { asked: Mutex::new(asked), refuses }))
            .expect("it starts");
        let client = TcpStream::connect(broker.listeners()[0].1).expect("it listens");
        client.set_read_timeout(Some(Duration::from_secs(10))).expect("not zero");
        (broker, asks, client)
    }

    fn exchange<const N: usize>(client: &mut TcpStream, send: &[u8]) -> [u8; N] {
        client.write_all(send).expect("it reads");
        let mut answer = [0; N];
        client.read_exact(&mut answer).expect("it answers");
        answer
    }

    fn complete(broker: &BrokerHandle, asked: Completion) {
        let worker = usize::from(asked.session.worker);
        broker.node().mailboxes[worker].send(Event::Completed(asked, ReasonCode::Success));
    }

    const CONNECT: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01c";
    const PING: &[u8] = b"\xc0\x00";

    #[test]
    fn suback_waits_for_the_routes_and_puback_for_the_message() {
        let (broker, asks, mut client) = start(false);
        assert_eq!(exchange(&mut client, CONNECT), [0x20, 2, 0, 0]);
        // SUBSCRIBE to "t" and "u", then a ping: the answer to the ping comes first.
        client.write_all(b"\x82\x0a\x00\x07\x00\x01t\x01\x00\x01u\x01").expect("it reads");
        assert_eq!(exchange(&mut client, PING), [0xd0, 0]);
        let routes = [asks.recv().expect("it asked"), asks.recv().expect("it asked twice")];
        complete(&broker, routes[0]);
        assert_eq!(exchange(&mut client, PING), [0xd0, 0]);
        complete(&broker, routes[1]);
        assert_eq!(exchange(&mut client, b""), [0x90, 4, 0, 7, 1, 1]);
        // Two publishes, completed in the wrong order, are acknowledged in the right one.
        let publishes = b"\x32\x05\x00\x01x\x00\x01\x32\x05\x00\x01x\x00\x02";
        client.write_all(publishes).expect("it reads");
        let (first, second) = (asks.recv().expect("it asked"), asks.recv().expect("it asked twice"));
        complete(&broker, second);
        assert_eq!(exchange(&mut client, PING), [0xd0, 0]);
        complete(&broker, first);
        assert_eq!(exchange(&mut client, b""), [0x40, 2, 0, 1, 0x40, 2, 0, 2]);
        broker.stop(Duration::from_secs(10));
    }

    #[test]
    fn a_client_whose_claim_is_refused_is_told() {
        let (broker, _asks, mut client) = start(true);
        assert_eq!(exchange(&mut client, CONNECT), [0x20, 2, 0, 3]);
        broker.stop(Duration::from_secs(10));
    }
}
