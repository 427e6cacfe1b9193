//! The registry that needs no server: one file of a key-value store.
//!
//! Each change is one transaction that is on disk when it returns. Each row carries a checksum; an
//! audit event is covered by its chain.

mod audit;
mod changes;
mod checkpoints;
mod copy;
mod devices;
mod file;
mod groups;
mod lists;
mod rows;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use redb::{Database, ReadableDatabase, WriteTransaction};
use tokio::sync::Semaphore;

use super::transaction::Work;
use super::writes::Transact;
use super::{
    AuditEvent, AuditRange, AuditReport, Changes, Checkpoint, Class, Error, Found, Listed, Registry, Result, Tenant,
};
use crate::CredentialId;
pub(crate) use checkpoints::{CheckpointFile, HeldCheckpoint};
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
impl Transact for EmbeddedRegistry {
    const USES: usize = usize::MAX;

    async fn change<W: Work>(&self, work: W) -> Result<W::Output> {
        self.write(move |write| changes::make(write, &work)).await
    }
}

#[async_trait]
impl Registry for EmbeddedRegistry {
    async fn tenant(&self, id: &str) -> Result<Option<Tenant>> {
        let id = id.to_owned();
        self.read(move |database| rows::get(&database.begin_read()?.open_table(rows::TENANTS)?, &id)).await
    }

    async fn tenants(&self, after: &str, limit: usize) -> Result<Vec<Tenant>> {
        let after = after.to_owned();
        self.read(move |database| lists::tenants(database, &after, limit)).await
    }

    async fn credential(&self, id: CredentialId) -> Result<Option<Found>> {
        self.read(move |database| lists::find(database, id)).await
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
            lists::of_devices(database, &tenant, device.as_deref(), after, limit)
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
        self.read(move |database| lists::of_tenant(database, &tenant, class, after, limit)).await
    }

    async fn audit(&self, tenant: &str, before: Option<u64>, limit: usize) -> Result<Vec<AuditEvent>> {
        let tenant = tenant.to_owned();
        self.read(move |database| audit::list(database, &tenant, before, limit)).await
    }

    async fn check_audit(&self, tenant: &str, range: &AuditRange) -> Result<AuditReport> {
        let (tenant, range) = (tenant.to_owned(), range.clone());
        self.read(move |database| audit::check(database, &tenant, &range)).await
    }

    async fn audit_heads(&self, after: &str, limit: usize) -> Result<Vec<(String, Checkpoint)>> {
        let after = after.to_owned();
        self.read(move |database| audit::heads(database, &after, limit)).await
    }

    async fn changes(&self, after: u64, limit: usize) -> Result<Changes> {
        self.read(move |database| audit::changes(database, after, limit)).await
    }
}
