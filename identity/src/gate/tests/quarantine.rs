//! Devices of tenants that hold the readings of those that are not registered.

use std::time::Duration;

use super::*;
use crate::{DeviceAdmission, DeviceQuery, NewDevice, TenantUpdate, Term};

impl World {
    async fn admits(&self, admin: &Admin, admission: DeviceAdmission) {
        let update = TenantUpdate { device_admission: Some(admission), ..TenantUpdate::default() };
        admin.update_tenant("t", &update, &By::local()).await.unwrap();
    }

    async fn quarantined(&self) -> Vec<String> {
        let query = DeviceQuery { terms: [Term::quarantined()].into(), with_deleted: false };
        let page = self.admin.search_devices("t", &query, "", 100).await.unwrap();
        page.devices.into_iter().map(|device| device.id).collect()
    }

    /// Returns whether the readings of a device that connects are held.
    async fn is_held(&self, device: &str, secret: &Secret) -> bool {
        connect(&self.gate, device, secret.expose()).await.unwrap().meter.unwrap().is_quarantined()
    }
}

#[tokio::test]
async fn a_device_that_is_not_registered_is_listed_and_held_until_it_is_adopted() {
    let world = World::new().await;
    world.admits(&world.admin, DeviceAdmission::Quarantine).await;
    let (_, one) = world.device("d1", None).await;
    let (_, two) = world.device("d2", None).await;
    world.admin.create_device("t", NewDevice { id: "d2".into(), ..NewDevice::default() }, &By::local()).await.unwrap();
    assert!(world.is_held("d1", &one).await && !world.is_held("d2", &two).await);
    assert!(world.is_held("d1", &one).await, "once more");
    assert_eq!(world.quarantined().await, ["d1"]);
    let event = world.registry.audit("t", None, 1).await.unwrap().remove(0);
    assert_eq!((&*event.method, &*event.detail), ("QuarantineDevices", r#"{"created":["d1"]}"#));
    let meter = connect(&world.gate, "d1", one.expose()).await.unwrap().meter.unwrap();
    let adopted = world.admin.adopt_device("t", "d1", Some(1), &By::local()).await.unwrap();
    assert!(adopted.is_registered() && !meter.is_quarantined(), "at once here");
    assert!(world.quarantined().await.is_empty() && !world.is_held("d1", &one).await);
    let again = world.admin.adopt_device("t", "d1", None, &By::local()).await.unwrap();
    assert_eq!(again.version, 2, "nothing has changed");
}

#[tokio::test]
async fn an_adoption_in_another_process_is_applied_within_a_step_and_reported_once() {
    let world = World::new().await;
    world.admits(&world.admin, DeviceAdmission::Quarantine).await;
    let mut meters = Vec::new();
    let mut position = Position::default();
    world.gate.step(&mut position).await;
    for device in ["d1", "d2", "d3", "d4"] {
        let (_, secret) = world.device(device, None).await;
        meters.push(connect(&world.gate, device, secret.expose()).await.unwrap().meter.unwrap());
    }
    let new = |id: &str| NewDevice { id: id.into(), ..NewDevice::default() };
    world.remote.adopt_device("t", "d1", None, &By::local()).await.unwrap();
    world.remote.import_devices("t", vec![new("d2"), new("d9")], &By::local()).await.unwrap();
    world.remote.create_device("t", new("d3"), &By::local()).await.unwrap();
    assert!(meters.iter().all(door::quota::DeviceMeter::is_quarantined), "not heard of yet");
    world.gate.step(&mut position).await;
    let held: Vec<bool> = meters.iter().map(door::quota::DeviceMeter::is_quarantined).collect();
    assert_eq!(held, [false, false, false, true]);
    let adopted = |within| tokio::time::timeout(within, world.gate.adopted());
    assert_eq!(adopted(Duration::from_secs(10)).await, Ok(["t".into()].into()));
    assert!(adopted(Duration::from_millis(50)).await.is_err(), "once");
}

#[tokio::test]
async fn devices_in_use_are_held_when_their_tenant_comes_to_ask_for_a_registration() {
    let world = World::new().await;
    let (_, secret) = world.device("d1", None).await;
    let identity = connect(&world.gate, "d1", secret.expose()).await.unwrap();
    let (meter, ended) = (identity.meter.unwrap(), identity.ended.unwrap());
    let mut position = Position::default();
    world.gate.step(&mut position).await;
    world.admits(&world.remote, DeviceAdmission::Quarantine).await;
    // One reads the change, the next one the devices.
    world.gate.step(&mut position).await;
    world.gate.step(&mut position).await;
    assert!(meter.is_quarantined() && !ended.is_cancelled());
    world.admits(&world.admin, DeviceAdmission::Auto).await;
    assert!(!meter.is_quarantined(), "all are admitted");
    world.admits(&world.admin, DeviceAdmission::Refuse).await;
    world.gate.step(&mut position).await;
    assert!(ended.is_cancelled(), "it is not registered");
    assert_eq!(refused(&world.gate, "d1", &secret).await, RefusalKind::NotAuthorized);
}

#[tokio::test]
async fn a_device_that_was_deleted_or_has_no_room_is_refused() {
    let world = World::new().await;
    let limits = door::quota::Limits { devices: std::num::NonZero::new(1), ..door::quota::Limits::default() };
    let update = TenantUpdate { limits: Some(limits), ..TenantUpdate::default() };
    world.admin.update_tenant("t", &update, &By::local()).await.unwrap();
    world.admits(&world.admin, DeviceAdmission::Quarantine).await;
    let (_, one) = world.device("d1", None).await;
    let (_, two) = world.device("d2", None).await;
    let ended = admitted(&world.gate, "d1", &one).await;
    let refusal = connect(&world.gate, "d2", two.expose()).await.unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::NotAuthorized);
    assert!(refusal.reason.contains("no room for another"), "{}", refusal.reason);
    world.admin.delete_device("t", "d1", None, &By::local()).await.unwrap();
    assert!(ended.is_cancelled());
    assert_eq!(refused(&world.gate, "d1", &one).await, RefusalKind::NotAuthorized);
    world.admin.undelete_device("t", "d1", &By::local()).await.unwrap();
    assert!(world.is_held("d1", &one).await, "restored as it was");
}
