//! Addresses that loads connect from.

/// Addresses to connect from, for the run with this number: others than those of the runs before it. The system remembers ports of
/// closed connections for a minute, and among many of them it takes long to find one that is free.
pub fn sources(number: usize) -> String {
    let network = NETWORK_FIRST + number % NETWORKS;
    format!("127.{network}.1.1-127.{network}.1.{ADDRESSES}")
}

/// Beyond what `flotilla bench` takes by itself; all of 127.0.0.0/8 is loopback.
const NETWORK_FIRST: usize = 16;
const NETWORKS: usize = 200;
/// Enough for a few hundred ports of each.
const ADDRESSES: usize = 40;
const _: () = assert!(NETWORK_FIRST + NETWORKS <= 255);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_connect_from_different_addresses() {
        assert_eq!(sources(0), "127.16.1.1-127.16.1.40");
        assert_eq!(sources(399), "127.215.1.1-127.215.1.40");
        assert_ne!(sources(7), sources(8));
    }
}
