//! Changes: the same work in every registry, in one transaction of each.

use async_trait::async_trait;

use super::rules::deletion::{CountRows, DeleteTenant, RemoveRows};
use super::rules::devices::{
    CreateDevice, DeleteDevice, ImportDevices, QuarantineDevices, UndeleteDevice, UpdateDevice,
};
use super::rules::groups::{ChangeMembers, CreateGroup, DeleteGroup, UpdateGroup};
use super::rules::{
    CreateCredential, CreateTenant, DeleteCredential, MatchPeppers, RecordAction, RecordDenials, RecordUses,
    SetTenantState, UpdateCredential, UpdateTenant,
};
use super::transaction::Work;
use super::{
    Created, Credential, CredentialKind, DeletionStep, Denial, Device, DeviceUpdate, Group, GroupUpdate, Imported,
    MemberChange, Origin, Owner, Result, Tenant, TenantState, TenantUpdate, Use,
};
use crate::CredentialId;

/// Makes changes in transactions.
#[async_trait]
pub(super) trait Transact: Send + Sync {
    /// Uses that one transaction records.
    const USES: usize;

    /// Makes a change in one transaction. It goes on to its end when the caller is cancelled.
    async fn change<W: Work>(&self, work: W) -> Result<W::Output>;
}

/// Changes tenants, credentials, devices and groups.
///
/// Each change is one transaction with its audit event and its entry in the control log.
#[async_trait]
pub trait RegistryWrites: Send + Sync {
    /// Compares peppers with those that the registry was used with, and keeps the fingerprints of
    /// new versions.
    ///
    /// # Errors
    /// [`Error::NeedsOperator`](super::Error::NeedsOperator) when a version is known with another
    /// fingerprint: the file of peppers belongs to another registry.
    async fn match_peppers(&self, fingerprints: Vec<(u32, [u8; 32])>) -> Result<()>;

    /// Creates a tenant. A repeat of the same request returns the tenant.
    ///
    /// # Errors
    /// [`Error::Exists`](super::Error::Exists).
    async fn create_tenant(&self, tenant: Tenant, origin: &Origin) -> Result<Created<Tenant>>;

    /// Suspends or resumes a tenant. Without a change of state nothing is written.
    ///
    /// # Errors
    /// [`Error::NotFound`](super::Error::NotFound).
    async fn set_tenant_state(&self, id: &str, state: TenantState, origin: &Origin) -> Result<Tenant>;

    /// Changes a tenant. Without a change nothing is written.
    ///
    /// # Errors
    /// [`Error::NotFound`](super::Error::NotFound). [`Error::Conflict`](super::Error::Conflict):
    /// the tenant has another version.
    async fn update_tenant(&self, id: &str, update: &TenantUpdate, origin: &Origin) -> Result<Tenant>;

    /// Takes a step of the deletion of a tenant. Without a change nothing is written.
    ///
    /// # Errors
    /// [`Error::NotFound`](super::Error::NotFound). [`Error::Conflict`](super::Error::Conflict):
    /// the tenant has another version, or another process removes its data.
    /// [`Error::Invalid`](super::Error::Invalid): the step does not follow from the state.
    async fn delete_tenant(&self, id: &str, step: &DeletionStep, origin: &Origin) -> Result<Tenant>;

    /// Removes some of the rows of a tenant whose data is being removed: credentials of all
    /// classes, devices, groups and remembered requests. Its audit and its own row stay. Returns
    /// the number of those removed, 0 when there were none.
    ///
    /// # Errors
    /// [`Error::Invalid`](super::Error::Invalid): the tenant is in another state.
    async fn remove_rows(&self, tenant: &str, most: usize) -> Result<usize>;

    /// Counts the rows that [`RegistryWrites::remove_rows`] removes, without those of requests.
    async fn count_rows(&self, tenant: &str) -> Result<u64>;

    /// Creates a credential. A repeat of the same request returns the credential of the first one,
    /// and keeps nothing of this one.
    ///
    /// # Errors
    /// [`Error::NotFound`](super::Error::NotFound): there is no such tenant.
    /// [`Error::Limit`](super::Error::Limit). [`Error::Invalid`](super::Error::Invalid): the device
    /// clashes with another, or the request id was used for another request or its credential was
    /// deleted.
    async fn create_credential(&self, credential: Credential, origin: &Origin) -> Result<Created<Credential>>;

    /// Puts other content in place of that of a credential of the same class; what it opened ends.
    /// `etag`: the content that the change is made for. Without a change nothing is written.
    ///
    /// # Errors
    /// [`Error::NotFound`](super::Error::NotFound); [`Error::Conflict`](super::Error::Conflict):
    /// the content is another one.
    async fn update_credential(
        &self,
        tenant: &str,
        id: CredentialId,
        kind: CredentialKind,
        etag: Option<&str>,
        origin: &Origin,
    ) -> Result<Credential>;

    /// Deletes a credential.
    ///
    /// # Errors
    /// [`Error::NotFound`](super::Error::NotFound), also when it belongs to another tenant or
    /// owner.
    async fn delete_credential(&self, tenant: &str, owner: Owner<'_>, id: CredentialId, origin: &Origin) -> Result<()>;

    /// Records uses of credentials; those that were deleted meanwhile are left out.
    async fn record_uses(&self, uses: &[Use]) -> Result<()>;

    /// Writes audit events of denials.
    async fn record_denials(&self, denials: &[Denial]) -> Result<()>;

    /// Writes the audit event of an action that changes nothing in the registry, of a tenant's
    /// caller: a client that is disconnected, for example.
    async fn record_action(&self, tenant: &str, resource: &str, detail: &str, origin: &Origin) -> Result<()>;

    /// Creates a group without members. A repeat of the same request returns the group.
    ///
    /// # Errors
    /// [`Error::NotFound`](super::Error::NotFound): there is no such tenant.
    /// [`Error::Exists`](super::Error::Exists). [`Error::Limit`](super::Error::Limit).
    async fn create_group(&self, group: Group, origin: &Origin) -> Result<Created<Group>>;

    /// Changes a group. Without a change nothing is written.
    ///
    /// # Errors
    /// [`Error::NotFound`](super::Error::NotFound). [`Error::Conflict`](super::Error::Conflict):
    /// the group has another version.
    async fn update_group(&self, tenant: &str, id: &str, update: &GroupUpdate, origin: &Origin) -> Result<Group>;

    /// Changes the members of a group. Without a change nothing is written. The cost is that of
    /// the devices of the change, not of all members.
    ///
    /// # Errors
    /// [`Error::NotFound`](super::Error::NotFound). [`Error::Limit`](super::Error::Limit).
    async fn change_members(&self, tenant: &str, id: &str, change: &MemberChange, origin: &Origin) -> Result<Group>;

    /// Deletes a group.
    ///
    /// # Errors
    /// [`Error::NotFound`](super::Error::NotFound). [`Error::Conflict`](super::Error::Conflict):
    /// the group has another version. [`Error::InUse`](super::Error::InUse): rights are bound to
    /// it.
    async fn delete_group(&self, tenant: &str, id: &str, version: Option<u64>, origin: &Origin) -> Result<()>;

    /// Registers a device. A repeat of the same request returns the device.
    ///
    /// # Errors
    /// [`Error::NotFound`](super::Error::NotFound): there is no such tenant.
    /// [`Error::Exists`](super::Error::Exists), also for one that was deleted.
    /// [`Error::Limit`](super::Error::Limit).
    async fn create_device(&self, device: Device, origin: &Origin) -> Result<Created<Device>>;

    /// Registers devices, each named once, and gives those that are registered the fields of these:
    /// all in one transaction, with one audit event.
    ///
    /// # Errors
    /// [`Error::NotFound`](super::Error::NotFound): there is no such tenant.
    /// [`Error::Limit`](super::Error::Limit): nothing was written.
    async fn import_devices(&self, tenant: &str, devices: Vec<Device>, origin: &Origin) -> Result<Vec<Imported>>;

    /// Registers those of these devices that are not registered, in quarantine, as far as the
    /// tenant may have them. Returns for each, in their order, the device as it is then; `None`
    /// when there is no room for it. Other processes are not told: the registration changes
    /// nothing for them.
    ///
    /// # Errors
    /// [`Error::NotFound`](super::Error::NotFound): there is no such tenant.
    async fn quarantine_devices(
        &self,
        tenant: &str,
        devices: Vec<Device>,
        origin: &Origin,
    ) -> Result<Vec<Option<Device>>>;

    /// Changes a device. Without a change nothing is written.
    ///
    /// # Errors
    /// [`Error::NotFound`](super::Error::NotFound), also for one that was deleted.
    /// [`Error::Conflict`](super::Error::Conflict): the device has another version.
    /// [`Error::Invalid`](super::Error::Invalid): it would have too many labels.
    async fn update_device(&self, tenant: &str, id: &str, update: &DeviceUpdate, origin: &Origin) -> Result<Device>;

    /// Marks a device as deleted. Its row stays, and its id is not given again.
    ///
    /// # Errors
    /// [`Error::NotFound`](super::Error::NotFound), also for one that was deleted.
    /// [`Error::Conflict`](super::Error::Conflict): the device has another version.
    async fn delete_device(&self, tenant: &str, id: &str, version: Option<u64>, origin: &Origin) -> Result<Device>;

    /// Takes the deletion of a device back. One that is not deleted stays as it is.
    ///
    /// # Errors
    /// [`Error::NotFound`](super::Error::NotFound).
    async fn undelete_device(&self, tenant: &str, id: &str, origin: &Origin) -> Result<Device>;
}

#[async_trait]
impl<T: Transact> RegistryWrites for T {
    async fn match_peppers(&self, fingerprints: Vec<(u32, [u8; 32])>) -> Result<()> {
        self.change(MatchPeppers(fingerprints)).await
    }

    async fn create_tenant(&self, tenant: Tenant, origin: &Origin) -> Result<Created<Tenant>> {
        self.change(CreateTenant(tenant, origin.clone())).await
    }

    async fn set_tenant_state(&self, id: &str, state: TenantState, origin: &Origin) -> Result<Tenant> {
        self.change(SetTenantState(id.to_owned(), state, origin.clone())).await
    }

    async fn update_tenant(&self, id: &str, update: &TenantUpdate, origin: &Origin) -> Result<Tenant> {
        self.change(UpdateTenant(id.to_owned(), update.clone(), origin.clone())).await
    }

    async fn delete_tenant(&self, id: &str, step: &DeletionStep, origin: &Origin) -> Result<Tenant> {
        self.change(DeleteTenant(id.to_owned(), step.clone(), origin.clone())).await
    }

    async fn remove_rows(&self, tenant: &str, most: usize) -> Result<usize> {
        self.change(RemoveRows(tenant.to_owned(), most)).await
    }

    async fn count_rows(&self, tenant: &str) -> Result<u64> {
        self.change(CountRows(tenant.to_owned())).await
    }

    async fn create_credential(&self, credential: Credential, origin: &Origin) -> Result<Created<Credential>> {
        self.change(CreateCredential(credential, origin.clone())).await
    }

    async fn update_credential(
        &self,
        tenant: &str,
        id: CredentialId,
        kind: CredentialKind,
        etag: Option<&str>,
        origin: &Origin,
    ) -> Result<Credential> {
        let (tenant, etag, origin) = (tenant.to_owned(), etag.map(str::to_owned), origin.clone());
        self.change(UpdateCredential { tenant, id, kind, etag, origin }).await
    }

    async fn delete_credential(&self, tenant: &str, owner: Owner<'_>, id: CredentialId, origin: &Origin) -> Result<()> {
        let (tenant, owner, origin) = (tenant.to_owned(), owner.into(), origin.clone());
        self.change(DeleteCredential { tenant, owner, id, origin }).await
    }

    async fn record_uses(&self, uses: &[Use]) -> Result<()> {
        for uses in uses.chunks(Self::USES) {
            self.change(RecordUses(uses.to_vec())).await?;
        }
        Ok(())
    }

    async fn record_denials(&self, denials: &[Denial]) -> Result<()> {
        self.change(RecordDenials(denials.to_vec())).await
    }

    async fn record_action(&self, tenant: &str, resource: &str, detail: &str, origin: &Origin) -> Result<()> {
        let (tenant, resource, detail) = (tenant.to_owned(), resource.to_owned(), detail.to_owned());
        self.change(RecordAction { tenant, resource, detail, origin: origin.clone() }).await
    }

    async fn create_group(&self, group: Group, origin: &Origin) -> Result<Created<Group>> {
        self.change(CreateGroup(group, origin.clone())).await
    }

    async fn update_group(&self, tenant: &str, id: &str, update: &GroupUpdate, origin: &Origin) -> Result<Group> {
        let (tenant, id, update) = (tenant.to_owned(), id.to_owned(), update.clone());
        self.change(UpdateGroup { tenant, id, update, origin: origin.clone() }).await
    }

    async fn change_members(&self, tenant: &str, id: &str, change: &MemberChange, origin: &Origin) -> Result<Group> {
        let (tenant, id, change) = (tenant.to_owned(), id.to_owned(), change.clone());
        self.change(ChangeMembers { tenant, id, change, origin: origin.clone() }).await
    }

    async fn delete_group(&self, tenant: &str, id: &str, version: Option<u64>, origin: &Origin) -> Result<()> {
        let (tenant, id) = (tenant.to_owned(), id.to_owned());
        self.change(DeleteGroup { tenant, id, version, origin: origin.clone() }).await
    }

    async fn create_device(&self, device: Device, origin: &Origin) -> Result<Created<Device>> {
        self.change(CreateDevice(device, origin.clone())).await
    }

    async fn import_devices(&self, tenant: &str, devices: Vec<Device>, origin: &Origin) -> Result<Vec<Imported>> {
        self.change(ImportDevices { tenant: tenant.to_owned(), devices, origin: origin.clone() }).await
    }

    async fn quarantine_devices(
        &self,
        tenant: &str,
        devices: Vec<Device>,
        origin: &Origin,
    ) -> Result<Vec<Option<Device>>> {
        self.change(QuarantineDevices { tenant: tenant.to_owned(), devices, origin: origin.clone() }).await
    }

    async fn update_device(&self, tenant: &str, id: &str, update: &DeviceUpdate, origin: &Origin) -> Result<Device> {
        let (tenant, id, update) = (tenant.to_owned(), id.to_owned(), update.clone());
        self.change(UpdateDevice { tenant, id, update, origin: origin.clone() }).await
    }

    async fn delete_device(&self, tenant: &str, id: &str, version: Option<u64>, origin: &Origin) -> Result<Device> {
        let (tenant, id) = (tenant.to_owned(), id.to_owned());
        self.change(DeleteDevice { tenant, id, version, origin: origin.clone() }).await
    }

    async fn undelete_device(&self, tenant: &str, id: &str, origin: &Origin) -> Result<Device> {
        let (tenant, id) = (tenant.to_owned(), id.to_owned());
        self.change(UndeleteDevice { tenant, id, origin: origin.clone() }).await
    }
}
