//! The selection of a subscriber and the positions at which it starts.

use std::sync::Arc;

use foldhash::HashSet;
use model::DeviceKey;
use proto::v1::SeriesSelector;
use proto::v1::subscribe_request::Start;
use tonic::Status;

use super::follow::LogPosition;
use crate::auth::{Caller, Visible};
use crate::glob::{Glob, Metrics};
use crate::select::check_tenant;
use crate::services::Shared;
use crate::token::{self, Query, Reader};
use crate::{convert, errors, names};

/// Maximum number of devices and patterns in a request.
const MAX_NAMED: usize = 500;

/// The selected events. Not `Debug`: it holds a key.
#[derive(Clone)]
pub(crate) struct Selection(Arc<Inner>);

struct Inner {
    tenant: Arc<str>,
    /// True when every device of the tenant is selected.
    all: bool,
    exact: HashSet<Arc<str>>,
    globs: Vec<Glob>,
    metrics: Metrics,
    /// The devices that the caller sees.
    visible: Visible,
    /// The key of tokens.
    secret: [u8; 32],
}

impl Selection {
    /// Reads a selector and writes full names into it.
    pub(crate) fn read(
        caller: &Caller,
        tenant: Arc<str>,
        given: &mut SeriesSelector,
        secret: [u8; 32],
    ) -> Result<Self, Status> {
        if !given.device_filter.is_empty() {
            let hint = "is not supported by Subscribe: use selector.devices, in which `*` matches any characters";
            return Err(errors::invalid("selector.device_filter", hint));
        }
        if given.devices.len() > MAX_NAMED {
            return Err(errors::invalid("selector.devices", format!("names more than {MAX_NAMED} devices")));
        }
        let (mut exact, mut globs) = (HashSet::default(), Vec::new());
        for (i, name) in given.devices.iter_mut().enumerate() {
            let field = format!("selector.devices[{i}]");
            if name.contains('*') {
                globs.push(read_glob(caller, &tenant, &field, name)?);
            } else {
                let device = caller.device(&field, name)?;
                check_tenant(&field, &device.tenant, &tenant)?;
                exact.insert(device.id);
            }
        }
        let metrics = Metrics::new(&given.metrics);
        let (all, visible) = (given.devices.is_empty(), caller.visible());
        Ok(Self(Arc::new(Inner { tenant, all, exact, globs, metrics, visible, secret })))
    }

    /// The tenant, and the devices of it that the caller sees.
    pub(crate) fn visible(&self) -> (&Arc<str>, &Visible) {
        (&self.0.tenant, &self.0.visible)
    }

    /// Refuses the selection when it names a device that the caller sees no longer.
    pub(crate) fn check(&self) -> Result<(), Status> {
        let Inner { tenant, exact, visible, .. } = &*self.0;
        let key = |id: &Arc<str>| DeviceKey { tenant: Arc::clone(tenant), id: Arc::clone(id) };
        exact.iter().try_for_each(|id| if visible.has(id) { Ok(()) } else { visible.check(&key(id)) })
    }

    /// The id of an event: its position, unless that would count events which the caller does not
    /// see.
    pub(crate) fn event_id(&self, log: &str, offset: u64) -> String {
        let id = format!("{log}:{offset}");
        if self.0.visible.is_everything() { id } else { token::opaque(&self.0.secret, &id) }
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// True when events of this device are selected.
    pub(crate) fn selects(&self, device: &DeviceKey) -> bool {
        let Inner { tenant, all, exact, globs, visible, .. } = &*self.0;
        device.tenant == *tenant
            && (*all || exact.contains(&*device.id) || globs.iter().any(|glob| glob.matches(&device.id)))
            && visible.has(&device.id)
    }

    /// The devices, when the selection names all of them.
    pub(crate) fn named(&self) -> Option<Vec<DeviceKey>> {
        let Inner { tenant, all, exact, globs, .. } = &*self.0;
        let key = |id: &Arc<str>| DeviceKey { tenant: Arc::clone(tenant), id: Arc::clone(id) };
        let mut named: Vec<DeviceKey> = exact.iter().map(key).collect();
        named.sort();
        (!all && globs.is_empty()).then_some(named)
    }
}

/// Reads a device name with wildcards in its id; `%2A` is a literal star.
fn read_glob(caller: &Caller, parent: &str, field: &str, name: &mut String) -> Result<Glob, Status> {
    let shape = || errors::invalid(field, "must be `tenants/{tenant}/devices/{pattern}`, percent-encoded but for `*`");
    let (tenant, pattern) = names::split_device(name).ok_or_else(shape)?;
    let tenant = caller.own(field, tenant, name)?;
    check_tenant(field, &tenant, parent)?;
    let parts: Option<Vec<String>> = pattern.split('*').map(names::decode).collect();
    let parts = parts.ok_or_else(shape)?;
    let encoded: Vec<String> = parts.iter().map(|part| names::encode(part)).collect();
    *name = format!("{}/devices/{}", names::tenant(&tenant), encoded.join("*"));
    Ok(Glob::from_parts(parts))
}

/// The positions at which the stream starts, one for each log.
pub(crate) async fn positions(
    shared: &Shared,
    tenant: &str,
    query: Query,
    start: Option<Start>,
) -> Result<Vec<LogPosition>, Status> {
    match start {
        None | Some(Start::Snapshot(_)) => {
            let logs = shared.backend.logs.open(Some(tenant)).await.map_err(errors::store)?;
            Ok(logs.iter().map(|log| LogPosition::new(log, log.end())).collect())
        }
        Some(Start::StartTime(time)) => {
            let time = convert::nanos("start_time", &time)?;
            at_time(shared, tenant, time).await
        }
        Some(Start::ResumeToken(token)) => {
            let positions = query.read_token(&token, read_positions);
            let positions = positions.map_err(|e| errors::token("resume_token", e))?;
            let positions = positions.ok_or_else(|| errors::token("resume_token", "is empty"))?;
            resumed(shared, tenant, &positions).await
        }
    }
}

async fn at_time(shared: &Shared, tenant: &str, time: model::Nanos) -> Result<Vec<LogPosition>, Status> {
    let now = convert::now();
    let logs = shared.backend.logs.open(Some(tenant)).await.map_err(errors::store)?;
    let mut positions = Vec::with_capacity(logs.len());
    for log in &logs {
        let offset = log.offset_at(time).await.map_err(|error| errors::log(log.id(), error))?;
        let start = log.start();
        // The first record still held was received later: earlier ones may have been trimmed.
        if offset <= start && start > 0 && time < now {
            return Err(errors::not_retained(log.id(), start, "start_time lies before its first record"));
        }
        positions.push(LogPosition::new(log, offset));
    }
    Ok(positions)
}

/// Reads the positions that [`super::write_positions`] wrote.
pub(crate) fn read_positions(reader: &mut Reader<'_>) -> Option<Vec<(String, u64)>> {
    let count = reader.u64()?;
    (0..count).map(|_| Some((reader.text()?, reader.u64()?))).collect()
}

async fn resumed(shared: &Shared, tenant: &str, tokens: &[(String, u64)]) -> Result<Vec<LogPosition>, Status> {
    let logs = shared.backend.logs.open(Some(tenant)).await.map_err(errors::store)?;
    if let Some((gone, _)) = tokens.iter().find(|(id, _)| !logs.iter().any(|log| log.id() == id)) {
        return Err(errors::not_retained(gone, 0, "the log is gone"));
    }
    let mut positions = Vec::with_capacity(logs.len());
    for log in &logs {
        // A log that the token does not name is newer than the token: it is read from its
        // beginning.
        let next = tokens.iter().find(|(id, _)| id == log.id()).map_or(0, |(_, next)| *next);
        let (start, (end, _)) = (log.start(), log.confirm_end().await);
        if next < start {
            return Err(errors::not_retained(log.id(), start, "it was trimmed"));
        }
        if next > end {
            return Err(errors::not_retained(
                log.id(),
                start,
                "the position lies beyond its end: it is a different log of the same name",
            ));
        }
        positions.push(LogPosition::new(log, next));
    }
    Ok(positions)
}
