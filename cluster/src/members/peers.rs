//! Connections to the other processes of the fleet.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tls::Connector;
use tokio::time::Instant;
use tonic::codegen::http::Uri;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use super::metrics::Metrics;
use super::secret::Secret;

/// A process that has not begun to answer by then is not waited for: what it holds of a log can be
/// read from the log itself.
const PATIENCE: Duration = Duration::from_secs(1);
/// Time for a whole answer.
const WHOLE: Duration = Duration::from_secs(10);
/// A process that did not answer is not asked again for this long.
const SILENCE: Duration = Duration::from_secs(5);
/// A connection that no call has used for this long is closed.
const UNUSED: Duration = Duration::from_secs(60);
/// Header of a call that names its pool; the shared one without it.
const POOL: &str = "weir-pool";

/// The reason why an address is not called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The secret would be readable on the way.
    #[error(
        "its address on Redis can be reached from other machines, and `fleet.secret` would be sent unencrypted: set \
         `fleet.certificate`, `fleet.key` and `fleet.ca` in every process, or `insecure = true` if the network around \
         them is trusted"
    )]
    Exposed,
    /// It is encrypted, and this process has no certificates.
    #[error(
        "it has a certificate, and this process has none: set `fleet.certificate`, `fleet.key` and `fleet.ca` in \
         every process"
    )]
    NoneHere,
    /// It is not encrypted, and this process has certificates.
    #[error(
        "it has no certificate, and this process has one: set `fleet.certificate`, `fleet.key` and `fleet.ca` in \
         every process"
    )]
    NoneThere,
    /// It is not an address.
    #[error("its address on Redis is not http://host:port: set `fleet.advertise` in that process")]
    Address,
}

impl Refusal {
    fn label(self) -> &'static str {
        match self {
            Self::Exposed => "unencrypted",
            Self::NoneHere => "no_certificate",
            Self::NoneThere => "no_certificate_there",
            Self::Address => "address",
        }
    }
}

/// True for addresses of this machine, and for its usual name. Other names are looked up each time,
/// and may change.
fn is_loopback(host: &str) -> bool {
    let address: Result<IpAddr, _> = host.trim_matches(['[', ']']).parse();
    address.map_or(host.eq_ignore_ascii_case("localhost"), |address| address.to_canonical().is_loopback())
}

/// A connection to a process, for any of its services. It is opened by the first call.
pub type Link = InterceptedService<Channel, Key>;

/// Adds the secret to each call, and the pool that it concerns.
#[derive(Debug, Clone)]
pub struct Key {
    secret: MetadataValue<Ascii>,
    pool: Option<MetadataValue<Ascii>>,
}

impl Interceptor for Key {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.secret.clone());
        if let Some(pool) = &self.pool {
            request.metadata_mut().insert(POOL, pool.clone());
        }
        Ok(request)
    }
}

/// Returns the pool that a call concerns; None for the shared one.
pub fn pool_of<T>(request: &Request<T>) -> Option<&[u8]> {
    request.metadata().get(POOL).map(|pool| pool.as_bytes())
}

/// Connections by address, each with the time of its last use.
type Links = Arc<Mutex<HashMap<String, (Channel, Instant)>>>;

/// The other processes of the fleet, as those with the logs of a pool.
pub struct Peers {
    key: Key,
    tls: Option<tls::Client>,
    trusts_network: bool,
    metrics: Arc<Metrics>,
    links: Links,
    silent: Mutex<HashMap<String, Instant>>,
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers").field("pool", &self.key.pool).finish_non_exhaustive()
    }
}

impl Peers {
    /// Peers for calls about the shared pool with the secret that all processes share, encrypted
    /// when they have certificates. Without, the secret is sent to this machine only, unless the
    /// network is trusted.
    pub fn new(secret: &Secret, tls: Option<tls::Client>, trusts_network: bool, metrics: Arc<Metrics>) -> Self {
        let key = Key { secret: secret.header(), pool: None };
        Self { key, tls, trusts_network, metrics, links: Links::default(), silent: Mutex::default() }
    }

    /// The same processes, over the same connections, for calls about another pool. One that does
    /// not answer about a pool is asked about the others.
    ///
    /// # Errors
    /// When the name cannot be sent in a header.
    pub fn of_pool(&self, pool: Option<&str>, metrics: Arc<Metrics>) -> Result<Self, String> {
        let unfit = |pool| format!("the name of pool {pool:?} cannot be sent to other processes");
        let pool = pool.map(|pool| pool.parse().map_err(|_| unfit(pool))).transpose()?;
        let key = Key { pool, secret: self.key.secret.clone() };
        let (tls, links, trusts_network) = (self.tls.clone(), Arc::clone(&self.links), self.trusts_network);
        Ok(Self { key, tls, trusts_network, metrics, links, silent: Mutex::default() })
    }

    /// A connection to one of them; `None` while it is known not to answer.
    pub fn reach(&self, address: &str) -> Option<Link> {
        if address.is_empty() || self.silent.lock().get(address).is_some_and(|until| *until > Instant::now()) {
            return None;
        }
        let link = self.link(address).inspect_err(|refusal| self.report(address, *refusal));
        link.inspect_err(|_| self.silence(address)).ok()
    }

    /// A connection to one of them, also when it did not answer a moment ago.
    ///
    /// # Errors
    /// The reason why the address is not called.
    pub fn link(&self, address: &str) -> Result<Link, Refusal> {
        Ok(InterceptedService::new(self.channel(address)?, self.key.clone()))
    }

    fn channel(&self, address: &str) -> Result<Channel, Refusal> {
        let (mut links, now) = (self.links.lock(), Instant::now());
        if let Some((channel, used)) = links.get_mut(address) {
            *used = now;
            return Ok(channel.clone());
        }
        let channel = self.open(address)?;
        links.insert(address.to_owned(), (channel.clone(), now));
        Ok(channel)
    }

    /// An address is encrypted when this process has certificates, and never otherwise: addresses
    /// stand on Redis, and must not choose.
    fn open(&self, address: &str) -> Result<Channel, Refusal> {
        self.allowed(address).map(|endpoint| {
            let endpoint = endpoint.connect_timeout(PATIENCE).tcp_nodelay(true);
            match &self.tls {
                Some(tls) => endpoint.connect_with_connector_lazy(Connector::new(tls.clone())),
                None => endpoint.connect_lazy(),
            }
        })
    }

    fn allowed(&self, address: &str) -> Result<Endpoint, Refusal> {
        let address = address.to_ascii_lowercase();
        let uri: Uri = address.parse().map_err(|_| Refusal::Address)?;
        let is_here = uri.host().is_some_and(is_loopback);
        let plain = match (uri.scheme_str(), &self.tls) {
            (Some("https"), Some(_)) => format!("http{}", address.trim_start_matches("https")),
            (Some("http"), None) if is_here || self.trusts_network => address,
            (Some("http"), None) => return Err(Refusal::Exposed),
            (Some("https"), None) => return Err(Refusal::NoneHere),
            (Some("http"), Some(_)) => return Err(Refusal::NoneThere),
            _ => return Err(Refusal::Address),
        };
        Endpoint::from_shared(plain).map_err(|_| Refusal::Address)
    }

    /// Counts and logs an address that is not called. It is not tried again for a while.
    fn report(&self, address: &str, refusal: Refusal) {
        self.metrics.peers_refused(refusal.label()).inc();
        tracing::error!(address, "a process of the fleet is not called: {refusal}");
    }

    /// Waits a short time for the start of an answer; `None` when none comes.
    pub async fn first<T>(&self, address: &str, first: impl Future<Output = Result<Response<T>, Status>>) -> Option<T> {
        let reason = match tokio::time::timeout(PATIENCE, first).await {
            Ok(Ok(answer)) => return Some(answer.into_inner()),
            Ok(Err(status)) if matches!(status.code(), Code::Unauthenticated | Code::FailedPrecondition) => {
                tracing::error!(address, "a process of the fleet refuses this one: {}", status.message());
                status.message().to_owned()
            }
            Ok(Err(status)) => match tls::explain(&status) {
                Some(fault) => {
                    tracing::error!(
                        address,
                        "a process of the fleet cannot be called: {fault} (`fleet.ca`, `fleet.certificate`)"
                    );
                    fault
                }
                None => status.message().to_owned(),
            },
            Err(_) => format!("no answer within {PATIENCE:?}"),
        };
        tracing::debug!(address, reason, "a process of the fleet does not answer");
        self.silence(address);
        None
    }

    /// Waits for the rest of an answer.
    pub async fn rest<T>(&self, address: &str, rest: impl Future<Output = Result<T, Status>>) -> Option<T> {
        match tokio::time::timeout(WHOLE, rest).await {
            Ok(Ok(answer)) => Some(answer),
            _ => {
                self.silence(address);
                None
            }
        }
    }

    fn silence(&self, address: &str) {
        let now = Instant::now();
        let mut silent = self.silent.lock();
        silent.retain(|_, until| *until > now);
        silent.insert(address.to_owned(), now + SILENCE);
    }

    /// Closes connections to processes that are no longer known, once no pool has used them for
    /// a while.
    pub fn keep(&self, is_known: impl Fn(&str) -> bool) {
        self.links.lock().retain(|address, (_, used)| is_known(address) || used.elapsed() < UNUSED);
    }
}
