//! Tenants, credentials and changes.

use std::net::IpAddr;

use model::Nanos;
use serde::{Deserialize, Serialize};

use crate::{CredentialId, Digest, Role};

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
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    /// Its id.
    pub id: String,
    /// Its name for people.
    pub display_name: String,
    /// Its state.
    pub state: TenantState,
    /// Time of its creation.
    pub created: Nanos,
    /// Count of its changes, 1 at first.
    pub version: u64,
}

/// The state of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TenantState {
    /// Its credentials are valid.
    Active,
    /// Its credentials are refused, its data is kept.
    Suspended,
}

/// A credential of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// Its id, the part of the token that is not secret.
    pub id: CredentialId,
    /// Its tenant.
    pub tenant: String,
    /// The client or caller that it identifies.
    pub kind: CredentialKind,
    /// Time of its creation.
    pub created: Nanos,
    /// Time from which it is no longer valid.
    pub expires: Option<Nanos>,
    /// The form in which its secret is kept.
    pub digest: Digest,
}

impl Credential {
    /// True when it has expired.
    pub fn has_expired(&self, now: Nanos) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// Returns its device, if it is a device secret.
    pub fn device(&self) -> Option<&str> {
        match &self.kind {
            CredentialKind::DeviceSecret { device } => Some(device),
            CredentialKind::ApiKey(_) => None,
        }
    }

    /// Returns its rights, if it is an API key.
    pub fn rights(&self) -> Option<&KeyRights> {
        match &self.kind {
            CredentialKind::DeviceSecret { .. } => None,
            CredentialKind::ApiKey(rights) => Some(rights),
        }
    }

    /// Returns its name in the audit: `apiKeys/4ZjQ0kq8yW2a`,
    /// `devices/d1/credentials/4ZjQ0kq8yW2a`.
    pub fn name(&self) -> String {
        match &self.kind {
            CredentialKind::DeviceSecret { device } => format!("devices/{device}/credentials/{}", self.id),
            CredentialKind::ApiKey(_) => format!("apiKeys/{}", self.id),
        }
    }
}

/// The client or caller that a credential identifies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CredentialKind {
    /// A device, which connects with it.
    DeviceSecret {
        /// Id of the device.
        device: String,
    },
    /// A caller of the api.
    ApiKey(KeyRights),
}

/// The rights of an API key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRights {
    /// Its name for people.
    pub display_name: String,
    /// Its role.
    pub role: Role,
    /// Permissions that it is limited to; empty is all of its role.
    pub scopes: Vec<String>,
    /// Networks (CIDR) that it is valid from; empty is all.
    pub allowed_networks: Vec<String>,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    /// The credential.
    pub id: CredentialId,
    /// Time of the use.
    pub at: Nanos,
    /// The digest under the current pepper, when it is kept under the previous one.
    pub digest: Option<Digest>,
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
    /// The tenant was suspended.
    TenantSuspended,
    /// The credential was created.
    Created(CredentialId),
    /// The credential was deleted.
    Deleted(CredentialId),
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
