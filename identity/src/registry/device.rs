//! Devices that were registered: before they send a reading, or to say more of them than readings
//! do.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use model::Nanos;
use serde::{Deserialize, Serialize};

use super::{Error, Result};
use crate::CredentialId;

/// Registered devices of a tenant without a limit of its own, deleted ones included.
pub(crate) const MAX_DEVICES: u64 = 2_000_000;

/// A device of a tenant that was registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its id.
    pub id: String,
    /// Its tenant.
    pub tenant: String,
    /// An id that no other device has or will have, of all tenants.
    pub uid: String,
    /// Its name for people; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub display_name: String,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The id of its type; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub device_type: String,
    /// Longest time between two of its readings, as its owner expects it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_interval: Option<Nanos>,
    /// Time of its registration.
    pub created: Nanos,
    /// Time of the last change of this row.
    pub updated: Nanos,
    /// Time at which it was found to send readings without a registration; `None` once it is
    /// adopted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantined: Option<Nanos>,
    /// Time of its deletion, which can be taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<Nanos>,
    /// Count of its changes, 1 at first.
    pub version: u64,
}

impl Device {
    /// Returns the id of a device among those of all tenants.
    pub(crate) fn key(tenant: &str, id: &str) -> CredentialId {
        CredentialId::derived(&["device", tenant, id])
    }

    /// Returns a device of which no more is known than its id.
    ///
    /// # Errors
    /// [`Error::Unavailable`] without random numbers.
    pub(crate) fn new(tenant: &str, id: &str, now: Nanos) -> Result<Self> {
        let uid = CredentialId::generate().map_err(|error| Error::Unavailable(error.to_string()))?;
        Ok(Self {
            id: id.to_owned(),
            tenant: tenant.to_owned(),
            uid: uid.as_str().to_owned(),
            display_name: String::new(),
            labels: BTreeMap::new(),
            device_type: String::new(),
            expected_interval: None,
            created: now,
            updated: now,
            quarantined: None,
            deleted: None,
            version: 1,
        })
    }

    /// True when it may send readings to a tenant that asks for a registration.
    pub fn is_registered(&self) -> bool {
        self.deleted.is_none() && self.quarantined.is_none()
    }

    /// Returns the texts whose words it is found by.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let labels = self.labels.iter().flat_map(|(key, value)| [key.as_str(), value.as_str()]);
        [self.id.as_str(), &self.display_name, &self.device_type].into_iter().chain(labels)
    }

    /// Returns its name in the audit: `devices/pump-1`.
    pub fn name(&self) -> String {
        format!("devices/{}", self.id)
    }
}

/// A change of a device; `None` leaves a field as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DeviceUpdate {
    /// Its name for people; empty removes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Its labels, all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Some of its labels, after `labels`; `None` removes one.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub changed_labels: BTreeMap<String, Option<String>>,
    /// The id of its type; empty removes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_type: Option<String>,
    /// Longest time between two of its readings; `Some(None)` removes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_interval: Option<Option<Nanos>>,
    /// The version that the change is made for; `None` is any.
    #[serde(skip)]
    pub version: Option<u64>,
}

impl DeviceUpdate {
    /// Returns the change that gives a device all fields of this one.
    pub(crate) fn of(device: &Device) -> Self {
        Self {
            display_name: Some(device.display_name.clone()),
            labels: Some(device.labels.clone()),
            device_type: Some(device.device_type.clone()),
            expected_interval: Some(device.expected_interval),
            ..Self::default()
        }
    }

    /// Makes the change, which adopts a device in quarantine, and returns true when there was
    /// something to change.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the device has another version; [`Error::Invalid`] when it would
    /// have too many labels.
    pub(crate) fn apply(&self, device: &mut Device, now: Nanos) -> Result<bool> {
        check_version(device, self.version)?;
        let mut changed = Device { quarantined: None, ..device.clone() };
        if let Some(name) = &self.display_name {
            changed.display_name.clone_from(name);
        }
        if let Some(labels) = &self.labels {
            changed.labels.clone_from(labels);
        }
        for (key, value) in &self.changed_labels {
            match value {
                Some(value) => changed.labels.insert(key.clone(), value.clone()),
                None => changed.labels.remove(key),
            };
        }
        if let Some(device_type) = &self.device_type {
            changed.device_type.clone_from(device_type);
        }
        if let Some(interval) = self.expected_interval {
            changed.expected_interval = interval;
        }
        if changed == *device {
            return Ok(false);
        }
        check_label_count(&changed.labels)?;
        changed.version += 1;
        changed.updated = now;
        *device = changed;
        Ok(true)
    }

    /// Returns the change as JSON, for its audit event.
    pub(crate) fn detail(&self) -> String {
        serde_json::to_string(self).expect("plain fields are JSON")
    }
}

/// Labels of a device.
const MAX_LABELS: usize = 32;

/// Refuses more labels than a device may have.
pub(crate) fn check_label_count(labels: &BTreeMap<String, String>) -> Result<()> {
    match labels.len() > MAX_LABELS {
        true => Err(Error::Invalid { field: "labels", reason: format!("there are more than {MAX_LABELS}") }),
        false => Ok(()),
    }
}

/// Refuses a change that was made for another version of a device.
pub(super) fn check_version(device: &Device, version: Option<u64>) -> Result<()> {
    match version {
        Some(version) if version != device.version => Err(Error::Conflict(device.name())),
        _ => Ok(()),
    }
}

/// The outcome of the import of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Imported {
    /// It was registered.
    Created,
    /// It had been, with other fields.
    Updated,
    /// It had been, with the same fields.
    Unchanged,
    /// It was deleted, and stays so.
    Deleted,
}

/// A change of the row of a device: a new one, other content of it, or its end.
#[derive(Debug, Clone)]
pub(super) struct DeviceChange {
    pub(super) before: Option<Device>,
    pub(super) after: Option<Device>,
}

/// Returns for each of these ids, in their order, the device that was found.
pub(super) fn in_order(ids: &[String], found: Vec<Device>) -> Vec<Option<Device>> {
    let found: HashMap<String, Device> = found.into_iter().map(|device| (device.id.clone(), device)).collect();
    ids.iter().map(|id| found.get(id).cloned()).collect()
}

/// Reads devices that were registered.
#[async_trait]
pub trait DeviceRegistry: Send + Sync {
    /// Returns for each of these ids, in their order, the device, also one that was deleted.
    async fn devices(&self, tenant: &str, ids: &[String]) -> Result<Vec<Option<Device>>>;

    /// Returns devices of a tenant in order of their ids, those after `after`, also deleted ones.
    async fn devices_after(&self, tenant: &str, after: &str, limit: usize) -> Result<Vec<Device>>;

    /// Returns ids of devices that have a term, in their order, those after `after`.
    async fn devices_with(&self, tenant: &str, term: &str, after: &str, limit: usize) -> Result<Vec<String>>;

    /// Returns ids of devices that have a term which begins so: any, in any order, and perhaps
    /// several times each. Fewer than `limit` are all.
    async fn devices_beginning(&self, tenant: &str, start: &str, limit: usize) -> Result<Vec<String>>;

    /// Counts the devices of a tenant, also those that were deleted.
    async fn count_devices(&self, tenant: &str) -> Result<u64>;
}
