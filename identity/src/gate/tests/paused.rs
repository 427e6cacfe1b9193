//! A registry whose lookups and writes a test can hold up, or let fail.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use tokio::sync::Semaphore;

use crate::registry::{
    AuditEvent, AuditRange, AuditReport, Changes, Checkpoint, Class, Created, Credential, CredentialKind, DeletionStep,
    Denial, Device, DeviceRegistry, DeviceUpdate, Error, Found, Group, GroupRegistry, GroupUpdate, Imported, Listed,
    MemberChange, Origin, Owner, Registry, RegistryWrites, Result, Tenant, TenantState, TenantUpdate, Use,
};
use crate::{CredentialId, EmbeddedRegistry};

#[derive(Debug)]
pub(super) struct Paused {
    inner: EmbeddedRegistry,
    lookups: AtomicUsize,
    device_lookups: AtomicUsize,
    is_paused: AtomicBool,
    is_away: AtomicBool,
    is_hanging: AtomicBool,
    are_tenants_away: AtomicBool,
    is_group_paused: AtomicBool,
    member_lists: AtomicUsize,
    /// A permit for each write that hangs.
    hanging: Semaphore,
    broken: parking_lot::Mutex<String>,
    /// Ids of credentials and tenants whose rows cannot be read.
    damaged: parking_lot::Mutex<Vec<String>>,
    /// Ids of tenants whose rows are not found.
    hidden: parking_lot::Mutex<Vec<String>>,
    /// A permit for each lookup that has its row and is held up.
    arrived: Semaphore,
    /// A permit for each lookup that may return.
    released: Semaphore,
}

impl Paused {
    pub(super) fn new(inner: EmbeddedRegistry) -> Self {
        let [is_paused, is_away, is_hanging, are_tenants_away, is_group_paused] = [false; 5].map(AtomicBool::new);
        let [hanging, arrived, released] = [0; 3].map(Semaphore::new);
        let (lookups, device_lookups, member_lists, broken, damaged, hidden) = Default::default();
        Self {
            inner,
            lookups,
            device_lookups,
            is_paused,
            is_away,
            is_hanging,
            are_tenants_away,
            is_group_paused,
            member_lists,
            hanging,
            broken,
            damaged,
            hidden,
            arrived,
            released,
        }
    }

    /// Returns how often a credential was looked up.
    pub(super) fn lookups(&self) -> usize {
        self.lookups.load(Ordering::SeqCst)
    }

    /// Returns how often devices were looked up.
    pub(super) fn device_lookups(&self) -> usize {
        self.device_lookups.load(Ordering::SeqCst)
    }

    /// Holds up the next lookup, after it has read its row.
    pub(super) fn pause(&self) {
        self.is_paused.store(true, Ordering::SeqCst);
    }

    /// Holds up the next lookup of a group, after it has read its row.
    pub(super) fn pause_group(&self) {
        self.is_group_paused.store(true, Ordering::SeqCst);
    }

    /// Returns how often the members of a group were read.
    pub(super) fn member_lists(&self) -> usize {
        self.member_lists.load(Ordering::SeqCst)
    }

    /// Waits until a lookup is held up.
    pub(super) async fn arrived(&self) {
        self.arrived.acquire().await.unwrap().forget();
    }

    pub(super) fn release(&self) {
        self.released.add_permits(1);
    }

    pub(super) fn set_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::SeqCst);
    }

    /// Lets tenants not be found, while credentials are.
    pub(super) fn set_tenants_away(&self, are_away: bool) {
        self.are_tenants_away.store(are_away, Ordering::SeqCst);
    }

    /// Lets the rows of these credentials, tenants and devices not be read, and all others.
    pub(super) fn damage(&self, ids: &[&str]) {
        *self.damaged.lock() = ids.iter().map(|id| (*id).to_owned()).collect();
    }

    /// Lets the rows of these tenants not be found, and all others.
    pub(super) fn hide(&self, ids: &[&str]) {
        *self.hidden.lock() = ids.iter().map(|id| (*id).to_owned()).collect();
    }

    fn check(&self, id: &str) -> Result<()> {
        match self.damaged.lock().iter().any(|damaged| damaged == id) {
            true => Err(Error::Unavailable(format!("the row of {id} is damaged"))),
            false => Ok(()),
        }
    }

    /// Lets no record of uses or denials, and no check of an audit, end from now on.
    pub(super) fn hang_writes(&self) {
        self.is_hanging.store(true, Ordering::SeqCst);
    }

    /// Waits until one of them hangs.
    pub(super) async fn writing(&self) {
        self.hanging.acquire().await.unwrap().forget();
    }

    async fn write(&self) {
        if self.is_hanging.load(Ordering::SeqCst) {
            self.hanging.add_permits(1);
            std::future::pending::<()>().await;
        }
    }

    /// Refuses denials of this tenant.
    pub(super) fn refuse_denials_of(&self, tenant: &str) {
        tenant.clone_into(&mut self.broken.lock());
    }

    fn inner(&self) -> Result<&EmbeddedRegistry> {
        match self.is_away.load(Ordering::SeqCst) {
            true => Err(Error::Unavailable("/var/lib/weir/registry.redb is away".into())),
            false => Ok(&self.inner),
        }
    }
}

#[async_trait]
impl RegistryWrites for Paused {
    async fn match_peppers(&self, fingerprints: Vec<(u32, [u8; 32])>) -> Result<()> {
        self.inner()?.match_peppers(fingerprints).await
    }

    async fn create_tenant(&self, tenant: Tenant, origin: &Origin) -> Result<Created<Tenant>> {
        self.inner()?.create_tenant(tenant, origin).await
    }

    async fn set_tenant_state(&self, id: &str, state: TenantState, origin: &Origin) -> Result<Tenant> {
        self.inner()?.set_tenant_state(id, state, origin).await
    }

    async fn update_tenant(&self, id: &str, update: &TenantUpdate, origin: &Origin) -> Result<Tenant> {
        self.inner()?.update_tenant(id, update, origin).await
    }

    async fn delete_tenant(&self, id: &str, step: &DeletionStep, origin: &Origin) -> Result<Tenant> {
        self.inner()?.delete_tenant(id, step, origin).await
    }

    async fn remove_rows(&self, tenant: &str, most: usize) -> Result<usize> {
        self.inner()?.remove_rows(tenant, most).await
    }

    async fn count_rows(&self, tenant: &str) -> Result<u64> {
        self.inner()?.count_rows(tenant).await
    }

    async fn create_credential(&self, credential: Credential, origin: &Origin) -> Result<Created<Credential>> {
        self.inner()?.create_credential(credential, origin).await
    }

    async fn update_credential(
        &self,
        tenant: &str,
        id: CredentialId,
        kind: CredentialKind,
        etag: Option<&str>,
        origin: &Origin,
    ) -> Result<Credential> {
        self.inner()?.update_credential(tenant, id, kind, etag, origin).await
    }

    async fn delete_credential(&self, tenant: &str, owner: Owner<'_>, id: CredentialId, origin: &Origin) -> Result<()> {
        self.inner()?.delete_credential(tenant, owner, id, origin).await
    }

    async fn record_uses(&self, uses: &[Use]) -> Result<()> {
        self.write().await;
        self.inner()?.record_uses(uses).await
    }

    async fn record_denials(&self, denials: &[Denial]) -> Result<()> {
        self.write().await;
        if denials.iter().any(|denial| denial.tenant == *self.broken.lock()) {
            return Err(Error::Unavailable("its chain is damaged".into()));
        }
        self.inner()?.record_denials(denials).await
    }

    async fn record_action(&self, tenant: &str, resource: &str, detail: &str, origin: &Origin) -> Result<()> {
        self.inner()?.record_action(tenant, resource, detail, origin).await
    }

    async fn create_group(&self, group: Group, origin: &Origin) -> Result<Created<Group>> {
        self.inner()?.create_group(group, origin).await
    }

    async fn update_group(&self, tenant: &str, id: &str, update: &GroupUpdate, origin: &Origin) -> Result<Group> {
        self.inner()?.update_group(tenant, id, update, origin).await
    }

    async fn change_members(&self, tenant: &str, id: &str, change: &MemberChange, origin: &Origin) -> Result<Group> {
        self.inner()?.change_members(tenant, id, change, origin).await
    }

    async fn delete_group(&self, tenant: &str, id: &str, version: Option<u64>, origin: &Origin) -> Result<()> {
        self.inner()?.delete_group(tenant, id, version, origin).await
    }

    async fn create_device(&self, device: Device, origin: &Origin) -> Result<Created<Device>> {
        self.inner()?.create_device(device, origin).await
    }

    async fn import_devices(&self, tenant: &str, devices: Vec<Device>, origin: &Origin) -> Result<Vec<Imported>> {
        self.inner()?.import_devices(tenant, devices, origin).await
    }

    async fn quarantine_devices(
        &self,
        tenant: &str,
        devices: Vec<Device>,
        origin: &Origin,
    ) -> Result<Vec<Option<Device>>> {
        self.inner()?.quarantine_devices(tenant, devices, origin).await
    }

    async fn update_device(&self, tenant: &str, id: &str, update: &DeviceUpdate, origin: &Origin) -> Result<Device> {
        self.inner()?.update_device(tenant, id, update, origin).await
    }

    async fn delete_device(&self, tenant: &str, id: &str, version: Option<u64>, origin: &Origin) -> Result<Device> {
        self.inner()?.delete_device(tenant, id, version, origin).await
    }

    async fn undelete_device(&self, tenant: &str, id: &str, origin: &Origin) -> Result<Device> {
        self.inner()?.undelete_device(tenant, id, origin).await
    }
}

#[async_trait]
impl DeviceRegistry for Paused {
    async fn devices(&self, tenant: &str, ids: &[String]) -> Result<Vec<Option<Device>>> {
        self.device_lookups.fetch_add(1, Ordering::SeqCst);
        ids.iter().try_for_each(|id| self.check(id))?;
        self.inner()?.devices(tenant, ids).await
    }

    async fn devices_after(&self, tenant: &str, after: &str, limit: usize) -> Result<Vec<Device>> {
        self.inner()?.devices_after(tenant, after, limit).await
    }

    async fn devices_with(&self, tenant: &str, term: &str, after: &str, limit: usize) -> Result<Vec<String>> {
        self.inner()?.devices_with(tenant, term, after, limit).await
    }

    async fn devices_beginning(&self, tenant: &str, start: &str, limit: usize) -> Result<Vec<String>> {
        self.inner()?.devices_beginning(tenant, start, limit).await
    }

    async fn count_devices(&self, tenant: &str) -> Result<u64> {
        self.inner()?.count_devices(tenant).await
    }
}

#[async_trait]
impl GroupRegistry for Paused {
    async fn group(&self, tenant: &str, id: &str) -> Result<Option<Group>> {
        self.check(id)?;
        let found = self.inner()?.group(tenant, id).await?;
        if self.is_group_paused.swap(false, Ordering::SeqCst) {
            self.arrived.add_permits(1);
            self.released.acquire().await.unwrap().forget();
        }
        Ok(found)
    }

    async fn groups(&self, tenant: &str, after: &str, limit: usize) -> Result<Vec<Group>> {
        self.inner()?.groups(tenant, after, limit).await
    }

    async fn members(&self, tenant: &str, group: &str, after: &str, limit: usize) -> Result<Vec<String>> {
        self.member_lists.fetch_add(1, Ordering::SeqCst);
        self.inner()?.members(tenant, group, after, limit).await
    }
}

#[async_trait]
impl Registry for Paused {
    async fn tenant(&self, id: &str) -> Result<Option<Tenant>> {
        if self.are_tenants_away.load(Ordering::SeqCst) {
            return Err(Error::Unavailable("tenants are away".into()));
        }
        self.check(id)?;
        if self.hidden.lock().iter().any(|hidden| hidden == id) {
            return Ok(None);
        }
        self.inner()?.tenant(id).await
    }

    async fn tenants(&self, after: &str, limit: usize) -> Result<Vec<Tenant>> {
        self.inner()?.tenants(after, limit).await
    }

    async fn credential(&self, id: CredentialId) -> Result<Option<Found>> {
        self.lookups.fetch_add(1, Ordering::SeqCst);
        self.check(id.as_str())?;
        let found = self.inner()?.credential(id).await?;
        if self.is_paused.swap(false, Ordering::SeqCst) {
            self.arrived.add_permits(1);
            self.released.acquire().await.unwrap().forget();
        }
        Ok(found)
    }

    async fn device_credentials(
        &self,
        tenant: &str,
        device: Option<&str>,
        after: Option<(&str, CredentialId)>,
        limit: usize,
    ) -> Result<Vec<Listed>> {
        self.inner()?.device_credentials(tenant, device, after, limit).await
    }

    async fn tenant_credentials(
        &self,
        tenant: &str,
        class: Class,
        after: Option<CredentialId>,
        limit: usize,
    ) -> Result<Vec<Listed>> {
        self.inner()?.tenant_credentials(tenant, class, after, limit).await
    }

    async fn audit(&self, tenant: &str, before: Option<u64>, limit: usize) -> Result<Vec<AuditEvent>> {
        self.inner()?.audit(tenant, before, limit).await
    }

    async fn check_audit(&self, tenant: &str, range: &AuditRange) -> Result<AuditReport> {
        self.write().await;
        self.inner()?.check_audit(tenant, range).await
    }

    async fn audit_heads(&self, after: &str, limit: usize) -> Result<Vec<(String, Checkpoint)>> {
        self.inner()?.audit_heads(after, limit).await
    }

    async fn changes(&self, after: u64, limit: usize) -> Result<Changes> {
        self.inner()?.changes(after, limit).await
    }
}
