//! The rules of devices.

use super::{NOW, origin, request, tenant, with_tenants};
use crate::registry::device_search::search;
use crate::registry::{
    ChangeKind, Created, Device, DevicePage, DeviceQuery, DeviceUpdate, Error, Imported, Origin, Registry,
    TenantUpdate, Term,
};

pub(crate) fn device(tenant: &str, id: &str) -> Device {
    Device {
        id: id.into(),
        tenant: tenant.into(),
        uid: format!("uid-{id}"),
        display_name: String::new(),
        labels: [("site".to_owned(), "b1".to_owned())].into(),
        device_type: "pump".into(),
        expected_interval: Some(5),
        created: NOW,
        updated: NOW,
        quarantined: None,
        deleted: None,
        version: 1,
    }
}

fn at(at: i64) -> Origin {
    Origin { at, ..origin() }
}

async fn with_devices(registry: &dyn Registry, ids: &[&str]) {
    with_tenants(registry, &["a", "b"]).await;
    for id in ids {
        registry.create_device(device("a", id), &origin()).await.unwrap();
    }
}

async fn get(registry: &dyn Registry, tenant: &str, id: &str) -> Option<Device> {
    registry.devices(tenant, &[id.to_owned()]).await.unwrap().pop().unwrap()
}

fn labelled(key: &str, value: Option<&str>) -> DeviceUpdate {
    let changed_labels = [(key.to_owned(), value.map(str::to_owned))].into();
    DeviceUpdate { changed_labels, ..DeviceUpdate::default() }
}

pub(crate) async fn a_device_is_registered_once_and_listed_in_its_tenant(registry: &dyn Registry) {
    with_tenants(registry, &["a", "b"]).await;
    let first = registry.create_device(device("a", "d2"), &request("r", NOW)).await.unwrap();
    assert_eq!(first, Created { row: device("a", "d2"), is_repeat: false });
    let again = registry.create_device(device("a", "d2"), &request("r", NOW + 1)).await.unwrap();
    assert_eq!(again, Created { row: device("a", "d2"), is_repeat: true });
    for other in [request("s", NOW), origin()] {
        let refused = registry.create_device(device("a", "d2"), &other).await;
        assert_eq!(refused, Err(Error::Exists("devices/d2".into())));
    }
    let of_another = registry.create_device(device("a", "d9"), &request("r", NOW)).await;
    assert!(matches!(of_another, Err(Error::Invalid { field: "request_id", .. })), "{of_another:?}");
    let without = registry.create_device(device("c", "d"), &origin()).await;
    assert_eq!(without, Err(Error::NotFound("tenants/c".into())));
    for (tenant, id) in [("a", "d1"), ("b", "d2"), ("a", "d10"), ("a", "é/1")] {
        registry.create_device(device(tenant, id), &origin()).await.unwrap();
    }
    let ids = |devices: Vec<Device>| devices.into_iter().map(|device| device.id).collect::<Vec<_>>();
    assert_eq!(ids(registry.devices_after("a", "", 2).await.unwrap()), ["d1", "d10"]);
    assert_eq!(ids(registry.devices_after("a", "d10", 9).await.unwrap()), ["d2", "é/1"]);
    assert_eq!(ids(registry.devices_after("b", "", 9).await.unwrap()), ["d2"]);
    let asked = ["é/1", "none", "d2"].map(str::to_owned);
    let found = registry.devices("a", &asked).await.unwrap();
    assert_eq!(found, [Some(device("a", "é/1")), None, Some(device("a", "d2"))]);
    assert!(registry.devices("a", &[]).await.unwrap().is_empty());
    assert_eq!((registry.count_devices("a").await, registry.count_devices("b").await), (Ok(4), Ok(1)));
}

pub(crate) async fn a_device_is_changed_in_the_version_that_was_read(registry: &dyn Registry) {
    with_devices(registry, &["d"]).await;
    let rack = DeviceUpdate { version: Some(1), ..labelled("rack", Some("7")) };
    let changed = registry.update_device("a", "d", &rack, &at(NOW + 1)).await.unwrap();
    let labels = [("rack".to_owned(), "7".to_owned()), ("site".to_owned(), "b1".to_owned())].into();
    assert_eq!(changed, Device { labels, updated: NOW + 1, version: 2, ..device("a", "d") });
    assert_eq!(get(registry, "a", "d").await, Some(changed.clone()));
    let stale = registry.update_device("a", "d", &rack, &origin()).await;
    assert_eq!(stale, Err(Error::Conflict("devices/d".into())));
    for same in [labelled("rack", Some("7")), labelled("none", None), DeviceUpdate::default()] {
        assert_eq!(
            registry.update_device("a", "d", &same, &at(NOW + 2)).await.unwrap(),
            changed,
            "nothing has changed"
        );
    }
    let all = DeviceUpdate {
        display_name: Some("Pump".into()),
        labels: Some([("x".to_owned(), "y".to_owned())].into()),
        changed_labels: [("z".to_owned(), Some("1".to_owned()))].into(),
        device_type: Some(String::new()),
        expected_interval: Some(None),
        version: None,
    };
    let changed = registry.update_device("a", "d", &all, &at(NOW + 3)).await.unwrap();
    let labels = [("x".to_owned(), "y".to_owned()), ("z".to_owned(), "1".to_owned())].into();
    let shown = Device {
        display_name: "Pump".into(),
        labels,
        device_type: String::new(),
        expected_interval: None,
        updated: NOW + 3,
        version: 3,
        ..device("a", "d")
    };
    assert_eq!(changed, shown);
    let many = (0..33).map(|n| (format!("l{n}"), String::new())).collect();
    let many = DeviceUpdate { labels: Some(many), ..DeviceUpdate::default() };
    let refused = registry.update_device("a", "d", &many, &origin()).await;
    assert!(matches!(refused, Err(Error::Invalid { field: "labels", .. })), "{refused:?}");
    for (tenant, id) in [("a", "e"), ("b", "d")] {
        let missing = registry.update_device(tenant, id, &labelled("x", None), &origin()).await;
        assert_eq!(missing, Err(Error::NotFound(format!("devices/{id}"))));
    }
}

pub(crate) async fn a_deleted_device_keeps_its_row_and_can_be_restored(registry: &dyn Registry) {
    with_devices(registry, &["d", "e"]).await;
    let stale = registry.delete_device("a", "d", Some(2), &origin()).await;
    assert_eq!(stale, Err(Error::Conflict("devices/d".into())));
    let deleted = registry.delete_device("a", "d", Some(1), &at(NOW + 1)).await.unwrap();
    let row = Device { deleted: Some(NOW + 1), updated: NOW + 1, version: 2, ..device("a", "d") };
    assert_eq!((&deleted, get(registry, "a", "d").await), (&row, Some(row.clone())));
    let missing = || Err(Error::NotFound("devices/d".into()));
    assert_eq!(registry.delete_device("a", "d", None, &origin()).await, missing());
    assert_eq!(registry.update_device("a", "d", &labelled("x", Some("y")), &origin()).await, missing());
    let taken = registry.create_device(device("a", "d"), &origin()).await;
    assert_eq!(taken, Err(Error::Exists("devices/d".into())), "the id of a deleted device is not given again");
    assert_eq!(registry.count_devices("a").await, Ok(2));
    let all = DeviceQuery { with_deleted: true, ..DeviceQuery::default() };
    assert_eq!(found(registry, &DeviceQuery::default()).await, ["e"]);
    assert_eq!(found(registry, &all).await, ["d", "e"]);
    let restored = registry.undelete_device("a", "d", &at(NOW + 2)).await.unwrap();
    assert_eq!(restored, Device { updated: NOW + 2, version: 3, ..device("a", "d") });
    assert_eq!(registry.undelete_device("a", "d", &at(NOW + 3)).await.unwrap(), restored, "nothing has changed");
    assert_eq!(found(registry, &DeviceQuery::default()).await, ["d", "e"]);
    let missing = registry.undelete_device("a", "x", &origin()).await;
    assert_eq!(missing, Err(Error::NotFound("devices/x".into())));
}

/// Returns the ids of the devices of the tenant `a` that a query selects, read in pages of two.
async fn found(registry: &dyn Registry, query: &DeviceQuery) -> Vec<String> {
    let (mut ids, mut after) = (Vec::new(), String::new());
    loop {
        let DevicePage { devices, after: next } = search(registry, "a", query, &after, 2).await.unwrap();
        assert!(devices.len() <= 2);
        ids.extend(devices.into_iter().map(|device| device.id));
        let Some(next) = next else { return ids };
        assert!(next > after, "{next}");
        after = next;
    }
}

pub(crate) async fn devices_are_found_by_labels_type_and_beginnings_of_words(registry: &dyn Registry) {
    with_devices(registry, &["hall/pump-1", "hall/pump-2", "yard/fan-1", "yard/pump-10"]).await;
    registry.create_device(device("b", "hall/pump-1"), &origin()).await.unwrap();
    registry.update_device("a", "hall/pump-2", &labelled("site", Some("b2")), &origin()).await.unwrap();
    let fan = DeviceUpdate { device_type: Some("fan".into()), ..labelled("site", None) };
    registry.update_device("a", "yard/fan-1", &fan, &origin()).await.unwrap();
    let query = |terms: Vec<Term>| DeviceQuery { terms: terms.into_iter().collect(), with_deleted: false };
    let words = |text: &str| query(Term::words(text).collect());
    for (query, ids) in [
        (query(vec![]), &["hall/pump-1", "hall/pump-2", "yard/fan-1", "yard/pump-10"][..]),
        (query(vec![Term::label("site", "b1")]), &["hall/pump-1", "yard/pump-10"]),
        (query(vec![Term::label("site", "b2")]), &["hall/pump-2"]),
        (query(vec![Term::label("site", "b")]), &[]),
        (query(vec![Term::device_type("pump"), Term::label("site", "b1")]), &["hall/pump-1", "yard/pump-10"]),
        (query(vec![Term::device_type("fan")]), &["yard/fan-1"]),
        (words("PUMP"), &["hall/pump-1", "hall/pump-2", "yard/pump-10"]),
        (words("pu 1"), &["hall/pump-1", "yard/pump-10"]),
        (words("yard 1"), &["yard/fan-1", "yard/pump-10"]),
        (words("site yard"), &["yard/pump-10"]),
        (words("ump"), &[]),
        (words("b"), &["hall/pump-1", "hall/pump-2", "yard/pump-10"]),
    ] {
        assert_eq!(found(registry, &query).await, ids, "{query:?}");
    }
    let typed = registry.devices_with("a", "=pump", "hall/pump-1", 1).await.unwrap();
    assert_eq!(typed, ["hall/pump-2"], "in order");
    let mut yard = registry.devices_beginning("a", "y", 9).await.unwrap();
    yard.sort();
    assert_eq!(yard, ["yard/fan-1", "yard/pump-10"]);
    assert_eq!(registry.devices_beginning("a", "y", 1).await.unwrap().len(), 1);
}

pub(crate) async fn devices_of_a_tenant_are_bounded(registry: &dyn Registry) {
    with_devices(registry, &["d"]).await;
    let limits = door::quota::Limits { devices: std::num::NonZero::new(2), ..tenant("a").limits };
    let limits = TenantUpdate { limits: Some(limits), ..TenantUpdate::default() };
    registry.update_tenant("a", &limits, &origin()).await.unwrap();
    registry.create_device(device("a", "e"), &origin()).await.unwrap();
    registry.delete_device("a", "e", None, &origin()).await.unwrap();
    let full = registry.create_device(device("a", "f"), &origin()).await;
    assert_eq!(full, Err(Error::Limit { what: "registered devices", most: 2 }));
    registry.create_device(device("b", "f"), &origin()).await.unwrap();
}

pub(crate) async fn each_change_of_a_device_is_audited_and_in_the_control_log(registry: &dyn Registry) {
    with_devices(registry, &["d"]).await;
    let before = registry.changes(0, 99).await.unwrap().newest;
    registry.update_device("a", "d", &labelled("rack", Some("7")), &origin()).await.unwrap();
    registry.delete_device("a", "d", None, &origin()).await.unwrap();
    registry.undelete_device("a", "d", &origin()).await.unwrap();
    let changes = registry.changes(before, 99).await.unwrap().entries;
    let kinds: Vec<ChangeKind> = changes.iter().map(|change| change.kind).collect();
    assert_eq!(kinds, [ChangeKind::DeviceChanged(Device::key("a", "d")); 3]);
    assert!(changes.iter().all(|change| change.tenant == "a"));
    let events = registry.audit("a", None, 4).await.unwrap();
    assert!(events.iter().all(|event| event.resource == "devices/d" && event.granted), "{events:?}");
    assert_eq!(events[2].detail, r#"{"changed_labels":{"rack":"7"}}"#);
    assert!(events[3].detail.contains(r#""labels":{"site":"b1"},"device_type":"pump""#), "{}", events[3].detail);
}

pub(crate) async fn devices_are_imported_in_one_step_and_change_those_that_are_registered(registry: &dyn Registry) {
    with_devices(registry, &["same", "other", "gone"]).await;
    registry.delete_device("a", "gone", None, &origin()).await.unwrap();
    let before = registry.changes(0, 99).await.unwrap().newest;
    let given = || {
        let changed = Device { device_type: "valve".into(), uid: "another".into(), ..device("a", "other") };
        vec![changed, device("a", "new"), device("a", "gone"), device("a", "same")]
    };
    let made = registry.import_devices("a", given(), &at(NOW + 1)).await.unwrap();
    assert_eq!(made, [Imported::Updated, Imported::Created, Imported::Deleted, Imported::Unchanged]);
    let other = Device { device_type: "valve".into(), updated: NOW + 1, version: 2, ..device("a", "other") };
    assert_eq!(get(registry, "a", "other").await, Some(other), "it keeps its uid");
    assert_eq!(get(registry, "a", "new").await, Some(device("a", "new")));
    assert!(get(registry, "a", "gone").await.unwrap().deleted.is_some());
    assert_eq!(registry.count_devices("a").await, Ok(4));
    let changes = registry.changes(before, 99).await.unwrap().entries;
    assert_eq!(changes.iter().map(|change| change.kind).collect::<Vec<_>>(), [ChangeKind::DevicesChanged]);
    let event = registry.audit("a", None, 1).await.unwrap().remove(0);
    assert_eq!((&*event.resource, &*event.detail), ("devices", r#"{"created":["new"],"updated":["other"]}"#));
    let again = registry.import_devices("a", given(), &at(NOW + 2)).await.unwrap();
    assert_eq!(again[..2], [Imported::Unchanged; 2]);
    assert_eq!(registry.changes(0, 99).await.unwrap().newest, before + 1, "nothing has changed");
    let limits = door::quota::Limits { devices: std::num::NonZero::new(5), ..tenant("a").limits };
    let limits = TenantUpdate { limits: Some(limits), ..TenantUpdate::default() };
    registry.update_tenant("a", &limits, &origin()).await.unwrap();
    let two = vec![device("a", "x"), device("a", "y")];
    let full = registry.import_devices("a", two, &origin()).await;
    assert_eq!(full, Err(Error::Limit { what: "registered devices", most: 5 }));
    assert_eq!(get(registry, "a", "x").await, None, "all or none");
    let missing = registry.import_devices("c", given(), &origin()).await;
    assert_eq!(missing, Err(Error::NotFound("tenants/c".into())));
}

pub(crate) async fn a_device_in_quarantine_is_found_and_adopted_by_any_registration(registry: &dyn Registry) {
    with_devices(registry, &["known"]).await;
    let new = |id: &str| Device { quarantined: Some(NOW), ..device("a", id) };
    let rows = ["d1", "known", "d2", "d3"].map(new).to_vec();
    let made = registry.quarantine_devices("a", rows.clone(), &origin()).await.unwrap();
    let known = Some(device("a", "known"));
    assert_eq!(made, [Some(new("d1")), known, Some(new("d2")), Some(new("d3"))]);
    let events = registry.audit("a", None, 2).await.unwrap();
    assert_eq!((&*events[0].resource, &*events[0].detail), ("devices", r#"{"created":["d1","d2","d3"]}"#));
    let before = registry.changes(0, 99).await.unwrap().newest;
    assert_eq!(registry.quarantine_devices("a", rows, &origin()).await.unwrap(), made, "a repeat changes nothing");
    assert_eq!(registry.audit("a", None, 1).await.unwrap()[..], events[..1]);
    let query = DeviceQuery { terms: [Term::quarantined()].into(), with_deleted: false };
    let quarantined = async || {
        let page = search(registry, "a", &query, "", 9).await.unwrap();
        page.devices.into_iter().map(|device| device.id).collect::<Vec<_>>()
    };
    assert_eq!(quarantined().await, ["d1", "d2", "d3"]);
    let adopted = registry.update_device("a", "d1", &DeviceUpdate::default(), &at(NOW + 1)).await.unwrap();
    assert_eq!(adopted, Device { quarantined: None, updated: NOW + 1, version: 2, ..new("d1") });
    let given = Device { uid: "another".into(), device_type: "valve".into(), ..device("a", "d2") };
    let created = registry.create_device(given, &at(NOW + 1)).await.unwrap().row;
    assert_eq!((created.quarantined, &*created.device_type, created.version), (None, "valve", 2));
    assert_eq!(created.uid, "uid-d2", "it keeps its uid");
    let imported = registry.import_devices("a", vec![device("a", "d3")], &at(NOW + 1)).await.unwrap();
    assert_eq!((imported, quarantined().await), (vec![Imported::Updated], Vec::new()));
    let changes = registry.changes(before, 99).await.unwrap().entries;
    let kinds: Vec<ChangeKind> = changes.iter().map(|change| change.kind).collect();
    let adopted = |id: &str| ChangeKind::DeviceAdopted(Device::key("a", id));
    assert_eq!(kinds, [adopted("d1"), adopted("d2"), ChangeKind::DevicesAdopted]);

    let limits = door::quota::Limits { devices: std::num::NonZero::new(5), ..tenant("a").limits };
    let limits = TenantUpdate { limits: Some(limits), ..TenantUpdate::default() };
    registry.update_tenant("a", &limits, &origin()).await.unwrap();
    let made = registry.quarantine_devices("a", vec![new("x"), new("y"), new("d1")], &origin()).await.unwrap();
    let has_place: Vec<bool> = made.iter().map(Option::is_some).collect();
    assert_eq!(
        (has_place, registry.count_devices("a").await),
        (vec![true, false, true], Ok(5)),
        "as far as there is room"
    );
}
