//! The devices and metrics that a call selects.

use std::sync::Arc;

use model::DeviceKey;
use proto::v1::SeriesSelector;
use tonic::Status;

use crate::auth::{Caller, Visible};
use crate::errors;
use crate::filter::Filter;
use crate::glob::Metrics;
use crate::services::{Scope, Shared, device_filter, scan};

/// Maximum number of devices that a call names.
const MAX_NAMED: usize = 500;
/// Maximum number of devices read at one time while a filter is applied.
const STEP: usize = 500;

/// The selected devices.
#[derive(Debug, Clone)]
pub(crate) enum Devices {
    /// Devices by name, in this order, each once.
    Named(Vec<DeviceKey>),
    /// Devices that match a filter, ordered by id.
    Filtered(Filter),
}

/// The selected devices and metrics.
#[derive(Debug, Clone)]
pub(crate) struct Selector {
    pub(crate) tenant: Arc<str>,
    pub(crate) devices: Devices,
    pub(crate) metrics: Metrics,
    /// The devices that the caller sees.
    pub(crate) visible: Visible,
}

impl Selector {
    /// Reads a selector and writes full names into it.
    pub(crate) fn read(caller: &Caller, tenant: &Arc<str>, given: Option<&mut SeriesSelector>) -> Result<Self, Status> {
        let mut empty = SeriesSelector::default();
        let given = given.unwrap_or(&mut empty);
        if given.devices.len() > MAX_NAMED {
            return Err(errors::invalid("selector.devices", format!("names more than {MAX_NAMED} devices")));
        }
        if !given.devices.is_empty() && !given.device_filter.is_empty() {
            return Err(errors::invalid("selector.device_filter", "give either devices or device_filter"));
        }
        let devices = if given.devices.is_empty() {
            Devices::Filtered(device_filter("selector.device_filter", &given.device_filter)?)
        } else {
            let mut named: Vec<DeviceKey> = Vec::with_capacity(given.devices.len());
            for (i, name) in given.devices.iter_mut().enumerate() {
                let field = format!("selector.devices[{i}]");
                let device = caller.device(&field, name)?;
                check_tenant(&field, &device.tenant, tenant)?;
                if !named.contains(&device) {
                    named.push(device);
                }
            }
            Devices::Named(named)
        };
        let (tenant, metrics) = (Arc::clone(tenant), Metrics::new(&given.metrics));
        Ok(Self { tenant, devices, metrics, visible: caller.visible() })
    }
}

/// Refuses a device of another tenant than that of the request, which an operator may name.
pub(crate) fn check_tenant(field: &str, named: &str, tenant: &str) -> Result<(), Status> {
    if named == tenant {
        return Ok(());
    }
    Err(errors::invalid(field, "belongs to another tenant than `parent` names"))
}

/// Iterates over the devices of a selector in a fixed order, without holding all of them.
#[derive(Debug)]
pub(crate) struct Walk {
    tenant: Arc<str>,
    visible: Visible,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Named(std::vec::IntoIter<DeviceKey>),
    Filtered { filter: Filter, ready: std::vec::IntoIter<DeviceKey>, after: Option<String>, over: bool },
}

impl Walk {
    /// Starts at the first device, or at the device `from`.
    pub(crate) fn new(selector: &Selector, from: Option<&str>) -> Self {
        let source = match &selector.devices {
            Devices::Named(devices) => {
                let skip = from.and_then(|id| devices.iter().position(|d| &*d.id == id)).unwrap_or(0);
                Source::Named(Vec::from(&devices[skip..]).into_iter())
            }
            Devices::Filtered(filter) => {
                let first = from.map(|id| DeviceKey { tenant: Arc::clone(&selector.tenant), id: id.into() });
                Source::Filtered {
                    filter: filter.clone(),
                    ready: Vec::from_iter(first).into_iter(),
                    after: from.map(str::to_owned),
                    over: false,
                }
            }
        };
        Self { tenant: Arc::clone(&selector.tenant), visible: selector.visible.clone(), source }
    }

    /// True while the caller sees a device. One that it has named is refused otherwise.
    pub(crate) fn admits(&self, device: &DeviceKey) -> Result<bool, Status> {
        match self.source {
            Source::Named(_) => self.visible.check(device).map(|()| true),
            Source::Filtered { .. } => Ok(self.visible.has(&device.id)),
        }
    }

    /// Returns the next device; `None` after the last one.
    pub(crate) async fn next(&mut self, shared: &Shared) -> Result<Option<DeviceKey>, Status> {
        let visible = &self.visible;
        match &mut self.source {
            Source::Named(devices) => {
                let next = devices.next();
                next.as_ref().map_or(Ok(()), |device| visible.check(device))?;
                Ok(next)
            }
            Source::Filtered { filter, ready, after, over } => loop {
                // The first one comes from a token, and the others may have left meanwhile.
                if let Some(device) = ready.by_ref().find(|device| visible.has(&device.id)) {
                    return Ok(Some(device));
                }
                if *over {
                    return Ok(None);
                }
                let scope = Scope { tenant: &self.tenant, visible, filter, with_deleted: false };
                let (found, next) = scan(shared, scope, after.take(), STEP).await?;
                *over = next.is_none();
                *after = next;
                // One that has sent no readings has none to select.
                let devices = found.devices.into_iter().filter(|device| device.state.is_some());
                *ready = devices.map(|device| device.key).collect::<Vec<_>>().into_iter();
            },
        }
    }
}
