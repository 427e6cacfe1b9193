//! Subscribers of a scenario.

use std::time::Duration;

use anyhow::ensure;
use serde::{Deserialize, Serialize};

use super::{Version, duration};

/// A group of subscribers with sessions that last. Each delivery is recorded and verified.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subscribers {
    /// Name of the group; the client ids are `NAME-0`, `NAME-1`, …
    pub name: String,
    /// Number of subscribers.
    #[serde(default = "one")]
    pub count: u32,
    /// Topic filter.
    pub filter: String,
    /// QoS of the subscription: 1 or 2.
    pub qos: u8,
    /// MQTT version: `3.1.1` or `5`.
    #[serde(default)]
    pub mqtt: Version,
    /// MQTT 5: session expiry interval.
    #[serde(with = "duration", default = "an_hour")]
    pub session_expiry: Duration,
}

impl Subscribers {
    /// Client id of a subscriber of the group.
    pub fn client(&self, number: u32) -> String {
        format!("{}-{number}", self.name)
    }

    pub(super) fn check(&self) -> anyhow::Result<()> {
        ensure!(self.count > 0, "`count` is 0: use at least 1");
        ensure!((1..=2).contains(&self.qos), "`qos` is {}: use 1 or 2, as QoS 0 promises nothing", self.qos);
        ensure!(!self.filter.is_empty(), "`filter` is empty: use `#` for all topics");
        let is_shared = self.filter.starts_with("$share/");
        ensure!(!is_shared, "`filter` is a shared subscription: each subscriber has to get all messages");
        Ok(())
    }
}

fn one() -> u32 {
    1
}

fn an_hour() -> Duration {
    Duration::from_secs(3600)
}

/// True when a topic name matches a filter (MQTT 5.0, section 4.7).
pub fn matches(filter: &str, topic: &str) -> bool {
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        match (wanted, levels.next()) {
            ("#", _) => return !topic.starts_with('$'),
            ("+", Some(level)) if !level.starts_with('$') => {}
            (wanted, Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}
