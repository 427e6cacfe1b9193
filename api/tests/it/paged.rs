//! The calls that range over devices, a page of each at a time.

use prost::Message;
use proto::v1::{
    AggregateFunction, AggregateSpec, BatchGetLatestRequest, ListDeadLettersRequest, ListDevicesRequest,
    QueryAggregatesRequest, QueryGapsRequest, SeriesSelector,
};
use tonic::{Request, Status};

use crate::access::gate::with;
use crate::world::{PARENT, World, range, seconds};

pub(crate) const SECOND: i64 = 1_000_000_000;
/// The begin of the hour that the calls ask for.
pub(crate) const START: i64 = 1_767_225_600 * SECOND;

/// The calls.
pub(crate) const CALLS: [&str; 5] = ["devices", "latest", "aggregates", "gaps", "letters"];

/// The items of a page, each as its device and its bytes, and the token of the next one.
pub(crate) type Page = (Vec<(String, Vec<u8>)>, String);

/// Asks for one page, as the caller with this header.
pub(crate) async fn page(
    world: &World,
    authorization: Option<&str>,
    name: &str,
    (page_size, page_token): (i32, String),
    selector: &SeriesSelector,
) -> Result<Page, Status> {
    macro_rules! each {
        ($items:expr, $device:ident) => {
            $items.into_iter().map(|item| (item.$device.clone(), item.encode_to_vec())).collect()
        };
    }
    let (parent, range) = (PARENT.to_owned(), Some(range(START, START + 3600 * SECOND)));
    let (filter, selector) = (selector.device_filter.clone(), Some(selector.clone()));
    Ok(match name {
        "devices" => {
            let request = ListDevicesRequest { parent, page_size, page_token, filter, ..Default::default() };
            let answer = world.devices().list_devices(of(authorization, request)).await?.into_inner();
            (each!(answer.devices, name), answer.next_page_token)
        }
        "latest" => {
            let request = BatchGetLatestRequest { parent, selector, page_size, page_token };
            let answer = world.telemetry().batch_get_latest(of(authorization, request)).await?.into_inner();
            assert!(answer.missing_devices.is_empty());
            (each!(answer.states, device), answer.next_page_token)
        }
        "aggregates" => {
            let aggregates = vec![AggregateSpec { function: AggregateFunction::Count.into(), percentile: 0.0 }];
            let request = QueryAggregatesRequest {
                parent,
                selector,
                range,
                aggregates,
                page_size,
                page_token,
                ..Default::default()
            };
            let answer = world.telemetry().query_aggregates(of(authorization, request)).await?.into_inner();
            (each!(answer.series, device), answer.next_page_token)
        }
        "gaps" => {
            let min_gap = Some(seconds(1));
            let request = QueryGapsRequest { parent, selector, range, min_gap, page_size, page_token };
            let answer = world.telemetry().query_gaps(of(authorization, request)).await?.into_inner();
            (each!(answer.gaps, device), answer.next_page_token)
        }
        "letters" => {
            let request = ListDeadLettersRequest { parent, page_size, page_token, ..Default::default() };
            let answer = world.dead_letters().list_dead_letters(of(authorization, request)).await?.into_inner();
            (each!(answer.dead_letters, device), answer.next_page_token)
        }
        other => panic!("{other} is none of the calls"),
    })
}

/// A request of a caller with this header, or of one without.
fn of<T>(authorization: Option<&str>, message: T) -> Request<T> {
    match authorization {
        Some(authorization) => with(authorization, message),
        None => Request::new(message),
    }
}
