//! Live streams of callers that are bound to groups, while the groups change.

use identity::Role;
use model::Value;
use proto::v1::subscribe_request::Start;
use proto::v1::subscribe_response::Message;
use proto::v1::{Event, SeriesSelector, StreamReadingsRequest, SubscribeRequest, SubscribeResponse, event};
use tonic::{Code, Status, Streaming};

use super::super::gate::with;
use super::{Plant, SECOND, START};
use crate::fakes::{block, row};
use crate::world::{BOUND, PARENT, assert_status, device_name, key, own_device, seconds, timestamp};

async fn subscribe(
    plant: &Plant,
    token: &str,
    devices: &[&str],
    start: Option<Start>,
) -> Result<Streaming<SubscribeResponse>, Status> {
    let devices = devices.iter().map(|id| own_device(id).replace("%2A", "*")).collect();
    let request = SubscribeRequest {
        parent: PARENT.into(),
        selector: Some(SeriesSelector { devices, ..Default::default() }),
        start,
        max_batch_delay: Some(seconds(0)),
        heartbeat_interval: Some(seconds(60)),
        ..Default::default()
    };
    Ok(plant.telemetry().subscribe(with(token, request)).await?.into_inner())
}

async fn next(stream: &mut Streaming<SubscribeResponse>) -> Result<Vec<Event>, Status> {
    let message = tokio::time::timeout(BOUND, stream.message()).await.expect("a message in time")?;
    match message.expect("not the end").message {
        Some(Message::Batch(batch)) => Ok(batch.events),
        _ => Ok(Vec::new()),
    }
}

#[tokio::test]
async fn ids_of_events_tell_nothing_of_others_and_are_the_same_each_time() {
    let plant = Plant::start(&[]).await;
    plant.group("g", &["d*"], &[]).await;
    let token = plant.key(Role::Viewer, &["g"]).await;
    for id in ["x", "d1", "x", "d2"] {
        plant.world().append(id, "t", Value::Int(1)).await;
    }
    let start = || Some(Start::StartTime(timestamp(START)));
    let ids = async || {
        let mut stream = subscribe(&plant, &token, &[], start()).await.unwrap();
        let mut ids = Vec::new();
        while ids.len() < 2 {
            ids.extend(next(&mut stream).await.unwrap().into_iter().map(|event| event.event_id));
        }
        ids
    };
    let first = ids().await;
    assert!(first[0] != first[1] && first.iter().all(|id| id.len() == 22 && !id.contains("log1")), "{first:?}");
    assert_eq!(ids().await, first);
    let whole = plant.key(Role::Viewer, &[]).await;
    let mut stream = subscribe(&plant, &whole, &[], start()).await.unwrap();
    assert_eq!(next(&mut stream).await.unwrap()[0].event_id, "log1:0");
}

/// The devices of the next events.
async fn devices(stream: &mut Streaming<SubscribeResponse>, count: usize) -> Vec<String> {
    let mut found = Vec::new();
    while found.len() < count {
        found.extend(next(stream).await.unwrap().into_iter().map(|event| match event.payload {
            Some(event::Payload::Reading(reading)) => reading.device,
            other => panic!("{other:?}"),
        }));
    }
    found
}

#[tokio::test]
async fn a_device_that_leaves_the_group_stops_flowing_and_one_that_comes_flows() {
    let plant = Plant::start(&[]).await;
    plant.group("g", &["pump-*"], &["d1", "d2"]).await;
    let token = plant.key(Role::Viewer, &["g"]).await;
    let mut stream = subscribe(&plant, &token, &[], None).await.unwrap();
    let append = async |ids: &[&str]| {
        for id in ids {
            plant.world().append(id, "t", Value::Int(1)).await;
        }
    };
    append(&["d3", "d1", "pump-7", "d3", "d2"]).await;
    assert_eq!(devices(&mut stream, 3).await, ["d1", "pump-7", "d2"].map(device_name));
    plant.members("g", &["d3"], &["d1"]).await;
    append(&["d1", "d3", "d1", "d2"]).await;
    assert_eq!(devices(&mut stream, 2).await, ["d3", "d2"].map(device_name));
}

#[tokio::test]
async fn a_stream_that_names_a_device_ends_when_it_leaves_the_group_and_others_go_on() {
    let plant = Plant::start(&[]).await;
    plant.group("g", &[], &["d1", "d2"]).await;
    let token = plant.key(Role::Viewer, &["g"]).await;
    let mut named = subscribe(&plant, &token, &["d1", "d2"], None).await.unwrap();
    let mut other = subscribe(&plant, &token, &["d2"], None).await.unwrap();
    let mut pattern = subscribe(&plant, &token, &["d*"], None).await.unwrap();
    for id in ["d3", "missing"] {
        let status = subscribe(&plant, &token, &["d1", id], None).await.unwrap_err();
        assert_status(&status, Code::PermissionDenied, "PERMISSION_DENIED");
    }
    plant.world().append("d1", "t", Value::Int(1)).await;
    assert_eq!(devices(&mut named, 1).await, [device_name("d1")]);
    // It waits for events, and is woken by the change.
    plant.members("g", &[], &["d1"]).await;
    let status = next(&mut named).await.unwrap_err();
    assert_status(&status, Code::PermissionDenied, "PERMISSION_DENIED");
    assert!(status.message().contains(&device_name("d1")), "{status:?}");
    plant.world().append("d2", "t", Value::Int(2)).await;
    assert_eq!(devices(&mut other, 1).await, [device_name("d2")]);
    assert_eq!(devices(&mut pattern, 2).await, ["d1", "d2"].map(device_name));
}

#[tokio::test]
async fn a_snapshot_has_the_devices_of_the_group_only() {
    let plant = Plant::start(&["a1", "d1", "d2", "d3", "z"]).await;
    for (group, patterns, members) in [("g", &[][..], &["d1", "d3", "none"][..]), ("h", &["d*"], &[])] {
        plant.group(group, patterns, members).await;
        let token = plant.key(Role::Viewer, &[group]).await;
        let mut stream = subscribe(&plant, &token, &[], Some(Start::Snapshot(true))).await.unwrap();
        let expected: &[&str] = if group == "g" { &["d1", "d3"] } else { &["d1", "d2", "d3"] };
        let expected: Vec<String> = expected.iter().map(|id| device_name(id)).collect();
        assert_eq!(devices(&mut stream, expected.len()).await, expected);
        plant.world().append("z", "t", Value::Int(1)).await;
        plant.world().append("d3", "t", Value::Int(1)).await;
        assert_eq!(devices(&mut stream, 1).await, [device_name("d3")]);
    }
}

#[tokio::test]
async fn a_stream_of_history_skips_or_refuses_a_device_that_leaves_the_group() {
    /// More than a client takes that does not read.
    const ROWS: i64 = 400_000;
    let plant = Plant::start(&["d2", "d3"]).await;
    let rows: Vec<_> = (0..ROWS).map(|n| row(START + n * SECOND, "t", n as f64 / 7.0)).collect();
    plant.world().history.put_block(block(&key("d1"), 0, &rows));
    plant.world().device("d1", START, 1, &["t"]);
    plant.group("g", &[], &["d1", "d3"]).await;
    let token = plant.key(Role::Viewer, &["g"]).await;
    for ids in [&["d1", "d2", "d3"][..], &[]] {
        plant.members("g", &["d2"], &[]).await;
        let devices = ids.iter().map(|id| own_device(id)).collect();
        let selector = Some(SeriesSelector { devices, ..Default::default() });
        let request = StreamReadingsRequest { parent: PARENT.into(), selector, ..Default::default() };
        let mut stream = plant.telemetry().stream_readings(with(&token, request)).await.unwrap().into_inner();
        let mut found = vec![stream.message().await.unwrap().unwrap().chunks[0].device.clone()];
        plant.members("g", &[], &["d2"]).await;
        let ended = loop {
            match tokio::time::timeout(BOUND, stream.message()).await.expect("a message in time") {
                Ok(Some(message)) => found.extend(message.chunks.into_iter().map(|chunk| chunk.device)),
                other => break other,
            }
        };
        found.dedup();
        if ids.is_empty() {
            assert!(ended.is_ok());
            assert_eq!(found, ["d1", "d3"].map(device_name));
        } else {
            assert_status(&ended.unwrap_err(), Code::PermissionDenied, "PERMISSION_DENIED");
            assert_eq!(found, ["d1"].map(device_name));
        }
    }
}
