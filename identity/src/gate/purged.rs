//! The tenants whose data is being removed or is gone. They stay: what is left of them in a log
//! must not be written again.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;

use super::Gate;
use crate::registry::Error;

/// Tenants of one page.
const PAGE: usize = 1000;

#[derive(Debug, Default)]
pub(super) struct PurgedTenants(watch::Sender<BTreeSet<Arc<str>>>);

impl PurgedTenants {
    pub(super) fn add(&self, tenant: &str) {
        self.0.send_if_modified(|known| !known.contains(tenant) && known.insert(tenant.into()));
    }
}

impl Gate {
    /// Reads the tenants whose data is being removed or is gone.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn load_purged(&self) -> Result<(), Error> {
        let mut after = String::new();
        loop {
            let page = self.0.registry.tenants(&after, PAGE).await?;
            for tenant in page.iter().filter(|tenant| tenant.state.is_purged()) {
                self.0.purged.add(&tenant.id);
            }
            match page.last() {
                Some(last) if page.len() == PAGE => after.clone_from(&last.id),
                _ => return Ok(()),
            }
        }
    }

    /// Returns the tenants whose data is being removed or is gone, as they become known: at once
    /// when this process begins it, within a second when another one does.
    pub fn purged(&self) -> watch::Receiver<BTreeSet<Arc<str>>> {
        self.0.purged.0.subscribe()
    }

    /// Notes that the data of a tenant is being removed.
    pub(crate) fn purge(&self, tenant: &str) {
        self.revoke_tenant(tenant);
        self.0.purged.add(tenant);
    }
}
