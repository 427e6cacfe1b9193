//! Certificates of devices, and of the authorities that issue them.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1,
    ECDSA_P521_SHA512_ASN1, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, UnparsedPublicKey, VerificationAlgorithm,
};
use model::Nanos;
use model::time::SECOND;
use rustls::RootCertStore;
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use serde::{Deserialize, Serialize};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{CredentialId, hex};

/// Bytes of a PEM text.
const MAX_PEM_BYTES: usize = 32 << 10;

/// SHA-256 of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub(crate) fn of(der: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, der).as_ref());
        Self(hash)
    }

    /// Reads hexadecimal digits.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        hex::decode(text).map(Self)
    }

    /// Returns its hexadecimal digits.
    pub(crate) fn hex(&self) -> String {
        hex::encode(&self.0)
    }

    /// Returns the id of the credential of a device with this certificate.
    pub(crate) fn id(&self) -> CredentialId {
        CredentialId::derived(&["certificate", &self.hex()])
    }

    /// Returns the id of its revocation in a tenant.
    pub(crate) fn revoked_id(&self, tenant: &str) -> CredentialId {
        CredentialId::derived(&["revoked", tenant, &self.hex()])
    }
}

/// Reads the one certificate of a PEM text.
///
/// # Errors
/// A sentence that completes the name of the field.
pub(crate) fn read(pem: &str) -> Result<Vec<u8>, &'static str> {
    const MISSING: &str = "it has no PEM section `CERTIFICATE`";
    if pem.len() > MAX_PEM_BYTES {
        return Err("it is longer than 32 KiB: send one certificate");
    }
    const PRIVATE: &str = "it has a private key, which stays where it is: send the certificate alone";
    // Also in forms that the reader of sections passes over.
    if pem.contains("PRIVATE KEY") {
        return Err(PRIVATE);
    }
    let mut found = None;
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem.as_bytes()) {
        match section {
            Ok((SectionKind::Certificate, der)) if found.is_none() => found = Some(der),
            Ok((SectionKind::Certificate, _)) => return Err("it has several certificates: send one"),
            Ok(_) => {}
            Err(_) => return Err(MISSING),
        }
    }
    let der = found.ok_or(MISSING)?;
    parse(&der).map(|_| ()).ok_or("it is not an X.509 certificate")?;
    Ok(der)
}

fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    X509Certificate::from_der(der).ok().filter(|(rest, _)| rest.is_empty()).map(|(_, certificate)| certificate)
}

/// Returns the time from which a certificate is no longer valid.
pub(crate) fn expires(der: &[u8]) -> Option<Nanos> {
    let last = parse(der)?.validity().not_after.timestamp();
    Some(last.saturating_add(1).saturating_mul(SECOND))
}

/// Returns the id of the authority whose key signed a certificate, as the certificate has it.
pub(crate) fn authority_of(der: &[u8]) -> Option<CredentialId> {
    let certificate = parse(der)?;
    let id = certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(key) => key.key_identifier.as_ref().map(|id| id.0.to_vec()),
        _ => None,
    })?;
    Some(authority_id(&id))
}

fn authority_id(key_id: &[u8]) -> CredentialId {
    CredentialId::derived(&["authority", &hex::encode(key_id)])
}

/// The part of a certificate that names its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CertificateIdentity {
    /// The subject alternative name `URI:urn:weir:{tenant}:{device}`.
    SanUri,
    /// The one DNS name among the subject alternative names.
    SanDns,
    /// The common name of the subject.
    CommonName,
}

/// An authority of a tenant: its certificates identify devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    /// Its name for people.
    pub display_name: String,
    /// Its certificate, PEM.
    pub certificate: String,
    /// The part of its certificates that names the device.
    pub identity: CertificateIdentity,
}

/// The certificate of an authority, checked.
#[derive(Debug, Clone)]
pub(crate) struct AuthorityCertificate {
    pub(crate) id: CredentialId,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) expires: Nanos,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl AuthorityCertificate {
    /// Reads the certificate of an authority.
    ///
    /// # Errors
    /// A sentence that completes the name of the field.
    pub(crate) fn parse(pem: &str) -> Result<Self, &'static str> {
        let der = read(pem)?;
        let certificate = parse(&der).ok_or("it is not an X.509 certificate")?;
        if !certificate.is_ca() {
            return Err("it is not the certificate of an authority: its basic constraints have to have CA:TRUE");
        }
        if certificate.key_usage().ok().flatten().is_some_and(|usage| !usage.value.key_cert_sign()) {
            return Err("its key usage does not allow it to sign certificates");
        }
        let key_id = certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
            _ => None,
        });
        let key = certificate.public_key();
        let bits = key.subject_public_key.data.as_ref();
        // The id is a hash of the key (RFC 5280, RFC 7093), so that only the owner of the key can
        // register it.
        let hashes = [digest(&SHA1_FOR_LEGACY_USE_ONLY, bits), digest(&SHA256, bits), digest(&SHA256, key.raw)];
        let is_hash = |id: &[u8]| hashes.iter().any(|hash| id.len() >= 20 && hash.as_ref().starts_with(id));
        let key_id = key_id.filter(|id| is_hash(id)).ok_or(
            "its subject key identifier is missing or not a hash of its key: \
             make it with subjectKeyIdentifier = hash",
        )?;
        let expires = expires(&der).ok_or("its time of expiry cannot be read")?;
        let (id, fingerprint) = (authority_id(key_id), Fingerprint::of(&der));
        Ok(Self { id, fingerprint, expires, verifier: verifier(der).ok_or("it cannot verify certificates")? })
    }

    /// Verifies a chain, the certificate of the client first, and the time.
    pub(crate) fn verify(&self, chain: &[Vec<u8>], now: Nanos) -> bool {
        let chain: Vec<_> = chain.iter().map(|der| CertificateDer::from_slice(der)).collect();
        let Some((client, intermediates)) = chain.split_first() else { return false };
        let now = UnixTime::since_unix_epoch(Duration::from_nanos(now.max(0).unsigned_abs()));
        self.verifier.verify_client_cert(client, intermediates, now).is_ok()
    }
}

fn verifier(der: Vec<u8>) -> Option<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(der)).ok()?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().ok()
}

/// Returns the common name of a certificate, if it has one.
pub(crate) fn common_name(der: &[u8]) -> Option<String> {
    only(parse(der)?.subject().iter_common_name().filter_map(|name| name.as_str().ok().map(str::to_owned)))
}

/// Returns the common name of a certification request (PKCS #10, PEM) that the key of a certificate
/// has signed.
///
/// # Errors
/// A sentence that completes the name of the field.
pub(crate) fn requested_name(pem: &str, der: &[u8]) -> Result<Option<String>, &'static str> {
    const MISSING: &str = "it has no PEM section `CERTIFICATE REQUEST`: `openssl req -new` makes one";
    if pem.len() > MAX_PEM_BYTES {
        return Err("it is longer than 32 KiB");
    }
    let sections = <(SectionKind, Vec<u8>)>::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok);
    let request = only(sections.filter(|(kind, _)| *kind == SectionKind::Csr)).ok_or(MISSING)?.1;
    let (_, request) = X509CertificationRequest::from_der(&request).map_err(|_| MISSING)?;
    let info = &request.certification_request_info;
    let certificate = parse(der).ok_or("the certificate cannot be read")?;
    if info.subject_pki.raw != certificate.public_key().raw {
        return Err("it is for another key than that of the certificate");
    }
    let algorithm = request.signature_algorithm.algorithm.to_id_string();
    let candidates: &[&'static dyn VerificationAlgorithm] = match algorithm.as_str() {
        "1.2.840.10045.4.3.2" => &[&ECDSA_P256_SHA256_ASN1, &ECDSA_P384_SHA256_ASN1],
        "1.2.840.10045.4.3.3" => &[&ECDSA_P256_SHA384_ASN1, &ECDSA_P384_SHA384_ASN1],
        "1.2.840.10045.4.3.4" => &[&ECDSA_P521_SHA512_ASN1],
        "1.2.840.113549.1.1.11" => &[&RSA_PKCS1_2048_8192_SHA256],
        "1.2.840.113549.1.1.12" => &[&RSA_PKCS1_2048_8192_SHA384],
        "1.2.840.113549.1.1.13" => &[&RSA_PKCS1_2048_8192_SHA512],
        "1.3.101.112" => &[&ED25519],
        _ => return Err("its signature is not ECDSA, Ed25519 or RSA with SHA-2"),
    };
    let signature = request.signature_value.data.as_ref();
    let is_signed = |algorithm: &&'static dyn VerificationAlgorithm| {
        UnparsedPublicKey::new(*algorithm, info.subject_pki.raw).verify(info.raw, signature).is_ok()
    };
    if !candidates.iter().any(is_signed) {
        return Err("its signature is not valid");
    }
    Ok(only(info.subject.iter_common_name().filter_map(|name| name.as_str().ok().map(str::to_owned))))
}

/// Returns the device that a certificate names.
pub(crate) fn device(der: &[u8], identity: CertificateIdentity, tenant: &str) -> Option<String> {
    if identity == CertificateIdentity::CommonName {
        return common_name(der);
    }
    let certificate = parse(der)?;
    let names = certificate.subject_alternative_name().ok()??;
    only(names.value.general_names.iter().filter_map(|name| match (identity, name) {
        (CertificateIdentity::SanDns, GeneralName::DNSName(name)) => Some((*name).to_owned()),
        (CertificateIdentity::SanUri, GeneralName::URI(name)) => {
            let rest = name.strip_prefix("urn:weir:")?.strip_prefix(tenant)?;
            rest.strip_prefix(':').map(str::to_owned)
        }
        _ => None,
    }))
}

/// Returns the item of an iterator that has one.
fn only<T>(mut all: impl Iterator<Item = T>) -> Option<T> {
    all.next().filter(|_| all.next().is_none())
}
