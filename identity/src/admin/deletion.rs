//! The deletion of a tenant, as operators ask for it.

use model::Nanos;
use model::time::SECOND;

use super::{Admin, By, check};
use crate::registry::{Deletion, DeletionStep, Error, Result, Tenant};

/// Time between the request and the removal of data, unless another one is given.
const GRACE: Nanos = 30 * 24 * 3600 * SECOND;

impl Admin {
    /// Deletes a tenant: its credentials are refused and its sessions end at once, its data is
    /// removed from `purge` on, by default in 30 days. Asked for again, the earlier time counts.
    ///
    /// # Errors
    /// [`Error::NotFound`]. [`Error::Conflict`]: the tenant has another version.
    /// [`Error::Invalid`], [`Error::Unavailable`].
    pub async fn delete_tenant(
        &self,
        id: &str,
        reason: &str,
        purge: Option<Nanos>,
        version: Option<u64>,
        by: &By,
    ) -> Result<Tenant> {
        let origin = self.origin("DeleteTenant", by)?;
        check::tenant(id)?;
        check::text("reason", reason)?;
        let purge = check::purge_time(purge, GRACE, origin.at)?;
        let step = DeletionStep::Request { version, reason: reason.to_owned(), purge };
        let tenant = self.registry.delete_tenant(id, &step, &origin).await?;
        if let Some(gate) = &self.gate {
            gate.revoke_tenant(id);
        }
        Ok(tenant)
    }

    /// Restores a tenant that is to be deleted, with the state that it had. One that is not to be
    /// deleted stays as it is.
    ///
    /// # Errors
    /// [`Error::NotFound`]. [`Error::Invalid`]: its data is being removed or is gone.
    /// [`Error::Unavailable`].
    pub async fn undelete_tenant(&self, id: &str, by: &By) -> Result<Tenant> {
        let origin = self.origin("UndeleteTenant", by)?;
        check::tenant(id)?;
        self.registry.delete_tenant(id, &DeletionStep::Cancel, &origin).await
    }

    /// Returns a tenant that is to be deleted or is deleted, and its deletion.
    ///
    /// # Errors
    /// [`Error::NotFound`]: there is no such tenant, or it is not to be deleted.
    /// [`Error::Invalid`], [`Error::Unavailable`].
    pub async fn tenant_deletion(&self, id: &str) -> Result<(Tenant, Deletion)> {
        let mut tenant = self.get_tenant(id).await?;
        match tenant.deletion.take() {
            Some(deletion) => Ok((tenant, *deletion)),
            None => Err(Error::NotFound(format!("tenants/{id}/deletion"))),
        }
    }
}
