//! Tenants, credentials, and the audit of their changes.
//!
//! Each change is one transaction with its audit event and its entry in the control log. If the
//! event cannot be written, the change is not made.

mod audit;
#[cfg(test)]
mod contract;
mod credential;
mod deletion;
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

use async_trait::async_trait;

pub use self::mongodb::{MongoOptions, MongoRegistry};
pub use audit::{AuditEvent, AuditRange, AuditReport, Checkpoint, Denial, Fault, INSTALLATION};
pub(crate) use credential::Stamp;
pub use credential::{Class, Credential, CredentialKind, KeyRights, Owner, RoleBinding};
pub use deletion::{Deletion, DeletionStep, PlaceCount, Residual, Worker};
pub use embedded::EmbeddedRegistry;
pub(crate) use embedded::{CheckpointFile, HeldCheckpoint};
pub(crate) use group::MAX_MEMBERS;
pub use group::{Group, GroupFilter, GroupRegistry, GroupUpdate, MemberChange};
pub use postgres::{PostgresOptions, PostgresRegistry};
pub use tenant::{Tenant, TenantState, TenantUpdate};
pub(crate) use types::Result;
pub use types::{Change, ChangeKind, Changes, Created, Error, Found, Listed, Origin, Rehashed, Use};

use crate::CredentialId;

/// Time for which a repeated creation is recognised by its request id.
pub(crate) const REPEATS: model::Nanos = 24 * 60 * 60 * model::time::SECOND;

/// Keeps tenants, credentials, the audit and the control log.
///
/// Texts and ids are checked by the caller ([`Admin`](crate::Admin)), limits here.
#[async_trait]
pub trait Registry: GroupRegistry + std::fmt::Debug + Send + Sync + 'static {
    /// Compares peppers with those that the registry was used with, and keeps the fingerprints of
    /// new versions.
    ///
    /// # Errors
    /// [`Error::NeedsOperator`] when a version is known with another fingerprint: the file of
    /// peppers belongs to another registry.
    async fn match_peppers(&self, fingerprints: Vec<(u32, [u8; 32])>) -> Result<()>;

    /// Returns a tenant.
    async fn tenant(&self, id: &str) -> Result<Option<Tenant>>;

    /// Returns tenants in order of their ids, those after `after`.
    async fn tenants(&self, after: &str, limit: usize) -> Result<Vec<Tenant>>;

    /// Creates a tenant. A repeat of the same request returns the tenant.
    ///
    /// # Errors
    /// [`Error::Exists`].
    async fn create_tenant(&self, tenant: Tenant, origin: &Origin) -> Result<Created<Tenant>>;

    /// Suspends or resumes a tenant. Without a change of state nothing is written.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    async fn set_tenant_state(&self, id: &str, state: TenantState, origin: &Origin) -> Result<Tenant>;

    /// Changes a tenant. Without a change nothing is written.
    ///
    /// # Errors
    /// [`Error::NotFound`]. [`Error::Conflict`]: the tenant has another version.
    async fn update_tenant(&self, id: &str, update: &TenantUpdate, origin: &Origin) -> Result<Tenant>;

    /// Takes a step of the deletion of a tenant. Without a change nothing is written.
    ///
    /// # Errors
    /// [`Error::NotFound`]. [`Error::Conflict`]: the tenant has another version, or another process
    /// removes its data. [`Error::Invalid`]: the step does not follow from the state.
    async fn delete_tenant(&self, id: &str, step: &DeletionStep, origin: &Origin) -> Result<Tenant>;

    /// Removes some of the rows of a tenant whose data is being removed: credentials of all
    /// classes, and remembered requests. Its audit and its own row stay. Returns the number of
    /// those removed, 0 when there were none.
    ///
    /// # Errors
    /// [`Error::Invalid`]: the tenant is in another state.
    async fn remove_rows(&self, tenant: &str, most: usize) -> Result<usize>;

    /// Counts the rows that [`Registry::remove_rows`] removes, without those of requests.
    async fn count_rows(&self, tenant: &str) -> Result<u64>;

    /// Returns a credential and the state of its tenant.
    async fn credential(&self, id: CredentialId) -> Result<Option<Found>>;

    /// Creates a credential. A repeat of the same request returns the credential of the first one,
    /// and keeps nothing of this one.
    ///
    /// # Errors
    /// [`Error::NotFound`]: there is no such tenant. [`Error::Limit`]. [`Error::Invalid`]: the
    /// device clashes with another, or the request id was used for another request or its
    /// credential was deleted.
    async fn create_credential(&self, credential: Credential, origin: &Origin) -> Result<Created<Credential>>;

    /// Puts other content in place of that of a credential of the same class; what it opened ends.
    /// `etag`: the content that the change is made for. Without a change nothing is written.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`]: the content is another one.
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
    /// [`Error::NotFound`], also when it belongs to another tenant or owner.
    async fn delete_credential(&self, tenant: &str, owner: Owner<'_>, id: CredentialId, origin: &Origin) -> Result<()>;

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

    /// Records uses of credentials; those that were deleted meanwhile are left out.
    async fn record_uses(&self, uses: &[Use]) -> Result<()>;

    /// Writes audit events of denials.
    async fn record_denials(&self, denials: &[Denial]) -> Result<()>;

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
