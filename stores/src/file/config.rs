//! Settings of a file export.

use std::path::PathBuf;

use envelope::Keyring;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::settings::SettingsError;

/// Settings of an export of `type = "file"`: newline-delimited JSON, one object a reading.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Folder of the files; created when it is missing.
    pub folder: PathBuf,
    /// Close a file that has at least this many bytes when a delivery ends.
    pub rotate_bytes: u64,
    /// Close a file that was begun at least this many seconds ago when a delivery ends.
    pub rotate_secs: u64,
    /// With `[encryption]`, seal the lines; `weir encryption decrypt` reads them.
    pub sealed: bool,
    /// Keys that lines are sealed with; not a key of the configuration.
    #[serde(skip)]
    pub keys: Option<Keyring>,
}

impl Default for Config {
    fn default() -> Self {
        Self { folder: PathBuf::new(), rotate_bytes: 64 << 20, rotate_secs: 3_600, sealed: true, keys: None }
    }
}

impl Config {
    /// Checks the settings of the export `name`.
    ///
    /// # Errors
    /// [`SettingsError`] naming the key.
    pub fn check(&self, name: &str) -> Result<(), SettingsError> {
        let fault = |fault: &str| Err(SettingsError::new(name, fault));
        if self.folder.as_os_str().is_empty() {
            return fault("set `folder` to the folder that the files are written to");
        }
        if self.rotate_bytes == 0 || self.rotate_secs == 0 {
            return fault("`rotate_bytes` and `rotate_secs` must be at least 1");
        }
        Ok(())
    }
}
