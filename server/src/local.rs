//! HTTP to the process of this machine. With `[tls]`, its certificate has to be the one in the file
//! of the configuration: names and authorities do not matter then.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use axum::body::Body;
use axum::http::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::config::Config;

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
        let files = config.tls.files();
        let settings = match &files {
            Some(files) => tls::pinned(&files.certificate)?,
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
