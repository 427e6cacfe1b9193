//! Devices of tenants that admit registered ones only.
//!
//! A device is looked up when one of its credentials is used first, and again when it is changed:
//! at once when that is made in this process, within a second when it is made in another. The
//! sessions of one that is not registered end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hashbrown::HashMap;
use model::{DeviceKey, Nanos};
use parking_lot::Mutex;

use super::live::Entry;
use super::lookup::answer;
use super::{Gate, Problem};
use crate::CredentialId;
use crate::registry::{Device, DeviceAdmission, Error};

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

impl Gate {
    /// True when a device may connect: its tenant admits all, or it is registered.
    pub(super) async fn may_connect(&self, entry: &Entry, device: &str, now: Nanos) -> Result<bool, Problem> {
        if self.0.tenants.admission(&entry.tenant) == DeviceAdmission::Auto {
            return Ok(true);
        }
        if entry.is_registered.load(Ordering::Acquire) && self.is_fresh(now) {
            return Ok(true);
        }
        answer(self.look_registered_up(entry, device)).await
    }

    async fn look_registered_up(&self, entry: &Entry, device: &str) -> Result<bool, Error> {
        // Before the lookup: a change that it does not see finds the credential, and ends its
        // sessions.
        let key = Device::key(&entry.tenant, device);
        self.0.registered.add(key, entry.id, |id| self.0.live.get(id).is_some());
        let is_registered = self.is_registered(&entry.tenant, device).await?;
        entry.is_registered.store(is_registered, Ordering::Release);
        Ok(is_registered)
    }

    async fn is_registered(&self, tenant: &str, device: &str) -> Result<bool, Error> {
        // Its id is that of a credential.
        let Ok(key) = DeviceKey::new(tenant, device) else { return Ok(false) };
        let registry = Arc::clone(&self.0.registry);
        let ask = move |keys: Vec<DeviceKey>| {
            let registry = Arc::clone(&registry);
            async move {
                let mut of_tenants: HashMap<Arc<str>, Vec<usize>> = HashMap::new();
                for (at, key) in keys.iter().enumerate() {
                    of_tenants.entry(Arc::clone(&key.tenant)).or_default().push(at);
                }
                let mut answers = vec![Ok(false); keys.len()];
                for (tenant, places) in of_tenants {
                    let ids: Vec<String> = places.iter().map(|at| keys[*at].id.as_ref().to_owned()).collect();
                    let found = registry.devices(&tenant, &ids).await;
                    for (at, place) in places.into_iter().enumerate() {
                        answers[place] = match &found {
                            Ok(found) => Ok(found[at].as_ref().is_some_and(|device| device.deleted.is_none())),
                            Err(error) => Err(error.clone()),
                        };
                    }
                }
                answers
            }
        };
        self.0.device_lookups.get(key, ask).await
    }

    /// Adds the credentials in use of tenants that admit registered devices only: of those that
    /// have done so for a moment, or of all.
    pub(super) fn add_unchecked(&self, devices: &mut VecDeque<CredentialId>, all: bool) {
        for tenant in self.0.tenants.take_unchecked(all) {
            devices.extend(self.0.live.ids_of(&tenant));
        }
    }

    /// Ends the sessions of a credential whose device has to be registered, and is not.
    pub(super) async fn check_registered_again(&self, id: &CredentialId) -> Result<(), Error> {
        let Some(entry) = self.0.live.get(id) else { return Ok(()) };
        let Some(device) = entry.device() else { return Ok(()) };
        if self.0.tenants.admission(&entry.tenant) == DeviceAdmission::Auto {
            return Ok(());
        }
        if !self.look_registered_up(&entry, device).await? {
            self.0.live.revoke(id);
        }
        Ok(())
    }

    /// Ends the sessions of a device that was deleted, at once.
    pub(crate) async fn device_deleted(&self, tenant: &str, device: &str) {
        for id in self.0.registered.of(&Device::key(tenant, device)) {
            if let Err(error) = self.check_registered_again(&id).await {
                tracing::warn!(tenant, device, %error, "a deleted device is disconnected when its row can be read");
            }
        }
    }
}
