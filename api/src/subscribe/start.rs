//! What a subscriber wants and where it starts.

use std::sync::Arc;

use foldhash::HashSet;
use model::DeviceKey;
use proto::v1::SeriesSelector;
use proto::v1::subscribe_request::Start;
use tonic::Status;

use super::follow::Place;
use crate::auth::Caller;
use crate::glob::{Glob, Metrics};
use crate::services::Shared;
use crate::token::{Query, Reader};
use crate::{convert, errors, names};

/// Devices or patterns that a subscriber may name.
const MAX_NAMED: usize = 500;

/// Which events.
#[derive(Debug, Clone)]
pub(crate) struct Wanted(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    tenant: Arc<str>,
    /// Every device of the tenant.
    all: bool,
    exact: HashSet<Arc<str>>,
    globs: Vec<Glob>,
    metrics: Metrics,
}

impl Wanted {
    /// Reads a selector and writes full names into it.
    pub(crate) fn read(caller: &Caller, tenant: Arc<str>, given: &mut SeriesSelector) -> Result<Self, Status> {
        if !given.device_filter.is_empty() {
            let hint = "is not taken here: name devices, with `*` for any characters";
            return Err(errors::invalid("selector.device_filter", hint));
        }
        if given.devices.len() > MAX_NAMED {
            return Err(errors::invalid("selector.devices", format!("names more than {MAX_NAMED} devices")));
        }
        let (mut exact, mut globs) = (HashSet::default(), Vec::new());
        for (i, name) in given.devices.iter_mut().enumerate() {
            let field = format!("selector.devices[{i}]");
            if name.contains('*') {
                globs.push(read_glob(caller, &field, name)?);
            } else {
                exact.insert(caller.device(&field, name)?.id);
            }
        }
        let metrics = Metrics::new(&given.metrics);
        Ok(Self(Arc::new(Inner { tenant, all: given.devices.is_empty(), exact, globs, metrics })))
    }

    pub(crate) fn tenant(&self) -> &str {
        &self.0.tenant
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// True when events of this device are wanted.
    pub(crate) fn takes(&self, device: &DeviceKey) -> bool {
        let Inner { tenant, all, exact, globs, .. } = &*self.0;
        device.tenant == *tenant
            && (*all || exact.contains(&*device.id) || globs.iter().any(|glob| glob.matches(&device.id)))
    }

    /// The devices, when they are known without looking.
    pub(crate) fn named(&self) -> Option<Vec<DeviceKey>> {
        let Inner { tenant, all, exact, globs, .. } = &*self.0;
        let key = |id: &Arc<str>| DeviceKey { tenant: Arc::clone(tenant), id: Arc::clone(id) };
        let mut named: Vec<DeviceKey> = exact.iter().map(key).collect();
        named.sort();
        (!all && globs.is_empty()).then_some(named)
    }
}

/// A device name with wildcards in its id; `%2A` is a star itself.
fn read_glob(caller: &Caller, field: &str, name: &mut String) -> Result<Glob, Status> {
    let shape = || errors::invalid(field, "must be `tenants/{tenant}/devices/{pattern}`, percent-encoded but for `*`");
    let (tenant, pattern) = names::split_device(name).ok_or_else(shape)?;
    let tenant = caller.own(tenant, name)?;
    let parts: Option<Vec<String>> = pattern.split('*').map(names::decode).collect();
    let parts = parts.ok_or_else(shape)?;
    let encoded: Vec<String> = parts.iter().map(|part| names::encode(part)).collect();
    *name = format!("{}/devices/{}", names::tenant(&tenant), encoded.join("*"));
    Ok(Glob::from_parts(parts))
}

/// Where to start in each log.
pub(crate) async fn places(shared: &Shared, query: Query, start: Option<Start>) -> Result<Vec<Place>, Status> {
    match start {
        None | Some(Start::Snapshot(_)) => {
            let logs = shared.backend.logs.open().await.map_err(errors::store)?;
            Ok(logs.iter().map(|log| Place::new(log, log.end())).collect())
        }
        Some(Start::StartTime(time)) => {
            let time = convert::nanos("start_time", &time)?;
            at_time(shared, time).await
        }
        Some(Start::ResumeToken(token)) => {
            let places = query.read_signed(&shared.config.token_secret, &token, read_places);
            let places = places.map_err(|e| errors::token("resume_token", e))?;
            let places = places.ok_or_else(|| errors::token("resume_token", "is empty"))?;
            resumed(shared, &places).await
        }
    }
}

async fn at_time(shared: &Shared, time: model::Nanos) -> Result<Vec<Place>, Status> {
    let now = convert::now();
    let logs = shared.backend.logs.open().await.map_err(errors::store)?;
    let mut places = Vec::with_capacity(logs.len());
    for log in &logs {
        let offset = log.offset_at(time).await.map_err(|error| errors::log(log.id(), error))?;
        let start = log.start();
        // The first record that is left is already later: what was before it may have been wanted.
        if offset <= start && start > 0 && time < now {
            return Err(errors::not_retained(log.id(), start, "start_time lies before what it keeps"));
        }
        places.push(Place::new(log, offset));
    }
    Ok(places)
}

/// Reads what [`super::write_places`] wrote.
pub(crate) fn read_places(reader: &mut Reader<'_>) -> Option<Vec<(String, u64)>> {
    let count = reader.u64()?;
    (0..count).map(|_| Some((reader.text()?, reader.u64()?))).collect()
}

async fn resumed(shared: &Shared, tokens: &[(String, u64)]) -> Result<Vec<Place>, Status> {
    let logs = shared.backend.logs.open().await.map_err(errors::store)?;
    if let Some((gone, _)) = tokens.iter().find(|(id, _)| !logs.iter().any(|log| log.id() == id)) {
        return Err(errors::not_retained(gone, 0, "the log is gone"));
    }
    let mut places = Vec::with_capacity(logs.len());
    for log in &logs {
        // A log that the token does not know is newer than the token: all of it is news.
        let next = tokens.iter().find(|(id, _)| id == log.id()).map_or(0, |(_, next)| *next);
        let (start, (end, _)) = (log.start(), log.confirm_end().await);
        if next < start {
            return Err(errors::not_retained(log.id(), start, "it was trimmed"));
        }
        if next > end {
            return Err(errors::not_retained(log.id(), start, "the place lies beyond its end: the log is another one"));
        }
        places.push(Place::new(log, next));
    }
    Ok(places)
}
