//! The address that a listener binds: `"0.0.0.0:1883"`, `"[::]:1883"`, `"localhost:1883"`.

use std::{
    fmt, io,
    net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs},
};

use toml::Value;

use super::{Setting, size::digits};

/// Where a listener listens: a host, as an address or a name, and a port. Port 0 lets the system choose one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BindAddress {
    /// An address without brackets, or a host name.
    host: String,
    port: u16,
}

impl BindAddress {
    /// An address and a port.
    #[must_use]
    pub fn new(ip: IpAddr, port: u16) -> Self {
        Self { host: ip.to_string(), port }
    }

    /// The host: an address without brackets, or a name.
    pub(in crate::config) fn host(&self) -> &str {
        &self.host
    }

    /// The port; 0: any.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The socket address; of a host name, the first that the resolver gives. May ask the network.
    ///
    /// # Errors
    /// The name is unknown.
    pub fn resolve(&self) -> io::Result<SocketAddr> {
        let mut found = (self.host.as_str(), self.port).to_socket_addrs()?;
        found.next().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the host name has no address"))
    }

    fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port = u16::try_from(digits(port)?).ok()?;
        let host = match host.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
            Some(inner) => inner?.parse::<Ipv6Addr>().ok()?.to_string(),
            None => host.to_owned(),
        };
        let in_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let plain = !host.is_empty() && host.len() <= 253 && host.chars().all(in_name);
        (plain || host.parse::<Ipv6Addr>().is_ok() && text.starts_with('[')).then_some(Self { host, port })
    }
}

impl fmt::Display for BindAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl Setting for BindAddress {
    fn expected() -> String {
        "\"host:port\" such as \"0.0.0.0:1883\", \"[::]:1883\" or \"localhost:1883\"".to_owned()
    }

    fn read(value: &Value) -> Option<Self> {
        Self::parse(value.as_str()?)
    }

    fn write(&self) -> Value {
        Value::from(self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for text in
            ["0.0.0.0:1883", "127.0.0.1:0", "[::]:1883", "[::1]:65535", "localhost:1883", "mq-1.example:1"]
        {
            assert_eq!(BindAddress::parse(text).map(|bind| bind.to_string()).as_deref(), Some(text));
        }
        for text in [
            "",
            ":1883",
            "1883",
            "0.0.0.0",
            "0.0.0.0:",
            "0.0.0.0:65536",
            "0.0.0.0:+1",
            "::1:1883",
            "[1.2.3.4]:1",
            "a b:1",
        ] {
            assert_eq!(BindAddress::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn addresses_resolve() {
        let resolve = |text| BindAddress::parse(text).unwrap().resolve().unwrap();
        assert_eq!(resolve("127.0.0.1:7"), "127.0.0.1:7".parse().unwrap());
        assert_eq!(resolve("[::1]:7"), "[::1]:7".parse().unwrap());
        assert!(resolve("localhost:7").ip().is_loopback());
    }
}
