//! `DeviceService`.

use std::sync::Arc;

use identity::{DeviceUpdate, Error, Imported, NewDevice};
use model::DeviceKey;
use proto::v1::device_service_server::DeviceService;
use proto::v1::{
    AdoptDeviceRequest, CreateDeviceRequest, DeleteDeviceRequest, Device, GetDeviceRequest, ImportDevicesRequest,
    ImportDevicesResponse, ListDevicesRequest, ListDevicesResponse, UndeleteDeviceRequest, UpdateDeviceRequest,
};
use tonic::{Request, Response, Status};

use super::Shared;
use super::registry::{Resource, by, version};
use super::scan::{KnownDevice, Scope, device_filter, scan};
use crate::auth::Caller;
use crate::convert;
use crate::select::check_tenant;
use crate::{errors, names};

const INTERVAL: &str = "device.expected_interval";
const KNOWN: &str = "use `display_name`, `labels`, `labels.{key}`, `device_type`, `expected_interval`";

/// Implementation of `DeviceService`.
pub(crate) struct DeviceApi(pub(crate) Shared);

fn interval(device: &Device, field: &str) -> Result<Option<model::Nanos>, Status> {
    device.expected_interval.as_ref().map(|given| convert::length(field, given)).transpose()
}

fn new_device(id: String, given: Device, interval_field: &str) -> Result<NewDevice, Status> {
    Ok(NewDevice {
        id,
        expected_interval: interval(&given, interval_field)?,
        display_name: given.display_name,
        labels: given.labels.into_iter().collect(),
        device_type: given.device_type,
    })
}

fn update_from(device: &Device, paths: &[String]) -> Result<DeviceUpdate, Status> {
    let mut update =
        DeviceUpdate { version: version("a device", "device.etag", &device.etag)?, ..DeviceUpdate::default() };
    if paths.is_empty() {
        return Err(errors::invalid("update_mask", format!("names no field: {KNOWN}")));
    }
    for path in paths {
        match path.as_str() {
            "display_name" => update.display_name = Some(device.display_name.clone()),
            "labels" => update.labels = Some(device.labels.clone().into_iter().collect()),
            "device_type" => update.device_type = Some(device.device_type.clone()),
            "expected_interval" => update.expected_interval = Some(interval(device, INTERVAL)?),
            path => match path.strip_prefix("labels.") {
                Some(key) => drop(update.changed_labels.insert(key.to_owned(), device.labels.get(key).cloned())),
                None => return Err(errors::invalid("update_mask", format!("{path:.80?} cannot be changed: {KNOWN}"))),
            },
        }
    }
    Ok(update)
}

/// Returns the device that a change registers which finds none.
fn new_from(id: &str, update: &DeviceUpdate) -> NewDevice {
    let mut labels = update.labels.clone().unwrap_or_default();
    let changed = update.changed_labels.iter();
    labels.extend(changed.filter_map(|(key, value)| Some((key.clone(), value.clone()?))));
    NewDevice {
        id: id.to_owned(),
        display_name: update.display_name.clone().unwrap_or_default(),
        labels,
        device_type: update.device_type.clone().unwrap_or_default(),
        expected_interval: update.expected_interval.flatten(),
    }
}

impl DeviceApi {
    /// Returns a device as it is now, with the row that a call has changed or read.
    async fn shown(&self, key: DeviceKey, row: Option<identity::Device>) -> Result<Option<Device>, Status> {
        let states = self.0.backend.latest.get(std::slice::from_ref(&key)).await.map_err(errors::store)?;
        let state = states.into_iter().next().flatten();
        if row.is_none() && state.is_none() {
            return Ok(None);
        }
        Ok(Some(convert::device(&KnownDevice { key, row, state })))
    }

    async fn changed(
        &self,
        key: DeviceKey,
        name: &str,
        changed: Result<identity::Device, Error>,
    ) -> Result<Response<Device>, Status> {
        let row = changed.map_err(|error| Resource::Device.refused("", name, error))?;
        let shown = self.shown(key, Some(row)).await?;
        Ok(Response::new(shown.expect("a device with a row")))
    }
}

#[tonic::async_trait]
impl DeviceService for DeviceApi {
    async fn create_device(&self, request: Request<CreateDeviceRequest>) -> Result<Response<Device>, Status> {
        let caller = Caller::of(&request)?;
        let mut request = request.into_inner();
        let tenant = caller.tenant(&mut request.parent)?;
        let admin = self.0.admin()?;
        if request.device_id.is_empty() {
            return Err(errors::invalid("device_id", "is required"));
        }
        let key = DeviceKey { tenant: Arc::clone(&tenant), id: request.device_id.as_str().into() };
        caller.visible().check(&key)?;
        let given = request.device.unwrap_or_default();
        let new = new_device(request.device_id, given, INTERVAL)?;
        let name = names::device(&tenant, &new.id);
        let created = admin.create_device(&tenant, new, &by(&caller, &request.request_id)).await;
        let created = created.map_err(|error| {
            let name = if matches!(error, Error::NotFound(_)) { "" } else { &*name };
            Resource::Device.refused(&request.parent, name, error)
        })?;
        self.changed(key, &name, Ok(created.row)).await
    }

    async fn import_devices(
        &self,
        request: Request<ImportDevicesRequest>,
    ) -> Result<Response<ImportDevicesResponse>, Status> {
        let caller = Caller::of(&request)?;
        let mut request = request.into_inner();
        let tenant = caller.tenant(&mut request.parent)?;
        let admin = self.0.admin()?;
        let visible = caller.visible();
        let mut new = Vec::with_capacity(request.devices.len());
        for (i, mut given) in request.devices.into_iter().enumerate() {
            let field = format!("devices[{i}].name");
            let key = caller.device(&field, &mut given.name)?;
            check_tenant(&field, &key.tenant, &tenant)?;
            visible.check(&key)?;
            new.push(new_device(key.id.to_string(), given, &format!("devices[{i}].expected_interval"))?);
        }
        let ids: Vec<String> = new.iter().map(|device| device.id.clone()).collect();
        let outcomes = admin.import_devices(&tenant, new, &by(&caller, "")).await;
        let outcomes = outcomes.map_err(|error| Resource::Device.refused(&request.parent, "", error))?;
        let count = |wanted| {
            let count = outcomes.iter().filter(|outcome| **outcome == wanted).count();
            i32::try_from(count).unwrap_or(i32::MAX)
        };
        let deleted = ids.iter().zip(&outcomes).filter(|(_, outcome)| **outcome == Imported::Deleted);
        Ok(Response::new(ImportDevicesResponse {
            created_count: count(Imported::Created),
            updated_count: count(Imported::Updated),
            unchanged_count: count(Imported::Unchanged),
            deleted_devices: deleted.map(|(id, _)| names::device(&tenant, id)).collect(),
        }))
    }

    async fn get_device(&self, request: Request<GetDeviceRequest>) -> Result<Response<Device>, Status> {
        let caller = Caller::of(&request)?;
        let mut request = request.into_inner();
        let key = caller.device("name", &mut request.name)?;
        let row = match &self.0.config.admin {
            None => None,
            Some(admin) => {
                let rows = admin.registered_devices(&key.tenant, &[key.id.to_string()]).await;
                let rows = rows.map_err(|error| Resource::Device.refused("", &request.name, error))?;
                rows.into_iter().next().flatten()
            }
        };
        let shown = self.shown(key, row).await?;
        shown.map(Response::new).ok_or_else(|| errors::not_found("DEVICE_NOT_FOUND", &request.name))
    }

    async fn list_devices(
        &self,
        request: Request<ListDevicesRequest>,
    ) -> Result<Response<ListDevicesResponse>, Status> {
        let caller = Caller::of(&request)?;
        let mut request = request.into_inner();
        let tenant = caller.tenant(&mut request.parent)?;
        if !matches!(request.order_by.as_str(), "" | "name") {
            return Err(errors::invalid("order_by", "devices are ordered by `name` only"));
        }
        request.order_by.clear();
        let filter = device_filter("filter", &request.filter)?;
        let mut page = self.0.page(&mut request)?;
        let scope =
            Scope { tenant: &tenant, visible: &caller.visible(), filter: &filter, with_deleted: request.show_deleted };
        let (found, after) = scan(&self.0, scope, page.from.take(), page.size).await?;
        Ok(Response::new(ListDevicesResponse {
            devices: found.devices.iter().map(convert::device).collect(),
            next_page_token: page.next(after),
        }))
    }

    async fn update_device(&self, request: Request<UpdateDeviceRequest>) -> Result<Response<Device>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let mut given = request.device.unwrap_or_default();
        let key = caller.device("device.name", &mut given.name)?;
        let admin = self.0.admin()?;
        let update = update_from(&given, &request.update_mask.unwrap_or_default().paths)?;
        let by = by(&caller, "");
        let mut changed = admin.update_device(&key.tenant, &key.id, update.clone(), &by).await;
        if request.allow_missing && matches!(changed, Err(Error::NotFound(_))) && update.version.is_none() {
            let new = new_from(&key.id, &update);
            changed = match admin.create_device(&key.tenant, new, &by).await {
                Ok(created) => Ok(created.row),
                // Another call was first, or it was deleted.
                Err(Error::Exists(_)) => admin.update_device(&key.tenant, &key.id, update, &by).await,
                Err(error) => Err(error),
            };
        }
        self.changed(key, &given.name, changed).await
    }

    async fn adopt_device(&self, request: Request<AdoptDeviceRequest>) -> Result<Response<Device>, Status> {
        let caller = Caller::of(&request)?;
        let mut request = request.into_inner();
        let key = caller.device("name", &mut request.name)?;
        let version = version("a device", "etag", &request.etag)?;
        let adopted = self.0.admin()?.adopt_device(&key.tenant, &key.id, version, &by(&caller, "")).await;
        self.changed(key, &request.name, adopted).await
    }

    async fn delete_device(&self, request: Request<DeleteDeviceRequest>) -> Result<Response<Device>, Status> {
        let caller = Caller::of(&request)?;
        let mut request = request.into_inner();
        let key = caller.device("name", &mut request.name)?;
        let version = version("a device", "etag", &request.etag)?;
        let deleted = self.0.admin()?.delete_device(&key.tenant, &key.id, version, &by(&caller, "")).await;
        self.changed(key, &request.name, deleted).await
    }

    async fn undelete_device(&self, request: Request<UndeleteDeviceRequest>) -> Result<Response<Device>, Status> {
        let caller = Caller::of(&request)?;
        let mut request = request.into_inner();
        let key = caller.device("name", &mut request.name)?;
        let restored = self.0.admin()?.undelete_device(&key.tenant, &key.id, &by(&caller, "")).await;
        self.changed(key, &request.name, restored).await
    }
}
