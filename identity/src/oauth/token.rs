//! Form and claims of an access token (RFC 7519, RFC 9068).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use model::Nanos;
use model::time::SECOND;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::issuer::{Algorithm, Issuer};
use super::key::{Key, MAX_ID_BYTES};
use crate::Role;

/// Maximum size of a token, in bytes.
const MAX_BYTES: usize = 8 << 10;
/// Difference of the clocks of an issuer and of Weir that is allowed for, in seconds.
const LEEWAY: i64 = 30;
/// Maximum size of the name of a principal, in bytes: it stands in the audit.
const MAX_NAME_BYTES: usize = 256;
/// Audiences of one token that are looked for: each costs a forged token a lookup.
const MAX_AUDIENCES: usize = 2;
/// Permissions of one token.
const MAX_SCOPES: usize = 64;

/// The reason why a token is not valid, for the log and the audit. Callers get one answer for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// It cannot be read.
    #[error("the token is malformed")]
    Malformed,
    /// Its issuer is unknown.
    #[error("the token has no issuer that is known")]
    Issuer,
    /// It is for others.
    #[error("the token is for another audience")]
    Audience,
    /// Its algorithm is not one of the issuer.
    #[error("the algorithm of the token is not allowed")]
    Algorithm,
    /// It is an id token, or of another type.
    #[error("the type of the token is not at+jwt")]
    Type,
    /// A claim is missing or of a wrong type.
    #[error("the token lacks a claim, or a claim has a wrong type")]
    Claim,
    /// It has expired.
    #[error("the token has expired")]
    Expired,
    /// It is not valid yet.
    #[error("the token is not valid yet")]
    NotYet,
    /// Its lifetime is beyond that of the issuer.
    #[error("the lifetime of the token is too long")]
    Lifetime,
    /// The issuer has no such key.
    #[error("the key of the token is unknown")]
    Key,
    /// Its signature is wrong.
    #[error("the signature of the token is wrong")]
    Signature,
    /// It names no tenant.
    #[error("the token names no tenant that exists")]
    Tenant,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    /// Extensions that have to be understood: Weir understands none.
    crit: Option<Value>,
    /// A payload that is not encoded, or compressed: not read.
    b64: Option<Value>,
    zip: Option<Value>,
}

/// A token whose form was read and nothing else.
pub struct UnverifiedToken<'a> {
    message: &'a str,
    signature: &'a str,
    header: Header,
    claims: Map<String, Value>,
    issuer: String,
}

/// The claims of a token that is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// Name of the principal: `oidc:{iss}#{sub}`, `client:{iss}#{client_id}`.
    pub principal: String,
    /// Time from which the token is no longer valid, with the leeway.
    pub expires: Nanos,
    /// Highest role of the role claim.
    pub role: Option<Role>,
    /// Permissions that its scopes limit it to, perhaps none; `None` when they do not limit it.
    pub scopes: Option<Vec<Box<str>>>,
    /// Tenant of the tenant claim.
    pub tenant: Option<String>,
}

impl<'a> UnverifiedToken<'a> {
    /// True when a credential has the form of a token: three parts, the first a JSON object.
    pub fn is_like(token: &str) -> bool {
        token.starts_with("ey") && token.bytes().filter(|byte| *byte == b'.').count() == 2
    }

    /// Reads the form of a token.
    ///
    /// # Errors
    /// [`TokenFault::Malformed`]; [`TokenFault::Issuer`] when it names none.
    pub fn parse(token: &'a str) -> Result<Self, TokenFault> {
        if token.len() > MAX_BYTES {
            return Err(TokenFault::Malformed);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(TokenFault::Malformed)?;
        let (header, claims) = message.split_once('.').ok_or(TokenFault::Malformed)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenFault::Malformed);
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| TokenFault::Malformed)?;
        let claims: Map<String, Value> = serde_json::from_slice(&decode(claims)?).map_err(|_| TokenFault::Malformed)?;
        if header.crit.is_some() || header.b64.is_some() || header.zip.is_some() {
            return Err(TokenFault::Malformed);
        }
        let issuer = claims.get("iss").and_then(Value::as_str).ok_or(TokenFault::Issuer)?.to_owned();
        Ok(Self { message, signature, header, claims, issuer })
    }

    /// Returns the issuer that it names.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Returns the audiences that it names, at most the first 2 of them.
    pub fn audiences(&self) -> impl Iterator<Item = &str> {
        let (one, all) = match self.claims.get("aud") {
            Some(Value::Array(all)) => (None, &all[..]),
            Some(one) => (Some(one), &[][..]),
            None => (None, &[][..]),
        };
        one.into_iter().chain(all).take(MAX_AUDIENCES).filter_map(Value::as_str)
    }

    /// Returns its algorithm if the issuer may use it.
    pub(super) fn algorithm(&self, settings: &Issuer) -> Result<Algorithm, TokenFault> {
        let named = Algorithm::parse(&self.header.alg).filter(|named| settings.algorithms.contains(named));
        named.ok_or(TokenFault::Algorithm)
    }

    /// Returns the id of its key.
    pub(super) fn key_id(&self) -> Result<&str, TokenFault> {
        let id = self.header.kid.as_deref().filter(|id| !id.is_empty() && id.len() <= MAX_ID_BYTES);
        id.ok_or(TokenFault::Key)
    }

    /// Checks its signature.
    pub(super) fn verify(&self, algorithm: Algorithm, key: &Key) -> Result<(), TokenFault> {
        let is_right = key.verifies(algorithm, self.message.as_bytes(), self.signature);
        if is_right { Ok(()) } else { Err(TokenFault::Signature) }
    }

    /// Checks everything but the signature.
    pub(super) fn check(&self, settings: &Issuer, now: Nanos) -> Result<Claims, TokenFault> {
        if self.issuer != settings.url {
            return Err(TokenFault::Issuer);
        }
        if !self.audiences().any(|audience| audience == settings.audience) {
            return Err(TokenFault::Audience);
        }
        self.algorithm(settings)?;
        if !settings.any_type && !self.is_access_token() {
            return Err(TokenFault::Type);
        }
        let expires = self.check_times(settings, now)?;
        let tenant = match &settings.tenant_claim {
            Some(claim) => Some(self.find(claim).and_then(Value::as_str).ok_or(TokenFault::Tenant)?.to_owned()),
            None => None,
        };
        Ok(Claims {
            principal: self.principal()?,
            expires,
            role: self.role(settings),
            scopes: self.scopes(settings),
            tenant,
        })
    }

    fn is_access_token(&self) -> bool {
        let given = self.header.typ.as_deref().unwrap_or_default().to_ascii_lowercase();
        given.strip_prefix("application/").unwrap_or(&given) == "at+jwt"
    }

    /// Returns the time from which it is no longer valid.
    fn check_times(&self, settings: &Issuer, now: Nanos) -> Result<Nanos, TokenFault> {
        let now = now / SECOND;
        let (expires, issued) =
            (self.time("exp")?.ok_or(TokenFault::Claim)?, self.time("iat")?.ok_or(TokenFault::Claim)?);
        let begins = self.time("nbf")?.unwrap_or(issued);
        if now >= expires.saturating_add(LEEWAY) {
            return Err(TokenFault::Expired);
        }
        if issued.max(begins).saturating_sub(LEEWAY) > now {
            return Err(TokenFault::NotYet);
        }
        if expires.saturating_sub(issued) > i64::from(settings.max_lifetime_secs) || issued > expires {
            return Err(TokenFault::Lifetime);
        }
        // Within a day of now, so that it is in the range.
        Ok(expires.saturating_add(LEEWAY).saturating_mul(SECOND))
    }

    /// Returns a claim in seconds since 1970.
    fn time(&self, claim: &str) -> Result<Option<i64>, TokenFault> {
        let Some(given) = self.claims.get(claim) else { return Ok(None) };
        // Fractions are allowed; values beyond the range of seconds are not times.
        let seconds = given.as_f64().filter(|seconds| seconds.abs() < 1e15).ok_or(TokenFault::Claim)?;
        #[expect(clippy::cast_possible_truncation, reason = "it is in the range, and fractions are cut")]
        Ok(Some(seconds.floor() as i64))
    }

    fn principal(&self) -> Result<String, TokenFault> {
        let text = |claim: &str| self.claims.get(claim).and_then(Value::as_str).filter(|text| !text.is_empty());
        let subject = text("sub").ok_or(TokenFault::Claim)?;
        let client = text("client_id").or_else(|| text("azp"));
        // A client that acts for itself is its own subject.
        let kind = if client == Some(subject) { "client" } else { "oidc" };
        let name = format!("{kind}:{}#{subject}", self.issuer);
        let is_good = name.len() <= MAX_NAME_BYTES && !name.chars().any(char::is_control);
        if is_good { Ok(name) } else { Err(TokenFault::Claim) }
    }

    /// Returns a claim by its name, or by a path of names.
    fn find(&self, claim: &str) -> Option<&Value> {
        self.claims.get(claim).or_else(|| {
            let mut names = claim.split('.');
            let first = self.claims.get(names.next()?)?;
            names.try_fold(first, |value, name| value.get(name))
        })
    }

    fn role(&self, settings: &Issuer) -> Option<Role> {
        let value = self.find(settings.role_claim.as_deref()?)?;
        let of = |text: &str| settings.roles.iter().filter(|role| role.value == text).map(|role| role.role).max();
        let role = match value {
            // Not split: names of groups may hold spaces.
            Value::String(text) => of(text),
            Value::Array(all) => all.iter().filter_map(Value::as_str).filter_map(of).max(),
            _ => None,
        };
        role.map(|role| role.min(settings.max_role))
    }

    /// Returns the permissions among its scopes, which limit its role: none when the claim names
    /// none or cannot be read. `None` without the claim, and for issuers whose scopes are not used.
    fn scopes(&self, settings: &Issuer) -> Option<Vec<Box<str>>> {
        if settings.ignores_scopes {
            return None;
        }
        let scopes: Vec<&str> = match self.claims.get("scope").or_else(|| self.claims.get("scp"))? {
            Value::String(text) => text.split(' ').collect(),
            Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let named = scopes.into_iter().filter(|scope| Role::is_permission(scope)).take(MAX_SCOPES);
        let mut named: Vec<Box<str>> = named.map(Box::from).collect();
        named.sort_unstable();
        named.dedup();
        Some(named)
    }
}
