//! Aggregates and gaps.

use model::Value;
use proto::v1::{
    AggregateBucket, AggregateFunction, AggregateSpec, FillMode, Gap, QueryAggregatesRequest, QueryGapsRequest,
    SeriesSelector,
};
use tonic::Code;

use crate::fakes::{Row, block, row};
use crate::world::{PARENT, World, assert_status, device_name, float, key, nanos, now, own_device, range, seconds};

const SECOND: i64 = 1_000_000_000;
const HOUR: i64 = 3600 * SECOND;
/// 2026-01-01T00:00:00Z
const NEW_YEAR: i64 = 1_767_225_600 * SECOND;

fn functions(functions: &[AggregateFunction]) -> Vec<AggregateSpec> {
    functions.iter().map(|f| AggregateSpec { function: (*f).into(), percentile: 50.0 }).collect()
}

fn request(device: &str, hours: i64, of: &[AggregateFunction]) -> QueryAggregatesRequest {
    QueryAggregatesRequest {
        parent: PARENT.into(),
        selector: Some(SeriesSelector { devices: vec![own_device(device)], ..Default::default() }),
        range: Some(range(NEW_YEAR, NEW_YEAR + hours * HOUR)),
        bucket: Some(seconds(3600)),
        aggregates: functions(of),
        ..Default::default()
    }
}

/// Device, metric and buckets of each series, over all pages.
async fn query(world: &World, mut request: QueryAggregatesRequest) -> Vec<(String, String, Vec<AggregateBucket>)> {
    let mut all: Vec<(String, String, Vec<AggregateBucket>)> = Vec::new();
    loop {
        let answer = world.telemetry().query_aggregates(request.clone()).await.unwrap().into_inner();
        for series in answer.series {
            match all.last_mut() {
                Some((device, metric, buckets)) if *device == series.device && *metric == series.metric => {
                    buckets.extend(series.buckets);
                }
                _ => all.push((series.device, series.metric, series.buckets)),
            }
        }
        assert!(answer.freshness.is_some());
        request.page_token = answer.next_page_token;
        if request.page_token.is_empty() {
            return all;
        }
    }
}

fn starts(buckets: &[AggregateBucket]) -> Vec<i64> {
    buckets.iter().map(|b| (nanos(b.start_time.as_ref().unwrap()) - NEW_YEAR) / HOUR).collect()
}

#[tokio::test]
async fn each_function_is_computed_over_store_and_tail() {
    use AggregateFunction as F;
    let world = World::start().await;
    let at = |minute: i64, v: f64| row(NEW_YEAR + minute * 60 * SECOND, "t", v);
    world.history.put_block(block(&key("d"), 0, &[at(0, 1.0), at(30, 3.0)]));
    world.tail.put(block(&key("d"), 1, &[at(30, 3.0), at(45, 2.0), at(90, 8.0)]));
    let of = [
        F::Count,
        F::Mean,
        F::TimeWeightedMean,
        F::Min,
        F::Max,
        F::Sum,
        F::First,
        F::Last,
        F::Stddev,
        F::Percentile,
        F::Increase,
    ];
    let all = query(&world, request("d", 2, &of)).await;
    let [(device, metric, buckets)] = &all[..] else { panic!("{all:?}") };
    assert_eq!((device.as_str(), metric.as_str()), (device_name("d").as_str(), "t"));
    assert_eq!(starts(buckets), [0, 1]);
    let first = &buckets[0];
    assert_eq!((first.count, first.filled, first.partial), (3, false, false));
    assert_eq!(nanos(first.end_time.as_ref().unwrap()), NEW_YEAR + HOUR);
    assert_eq!(first.values[0].kind, Some(proto::v1::value::Kind::IntValue(3)));
    let values: Vec<f64> = first.values[1..].iter().map(float).collect();
    assert_eq!(values, [2.0, 1.75, 1.0, 3.0, 6.0, 1.0, 2.0, 1.0, 2.0, 4.0]);
    assert_eq!(buckets[1].values[8].kind, None, "one value has no deviation");
}

#[tokio::test]
async fn pages_of_buckets_make_the_whole() {
    let world = World::start().await;
    for id in ["a", "b", "c"] {
        let values = |i: i64| vec![("t", Value::Float(i as f64)), ("h", Value::Int(i))];
        let rows: Vec<Row> =
            (0..100).map(|i| Row { time: NEW_YEAR + i * HOUR / 2, seq: None, values: values(i) }).collect();
        world.history.put_block(block(&key(id), 0, &rows));
        world.device(id, 0, 1, &["t"]);
    }
    let request =
        QueryAggregatesRequest { selector: None, page_size: 10_000, ..request("", 100, &[AggregateFunction::Mean]) };
    let whole = query(&world, request.clone()).await;
    let series: Vec<(&str, usize)> =
        whole.iter().map(|(_, metric, buckets)| (metric.as_str(), buckets.len())).collect();
    assert_eq!(series, [("h", 50), ("t", 50), ("h", 50), ("t", 50), ("h", 50), ("t", 50)]);
    for page_size in [1, 7, 50, 299] {
        assert_eq!(query(&world, QueryAggregatesRequest { page_size, ..request.clone() }).await, whole, "{page_size}");
    }
}

#[tokio::test]
async fn empty_buckets_are_filled_as_asked() {
    let world = World::start().await;
    let at = |hour: i64, v: f64| row(NEW_YEAR + hour * HOUR, "t", v);
    world.history.put_block(block(&key("d"), 0, &[at(1, 10.0), at(2, 20.0), at(5, 50.0), at(6, 60.0)]));
    let base = request("d", 8, &[AggregateFunction::Mean]);
    let filled = async |fill: FillMode, max_fill: Option<i64>| -> (Vec<i64>, Vec<Option<f64>>, Vec<bool>) {
        let request = QueryAggregatesRequest { fill: fill.into(), max_fill: max_fill.map(seconds), ..base.clone() };
        let all = query(&world, request).await;
        let buckets = &all[0].2;
        let value = |b: &AggregateBucket| b.values[0].kind.is_some().then(|| float(&b.values[0]));
        (starts(buckets), buckets.iter().map(value).collect(), buckets.iter().map(|b| b.filled).collect())
    };
    assert_eq!(filled(FillMode::Unspecified, None).await.0, [1, 2, 5, 6]);
    let (hours, values, marks) = filled(FillMode::Null, None).await;
    assert_eq!(hours, (0..8).collect::<Vec<i64>>());
    assert_eq!(values, [None, Some(10.0), Some(20.0), None, None, Some(50.0), Some(60.0), None]);
    assert!(marks.iter().all(|m| !m));
    let (_, values, marks) = filled(FillMode::Previous, None).await;
    assert_eq!(values[3..], [Some(20.0), Some(20.0), Some(50.0), Some(60.0), Some(60.0)]);
    assert_eq!(marks, [false, false, false, true, true, false, false, true]);
    let (_, values, _) = filled(FillMode::Previous, Some(3600)).await;
    assert_eq!(values[3..5], [Some(20.0), None]);
    let (_, values, marks) = filled(FillMode::Linear, None).await;
    assert_eq!(values, [None, Some(10.0), Some(20.0), Some(30.0), Some(40.0), Some(50.0), Some(60.0), None]);
    assert_eq!(marks, [false, false, false, true, true, false, false, false]);
    let (_, values, _) = filled(FillMode::Linear, Some(3600)).await;
    assert_eq!(values[3..5], [None, None]);
}

#[tokio::test]
async fn calendar_days_follow_the_clocks_of_their_zone() {
    let world = World::start().await;
    // 2026-03-28T23:00Z is midnight of the 29th in Berlin, a day of 23 hours.
    let midnight = 1_774_738_800 * SECOND;
    let rows: Vec<Row> = (0..48).map(|h| row(midnight + h * HOUR, "t", 1.0)).collect();
    world.history.put_block(block(&key("d"), 0, &rows));
    let request = QueryAggregatesRequest {
        bucket: None,
        bucket_calendar: "P1D".into(),
        time_zone: "Europe/Berlin".into(),
        range: Some(range(midnight, midnight + 48 * HOUR)),
        ..request("d", 0, &[AggregateFunction::Count])
    };
    let all = query(&world, request).await;
    let counts: Vec<i64> = all[0].2.iter().map(|b| b.count).collect();
    assert_eq!(counts, [23, 24, 1]);
}

#[tokio::test]
async fn a_bucket_that_reaches_over_the_range_or_into_the_future_is_partial() {
    let world = World::start().await;
    let now = now();
    world.history.put_block(block(&key("d"), 0, &[row(now - 1, "t", 1.0), row(now, "t", 2.0)]));
    let whole = QueryAggregatesRequest {
        bucket: None,
        range: Some(range(now - HOUR, now + 24 * HOUR)),
        ..request("d", 0, &[AggregateFunction::Max])
    };
    let all = query(&world, whole.clone()).await;
    assert_eq!((all[0].2.len(), all[0].2[0].partial), (1, true));
    let past = QueryAggregatesRequest { range: Some(range(now - HOUR, now)), ..whole };
    assert!(!query(&world, past).await[0].2[0].partial);
}

#[tokio::test]
async fn wrong_aggregate_requests_name_the_field() {
    let world = World::start().await;
    let good = request("d", 1, &[AggregateFunction::Mean]);
    let fails = async |request: QueryAggregatesRequest| {
        world.telemetry().query_aggregates(request).await.expect_err("an error")
    };
    let percentile = vec![AggregateSpec { function: AggregateFunction::Percentile.into(), percentile: 101.0 }];
    for (request, field) in [
        (QueryAggregatesRequest { aggregates: vec![], ..good.clone() }, "aggregates:"),
        (
            QueryAggregatesRequest { aggregates: functions(&[AggregateFunction::Unspecified]), ..good.clone() },
            "aggregates[0].function:",
        ),
        (QueryAggregatesRequest { aggregates: percentile, ..good.clone() }, "aggregates[0].percentile:"),
        (QueryAggregatesRequest { range: None, ..good.clone() }, "range:"),
        (QueryAggregatesRequest { bucket: Some(seconds(0)), ..good.clone() }, "bucket:"),
        (QueryAggregatesRequest { bucket_calendar: "P1D".into(), ..good.clone() }, "bucket_calendar:"),
        (QueryAggregatesRequest { bucket: None, bucket_calendar: "1d".into(), ..good.clone() }, "bucket_calendar:"),
        (QueryAggregatesRequest { time_zone: "Mars/Phobos".into(), ..good.clone() }, "time_zone:"),
        (QueryAggregatesRequest { fill: 99, ..good.clone() }, "fill:"),
    ] {
        let status = fails(request).await;
        assert_status(&status, Code::InvalidArgument, "FIELD_INVALID");
        assert!(status.message().starts_with(field), "{status:?}");
    }
}

async fn gaps(world: &World, mut request: QueryGapsRequest) -> Vec<Gap> {
    let mut all = Vec::new();
    loop {
        let answer = world.telemetry().query_gaps(request.clone()).await.unwrap().into_inner();
        all.extend(answer.gaps);
        request.page_token = answer.next_page_token;
        if request.page_token.is_empty() {
            return all;
        }
    }
}

#[tokio::test]
async fn gaps_are_the_times_without_data_page_by_page() {
    let world = World::start().await;
    let at = |hour: i64| row(NEW_YEAR + hour * HOUR, "t", 0.0);
    world.history.put_block(block(&key("a"), 0, &[at(0), at(1), at(5)]));
    world.tail.put(block(&key("a"), 1, &[at(6), at(20)]));
    world.history.put_block(block(&key("b"), 0, &(0..=24).map(at).collect::<Vec<_>>()));
    let request = QueryGapsRequest {
        parent: PARENT.into(),
        selector: Some(SeriesSelector { devices: ["a", "b", "c"].map(own_device).into(), ..Default::default() }),
        range: Some(range(NEW_YEAR, NEW_YEAR + 24 * HOUR)),
        min_gap: Some(seconds(3600)),
        ..Default::default()
    };
    let whole = gaps(&world, request.clone()).await;
    let found: Vec<(String, i64, i64, bool)> = whole
        .iter()
        .map(|gap| {
            let range = gap.range.as_ref().unwrap();
            let hour = |t: &Option<prost_types::Timestamp>| (nanos(t.as_ref().unwrap()) - NEW_YEAR) / HOUR;
            (api::names::device_id(&gap.device).unwrap(), hour(&range.start_time), hour(&range.end_time), gap.open)
        })
        .collect();
    let expected = [("a", 1, 5, false), ("a", 6, 20, false), ("a", 20, 24, true), ("c", 0, 24, true)];
    assert_eq!(found, expected.map(|(d, from, to, open)| (d.to_owned(), from, to, open)));
    for page_size in 1..5 {
        assert_eq!(gaps(&world, QueryGapsRequest { page_size, ..request.clone() }).await, whole, "{page_size}");
    }
    let status = world.telemetry().query_gaps(QueryGapsRequest { min_gap: None, ..request }).await;
    assert_status(&status.expect_err("no min_gap"), Code::InvalidArgument, "FIELD_INVALID");
}

#[tokio::test]
async fn the_future_is_not_a_gap() {
    let world = World::start().await;
    let now = now();
    world.history.put_block(block(&key("d"), 0, &[row(now - SECOND, "t", 0.0)]));
    let request = QueryGapsRequest {
        parent: PARENT.into(),
        selector: Some(SeriesSelector { devices: vec![own_device("d")], ..Default::default() }),
        range: Some(range(now - 2 * SECOND, now + 24 * HOUR)),
        min_gap: Some(seconds(3600)),
        ..Default::default()
    };
    assert!(gaps(&world, request).await.is_empty());
}

#[tokio::test]
async fn the_step_into_a_bucket_belongs_to_it_also_from_before_the_range() {
    let world = World::start().await;
    // A meter that is read every 15 minutes and counts one each time, as integers.
    let quarter =
        |i: i64| Row { time: NEW_YEAR + i * HOUR / 4, seq: None, values: vec![("kwh", Value::Int(1000 + i))] };
    world.history.put_block(block(&key("d"), 0, &(-40..6).map(quarter).collect::<Vec<_>>()));
    world.tail.put(block(&key("d"), 1, &(6..12).map(quarter).collect::<Vec<_>>()));
    let increases = async |request: QueryAggregatesRequest| -> Vec<Option<proto::v1::value::Kind>> {
        query(&world, request).await[0].2.iter().map(|bucket| bucket.values[0].kind.clone()).collect()
    };
    let four = Some(proto::v1::value::Kind::IntValue(4));
    let base = request("d", 3, &[AggregateFunction::Increase]);
    assert_eq!(increases(base.clone()).await, vec![four.clone(); 3]);
    assert_eq!(increases(QueryAggregatesRequest { page_size: 1, ..base.clone() }).await, vec![four.clone(); 3]);
    // The first reading of all has no step before it.
    let all = QueryAggregatesRequest { range: Some(range(NEW_YEAR - 10 * HOUR, NEW_YEAR + 3 * HOUR)), ..base };
    let all = increases(all).await;
    assert_eq!((all.len(), &all[0]), (13, &Some(proto::v1::value::Kind::IntValue(3))));
    assert_eq!(all[1..], vec![four; 12]);
}

#[tokio::test]
async fn the_step_is_found_a_month_before_the_range_and_only_for_its_own_metric() {
    let world = World::start().await;
    let day = 24 * HOUR;
    let other = |at: i64| row(at, "other", 1.0);
    let rows = [row(NEW_YEAR - 30 * day, "kwh", 5.0), other(NEW_YEAR - day), row(NEW_YEAR + 1, "kwh", 8.0)];
    world.history.put_block(block(&key("d"), 0, &rows));
    let all = query(&world, request("d", 1, &[AggregateFunction::Increase])).await;
    let found: Vec<(&str, f64)> = all.iter().map(|(_, metric, b)| (metric.as_str(), float(&b[0].values[0]))).collect();
    assert_eq!(found, [("kwh", 3.0)]);
}

#[tokio::test]
async fn booleans_are_not_numbers_and_the_bucket_says_how_many_values_are_none() {
    use AggregateFunction as F;
    let world = World::start().await;
    let at = |minute: i64, value: Value| Row {
        time: NEW_YEAR + minute * 60 * SECOND,
        seq: None,
        values: vec![("v", value)],
    };
    let rows =
        [at(0, Value::Int(4)), at(1, Value::Bool(true)), at(2, Value::Str("x".into())), at(61, Value::Bool(true))];
    world.history.put_block(block(&key("d"), 0, &rows));
    let mut request = request("d", 2, &[F::Count, F::Mean, F::Last]);
    request.set_fill(FillMode::Linear);
    let all = query(&world, request).await;
    let buckets = &all[0].2;
    assert_eq!((buckets[0].count, buckets[0].non_numeric_count), (3, 2));
    assert_eq!(float(&buckets[0].values[1]), 4.0);
    assert_eq!((buckets[1].count, buckets[1].non_numeric_count), (1, 1));
    assert_eq!(buckets[1].values[1].kind, None);
    assert_eq!(buckets[1].values[2].kind, Some(proto::v1::value::Kind::BoolValue(true)));
}

#[tokio::test]
async fn a_line_between_booleans_has_no_values() {
    let world = World::start().await;
    let at = |hour: i64| Row { time: NEW_YEAR + hour * HOUR, seq: None, values: vec![("v", Value::Bool(hour > 0))] };
    world.history.put_block(block(&key("d"), 0, &[at(0), at(2)]));
    let mut request = request("d", 3, &[AggregateFunction::Last]);
    request.set_fill(FillMode::Linear);
    let all = query(&world, request).await;
    assert_eq!(all[0].2[1].values[0].kind, None);
}

#[tokio::test]
async fn an_answer_that_would_take_the_memory_of_all_calls_is_refused_before_it_is_built() {
    let budget = model::Budget::new("queries", 64 << 20);
    let world = World::with(|config| config.memory = budget.clone()).await;
    // One text of 4 KB, repeated into 360,000 buckets: more than 1 GB.
    let text = Value::Str("x".repeat(4096).into());
    let first = Row { values: vec![("t", text)], ..row(NEW_YEAR, "t", 0.0) };
    world.history.put_block(block(&key("d"), 0, &[first, row(NEW_YEAR + 99 * HOUR, "t", 0.0)]));
    let of = [AggregateFunction::First];
    for (fill, function) in [(FillMode::Previous, 0), (FillMode::Null, 1)] {
        let request = QueryAggregatesRequest {
            fill: fill.into(),
            bucket: Some(seconds(1)),
            ..request("d", 100, if function == 0 { &of } else { &[AggregateFunction::Count; 16] })
        };
        let status = world.telemetry().query_aggregates(request).await.expect_err("too much");
        assert_status(&status, Code::InvalidArgument, "FIELD_INVALID");
        assert!(status.message().starts_with("fill: makes an answer"), "{status:?}");
        assert_eq!(budget.held(), 0, "a call that has ended holds nothing");
    }
}

#[tokio::test]
async fn percentiles_hold_no_more_values_than_the_memory_of_one_call() {
    let world = World::with(|config| config.memory = model::Budget::new("queries", 1 << 20)).await;
    let rows: Vec<Row> = (0..20_000_i64).map(|i| row(NEW_YEAR + i * SECOND / 10, "t", 1.0)).collect();
    for (part, rows) in rows.chunks(500).enumerate() {
        world.history.put_block(block(&key("d"), part as u64, rows));
    }
    let request = request("d", 1, &[AggregateFunction::Percentile]);
    let status = world.telemetry().query_aggregates(request).await.expect_err("too much");
    assert!(status.message().starts_with("bucket: makes an answer"), "{status:?}");
}

#[tokio::test]
async fn calls_wait_for_their_turn_while_others_hold_the_memory() {
    let budget = model::Budget::new("queries", 1 << 20);
    let world = World::with(|config| config.memory = budget.clone()).await;
    world.history.put_block(block(&key("d"), 0, &[row(NEW_YEAR, "t", 1.0)]));
    let others = budget.acquire(1 << 20).unwrap();
    let request = request("d", 1, &[AggregateFunction::Mean]);
    let status = world.telemetry().query_aggregates(request.clone()).await.expect_err("full");
    assert_status(&status, Code::ResourceExhausted, "MEMORY_EXHAUSTED");
    drop(others);
    assert_eq!(query(&world, request).await.len(), 1);
}

#[tokio::test]
async fn a_page_of_long_texts_ends_where_its_bytes_do() {
    let world = World::start().await;
    let text = |i: i64| Row {
        values: vec![("t", Value::Str("x".repeat(4096).into()))],
        ..row(NEW_YEAR + i * SECOND, "t", 0.0)
    };
    let rows: Vec<Row> = (0..600).map(text).collect();
    world.history.put_block(block(&key("d"), 0, &rows));
    let request = QueryAggregatesRequest {
        bucket: Some(seconds(1)),
        page_size: 10_000,
        ..request("d", 1, &[AggregateFunction::First, AggregateFunction::Last, AggregateFunction::First])
    };
    let page = world.telemetry().query_aggregates(request.clone()).await.unwrap().into_inner();
    assert!(!page.next_page_token.is_empty(), "7 MB of texts are more than one page");
    let all = query(&world, request).await;
    assert_eq!(all[0].2.len(), 600);
}
