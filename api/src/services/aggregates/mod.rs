//! `QueryAggregates`.
//!
//! A device is read once for all its metrics, and its buckets are completed before they are split
//! into pages, so a page that begins in the middle of a device reads that device again.

mod fill;
mod request;
mod series;

use model::time::SECOND;
use model::{DeviceKey, Nanos, TimeRange};
use proto::v1::{AggregateSeries, QueryAggregatesRequest, QueryAggregatesResponse};
use tonic::Status;

use super::Shared;
use crate::auth::Caller;
use crate::memory::{self, Meter};
use crate::page::PagePosition;
use crate::read::{Freshness, Order, SLICE_ROWS, Sweep};
use crate::select::Walk;
use crate::token::{Reader, Writer};
use crate::{convert, errors, names};
use request::AggregateRequest;
use series::{Bucket, Collector, Finished};

/// Times before the range in which the number before a series is looked for, one after the other.
const LOOK_BACK: [Nanos; 3] = [3600 * SECOND, 24 * 3600 * SECOND, 31 * 24 * 3600 * SECOND];
/// Approximate rows of a slice of them.
const STEP_ROWS: usize = 1_000;
/// Maximum number of rows that are looked through.
const MAX_STEP_ROWS: usize = 100_000;
/// Maximum bytes of a page.
const PAGE_BYTES: usize = 4 << 20;

/// Start of the next page: device, metric, start of the bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BucketPosition {
    device: String,
    metric: String,
    start: Nanos,
}

impl PagePosition for BucketPosition {
    fn write(&self, writer: &mut Writer) {
        writer.text(&self.device);
        writer.text(&self.metric);
        writer.i64(self.start);
    }

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self { device: reader.text()?, metric: reader.text()?, start: reader.i64()? })
    }
}

pub(super) async fn query(
    shared: &Shared,
    caller: &Caller,
    mut request: QueryAggregatesRequest,
) -> Result<QueryAggregatesResponse, Status> {
    let tenant = caller.tenant(&mut request.parent)?;
    let spec = AggregateRequest::read(caller, &tenant, &mut request)?;
    let page_request = shared.page(&mut request)?;
    let from = &page_request.from;
    let budget = &shared.config.memory;
    let most = PAGE_BYTES.min(memory::share(budget));
    let mut page = Page { series: Vec::new(), left: page_request.size, bytes: 0, most };
    let mut held = budget.hold();
    let mut freshness = Freshness::COMPLETE;
    let mut walk = Walk::new(&spec.selector, from.as_ref().map(|position| position.device.as_str()));
    let mut next = None;
    while let Some(device) = walk.next(shared).await? {
        let metrics = &spec.selector.metrics;
        let order = Order::Ascending;
        let mut sweep = Sweep::open(shared.source(), &device, spec.range, metrics, order, SLICE_ROWS).await?;
        freshness = freshness.and(sweep.freshness());
        let mut collector = Collector::new(&spec, Meter::new(&shared.config.memory));
        while let Some(slice) = sweep.next().await? {
            collector.add(&slice)?;
        }
        if collector.needs_steps() {
            precede(shared, &device, &spec, &mut collector).await?;
        }
        let ended = sweep.freshness().complete_until.min(convert::now());
        let begin = from.as_ref().filter(|position| *position.device == *device.id);
        let name = names::device(&device.tenant, &device.id);
        let (all, _memory) = collector.finish(ended)?;
        let rest = page.add(&name, all, begin);
        // In memory, an answer takes more than on the wire.
        held.resize(2 * page.bytes).map_err(errors::memory)?;
        if let Some((metric, start)) = rest {
            next = Some(BucketPosition { device: device.id.to_string(), metric, start });
            break;
        }
    }
    Ok(QueryAggregatesResponse {
        series: page.series,
        next_page_token: page_request.next(next),
        freshness: Some(freshness.to_proto()),
    })
}

/// Finds the last number of each series before the range, from which the first bucket has its step.
/// Looks back further and further, to the last reading of most devices only.
async fn precede(
    shared: &Shared,
    device: &DeviceKey,
    spec: &AggregateRequest,
    collector: &mut Collector<'_>,
) -> Result<(), Status> {
    let (mut end, mut rows) = (spec.range.start, 0);
    for reach in LOOK_BACK {
        let range = TimeRange { start: spec.range.start.saturating_sub(reach), end };
        let metrics = &spec.selector.metrics;
        let mut sweep = Sweep::open(shared.source(), device, range, metrics, Order::Descending, STEP_ROWS).await?;
        while let Some(slice) = sweep.next().await? {
            rows += slice.rows().len();
            if collector.precede(&slice) || rows > MAX_STEP_ROWS {
                return Ok(());
            }
        }
        end = range.start;
    }
    Ok(())
}

struct Page {
    series: Vec<AggregateSeries>,
    left: usize,
    /// Bytes of the series so far.
    bytes: usize,
    /// Maximum number of them.
    most: usize,
}

impl Page {
    /// Returns how many of the buckets fit, at least one into an empty page.
    fn fitting(&mut self, buckets: &[Bucket]) -> usize {
        let mut count = 0;
        for bucket in buckets.iter().take(self.left) {
            let bytes = self.bytes + bucket.wire_bytes();
            if bytes > self.most && self.bytes > 0 {
                break;
            }
            self.bytes = bytes;
            count += 1;
        }
        count
    }

    /// Adds the series of a device from `from` on; returns metric and start of the first bucket
    /// that did not fit.
    fn add(&mut self, device: &str, all: Vec<Finished>, from: Option<&BucketPosition>) -> Option<(String, Nanos)> {
        for (metric, buckets) in all {
            let begun = |position: &BucketPosition| *metric < *position.metric;
            if from.is_some_and(begun) {
                continue;
            }
            let start =
                from.filter(|position| *position.metric == *metric).map_or(Nanos::MIN, |position| position.start);
            let rest = &buckets[buckets.partition_point(|bucket| bucket.window.start < start)..];
            let fits = &rest[..self.fitting(rest)];
            self.left -= fits.len();
            if !fits.is_empty() {
                self.series.push(AggregateSeries {
                    buckets: fits.iter().map(Bucket::to_proto).collect(),
                    device: device.to_owned(),
                    metric: metric.to_string(),
                });
            }
            if let Some(bucket) = rest.get(fits.len()) {
                return Some((metric.to_string(), bucket.window.start));
            }
        }
        None
    }
}
