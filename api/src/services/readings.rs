//! `ListReadings`.

use prost::Message;
use proto::v1::{ListReadingsRequest, ListReadingsResponse, Reading};
use tonic::Status;

use super::Shared;
use crate::auth::Caller;
use crate::glob::Metrics;
use crate::memory::Meter;
use crate::read::{self, Order, Position, Sweep};
use crate::{convert, errors};

/// Maximum bytes of a page, apart from its last reading.
const PAGE_BYTES: usize = 1 << 20;
/// Bytes of a reading in memory besides what it has in the answer, and of each of its values.
const READING_BYTES: usize = size_of::<Reading>() + 64;
const VALUE_BYTES: usize = 2 * size_of::<(String, proto::v1::Value)>();

pub(super) async fn list(
    shared: &Shared,
    caller: &Caller,
    mut request: ListReadingsRequest,
) -> Result<ListReadingsResponse, Status> {
    let device = caller.device("parent", &mut request.parent)?;
    let order = order(&request.order_by)?;
    let range = convert::range(request.range.as_ref())?;
    let page_request = shared.page(&mut request)?;
    let from = page_request.from;
    let rest = from.map_or(range, |position| position.rest(range, order));
    let metrics = Metrics::new(&request.metrics);
    let mut sweep =
        Sweep::open(shared.source(), &device, rest, &metrics, order, page_request.size.clamp(1024, read::SLICE_ROWS))
            .await?;
    let mut page = Page {
        device: &request.parent,
        readings: Vec::new(),
        bytes: 0,
        size: page_request.size,
        position: from,
        memory: Meter::new(&shared.config.memory),
    };
    let next = page.fill(&mut sweep, from).await?;
    shared.metrics.rows_sent.inc_by(page.readings.len() as u64);
    Ok(ListReadingsResponse {
        readings: page.readings,
        next_page_token: page_request.next(next),
        freshness: Some(sweep.freshness().to_proto()),
    })
}

fn order(order_by: &str) -> Result<Order, Status> {
    let words: Vec<&str> = order_by.split_whitespace().collect();
    match words[..] {
        [] | ["measure_time"] | ["measure_time", "asc"] => Ok(Order::Ascending),
        ["measure_time", "desc"] => Ok(Order::Descending),
        _ => Err(errors::invalid("order_by", "must be `measure_time` or `measure_time desc`")),
    }
}

struct Page<'a> {
    device: &'a str,
    readings: Vec<Reading>,
    bytes: usize,
    size: usize,
    position: Option<Position>,
    memory: Meter,
}

impl Page<'_> {
    /// Fills the page; returns the start of the next one if there is more.
    async fn fill(&mut self, sweep: &mut Sweep, from: Option<Position>) -> Result<Option<Position>, Status> {
        let mut skip = from.map_or(0, |position| position.sent);
        while let Some(slice) = sweep.next().await? {
            for &at in slice.rows() {
                let time = slice.time(at);
                if skip > 0 && from.is_some_and(|position| position.time == time) {
                    skip -= 1;
                    continue;
                }
                if self.readings.len() == self.size || self.bytes >= PAGE_BYTES || self.memory.is_half_used() {
                    return Ok(self.position);
                }
                let reading = read::reading(&slice, at, self.device);
                let bytes = reading.encoded_len() + 4;
                self.memory.take(READING_BYTES + reading.values.len() * VALUE_BYTES + bytes, "page_size")?;
                self.bytes += bytes;
                self.readings.push(reading);
                self.position = Some(Position::after(self.position, time));
            }
        }
        Ok(None)
    }
}
