//! The registry of the data folder: tenants, credentials and the audit.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use identity::{Admin, EmbeddedRegistry, Gate, Peppers, Registry, Topics};
use model::SystemClock;

use crate::config::Auth;

/// The open registry of a data folder.
pub(crate) struct Access {
    registry: EmbeddedRegistry,
    peppers: Arc<Peppers>,
}

impl Access {
    /// Opens the registry in a data folder; creates it when there is none.
    ///
    /// # Errors
    /// Names the file and what to do.
    pub(crate) async fn open(data: &Path) -> anyhow::Result<Self> {
        let peppers = Arc::new(Peppers::open(&data.join(PEPPERS))?);
        let path = data.join(REGISTRY);
        let registry = EmbeddedRegistry::open(path.clone())?;
        registry
            .match_peppers(peppers.fingerprints())
            .await
            .with_context(|| format!("{} and {PEPPERS} do not belong together", path.display()))?;
        Ok(Self { registry, peppers })
    }

    /// The registry, for a backup.
    pub(crate) fn registry(&self) -> EmbeddedRegistry {
        self.registry.clone()
    }

    /// Logs what to do when there is no key that a caller could have.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub(crate) async fn check_keys(&self) -> anyhow::Result<()> {
        if self.admin().list_api_keys(model::DEFAULT_TENANT, None, 1).await?.is_empty() {
            tracing::warn!("there is no API key, so no call is admitted: stop Weir and run `weir init`");
        }
        Ok(())
    }

    fn port(&self) -> Arc<dyn Registry> {
        Arc::new(self.registry.clone())
    }

    /// The changes that operators make.
    pub(crate) fn admin(&self) -> Admin {
        Admin::new(self.port(), Arc::clone(&self.peppers), Arc::new(SystemClock))
    }

    /// The check of devices and callers. It remembers those that were admitted in this many bytes.
    ///
    /// # Errors
    /// Names the key of a topic that cannot be used.
    pub(crate) fn gate(&self, config: &Auth, bytes: usize) -> anyhow::Result<Gate> {
        let topics = Topics { publish: config.publish.clone(), subscribe: config.subscribe.clone() };
        let gate = Gate::new(self.port(), Arc::clone(&self.peppers), topics, Arc::new(SystemClock))
            .context("`auth.publish` or `auth.subscribe` holds a topic that cannot be used")?;
        Ok(gate.within(bytes))
    }
}

/// The registry, in a data folder.
pub(crate) const REGISTRY: &str = "registry.redb";
/// The keys of its credentials, in a data folder.
pub(crate) const PEPPERS: &str = "peppers";
