//! The settings of servers that a server accepted once: `servers.json` in the data folder.
//!
//! A refusal of settings that never worked is a mistake in them and ends the start. A refusal of
//! settings that did work is a change on the server's side: it pauses what needs the server, and
//! devices are accepted.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::data_dir::{DataDir, replace};

/// Settings that servers accepted at some start. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct KnownSettings(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    secret: [u8; 32],
    /// Keyed digests by the name of the server.
    held: Mutex<BTreeMap<String, String>>,
}

/// Settings of one server, without what they say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fingerprint(String);

impl KnownSettings {
    /// Reads the file. One that is missing or cannot be read knows no settings.
    ///
    /// # Errors
    /// When the installation's secret can be neither read nor created.
    pub(super) fn open(data: &DataDir) -> anyhow::Result<Self> {
        let (path, secret) = (data.servers(), data.secret()?);
        let held = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "cannot read the settings that servers accepted");
                BTreeMap::new()
            }),
            Err(_) => BTreeMap::new(),
        };
        Ok(Self(Arc::new(Inner { path, secret, held: Mutex::new(held) })))
    }

    /// The fingerprint of settings: equal for equal settings, and of no use to anyone who reads it.
    pub(super) fn fingerprint(&self, settings: &impl Serialize) -> Fingerprint {
        let text = serde_json::to_vec(settings).unwrap_or_default();
        let digest = Sha256::new_with_prefix(self.0.secret).chain_update(text).finalize();
        Fingerprint(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// True when the server accepted these settings before.
    pub(super) fn holds(&self, server: &str, settings: &Fingerprint) -> bool {
        self.0.held.lock().get(server) == Some(&settings.0)
    }

    /// Notes that the server has accepted the settings.
    pub(super) fn accepted(&self, server: &str, settings: &Fingerprint) {
        let mut held = self.0.held.lock();
        if held.insert(server.to_owned(), settings.0.clone()).as_ref() == Some(&settings.0) {
            return;
        }
        let text = serde_json::to_vec(&*held).unwrap_or_default();
        if let Err(error) = replace(&self.0.path, &text) {
            tracing::warn!("a refusal by {server} at the next start would end it: {error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_a_server_accepted_are_known_after_a_restart_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let known = KnownSettings::open(&data).unwrap();
        let (right, wrong) = (known.fingerprint(&["http://a", "secret"]), known.fingerprint(&["http://a", "other"]));
        assert!(!known.holds("influxdb", &right));
        known.accepted("influxdb", &right);
        known.accepted("MongoDB", &wrong);
        let again = KnownSettings::open(&data).unwrap();
        assert!(again.holds("influxdb", &again.fingerprint(&["http://a", "secret"])));
        assert!(!again.holds("influxdb", &wrong) && again.holds("MongoDB", &wrong) && !again.holds("Redis", &right));
        assert!(!std::fs::read_to_string(data.servers()).unwrap().contains("secret"), "no setting can be read there");
        std::fs::write(data.servers(), "{").unwrap();
        assert!(!KnownSettings::open(&data).unwrap().holds("influxdb", &right), "a damaged file knows nothing");
    }
}
