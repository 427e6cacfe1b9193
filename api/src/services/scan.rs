//! The scan for devices: those that are registered and those that have sent readings, as one list
//! in order of their ids.

use std::sync::Arc;

use identity::{Device, DevicePage, DeviceQuery, Term};
use model::{Budget, DeviceKey, Held};
use stores::contract::LatestState;
use tonic::Status;

use super::Shared;
use super::registry::Resource;
use super::states::{self, Steps};
use crate::auth::Visible;
use crate::filter::{Actual, Comparator, Fields, Filter, Operand, Subject, Type};
use crate::{errors, memory};

/// Maximum number of devices examined for one page: a selective filter makes pages short, not slow.
const SCAN: usize = 20_000;
/// Maximum number of devices read at one time.
const STEP: usize = 1_000;
/// Minimum number of registered devices read at one time.
const ROWS: usize = 100;
/// Searches of the registry for one page. Each examines a bounded number of devices.
const SEARCHES: usize = 4;
/// Bytes of the devices of one answer, apart from the last one. They are fewer in the answer.
const ANSWER_BYTES: usize = 6 << 20;
/// Bytes of an entry of a map of texts besides its texts.
const ENTRY_BYTES: usize = 64;

/// Fields of a device filter.
const FIELDS: Fields = &[
    ("device_id", Type::Text),
    ("name", Type::Text),
    ("registered", Type::Boolean),
    (QUARANTINED, Type::Boolean),
    (DISPLAY_NAME, Type::Text),
    (DEVICE_TYPE, Type::Text),
    (LABELS, Type::Map),
    ("create_time", Type::Time),
    ("last_seen_time", Type::Time),
    ("reading_count", Type::Number),
    ("clock_skew", Type::Length),
    ("metrics", Type::Texts),
];
const QUARANTINED: &str = "quarantined";
const DISPLAY_NAME: &str = "display_name";
const DEVICE_TYPE: &str = "device_type";
const LABELS: &str = "labels";

/// Reads a filter over devices.
pub(crate) fn device_filter(field: &str, text: &str) -> Result<Filter, Status> {
    Filter::read(field, text, FIELDS)
}

/// A device that is registered, has sent readings, or both.
#[derive(Debug)]
pub(crate) struct KnownDevice {
    pub(crate) key: DeviceKey,
    pub(crate) row: Option<Device>,
    pub(crate) state: Option<LatestState>,
}

impl KnownDevice {
    fn registered(row: Device, tenant: &Arc<str>) -> Self {
        Self { key: DeviceKey { tenant: Arc::clone(tenant), id: row.id.as_str().into() }, row: Some(row), state: None }
    }

    fn seen(state: LatestState) -> Self {
        Self { key: state.device.clone(), row: None, state: Some(state) }
    }

    /// Time from which it exists.
    pub(crate) fn created(&self) -> Option<model::Nanos> {
        let times = [self.row.as_ref().map(|row| row.created), self.state.as_ref().map(|state| state.first_seen)];
        times.into_iter().flatten().min()
    }

    fn is_deleted(&self) -> bool {
        self.row.as_ref().is_some_and(|row| row.deleted.is_some())
    }

    /// Bytes of the device in memory.
    fn bytes(&self) -> usize {
        self.row.as_ref().map_or(0, row_bytes) + self.state.as_ref().map_or(0, states::bytes)
    }
}

fn row_bytes(row: &Device) -> usize {
    size_of::<Device>() + row.texts().map(|text| ENTRY_BYTES + text.len()).sum::<usize>()
}

impl Subject for KnownDevice {
    fn field(&self, name: &'static str) -> Vec<Actual<'_>> {
        let row = |text: fn(&Device) -> &String| {
            self.row.iter().map(text).filter(|text| !text.is_empty()).map(|text| Actual::Text(text)).collect()
        };
        let state = |value: fn(&LatestState) -> Actual<'_>| self.state.iter().map(value).collect();
        let quarantined = self.row.as_ref().map(|row| row.quarantined.is_some());
        match name {
            "device_id" | "name" => vec![Actual::Text(&self.key.id)],
            "registered" => vec![Actual::Boolean(quarantined == Some(false))],
            QUARANTINED => vec![Actual::Boolean(quarantined == Some(true))],
            DISPLAY_NAME => row(|row| &row.display_name),
            DEVICE_TYPE => row(|row| &row.device_type),
            LABELS => self.row.iter().flat_map(|row| row.labels.keys()).map(|key| Actual::Text(key)).collect(),
            "create_time" => self.created().into_iter().map(Actual::Nanos).collect(),
            "last_seen_time" => state(|state| Actual::Nanos(state.last_seen)),
            #[expect(clippy::cast_precision_loss, reason = "filters compare floating point numbers")]
            "reading_count" => state(|state| Actual::Number(state.readings as f64)),
            "clock_skew" => state(|state| Actual::Nanos(state.clock_skew)),
            "metrics" => self.state.iter().flat_map(|state| &state.values).map(|v| Actual::Text(&v.name)).collect(),
            _ => Vec::new(),
        }
    }

    fn value(&self, _field: &'static str, key: &str) -> Option<&str> {
        self.row.as_ref()?.labels.get(key).map(String::as_str)
    }

    fn contains(&self, word: &str) -> bool {
        match &self.row {
            Some(row) => Term::all_in(word, row.texts()),
            None => Term::all_in(word, std::iter::once(&*self.key.id)),
        }
    }
}

/// The part of a filter that the registry searches by.
#[derive(Debug, Default)]
struct Wanted {
    query: DeviceQuery,
    /// True when no device matches that has no row.
    has_row: bool,
}

impl Wanted {
    fn of(filter: &Filter, with_deleted: bool) -> Self {
        let mut wanted = Self { query: DeviceQuery { with_deleted, ..DeviceQuery::default() }, has_row: false };
        for condition in filter.conditions() {
            match condition {
                Filter::Contains(text) => wanted.query.terms.extend(Term::words(text)),
                Filter::Compare("registered", Comparator::Equal, Operand::Boolean(true)) => wanted.has_row = true,
                Filter::Compare(QUARANTINED, Comparator::Equal, Operand::Boolean(true)) => {
                    wanted.has_row = true;
                    wanted.query.terms.insert(Term::quarantined());
                }
                Filter::Compare(DEVICE_TYPE, comparator, operand) => {
                    wanted.has_row = true;
                    wanted.query.terms.extend(exactly(*comparator, operand).map(Term::device_type));
                }
                // A device without the value matches no comparison.
                Filter::Compare(DISPLAY_NAME | LABELS, ..) => wanted.has_row = true,
                Filter::CompareKey(_, key, comparator, operand) => {
                    wanted.has_row = true;
                    wanted.query.terms.extend(exactly(*comparator, operand).map(|value| Term::label(key, value)));
                }
                _ => {}
            }
        }
        wanted
    }
}

/// The one text that a comparison holds for.
fn exactly(comparator: Comparator, operand: &Operand) -> Option<&str> {
    match operand {
        Operand::Pattern(glob) if comparator == Comparator::Equal => glob.literal(),
        _ => None,
    }
}

/// The devices that a scan selects.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub(crate) tenant: &'a Arc<str>,
    pub(crate) visible: &'a Visible,
    pub(crate) filter: &'a Filter,
    /// True to select devices that were deleted, too.
    pub(crate) with_deleted: bool,
}

impl Scope<'_> {
    fn selects(&self, device: &KnownDevice) -> bool {
        (self.with_deleted || !device.is_deleted()) && self.filter.matches(device)
    }

    /// Returns registered devices that the caller sees and that a query selects, and the memory for
    /// them.
    async fn rows(
        &self,
        shared: &Shared,
        query: &DeviceQuery,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(DevicePage, Held), Status> {
        let page = self.page(shared, query, after, limit).await?;
        let bytes = page.devices.iter().map(row_bytes).sum();
        Ok((page, shared.config.memory.acquire(bytes).map_err(errors::memory)?))
    }

    async fn page(
        &self,
        shared: &Shared,
        query: &DeviceQuery,
        after: Option<&str>,
        limit: usize,
    ) -> Result<DevicePage, Status> {
        let Some(admin) = &shared.config.admin else { return Ok(DevicePage::default()) };
        let refused = |error| Resource::Device.refused("", self.tenant, error);
        let reach = self.visible.reach();
        if let Some(ids) = reach.listed_after(after.unwrap_or_default(), limit) {
            let ids: Vec<String> = ids.iter().map(|id| id.to_string()).collect();
            let devices = admin.registered_devices(self.tenant, &ids).await.map_err(refused)?;
            let devices = devices.into_iter().flatten().filter(|row| reach.has(&row.id)).collect();
            let after = ids.last().filter(|_| ids.len() == limit).cloned();
            return Ok(DevicePage { devices, after });
        }
        let start = if after.is_none() { reach.start() } else { String::new() };
        let after = after.unwrap_or(&start);
        if !after.is_empty() && reach.ends_before(after) {
            return Ok(DevicePage::default());
        }
        let mut page = admin.search_devices(self.tenant, query, after, limit).await.map_err(refused)?;
        page.after = page.after.filter(|last| !reach.ends_before(last));
        if !reach.is_everything() {
            page.devices.retain(|row| reach.has(&row.id));
        }
        Ok(page)
    }
}

/// Devices of one answer.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) devices: Vec<KnownDevice>,
    held: Held,
    most: usize,
}

impl Kept {
    fn new(budget: &Budget) -> Self {
        Self { devices: Vec::new(), held: budget.hold(), most: ANSWER_BYTES.min(memory::share(budget)) }
    }

    /// Adds a device.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when all calls together take too much memory.
    fn push(&mut self, device: KnownDevice) -> Result<(), Status> {
        self.held.grow(device.bytes()).map_err(errors::memory)?;
        self.devices.push(device);
        Ok(())
    }

    /// True when the answer ends here, and the next page goes on.
    fn is_full(&self, limit: usize) -> bool {
        self.devices.len() >= limit || self.held.bytes() >= self.most
    }
}

/// Returns devices that a caller sees and that match a filter, and the device id to continue after
/// while there may be more. Large devices make a page short.
pub(crate) async fn scan(
    shared: &Shared,
    scope: Scope<'_>,
    after: Option<String>,
    limit: usize,
) -> Result<(Kept, Option<String>), Status> {
    let wanted = Wanted::of(scope.filter, scope.with_deleted);
    if wanted.has_row {
        registered(shared, scope, &wanted.query, after, limit).await
    } else {
        merged(shared, scope, wanted.query, after, limit).await
    }
}

/// Scans registered devices only, by the index of the registry.
async fn registered(
    shared: &Shared,
    scope: Scope<'_>,
    query: &DeviceQuery,
    mut after: Option<String>,
    limit: usize,
) -> Result<(Kept, Option<String>), Status> {
    let (mut found, mut steps) = (Kept::new(&shared.config.memory), Steps::default());
    for _ in 0..SEARCHES {
        let step = (limit - found.devices.len()).clamp(ROWS, STEP);
        let (page, _held) = scope.rows(shared, query, after.as_deref(), step).await?;
        let mut rows = page.devices.into_iter().map(|row| KnownDevice::registered(row, scope.tenant)).peekable();
        while rows.peek().is_some() {
            let mut some: Vec<KnownDevice> = rows.by_ref().take(steps.size(step)).collect();
            let keys: Vec<DeviceKey> = some.iter().map(|device| device.key.clone()).collect();
            let (states, _held_states) = steps.get(shared, &keys).await?;
            some.iter_mut().zip(states).for_each(|(device, state)| device.state = state);
            for device in some {
                if found.is_full(limit) {
                    return Ok((found, after));
                }
                after = Some(device.key.id.to_string());
                if scope.selects(&device) {
                    found.push(device)?;
                }
            }
        }
        after = page.after;
        if after.is_none() || found.is_full(limit) {
            break;
        }
    }
    Ok((found, after))
}

/// Scans registered devices and those that have sent readings.
async fn merged(
    shared: &Shared,
    scope: Scope<'_>,
    query: DeviceQuery,
    mut after: Option<String>,
    limit: usize,
) -> Result<(Kept, Option<String>), Status> {
    // A deleted device that has sent readings is one that is left out.
    let query = DeviceQuery { with_deleted: true, ..query };
    let (mut found, mut steps) = (Kept::new(&shared.config.memory), Steps::default());
    let mut examined = 0;
    while examined < SCAN {
        let most = if *scope.filter == Filter::Everything { limit - found.devices.len() } else { STEP };
        let step = steps.size(most);
        let seen = steps.seen(shared, (scope.tenant, scope.visible), after.as_deref(), step).await?;
        let (page, _held) = scope.rows(shared, &query, after.as_deref(), step).await?;
        examined += seen.examined.max(page.devices.len());
        // Both lists are whole up to here.
        let end = match (seen.after, page.after) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        for device in joined(seen.states, page.devices, scope.tenant) {
            if end.as_deref().is_some_and(|end| *device.key.id > *end) {
                break;
            }
            if found.is_full(limit) {
                return Ok((found, after));
            }
            after = Some(device.key.id.to_string());
            if scope.selects(&device) {
                found.push(device)?;
            }
        }
        after = end;
        if after.is_none() || found.is_full(limit) {
            break;
        }
    }
    Ok((found, after))
}

/// Joins states and rows, both in order of their ids.
fn joined(states: Vec<LatestState>, rows: Vec<Device>, tenant: &Arc<str>) -> impl Iterator<Item = KnownDevice> {
    let (mut states, mut rows) = (states.into_iter().peekable(), rows.into_iter().peekable());
    std::iter::from_fn(move || {
        let next = |state: &LatestState, row: &Device| state.device.id.as_bytes().cmp(row.id.as_bytes());
        let order = states.peek().zip(rows.peek()).map(|(state, row)| next(state, row));
        let (takes_state, takes_row) = match order {
            Some(order) => (order.is_le(), order.is_ge()),
            None => (true, true),
        };
        let state = if takes_state { states.next() } else { None };
        let row = if takes_row { rows.next() } else { None };
        match (state, row) {
            (Some(state), row) => Some(KnownDevice { row, ..KnownDevice::seen(state) }),
            (None, Some(row)) => Some(KnownDevice::registered(row, tenant)),
            (None, None) => None,
        }
    })
}
