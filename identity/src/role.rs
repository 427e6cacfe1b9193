//! Roles and their permissions.

use serde::{Deserialize, Serialize};

/// A role. Each has the permissions of those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Role {
    /// Reads.
    Viewer,
    /// Replays dead letters, disconnects clients, clears retained messages, sends commands.
    Operator,
    /// Registers devices and gives them credentials.
    Admin,
    /// Creates API keys, reads the audit.
    TenantAdmin,
    /// Operates the installation: exports, status, tenants.
    Installation,
}

impl Role {
    /// All roles, the least first.
    pub const ALL: [Self; 5] = [Self::Viewer, Self::Operator, Self::Admin, Self::TenantAdmin, Self::Installation];

    /// Returns its name: `VIEWER`, `TENANT_ADMIN`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "VIEWER",
            Self::Operator => "OPERATOR",
            Self::Admin => "ADMIN",
            Self::TenantAdmin => "TENANT_ADMIN",
            Self::Installation => "INSTALLATION",
        }
    }

    /// Returns the role of a name, in upper or lower case, with `-` or `_`.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str().eq_ignore_ascii_case(&name.replace('-', "_")))
    }

    /// True when the role has a permission.
    pub fn has(self, permission: &str) -> bool {
        least(permission).is_some_and(|least| self >= least)
    }

    /// True when some role has this permission.
    pub fn is_permission(permission: &str) -> bool {
        least(permission).is_some()
    }
}

/// The least role that has a permission.
fn least(permission: &str) -> Option<Role> {
    Some(match permission {
        "identity.get"
        | "telemetry.read"
        | "telemetry.subscribe"
        | "devices.get"
        | "devices.list"
        | "books.get"
        | "groups.get"
        | "groups.list"
        | "sessions.list"
        | "sessions.get"
        | "subscriptions.list"
        | "retainedMessages.list"
        | "retainedMessages.get" => Role::Viewer,
        "deadLetters.list"
        | "deadLetters.get"
        | "deadLetters.replay"
        | "sessions.disconnect"
        | "retainedMessages.clear" => Role::Operator,
        "devices.create"
        | "devices.update"
        | "devices.delete"
        | "credentials.create"
        | "credentials.list"
        | "credentials.delete"
        | "certificates.revoke" => Role::Admin,
        "apiKeys.create"
        | "apiKeys.list"
        | "apiKeys.delete"
        | "authorities.create"
        | "authorities.list"
        | "authorities.delete"
        | "issuers.create"
        | "issuers.list"
        | "issuers.update"
        | "issuers.delete"
        | "roleBindings.create"
        | "roleBindings.list"
        | "roleBindings.update"
        | "roleBindings.delete"
        | "groups.create"
        | "groups.update"
        | "groups.delete"
        | "audit.read"
        | "usage.get" => Role::TenantAdmin,
        "status.get" | "exports.list" | "exports.pause" | "exports.resume" | "exports.rewind" | "tenants.create"
        | "tenants.get" | "tenants.list" | "tenants.update" | "tenants.delete" => Role::Installation,
        _ => return None,
    })
}
