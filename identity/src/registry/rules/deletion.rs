//! The rules of the deletion of a tenant.

use async_trait::async_trait;

use super::{entered, event, record};
use crate::registry::deletion::Effect;
use crate::registry::device::DeviceChange;
use crate::registry::transaction::{Outcome, Rows, Work};
use crate::registry::{ChangeKind, DeletionStep, Error, INSTALLATION, Origin, Tenant, TenantState};

/// [`RegistryWrites::delete_tenant`](crate::registry::RegistryWrites::delete_tenant).
pub(in crate::registry) struct DeleteTenant(
    pub(in crate::registry) String,
    pub(in crate::registry) DeletionStep,
    pub(in crate::registry) Origin,
);

#[async_trait]
impl Work for DeleteTenant {
    type Output = Tenant;

    async fn run<R: Rows>(&self, rows: &mut R, _in_doubt: bool) -> Outcome<Tenant> {
        let Self(id, step, origin) = self;
        let mut tenant = entered(rows, id).await?;
        let before = tenant.state;
        // A step that was taken before changes nothing, or changes the same again.
        let effect = match step.apply(&mut tenant, &origin.by, origin.at)? {
            Effect::None => return Ok(tenant),
            effect => effect,
        };
        rows.put_tenant(&tenant).await?;
        if effect == Effect::Row {
            return Ok(tenant);
        }
        let name = format!("tenants/{id}");
        let detail = serde_json::to_string(&tenant.deletion).expect("plain fields are JSON");
        let detail = format!("{} after {}: {detail}", tenant.state.as_str(), before.as_str());
        if effect == Effect::End {
            rows.append(event(name.clone(), detail.clone(), origin)).await?;
            // Kept with the events of the installation: those of a tenant are read by itself.
            rows.enter(INSTALLATION).await?;
            rows.append(event(name, detail, origin)).await?;
            return Ok(tenant);
        }
        let kind = match tenant.state {
            TenantState::Active => ChangeKind::TenantActive,
            TenantState::Purging => ChangeKind::TenantPurging,
            _ => ChangeKind::TenantSuspended,
        };
        record(rows, id, name, detail, origin, kind).await?;
        Ok(tenant)
    }
}

/// [`RegistryWrites::remove_rows`](crate::registry::RegistryWrites::remove_rows).
pub(in crate::registry) struct RemoveRows(pub(in crate::registry) String, pub(in crate::registry) usize);

#[async_trait]
impl Work for RemoveRows {
    type Output = usize;

    async fn run<R: Rows>(&self, rows: &mut R, _in_doubt: bool) -> Outcome<usize> {
        let Self(id, most) = self;
        let tenant = entered(rows, id).await?;
        if !tenant.state.is_purged() {
            return Err(Error::Invalid { field: "name", reason: "its data is not being removed".to_owned() }.into());
        }
        let credentials = rows.some_credentials(id, *most).await?;
        for row in &credentials {
            rows.remove_credential(row).await?;
        }
        if !credentials.is_empty() {
            return Ok(credentials.len());
        }
        let devices = rows.some_devices(id, *most).await?;
        if !devices.is_empty() {
            let gone = |device| DeviceChange { before: Some(device), after: None };
            let changes: Vec<_> = devices.into_iter().map(gone).collect();
            rows.put_devices(&changes).await?;
            return Ok(changes.len());
        }
        if let Some(group) = rows.any_group(id).await? {
            rows.remove_group(&group).await?;
            return Ok(1);
        }
        rows.remove_requests(id).await
    }
}

/// [`RegistryWrites::count_rows`](crate::registry::RegistryWrites::count_rows).
pub(in crate::registry) struct CountRows(pub(in crate::registry) String);

#[async_trait]
impl Work for CountRows {
    type Output = u64;

    async fn run<R: Rows>(&self, rows: &mut R, _in_doubt: bool) -> Outcome<u64> {
        entered(rows, &self.0).await?;
        let groups = rows.count_groups(&self.0).await?;
        Ok(rows.count_credentials(&self.0).await? + rows.count_devices(&self.0).await? + groups as u64)
    }
}

/// Returns an error when a tenant is deleted or is to be deleted: it stays as it is.
pub(super) fn check_kept(tenant: &Tenant) -> Outcome<()> {
    let reason = match tenant.state {
        TenantState::Active | TenantState::Suspended => return Ok(()),
        TenantState::Deleting => "the tenant is to be deleted: `weir tenants undelete` takes that back",
        TenantState::Purging | TenantState::Deleted => "the tenant is deleted: use another one",
    };
    Err(Error::Invalid { field: "name", reason: reason.to_owned() }.into())
}
