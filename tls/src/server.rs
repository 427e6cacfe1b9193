//! The certificate of the server, and the settings of each port that uses it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use sha2::{Digest, Sha256};

use crate::certificate::Certificate;
use crate::files::{self, FileError, Named};
use crate::handshake::Acceptor;
use crate::metrics::Metrics;
use crate::places::Places;
use crate::verify::{self, Possession};

/// A port that speaks TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// Devices: a certificate is asked for when it is of use.
    Mqtt,
    /// Third parties.
    Grpc,
    /// Status page and metrics.
    Http,
    /// Other processes: a certificate is required.
    Fleet,
}

impl Port {
    /// Metric label, and the name of its section.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::Grpc => "grpc",
            Self::Http => "http",
            Self::Fleet => "fleet",
        }
    }

    fn protocols(self) -> &'static [&'static [u8]] {
        match self {
            // Clients name none, or one of several.
            Self::Mqtt => &[],
            Self::Grpc => &[b"h2", b"http/1.1"],
            Self::Http => &[b"http/1.1"],
            Self::Fleet => &[b"h2"],
        }
    }
}

/// The files of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFiles {
    /// Chain of certificates, the server's own first.
    pub certificate: Named,
    /// Private key of the server.
    pub key: Named,
    /// Authorities of clients.
    pub client_ca: Option<Named>,
}

/// Bounds of handshakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Time for one.
    pub timeout: Duration,
    /// Number at one time at the MQTT port; each other port has a quarter of it. At each port, one
    /// source has at most an eighth.
    pub at_once: usize,
}

/// The bytes of the files.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Contents {
    pub(crate) fn read(files: &ServerFiles) -> Result<Self, FileError> {
        Ok(Self {
            certificate: files::read(&files.certificate)?,
            key: files::read(&files.key)?,
            client_ca: files.client_ca.as_ref().map(files::read).transpose()?,
        })
    }

    /// Tells contents apart without keeping them.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for part in [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()].into_iter().flatten() {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }
}

/// The places of each port: handshakes that stall at one leave the others theirs.
struct Ports {
    mqtt: Places,
    grpc: Places,
    http: Places,
    fleet: Places,
}

/// Other ports than that of devices have one of this many parts of the handshakes.
const OTHERS: usize = 4;

impl Ports {
    fn new(most: usize) -> Self {
        let other = || Places::new(most / OTHERS);
        Self { mqtt: Places::new(most), grpc: other(), http: other(), fleet: other() }
    }
}

/// Keys of tickets. Each port has its own: a session of one is not resumed at another, which asks
/// for other certificates.
#[derive(Clone)]
struct Tickets {
    mqtt: Arc<dyn ProducesTickets>,
    grpc: Arc<dyn ProducesTickets>,
    http: Arc<dyn ProducesTickets>,
}

impl Tickets {
    fn new() -> Result<Self, rustls::Error> {
        Ok(Self { mqtt: Ticketer::new()?, grpc: Ticketer::new()?, http: Ticketer::new()? })
    }

    /// None for processes: each handshake verifies the certificate of the other one.
    fn of(&self, port: Port) -> Option<&Arc<dyn ProducesTickets>> {
        match port {
            Port::Mqtt => Some(&self.mqtt),
            Port::Grpc => Some(&self.grpc),
            Port::Http => Some(&self.http),
            Port::Fleet => None,
        }
    }
}

/// Settings that are in use.
pub(crate) struct Current {
    mqtt: Arc<ServerConfig>,
    grpc: Arc<ServerConfig>,
    http: Arc<ServerConfig>,
    fleet: Arc<ServerConfig>,
    /// Verifies certificates of devices; handshakes that resume a session skip it.
    devices: Option<Arc<dyn ClientCertVerifier>>,
    digest: [u8; 32],
    authorities: Option<Vec<u8>>,
    tickets: Tickets,
    /// By key: subject, and the first expiry of the certificates in it.
    pub(crate) expiry: Vec<(String, String, i64)>,
}

/// A certificate with its key, and the handshakes that use it. Cheap to share.
pub struct Server {
    pub(crate) files: ServerFiles,
    /// A certificate of a device is of use: to its authority, or to the gatekeeper.
    asks_devices: bool,
    pub(crate) limits: Limits,
    pub(crate) metrics: Metrics,
    ports: Ports,
    current: RwLock<Arc<Current>>,
    /// The last fault of the files, and the day of the last warning.
    pub(crate) reported: Mutex<(Option<FileError>, i64)>,
}

impl std::fmt::Debug for Server {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Server {
    /// Reads the files. `asks_devices`: devices are asked for a certificate although there are no
    /// authorities in the files, since the gatekeeper has them.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn open(
        files: ServerFiles,
        limits: Limits,
        asks_devices: bool,
        metrics: Metrics,
    ) -> Result<Arc<Self>, FileError> {
        let current = load(&files, &Contents::read(&files)?, asks_devices, None)?;
        let ports = Ports::new(limits.at_once);
        let current = RwLock::new(Arc::new(current));
        let reported = Mutex::default();
        let server = Self { files, asks_devices, limits, metrics, ports, current, reported };
        server.publish();
        Ok(Arc::new(server))
    }

    /// Returns the acceptor of a port.
    pub fn acceptor(self: &Arc<Self>, port: Port) -> Acceptor {
        Acceptor::new(Arc::clone(self), port)
    }

    /// The certificate file.
    pub fn certificate(&self) -> &PathBuf {
        &self.files.certificate.path
    }

    pub(crate) fn places(&self, port: Port) -> &Places {
        match port {
            Port::Mqtt => &self.ports.mqtt,
            Port::Grpc => &self.ports.grpc,
            Port::Http => &self.ports.http,
            Port::Fleet => &self.ports.fleet,
        }
    }

    pub(crate) fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.read())
    }

    /// Uses the contents. False when they are in use already.
    pub(crate) fn replace(&self, contents: &Contents) -> Result<bool, FileError> {
        let before = self.current();
        if contents.digest() == before.digest {
            return Ok(false);
        }
        let current = load(&self.files, contents, self.asks_devices, Some(&before))?;
        *self.current.write() = Arc::new(current);
        self.publish();
        Ok(true)
    }

    fn publish(&self) {
        for (key, _, not_after) in &self.current().expiry {
            self.metrics.set_expiry(key, *not_after);
        }
    }
}

impl Current {
    pub(crate) fn of(&self, port: Port) -> Arc<ServerConfig> {
        Arc::clone(match port {
            Port::Mqtt => &self.mqtt,
            Port::Grpc => &self.grpc,
            Port::Http => &self.http,
            Port::Fleet => &self.fleet,
        })
    }

    pub(crate) fn verifier(&self, port: Port) -> Option<&dyn ClientCertVerifier> {
        if port == Port::Mqtt { self.devices.as_deref() } else { None }
    }
}

fn load(
    files: &ServerFiles,
    contents: &Contents,
    asks_devices: bool,
    before: Option<&Current>,
) -> Result<Current, FileError> {
    let certified = files::certified_key((&files.certificate, &contents.certificate), (&files.key, &contents.key))?;
    let mut expiry = vec![first_expiry(&files.certificate, &certified.cert)?];
    let (mut devices, mut processes): (Option<Arc<dyn ClientCertVerifier>>, _) = (None, None);
    if let (Some(file), Some(bytes)) = (&files.client_ca, &contents.client_ca) {
        let roots = files::parse_roots(file, bytes)?;
        expiry.push(first_expiry(file, &files::parse_certificates(file, bytes)?)?);
        devices = Some(verify::devices(file, roots.clone())?);
        processes = Some(verify::processes(file, roots)?);
    } else if asks_devices {
        devices = Some(Arc::new(Possession::new()));
    }
    // A ticket would carry a certificate past an authority that is gone.
    let tickets = match before {
        Some(before) if before.authorities == contents.client_ca => before.tickets.clone(),
        _ => Tickets::new().map_err(|error| FileError {
            key: files.certificate.key.clone(),
            path: files.certificate.path.clone(),
            what: format!("the system gives no random numbers: {error}"),
        })?,
    };
    let certified = Arc::new(certified);
    let of =
        |port, verifier: Option<&Arc<dyn ClientCertVerifier>>| settings(port, &certified, verifier, tickets.of(port));
    Ok(Current {
        mqtt: of(Port::Mqtt, devices.as_ref()),
        grpc: of(Port::Grpc, None),
        http: of(Port::Http, None),
        fleet: of(Port::Fleet, processes.as_ref()),
        devices,
        digest: contents.digest(),
        authorities: contents.client_ca.clone(),
        tickets: tickets.clone(),
        expiry,
    })
}

fn settings(
    port: Port,
    certified: &Arc<CertifiedKey>,
    verifier: Option<&Arc<dyn ClientCertVerifier>>,
    tickets: Option<&Arc<dyn ProducesTickets>>,
) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(crate::provider())
        .with_protocol_versions(rustls::DEFAULT_VERSIONS)
        .expect("the provider has suites for TLS 1.2 and 1.3");
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(certified))));
    config.alpn_protocols = port.protocols().iter().map(|name| name.to_vec()).collect();
    // Sessions are kept in tickets, at the clients: a fleet that reconnects needs no table here.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = usize::from(tickets.is_some());
    if let Some(tickets) = tickets {
        config.ticketer = Arc::clone(tickets);
    }
    Arc::new(config)
}

/// The certificate of a file that expires first.
fn first_expiry(
    file: &Named,
    chain: &[rustls::pki_types::CertificateDer<'_>],
) -> Result<(String, String, i64), FileError> {
    let mut first: Option<Certificate> = None;
    for der in chain {
        let found = Certificate::parse(der).map_err(|error| FileError {
            key: file.key.clone(),
            path: file.path.clone(),
            what: format!("a certificate in it cannot be read: {error}: give the file anew"),
        })?;
        if first.as_ref().is_none_or(|first| found.not_after < first.not_after) {
            first = Some(found);
        }
    }
    let (subject, not_after) = first.map_or((String::new(), i64::MAX), |first| (first.subject, first.not_after));
    Ok((file.key.clone(), subject, not_after))
}
