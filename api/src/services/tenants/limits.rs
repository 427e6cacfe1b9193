//! The fields of a tenant that a mask names, and its usage as a message.

use std::num::NonZeroU64;

use identity::TenantUpdate;
use identity::quota::{Limits, Usage};
use proto::v1;
use tonic::Status;

use crate::limits::{from_proto, to_proto};
use crate::{errors, names};

/// The change of a tenant that a request asks for.
#[derive(Debug)]
pub(super) struct Change {
    display_name: Option<String>,
    limits: Option<Limits>,
    /// Limits that are set or lifted one by one.
    single: Vec<(&'static str, Option<NonZeroU64>)>,
    etag: Option<u64>,
}

impl Change {
    pub(super) fn read(tenant: &v1::Tenant, paths: &[String]) -> Result<Self, Status> {
        let given = from_proto(&tenant.limits.unwrap_or_default());
        let etag = match &*tenant.etag {
            "" => None,
            etag => Some(etag.parse().map_err(|_| errors::invalid("tenant.etag", "is not one of a tenant"))?),
        };
        let mut change = Self { display_name: None, limits: None, single: Vec::new(), etag };
        if paths.is_empty() {
            return Err(errors::invalid(
                "update_mask",
                "names no field: `display_name`, `limits`, `limits.connections`",
            ));
        }
        for path in paths {
            let single = path.strip_prefix("limits.").and_then(|name| given.iter().find(|(known, _)| *known == name));
            match (path.as_str(), single) {
                ("display_name", _) => change.display_name = Some(tenant.display_name.clone()),
                ("limits", _) => change.limits = Some(given),
                (_, Some(single)) => change.single.push(single),
                _ => {
                    let known = Limits::names().map(|name| format!("`limits.{name}`")).collect::<Vec<_>>().join(", ");
                    let reason = format!("{path:.80?} cannot be changed: use `display_name`, `limits`, {known}");
                    return Err(errors::invalid("update_mask", reason));
                }
            }
        }
        Ok(change)
    }

    /// True when the tenant has to be read first.
    pub(super) fn needs_present(&self) -> bool {
        self.limits.is_none() && !self.single.is_empty()
    }

    /// True when any version may be changed.
    pub(super) fn is_repeatable(&self) -> bool {
        self.etag.is_none()
    }

    /// The change of a tenant, which was read if it has to be.
    pub(super) fn update(&self, present: Option<&identity::Tenant>) -> TenantUpdate {
        let mut limits = self.limits.or_else(|| present.map(|tenant| tenant.limits));
        if let Some(limits) = &mut limits {
            for (name, limit) in &self.single {
                // The name is one of a limit.
                limits.set(name, *limit).ok();
            }
        }
        let version = self.etag.or_else(|| present.map(|tenant| tenant.version));
        TenantUpdate { display_name: self.display_name.clone(), limits, version }
    }
}

pub(super) fn usage(tenant: &identity::Tenant, usage: Option<Usage>) -> v1::TenantUsage {
    let mut message = v1::TenantUsage {
        name: names::tenant(&tenant.id),
        limits: Some(to_proto(&tenant.limits)),
        ..Default::default()
    };
    if let Some(usage) = usage {
        let Usage { connections, streams, messages, bytes, calls, limited } = usage;
        let reached = limited.into_iter().filter(|(_, count)| *count > 0);
        let limited = reached.map(|(quota, count)| v1::LimitedCount { limit: quota.name().to_owned(), count });
        message =
            v1::TenantUsage { connections, streams, messages, bytes, calls, limited: limited.collect(), ..message };
    }
    message
}
