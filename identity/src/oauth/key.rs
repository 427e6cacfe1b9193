//! Public keys of an issuer (RFC 7517).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::issuer::Algorithm;

/// Maximum count of keys in a set.
const MAX_KEYS: usize = 64;
/// Maximum size of a key id, in bytes.
pub(super) const MAX_ID_BYTES: usize = 256;
/// Sizes of RSA moduli, in bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// A key that verifies signatures.
pub(super) struct Key {
    id: String,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
    print: [u8; 32],
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("id", &self.id).field("algorithms", &self.algorithms).finish_non_exhaustive()
    }
}

impl Key {
    /// Returns the hash of the public key: a set that still has it holds the same one.
    pub(super) fn print(&self) -> [u8; 32] {
        self.print
    }

    /// True when a signature over a message is of this key.
    pub(super) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &str) -> bool {
        let of = match algorithm {
            Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
            Algorithm::EdDsa => jsonwebtoken::Algorithm::EdDSA,
            Algorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
            Algorithm::Ps256 => jsonwebtoken::Algorithm::PS256,
        };
        let verified = jsonwebtoken::crypto::verify(signature, message, &self.key, of);
        self.algorithms.contains(&algorithm) && verified.unwrap_or(false)
    }
}

/// The keys of an issuer.
#[derive(Debug, Default)]
pub(super) struct KeySet(Vec<Key>);

/// The members of a key that are read.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

impl KeySet {
    /// Reads a set. Keys that verify no signature of the algorithms are left out.
    ///
    /// # Errors
    /// The reason, for the operator.
    pub(super) fn parse(json: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let set: Set = serde_json::from_slice(json).map_err(|error| format!("it is not a set of keys: {error}"))?;
        if set.keys.len() > MAX_KEYS {
            return Err(format!("it has {} keys, more than {MAX_KEYS}", set.keys.len()));
        }
        let keys = set.keys.into_iter().filter_map(|key| read(serde_json::from_value(key).ok()?));
        let keys: Vec<Key> = keys.collect();
        if keys.is_empty() {
            return Err("it has no key with an id for ES256, EdDSA, RS256 or PS256".into());
        }
        Ok(Self(keys))
    }

    /// Returns the key of an id for an algorithm.
    pub(super) fn get(&self, id: &str, algorithm: Algorithm) -> Option<&Key> {
        self.0.iter().find(|key| key.id == id && key.algorithms.contains(&algorithm))
    }

    /// True when it has the key.
    pub(super) fn has(&self, print: &[u8; 32]) -> bool {
        self.0.iter().any(|key| key.print == *print)
    }

    /// Returns the count of its keys.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

fn read(jwk: Jwk) -> Option<Key> {
    let is_for_signatures = jwk.usage.as_deref().is_none_or(|usage| usage == "sig")
        && jwk.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
    let id = jwk.kid.clone().filter(|id| !id.is_empty() && id.len() <= MAX_ID_BYTES)?;
    if !is_for_signatures {
        return None;
    }
    let bytes = |member: &Option<String>| URL_SAFE_NO_PAD.decode(member.as_deref()?.trim_end_matches('=')).ok();
    let (all, key, material): (&[Algorithm], _, Vec<u8>) = match (&*jwk.kty, jwk.crv.as_deref()) {
        ("EC", Some("P-256")) => {
            let (x, y) = (bytes(&jwk.x).filter(|x| x.len() == 32)?, bytes(&jwk.y).filter(|y| y.len() == 32)?);
            let point = [&[4][..], &x, &y].concat();
            (&[Algorithm::Es256], DecodingKey::from_ec_der(&point), point)
        }
        ("OKP", Some("Ed25519")) => {
            let x = bytes(&jwk.x).filter(|x| x.len() == 32)?;
            (&[Algorithm::EdDsa], DecodingKey::from_ed_der(&x), x)
        }
        ("RSA", _) => {
            let (n, e) = (bytes(&jwk.n)?, bytes(&jwk.e).filter(|e| (1..=4).contains(&e.len()))?);
            let first = n.iter().position(|byte| *byte != 0)?;
            let bits = (n.len() - first) * 8 - n[first].leading_zeros() as usize;
            if !RSA_BITS.contains(&bits) {
                return None;
            }
            let key = DecodingKey::from_rsa_raw_components(&n[first..], &e);
            (&[Algorithm::Rs256, Algorithm::Ps256], key, [&n[first..], &e].concat())
        }
        _ => return None,
    };
    let algorithms: Vec<Algorithm> = match &jwk.alg {
        None => all.to_vec(),
        Some(named) => all.iter().copied().filter(|one| Algorithm::parse(named) == Some(*one)).collect(),
    };
    let print = Sha256::new().chain_update(id.as_bytes()).chain_update([0]).chain_update(material).finalize().into();
    (!algorithms.is_empty()).then_some(Key { id, algorithms, key, print })
}
