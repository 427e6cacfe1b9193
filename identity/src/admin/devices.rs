//! Devices that are registered.

use std::collections::{BTreeMap, HashSet};

use model::Nanos;

use super::{Admin, By, MAX_PAGE, check};
use crate::registry::{
    Created, Device, DevicePage, DeviceQuery, DeviceUpdate, Error, Imported, Result, check_label_count, search,
};

/// Devices that one call imports: the audit event of the change names each.
const MAX_IMPORTED: usize = 1000;

/// A device to be registered.
#[derive(Debug, Clone, Default)]
pub struct NewDevice {
    /// Its id.
    pub id: String,
    /// Its name for people; empty: none.
    pub display_name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The id of its type; empty: none.
    pub device_type: String,
    /// Longest time between two of its readings, as its owner expects it.
    pub expected_interval: Option<Nanos>,
}

impl NewDevice {
    /// Checks the fields, and returns the row of the device.
    fn into_row(self, tenant: &str, now: Nanos) -> Result<Device> {
        check::registered_device(&self.id)?;
        check::text("display_name", &self.display_name)?;
        self.labels.iter().try_for_each(|(key, value)| check::label(key, Some(value)))?;
        check_label_count(&self.labels)?;
        check::device_type(&self.device_type)?;
        check::interval(self.expected_interval)?;
        Ok(Device {
            display_name: self.display_name,
            labels: self.labels,
            device_type: self.device_type,
            expected_interval: self.expected_interval,
            ..Device::new(tenant, &self.id, now)?
        })
    }
}

impl Admin {
    /// Registers a device. It may have sent readings before, and adopts one in quarantine.
    ///
    /// # Errors
    /// [`Error::Exists`], also for one that was deleted; [`Error::NotFound`] without the tenant;
    /// [`Error::Limit`] when the tenant has as many as it may; [`Error::Invalid`],
    /// [`Error::Unavailable`].
    pub async fn create_device(&self, tenant: &str, new: NewDevice, by: &By) -> Result<Created<Device>> {
        let origin = self.origin("CreateDevice", by)?;
        check::tenant(tenant)?;
        let device = new.into_row(tenant, origin.at)?;
        let created = self.registry.create_device(device, &origin).await?;
        self.device_changed(&created.row).await;
        Ok(created)
    }

    /// Registers up to 1000 devices, and gives those that are registered the fields of these: all
    /// or none. A repeat changes nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the device; [`Error::NotFound`] without the tenant;
    /// [`Error::Limit`] when the tenant has as many as it may; [`Error::Unavailable`].
    pub async fn import_devices(&self, tenant: &str, new: Vec<NewDevice>, by: &By) -> Result<Vec<Imported>> {
        let origin = self.origin("ImportDevices", by)?;
        check::tenant(tenant)?;
        let invalid = |reason: String| Error::Invalid { field: "devices", reason };
        if new.is_empty() || new.len() > MAX_IMPORTED {
            return Err(invalid(format!("use 1 to {MAX_IMPORTED} in one call")));
        }
        let (mut rows, mut ids) = (Vec::with_capacity(new.len()), HashSet::new());
        for device in new {
            if !ids.insert(device.id.clone()) {
                return Err(invalid(format!("{:?} is there twice", device.id)));
            }
            let shown: String = device.id.chars().take(80).collect();
            rows.push(device.into_row(tenant, origin.at).map_err(|error| match error {
                Error::Invalid { field, reason } => invalid(format!("{shown:?}: {field}: {reason}")),
                other => other,
            })?);
        }
        self.registry.import_devices(tenant, rows, &origin).await
    }

    /// Returns for each of these ids, in their order, the device that is registered under it, also
    /// one that was deleted.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Unavailable`].
    pub async fn registered_devices(&self, tenant: &str, ids: &[String]) -> Result<Vec<Option<Device>>> {
        check::tenant(tenant)?;
        self.registry.devices(tenant, ids).await
    }

    /// Returns devices that a query selects, in order of their ids, those after `after`; at most
    /// 1000. There may be more although there are fewer: see [`DevicePage::after`].
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Unavailable`].
    pub async fn search_devices(
        &self,
        tenant: &str,
        query: &DeviceQuery,
        after: &str,
        limit: usize,
    ) -> Result<DevicePage> {
        check::tenant(tenant)?;
        search(&*self.registry, tenant, query, after, limit.clamp(1, MAX_PAGE)).await
    }

    /// Changes a device. The answer is the device as it is then.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Conflict`], [`Error::Invalid`], [`Error::Unavailable`].
    pub async fn update_device(&self, tenant: &str, id: &str, update: DeviceUpdate, by: &By) -> Result<Device> {
        let origin = self.origin("UpdateDevice", by)?;
        check::tenant(tenant)?;
        update.display_name.as_deref().map(|name| check::text("display_name", name)).transpose()?;
        let labels = update.labels.iter().flatten().map(|(key, value)| (key, Some(value)));
        let changed = update.changed_labels.iter().map(|(key, value)| (key, value.as_ref()));
        labels.chain(changed).try_for_each(|(key, value)| check::label(key, value.map(String::as_str)))?;
        update.device_type.as_deref().map(check::device_type).transpose()?;
        check::interval(update.expected_interval.flatten())?;
        let device = self.registry.update_device(tenant, id, &update, &origin).await?;
        self.device_changed(&device).await;
        Ok(device)
    }

    /// Adopts a device in quarantine: it is registered from then on. One that is registered stays
    /// as it is.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Conflict`], [`Error::Invalid`], [`Error::Unavailable`].
    pub async fn adopt_device(&self, tenant: &str, id: &str, version: Option<u64>, by: &By) -> Result<Device> {
        let origin = self.origin("AdoptDevice", by)?;
        check::tenant(tenant)?;
        let update = DeviceUpdate { version, ..DeviceUpdate::default() };
        let device = self.registry.update_device(tenant, id, &update, &origin).await?;
        self.device_changed(&device).await;
        Ok(device)
    }

    /// Applies a change of a device in this process at once.
    async fn device_changed(&self, device: &Device) {
        if let Some(gate) = &self.gate {
            gate.device_changed(&device.tenant, &device.id).await;
        }
    }

    /// Marks a device as deleted. Its readings stay, and so does its row, until it is restored. Its
    /// sessions end if its tenant asks for a registration.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Conflict`], [`Error::Invalid`], [`Error::Unavailable`].
    pub async fn delete_device(&self, tenant: &str, id: &str, version: Option<u64>, by: &By) -> Result<Device> {
        let origin = self.origin("DeleteDevice", by)?;
        check::tenant(tenant)?;
        let device = self.registry.delete_device(tenant, id, version, &origin).await?;
        self.device_changed(&device).await;
        Ok(device)
    }

    /// Takes the deletion of a device back.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`], [`Error::Unavailable`].
    pub async fn undelete_device(&self, tenant: &str, id: &str, by: &By) -> Result<Device> {
        let origin = self.origin("UndeleteDevice", by)?;
        check::tenant(tenant)?;
        self.registry.undelete_device(tenant, id, &origin).await
    }
}
