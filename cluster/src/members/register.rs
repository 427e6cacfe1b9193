//! The register of the processes, on the Redis of the shared pool.

use std::time::Duration;

use buffer::redis::{Access, AccessError, Command, Redis, Reply};

use super::exchange::Exchange;
use super::member::Member;

/// Hash tag of the keys that a fleet has once.
const TAG: &str = "logs";
/// Name of the register: process → its pools.
const PROCESSES: &str = "processes";

/// The processes of a fleet. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Members {
    access: Access,
}

/// The reason why there is no secret of tokens.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The server does not answer: retry.
    #[error(transparent)]
    Unavailable(#[from] AccessError),
    /// The stored one is invalid.
    #[error("{key} is not 32 bytes long: delete the key (page and resume tokens then end)")]
    Damaged {
        /// The key on Redis.
        key: String,
    },
}

impl Members {
    /// The processes that are registered on the Redis of the shared pool.
    pub fn of(redis: &Redis) -> Self {
        Self { access: redis.access(TAG) }
    }

    /// Returns all processes that there are now.
    ///
    /// # Errors
    /// [`AccessError`] when the server does not answer.
    pub async fn list(&self) -> Result<Vec<Member>, AccessError> {
        self.announced("", "", Duration::ZERO).await
    }

    /// Registers a process for `time` from now, and returns all that there are.
    ///
    /// # Errors
    /// [`AccessError`] when the server does not answer.
    pub async fn announce(&self, member: &Member, time: Duration) -> Result<Vec<Member>, AccessError> {
        self.announced(&member.entry(), &member.value(), time).await
    }

    /// Ends the registration of a process.
    ///
    /// # Errors
    /// [`AccessError`] when the server does not answer: it expires.
    pub async fn withdraw(&self, member: &Member) -> Result<(), AccessError> {
        self.announced(&member.entry(), "", Duration::ZERO).await.map(drop)
    }

    /// Returns the exchange of reports of a process, which the others forget when they are older
    /// than `valid`.
    pub fn exchange(&self, member: &Member, valid: Duration) -> Exchange {
        Exchange::new(self.access.clone(), member.entry(), valid)
    }

    /// Returns the secret of tokens that all processes share: `offered` by the first that asks.
    ///
    /// # Errors
    /// [`SecretError`].
    pub async fn token_secret(&self, offered: [u8; 32]) -> Result<[u8; 32], SecretError> {
        let key = format!("{}secret", self.access.prefix());
        self.access.run(&Command::new("SETNX").arg(&key).arg(offered)).await?;
        match self.access.run(&Command::new("GET").arg(&key)).await? {
            Reply::Bytes(held) => held.try_into().map_err(|_| SecretError::Damaged { key }),
            _ => Err(SecretError::Damaged { key }),
        }
    }

    async fn announced(&self, entry: &str, value: &str, time: Duration) -> Result<Vec<Member>, AccessError> {
        let all = self.access.announce(PROCESSES, (entry, value), time).await?;
        Ok(all.iter().filter_map(|(entry, value)| Member::parse(entry, value)).collect())
    }
}
