//! Registers: names with a value, each for a time that its owner renews.

use std::time::Duration;

use redis::RedisResult;

use super::access::{Access, AccessError, failed};
use super::servers::Servers;
use super::{millis, scripts};

/// Names and their values, by name.
type Registered = Vec<(String, String)>;

impl Servers {
    /// Registers a name with a value in the register `key` for a time from now, and returns all
    /// that are registered. Without a time the name no longer is.
    pub(super) async fn announce(
        &self,
        key: &str,
        (name, value): (&str, &str),
        time: Duration,
    ) -> RedisResult<Registered> {
        let mut alive: Registered = self.script(&scripts::ANNOUNCE, &[key], &[&millis(time), name, value]).await?;
        alive.sort_unstable();
        Ok(alive)
    }
}

impl Access {
    /// Registers a name with a value in a register for a time from now, and returns all that are
    /// registered. Without a time the name no longer is: an empty one only asks.
    ///
    /// # Errors
    /// [`AccessError`].
    pub async fn announce(
        &self,
        register: &str,
        entry: (&str, &str),
        time: Duration,
    ) -> Result<Vec<(String, String)>, AccessError> {
        let key = format!("{}{register}", self.prefix());
        self.servers().announce(&key, entry, time).await.map_err(|error| failed(&error))
    }
}
