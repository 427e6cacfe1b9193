//! Access tokens of OAuth2 issuers (RFC 9068).
//!
//! A token is checked in this order: its form, the issuer and audience that it names, its
//! algorithm, type and times, the key that it names, its signature. Keys come from the issuer
//! itself; nothing of a token's header chooses a key but its id, and nothing chooses an algorithm
//! but the settings of the issuer and the key.

mod address;
mod fetch;
mod issuer;
mod key;
mod keys;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod token;

use std::sync::Arc;

use model::{Clock, Nanos};

pub use fetch::{Fetch, FetchError, Fetched, HttpFetch, Reach};
pub use issuer::{Algorithm, Issuer, RoleOfClaim};
use keys::{Keys, KeysError};
pub use token::{Claims, TokenFault, UnverifiedToken};

/// An issuer of access tokens, with its keys.
#[derive(Debug)]
pub struct TokenIssuer {
    settings: Issuer,
    keys: Keys,
}

/// A token that is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidToken {
    /// Its claims.
    pub claims: Claims,
    /// Hash of the key that signed it.
    pub key: [u8; 32],
}

/// The reason why a token is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is not valid.
    #[error(transparent)]
    Invalid(#[from] TokenFault),
    /// The keys of its issuer cannot be read now. The text names addresses: it is for the operator.
    #[error("{0}")]
    Unavailable(Arc<str>),
}

impl TokenIssuer {
    /// An issuer whose keys are read when the first token needs them.
    pub fn new(settings: Issuer, fetch: Arc<dyn Fetch>, clock: Arc<dyn Clock>) -> Self {
        let keys = Keys::new(&settings.url, settings.reach(), fetch, clock);
        Self { settings, keys }
    }

    /// Returns its settings.
    pub fn settings(&self) -> &Issuer {
        &self.settings
    }

    /// Checks a token.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn check(&self, token: &UnverifiedToken<'_>, now: Nanos) -> Result<ValidToken, TokenError> {
        let claims = token.check(&self.settings, now)?;
        let (algorithm, id) = (token.algorithm(&self.settings)?, token.key_id()?);
        let set = self.keys.having(id, algorithm).await.map_err(|error| match error {
            KeysError::Unknown => TokenFault::Key.into(),
            KeysError::Unavailable(reason) => TokenError::Unavailable(reason),
        })?;
        let key = set.get(id, algorithm).ok_or(TokenFault::Key)?;
        token.verify(algorithm, key)?;
        Ok(ValidToken { claims, key: key.print() })
    }

    /// True when its keys are due to be read again.
    pub fn is_due(&self) -> bool {
        self.keys.is_due()
    }

    /// Reads its keys again if they are due. Returns true when they were read.
    pub async fn refresh(&self) -> bool {
        self.keys.refresh().await.is_some()
    }

    /// Returns how often its keys were read.
    pub fn reads(&self) -> u64 {
        self.keys.count()
    }

    /// True when it still has a key, or has not read any yet.
    pub fn has_key(&self, key: &[u8; 32]) -> bool {
        self.keys.current().is_none_or(|set| set.has(key))
    }

    /// Reads its keys now, for an operator: returns their count, and the header `date` of the
    /// answer.
    ///
    /// # Errors
    /// The reason, with what to do.
    pub async fn probe(&self) -> Result<(usize, Option<String>), Arc<str>> {
        self.keys.read().await?;
        Ok((self.keys.current().map_or(0, |set| set.len()), self.keys.date()))
    }
}
