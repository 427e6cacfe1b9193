//! `[auth]`: who may connect and call.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Config;

/// Most topics of a list.
const MOST_TOPICS: usize = 64;

/// `[auth]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Auth {
    /// Devices connect with a secret of their own (`weir devices add`), callers of the API with a
    /// key (`weir keys add`); without it, every client may do everything. `weir init` makes the
    /// first key.
    pub(crate) required: bool,
    /// Topics that a device may publish to, as topic filters; `{device}` is its id.
    pub(crate) publish: Vec<String>,
    /// Topics that a device may subscribe to, as topic filters; `{device}` is its id.
    pub(crate) subscribe: Vec<String>,
}

impl Default for Auth {
    fn default() -> Self {
        let own = || vec!["devices/{device}/#".to_owned()];
        Self { required: false, publish: own(), subscribe: own() }
    }
}

impl Auth {
    /// Checks the topics, and that one process has the registry.
    pub(super) fn check(&self, config: &Config) -> anyhow::Result<()> {
        for (key, topics) in [("auth.publish", &self.publish), ("auth.subscribe", &self.subscribe)] {
            anyhow::ensure!(
                topics.len() <= MOST_TOPICS,
                "`{key}` has {} topics: give at most {MOST_TOPICS}",
                topics.len()
            );
            for topic in topics {
                let sample = topic.replace("{device}", "d");
                model::topic::check_filter(&sample).map_err(|error| {
                    anyhow::anyhow!("`{key}` holds {topic:?}, which is not a topic filter: {error}")
                })?;
                anyhow::ensure!(
                    topic.split('/').any(|level| level == "{device}"),
                    "`{key}` holds {topic:?}, which every device could use: one level has to be {{device}}"
                );
            }
        }
        anyhow::ensure!(
            !self.required || !config.is_fleet(),
            "`auth.required` needs one process with all roles: devices, keys and the audit are in its data folder, which \
             several processes cannot share"
        );
        Ok(())
    }
}
