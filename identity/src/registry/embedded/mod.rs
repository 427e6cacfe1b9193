//! The registry that needs no server: one file of a key-value store.
//!
//! Each change is one transaction that is on disk when it returns. Each row carries a checksum; an
//! audit event is covered by its chain.

mod audit;
mod copy;
mod credentials;
mod file;
mod rows;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use redb::{Database, ReadableDatabase, WriteTransaction};
use tokio::sync::Semaphore;

use super::{
    AuditEvent, AuditReport, Changes, Checkpoint, Class, Created, Credential, Denial, Error, Found, Listed, Origin,
    Owner, Registry, Result, Tenant, TenantState, TenantUpdate, Use,
};
use crate::CredentialId;
use file::{Outcome, RegistryFile};

const CACHE_BYTES: usize = 8 << 20;
/// Threads that read, and threads that write or wait to, at one time; other calls wait their turn.
const THREADS: usize = 8;

/// The embedded registry. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EmbeddedRegistry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: RegistryFile,
    /// Apart from those of writers, which wait for the disk.
    readers: Arc<Semaphore>,
    writers: Arc<Semaphore>,
}

impl EmbeddedRegistry {
    /// Opens the file, or creates it.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: another process has it open, it cannot be written, or it is damaged.
    pub fn open(path: PathBuf) -> std::result::Result<Self, Error> {
        Self::open_with(path, Arc::new(|path| Database::builder().set_cache_size(CACHE_BYTES).create(path)))
    }

    fn open_with(path: PathBuf, open: file::Open) -> Result<Self> {
        let file = RegistryFile::new(path, open, rows::prepare);
        file.run(|_| Ok(()))?;
        let permits = || Arc::new(Semaphore::new(THREADS));
        Ok(Self(Arc::new(Inner { file, readers: permits(), writers: permits() })))
    }

    async fn read<T: Send + 'static>(&self, work: impl FnOnce(&Database) -> Outcome<T> + Send + 'static) -> Result<T> {
        self.blocking(&self.0.readers, work).await
    }

    /// Runs the work in one transaction. If it fails, nothing of it is kept. It goes on to its end
    /// when the caller is cancelled.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Outcome<T> + Send + 'static,
    ) -> Result<T> {
        let transaction = |database: &Database| {
            let write = database.begin_write()?;
            let value = work(&write)?;
            write.commit()?;
            Ok(value)
        };
        self.blocking(&self.0.writers, transaction).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        permits: &Arc<Semaphore>,
        work: impl FnOnce(&Database) -> Outcome<T> + Send + 'static,
    ) -> Result<T> {
        let stopped = |error: &dyn std::fmt::Display| Error::Unavailable(error.to_string());
        let permit = Arc::clone(permits).acquire_owned().await.map_err(|error| stopped(&error))?;
        let inner = Arc::clone(&self.0);
        let work = move || {
            let _permit = permit;
            inner.file.run(work)
        };
        tokio::task::spawn_blocking(work).await.map_err(|error| stopped(&error))?
    }
}

#[async_trait]
impl Registry for EmbeddedRegistry {
    async fn match_peppers(&self, fingerprints: Vec<(u32, [u8; 32])>) -> Result<()> {
        self.write(move |write| credentials::match_peppers(write, &fingerprints)).await
    }

    async fn tenant(&self, id: &str) -> Result<Option<Tenant>> {
        let id = id.to_owned();
        self.read(move |database| rows::get(&database.begin_read()?.open_table(rows::TENANTS)?, &id)).await
    }

    async fn tenants(&self, after: &str, limit: usize) -> Result<Vec<Tenant>> {
        let after = after.to_owned();
        self.read(move |database| credentials::tenants(database, &after, limit)).await
    }

    async fn create_tenant(&self, tenant: Tenant, origin: &Origin) -> Result<Created<Tenant>> {
        let origin = origin.clone();
        self.write(move |write| credentials::create_tenant(write, tenant, &origin)).await
    }

    async fn set_tenant_state(&self, id: &str, state: TenantState, origin: &Origin) -> Result<Tenant> {
        let (id, origin) = (id.to_owned(), origin.clone());
        self.write(move |write| credentials::set_state(write, &id, state, &origin)).await
    }

    async fn update_tenant(&self, id: &str, update: &TenantUpdate, origin: &Origin) -> Result<Tenant> {
        let (id, update, origin) = (id.to_owned(), update.clone(), origin.clone());
        self.write(move |write| credentials::update_tenant(write, &id, &update, &origin)).await
    }

    async fn credential(&self, id: CredentialId) -> Result<Option<Found>> {
        self.read(move |database| credentials::find(database, id)).await
    }

    async fn create_credential(&self, credential: Credential, origin: &Origin) -> Result<Created<Credential>> {
        let origin = origin.clone();
        self.write(move |write| credentials::create(write, credential, &origin)).await
    }

    async fn delete_credential(&self, tenant: &str, owner: Owner<'_>, id: CredentialId, origin: &Origin) -> Result<()> {
        let (tenant, origin) = (tenant.to_owned(), origin.clone());
        let (device, class) = match owner {
            Owner::Device(device) => (Some(device.to_owned()), Class::Device),
            Owner::Tenant(class) => (None, class),
        };
        self.write(move |write| {
            let owner = device.as_deref().map_or(Owner::Tenant(class), Owner::Device);
            credentials::delete(write, &tenant, owner, id, &origin)
        })
        .await
    }

    async fn device_credentials(
        &self,
        tenant: &str,
        device: Option<&str>,
        after: Option<(&str, CredentialId)>,
        limit: usize,
    ) -> Result<Vec<Listed>> {
        let (tenant, device) = (tenant.to_owned(), device.map(str::to_owned));
        let after = after.map(|(device, id)| (device.to_owned(), id));
        self.read(move |database| {
            let after = after.as_ref().map(|(device, id)| (&**device, *id));
            credentials::of_devices(database, &tenant, device.as_deref(), after, limit)
        })
        .await
    }

    async fn tenant_credentials(
        &self,
        tenant: &str,
        class: Class,
        after: Option<CredentialId>,
        limit: usize,
    ) -> Result<Vec<Listed>> {
        let tenant = tenant.to_owned();
        self.read(move |database| credentials::of_tenant(database, &tenant, class, after, limit)).await
    }

    async fn record_uses(&self, uses: &[Use]) -> Result<()> {
        let uses = uses.to_vec();
        self.write(move |write| credentials::record_uses(write, &uses)).await
    }

    async fn record_denials(&self, denials: &[Denial]) -> Result<()> {
        let denials = denials.to_vec();
        self.write(move |write| audit::deny(write, denials)).await
    }

    async fn audit(&self, tenant: &str, before: Option<u64>, limit: usize) -> Result<Vec<AuditEvent>> {
        let tenant = tenant.to_owned();
        self.read(move |database| audit::list(database, &tenant, before, limit)).await
    }

    async fn verify_audit(&self, tenant: &str, checkpoint: Option<Checkpoint>) -> Result<AuditReport> {
        let tenant = tenant.to_owned();
        self.read(move |database| audit::verify(database, &tenant, checkpoint)).await
    }

    async fn changes(&self, after: u64, limit: usize) -> Result<Changes> {
        self.read(move |database| audit::changes(database, after, limit)).await
    }
}
