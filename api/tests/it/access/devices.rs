//! Devices that are registered, beside those that have sent readings.

use std::collections::HashMap;

use identity::Role;
use proto::v1::device_service_client::DeviceServiceClient;
use proto::v1::{
    BatchGetLatestRequest, CreateDeviceRequest, DeleteDeviceRequest, Device, GetDeviceRequest, ImportDevicesRequest,
    ListDevicesRequest, SeriesSelector, UndeleteDeviceRequest, UpdateDeviceRequest,
};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::gate::with;
use super::groups::{Plant, strings};
use crate::paged::START;
use crate::world::{PARENT, assert_status, device_name, nanos, own_device, seconds};

struct Client {
    devices: DeviceServiceClient<Channel>,
    token: String,
}

fn labels(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn updated(device: Device, paths: &[&str]) -> UpdateDeviceRequest {
    let update_mask = Some(prost_types::FieldMask { paths: strings(paths) });
    UpdateDeviceRequest { device: Some(device), update_mask, allow_missing: false }
}

impl Client {
    async fn of(plant: &Plant, role: Role, groups: &[&str]) -> Self {
        let token = plant.key(role, groups).await;
        Self { devices: DeviceServiceClient::new(plant.world().channel.clone()), token }
    }

    async fn create(&mut self, id: &str, device: Device) -> Result<Device, Status> {
        let (parent, device_id) = (PARENT.into(), id.into());
        let request = CreateDeviceRequest { parent, device_id, device: Some(device), request_id: String::new() };
        Ok(self.devices.create_device(with(&self.token, request)).await?.into_inner())
    }

    async fn get(&mut self, id: &str) -> Result<Device, Status> {
        let request = GetDeviceRequest { name: own_device(id) };
        Ok(self.devices.get_device(with(&self.token, request)).await?.into_inner())
    }

    async fn update(&mut self, request: UpdateDeviceRequest) -> Result<Device, Status> {
        Ok(self.devices.update_device(with(&self.token, request)).await?.into_inner())
    }

    async fn delete(&mut self, id: &str, etag: &str) -> Result<Device, Status> {
        let request = DeleteDeviceRequest { name: own_device(id), etag: etag.into() };
        Ok(self.devices.delete_device(with(&self.token, request)).await?.into_inner())
    }

    /// Lists devices in pages of two; returns their ids.
    async fn list(&mut self, filter: &str, show_deleted: bool) -> Vec<String> {
        let (mut ids, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = ListDevicesRequest {
                parent: PARENT.into(),
                filter: filter.into(),
                page_size: 2,
                page_token,
                show_deleted,
                ..Default::default()
            };
            let page = self.devices.list_devices(with(&self.token, request)).await.unwrap().into_inner();
            assert!(page.devices.len() <= 2);
            ids.extend(page.devices.iter().map(|device| api::names::device_id(&device.name).unwrap()));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return ids;
            }
        }
    }
}

#[tokio::test]
async fn a_device_is_registered_changed_deleted_and_restored() {
    let plant = Plant::start(&["hall/3"]).await;
    let mut client = Client::of(&plant, Role::Admin, &[]).await;
    let given = Device {
        display_name: "Door".into(),
        labels: labels(&[("site", "b1")]),
        device_type: "door-v2".into(),
        expected_interval: Some(seconds(60)),
        reading_count: 99,
        ..Device::default()
    };
    let made = client.create("hall/3", given.clone()).await.unwrap();
    assert_eq!((&*made.name, &*made.display_name, &*made.etag), (&*device_name("hall/3"), "Door", "1"));
    assert_eq!((made.labels.clone(), &*made.device_type), (labels(&[("site", "b1")]), "door-v2"));
    assert_eq!((made.expected_interval, made.reading_count), (Some(seconds(60)), 2), "with its readings");
    assert_eq!(nanos(made.create_time.as_ref().unwrap()), START, "the earlier time");
    assert!(!made.uid.is_empty() && made.delete_time.is_none());
    assert_eq!(client.get("hall/3").await.unwrap(), made);
    assert_status(&client.create("hall/3", given).await.unwrap_err(), Code::AlreadyExists, "DEVICE_EXISTS");

    let rack = Device { name: own_device("hall/3"), labels: labels(&[("rack", "7")]), ..Device::default() };
    let changed = client.update(updated(rack.clone(), &["labels.rack", "labels.none"])).await.unwrap();
    assert_eq!((changed.labels.clone(), &*changed.etag), (labels(&[("site", "b1"), ("rack", "7")]), "2"));
    let stale = Device { etag: "1".into(), ..rack.clone() };
    assert_status(&client.update(updated(stale, &["labels"])).await.unwrap_err(), Code::Aborted, "CONFLICT");
    let all = Device { etag: "2".into(), display_name: String::new(), ..rack.clone() };
    let changed = client.update(updated(all, &["labels", "display_name", "expected_interval"])).await.unwrap();
    assert_eq!((changed.labels, &*changed.display_name), (labels(&[("rack", "7")]), ""));
    assert_eq!((changed.expected_interval, &*changed.device_type, changed.uid), (None, "door-v2", made.uid.clone()));

    let stale = client.delete("hall/3", "1").await.unwrap_err();
    assert_status(&stale, Code::Aborted, "CONFLICT");
    let deleted = client.delete("hall/3", "3").await.unwrap();
    assert!(deleted.delete_time.is_some() && deleted.delete_time == deleted.update_time);
    assert_eq!(client.get("hall/3").await.unwrap(), deleted);
    assert!(client.list("", false).await.is_empty(), "though it has sent readings");
    assert_eq!(client.list("", true).await, ["hall/3"]);
    assert_status(&client.delete("hall/3", "").await.unwrap_err(), Code::NotFound, "DEVICE_NOT_FOUND");
    let refused = client.update(updated(rack, &["labels"])).await.unwrap_err();
    assert_status(&refused, Code::NotFound, "DEVICE_NOT_FOUND");
    let request = || UndeleteDeviceRequest { name: own_device("hall/3") };
    let restored = client.devices.undelete_device(with(&client.token, request())).await.unwrap().into_inner();
    assert_eq!((restored.delete_time, &*restored.etag, restored.uid), (None, "5", made.uid));
    let again = client.devices.undelete_device(with(&client.token, request())).await.unwrap().into_inner();
    assert_eq!(again.etag, "5", "nothing has changed");
    assert_eq!(client.list("", false).await, ["hall/3"]);
}

#[tokio::test]
async fn wrong_registrations_and_changes_name_the_field() {
    let plant = Plant::start(&[]).await;
    let mut client = Client::of(&plant, Role::Admin, &[]).await;
    let of = |pairs: &[(&str, &str)]| Device { labels: labels(pairs), ..Device::default() };
    let many: Vec<String> = (0..33).map(|n| format!("l{n}")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|key| (key.as_str(), "")).collect();
    for (id, device, field) in [
        ("", Device::default(), "device_id: "),
        ("a+", Device::default(), "device_id: "),
        ("d", Device { display_name: "x".repeat(257), ..Device::default() }, "device.display_name: "),
        ("d", of(&[("Site", "b1")]), "device.labels: \"Site\" is not a key of a label"),
        ("d", of(&[("", "b1")]), "device.labels: "),
        ("d", of(&[("site", &"x".repeat(129))]), "device.labels: the value of \"site\" is longer than 128 bytes"),
        ("d", of(&[("site", "a\nb")]), "device.labels: the value of \"site\" contains"),
        ("d", of(&many), "device.labels: there are more than 32"),
        ("d", Device { device_type: "a/b".into(), ..Device::default() }, "device.device_type: "),
        ("d", Device { expected_interval: Some(seconds(0)), ..Device::default() }, "device.expected_interval: "),
    ] {
        let status = client.create(id, device).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().starts_with(field), "{status:?}");
    }
    client.create("d", Device::default()).await.unwrap();
    let named = Device { name: own_device("d"), ..Device::default() };
    for paths in [&[][..], &["uid"], &["labels.Site"]] {
        let status = client.update(updated(named.clone(), paths)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{paths:?}: {status:?}");
    }
    let mut viewer = Client::of(&plant, Role::Operator, &[]).await;
    let refused = viewer.create("e", Device::default()).await.unwrap_err();
    assert_status(&refused, Code::PermissionDenied, "PERMISSION_DENIED");
}

#[tokio::test]
async fn a_change_registers_a_device_that_is_not_if_that_is_allowed() {
    let plant = Plant::start(&["d"]).await;
    let mut client = Client::of(&plant, Role::Admin, &[]).await;
    let device = Device { name: own_device("d"), labels: labels(&[("site", "b1")]), ..Device::default() };
    let request = updated(device, &["labels.site", "labels.rack"]);
    let refused = client.update(request.clone()).await.unwrap_err();
    assert_status(&refused, Code::NotFound, "DEVICE_NOT_FOUND");
    let allowed = UpdateDeviceRequest { allow_missing: true, ..request };
    let made = client.update(allowed.clone()).await.unwrap();
    assert_eq!((made.labels.clone(), &*made.etag, made.reading_count), (labels(&[("site", "b1")]), "1", 2));
    assert_eq!(client.update(allowed.clone()).await.unwrap(), made, "nothing has changed");
    client.delete("d", "").await.unwrap();
    let refused = client.update(allowed).await.unwrap_err();
    assert_status(&refused, Code::NotFound, "DEVICE_NOT_FOUND");
}

#[tokio::test]
async fn registered_and_seen_devices_are_one_list_in_order() {
    let seen: Vec<String> = (0..150).filter(|n| n % 2 == 0).map(|n| format!("d{n:03}")).collect();
    let plant = Plant::start(&seen.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut client = Client::of(&plant, Role::Admin, &[]).await;
    for n in (0..150).filter(|n| n % 3 == 0) {
        let site = if n % 4 == 0 { "b1" } else { "b2" };
        let device = Device {
            display_name: format!("Pump {n}"),
            labels: labels(&[("site", site)]),
            device_type: "pump".into(),
            ..Device::default()
        };
        client.create(&format!("d{n:03}"), device).await.unwrap();
    }
    for id in ["d000", "d003"] {
        client.delete(id, "").await.unwrap();
    }
    let ids = |keep: fn(&i32) -> bool| (0..150).filter(keep).map(|n| format!("d{n:03}")).collect::<Vec<_>>();
    let is_shown = |n: &i32| !matches!(n, 0 | 3);
    assert_eq!(client.list("", true).await, ids(|n| n % 2 == 0 || n % 3 == 0));
    let shown: Vec<String> =
        (0..150).filter(|n| (n % 2 == 0 || n % 3 == 0) && is_shown(n)).map(|n| format!("d{n:03}")).collect();
    assert_eq!(client.list("", false).await, shown);
    for (filter, expected) in [
        ("registered = true", ids(|n| n % 3 == 0 && *n > 3)),
        ("registered = false", ids(|n| n % 2 == 0 && n % 3 != 0)),
        ("NOT registered = true", ids(|n| n % 2 == 0 && n % 3 != 0)),
        ("labels.site = b1", ids(|n| n % 3 == 0 && n % 4 == 0 && *n > 3)),
        ("labels.site != b1", ids(|n| n % 3 == 0 && n % 4 != 0 && *n > 3)),
        ("labels.site:b AND reading_count = 2", ids(|n| n % 6 == 0 && *n > 3)),
        ("labels:site AND device_id < d010", ids(|n| n % 3 == 0 && *n > 3 && *n < 10)),
        ("device_type = pump labels.site = b2 device_id = \"d00*\"", ids(|n| matches!(n, 6 | 9))),
        ("device_type = \"p*\" device_id = \"d00*\"", ids(|n| matches!(n, 6 | 9))),
        ("device_type != pump", Vec::new()),
        ("display_name = \"Pump 14*\"", ids(|n| matches!(n, 141 | 144 | 147))),
        ("PUMP 14", ids(|n| matches!(n, 141 | 144 | 147))),
        ("d14", ids(|n| *n >= 140 && (n % 2 == 0 || n % 3 == 0))),
        ("registered = true d14 b1", ids(|n| *n == 144)),
        ("b2 OR device_id = d002", ids(|n| *n == 2 || (n % 3 == 0 && n % 4 != 0 && *n > 3))),
        ("create_time < 2000-01-01T00:00:00Z", Vec::new()),
    ] {
        assert_eq!(client.list(filter, false).await, expected, "{filter}");
    }
}

#[tokio::test]
async fn a_caller_of_groups_registers_and_lists_devices_of_these_only() {
    let plant = Plant::start(&["mine-1", "theirs"]).await;
    plant.group("g", &["mine-*"], &["x"]).await;
    plant.group("listed", &[], &["x", "y"]).await;
    let mut whole = Client::of(&plant, Role::Admin, &[]).await;
    for id in ["mine-0", "mine-2", "other", "x", "z"] {
        let device = Device { labels: labels(&[("site", "b1")]), ..Device::default() };
        whole.create(id, device).await.unwrap();
    }
    let mut bound = Client::of(&plant, Role::Admin, &["g"]).await;
    assert_eq!(bound.list("", false).await, ["mine-0", "mine-1", "mine-2", "x"]);
    assert_eq!(bound.list("labels.site = b1", false).await, ["mine-0", "mine-2", "x"]);
    assert_eq!(bound.list("registered = true mine", false).await, ["mine-0", "mine-2"]);
    bound.create("mine-3", Device::default()).await.unwrap();
    let refused = bound.create("other-2", Device::default()).await.unwrap_err();
    assert_status(&refused, Code::PermissionDenied, "PERMISSION_DENIED");
    assert_eq!(refused.code(), bound.create("theirs", Device::default()).await.unwrap_err().code());
    let mut listed = Client::of(&plant, Role::Viewer, &["listed"]).await;
    assert_eq!(listed.list("", false).await, ["x"]);
    assert_eq!(listed.list("labels:site", false).await, ["x"]);
    assert_eq!(listed.list("nothing", false).await, [""; 0]);
}

#[tokio::test]
async fn many_devices_are_imported_in_one_step_as_often_as_it_is_tried() {
    let plant = Plant::start(&[]).await;
    plant.group("g", &["d*"], &[]).await;
    let mut client = Client::of(&plant, Role::Admin, &[]).await;
    client.create("gone", Device::default()).await.unwrap();
    client.delete("gone", "").await.unwrap();
    let device = |id: &str, site: &str| Device {
        name: own_device(id),
        labels: labels(&[("site", site)]),
        etag: "7".into(),
        ..Device::default()
    };
    let many = |site: &str| (0..999).map(|n| device(&format!("d{n:03}"), site)).collect::<Vec<_>>();
    let mut given = many("b1");
    given.push(device("gone", "b1"));
    let import = async |client: &mut Client, devices: Vec<Device>| {
        let request = ImportDevicesRequest { parent: PARENT.into(), devices };
        client.devices.import_devices(with(&client.token, request)).await.map(tonic::Response::into_inner)
    };
    let made = import(&mut client, given.clone()).await.unwrap();
    assert_eq!((made.created_count, made.updated_count, made.unchanged_count), (999, 0, 0));
    assert_eq!(made.deleted_devices, [device_name("gone")]);
    let again = import(&mut client, given).await.unwrap();
    assert_eq!((again.created_count, again.updated_count, again.unchanged_count), (0, 0, 999));
    let changed = import(&mut client, vec![device("d500", "b2"), device("d501", "b1")]).await.unwrap();
    assert_eq!((changed.created_count, changed.updated_count, changed.unchanged_count), (0, 1, 1));
    assert_eq!(client.list("labels.site = b2", false).await, ["d500"]);
    let mut bound = Client::of(&plant, Role::Admin, &["g"]).await;
    import(&mut bound, vec![device("d1000", "b1")]).await.unwrap();
    let refused = import(&mut bound, vec![device("d1001", "b1"), device("e", "b1")]).await.unwrap_err();
    assert_status(&refused, Code::PermissionDenied, "PERMISSION_DENIED");
    assert_status(&client.get("d1001").await.unwrap_err(), Code::NotFound, "DEVICE_NOT_FOUND");
    let wrong = Device { labels: labels(&[("Site", "b1")]), ..device("w", "b1") };
    let mut more = many("b1");
    more.extend([device("x", "b1"), device("y", "b1")]);
    for (devices, message) in [
        (Vec::new(), "devices: use 1 to 1000"),
        (more, "devices: use 1 to 1000"),
        (vec![device("a", "b1"), device("a", "b1")], "devices: \"a\" is there twice"),
        (vec![device("a", "b1"), wrong], "devices: \"w\": labels: \"Site\" is not a key"),
        (vec![Device { name: "a".into(), ..device("a", "b1") }], "devices[0].name: "),
        (vec![Device { name: "tenants/other/devices/a".into(), ..device("a", "b1") }], ""),
    ] {
        let status = import(&mut client, devices).await.unwrap_err();
        assert!(status.message().starts_with(message), "{status:?}");
    }
    assert_status(&client.get("a").await.unwrap_err(), Code::NotFound, "DEVICE_NOT_FOUND");
}

#[tokio::test]
async fn readings_are_selected_by_labels() {
    let plant = Plant::start(&["a", "b", "c"]).await;
    let mut client = Client::of(&plant, Role::Admin, &[]).await;
    for (id, site) in [("a", "b1"), ("c", "b1"), ("b", "b2"), ("never", "b1")] {
        let device = Device { labels: labels(&[("site", site)]), ..Device::default() };
        client.create(id, device).await.unwrap();
    }
    let latest = async |token: &str| {
        let selector = SeriesSelector { device_filter: "labels.site = \"b1\"".into(), ..Default::default() };
        let request = BatchGetLatestRequest { parent: PARENT.into(), selector: Some(selector), ..Default::default() };
        let answer = plant.telemetry().batch_get_latest(with(token, request)).await.unwrap().into_inner();
        answer.states.into_iter().map(|state| state.device).collect::<Vec<_>>()
    };
    assert_eq!(latest(&client.token).await, ["a", "c"].map(device_name));
    client.delete("a", "").await.unwrap();
    assert_eq!(latest(&client.token).await, ["c"].map(device_name));
}
