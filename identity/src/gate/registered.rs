//! Devices of tenants that ask for a registration.
//!
//! A device is looked up when one of its credentials is used first, and again when it is changed:
//! at once when that is made in this process, within a second when it is made in another. One that
//! is not registered is refused, and its sessions end; or it is registered in quarantine, and its
//! readings are held.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hashbrown::HashMap;
use model::{DeviceKey, Nanos};
use parking_lot::Mutex;

use super::live::Entry;
use super::lookup::answer;
use super::tenants::Metered;
use super::{Gate, Problem};
use crate::CredentialId;
use crate::registry::{Device, DeviceAdmission, Error, Origin};

/// The principal of a registration in quarantine, in the audit.
const BY: &str = "system";

/// Devices from which on those without a credential in use are removed.
const KEPT: usize = 64;

/// The credentials in use of devices that have to be registered, by the keys of the devices.
#[derive(Debug, Default)]
pub(super) struct Registered(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    of_devices: HashMap<CredentialId, Vec<CredentialId>>,
    /// Devices at which those without a credential in use are removed again.
    tidy_at: usize,
}

impl Registered {
    /// Returns the credentials of the device of a key.
    pub(super) fn of(&self, key: &CredentialId) -> Vec<CredentialId> {
        self.0.lock().of_devices.get(key).cloned().unwrap_or_default()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().of_devices.len()
    }

    fn add(&self, key: CredentialId, credential: CredentialId, is_used: impl Fn(&CredentialId) -> bool) {
        let mut table = self.0.lock();
        if table.of_devices.len() >= table.tidy_at {
            table.of_devices.retain(|_, credentials| {
                credentials.retain(&is_used);
                !credentials.is_empty()
            });
            table.tidy_at = (2 * table.of_devices.len()).max(KEPT);
        }
        let credentials = table.of_devices.entry(key).or_default();
        if !credentials.contains(&credential) {
            credentials.retain(&is_used);
            credentials.push(credential);
        }
    }
}

/// The place of a device in a tenant that asks for a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is registered, in this version.
    Registered(u64),
    /// It is in quarantine since this version of its registration.
    Quarantined(u64),
    /// It is not registered, or was deleted.
    Unknown,
    /// It is not registered, and its tenant has as many devices as it may.
    NoRoom,
}

impl Standing {
    fn of(device: &Device) -> Self {
        match device {
            device if device.is_registered() => Self::Registered(device.version),
            device if device.deleted.is_none() => Self::Quarantined(device.version),
            _ => Self::Unknown,
        }
    }

    /// Returns why the device is refused, if it is.
    pub(super) fn refusal(self, admission: DeviceAdmission) -> Option<&'static str> {
        match (self, admission) {
            (_, DeviceAdmission::Auto) | (Self::Registered(_), _) => None,
            (Self::Quarantined(_), DeviceAdmission::Quarantine) => None,
            (Self::NoRoom, _) => Some("the device is not registered, and its tenant has no room for another"),
            (Self::Unknown | Self::Quarantined(_), _) => Some("the device is not registered"),
        }
    }
}

impl Gate {
    /// Returns why a device may not connect: its tenant asks for a registration that it does not
    /// have.
    pub(super) async fn unregistered(
        &self,
        entry: &Entry,
        device: &str,
        now: Nanos,
    ) -> Result<Option<&'static str>, Problem> {
        let admission = self.0.tenants.admission(&entry.tenant);
        let is_known = || entry.is_registered.load(Ordering::Acquire) && self.is_fresh(now);
        if admission == DeviceAdmission::Auto || is_known() {
            return Ok(None);
        }
        Ok(answer(self.look_registered_up(entry, device)).await?.refusal(admission))
    }

    async fn look_registered_up(&self, entry: &Entry, device: &str) -> Result<Standing, Error> {
        // Before the lookup: a change that it does not see finds the credential, and is applied.
        let key = Device::key(&entry.tenant, device);
        self.0.registered.add(key, entry.id, |id| self.0.live.get(id).is_some());
        // Its id is that of a credential.
        let Ok(key) = DeviceKey::new(&entry.tenant, device) else { return Ok(Standing::Unknown) };
        let gate = self.clone();
        let ask = move |keys: Vec<DeviceKey>| {
            let gate = gate.clone();
            async move { gate.standings(&keys).await }
        };
        let standing = self.0.device_lookups.get(key, ask).await?;
        entry.is_registered.store(matches!(standing, Standing::Registered(_)), Ordering::Release);
        if let Some(Metered::Device(meter)) = &entry.meter {
            match standing {
                Standing::Registered(version) => meter.set_quarantine(version, false),
                Standing::Quarantined(version) => meter.set_quarantine(version, true),
                Standing::Unknown | Standing::NoRoom => {}
            }
        }
        Ok(standing)
    }

    /// Looks devices up, and registers those in quarantine that their tenants hold back.
    async fn standings(&self, keys: &[DeviceKey]) -> Vec<Result<Standing, Error>> {
        let mut of_tenants: HashMap<Arc<str>, Vec<usize>> = HashMap::new();
        for (at, key) in keys.iter().enumerate() {
            of_tenants.entry(Arc::clone(&key.tenant)).or_default().push(at);
        }
        let mut standings = vec![Ok(Standing::Unknown); keys.len()];
        for (tenant, places) in of_tenants {
            let ids: Vec<String> = places.iter().map(|at| keys[*at].id.as_ref().to_owned()).collect();
            let found = self.standings_of(&tenant, &ids).await;
            for (at, place) in places.into_iter().enumerate() {
                standings[place] = found.as_ref().map(|found| found[at]).map_err(Clone::clone);
            }
        }
        standings
    }

    async fn standings_of(&self, tenant: &str, ids: &[String]) -> Result<Vec<Standing>, Error> {
        let found = self.0.registry.devices(tenant, ids).await?;
        if self.0.tenants.admission(tenant) != DeviceAdmission::Quarantine {
            let standing = |known: Option<Device>| known.as_ref().map_or(Standing::Unknown, Standing::of);
            return Ok(found.into_iter().map(standing).collect());
        }
        let new = ids.iter().zip(&found).filter(|(_, known)| known.is_none()).map(|(id, _)| id);
        let mut made = self.quarantine(tenant, new).await?.into_iter();
        let standing = |known: Option<Device>| {
            let device = known.or_else(|| made.next().flatten());
            device.as_ref().map_or(Standing::NoRoom, Standing::of)
        };
        Ok(found.into_iter().map(standing).collect())
    }

    /// Registers devices in quarantine. Returns each, in their order; `None` for one without room.
    async fn quarantine(&self, tenant: &str, ids: impl Iterator<Item = &String>) -> Result<Vec<Option<Device>>, Error> {
        let now = self.0.clock.now();
        let row = |id: &String| Ok(Device { quarantined: Some(now), ..Device::new(tenant, id, now)? });
        let rows: Vec<Device> = ids.map(row).collect::<Result<_, Error>>()?;
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let origin = Origin { by: BY.into(), method: "QuarantineDevices", address: None, request_id: None, at: now };
        let made = self.0.registry.quarantine_devices(tenant, rows, &origin).await?;
        if made.iter().any(Option::is_none) {
            tracing::warn!(tenant, "the tenant has as many registered devices as it may: unknown ones are refused");
        }
        Ok(made)
    }

    /// Adds the credentials in use of tenants that ask for a registration: of those that have done
    /// so for a moment, or of all.
    pub(super) fn add_unchecked(&self, devices: &mut VecDeque<CredentialId>, all: bool) {
        for tenant in self.0.tenants.take_unchecked(all) {
            devices.extend(self.0.live.ids_of(&tenant));
        }
    }

    /// Adds the credentials in use of a tenant whose devices are not known to be registered: some
    /// were adopted.
    pub(super) fn add_quarantined(&self, devices: &mut VecDeque<CredentialId>, tenant: &str) {
        if self.0.tenants.admission(tenant) == DeviceAdmission::Quarantine {
            let is_new = |id: &CredentialId| {
                self.0.live.get(id).is_some_and(|entry| !entry.is_registered.load(Ordering::Acquire))
            };
            devices.extend(self.0.live.ids_of(tenant).into_iter().filter(is_new));
        }
    }

    /// Looks the device of a credential up again, and ends the credential's sessions if its tenant
    /// refuses it.
    pub(super) async fn check_registered_again(&self, id: &CredentialId) -> Result<(), Error> {
        let Some(entry) = self.0.live.get(id) else { return Ok(()) };
        let Some(device) = entry.device() else { return Ok(()) };
        let admission = self.0.tenants.admission(&entry.tenant);
        if admission == DeviceAdmission::Auto {
            return Ok(());
        }
        if self.look_registered_up(&entry, device).await?.refusal(admission).is_some() {
            self.0.live.revoke(id);
        }
        Ok(())
    }

    /// Applies a change of a device at once.
    pub(crate) async fn device_changed(&self, tenant: &str, device: &str) {
        for id in self.0.registered.of(&Device::key(tenant, device)) {
            if let Err(error) = self.check_registered_again(&id).await {
                tracing::warn!(tenant, device, %error, "the change of a device is applied when its row can be read");
            }
        }
    }

    /// Notes that devices of a tenant were adopted: their readings are no longer held.
    pub(super) fn note_adopted(&self, tenant: &str) {
        self.0.adopted.send_if_modified(|tenants| tenants.insert(tenant.into()));
    }

    /// Waits until devices were adopted, in whichever process, and returns their tenants, each
    /// once. For one caller.
    pub async fn adopted(&self) -> BTreeSet<Arc<str>> {
        let mut changes = self.0.adopted.subscribe();
        loop {
            let mut tenants = BTreeSet::new();
            self.0.adopted.send_if_modified(|noted| {
                tenants = std::mem::take(noted);
                false
            });
            if !tenants.is_empty() {
                return tenants;
            }
            // The gate has the sender.
            changes.changed().await.ok();
        }
    }
}
