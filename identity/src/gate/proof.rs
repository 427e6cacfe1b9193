//! The proof that a credential asks for, and what a client or caller presents.

use std::sync::LazyLock;

use jsonwebtoken::DecodingKey;
use model::Nanos;

use super::jwt::{Claims, SignedToken};
use super::passwords::KnownPassword;
use crate::certificate::Fingerprint;
use crate::public_key::{KeyAlgorithm, PublicKey};
use crate::registry::{Credential, CredentialKind};
use crate::secret::Verdict;
use crate::{CredentialId, Digest, Peppers, Token};

/// A credential as it is presented.
#[derive(Debug, Clone, Copy)]
pub(super) enum Presented<'a> {
    /// A generated secret.
    Secret(&'a Token),
    /// A token that the client has signed.
    Signed(&'a SignedToken<'a>),
    /// A certificate, with whose key the client has signed the handshake.
    Certificate(Fingerprint),
}

/// The proof that a credential asks for.
#[derive(Debug)]
pub(super) enum Proof {
    /// A generated secret with this digest.
    Digest(Digest),
    /// A token with a signature of this key.
    Key(PinnedKey),
    /// The certificate with this fingerprint.
    Certificate(Fingerprint),
    /// A chosen password.
    Password(KnownPassword),
    /// An authority identifies no client itself.
    None,
}

/// A public key, with the only algorithm that it is used with.
#[derive(Debug)]
pub(super) struct PinnedKey {
    algorithm: KeyAlgorithm,
    key: DecodingKey,
    bytes: usize,
}

/// The outcome of a comparison.
#[derive(Debug)]
pub(super) enum Outcome {
    Wrong,
    /// The right secret, for the digest that it has to be kept as.
    Secret(Digest),
    /// The right signature. The claims are not checked yet.
    Signed(Claims),
    /// The right certificate.
    Certificate,
}

impl PinnedKey {
    fn new(key: PublicKey) -> Self {
        let (algorithm, key, bytes) = key.into_checked();
        Self { algorithm, key, bytes }
    }
}

/// Keys that sign nothing, so that a token without a key is checked as long as one with a key: the
/// generator of P-256, the base point of Ed25519, a modulus that is not a product of two primes.
static KEYS_OF_NONE: LazyLock<[PinnedKey; 3]> = LazyLock::new(|| {
    const GENERATOR: [u8; 65] = [
        0x04, 0x6B, 0x17, 0xD1, 0xF2, 0xE1, 0x2C, 0x42, 0x47, 0xF8, 0xBC, 0xE6, 0xE5, 0x63, 0xA4, 0x40, 0xF2, 0x77,
        0x03, 0x7D, 0x81, 0x2D, 0xEB, 0x33, 0xA0, 0xF4, 0xA1, 0x39, 0x45, 0xD8, 0x98, 0xC2, 0x96, 0x4F, 0xE3, 0x42,
        0xE2, 0xFE, 0x1A, 0x7F, 0x9B, 0x8E, 0xE7, 0xEB, 0x4A, 0x7C, 0x0F, 0x9E, 0x16, 0x2B, 0xCE, 0x33, 0x57, 0x6B,
        0x31, 0x5E, 0xCE, 0xCB, 0xB6, 0x40, 0x68, 0x37, 0xBF, 0x51, 0xF5,
    ];
    let mut base = [0x66; 32];
    base[0] = 0x58;
    let key = |algorithm, key| PinnedKey { algorithm, key, bytes: 0 };
    [
        key(KeyAlgorithm::Es256, DecodingKey::from_ec_der(&GENERATOR)),
        key(KeyAlgorithm::EdDsa, DecodingKey::from_ed_der(&base)),
        key(KeyAlgorithm::Rs256, DecodingKey::from_rsa_raw_components(&[0xFF; 256], &[1, 0, 1])),
    ]
});

impl Proof {
    /// Returns the proof that a credential asks for, if it can be presented.
    pub(super) fn of(credential: &Credential) -> Option<Self> {
        match &credential.kind {
            CredentialKind::DeviceKey { public_key, .. } => match PublicKey::parse(public_key) {
                Ok(key) => Some(Self::Key(PinnedKey::new(key))),
                Err(reason) => {
                    tracing::error!(credential = %credential.id, reason, "the key of a device cannot be read");
                    None
                }
            },
            CredentialKind::DeviceCertificate { fingerprint, .. } => {
                Fingerprint::parse(fingerprint).map(Self::Certificate)
            }
            _ => credential.digest.map(Self::Digest),
        }
    }

    /// True for the same proof of another time: a key never changes, a digest does with its pepper.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Digest(one), Self::Digest(other)) => one == other,
            (Self::Key(_), Self::Key(_)) | (Self::None, Self::None) => true,
            (Self::Certificate(one), Self::Certificate(other)) => one == other,
            (Self::Password(one), Self::Password(other)) => one.is_same(other),
            _ => false,
        }
    }

    /// False for a digest under a pepper that is no longer the current one.
    pub(super) fn is_current(&self, peppers: &Peppers) -> bool {
        match self {
            Self::Digest(digest) => peppers.is_current(digest.pepper),
            Self::Key(_) | Self::Certificate(_) | Self::Password(_) | Self::None => true,
        }
    }

    /// Bytes on the heap.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Digest(_) | Self::Certificate(_) | Self::Password(_) | Self::None => 0,
            Self::Key(key) => key.bytes,
        }
    }
}

impl Presented<'_> {
    /// Returns the id of the credential that it names.
    pub(super) fn id(&self) -> CredentialId {
        match self {
            Self::Secret(token) => token.id(),
            Self::Signed(token) => token.kid(),
            Self::Certificate(print) => print.id(),
        }
    }

    /// Compares it with a proof. Without one, or with one of another kind, the same work is done.
    pub(super) fn compare(&self, proof: Option<&Proof>, peppers: &Peppers) -> Outcome {
        match self {
            Self::Secret(token) => {
                let kept = match proof {
                    Some(Proof::Digest(digest)) => Some(digest),
                    _ => None,
                };
                match (peppers.verify(token, kept), kept) {
                    (Verdict::Right, Some(kept)) => Outcome::Secret(*kept),
                    (Verdict::Old, Some(_)) => Outcome::Secret(peppers.digest(token)),
                    _ => Outcome::Wrong,
                }
            }
            Self::Certificate(print) => match proof {
                Some(Proof::Certificate(kept)) if kept == print => Outcome::Certificate,
                _ => Outcome::Wrong,
            },
            Self::Signed(token) => {
                let pinned = match proof {
                    Some(Proof::Key(key)) if token.algorithm() == Some(key.algorithm) => Some(key),
                    _ => None,
                };
                let none = KEYS_OF_NONE.iter().find(|key| token.algorithm() == Some(key.algorithm));
                let Some(key) = pinned.or(none) else { return Outcome::Wrong };
                match token.verify(key.algorithm, &key.key).filter(|_| pinned.is_some()) {
                    Some(claims) => Outcome::Signed(claims),
                    None => Outcome::Wrong,
                }
            }
        }
    }
}

impl Outcome {
    /// Checks the claims of a token: `None` when they are not valid, otherwise the time at which
    /// what was presented expires, if it does.
    pub(super) fn ends(&self, tenant: &str, device: Option<&str>, now: Nanos) -> Option<Option<Nanos>> {
        match self {
            Self::Wrong => None,
            Self::Secret(_) | Self::Certificate => Some(None),
            Self::Signed(claims) => claims.check(tenant, device?, now).map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey};

    use super::*;

    #[test]
    fn keys_that_sign_nothing_are_keys() {
        for (key, algorithm) in KEYS_OF_NONE.iter().zip([&ECDSA_P256_SHA256_FIXED as &'static _, &ED25519 as _]) {
            let key = key.key.try_get_as_bytes().unwrap();
            assert!(ParsedPublicKey::new(algorithm, key).is_ok());
        }
    }
}
