//! Tenants.

use door::quota::Limits;
use model::Nanos;
use serde::{Deserialize, Serialize};

use super::{Error, Result};

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
    /// Its limits.
    #[serde(default)]
    pub limits: Limits,
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

impl TenantState {
    /// Returns its name: `ACTIVE`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Suspended => "SUSPENDED",
        }
    }
}

/// A change of a tenant; `None` leaves a field as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TenantUpdate {
    /// Its name for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Its limits, all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// The version that the change is made for; `None` is any.
    #[serde(skip)]
    pub version: Option<u64>,
}

impl TenantUpdate {
    /// Makes the change, and returns true when there was something to change.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the tenant has another version.
    pub(crate) fn apply(&self, tenant: &mut Tenant) -> Result<bool> {
        if self.version.is_some_and(|version| version != tenant.version) {
            return Err(Error::Conflict(format!("tenants/{}", tenant.id)));
        }
        let mut changed = tenant.clone();
        if let Some(name) = &self.display_name {
            changed.display_name.clone_from(name);
        }
        if let Some(limits) = self.limits {
            changed.limits = limits;
        }
        if changed == *tenant {
            return Ok(false);
        }
        changed.version += 1;
        *tenant = changed;
        Ok(true)
    }

    /// Returns the change as JSON, for its audit event.
    pub(crate) fn detail(&self) -> String {
        serde_json::to_string(self).expect("plain fields are JSON")
    }
}
