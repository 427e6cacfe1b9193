//! Credentials of devices: a CSV file with the password, the signing key or the certificate of
//! each, and new ones that Weir accepts.

mod create;
mod file;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

pub use create::{Created, create};

/// Validity of a token, in seconds: the broker ends the connection after it.
const VALIDITY: u64 = 12 * 3600;

/// Kind of a credential, and the columns of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// A secret that Weir generates.
    Secret,
    /// A key with which the device signs tokens (JWT).
    Jwt,
    /// A certificate from an authority that Weir knows.
    Certificate,
}

/// The credential of one device.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credential {
    Password(Box<str>),
    /// A private key, DER (PKCS #8), and the parts of its tokens.
    Key {
        tenant: Box<str>,
        id: Box<str>,
        key: Box<[u8]>,
    },
    Certificate(tls::Identity),
}

impl fmt::Debug for Credential {
    /// Without the secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Credential").field(&self.kind()).finish()
    }
}

impl Credential {
    fn kind(&self) -> Kind {
        match self {
            Self::Password(_) => Kind::Secret,
            Self::Key { .. } => Kind::Jwt,
            Self::Certificate(_) => Kind::Certificate,
        }
    }

    fn password(&self) -> anyhow::Result<Option<Cow<'_, str>>> {
        match self {
            Self::Password(password) => Ok(Some(Cow::Borrowed(password))),
            Self::Certificate(_) => Ok(None),
            Self::Key { tenant, id, key } => token(tenant, id, key).map(|token| Some(Cow::Owned(token))),
        }
    }
}

/// Claims of a token.
#[derive(Serialize)]
struct Claims {
    aud: String,
    iat: u64,
    exp: u64,
}

fn token(tenant: &str, id: &str, key: &[u8]) -> anyhow::Result<String> {
    let iat = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs();
    let header = Header { kid: Some(id.to_owned()), ..Header::new(Algorithm::ES256) };
    let claims = Claims { aud: format!("weir:{tenant}"), iat, exp: iat + VALIDITY };
    jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ec_der(key)).context("sign a token")
}

/// A device's answer to the question who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Login<'a> {
    /// The id of the device.
    pub(crate) username: &'a str,
    /// A certificate has none.
    pub(crate) password: Option<Cow<'a, str>>,
}

/// Credentials by device id. Cheap to clone.
#[derive(Clone, Default)]
pub struct Credentials(Arc<HashMap<Box<str>, Credential>>);

impl fmt::Debug for Credentials {
    /// Without the secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Credentials").field(&self.0.len()).finish()
    }
}

impl Credentials {
    /// Reads a file of `weir-sim credentials`.
    ///
    /// # Errors
    /// Names the file and the line.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        file::read(path).map(|found| Self(Arc::new(found)))
    }

    /// User name and password for the next connection of a device; a new token each time. `None`
    /// for a device without a credential.
    ///
    /// # Errors
    /// When its key cannot sign.
    pub(crate) fn login<'a>(&'a self, device: &'a str) -> anyhow::Result<Option<Login<'a>>> {
        let Some(credential) = self.0.get(device) else { return Ok(None) };
        Ok(Some(Login { username: device, password: credential.password()? }))
    }

    /// The certificate of a device.
    pub(crate) fn identity(&self, device: &str) -> Option<&tls::Identity> {
        match self.0.get(device)? {
            Credential::Certificate(identity) => Some(identity),
            Credential::Password(_) | Credential::Key { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests;
