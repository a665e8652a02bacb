//! Publishers: some with a session that outlives their connections, and so with messages that they repeat.

use std::{collections::VecDeque, time::Instant};

use super::{
    Storm,
    message::{Id, Sendings, Sent, ZONES, payload, topic},
    random::Random,
};
use crate::harness::{Client, Connect, DEADLINE, Event, Packet, Publish, Version, ack, disconnect};

/// Publishes until the storm is over; everything that its session may still repeat is then acknowledged.
pub(super) struct Publisher<'s> {
    storm: &'s Storm<'s>,
    number: usize,
    name: String,
    random: Random,
    version: Version,
    persistent: bool,
    client: Option<Client>,
    had_session: bool,
    /// Exchanges that are not complete, oldest first.
    pending: VecDeque<Pending>,
    next_id: u16,
    next_number: u32,
    sendings: Sendings,
}

#[derive(Debug)]
struct Pending {
    publish: Publish,
    id: Id,
    /// PUBREC has come, so PUBREL is what is to be repeated.
    released: bool,
}

/// Messages that one publisher sends in one round at most: slow subscribers must come to an end, too.
const MESSAGES_MAX: u32 = 1_000;
/// Fewer than `mqtt.receive_maximum`.
const BURST_MAX: usize = 16;

impl<'s> Publisher<'s> {
    pub(super) fn new(storm: &'s Storm<'s>, number: usize, mut random: Random) -> Self {
        let version = random.pick(&[Version::V311, Version::V5]);
        Self {
            storm,
            number,
            name: format!("p{}-{number}", storm.round),
            random,
            version,
            persistent: number.is_multiple_of(2),
            client: None,
            had_session: false,
            pending: VecDeque::new(),
            next_id: 1,
            next_number: 0,
            sendings: Sendings::new(),
        }
    }

    pub(super) fn run(mut self) -> Sendings {
        while self.storm.goes_on() && self.next_number < MESSAGES_MAX {
            self.ensure_connected();
            for _ in 0..=self.random.below(BURST_MAX) {
                self.publish();
            }
            self.settle(true);
        }
        self.ensure_connected();
        self.settle(false);
        self.leave_for_good();
        self.sendings
    }

    fn ensure_connected(&mut self) {
        if self.client.is_some() {
            return;
        }
        let connect = Connect::new(self.version, &self.name);
        let connect = if self.persistent { connect.persistent() } else { connect };
        let client = self.storm.broker.connect(&connect);
        let present = client.connack().session_present;
        assert_eq!(present, self.persistent && self.had_session, "Session Present of {}", self.name);
        self.had_session = true;
        self.client = Some(client);
        // In the order of old [MQTT-4.4.0-1], [MQTT-4.6.0-1].
        for index in 0..self.pending.len() {
            let pending = &mut self.pending[index];
            let bytes = if pending.released {
                ack(0x62, pending.publish.id)
            } else {
                pending.publish.dup = true;
                let sent = self.sendings.get_mut(&pending.id).expect("it was sent");
                sent.copies += u32::from(sent.qos == 1);
                pending.publish.bytes(self.version)
            };
            self.send(&bytes);
        }
    }

    fn publish(&mut self) {
        let qos = u8::try_from(self.random.below(3)).expect("below three");
        let topic = topic(self.random.pick(&ZONES), self.storm.round, self.number);
        // Small, and large enough to be shared between the workers instead of copied.
        let padding = if self.random.once_in(40) { 20_000 } else { self.random.below(40) };
        let id = (self.name.clone(), self.next_number);
        let payload = payload(&self.name, self.next_number, padding);
        self.next_number += 1;
        let packet_id = if qos > 0 { self.unused_id() } else { 0 };
        let publish = Publish::new(&topic, payload).qos(qos, packet_id);
        let sent = Sent { topic, qos, at: Instant::now(), copies: 1, acked: false };
        self.sendings.insert(id.clone(), sent);
        let bytes = publish.bytes(self.version);
        if self.random.once_in(4) {
            let (head, tail) = bytes.split_at(self.random.below(bytes.len()));
            self.send(head);
            self.send(tail);
        } else {
            self.send(&bytes);
        }
        if qos > 0 {
            self.pending.push_back(Pending { publish, id, released: false });
        }
    }

    fn unused_id(&mut self) -> u16 {
        loop {
            let id = self.next_id;
            self.next_id = id.checked_add(1).unwrap_or(1);
            if self.pending.iter().all(|pending| pending.publish.id != id) {
                return id;
            }
        }
    }

    /// Waits for the answers to all that was sent, unless something happens in between.
    fn settle(&mut self, trouble: bool) {
        while !self.pending.is_empty() {
            if trouble && self.random.once_in(60) {
                return self.disappear();
            }
            let client = self.client.as_mut().expect("connected");
            match client.next_event(DEADLINE) {
                Some(Event::Packet(packet)) => self.handle(&packet),
                other => panic!("{} waits for {:?}: {other:?}", self.name, self.pending),
            }
        }
        if trouble && self.random.once_in(30) {
            self.disappear();
        }
    }

    fn handle(&mut self, packet: &Packet) {
        match *packet {
            Packet::PubAck { id, reason } => {
                assert!(reason < 0x80, "{} was refused with {reason:#04x}", self.name);
                let pending = self.finish(id, 1);
                self.sendings.get_mut(&pending.id).expect("it was sent").acked = true;
            }
            Packet::PubRec { id, reason } => {
                assert!(reason < 0x80, "{} was refused with {reason:#04x}", self.name);
                let pending = self.pending.iter_mut().find(|pending| pending.publish.id == id);
                let pending = pending.unwrap_or_else(|| panic!("a PUBREC {id} that nothing waits for"));
                pending.released = true;
                self.sendings.get_mut(&pending.id).expect("it was sent").acked = true;
                self.send(&ack(0x62, id));
            }
            Packet::PubComp { id, reason } => {
                let pending = self.finish(id, 2);
                assert!(pending.released, "PUBCOMP {id} before PUBREC");
                // The PUBCOMP of an earlier connection may have been on its way.
                assert!(reason == 0 || reason == 0x92, "PUBCOMP with {reason:#04x}");
            }
            _ => panic!("{} got {packet:?}", self.name),
        }
    }

    fn finish(&mut self, id: u16, qos: u8) -> Pending {
        let position = self.pending.iter().position(|pending| pending.publish.id == id);
        let position = position.unwrap_or_else(|| panic!("{}: nothing waits for {id}", self.name));
        let pending = self.pending.remove(position).expect("just found");
        assert_eq!(pending.publish.qos, qos, "{}: the wrong answer to {:?}", self.name, pending.publish);
        pending
    }

    /// Goes, in whatever state its messages are.
    fn disappear(&mut self) {
        let mut client = self.client.take().expect("connected");
        if self.random.once_in(2) {
            client.send(&disconnect(self.version, 0, &[]));
        }
        if !self.persistent {
            // They may have arrived or not, and are not sent again.
            self.pending.clear();
        }
    }

    fn leave_for_good(&mut self) {
        self.client.take().expect("connected").disconnect();
        // Ends the session.
        self.storm.broker.client(self.version, &self.name).disconnect();
    }

    #[track_caller]
    fn send(&mut self, bytes: &[u8]) {
        self.client.as_mut().expect("connected").send(bytes);
    }
}
