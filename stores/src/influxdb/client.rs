//! HTTP to InfluxDB: a pool of connections, a time limit on everything, answers of bounded size.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::de::DeserializeOwned;

use super::answer::{Answer, not_influxdb};
use super::config::{Config, ConfigError};
use crate::contract::{Result, StoreError};
use crate::tls::Difference;

/// Time limit of a deletion, which reads the points that it deletes.
const DELETE_TIME: Duration = Duration::from_secs(120);
/// Longest answer that is read.
const ANSWER_BYTES: usize = 64 << 20;
/// Characters that a query string does not encode (RFC 3986, unreserved).
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A client of one server. Cheap to clone.
#[derive(Clone)]
pub(super) struct Client {
    pool: Pool<HttpsConnector<HttpConnector>, Full<Bytes>>,
    config: Arc<Config>,
    base: String,
    token: HeaderValue,
    timeout: Duration,
    /// The server named itself in its last answer to [`Client::get`].
    named: Arc<AtomicBool>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("base", &self.base).finish_non_exhaustive()
    }
}

impl Client {
    pub(super) fn new(config: Arc<Config>) -> std::result::Result<Self, ConfigError> {
        let url: Uri = config.url.parse().map_err(|_| bad_url(&config))?;
        if !matches!(url.scheme_str(), Some("http" | "https")) || url.host().is_none() || url.query().is_some() {
            return Err(bad_url(&config));
        }
        let mut token = HeaderValue::from_str(&format!("Token {}", config.token)).map_err(|_| config.bad_token())?;
        token.set_sensitive(true);
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        let https = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls(&config)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(60))
            .pool_max_idle_per_host(config.in_flight)
            .build(https);
        let timeout = Duration::from_secs_f64(config.timeout_secs);
        let base = config.url.trim_end_matches('/').to_owned();
        Ok(Self { pool, config, base, token, timeout, named: Arc::default() })
    }

    /// Writes lines that [`pack`] packed.
    ///
    /// # Errors
    /// The [`StoreError`] that the answer means; only that of InfluxDB counts as stored.
    pub(super) async fn write(&self, packed: Bytes) -> Result<()> {
        let parameters = [("org", &*self.config.org), ("bucket", &self.config.bucket), ("precision", "ns")];
        let uri = self.uri("/api/v2/write", &parameters);
        let request = Request::builder()
            .method(Method::POST)
            .uri(uri)
            .header(CONTENT_TYPE, "text/plain; charset=utf-8")
            .header(CONTENT_ENCODING, "gzip");
        let answer = self.send(self.timeout, request, packed).await?;
        self.judged(answer.stored(&self.config, self.named.load(Ordering::Relaxed))).await
    }

    /// Deletes points that a predicate selects between two times, RFC 3339.
    ///
    /// # Errors
    /// As [`Client::write`].
    pub(super) async fn delete(&self, start: &str, stop: &str, predicate: &str) -> Result<()> {
        let uri = self.uri("/api/v2/delete", &[("org", &*self.config.org), ("bucket", &self.config.bucket)]);
        let body = serde_json::json!({ "start": start, "stop": stop, "predicate": predicate }).to_string();
        let request = Request::builder().method(Method::POST).uri(uri).header(CONTENT_TYPE, "application/json");
        let answer = self.send(self.timeout.max(DELETE_TIME), request, body.into()).await?;
        self.judged(answer.stored(&self.config, self.named.load(Ordering::Relaxed))).await
    }

    /// Reads an object in JSON; `None` when InfluxDB does not show it to this token.
    ///
    /// # Errors
    /// The [`StoreError`] that the answer means; [`StoreError::NeedsOperator`] when it is not that
    /// of InfluxDB.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Option<T>> {
        let request = Request::builder().method(Method::GET).uri(self.uri(path, parameters));
        let answer = self.send(self.timeout, request.header(ACCEPT, "application/json"), Bytes::new()).await?;
        let named = answer.is_named();
        if answer.is_refused_by_influxdb() {
            self.named.store(named, Ordering::Relaxed);
            return Ok(None);
        }
        let status = answer.status;
        let body = self.judged(answer.verdict(&self.config)).await?;
        let read = serde_json::from_slice(&body);
        let read = read.map_err(|error| not_influxdb(&self.config, &format!("{status} to GET {path}: {error}")))?;
        self.named.store(named, Ordering::Relaxed);
        Ok(Some(read))
    }

    /// Posts a form; `limit` is its time limit, if it is longer than the usual one.
    pub(super) async fn post_form(
        &self,
        path: &str,
        form: &[(&str, &str)],
        limit: Option<Duration>,
    ) -> Result<Vec<u8>> {
        let request = Request::builder().method(Method::POST).uri(format!("{}{path}", self.base));
        let request =
            request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").header(ACCEPT, "application/json");
        let limit = limit.unwrap_or_default().max(self.timeout);
        let answer = self.send(limit, request, encoded(form).into()).await?;
        self.judged(answer.verdict(&self.config)).await
    }

    fn uri(&self, path: &str, parameters: &[(&str, &str)]) -> String {
        format!("{}{path}?{}", self.base, encoded(parameters))
    }

    async fn send(&self, limit: Duration, request: http::request::Builder, body: Bytes) -> Result<Answer> {
        let request = request
            .header(AUTHORIZATION, self.token.clone())
            .header(USER_AGENT, concat!("weir/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body))
            .map_err(|error| {
                StoreError::NeedsOperator(format!("cannot make a request to {}: {error}", self.config.key("url")))
            })?;
        match tokio::time::timeout(limit, self.exchange(request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(reason)) => Err(self.wrong_scheme(&reason).await.unwrap_or_else(|| self.busy(&reason))),
            Err(_) => Err(self.busy(&format!(
                "no answer within {} s ({})",
                limit.as_secs_f64(),
                self.config.key("request_timeout_ms")
            ))),
        }
    }

    /// The error of a port that speaks TLS when the address does not, or the other way round.
    async fn wrong_scheme(&self, reason: &str) -> Option<StoreError> {
        let uri: Uri = self.config.url.parse().ok()?;
        let tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let difference = crate::tls::differs(uri.host()?, port, tls).await?;
        let (key, url) = (self.config.key("url"), &self.config.url);
        let wanted = if tls { "http://" } else { "https://" };
        Some(match difference {
            Difference::Certain(what) => {
                StoreError::NeedsOperator(format!("{key} = {url:?}: {what}: write {wanted} there ({reason})"))
            }
            Difference::Possible(what) => {
                self.busy(&format!("{reason}; {what}: if TLS is not enabled there, write {wanted}"))
            }
        })
    }

    /// Some TLS servers report a client without TLS in HTTP, which reads as a refusal.
    async fn judged<T>(&self, verdict: Result<T>) -> Result<T> {
        match verdict {
            Err(StoreError::NeedsOperator(reason)) if reason.contains("HTTPS") => {
                Err(self.wrong_scheme(&reason).await.unwrap_or(StoreError::NeedsOperator(reason)))
            }
            verdict => verdict,
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> std::result::Result<Answer, String> {
        let response = self.pool.request(request).await.map_err(|error| causes(&error))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES).collect().await.map_err(|error| causes(&*error))?;
        Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes().into() })
    }

    fn busy(&self, reason: &str) -> StoreError {
        StoreError::busy(format!("InfluxDB at {} ({}): {reason}", self.base, self.config.key("url")))
    }
}

fn encoded(parameters: &[(&str, &str)]) -> String {
    let pair = |(name, value): &(&str, &str)| format!("{name}={}", utf8_percent_encode(value, PLAIN));
    parameters.iter().map(pair).collect::<Vec<_>>().join("&")
}

fn bad_url(config: &Config) -> ConfigError {
    let (key, url) = (config.key("url"), &config.url);
    ConfigError(format!("{key} = {url:?} is not an address: write http://host:port or https://host:port"))
}

/// Returns the messages of an error and of all its causes.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}

/// Compresses with gzip, at the level that costs least.
pub(super) fn pack(bytes: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::new(1));
    let packed = encoder.write_all(bytes).and_then(|()| encoder.finish());
    packed.map(Bytes::from).expect("writing into memory does not fail")
}

fn tls(config: &Config) -> std::result::Result<rustls::ClientConfig, ConfigError> {
    let fault = |error: &dyn std::fmt::Display| match &config.ca_file {
        Some(file) => ConfigError(format!("{} = {}: {error}", config.key("ca_file"), file.display())),
        None => ConfigError(format!("cannot set up TLS for {}: {error}", config.key("url"))),
    };
    let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(file) = &config.ca_file {
        for certificate in CertificateDer::pem_file_iter(file).map_err(|error| fault(&error))? {
            roots.add(certificate.map_err(|error| fault(&error))?).map_err(|error| fault(&error))?;
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| fault(&error))?;
    let builder = builder.with_root_certificates(roots);
    let (Some(certificate), Some(key)) = (&config.cert_file, &config.key_file) else {
        return Ok(builder.with_no_client_auth());
    };
    let named = |name: &str, file: &Path, error: &dyn std::fmt::Display| {
        ConfigError(format!("{} = {}: {error}: give a PEM file", config.key(name), file.display()))
    };
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect);
    let chain = chain.map_err(|error| named("cert_file", certificate, &error))?;
    let own = PrivateKeyDer::from_pem_file(key).map_err(|error| named("key_file", key, &error))?;
    builder.with_client_auth_cert(chain, own).map_err(|error| named("key_file", key, &error))
}
