//! The client's side: authorities that it trusts, and a certificate of its own.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme, client};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use crate::ClientStream;
use crate::authority::Identity;
use crate::files::{self, FileError, Named};
use crate::reload::Hangup;

/// The files of a client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientFiles {
    /// Authorities of servers; without it, those that browsers trust.
    pub ca: Option<Named>,
    /// The client's own certificate and its key.
    pub identity: Option<(Named, Named)>,
}

impl ClientFiles {
    /// Reads the files. `protocols` are offered to the server, as `h2`.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn load(&self, protocols: &[&str]) -> Result<ClientConfig, FileError> {
        let roots = match &self.ca {
            Some(file) => files::parse_roots(file, &files::read(file)?)?,
            None => RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() },
        };
        let builder = builder().with_root_certificates(roots);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let (chain_bytes, key_bytes) = (files::read(certificate)?, files::read(key)?);
                let certified = files::certified_key((certificate, &chain_bytes), (key, &key_bytes))?;
                builder.with_client_cert_resolver(Arc::new(Own(Arc::new(certified))))
            }
        };
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(config)
    }
}

/// Always presents the same certificate.
#[derive(Debug)]
struct Own(Arc<CertifiedKey>);

impl client::ResolvesClientCert for Own {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn builder() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(crate::provider())
        .with_protocol_versions(rustls::DEFAULT_VERSIONS)
        .expect("the provider has suites for TLS 1.2 and 1.3")
}

/// Opens encrypted connections, with files that may change.
#[derive(Debug, Clone)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    files: ClientFiles,
    protocols: Vec<String>,
    config: RwLock<Arc<ClientConfig>>,
}

impl Client {
    /// Reads the files.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn open(files: ClientFiles, protocols: &[&str]) -> Result<Self, FileError> {
        let config = RwLock::new(Arc::new(files.load(protocols)?));
        let protocols = protocols.iter().map(|name| (*name).to_owned()).collect();
        Ok(Self(Arc::new(Inner { files, protocols, config })))
    }

    /// Uses these settings.
    pub fn with(config: ClientConfig) -> Self {
        let config = RwLock::new(Arc::new(config));
        Self(Arc::new(Inner { files: ClientFiles::default(), protocols: Vec::new(), config }))
    }

    /// The same for one of many devices, with a certificate of its own. Its sessions are its own,
    /// too: a ticket resumes the session of the device that received it.
    ///
    /// # Errors
    /// When the certificate and its key do not belong together.
    pub fn for_device(&self, identity: Option<&Identity>) -> Result<Self, Error> {
        let mut config = ClientConfig::clone(&self.0.config.read());
        config.resumption = client::Resumption::in_memory_sessions(1);
        if let Some(Identity { certificate, key }) = identity {
            let chain = vec![CertificateDer::from(certificate.clone())];
            let key = PrivateKeyDer::Pkcs8(key.clone().into());
            let certified = CertifiedKey::from_der(chain, key, &crate::provider())?;
            config.client_auth_cert_resolver = Arc::new(Own(Arc::new(certified)));
        }
        Ok(Self::with(config))
    }

    /// Reads the files anew.
    ///
    /// # Errors
    /// [`FileError`]; the previous files stay in use.
    pub fn reload(&self) -> Result<(), FileError> {
        let protocols: Vec<&str> = self.0.protocols.iter().map(String::as_str).collect();
        *self.0.config.write() = Arc::new(self.0.files.load(&protocols)?);
        Ok(())
    }

    /// Reads the files anew every `interval` and at SIGHUP, until `stop`. The server that uses the
    /// same files logs their faults.
    pub async fn watch(&self, interval: Duration, stop: CancellationToken) {
        let mut asked = Hangup::new();
        let mut ticks = tokio::time::interval(interval);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
                () = asked.next() => {}
            }
            if let Err(error) = self.reload() {
                tracing::debug!("{error}");
            }
        }
    }

    /// Encrypts an open connection to a host.
    ///
    /// # Errors
    /// The error of the handshake, or `host` is not a name or an address.
    pub async fn connect(&self, host: &str, stream: TcpStream) -> std::io::Result<ClientStream> {
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned());
        let name = name.map_err(|_| std::io::Error::other(format!("{host:?} is not a host name or an address")))?;
        let config = Arc::clone(&self.0.config.read());
        TlsConnector::from(config).connect(name, stream).await
    }
}

/// Settings that accept one certificate only: that of the server on this machine, from its own
/// file. Names and dates do not matter.
///
/// # Errors
/// [`FileError`].
pub fn pinned(certificate: &Named) -> Result<ClientConfig, FileError> {
    let own = files::read_certificates(certificate)?.swap_remove(0);
    Ok(custom(Some(own)))
}

/// Settings that accept every certificate: the other side is not known, so that nothing secret may
/// be sent to it.
pub fn unverified() -> ClientConfig {
    custom(None)
}

fn custom(own: Option<CertificateDer<'static>>) -> ClientConfig {
    let algorithms = crate::provider().signature_verification_algorithms;
    let verifier = Arc::new(Pinned { own, algorithms });
    builder().dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
}

#[derive(Debug)]
struct Pinned {
    /// `None` accepts every certificate.
    own: Option<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.own.as_ref().is_none_or(|own| end_entity == own) {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
