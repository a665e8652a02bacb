//! Addresses of this machine to connect from: each has only so many ports.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

/// Where connections come from.
#[derive(Debug, Clone)]
pub(super) struct LocalAddresses {
    given: Option<Arc<[IpAddr]>>,
    run: u32,
}

impl LocalAddresses {
    /// `None`: chosen as the broker's address suggests, others in each `run`: the ports of the last one are not free for a minute, and
    /// the system searches long for one that is.
    pub(super) const fn new(given: Option<Arc<[IpAddr]>>, run: u32) -> Self {
        Self { given, run }
    }

    /// The address for the connection with this number; `None`: the system's choice.
    pub(super) fn pick(&self, number: usize, broker: SocketAddr) -> Option<IpAddr> {
        match &self.given {
            Some(given) if !given.is_empty() => Some(given[number % given.len()]),
            _ if cfg!(target_os = "linux") && broker.ip() == Ipv4Addr::LOCALHOST => {
                Some(loopback(self.run, number / PER_ADDRESS))
            }
            _ => None,
        }
    }
}

/// The addresses that a text such as `10.0.0.7,10.0.1.1-10.0.1.50` means.
pub(super) fn parse_addresses(text: &str) -> Result<Arc<[IpAddr]>, String> {
    let mut addresses = Vec::new();
    for part in text.split(',') {
        match part.split_once('-') {
            None => addresses.push(part.parse().map_err(|_| format!("`{part}` is not an IP address"))?),
            Some((first, last)) => {
                let bound = |text: &str| text.parse::<Ipv4Addr>().map(u32::from);
                let (Ok(first), Ok(last)) = (bound(first), bound(last)) else {
                    return Err(format!("`{part}` is not a range of IPv4 addresses"));
                };
                if first > last || last - first >= ADDRESSES_MAX {
                    return Err(format!("`{part}` is no range of at most {ADDRESSES_MAX} addresses"));
                }
                addresses.extend((first..=last).map(|address| IpAddr::from(Ipv4Addr::from(address))));
            }
        }
        if addresses.len() > ADDRESSES_MAX as usize {
            return Err(format!("more than {ADDRESSES_MAX} addresses"));
        }
    }
    Ok(addresses.into())
}

/// The address with this number of those that Linux has without being told: 127.9.1.1, 127.9.1.2 and so on in one run.
fn loopback(run: u32, number: usize) -> IpAddr {
    let number = u32::try_from(number % LOOPBACK_MAX).unwrap_or(0);
    let (second, third, fourth) = (run % 254 + 1, number / 250 + 1, number % 250 + 1);
    IpAddr::from(Ipv4Addr::from(0x7F00_0000 | second << 16 | third << 8 | fourth))
}

/// Connections from one loopback address: far fewer than it has ports, so that a free one is found at once.
const PER_ADDRESS: usize = 2_000;
/// As many as fit below 127.x.255.255.
const LOOPBACK_MAX: usize = 250 * 254;
const ADDRESSES_MAX: u32 = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<Vec<String>> {
        parse_addresses(text).ok().map(|addresses| addresses.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn lists_and_ranges_are_read() {
        assert_eq!(parsed("10.0.0.7"), Some(vec!["10.0.0.7".to_owned()]));
        let both = ["::1", "10.0.0.255", "10.0.1.0"].map(str::to_owned).to_vec();
        assert_eq!(parsed("::1,10.0.0.255-10.0.1.0"), Some(both));
        for wrong in ["", "10.0.0", "10.0.0.2-10.0.0.1", "10.0.0.1-", "0.0.0.0-255.255.255.255", "::1-::2"] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn given_addresses_take_turns() {
        let addresses = LocalAddresses::new(parse_addresses("10.0.0.1,10.0.0.2").ok(), 8);
        let broker = "192.0.2.1:1883".parse().unwrap();
        let picked = [0, 1, 2].map(|number| addresses.pick(number, broker).unwrap().to_string());
        assert_eq!(picked, ["10.0.0.1", "10.0.0.2", "10.0.0.1"]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn loopback_has_addresses_enough() {
        let addresses = LocalAddresses::new(None, 8);
        let broker = "127.0.0.1:1883".parse().unwrap();
        let pick = |number| addresses.pick(number, broker).unwrap().to_string();
        assert_eq!(pick(0), "127.9.1.1");
        assert_eq!(pick(PER_ADDRESS - 1), "127.9.1.1");
        assert_eq!(pick(PER_ADDRESS), "127.9.1.2");
        assert_eq!(pick(PER_ADDRESS * 250), "127.9.2.1");
        assert_eq!(pick(PER_ADDRESS * (LOOPBACK_MAX - 1)), "127.9.254.250");
        assert_eq!(addresses.pick(0, "192.0.2.1:1883".parse().unwrap()), None);
        let next = LocalAddresses::new(None, 9).pick(0, broker);
        assert_eq!(next.unwrap().to_string(), "127.10.1.1");
    }
}
