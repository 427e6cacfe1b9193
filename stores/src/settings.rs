//! Faults in the settings of an export.

/// A setting that cannot be used; the message names the export and the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("export {export:?}: {fault}")]
pub struct SettingsError {
    /// Name of the export.
    pub export: String,
    /// The key and what is wrong with it.
    pub fault: String,
}

impl SettingsError {
    /// A fault of the export `export`.
    pub fn new(export: &str, fault: impl Into<String>) -> Self {
        Self { export: export.to_owned(), fault: fault.into() }
    }
}
