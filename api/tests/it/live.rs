//! Live subscriptions.

use std::time::Duration;

use buffer::{Cursor, Log};
use model::Value;
use proto::v1::subscribe_request::Start;
use proto::v1::subscribe_response::Message;
use proto::v1::telemetry_service_client::TelemetryServiceClient;
use proto::v1::{Event, Reading, SeriesSelector, StreamReadingsRequest, SubscribeRequest, SubscribeResponse, event};
use tonic::transport::Endpoint;
use tonic::{Code, Streaming};

use crate::fakes::{block, row};
use crate::world::{BOUND, PARENT, World, assert_status, key, now, own_device, seconds, timestamp};

fn request(start: Option<Start>) -> SubscribeRequest {
    SubscribeRequest {
        parent: PARENT.into(),
        start,
        heartbeat_interval: Some(seconds(1)),
        max_batch_delay: Some(seconds(0)),
        ..Default::default()
    }
}

async fn subscribe(world: &World, request: SubscribeRequest) -> Streaming<SubscribeResponse> {
    world.telemetry().subscribe(request).await.unwrap().into_inner()
}

async fn next(stream: &mut Streaming<SubscribeResponse>) -> SubscribeResponse {
    tokio::time::timeout(BOUND, stream.message()).await.expect("a message in time").unwrap().expect("not the end")
}

/// Reads until there were `count` events; returns them and the last token.
async fn take(stream: &mut Streaming<SubscribeResponse>, count: usize) -> (Vec<Event>, Vec<u8>) {
    let mut events = Vec::new();
    let mut token = Vec::new();
    while events.len() < count {
        let response = next(stream).await;
        token = response.resume_token;
        if let Some(Message::Batch(batch)) = response.message {
            events.extend(batch.events);
        }
    }
    (events, token)
}

fn reading(event: &Event) -> &Reading {
    let Some(event::Payload::Reading(reading)) = &event.payload else { panic!("{event:?}") };
    reading
}

fn ids(events: &[Event]) -> Vec<&str> {
    events.iter().map(|e| e.event_id.as_str()).collect()
}

#[tokio::test]
async fn each_event_from_now_on_is_sent_in_order_and_none_from_before() {
    let world = World::start().await;
    world.append("d", "t", Value::Float(0.0)).await;
    let mut stream = subscribe(&world, request(None)).await;
    for i in 1..=5 {
        world.append("d", "t", Value::Int(i)).await;
    }
    let (events, _) = take(&mut stream, 5).await;
    assert_eq!(ids(&events), ["log1:1", "log1:2", "log1:3", "log1:4", "log1:5"]);
    assert_eq!(reading(&events[4]).values["t"].kind, Some(proto::v1::value::Kind::IntValue(5)));
}

#[tokio::test]
async fn only_selected_events_are_sent() {
    let world = World::start().await;
    let selector = SeriesSelector {
        devices: vec![own_device("exact"), "tenants/-/devices/hall%2F*".into()],
        metrics: vec!["temp*".into()],
        ..Default::default()
    };
    let mut stream = subscribe(&world, SubscribeRequest { selector: Some(selector), ..request(None) }).await;
    for (device, name) in [
        ("exact", "temperature"),
        ("exact", "humidity"),
        ("exactly", "temperature"),
        ("hall/1", "temp"),
        ("hallway", "temp"),
        ("hall/2", "tem"),
        ("exact", "temp"),
    ] {
        world.append(device, name, Value::Bool(true)).await;
    }
    let (events, _) = take(&mut stream, 3).await;
    assert_eq!(ids(&events), ["log1:0", "log1:3", "log1:6"]);
}

#[tokio::test]
async fn a_stream_that_is_resumed_repeatedly_has_no_gaps_and_no_duplicates() {
    let world = World::start().await;
    let mut stream = subscribe(&world, SubscribeRequest { max_batch_events: 7, ..request(None) }).await;
    let mut seen = Vec::new();
    for round in 0..10 {
        for _ in 0..20 {
            world.append("d", "t", Value::Int(round)).await;
        }
        let (events, token) = take(&mut stream, 5).await;
        seen.extend(events);
        drop(stream);
        let resumed = SubscribeRequest { max_batch_events: 7, ..request(Some(Start::ResumeToken(token))) };
        stream = subscribe(&world, resumed).await;
    }
    let missing = 200 - seen.len();
    seen.extend(take(&mut stream, missing).await.0);
    let expected: Vec<String> = (0..200).map(|i| format!("log1:{i}")).collect();
    assert_eq!(ids(&seen), expected);
}

#[tokio::test]
async fn a_start_time_begins_with_the_readings_accepted_then() {
    let world = World::start().await;
    world.append("d", "t", Value::Int(1)).await;
    let time = now();
    world.append("d", "t", Value::Int(2)).await;
    let mut stream = subscribe(&world, request(Some(Start::StartTime(timestamp(time))))).await;
    assert_eq!(ids(&take(&mut stream, 1).await.0), ["log1:1"]);
    let mut stream = subscribe(&world, request(Some(Start::StartTime(timestamp(0))))).await;
    assert_eq!(ids(&take(&mut stream, 2).await.0), ["log1:0", "log1:1"]);
}

#[tokio::test]
async fn a_snapshot_is_sent_first_and_its_token_continues_after_it() {
    let world = World::start().await;
    world.append("d00", "t", Value::Int(1)).await;
    for i in 0..450 {
        world.device(&format!("d{i:03}"), 1000, 1, &["a", "b"]);
    }
    let mut stream = subscribe(&world, request(Some(Start::Snapshot(true)))).await;
    let mut devices = std::collections::BTreeSet::new();
    let token = loop {
        let response = next(&mut stream).await;
        let Some(Message::Batch(batch)) = response.message else { panic!("{response:?}") };
        assert!(batch.snapshot);
        devices.extend(batch.events.iter().map(|e| reading(e).device.clone()));
        if !response.resume_token.is_empty() {
            break response.resume_token;
        }
    };
    assert_eq!(devices.len(), 450);
    world.append("d1", "t", Value::Int(2)).await;
    assert_eq!(ids(&take(&mut stream, 1).await.0), ["log1:1"]);
    let mut stream = subscribe(&world, request(Some(Start::ResumeToken(token)))).await;
    assert_eq!(ids(&take(&mut stream, 1).await.0), ["log1:1"]);
}

#[tokio::test]
async fn a_snapshot_of_named_devices_holds_only_them() {
    let world = World::start().await;
    ["a", "b", "c"].iter().for_each(|id| world.device(id, 1000, 1, &["t"]));
    let selector = SeriesSelector { devices: ["c", "none", "a"].map(own_device).into(), ..Default::default() };
    let snapshot = SubscribeRequest { selector: Some(selector), ..request(Some(Start::Snapshot(true))) };
    let (events, token) = take(&mut subscribe(&world, snapshot).await, 2).await;
    let devices: Vec<String> = events.iter().map(|e| api::names::device_id(&reading(e).device).unwrap()).collect();
    assert_eq!(devices, ["a", "c"]);
    assert!(!token.is_empty());
}

#[tokio::test]
async fn history_continues_live_without_a_gap() {
    let world = World::start().await;
    world.append("d", "t", Value::Float(1.0)).await;
    world.tail.put(block(&key("d"), 0, &[row(1, "t", 1.0)]));
    let selector = Some(SeriesSelector { devices: vec![own_device("d")], ..Default::default() });
    let history = StreamReadingsRequest { parent: PARENT.into(), selector: selector.clone(), ..Default::default() };
    let mut stream = world.telemetry().stream_readings(history).await.unwrap().into_inner();
    let mut live_token = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        live_token = message.live_token;
    }
    world.append("other", "t", Value::Float(2.0)).await;
    world.append("d", "t", Value::Float(3.0)).await;
    let resumed = SubscribeRequest { selector, ..request(Some(Start::ResumeToken(live_token))) };
    let (events, _) = take(&mut subscribe(&world, resumed).await, 1).await;
    assert_eq!(ids(&events), ["log1:2"]);
}

#[tokio::test]
async fn an_idle_stream_sends_heartbeats_with_its_watermark() {
    let world = World::start().await;
    world.append("d", "t", Value::Int(1)).await;
    let selector = SeriesSelector { devices: vec![own_device("other")], ..Default::default() };
    let quiet = SubscribeRequest { selector: Some(selector), ..request(None) };
    let mut stream = subscribe(&world, quiet.clone()).await;
    let before = now();
    world.append("d", "t", Value::Int(2)).await;
    let beat = next(&mut stream).await;
    let Some(Message::Heartbeat(heartbeat)) = beat.message else { panic!("{beat:?}") };
    assert!(crate::world::nanos(&heartbeat.watermark_time.unwrap()) > before);
    // Its token has moved past what was not wanted.
    let end = self::trim(&world).await;
    assert_eq!(end, 2);
    let resumed = SubscribeRequest { start: Some(Start::ResumeToken(beat.resume_token)), ..quiet };
    subscribe(&world, resumed).await;
}

/// Trims everything; returns the new start.
async fn trim(world: &World) -> u64 {
    let cursor = Cursor { done_to: world.log.end(), sealed_to: world.log.end(), epoch: 1, ..Default::default() };
    world.log.move_cursor("history", cursor).await.unwrap();
    world.log.trim().await.unwrap()
}

#[tokio::test]
async fn a_position_that_was_trimmed_is_out_of_range() {
    let world = World::start().await;
    let mut stream = subscribe(&world, request(None)).await;
    world.append("d", "t", Value::Int(1)).await;
    let (_, token) = take(&mut stream, 1).await;
    drop(stream);
    world.append("d", "t", Value::Int(2)).await;
    world.append("d", "t", Value::Int(3)).await;
    assert_eq!(trim(&world).await, 3);
    for start in [Start::ResumeToken(token), Start::StartTime(timestamp(1))] {
        let status = world.telemetry().subscribe(request(Some(start))).await.expect_err("trimmed");
        assert_status(&status, Code::OutOfRange, "PLACE_NOT_RETAINED");
        assert!(status.message().contains("live_token"), "{status:?}");
    }
}

#[tokio::test]
async fn a_token_of_another_selector_is_refused() {
    let world = World::start().await;
    let mut stream = subscribe(&world, request(None)).await;
    world.append("d", "t", Value::Int(1)).await;
    let (_, token) = take(&mut stream, 1).await;
    let selector = Some(SeriesSelector { metrics: vec!["t".into()], ..Default::default() });
    let other = SubscribeRequest { selector, ..request(Some(Start::ResumeToken(token.clone()))) };
    let status = world.telemetry().subscribe(other).await.expect_err("another query");
    assert_status(&status, Code::InvalidArgument, "TOKEN_INVALID");
    let empty = world.telemetry().subscribe(request(Some(Start::ResumeToken(Vec::new())))).await;
    assert_status(&empty.expect_err("empty"), Code::InvalidArgument, "TOKEN_INVALID");
}

#[tokio::test]
async fn a_reader_that_falls_behind_the_log_gets_a_closing_message() {
    let world = World::start().await;
    let endpoint = Endpoint::from_shared(format!("http://{}", world.address)).unwrap();
    let endpoint = endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    let mut slow = TelemetryServiceClient::new(endpoint.connect().await.unwrap());
    let mut stream =
        slow.subscribe(SubscribeRequest { max_batch_events: 20, ..request(None) }).await.unwrap().into_inner();
    let text = "x".repeat(20_000);
    for _ in 0..300 {
        world.append("d", "text", Value::Str(text.as_str().into())).await;
    }
    assert_eq!(trim(&world).await, 300);
    let mut offsets = Vec::new();
    let closing = loop {
        let response = next(&mut stream).await;
        match response.message {
            Some(Message::Batch(batch)) => offsets.extend(batch.events.into_iter().map(|e| e.event_id)),
            Some(Message::Closing(closing)) => break (closing, response.resume_token),
            other => panic!("{other:?}"),
        }
    };
    assert!(offsets.len() < 300, "the reader was slow");
    assert_eq!(offsets, (0..offsets.len()).map(|i| format!("log1:{i}")).collect::<Vec<_>>(), "no hole before the end");
    assert_eq!(closing.0.reason, "SLOW_CONSUMER");
    assert!(stream.message().await.unwrap().is_none());
    let status = world.telemetry().subscribe(request(Some(Start::ResumeToken(closing.1)))).await;
    assert_status(&status.expect_err("trimmed"), Code::OutOfRange, "PLACE_NOT_RETAINED");
    assert!(world.metrics_text().contains("weir_api_slow_consumers_total 1"));
}

#[tokio::test]
async fn a_stopping_server_sends_a_closing_message_whose_token_works_later() {
    let world = World::start().await;
    let mut stream = subscribe(&world, request(None)).await;
    world.append("d", "t", Value::Int(1)).await;
    take(&mut stream, 1).await;
    world.shutdown.cancel();
    let response = next(&mut stream).await;
    let Some(Message::Closing(closing)) = response.message else { panic!("{response:?}") };
    assert_eq!(closing.reason, "DRAIN");
    assert!(!response.resume_token.is_empty());
    assert!(stream.message().await.unwrap().is_none());
    tokio::time::timeout(Duration::from_secs(10), world.server).await.expect("it stops").unwrap().unwrap();
}

#[tokio::test]
async fn wrong_subscriptions_name_the_field() {
    let world = World::start().await;
    let fails = async |r: SubscribeRequest| world.telemetry().subscribe(r).await.expect_err("an error");
    let filter = SeriesSelector { device_filter: "a".into(), ..Default::default() };
    let device = SeriesSelector { devices: vec!["d*".into()], ..Default::default() };
    for (request, field) in [
        (SubscribeRequest { selector: Some(filter), ..request(None) }, "selector.device_filter:"),
        (SubscribeRequest { selector: Some(device), ..request(None) }, "selector.devices[0]:"),
        (SubscribeRequest { max_batch_events: 5001, ..request(None) }, "max_batch_events:"),
        (SubscribeRequest { max_batch_delay: Some(seconds(11)), ..request(None) }, "max_batch_delay:"),
        (SubscribeRequest { heartbeat_interval: Some(seconds(0)), ..request(None) }, "heartbeat_interval:"),
    ] {
        let status = fails(request).await;
        assert_status(&status, Code::InvalidArgument, "FIELD_INVALID");
        assert!(status.message().starts_with(field), "{status:?}");
    }
}

#[tokio::test]
async fn a_message_has_no_more_than_its_bytes_however_long_it_collects_events() {
    const EVENTS: usize = 60;
    let world = World::start().await;
    let collects = SubscribeRequest { max_batch_events: 5_000, max_batch_delay: Some(seconds(2)), ..request(None) };
    let mut stream = subscribe(&world, collects).await;
    let text = "x".repeat(100 << 10);
    let appended = async {
        for _ in 0..EVENTS {
            world.append("d", "t", Value::Str(text.as_str().into())).await;
        }
    };
    let read = async {
        let (mut events, mut largest) = (0, 0);
        while events < EVENTS {
            if let Some(Message::Batch(batch)) = next(&mut stream).await.message {
                events += batch.events.len();
                largest = largest.max(prost::Message::encoded_len(&batch));
            }
        }
        largest
    };
    let ((), largest) = tokio::join!(appended, read);
    assert!(largest <= (1 << 20) + (120 << 10), "{largest} bytes in one message");
}

#[tokio::test]
async fn a_snapshot_of_devices_with_many_names_comes_in_messages_that_clients_accept() {
    let budget = model::Budget::new("queries", 48 << 20);
    let world = World::with(|config| config.memory = budget.clone()).await;
    let names: Vec<String> = (0..2_000).map(|name| format!("a metric of this device, number {name}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    (0..100).for_each(|i| world.device(&format!("d{i:03}"), 1_000, 1, &names));
    // The client accepts 4 MiB, the default.
    let mut client = TelemetryServiceClient::new(world.channel.clone());
    for devices in [Vec::new(), (0..100).map(|i| own_device(&format!("d{i:03}"))).collect()] {
        let selector = Some(SeriesSelector { devices, ..Default::default() });
        let request = SubscribeRequest { selector, ..request(Some(Start::Snapshot(true))) };
        let mut stream = client.subscribe(request).await.unwrap().into_inner();
        let mut values = 0;
        while values < 200_000 {
            let Some(Message::Batch(batch)) = next(&mut stream).await.message else { panic!("no batch") };
            values += batch.events.iter().map(|event| reading(event).values.len()).sum::<usize>();
        }
        assert_eq!(values, 200_000);
        assert_eq!(budget.held(), 0, "nothing is held once it was sent");
    }
}
