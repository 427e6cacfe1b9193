//! `BatchGetLatest`.

use model::DeviceKey;
use prost::Message;
use proto::v1::{BatchGetLatestRequest, BatchGetLatestResponse};
use tonic::Status;

use super::Shared;
use super::scan::{Scope, scan};
use super::states::Steps;
use crate::auth::Caller;
use crate::convert;
use crate::glob::Metrics;
use crate::select::{Devices, Selector};

/// Bytes of an answer, apart from its last state: below the 4 MiB that clients accept by default.
const PAGE_BYTES: usize = 3 << 20;

pub(super) async fn batch_get(
    shared: &Shared,
    caller: &Caller,
    mut request: BatchGetLatestRequest,
) -> Result<BatchGetLatestResponse, Status> {
    let tenant = caller.tenant(&mut request.parent)?;
    let selector = Selector::read(caller, &tenant, request.selector.as_mut())?;
    let mut page = shared.page(&mut request)?;
    let after = page.from.take();
    let (mut answer, after) = match &selector.devices {
        Devices::Named(devices) => named(shared, devices, &selector.metrics, after).await?,
        Devices::Filtered(filter) => {
            let scope = Scope { tenant: &tenant, visible: &selector.visible, filter, with_deleted: false };
            let (found, after) = scan(shared, scope, after, page.size).await?;
            let states = found.devices.iter().filter_map(|device| device.state.as_ref());
            let states = states.map(|state| convert::latest(state, &selector.metrics)).collect();
            (BatchGetLatestResponse { states, ..Default::default() }, after)
        }
    };
    answer.next_page_token = page.next(after);
    Ok(answer)
}

/// Reads the states of the devices behind `after`; returns the device to continue after when the
/// answer is full.
async fn named(
    shared: &Shared,
    devices: &[DeviceKey],
    metrics: &Metrics,
    after: Option<String>,
) -> Result<(BatchGetLatestResponse, Option<String>), Status> {
    let from = after.and_then(|id| devices.iter().position(|device| *device.id == *id)).map_or(0, |at| at + 1);
    let mut left = &devices[from..];
    let (mut answer, mut bytes, mut steps) = (BatchGetLatestResponse::default(), 0, Steps::default());
    while !left.is_empty() {
        let (some, rest) = left.split_at(steps.size(left.len()));
        let (states, _held) = steps.get(shared, some).await?;
        for (i, (device, state)) in some.iter().zip(states).enumerate() {
            if bytes >= PAGE_BYTES {
                let last = &devices[devices.len() - rest.len() - some.len() + i - 1];
                return Ok((answer, Some(last.id.to_string())));
            }
            match state {
                Some(state) => {
                    let state = convert::latest(&state, metrics);
                    bytes += state.encoded_len();
                    answer.states.push(state);
                }
                None => answer.missing_devices.push(crate::names::device(&device.tenant, &device.id)),
            }
        }
        left = rest;
    }
    Ok((answer, None))
}
