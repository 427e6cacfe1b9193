//! Latest states, read in steps that are as small as the states are large, and counted in the
//! memory for all calls.

use std::sync::Arc;

use model::{Budget, DeviceKey, Held, Value};
use stores::contract::{LatestState, LatestValue};
use tonic::Status;

use super::Shared;
use crate::auth::Visible;
use crate::{errors, memory, traces};

/// States read before their size is known, and their estimated bytes.
const FIRST: usize = 64;
const FIRST_WIDTH: usize = 1 << 10;
/// A step has at most so many times the states of the one before.
const GROWTH: usize = 4;
/// Approximate bytes of a step.
const STEP_BYTES: usize = 2 << 20;
/// Bytes of a value besides its name and its text.
const VALUE_BYTES: usize = size_of::<LatestValue>() + 32;

/// Bytes of a state in memory.
pub(crate) fn bytes(state: &LatestState) -> usize {
    let value = |value: &LatestValue| {
        let text = if let Value::Str(text) = &value.value { text.len() } else { 0 };
        VALUE_BYTES + value.name.len() + text
    };
    size_of::<LatestState>() + 64 + state.device.id.len() + state.values.iter().map(value).sum::<usize>()
}

/// Reads states step by step.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    /// States and bytes of a state in the step before.
    last: Option<(usize, usize)>,
}

/// States that a caller sees.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) states: Vec<LatestState>,
    /// States that were read for them.
    pub(crate) examined: usize,
    /// The device to continue after; `None` at the end. It may be one that the caller does not see.
    pub(crate) after: Option<String>,
    /// The memory for them.
    pub(crate) held: Held,
}

/// States of one step, and the memory for them.
pub(crate) type Step<T> = (Vec<T>, Held);

impl Steps {
    /// Number of states in the next step, at most `most`.
    pub(crate) fn size(&self, most: usize) -> usize {
        let size = match self.last {
            None => FIRST,
            Some((count, width)) => (STEP_BYTES / width.max(1)).min(count * GROWTH),
        };
        size.min(most).max(1)
    }

    /// Reads the next `limit` states of a tenant, as many as [`Steps::size`] allows.
    pub(crate) async fn list(
        &mut self,
        shared: &Shared,
        tenant: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Step<LatestState>, Status> {
        let held = self.reserve(&shared.config.memory, limit)?;
        let asked = shared.backend.latest.list(tenant, after, limit);
        let count = |states: &Vec<_>, counts: &traces::Counts| traces::add(&counts.devices, states.len() as u64);
        let states = traces::reading("list latest", asked, count).await.map_err(errors::store)?;
        let held = self.measured(limit, states.iter(), held)?;
        Ok((states, held))
    }

    /// Reads the next states of a tenant that a caller sees, and examines `limit` at most, as many
    /// as [`Steps::size`] allows.
    pub(crate) async fn seen(
        &mut self,
        shared: &Shared,
        (tenant, visible): (&Arc<str>, &Visible),
        after: Option<&str>,
        limit: usize,
    ) -> Result<Seen, Status> {
        let reach = visible.reach();
        let end = || Seen { states: Vec::new(), examined: 0, after: None, held: shared.config.memory.hold() };
        if let Some(ids) = reach.listed_after(after.unwrap_or_default(), limit) {
            if ids.is_empty() {
                return Ok(end());
            }
            let is_last = ids.len() < limit;
            let devices = ids.into_iter().map(|id| DeviceKey { tenant: Arc::clone(tenant), id });
            let devices: Vec<DeviceKey> = devices.collect();
            let (states, held) = self.get(shared, &devices).await?;
            let after = devices.last().filter(|_| !is_last).map(|device| device.id.to_string());
            let states = states.into_iter().flatten().filter(|state| reach.has(&state.device.id)).collect();
            return Ok(Seen { states, examined: devices.len(), after, held });
        }
        let start = if after.is_none() { reach.start() } else { String::new() };
        let after = after.or_else(|| (!start.is_empty()).then_some(&*start));
        if after.is_some_and(|after| reach.ends_before(after)) {
            return Ok(end());
        }
        let (mut states, held) = self.list(shared, tenant, after, limit).await?;
        let examined = states.len();
        let last = states.last().filter(|_| examined == limit).map(|state| state.device.id.to_string());
        let after = last.filter(|last| !reach.ends_before(last));
        if !reach.is_everything() {
            states.retain(|state| reach.has(&state.device.id));
        }
        Ok(Seen { states, examined, after, held })
    }

    /// Reads the states of some devices, as many as [`Steps::size`] allows.
    pub(crate) async fn get(
        &mut self,
        shared: &Shared,
        devices: &[DeviceKey],
    ) -> Result<Step<Option<LatestState>>, Status> {
        let held = self.reserve(&shared.config.memory, devices.len())?;
        let asked = shared.backend.latest.get(devices);
        let count = |states: &Vec<_>, counts: &traces::Counts| traces::add(&counts.devices, states.len() as u64);
        let states = traces::reading("get latest", asked, count).await.map_err(errors::store)?;
        let held = self.measured(devices.len(), states.iter().flatten(), held)?;
        Ok((states, held))
    }

    fn reserve(&self, budget: &Budget, count: usize) -> Result<Held, Status> {
        let width = self.last.map_or(FIRST_WIDTH, |(_, width)| width);
        budget.acquire((count * width).min(memory::share(budget))).map_err(errors::memory)
    }

    fn measured<'b>(
        &mut self,
        asked: usize,
        states: impl Iterator<Item = &'b LatestState>,
        mut held: Held,
    ) -> Result<Held, Status> {
        let (count, sum) = states.fold((0, 0), |(count, sum), state| (count + 1, sum + bytes(state)));
        self.last = Some((asked, sum / usize::max(count, 1)));
        held.resize(sum).map_err(errors::memory)?;
        Ok(held)
    }
}
