//! `DeviceService`.

use std::sync::Arc;

use model::DeviceKey;
use proto::v1::device_service_server::DeviceService;
use proto::v1::{Device, GetDeviceRequest, ListDevicesRequest, ListDevicesResponse};
use stores::contract::LatestState;
use tonic::{Request, Response, Status};

use super::Shared;
use super::states::{Kept, Steps};
use crate::auth::{Caller, Visible};
use crate::convert;
use crate::errors;
use crate::filter::{Actual, Fields, Filter, Subject, Type};

/// Maximum number of states examined for one page: a selective filter makes pages short, not slow.
const SCAN: usize = 20_000;
/// Maximum number of states read at one time.
const STEP: usize = 1_000;

/// Fields of a device filter.
const FIELDS: Fields = &[
    ("device_id", Type::Text),
    ("name", Type::Text),
    ("create_time", Type::Time),
    ("last_seen_time", Type::Time),
    ("reading_count", Type::Number),
    ("clock_skew", Type::Length),
    ("metrics", Type::Texts),
];

/// Reads a filter over devices.
pub(crate) fn device_filter(field: &str, text: &str) -> Result<Filter, Status> {
    Filter::read(field, text, FIELDS)
}

impl Subject for LatestState {
    fn field(&self, name: &'static str) -> Vec<Actual<'_>> {
        match name {
            "device_id" | "name" => vec![Actual::Text(&self.device.id)],
            "create_time" => vec![Actual::Nanos(self.first_seen)],
            "last_seen_time" => vec![Actual::Nanos(self.last_seen)],
            #[expect(clippy::cast_precision_loss, reason = "filters compare floating point numbers")]
            "reading_count" => vec![Actual::Number(self.readings as f64)],
            "clock_skew" => vec![Actual::Nanos(self.clock_skew)],
            "metrics" => self.values.iter().map(|v| Actual::Text(&v.name)).collect(),
            _ => Vec::new(),
        }
    }

    fn text(&self) -> &str {
        &self.device.id
    }
}

/// Returns states of a tenant that a caller sees and that match a filter, and the device id to
/// continue after while there may be more. Large states make a page short.
pub(crate) async fn scan(
    shared: &Shared,
    (tenant, visible): (&Arc<str>, &Visible),
    filter: &Filter,
    after: Option<String>,
    limit: usize,
) -> Result<(Kept, Option<String>), Status> {
    let (mut found, mut steps) = (Kept::new(&shared.config.memory), Steps::default());
    let mut after = after;
    let mut examined = 0;
    loop {
        let most = if *filter == Filter::Everything { limit - found.states.len() } else { STEP };
        let step = steps.size(most);
        let seen = steps.seen(shared, (tenant, visible), after.as_deref(), step).await?;
        examined += seen.examined;
        for state in seen.states {
            if found.is_full() {
                return Ok((found, after));
            }
            after = Some(state.device.id.to_string());
            if filter.matches(&state) {
                found.push(state)?;
                if found.states.len() == limit {
                    return Ok((found, after));
                }
            }
        }
        after = seen.after;
        if after.is_none() {
            return Ok((found, None));
        }
        if examined >= SCAN {
            return Ok((found, after));
        }
    }
}

/// Implementation of `DeviceService`.
pub(crate) struct DeviceApi(pub(crate) Shared);

#[tonic::async_trait]
impl DeviceService for DeviceApi {
    async fn get_device(&self, request: Request<GetDeviceRequest>) -> Result<Response<Device>, Status> {
        let caller = Caller::of(&request)?;
        let mut request = request.into_inner();
        let device: DeviceKey = caller.device("name", &mut request.name)?;
        let states = self.0.backend.latest.get(&[device]).await.map_err(errors::store)?;
        match states.into_iter().next().flatten() {
            Some(state) => Ok(Response::new(convert::device(&state))),
            None => Err(errors::not_found("DEVICE_NOT_FOUND", &request.name)),
        }
    }

    async fn list_devices(
        &self,
        request: Request<ListDevicesRequest>,
    ) -> Result<Response<ListDevicesResponse>, Status> {
        let caller = Caller::of(&request)?;
        let mut request = request.into_inner();
        let tenant = caller.tenant(&mut request.parent)?;
        if !matches!(request.order_by.as_str(), "" | "name") {
            return Err(errors::invalid("order_by", "devices are ordered by `name` only"));
        }
        request.order_by.clear();
        let filter = device_filter("filter", &request.filter)?;
        let mut page = self.0.page(&mut request)?;
        let visible = caller.visible();
        let (found, after) = scan(&self.0, (&tenant, &visible), &filter, page.from.take(), page.size).await?;
        Ok(Response::new(ListDevicesResponse {
            devices: found.states.iter().map(convert::device).collect(),
            next_page_token: page.next(after),
        }))
    }
}
