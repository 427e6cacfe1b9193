//! Public keys of devices.

use aws_lc_rs::rsa::PublicEncryptingKey;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, DecodingKey};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::{PemObject, SectionKind};

/// Bytes of a PEM file: more than the longest key needs.
const MAX_PEM_BYTES: usize = 8 << 10;
/// A longer key makes each check slow.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

/// The algorithm of a device's signatures. It follows from the public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyAlgorithm {
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
    /// RSA of 2048 to 4096 bits, PKCS #1 v1.5, with SHA-256.
    Rs256,
}

impl KeyAlgorithm {
    /// Returns its name in the header of a JWT.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
            Self::Rs256 => "RS256",
        }
    }

    /// Returns the algorithm with this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Es256, Self::EdDsa, Self::Rs256].into_iter().find(|algorithm| algorithm.as_str() == name)
    }

    /// Returns the algorithm that a header names, if it is one of these.
    pub(crate) fn of(algorithm: Algorithm) -> Option<Self> {
        match algorithm {
            Algorithm::ES256 => Some(Self::Es256),
            Algorithm::EdDSA => Some(Self::EdDsa),
            Algorithm::RS256 => Some(Self::Rs256),
            _ => None,
        }
    }

    pub(crate) fn jwt(self) -> Algorithm {
        match self {
            Self::Es256 => Algorithm::ES256,
            Self::EdDsa => Algorithm::EdDSA,
            Self::Rs256 => Algorithm::RS256,
        }
    }
}

/// A public key of a device, read from PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublicKey {
    pub(crate) algorithm: KeyAlgorithm,
    /// `SubjectPublicKeyInfo`.
    der: Vec<u8>,
}

impl PublicKey {
    /// Reads the one public key of a PEM text.
    ///
    /// # Errors
    /// A sentence that completes the name of the field.
    pub(crate) fn parse(pem: &str) -> Result<Self, &'static str> {
        const MAKE: &str = "it has no PEM section `PUBLIC KEY`: `openssl pkey -in KEY -pubout` prints it";
        if pem.len() > MAX_PEM_BYTES {
            return Err("it is longer than 8 KiB: send the PEM section `PUBLIC KEY` alone");
        }
        let mut found = None;
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem.as_bytes()) {
            match section {
                Ok((SectionKind::PublicKey, der)) if found.is_none() => found = Some(der),
                Ok((SectionKind::PublicKey, _)) => return Err("it has several keys: add one credential for each"),
                Ok((SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey, _)) => {
                    return Err("it has a private key, which stays in the device: send the public key alone");
                }
                Ok(_) => {}
                Err(_) => return Err(MAKE),
            }
        }
        let der = SubjectPublicKeyInfoDer::from(found.ok_or(MAKE)?);
        Ok(Self { algorithm: algorithm(&der)?, der: der.to_vec() })
    }

    /// Returns the key as PEM, and nothing else that the text had.
    pub(crate) fn pem(&self) -> String {
        pem("PUBLIC KEY", &self.der)
    }

    /// Returns the key for checks, and the bytes that it takes.
    pub(crate) fn into_checked(self) -> (KeyAlgorithm, DecodingKey, usize) {
        let key = match self.algorithm {
            KeyAlgorithm::Es256 => DecodingKey::from_ec_der(&self.der),
            KeyAlgorithm::EdDsa => DecodingKey::from_ed_der(&self.der),
            KeyAlgorithm::Rs256 => DecodingKey::from_rsa_der(&self.der),
        };
        (self.algorithm, key, self.der.len())
    }
}

/// Returns a section of PEM.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn algorithm(der: &[u8]) -> Result<KeyAlgorithm, &'static str> {
    if ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, der).is_ok() {
        return Ok(KeyAlgorithm::Es256);
    }
    if ParsedPublicKey::new(&ED25519, der).is_ok() {
        return Ok(KeyAlgorithm::EdDsa);
    }
    match PublicEncryptingKey::from_der(der) {
        Ok(key) if RSA_BITS.contains(&key.key_size_bits()) => Ok(KeyAlgorithm::Rs256),
        Ok(_) => Err("an RSA key has to have 2048 to 4096 bits"),
        Err(_) => Err("use a key on the curve P-256, an Ed25519 key, or an RSA key of 2048 to 4096 bits"),
    }
}
