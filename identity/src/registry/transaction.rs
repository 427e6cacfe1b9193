//! One transaction of a registry: its rows, the work on them, and the ways in which it ends early.

use async_trait::async_trait;
use model::Nanos;
use serde::{Deserialize, Serialize};

use super::device::DeviceChange;
use super::{AuditEvent, ChangeKind, Credential, Device, Error, Group, Owner, Tenant, Use};
use crate::CredentialId;

pub(super) type Outcome<T> = Result<T, Stop>;

/// The reason why a transaction ended early; nothing of it is kept, except after a lost commit.
#[derive(Debug)]
pub(super) enum Stop {
    /// By a rule of the registry, or by an error that a repetition does not cure.
    Refused(Error),
    /// By another transaction: repeat it.
    Again(Error),
    /// The connection is lost: repeat it on another one.
    Lost(Error),
    /// The connection is lost, and with it the answer to the commit.
    InDoubt(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl Stop {
    /// Returns the meaning of an error of the commit itself.
    pub(super) fn at_commit(self) -> Self {
        match self {
            Self::Lost(error) => Self::InDoubt(error),
            other => other,
        }
    }

    pub(super) fn error(self) -> Error {
        match self {
            Self::Refused(error) | Self::Again(error) | Self::Lost(error) | Self::InDoubt(error) => error,
        }
    }
}

/// A creation with a request id.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) by: String,
    pub(super) method: String,
    /// The device of a credential; empty otherwise.
    pub(super) target: String,
    /// A hash of the content of a credential; empty otherwise.
    #[serde(default)]
    pub(super) content: String,
    /// Id of the credential; empty for a tenant.
    pub(super) id: String,
    pub(super) at: Nanos,
}

/// The rows of groups in one transaction.
#[async_trait]
pub(super) trait GroupRows: Send {
    async fn group(&mut self, tenant: &str, id: &str) -> Outcome<Option<Group>>;
    async fn put_group(&mut self, group: &Group) -> Outcome<()>;
    /// Removes a group and its members.
    async fn remove_group(&mut self, group: &Group) -> Outcome<()>;
    async fn count_groups(&mut self, tenant: &str) -> Outcome<usize>;
    /// Returns a group of a tenant, if it has one.
    async fn any_group(&mut self, tenant: &str) -> Outcome<Option<Group>>;
    /// Adds members, each named once; returns those that were none.
    async fn add_members(&mut self, group: &Group, devices: &[String]) -> Outcome<Vec<String>>;
    /// Removes members; returns those that were some.
    async fn remove_members(&mut self, group: &Group, devices: &[String]) -> Outcome<Vec<String>>;
}

/// The rows of devices in one transaction.
#[async_trait]
pub(super) trait DeviceRows: Send {
    async fn device(&mut self, tenant: &str, id: &str) -> Outcome<Option<Device>>;
    /// Returns for each of these ids, in their order, the device.
    async fn devices(&mut self, tenant: &str, ids: &[String]) -> Outcome<Vec<Option<Device>>>;
    /// Changes rows of devices of the tenant that was entered, each device at most once, and the
    /// count of its devices.
    async fn put_devices(&mut self, changes: &[DeviceChange]) -> Outcome<()>;
    async fn count_devices(&mut self, tenant: &str) -> Outcome<u64>;
    /// Returns some devices of a tenant.
    async fn some_devices(&mut self, tenant: &str, most: usize) -> Outcome<Vec<Device>>;
}

/// The rows of one transaction. After [`Rows::enter`] only rows of that tenant are visible.
#[async_trait]
pub(super) trait Rows: DeviceRows + GroupRows {
    /// Enters a tenant to change it: until the end of the transaction, others wait.
    async fn enter(&mut self, tenant: &str) -> Outcome<()>;
    async fn tenant(&mut self, id: &str) -> Outcome<Option<Tenant>>;
    async fn put_tenant(&mut self, tenant: &Tenant) -> Outcome<()>;
    async fn credential(&mut self, id: CredentialId) -> Outcome<Option<Credential>>;
    /// Adds a row; returns false when the id is in use, also by another tenant.
    async fn add_credential(&mut self, row: &Credential) -> Outcome<bool>;
    /// Replaces a row.
    async fn put_credential(&mut self, row: &Credential) -> Outcome<()>;
    async fn remove_credential(&mut self, row: &Credential) -> Outcome<()>;
    /// Counts the credentials of an owner.
    async fn count(&mut self, tenant: &str, owner: Owner<'_>) -> Outcome<usize>;
    /// Returns the credentials of an owner.
    async fn credentials(&mut self, tenant: &str, owner: Owner<'_>) -> Outcome<Vec<Credential>>;
    /// Returns some credentials of a tenant, of any owner.
    async fn some_credentials(&mut self, tenant: &str, most: usize) -> Outcome<Vec<Credential>>;
    /// Counts the credentials of a tenant, of all owners.
    async fn count_credentials(&mut self, tenant: &str) -> Outcome<u64>;
    /// Removes the requests of a tenant; returns their number.
    async fn remove_requests(&mut self, tenant: &str) -> Outcome<usize>;
    /// Returns a device with a credential that is one of these, or begins with the prefix.
    async fn device_among(&mut self, tenant: &str, devices: &[&str], prefix: &str) -> Outcome<Option<String>>;
    async fn request(&mut self, tenant: &str, id: &str) -> Outcome<Option<Request>>;
    /// Keeps a request, and removes those of the tenant that are older than `oldest`.
    async fn put_request(&mut self, tenant: &str, id: &str, request: &Request, oldest: Nanos) -> Outcome<()>;
    /// Adds an event to the chain of the tenant that was entered.
    async fn append(&mut self, event: AuditEvent) -> Outcome<()>;
    /// Returns the last events of the tenant that was entered.
    async fn recent_events(&mut self, limit: usize) -> Outcome<Vec<AuditEvent>>;
    /// Adds an entry to the control log.
    async fn control(&mut self, tenant: &str, kind: ChangeKind) -> Outcome<()>;
    /// Returns the tenants of credentials; call it before any tenant is entered.
    async fn tenants_of(&mut self, ids: &[CredentialId]) -> Outcome<Vec<(String, CredentialId)>>;
    /// Records uses of credentials of a tenant.
    async fn put_uses(&mut self, tenant: &str, uses: &[Use]) -> Outcome<()>;
    /// Returns the fingerprint of a version, after adding this one if there was none.
    async fn pepper(&mut self, version: u32, fingerprint: &[u8; 32]) -> Outcome<Vec<u8>>;
}

/// A change: one transaction.
#[async_trait]
pub(super) trait Work: Send + Sync + 'static {
    type Output: Send + 'static;

    /// Makes the change. `in_doubt`: it was made before, and perhaps kept.
    async fn run<R: Rows>(&self, rows: &mut R, in_doubt: bool) -> Outcome<Self::Output>;
}
