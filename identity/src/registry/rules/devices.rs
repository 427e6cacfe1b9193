//! The rules of devices.

use async_trait::async_trait;
use serde::Serialize;

use super::deletion::check_kept;
use super::{entered, event, record, remember, repeated};
use crate::registry::device::{DeviceChange, MAX_DEVICES, check_version};
use crate::registry::transaction::{Outcome, Rows, Work};
use crate::registry::{ChangeKind, Created, Device, DeviceUpdate, Error, Imported, Origin, Tenant};

/// [`RegistryWrites::create_device`](crate::registry::RegistryWrites::create_device).
pub(in crate::registry) struct CreateDevice(pub(in crate::registry) Device, pub(in crate::registry) Origin);

#[async_trait]
impl Work for CreateDevice {
    type Output = Created<Device>;

    async fn run<R: Rows>(&self, rows: &mut R, in_doubt: bool) -> Outcome<Self::Output> {
        let Self(device, origin) = self;
        let tenant = entered(rows, &device.tenant).await?;
        check_kept(&tenant)?;
        let known = rows.device(&device.tenant, &device.id).await?;
        let is_done = |known: &&Device| *known == device || (known.updated, known.quarantined) == (origin.at, None);
        if let Some(known) = known.as_ref().filter(|_| in_doubt).filter(is_done) {
            return Ok(Created { row: known.clone(), is_repeat: false });
        }
        let is_repeat = repeated(rows, &device.tenant, (&device.id, ""), origin).await?.is_some();
        match known {
            Some(known) if is_repeat => return Ok(Created { row: known, is_repeat }),
            Some(known) if known.deleted.is_none() && known.quarantined.is_some() => {
                let (mut adopted, update) = (known.clone(), DeviceUpdate::of(device));
                update.apply(&mut adopted, origin.at)?;
                remember(rows, &device.tenant, (&device.id, ""), &device.id, origin).await?;
                put(rows, known, &adopted, update.detail(), origin).await?;
                return Ok(Created { row: adopted, is_repeat: false });
            }
            Some(_) => return Err(Error::Exists(device.name()).into()),
            None => {}
        }
        check_room(rows, &tenant, 1).await?;
        rows.put_devices(&[DeviceChange { before: None, after: Some(device.clone()) }]).await?;
        remember(rows, &device.tenant, (&device.id, ""), &device.id, origin).await?;
        let kind = ChangeKind::DeviceChanged(Device::key(&device.tenant, &device.id));
        let detail = DeviceUpdate::of(device).detail();
        record(rows, &device.tenant, device.name(), detail, origin, kind).await?;
        Ok(Created { row: device.clone(), is_repeat: false })
    }
}

/// [`RegistryWrites::import_devices`](crate::registry::RegistryWrites::import_devices).
pub(in crate::registry) struct ImportDevices {
    pub(in crate::registry) tenant: String,
    pub(in crate::registry) devices: Vec<Device>,
    pub(in crate::registry) origin: Origin,
}

/// The devices that an import has changed, for its audit event.
#[derive(Debug, Default, Serialize)]
struct ImportedIds<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    created: Vec<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    updated: Vec<&'a str>,
}

#[async_trait]
impl Work for ImportDevices {
    type Output = Vec<Imported>;

    async fn run<R: Rows>(&self, rows: &mut R, in_doubt: bool) -> Outcome<Self::Output> {
        let tenant = entered(rows, &self.tenant).await?;
        check_kept(&tenant)?;
        let ids: Vec<String> = self.devices.iter().map(|device| device.id.clone()).collect();
        let known = rows.devices(&self.tenant, &ids).await?;
        let (mut outcomes, mut changes, mut names) = (Vec::new(), Vec::new(), ImportedIds::default());
        let mut kind = ChangeKind::DevicesChanged;
        for (given, known) in self.devices.iter().zip(known) {
            let outcome = match known {
                None => {
                    changes.push(DeviceChange { before: None, after: Some(given.clone()) });
                    names.created.push(&given.id);
                    Imported::Created
                }
                // The first time it was not there.
                Some(known) if in_doubt && known == *given => Imported::Created,
                Some(known) if known.deleted.is_some() => Imported::Deleted,
                Some(known) => {
                    let mut device = known.clone();
                    if DeviceUpdate::of(given).apply(&mut device, self.origin.at)? {
                        if known.quarantined.is_some() {
                            kind = ChangeKind::DevicesAdopted;
                        }
                        changes.push(DeviceChange { before: Some(known), after: Some(device) });
                        names.updated.push(&given.id);
                        Imported::Updated
                    } else {
                        Imported::Unchanged
                    }
                }
            };
            outcomes.push(outcome);
        }
        if changes.is_empty() {
            return Ok(outcomes);
        }
        check_room(rows, &tenant, names.created.len() as u64).await?;
        rows.put_devices(&changes).await?;
        let detail = serde_json::to_string(&names).expect("plain fields are JSON");
        record(rows, &self.tenant, "devices".to_owned(), detail, &self.origin, kind).await?;
        Ok(outcomes)
    }
}

/// [`RegistryWrites::quarantine_devices`](crate::registry::RegistryWrites::quarantine_devices).
pub(in crate::registry) struct QuarantineDevices {
    pub(in crate::registry) tenant: String,
    pub(in crate::registry) devices: Vec<Device>,
    pub(in crate::registry) origin: Origin,
}

#[async_trait]
impl Work for QuarantineDevices {
    type Output = Vec<Option<Device>>;

    async fn run<R: Rows>(&self, rows: &mut R, _in_doubt: bool) -> Outcome<Self::Output> {
        let tenant = entered(rows, &self.tenant).await?;
        check_kept(&tenant)?;
        let ids: Vec<String> = self.devices.iter().map(|device| device.id.clone()).collect();
        let mut found = rows.devices(&self.tenant, &ids).await?;
        let mut room = max_devices(&tenant).saturating_sub(rows.count_devices(&tenant.id).await?);
        let (mut changes, mut names) = (Vec::new(), ImportedIds::default());
        for (given, known) in self.devices.iter().zip(&mut found) {
            if known.is_none() && room > 0 {
                room -= 1;
                changes.push(DeviceChange { before: None, after: Some(given.clone()) });
                names.created.push(&given.id);
                *known = Some(given.clone());
            }
        }
        if !changes.is_empty() {
            rows.put_devices(&changes).await?;
            let detail = serde_json::to_string(&names).expect("plain fields are JSON");
            rows.append(event("devices".to_owned(), detail, &self.origin)).await?;
        }
        Ok(found)
    }
}

/// [`RegistryWrites::update_device`](crate::registry::RegistryWrites::update_device).
pub(in crate::registry) struct UpdateDevice {
    pub(in crate::registry) tenant: String,
    pub(in crate::registry) id: String,
    pub(in crate::registry) update: DeviceUpdate,
    pub(in crate::registry) origin: Origin,
}

#[async_trait]
impl Work for UpdateDevice {
    type Output = Device;

    async fn run<R: Rows>(&self, rows: &mut R, in_doubt: bool) -> Outcome<Device> {
        let known = entered_device(rows, &self.tenant, &self.id).await?;
        let known = known.filter(|known| known.deleted.is_none()).ok_or_else(|| missing(&self.id))?;
        let mut device = known.clone();
        let before = DeviceUpdate { version: None, ..self.update.clone() };
        if in_doubt && !before.apply(&mut known.clone(), self.origin.at)? {
            return Ok(known);
        }
        if self.update.apply(&mut device, self.origin.at)? {
            put(rows, known, &device, self.update.detail(), &self.origin).await?;
        }
        Ok(device)
    }
}

/// [`RegistryWrites::delete_device`](crate::registry::RegistryWrites::delete_device).
pub(in crate::registry) struct DeleteDevice {
    pub(in crate::registry) tenant: String,
    pub(in crate::registry) id: String,
    pub(in crate::registry) version: Option<u64>,
    pub(in crate::registry) origin: Origin,
}

#[async_trait]
impl Work for DeleteDevice {
    type Output = Device;

    async fn run<R: Rows>(&self, rows: &mut R, in_doubt: bool) -> Outcome<Device> {
        let known = entered_device(rows, &self.tenant, &self.id).await?.ok_or_else(|| missing(&self.id))?;
        match known.deleted {
            // The first time it was there.
            Some(at) if in_doubt && at == self.origin.at => return Ok(known),
            Some(_) => return Err(missing(&self.id).into()),
            None => check_version(&known, self.version)?,
        }
        let deleted = Some(self.origin.at);
        let device = Device { deleted, updated: self.origin.at, version: known.version + 1, ..known.clone() };
        put(rows, known, &device, String::new(), &self.origin).await?;
        Ok(device)
    }
}

/// [`RegistryWrites::undelete_device`](crate::registry::RegistryWrites::undelete_device).
pub(in crate::registry) struct UndeleteDevice {
    pub(in crate::registry) tenant: String,
    pub(in crate::registry) id: String,
    pub(in crate::registry) origin: Origin,
}

#[async_trait]
impl Work for UndeleteDevice {
    type Output = Device;

    async fn run<R: Rows>(&self, rows: &mut R, _in_doubt: bool) -> Outcome<Device> {
        let known = entered_device(rows, &self.tenant, &self.id).await?.ok_or_else(|| missing(&self.id))?;
        if known.deleted.is_none() {
            return Ok(known);
        }
        let device = Device { deleted: None, updated: self.origin.at, version: known.version + 1, ..known.clone() };
        put(rows, known, &device, String::new(), &self.origin).await?;
        Ok(device)
    }
}

/// Refuses devices beyond the limit of a tenant.
async fn check_room<R: Rows>(rows: &mut R, tenant: &Tenant, new: u64) -> Outcome<()> {
    let most = max_devices(tenant);
    if new == 0 || rows.count_devices(&tenant.id).await?.saturating_add(new) <= most {
        return Ok(());
    }
    Err(Error::Limit { what: "registered devices", most: usize::try_from(most).unwrap_or(usize::MAX) }.into())
}

/// Returns the number of devices that a tenant may register.
fn max_devices(tenant: &Tenant) -> u64 {
    tenant.limits.devices.map_or(MAX_DEVICES, |limit| limit.get().min(MAX_DEVICES))
}

/// Changes a device, with the event of the change and its entry of the control log.
async fn put<R: Rows>(rows: &mut R, before: Device, after: &Device, detail: String, origin: &Origin) -> Outcome<()> {
    let is_adopted = before.quarantined.is_some() && after.quarantined.is_none();
    rows.put_devices(&[DeviceChange { before: Some(before), after: Some(after.clone()) }]).await?;
    let key = Device::key(&after.tenant, &after.id);
    let kind = if is_adopted { ChangeKind::DeviceAdopted(key) } else { ChangeKind::DeviceChanged(key) };
    record(rows, &after.tenant, after.name(), detail, origin, kind).await
}

/// Returns a device of a tenant that was entered, also one that was deleted.
async fn entered_device<R: Rows>(rows: &mut R, tenant: &str, id: &str) -> Outcome<Option<Device>> {
    check_kept(&entered(rows, tenant).await?)?;
    rows.device(tenant, id).await
}

fn missing(id: &str) -> Error {
    Error::NotFound(format!("devices/{id}"))
}
