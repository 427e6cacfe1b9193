//! Answers within the memory for all calls.

use proto::v1::{ListReadingsRequest, ListReadingsResponse, QueryGapsRequest, SeriesSelector};

use crate::fakes::{Row, block, row};
use crate::world::{PARENT, World, key, nanos, own_device, range};

const SECOND: i64 = 1_000_000_000;

async fn page(world: &World, request: &ListReadingsRequest) -> ListReadingsResponse {
    world.telemetry().list_readings(request.clone()).await.unwrap().into_inner()
}

/// Times of the readings of all pages.
async fn times(world: &World, mut request: ListReadingsRequest) -> Vec<i64> {
    let mut all = Vec::new();
    loop {
        let answer = page(world, &request).await;
        all.extend(answer.readings.iter().map(|reading| nanos(reading.measure_time.as_ref().unwrap())));
        request.page_token = answer.next_page_token;
        if request.page_token.is_empty() {
            return all;
        }
    }
}

#[tokio::test]
async fn a_page_ends_where_the_memory_of_its_call_does() {
    let budget = model::Budget::new("queries", 4 << 20);
    let world = World::with(|config| config.memory = budget.clone()).await;
    let rows: Vec<Row> = (0..20_000).map(|i| row(i * SECOND, "t", i as f64)).collect();
    for (part, rows) in rows.chunks(1_000).enumerate() {
        world.history.put_block(block(&key("d"), part as u64, rows));
    }
    let request = ListReadingsRequest { page_size: 10_000, parent: own_device("d"), ..Default::default() };
    let first = page(&world, &request).await;
    assert!((100..10_000).contains(&first.readings.len()), "{} readings in a page", first.readings.len());
    let all = times(&world, request).await;
    assert_eq!(all, (0..20_000).map(|i| i * SECOND).collect::<Vec<i64>>());
    let gaps = QueryGapsRequest {
        parent: PARENT.into(),
        selector: Some(SeriesSelector { devices: vec![own_device("d")], ..Default::default() }),
        range: Some(range(0, 20_000 * SECOND)),
        min_gap: Some(prost_types::Duration { seconds: 0, nanos: 1 }),
        page_size: 10_000,
        ..Default::default()
    };
    let first = world.telemetry().query_gaps(gaps.clone()).await.unwrap().into_inner();
    assert!((100..10_000).contains(&first.gaps.len()), "{} gaps in a page", first.gaps.len());
    let next = QueryGapsRequest { page_token: first.next_page_token, ..gaps };
    let second = world.telemetry().query_gaps(next).await.unwrap().into_inner();
    assert_eq!(second.gaps[0].range.unwrap().start_time, first.gaps.last().unwrap().range.unwrap().end_time);
    assert_eq!(budget.held(), 0);
}
