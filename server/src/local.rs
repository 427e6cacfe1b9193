//! HTTP to the process of this machine. With `[tls]`, its certificate has to be the one in the file
//! of the configuration: names and authorities do not matter then. A question that holds no secret
//! accepts every certificate of this machine: that of the process may be older than the file.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, ensure};
use axum::body::Body;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::config::Config;

/// Maximum size of an answer to an order.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// A token that only a reader of the data folder can make.
#[derive(Debug)]
pub(crate) struct Token(String);

impl Token {
    /// The token of a purpose, from the secret of the data folder.
    pub(crate) fn of(purpose: &str, secret: &[u8]) -> Self {
        let digest = Sha256::new_with_prefix(purpose).chain_update(b" ").chain_update(secret).finalize();
        Self(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// True when the text of `Authorization` is the token. The time of the comparison says nothing
    /// about the token, since digests are compared.
    pub(crate) fn permits(&self, given: &[u8]) -> bool {
        Sha256::digest(given) == Sha256::digest(self.bearer())
    }
}

/// Sends an order to the process that uses the data folder `data` and answers at `http`. Returns
/// the body of the answer.
///
/// # Errors
/// When it refuses the order or does not answer.
pub(crate) fn order(
    config: &Config,
    http: SocketAddr,
    data: &Path,
    (purpose, path): (&str, &str),
    order: &impl Serialize,
) -> anyhow::Result<Vec<u8>> {
    let file = data.join("secret");
    let secret = std::fs::read(&file)
        .with_context(|| format!("cannot read {}: run this as the user of the process", file.display()))?;
    let order = serde_json::to_string(order).context("a path that is not UTF-8")?;
    let address = reachable(http);
    let silent = || format!("the weir process at {address} did not answer to the end: check its log");
    let local = Local::new(config)?;
    let token = Token::of(purpose, &secret).bearer();
    let request = Request::post(local.uri(address, path)?).header(AUTHORIZATION, token);
    let request = request.header(CONTENT_TYPE, "application/json").body(Body::from(order))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start")?;
    let (code, body) = runtime.block_on(async {
        let answer = local.client().request(request).await;
        let answer = answer.with_context(silent)?;
        let code = answer.status();
        let body = axum::body::to_bytes(Body::new(answer.into_body()), MAX_ANSWER_BYTES).await.with_context(silent)?;
        anyhow::Ok((code, body))
    })?;
    ensure!(code == StatusCode::OK, "{address} refuses: {}", String::from_utf8_lossy(&body).trim_end());
    Ok(body.to_vec())
}

/// A client of the process.
pub(crate) struct Local {
    scheme: &'static str,
    client: Client<HttpsConnector<HttpConnector>, Body>,
}

impl Local {
    /// Prepares a client for a process with this configuration.
    ///
    /// # Errors
    /// When the file of the certificate cannot be read.
    pub(crate) fn new(config: &Config) -> anyhow::Result<Self> {
        Self::build(config, true)
    }

    /// Prepares a client that sends no secret to a process at this address.
    ///
    /// # Errors
    /// As [`Local::new`], for an address that others have too.
    pub(crate) fn without_secrets(config: &Config, address: SocketAddr) -> anyhow::Result<Self> {
        Self::build(config, !address.ip().to_canonical().is_loopback())
    }

    fn build(config: &Config, is_pinned: bool) -> anyhow::Result<Self> {
        let files = config.tls.files();
        let settings = match &files {
            Some(files) if is_pinned => tls::pinned(&files.certificate)?,
            Some(_) => tls::unverified(),
            None => tls::ClientFiles::default().load(&[])?,
        };
        let connector = HttpsConnectorBuilder::new().with_tls_config(settings).https_or_http().enable_http1().build();
        let scheme = if files.is_some() { "https" } else { "http" };
        Ok(Self { scheme, client: Client::builder(TokioExecutor::new()).build(connector) })
    }

    /// The URL of a path.
    ///
    /// # Errors
    /// When the path is not valid.
    pub(crate) fn uri(&self, address: SocketAddr, path: &str) -> anyhow::Result<Uri> {
        Ok(Uri::builder().scheme(self.scheme).authority(address.to_string()).path_and_query(path).build()?)
    }

    pub(crate) fn client(&self) -> &Client<HttpsConnector<HttpConnector>, Body> {
        &self.client
    }
}

/// The address at which a process answers on its own machine.
pub(crate) fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, address.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => (Ipv6Addr::LOCALHOST, address.port()).into(),
        _ => address,
    }
}
