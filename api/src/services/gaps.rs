//! `QueryGaps`.

use model::{DeviceKey, Nanos, TimeRange};
use proto::v1::{Gap, QueryGapsRequest, QueryGapsResponse};
use tonic::Status;

use super::Shared;
use crate::auth::Caller;
use crate::memory::Meter;
use crate::read::{Freshness, Order, SLICE_ROWS, Sweep};
use crate::select::{Selector, Walk};
use crate::{convert, errors, names};

pub(super) async fn query(
    shared: &Shared,
    caller: &Caller,
    mut request: QueryGapsRequest,
) -> Result<QueryGapsResponse, Status> {
    let tenant = caller.tenant(&mut request.parent)?;
    let selector = Selector::read(caller, &tenant, Some(request.selector.get_or_insert_default()))?;
    let mut range = convert::closed_range(request.range.as_ref())?;
    let min_gap = match &request.min_gap {
        Some(min_gap) => convert::length("min_gap", min_gap)?,
        None => 0,
    };
    if min_gap == 0 {
        return Err(errors::invalid("min_gap", "is required and must be above 0"));
    }
    // A page begins at a device and the end of a gap, as if a reading stood there.
    let page = shared.page(&mut request)?;
    let from = &page.from;
    // The future is not a gap.
    range.end = range.end.min(convert::now());
    let mut walk = Walk::new(&selector, from.as_ref().map(|(id, _)| id.as_str()));
    let memory = Meter::new(&shared.config.memory);
    let mut search = Search { shared, selector: &selector, min_gap, found: Vec::new(), size: page.size, memory };
    let mut freshness = Freshness::COMPLETE;
    let mut next = None;
    while let Some(device) = walk.next(shared).await? {
        let begin = from.as_ref().filter(|(id, _)| **id == *device.id).map_or(range.start, |(_, time)| *time);
        let (position, fresh) = search.device(&device, TimeRange { start: begin, end: range.end }).await?;
        freshness = freshness.and(fresh);
        if let Some(time) = position {
            next = Some((device.id.to_string(), time));
            break;
        }
    }
    Ok(QueryGapsResponse {
        gaps: search.found,
        next_page_token: page.next(next),
        freshness: Some(freshness.to_proto()),
    })
}

struct Search<'a> {
    shared: &'a Shared,
    selector: &'a Selector,
    min_gap: Nanos,
    found: Vec<Gap>,
    size: usize,
    memory: Meter,
}

impl Search<'_> {
    /// Searches a device; returns the time to continue from when the page is full.
    async fn device(&mut self, device: &DeviceKey, range: TimeRange) -> Result<(Option<Nanos>, Freshness), Status> {
        let metrics = &self.selector.metrics;
        let mut sweep = Sweep::open(self.shared.source(), device, range, metrics, Order::Ascending, SLICE_ROWS).await?;
        let freshness = sweep.freshness();
        let mut before = range.start;
        while let Some(slice) = sweep.next().await? {
            for &at in slice.rows() {
                let time = slice.time(at);
                if self.long(before, time) {
                    if self.is_full() {
                        return Ok((Some(before), freshness));
                    }
                    self.add(device, before, time, false)?;
                }
                before = time;
            }
        }
        if self.long(before, range.end) {
            if self.is_full() {
                return Ok((Some(before), freshness));
            }
            self.add(device, before, range.end, true)?;
        }
        Ok((None, freshness))
    }

    fn long(&self, from: Nanos, to: Nanos) -> bool {
        to.saturating_sub(from) > self.min_gap
    }

    fn is_full(&self) -> bool {
        self.found.len() == self.size || self.memory.is_half_used()
    }

    fn add(&mut self, device: &DeviceKey, from: Nanos, to: Nanos, open: bool) -> Result<(), Status> {
        let range =
            proto::v1::TimeRange { start_time: Some(convert::timestamp(from)), end_time: Some(convert::timestamp(to)) };
        let device = names::device(&device.tenant, &device.id);
        // The list grows to twice its size.
        self.memory.take(2 * size_of::<Gap>() + device.len(), "page_size")?;
        self.found.push(Gap { device, range: Some(range), open });
        Ok(())
    }
}
