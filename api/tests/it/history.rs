//! Readings: pages, streams, and that no reading is missing or duplicated on its way from the log
//! to the store.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use model::Value;
use proto::v1::column::Values;
use proto::v1::{
    Freshness, ListReadingsRequest, ListReadingsResponse, Reading, ReadingChunk, SeriesSelector, StreamReadingsRequest,
    StreamReadingsResponse,
};
use stores::StoreError;
use tonic::Code;

use crate::fakes::{Row, block, row};
use crate::world::{PARENT, World, assert_status, device_name, key, nanos, own_device, range};

const SECOND: i64 = 1_000_000_000;

fn request(device: &str) -> ListReadingsRequest {
    ListReadingsRequest { parent: own_device(device), ..Default::default() }
}

async fn page(world: &World, request: ListReadingsRequest) -> ListReadingsResponse {
    world.telemetry().list_readings(request).await.unwrap().into_inner()
}

async fn pages(world: &World, mut request: ListReadingsRequest) -> Vec<Reading> {
    let mut all = Vec::new();
    loop {
        let answer = page(world, request.clone()).await;
        all.extend(answer.readings);
        request.page_token = answer.next_page_token;
        if request.page_token.is_empty() {
            return all;
        }
    }
}

fn times(readings: &[Reading]) -> Vec<i64> {
    readings.iter().map(|r| nanos(r.measure_time.as_ref().unwrap())).collect()
}

async fn stream(world: &World, request: StreamReadingsRequest) -> Vec<StreamReadingsResponse> {
    let mut stream = world.telemetry().stream_readings(request).await.unwrap().into_inner();
    let mut all = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        all.push(message);
    }
    all
}

/// A row: device, time, and the values as text by metric.
type Flat = (String, i64, Vec<(String, String)>);

/// Rows of a chunk.
fn rows_of(chunk: &ReadingChunk) -> Vec<Flat> {
    let mut time = chunk.base_time_unix_nanos;
    let mut rows: Vec<_> = chunk
        .time_deltas_nanos
        .iter()
        .map(|delta| {
            time += delta;
            (chunk.device.clone(), time, Vec::new())
        })
        .collect();
    for column in &chunk.columns {
        let mut values: Vec<String> = match column.values.as_ref().unwrap() {
            Values::Doubles(c) => c.values.iter().map(|v| format!("{v:?}")).collect(),
            Values::Ints(c) => c.values.iter().map(ToString::to_string).collect(),
            Values::Bools(c) => c.values.iter().map(ToString::to_string).collect(),
            Values::Strings(c) => c.values.iter().map(|v| format!("{v:?}")).collect(),
        };
        values.reverse();
        for (i, row) in rows.iter_mut().enumerate() {
            if column.present.is_empty() || column.present[i / 8] >> (i % 8) & 1 == 1 {
                row.2.push((column.metric.clone(), values.pop().unwrap()));
            }
        }
        assert!(values.is_empty(), "as many values as present bits");
    }
    rows.iter_mut().for_each(|row| row.2.sort());
    rows
}

#[tokio::test]
async fn a_reading_is_returned_as_it_was_stored() {
    let world = World::start().await;
    let values = vec![
        ("t", Value::Float(21.5)),
        ("n", Value::Int(-7)),
        ("on", Value::Bool(true)),
        ("mode", Value::Str("eco".into())),
    ];
    let mut stored = block(&key("d"), 0, &[Row { time: 5, seq: Some(9), values }]);
    stored.claimed = vec![Some(77)];
    stored.device_timed = vec![false];
    world.history.put_block(stored);
    let answer = page(&world, request("d")).await;
    let [reading] = &answer.readings[..] else { panic!("{answer:?}") };
    assert_eq!((reading.device.as_str(), reading.sequence), (device_name("d").as_str(), Some(9)));
    assert_eq!((nanos(reading.measure_time.as_ref().unwrap()), nanos(reading.ingest_time.as_ref().unwrap())), (5, 6));
    assert_eq!((nanos(reading.claimed_time.as_ref().unwrap()), reading.device_timed), (77, false));
    use proto::v1::value::Kind;
    let value = |name: &str| reading.values[name].kind.clone().unwrap();
    assert_eq!(value("t"), Kind::DoubleValue(21.5));
    assert_eq!(value("n"), Kind::IntValue(-7));
    assert_eq!(value("on"), Kind::BoolValue(true));
    assert_eq!(value("mode"), Kind::StringValue("eco".into()));
}

#[tokio::test]
async fn store_and_tail_are_merged_and_readings_in_both_are_returned_once() {
    let world = World::start().await;
    world.history.put_block(block(&key("d"), 0, &[row(10, "t", 1.0), row(30, "t", 3.0)]));
    world.tail.put(block(&key("d"), 1, &[row(20, "t", 2.0), row(30, "t", 3.0), row(40, "t", 4.0)]));
    world.tail.put(block(&key("other"), 1, &[row(25, "t", 2.0)]));
    let answer = page(&world, request("d")).await;
    assert_eq!(times(&answer.readings), [10, 20, 30, 40]);
    assert!(matches!(answer.freshness, Some(Freshness { includes_unflushed: true, complete_until_time: Some(_) })));
    let stored = page(&world, ListReadingsRequest { range: Some(range(0, 15)), ..request("d") }).await;
    assert_eq!(times(&stored.readings), [10]);
    assert!(!stored.freshness.unwrap().includes_unflushed);
}

#[tokio::test]
async fn different_readings_of_one_time_are_all_returned() {
    let world = World::start().await;
    world.history.put_block(block(&key("d"), 0, &[row(10, "t", 1.0), row(10, "t", 2.0)]));
    world.tail.put(block(&key("d"), 1, &[row(10, "t", 2.0), row(10, "h", 1.0)]));
    assert_eq!(times(&page(&world, request("d")).await.readings), [10, 10, 10]);
}

#[tokio::test]
async fn a_selection_of_metrics_returns_as_many_readings_as_there_are() {
    let world = World::start().await;
    let both =
        |t: f64, h: f64| Row { time: 10, seq: None, values: vec![("t", Value::Float(t)), ("h", Value::Float(h))] };
    // Four readings of one time with the same `t`, and one of them twice, in the store and in the
    // tail.
    world.history.put_block(block(&key("d"), 0, &[both(1.0, 1.0), both(1.0, 2.0)]));
    world.history.put_block(block(&key("d"), 1, &[both(1.0, 3.0)]));
    world.tail.put(block(&key("d"), 2, &[both(1.0, 3.0), both(1.0, 4.0)]));
    // Two of one time in one block only.
    let later = |h: f64| Row { time: 20, ..both(1.0, h) };
    world.history.put_block(block(&key("d"), 4, &[later(1.0), later(2.0)]));
    let metrics = [vec![], vec!["t".to_owned()], vec!["t*".to_owned()], vec!["h".to_owned()]];
    for _ in 0..2 {
        for metrics in &metrics {
            for order_by in ["measure_time", "measure_time desc"] {
                let (metrics, order_by) = (metrics.clone(), order_by.to_owned());
                let answer = page(&world, ListReadingsRequest { metrics, order_by, ..request("d") }).await;
                let mut times = times(&answer.readings);
                times.sort_unstable();
                assert_eq!(times, [10, 10, 10, 10, 20, 20]);
            }
        }
        world.tail.flush();
        world.history.merge_all();
    }
}

#[tokio::test]
async fn pages_make_the_whole_in_both_orders() {
    let world = World::start().await;
    // Overlapping blocks, several rows of one time, a part of it in the tail.
    let rows: Vec<Row> = (0..3000).map(|i| row(i / 3 * SECOND, "t", i as f64)).collect();
    for (i, part) in rows.chunks(500).enumerate() {
        world.history.put_block(block(&key("d"), i as u64, part));
    }
    world.tail.put(block(&key("d"), 90, &rows[2400..]));
    let all = pages(&world, ListReadingsRequest { page_size: 10_000, ..request("d") }).await;
    assert_eq!(all.len(), 3000);
    for page_size in [1, 7, 1000] {
        let small = ListReadingsRequest { page_size, range: Some(range(10 * SECOND, 300 * SECOND)), ..request("d") };
        let ascending = pages(&world, small.clone()).await;
        assert_eq!(ascending, all[30..900], "{page_size}");
        let descending = ListReadingsRequest { order_by: "measure_time desc".into(), ..small };
        let mut descending = pages(&world, descending).await;
        descending.reverse();
        assert_eq!(descending, all[30..900], "{page_size} descending");
    }
}

#[tokio::test]
async fn a_page_reads_no_more_blocks_than_it_needs() {
    let world = World::start().await;
    for i in 0..100_i64 {
        let rows: Vec<Row> = (0..1000).map(|r| row((i * 1000 + r) * SECOND, "t", 0.0)).collect();
        world.history.put_block(block(&key("d"), i as u64, &rows));
    }
    for order_by in ["measure_time", "measure_time desc"] {
        let answer =
            page(&world, ListReadingsRequest { order_by: order_by.into(), page_size: 10, ..request("d") }).await;
        assert_eq!(answer.readings.len(), 10);
    }
    assert!(world.history.faults().largest_fetch.load(Ordering::SeqCst) <= 2000);
    let request = StreamReadingsRequest { parent: PARENT.into(), selector: selector(&["d"]), ..Default::default() };
    let rows: usize = stream(&world, request).await.iter().flat_map(|m| &m.chunks).map(|c| rows_of(c).len()).sum();
    assert_eq!(rows, 100_000);
    assert!(
        world.history.faults().largest_fetch.load(Ordering::SeqCst) <= 40_000,
        "a long range is read piece by piece"
    );
}

fn selector(devices: &[&str]) -> Option<SeriesSelector> {
    Some(SeriesSelector { devices: devices.iter().map(|d| own_device(d)).collect(), ..Default::default() })
}

#[tokio::test]
async fn metrics_leave_out_readings_without_them() {
    let world = World::start().await;
    let both = Row { time: 3, seq: None, values: vec![("temp", Value::Float(1.0)), ("hum", Value::Int(5))] };
    world.history.put_block(block(&key("d"), 0, &[row(1, "temp", 1.0), row(2, "hum", 2.0), both]));
    for metrics in [vec!["temp".to_owned()], vec!["te*".to_owned()]] {
        let answer = page(&world, ListReadingsRequest { metrics, ..request("d") }).await;
        assert_eq!(times(&answer.readings), [1, 3]);
        assert!(answer.readings.iter().all(|r| r.values.len() == 1 && r.values.contains_key("temp")));
    }
}

#[tokio::test]
async fn blocks_that_move_are_found_again_without_duplicates_or_gaps() {
    let world = World::start().await;
    for i in 0..80_i64 {
        let rows: Vec<Row> = (0..1000).map(|r| row((i * 500 + r) * SECOND, "t", (i * 500 + r) as f64)).collect();
        world.history.put_block(block(&key("d"), i as u64, &rows));
    }
    let request = StreamReadingsRequest { parent: PARENT.into(), selector: selector(&["d"]), ..Default::default() };
    let mut messages = world.telemetry().stream_readings(request).await.unwrap().into_inner();
    let mut rows = Vec::new();
    let mut first = true;
    while let Some(message) = messages.message().await.unwrap() {
        rows.extend(message.chunks.iter().flat_map(rows_of).map(|(_, time, _)| time / SECOND));
        if std::mem::take(&mut first) {
            world.history.merge_all();
        }
    }
    assert_eq!(rows, (0..40_500).collect::<Vec<i64>>());
    world.history.faults().moves.store(u32::MAX, Ordering::SeqCst);
    let status = world.telemetry().list_readings(self::request("d")).await.expect_err("they never stay");
    assert_status(&status, Code::Unavailable, "STORE_BUSY");
}

#[tokio::test]
async fn durable_readings_are_returned_once_while_they_are_flushed() {
    let world = Arc::new(World::start().await);
    let written = Arc::new(std::sync::atomic::AtomicI64::new(0));
    let writer = {
        let (world, written) = (Arc::clone(&world), Arc::clone(&written));
        tokio::task::spawn_blocking(move || {
            for i in 0..3000 {
                world.tail.put(block(&key("d"), i as u64, &[row(i, "t", i as f64)]));
                written.store(i + 1, Ordering::SeqCst);
                if i % 17 == 0 {
                    world.tail.flush();
                }
                if i % 500 == 499 {
                    world.history.merge_all();
                }
            }
        })
    };
    while !writer.is_finished() {
        let before = written.load(Ordering::SeqCst);
        let request = ListReadingsRequest { page_size: 10_000, ..request("d") };
        let times = times(&page(&world, request).await.readings);
        let count = i64::try_from(times.len()).unwrap();
        assert!(count >= before, "{count} of {before}");
        assert_eq!(times, (0..count).collect::<Vec<i64>>(), "each once");
    }
    writer.await.unwrap();
}

#[tokio::test]
async fn a_stream_holds_every_device_and_every_type_in_columns() {
    let world = World::start().await;
    for d in 0..50_i64 {
        let id = format!("d{d:02}");
        world.device(&id, 0, 1, &["t"]);
        let rows: Vec<Row> = (0..100)
            .map(|i| {
                let mut values = vec![("t", Value::Float(i as f64 / 2.0))];
                if i % 3 == 0 {
                    values.push(("mode", Value::Str(format!("m{i}").into())));
                }
                // One name, two types.
                values.push(("n", if i % 2 == 0 { Value::Int(i) } else { Value::Float(i as f64) }));
                Row { time: i * SECOND + d, seq: Some(i as u64), values }
            })
            .collect();
        world.history.put_block(block(&key(&id), 0, &rows[..60]));
        world.tail.put(block(&key(&id), 60, &rows[60..]));
    }
    let request = StreamReadingsRequest { parent: PARENT.into(), include_details: true, ..Default::default() };
    let messages = stream(&world, request).await;
    let chunks: Vec<&ReadingChunk> = messages.iter().flat_map(|m| &m.chunks).collect();
    let rows: Vec<_> = chunks.iter().flat_map(|c| rows_of(c)).collect();
    assert_eq!(rows.len(), 5000);
    for (at, (device, time, values)) in rows.iter().enumerate() {
        let (d, i) = ((at / 100) as i64, (at % 100) as i64);
        assert_eq!((device.as_str(), *time), (device_name(&format!("d{d:02}")).as_str(), i * SECOND + d));
        let mut expected = vec![("t".to_owned(), format!("{:?}", i as f64 / 2.0))];
        if i % 3 == 0 {
            expected.push(("mode".into(), format!("\"m{i}\"")));
        }
        expected.push(("n".into(), if i % 2 == 0 { i.to_string() } else { format!("{:?}", i as f64) }));
        expected.sort();
        assert_eq!(*values, expected);
    }
    let sequences: Vec<u64> = chunks.iter().flat_map(|c| &c.sequences_plus_one).copied().collect();
    assert_eq!(sequences, (0..50).flat_map(|_| 1..=100).collect::<Vec<u64>>());
    assert!(chunks.iter().all(|c| c.ingest_delays_nanos.iter().all(|d| *d == 1)));
    assert!(messages.last().unwrap().freshness.unwrap().includes_unflushed);
}

#[tokio::test]
async fn a_stream_continues_after_any_of_its_tokens() {
    let world = World::start().await;
    for (d, id) in ["a", "b", "c"].into_iter().enumerate() {
        world.device(id, 0, 1, &["text"]);
        let text = |i: i64| Value::Str(format!("{d}/{i}/{}", "x".repeat(100)).into());
        let rows: Vec<Row> =
            (0..5000).map(|i| Row { time: i / 7, seq: None, values: vec![("text", text(i))] }).collect();
        world.history.put_block(block(&key(id), 0, &rows));
    }
    for selector in [selector(&["c", "a", "b"]), None] {
        let request = StreamReadingsRequest { parent: PARENT.into(), selector, ..Default::default() };
        let messages = stream(&world, request.clone()).await;
        assert!(messages.len() > 4, "{} messages", messages.len());
        let rows = |messages: &[StreamReadingsResponse]| -> Vec<_> {
            messages.iter().flat_map(|m| &m.chunks).flat_map(rows_of).collect()
        };
        let all = rows(&messages);
        assert_eq!(all.len(), 15_000);
        for (i, message) in messages.iter().enumerate() {
            assert!(prost::Message::encoded_len(message) <= 256 << 10);
            let resumed = StreamReadingsRequest { resume_token: message.resume_token.clone(), ..request.clone() };
            let rest = rows(&stream(&world, resumed).await);
            let sent = rows(&messages[..=i]).len();
            assert!(rest == all[sent..], "after message {i}: {} rows, not {}", rest.len(), all.len() - sent);
        }
    }
}

#[tokio::test]
async fn a_stream_ends_at_its_limit() {
    let world = World::start().await;
    let rows: Vec<Row> = (0..100).map(|i| row(i, "t", 0.0)).collect();
    world.history.put_block(block(&key("a"), 0, &rows));
    world.history.put_block(block(&key("b"), 0, &rows));
    let request = StreamReadingsRequest {
        parent: PARENT.into(),
        selector: selector(&["a", "b"]),
        limit: 130,
        ..Default::default()
    };
    let messages = stream(&world, request).await;
    let rows: usize = messages.iter().flat_map(|m| &m.chunks).map(|c| rows_of(c).len()).sum();
    assert_eq!(rows, 130);
    assert!(messages.last().unwrap().freshness.is_some());
    assert!(messages.last().unwrap().live_token.is_empty(), "the rows cut off by the limit would be missing");
}

#[tokio::test]
async fn a_token_of_another_query_or_another_installation_is_refused() {
    let world = World::start().await;
    world.history.put_block(block(&key("d"), 0, &[row(1, "t", 1.0), row(2, "t", 2.0)]));
    let first = page(&world, ListReadingsRequest { page_size: 1, ..request("d") }).await;
    let list = async |r: ListReadingsRequest| world.telemetry().list_readings(r).await.expect_err("an error");
    let other = ListReadingsRequest { page_token: first.next_page_token.clone(), ..request("e") };
    assert_status(&list(other).await, Code::InvalidArgument, "TOKEN_INVALID");
    let other = ListReadingsRequest { page_token: "AAAA".into(), ..request("d") };
    assert_status(&list(other).await, Code::InvalidArgument, "TOKEN_INVALID");

    let request = StreamReadingsRequest { parent: PARENT.into(), selector: selector(&["d"]), ..Default::default() };
    let token = stream(&world, request.clone()).await.pop().unwrap().resume_token;
    let resume = async |world: &World, r: StreamReadingsRequest| {
        world.telemetry().stream_readings(r).await.expect_err("an error")
    };
    let resumed = StreamReadingsRequest { resume_token: token.clone(), ..request.clone() };
    let wider = StreamReadingsRequest { include_details: true, ..resumed.clone() };
    assert_status(&resume(&world, wider).await, Code::InvalidArgument, "TOKEN_INVALID");
    let stranger = World::with(|config| config.token_secret = [1; 32]).await;
    assert_status(&resume(&stranger, resumed).await, Code::InvalidArgument, "TOKEN_INVALID");
}

#[tokio::test]
async fn errors_of_a_store_become_errors_with_advice() {
    let world = World::start().await;
    for (error, code, reason) in [
        (StoreError::busy("down"), Code::Unavailable, "STORE_BUSY"),
        (StoreError::NeedsOperator("password".into()), Code::FailedPrecondition, "STORE_PAUSED"),
        (StoreError::Damaged("blocks, key 7".into()), Code::DataLoss, "DATA_DAMAGED"),
        (StoreError::Refused("no".into()), Code::FailedPrecondition, "STORE_REFUSED"),
        (StoreError::TooLarge("no".into()), Code::InvalidArgument, "TOO_LARGE"),
    ] {
        world.history.faults().set_down(Some(error));
        let status = world.telemetry().list_readings(request("d")).await.expect_err("an error");
        assert_status(&status, code, reason);
        if code == Code::Unavailable {
            assert!(status.metadata().get("grpc-retry-pushback-ms").is_some(), "{status:?}");
        }
    }
}

#[tokio::test]
async fn wrong_ranges_and_orders_name_the_field() {
    let world = World::start().await;
    let list = async |r: ListReadingsRequest| world.telemetry().list_readings(r).await.expect_err("an error");
    let backwards = ListReadingsRequest { range: Some(range(5, 4)), ..request("d") };
    assert_status(&list(backwards).await, Code::InvalidArgument, "FIELD_INVALID");
    let order = ListReadingsRequest { order_by: "value".into(), ..request("d") };
    assert!(list(order).await.message().starts_with("order_by:"));
}
