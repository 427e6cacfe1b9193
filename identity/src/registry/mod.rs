//! Tenants, credentials, and the audit of their changes.
//!
//! Each change is one transaction with its audit event and its entry in the control log. If the
//! event cannot be written, the change is not made.

mod audit;
#[cfg(test)]
mod contract;
mod credential;
mod deletion;
mod device;
mod device_search;
mod embedded;
#[cfg(test)]
mod figures;
mod group;
mod mongodb;
mod postgres;
#[cfg(test)]
mod proxy;
mod rules;
#[cfg(test)]
mod server_contract;
#[cfg(test)]
mod servers;
mod tenant;
mod transaction;
mod tries;
mod types;
mod writes;

use async_trait::async_trait;

pub use self::mongodb::{MongoOptions, MongoRegistry};
pub use audit::{AuditEvent, AuditRange, AuditReport, Checkpoint, Denial, Fault, INSTALLATION};
pub(crate) use credential::Stamp;
pub use credential::{Class, Credential, CredentialKind, KeyRights, Owner, RoleBinding};
pub use deletion::{Deletion, DeletionStep, PlaceCount, Residual, Worker};
pub(crate) use device::check_label_count;
pub use device::{Device, DeviceRegistry, DeviceUpdate, Imported};
pub(crate) use device_search::search;
pub use device_search::{DevicePage, DeviceQuery, Term};
pub use embedded::EmbeddedRegistry;
pub(crate) use embedded::{CheckpointFile, HeldCheckpoint};
pub(crate) use group::MAX_MEMBERS;
pub use group::{Group, GroupFilter, GroupRegistry, GroupUpdate, MemberChange};
pub use postgres::{PostgresOptions, PostgresRegistry};
pub use tenant::{DeviceAdmission, Tenant, TenantState, TenantUpdate};
pub(crate) use types::Result;
pub use types::{Change, ChangeKind, Changes, Created, Error, Found, Listed, Origin, Rehashed, Use};
pub use writes::RegistryWrites;

use crate::CredentialId;

/// Time for which a repeated creation is recognised by its request id.
pub(crate) const REPEATS: model::Nanos = 24 * 60 * 60 * model::time::SECOND;

/// Keeps tenants, credentials, the audit and the control log.
///
/// Texts and ids are checked by the caller ([`Admin`](crate::Admin)), limits here.
#[async_trait]
pub trait Registry: DeviceRegistry + GroupRegistry + RegistryWrites + std::fmt::Debug + 'static {
    /// Returns a tenant.
    async fn tenant(&self, id: &str) -> Result<Option<Tenant>>;

    /// Returns tenants in order of their ids, those after `after`.
    async fn tenants(&self, after: &str, limit: usize) -> Result<Vec<Tenant>>;

    /// Returns a credential and the state of its tenant.
    async fn credential(&self, id: CredentialId) -> Result<Option<Found>>;

    /// Returns for each of these ids, in their order, the answer of
    /// [`credential`](Registry::credential).
    async fn credentials(&self, ids: &[CredentialId]) -> Vec<Result<Option<Found>>> {
        let mut answers = Vec::with_capacity(ids.len());
        for id in ids {
            answers.push(self.credential(*id).await);
        }
        answers
    }

    /// Returns credentials of a device, or of all devices of the tenant in order of device and id,
    /// those after `after`.
    async fn device_credentials(
        &self,
        tenant: &str,
        device: Option<&str>,
        after: Option<(&str, CredentialId)>,
        limit: usize,
    ) -> Result<Vec<Listed>>;

    /// Returns credentials of a class of a tenant in order of their ids, those after `after`; none
    /// of the class of devices.
    async fn tenant_credentials(
        &self,
        tenant: &str,
        class: Class,
        after: Option<CredentialId>,
        limit: usize,
    ) -> Result<Vec<Listed>>;

    /// Returns audit events of a tenant, the newest first, those before sequence `before`.
    async fn audit(&self, tenant: &str, before: Option<u64>, limit: usize) -> Result<Vec<AuditEvent>>;

    /// Checks the audit chain of a tenant, and that it contains a checkpoint that was noted before.
    async fn verify_audit(&self, tenant: &str, checkpoint: Option<Checkpoint>) -> Result<AuditReport> {
        let known = checkpoint.into_iter().collect();
        self.check_audit(tenant, &AuditRange { known, ..AuditRange::default() }).await
    }

    /// Checks a part of the audit chain of a tenant.
    async fn check_audit(&self, tenant: &str, range: &AuditRange) -> Result<AuditReport>;

    /// Returns the ends of audit chains in order of their tenants, those after `after`. A damaged
    /// one has sequence 0.
    async fn audit_heads(&self, after: &str, limit: usize) -> Result<Vec<(String, Checkpoint)>>;

    /// Returns the entries of the control log after a number.
    async fn changes(&self, after: u64, limit: usize) -> Result<Changes>;
}
