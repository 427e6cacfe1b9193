//! Results, uses, origins and changes.

use std::net::IpAddr;

use model::Nanos;
use serde::{Deserialize, Serialize};

use super::{Credential, TenantState};
use crate::{CredentialId, Digest, PasswordHash};

/// The result of a call to the registry.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// The reason why the registry refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is none, or it belongs to another tenant.
    #[error("{0} does not exist")]
    NotFound(String),
    /// There is one already.
    #[error("{0} exists already")]
    Exists(String),
    /// There are as many as may be.
    #[error("there are {most} {what} already, the most that are allowed: delete one first")]
    Limit {
        /// The things that are limited.
        what: &'static str,
        /// Their maximum count.
        most: usize,
    },
    /// Rights are bound to it.
    #[error("{name} is used by {}{}: delete them first", users.join(", "), and_more(*.more))]
    InUse {
        /// The resource.
        name: String,
        /// Names of credentials that are bound to it.
        users: Vec<String>,
        /// Count of further ones.
        more: usize,
    },
    /// The row was changed since it was read.
    #[error("{0} was changed meanwhile: read it again, and repeat the change")]
    Conflict(String),
    /// A field of the request is not valid.
    #[error("{field}: {reason}")]
    Invalid {
        /// Name of the field.
        field: &'static str,
        /// The fault, and how to mend it.
        reason: String,
    },
    /// The registry cannot answer now.
    #[error("the registry of credentials is unavailable: {0}")]
    Unavailable(String),
    /// The registry cannot be used until an operator has changed something. Waiting does not help.
    #[error("the registry of credentials cannot be used: {0}")]
    NeedsOperator(String),
}

fn and_more(count: usize) -> String {
    if count == 0 { String::new() } else { format!(" and {count} more") }
}

/// A credential that was looked up by its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The credential.
    pub credential: Credential,
    /// The state of its tenant.
    pub tenant: TenantState,
    /// Time of its last use, up to five minutes old.
    pub last_use: Option<Nanos>,
}

/// A credential in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The credential.
    pub credential: Credential,
    /// Time of its last use, up to five minutes old.
    pub last_use: Option<Nanos>,
}

/// The outcome of a creation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created<T> {
    /// The row, of the first request if this is a repeat.
    pub row: T,
    /// True when the same request was made before.
    pub is_repeat: bool,
}

/// A use of a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// The credential.
    pub id: CredentialId,
    /// Time of the use.
    pub at: Nanos,
    /// The digest under the current pepper, when it is kept under the previous one.
    pub digest: Option<Digest>,
    /// The password under the current pepper and parameters, when it is kept under others.
    pub rehashed: Option<Box<Rehashed>>,
}

/// A password that is kept in another form from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rehashed {
    /// The form that was checked. Another one is of another password, or newer.
    pub from: PasswordHash,
    /// The new one.
    pub to: PasswordHash,
}

impl Use {
    /// Returns a use at a time, of a credential that stays as it is.
    pub fn at(id: CredentialId, at: Nanos) -> Self {
        Self { id, at, digest: None, rehashed: None }
    }

    /// True when the credential is kept in another form from now on.
    pub(crate) fn moves(&self) -> bool {
        self.digest.is_some() || self.rehashed.is_some()
    }
}

/// The origin of a change, for its audit event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Name of the principal.
    pub by: String,
    /// The method: `CreateApiKey`.
    pub method: &'static str,
    /// Address of the caller.
    pub address: Option<IpAddr>,
    /// Id of the request, by which a repeat is recognised.
    pub request_id: Option<String>,
    /// Time of the change.
    pub at: Nanos,
}

/// An entry of the control log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Its number, from 1, without gaps.
    pub number: u64,
    /// The tenant.
    pub tenant: String,
    /// The change.
    pub kind: ChangeKind,
}

/// A change of a tenant or a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// The tenant was created or resumed.
    TenantActive,
    /// The tenant was suspended, or is to be deleted.
    TenantSuspended,
    /// The data of the tenant is being removed.
    TenantPurging,
    /// Name, limits or features of the tenant were changed.
    TenantUpdated,
    /// The credential was created.
    Created(CredentialId),
    /// The credential was deleted.
    Deleted(CredentialId),
    /// The group of this key, or the list of its members, was changed.
    GroupChanged(CredentialId),
    /// The device of this key was registered, changed, deleted or restored.
    DeviceChanged(CredentialId),
    /// The device of this key was in quarantine, and no longer is.
    DeviceAdopted(CredentialId),
    /// Several devices of the tenant were registered or changed.
    DevicesChanged,
    /// As `DevicesChanged`, and some of them were in quarantine.
    DevicesAdopted,
}

/// A part of the control log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// The entries, in order.
    pub entries: Vec<Change>,
    /// Number of the newest entry of the log; 0 when there is none.
    pub newest: u64,
    /// True when entries after the given number are no longer kept: look everything up again.
    pub has_gap: bool,
}
