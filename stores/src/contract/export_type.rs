use std::sync::Arc;

use envelope::Keyring;
use prometheus_client::registry::Registry;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Export;

/// A type of export, implemented by its settings.
///
/// The fields are keys of `[[export]]`, with `#[serde(default)]` and without `deny_unknown_fields`;
/// the first paragraph of a field's comment is its text in `weir config`. Every key has a default
/// that can be written: an `Option` needs [`model::setting::empty_is_none`] or a like form.
pub trait ExportType: Default + Serialize + DeserializeOwned + JsonSchema + Send + 'static {
    /// `type` in the configuration.
    const TYPE: &'static str;

    /// Counted by all exports of the type together.
    type Metrics: Default + Send + Sync + 'static;

    /// Puts the metrics into a registry.
    fn register(metrics: &Self::Metrics, registry: &mut Registry);

    /// Checks the settings of the export `name` as far as possible without its system.
    ///
    /// # Errors
    /// Names the key and what to do.
    fn check(&self, name: &str) -> Result<(), String>;

    /// Takes the keys of encryption at rest. Only a type that writes files has a use for them.
    #[must_use]
    fn with_keys(self, _: Option<Keyring>) -> Self {
        self
    }

    /// Opens the export `name`. The system is not asked for anything: [`Export::ready`] does.
    ///
    /// # Errors
    /// Names the key of a setting that cannot be used.
    fn open(
        self,
        name: &str,
        metrics: Arc<Self::Metrics>,
    ) -> impl Future<Output = Result<Arc<dyn Export>, String>> + Send;
}
