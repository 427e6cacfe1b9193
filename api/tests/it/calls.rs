//! Behaviour common to all calls: tenants, deadlines, cancellation, limits, reflection, health,
//! gRPC-Web.

use std::sync::atomic::Ordering;
use std::time::Duration;

use prost::Message;
use proto::v1::{
    BatchGetLatestRequest, Device, GetBooksRequest, GetDeadLetterRequest, GetDeviceRequest, ListDeadLettersRequest,
    ListDevicesRequest, ListReadingsRequest, QueryAggregatesRequest, QueryGapsRequest, ReplayDeadLettersRequest,
    SeriesSelector, StreamReadingsRequest, SubscribeRequest,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::world::{BOUND, PARENT, World, assert_status, own_device};

/// The answers of all calls that name `tenant`, or a device or dead letter of it.
async fn all_calls(world: &World, tenant: &str) -> Vec<Status> {
    let parent = format!("tenants/{tenant}");
    let device = format!("{parent}/devices/d");
    let (mut devices, mut telemetry) = (world.devices(), world.telemetry());
    let (mut letters, mut operations) = (world.dead_letters(), world.operations());
    let selector = Some(SeriesSelector { devices: vec![device.clone()], ..Default::default() });
    let letter = format!("{parent}/deadLetters/l:1:ingest");
    macro_rules! answers {
        ($($client:ident.$call:ident($request:expr)),* $(,)?) => {
            vec![$($client.$call($request).await.err().unwrap_or_else(|| Status::ok(stringify!($call)))),*]
        };
    }
    let own = || PARENT.to_owned();
    answers![
        devices.get_device(GetDeviceRequest { name: device.clone() }),
        devices.list_devices(ListDevicesRequest { parent: parent.clone(), ..Default::default() }),
        telemetry.batch_get_latest(BatchGetLatestRequest { parent: parent.clone(), ..Default::default() }),
        telemetry.batch_get_latest(BatchGetLatestRequest {
            parent: own(),
            selector: selector.clone(),
            ..Default::default()
        }),
        telemetry.list_readings(ListReadingsRequest { parent: device.clone(), ..Default::default() }),
        telemetry.stream_readings(StreamReadingsRequest { parent: parent.clone(), ..Default::default() }),
        telemetry.stream_readings(StreamReadingsRequest {
            parent: own(),
            selector: selector.clone(),
            ..Default::default()
        }),
        telemetry.query_aggregates(QueryAggregatesRequest { parent: parent.clone(), ..Default::default() }),
        telemetry.query_gaps(QueryGapsRequest { parent: parent.clone(), ..Default::default() }),
        telemetry.subscribe(SubscribeRequest { parent: parent.clone(), ..Default::default() }),
        telemetry.subscribe(SubscribeRequest { parent: own(), selector, ..Default::default() }),
        letters.list_dead_letters(ListDeadLettersRequest { parent: parent.clone(), ..Default::default() }),
        letters.get_dead_letter(GetDeadLetterRequest { name: letter.clone() }),
        letters.replay_dead_letters(ReplayDeadLettersRequest { parent: parent.clone(), ..Default::default() }),
        letters.replay_dead_letters(ReplayDeadLettersRequest {
            parent: own(),
            names: vec![letter],
            ..Default::default()
        }),
        operations.get_books(GetBooksRequest { parent, ..Default::default() }),
    ]
}

#[tokio::test]
async fn calls_for_another_tenant_get_the_same_answer_whether_it_exists_or_not() {
    let world = World::start().await;
    for status in all_calls(&world, "other").await {
        assert_status(&status, Code::PermissionDenied, "PERMISSION_DENIED");
        assert!(status.message().contains("or it does not exist"), "{status:?}");
    }
    for tenant in ["-", "default"] {
        for status in all_calls(&world, tenant).await {
            assert_ne!(status.code(), Code::PermissionDenied, "{tenant}: {status:?}");
        }
    }
}

#[tokio::test]
async fn a_call_ends_at_its_deadline() {
    let world = World::start().await;
    world.history.faults().hangs.store(true, Ordering::SeqCst);
    // Over gRPC-Web: tonic's client would answer by a timer of its own.
    let request = ListReadingsRequest { parent: own_device("d"), ..Default::default() };
    let answer = web(&world, "TelemetryService/ListReadings", "grpc-timeout: 100m\r\n", &request).await;
    assert!(answer.contains("grpc-status: 4\r\n"), "{answer}");

    let selector = Some(SeriesSelector { devices: vec![own_device("d")], ..Default::default() });
    let mut request = Request::new(StreamReadingsRequest { parent: PARENT.into(), selector, ..Default::default() });
    request.metadata_mut().insert("grpc-timeout", "100m".parse().unwrap());
    let mut stream = world.telemetry().stream_readings(request).await.unwrap().into_inner();
    let status = stream.message().await.expect_err("it hangs");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    let text = world.metrics_text();
    assert!(text.contains("method=\"TelemetryService/StreamReadings\",code=\"DeadlineExceeded\"} 1"), "{text}");
}

#[tokio::test]
async fn a_call_without_a_deadline_ends_at_the_servers() {
    let world = World::with(|config| config.limits.call_timeout = Duration::from_millis(100)).await;
    world.history.faults().hangs.store(true, Ordering::SeqCst);
    let request = ListReadingsRequest { parent: own_device("d"), ..Default::default() };
    let status = world.telemetry().list_readings(request).await.expect_err("it hangs");
    assert_status(&status, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
}

#[tokio::test]
async fn streams_are_limited_and_a_dropped_one_frees_its_place() {
    let world = World::with(|config| config.limits.max_streams = 1).await;
    let request = SubscribeRequest { parent: PARENT.into(), ..Default::default() };
    let first = world.telemetry().subscribe(request.clone()).await.unwrap();
    let status = world.telemetry().subscribe(request.clone()).await.expect_err("one too many");
    assert_status(&status, Code::ResourceExhausted, "TOO_MANY_STREAMS");
    assert_eq!(status.metadata().get("grpc-retry-pushback-ms").unwrap(), "1000");
    assert!(world.metrics_text().contains("weir_api_streams_open 1"));
    drop(first);
    let opened = async {
        while world.telemetry().subscribe(request.clone()).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(BOUND, opened).await.expect("the place is given back when the client goes");
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused() {
    let world = World::with(|config| config.max_request_bytes = 1000).await;
    let request = ListDevicesRequest { parent: PARENT.into(), filter: "x".repeat(1500), ..Default::default() };
    let status = world.devices().list_devices(request).await.expect_err("too large");
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
}

#[tokio::test]
async fn calls_are_counted_by_method_and_code() {
    let world = World::start().await;
    world.devices().list_devices(ListDevicesRequest { parent: PARENT.into(), ..Default::default() }).await.unwrap();
    world.devices().get_device(GetDeviceRequest { name: own_device("none") }).await.expect_err("none");
    let text = world.metrics_text();
    for line in [
        "weir_api_calls_total{method=\"DeviceService/ListDevices\",code=\"Ok\"} 1",
        "weir_api_calls_total{method=\"DeviceService/GetDevice\",code=\"NotFound\"} 1",
        "weir_api_call_seconds_count{method=\"DeviceService/GetDevice\"} 1",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
}

#[tokio::test]
async fn reflection_lists_every_service() {
    let world = World::start().await;
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(world.channel.clone());
    let mut answers = client.server_reflection_info(futures::stream::iter([ask])).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else { panic!("{answer:?}") };
    let names: Vec<&str> = list.service.iter().map(|s| s.name.as_str()).collect();
    for service in ["DeviceService", "TelemetryService", "DeadLetterService", "ExportService", "OperationsService"] {
        assert!(names.contains(&format!("weir.v1.{service}").as_str()), "{names:?}");
    }
    assert!(names.contains(&"grpc.health.v1.Health"), "{names:?}");
}

#[tokio::test]
async fn health_says_serving() {
    let world = World::start().await;
    for service in ["", "weir.v1.TelemetryService"] {
        let request = HealthCheckRequest { service: service.into() };
        let answer = HealthClient::new(world.channel.clone()).check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving);
    }
}

#[tokio::test]
async fn health_checks_without_a_credential_are_bounded() {
    let world = World::start().await;
    let request = |service: &str| HealthCheckRequest { service: service.into() };
    let large = HealthClient::new(world.channel.clone()).check(request(&"x".repeat(2_000))).await.unwrap_err();
    assert_eq!(large.code(), Code::OutOfRange, "{large}");
    let mut channels = Vec::new();
    for _ in 0..3 {
        channels.push(world.another_channel().await);
    }
    let mut watching = Vec::new();
    for n in 0..256 {
        let mut stream = HealthClient::new(channels[n / 100].clone()).watch(request("")).await.unwrap().into_inner();
        assert_eq!(stream.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
        watching.push(stream);
    }
    let beyond = HealthClient::new(channels[2].clone()).watch(request("")).await.unwrap_err();
    assert_eq!(beyond.code(), Code::ResourceExhausted, "{beyond}");
    HealthClient::new(world.channel.clone()).check(request("")).await.unwrap();
    drop((watching, channels));
    loop {
        let again = HealthClient::new(world.channel.clone()).watch(request("")).await;
        match again {
            Ok(_) => break,
            Err(error) => assert_eq!(error.code(), Code::ResourceExhausted, "{error}"),
        }
    }
}

#[tokio::test]
async fn an_unknown_path_is_unimplemented() {
    let world = World::start().await;
    let mut client = tonic::client::Grpc::new(world.channel.clone());
    client.ready().await.unwrap();
    let path = "/weir.v1.DeviceService/DropEverything".parse().unwrap();
    let codec = tonic_prost::ProstCodec::<GetDeviceRequest, Device>::default();
    let answer = client.unary(Request::new(GetDeviceRequest::default()), path, codec).await;
    assert_eq!(answer.expect_err("no such method").code(), Code::Unimplemented);
}

#[tokio::test]
async fn a_browser_calls_over_plain_http_1() {
    let world = World::start().await;
    world.device("d1", 1_000, 3, &["t"]);
    let answer = web(&world, "DeviceService/GetDevice", "", &GetDeviceRequest { name: own_device("d1") }).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("application/grpc-web"), "{answer}");
    assert!(answer.contains("tenants/default/devices/d1"), "{answer}");
    assert!(answer.contains("grpc-status:0"), "{answer}");
}

/// One call over gRPC-Web and plain HTTP/1.1; the whole answer as text.
pub(crate) async fn web(world: &World, method: &str, headers: &str, message: &impl Message) -> String {
    let message = message.encode_to_vec();
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend(message);
    let head = format!(
        "POST /weir.v1.{method} HTTP/1.1\r\nHost: weir\r\nContent-Type: application/grpc-web+proto\r\n\
         X-Grpc-Web: 1\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let mut socket = tokio::net::TcpStream::connect(world.address).await.unwrap();
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(&body).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(BOUND, socket.read_to_end(&mut answer)).await.unwrap().unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}
