//! Tenants.

use std::collections::BTreeMap;

use door::quota::Limits;
use model::Nanos;
use serde::{Deserialize, Serialize};

use super::{Deletion, Error, Result};

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
    /// Features that are on or off for it, by name. One that is not named is off.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub features: BTreeMap<String, bool>,
    /// Its deletion, once that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion: Option<Box<Deletion>>,
    /// The pool that holds its data; `None` is the shared one. It never changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// The devices that it admits.
    #[serde(default, skip_serializing_if = "DeviceAdmission::is_auto")]
    pub device_admission: DeviceAdmission,
}

/// The devices that a tenant admits, of those with a valid credential.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceAdmission {
    /// All: one that is not registered comes into being with its first reading.
    #[default]
    Auto,
    /// Registered ones only.
    Refuse,
    /// All, and the readings of those that are not registered are held until they are.
    Quarantine,
}

impl DeviceAdmission {
    fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}

/// The state of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TenantState {
    /// Its credentials are valid.
    Active,
    /// Its credentials are refused, its data is kept.
    Suspended,
    /// It is to be deleted: as suspended, until its data is removed.
    Deleting,
    /// Its data is being removed.
    Purging,
    /// Its data is gone. Its id is not given again.
    Deleted,
}

impl TenantState {
    /// Returns its name: `ACTIVE`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Suspended => "SUSPENDED",
            Self::Deleting => "DELETING",
            Self::Purging => "PURGING",
            Self::Deleted => "DELETED",
        }
    }

    /// True when its credentials are valid.
    pub fn admits(self) -> bool {
        self == Self::Active
    }

    /// True when its data is being removed or is gone: nothing of it is written any longer.
    pub fn is_purged(self) -> bool {
        matches!(self, Self::Purging | Self::Deleted)
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
    /// Its features, all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub features: Option<BTreeMap<String, bool>>,
    /// The devices that it admits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_admission: Option<DeviceAdmission>,
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
        if let Some(features) = &self.features {
            changed.features.clone_from(features);
        }
        if let Some(admission) = self.device_admission {
            changed.device_admission = admission;
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
