//! Finding addresses of other nodes before anything is known of them.

use std::{sync::Arc, time::Duration};

use hickory_resolver::{
    TokioResolver,
    net::NetError,
    proto::rr::{RData, RecordType},
};
use tokio::time::timeout;

/// Where to look for other nodes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Discovery {
    /// Nowhere: a cluster of one, unless others come.
    #[default]
    None,
    /// These addresses, each `host:port`.
    Static(Vec<String>),
    /// The addresses behind a name (A and AAAA), all with one port; with no port the targets of its SRV records.
    Dns {
        /// The name.
        name: String,
        /// The port, or none for SRV records.
        port: Option<u16>,
    },
}

/// Why no addresses were found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    /// The settings of the system are not usable.
    #[error("the DNS settings of the system cannot be read: {0}")]
    System(String),
    /// The name servers said so, or nothing.
    #[error("DNS look-up of {name}: {reason}")]
    Lookup {
        /// What was looked up.
        name: String,
        /// What came of it.
        reason: String,
    },
}

/// Looks for nodes.
#[derive(Clone)]
pub struct Resolver {
    discovery: Discovery,
    dns: Option<Arc<TokioResolver>>,
}

impl Resolver {
    /// With the DNS settings of the system, which are read only if `discovery` is DNS.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn new(discovery: Discovery) -> Result<Self, DiscoveryError> {
        let system = |error: NetError| DiscoveryError::System(error.to_string());
        let dns = match &discovery {
            Discovery::Dns { .. } => {
                let mut builder = TokioResolver::builder_tokio().map_err(system)?;
                // What is asked again is to be answered anew: pods come and go faster than negative answers expire.
                builder.options_mut().cache_size = 0;
                Some(Arc::new(builder.build().map_err(system)?))
            }
            Discovery::None | Discovery::Static(_) => None,
        };
        Ok(Self { discovery, dns })
    }

    /// With a resolver of the caller's own.
    pub fn with_dns(discovery: Discovery, dns: TokioResolver) -> Self {
        Self { discovery, dns: Some(Arc::new(dns)) }
    }

    /// The addresses of now, sorted, each once, at most 256.
    ///
    /// # Errors
    /// DNS did not answer, or knows nothing of the name.
    pub async fn find(&self) -> Result<Vec<String>, DiscoveryError> {
        let mut found = match (&self.discovery, &self.dns) {
            (Discovery::Dns { name, port }, Some(dns)) => {
                let lookup = async {
                    match port {
                        Some(port) => by_address(dns, name, *port).await,
                        None => by_service(dns, name).await,
                    }
                };
                let reason = match timeout(LOOKUP_TIMEOUT, lookup).await {
                    Ok(Ok(found)) => return Ok(found),
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "no answer in time".to_owned(),
                };
                return Err(DiscoveryError::Lookup { name: name.clone(), reason });
            }
            (Discovery::Static(addresses), _) => addresses.clone(),
            (Discovery::None | Discovery::Dns { .. }, _) => Vec::new(),
        };
        tidy(&mut found);
        Ok(found)
    }
}

async fn by_address(dns: &TokioResolver, name: &str, port: u16) -> Result<Vec<String>, NetError> {
    let mut found: Vec<String> = dns
        .lookup_ip(name)
        .await?
        .iter()
        .map(|address| std::net::SocketAddr::from((address, port)).to_string())
        .collect();
    tidy(&mut found);
    Ok(found)
}

/// The targets stay names: they are resolved when they are connected to.
async fn by_service(dns: &TokioResolver, name: &str) -> Result<Vec<String>, NetError> {
    let answer = dns.lookup(name, RecordType::SRV).await?;
    let mut found: Vec<String> = answer
        .answers()
        .iter()
        .filter_map(|record| match &record.data {
            RData::SRV(srv) => Some(format!("{}:{}", srv.target.to_utf8().trim_end_matches('.'), srv.port)),
            _ => None,
        })
        .collect();
    tidy(&mut found);
    Ok(found)
}

fn tidy(found: &mut Vec<String>) {
    found.sort();
    found.dedup();
    found.truncate(FOUND_MAX);
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Resolver").field("discovery", &self.discovery).finish_non_exhaustive()
    }
}

const FOUND_MAX: usize = 256;

const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_resolver::{
        config::{ConnectionConfig, NameServerConfig, ResolverConfig},
        net::runtime::TokioRuntimeProvider,
        proto::{
            op::{Message, OpCode, ResponseCode},
            rr::{Name, Record, rdata},
        },
    };
    use tokio::net::UdpSocket;

    use super::*;

    type TestResult<T = ()> = Result<T, Box<dyn std::error::Error>>;

    /// A name server that knows `nodes.test.` and `_cluster._tcp.test.`, and a resolver that asks it.
    async fn name_server() -> TestResult<(TokioResolver, tokio::task::JoinHandle<()>)> {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        let address = socket.local_addr()?;
        let serving = tokio::spawn(async move {
            let mut buffer = [0; 1_500];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let Ok(request) = Message::from_vec(&buffer[..length]) else { continue };
                if let Ok(answer) = answer(&request).to_vec() {
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        });
        let mut connection = ConnectionConfig::udp();
        connection.port = address.port();
        let server = NameServerConfig::new(address.ip(), true, vec![connection]);
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        builder.options_mut().timeout = Duration::from_millis(200);
        builder.options_mut().attempts = 1;
        builder.options_mut().cache_size = 0;
        Ok((builder.build()?, serving))
    }

    fn answer(request: &Message) -> Message {
        let mut answer = Message::response(request.metadata.id, OpCode::Query);
        let Some(query) = request.queries.first().cloned() else { return answer };
        let name = query.name.to_utf8();
        let records = match (&*name, query.query_type) {
            ("nodes.test.", RecordType::A) => {
                [2, 1].into_iter().map(|last| RData::A(rdata::A(Ipv4Addr::new(10, 0, 0, last)))).collect()
            }
            ("nodes.test.", _) => Vec::new(),
            ("_cluster._tcp.test.", RecordType::SRV) => ["b.test.", "a.test."]
                .into_iter()
                .filter_map(|target| Name::from_ascii(target).ok())
                .map(|target| RData::SRV(rdata::SRV::new(0, 0, 5_883, target)))
                .collect(),
            _ => {
                answer.metadata.response_code = ResponseCode::NXDomain;
                Vec::new()
            }
        };
        for record in records {
            answer.add_answer(Record::from_rdata(query.name.clone(), 60, record));
        }
        answer.add_query(query);
        answer
    }

    fn dns(name: &str, port: Option<u16>) -> Discovery {
        Discovery::Dns { name: name.to_owned(), port }
    }

    #[tokio::test]
    async fn addresses_come_from_a_list_or_from_dns() -> TestResult {
        let list = Discovery::Static(vec!["b:1".to_owned(), "a:1".to_owned(), "b:1".to_owned()]);
        assert_eq!(Resolver::new(list)?.find().await?, ["a:1", "b:1"]);
        assert!(Resolver::new(Discovery::None)?.find().await?.is_empty());

        let (resolver, _serving) = name_server().await?;
        let nodes = Resolver::with_dns(dns("nodes.test.", Some(7)), resolver.clone());
        assert_eq!(nodes.find().await?, ["10.0.0.1:7", "10.0.0.2:7"]);
        let services = Resolver::with_dns(dns("_cluster._tcp.test.", None), resolver);
        assert_eq!(services.find().await?, ["a.test:5883", "b.test:5883"]);
        Ok(())
    }

    #[tokio::test]
    async fn dns_that_is_down_is_an_error_and_not_an_empty_list() -> TestResult {
        let (resolver, serving) = name_server().await?;
        let nobody = Resolver::with_dns(dns("nobody.test.", Some(7)), resolver.clone());
        assert!(matches!(nobody.find().await, Err(DiscoveryError::Lookup { .. })));
        serving.abort();
        let _ = serving.await;
        let nodes = Resolver::with_dns(dns("nodes.test.", Some(7)), resolver);
        let failed = nodes.find().await.expect_err("nobody answers");
        assert!(failed.to_string().contains("nodes.test."), "{failed}");
        Ok(())
    }
}
