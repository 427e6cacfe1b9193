//! Handshakes: bounded in time and number.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::HandshakeKind;
use rustls::pki_types::UnixTime;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::server::{Port, Server};
use crate::{ServerStream, plain};

/// The handshakes of a port.
#[derive(Debug, Clone)]
pub struct Acceptor {
    server: Arc<Server>,
    port: Port,
}

/// An encrypted connection.
#[derive(Debug)]
pub struct Accepted {
    /// The stream.
    pub stream: ServerStream,
    /// Certificates of the client in DER, its own first.
    pub certificates: Vec<Vec<u8>>,
}

/// The reason why there is no encrypted connection.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The client speaks something else.
    #[error(
        "the client speaks {0}, and this port is for TLS: use mqtts:// or https:// in the client, or the plain port"
    )]
    Plain(&'static str),
    /// It took too long.
    #[error("the handshake took longer than `tls.handshake_timeout_ms`")]
    TimedOut,
    /// Others of the port, or of the source, were in progress all the time.
    #[error(
        "the handshakes that `tls.max_handshakes` leaves this port and this address were in progress for as long as \
         `tls.handshake_timeout_ms`"
    )]
    Busy,
    /// It took its time, or its source has the most handshakes, and others need its place.
    #[error(
        "its handshake was not complete, and others need its place: it took long, or was the oldest one of the address \
         with the most"
    )]
    Displaced,
    /// A certificate is not valid.
    #[error("{0}")]
    Certificate(String),
    /// The client has refused the certificate of the server.
    #[error(
        "the client refuses the certificate of this server ({0}): give the client the CA, and a name in the certificate"
    )]
    Refused(String),
    /// The two sides have no version, suite or protocol in common, or break the protocol.
    #[error("{0}")]
    Failed(String),
    /// The client has gone.
    #[error("the client closed the connection before the end of the handshake")]
    Closed,
}

impl HandshakeError {
    /// Metric label, of a bounded set.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Plain(_) => "not_tls",
            Self::TimedOut => "tls_timeout",
            Self::Busy => "tls_busy",
            Self::Displaced => "tls_displaced",
            Self::Certificate(_) => "client_certificate",
            Self::Refused(_) => "certificate_refused",
            Self::Failed(_) => "tls_failed",
            Self::Closed => "tls_closed",
        }
    }
}

impl Acceptor {
    pub(crate) fn new(server: Arc<Server>, port: Port) -> Self {
        Self { server, port }
    }

    /// Performs the handshake of a connection from this address. A connection on which nothing has
    /// arrived holds no memory of TLS and no place among the handshakes.
    ///
    /// # Errors
    /// [`HandshakeError`]; counted.
    pub async fn accept(&self, stream: TcpStream, source: IpAddr) -> Result<Accepted, HandshakeError> {
        let metrics = &self.server.metrics;
        let begun = AtomicBool::new(false);
        let spoken = AtomicBool::new(false);
        // Boxed, so that a connection does not hold the memory of the handshake for the rest of its
        // life.
        let handshake = Box::pin(self.handshake(stream, source, (&spoken, &begun)));
        let result = match tokio::time::timeout(self.server.limits.timeout, handshake).await {
            Ok(result) => result,
            Err(_) if spoken.load(Ordering::Relaxed) && !begun.load(Ordering::Relaxed) => Err(HandshakeError::Busy),
            Err(_) => Err(HandshakeError::TimedOut),
        };
        let outcome = match &result {
            Ok(accepted) => match accepted.stream.get_ref().1.handshake_kind() {
                Some(HandshakeKind::Resumed) => "resumed",
                _ => "full",
            },
            Err(error) => error.label(),
        };
        metrics.handshakes(self.port.name(), outcome).inc();
        result
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        source: IpAddr,
        (spoken, begun): (&AtomicBool, &AtomicBool),
    ) -> Result<Accepted, HandshakeError> {
        let mut first = [0; 4];
        let length = stream.peek(&mut first).await.map_err(|_| HandshakeError::Closed)?;
        if length == 0 {
            return Err(HandshakeError::Closed);
        }
        let first = &first[..length];
        if let Some(protocol) = plain::protocol(first) {
            if let Some(answer) = plain::answer(first) {
                // The client is refused anyway; it may have gone.
                stream.try_write(answer).ok();
            }
            return Err(HandshakeError::Plain(protocol));
        }
        spoken.store(true, Ordering::Relaxed);
        let place = self.server.places(self.port).take(source).await.map_err(|_| HandshakeError::Busy)?;
        begun.store(true, Ordering::Relaxed);
        let _pending = Pending::new(&self.server);
        let current = self.server.current();
        let stream = tokio::select! {
            accepted = TlsAcceptor::from(current.of(self.port)).accept(stream) => accepted.map_err(|error| of_io(&error))?,
            () = place.displaced() => return Err(HandshakeError::Displaced),
        };
        let session = stream.get_ref().1;
        let presented = session.peer_certificates().unwrap_or_default();
        // The verifier is not asked when a session is resumed.
        if session.handshake_kind() == Some(HandshakeKind::Resumed)
            && let (Some(verifier), [own, rest @ ..]) = (current.verifier(self.port), presented)
        {
            let verified = verifier.verify_client_cert(own, rest, UnixTime::now());
            verified.map_err(|error| of_tls(&error))?;
        }
        let certificates = presented.iter().map(|certificate| certificate.to_vec()).collect();
        Ok(Accepted { stream, certificates })
    }
}

/// Counts a handshake while it lasts.
struct Pending<'a>(&'a Server);

impl<'a> Pending<'a> {
    fn new(server: &'a Server) -> Self {
        server.metrics.pending.inc();
        Self(server)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.metrics.pending.dec();
    }
}

fn of_io(error: &io::Error) -> HandshakeError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(error) => of_tls(error),
        None => HandshakeError::Closed,
    }
}

fn of_tls(error: &rustls::Error) -> HandshakeError {
    use rustls::{AlertDescription as Alert, Error};
    match error {
        Error::InvalidCertificate(fault) => HandshakeError::Certificate(format!(
            "the client certificate is not valid ({fault}): use one from an authority in the file of `client_ca`, within \
             its dates"
        )),
        Error::NoCertificatesPresented => {
            HandshakeError::Certificate("the client presents no certificate, and one is required".to_owned())
        }
        Error::AlertReceived(
            alert @ (Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::CertificateExpired
            | Alert::DecryptError
            | Alert::UnsupportedCertificate),
        ) => HandshakeError::Refused(format!("{alert:?}")),
        error => HandshakeError::Failed(format!("the handshake failed: {error}")),
    }
}
