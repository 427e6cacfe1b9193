//! Devices and latest states.

use proto::v1::{BatchGetLatestRequest, Device, GetDeviceRequest, ListDevicesRequest, SeriesSelector, ValueType};
use tonic::Code;

use crate::world::{PARENT, World, assert_status, device_name, nanos, own_device};

const SEEN: i64 = 1_767_225_600_000_000_000;

async fn list(world: &World, filter: &str, page_size: i32) -> Vec<Device> {
    let mut all = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListDevicesRequest {
            parent: PARENT.into(),
            filter: filter.into(),
            page_size,
            page_token,
            ..Default::default()
        };
        let answer = world.devices().list_devices(request).await.unwrap().into_inner();
        assert!(answer.devices.len() <= usize::try_from(page_size).unwrap());
        all.extend(answer.devices);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            return all;
        }
    }
}

#[tokio::test]
async fn a_device_is_built_from_its_latest_state() {
    let world = World::start().await;
    world.device("hall/3", SEEN, 42, &["humidity", "temperature"]);
    for name in [own_device("hall/3"), device_name("hall/3"), "tenants/-/devices/hall%2f3".into()] {
        let device = world.devices().get_device(GetDeviceRequest { name }).await.unwrap().into_inner();
        assert_eq!(device.name, "tenants/default/devices/hall%2F3");
        assert_eq!(device.reading_count, 42);
        assert_eq!(nanos(&device.create_time.unwrap()), SEEN);
        assert_eq!(device.clock_skew.unwrap().seconds, -2);
        assert_eq!(device.metrics[1].name, "temperature");
        assert_eq!(device.metrics[1].r#type(), ValueType::Double);
    }
}

#[tokio::test]
async fn a_device_that_never_sent_is_not_found_and_a_bad_name_is_invalid() {
    let world = World::start().await;
    let get = async |name: &str| {
        world.devices().get_device(GetDeviceRequest { name: name.into() }).await.expect_err("an error")
    };
    assert_status(&get("tenants/-/devices/none").await, Code::NotFound, "DEVICE_NOT_FOUND");
    for bad in ["", "none", "tenants/-/devices/a/b", "tenants/-/devices/%zz", "tenants/-/devices/a%2B"] {
        assert_status(&get(bad).await, Code::InvalidArgument, "FIELD_INVALID");
    }
}

#[tokio::test]
async fn pages_of_a_list_make_the_whole_list() {
    let world = World::start().await;
    let ids: Vec<String> = (0..105).map(|i| format!("d{i:03}")).collect();
    ids.iter().for_each(|id| world.device(id, SEEN, 1, &["t"]));
    for page_size in [1, 7, 105, 1000] {
        let listed: Vec<String> = list(&world, "", page_size).await.into_iter().map(|d| d.name).collect();
        let expected: Vec<String> = ids.iter().map(|id| device_name(id)).collect();
        assert_eq!(listed, expected);
    }
}

#[tokio::test]
async fn a_filter_lists_the_devices_that_match() {
    let world = World::start().await;
    for i in 0..2500 {
        let metrics: &[&str] = if i % 1000 == 7 { &["t", "rare"] } else { &["t"] };
        world.device(&format!("d{i:04}"), SEEN + i, u64::try_from(i).unwrap(), metrics);
    }
    let ids = async |filter: &str| -> Vec<String> {
        let devices = list(&world, filter, 2).await;
        devices.iter().map(|d| api::names::device_id(&d.name).unwrap()).collect()
    };
    assert_eq!(ids("metrics:rare").await, ["d0007", "d1007", "d2007"]);
    assert_eq!(ids("device_id = \"d24*7\" AND reading_count > 2480").await, ["d2487", "d2497"]);
    assert_eq!(ids("reading_count < 1 OR create_time > 2027-01-01T00:00:00Z").await, ["d0000"]);
    assert!(ids("nothing").await.is_empty());
}

#[tokio::test]
async fn wrong_list_requests_name_the_field() {
    let world = World::start().await;
    (0..3).for_each(|i| world.device(&format!("d{i}"), SEEN, 1, &["t"]));
    let fails = async |request: ListDevicesRequest| world.devices().list_devices(request).await.expect_err("an error");
    let base = ListDevicesRequest { parent: PARENT.into(), ..Default::default() };
    let status = fails(ListDevicesRequest { filter: "color = red".into(), ..base.clone() }).await;
    assert_status(&status, Code::InvalidArgument, "FILTER_INVALID");
    assert!(status.message().contains("column 1"), "{status}");
    let status = fails(ListDevicesRequest { order_by: "create_time".into(), ..base.clone() }).await;
    assert_status(&status, Code::InvalidArgument, "FIELD_INVALID");
    let status = fails(ListDevicesRequest { page_size: -1, ..base.clone() }).await;
    assert_status(&status, Code::InvalidArgument, "FIELD_INVALID");
    let first = world.devices().list_devices(ListDevicesRequest { page_size: 1, ..base.clone() }).await;
    let page_token = first.unwrap().into_inner().next_page_token;
    let status = fails(ListDevicesRequest { filter: "d1".into(), page_token, ..base.clone() }).await;
    assert_status(&status, Code::InvalidArgument, "TOKEN_INVALID");
}

#[tokio::test]
async fn latest_values_are_returned_in_the_requested_order_with_the_missing_devices() {
    let world = World::start().await;
    world.device("a", SEEN, 1, &["battery", "temp.in", "temp.out"]);
    world.device("b", SEEN, 1, &["battery"]);
    let request = BatchGetLatestRequest {
        parent: PARENT.into(),
        selector: Some(SeriesSelector {
            devices: ["b", "none", "a", "b"].map(own_device).into(),
            metrics: vec!["temp*".into()],
            ..Default::default()
        }),
        ..Default::default()
    };
    let answer = world.telemetry().batch_get_latest(request).await.unwrap().into_inner();
    let devices: Vec<&str> = answer.states.iter().map(|s| s.device.as_str()).collect();
    assert_eq!(devices, [device_name("b"), device_name("a")]);
    assert_eq!(answer.missing_devices, [device_name("none")]);
    let metrics: Vec<&str> = answer.states[1].values.iter().map(|v| v.metric.as_str()).collect();
    assert_eq!(metrics, ["temp.in", "temp.out"]);
    assert_eq!(nanos(answer.states[1].values[0].measure_time.as_ref().unwrap()), SEEN + 1);
}

#[tokio::test]
async fn latest_values_of_a_filter_are_returned_in_pages() {
    let world = World::start().await;
    (0..12).for_each(|i| world.device(&format!("d{i:02}"), SEEN, i, &["t"]));
    let selector = SeriesSelector { device_filter: "reading_count >= 3".into(), ..Default::default() };
    let mut seen = Vec::new();
    let mut page_token = String::new();
    loop {
        let request =
            BatchGetLatestRequest { parent: PARENT.into(), selector: Some(selector.clone()), page_size: 4, page_token };
        let answer = world.telemetry().batch_get_latest(request).await.unwrap().into_inner();
        seen.extend(answer.states.into_iter().map(|s| s.device));
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, (3..12).map(|i| device_name(&format!("d{i:02}"))).collect::<Vec<_>>());
}

#[tokio::test]
async fn more_than_500_devices_or_both_ways_to_name_them_are_refused() {
    let world = World::start().await;
    let fails = async |selector: SeriesSelector| {
        let request = BatchGetLatestRequest { parent: PARENT.into(), selector: Some(selector), ..Default::default() };
        world.telemetry().batch_get_latest(request).await.expect_err("an error")
    };
    let many = SeriesSelector { devices: (0..501).map(|i| own_device(&i.to_string())).collect(), ..Default::default() };
    assert_status(&fails(many).await, Code::InvalidArgument, "FIELD_INVALID");
    let both = SeriesSelector { devices: vec![own_device("a")], device_filter: "a".into(), ..Default::default() };
    assert_status(&fails(both).await, Code::InvalidArgument, "FIELD_INVALID");
}

#[tokio::test]
async fn answers_of_devices_with_many_names_end_where_their_bytes_do() {
    const DEVICES: usize = 100;
    let budget = model::Budget::new("queries", 48 << 20);
    let world = World::with(|config| config.memory = budget.clone()).await;
    let names: Vec<String> = (0..2_000).map(|name| format!("a metric of this device, number {name}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let ids: Vec<String> = (0..DEVICES).map(|i| format!("d{i:03}")).collect();
    ids.iter().for_each(|id| world.device(id, SEEN, 1, &names));
    let expected: Vec<String> = ids.iter().map(|id| device_name(id)).collect();

    // The client accepts 4 MiB, the default: a larger answer would be an error.
    for filter in ["", "reading_count >= 1"] {
        let listed: Vec<String> = list(&world, filter, 1_000).await.into_iter().map(|d| d.name).collect();
        assert_eq!(listed, expected);
        assert_eq!(budget.held(), 0);
    }
    let mut named: Vec<String> = ids.iter().map(|id| own_device(id)).collect();
    named.insert(40, own_device("none"));
    for devices in [named, Vec::new()] {
        let missing = usize::from(!devices.is_empty());
        let selector = Some(SeriesSelector { devices, ..Default::default() });
        let mut request = BatchGetLatestRequest { parent: PARENT.into(), selector, ..Default::default() };
        let (mut seen, mut missed, mut pages) = (Vec::new(), 0, 0);
        let mut client = proto::v1::telemetry_service_client::TelemetryServiceClient::new(world.channel.clone());
        loop {
            let answer = client.batch_get_latest(request.clone()).await.unwrap().into_inner();
            assert!(answer.states.iter().all(|state| state.values.len() == names.len()));
            seen.extend(answer.states.into_iter().map(|state| state.device));
            missed += answer.missing_devices.len();
            pages += 1;
            request.page_token = answer.next_page_token;
            if request.page_token.is_empty() {
                break;
            }
        }
        assert_eq!((seen, missed), (expected.clone(), missing));
        assert!(pages > 3, "{pages} pages");
        assert_eq!(budget.held(), 0);
    }

    let _others = budget.acquire(48 << 20).unwrap();
    let status = world.devices().list_devices(ListDevicesRequest { parent: PARENT.into(), ..Default::default() }).await;
    assert_status(&status.expect_err("no memory"), Code::ResourceExhausted, "MEMORY_EXHAUSTED");
}
