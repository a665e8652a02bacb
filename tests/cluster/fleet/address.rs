//! Addresses that no other test has.

use std::{
    net::{Ipv4Addr, TcpListener},
    process,
    sync::atomic::{AtomicU16, Ordering},
};

use super::node::{CLUSTER_PORT, MQTT_PORT};

/// The addresses of a cluster, of which there are 250: 127.x.y.1 to 127.x.y.250.
pub(super) struct Addresses {
    network: [u8; 3],
    last: u8,
}

impl Addresses {
    /// Those of a network that neither this process nor, most likely, another one uses.
    pub(super) fn new() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        // Processes that run at the same time have numbers that are close to each other, and few clusters each.
        let first = u16::try_from(process::id() % 1_024).expect("it is below 1,024") * 61;
        let number = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let [x, y] = number.to_be_bytes();
        // 127.0.0.x is for everybody.
        Self { network: [127, x.max(1), y], last: 0 }
    }

    /// One more. Nobody listens there on a port that a node needs.
    pub(super) fn next(&mut self) -> Ipv4Addr {
        let free = |address, port| TcpListener::bind((address, port)).is_ok();
        loop {
            self.last = self.last.checked_add(1).expect("no cluster has that many nodes");
            let [a, b, c] = self.network;
            let address = Ipv4Addr::new(a, b, c, self.last);
            if free(address, MQTT_PORT) && free(address, CLUSTER_PORT) {
                return address;
            }
        }
    }
}
