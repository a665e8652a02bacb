//! Counters, one set for each worker.
//!
//! A set is written by one thread only, so counting is a plain load and store; whoever reads adds the sets up.

use std::sync::atomic::{AtomicU64, Ordering};

use flotilla_mqtt::{QoS, codec::Tally, packet::PacketType};

/// One number that only its worker changes.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    pub(crate) fn increment(&self) {
        self.add(1);
    }

    /// For numbers that go down as well.
    pub(crate) fn decrement(&self) {
        self.add(u64::MAX);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! metrics {
    ($($(#[doc = $doc:literal])+ $field:ident = $name:literal,)+) => {
        /// The counters of one worker.
        #[derive(Debug, Default)]
        pub(crate) struct Metrics {
            $($(#[doc = $doc])+ pub(crate) $field: Counter,)+
            /// Packets received, by type.
            pub(crate) received: [Counter; 16],
            /// Packets sent, by type.
            pub(crate) sent: [Counter; 16],
            /// PUBLISH packets received, by QoS.
            pub(crate) qos_received: [Counter; 3],
            /// PUBLISH packets sent, by QoS.
            pub(crate) qos_sent: [Counter; 3],
        }

        /// The sum over all workers at one moment.
        #[derive(Debug, Clone, Default)]
        pub(crate) struct Totals {
            $($(#[doc = $doc])+ pub(crate) $field: u64,)+
            pub(crate) received: [u64; 16],
            pub(crate) sent: [u64; 16],
            pub(crate) qos_received: [u64; 3],
            pub(crate) qos_sent: [u64; 3],
        }

        impl Totals {
            /// Adds up the counters of all workers.
            pub(crate) fn of<'a>(workers: impl Iterator<Item = &'a Metrics>) -> Self {
                let mut totals = Self::default();
                for worker in workers {
                    $(totals.$field = totals.$field.wrapping_add(worker.$field.value());)+
                    add_all(&mut totals.received, &worker.received);
                    add_all(&mut totals.sent, &worker.sent);
                    add_all(&mut totals.qos_received, &worker.qos_received);
                    add_all(&mut totals.qos_sent, &worker.qos_sent);
                }
                totals
            }

            /// The counters with a name of their own below `$SYS/brokers/<node>/metrics`.
            pub(crate) fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$(($name, self.$field)),+]
            }
        }
    };
}

metrics! {
    /// Bytes read from clients.
    bytes_received = "bytes/received",
    /// Bytes written to clients.
    bytes_sent = "bytes/sent",
    /// Bytes of payload in PUBLISH packets received.
    publish_bytes_received = "bytes/publish/received",
    /// Bytes of payload in PUBLISH packets sent.
    publish_bytes_sent = "bytes/publish/sent",
    /// Messages accepted from clients and routed.
    messages_published = "messages/publish",
    /// Deliveries that clients acknowledged.
    messages_acked = "messages/acked",
    /// Retained messages set or deleted.
    messages_retained = "messages/retained",
    /// Messages sent to other nodes.
    messages_forwarded = "messages/forward",
    /// Messages of QoS 0 that were not sent to another node, which does not keep up.
    dropped_forward_congested = "messages/dropped/forward_congested",
    /// Messages that nobody subscribed to.
    dropped_no_subscribers = "messages/dropped/no_subscribers",
    /// Messages refused because the topic is not open to clients or too deep.
    dropped_refused = "messages/dropped/refused",
    /// Retained messages beyond the limits of the store.
    dropped_retained_full = "messages/dropped/quota_exceeded",
    /// Deliveries dropped because a queue or send buffer was full.
    delivery_dropped_queue_full = "delivery/dropped/queue_full",
    /// QoS 0 deliveries dropped because the client was away: none, for nobody routes them to where no client is. The name stays
    /// for those who read it.
    delivery_dropped_qos0 = "delivery/dropped/qos0_msg",
    /// Deliveries dropped because they are longer than the client takes.
    delivery_dropped_too_large = "delivery/dropped/too_large",
    /// Deliveries dropped because the message expired.
    delivery_dropped_expired = "delivery/dropped/expired",
    /// Deliveries left out because the client published the message itself.
    delivery_dropped_no_local = "delivery/dropped/no_local",
    /// CONNECT packets that were accepted.
    client_connected = "client/connected",
    /// CONNECT packets that were refused because the client is banned.
    client_banned = "client/banned",
    /// CONNECT packets that were refused because memory was short.
    client_refused_memory = "client/refused_memory",
    /// Connections that were closed because memory was short and much waited for them.
    client_closed_memory = "client/closed_memory",
    /// Connections that ended after they had been accepted.
    client_disconnected = "client/disconnected",
    /// Topic filters granted.
    client_subscribe = "client/subscribe",
    /// Topic filters given up.
    client_unsubscribe = "client/unsubscribe",
    /// Sessions begun.
    session_created = "session/created",
    /// Sessions that a client came back to.
    session_resumed = "session/resumed",
    /// Connections replaced by one with the same client identifier.
    session_takenover = "session/takenover",
    /// Sessions ended by Clean Start.
    session_discarded = "session/discarded",
    /// Sessions that ended.
    session_terminated = "session/terminated",
    /// Sessions that expired while their client was away.
    session_expired = "session/expired",
    /// Sockets accepted.
    sockets_accepted = "sockets/accepted",
    /// Sockets closed at once because memory was short.
    sockets_refused_memory = "sockets/refused_memory",
    /// Times that accepting waited for the limits of a listener.
    sockets_delayed = "sockets/delayed",
    /// Times that memory came above the mark from which on publishers are not read.
    memory_high = "memory/high",
    /// Times that memory came above the mark from which on connections are closed.
    memory_critical = "memory/critical",
    /// Panics that were caught.
    panics = "panics",
    /// Connections refused or ended for a fault of the client.
    client_errors = "client/errors",
    /// Sessions that exist now.
    sessions = "sessions",
    /// Clients that are connected now.
    connections = "connections",
    /// Subscriptions that exist now.
    subscriptions = "subscriptions",
    /// Shared subscriptions that exist now.
    shared_subscriptions = "subscriptions/shared",
}

impl Metrics {
    pub(crate) fn packet_received(&self, packet_type: PacketType) {
        self.received[packet_type as usize].increment();
    }

    pub(crate) fn packets_sent(&self, packet_type: PacketType, count: u64) {
        self.sent[packet_type as usize].add(count);
    }

    /// Counts what a session wrote, publishes apart.
    pub(crate) fn tally(&self, tally: &Tally) {
        for (packet_type, count) in tally.iter() {
            self.packets_sent(packet_type, count.into());
        }
    }

    pub(crate) fn publish_sent(&self, qos: QoS, payload: usize) {
        self.packets_sent(PacketType::Publish, 1);
        self.qos_sent[qos as usize].increment();
        self.publish_bytes_sent.add(payload as u64);
    }
}

fn add_all<const N: usize>(totals: &mut [u64; N], counters: &[Counter; N]) {
    for (total, counter) in totals.iter_mut().zip(counters) {
        *total = total.wrapping_add(counter.value());
    }
}
