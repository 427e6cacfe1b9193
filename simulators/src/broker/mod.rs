//! The address of a broker, and connections to it.

mod stream;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::net::TcpSocket;

pub(crate) use stream::Stream;

/// Time for a connection with its handshake, and for CONNACK.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Address of a broker as an option: `host:port`, `mqtt://host:port`, `mqtts://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
    encrypted: bool,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (encrypted, rest) = match text.split_once("://") {
            None => (false, text),
            Some(("mqtt", rest)) => (false, rest),
            Some(("mqtts", rest)) => (true, rest),
            Some((scheme, _)) => return Err(format!("{scheme}:// is not a scheme of MQTT: use mqtt:// or mqtts://")),
        };
        let wrong = || format!("cannot parse {text:?}: use 127.0.0.1:1883, mqtt://host:1883 or mqtts://host:8883");
        let rest = rest.trim_end_matches('/');
        // An address of IPv6 without a port has colons, too.
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, port.parse().map_err(|_| wrong())?)
            }
            _ => (rest, if encrypted { 8883 } else { 1883 }),
        };
        let host = host.trim_matches(['[', ']']);
        if host.is_empty() || host.contains(['/', '@', ' ']) {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), port, encrypted })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.encrypted { "mqtts://" } else { "" };
        match self.host.contains(':') {
            true => write!(f, "{scheme}[{}]:{}", self.host, self.port),
            false => write!(f, "{scheme}{}:{}", self.host, self.port),
        }
    }
}

/// A broker that was found.
#[derive(Debug, Clone)]
pub struct Broker {
    name: Arc<Address>,
    address: SocketAddr,
    tls: Option<tls::Client>,
    per_source: usize,
}

impl Broker {
    /// Finds the host, and reads the file of authorities (PEM) for an encrypted address: without
    /// it, the server's certificate has to be from a public one. Each `per_source` connections have
    /// a source address of their own.
    ///
    /// # Errors
    /// Names the host or the file.
    pub fn open(address: &Address, ca: Option<&Path>, per_source: usize) -> anyhow::Result<Self> {
        let unknown = || format!("cannot find the host of --broker {address}");
        let mut found = (address.host.as_str(), address.port).to_socket_addrs().with_context(unknown)?;
        let found = found.next().with_context(unknown)?;
        let tls = address.encrypted.then(|| authorities(ca, &[])).transpose()?;
        Ok(Self { name: Arc::new(address.clone()), address: found, tls, per_source: per_source.max(1) })
    }

    /// The address as given.
    pub fn name(&self) -> &Address {
        &self.name
    }

    /// True when connections are encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// The connections of the device with this number.
    ///
    /// # Errors
    /// When the device has a certificate that is not valid, or that is of no use.
    pub(crate) fn dialer(&self, number: usize, identity: Option<&tls::Identity>) -> anyhow::Result<Dialer> {
        ensure!(
            identity.is_none() || self.tls.is_some(),
            "the credentials are certificates, which need an encrypted connection: use --broker mqtts://…"
        );
        let tls = self.tls.as_ref().map(|tls| tls.for_device(identity)).transpose();
        Ok(Dialer {
            name: Arc::clone(&self.name),
            address: self.address,
            source: self.source(number),
            tls: tls.context("its certificate")?,
        })
    }

    /// Returns 127.0.0.2, 127.0.0.3, ..., so that no address runs out of ports. None, the system's
    /// choice, for the first devices, because binding to a given address is much slower, and for a
    /// broker that is not on loopback.
    fn source(&self, number: usize) -> Option<Ipv4Addr> {
        let number = u32::try_from(number / self.per_source).ok()?;
        let is_local = self.address.is_ipv4() && self.address.ip().is_loopback();
        (number > 0 && is_local).then(|| Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + number))
    }
}

/// A client that trusts the authorities in the file, or the public ones.
///
/// # Errors
/// Names the file.
pub(crate) fn authorities(ca: Option<&Path>, protocols: &[&str]) -> anyhow::Result<tls::Client> {
    let ca = ca.map(|path| tls::Named::new("--ca", path));
    Ok(tls::Client::open(tls::ClientFiles { ca, identity: None }, protocols)?)
}

/// Opens the connections of one device, one after another; an encrypted one resumes the session of
/// the one before.
#[derive(Debug, Clone)]
pub(crate) struct Dialer {
    name: Arc<Address>,
    address: SocketAddr,
    source: Option<Ipv4Addr>,
    tls: Option<tls::Client>,
}

impl Dialer {
    /// Opens a connection.
    pub(crate) async fn connect(&self) -> io::Result<Stream> {
        let silent = |_| io::Error::new(io::ErrorKind::TimedOut, "no connection within 30 s");
        tokio::time::timeout(PATIENCE, self.open()).await.map_err(silent)?
    }

    async fn open(&self) -> io::Result<Stream> {
        let socket = if self.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(source) = self.source {
            socket.bind(SocketAddr::new(IpAddr::V4(source), 0))?;
        }
        let stream = socket.connect(self.address).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return Ok(Stream::Plain(stream)) };
        match tls.connect(&self.name.host, stream).await {
            Ok(stream) => Ok(Stream::Encrypted(Box::new(stream))),
            Err(error) => Err(tls::explain(&error).map_or(error, io::Error::other)),
        }
    }

    /// The address for a client that opens its connections itself.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_scheme_a_host_and_a_port_or_the_usual_ones() {
        for (text, shown) in [
            ("127.0.0.1:1883", "127.0.0.1:1883"),
            ("mqtt://localhost", "localhost:1883"),
            ("mqtts://weir.example.com", "mqtts://weir.example.com:8883"),
            ("mqtts://[::1]:18883/", "mqtts://[::1]:18883"),
            ("::1", "[::1]:1883"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), shown);
        }
        for wrong in ["", "mqtts://", "https://host", "host:port", "mqtt://user@host:1"] {
            let error = wrong.parse::<Address>().unwrap_err();
            assert!(error.contains("mqtts://"), "{error}");
        }
    }

    #[test]
    fn certificates_need_an_encrypted_connection() {
        let broker = Broker::open(&"127.0.0.1:1883".parse().unwrap(), None, 2).unwrap();
        assert_eq!(broker.source(1), None);
        assert_eq!(broker.source(4), Some(Ipv4Addr::new(127, 0, 0, 3)));
        let identity = tls::Identity { certificate: Vec::new(), key: Vec::new() };
        let error = broker.dialer(0, Some(&identity)).unwrap_err().to_string();
        assert!(error.contains("mqtts://"), "{error}");
    }
}
