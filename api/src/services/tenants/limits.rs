//! The fields of a tenant that a mask names, and its usage as a message.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use identity::quota::{Limits, Usage};
use identity::{DeviceAdmission, TenantUpdate};
use proto::v1;
use tonic::Status;

use super::super::registry::version;
use crate::limits::{from_proto, to_proto};
use crate::{errors, names};

/// The change of a tenant that a request asks for.
#[derive(Debug, Default)]
pub(super) struct Change {
    display_name: Option<String>,
    limits: Option<Limits>,
    /// Limits that are set or lifted one by one.
    single: Vec<(&'static str, Option<NonZeroU64>)>,
    features: Option<BTreeMap<String, bool>>,
    /// Features that are set or removed one by one.
    single_features: Vec<(String, Option<bool>)>,
    device_admission: Option<DeviceAdmission>,
    etag: Option<u64>,
}

impl Change {
    pub(super) fn read(tenant: &v1::Tenant, paths: &[String]) -> Result<Self, Status> {
        let given = from_proto(&tenant.limits.unwrap_or_default());
        let etag = version("a tenant", "tenant.etag", &tenant.etag)?;
        let mut change = Self { etag, ..Self::default() };
        if paths.is_empty() {
            return Err(errors::invalid(
                "update_mask",
                "names no field: `display_name`, `limits`, `limits.connections`, `features`, `features.x-beta`, \
                 `device_admission`",
            ));
        }
        for path in paths {
            let single = path.strip_prefix("limits.").and_then(|name| given.iter().find(|(known, _)| *known == name));
            match (path.as_str(), single) {
                ("display_name", _) => change.display_name = Some(tenant.display_name.clone()),
                ("limits", _) => change.limits = Some(given),
                (_, Some(single)) => change.single.push(single),
                ("device_admission", _) => change.device_admission = Some(admission(tenant)?),
                ("features", _) => change.features = Some(tenant.features.clone().into_iter().collect()),
                (path, _) if path.starts_with("features.") => {
                    let name = &path["features.".len()..];
                    change.single_features.push((name.to_owned(), tenant.features.get(name).copied()));
                }
                _ => {
                    let known = Limits::names().map(|name| format!("`limits.{name}`")).collect::<Vec<_>>().join(", ");
                    let reason = format!(
                        "{path:.80?} cannot be changed: use `display_name`, `device_admission`, `features`, `limits`, \
                         {known}"
                    );
                    return Err(errors::invalid("update_mask", reason));
                }
            }
        }
        Ok(change)
    }

    /// True when the tenant has to be read first.
    pub(super) fn needs_present(&self) -> bool {
        let single_limits = self.limits.is_none() && !self.single.is_empty();
        single_limits || (self.features.is_none() && !self.single_features.is_empty())
    }

    /// True when any version may be changed.
    pub(super) fn is_repeatable(&self) -> bool {
        self.etag.is_none()
    }

    /// The change of a tenant, which was read if it has to be.
    pub(super) fn update(&self, present: Option<&identity::Tenant>) -> TenantUpdate {
        let is_limited = self.limits.is_some() || !self.single.is_empty();
        let present_limits = || present.filter(|_| is_limited).map(|tenant| tenant.limits);
        let mut limits = self.limits.or_else(present_limits);
        if let Some(limits) = &mut limits {
            for (name, limit) in &self.single {
                // The name is one of a limit.
                limits.set(name, *limit).ok();
            }
        }
        let mut features = self.features.clone();
        if !self.single_features.is_empty() {
            let held =
                features.get_or_insert_with(|| present.map(|tenant| tenant.features.clone()).unwrap_or_default());
            for (name, value) in &self.single_features {
                match value {
                    Some(value) => drop(held.insert(name.clone(), *value)),
                    None => drop(held.remove(name)),
                }
            }
        }
        let version = self.etag.or_else(|| present.map(|tenant| tenant.version));
        let (display_name, device_admission) = (self.display_name.clone(), self.device_admission);
        TenantUpdate { display_name, limits, features, device_admission, version }
    }
}

fn admission(tenant: &v1::Tenant) -> Result<DeviceAdmission, Status> {
    match v1::tenant::DeviceAdmission::try_from(tenant.device_admission) {
        Ok(v1::tenant::DeviceAdmission::Unspecified | v1::tenant::DeviceAdmission::Auto) => Ok(DeviceAdmission::Auto),
        Ok(v1::tenant::DeviceAdmission::Refuse) => Ok(DeviceAdmission::Refuse),
        Ok(v1::tenant::DeviceAdmission::Quarantine) => Ok(DeviceAdmission::Quarantine),
        Err(_) => Err(errors::invalid("tenant.device_admission", "is not one of the values")),
    }
}

pub(super) fn usage(tenant: &identity::Tenant, usage: Option<Usage>) -> v1::TenantUsage {
    let mut message = v1::TenantUsage {
        name: names::tenant(&tenant.id),
        limits: Some(to_proto(&tenant.limits)),
        ..Default::default()
    };
    if let Some(usage) = usage {
        let Usage { processes, connections, streams, messages, bytes, calls, known, storage, limited } = usage;
        let (devices, series) = known.unzip();
        let reached = limited.into_iter().filter(|(_, count)| *count > 0);
        let limited = reached.map(|(quota, count)| v1::LimitedCount { limit: quota.name().to_owned(), count });
        message = v1::TenantUsage {
            connections,
            streams,
            messages,
            bytes,
            calls,
            limited: limited.collect(),
            devices,
            series,
            process_count: processes,
            storage_bytes: storage,
            ..message
        };
    }
    message
}
