//! Tokens (JWT) that devices sign themselves.
//!
//! ```text
//! header   alg: that of the key · kid: the id of the credential
//! claims   aud: weir:{tenant} · iat · exp, at most 24 hours later · sub: the device, or absent
//!          nbf: optional
//! ```
//! Clocks may differ by ten minutes. A session ends half a minute after `exp`.

use std::sync::LazyLock;

use jsonwebtoken::{DecodingKey, Validation};
use model::Nanos;
use model::time::SECOND;
use serde::Deserialize;

use crate::CredentialId;
use crate::public_key::KeyAlgorithm;

/// Bytes of a token. A longer one is not parsed.
const MAX_BYTES: usize = 8 << 10;
/// First characters of an object in base64url.
const BEGINNING: &[u8] = b"eyJ";
/// Seconds by which the clock of a device may differ when it issues a token.
const SKEW: f64 = 600.0;
/// Seconds between `iat` and `exp`, besides the skew.
const LIFETIME: f64 = 86_400.0;
/// Time after `exp` at which a session ends.
const GRACE: Nanos = 30 * SECOND;

/// A token with an id of a credential. Its signature is not checked yet.
#[derive(Clone, Copy)]
pub(super) struct SignedToken<'a> {
    text: &'a [u8],
    kid: CredentialId,
    /// The algorithm of the header, which never decides; `None` for one that no device has.
    algorithm: Option<KeyAlgorithm>,
}

impl std::fmt::Debug for SignedToken<'_> {
    /// Without the text.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignedToken").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// The claims of a token whose signature is right.
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    aud: Audience,
    sub: Option<String>,
    iat: f64,
    exp: f64,
    nbf: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

/// Times and audience are checked here, against the clock of the gate.
static VALIDATIONS: LazyLock<[Validation; 3]> = LazyLock::new(|| {
    [KeyAlgorithm::Es256, KeyAlgorithm::EdDsa, KeyAlgorithm::Rs256].map(|algorithm| {
        let mut validation = Validation::new(algorithm.jwt());
        validation.required_spec_claims.clear();
        (validation.validate_exp, validation.validate_aud) = (false, false);
        validation
    })
});

impl<'a> SignedToken<'a> {
    /// Returns a token, if the text looks like one and names a credential.
    pub(super) fn parse(text: &'a [u8]) -> Option<Self> {
        if text.len() > MAX_BYTES || !text.starts_with(BEGINNING) {
            return None;
        }
        let header = jsonwebtoken::decode_header(text).ok()?;
        let kid = CredentialId::parse(header.kid.as_deref()?)?;
        Some(Self { text, kid, algorithm: KeyAlgorithm::of(header.alg) })
    }

    pub(super) fn kid(&self) -> CredentialId {
        self.kid
    }

    pub(super) fn algorithm(&self) -> Option<KeyAlgorithm> {
        self.algorithm
    }

    /// Returns the claims if the signature is right.
    pub(super) fn verify(&self, algorithm: KeyAlgorithm, key: &DecodingKey) -> Option<Claims> {
        let validation = VALIDATIONS.iter().find(|validation| validation.algorithms == [algorithm.jwt()])?;
        jsonwebtoken::decode(self.text, key, validation).ok().map(|decoded| decoded.claims)
    }
}

impl Claims {
    /// Returns the time at which a session with this token ends; `None` when it is not valid for
    /// the device now.
    pub(super) fn check(&self, tenant: &str, device: &str, now: Nanos) -> Option<Nanos> {
        let is_for = |audience: &String| audience.strip_prefix("weir:") == Some(tenant);
        let is_ours = match &self.aud {
            Audience::One(audience) => is_for(audience),
            Audience::Several(audiences) => audiences.iter().any(is_for),
        };
        let names_device = self.sub.as_deref().is_none_or(|subject| subject == device);
        let (seconds, lifetime) = (now as f64 / SECOND as f64, self.exp - self.iat);
        let has_begun = self.iat.max(self.nbf.unwrap_or(self.iat)) <= seconds + SKEW;
        let is_short = lifetime > 0.0 && lifetime <= LIFETIME + SKEW;
        if !(is_ours && names_device && has_begun && is_short) {
            return None;
        }
        let ends = ((self.exp * SECOND as f64) as Nanos).saturating_add(GRACE);
        (ends > now).then_some(ends)
    }
}
