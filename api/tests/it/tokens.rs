//! Page tokens that were changed.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proto::v1::{
    AggregateFunction, AggregateSpec, BatchGetLatestRequest, ListDeadLettersRequest, ListDevicesRequest,
    ListReadingsRequest, QueryAggregatesRequest, QueryGapsRequest, SeriesSelector,
};
use stores::contract::DeadLetters as _;
use tonic::{Code, Status};

use crate::dead_letters::letter;
use crate::fakes::{Row, block, row};
use crate::world::{PARENT, World, assert_status, key, own_device, range, seconds};

const SECOND: i64 = 1_000_000_000;
const START: i64 = 1_767_225_600 * SECOND;

/// The paged calls: each takes a page token and returns the next one.
const CALLS: [&str; 6] = ["devices", "latest", "readings", "aggregates", "gaps", "letters"];

async fn call(world: &World, call: &str, filter: &str, page_token: String) -> Result<String, Status> {
    let (parent, page_size) = (PARENT.to_owned(), 1);
    let selector = Some(SeriesSelector { device_filter: filter.to_owned(), ..Default::default() });
    let range = Some(range(START, START + 3600 * SECOND));
    Ok(match call {
        "devices" => {
            let filter = filter.to_owned();
            let request = ListDevicesRequest { parent, page_size, page_token, filter, ..Default::default() };
            world.devices().list_devices(request).await?.into_inner().next_page_token
        }
        "latest" => {
            let request = BatchGetLatestRequest { parent, selector, page_size, page_token };
            world.telemetry().batch_get_latest(request).await?.into_inner().next_page_token
        }
        "readings" => {
            let parent = own_device("a1");
            let request = ListReadingsRequest { parent, page_size, page_token, ..Default::default() };
            world.telemetry().list_readings(request).await?.into_inner().next_page_token
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
            world.telemetry().query_aggregates(request).await?.into_inner().next_page_token
        }
        "gaps" => {
            let min_gap = Some(seconds(1));
            let request = QueryGapsRequest { parent, selector, range, min_gap, page_size, page_token };
            world.telemetry().query_gaps(request).await?.into_inner().next_page_token
        }
        _ => {
            let request = ListDeadLettersRequest { parent, page_size, page_token, ..Default::default() };
            world.dead_letters().list_dead_letters(request).await?.into_inner().next_page_token
        }
    })
}

async fn world() -> World {
    let world = World::start().await;
    for id in ["a1", "a2", "b1", "b2"] {
        let rows: Vec<Row> = (0..3).map(|i| row(START + i * 60 * SECOND, "t", 1.0)).collect();
        world.history.put_block(block(&key(id), 0, &rows));
        world.device(id, START, 3, &["t"]);
    }
    world.letters.put((0..4).map(|i| letter(i, "x")).collect()).await.unwrap();
    world
}

#[tokio::test]
async fn a_page_token_with_any_byte_changed_is_refused_by_every_call() {
    let world = world().await;
    for name in CALLS {
        let token = call(&world, name, "", String::new()).await.unwrap();
        assert!(!token.is_empty(), "{name} has a second page");
        call(&world, name, "", token.clone()).await.unwrap();
        let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let status = call(&world, name, "", URL_SAFE_NO_PAD.encode(changed)).await.expect_err("a changed token");
            assert_status(&status, Code::InvalidArgument, "TOKEN_INVALID");
        }
    }
}

#[tokio::test]
async fn no_token_shows_the_device_at_which_a_page_ended() {
    let world = world().await;
    for id in ["hall-1", "hall-2"] {
        world.history.put_block(block(&key(id), 0, &[row(START, "t", 1.0), row(START + 60 * SECOND, "t", 1.0)]));
        world.device(id, START, 2, &["t"]);
    }
    for name in ["devices", "latest", "aggregates", "gaps"] {
        let token = call(&world, name, "device_id = \"hall*\"", String::new()).await.unwrap();
        let bytes = URL_SAFE_NO_PAD.decode(token).unwrap();
        assert!(!bytes.windows(4).any(|bytes| bytes == b"hall"), "{name}");
    }
}
