//! What a panic may cost: the connection whose work it was, and nobody else's.
//!
//! A panic unwinds out of the borrow of the [`Worker`], which therefore is as it was in the middle of that work: all that
//! belongs to the worker is changed in steps that leave it usable, and the one that may be half done is the session. So
//! its connection is ended, and the panic is counted. Where no single session is to blame, the worker ends, and the
//! process with it: an endless task that is gone would leave clients connected to nobody.

use std::panic::{AssertUnwindSafe, catch_unwind};

use flotilla_mqtt::{ReasonCode, session::Cause};

use super::Worker;

impl Worker {
    /// Does work for one session; if it panics, that ends the session's connection. `None`: it did.
    pub(super) fn guard<T>(&mut self, slot: u32, work: impl FnOnce(&mut Self) -> T) -> Option<T> {
        let done = self.catch(work);
        if done.is_none() {
            self.give_up(slot);
        }
        done
    }

    /// Does work; if it panics, that is counted. `None`: it did.
    pub(super) fn catch<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> Option<T> {
        let done = catch_unwind(AssertUnwindSafe(|| work(self))).ok();
        if done.is_none() {
            self.note_panic();
        }
        done
    }

    /// Counts a panic; what it was and where, the panic hook has said.
    pub(super) fn note_panic(&self) {
        tracing::error!(worker = self.id, "work for a client panicked");
        self.metrics().panics.increment();
    }

    /// Ends the connection of a session. A panic in that too leaves neither of them.
    fn give_up(&mut self, slot: u32) {
        self.catch(|worker| worker.end_link(slot, Cause::Server(ReasonCode::UnspecifiedError)));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpStream,
        time::Duration,
    };

    use flotilla_lane::{Batch, LaneId};
    use flotilla_mqtt::{session::ClientId, topic::TopicFilter};
    use flotilla_registry::Tenure;
    use flotilla_state::{ConnectionEpoch, NodeId};

    use crate::{
        Broker, BrokerHandle,
        cluster::{Alone, BoxFuture, Claim, Claimed, Cluster, Completion, Receipt, tests::seat_beside},
        config::Config,
        router::RouteChange,
    };

    use super::*;

    /// A part of the broker with a defect: it panics when it is asked about the only other node, which wants "p", and when it is
    /// told that nobody here wants a filter any more.
    #[derive(Debug)]
    struct Defect;

    impl Cluster for Defect {
        fn is_serving(&self) -> bool {
            true
        }

        fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<Claimed, ReasonCode>> {
            Alone.claim(claim)
        }

        fn attached(&self, _: &ClientId, _: Tenure) {}

        fn abandon(&self, _: &ClientId, _: &Claimed) {}

        fn release(&self, _: &ClientId, _: Tenure) {}

        fn closed(&self, _: &ClientId, _: ConnectionEpoch) {}

        fn announce(&self, filter: &TopicFilter, change: RouteChange, done: Option<Completion>) -> Receipt {
            assert_ne!(change, RouteChange::Last, "this is the defect");
            Alone.announce(filter, change, done)
        }

        fn forward(&self, _: NodeId, _: LaneId, _: Batch, _: Vec<Completion>) {}

        fn is_congested(&self, _: NodeId) -> bool {
            panic!("this is the defect")
        }
    }

    fn connect(broker: &BrokerHandle, connect: &[u8]) -> TcpStream {
        let mut client = TcpStream::connect(broker.listeners()[0].1).expect("it listens");
        client.set_read_timeout(Some(Duration::from_secs(10))).expect("not zero");
        client.write_all(connect).expect("it reads");
        expect(&mut client, &[0x20, 2, 0, 0]);
        client
    }

    fn expect(client: &mut TcpStream, expected: &[u8]) {
        let mut answer = vec![0; expected.len()];
        client.read_exact(&mut answer).expect("it answers");
        assert_eq!(answer, expected);
    }

    #[test]
    fn a_panic_ends_one_connection_and_is_counted() {
        let set = ["listeners.tcp.bind=127.0.0.1:0", "sys.interval=0s", "node.workers=1"].map(str::to_owned);
        let config = Config::load(None, [], &set).expect("it is valid");
        let seat = seat_beside("p/#", Box::new(Defect));
        let broker = Broker::start_in(config, seat).expect("it starts");
        let mut other = connect(&broker, b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01o");
        other.write_all(b"\x82\x06\x00\x01\x00\x01q\x00").expect("it reads");
        expect(&mut other, &[0x90, 3, 0, 1, 0]);
        // In the work for a client's packet, and then in the end of a connection, whose subscription meets the defect too.
        let mut first = connect(&broker, b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01f");
        first.write_all(b"\x30\x03\x00\x01p").expect("it reads");
        assert_eq!(first.read(&mut [0]).expect("closed in order"), 0);
        let mut second = connect(&broker, b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01s");
        second.write_all(b"\x82\x06\x00\x01\x00\x01r\x00").expect("it reads");
        expect(&mut second, &[0x90, 3, 0, 1, 0]);
        second.write_all(b"\x30\x03\x00\x01p").expect("it reads");
        assert_eq!(second.read(&mut [0]).unwrap_or(0), 0);
        // The worker serves the others, and the same client again.
        let mut again = connect(&broker, b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01s");
        again.write_all(b"\x30\x04\x00\x01qx").expect("it reads");
        expect(&mut other, b"\x30\x04\x00\x01qx");
        let totals = broker.node().totals();
        assert_eq!((totals.panics, totals.connections, totals.sessions), (3, 2, 2));
        assert!(broker.stop(Duration::from_secs(10)), "it stops in time");
    }
}
