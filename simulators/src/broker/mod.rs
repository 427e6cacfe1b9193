//! The addresses of a broker, and connections to them.

mod stream;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::net::TcpSocket;
use xxhash_rust::xxh3::xxh3_64_with_seed;

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

/// An address that was found.
#[derive(Debug)]
struct Place {
    name: Address,
    address: SocketAddr,
}

/// A broker that was found, at one address or at several, as the nodes of a fleet have.
#[derive(Debug, Clone)]
pub struct Broker {
    places: Arc<[Place]>,
    tls: Option<tls::Client>,
    per_source: usize,
}

impl Broker {
    /// Finds the hosts, and reads the file of authorities (PEM) for encrypted addresses: without
    /// it, the server's certificate has to be from a public one. Each `per_source` connections have
    /// a source address of their own.
    ///
    /// # Errors
    /// Names the host or the file. Also without an address, and when only some are encrypted.
    pub fn open(addresses: &[Address], ca: Option<&Path>, per_source: usize) -> anyhow::Result<Self> {
        let first = addresses.first().context("--broker is empty: use 127.0.0.1:1883")?;
        ensure!(
            addresses.iter().all(|address| address.encrypted == first.encrypted),
            "--broker has both mqtt:// and mqtts:// addresses: use one of the two for all"
        );
        let places = addresses.iter().map(Place::find).collect::<anyhow::Result<_>>()?;
        let tls = first.encrypted.then(|| authorities(ca, &[])).transpose()?;
        Ok(Self { places, tls, per_source: per_source.max(1) })
    }

    /// The addresses as given.
    pub fn name(&self) -> String {
        let names: Vec<String> = self.places.iter().map(|place| place.name.to_string()).collect();
        names.join(",")
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
            places: Arc::clone(&self.places),
            number: number as u64,
            attempts: AtomicU64::new(0),
            source: self.source(number),
            tls: tls.context("its certificate")?,
        })
    }

    /// Returns 127.0.0.2, 127.0.0.3, ..., so that no address runs out of ports. None, the system's
    /// choice, for the first devices, because binding to a given address is much slower, and for a
    /// broker that is not on loopback.
    fn source(&self, number: usize) -> Option<Ipv4Addr> {
        let number = u32::try_from(number / self.per_source).ok()?;
        let is_local = |place: &Place| place.address.is_ipv4() && place.address.ip().is_loopback();
        (number > 0 && self.places.iter().all(is_local))
            .then(|| Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + number))
    }
}

impl Place {
    fn find(name: &Address) -> anyhow::Result<Self> {
        let unknown = || format!("cannot find the host of --broker {name}");
        let mut found = (name.host.as_str(), name.port).to_socket_addrs().with_context(unknown)?;
        Ok(Self { address: found.next().with_context(unknown)?, name: name.clone() })
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

/// Opens the connections of one device, one after another, each at a random address of the broker;
/// an encrypted one resumes the session of the one before.
#[derive(Debug)]
pub(crate) struct Dialer {
    places: Arc<[Place]>,
    number: u64,
    attempts: AtomicU64,
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
        let Place { name, address } = self.next();
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(source) = self.source {
            socket.bind(SocketAddr::new(IpAddr::V4(source), 0))?;
        }
        let stream = socket.connect(*address).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return Ok(Stream::Plain(stream)) };
        match tls.connect(&name.host, stream).await {
            Ok(stream) => Ok(Stream::Encrypted(Box::new(stream))),
            Err(error) => Err(tls::explain(&error).map_or(error, io::Error::other)),
        }
    }

    /// The address of the next attempt. It depends on the numbers of the device and of the attempt
    /// only, so that a run can be repeated.
    fn next(&self) -> &Place {
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed);
        let drawn = xxh3_64_with_seed(&attempt.to_le_bytes(), self.number);
        &self.places[(drawn % self.places.len() as u64) as usize]
    }

    /// The address of the next attempt, for a client that opens its connections itself.
    pub(crate) fn next_address(&self) -> SocketAddr {
        self.next().address
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn addresses(texts: &[&str]) -> Vec<Address> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

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
        let broker = Broker::open(&addresses(&["127.0.0.1:1883"]), None, 2).unwrap();
        assert_eq!(broker.source(1), None);
        assert_eq!(broker.source(4), Some(Ipv4Addr::new(127, 0, 0, 3)));
        let identity = tls::Identity { certificate: Vec::new(), key: Vec::new() };
        let error = broker.dialer(0, Some(&identity)).unwrap_err().to_string();
        assert!(error.contains("mqtts://"), "{error}");
    }

    #[test]
    fn each_attempt_to_connect_has_a_random_address_and_a_run_can_be_repeated() {
        let broker = Broker::open(&addresses(&["127.0.0.1:1", "127.0.0.1:2", "localhost:3"]), None, 1).unwrap();
        assert_eq!(broker.name(), "127.0.0.1:1,127.0.0.1:2,localhost:3");
        let attempts = |device: usize| {
            let dialer = broker.dialer(device, None).unwrap();
            (0..300).map(|_| dialer.next_address().port()).collect::<Vec<_>>()
        };
        let first = attempts(1);
        assert_eq!(first, attempts(1));
        assert_ne!(first, attempts(2));
        let mut counts = HashMap::new();
        first.iter().for_each(|port| *counts.entry(*port).or_insert(0) += 1);
        assert!(counts.len() == 3 && counts.values().all(|count| (60..140).contains(count)), "{counts:?}");
        // The devices do not go the same way together.
        let begins: Vec<u16> = (0..30).map(|device| attempts(device)[0]).collect();
        assert!([1, 2, 3].iter().all(|port| begins.contains(port)), "{begins:?}");
    }

    #[test]
    fn addresses_of_a_broker_are_all_encrypted_or_none_is() {
        let error = Broker::open(&addresses(&["localhost", "mqtts://localhost"]), None, 1).unwrap_err().to_string();
        assert!(error.contains("--broker") && error.contains("mqtts://"), "{error}");
        let error = Broker::open(&[], None, 1).unwrap_err().to_string();
        assert!(error.contains("--broker is empty"), "{error}");
    }
}
