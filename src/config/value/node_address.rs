//! Where a node is found: `"10.0.0.1:5883"`, `"node-1.example.org:5883"`, or a DNS service.

use std::{fmt, net::IpAddr, num::NonZeroU16};

use toml::Value;

use super::{BindAddress, Setting};

/// A host, as an address or a name, and the port of its cluster service, which is never 0: others must know it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeAddress {
    /// An address without brackets, or a host name.
    host: String,
    port: NonZeroU16,
}

impl NodeAddress {
    /// The host: an address without brackets, or a name.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.get()
    }

    /// Whether it stands for every address of this machine, at which nobody else can find it.
    #[must_use]
    pub fn is_unspecified(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
    }

    /// Whether nobody beyond this machine can reach it.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let is_loopback = |ip: IpAddr| ip.to_canonical().is_loopback();
        self.host.parse().map_or_else(|_| self.host.eq_ignore_ascii_case("localhost"), is_loopback)
    }

    /// The same port on another host.
    pub(in crate::config) fn on_host(&self, host: &str) -> Self {
        Self { host: host.to_owned(), port: self.port }
    }
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl Setting for NodeAddress {
    fn expected() -> String {
        "\"host:port\" such as \"10.0.0.1:5883\" or \"node-1.example.org:5883\", with a port that is not 0"
            .to_owned()
    }

    fn read(value: &Value) -> Option<Self> {
        let address = BindAddress::read(value)?;
        let port = NonZeroU16::new(address.port())?;
        Some(Self { host: address.host().to_owned(), port })
    }

    fn write(&self) -> Value {
        Value::from(self.to_string())
    }
}

/// The name of a DNS service: `_flotilla._tcp.example.org`. Its SRV records name hosts and ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::config) struct ServiceName(pub(in crate::config) String);

impl Setting for ServiceName {
    fn expected() -> String {
        "the name of a service such as \"_flotilla._tcp.example.org\"".to_owned()
    }

    fn read(value: &Value) -> Option<Self> {
        let text = value.as_str()?;
        let mut labels = text.strip_suffix('.').unwrap_or(text).split('.');
        let in_label = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let is_label = |label: &str| (1..=63).contains(&label.len()) && label.chars().all(in_label);
        let marked =
            |label: Option<&str>| label.is_some_and(|l| l.len() > 1 && l.starts_with('_') && is_label(l));
        let service = marked(labels.next()) && marked(labels.next());
        let domain: Vec<&str> = labels.collect();
        let fits = service && text.len() <= 253 && !domain.is_empty() && domain.into_iter().all(is_label);
        fits.then(|| Self(text.to_owned()))
    }

    fn write(&self) -> Value {
        Value::from(self.0.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_addresses_have_a_port() {
        for text in ["10.0.0.1:5883", "[::1]:5883", "node-1.example.org:1", "0.0.0.0:5883"] {
            let address = NodeAddress::read(&text.into()).unwrap();
            assert_eq!(address.to_string(), text);
            assert_eq!(address.write().as_str(), Some(text));
        }
        for text in ["", "node-1", "node-1:", "node-1:0", ":5883", "::1:5883", "a b:1", "_f._tcp.x"] {
            assert_eq!(NodeAddress::read(&text.into()), None, "{text}");
        }
    }

    #[test]
    fn addresses_that_nobody_can_dial_are_known() {
        let unspecified = |text: &str| NodeAddress::read(&text.into()).unwrap().is_unspecified();
        assert!(unspecified("0.0.0.0:5883"));
        assert!(unspecified("[::]:5883"));
        assert!(!unspecified("127.0.0.1:5883"));
        assert!(!unspecified("node-1:5883"));
        let moved = NodeAddress::read(&"[::]:5883".into()).unwrap().on_host("node-1");
        assert_eq!((moved.to_string().as_str(), moved.host(), moved.port()), ("node-1:5883", "node-1", 5883));
    }

    #[test]
    fn services_have_two_marked_labels_and_a_domain() {
        for text in ["_flotilla._tcp.example.org", "_grpc._tcp.flotilla.default.svc.cluster.local."] {
            assert_eq!(ServiceName::read(&text.into()).unwrap().0, text);
        }
        for text in [
            "",
            "example.org",
            "_flotilla._tcp",
            "_flotilla.tcp.example.org",
            "_flotilla._tcp..",
            "_._tcp.x",
            "_a._tcp.x y",
        ] {
            assert_eq!(ServiceName::read(&text.into()), None, "{text}");
        }
        let long = format!("_f._tcp.{}", vec!["a".repeat(63); 4].join("."));
        assert_eq!(ServiceName::read(&long.into()), None);
    }
}
