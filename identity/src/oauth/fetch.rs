//! Documents of issuers over HTTP: bounded in size and time, from allowed addresses only.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, DATE, HOST, HeaderMap, HeaderValue, USER_AGENT,
};
use http::{Method, Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::address::is_public;

/// Time for a document, with the lookup of its host.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum size of a document, in bytes.
const MAX_BYTES: usize = 1 << 20;
/// Addresses of a host that are tried.
const MAX_ADDRESSES: usize = 4;

/// Addresses that a document may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reach {
    /// The public internet: a tenant chose the address.
    Public,
    /// Also the networks of the configuration: an operator chose the address.
    Operator,
}

/// A document.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Status of the answer; redirects are not followed.
    pub status: u16,
    /// Time for which it may be kept, when its `cache-control` names one.
    pub max_age: Option<Duration>,
    /// Its header `date`.
    pub date: Option<String>,
    /// Its bytes, at most 1 MiB.
    pub body: Bytes,
}

/// The reason why there is no document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FetchError(pub String);

/// Reads documents of issuers.
#[async_trait]
pub trait Fetch: fmt::Debug + Send + Sync + 'static {
    /// Returns the document at an address.
    ///
    /// # Errors
    /// [`FetchError`] with the cause and what to do.
    async fn get(&self, url: &str, reach: Reach) -> Result<Fetched, FetchError>;
}

/// Reads documents over HTTP, a connection for each.
pub struct HttpFetch {
    tls: TlsConnector,
    networks: Vec<IpNet>,
}

impl fmt::Debug for HttpFetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpFetch").field("networks", &self.networks).finish_non_exhaustive()
    }
}

fn failed(reason: impl fmt::Display) -> FetchError {
    FetchError(reason.to_string())
}

impl HttpFetch {
    /// `networks` are those beyond the public internet that [`Reach::Operator`] includes;
    /// certificates of `ca_file` are trusted beside the usual ones.
    ///
    /// # Errors
    /// [`FetchError`] when the file cannot be read or TLS cannot be set up.
    pub fn new(networks: Vec<IpNet>, ca_file: Option<&Path>) -> Result<Self, FetchError> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        if let Some(file) = ca_file {
            let fault = |error: &dyn fmt::Display| FetchError(format!("cannot use {}: {error}", file.display()));
            for certificate in CertificateDer::pem_file_iter(file).map_err(|error| fault(&error))? {
                roots.add(certificate.map_err(|error| fault(&error))?).map_err(|error| fault(&error))?;
            }
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(failed)?.with_root_certificates(roots).with_no_client_auth();
        Ok(Self { tls: Arc::new(config).into(), networks })
    }

    fn may_reach(&self, address: IpAddr, reach: Reach) -> bool {
        let address = address.to_canonical();
        let is_named = || self.networks.iter().any(|network| network.contains(&address));
        is_public(address) || (reach == Reach::Operator && is_named())
    }

    /// Returns the addresses of a host that may be reached. They are those that are connected to:
    /// a name that changes its address meanwhile reaches no other.
    async fn resolve(&self, host: &str, port: u16, reach: Reach) -> Result<Vec<SocketAddr>, FetchError> {
        let found: Vec<SocketAddr> = match host.parse::<IpAddr>() {
            Ok(address) => vec![(address, port).into()],
            Err(_) => {
                let found = tokio::net::lookup_host((host, port)).await;
                found.map_err(|error| FetchError(format!("cannot look up {host}: {error}")))?.collect()
            }
        };
        let reached = found.iter().filter(|address| self.may_reach(address.ip(), reach));
        let reached: Vec<_> = reached.copied().take(MAX_ADDRESSES).collect();
        if reached.is_empty() {
            let cure = match reach {
                Reach::Public => "the issuer of a tenant needs a public address",
                Reach::Operator => "allow its network with `auth.issuer_networks`",
            };
            let all = found.iter().take(MAX_ADDRESSES).map(|address| address.ip().to_string()).collect::<Vec<_>>();
            return Err(FetchError(format!("{host} ({}) is not a public address: {cure}", all.join(", "))));
        }
        Ok(reached)
    }

    /// Sends bytes to an address that an operator chose, and returns the status of the answer.
    ///
    /// # Errors
    /// [`FetchError`] with the cause.
    pub async fn post(
        &self,
        url: &str,
        content_type: &'static str,
        bearer: Option<&str>,
        body: Bytes,
    ) -> Result<u16, FetchError> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if let Some(bearer) = bearer {
            let mut value = HeaderValue::try_from(format!("Bearer {bearer}"))
                .map_err(|_| FetchError("the token has a character that no header may have".into()))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let call = Call { method: Method::POST, headers, body };
        in_time(self.call(url, Reach::Operator, call)).await.map(|fetched| fetched.status)
    }

    async fn call(&self, url: &str, reach: Reach, call: Call) -> Result<Fetched, FetchError> {
        let uri: Uri = url.parse().map_err(|_| FetchError("it is not a URL".into()))?;
        let is_tls = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let mut addresses = self.resolve(&bare, uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 }), reach).await?;
        if !is_tls {
            addresses.retain(|address| address.ip().to_canonical().is_loopback());
            if addresses.is_empty() {
                return Err(FetchError("http is for addresses of this host: give it a URL with https".into()));
            }
        }
        let stream = connect(&addresses).await?;
        if !is_tls {
            return exchange(stream, &uri, call).await;
        }
        let name = ServerName::try_from(bare).map_err(failed)?;
        let stream = self.tls.connect(name, stream).await;
        exchange(stream.map_err(|error| FetchError(format!("TLS failed: {error}")))?, &uri, call).await
    }
}

#[async_trait]
impl Fetch for HttpFetch {
    async fn get(&self, url: &str, reach: Reach) -> Result<Fetched, FetchError> {
        let call = Call { method: Method::GET, headers: HeaderMap::new(), body: Bytes::new() };
        let fetched = in_time(self.call(url, reach, call)).await;
        fetched.map_err(|FetchError(reason)| FetchError(format!("cannot read {url}: {reason}")))
    }
}

/// A request.
#[derive(Debug)]
struct Call {
    method: Method,
    headers: HeaderMap,
    body: Bytes,
}

async fn in_time(call: impl Future<Output = Result<Fetched, FetchError>>) -> Result<Fetched, FetchError> {
    match tokio::time::timeout(TIMEOUT, call).await {
        Ok(fetched) => fetched,
        Err(_) => Err(FetchError(format!("no answer within {} s", TIMEOUT.as_secs()))),
    }
}

async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, FetchError> {
    let mut last = String::new();
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = format!("cannot connect to {address}: {error}"),
        }
    }
    Err(FetchError(last))
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    uri: &Uri,
    Call { method, headers, body }: Call,
) -> Result<Fetched, FetchError> {
    let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
    let mut request = Request::builder()
        .method(method)
        .uri(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(HOST, authority)
        .header(ACCEPT, "application/json")
        .header(CONNECTION, "close")
        .header(USER_AGENT, concat!("weir/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(body))
        .map_err(failed)?;
    request.headers_mut().extend(headers);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let answer = async {
        let (head, body) = sender.send_request(request).await.map_err(failed)?.into_parts();
        let body = Limited::new(body, MAX_BYTES).collect().await.map_err(failed)?;
        let date = head.headers.get(DATE).and_then(|date| date.to_str().ok()).map(str::to_owned);
        Ok(Fetched { status: head.status.as_u16(), max_age: max_age(&head.headers), date, body: body.to_bytes() })
    };
    let driven = async {
        // Its errors are those of the answer.
        connection.await.ok();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = answer => answer,
        () = driven => Err(FetchError("the connection has ended".into())),
    }
}

/// Returns the time for which an answer may be kept: none when it may not be, `None` when it does
/// not say.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let mut age = None;
    for directive in values.flat_map(|value| value.split(',')) {
        let directive = directive.trim().to_ascii_lowercase();
        if directive == "no-store" || directive == "no-cache" {
            return Some(Duration::ZERO);
        }
        let seconds = directive.strip_prefix("max-age=").and_then(|seconds| seconds.trim_matches('"').parse().ok());
        age = age.or(seconds.map(Duration::from_secs));
    }
    age
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_an_answer_is_that_of_its_cache_control() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CACHE_CONTROL, value.parse().unwrap());
            }
            max_age(&headers)
        };
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["public"]), None);
        assert_eq!(of(&["public, max-age=600"]), seconds(600));
        assert_eq!(of(&["Max-Age=\"600\""]), seconds(600));
        assert_eq!(of(&["max-age=600, no-store"]), seconds(0));
        assert_eq!(of(&["public", "max-age=5"]), seconds(5));
        for bad in ["max-age=", "max-age=-1", "max-age=x", "s-maxage=600"] {
            assert_eq!(of(&[bad]), None, "{bad}");
        }
    }

    #[test]
    fn networks_of_the_configuration_are_open_to_operators_only() {
        let fetch = HttpFetch::new(vec!["10.1.0.0/16".parse().unwrap()], None).unwrap();
        let may = |address: &str, reach| fetch.may_reach(address.parse().unwrap(), reach);
        assert!(may("10.1.2.3", Reach::Operator) && may("::ffff:10.1.2.3", Reach::Operator));
        assert!(!may("10.1.2.3", Reach::Public) && !may("10.2.0.1", Reach::Operator));
        assert!(may("1.1.1.1", Reach::Public) && may("1.1.1.1", Reach::Operator));
    }
}
