//! `BatchGetLatest`.

use std::sync::Arc;

use proto::v1::{BatchGetLatestRequest, BatchGetLatestResponse};
use tonic::Status;

use super::Shared;
use super::devices::scan;
use crate::auth::Caller;
use crate::convert;
use crate::errors;
use crate::filter::Filter;
use crate::glob::Metrics;
use crate::select::{Devices, Selector};
use crate::token::{Kind, Query};
use crate::traces;

/// Maximum number of devices in an answer.
const MAX_DEVICES: usize = 500;

pub(super) async fn batch_get(
    shared: &Shared,
    caller: &Caller,
    mut request: BatchGetLatestRequest,
) -> Result<BatchGetLatestResponse, Status> {
    let tenant = caller.tenant(&mut request.parent)?;
    let page_size = convert::page_size(std::mem::take(&mut request.page_size), MAX_DEVICES, MAX_DEVICES)?;
    let page_token = std::mem::take(&mut request.page_token);
    let selector = Selector::read(caller, &tenant, request.selector.as_mut())?;
    match selector.devices {
        Devices::Named(devices) => named(shared, &devices, &selector.metrics).await,
        Devices::Filtered(filter) => {
            let query = Query::new(&shared.config.token_secret, Kind::Latest, &request);
            let after = query.read_page(&page_token, |r| r.text()).map_err(|e| errors::token("page_token", e))?;
            filtered(shared, &tenant, &filter, &selector.metrics, query, (after, page_size)).await
        }
    }
}

async fn named(
    shared: &Shared,
    devices: &[model::DeviceKey],
    metrics: &Metrics,
) -> Result<BatchGetLatestResponse, Status> {
    let asked = shared.backend.latest.get(devices);
    let count = |states: &Vec<_>, counts: &traces::Counts| traces::add(&counts.devices, states.len() as u64);
    let states = traces::reading("get latest", asked, count).await.map_err(errors::store)?;
    let mut answer = BatchGetLatestResponse::default();
    for (device, state) in devices.iter().zip(states) {
        match state {
            Some(state) => answer.states.push(convert::latest(&state, metrics)),
            None => answer.missing_devices.push(crate::names::device(&device.tenant, &device.id)),
        }
    }
    Ok(answer)
}

async fn filtered(
    shared: &Shared,
    tenant: &Arc<str>,
    filter: &Filter,
    metrics: &Metrics,
    query: Query,
    (after, page_size): (Option<String>, usize),
) -> Result<BatchGetLatestResponse, Status> {
    let (states, after) = scan(shared, tenant, filter, after, page_size).await?;
    Ok(BatchGetLatestResponse {
        states: states.iter().map(|state| convert::latest(state, metrics)).collect(),
        missing_devices: Vec::new(),
        next_page_token: after.map(|id| query.page(|w| w.text(&id))).unwrap_or_default(),
    })
}
