//! Verification of client certificates.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientCertVerifierBuilder, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};

use crate::certificate::Certificate;
use crate::files::{FileError, Named};

/// A verifier that accepts certificates of these authorities only, and clients without one.
pub(crate) fn devices(file: &Named, roots: RootCertStore) -> Result<Arc<dyn ClientCertVerifier>, FileError> {
    build(file, WebPkiClientVerifier::builder_with_provider(Arc::new(roots), crate::provider()).allow_unauthenticated())
}

/// A verifier that requires a certificate of these authorities which says that it is for servers,
/// too: one of a device is not enough to be a process of the fleet.
pub(crate) fn processes(file: &Named, roots: RootCertStore) -> Result<Arc<dyn ClientCertVerifier>, FileError> {
    let inner = build(file, WebPkiClientVerifier::builder_with_provider(Arc::new(roots), crate::provider()))?;
    Ok(Arc::new(Processes(inner)))
}

fn build(file: &Named, builder: ClientCertVerifierBuilder) -> Result<Arc<dyn ClientCertVerifier>, FileError> {
    builder.build().map_err(|error| FileError {
        key: file.key.clone(),
        path: file.path.clone(),
        what: format!("its certificates cannot verify others: {error}: give the certificates of authorities"),
    })
}

#[derive(Debug)]
struct Processes(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Processes {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.0.verify_client_cert(end_entity, intermediates, now)?;
        match Certificate::parse(end_entity) {
            Ok(found) if found.is_for_servers => Ok(verified),
            _ => Err(CertificateError::InvalidPurpose.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Accepts every certificate whose key the client has: the gatekeeper verifies the chain.
#[derive(Debug)]
pub(crate) struct Possession(WebPkiSupportedAlgorithms);

impl Possession {
    pub(crate) fn new() -> Self {
        Self(crate::provider().signature_verification_algorithms)
    }
}

impl ClientCertVerifier for Possession {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
